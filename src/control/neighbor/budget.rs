//! A token bucket: so many in a second, so many at once.

use std::time::Duration;

/// Grants `per_second` things a second, saving up at most `at_once`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    interval: Duration,
    depth: Duration,
    /// When the bucket will be full again.
    full_at: Duration,
}

impl Budget {
    /// A full bucket.
    pub(super) fn new(per_second: u32, at_once: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, depth: interval * at_once, full_at: Duration::ZERO }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let granted = full_at <= now + self.depth;
        if granted {
            self.full_at = full_at;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_grants_its_depth_at_once_and_its_rate_after() {
        let mut budget = Budget::new(10, 3);
        let granted = |budget: &mut Budget, ms| budget.take(Duration::from_millis(ms));
        assert!((0..3).all(|_| granted(&mut budget, 0)));
        assert!(!granted(&mut budget, 99));
        assert!(granted(&mut budget, 100));
        assert!(!granted(&mut budget, 101));
        assert!((0..3).all(|_| granted(&mut budget, 10_000)));
        assert!(!granted(&mut budget, 10_000));
    }
}
