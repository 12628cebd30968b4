//! Ports that are used again: when a new connection may take the place of one with the same 5-tuple.

use super::conn::tcp_state::ConnectionState;
use super::conn::{Connection, Flags};
use crate::service::ServiceTable;
use crate::wire::address::Address;

/// Whether a SYN or INIT from the side that opened a connection begins a new one in its place: it is
/// over, or its server takes no new connections any more, whatever its state (as IPVS does with
/// `expire_nodest_conn`). With a server that goes on, a half-closed connection lives on. Of SCTP
/// only CLOSED is over, as in IPVS.
pub(super) fn begins_anew<A: Address>(services: &ServiceTable, connection: &Connection<A>) -> bool {
    use ConnectionState as S;
    match connection.state() {
        S::TimeWait | S::Close | S::LastAck | S::SctpClosed => true,
        S::Udp | S::Icmp => false,
        S::None
        | S::Established
        | S::SctpEstablished
        | S::SynRecv
        | S::FinWait
        | S::CloseWait
        | S::SynSent
        | S::SynAck
        | S::Listen
        | S::SctpInit1
        | S::SctpInit
        | S::SctpCookieSent
        | S::SctpCookieReplied
        | S::SctpCookieWait
        | S::SctpCookie
        | S::SctpCookieEchoed
        | S::SctpShutdownSent
        | S::SctpShutdownReceived
        | S::SctpShutdownAckSent
        | S::SctpRejected => {
            let takes_no_more = services.weight(connection.slot()).unwrap_or(0) == 0;
            // A data connection is of its control connection, and would not be opened again.
            let is_data = connection.helper != 0 && !connection.flags.has(Flags::HELPED);
            takes_no_more && !is_data && !connection.flags.has(Flags::OUTBOUND)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dataplane::conn::Endpoints;
    use crate::ids::{ServerSlot, ServiceId, TableVersion};
    use crate::service::{RealServer, Rules, SlotRegistry, VirtualService};
    use crate::wire::U16;
    use crate::wire::ipv4::protocol;

    /// One service with one server of this weight, and the server's slot.
    fn services(weight: u32) -> (ServiceTable, ServerSlot) {
        let listen = "tcp://192.0.2.100:80".parse().unwrap();
        let address = "10.0.0.11:8080".parse().unwrap();
        let mut service = VirtualService::new("web", listen);
        service.servers = vec![RealServer::new(address, weight)];
        let mut slots = SlotRegistry::new(8);
        let table =
            ServiceTable::compile(TableVersion(1), Rules::of(&[service]), &mut slots).unwrap();
        (table, slots.server(listen, address).unwrap())
    }

    fn tcp_states() -> impl Iterator<Item = ConnectionState> {
        ConnectionState::ALL.into_iter().filter(|state| *state as u8 <= ConnectionState::Icmp as u8)
    }

    /// The states in which a SYN begins another connection; with a server of this weight, or one
    /// that was removed.
    fn states_that_give_way(weight: u32, is_removed: bool, flags: Flags) -> BTreeSet<&'static str> {
        let (table, slot) = services(weight);
        let client = ([198, 18, 7, 7], U16::new(20_000));
        let mut connection = Connection::new(Endpoints {
            client,
            service: ([192, 0, 2, 100], U16::new(80)),
            local: client,
            server: ([10, 0, 0, 11], U16::new(8080)),
            protocol: protocol::TCP,
        });
        connection.belongs_to(ServiceId(0), if is_removed { ServerSlot(7) } else { slot });
        connection.flags = flags;
        let gives_way = |state: &ConnectionState| {
            connection.set_state(*state);
            begins_anew(&table, &connection)
        };
        tcp_states().filter(gives_way).map(ConnectionState::name).collect()
    }

    #[test]
    fn a_port_is_used_again_in_time_wait_close_and_last_ack() {
        let over = BTreeSet::from(["TIME_WAIT", "CLOSE", "LAST_ACK"]);
        assert_eq!(states_that_give_way(1, false, Flags::default()), over);
        for is_removed in [false, true] {
            assert_eq!(states_that_give_way(0, is_removed, Flags::OUTBOUND), over);
        }
    }

    #[test]
    fn a_port_is_used_again_in_every_state_when_the_server_takes_nothing_new() {
        let mut wanted: BTreeSet<_> = tcp_states().map(ConnectionState::name).collect();
        wanted.retain(|name| !["UDP", "ICMP"].contains(name));
        assert_eq!(states_that_give_way(0, false, Flags::default()), wanted, "quiesced");
        assert_eq!(states_that_give_way(1, true, Flags::default()), wanted, "removed");
    }
}
