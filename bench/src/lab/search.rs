//! The search for the highest rate, or the largest number, that passes.

/// A binary search between nothing and a limit; the limit is tried first.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    limit: f64,
    /// The highest that passed.
    passed: f64,
    /// The lowest that failed.
    failed: Option<f64>,
    /// Where the two may end, as a share of the one that failed.
    resolution: f64,
    trials_left: u32,
}

impl Search {
    /// Up to `limit`, to within `resolution` of the result, in so many trials.
    pub(crate) fn new(limit: f64, resolution: f64, trials: u32) -> Self {
        Self { limit, passed: 0.0, failed: None, resolution, trials_left: trials }
    }

    /// What to try next; `None` at the end.
    pub(crate) fn next(&self) -> Option<f64> {
        if self.trials_left == 0 {
            return None;
        }
        match self.failed {
            None if self.passed < self.limit => Some(self.limit),
            None => None,
            Some(failed) if failed - self.passed <= failed * self.resolution => None,
            Some(failed) => Some(f64::midpoint(self.passed, failed)),
        }
    }

    /// What came of it.
    pub(crate) fn note(&mut self, tried: f64, passed: bool) {
        self.trials_left = self.trials_left.saturating_sub(1);
        if passed {
            self.passed = self.passed.max(tried);
        } else {
            self.failed = Some(self.failed.map_or(tried, |failed| failed.min(tried)));
        }
    }

    /// The highest that passed; 0 if none did.
    pub(crate) fn result(&self) -> f64 {
        self.passed
    }

    /// Whether nothing failed: the limit holds the result, not what was measured.
    pub(crate) fn is_limited(&self) -> bool {
        self.failed.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(truth: f64, limit: f64, resolution: f64) -> (Search, u32) {
        let mut search = Search::new(limit, resolution, 40);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            search.note(rate, rate <= truth);
            trials += 1;
        }
        (search, trials)
    }

    #[test]
    fn the_result_is_within_the_resolution_and_never_above_the_truth() {
        for truth in [1234.5, 500_000.0, 999_000.0] {
            let (search, trials) = run(truth, 1_000_000.0, 0.01);
            assert!(search.result() <= truth && search.result() >= truth * 0.989, "{search:?}");
            assert!(trials < 20, "{trials}");
        }
    }

    #[test]
    fn a_limit_that_passes_ends_the_search() {
        let (search, trials) = run(2.0e6, 1.0e6, 0.01);
        assert!(search.is_limited() && trials == 1, "{search:?}");
        assert!(search.result().total_cmp(&1.0e6).is_eq());
    }

    #[test]
    fn where_nothing_passes_the_result_is_nothing_in_bounded_trials() {
        let (search, trials) = run(-1.0, 1.0e6, 0.01);
        assert!(search.result().total_cmp(&0.0).is_eq());
        assert_eq!(trials, 40);
    }
}
