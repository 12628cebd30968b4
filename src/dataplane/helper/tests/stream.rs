//! Two ends with a simple TCP each, a network that loses, doubles and reorders on both sides of
//! the director, and the director's two ways between them. What each end gets must be what the
//! other one sent, with its lines translated one by one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use crate::dataplane::helper::emission::{Segment, before};
use crate::dataplane::helper::ftp::{self, Message};
use crate::dataplane::helper::stream::{Line, LineReader, MAX_LINE, Text, Way};
use crate::dataplane::stats::DropReason;
use crate::wire::flow_key::Direction;

/// Writes another endpoint into every line that names one.
struct Rewriter {
    from: Direction,
    endpoint: SocketAddr,
    over: bool,
    refusals: u32,
}

impl LineReader for Rewriter {
    fn is_over(&self) -> bool {
        self.over
    }

    fn may_matter(&self, beginning: &[u8]) -> bool {
        ftp::may_matter(self.from, beginning)
    }

    fn read(&mut self, line: &[u8], text: &mut Text) -> Result<Line, DropReason> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err(DropReason::ExpectationTableFull);
        }
        match ftp::read(self.from, line) {
            Message::Passive(named) | Message::Active(named) => {
                let written = ftp::write(named.form, self.endpoint).unwrap();
                text.try_extend_from_slice(&line[..named.at.start]).unwrap();
                text.try_extend_from_slice(written.as_bytes()).unwrap();
                text.try_extend_from_slice(&line[named.at.end..]).unwrap();
                Ok(Line::Replaced)
            }
            Message::Encrypted => {
                self.over = true;
                Ok(Line::Unchanged)
            }
            Message::Other | Message::Ask => Ok(Line::Unchanged),
        }
    }
}

fn rewriter(from: Direction, endpoint: &str) -> Rewriter {
    Rewriter { from, endpoint: endpoint.parse().unwrap(), over: false, refusals: 0 }
}

/// What the other end must get: no segments, no sequence numbers.
fn translated(from: Direction, endpoint: &str, stream: &[u8]) -> Vec<u8> {
    let mut reader = rewriter(from, endpoint);
    let mut all = Vec::new();
    for line in stream.split_inclusive(|octet| *octet == b'\n') {
        let mut text = Text::new();
        let matters = line.ends_with(b"\n")
            && line.len() <= MAX_LINE
            && !reader.over
            && reader.may_matter(line);
        if matters && reader.read(line, &mut text) == Ok(Line::Replaced) {
            all.extend_from_slice(&text);
        } else {
            all.extend_from_slice(line);
        }
    }
    all
}

#[derive(Clone, Debug)]
struct Packet {
    sequence: u32,
    data: Vec<u8>,
    fin: bool,
    acknowledgement: u32,
    blocks: Vec<(u32, u32)>,
}

/// One end. Sequence numbers begin at `first`, those of the other end at `others_first`.
struct End {
    stream: Vec<u8>,
    expected: Vec<u8>,
    first: u32,
    others_first: u32,
    /// Positions in the stream; its end counts one for the FIN.
    una: usize,
    next: usize,
    got: usize,
    early: BTreeMap<usize, usize>,
}

impl End {
    fn new(stream: &[u8], expected: Vec<u8>, first: u32, others_first: u32) -> Self {
        let early = BTreeMap::new();
        Self {
            stream: stream.into(),
            expected,
            first,
            others_first,
            una: 0,
            next: 0,
            got: 0,
            early,
        }
    }

    fn is_done(&self) -> bool {
        self.una == self.stream.len() + 1 && self.got == self.expected.len() + 1
    }

    fn packet(&self, from: usize, length: usize) -> Packet {
        let end = (from + length).min(self.stream.len() + 1);
        let fin = end > self.stream.len() && end > from;
        let data = self.stream[from.min(self.stream.len())..end.min(self.stream.len())].to_vec();
        let at = |position: usize| self.others_first.wrapping_add(position as u32);
        Packet {
            sequence: self.first.wrapping_add(from as u32),
            data,
            fin,
            acknowledgement: at(self.got),
            blocks: self.early.iter().map(|(from, to)| (at(*from), at(*to))).collect(),
        }
    }

    fn send(&mut self, length: usize, in_flight: usize) -> Packet {
        let length = length.min((self.una + in_flight).saturating_sub(self.next));
        let packet = self.packet(self.next, length);
        self.next = (self.next + length).min(self.stream.len() + 1);
        packet
    }

