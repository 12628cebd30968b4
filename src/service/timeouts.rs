//! Idle times after which connections are forgotten, by protocol and state.

use std::time::Duration;

use super::Protocol;
use crate::clock::Tick;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A named set of timeouts to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimeoutPreset {
    /// What Linux IPVS does: established TCP and SCTP 900 s, UDP 300 s.
    #[default]
    Lvs,
    /// What RFC 5382 (REQ-5), RFC 7857 and RFC 4787 (REQ-5) ask of a NAT: established TCP
    /// 7440 s, transitory states 240 s, UDP 300 s. No RFC speaks of SCTP: the times of TCP.
    Rfc,
}

/// Idle time per TCP state, for UDP, and per group of SCTP states. States are those of IPVS.
///
/// As the operator sets them; or, as [`IdleTimes`], as workers need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts<T = Duration> {
    /// Both sides have acknowledged the handshake.
    pub established: T,
    /// A SYN came from the server first.
    pub syn_sent: T,
    /// The client's SYN was forwarded; no answer has completed the handshake.
    pub syn_recv: T,
    /// The server has sent its FIN.
    pub fin_wait: T,
    /// Both sides have sent a FIN.
    pub time_wait: T,
    /// Reset, or closed from a state that needs no waiting.
    pub close: T,
    /// The client has sent its FIN.
    pub close_wait: T,
    /// The last acknowledgement is awaited.
    pub last_ack: T,
    /// State LISTEN of the IPVS table.
    pub listen: T,
    /// State SYNACK of the IPVS table.
    pub synack: T,
    /// UDP flows.
    pub udp: T,
    /// Echo requests that were masqueraded (RFC 5508 REQ-1: 60 seconds at least).
    pub icmp: T,
    /// SCTP: the client's first INIT was forwarded (INIT1).
    pub sctp_first_init: T,
    /// SCTP: the handshake is under way (INIT, C-SENT, C-REPLIED, C-WAIT, COOKIE, C-ECHOED).
    pub sctp_init: T,
    /// SCTP: both sides have the cookie.
    pub sctp_established: T,
    /// SCTP: SHUTDOWN or its answer was sent (S-SENT, S-RECEIVED, S-ACK-SENT).
    pub sctp_shutdown: T,
    /// SCTP: the first INIT was answered with ABORT.
    pub sctp_rejected: T,
    /// SCTP: shut down or aborted.
    pub sctp_closed: T,
}

/// Idle times in milliseconds.
pub type IdleTimes = Timeouts<u32>;

impl Timeouts {
    /// The timeouts of a preset.
    pub const fn preset(preset: TimeoutPreset) -> Self {
        match preset {
            TimeoutPreset::Lvs => Self {
                established: secs(900),
                syn_sent: secs(120),
                syn_recv: secs(60),
                fin_wait: secs(120),
                time_wait: secs(120),
                close: secs(10),
                close_wait: secs(60),
                last_ack: secs(30),
                listen: secs(120),
                synack: secs(120),
                udp: secs(300),
                icmp: secs(60),
                sctp_first_init: secs(4),
                sctp_init: secs(61),
                sctp_established: secs(900),
                sctp_shutdown: secs(61),
                sctp_rejected: secs(4),
                sctp_closed: secs(61),
            },
            TimeoutPreset::Rfc => Self {
                established: secs(7440),
                syn_sent: secs(240),
                syn_recv: secs(240),
                fin_wait: secs(240),
                time_wait: secs(240),
                close: secs(240),
                close_wait: secs(240),
                last_ack: secs(240),
                listen: secs(240),
                synack: secs(240),
                udp: secs(300),
                icmp: secs(60),
                sctp_first_init: secs(240),
                sctp_init: secs(240),
                sctp_established: secs(7440),
                sctp_shutdown: secs(240),
                sctp_rejected: secs(240),
                sctp_closed: secs(240),
            },
        }
    }

    /// Every idle time with its name, as the configuration file has it.
    pub const fn entries(&self) -> [(&'static str, Duration); 18] {
        [
            ("established", self.established),
            ("syn_sent", self.syn_sent),
            ("syn_recv", self.syn_recv),
            ("fin_wait", self.fin_wait),
            ("time_wait", self.time_wait),
            ("close", self.close),
            ("close_wait", self.close_wait),
            ("last_ack", self.last_ack),
            ("listen", self.listen),
            ("synack", self.synack),
            ("udp", self.udp),
            ("icmp", self.icmp),
            ("sctp_first_init", self.sctp_first_init),
            ("sctp_init", self.sctp_init),
            ("sctp_established", self.sctp_established),
            ("sctp_shutdown", self.sctp_shutdown),
            ("sctp_rejected", self.sctp_rejected),
            ("sctp_closed", self.sctp_closed),
        ]
    }

    /// In milliseconds. Times beyond 24 days count as 24 days.
    pub fn in_milliseconds(&self) -> IdleTimes {
        let ms = |idle: Duration| {
            u32::try_from(idle.min(Tick::MAX_SPAN).as_millis()).unwrap_or(u32::MAX / 2)
        };
        Timeouts {
            established: ms(self.established),
            syn_sent: ms(self.syn_sent),
            syn_recv: ms(self.syn_recv),
            fin_wait: ms(self.fin_wait),
            time_wait: ms(self.time_wait),
            close: ms(self.close),
            close_wait: ms(self.close_wait),
            last_ack: ms(self.last_ack),
            listen: ms(self.listen),
            synack: ms(self.synack),
            udp: ms(self.udp),
            icmp: ms(self.icmp),
            sctp_first_init: ms(self.sctp_first_init),
            sctp_init: ms(self.sctp_init),
            sctp_established: ms(self.sctp_established),
            sctp_shutdown: ms(self.sctp_shutdown),
            sctp_rejected: ms(self.sctp_rejected),
            sctp_closed: ms(self.sctp_closed),
        }
    }
}

impl IdleTimes {
    /// The shortest idle time of a state that a connection may be in for long, while its packets pass,
    /// milliseconds; of any protocol, where none is named.
    pub fn shortest_of_lasting(&self, protocol: Option<Protocol>) -> u32 {
        let Some(protocol) = protocol else {
            let of = |protocol| self.shortest_of_lasting(Some(protocol));
            return of(Protocol::Tcp).min(of(Protocol::Udp)).min(of(Protocol::Sctp));
        };
        match protocol {
            Protocol::Tcp => self.established.min(self.fin_wait).min(self.close_wait),
            Protocol::Udp => self.udp,
            Protocol::Sctp => self.sctp_established,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::preset(TimeoutPreset::default())
    }
}
