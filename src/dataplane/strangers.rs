//! Whether a worker asks whose a received packet is before it looks at it, or after it has found no
//! connection: what is dearer depends on how many packets turn out to be another worker's.

/// How many packets that need not be asked about cost as much as one of another worker that is
/// looked up in vain: 8 cycles against some 80 (docs/performance.md).
const WORTH: i32 = 10;

/// How far the balance goes: a few bursts turn it.
const LIMIT: i32 = 512;

/// What the last bursts had of other workers' packets.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// In the burst at hand.
    count: i32,
    /// Above zero: it pays to ask first.
    balance: i32,
}

impl Strangers {
    /// A packet of the burst at hand is another worker's.
    #[inline]
    pub(super) const fn add(&mut self) {
        self.count += 1;
    }

    /// The burst, of so many packets, is through.
    #[inline]
    pub(super) fn settle(&mut self, packets: usize) {
        let packets = i32::try_from(packets).unwrap_or(LIMIT);
        let change = std::mem::take(&mut self.count) * WORTH - packets;
        self.balance = (self.balance + change).clamp(-LIMIT, LIMIT);
    }

    /// Whether packets are asked about first.
    #[inline]
    pub(super) const fn are_many(&self) -> bool {
        self.balance > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts of 32 until the answer is another one than it was; `None`: it stays.
    fn bursts_until_it_turns(strangers: &mut Strangers, in_each: usize) -> Option<usize> {
        let before = strangers.are_many();
        (1..=1000).find(|_| {
            (0..in_each).for_each(|_| strangers.add());
            strangers.settle(32);
            strangers.are_many() != before
        })
    }

    #[test]
    fn a_few_bursts_of_other_workers_packets_turn_it_and_a_few_without_turn_it_back() {
        let mut strangers = Strangers::default();
        assert!(!strangers.are_many(), "nothing is known");
        assert_eq!(bursts_until_it_turns(&mut strangers, 0), None);
        for in_each in [16, 32] {
            assert!(bursts_until_it_turns(&mut strangers, in_each).unwrap() <= 4);
            assert_eq!(bursts_until_it_turns(&mut strangers, in_each), None);
            assert!(bursts_until_it_turns(&mut strangers, 0).unwrap() <= 17);
        }
    }

    #[test]
    fn one_packet_in_thirty_is_not_worth_the_question() {
        let mut strangers = Strangers::default();
        assert_eq!(bursts_until_it_turns(&mut strangers, 1), None);
    }
}
