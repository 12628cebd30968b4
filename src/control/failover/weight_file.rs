//! A file with a number that is added to the priority.
//!
//! A thread of its own reads it, for a file may be on a file system that does not answer.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the first look is waited for: what a file says at the start holds from the start.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// Octets that are read: more than any number has, with blanks around it.
const LONGEST: u64 = 64;

/// A file that is looked at again and again, as long as this lives.
#[derive(Debug)]
pub(super) struct WeightFile {
    path: PathBuf,
    number: Arc<AtomicI32>,
}

impl WeightFile {
    pub(super) fn watch(path: &Path) -> Self {
        let number = Arc::<AtomicI32>::default();
        let (looked, first_look) = mpsc::channel();
        let watcher = {
            let (path, number) = (path.to_owned(), Arc::downgrade(&number));
            move || watch(&path, &number, &looked)
        };
        match std::thread::Builder::new().name("track".into()).spawn(watcher) {
            // It goes on without.
            Ok(_) => drop(first_look.recv_timeout(FIRST_LOOK)),
            Err(error) => tracing::error!(path = %path.display(), %error, "nobody looks at it"),
        }
        Self { path: path.to_owned(), number }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; 0 without a number.
    pub(super) fn number(&self) -> i32 {
        self.number.load(Relaxed)
    }
}

/// Until nobody asks any more.
fn watch(path: &Path, shown: &Weak<AtomicI32>, looked: &mpsc::Sender<()>) {
    let mut last = Last::default();
    while let Some(shown) = shown.upgrade() {
        shown.store(last.after(read(path)), Relaxed);
        drop(shown);
        // Only the first look is waited for.
        looked.send(()).ok();
        std::thread::sleep(PAUSE);
    }
}

/// What one look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Number(i32),
    /// No number: it may be that somebody is writing it.
    Unclear,
    /// No file, or none that can be read.
    Nothing,
}

/// What was found last.
#[derive(Debug, Default)]
struct Last {
    number: i32,
    is_unclear: bool,
}

impl Last {
    /// What counts after another look: what is unclear once does not change it.
    fn after(&mut self, look: Look) -> i32 {
        self.number = match look {
            Look::Number(number) => number,
            Look::Unclear if !self.is_unclear => self.number,
            Look::Unclear | Look::Nothing => 0,
        };
        self.is_unclear = look == Look::Unclear;
        self.number
    }
}

fn read(path: &Path) -> Look {
    match text_of(path) {
        Ok(text) => text.trim().parse().map_or_else(
            |_| {
                let text = text.trim().escape_debug();
                tracing::debug!(path = %path.display(), %text, "is no number");
                Look::Unclear
            },
            Look::Number,
        ),
        Err(cause) => {
            if cause.kind() != ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %cause, "cannot be read");
            }
            Look::Nothing
        }
    }
}

/// The beginning of a file; of a regular one alone, for others may never end.
fn text_of(path: &Path) -> io::Result<String> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut octets = Vec::new();
    file.take(LONGEST).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_file_says_a_number_something_unclear_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weight");
        assert_eq!(read(&path), Look::Nothing);
        let long = format!("7{}", " ".repeat(1 << 20));
        for (text, expected) in [
            ("-50\n", Look::Number(-50)),
            (" 20", Look::Number(20)),
            ("-254", Look::Number(-254)),
            ("", Look::Unclear),
            ("-", Look::Unclear),
            ("off", Look::Unclear),
            (&long, Look::Number(7)),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), expected, "{text:.9}");
        }
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read(&path), Look::Unclear);
        assert_eq!(read(directory.path()), Look::Nothing);
    }

    #[test]
    fn what_is_half_written_does_not_count_once() {
        let mut last = Last::default();
        assert_eq!(last.after(Look::Unclear), 0);
        assert_eq!(last.after(Look::Number(-254)), -254);
        assert_eq!(last.after(Look::Unclear), -254);
        assert_eq!(last.after(Look::Number(-10)), -10);
        assert_eq!(last.after(Look::Unclear), -10);
        assert_eq!(last.after(Look::Unclear), 0, "it stays so");
        assert_eq!(last.after(Look::Number(5)), 5);
        assert_eq!(last.after(Look::Nothing), 0);
    }

    /// Nobody ever writes into the one, and the other never ends.
    #[test]
    fn pipes_and_devices_are_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [pipe, "/dev/zero".into()] {
            let begun = Instant::now();
            assert_eq!(read(&path), Look::Nothing);
            assert_eq!(WeightFile::watch(&path).number(), 0);
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn a_file_is_known_from_the_start_and_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weight");
        fs::write(&path, "-254").unwrap();
        let file = WeightFile::watch(&path);
        let awaited = |number: i32| {
            let begun = Instant::now();
            while file.number() != number {
                assert!(begun.elapsed() < Duration::from_secs(20), "{number}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        awaited(-254);
        fs::write(&path, "-5").unwrap();
        awaited(-5);
        fs::remove_file(&path).unwrap();
        awaited(0);
    }
}
