//! The workers' part of failover: whether this director is the active one, what the failover
//! thread has sent, and what it must hear.
//!
//! To be active is a *lease*: it holds until the others would take over if they heard no more.
//! Who sends an advertisement renews it, the moment it is sent. So whatever stands still, the
//! failover thread, the worker that sends or the whole process, the lease ends before another
//! director begins, and the workers send nothing more.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrayvec::ArrayVec;
use zerocopy::FromBytes;

use super::classify::{Class, Packet};
use super::family::Family;
use super::frame::{Frame, FrameBurst, Outlet};
use super::handover::Phase;
use super::hearing::{Overheard, Refused, Ruling};
use super::local;
use super::pipeline::{Origin, Pipeline};
use super::ring::{Inbox, Ring};
use super::shared::Shared;
use super::stats::DropReason;
use super::sync::SyncChannel;
use crate::ids::{InterfaceId, WorkerId};
use crate::wire::ethernet::EthernetHeader;
use crate::wire::flow_key::FlowKey;
use crate::wire::{ipv4, ipvs_sync};

pub use super::hearing::{HeardLink, HeardSync, Hearing, Unheard};
pub use super::message::{LONGEST_HEARD, MESSAGE, Message};

/// Errands and packets that fit the queues.
const ERRANDS: usize = 256;
const HEARD: usize = 256;
/// Time in which all connections are told of again, where nothing else is wanted.
pub const REFRESH: Duration = Duration::from_secs(15);
/// Errands that are run in one go.
const IN_ONE_GO: usize = 64;

/// Bits of the word for the end of the lease, in units of 2^16 cycles: enough for centuries.
const UNTIL_BITS: u32 = 48;
const UNTIL: u64 = (1 << UNTIL_BITS) - 1;
const UNIT_BITS: u32 = 16;

/// Whether the director is the active one, as a word that all workers read: the term, and until
/// when it is.
#[derive(Debug)]
pub struct Standing(AtomicU64);

/// A promise to be the active one until a time, in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    term: u64,
    until: u64,
}

impl Standing {
    /// Without a lease.
    pub const fn backup() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether the lease holds. `now`: the time stamp counter.
    #[inline]
    pub fn is_active(&self, now: u64) -> bool {
        self.0.load(Relaxed) & UNTIL > now >> UNIT_BITS
    }

    /// Another term begins, without a lease: whatever was on its way for the one before is of no
    /// use any more.
    pub fn begin_term(&self) {
        let next = |word: u64| Some(((word >> UNTIL_BITS).wrapping_add(1)) << UNTIL_BITS);
        // It always does.
        self.0.fetch_update(Relaxed, Relaxed, next).ok();
    }

    /// A lease of the term at hand, until the time stamp counter says so.
    pub fn lease(&self, until: u64) -> Lease {
        Lease { term: self.term(), until: (until >> UNIT_BITS) & UNTIL }
    }

    /// Renews the lease, unless its term is over, or it has ended already: then another director
    /// may be the active one. `now`: the time stamp counter.
    pub(crate) fn renew(&self, lease: Lease, now: u64) {
        let renewed = |word: u64| {
            let (term, until) = (word >> UNTIL_BITS, word & UNTIL);
            let is_current = term == lease.term && (until == 0 || until > now >> UNIT_BITS);
            is_current.then_some(term << UNTIL_BITS | lease.until.max(until))
        };
        self.0.fetch_update(Relaxed, Relaxed, renewed).ok();
    }

    /// Until when the lease of this term holds, or held, as a number; 0: there was none.
    pub fn until(&self) -> u64 {
        self.0.load(Relaxed) & UNTIL
    }

    fn term(&self) -> u64 {
        self.0.load(Relaxed) >> UNTIL_BITS
    }
}

/// What a worker does for the failover thread, one after the other.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a worker frees nothing, so nothing is boxed")]
pub enum Errand {
    /// Send a message, at once; not when the time stamp counter says so or more.
    Send(Message, u64),
    /// If all messages since the last lease have left, renew the lease.
    Renew(Lease),
    /// Ask a link who has an address.
    Solicit {
        /// The link.
        interface: InterfaceId,
        /// The address.
        address: IpAddr,
    },
    /// Tell a link that an address is ours.
    Announce {
        /// The link.
        interface: InterfaceId,
        /// The address.
        address: IpAddr,
    },
}

/// Whether all messages of a term since its last lease have left.
#[derive(Debug)]
pub(super) struct Spoken {
    term: u64,
    is_whole: bool,
}

impl Spoken {
    pub(super) const fn nothing() -> Self {
        Self { term: 0, is_whole: true }
    }

