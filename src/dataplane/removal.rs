//! Connections of servers that are removed: UDP flows end at once; others go on, are forgotten, or
//! are reset to the client, as the table says.
//!
//! For a reset the client must believe us, and a record has no sequence numbers. So the client is
//! made to tell them: it gets a SYN, which every TCP answers with an acknowledgement of what it has
//! and awaits (RFC 5961 section 4.2; before that, RFC 793 had it reset the connection itself). That
//! acknowledgement, and whatever else it sends for this connection, is answered with a reset whose
//! sequence number is the very one that it awaits (RFC 5961 section 3.2).

use std::ops::Range;

use zerocopy::IntoBytes;

use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, ConnectionTable, Flags, Found};
use super::family::Family;
use super::flow::{Flow, next_hop};
use super::frame::{Frame, Outlet};
use super::own_error::{self, RateLimit, Refusal};
use super::pipeline::Pipeline;
use super::shared::Shared;
use super::stats::DropReason;
use crate::clock::Tick;
use crate::service::Removal;
use crate::wire::ethernet::{self, EthernetHeader, Mac};
use crate::wire::flow_key::Direction;
use crate::wire::tcp::{TcpHeader, flags};
use crate::wire::{U16, U32};

/// Records of each table that are looked at in one go.
const BUDGET: u32 = 1024;
/// Clients that are asked in one go: fewer than a transmit queue takes.
const PROBES: u32 = 32;
/// Clients that are asked, and that are reset, in a second.
const PER_SECOND: u32 = 10_000;
/// How long a client has to answer, milliseconds: longer than packets take to come again.
const PATIENCE_MS: u32 = 10_000;

/// Where the search through one table is. Records that begin to be used while it is under way hold
/// connections of the table of services at hand, which are of no interest.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    /// The next record.
    at: u32,
    /// Records that are to be looked at: from `at` to the end, then from the first.
    left: u32,
    /// Behind the last record.
    end: u32,
}

impl Search {
    /// All records before `end` are to be looked at. What is under way goes on where it is, so that
    /// it gets round however often servers are removed.
    fn begin(&mut self, end: u32) {
        let at = if self.at < end { self.at } else { 0 };
        *self = Self { at, left: end, end };
    }

    /// The next records, at most `budget`.
    fn next(&self, budget: u32) -> Range<u32> {
        let last = self.at.saturating_add(budget.min(self.left)).min(self.end);
        self.at..last
    }

    /// All before `next` of those records have been looked at.
    fn advance(&mut self, next: u32) {
        self.left -= next - self.at;
        self.at = if next < self.end { next } else { 0 };
    }
}

/// The search for connections of removed servers.
#[derive(Debug)]
pub(super) struct Sweep {
    v4: Search,
    v6: Search,
    probes: RateLimit,
    answers: RateLimit,
}

impl Sweep {
    pub(super) fn new(now: Tick) -> Self {
        let [probes, answers] = [(); 2].map(|()| RateLimit::new(PER_SECOND, now));
        Self { v4: Search::default(), v6: Search::default(), probes, answers }
    }

    /// How many resets may be sent.
    pub(super) const fn answers(&mut self) -> &mut RateLimit {
        &mut self.answers
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Ends,
    /// The client is to be reset.
    Retires,
}

/// Why a connection cannot be dealt with now.
struct NotNow;

impl<F: Frame> Pipeline<F> {
    /// Servers were removed: all connections of now are to be looked at.
    pub(super) fn begin_sweep(&mut self) {
        self.shared.sweep.v4.begin(self.v4.range(0, u32::MAX).0.end);
        self.shared.sweep.v6.begin(self.v6.range(0, u32::MAX).0.end);
    }

    /// Looks at some connections for those of removed servers.
    pub(super) fn sweep(&mut self, now: Tick, outlet: &mut impl Outlet<F>) {
        let Self { shared, v4, v6, .. } = self;
        if !shared.is_active {
            return;
        }
        if shared.sweep.v4.left > 0 {
            shared.sweep.v4 = shared.sweep_table(v4, shared.sweep.v4, now, outlet);
        }
        if shared.sweep.v6.left > 0 {
            shared.sweep.v6 = shared.sweep_table(v6, shared.sweep.v6, now, outlet);
        }
    }
}

impl<F: Frame> Shared<F> {
    /// Looks at some records; where to go on.
    fn sweep_table<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        mut search: Search,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) -> Search {
        let records = search.next(BUDGET);
        let mut probes = PROBES;
        let mut judged = records.clone();
        let unjudged =
            judged.find(|record| self.judge(table, *record, (now, &mut probes), outlet).is_err());
        search.advance(unjudged.unwrap_or(records.end));
        search
    }

