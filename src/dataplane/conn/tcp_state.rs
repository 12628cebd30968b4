//! The states of a connection, and TCP's way through them: those of Linux IPVS, as one table.
//! (SCTP's way: `sctp_state.rs`.)

use std::fmt;

use crate::service::IdleTimes;
use crate::wire::flow_key::Direction;
use crate::wire::tcp::flags;

/// The state of a connection. Names and meaning are those that `ipvsadm -lnc` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum ConnectionState {
    /// No packet has been judged yet.
    #[default]
    None = 0,
    /// The handshake is complete.
    Established = 1,
    /// The server sent a SYN first.
    SynSent = 2,
    /// The client's SYN went to the server.
    SynRecv = 3,
    /// The server sent a FIN.
    FinWait = 4,
    /// Both sent a FIN.
    TimeWait = 5,
    /// Reset or done.
    Close = 6,
    /// The client sent a FIN.
    CloseWait = 7,
    /// The last acknowledgement is awaited.
    LastAck = 8,
    /// Unused by traffic; kept for IPVS's table and its synchronisation messages.
    Listen = 9,
    /// As [`ConnectionState::Listen`].
    SynAck = 10,
    /// A UDP flow.
    Udp = 11,
    /// Echo requests and their replies.
    Icmp = 12,
    /// SCTP: the client's first INIT went to the server.
    SctpInit1 = 13,
    /// SCTP: the client sent INIT again.
    SctpInit = 14,
    /// SCTP: the server answered with INIT ACK and its cookie.
    SctpCookieSent = 15,
    /// SCTP: the client sent the cookie back.
    SctpCookieReplied = 16,
    /// SCTP: the server sent an INIT first.
    SctpCookieWait = 17,
    /// SCTP: the client answered that with INIT ACK.
    SctpCookie = 18,
    /// SCTP: the server sent the cookie back.
    SctpCookieEchoed = 19,
    /// SCTP: the association is established.
    SctpEstablished = 20,
    /// SCTP: the server sent SHUTDOWN.
    SctpShutdownSent = 21,
    /// SCTP: the client sent SHUTDOWN.
    SctpShutdownReceived = 22,
    /// SCTP: the server sent SHUTDOWN ACK.
    SctpShutdownAckSent = 23,
    /// SCTP: an INIT was answered with ABORT.
    SctpRejected = 24,
    /// SCTP: the association is over.
    SctpClosed = 25,
}

impl ConnectionState {
    /// How many there are.
    pub const COUNT: usize = 26;

