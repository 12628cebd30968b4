//! What comes: connections of the director whose place this one takes.

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::{Ended, Handover, Lane, Moved, MovedControl, Parcel};
use crate::clock::Tick;
use crate::dataplane::admit::take_ways;
use crate::dataplane::conn::tcp_state::ConnectionState;
use crate::dataplane::conn::{Connection, ConnectionTable, Endpoints, Flags, Found};
use crate::dataplane::family::Family;
use crate::dataplane::frame::Frame;
use crate::dataplane::helper;
use crate::dataplane::pipeline::Pipeline;
use crate::dataplane::shared::Shared;
use crate::ids::{ServerSlot, ServiceId};
use crate::wire::U16;
use crate::wire::address::{Address, V4, V6};
use crate::wire::flow_key::{Direction, FlowKey};

/// Parcels that are taken in one go.
const IN_ONE_GO: usize = 1024;

/// Why a connection is not taken over: what it needs is not here.
struct Refused;

impl<F: Frame> Pipeline<F> {
    /// Deals with what has come; whether there was something.
    pub(super) fn take_in(&mut self, handover: &Handover, lane: &Lane, now: Tick) -> bool {
        let mut settled = 0;
        // Their data connections come after them.
        while let Some(MovedControl { connection, image }) = lane.coming_controls.pop() {
            settled += 1;
            let taken = self.take_connection(&connection, handover, now);
            let slot = note(lane, &taken);
            let here = slot.and_then(|slot| self.shared.helpers.restore(slot, &image));
            if let (Some(here), Some(there)) = (here, connection.control) {
                handover.set_control(there, here);
            }
        }
        for _ in 0..IN_ONE_GO {
            let Some(parcel) = lane.coming.pop() else { break };
            settled += 1;
            self.take_parcel(&parcel, lane, handover, now);
        }
        if settled > 0 {
            lane.settled.fetch_add(settled, Release);
        }
        settled > 0
    }

    fn take_parcel(&mut self, parcel: &Parcel, lane: &Lane, handover: &Handover, now: Tick) {
        match parcel {
            Parcel::Connection(moved) => {
                let taken = self.take_connection(moved, handover, now);
                note(lane, &taken);
            }
            Parcel::Ended(ended) => self.forget(ended),
            Parcel::Counted(slot, counts) => {
                self.shared.stats.server(*slot).inspect(|counters| counters.carry(*counts));
            }
        }
    }

    fn take_connection(
        &mut self,
        moved: &Moved,
        handover: &Handover,
        now: Tick,
    ) -> Result<Taken, Refused> {
        let Self { shared, v4, v6, .. } = self;
        if moved.client.is_ipv4() {
            shared.take_place(v4, moved, handover, now)
        } else {
            shared.take_place(v6, moved, handover, now)
        }
    }

    fn forget(&mut self, ended: &Ended) {
        let Self { shared, v4, v6, .. } = self;
        if ended.client.is_ipv4() {
            shared.forget::<V4>(v4, ended);
        } else {
            shared.forget::<V6>(v6, ended);
        }
    }
}

/// A connection that was taken over.
struct Taken {
    /// It was not known before.
    is_new: bool,
    /// The slot of the control connection that it is.
    control: Option<u32>,
}

/// Counts what has become of a connection; the slot of the control connection that it is.
fn note(lane: &Lane, taken: &Result<Taken, Refused>) -> Option<u32> {
    if let Ok(Taken { is_new, control }) = taken {
        lane.adopted.fetch_add(u64::from(*is_new), Relaxed);
        return *control;
    }
    lane.refused.fetch_add(1, Relaxed);
    None
}

/// An endpoint of this family.
fn end<A: Address>(end: std::net::SocketAddr) -> Result<(A, U16), Refused> {
    let address = A::from_ip(end.ip()).ok_or(Refused)?;
    Ok((address, U16::new(end.port())))
}

fn key<A: Address>(protocol: u8, client: (A, U16), vip: (A, U16)) -> FlowKey<A> {
    FlowKey {
        source: client.0,
        destination: vip.0,
        source_port: client.1,
        destination_port: vip.1,
        protocol,
    }
}

impl<F: Frame> Shared<F> {
    fn forget<A: Family>(&mut self, table: &mut ConnectionTable<A>, ended: &Ended) {
        let (Ok(client), Ok(vip)) = (end::<A>(ended.client), end::<A>(ended.vip)) else { return };
        let key = key(ended.protocol, client, vip);
        let found = table.find(table.hash(&key), &key);
        let found = found.filter(|found| found.direction == Direction::Inbound);
        if let Some(ended) = found.and_then(|found| table.remove(found.id)) {
            self.connection_ends(&ended);
        }
    }

