//! The file of instruction counts that were accepted.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What counts may grow by.
const TOLERANCE: f64 = 0.03;

/// Instructions of the hit path, and what compiled it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// As `rustc --version` says it. Another one makes other instructions.
    pub rustc: String,
    /// Of a packet of an established flow, by family and protocol.
    pub instructions_per_packet: BTreeMap<String, f64>,
    /// Of such a packet that another worker received: at both workers.
    pub instructions_per_packet_handed_over: BTreeMap<String, f64>,
    /// Of a whole connection, all its packets and its expiry included.
    pub instructions_per_connection: BTreeMap<String, f64>,
}

impl Counts {
    /// From JSON.
    ///
    /// # Errors
    /// When it is none, or lacks something.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("not a file of instruction counts")
    }

    /// From a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read {}; BLESS=1 makes it", file.display()))?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never, for these are numbers and words.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// What is wrong with `new` counts beside these: one line each.
    pub fn growth(&self, new: &Self) -> Vec<String> {
        let kinds = [
            ("packet", &self.instructions_per_packet, &new.instructions_per_packet),
            (
                "packet handed over",
                &self.instructions_per_packet_handed_over,
                &new.instructions_per_packet_handed_over,
            ),
            ("connection", &self.instructions_per_connection, &new.instructions_per_connection),
        ];
        let mut lines = Vec::new();
        for (each, old, new) in kinds {
            for (traffic, count) in new {
                let line = match old.get(traffic) {
                    None => format!("{traffic}: {count:.1} per {each}, new"),
                    Some(old) if *count > tolerated(*old) => format!(
                        "{traffic}: {count:.1} instructions per {each}, {old:.1} before: {:+.1} %",
                        (count / old - 1.0) * 100.0
                    ),
                    Some(_) => continue,
                };
                lines.push(line);
            }
        }
        lines
    }
}

/// The most that a count may have become.
pub fn tolerated(accepted: f64) -> f64 {
    (accepted * (1.0 + TOLERANCE) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(udp: f64) -> Counts {
        let instructions_per_packet = [("ipv4_udp".to_owned(), udp)].into();
        let instructions_per_packet_handed_over = [("ipv4_udp".to_owned(), 2.0 * udp)].into();
        let instructions_per_connection = [("ipv4_tcp".to_owned(), 10.0 * udp)].into();
        let rustc = "rustc 1".to_owned();
        Counts {
            rustc,
            instructions_per_packet,
            instructions_per_packet_handed_over,
            instructions_per_connection,
        }
    }

    #[test]
    fn growth_of_more_than_three_percent_is_told_and_less_is_not() {
        assert!(counts(100.0).growth(&counts(103.0)).is_empty());
        assert!(counts(100.0).growth(&counts(50.0)).is_empty());
        let told = counts(100.0).growth(&counts(104.0));
        assert_eq!(
            told,
            [
                "ipv4_udp: 104.0 instructions per packet, 100.0 before: +4.0 %",
                "ipv4_udp: 208.0 instructions per packet handed over, 200.0 before: +4.0 %",
                "ipv4_tcp: 1040.0 instructions per connection, 1000.0 before: +4.0 %",
            ]
        );
    }

    #[test]
    fn a_count_that_is_new_is_told() {
        let old = Counts { instructions_per_packet: BTreeMap::new(), ..counts(10.0) };
        assert_eq!(old.growth(&counts(10.0)).len(), 1);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let counts = counts(123.4);
        assert_eq!(Counts::parse(&counts.to_json().unwrap()).unwrap(), counts);
    }
}