    /// Deals with the connection in a record, if there is one.
    fn judge<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        record: u32,
        (now, probes): (Tick, &mut u32),
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), NotNow> {
        let Some((found, fate)) = table.at(record).map(|(found, live)| (found, self.fate(live)))
        else {
            return Ok(());
        };
        match fate {
            Fate::GoesOn => {}
            Fate::Ends => {
                if let Some(ended) = table.remove(found.id) {
                    self.connection_ends(&ended);
                }
            }
            Fate::Retires => {
                *probes = probes.checked_sub(1).ok_or(NotNow)?;
                self.retire(table, found, now, outlet)?;
            }
        }
        Ok(())
    }

    fn fate<A: Family>(&self, connection: &Connection<A>) -> Fate {
        use ConnectionState as S;
        let departed = self.services.departed(connection.slot());
        let Some(removal) = departed.filter(|_| !connection.flags.has(Flags::OUTBOUND)) else {
            return Fate::GoesOn;
        };
        let state = connection.state();
        let is_synchronized = matches!(state, S::Established | S::FinWait | S::CloseWait);
        match removal {
            _ if state == S::Udp => Fate::Ends,
            Removal::Finish => Fate::GoesOn,
            Removal::Reset if is_synchronized && connection.flags.is_retired() => Fate::GoesOn,
            Removal::Reset if is_synchronized => Fate::Retires,
            // One whose handshake is not done begins anew with another server; one that is over
            // needs no reset; of SCTP, whose resets need a tag that only the client's next packet
            // has, nobody is told.
            Removal::Reset | Removal::Forget => Fate::Ends,
        }
    }

    /// Asks the client for its sequence numbers.
    fn retire<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        now: Tick,
        outlet: &mut impl Outlet<F>,
    ) -> Result<(), NotNow> {
        let connection = *table.get(found.id).ok_or(NotNow)?;
        if !self.sweep.probes.allows(now) {
            return Err(NotNow);
        }
        let frame = outlet.allocate();
        let Some(mut frame) = frame else {
            self.stats.no_buffer.increment();
            return Err(NotNow);
        };
        #[allow(clippy::cast_possible_truncation, reason = "any sequence number will do")]
        let sequence = table.hash(&connection.key(Direction::Inbound)) as u32;
        if write_probe(&mut frame, &connection, sequence).is_none() {
            self.stats.no_buffer.increment();
            outlet.discard(frame);
            return Err(NotNow);
        }
        if let Some(connection) = table.get_mut(found.id) {
            connection.flags = connection.flags.retired();
            connection.last_seen = now.0;
            connection.timeout_ms = PATIENCE_MS;
        }
        table.rearm(found.id);
        self.stats.originated.increment();
        self.stats.removal_probes.increment();
        let octets = u16::try_from(frame.total_len() - ethernet::HEADER).unwrap_or(u16::MAX);
        self.send(next_hop(&connection, Direction::Reply), octets, frame, outlet);
        Ok(())
    }

    /// A packet of a connection whose server was removed: the client is reset, and may begin
    /// another connection; the server is not heard any more.
    #[cold]
    pub(super) fn answer_retired<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        flow: &Flow<'_, A>,
        found: Found,
        frame: F,
        outlet: &mut impl Outlet<F>,
    ) {
        let Some(connection) = table.get(found.id) else {
            return self.drop(frame, DropReason::NoConnection, outlet);
        };
        if !self.sides_of(next_hop(connection, found.direction.reversed())).meet(flow.packet.sides)
        {
            return self.drop(frame, DropReason::WrongSide, outlet);
        }
        let is_client = found.direction == Direction::Inbound;
        if is_client && (flow.packet.is_syn() || flow.packet.control & flags::RST != 0) {
            if let Some(ended) = table.remove(found.id) {
                self.connection_ends(&ended);
            }
            if flow.packet.is_syn() {
                return self.flow(table, flow, None, frame, outlet);
            }
        }
        if is_client {
            let refusal = Refusal { reset: true, ..DropReason::ServerRemoved.into() };
            let what = (flow.key, flow.packet);
            own_error::tell(self, refusal, what, &frame, flow.now, outlet);
        }
        self.drop(frame, DropReason::ServerRemoved, outlet);
    }
}

/// The SYN that a client answers with its sequence numbers.
fn write_probe<A: Family, F: Frame>(
    frame: &mut F,
    connection: &Connection<A>,
    sequence: u32,
) -> Option<()> {
    let (client, vip) = (connection.client(), connection.vip());
    let probe = TcpHeader {
        source_port: vip.1,
        destination_port: client.1,
        sequence: U32::new(sequence),
        acknowledgement: U32::new(0),
        data_offset: 0x50,
        flags: flags::SYN,
        window: U16::new(0),
        checksum: [0; 2],
        urgent: U16::new(0),
    };
    own_error::write_segment(frame, (vip.0, client.0), probe)?;
    // The next hop gives the addresses.
    let link = EthernetHeader {
        destination: Mac::default(),
        source: Mac::default(),
        ether_type: U16::new(A::ETHER_TYPE),
    };
    link.write_to_prefix(frame.octets_mut()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is begun meanwhile, and however the table grows: every record that there was
        /// when the last search began is looked at after that.
        #[test]
        fn a_search_sees_every_record_that_there_was_when_it_began(
            steps in prop::collection::vec((0_u32..40, 0_u32..30, any::<bool>()), 1..40),
        ) {
            let mut search = Search::default();
            let (mut fresh, mut unseen) = (0_u32, std::collections::BTreeSet::new());
            for (growth, budget, begins) in steps {
                fresh += growth;
                if begins {
                    search.begin(fresh);
                    unseen = (0..fresh).collect();
                }
                let records = search.next(budget);
                unseen.retain(|record| !records.contains(record));
                search.advance(records.end);
            }
            while search.left > 0 {
                let records = search.next(7);
                prop_assert!(!records.is_empty());
                unseen.retain(|record| !records.contains(record));
                search.advance(records.end);
            }
            prop_assert!(unseen.is_empty(), "{:?}", unseen);
        }
    }
}
