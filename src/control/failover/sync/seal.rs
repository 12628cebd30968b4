//! Messages that nobody else can read or make: XChaCha20-Poly1305 with a key that the directors
//! share.
//!
//! A sealed message has a header of its own, which IPVS passes over, a random nonce, and sealed
//! the number of the sender's run, a count, the time and the message itself. Who records messages
//! and sends them again is found out by count and time.

use std::time::{SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zerocopy::byteorder::network_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::UDP;
use crate::control::config::SyncKey;
use crate::dataplane::failover::MESSAGE;
use crate::wire::ipvs_sync;

/// Of a sealed message, where IPVS has its version.
const SEALED: u8 = 0x51;
const NONCE: usize = 24;
const TAG: usize = 16;
/// Octets by which a message grows.
pub(super) const GROWTH: usize = ipvs_sync::HEADER + NONCE + size_of::<Inner>() + TAG;
/// By how much clocks may differ, milliseconds.
const SKEW_MS: u64 = 30_000;
/// Counts before the newest that may still come.
const WINDOW: u64 = 64;
/// Runs of senders that are remembered.
const SENDERS: usize = 16;

/// What is sealed before the message.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Inner {
    run: U64,
    count: U64,
    /// Milliseconds since 1970.
    time: U64,
}

/// A message as it is sent.
pub(super) type Sealed = ArrayVec<u8, { MESSAGE - UDP }>;

/// What was heard of one run of a sender.
struct Sender {
    run: u64,
    newest: u64,
    /// Counts before it that were heard, by bit.
    heard: u64,
}

/// The key, and what protects from messages that are sent again.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    run: u64,
    count: u64,
    senders: ArrayVec<Sender, SENDERS>,
}

/// Why a message was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Closed {
    #[error("it is not sealed, and this director has a key")]
    Plain,
    #[error("its key is another one, or it was changed on its way")]
    Key,
    #[error("its time differs from this director's by more than 30 seconds")]
    Time,
    #[error("it was heard before")]
    Again,
    #[error("it is this director's own, which came back")]
    Own,
}

impl Seal {
    /// `run`: a random number.
    pub(super) fn new(key: &SyncKey, run: u64) -> Self {
        let cipher = XChaCha20Poly1305::new(key.into());
        Self { cipher, run, count: 0, senders: ArrayVec::new() }
    }

