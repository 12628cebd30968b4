//! Golden cases as they lie in tests/golden.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::pcap::{self, Stamped};

/// case.toml
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub description: String,
    pub director: String,
    pub eal: bool,
    pub any_order: bool,
    pub consumed: u64,
    pub dropped: BTreeMap<String, u64>,
    #[serde(skip)]
    pub directory: PathBuf,
}

/// The Ethernet addresses of the ports of `net_pcap`.
pub const MACS: [[u8; 6]; 2] = [[2, b'p', b'c', b'a', b'p', 0], [2, b'p', b'c', b'a', b'p', 1]];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let directory = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(directory.join("case.toml")) else { continue };
        let mut case: Case = toml::from_str(&text).unwrap();
        assert!(!case.description.is_empty(), "{}", directory.display());
        case.directory = directory;
        cases.push(case);
    }
    assert!(cases.len() > 35);
    cases.sort_by(|a, b| a.directory.cmp(&b.directory));
    cases
}

impl Case {
    pub fn name(&self) -> &str {
        self.directory.file_name().unwrap().to_str().unwrap()
    }

    pub fn director(&self) -> String {
        std::fs::read_to_string(golden().join(format!("directors/{}.toml", self.director))).unwrap()
    }

    pub fn frames(&self, interface: &str, way: &str) -> Vec<Stamped> {
        pcap::read(&self.directory.join(format!("{interface}.{way}.pcap")))
    }
}