    /// All of them, by their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::None,
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::SynAck,
        Self::Udp,
        Self::Icmp,
        Self::SctpInit1,
        Self::SctpInit,
        Self::SctpCookieSent,
        Self::SctpCookieReplied,
        Self::SctpCookieWait,
        Self::SctpCookie,
        Self::SctpCookieEchoed,
        Self::SctpEstablished,
        Self::SctpShutdownSent,
        Self::SctpShutdownReceived,
        Self::SctpShutdownAckSent,
        Self::SctpRejected,
        Self::SctpClosed,
    ];

    /// The state with this number; [`ConnectionState::None`] for a number that is none.
    #[inline]
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::None)
    }

    /// The name that `ipvsadm -lnc` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Established | Self::SctpEstablished => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::SynAck => "SYNACK",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::SctpInit1 => "INIT1",
            Self::SctpInit => "INIT",
            Self::SctpCookieSent => "C-SENT",
            Self::SctpCookieReplied => "C-REPLIED",
            Self::SctpCookieWait => "C-WAIT",
            Self::SctpCookie => "COOKIE",
            Self::SctpCookieEchoed => "C-ECHOED",
            Self::SctpShutdownSent => "S-SENT",
            Self::SctpShutdownReceived => "S-RECEIVED",
            Self::SctpShutdownAckSent => "S-ACK-SENT",
            Self::SctpRejected => "REJECTED",
            Self::SctpClosed => "CLOSED",
        }
    }

    /// The value of label `state` in metrics: the name; SCTP's with a prefix, for some are those
    /// of TCP.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the name, unless said otherwise")]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SctpInit1 => "SCTP_INIT1",
            Self::SctpInit => "SCTP_INIT",
            Self::SctpCookieSent => "SCTP_C_SENT",
            Self::SctpCookieReplied => "SCTP_C_REPLIED",
            Self::SctpCookieWait => "SCTP_C_WAIT",
            Self::SctpCookie => "SCTP_COOKIE",
            Self::SctpCookieEchoed => "SCTP_C_ECHOED",
            Self::SctpEstablished => "SCTP_ESTABLISHED",
            Self::SctpShutdownSent => "SCTP_S_SENT",
            Self::SctpShutdownReceived => "SCTP_S_RECEIVED",
            Self::SctpShutdownAckSent => "SCTP_S_ACK_SENT",
            Self::SctpRejected => "SCTP_REJECTED",
            Self::SctpClosed => "SCTP_CLOSED",
            _ => self.name(),
        }
    }

    /// Whether the connection counts as active in `ActiveConn` and for the schedulers. UDP flows
    /// and connections that are closing count as inactive, as in IPVS.
    #[inline]
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            Self::Established
                | Self::SynSent
                | Self::SynRecv
                | Self::SynAck
                | Self::SctpEstablished
        )
    }

    /// The state after a TCP segment with these control bits.
    #[inline]
    #[must_use]
    pub fn next(self, from: Direction, control: u8) -> Self {
        let rows = match from {
            Direction::Inbound => &INBOUND,
            Direction::Reply => &REPLY,
        };
        let [syn, fin, ack, rst] = rows;
        // A reset outweighs a SYN, a SYN a FIN, a FIN an acknowledgement.
        let row = if control & flags::RST != 0 {
            rst
        } else if control & flags::SYN != 0 {
            syn
        } else if control & flags::FIN != 0 {
            fin
        } else if control & flags::ACK != 0 {
            ack
        } else {
            return self;
        };
        row.get(self as usize).copied().unwrap_or(self)
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

use ConnectionState as S;

/// By state, as far as TCP has them.
type Row = [S; 11];

/// Client to server, for SYN, FIN, ACK, RST; the columns are the present states in their order.
#[rustfmt::skip]
const INBOUND: [Row; 4] = [
    //  None            Established     SynSent         SynRecv         FinWait         TimeWait        Close           CloseWait       LastAck         Listen          SynAck
    [S::SynRecv,     S::Established, S::Established, S::SynRecv,     S::SynRecv,     S::SynRecv,     S::SynRecv,     S::SynRecv,     S::SynRecv,     S::SynRecv,     S::SynRecv],
    [S::Close,       S::CloseWait,   S::SynSent,     S::TimeWait,    S::TimeWait,    S::TimeWait,    S::Close,       S::CloseWait,   S::LastAck,     S::Listen,      S::TimeWait],
    [S::Established, S::Established, S::SynSent,     S::Established, S::FinWait,     S::TimeWait,    S::Close,       S::CloseWait,   S::Close,       S::Listen,      S::Established],
    [S::Close,       S::Close,       S::Close,       S::SynRecv,     S::Close,       S::Close,       S::Close,       S::Close,       S::LastAck,     S::Listen,      S::SynRecv],
];

/// Server to client.
#[rustfmt::skip]
const REPLY: [Row; 4] = [
    //  None            Established     SynSent         SynRecv         FinWait         TimeWait        Close           CloseWait       LastAck         Listen          SynAck
    [S::SynSent,     S::Established, S::SynSent,     S::SynRecv,     S::SynSent,     S::SynSent,     S::SynSent,     S::SynSent,     S::SynSent,     S::Listen,      S::SynRecv],
    [S::TimeWait,    S::FinWait,     S::SynSent,     S::TimeWait,    S::FinWait,     S::TimeWait,    S::Close,       S::TimeWait,    S::LastAck,     S::Listen,      S::TimeWait],
    [S::Established, S::Established, S::SynSent,     S::Established, S::FinWait,     S::TimeWait,    S::Close,       S::CloseWait,   S::LastAck,     S::Established, S::Established],
    [S::Close,       S::Close,       S::SynSent,     S::Close,       S::Close,       S::TimeWait,    S::Close,       S::Close,       S::Close,       S::Close,       S::Close],
];

/// Whether a TCP segment acknowledges and neither opens, closes nor resets.
#[inline]
pub(super) const fn is_acknowledgement(control: u8) -> bool {
    control & (flags::SYN | flags::FIN | flags::RST | flags::ACK) == flags::ACK
}

/// Whether an acknowledgement of this direction leaves the state with this number.
#[inline]
pub(super) const fn is_kept(state: u8, from: Direction) -> bool {
    const KEPT_INBOUND: u32 = kept(&INBOUND);
    const KEPT_REPLY: u32 = kept(&REPLY);
    let kept = match from {
        Direction::Inbound => KEPT_INBOUND,
        Direction::Reply => KEPT_REPLY,
    };
    kept >> (state & 31) & 1 != 0
}

/// The states that an acknowledgement leaves: bit n for number n.
const fn kept(rows: &[Row; 4]) -> u32 {
    let [_, _, ack, _] = rows;
    let (mut bits, mut state) = (0, 0);
    while state < ack.len() {
        #[expect(
            clippy::indexing_slicing,
            reason = "below the length, and computed by the compiler"
        )]
        let is_kept = ack[state] as usize == state;
        bits |= (is_kept as u32) << state;
        state += 1;
    }
    bits
}

