//! The states of an SCTP association: those of Linux IPVS, as one table.
//!
//! They are what the director sees of the association, named from the server's point of view:
//! the server keeps no state before it sees the cookie again, the director does.

use super::tcp_state::ConnectionState;
use crate::wire::flow_key::Direction;
use crate::wire::sctp::Signal;

/// The state after a packet with this signal. A state that is none of SCTP's stays.
#[must_use]
pub fn next(state: ConnectionState, from: Direction, signal: Signal) -> ConnectionState {
    let rows = match from {
        Direction::Inbound => &INBOUND,
        Direction::Reply => &REPLY,
    };
    let row = row_of(state).and_then(|row| rows.get(row));
    row.and_then(|row| row.get(signal as usize)).copied().unwrap_or(state)
}

/// The rows of the tables, in their order.
pub const STATES: [ConnectionState; 14] = {
    use ConnectionState as S;
    [
        S::None,
        S::SctpInit1,
        S::SctpInit,
        S::SctpCookieSent,
        S::SctpCookieReplied,
        S::SctpCookieWait,
        S::SctpCookie,
        S::SctpCookieEchoed,
        S::SctpEstablished,
        S::SctpShutdownSent,
        S::SctpShutdownReceived,
        S::SctpShutdownAckSent,
        S::SctpRejected,
        S::SctpClosed,
    ]
};

fn row_of(state: ConnectionState) -> Option<usize> {
    if state == ConnectionState::None {
        return Some(0);
    }
    let place = (state as usize).checked_sub(ConnectionState::SctpInit1 as usize)?;
    (place + 1 < STATES.len()).then_some(place + 1)
}

const EST: ConnectionState = ConnectionState::SctpEstablished;
/// The client's first INIT.
const IN1: ConnectionState = ConnectionState::SctpInit1;
/// More of them.
const INI: ConnectionState = ConnectionState::SctpInit;
/// Cookie sent by the server, replied by the client.
const CSE: ConnectionState = ConnectionState::SctpCookieSent;
const CRE: ConnectionState = ConnectionState::SctpCookieReplied;
/// The server opens: it waits for a cookie, has one, has echoed it.
const CWA: ConnectionState = ConnectionState::SctpCookieWait;
const COO: ConnectionState = ConnectionState::SctpCookie;
const CEC: ConnectionState = ConnectionState::SctpCookieEchoed;
/// SHUTDOWN sent by the server, received by it, acknowledged by it.
const SSE: ConnectionState = ConnectionState::SctpShutdownSent;
const SRE: ConnectionState = ConnectionState::SctpShutdownReceived;
const SAS: ConnectionState = ConnectionState::SctpShutdownAckSent;
const REJ: ConnectionState = ConnectionState::SctpRejected;
const CLO: ConnectionState = ConnectionState::SctpClosed;

type Table = [[ConnectionState; Signal::COUNT]; STATES.len()];

/// Client to server: a row per state, a column per signal.
#[rustfmt::skip]
const INBOUND: Table = [
    // Data InitAck Init CookieEcho CookieAck Shutdown ShutdownAck ShutdownComplete Error Abort
    [EST, CWA, IN1, CRE, EST, SRE, CLO, CLO, CLO, CLO], // None
    [IN1, CWA, INI, INI, IN1, IN1, INI, CLO, IN1, CLO], // Init1
    [INI, CWA, INI, INI, INI, INI, INI, CLO, INI, CLO], // Init
    [CSE, CSE, CSE, CRE, CSE, CSE, CSE, CSE, CSE, CLO], // CookieSent
    [CRE, CRE, CRE, CRE, CRE, CRE, CRE, CRE, CRE, CLO], // CookieReplied
    [CWA, COO, CWA, CWA, CWA, CWA, CWA, CWA, CWA, REJ], // CookieWait
    [COO, COO, COO, COO, COO, COO, COO, COO, COO, CLO], // Cookie
    [CEC, CEC, CEC, CEC, EST, CEC, CEC, CEC, CLO, CLO], // CookieEchoed
    [EST, EST, EST, EST, EST, SRE, EST, EST, EST, CLO], // Established
    [SSE, SSE, SSE, SSE, SSE, SSE, CLO, SSE, SSE, CLO], // ShutdownSent
    [SRE, SRE, SRE, SRE, SRE, SRE, SRE, SRE, SRE, CLO], // ShutdownReceived
    [SAS, SAS, SAS, SAS, SAS, SAS, CLO, CLO, SAS, CLO], // ShutdownAckSent
    [REJ, REJ, INI, REJ, REJ, REJ, REJ, REJ, REJ, CLO], // Rejected
    [CLO, CLO, INI, CLO, CLO, CLO, CLO, CLO, CLO, CLO], // Closed
];

/// Server to client.
#[rustfmt::skip]
const REPLY: Table = [
    // Data InitAck Init CookieEcho CookieAck Shutdown ShutdownAck ShutdownComplete Error Abort
    [EST, CSE, CWA, CEC, EST, SSE, SAS, CLO, CLO, CLO], // None
    [IN1, CSE, CWA, CEC, EST, SSE, SAS, IN1, CLO, REJ], // Init1
    [INI, CSE, CWA, CEC, EST, SSE, SAS, INI, CLO, CLO], // Init
    [CSE, CSE, CWA, CEC, EST, SSE, SAS, CSE, CLO, CLO], // CookieSent
    [CRE, CRE, CWA, CEC, EST, SSE, SAS, CRE, CLO, CLO], // CookieReplied
    [CWA, CWA, CWA, CEC, EST, SSE, CWA, CWA, CWA, CLO], // CookieWait
    [COO, COO, CWA, CEC, EST, SSE, COO, COO, COO, CLO], // Cookie
    [CEC, CEC, CWA, CEC, EST, SSE, CEC, CEC, CEC, CLO], // CookieEchoed
    [EST, EST, EST, EST, EST, SSE, EST, EST, EST, CLO], // Established
    [SSE, SSE, CWA, SSE, SSE, SSE, SAS, SSE, SSE, CLO], // ShutdownSent
    [SRE, SRE, CWA, SRE, SRE, SRE, SAS, SRE, SRE, CLO], // ShutdownReceived
    [SAS, SAS, CWA, SAS, SAS, SAS, SAS, SAS, SAS, CLO], // ShutdownAckSent
    [REJ, REJ, CWA, REJ, REJ, REJ, REJ, REJ, REJ, CLO], // Rejected
    [CLO, CLO, CWA, CLO, CLO, CLO, CLO, CLO, CLO, CLO], // Closed
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_belongs_to_its_state() {
        for (row, state) in STATES.into_iter().enumerate() {
            assert_eq!(row_of(state), Some(row), "{state:?}");
        }
        assert_eq!(row_of(ConnectionState::Established), None);
        assert_eq!(row_of(ConnectionState::Udp), None);
    }

    #[test]
    fn states_of_other_protocols_stay() {
        for state in ConnectionState::ALL.into_iter().filter(|state| row_of(*state).is_none()) {
            for signal in Signal::ALL {
                assert_eq!(next(state, Direction::Inbound, signal), state);
                assert_eq!(next(state, Direction::Reply, signal), state);
            }
        }
    }
}