    fn resend(&self, length: usize) -> Packet {
        self.packet(self.una, length.min(self.next - self.una))
    }

    fn receive(&mut self, packet: &Packet) {
        let acked = packet.acknowledgement.wrapping_sub(self.first) as i32 as isize;
        assert!(acked <= self.next as isize, "what was never sent was acknowledged");
        self.una = self.una.max(acked.max(0) as usize);
        for (left, right) in &packet.blocks {
            let [left, right] = [left, right].map(|edge| edge.wrapping_sub(self.first) as i32);
            // Below what is acknowledged it says nothing, and one that came late, when the edit
            // before it was forgotten, may begin there.
            let is_old = left < self.una as i32;
            assert!(right <= self.next as i32, "of what was never sent");
            assert!(is_old || left <= right, "a block without a length");
        }
        let from = packet.sequence.wrapping_sub(self.others_first) as i32 as isize;
        let length = packet.data.len() as isize;
        let (got, total) = (self.got as isize, self.expected.len() as isize);
        if from + length < got {
            // Old; where it lies among the old does not matter.
            return;
        }
        assert!(from <= total + 1, "a sequence number from nowhere: {from}");
        if packet.data.is_empty() && !packet.fin {
            return;
        }
        // What it has already it does not look at. That may be longer than it was, and begin
        // before the first octet, once the director has forgotten what became of it.
        let known = (got - from).clamp(0, length);
        let from = (from + known) as usize;
        let data = &packet.data[known as usize..];
        let mut end = from + data.len();
        assert_eq!(
            String::from_utf8_lossy(data),
            String::from_utf8_lossy(&self.expected[from..end.min(self.expected.len())]),
            "at {from}"
        );
        if packet.fin {
            assert!(end == self.expected.len() || end < self.got, "where the stream ends");
            end += 1;
        }
        if from <= self.got {
            self.got = self.got.max(end);
            self.early.retain(|_, to| *to > self.got);
            while let Some((from, to)) = self.early.pop_first() {
                if from > self.got {
                    self.early.insert(from, to);
                    break;
                }
                self.got = self.got.max(to);
            }
        } else {
            let to = self.early.entry(from).or_insert(end);
            *to = end.max(*to);
        }
    }
}

fn new_way(first: u32) -> Way {
    let mut way: Way = zerocopy::FromZeros::new_zeroed();
    way.begin(first);
    way
}

/// What the director does with a packet: what goes on, and what goes back.
fn direct(
    ways: &mut [Way; 2],
    readers: &mut [Rewriter; 2],
    from: usize,
    packet: &Packet,
) -> (Option<Packet>, Option<Packet>) {
    let [over, other_over] = [readers[0].over, readers[1].over];
    for reader in readers.iter_mut() {
        reader.over = over || other_over;
    }
    let segment = Segment { sequence: packet.sequence, data: &packet.data, fin: packet.fin };
    if ways[from].take(segment, &mut readers[from]).is_err() {
        return (None, None);
    }
    let acknowledgement = ways[1 - from].acknowledge(packet.acknowledgement);
    let blocks = packet
        .blocks
        .iter()
        .map(|block| {
            let way = &ways[1 - from];
            let (left, right) = way.selective(*block);
            assert!(left == right || !before(way.there(left), block.0), "a block that grew");
            assert!(left == right || !before(block.1, way.there(right)), "a block that grew");
            (left, right)
        })
        .collect();
    let mut out = Vec::new();
    let Ok(emission) = ways[from].emit(segment, 1400, &mut out) else { return (None, None) };
    let data = if emission.changed { out } else { packet.data.clone() };
    let on =
        Packet { sequence: emission.sequence, data, fin: emission.fin, acknowledgement, blocks };
    let back = ways[from].acknowledge_held().map(|acknowledgement| Packet {
        sequence: packet.acknowledgement,
        data: Vec::new(),
        fin: false,
        acknowledgement,
        blocks: Vec::new(),
    });
    (Some(on), back)
}

const CLIENT: &[u8] = b"USER anonymous\r\nEPRT |1|198.18.9.9|25601|\r\nPASV\r\nEPSV\r\n\
    P\r\nPORT 198,18,9,9,100,1\r\nport 1,2,3,4,5,6\r\nRETR PORT \nPORT 1,2\r\nPO";
