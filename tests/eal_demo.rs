//! What `make demo` shows without root: it runs anywhere, so it is tried everywhere.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::Command;

#[test]
fn the_demo_on_captures_accounts_for_every_packet() {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo"))
        .arg("--captures")
        .env("POINTSMAN", env!("CARGO_BIN_EXE_pointsman"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{error}");
    assert!(said.contains("no packet vanishes: holds"), "{said}\n{error}");
    assert!(said.contains("received 11 + "), "{said}");
}
