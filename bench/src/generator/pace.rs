//! Sending at a constant rate, paced by the time-stamp counter.

use std::time::Duration;

use pointsman::dpdk::burst::{BURST, Burst};
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;

use super::link::Link;
use super::numbers::{cycles, fraction, whole};

/// Gives a packet every so many cycles.
#[derive(Debug)]
pub(crate) struct Pacer {
    cycles_per_packet: f64,
    credit: f64,
    /// Packets that may be behind; what is more is given up, so that a pause does not end in a
    /// burst that no device takes.
    depth: f64,
    last: u64,
}

impl Pacer {
    /// At `rate` packets in a second; a pause of up to `catch_up` is made good.
    pub(crate) fn new(rate: f64, catch_up: Duration, hz: u64, now: u64) -> Self {
        let depth = (rate * catch_up.as_secs_f64()).max(fraction(BURST as u64));
        Self { cycles_per_packet: fraction(hz) / rate, credit: 1.0, depth, last: now }
    }

    /// How many packets are due, `most` at most.
    #[inline]
    pub(crate) fn take(&mut self, now: u64, most: usize) -> usize {
        let passed = now.saturating_sub(self.last);
        self.last = now;
        self.credit = (self.credit + fraction(passed) / self.cycles_per_packet).min(self.depth);
        let due = usize::try_from(whole(self.credit)).unwrap_or(most).min(most);
        self.credit -= fraction(due as u64);
        due
    }
}

/// Sends numbered packets.
#[derive(Debug)]
pub(crate) struct Sender {
    pacer: Pacer,
    /// Made, but not taken by the port yet.
    pending: Burst,
    next: u32,
    packets: u32,
    sent: u32,
    first_at: u64,
    last_at: u64,
    /// No packet is made from then on.
    deadline: u64,
}

impl Sender {
    /// For `packets` packets, none after `longest`.
    pub(crate) fn new(pacer: Pacer, packets: u32, longest: Duration, hz: u64, now: u64) -> Self {
        Self {
            pacer,
            pending: Burst::new(),
            next: 0,
            packets,
            sent: 0,
            first_at: now,
            last_at: now,
            deadline: now.saturating_add(cycles(longest, hz)),
        }
    }

    /// Sends what is due; `write` makes the packet of a number. Whether anything was sent.
    #[inline]
    pub(crate) fn poll(
        &mut self,
        now: u64,
        pool: &Mempool,
        link: &mut Link,
        mut write: impl FnMut(u32, &mut Mbuf),
    ) -> bool {
        if now > self.deadline {
            self.packets = self.next;
            self.pending.clear();
        }
        if self.pending.is_empty() {
            let left = usize::try_from(self.packets - self.next).unwrap_or(BURST).min(BURST);
            let due = self.pacer.take(now, left);
            if due > 0 {
                pool.alloc_bulk(&mut self.pending, due);
            }
            for mbuf in &mut self.pending {
                write(self.next, mbuf);
                self.next += 1;
            }
        }
        let taken = link.transmit(&mut self.pending);
        if taken == 0 {
            return false;
        }
        if self.sent == 0 {
            self.first_at = now;
        }
        self.sent += u32::try_from(taken).unwrap_or(0);
        self.last_at = now;
        true
    }

    /// Whether all packets have left, or no more will.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.packets && self.pending.is_empty()
    }

    /// Packets that the port took.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// When the first left, and the last.
    pub(crate) fn times(&self) -> (u64, u64) {
        (self.first_at, self.last_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 1_000_000;

    #[test]
    fn packets_are_due_at_the_rate() {
        let mut pacer = Pacer::new(1000.0, Duration::from_millis(100), HZ, 0);
        assert_eq!(pacer.take(0, 64), 1, "the first at once");
        assert_eq!(pacer.take(999, 64), 0);
        assert_eq!(pacer.take(1000, 64), 1);
        let mut due = 0;
        for now in (1000..=1_001_000).step_by(137) {
            due += pacer.take(now, 64);
        }
        assert!((999..=1000).contains(&due), "{due} in a second");
    }

    #[test]
    fn a_long_pause_is_not_made_good() {
        let mut pacer = Pacer::new(100_000.0, Duration::from_millis(2), HZ, 0);
        let mut due = 0;
        while let more @ 1.. = pacer.take(1_000_000, 64) {
            due += more;
        }
        assert_eq!(due, 200, "2 ms of packets, not a second of them");
    }
}
