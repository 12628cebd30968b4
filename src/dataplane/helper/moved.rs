//! What helpers know, on its way from one director to another.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};

use super::expectation::{ControlNumber, Expectations, Expected, Opener};
use super::stream::WayImage;
use super::{Helpers, slot_of};
use crate::clock::Tick;
use crate::dataplane::conn::{Connection, Flags};
use crate::dataplane::stats::WorkerStats;
use crate::ids::{ServerSlot, ServiceId};

/// What the helper of a control connection knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlImage {
    pub(super) client: WayImage,
    pub(super) server: WayImage,
    /// What follows is encrypted.
    pub(super) is_over: bool,
    /// Commands of the client that are not answered.
    pub(super) asked: u8,
}

/// Octets of texts on their way.
pub(super) type Texts = ArrayVec<u8, { super::stream::TEXTS }>;

/// A data connection that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedRow {
    /// Whether the client opens it.
    pub by_client: bool,
    /// The opener's address.
    pub source: IpAddr,
    /// What the opener connects to.
    pub destination: SocketAddr,
    /// What the other end gets to see.
    pub other: SocketAddr,
    /// The number of the service.
    pub service: u16,
    /// That of the server.
    pub server: u16,
    /// That of the control connection.
    pub control: u32,
}

impl Expectations {
    /// All that is expected.
    pub fn rows(&self, now: Tick) -> impl Iterator<Item = ExpectedRow> {
        self.all(now).map(|expected| ExpectedRow {
            by_client: expected.opener == Opener::Client,
            source: expected.source,
            destination: expected.destination,
            other: expected.other,
            service: expected.service.0,
            server: expected.slot.0,
            control: expected.control.0,
        })
    }

    /// Expects what was expected elsewhere, of this control connection here.
    pub fn expect_again(&self, row: &ExpectedRow, control: u32, now: Tick) -> bool {
        let expected = Expected {
            opener: if row.by_client { Opener::Client } else { Opener::Server },
            source: row.source,
            destination: row.destination,
            other: row.other,
            service: ServiceId(row.service),
            slot: ServerSlot(row.server),
            control: ControlNumber(control),
        };
        self.expect(expected, now).is_ok()
    }
}

impl Helpers {
    /// The number of the control connection that a connection is or belongs to, and what is known
    /// of one that is.
    pub(in crate::dataplane) fn image<A>(
        &self,
        connection: &Connection<A>,
    ) -> (Option<u32>, Option<ControlImage>) {
        if connection.helper == 0 {
            return (None, None);
        }
        if !connection.flags.has(Flags::HELPED) {
            return (Some(connection.helper.saturating_sub(1)), None);
        }
        let Some(slot) = slot_of(connection) else { return (None, None) };
        let image = self.controls.get(slot).map(|control| ControlImage {
            client: control.client.image(),
            server: control.server.image(),
            is_over: control.text.is_over(),
            asked: control.text.asked(),
        });
        (image.is_some().then_some(self.controls.number(slot).0), image)
    }

    /// A slot for a control connection of another director.
    pub(in crate::dataplane) fn take_slot(&mut self, stats: &WorkerStats) -> Option<u32> {
        let slot = self.controls.take(0, 0);
        stats.helped.set(u64::from(self.controls.used()));
        slot
    }

    /// What was known of a control connection is known in this slot; its number.
    pub(in crate::dataplane) fn restore(&mut self, slot: u32, image: &ControlImage) -> Option<u32> {
        let control = self.controls.get_mut(slot)?;
        control.client.restore(&image.client);
        control.server.restore(&image.server);
        control.text.restore(image.is_over, image.asked);
        Some(self.controls.number(slot).0)
    }

    /// A data connection of a control connection goes on here.
    pub(in crate::dataplane) fn data_begins(&self, control: u32) {
        self.controls.expectations.data_begins(ControlNumber(control));
    }
}