    /// Seals a message. `None`: it is too long, or there is no random number.
    pub(super) fn close(&mut self, sync_id: u8, message: &[u8]) -> Option<Sealed> {
        self.count += 1;
        let inner = Inner { run: self.run.into(), count: self.count.into(), time: now_ms().into() };
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).ok()?;
        let size = u16::try_from(GROWTH + message.len()).ok()?.to_be_bytes();
        let header = [0, sync_id, size[0], size[1], 0, SEALED, 0, 0];
        let mut sealed = Sealed::new();
        for part in [&header, &nonce[..], inner.as_bytes(), message] {
            sealed.try_extend_from_slice(part).ok()?;
        }
        let inside = sealed.get_mut(ipvs_sync::HEADER + NONCE..)?;
        let nonce = XNonce::from_slice(&nonce);
        let tag = self.cipher.encrypt_in_place_detached(nonce, &header, inside).ok()?;
        sealed.try_extend_from_slice(&tag).ok()?;
        Some(sealed)
    }

    /// Opens a message.
    pub(super) fn open(&mut self, octets: &[u8]) -> Result<Sealed, Closed> {
        let (header, rest) =
            octets.split_first_chunk::<{ ipvs_sync::HEADER }>().ok_or(Closed::Plain)?;
        if header[5] != SEALED {
            return Err(Closed::Plain);
        }
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(Closed::Key)?;
        let (inside, tag) = rest.split_last_chunk::<TAG>().ok_or(Closed::Key)?;
        let mut message = Sealed::try_from(inside).map_err(|_| Closed::Key)?;
        let nonce = XNonce::from_slice(nonce);
        self.cipher
            .decrypt_in_place_detached(nonce, header, &mut message, tag.into())
            .map_err(|_| Closed::Key)?;
        let (inner, _) = Inner::read_from_prefix(&message).map_err(|_| Closed::Key)?;
        if inner.run.get() == self.run {
            return Err(Closed::Own);
        }
        if inner.time.get().abs_diff(now_ms()) > SKEW_MS {
            return Err(Closed::Time);
        }
        if !self.is_new(inner.run.get(), inner.count.get()) {
            return Err(Closed::Again);
        }
        message.drain(..size_of::<Inner>());
        Ok(message)
    }

    /// Whether a message of a sender was not heard before; it is from now on.
    fn is_new(&mut self, run: u64, count: u64) -> bool {
        let Some(sender) = self.senders.iter_mut().find(|known| known.run == run) else {
            if self.senders.is_full() {
                self.senders.remove(0);
            }
            self.senders.push(Sender { run, newest: count, heard: 0 });
            return true;
        };
        if count > sender.newest {
            let step = count - sender.newest;
            let before = if step < WINDOW { sender.heard << step } else { 0 };
            // The one that was the newest.
            let last = if step <= WINDOW { 1 << (step - 1) } else { 0 };
            (sender.newest, sender.heard) = (count, before | last);
            return true;
        }
        let age = sender.newest - count;
        let bit = if (1..=WINDOW).contains(&age) { 1 << (age - 1) } else { return false };
        let is_new = sender.heard & bit == 0;
        sender.heard |= bit;
        is_new
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_opened_once_and_by_its_key_alone() {
        let mut sender = Seal::new(&[7; 32], 1);
        let mut receiver = Seal::new(&[7; 32], 2);
        let sealed = sender.close(51, b"a connection").unwrap();
        assert!(!sealed.windows(5).any(|part| part == b"conne"));
        assert_eq!(receiver.open(&sealed).unwrap().as_slice(), b"a connection");
        assert_eq!(receiver.open(&sealed), Err(Closed::Again));
        let mut other = Seal::new(&[8; 32], 3);
        assert_eq!(other.open(&sealed), Err(Closed::Key));
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            let wrong = receiver.open(&changed).unwrap_err();
            let expected = if place == 5 { Closed::Plain } else { Closed::Key };
            assert_eq!(wrong, expected, "octet {place}");
        }
        for length in 0..sealed.len() {
            assert!(receiver.open(&sealed[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn messages_may_overtake_each_other_but_not_come_again() {
        let mut sender = Seal::new(&[7; 32], 1);
        let mut receiver = Seal::new(&[7; 32], 2);
        let mut sealed: Vec<_> = (0..100).map(|_| sender.close(51, b"x").unwrap()).collect();
        sealed.swap(10, 40);
        for (number, message) in sealed.iter().enumerate() {
            assert!(receiver.open(message).is_ok(), "{number}");
        }
        for message in &sealed {
            assert_eq!(receiver.open(message), Err(Closed::Again));
        }
    }

    #[test]
    fn a_message_that_comes_back_to_its_sender_is_refused() {
        let mut sender = Seal::new(&[7; 32], 1);
        let sealed = sender.close(51, b"x").unwrap();
        assert_eq!(sender.open(&sealed), Err(Closed::Own));
        assert!(Seal::new(&[7; 32], 2).open(&sealed).is_ok());
    }

    #[test]
    fn ipvs_sees_a_message_without_entries() {
        let sealed = Seal::new(&[7; 32], 1).close(51, b"x").unwrap();
        // Version 0 has the number of its entries where version 1 has a zero.
        assert_eq!((sealed[0], sealed[1]), (0, 51));
        assert_eq!(usize::from(u16::from_be_bytes([sealed[2], sealed[3]])), sealed.len());
        assert_eq!(sealed.len(), GROWTH + 1);
    }
}
