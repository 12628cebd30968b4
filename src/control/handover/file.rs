//! The state in a file, for a restart of the service.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

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

/// A state file of which this start is the only user. It goes with [`end`](Self::end), once the
/// director has started; a start that fails leaves it to the next one.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// Locked, until this is dropped.
    file: File,
}

impl Claim {
    /// `None`: there is no file, or another start uses it.
    pub fn of(path: &Path) -> Option<Self> {
        match Self::lay(path) {
            Ok(claim) => Some(claim),
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                tracing::debug!(path = %path.display(), "there is no state of a director before");
                None
            }
            Err(cause) => {
                let path = path.display();
                tracing::error!(%path, %cause, "the state cannot be read: connections begin anew");
                None
            }
        }
    }

    fn lay(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|cause| {
            if cause == Errno::WOULDBLOCK {
                io::Error::other("another director that starts uses it")
            } else {
                cause.into()
            }
        })?;
        let claim = Self { path: path.to_owned(), file };
        // The one before may have ended its claim while this one opened the file.
        if claim.is_in_place()? { Ok(claim) } else { Err(ErrorKind::NotFound.into()) }
    }

    /// Whether the file is still the one at its path.
    fn is_in_place(&self) -> io::Result<bool> {
        let (own, there) = (self.file.metadata()?, fs::metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }

    /// The director has started: no other start may use the file.
    pub fn end(self) {
        let removed = match self.is_in_place() {
            // What cannot be removed is emptied.
            Ok(true) => fs::remove_file(&self.path).or_else(|_| fs::write(&self.path, [])),
            // Another one is there by now.
            Ok(false) => return,
            Err(cause) => Err(cause),
        };
        if let Err(cause) = removed {
            let path = self.path.display();
            tracing::error!(%path, %cause, "the state that was used cannot be removed");
        }
    }
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
    /// The state in a file, if it is of use.
    pub fn open(claim: &Claim) -> Option<Self> {
        let read = claim.file.try_clone().map_err(|cause| Unreadable::Io(cause).into());
        let read = read.and_then(|file| Self::read(&claim.path, file));
        read.inspect_err(|reason| {
            let path = claim.path.display();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(path: &Path, written_ms: u64) {
        let mut writer = Writer::begin(File::create(path).unwrap()).unwrap();
        let head = Head {
            version: "1".into(),
            written_ms,
            workers: 1,
            secret: [7; 4],
            services: Vec::new(),
            servers: Vec::new(),
        };
        writer.frame(&Frame::Head(head)).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn a_start_that_fails_leaves_the_state_and_one_that_succeeds_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert!(Claim::of(&path).is_none());
        leave(&path, unix_ms());
        for _ in 0..2 {
            let claim = Claim::of(&path).unwrap();
            assert_eq!(StateFile::open(&claim).unwrap().head().secret, [7; 4]);
        }
        let claim = Claim::of(&path).unwrap();
        assert!(StateFile::open(&claim).is_some());
        claim.end();
        assert!(Claim::of(&path).is_none());
        assert!(!path.exists());
    }

    #[test]
    fn two_starts_at_once_do_not_use_the_same_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        leave(&path, unix_ms());
        let first = Claim::of(&path).unwrap();
        assert!(Claim::of(&path).is_none(), "the first one uses it");
        let state = StateFile::open(&first).unwrap();
        drop(first);
        assert!(Claim::of(&path).is_none(), "it is still being read");
        drop(state);
        assert!(Claim::of(&path).is_some());
    }

    #[test]
    fn what_another_director_leaves_meanwhile_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        leave(&path, unix_ms());
        let claim = Claim::of(&path).unwrap();
        let newer = directory.path().join("newer");
        leave(&newer, unix_ms());
        fs::rename(&newer, &path).unwrap();
        claim.end();
        assert!(Claim::of(&path).is_some());
    }

    #[test]
    fn a_state_that_is_too_old_or_none_is_of_no_use_and_goes_with_the_claim() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        leave(&path, unix_ms() - OLDEST_MS - 1000);
        let claim = Claim::of(&path).unwrap();
        assert!(StateFile::open(&claim).is_none());
        fs::write(&path, "no state").unwrap();
        assert!(StateFile::open(&claim).is_none());
        claim.end();
        assert!(!path.exists());
    }
}
