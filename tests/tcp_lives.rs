//! Random valid lives of TCP connections, and what a director must do with each segment: written
//! from the rules that an operator knows, not from the director's own state table.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeMap;

use pointsman::dataplane::stats::DropReason;
use proptest::prelude::*;
use support::director::{IN, OUT, Setup, TestDirector};
use support::packet::{ACK, FIN, INSIDE, OUTSIDE, PacketBuilder, RST, SERVER_SIDE, SYN};
use support::packet::{CLIENT_SIDE, ends, hex};

const PSH: u8 = 8;
/// ECE and CWR (RFC 3168).
const ECN: u8 = 0xc0;

/// Idle times of their own for each state: a director that mixes them up is found out.
const SERVICES: &str = r#"
[timeouts]
syn_recv = "6s"
established = "9s"
fin_wait = "5s"
close_wait = "4s"
time_wait = "3s"
close = "2s"

[[service]]
name = "web"
listen = "tcp://192.0.2.100:80"
scheduler = "rr"
servers = [{ address = "10.0.0.11:8080" }, { address = "10.0.0.12:8080" }]

[[service]]
name = "web6"
listen = "tcp://[2001:db8:1::100]:80"
scheduler = "lc"
servers = [{ address = "[fd00::11]:8080" }, { address = "[fd00::12]:8080" }]
"#;

/// A connection is forgotten within this time after its idle time, milliseconds.
const SLACK: u32 = 300;

/// Where a segment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// What the two ends have said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// SYNs only.
    Opening,
    Open,
    ClientDone,
    ServerDone,
    BothDone,
    Reset,
}

impl Phase {
    fn idle_ms(self) -> u32 {
        match self {
            Self::Opening => 6000,
            Self::Open => 9000,
            Self::ClientDone => 4000,
            Self::ServerDone => 5000,
            Self::BothDone => 3000,
            Self::Reset => 2000,
        }
    }

    /// As `ipvsadm -lnc` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Opening => "SYN_RECV",
            Self::Open => "ESTABLISHED",
            Self::ClientDone => "CLOSE_WAIT",
            Self::ServerDone => "FIN_WAIT",
            Self::BothDone => "TIME_WAIT",
            Self::Reset => "CLOSE",
        }
    }

    /// Whether the server's load counts it as active.
    fn is_active(self) -> bool {
        matches!(self, Self::Opening | Self::Open)
    }

    /// After a segment that a live end may send now.
    fn after(self, from: Side, flags: u8) -> Self {
        let has = |bit| flags & bit != 0;
        match self {
            // The client's reset may be of an older connection; its server refuses for sure.
            Self::Opening if has(RST) && from == Client => self,
            // It is over for both.
            Self::BothDone if has(RST) && from == Server => self,
            _ if has(RST) => Self::Reset,
            Self::Reset | Self::BothDone => self,
            // An old duplicate, or one more of those that open.
            _ if has(SYN) => self,
            Self::Opening if has(FIN) => Self::BothDone,
            Self::Opening => Self::Open,
            Self::Open if has(FIN) && from == Client => Self::ClientDone,
            Self::Open if has(FIN) => Self::ServerDone,
            Self::ClientDone if has(FIN) && from == Server => Self::BothDone,
            Self::ServerDone if has(FIN) && from == Client => Self::BothDone,
            Self::Open | Self::ClientDone | Self::ServerDone => self,
        }
    }
}

/// What happens next, by the ends' own choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// A SYN of a new connection.
    Syn,
    /// The last segment of this end once more.
    Again(Side),
    /// A bare SYN of the server (simultaneous open) or SYN+ACK of either.
    Answer(Side, u8),
    Data(Side),
    Acknowledge(Side),
    /// An acknowledgement with the sequence number before the next (RFC 9293 section 3.8.4).
    KeepAlive(Side),
    Fin(Side),
    Reset(Side),
    /// A segment of no connection.
    Stray(Side),
    /// The server of the connection before this one still sends.
    OldServer,
}

