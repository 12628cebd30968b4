//! What has become of the master's lease, which the worker renews that sends the advertisements: if it
//! has ended, other directors have not heard this one, or have been told of it too late.

use std::time::Duration;

use crate::dataplane::failover::FailoverChannel;
use crate::ids::InterfaceId;

/// How long a director takes no part that could not send: the other one hears nothing of it for
/// longer than it waits, and can tell of itself.
const MUTE_FOR: Duration = Duration::from_secs(10);

/// Why a lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// The worker stood still, for so long.
    Stalled(Duration),
    /// Advertisements could not be sent by an interface.
    Unsent(InterfaceId),
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    /// Until when it holds, as the workers have it, and when that was seen to change.
    until: u64,
    renewed: Duration,
    /// Advertisements that could not be sent, and when the last of them was seen.
    unsent: u64,
    lost: Option<Duration>,
    /// An interface that does not send, and how long that is a fault.
    mute: Option<(InterfaceId, Duration)>,
}

impl LeaseWatch {
    /// The director has become the master: its first lease is due.
    pub(super) fn begin(&mut self, now: Duration, channel: &FailoverChannel) {
        (self.until, self.renewed) = (0, now);
        (self.unsent, self.lost) = (channel.unsent(), None);
    }

    /// Whether the master's lease, which is as long as this, has ended; `clock`: the time stamp
    /// counter.
    pub(super) fn look(
        &mut self,
        (now, clock): (Duration, u64),
        channel: &FailoverChannel,
        lease: Duration,
    ) -> Option<Lapse> {
        let until = channel.standing.until();
        if until != self.until && channel.standing.is_active(clock) {
            (self.until, self.renewed) = (until, now);
        }
        let unsent = channel.unsent();
        if unsent != self.unsent {
            (self.unsent, self.lost) = (unsent, Some(now));
        }
        let silent = now.saturating_sub(self.renewed);
        let is_first = until == 0;
        if channel.standing.is_active(clock) || is_first && silent <= lease {
            return None;
        }
        // A lease is three intervals: what does not send has lost one within the last two of them.
        let is_recent = |lost: &Duration| now.saturating_sub(*lost) <= lease * 2 / 3;
        if self.lost.as_ref().is_none_or(|lost| !is_recent(lost)) {
            return Some(Lapse::Stalled(silent));
        }
        let interface = channel.unsent_by();
        self.mute = Some((interface, now + MUTE_FOR));
        Some(Lapse::Unsent(interface))
    }

    /// The interface that has not sent of late.
    pub(super) fn mute(&mut self, now: Duration) -> Option<InterfaceId> {
        self.mute = self.mute.filter(|(_, until)| now < *until);
        self.mute.map(|(interface, _)| interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::failover::Hearing;
    use crate::wire::vrrp::Version;

    const LEASE: Duration = Duration::from_millis(30);
    /// Cycles of the time stamp counter in a millisecond.
    const CYCLES: u64 = 1 << 20;

    /// The master of a pair, whose worker renews its lease or does not.
    struct Master {
        channel: FailoverChannel,
        watch: LeaseWatch,
    }

    impl Master {
        fn at(ms: u64) -> Self {
            let channel = FailoverChannel::new(1, Hearing::on_no_link(51, Version::V3), || 0);
            channel.standing.begin_term();
            let mut watch = LeaseWatch::default();
            watch.begin(Duration::from_millis(ms), &channel);
            Self { channel, watch }
        }

        /// The worker has sent the advertisements of this moment.
        fn is_renewed(&self, ms: u64) {
            let lease = self.channel.standing.lease((ms + 30) * CYCLES);
            self.channel.standing.renew(lease, ms * CYCLES);
        }

        fn look(&mut self, ms: u64) -> Option<Lapse> {
            self.watch.look((Duration::from_millis(ms), ms * CYCLES), &self.channel, LEASE)
        }
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_goes_on() {
        let mut master = Master::at(1000);
        for ms in 1000..1500 {
            if ms % 10 == 0 {
                master.is_renewed(ms);
            }
            // Some are lost, and are made up for.
            if ms % 50 == 7 {
                master.channel.note_unsent(InterfaceId(1));
            }
            assert_eq!(master.look(ms), None, "{ms}");
        }
        assert_eq!(master.watch.mute(Duration::from_millis(1500)), None);
    }

    #[test]
    fn a_worker_that_stands_still_lets_the_lease_end_also_the_first_one() {
        let mut master = Master::at(1000);
        assert_eq!(master.look(1030), None);
        assert_eq!(master.look(1031), Some(Lapse::Stalled(Duration::from_millis(31))));
        let mut master = Master::at(1000);
        master.is_renewed(1000);
        assert_eq!((master.look(1001), master.look(1029)), (None, None));
        let silent = Duration::from_millis(30);
        assert_eq!(master.look(1031), Some(Lapse::Stalled(silent)));
        // It goes on, and says what it had to say: too late.
        master.is_renewed(1031);
        assert!(matches!(master.look(1032), Some(Lapse::Stalled(_))));
    }

    #[test]
    fn a_stall_after_an_advertisement_that_was_lost_is_a_stall() {
        let mut master = Master::at(1000);
        master.is_renewed(1000);
        assert_eq!(master.look(1001), None);
        master.channel.note_unsent(InterfaceId(1));
        assert_eq!((master.look(1010), master.look(1029)), (None, None));
        assert_eq!(master.look(1031), Some(Lapse::Stalled(Duration::from_millis(30))));
        assert_eq!(master.watch.mute(Duration::from_millis(1031)), None);
    }

    #[test]
    fn an_interface_that_does_not_send_is_named_and_broken_for_a_while() {
        for has_sent in [false, true] {
            let mut master = Master::at(1000);
            if has_sent {
                master.is_renewed(1000);
                assert_eq!(master.look(1001), None);
            }
            master.channel.note_unsent(InterfaceId(1));
            assert_eq!(master.look(1029), None);
            assert_eq!(master.look(1031), Some(Lapse::Unsent(InterfaceId(1))));
            let mute = |watch: &mut LeaseWatch, ms| watch.mute(Duration::from_millis(ms));
            assert_eq!(mute(&mut master.watch, 11_030), Some(InterfaceId(1)));
            assert_eq!(mute(&mut master.watch, 11_031), None);
        }
    }
}
