//! Whether a worker asks whose a received packet is before it looks at it, or after it has found no
//! connection: what is dearer depends on how many packets turn out to be another worker's. A NIC may
//! steer where another one of the same director does not, so it is told apart by ports.

use crate::ids::PortId;

/// How many packets that need not be asked about cost as much as one of another worker that is
/// looked up in vain. The question takes 8 cycles, a look-up in vain 46 on one CPU and 77 on two
/// (docs/performance.md).
const WORTH: i32 = 10;

/// How far a balance goes: a few bursts turn it.
const LIMIT: i32 = 512;

/// What the last bursts had of packets of other workers' flows.
#[derive(Debug)]
pub(super) struct Strangers {
    /// In the burst at hand.
    count: i32,
    /// Of how many packets of all kinds.
    packets: i32,
    /// Where that came from.
    port: PortId,
    /// Of each port. Above zero: it pays to ask first.
    balances: Vec<i32>,
}

impl Strangers {
    /// None have come by any of so many ports.
    pub(super) fn new(ports: usize) -> Self {
        Self { count: 0, packets: 0, port: PortId::default(), balances: vec![0; ports] }
    }

    /// A burst of so many packets is at hand whose first one has come by this port.
    #[inline]
    pub(super) fn begin(&mut self, port: Option<PortId>, packets: usize) {
        self.port = port.unwrap_or_default();
        self.packets = i32::try_from(packets).unwrap_or(LIMIT);
    }

    /// A packet of the burst at hand is another worker's.
    #[inline]
    pub(super) const fn add(&mut self) {
        self.count += 1;
    }

    /// The burst is through, if one has come by a port.
    #[inline]
    pub(super) fn settle(&mut self) {
        let change = std::mem::take(&mut self.count) * WORTH - std::mem::take(&mut self.packets);
        if let Some(balance) = self.balances.get_mut(self.port.index()) {
            *balance = (*balance + change).clamp(-LIMIT, LIMIT);
        }
    }

    /// Whether the packets of the burst at hand are asked about first.
    #[inline]
    pub(super) fn are_many(&self) -> bool {
        self.balances.get(self.port.index()).is_some_and(|balance| *balance > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(1);

    /// Bursts of 32 until the answer is another one than it was; `None`: it stays.
    fn bursts_until_it_turns(strangers: &mut Strangers, in_each: usize) -> Option<usize> {
        strangers.begin(Some(PORT), 0);
        let before = strangers.are_many();
        (1..=1000).find(|_| {
            strangers.begin(Some(PORT), 32);
            (0..in_each).for_each(|_| strangers.add());
            strangers.settle();
            strangers.are_many() != before
        })
    }

    #[test]
    fn a_few_bursts_of_other_workers_packets_turn_it_and_a_few_without_turn_it_back() {
        let mut strangers = Strangers::new(2);
        assert!(!strangers.are_many(), "nothing is known");
        assert_eq!(bursts_until_it_turns(&mut strangers, 0), None);
        for in_each in [16, 32] {
            assert!(bursts_until_it_turns(&mut strangers, in_each).unwrap() <= 5);
            assert_eq!(bursts_until_it_turns(&mut strangers, in_each), None);
            assert!(bursts_until_it_turns(&mut strangers, 0).unwrap() <= 17);
        }
    }

    #[test]
    fn one_packet_in_thirty_is_not_worth_the_question() {
        assert_eq!(bursts_until_it_turns(&mut Strangers::new(2), 1), None);
    }

    #[test]
    fn what_comes_by_one_port_says_nothing_of_another() {
        let mut strangers = Strangers::new(2);
        assert_eq!(bursts_until_it_turns(&mut strangers, 32), Some(1));
        for _ in 0..100 {
            strangers.begin(Some(PortId(0)), 32);
            assert!(!strangers.are_many());
            strangers.settle();
        }
        strangers.begin(Some(PORT), 32);
        assert!(strangers.are_many());
    }
}