use Side::{Client, Server};

/// What the ends may do in a phase; `None`: there is no connection.
fn moves(phase: Option<Phase>) -> Vec<Move> {
    use Move as M;
    let quiet = |side| [M::Acknowledge(side), M::Again(side)];
    let talk = |side| [M::Data(side), M::Acknowledge(side), M::Again(side), M::KeepAlive(side)];
    let ends = [M::Fin(Client), M::Fin(Server), M::Reset(Client), M::Reset(Server)];
    let answers = [
        M::Answer(Server, SYN | ACK),
        M::Answer(Server, SYN | ACK),
        M::Answer(Server, SYN),
        M::Answer(Client, SYN | ACK),
    ];
    match phase {
        None => vec![M::Syn, M::Syn, M::Syn, M::Stray(Client), M::Stray(Server)],
        Some(Phase::Opening) => {
            [&answers[..], &quiet(Client), &quiet(Server), &[M::Data(Client)], &ends].concat()
        }
        Some(Phase::Open) => {
            let more = [M::Answer(Server, SYN | ACK), M::OldServer];
            [&talk(Client)[..], &talk(Server), &more, &ends].concat()
        }
        Some(Phase::ClientDone) => [&talk(Server)[..], &quiet(Client), &ends].concat(),
        Some(Phase::ServerDone) => [&talk(Client)[..], &quiet(Server), &ends].concat(),
        Some(Phase::BothDone) => {
            [&[M::Syn, M::OldServer][..], &quiet(Client), &quiet(Server), &ends].concat()
        }
        Some(Phase::Reset) => {
            [&[M::Syn, M::OldServer][..], &talk(Client), &talk(Server), &ends].concat()
        }
    }
}

