//! Facts about the final binary: which commit, which DPDK, and where the loader finds it.

use std::env;
use std::path::Path;
use std::process::Command;

/// Folders that the dynamic loader searches by itself.
const SYSTEM_LIBRARIES: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=POINTSMAN_COMMIT");
    let commit = env::var("POINTSMAN_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=POINTSMAN_COMMIT={commit}");
    // Every commit and checkout appends to this file, in a worktree too.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }

    // Set by dpdk-sys; absent without the feature `dpdk`.
    let dpdk = env::var("DEP_DPDK_VERSION").unwrap_or_else(|_| "none".to_owned());
    println!("cargo::rustc-env=POINTSMAN_DPDK_VERSION={dpdk}");
    if let Ok(libdir) = env::var("DEP_DPDK_LIBDIR")
        && !is_system(&libdir)
    {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{libdir}");
    }
}

/// Whether `libdir` is a system folder, or one for this architecture right below it.
fn is_system(libdir: &str) -> bool {
    let folder = Path::new(libdir);
    SYSTEM_LIBRARIES
        .iter()
        .any(|system| folder == Path::new(system) || folder.parent() == Some(Path::new(system)))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