const SERVER: &[u8] = b"220 ready\r\n227 Entering Passive Mode (10,0,0,11,200,10).\r\n\
    229 Entering Extended Passive Mode (|||51210|)\r\n22\r\n227 (10,0,0,11,1,1)\n\
    227-multi\r\n 227 (1,1,1,1,1,1)\r\n227 Passive (100,100,100,100,200,100)\r\n22";

/// A conversation that `choices` govern, and calm weather after them.
fn converse(
    streams: [&[u8]; 2],
    endpoints: [&str; 2],
    choices: &[(u8, u8)],
    firsts: [u32; 2],
    in_flight: usize,
) {
    let froms = [Direction::Inbound, Direction::Reply];
    let expected = [0, 1].map(|side| translated(froms[side], endpoints[side], streams[side]));
    let [to_server, to_client] = expected;
    // Neither end knows of the other's numbers but by what comes.
    let mut ends = [
        End::new(streams[0], to_client, firsts[0], firsts[1]),
        End::new(streams[1], to_server, firsts[1], firsts[0]),
    ];
    let mut ways = firsts.map(new_way);
    let mut readers = [0, 1].map(|side| rewriter(froms[side], endpoints[side]));
    // Towards the director, and from it.
    let mut wires: [[Vec<Packet>; 2]; 2] = Default::default();
    let calm = (0..20_000_u32).map(|step| {
        let step = step.wrapping_mul(2_654_435_761);
        ((step >> 24) as u8 % 4, (step >> 16) as u8)
    });
    for (number, (action, amount)) in choices.iter().copied().chain(calm).enumerate() {
        let side = usize::from(amount & 1);
        let many = usize::from(amount >> 1) % 40;
        match action {
            0 => {
                let packet = ends[side].send(many, in_flight);
                wires[side][0].push(packet);
            }
            1 => wires[side][0].push(ends[side].resend(many + 1)),
            // Along the wires, in order.
            2 | 3 if number >= choices.len() || many < 30 => {
                let all = if number < choices.len() { 1 } else { usize::MAX };
                let [arriving, leaving] = [0, 1].map(|place| all.min(wires[side][place].len()));
                let arrived: Vec<_> = wires[side][0].drain(..arriving).collect();
                let left: Vec<_> = wires[side][1].drain(..leaving).collect();
                for packet in arrived {
                    let (on, back) = direct(&mut ways, &mut readers, side, &packet);
                    wires[1 - side][1].extend(on);
                    wires[side][1].extend(back);
                }
                for packet in &left {
                    ends[side].receive(packet);
                }
            }
            // Lost, doubled, or out of order.
            _ => {
                let place = usize::from(amount >> 1 & 1);
                let wire = &mut wires[side][place];
                match (action, wire.len()) {
                    (_, 0) => {}
                    (4, _) => drop(wire.remove(0)),
                    (5, _) => wire.push(wire[0].clone()),
                    (_, length) => wire.swap(0, length - 1),
                }
            }
        }
        if ends.iter().all(End::is_done) {
            return;
        }
    }
    let state = ends.each_ref().map(|end| (end.una, end.next, end.got));
    panic!("the conversation never ended: {state:?}");
}

fn choices() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0_u8..7, any::<u8>()), 0..600)
}

proptest! {
    #[test]
    fn any_split_of_any_dialogue_arrives_translated_however_bad_the_network(
        choices in choices(),
        firsts in prop::array::uniform2(any::<u32>()),
        in_flight in 1_usize..80,
        longer in any::<bool>(),
    ) {
        let endpoint = if longer { "203.203.203.203:65535" } else { "1.1.1.1:257" };
        converse([CLIENT, SERVER], [endpoint, endpoint], &choices, firsts, in_flight);
    }

    #[test]
    fn dialogues_of_random_lines_arrive_translated(
        choices in choices(),
        lines in prop::collection::vec((0_usize..9, any::<bool>()), 0..30),
        wraps in any::<bool>(),
    ) {
        let pieces = [
            "227 (10,0,0,11,200,10)\r\n", "229 (|||7|)\n", "22", "227 ", "\r\n", "230 in\r\n", "(1,2,3,4,5,6)\n",
            "234 go\r\n", "EPRT |1|1.2.3.4|5|\r\n",
        ];
        let text = |of: bool| -> Vec<u8> {
            let of_them = lines.iter().filter(|(_, which)| *which == of);
            of_them.filter(|(piece, _)| *piece != 7).flat_map(|(piece, _)| pieces[*piece].bytes()).collect()
        };
        let firsts = if wraps { [u32::MAX - 20, u32::MAX / 2 - 20] } else { [1, 2] };
        converse([&text(true), &text(false)], ["192.0.2.100:51210"; 2], &choices, firsts, 60);
    }
}