/// A segment, as one end makes it: everything that no director may touch.
#[derive(Clone, Debug, Default)]
struct Segment {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Segment {
    fn between(&self, source: &str, destination: &str) -> PacketBuilder {
        PacketBuilder::tcp(source, destination)
            .flags(self.flags)
            .sequence(self.sequence)
            .acknowledgement(self.acknowledgement)
            .window(self.window)
            .tcp_options(&self.options)
            .payload(&self.payload)
    }
}

/// One end's numbers.
#[derive(Clone, Debug, Default)]
struct End {
    next: u32,
    last: Option<Segment>,
}

/// A client's address and port, and the connection that it has, if any.
#[derive(Debug)]
struct Line {
    client: String,
    vip: &'static str,
    servers: [&'static str; 2],
    live: Option<(Phase, &'static str)>,
    /// The server of a connection that is over.
    before: Option<&'static str>,
    /// Milliseconds since the last segment.
    idle: u32,
    ends: [End; 2],
}

impl Line {
    fn new(number: u16) -> Self {
        let (client, vip, servers) = if number.is_multiple_of(2) {
            let servers = ["10.0.0.11:8080", "10.0.0.12:8080"];
            (format!("198.18.7.7:{}", 20_000 + number), "192.0.2.100:80", servers)
        } else {
            let client = format!("[2001:db8:ffff::{number}]:20000");
            (client, "[2001:db8:1::100]:80", ["[fd00::11]:8080", "[fd00::12]:8080"])
        };
        Self { client, vip, servers, live: None, before: None, idle: 0, ends: Default::default() }
    }

    /// Nobody can tell whether the director has forgotten it.
    fn is_doubtful(&self) -> bool {
        let limit = |(phase, _): &(Phase, _)| phase.idle_ms();
        self.live.as_ref().map(limit).is_some_and(|ms| (ms..ms + SLACK).contains(&self.idle))
    }

    fn rests(&mut self, ms: u32) {
        self.idle += ms;
        if let Some((phase, server)) = self.live
            && self.idle >= phase.idle_ms() + SLACK
        {
            self.live = None;
            self.before = Some(server);
        }
    }

    fn segment(&mut self, from: Side, flags: u8, noise: &Noise) -> Segment {
        let other = self.ends[1 - from as usize].next;
        let end = &mut self.ends[from as usize];
        let payload = match flags & (SYN | RST) {
            0 if flags & PSH != 0 => noise.payload(),
            _ => Vec::new(),
        };
        let segment = Segment {
            flags: if flags & SYN == 0 { flags | (noise.ecn & ECN) } else { flags },
            sequence: end.next,
            acknowledgement: if flags & ACK == 0 { 0 } else { other },
            window: noise.window,
            options: noise.options(flags),
            payload,
        };
        let takes = u32::from(flags & (SYN | FIN) != 0) + segment.payload.len() as u32;
        end.next = end.next.wrapping_add(takes);
        end.last = Some(segment.clone());
        segment
    }
}

/// What the ends choose freely in a segment.
#[derive(Clone, Copy, Debug)]
struct Noise {
    octets: usize,
    window: u16,
    ecn: u8,
    number: u32,
    has_options: bool,
}

impl Noise {
    fn payload(&self) -> Vec<u8> {
        let octet = |place: u32| (self.number.wrapping_mul(2 * place + 1) >> 13) as u8;
        (0..self.octets as u32).map(octet).collect()
    }

    /// Maximum segment size, window scale and SACK-permitted with a SYN (RFC 9293, 7323, 2018);
    /// timestamps and SACK blocks later.
    fn options(&self, flags: u8) -> Vec<u8> {
        if !self.has_options {
            return Vec::new();
        }
        let [a, b, c, d] = self.number.to_be_bytes();
        if flags & SYN != 0 {
            return vec![2, 4, 5, b, 4, 2, 1, 1, 3, 3, d % 15, 0];
        }
        let mut options = vec![1, 1, 8, 10, a, b, c, d, d, c, b, a];
        options.extend([1, 1, 5, 18, a, b, c, d, a, b, c, d, d, d, d, d, c, c, c, c]);
        options
    }
}

fn noise() -> impl Strategy<Value = Noise> {
    let octets = prop_oneof![0_usize..3, 3_usize..1200];
    (octets, any::<(u16, u8, u32, bool)>()).prop_map(
        |(octets, (window, ecn, number, has_options))| Noise {
            octets,
            window,
            ecn,
            number,
            has_options,
        },
    )
}

/// How long it is quiet before a step.
#[derive(Clone, Copy, Debug)]
enum Pause {
    Not,
    Short(u32),
    /// Until just before the connection would be forgotten.
    AlmostOver,
    /// Until it is.
    Over,
}

fn pause() -> impl Strategy<Value = Pause> {
    prop_oneof![
        12 => Just(Pause::Not),
        3 => (1_u32..1500).prop_map(Pause::Short),
        2 => Just(Pause::AlmostOver),
        1 => Just(Pause::Over),
    ]
}

/// The director, the lines, and what must have been dropped.
struct World {
    director: TestDirector,
    lines: Vec<Line>,
    drops: BTreeMap<String, u64>,
}

impl World {
    fn new(workers: u16, lines: u16) -> Self {
        let director = Setup::with_services(SERVICES).connections(64, 64).workers(workers).start();
        Self { director, lines: (0..lines).map(Line::new).collect(), drops: BTreeMap::new() }
    }

    fn wait(&mut self, ms: u32) {
        self.director.advance(ms);
        self.lines.iter_mut().for_each(|line| line.rests(ms));
    }

    fn pause(&mut self, line: usize, pause: Pause) {
        let this = &self.lines[line];
        let left = this.live.map_or(0, |(phase, _)| phase.idle_ms().saturating_sub(this.idle));
        match pause {
            Pause::Not => {}
            Pause::Short(ms) => self.wait(ms),
            Pause::AlmostOver => self.wait(left.saturating_sub(1)),
            Pause::Over => self.wait(left + SLACK),
        }
        if self.lines[line].is_doubtful() {
            self.wait(SLACK);
        }
    }

    fn step(&mut self, line: usize, choice: u8, noise: &Noise) {
        let phase = self.lines[line].live.map(|(phase, _)| phase);
        let moves = moves(phase);
        let this = &mut self.lines[line];
        match moves[usize::from(choice) % moves.len()] {
            Move::Syn => {
                this.ends = [noise.number, !noise.number].map(|next| End { next, last: None });
                let segment = this.segment(Client, SYN, noise);
                self.opens(line, &segment);
            }
            Move::Again(from) => self.sends_again(line, from),
            Move::Answer(from, flags) => {
                let segment = this.segment(from, flags, noise);
                self.passes(line, from, &segment);
            }
            Move::Data(from) => {
                let segment = this.segment(from, PSH | ACK, noise);
                self.passes(line, from, &segment);
            }
            Move::Acknowledge(from) => {
                let segment = this.segment(from, ACK, noise);
                self.passes(line, from, &segment);
            }
            Move::KeepAlive(from) => {
                let mut segment = this.segment(from, ACK, noise);
                segment.sequence = segment.sequence.wrapping_sub(1);
                self.passes(line, from, &segment);
            }
            Move::Fin(from) => {
                let segment = this.segment(from, FIN | ACK | (noise.ecn & PSH), noise);
                self.passes(line, from, &segment);
            }
            Move::Reset(from) => {
                let flags = if noise.ecn & 1 == 0 { RST } else { RST | ACK };
                let segment = this.segment(from, flags, noise);
                self.passes(line, from, &segment);
            }
            Move::Stray(Client) => self.is_nobodys(line, noise),
            Move::Stray(Server) | Move::OldServer => self.comes_from_an_old_server(line, noise),
        }
        self.is_as_it_should_be();
    }

    /// The last segment of an end. A SYN on a connection that is over opens another one; old
    /// SYNs on half closed ones are left out, for nobody could tell what they mean.
    fn sends_again(&mut self, line: usize, from: Side) {
        let this = &self.lines[line];
        let (Some(segment), Some((phase, _))) = (this.ends[from as usize].last.clone(), this.live)
        else {
            return;
        };
        let is_over = matches!(phase, Phase::BothDone | Phase::Reset);
        if segment.flags & SYN == 0 || phase.is_active() {
            self.passes(line, from, &segment);
        } else if segment.flags == SYN && from == Client && is_over {
            self.opens(line, &segment);
        }
    }

    /// A SYN of a new connection: forwarded at once, to any server of the service.
    fn opens(&mut self, line: usize, segment: &Segment) {
        let this = &mut self.lines[line];
        if let Some((_, server)) = this.live.take() {
            this.before = Some(server);
        }
        self.director.receive(OUT, &segment.between(&this.client, this.vip).build());
        let sent = self.director.sent_one();
        let went_to = ends(&sent.octets).1.to_string();
        let this = &mut self.lines[line];
        let server = this.servers.into_iter().find(|server| *server == went_to);
        this.live = Some((Phase::Opening, server.expect("one of the servers")));
        this.idle = 0;
        let expected = segment.between(&this.client, &went_to).ttl(63).macs(INSIDE, SERVER_SIDE);
        assert_eq!((sent.interface, hex(&sent.octets)), (IN, hex(&expected.build())));
    }

    /// A segment of the live connection: to the same server and back, nothing changed but the
    /// 5-tuple, the TTL and the checksums.
    fn passes(&mut self, line: usize, from: Side, segment: &Segment) {
        let this = &mut self.lines[line];
        let (phase, server) = this.live.expect("a live connection");
        let (client, vip) = (&*this.client, this.vip);
        let (at, packet, to, expected) = match from {
            Client => {
                let expected = segment.between(client, server).macs(INSIDE, SERVER_SIDE);
                (OUT, segment.between(client, vip), IN, expected)
            }
            Server => {
                let expected = segment.between(vip, client).macs(OUTSIDE, CLIENT_SIDE);
                (IN, segment.between(server, client).from_server(), OUT, expected)
            }
        };
        this.live = Some((phase.after(from, segment.flags), server));
        this.idle = 0;
        self.director.receive(at, &packet.build());
        let sent = self.director.sent_one();
        assert_eq!((sent.interface, hex(&sent.octets)), (to, hex(&expected.ttl(63).build())));
    }

    fn is_dropped(&mut self, reason: DropReason) {
        assert_eq!(self.director.take_sent(), []);
        *self.drops.entry(reason.name().into()).or_default() += 1;
    }

    /// Anything but a SYN from a client that has no connection.
    fn is_nobodys(&mut self, line: usize, noise: &Noise) {
        let flags = [ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN | ACK, 0, FIN];
        let this = &mut self.lines[line];
        let segment = this.segment(Client, flags[noise.number as usize % flags.len()], noise);
        self.director.receive(OUT, &segment.between(&this.client, this.vip).build());
        self.is_dropped(DropReason::NoConnection);
    }

    fn comes_from_an_old_server(&mut self, line: usize, noise: &Noise) {
        let this = &mut self.lines[line];
        let Some(old) = this.before else { return };
        if this.live.is_some_and(|(_, server)| server == old) {
            return;
        }
        let segment = Segment { flags: ACK | PSH, payload: noise.payload(), ..segment0() };
        self.director.receive(IN, &segment.between(old, &this.client).from_server().build());
        self.is_dropped(DropReason::NotOwned);
    }

    /// The director's list, its servers' loads and its drops say what the lives say.
    fn is_as_it_should_be(&mut self) {
        assert_eq!(self.director.drops(), self.drops);
        if self.lines.iter().any(Line::is_doubtful) {
            return;
        }
        let mut loads = BTreeMap::from([
            (("192.0.2.100:80", "10.0.0.11:8080"), (0, 0)),
            (("192.0.2.100:80", "10.0.0.12:8080"), (0, 0)),
            (("[2001:db8:1::100]:80", "[fd00::11]:8080"), (0, 0)),
            (("[2001:db8:1::100]:80", "[fd00::12]:8080"), (0, 0)),
        ]);
        let mut wanted = Vec::new();
        for line in &self.lines {
            let Some((phase, server)) = line.live else { continue };
            let (active, inactive) = loads.get_mut(&(line.vip, server)).unwrap();
            *(if phase.is_active() { active } else { inactive }) += 1;
            let left = phase.idle_ms().saturating_sub(line.idle);
            wanted.push((line.client.clone(), server.to_owned(), phase.name(), left));
        }
        let rows = self.director.list();
        let row = |row: &pointsman::dataplane::mailbox::ConnectionRow| {
            let (client, server) = (row.client.to_string(), row.server.to_string());
            (client, server, row.state.name(), row.expires_ms)
        };
        let mut found: Vec<_> = rows.iter().map(row).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        for ((vip, server), load) in loads {
            assert_eq!(self.director.load(&format!("tcp://{vip}"), server), load, "{server}");
        }
    }

    /// All is forgotten, and nothing is left.
    fn ends(mut self) {
        self.wait(9000 + SLACK);
        self.is_as_it_should_be();
        assert_eq!(self.director.connections(), 0);
        self.director.shut_down();
        assert_eq!(self.director.held(), 0);
    }
}

fn segment0() -> Segment {
    Segment { window: 100, ..Segment::default() }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_lives_pass_unchanged_to_one_server_and_leave_nothing_behind(
        workers in prop::sample::select(vec![1_u16, 3]),
        lines in 1_u16..5,
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), pause(), noise()), 1..120),
    ) {
        let mut world = World::new(workers, lines);
        for (line, choice, pause, noise) in &steps {
            let line = usize::from(*line) % usize::from(lines);
            world.pause(line, *pause);
            world.step(line, *choice, noise);
        }
        world.ends();
    }
}
