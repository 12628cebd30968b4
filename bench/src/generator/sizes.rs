//! Frame sizes, and the mix of them that stands for the Internet.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::frames::least_size;
use pointsman_bench::flows::Traffic;

/// Twelve frames: seven of 40 octets of IP (as far as frames are that short), four of 576, one of
/// 1500, spread so that no size comes in a row longer than need be.
const IMIX: [u16; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];
/// With the FCS.
const LONGEST: u16 = 1518;

/// What is measured at once: one size, or a mix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// Frames of so many octets with their FCS.
    One(u16),
    /// A mix of 64, 594 and 1518 octets, 7 : 4 : 1.
    Imix,
}

impl FromStr for Sizes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self::Imix);
        }
        let size = text.parse().with_context(|| format!("{text:?} is no frame size"))?;
        ensure!((64..=LONGEST).contains(&size), "frames have 64 to {LONGEST} octets, not {size}");
        Ok(Self::One(size))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(size) => write!(f, "{size}_octets"),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl Sizes {
    /// The frames that take turns. Those that are too short for headers and tag are as short as
    /// they can be.
    pub(crate) fn frames(&self, traffic: Traffic) -> Arc<[u16]> {
        let least = u16::try_from(least_size(traffic)).unwrap_or(u16::MAX);
        match self {
            Self::One(size) => Arc::new([(*size).max(least)]),
            Self::Imix => IMIX.iter().map(|size| (*size).max(least)).collect(),
        }
    }

    /// The mean size.
    pub(crate) fn mean(&self, traffic: Traffic) -> u32 {
        let frames = self.frames(traffic);
        let count = u32::try_from(frames.len()).unwrap_or(1).max(1);
        frames.iter().map(|size| u32::from(*size)).sum::<u32>() / count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_bench::flows::{Family, Transport};

    #[test]
    fn sizes_are_read_or_refused() {
        let v4 = Traffic { family: Family::V4, transport: Transport::Udp };
        let v6 = Traffic { family: Family::V6, transport: Transport::Udp };
        let one: Sizes = "64".parse().unwrap();
        assert_eq!((&*one.frames(v4), &*one.frames(v6)), (&[64][..], &[82][..]));
        assert_eq!("imix".parse::<Sizes>().unwrap().mean(v4), (7 * 64 + 4 * 594 + 1518) / 12);
        assert!("63".parse::<Sizes>().is_err() && "1519".parse::<Sizes>().is_err());
    }
}