#[test]
fn a_line_that_shrank_and_was_forgotten_comes_again_as_something_old() {
    let choices = [
        (0, 166),
        (0, 68),
        (2, 188),
        (2, 29),
        (0, 254),
        (6, 28),
        (0, 155),
        (2, 60),
        (0, 9),
        (2, 2),
        (0, 5),
        (0, 0),
        (1, 0),
        (2, 91),
        (2, 20),
        (1, 0),
        (0, 51),
        (1, 0),
        (0, 31),
        (1, 0),
        (1, 158),
        (0, 0),
        (2, 47),
        (0, 0),
        (0, 161),
    ];
    converse([CLIENT, SERVER], ["1.1.1.1:257"; 2], &choices, [0, 0], 43);
}

#[test]
fn a_line_that_comes_octet_by_octet_leaves_in_one_segment() {
    let mut ways = [new_way(1000), new_way(5000)];
    let mut readers = [
        rewriter(Direction::Inbound, "1.2.3.4:5"),
        rewriter(Direction::Reply, "192.0.2.100:51210"),
    ];
    let line = b"227 Entering Passive Mode (10,0,0,11,200,10).\r\n";
    let octet = |place: usize| Packet {
        sequence: 5000 + place as u32,
        data: line[place..=place].to_vec(),
        fin: false,
        acknowledgement: 1000,
        blocks: Vec::new(),
    };
    for place in 0..line.len() - 1 {
        let (on, back) = direct(&mut ways, &mut readers, 1, &octet(place));
        let on = on.unwrap();
        assert_eq!((on.sequence, on.data.len()), (5000, 0), "nothing goes on");
        assert_eq!(back.unwrap().acknowledgement, 5001 + place as u32, "the sender is answered");
    }
    let (on, back) = direct(&mut ways, &mut readers, 1, &octet(line.len() - 1));
    let on = on.unwrap();
    assert_eq!(on.data, b"227 Entering Passive Mode (192,0,2,100,200,10).\r\n");
    assert!(back.is_none());
    // It is lost: the sender knows of its last octet alone.
    let (again, _) = direct(&mut ways, &mut readers, 1, &octet(line.len() - 1));
    assert_eq!((again.as_ref().unwrap().sequence, &again.unwrap().data), (5000, &on.data));
    assert_eq!(ways[1].acknowledge(5000 + on.data.len() as u32), 5000 + line.len() as u32);
}

#[test]
fn a_line_that_is_too_long_is_let_go() {
    let mut way = new_way(1);
    let mut reader = rewriter(Direction::Reply, "192.0.2.100:1");
    let mut out = Vec::new();
    let long = [b"227 ".as_slice(), &[b'x'; MAX_LINE - 4]].concat();
    let held = Segment { sequence: 1, data: &long, fin: false };
    way.take(held, &mut reader).unwrap();
    assert!(way.emit(held, 1400, &mut out).unwrap().changed && out.is_empty());
    let next = Segment { sequence: 1 + MAX_LINE as u32, data: b"x", fin: false };
    way.take(next, &mut reader).unwrap();
    let retransmitted = Segment { sequence: 1, data: &[&long[..], b"x"].concat(), fin: false };
    let emission = way.emit(retransmitted, 1400, &mut out).unwrap();
    assert_eq!((emission.sequence, out.len()), (1, MAX_LINE + 1));
}

#[test]
fn what_does_not_fit_the_link_is_cut_off_and_comes_again() {
    let mut way = new_way(1);
    let mut reader = rewriter(Direction::Reply, "203.203.203.203:65535");
    let data = [b"227 (1,1,1,1,1,1)\r\n".as_slice(), &[b'y'; 81]].concat();
    let segment = Segment { sequence: 1, data: &data, fin: true };
    way.take(segment, &mut reader).unwrap();
    let mut out = Vec::new();
    let emission = way.emit(segment, 100, &mut out).unwrap();
    assert!(emission.changed && !emission.fin && out.len() == 100);
    let told = way.acknowledge(101);
    assert!(told < 1 + data.len() as u32);
    let rest = &data[told as usize - 1..];
    let emission =
        way.emit(Segment { sequence: told, data: rest, fin: true }, 100, &mut out).unwrap();
    assert!(!emission.changed && emission.fin && emission.sequence == 101);
}

