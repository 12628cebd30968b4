//! The search for the highest rate, or the largest number, that passes.

use super::trial::Verdict;

/// A binary search between nothing and a limit; the limit is tried first.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    limit: f64,
    /// The highest that passed.
    passed: f64,
    /// The lowest that failed, and how.
    failed: Option<(f64, Verdict)>,
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
            Some((failed, _)) if failed - self.passed <= failed * self.resolution => None,
            Some((failed, _)) => Some(f64::midpoint(self.passed, failed)),
        }
    }

    /// What came of it.
    pub(crate) fn note(&mut self, tried: f64, verdict: Verdict) {
        self.trials_left = self.trials_left.saturating_sub(1);
        if verdict == Verdict::Passed {
            self.passed = self.passed.max(tried);
        } else if self.failed.is_none_or(|(failed, _)| tried < failed) {
            self.failed = Some((tried, verdict));
        }
    }

    /// The highest that passed; 0 if none did.
    pub(crate) fn result(&self) -> f64 {
        self.passed
    }

    /// What besides the device under test bounds the result.
    pub(crate) fn caveat(&self) -> Option<&'static str> {
        match self.failed {
            None => Some("the limit passed; more was not tried"),
            Some((_, Verdict::NotOffered)) => {
                Some("the generator did not offer more: the device may be able to take it")
            }
            Some((_, Verdict::Passed | Verdict::Lost | Verdict::Corrupt)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(truth: f64, limit: f64, resolution: f64) -> (Search, u32) {
        let mut search = Search::new(limit, resolution, 40);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            search.note(rate, if rate <= truth { Verdict::Passed } else { Verdict::Lost });
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
        assert!(search.caveat().is_some() && trials == 1, "{search:?}");
        assert!(search.result().total_cmp(&1.0e6).is_eq());
    }

    #[test]
    fn a_bound_of_the_generator_is_told_from_one_of_the_device() {
        let mut search = Search::new(8.0, 0.5, 40);
        search.note(8.0, Verdict::Lost);
        assert_eq!(search.caveat(), None);
        search.note(4.0, Verdict::NotOffered);
        search.note(2.0, Verdict::Passed);
        assert!(search.caveat().is_some_and(|words| words.contains("generator")), "{search:?}");
    }

    #[test]
    fn where_nothing_passes_the_result_is_nothing_in_bounded_trials() {
        let (search, trials) = run(-1.0, 1.0e6, 0.01);
        assert!(search.result().total_cmp(&0.0).is_eq());
        assert_eq!(trials, 40);
    }
}
