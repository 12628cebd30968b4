//! Who may import whom: the table at the top of src/lib.rs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Layer, and what it may name after `crate::`. A path may be longer than one module.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("clock", &[]),
    ("wire", &[]),
    ("service", &["wire", "ids", "clock"]),
    ("dpdk", &["ids", "clock"]),
    ("dataplane", &["wire", "service", "dpdk", "ids", "clock"]),
    (
        "control",
        &[
            "wire",
            "service",
            "ids",
            "clock",
            "dataplane::mailbox",
            "dataplane::failover",
            "dataplane::sync",
            "dataplane::handover",
            "dataplane::stats",
            // The states of a connection, which stats and listings name.
            "dataplane::conn::tcp_state",
        ],
    ),
];

/// Layers that may import everything.
const TOP: &[&str] = &["director", "cli", "lib", "main"];

fn files(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

/// The layer of a file: the first part of its path, without its extension.
fn layer(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").into()
}

/// Every path that follows `crate::`, groups taken apart: `crate::a::{b, c::{d}}` gives `a::b`
/// and `a::c::d`.
fn crate_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        let is_other =
            text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if !is_other {
            expand(&text[start + "crate::".len()..], "", &mut paths);
        }
    }
    paths
}

/// Reads one path or group at the start of `text`; how much of it was read.
fn expand(text: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut end = 0;
    loop {
        let rest = &text[end..];
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        end += name;
        if text[end..].starts_with("::{") {
            let prefix = format!("{prefix}{}::", &text[..end]);
            return end + 3 + expand_group(&text[end + 3..], &prefix, paths);
        }
        if !text[end..].starts_with("::") {
            paths.push(format!("{prefix}{}", &text[..end]));
            return end;
        }
        end += 2;
    }
}

fn expand_group(text: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut at = 0;
    loop {
        let rest = text[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        at = text.len() - rest.len();
        if rest.is_empty() || rest.starts_with('}') {
            return at + 1;
        }
        let read = expand(rest, prefix, paths);
        // Whatever is no path (`*`, `as x`) is stepped over.
        at += read.max(1);
    }
}

fn may_import(layer: &str, path: &str) -> bool {
    let within = |allowed: &str| path == allowed || path.starts_with(&format!("{allowed}::"));
    let known = ALLOWED.iter().find(|(name, _)| *name == layer);
    let (_, allowed) = known.unwrap_or_else(|| panic!("{layer} is in no layer: see src/lib.rs"));
    within(layer) || allowed.iter().any(|allowed| within(allowed))
}

fn comments_removed(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_module_imports_downward_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    assert!(all.len() > 50);
    let mut wrong = BTreeSet::new();
    for file in &all {
        let relative = file.strip_prefix(&source).unwrap();
        let layer = layer(relative);
        if TOP.contains(&layer.as_str()) {
            continue;
        }
        let text = comments_removed(&std::fs::read_to_string(file).unwrap());
        for path in crate_paths(&text) {
            if !may_import(&layer, &path) {
                wrong.insert(format!("src/{}: crate::{path}", relative.display()));
            }
        }
    }
    let list = wrong.into_iter().collect::<Vec<_>>().join("\n");
    assert!(list.is_empty(), "src/lib.rs forbids:\n{list}");
}

#[test]
fn unsafe_is_allowed_in_dpdk_alone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    for file in &all {
        let relative = file.strip_prefix(&source).unwrap();
        let text = comments_removed(&std::fs::read_to_string(file).unwrap());
        if layer(relative) != "dpdk" {
            assert!(!text.contains("allow(unsafe_code"), "{}", relative.display());
        }
    }
}

/// Whoever sends past `Shared::transmit` forgets the tag of a VLAN.
#[test]
fn every_packet_of_the_data_plane_leaves_through_one_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dataplane");
    let mut all = Vec::new();
    files(&source, &mut all);
    let sends = |file: &PathBuf| {
        let text = comments_removed(&std::fs::read_to_string(file).unwrap());
        text.contains("outlet.transmit(").then(|| file.strip_prefix(&source).unwrap().to_owned())
    };
    let senders: Vec<_> = all.iter().filter_map(sends).collect();
    assert_eq!(senders, [Path::new("egress.rs")]);
}

#[test]
fn the_reader_takes_groups_apart() {
    let text = "use crate::a::{b, c::{d, self}, e as f};\nlet x = crate::g::H::new(my_crate::z);";
    assert_eq!(
        crate_paths(text),
        ["a::b", "a::c::d", "a::c::self", "a::e", "a::as", "a::f", "g::H::new"]
    );
    assert!(!may_import("control", "dpdk::port::Port"));
    assert!(!may_import("dataplane", "control::Plant"));
    assert!(may_import("control", "dataplane::stats::Counter"));
    assert!(!may_import("control", "dataplane::Pipeline"));
}