#[test]
fn a_refused_line_is_read_again_and_nothing_else_is() {
    let mut way = new_way(1);
    let mut reader = rewriter(Direction::Reply, "203.203.203.203:65535");
    reader.refusals = 2;
    let data = b"220 hello\r\n227 (1,1,1,1,1,1)\r\n";
    let segment = Segment { sequence: 1, data, fin: true };
    way.take(segment, &mut reader).unwrap();
    let mut out = Vec::new();
    let emission = way.emit(segment, 1400, &mut out).unwrap();
    assert_eq!((emission.changed, emission.fin, &out[..]), (true, false, &b"220 hello\r\n"[..]));
    // By itself it does not go on at all.
    let rest = Segment { sequence: 12, data: &data[11..], fin: true };
    assert_eq!(way.take(rest, &mut reader), Err(DropReason::ExpectationTableFull));
    way.take(segment, &mut reader).unwrap();
    way.emit(segment, 1400, &mut out).unwrap();
    assert_eq!(out, b"220 hello\r\n227 (203,203,203,203,255,255)\r\n");
}

#[test]
fn texts_for_which_there_is_no_room_wait_for_an_acknowledgement() {
    let mut way = new_way(1);
    let mut reader = rewriter(Direction::Reply, "203.203.203.203:65535");
    let data = b"227 (1,1,1,1,1,1)\r\n".repeat(5);
    let text = b"227 (203,203,203,203,255,255)\r\n".repeat(5);
    let segment = Segment { sequence: 1, data: &data, fin: false };
    let (mut out, part) = (Vec::new(), text.len() / 5 * 4);
    // The first one is lost; what is sent again says the same.
    for _ in 0..2 {
        way.take(segment, &mut reader).unwrap();
        way.emit(segment, 1400, &mut out).unwrap();
        assert_eq!(out, text[..part]);
    }
    let told = way.acknowledge(1 + part as u32);
    assert_eq!(told as usize, 1 + data.len() / 5 * 4);
    let rest = Segment { sequence: told, data: &data[told as usize - 1..], fin: false };
    way.take(rest, &mut reader).unwrap();
    assert_eq!(way.emit(rest, 1400, &mut out).unwrap().sequence as usize, 1 + part);
    assert_eq!(out, text[part..]);
}

#[test]
fn an_acknowledgement_of_what_never_passed_is_believed_at_the_beginning_alone() {
    let mut reader = rewriter(Direction::Reply, "203.203.203.203:65535");
    let line = b"227 (1,1,1,1,1,1)\r\n";
    let text = b"227 (203,203,203,203,255,255)\r\n";
    // Each with what is believed of it.
    for (claimed, begins) in [(0, 1), (65_535, 65_536), (65_536, 1), (1 << 30, 1)] {
        let mut way = new_way(1);
        assert_eq!(way.acknowledge(1 + claimed), 1 + claimed);
        let segment = Segment { sequence: begins, data: line, fin: false };
        way.take(segment, &mut reader).unwrap();
        let mut out = Vec::new();
        way.emit(segment, 1400, &mut out).unwrap();
        assert_eq!(out, text, "{claimed}");
        let (end, there) = (begins + line.len() as u32, begins + text.len() as u32);
        for guess in [1, 40_000, 1 << 20, 0x7fff_0000] {
            way.acknowledge(there.wrapping_add(guess));
            assert_eq!(way.acknowledge(there), end, "{claimed} {guess}");
            assert_eq!(way.there(end), there);
        }
    }
}

#[test]
fn a_keep_alive_stays_one() {
    let mut way = new_way(1);
    let mut reader = rewriter(Direction::Inbound, "203.203.203.203:65535");
    let data = b"PORT 1,1,1,1,1,1\r\n";
    way.take(Segment { sequence: 1, data, fin: false }, &mut reader).unwrap();
    let end = 1 + data.len() as u32;
    let told = way.acknowledge(way.there(end));
    assert_eq!(told, end);
    let mut out = Vec::new();
    for data in [&b""[..], b"x"] {
        let probe = Segment { sequence: end - 1, data, fin: false };
        way.take(probe, &mut reader).unwrap();
        assert_eq!(way.emit(probe, 1400, &mut out).unwrap().sequence, way.there(end) - 1);
    }
}
