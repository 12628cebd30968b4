//! The new director's side of an upgrade: mute until it has everything, then it begins.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::codec::{Frame, Head, Reader, Record, Unreadable, Word, Writer};
use super::listeners;
use super::receiver::{Receiver, Taken};
use crate::dataplane::handover::{Handover, Phase};

/// Why this director does not take the other one's place.
#[derive(Debug, thiserror::Error)]
pub enum SuccessorError {
    /// Nobody is at the other end.
    #[error(
        "a successor is started by the director whose place it takes: use `pointsman upgrade` ({0})"
    )]
    NoDirector(Unreadable),
    /// The other director has ended, or says what nobody understands.
    #[error("the director before has not handed over: {0}")]
    NotTold(#[from] Unreadable),
    /// It cannot be spoken to, or the workers do not follow.
    #[error("cannot take over: {0}")]
    Io(#[from] io::Error),
    /// It says something that is not expected.
    #[error("the director before says something unexpected; is it another version of pointsman?")]
    Unexpected,
}

/// The way to the director whose place is taken.
#[derive(Debug)]
pub struct Successor {
    reader: Reader<UnixStream>,
    writer: Writer<UnixStream>,
    head: Head,
    listeners: Vec<OwnedFd>,
}

impl Successor {
    /// The other director is at the other end of standard input.
    pub fn take() -> Result<Self, SuccessorError> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Self::on(UnixStream::from(input))
    }

    fn on(stream: UnixStream) -> Result<Self, SuccessorError> {
        let writer = Writer::begin(stream.try_clone()?)?;
        let rights = stream.try_clone()?;
        let mut reader = Reader::begin(stream).map_err(SuccessorError::NoDirector)?;
        let Frame::Head(head) = reader.frame()? else { return Err(SuccessorError::Unexpected) };
        let listeners = listeners::receive(&rights)?;
        Ok(Self { reader, writer, head, listeners })
    }

    /// What the numbers mean.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The listeners of the other director.
    pub fn listeners(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.listeners)
    }

    /// Tells the other director that this one cannot.
    pub fn fail(mut self, why: &str) {
        // It may be gone.
        self.say(Word::Failed(why.to_owned())).ok();
    }

    /// Takes everything over and begins to forward. `clock`: the time stamp counter, and how many
    /// cycles a second has.
    pub fn take_over(
        &mut self,
        mut receiver: Receiver<'_>,
        handover: &Arc<Handover>,
        (clock, hz): (fn() -> u64, u64),
    ) -> Result<Taken, SuccessorError> {
        self.say(Word::Ready)?;
        self.records_until(&mut receiver, |word| matches!(word, Word::Told))?;
        receiver.settle()?;
        self.say(Word::Taken)?;
        let hold = self.records_until(&mut receiver, |word| matches!(word, Word::Hold { .. }))?;
        let Word::Hold { at } = hold else { return Err(SuccessorError::Unexpected) };
        handover.hold_from(at);
        self.say(Word::Holding)?;
        let over = self.records_until(&mut receiver, |word| matches!(word, Word::Over { .. }))?;
        let Word::Over { held_at } = over else { return Err(SuccessorError::Unexpected) };
        receiver.conclude()?;
        handover.set_phase(Phase::Open);
        let cycles = clock().saturating_sub(held_at);
        let gap_us = cycles.saturating_mul(1_000_000) / hz.max(1);
        let taken = receiver.taken(true, gap_us);
        let begun = Word::Begun {
            connections: taken.connections,
            refused: taken.refused,
            gap_us: taken.gap_us,
        };
        // This one forwards: what has become of the other one changes nothing.
        if let Err(cause) = self.say(begun) {
            tracing::warn!(%cause, "the director before does not hear that this one forwards");
        }
        tracing::info!(
            connections = taken.connections,
            refused = taken.refused,
            gap_us,
            "this director has taken the place of another one"
        );
        Ok(taken)
    }

    fn say(&mut self, word: Word) -> io::Result<()> {
        self.writer.frame(&Frame::Word(word))
    }

    /// Takes records until a word comes.
    fn records_until(
        &mut self,
        receiver: &mut Receiver<'_>,
        is_awaited: impl Fn(&Word) -> bool,
    ) -> Result<Word, SuccessorError> {
        loop {
            match self.reader.frame()? {
                Frame::Records(records) => take_all(receiver, records)?,
                Frame::Word(word) if is_awaited(&word) => return Ok(word),
                Frame::Word(_) | Frame::Head(_) | Frame::End { .. } => {
                    return Err(SuccessorError::Unexpected);
                }
            }
        }
    }
}

fn take_all(receiver: &mut Receiver<'_>, records: Vec<Record>) -> io::Result<()> {
    records.into_iter().try_for_each(|record| receiver.take(record))
}
