//! What the active director tells of its connections: each when it begins, whenever its state
//! changes, and again and again in a walk through everything, so that a director that joins later
//! learns of those that hardly speak. When one asks for it, the walk hurries.

use std::sync::atomic::Ordering::Relaxed;

use super::{More, SHORT_IDLE_MS, SyncChannel, SyncConnection, SyncKind};
use crate::clock::Tick;
use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::conn::{Connection, ConnectionTable, Flags};
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::pipeline::Pipeline;
use crate::dataplane::shared::Shared;
use crate::service::{Persistent, Service, TemplateRow};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::ipv4::protocol;

/// Records that the walk looks at in one go, at most.
const WALK_BUDGET: u32 = 256;

/// Where the walk through a worker's connections is.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::dataplane) struct SyncWalk {
    v4: Pace,
    v6: Pace,
    /// Walks of their own through what another director would forget before these come around.
    soon_v4: Soon,
    soon_v6: Soon,
    templates: Pace,
    hurry: Hurry,
}

/// The shortest time in which anything is told again, milliseconds, however short idle times are.
const SOONEST_MS: u32 = 500;
/// How often a connection is told again within its idle time: another director that hears of it by
/// this alone does not forget it, though one message is lost.
const CHANCES: u32 = 3;

/// Where a walk is that comes around in a given time.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// The next record.
    next: u32,
    /// When it was last gone on with.
    at: Tick,
}

impl Pace {
    /// How many of all records are due.
    fn due(&mut self, records: u32, walk_ms: u32, now: Tick) -> u32 {
        let passed = now.since(self.at).min(walk_ms);
        let due = u64::from(records) * u64::from(passed) / u64::from(walk_ms);
        let share = u32::try_from(due).unwrap_or(u32::MAX).min(WALK_BUDGET);
        if share == 0 {
            // Of few records one is not due every time.
            return 0;
        }
        // Of the time that has passed as much is used up as these records are worth.
        let worth = u64::from(share) * u64::from(walk_ms) / u64::from(records);
        let left = passed.saturating_sub(u32::try_from(worth).unwrap_or(u32::MAX));
        self.at = Tick(now.0.wrapping_sub(left));
        share
    }
}

/// A walk that hurries.
#[derive(Clone, Copy, Debug, Default)]
struct Hurry {
    /// Its number, as the channel counts them.
    number: u32,
    stage: Stage,
}

/// What comes next of it.
#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    /// Connections of IPv4 from this record on.
    V4(u32),
    /// Connections of IPv6.
    V6(u32),
    /// Templates, which one worker tells of.
    Templates(u32),
    #[default]
    Done,
}

impl<F: Frame> Pipeline<F> {
    /// Lets go of some connections of the walk.
    pub(super) fn walk_on(&mut self, channel: &SyncChannel, now: Tick) {
        if !channel.is_calm(self.shared.worker) {
            return;
        }
        let wanted = channel.transfer.load(Relaxed);
        if self.shared.sync_walk.hurry.number != wanted {
            self.shared.sync_walk.hurry = Hurry { number: wanted, stage: Stage::V4(0) };
        }
        if !matches!(self.shared.sync_walk.hurry.stage, Stage::Done) {
            return self.hurry_on(channel, now);
        }
        let Self { shared, v4, v6, .. } = self;
        let mut walk = shared.sync_walk;
        let walk_ms = channel.walk_ms;
        walk.v4.go_through(shared, v4, walk_ms, now);
        walk.v6.go_through(shared, v6, walk_ms, now);
        let soon_ms = soon_enough(shared.services.shortest_told_idle_ms());
        if soon_ms < walk_ms {
            walk.soon_v4.go_through(shared, v4, (soon_ms, walk_ms), now);
            walk.soon_v6.go_through(shared, v6, (soon_ms, walk_ms), now);
        }
        if shared.worker.index() == 0 {
            let places = shared.loads.templates().places();
            let share = walk.templates.due(places, walk_ms, now);
            walk.templates.next = shared.tell_templates((walk.templates.next, share), now);
        }
        shared.sync_walk = walk;
    }

