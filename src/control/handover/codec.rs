//! What a director knows of its connections, as octets: in a file, or on the way to the director
//! that takes its place.
//!
//! A stream begins with eight octets, the version of the format among them. Frames follow: length,
//! CRC32c, and what they hold in the format of postcard. The last one says how much there was.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::dataplane::handover::{Counts, Ended, ExpectedRow, Moved, MovedControl};

/// What every stream begins with; the last octet is the version of the format.
const BEGINNING: [u8; 8] = *b"PMSTATE\x01";
/// The longest frame that is read, octets.
const MAX_FRAME: usize = 4 << 20;
/// Records that go into one frame.
const RECORDS: usize = 1024;

/// What stands at the beginning: what the numbers in the records mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of pointsman that wrote it.
    pub version: String,
    /// When, milliseconds since 1970.
    pub written_ms: u64,
    /// How many workers there are.
    pub workers: u16,
    /// Which worker a flow is of depends on this.
    pub secret: [u64; 4],
    /// Services by their numbers: where they listen.
    pub services: Vec<(u16, String)>,
    /// Servers by their numbers: where their service listens, and their address.
    pub servers: Vec<(u16, String, SocketAddr)>,
}

/// One thing that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A connection.
    Connection(Moved),
    /// A control connection.
    Control(Box<MovedControl>),
    /// A connection is over.
    Ended(Ended),
    /// Which server a client's connections go to.
    Template {
        /// The number of the service.
        service: u16,
        /// The client, or the first address of its network.
        client: IpAddr,
        /// The number of the server.
        server: u16,
        /// What is left of its time.
        expires_ms: u32,
    },
    /// A data connection that is expected.
    Expected(ExpectedRow),
    /// A neighbour that answers.
    Neighbor {
        /// The name of the interface.
        interface: String,
        /// Its address.
        address: IpAddr,
        /// Its Ethernet address.
        mac: [u8; 6],
    },
    /// What a server has counted.
    Counted {
        /// Its number.
        server: u16,
        /// What.
        counts: Counts,
    },
}

/// What two directors say to each other besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The new one is there, mute.
    Ready,
    /// The old one has told all connections once.
    Told,
    /// The new one has taken all of that over.
    Taken,
    /// The new one is to leave what comes in the queues of its ports from then on, by the time
    /// stamp counter.
    Hold {
        /// When.
        at: u64,
    },
    /// It will.
    Holding,
    /// The old one does no more, and has told everything.
    Over {
        /// The time stamp counter when it began to hold still.
        held_at: u64,
    },
    /// The new one forwards.
    Begun {
        /// Connections that it has.
        connections: u64,
        /// Connections that it could not take over.
        refused: u64,
        /// How long nobody forwarded, microseconds.
        gap_us: u64,
    },
    /// The new one cannot.
    Failed(String),
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first.
    Head(Head),
    /// Some records.
    Records(Vec<Record>),
    /// A word.
    Word(Word),
    /// The last of a file.
    End {
        /// How many records there were.
        records: u64,
    },
}

/// Why a stream is not understood.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ends too early.
    #[error("it ends in the middle")]
    Short,
    /// Something else.
    #[error("it is no state of pointsman")]
    Foreign,
    /// Another version.
    #[error("its format is version {0}, and this program knows version {known}", known = BEGINNING[7])]
    Version(u8),
    /// It was damaged.
    #[error("a checksum is wrong")]
    Damaged,
}

/// Writes a stream.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    records: Vec<Record>,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a stream.
    pub fn begin(mut to: W) -> io::Result<Self> {
        to.write_all(&BEGINNING)?;
        Ok(Self { to, records: Vec::with_capacity(RECORDS), count: 0 })
    }

    /// One more record.
    pub fn record(&mut self, record: Record) -> io::Result<()> {
        self.records.push(record);
        self.count += 1;
        if self.records.len() < RECORDS { Ok(()) } else { self.flush() }
    }

    /// Any other frame.
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        self.flush()?;
        put(&mut self.to, frame)
    }

    /// How many records there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The end of a file.
    pub fn finish(mut self) -> io::Result<W> {
        self.frame(&Frame::End { records: self.count })?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        let frame = Frame::Records(records);
        put(&mut self.to, &frame)?;
        if let Frame::Records(mut records) = frame {
            records.clear();
            self.records = records;
        }
        Ok(())
    }

    /// Where it goes.
    pub const fn target(&self) -> &W {
        &self.to
    }
}

