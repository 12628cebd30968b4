//! The numbers of flags and of states.

/// [`Entry::flags`](super::Entry::flags).
pub mod flag {
    /// Which of them are the forwarding method.
    pub const FORWARDING: u32 = 0x0007;
    /// Forwarding by address translation: the only method of pointsman.
    pub const MASQUERADE: u32 = 0x0000;
    /// The director itself is the server.
    pub const LOCAL_NODE: u32 = 0x0001;
    /// Forwarding by IP in IP.
    pub const TUNNEL: u32 = 0x0002;
    /// Forwarding by direct routing.
    pub const DIRECT_ROUTE: u32 = 0x0003;
    /// Forwarding past the servers, of a transparent cache.
    pub const BYPASS: u32 = 0x0004;
    /// It came by synchronisation.
    pub const SYNCHRONISED: u32 = 0x0020;
    /// It is in the table. Never sent.
    pub const HASHED: u32 = 0x0040;
    /// Replies do not pass the director.
    pub const NO_OUTPUT: u32 = 0x0080;
    /// Not established, or over: it counts as an inactive connection. UDP and templates have it.
    pub const INACTIVE: u32 = 0x0100;
    /// Sequence numbers of the server's segments are shifted.
    pub const OUT_SEQUENCE: u32 = 0x0200;
    /// Sequence numbers of the client's segments are shifted.
    pub const IN_SEQUENCE: u32 = 0x0400;
    /// Either of them: then there is [`Entry::sequences`](super::super::Entry::sequences).
    pub const SEQUENCES: u32 = OUT_SEQUENCE | IN_SEQUENCE;
    /// The client's port is not known yet (FTP data).
    pub const NO_CLIENT_PORT: u32 = 0x0800;
    /// It is no connection but a template of persistence; the client's port is 0.
    pub const TEMPLATE: u32 = 0x1000;
    /// Forwards one packet. Never sent.
    pub const ONE_PACKET: u32 = 0x2000;
    /// What a backup takes over into a new entry.
    pub const BACKUP: u32 =
        FORWARDING | NO_OUTPUT | INACTIVE | SEQUENCES | NO_CLIENT_PORT | TEMPLATE;
    /// What it takes over into an entry that it has.
    pub const BACKUP_UPDATE: u32 = INACTIVE | SEQUENCES;
}

/// [`Entry::state`](super::Entry::state) of a connection of UDP, the only one.
pub const UDP_NORMAL: u16 = 0;
/// [`Entry::state`](super::Entry::state) of a template at first, and always with older kernels.
pub const TEMPLATE_NONE: u16 = 0;
/// [`Entry::state`](super::Entry::state) of a template of which a connection was established.
pub const TEMPLATE_ASSURED: u16 = 1;

/// [`Entry::state`](super::Entry::state) of a connection of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum TcpState {
    /// `NONE`.
    None = 0,
    /// `ESTABLISHED`.
    Established = 1,
    /// `SYN_SENT`: the server sent a SYN first.
    SynSent = 2,
    /// `SYN_RECV`: the client sent a SYN.
    SynRecv = 3,
    /// `FIN_WAIT`: the server sent a FIN.
    FinWait = 4,
    /// `TIME_WAIT`.
    TimeWait = 5,
    /// `CLOSE`.
    Close = 6,
    /// `CLOSE_WAIT`: the client sent a FIN.
    CloseWait = 7,
    /// `LAST_ACK`.
    LastAck = 8,
    /// `LISTEN`.
    Listen = 9,
    /// `SYNACK`.
    SynAck = 10,
}

impl TcpState {
    /// All of them, by their number.
    pub const ALL: [Self; 11] = [
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
    ];

    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The state with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// [`Entry::state`](super::Entry::state) of an association of SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum SctpState {
    /// `NONE`.
    None = 0,
    /// `INIT1`: the client's first INIT.
    Init1 = 1,
    /// `INIT`.
    Init = 2,
    /// `COOKIE_SENT`: the server's INIT ACK.
    CookieSent = 3,
    /// `COOKIE_REPLIED`: the client's COOKIE ECHO.
    CookieReplied = 4,
    /// `COOKIE_WAIT`: the server's INIT.
    CookieWait = 5,
    /// `COOKIE`: the client's INIT ACK.
    Cookie = 6,
    /// `COOKIE_ECHOED`: the server's COOKIE ECHO.
    CookieEchoed = 7,
    /// `ESTABLISHED`.
    Established = 8,
    /// `SHUTDOWN_SENT`: the server's SHUTDOWN.
    ShutdownSent = 9,
    /// `SHUTDOWN_RECEIVED`: the client's SHUTDOWN.
    ShutdownReceived = 10,
    /// `SHUTDOWN_ACK_SENT`: the server's SHUTDOWN ACK.
    ShutdownAckSent = 11,
    /// `REJECTED`.
    Rejected = 12,
    /// `CLOSED`.
    Closed = 13,
}

impl SctpState {
    /// All of them, by their number.
    pub const ALL: [Self; 14] = [
        Self::None,
        Self::Init1,
        Self::Init,
        Self::CookieSent,
        Self::CookieReplied,
        Self::CookieWait,
        Self::Cookie,
        Self::CookieEchoed,
        Self::Established,
        Self::ShutdownSent,
        Self::ShutdownReceived,
        Self::ShutdownAckSent,
        Self::Rejected,
        Self::Closed,
    ];

    /// Its number.
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The state with this number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}