    fn hurry_on(&mut self, channel: &SyncChannel, now: Tick) {
        let Self { shared, v4, v6, .. } = self;
        let stage = match shared.sync_walk.hurry.stage {
            Stage::V4(next) => {
                match walk_through(shared, v4, (next, WALK_BUDGET), now, |_, _| true) {
                    0 => Stage::V6(0),
                    next => Stage::V4(next),
                }
            }
            Stage::V6(next) => {
                match walk_through(shared, v6, (next, WALK_BUDGET), now, |_, _| true) {
                    0 if shared.worker.index() == 0 => Stage::Templates(0),
                    0 => Stage::Done,
                    next => Stage::V6(next),
                }
            }
            Stage::Templates(next) => match shared.tell_templates((next, WALK_BUDGET), now) {
                0 => Stage::Done,
                next => Stage::Templates(next),
            },
            Stage::Done => Stage::Done,
        };
        shared.sync_walk.hurry.stage = stage;
        let done = channel.transferred.get(shared.worker.index());
        if matches!(stage, Stage::Done)
            && let Some(done) = done
        {
            done.store(shared.sync_walk.hurry.number, Relaxed);
        }
    }
}

/// In what time to tell again of connections whose packets pass, with such an idle time or a longer one.
const fn soon_enough(shortest_idle_ms: u32) -> u32 {
    let soon = shortest_idle_ms / CHANCES;
    if soon < SOONEST_MS { SOONEST_MS } else { soon }
}

impl Pace {
    /// Lets go of what is due in a walk that takes so long.
    fn go_through<A: Family, F: Frame>(
        &mut self,
        shared: &Shared<F>,
        table: &ConnectionTable<A>,
        walk_ms: u32,
        now: Tick,
    ) {
        let due = (self.next, self.due(records_of(table), walk_ms, now));
        self.next = walk_through(shared, table, due, now, |_, _| true);
    }
}

/// Where a walk is that comes around soon enough for the shortest idle time: those with a longer one are
/// told of in some of its rounds alone.
#[derive(Clone, Copy, Debug, Default)]
struct Soon {
    pace: Pace,
    round: u32,
    /// When this round began.
    began: Tick,
    /// How long the last one took, milliseconds: longer than it should where there are very many.
    took_ms: u32,
}

impl Soon {
    /// Lets go of what is due in a walk that takes `soon_ms`, of what one of `walk_ms` tells too late.
    fn go_through<A: Family, F: Frame>(
        &mut self,
        shared: &Shared<F>,
        table: &ConnectionTable<A>,
        (soon_ms, walk_ms): (u32, u32),
        now: Tick,
    ) {
        let Self { pace, round, began, took_ms } = self;
        let share = pace.due(records_of(table), soon_ms, now);
        if share > 0 && pace.next == 0 {
            // From one beginning to the next: while much waits rounds are apart.
            (*took_ms, *began) = (now.since(*began), now);
        }
        let real_ms = soon_ms.max(*took_ms);
        let next = walk_through(shared, table, (pace.next, share), now, |record, timeout_ms| {
            // Of many with one idle time about as many have their turn in every round.
            is_told_soon(timeout_ms, (real_ms, walk_ms), round.wrapping_add(record))
        });
        if share > 0 && next <= pace.next {
            *round = round.wrapping_add(1);
        }
        pace.next = next;
    }
}

fn records_of<A: Family>(table: &ConnectionTable<A>) -> u32 {
    table.range(0, u32::MAX).0.end
}

/// Whether a connection with this idle time has its turn in a walk whose rounds take `soon_ms`: [`CHANCES`]
/// times within its idle time at least, and not at all where the one that takes `walk_ms` tells it as often.
const fn is_told_soon(timeout_ms: u32, (soon_ms, walk_ms): (u32, u32), turn: u32) -> bool {
    let wanted_ms = timeout_ms / CHANCES;
    // Turns by powers of two are turns by any smaller one, too: rounds that take longer and shorter by
    // turns skip none.
    let each = match wanted_ms.checked_div(soon_ms) {
        Some(rounds) if rounds > 0 => 1 << rounds.ilog2(),
        _ => 1,
    };
    wanted_ms < walk_ms && turn.is_multiple_of(each)
}