    /// What could not be said in a term before is of no meaning in this one.
    fn go_on(&mut self, term: u64) {
        self.is_whole |= term != self.term;
        self.term = term;
    }
}

/// A message over IP that a worker has heard, for the failover thread.
#[derive(Clone, Debug)]
pub struct HeardMessage {
    /// Where it came in.
    pub interface: InterfaceId,
    /// Who sent it.
    pub source: IpAddr,
    /// The group, or an address of the director.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What IP carries.
    pub payload: ArrayVec<u8, LONGEST_HEARD>,
}

/// What workers and the failover thread share.
#[derive(Debug)]
pub struct FailoverChannel {
    /// Whether the director is the active one.
    pub standing: Standing,
    /// With the terms that they were given in.
    errands: Ring<(u64, Errand)>,
    /// Advertisements that could not be sent, and the interface of the last one.
    unsent: AtomicU64,
    unsent_by: AtomicU8,
    clock: fn() -> u64,
    heard: Inbox<HeardMessage>,
    /// Connections on their way between directors.
    pub sync: SyncChannel,
    /// What is let through to the failover thread.
    pub hearing: Hearing,
    refused: Refused,
}

impl FailoverChannel {
    /// For so many workers. `clock`: the time stamp counter.
    pub fn new(workers: usize, hearing: Hearing, clock: fn() -> u64) -> Self {
        Self {
            standing: Standing::backup(),
            errands: Ring::new(ERRANDS),
            unsent: AtomicU64::new(0),
            unsent_by: AtomicU8::new(0),
            clock,
            heard: Inbox::new(workers, HEARD),
            sync: SyncChannel::new(workers, REFRESH),
            hearing,
            refused: Refused::default(),
        }
    }

    /// The workers tell of all connections again in this time.
    #[must_use]
    pub fn telling_again(mut self, refresh: Duration) -> Self {
        self.sync.walk_in(refresh);
        self
    }

    /// Gives a worker an errand of this term; `false`: too many wait.
    pub fn ask(&self, errand: Errand) -> bool {
        self.errands.push((self.standing.term(), errand)).is_ok()
    }

    /// Advertisements that could not be sent so far.
    pub fn unsent(&self) -> u64 {
        self.unsent.load(Relaxed)
    }

    /// The interface that the last one of them was to be sent by.
    pub fn unsent_by(&self) -> InterfaceId {
        InterfaceId(self.unsent_by.load(Relaxed))
    }

    /// An advertisement could not be sent.
    pub(crate) fn note_unsent(&self, interface: InterfaceId) {
        self.unsent_by.store(interface.0, Relaxed);
        self.unsent.fetch_add(1, Relaxed);
    }

    /// The next errand of the term at hand, which is told with it: what was meant to be said before
    /// is true no more.
    fn errand(&self) -> Option<(u64, Errand)> {
        std::iter::from_fn(|| self.errands.pop()).find(|(term, _)| *term == self.standing.term())
    }

    /// How many more errands fit.
    pub fn room(&self) -> usize {
        ERRANDS - self.errands.len()
    }

    /// Whether errands wait.
    pub fn is_asked(&self) -> bool {
        !self.errands.is_empty()
    }

    /// The next message that was heard.
    pub fn heard(&self) -> Option<HeardMessage> {
        self.heard.pop()
    }

    /// Advertisements that workers have refused for a reason.
    pub fn refused(&self, why: Unheard) -> u64 {
        self.refused.advertisements(why)
    }

    /// Messages about connections that workers have refused.
    pub fn refused_synchronisation(&self) -> u64 {
        self.refused.synchronisation()
    }

    /// Notes a message that a worker has heard; `false`: too many wait.
    pub fn hear(&self, worker: WorkerId, message: HeardMessage) -> bool {
        self.heard.push(worker, message)
    }
}

impl<F: Frame> Pipeline<F> {
    /// Notes whether the director is the active one, for the packets that come next.
    #[inline]
    pub fn look_at_standing(&mut self, now: u64) -> bool {
        let handover = self.shared.handing.channel.as_ref();
        let phase = handover.map_or(Phase::Open, |handover| handover.phase(now));
        self.shared.handing.phase = phase;
        let active = match &self.shared.failover {
            Some(channel) => channel.standing.is_active(now),
            None => phase == Phase::Open,
        };
        self.shared.is_active = active;
        active
    }