    /// Takes over a connection, or what is new of it.
    fn take_place<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        moved: &Moved,
        handover: &Handover,
        now: Tick,
    ) -> Result<Taken, Refused> {
        let (client, vip, server) = (end(moved.client)?, end(moved.vip)?, end(moved.server)?);
        let key = key(moved.protocol, client, vip);
        if let Some(found) = table.find(table.hash(&key), &key)
            && found.direction == Direction::Inbound
        {
            let is_same = table.get(found.id).is_some_and(|known| known.server() == server);
            if is_same {
                return Ok(self.bring_up_to_date(table, found, moved, now));
            }
            // Another one that has taken its place.
            if let Some(ended) = table.remove(found.id) {
                self.connection_ends(&ended);
            }
        }
        let ends = Endpoints {
            client,
            service: vip,
            local: end(moved.local)?,
            server,
            protocol: moved.protocol,
        };
        let mut connection = Connection::new(ends);
        self.judge_moved(moved, &mut connection)?;
        let hops = self.hops(server.0, self.next_hops.route(client.0)).map_err(|_| Refused)?;
        take_ways(self, &mut connection, hops, now);
        connection.set_state(ConnectionState::from_number(moved.state));
        connection.timeout_ms = moved.timeout_ms;
        connection.last_seen = now.0.wrapping_sub(moved.idle_ms.min(moved.timeout_ms));
        let control = self.take_control(&mut connection, moved, handover);
        if table.insert(&connection).is_err() {
            if connection.helper != 0 {
                self.helped_ends(&connection);
            }
            return Err(Refused);
        }
        self.claim(&connection);
        self.connection_is_adopted(&connection);
        Ok(Taken { is_new: !self.is_half(&connection), control })
    }

    /// Whether a connection can be had here, with what is special about it.
    fn judge_moved<A: Family>(
        &self,
        moved: &Moved,
        connection: &mut Connection<A>,
    ) -> Result<(), Refused> {
        if let Some((service, server)) = moved.through {
            connection.belongs_to(ServiceId(service), ServerSlot(server));
        } else if !A::services(&self.services).is_external(&connection.vip().0) {
            return Err(Refused);
        }
        if connection.flags.has(Flags::FULL_NAT)
            && !self.has_way_back(connection, moved.has(Moved::HELPED))
        {
            return Err(Refused);
        }
        if moved.has(Moved::OUTBOUND) {
            connection.flags = connection.flags.with(Flags::OUTBOUND);
        }
        if moved.has(Moved::BY_TEMPLATE) {
            connection.flags = connection.flags.by_template();
        }
        Ok(())
    }

    /// What helpers know of a connection: the slot of a control connection is a new one.
    fn take_control<A: Family>(
        &mut self,
        connection: &mut Connection<A>,
        moved: &Moved,
        handover: &Handover,
    ) -> Option<u32> {
        if moved.is_data() {
            let control = moved.control.and_then(|there| handover.control(there));
            connection.helper = control.map_or(0, |control| {
                self.helpers.data_begins(control);
                control + 1
            });
            return None;
        }
        if !moved.has(Moved::HELPED) {
            return None;
        }
        if moved.control.is_none() {
            // Its handshake is not complete.
            connection.flags = connection.flags.with(Flags::HELPED);
            return None;
        }
        let slot = self.helpers.take_slot(&self.stats)?;
        connection.flags = connection.flags.with(Flags::HELPED);
        connection.helper = slot + 1;
        Some(slot)
    }

    /// What is new of a connection that is known.
    fn bring_up_to_date<A: Family>(
        &mut self,
        table: &mut ConnectionTable<A>,
        found: Found,
        moved: &Moved,
        now: Tick,
    ) -> Taken {
        let state = ConnectionState::from_number(moved.state);
        let old = table.get(found.id).map_or(state, Connection::state);
        if old != state {
            self.change_state(table, found, old, state);
        }
        let Some(known) = table.get_mut(found.id) else {
            return Taken { is_new: false, control: None };
        };
        known.timeout_ms = moved.timeout_ms;
        known.last_seen = now.0.wrapping_sub(moved.idle_ms.min(moved.timeout_ms));
        let mut control = None;
        if moved.has(Moved::HELPED) && moved.control.is_some() {
            control = helper::slot_of(known).or_else(|| self.helpers.take_slot(&self.stats));
            known.helper = control.map_or(0, |slot| slot + 1);
        }
        table.rearm(found.id);
        Taken { is_new: false, control }
    }
}