/// Lets go of the connections in so many records that are `wanted`, by the record and the idle time; where
/// the walk is then, 0: at its end.
fn walk_through<A: Family, F: Frame>(
    shared: &Shared<F>,
    table: &ConnectionTable<A>,
    (start, share): (u32, u32),
    now: Tick,
    wanted: impl Fn(u32, u32) -> bool,
) -> u32 {
    if share == 0 {
        return start;
    }
    let (live, next) = table.walk(start, share);
    for (_, connection) in live.filter(|(record, known)| wanted(*record, known.timeout_ms)) {
        shared.let_go(connection, now, false);
    }
    next.unwrap_or(0)
}

/// Whether it is worth telling of: what only begins may be a flood, and comes again.
fn is_worth<A: Address>(connection: &Connection<A>) -> bool {
    let is_kept = matches!(connection.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    let begins = matches!(
        connection.state(),
        ConnectionState::None
            | ConnectionState::SynSent
            | ConnectionState::SynRecv
            | ConnectionState::SctpInit1
            | ConnectionState::SctpInit
    );
    is_kept && !begins && !connection.flags.is_retired()
}

/// Whether the service, and its server's port, follow from what the client speaks to: not so of
/// a data connection.
fn is_usual<A: Address>(connection: &Connection<A>, service: &Service<A>) -> bool {
    let ((vip, port), (_, server_port)) = (connection.vip(), connection.server());
    let mut servers = service.servers().iter();
    let server = servers.find(|server| server.slot == connection.slot());
    let is_port = server.is_none_or(|server| server.port == server_port || server.port.get() == 0);
    let is_named = service.mark != 0 || service.vip == vip && service.ports.contains(port.get());
    is_port && is_named
}

const fn worth_telling(idle_ms: u32) -> u32 {
    if idle_ms < SHORT_IDLE_MS { 0 } else { idle_ms }
}

fn end<A: Address>((address, port): (A, U16)) -> super::End {
    (address.to_ip(), port.get())
}

impl<F: Frame> Shared<F> {
    /// A connection has begun or is in another state: the other director is to know.
    #[inline]
    pub(in crate::dataplane) fn synchronise<A: Family>(&self, connection: &Connection<A>) {
        if self.failover.is_some() && self.is_active {
            self.let_go(connection, Tick(connection.last_seen), true);
        }
    }

    #[cold]
    #[inline(never)]
    fn let_go<A: Family>(&self, connection: &Connection<A>, now: Tick, is_news: bool) {
        let Some(channel) = &self.failover else { return };
        if !is_worth(connection) || self.is_half(connection) {
            return;
        }
        let service = if connection.service().0 == Connection::<A>::NO_SERVICE {
            None
        } else {
            // Of one that is there no more the other director knows nothing either.
            let service = A::services(&self.services).get(connection.service());
            match service.filter(|service| service.is_synchronised) {
                Some(service) => Some(service),
                None => return,
            }
        };
        let Some(more) = self.more_of(connection, service) else { return };
        let last_seen = Tick(connection.last_seen);
        // What a helper has put off may lie ahead of now.
        let idle = if now.reached(last_seen) { now.since(last_seen) } else { 0 };
        let told = SyncConnection {
            kind: SyncKind::Connection,
            is_news,
            protocol: connection.protocol,
            state: connection.state(),
            timeout_ms: connection.timeout_ms,
            idle_ms: worth_telling(idle),
            client: end(connection.client()),
            vip: end(connection.vip()),
            server: end(connection.server()),
            mark: service.map_or(0, |service| service.mark),
            more: Some(more).filter(|more| *more != More::default()),
        };
        channel.sync.let_go(self.worker, told);
        if connection.flags.is_by_template()
            && connection.state().is_active()
            && let Some(template) = service.and_then(|service| template_of(connection, service))
        {
            channel.sync.let_go(self.worker, template);
        }
    }

    /// What IPVS has no words for. `None`: it is not ready to be told of.
    fn more_of<A: Family>(
        &self,
        connection: &Connection<A>,
        service: Option<&Service<A>>,
    ) -> Option<More> {
        let flags = connection.flags;
        let is_helped = flags.has(Flags::HELPED);
        // A control connection is told of when its handshake is seen to be complete.
        let text = if is_helped { Some(self.helpers.text_of(connection)?) } else { None };
        Some(More {
            local: flags.has(Flags::FULL_NAT).then(|| end(connection.local())),
            is_outbound: flags.has(Flags::OUTBOUND),
            is_masqueraded: service.is_none(),
            service: service
                .filter(|service| !is_usual(connection, service))
                .map(|service| end(service.named())),
            text,
        })
    }

    /// Lets go of templates in so many places; where the walk is then, 0: at its end.
    fn tell_templates(&self, (start, share): (u32, u32), now: Tick) -> u32 {
        let templates = self.loads.templates();
        if templates.is_empty() || share == 0 {
            return if share == 0 { start } else { 0 };
        }
        let (rows, next) = templates.page(start, share, now);
        for row in rows {
            if row.client.is_ipv4() {
                self.tell_template::<V4>(&row);
            } else {
                self.tell_template::<V6>(&row);
            }
        }
        next.unwrap_or(0)
    }

    fn tell_template<A: Family>(&self, row: &TemplateRow) {
        let service = A::services(&self.services).get(row.service);
        let service = service.filter(|service| service.is_synchronised);
        let (Some(channel), Some(service)) = (&self.failover, service) else { return };
        let mut servers = service.servers().iter();
        let Some(server) = servers.find(|server| server.slot == row.server) else { return };
        let server = end((server.address, server.port));
        let whole_ms = service.persistence.as_ref().map_or(0, Persistent::timeout_ms);
        let times = (whole_ms.max(row.expires_ms), row.expires_ms);
        channel.sync.let_go(self.worker, template(service, (row.client, 0), server, times));
    }
}

/// The template that led to a new connection's server.
fn template_of<A: Address>(
    connection: &Connection<A>,
    service: &Service<A>,
) -> Option<SyncConnection> {
    let persistence = service.persistence.as_ref()?;
    let mut servers = service.servers().iter();
    let server = servers.find(|server| server.slot == connection.slot())?;
    let client = A::of_bits(connection.client().0.bits() & persistence.mask());
    let server = end((server.address, server.port));
    let whole_ms = persistence.timeout_ms();
    Some(template(service, (client.to_ip(), 0), server, (whole_ms, whole_ms)))
}

/// A template that lives so long after its last connection, of which so much is left.
fn template<A: Address>(
    service: &Service<A>,
    client: super::End,
    server: super::End,
    (timeout_ms, left_ms): (u32, u32),
) -> SyncConnection {
    SyncConnection {
        kind: SyncKind::Template,
        is_news: false,
        protocol: service.protocol.map_or(0, |protocol| protocol as u8),
        state: ConnectionState::None,
        timeout_ms,
        idle_ms: worth_telling(timeout_ms - left_ms),
        client,
        vip: end(service.named()),
        server,
        mark: service.mark,
        more: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_idle_time_is_told_of_three_times_within_it_and_less_than_six() {
        const MINUTES: u32 = 60_000;
        let turns =
            |timeout_ms, ms| (0..3600).filter(|it| is_told_soon(timeout_ms, ms, *it)).count();
        // The shortest is ten seconds, and everything is told of in five minutes.
        let ms = (soon_enough(10_000), MINUTES * 5);
        assert_eq!(ms.0, 3333);
        assert_eq!(turns(10_000, ms), 3600);
        // Twenty seconds, of a walk of 3.3: every second one.
        assert_eq!(turns(20_000, ms), 1800);
        assert_eq!(turns(MINUTES * 2, ms), 3600 / 8);
        // The other walk does these.
        assert_eq!(turns(MINUTES * 15, ms), 0);
        // What is shorter than anything is told of as often as it can be.
        let ms = (soon_enough(1000), MINUTES);
        assert_eq!((ms.0, turns(1000, ms)), (SOONEST_MS, 3600));
    }

    #[test]
    fn rounds_that_take_a_little_longer_and_shorter_by_turns_skip_nothing() {
        const WALK_MS: u32 = 300_000;
        for timeout_ms in [20_000, 30_000, 60_000, 120_000] {
            let longest = timeout_ms / CHANCES / soon_enough(10_000);
            let is_told = |first: u32, round: u32| {
                let longer = round.wrapping_mul(0x9e37_79b9) >> 31;
                let ms = soon_enough(10_000) + longer;
                is_told_soon(timeout_ms, (ms, WALK_MS), first + round)
            };
            for first in 0..64 {
                let told: Vec<_> = (0..2000).filter(|round| is_told(first, *round)).collect();
                let gap = told.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
                assert!(gap <= longest, "{timeout_ms} ms: {gap} rounds of {longest}");
            }
        }
    }
}
