//! Time as the packet path sees it: a millisecond counter that the worker reads once per poll
//! and hands down. Nothing below the worker reads a clock.

use std::time::Duration;

/// Milliseconds since the director started, modulo 2^32 (49.7 days).
///
/// Only differences mean anything, and only below 2^31 ms (24.8 days): timeouts are limited to
/// [`Tick::MAX_SPAN`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub u32);

impl Tick {
    /// The longest span that can be told from the past: 24 days.
    pub const MAX_SPAN: Duration = Duration::from_secs(24 * 24 * 3600);

    /// This instant plus `ms` milliseconds.
    #[inline]
    #[must_use]
    pub const fn after(self, ms: u32) -> Self {
        Self(self.0.wrapping_add(ms))
    }

    /// Milliseconds from `earlier` to this instant.
    #[inline]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this instant is at or after `deadline`.
    #[inline]
    pub const fn reached(self, deadline: Self) -> bool {
        self.0.wrapping_sub(deadline.0) < 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_across_the_wrap() {
        let start = Tick(u32::MAX - 5);
        let deadline = start.after(10);
        assert!(!start.reached(deadline));
        assert!(!start.after(9).reached(deadline));
        assert!(start.after(10).reached(deadline));
        assert_eq!(start.after(10).since(start), 10);
    }
}