    /// What a director does with a burst while another one is the active one: it is a host on its
    /// links and nothing more.
    #[cold]
    #[inline(never)]
    pub(super) fn stand_by(
        &mut self,
        burst: &mut FrameBurst<F>,
        origin: Origin,
        outlet: &mut impl Outlet<F>,
    ) {
        match origin {
            // Whose a flow is does not matter: nobody forwards it.
            Origin::Port => self.look_up_received(burst, false),
            Origin::Worker => self.look_up_handed_over(burst),
        }
        let is_mute = self.phase() != Phase::Open;
        let Self { shared, packets, .. } = self;
        for (frame, looked) in burst.drain(..).zip(packets.iter()) {
            let packet = &looked.packet;
            if is_mute || shared.is_to_virtual(&frame) {
                shared.drop(frame, DropReason::Standby, outlet);
                continue;
            }
            match packet.class {
                Class::Arp | Class::Icmp | Class::Icmpv6 => {
                    local::receive(shared, packet, frame, outlet);
                }
                Class::Vrrp => shared.hear(packet, frame, outlet),
                Class::Drop(reason) => shared.drop(frame, reason, outlet),
                Class::Elsewhere(owner) => outlet.hand_over(owner, frame),
                Class::FlowV4(key) if shared.is_synchronisation(&key) => {
                    shared.hear(packet, frame, outlet);
                }
                Class::FlowV6(key) if shared.is_synchronisation(&key) => {
                    shared.hear(packet, frame, outlet);
                }
                Class::FlowV4(_)
                | Class::FlowV6(_)
                | Class::ErrorV4
                | Class::ErrorV6
                | Class::FragmentV4
                | Class::FragmentV6 => shared.drop(frame, DropReason::Standby, outlet),
            }
        }
    }

    /// Runs the errands of the failover thread, on one worker.
    pub(super) fn run_errands(&mut self, outlet: &mut impl Outlet<F>) {
        let shared = &mut self.shared;
        if shared.worker.index() != 0 {
            return;
        }
        for _ in 0..IN_ONE_GO {
            let Some((term, errand)) =
                shared.failover.as_ref().and_then(|channel| channel.errand())
            else {
                return;
            };
            shared.spoken.go_on(term);
            match errand {
                // It waited while this director stood still: another one may be the active one.
                Errand::Send(_, until) if shared.has_lost_lease() || shared.is_past(until) => {}
                Errand::Send(message, _) => shared.advertise(&message, outlet),
                Errand::Renew(lease) => shared.renew(lease),
                // The lease may have just been renewed, or just ended: this round does not know.
                Errand::Announce { interface, address } if shared.holds_lease() => {
                    local::tell(shared, interface, address, outlet);
                }
                Errand::Announce { .. } => {}
                Errand::Solicit { interface, address } => {
                    local::solicit(shared, interface, address, None, outlet);
                }
            }
        }
    }
}

impl<F: Frame> Shared<F> {
    fn advertise(&mut self, message: &Message, outlet: &mut impl Outlet<F>) {
        if self.send_message(message, outlet).is_err() {
            self.spoken.is_whole = false;
            if let Some(channel) = &self.failover {
                channel.note_unsent(message.interface);
            }
        }
    }

    /// Renews the lease, if everything since the last one has left.
    fn renew(&mut self, lease: Lease) {
        let is_whole = std::mem::replace(&mut self.spoken.is_whole, true);
        if is_whole && let Some(channel) = &self.failover {
            channel.standing.renew(lease, (channel.clock)());
        }
    }

    /// Whether this director is the active one at this very moment.
    fn holds_lease(&self) -> bool {
        let channel = self.failover.as_ref();
        channel.is_some_and(|channel| channel.standing.is_active((channel.clock)()))
    }

    /// Whether the time stamp counter says so or more.
    fn is_past(&self, until: u64) -> bool {
        self.failover.as_ref().is_some_and(|channel| (channel.clock)() >= until)
    }

    /// Whether it had a lease in this term that is over.
    fn has_lost_lease(&self) -> bool {
        let had = self.failover.as_ref().is_some_and(|channel| channel.standing.until() != 0);
        had && !self.holds_lease()
    }

    /// Whether a packet to no service is one of the synchronisation that is sent to this director
    /// alone.
    #[cold]
    pub(super) fn is_synchronisation<A: Family>(&self, key: &FlowKey<A>) -> bool {
        self.failover.is_some()
            && key.protocol == ipv4::protocol::UDP
            && key.destination_port.get() == ipvs_sync::PORT
            && self.interfaces.own(key.destination)
    }

    /// Whether a frame is to the pair's virtual router, which is the active director's alone.
    fn is_to_virtual(&self, frame: &F) -> bool {
        let destination = EthernetHeader::ref_from_prefix(frame.octets());
        destination.is_ok_and(|(link, _)| {
            let interface = self.interfaces.of_frame(frame);
            interface.is_some_and(|interface| interface.is_virtual(link.destination))
        })
    }