/// IPVS forgets a connection in state NONE after two seconds.
const NONE_MS: u32 = 2_000;

impl ConnectionState {
    /// How long a connection in this state lives without packets, milliseconds.
    #[inline]
    pub const fn idle_ms(self, timeouts: &IdleTimes) -> u32 {
        match self {
            Self::None => NONE_MS,
            Self::Established => timeouts.established,
            Self::SynSent => timeouts.syn_sent,
            Self::SynRecv => timeouts.syn_recv,
            Self::FinWait => timeouts.fin_wait,
            Self::TimeWait => timeouts.time_wait,
            Self::Close => timeouts.close,
            Self::CloseWait => timeouts.close_wait,
            Self::LastAck => timeouts.last_ack,
            Self::Listen => timeouts.listen,
            Self::SynAck => timeouts.synack,
            Self::Udp => timeouts.udp,
            Self::Icmp => timeouts.icmp,
            Self::SctpInit1 => timeouts.sctp_first_init,
            Self::SctpInit
            | Self::SctpCookieSent
            | Self::SctpCookieReplied
            | Self::SctpCookieWait
            | Self::SctpCookie
            | Self::SctpCookieEchoed => timeouts.sctp_init,
            Self::SctpEstablished => timeouts.sctp_established,
            Self::SctpShutdownSent | Self::SctpShutdownReceived | Self::SctpShutdownAckSent => {
                timeouts.sctp_shutdown
            }
            Self::SctpRejected => timeouts.sctp_rejected,
            Self::SctpClosed => timeouts.sctp_closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_state() {
        for (number, state) in ConnectionState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, number);
            assert_eq!(ConnectionState::from_number(u8::try_from(number).unwrap()), state);
        }
    }

    #[test]
    fn labels_are_distinct() {
        let mut labels: Vec<_> = S::ALL.into_iter().map(S::label).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), S::COUNT);
    }

    #[test]
    fn a_segment_moves_no_state_of_another_protocol() {
        for state in S::ALL.into_iter().skip(S::Udp as usize) {
            for control in 0..=0x1f {
                assert_eq!(state.next(Direction::Inbound, control), state);
                assert_eq!(state.next(Direction::Reply, control), state);
            }
        }
    }

    #[test]
    fn an_acknowledgement_is_kept_where_it_changes_nothing() {
        for state in S::ALL.into_iter().take(size_of::<Row>()) {
            for from in [Direction::Inbound, Direction::Reply] {
                let is_kept = is_kept(state as u8, from);
                assert_eq!(is_kept, state.next(from, flags::ACK) == state, "{state} {from:?}");
            }
        }
        let plain = (0..=u8::MAX).filter(|control| is_acknowledgement(*control));
        assert!(plain.into_iter().all(|control| control & 0x17 == flags::ACK));
    }

    #[test]
    fn a_connection_lives_from_syn_to_time_wait() {
        use Direction::{Inbound, Reply};
        use flags::{ACK, FIN, SYN};
        let life = [
            (Inbound, SYN, S::SynRecv),
            (Reply, SYN | ACK, S::SynRecv),
            (Inbound, ACK, S::Established),
            (Reply, ACK, S::Established),
            (Inbound, FIN | ACK, S::CloseWait),
            (Reply, ACK, S::CloseWait),
            (Reply, FIN | ACK, S::TimeWait),
            (Inbound, ACK, S::TimeWait),
        ];
        let mut state = S::None;
        for (from, control, expected) in life {
            state = state.next(from, control);
            assert_eq!(state, expected, "after {from:?} {control:#x}");
        }
    }

    #[test]
    fn a_segment_without_control_bits_changes_nothing() {
        for state in S::ALL {
            assert_eq!(state.next(Direction::Inbound, 0), state);
        }
    }

    #[test]
    fn udp_never_leaves_its_state() {
        for control in 0..=0x1f {
            assert_eq!(S::Udp.next(Direction::Reply, control), S::Udp);
            assert_eq!(S::Udp.next(Direction::Inbound, control), S::Udp);
        }
    }
}
