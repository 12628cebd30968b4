//! Connection synchronisation: a thread that puts what the workers of the active director let go
//! into messages of IPVS's protocol, and on a standby gives what comes to the workers.
//!
//! What cannot be sent yet waits ([`Waiting`]), and the workers never do. A standby asks for
//! everything when it begins ([`transfer`]).

mod refusals;
mod seal;
mod transfer;
mod waiting;
mod words;

use std::net::IpAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use zerocopy::{FromBytes, IntoBytes};

use super::room_for_message;
use crate::control::config::{Config, FailoverConfig};
use crate::dataplane::failover::{FailoverChannel, HeardMessage, MESSAGE, Message};
use crate::dataplane::sync::{SyncConnection, SyncKind};
use crate::ids::{CpuId, InterfaceId, OwnersOf, WorkerId};
use crate::wire::ipv4::protocol;
use crate::wire::ipvs_sync::{self, Note, NoteKind, Unfit, Writer};
use crate::wire::udp::UdpHeader;
use crate::wire::{U16, checksum};

use refusals::Refusals;
use seal::{GROWTH, Seal};
pub(in crate::control) use transfer::Knowledge;
use transfer::{Learning, Telling};
use waiting::{ByQueue, Queue, Waiting};

/// The pause between two turns.
const PAUSE: Duration = Duration::from_millis(2);
/// Connections that are taken from one worker in one turn.
const IN_ONE_TURN: usize = 4096;
/// Messages that are sent in one turn: no more than the other side takes in as long.
const SENT_IN_ONE_TURN: usize = 128;
/// Messages that are read in one turn.
const HEARD_IN_ONE_TURN: usize = 512;
/// How long a director that gives up may go on telling what the other one does not know yet, and how
/// long that one listens.
const PARTING: Duration = Duration::from_millis(100);
/// How long a worker is waited for that has too much to take over.
const BRINGING: Duration = Duration::from_millis(100);
const UDP: usize = size_of::<UdpHeader>();

/// What the synchronisation counts and shows.
#[derive(Debug, Default)]
pub(in crate::control) struct SyncCounts {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Connections that wait to be sent.
    pub(super) waiting: AtomicU64,
    /// [`Knowledge`].
    knowledge: AtomicU8,
    /// There is no synchronisation.
    is_off: AtomicBool,
    /// How often this director has joined the other one again.
    joins: AtomicU32,
    /// The one after the join since which it knows what it can of the other director's
    /// connections; 0: it does not.
    ready: AtomicU32,
    /// This director has given up, and tells what is left.
    is_parting: AtomicBool,
    /// This director is a backup.
    stands_by: AtomicBool,
    /// Why a message was refused last.
    refusal: Mutex<Option<String>>,
    /// Who stood by last.
    standby: Mutex<Option<Standby>>,
    /// How often another director has said that it stands by and knows all connections.
    standbys: AtomicU64,
}

/// Another director that stands by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standby {
    pub(super) address: IpAddr,
    /// It was told everything.
    pub(super) has_learnt: bool,
    /// When it said so.
    pub(super) at: Instant,
}

impl SyncCounts {
    /// How much this director knows of the other one's connections.
    pub(super) fn knowledge(&self) -> Knowledge {
        Knowledge::from_number(self.knowledge.load(Relaxed))
    }

    /// Whether it may take over from a director that works.
    pub(super) fn is_ready(&self) -> bool {
        let joins = self.joins.load(Relaxed);
        self.is_off.load(Relaxed) || self.ready.load(Relaxed) == joins.wrapping_add(1)
    }

    /// This director takes part again: what it knows is old.
    pub(super) fn join(&self) {
        self.joins.fetch_add(1, Relaxed);
    }

    /// This director's role is about to change. `gives_up`: it is the master no more, while it
    /// works, and tells what it knows.
    pub(super) fn change_role(&self, gives_up: bool) {
        self.is_parting.store(gives_up && !self.is_off.load(Relaxed), Relaxed);
    }