fn put(to: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let octets = postcard::to_stdvec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(octets.len()).map_err(io::Error::other)?;
    let mut whole = Vec::with_capacity(octets.len() + 8);
    whole.extend(length.to_le_bytes());
    whole.extend(crc32c::crc32c(&octets).to_le_bytes());
    whole.extend(octets);
    to.write_all(&whole)?;
    to.flush()
}

/// Reads a stream.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    pub fn begin(mut from: R) -> Result<Self, Unreadable> {
        let mut beginning = [0; BEGINNING.len()];
        read_exact(&mut from, &mut beginning)?;
        let (name, version) = (beginning.split_last(), BEGINNING.split_last());
        match (name, version) {
            (Some((found, name)), Some((known, own))) if name == own => {
                if found != known {
                    return Err(Unreadable::Version(*found));
                }
            }
            _ => return Err(Unreadable::Foreign),
        }
        Ok(Self { from, buffer: Vec::new() })
    }

    /// The next frame.
    pub fn frame(&mut self) -> Result<Frame, Unreadable> {
        let mut head = [0; 8];
        read_exact(&mut self.from, &mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_FRAME {
            return Err(Unreadable::Damaged);
        }
        self.buffer.resize(length, 0);
        read_exact(&mut self.from, &mut self.buffer)?;
        if crc32c::crc32c(&self.buffer) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(Unreadable::Damaged);
        }
        postcard::from_bytes(&self.buffer).map_err(|_| Unreadable::Damaged)
    }
}

fn read_exact(from: &mut impl Read, octets: &mut [u8]) -> Result<(), Unreadable> {
    from.read_exact(octets).map_err(|cause| {
        if cause.kind() == ErrorKind::UnexpectedEof {
            Unreadable::Short
        } else {
            Unreadable::Io(cause)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(port: u16) -> Moved {
        let end = |text: &str| text.parse().unwrap();
        Moved {
            protocol: 6,
            state: 1,
            traits: Moved::BY_TEMPLATE,
            idle_ms: 5,
            timeout_ms: 900_000,
            client: SocketAddr::new("198.18.0.1".parse().unwrap(), port),
            vip: end("[2001:db8::1]:80"),
            local: end("10.0.0.1:1025"),
            server: end("10.0.0.11:8080"),
            through: Some((3, 65_535)),
            control: None,
        }
    }

    fn written(count: u16) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new()).unwrap();
        for port in 0..count {
            writer.record(Record::Connection(moved(port))).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let octets = written(3000);
        let mut reader = Reader::begin(&octets[..]).unwrap();
        let mut read = Vec::new();
        loop {
            match reader.frame().unwrap() {
                Frame::Records(records) => read.extend(records),
                Frame::End { records } => break assert_eq!(records, 3000),
                frame @ (Frame::Head(_) | Frame::Word(_)) => panic!("{frame:?}"),
            }
        }
        let wanted: Vec<_> = (0..3000).map(|port| Record::Connection(moved(port))).collect();
        assert_eq!(read, wanted);
        assert!(octets.len() < 3000 * 64, "{} octets", octets.len());
    }

    #[test]
    fn what_is_cut_changed_or_of_another_version_is_told_apart() {
        let whole = written(1);
        let all = |octets: &[u8]| -> Result<(), Unreadable> {
            let mut reader = Reader::begin(octets)?;
            while !matches!(reader.frame()?, Frame::End { .. }) {}
            Ok(())
        };
        all(&whole).unwrap();
        for length in 0..whole.len() {
            assert!(matches!(all(&whole[..length]), Err(Unreadable::Short)), "{length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 0x10;
            let outcome = all(&changed);
            assert!(outcome.is_err(), "{place}");
        }
        let mut newer = whole;
        newer[7] = 9;
        assert!(matches!(all(&newer), Err(Unreadable::Version(9))));
    }
}
