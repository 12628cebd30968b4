//! Whatever docs/nat-behaviour.md names as proof is there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Whether a name is a case of tests/golden; `*` stands for anything.
fn is_golden(pattern: &str, cases: &[PathBuf]) -> bool {
    let (first, others) = pattern.split_once('*').map_or((pattern, None), |(a, b)| (a, Some(b)));
    cases.iter().any(|case| {
        let name = case.file_name().unwrap().to_str().unwrap();
        let Some(others) = others else { return name == first };
        let rest = name.strip_prefix(first);
        rest.is_some_and(|rest| others.split('*').all(|part| rest.contains(part)))
    })
}

#[test]
fn every_test_that_the_table_names_exists() {
    let table = std::fs::read_to_string(root().join("docs/nat-behaviour.md")).unwrap();
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    sources(&root().join("tests"), &mut code);
    let golden = std::fs::read_dir(root().join("tests/golden")).unwrap();
    let golden: Vec<_> = golden.map(|entry| entry.unwrap().path()).collect();
    let mut missing = Vec::new();
    let mut count = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        let shown_by = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        for name in shown_by.split('`').skip(1).step_by(2) {
            count += 1;
            let is_there = if let Some(case) = name.strip_prefix("golden/") {
                is_golden(case, &golden)
            } else if name.contains('/') {
                root().join(name).exists()
            } else {
                // A function, or a recorded case of tests/oracle/nat.rs.
                code.contains(&format!("fn {name}(")) || code.contains(&format!(" {name},\n"))
            };
            if !is_there {
                missing.push(name);
            }
        }
    }
    assert!(count > 60, "{count}");
    assert!(missing.is_empty(), "{missing:?}");
}
