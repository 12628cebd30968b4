//! Messages that were refused, in the log: a warning now and then, however many strangers there are.

use std::time::Duration;

/// The least time between two warnings.
const PAUSE: Duration = Duration::from_secs(10);
/// After so long the same one is news again.
const OLD: Duration = Duration::from_secs(3600);

/// What was said of refused messages.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The last warning: when, and of what.
    said: Option<(Duration, String)>,
    /// Messages since then.
    unsaid: u64,
}

impl Refusals {
    /// A message was refused. Whether that is to be logged, and of how many before it was not: one
    /// that is refused as the last one was is nothing new.
    pub(super) fn note(&mut self, why: &str, now: Duration) -> Option<u64> {
        let is_news = self.said.as_ref().is_none_or(|(at, last)| {
            let pause = if last == why { OLD } else { PAUSE };
            now.saturating_sub(*at) >= pause
        });
        if !is_news {
            self.unsaid += 1;
            return None;
        }
        self.said = Some((now, why.to_owned()));
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn two_strangers_that_take_turns_are_told_of_once_in_ten_seconds() {
        let mut refusals = Refusals::default();
        let strangers = ["10.0.0.8: its synchronisation id is 8", "10.0.0.9: it is not sealed"];
        let note = |at: u32| refusals.note(strangers[at as usize % 2], MS * at);
        let said: Vec<_> = (0..60_001).filter_map(note).collect();
        assert_eq!(said.len(), 6);
        assert_eq!(said.iter().sum::<u64>() + said.len() as u64, 50_006);
    }

    #[test]
    fn the_same_refusal_is_told_once_and_another_one_with_what_came_between() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.note("one", MS), Some(0));
        for at in 1..100 {
            assert_eq!(refusals.note("one", MS * 1000 * at), None);
        }
        assert_eq!(refusals.note("other", MS * 100_000), Some(99));
        assert_eq!(refusals.note("one", MS * 100_001), None);
        assert_eq!(refusals.note("one", MS * 110_000), Some(1));
        assert_eq!(refusals.note("one", MS * 3_709_999), None);
        assert_eq!(refusals.note("one", MS * 3_710_000), Some(1));
    }
}
