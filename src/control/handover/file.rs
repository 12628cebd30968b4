//! The state in a file, for a restart of the service.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::codec::{Frame, Head, Reader, Unreadable, Writer};
use super::receiver::{Receiver, Taken};
use super::sender::{Sender, unix_ms};

/// Who may read the file: its owner alone. It tells who speaks to whom.
const MODE: u32 = 0o600;
/// A state that is older is of no use: clients and servers have given up.
const OLDEST_MS: u64 = 300_000;

/// Has the workers hold still for good, and writes everything into a file.
pub(in crate::control) fn write(path: &Path, sender: &Sender) -> io::Result<u64> {
    let begun = Instant::now();
    sender.hold()?;
    let new = beside(path);
    let written = write_new(&new, sender).and_then(|count| {
        fs::rename(&new, path)?;
        Ok(count)
    });
    if written.is_err() {
        fs::remove_file(&new).ok();
    }
    let records = written?;
    tracing::info!(
        path = %path.display(),
        records,
        took = ?begun.elapsed(),
        "what is known of connections was written"
    );
    Ok(records)
}

/// Where it is written before it takes its place.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn write_new(new: &Path, sender: &Sender) -> io::Result<u64> {
    // What lies there belongs to a director that was killed, or is a trap.
    match fs::remove_file(new) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(new)?;
    let mut writer = Writer::begin(BufWriter::with_capacity(1 << 20, file))?;
    writer.frame(&Frame::Head(Head { written_ms: unix_ms(), ..sender.head.clone() }))?;
    sender.pass(1, &mut writer)?;
    sender.rest(&mut writer)?;
    let records = writer.count();
    writer.finish()?;
    Ok(records)
}

/// The state that a director has left, to be read once the workers are there.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    reader: Reader<BufReader<File>>,
    head: Head,
    /// Since it was written, milliseconds.
    age_ms: u64,
}

/// Why a state is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("it belongs to user {0}, and not to this one")]
    Owner(u32),
    #[error("it is {} s old, and after {} s clients and servers have given up", .0 / 1000, OLDEST_MS / 1000)]
    Old(u64),
    #[error("it begins with something else than its head")]
    NoHead,
}

impl StateFile {
    /// The state in a file, if there is one that is of use. The file goes: no other start may use
    /// it.
    pub fn open(path: &Path) -> Option<Self> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                tracing::debug!(path = %path.display(), "there is no state of a director before");
                return None;
            }
            Err(cause) => {
                let path = path.display();
                tracing::error!(%path, %cause, "the state cannot be read: connections begin anew");
                return None;
            }
        };
        let read = Self::read(path, file);
        if let Err(cause) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %cause, "the state cannot be removed");
        }
        read.inspect_err(|reason| {
            let path = path.display();
            tracing::error!(%path, %reason, "the state is of no use: connections begin anew");
        })
        .ok()
    }

    fn read(path: &Path, file: File) -> Result<Self, Unusable> {
        let owner = file.metadata().map_err(Unreadable::Io)?.uid();
        if owner != nix::unistd::geteuid().as_raw() {
            return Err(Unusable::Owner(owner));
        }
        let mut reader = Reader::begin(BufReader::with_capacity(1 << 20, file))?;
        let Frame::Head(head) = reader.frame()? else { return Err(Unusable::NoHead) };
        // A clock that was set back tells nothing.
        let age_ms = unix_ms().saturating_sub(head.written_ms);
        if age_ms > OLDEST_MS {
            return Err(Unusable::Old(age_ms));
        }
        Ok(Self { path: path.to_owned(), reader, head, age_ms })
    }

    /// What the numbers mean.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Gives everything to the workers. What cannot be read ends it; what came before stays.
    pub fn take_over(mut self, mut receiver: Receiver<'_>) -> Taken {
        receiver.age(self.age_ms);
        let path = self.path.display();
        if let Err(reason) = read_all(&mut self.reader, &mut receiver) {
            tracing::error!(%path, %reason, "the state is used as far as it can be read");
        }
        let until = unix_ms().saturating_sub(self.head.written_ms);
        let taken = receiver.finish(until.saturating_mul(1000));
        tracing::info!(
            %path,
            connections = taken.connections,
            refused = taken.refused,
            over = taken.over,
            "connections of the director before go on"
        );
        taken
    }
}

fn read_all<R: Read>(
    reader: &mut Reader<R>,
    receiver: &mut Receiver<'_>,
) -> Result<(), Unreadable> {
    loop {
        match reader.frame()? {
            Frame::Records(records) => {
                for record in records {
                    receiver.take(record)?;
                }
            }
            Frame::End { .. } => return Ok(()),
            Frame::Head(_) | Frame::Word(_) => return Err(Unreadable::Damaged),
        }
    }
}
