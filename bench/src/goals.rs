//! What is aimed at: the goals of the rows that have one.

use std::fmt;

use serde::Serialize;

/// A bound for a row's value, in the row's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Goal {
    /// Whether a value meets it.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    /// The goal of the row with this name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        GOALS.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, goal)| *goal)
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

use Goal::{AtLeast, AtMost};

/// By the row's name; `*` stands for any one part of it.
const GOALS: &[(&str, Goal)] = &[
    ("loop/ipv4_udp/1k_flows/added", AtMost(70.0)),
    ("loop/ipv4_udp/64k_flows/added", AtMost(80.0)),
    ("loop/ipv4_udp/1M_flows/added", AtMost(130.0)),
    ("loop/ipv4_udp/10M_flows/added", AtMost(180.0)),
    ("loop/ipv4/*/tcp_to_udp", AtMost(1.1)),
    ("loop/udp/*/ipv6_to_ipv4", AtMost(1.2)),
    ("loop/ipv4_udp/*/watched_to_unwatched", AtMost(1.01)),
    ("loop/ipv4_tcp/1M_live/connection", AtMost(1500.0)),
    ("loop/ipv4_tcp/8M_live/to_1M_live", AtMost(1.4)),
    ("memory/ipv4/*/connection", AtMost(160.0)),
    ("memory/ipv6/*/connection", AtMost(224.0)),
    ("devices/ipv4_udp/64k_flows/director_to_testpmd_macswap", AtLeast(0.5)),
    ("devices/ipv4_udp/64k_flows/director_to_testpmd_csum", AtLeast(0.6)),
    ("workers/ipv4_udp/64k_flows/hand_over", AtMost(60.0)),
    ("workers/ipv4_udp/64k_flows/2_workers/scaling", AtLeast(1.9)),
    ("changes/ipv4_udp/64k_flows/1M_expire/ratio", AtLeast(0.9)),
    ("changes/ipv4_udp/64k_flows/1M_begin/ratio", AtLeast(0.9)),
    ("changes/ipv4_udp/64k_flows/10_tables_a_second/ratio", AtLeast(0.95)),
];

fn matches(pattern: &str, name: &str) -> bool {
    let (mut wanted, mut parts) = (pattern.split('/'), name.split('/'));
    loop {
        match (wanted.next(), parts.next()) {
            (None, None) => return true,
            (Some(wanted), Some(part)) if wanted == "*" || wanted == part => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_exactly_one_part() {
        assert_eq!(Goal::of("loop/ipv4/64k_flows/tcp_to_udp"), Some(AtMost(1.1)));
        assert_eq!(Goal::of("loop/ipv4/64k_flows/more/tcp_to_udp"), None);
        assert_eq!(Goal::of("loop/ipv4/tcp_to_udp"), None);
        assert_eq!(Goal::of("loop/ipv4_udp/2k_flows/added"), None);
    }

    #[test]
    fn a_bound_itself_meets_the_goal_and_no_number_does_not() {
        assert!(AtMost(70.0).holds(70.0) && !AtMost(70.0).holds(70.1));
        assert!(AtLeast(0.9).holds(0.9) && !AtLeast(0.9).holds(0.89));
        assert!(!AtMost(70.0).holds(f64::NAN) && !AtLeast(0.9).holds(f64::NAN));
    }
}