    /// A packet of another director: VRRP, or synchronisation.
    #[cold]
    pub(super) fn hear(&self, packet: &Packet, frame: F, outlet: &mut impl Outlet<F>) {
        let (Some(channel), Some(link)) = (&self.failover, self.interfaces.of_frame(&frame)) else {
            return self.drop(frame, DropReason::NotForUs, outlet);
        };
        let Some(overheard) = Overheard::read(link.id, packet, frame.octets()) else {
            return self.drop(frame, DropReason::Truncated, outlet);
        };
        if let Err(reason) = self.let_through(channel, &overheard) {
            return self.drop(frame, reason, outlet);
        }
        self.stats.consumed.increment();
        outlet.discard(frame);
    }

    /// Gives the failover side what it can use, and counts what it cannot.
    fn let_through(
        &self,
        channel: &FailoverChannel,
        overheard: &Overheard<'_>,
    ) -> Result<(), DropReason> {
        let message = || overheard.to_message().ok_or(DropReason::Truncated);
        if overheard.is_synchronisation {
            match channel.hearing.of_synchronisation(overheard) {
                Ruling::Heard => channel.sync.hear(self.worker, message()?),
                Ruling::Refused => channel.refused.count_synchronisation(),
                Ruling::Own => {}
                Ruling::Unwanted => return Err(DropReason::NotForUs),
            }
            return Ok(());
        }
        match channel.hearing.of_advertisement(overheard) {
            Ok(()) if channel.hear(self.worker, message()?) => {}
            Ok(()) => self.stats.events_lost.increment(),
            Err(why) => channel.refused.count(why),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CYCLES: u64 = 1 << UNIT_BITS;

    #[test]
    fn a_lease_holds_until_its_time_and_in_its_term() {
        let standing = Standing::backup();
        assert!(!standing.is_active(0));
        standing.begin_term();
        let lease = standing.lease(100 * CYCLES);
        assert!(!standing.is_active(0));
        standing.renew(lease, 0);
        assert!(standing.is_active(99 * CYCLES) && !standing.is_active(100 * CYCLES));
        // An older one shortens nothing.
        standing.renew(standing.lease(50 * CYCLES), 0);
        assert!(standing.is_active(99 * CYCLES));
        standing.begin_term();
        assert!(!standing.is_active(0) && standing.until() == 0);
        standing.renew(lease, 0);
        assert!(!standing.is_active(0), "of the term before");
        standing.renew(standing.lease(200 * CYCLES), 150 * CYCLES);
        assert!(standing.is_active(199 * CYCLES));
    }

    #[test]
    fn a_lease_that_has_ended_is_not_renewed() {
        let standing = Standing::backup();
        standing.begin_term();
        standing.renew(standing.lease(100 * CYCLES), 50 * CYCLES);
        standing.renew(standing.lease(130 * CYCLES), 99 * CYCLES);
        assert!(standing.is_active(129 * CYCLES));
        // The worker stood still, while the failover thread went on.
        standing.renew(standing.lease(160 * CYCLES), 130 * CYCLES);
        assert!(!standing.is_active(131 * CYCLES) && standing.until() != 0);
        standing.begin_term();
        standing.renew(standing.lease(160 * CYCLES), 131 * CYCLES);
        assert!(standing.is_active(132 * CYCLES));
    }

    #[test]
    fn who_floods_one_worker_keeps_no_other_from_being_heard() {
        let channel =
            FailoverChannel::new(3, Hearing::on_no_link(51, crate::wire::vrrp::Version::V3), || 0);
        let message = |interface| HeardMessage {
            interface: InterfaceId(interface),
            source: [192, 0, 2, 2].into(),
            destination: [224, 0, 0, 18].into(),
            hop_limit: 255,
            payload: ArrayVec::new(),
        };
        while channel.hear(WorkerId(0), message(0)) {}
        assert!(channel.hear(WorkerId(2), message(2)));
        let first: Vec<_> = (0..3).filter_map(|_| channel.heard()).collect();
        assert!(first.iter().any(|heard| heard.interface == InterfaceId(2)));
        while channel.heard().is_some() {}
        assert!(channel.heard().is_none());
    }

    #[test]
    fn terms_wrap_round() {
        let standing = Standing::backup();
        for _ in 0..=u32::from(u16::MAX) {
            standing.begin_term();
        }
        let lease = standing.lease(CYCLES * 2);
        standing.renew(lease, 0);
        assert!(standing.is_active(CYCLES));
    }
}