    /// Whether there is something left to tell.
    pub(super) fn is_parting(&self) -> bool {
        self.is_parting.load(Relaxed)
    }

    /// Whether it takes over when the other one fails.
    pub(super) fn stand_by(&self, stands_by: bool) {
        self.stands_by.store(stands_by, Relaxed);
    }

    /// Who stood by last. Not for the failover thread, which waits for no lock.
    pub(super) fn standby(&self) -> Option<Standby> {
        *self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often another director has said that it stands by and knows all connections.
    pub(super) fn standbys(&self) -> u64 {
        self.standbys.load(Relaxed)
    }

    fn hear_standby(&self, address: IpAddr, has_learnt: bool) {
        let heard = Standby { address, has_learnt, at: Instant::now() };
        *self.standby.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        // To one that does not know the connections nothing is left.
        self.standbys.fetch_add(has_learnt.into(), Relaxed);
    }

    /// Why a message was refused last. Not for the failover thread, which waits for no lock.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, why: String) {
        self.refused.fetch_add(1, Relaxed);
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

/// The thread's parts.
pub(super) struct Synchroniser {
    channel: Arc<FailoverChannel>,
    owners: OwnersOf<SyncConnection>,
    is_master: Arc<AtomicBool>,
    counts: Arc<SyncCounts>,
    id: u8,
    interface: InterfaceId,
    /// From where to where messages go.
    ways: Vec<(IpAddr, IpAddr)>,
    /// Octets that a message may have, encrypted or not.
    room: usize,
    cpu: CpuId,
    start: Instant,
    waiting: Waiting,
    seal: Option<Seal>,
    /// Messages with entries that were sent.
    messages: u32,
    telling: Telling,
    learning: Learning,
    was_master: bool,
    /// Whether it is the master, and since when.
    role: (bool, Duration),
    /// It knew everything once since it was the master last, or joined again.
    has_learnt: bool,
    /// The join at which it began to learn.
    joined: u32,
    refusals: Refusals,
}

impl Synchroniser {
    /// Of a group; `None`: connections are not synchronised. `mtus`: of the interfaces.
    ///
    /// # Errors
    /// The key cannot be read, or there are no random numbers.
    pub(super) fn new(
        (config, group): (&Config, &FailoverConfig),
        mtus: &[u16],
        channel: Arc<FailoverChannel>,
        owners: OwnersOf<SyncConnection>,
        (is_master, counts): (Arc<AtomicBool>, Arc<SyncCounts>),
    ) -> Result<Option<Self>, String> {
        let Some(sync) = &group.sync else {
            counts.is_off.store(true, Relaxed);
            return Ok(None);
        };
        let own = sync.sources(config);
        let group_of_ipvs = [IpAddr::from(ipvs_sync::GROUP)];
        let peers = if sync.peers.is_empty() { &group_of_ipvs[..] } else { &sync.peers };
        let from = |to: IpAddr| own.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
        let ways: Vec<_> = peers.iter().filter_map(|to| Some((from(*to)?, *to))).collect();
        let has_v6 = ways.iter().any(|(own, _)| own.is_ipv6());
        let room = room_for_message(mtus, sync.interface, has_v6);
        let random = || getrandom::u64().map_err(|error| format!("no random numbers: {error}"));
        let seal = match sync.key()? {
            Some(key) => Some(Seal::new(&key, random()?)),
            None => None,
        };
        Ok(Some(Self {
            channel,
            owners,
            is_master,
            counts,
            id: group.router_id,
            interface: sync.interface,
            ways,
            room: room.saturating_sub(UDP),
            cpu: config.director.control_cpu,
            start: Instant::now(),
            waiting: Waiting::new(sync.after),
            seal,
            messages: 0,
            telling: Telling::default(),
            learning: Learning::new(random()?),
            was_master: true,
            role: (false, Duration::ZERO),
            has_learnt: false,
            joined: 0,
            refusals: Refusals::default(),
        }))
    }

    /// Until the director ends.
    pub(super) fn run(mut self, end: &AtomicBool) {
        super::super::thread::pin(self.cpu);
        while !end.load(Relaxed) {
            let now = self.start.elapsed();
            let is_master = self.is_master.load(Acquire);
            self.collect(now);
            if is_master != self.role.0 {
                self.role = (is_master, now);
            }
            let tells = if is_master {
                self.tell(now);
                true
            } else {
                self.parts(now)
            };
            if !tells {
                self.learn(now);
            }
            self.receive(now);
            self.was_master = tells;
            self.show(now);
            std::thread::sleep(PAUSE);
        }
    }

    fn show(&mut self, now: Duration) {
        // What was told last, the workers may still be taking over.
        let is_ready = self.learning.is_ready(now) && self.channel.sync.is_taken();
        self.has_learnt |= is_ready && self.learning.has_learnt();
        let is_ready = self.was_master || self.has_learnt || is_ready;
        let knowledge = if self.was_master { Knowledge::Telling } else { self.learning.shown(now) };
        self.counts.knowledge.store(knowledge as u8, Relaxed);
        let ready = if is_ready { self.joined.wrapping_add(1) } else { 0 };
        self.counts.ready.store(ready, Relaxed);
        self.counts.waiting.store(self.waiting.len() as u64, Relaxed);
        self.channel.sync.set_waiting(self.waiting.ready().iter().sum::<usize>() as u64);
    }

    /// What the active director does.
    fn tell(&mut self, now: Duration) {
        for (asker, number) in self.telling.begin().to_vec() {
            self.note(NoteKind::Begin, asker, number);
            self.channel.sync.transfer();
        }
        let is_transferred = self.channel.sync.is_transferred();
        if is_transferred {
            // What left the workers since the last look.
            self.collect(now);
        }
        self.waiting.ripen(now);
        let sent = self.send();
        self.telling.go_on(sent, is_transferred, self.waiting.ready());
        for (asker, number) in self.telling.end() {
            self.note(NoteKind::End, asker, number);
        }
    }

    /// A director that has just given up tells what the other one does not know yet. Whether it does.
    fn parts(&mut self, now: Duration) -> bool {
        if !self.counts.is_parting() {
            return false;
        }
        // What was kept back has no more time.
        self.waiting.ripen(Duration::MAX);
        let sent = self.send();
        let (_, since) = self.role;
        let may_be_over = now > since && sent == [0, 0] && self.channel.sync.has_left();
        let is_over = may_be_over || now.saturating_sub(since) >= PARTING;
        if is_over {
            self.counts.is_parting.store(false, Relaxed);
        }
        !is_over
    }

    /// What a standby does.
    fn learn(&mut self, now: Duration) {
        // What was let go of before is of no use any more.
        self.waiting.clear();
        let joins = self.counts.joins.load(Relaxed);
        if self.was_master || joins != self.joined {
            self.telling.stop();
            self.learning.begin(now);
            (self.has_learnt, self.joined) = (false, joins);
        }
        if let Some(note) = self.learning.ask(now) {
            self.send_to_all(&ipvs_sync::write_note(self.id, &note));
        }
        if self.counts.stands_by.load(Relaxed)
            && let Some(note) = self.learning.stands_by(now)
        {
            self.send_to_all(&ipvs_sync::write_note(self.id, &note));
        }
    }

    fn note(&mut self, kind: NoteKind, asker: u64, number: u32) {
        let note = Note { kind, asker, number, messages: self.messages };
        self.send_to_all(&ipvs_sync::write_note(self.id, &note));
    }

    /// Takes what the workers let go; newer states take the place of older ones.
    fn collect(&mut self, now: Duration) {
        let Self { channel, waiting, .. } = self;
        for worker in 0..channel.sync.workers() {
            let leaving = std::iter::from_fn(|| channel.sync.leaving(worker));
            let lost = leaving.take(IN_ONE_TURN).filter(|told| !waiting.keep(*told, now)).count();
            (0..lost).for_each(|_| channel.sync.lose());
        }
    }

    /// Sends as many messages as there is room for; how many connections that were.
    fn send(&mut self) -> ByQueue {
        let all = Queue::ALL.map(|queue| {
            let sent = std::iter::repeat_with(|| self.send_one(queue));
            let sent = sent.take(SENT_IN_ONE_TURN / Queue::ALL.len());
            sent.take_while(|sent| *sent > 0).sum::<usize>()
        });
        self.counts.sent.fetch_add(all.iter().sum::<usize>() as u64, Relaxed);
        all
    }

    /// Sends a message; how many connections it tells of.
    fn send_one(&mut self, queue: Queue) -> usize {
        let growth = if self.seal.is_some() { GROWTH } else { 0 };
        let mut buffer = [0; MESSAGE - UDP];
        let buffer = buffer.get_mut(..self.room.saturating_sub(growth)).unwrap_or_default();
        let mut writer = match queue {
            Queue::Plain => Writer::new(self.id, buffer),
            Queue::Own => Writer::of_own(self.id, buffer),
        };
        let connections = self.waiting.ready_of(queue);
        // One that no message can say is passed over.
        let fits = |known: &&SyncConnection| writer.push(&words::entry(known)) != Err(Unfit::Full);
        let count = connections.take_while(fits).count();
        if count == 0 || !self.send_to_all(writer.finish()) {
            return 0;
        }
        self.messages = self.messages.wrapping_add(1);
        self.waiting.remove(queue, count);
        count
    }

    /// Sends a payload to all others or, where there is no room for that, to none; whether it did.
    fn send_to_all(&mut self, payload: &[u8]) -> bool {
        if self.channel.sync.room() < self.ways.len() {
            return false;
        }
        let sealed = match &mut self.seal {
            Some(seal) => match seal.close(self.id, payload) {
                Some(sealed) => Some(sealed),
                None => return false,
            },
            None => None,
        };
        let payload = sealed.as_deref().unwrap_or(payload);
        let ways = self.ways.iter();
        let messages = ways.filter_map(|way| datagram(self.interface, *way, payload));
        // There is room for all of them.
        messages.map(|message| self.channel.sync.send(message)).filter(|sent| *sent).count() > 0
    }

    /// Reads what other directors have sent.
    fn receive(&mut self, now: Duration) {
        let channel = Arc::clone(&self.channel);
        let heard = std::iter::from_fn(|| channel.sync.heard());
        for message in heard.take(HEARD_IN_ONE_TURN) {
            if let Err(why) = self.read(&message, now) {
                self.refuse(format!("{}: {why}", message.source), now);
            }
        }
    }

    fn refuse(&mut self, why: String, now: Duration) {
        if let Some(unsaid) = self.refusals.note(&why, now) {
            tracing::warn!(why, unsaid, "a message about connections was refused");
        }
        self.counts.refuse(why);
    }

    /// Takes what a message says.
    ///
    /// # Errors
    /// Why it is none of this group.
    fn read(&mut self, message: &HeardMessage, now: Duration) -> Result<(), String> {
        let octets = udp_payload(message).ok_or("it is no datagram of the synchronisation")?;
        let opened = match &mut self.seal {
            Some(seal) => Some(seal.open(octets).map_err(|closed| closed.to_string())?),
            None => None,
        };
        let octets = opened.as_deref().unwrap_or(octets);
        let source = message.source;
        let message = ipvs_sync::Message::parse(octets).map_err(|wrong| wrong.to_string())?;
        if message.sync_id != self.id {
            return Err(format!("its synchronisation id is {}", message.sync_id));
        }
        if let Some(note) = &message.note {
            if note.kind == NoteKind::StandsBy {
                self.counts.hear_standby(source, note.number != 0);
            } else if self.was_master {
                self.telling.hear(note);
            } else {
                self.learning.hear(note, self.channel.sync.lost(), now);
            }
            return Ok(());
        }
        // What the master before tells at its end is news for a while.
        if self.was_master && now.saturating_sub(self.role.1) > PARTING * 2 {
            return Ok(());
        }
        self.learning.count();
        let mut outcome = Ok(());
        for entry in message.entries() {
            // Where others can be read behind a wrong one, they count.
            match entry.map(|entry| words::connection(&entry)) {
                Ok(Some(connection)) => {
                    self.counts.received.fetch_add(1, Relaxed);
                    self.bring(connection);
                }
                Ok(None) => {}
                Err(wrong) => outcome = Err(wrong.to_string()),
            }
        }
        outcome
    }

    /// Gives the workers that a connection is of that connection to take over.
    fn bring(&self, connection: SyncConnection) {
        let [first, second] = match connection.kind {
            SyncKind::Connection => (self.owners)(&connection),
            // All workers have the same ones.
            SyncKind::Template => [WorkerId(0); 2],
        };
        self.bring_to(first, connection);
        if second != first {
            self.bring_to(second, connection);
        }
    }

    /// Waits a little for a worker that has much to do.
    fn bring_to(&self, worker: WorkerId, connection: SyncConnection) {
        let until = Instant::now() + BRINGING;
        while !self.channel.sync.bring(worker, connection) {
            if Instant::now() >= until || self.is_master.load(Relaxed) {
                return self.channel.sync.lose();
            }
            std::thread::sleep(PAUSE / 4);
        }
    }
}

/// A datagram of the synchronisation.
fn datagram(
    interface: InterfaceId,
    (source, destination): (IpAddr, IpAddr),
    payload: &[u8],
) -> Option<Message> {
    let length = u16::try_from(UDP + payload.len()).ok()?;
    let mut header = UdpHeader {
        source_port: U16::new(ipvs_sync::PORT),
        destination_port: U16::new(ipvs_sync::PORT),
        length: U16::new(length),
        checksum: [0; 2],
    };
    let pseudo = pseudo_header(source, destination, length)?;
    let parts = checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(header.as_bytes())));
    header.checksum = match checksum::finish(payload, parts) {
        // RFC 768: none at all is another thing.
        [0, 0] => [0xff; 2],
        sum => sum,
    };
    let mut octets = ArrayVec::<u8, MESSAGE>::new();
    octets.try_extend_from_slice(header.as_bytes()).ok()?;
    octets.try_extend_from_slice(payload).ok()?;
    // IPVS sends with TTL 1 to its group.
    let hop_limit = if destination.is_multicast() { 1 } else { 255 };
    Some(Message {
        interface,
        source_mac: None,
        source,
        destination,
        protocol: protocol::UDP,
        hop_limit,
        payload: octets,
    })
}

/// What a datagram carries; `None`: it is broken, or to another port.
fn udp_payload(message: &HeardMessage) -> Option<&[u8]> {
    let (udp, _) = UdpHeader::ref_from_prefix(&message.payload).ok()?;
    let length = udp.length.get();
    let whole = message.payload.get(..usize::from(length))?;
    let pseudo = pseudo_header(message.source, message.destination, length)?;
    let sum = checksum::fold(u64::from(pseudo) + u64::from(checksum::sum(whole)));
    let is_intact = udp.checksum == [0; 2] && message.source.is_ipv4() || sum == 0xffff;
    let is_ours = udp.destination_port.get() == ipvs_sync::PORT;
    whole.get(UDP..).filter(|_| is_intact && is_ours)
}

fn pseudo_header(source: IpAddr, destination: IpAddr, length: u16) -> Option<u16> {
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(checksum::pseudo_header(
            &from.octets(),
            &to.octets(),
            protocol::UDP,
            length.into(),
        )),
        (IpAddr::V6(from), IpAddr::V6(to)) => Some(checksum::pseudo_header(
            &from.octets(),
            &to.octets(),
            protocol::UDP,
            length.into(),
        )),
        _ => None,
    }
}
