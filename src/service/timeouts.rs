//! Idle times after which connections are forgotten, by protocol and state.

use std::time::Duration;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Both sides have acknowledged the handshake.
    pub established: Duration,
    /// A SYN came from the server first.
    pub syn_sent: Duration,
    /// The client's SYN was forwarded; no answer has completed the handshake.
    pub syn_recv: Duration,
    /// The server has sent its FIN.
    pub fin_wait: Duration,
    /// Both sides have sent a FIN.
    pub time_wait: Duration,
    /// Reset, or closed from a state that needs no waiting.
    pub close: Duration,
    /// The client has sent its FIN.
    pub close_wait: Duration,
    /// The last acknowledgement is awaited.
    pub last_ack: Duration,
    /// State LISTEN of the IPVS table.
    pub listen: Duration,
    /// State SYNACK of the IPVS table.
    pub synack: Duration,
    /// UDP flows.
    pub udp: Duration,
    /// Echo requests that were masqueraded (RFC 5508 REQ-1: 60 seconds at least).
    pub icmp: Duration,
    /// SCTP: the client's first INIT was forwarded (INIT1).
    pub sctp_first_init: Duration,
    /// SCTP: the handshake is under way (INIT, C-SENT, C-REPLIED, C-WAIT, COOKIE, C-ECHOED).
    pub sctp_init: Duration,
    /// SCTP: both sides have the cookie.
    pub sctp_established: Duration,
    /// SCTP: SHUTDOWN or its answer was sent (S-SENT, S-RECEIVED, S-ACK-SENT).
    pub sctp_shutdown: Duration,
    /// SCTP: the first INIT was answered with ABORT.
    pub sctp_rejected: Duration,
    /// SCTP: shut down or aborted.
    pub sctp_closed: Duration,
}

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
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::preset(TimeoutPreset::default())
    }
}
