//! The options of ipvsadm 1.31, and which command takes which.

use super::popt::{Known, Value};

/// What a command line asks for: its first option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    AddService,
    EditService,
    DeleteService,
    Clear,
    Restore,
    Save,
    AddServer,
    EditServer,
    DeleteServer,
    List,
    Zero,
    Set,
    StartDaemon,
    StopDaemon,
    Help,
    Version,
}

impl Verb {
    /// Its name in complaints.
    const fn name(self) -> &'static str {
        match self {
            Self::AddService => "add-service",
            Self::EditService => "edit-service",
            Self::DeleteService => "delete-service",
            Self::Clear => "flush",
            Self::Restore => "restore",
            Self::Save => "save",
            Self::AddServer => "add-server",
            Self::EditServer => "edit-server",
            Self::DeleteServer => "delete-server",
            Self::List => "list",
            Self::Zero => "zero",
            Self::Set => "set",
            Self::StartDaemon => "start-daemon",
            Self::StopDaemon => "stop-daemon",
            Self::Help => "help",
            Self::Version => "version",
        }
    }
}

/// What can be given once, in the order in which it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Forwarding,
    Weight,
    UpperThreshold,
    LowerThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    OnePacket,
    Engine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxLen,
    TunnelInfo,
    TunnelType,
    TunnelPort,
    TunnelNoChecksum,
    TunnelChecksum,
    TunnelRemoteChecksum,
}

use Item::{
    Connection, Daemon, Engine, Exact, Forwarding, LowerThreshold, McastGroup, McastInterface,
    McastPort, McastTtl, Netmask, NoSort, Numeric, OnePacket, Persistent, PersistentConn, Rate,
    RealServer, Scheduler, SchedulerFlags, Service, Stats, SyncId, SyncMaxLen, Thresholds, Timeout,
    TunnelChecksum, TunnelInfo, TunnelNoChecksum, TunnelPort, TunnelRemoteChecksum, TunnelType,
    UpperThreshold, Weight,
};

const ITEMS: &[(Item, &str)] = &[
    (Numeric, "numeric"),
    (Connection, "connection"),
    (Service, "service-address"),
    (Scheduler, "scheduler"),
    (Persistent, "persistent"),
    (Netmask, "netmask"),
    (RealServer, "real-server"),
    (Forwarding, "forwarding-method"),
    (Weight, "weight"),
    (UpperThreshold, "u-threshold"),
    (LowerThreshold, "l-threshold"),
    (McastInterface, "mcast-interface"),
    (Timeout, "timeout"),
    (Daemon, "daemon"),
    (Stats, "stats"),
    (Rate, "rate"),
    (Thresholds, "thresholds"),
    (PersistentConn, "persistent-conn"),
    (NoSort, "nosort"),
    (SyncId, "syncid"),
    (Exact, "exact"),
    (OnePacket, "ops"),
    (Engine, "pe"),
    (SchedulerFlags, "sched-flags"),
    (McastGroup, "mcast-group"),
    (McastPort, "mcast-port"),
    (McastTtl, "mcast-ttl"),
    (SyncMaxLen, "sync-maxlen"),
    (TunnelInfo, "tun-info"),
    (TunnelType, "tun-type"),
    (TunnelPort, "tun-port"),
    (TunnelNoChecksum, "tun-nocsum"),
    (TunnelChecksum, "tun-csum"),
    (TunnelRemoteChecksum, "tun-remcsum"),
];

/// Items that were given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Items(u64);

impl Items {
    pub(super) fn has(self, item: Item) -> bool {
        self.0 & 1 << item as u64 != 0
    }

    pub(super) fn has_any(self, items: &[Item]) -> bool {
        items.iter().any(|item| self.has(*item))
    }

    /// Notes an item; it must be the first of its kind.
    pub(super) fn note(&mut self, item: Item) -> Result<(), String> {
        if self.has(item) {
            return Err(format!("multiple '{}' options specified", name(item)));
        }
        self.0 |= 1 << item as u64;
        Ok(())
    }
}

fn name(item: Item) -> &'static str {
    ITEMS.iter().find(|(known, _)| *known == item).map_or("", |(_, name)| name)
}

/// What something takes of the items.
struct Takes {
    /// These are needed.
    must: &'static [Item],
    /// These may be there.
    may: &'static [Item],
    /// Of these, at most one may be there.
    one_of: &'static [Item],
}

impl Takes {
    const NOTHING: Self = Self::some(&[], &[]);

    const fn some(must: &'static [Item], may: &'static [Item]) -> Self {
        Self { must, may, one_of: &[] }
    }

    /// Checks the items among `among`; `owner` is "command" or "tunnel type".
    fn check(&self, given: Items, among: &[Item], name: &str, owner: &str) -> Result<(), String> {
        let mut chosen = None;
        for (item, item_name) in ITEMS.iter().filter(|(item, _)| among.contains(item)) {
            let (is_given, is_needed) = (given.has(*item), self.must.contains(item));
            let known = is_needed || self.may.contains(item) || self.one_of.contains(item);
            if is_needed && !is_given {
                return Err(format!(
                    "You need to supply the '{item_name}' option for the '{name}' {owner}"
                ));
            }
            if is_given && !known {
                return Err(format!("Illegal '{item_name}' option with the '{name}' {owner}"));
            }
            let choice = (is_given && self.one_of.contains(item)).then_some(item_name);
            if let (Some(first), Some(second)) = (chosen, choice) {
                return Err(format!(
                    "The option '{second}' conflicts with the '{first}' option in the '{name}' \
                     {owner}"
                ));
            }
            chosen = chosen.or(choice);
        }
        Ok(())
    }
}

const TUNNEL: &[Item] =
    &[TunnelType, TunnelPort, TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum];

const fn takes(verb: Verb) -> Takes {
    match verb {
        Verb::AddService | Verb::EditService => Takes::some(
            &[Service],
            &[Scheduler, Persistent, Netmask, OnePacket, Engine, SchedulerFlags],
        ),
        Verb::DeleteService => Takes::some(&[Service], &[]),
        Verb::Save => Takes::some(&[], &[Numeric]),
        Verb::AddServer | Verb::EditServer => Takes::some(
            &[Service, RealServer],
            &[
                Forwarding,
                Weight,
                UpperThreshold,
                LowerThreshold,
                TunnelType,
                TunnelPort,
                TunnelNoChecksum,
                TunnelChecksum,
                TunnelRemoteChecksum,
            ],
        ),
        Verb::DeleteServer => Takes::some(&[Service, RealServer], &[]),
        Verb::List => Takes {
            must: &[],
            may: &[
                Numeric,
                Stats,
                Rate,
                Thresholds,
                PersistentConn,
                NoSort,
                SyncId,
                Exact,
                TunnelInfo,
            ],
            one_of: &[Connection, Service, Timeout, Daemon],
        },
        Verb::Zero => Takes::some(&[], &[Service]),
        Verb::StartDaemon => {
            Takes::some(&[], &[McastInterface, SyncId, SyncMaxLen, McastGroup, McastPort, McastTtl])
        }
        Verb::StopDaemon => Takes::some(&[], &[SyncId]),
        Verb::Clear | Verb::Restore | Verb::Set | Verb::Help | Verb::Version => Takes::NOTHING,
    }
}

/// Whether the command takes what is given, and has what it needs.
pub(super) fn check(verb: Verb, given: Items) -> Result<(), String> {
    let all: Vec<_> = ITEMS.iter().map(|(item, _)| *item).collect();
    takes(verb).check(given, &all, verb.name(), "command")?;
    let alone = [Connection, Timeout, Daemon];
    let views = [Stats, Rate, Thresholds, PersistentConn];
    let templates = given.has(Connection) && !given.has_any(&views[..3]);
    if verb == Verb::List && given.has_any(&alone) && given.has_any(&views) && !templates {
        return Err("options conflicts in the list command".into());
    }
    Ok(())
}

/// Whether any option of tunnels is given.
pub(super) fn has_tunnel_options(given: Items) -> bool {
    given.has_any(TUNNEL)
}

/// Whether a tunnel of this type takes the options that are given.
pub(super) fn check_tunnel(kind: &str, given: Items) -> Result<(), String> {
    const GUE: Takes = Takes {
        must: &[TunnelPort],
        may: &[TunnelType],
        one_of: &[TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum],
    };
    const GRE: Takes =
        Takes { must: &[], may: &[TunnelType], one_of: &[TunnelNoChecksum, TunnelChecksum] };
    let takes = match kind {
        "gue" => GUE,
        "gre" => GRE,
        _ => Takes::some(&[], &[TunnelType]),
    };
    takes.check(given, TUNNEL, kind, "tunnel type")
}

/// An option of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Verb(Verb),
    Item(Item),
    /// `-t`, `-u`, `--sctp-service`: an [`Item::Service`].
    Endpoint(crate::service::Protocol),
    /// `-f`: an [`Item::Service`].
    Mark,
    /// `-6`
    Ipv6,
    /// `-g`, `-i`, `-m`: an [`Item::Forwarding`].
    Forward(super::command::Forwarding),
    /// `--sort`, which does nothing.
    Sort,
}

const fn known(
    token: Token,
    long: &'static str,
    short: Option<char>,
    value: Value,
) -> Known<Token> {
    Known { token, long, short, value }
}

const fn verb(verb: Verb, long: &'static str, short: Option<char>) -> Known<Token> {
    known(Token::Verb(verb), long, short, Value::No)
}

const fn flag(item: Item, long: &'static str, short: Option<char>) -> Known<Token> {
    known(Token::Item(item), long, short, Value::No)
}

const fn with_value(item: Item, long: &'static str, short: Option<char>) -> Known<Token> {
    known(Token::Item(item), long, short, Value::Must)
}

/// Every option of ipvsadm 1.31 (ipvsadm(8)).
pub(super) const OPTIONS: &[Known<Token>] = {
    use super::command::Forwarding::{Gatewaying, Masquerading, Tunneling};
    use crate::service::Protocol::{Sctp, Tcp, Udp};
    &[
        verb(Verb::AddService, "add-service", Some('A')),
        verb(Verb::EditService, "edit-service", Some('E')),
        verb(Verb::DeleteService, "delete-service", Some('D')),
        verb(Verb::Clear, "clear", Some('C')),
        verb(Verb::Restore, "restore", Some('R')),
        verb(Verb::Save, "save", Some('S')),
        verb(Verb::AddServer, "add-server", Some('a')),
        verb(Verb::EditServer, "edit-server", Some('e')),
        verb(Verb::DeleteServer, "delete-server", Some('d')),
        verb(Verb::List, "list", Some('L')),
        verb(Verb::List, "list", Some('l')),
        verb(Verb::Zero, "zero", Some('Z')),
        verb(Verb::Set, "set", None),
        known(Token::Verb(Verb::StartDaemon), "start-daemon", None, Value::Must),
        known(Token::Verb(Verb::StopDaemon), "stop-daemon", None, Value::Must),
        verb(Verb::Help, "help", Some('h')),
        verb(Verb::Version, "version", Some('v')),
        known(Token::Endpoint(Tcp), "tcp-service", Some('t'), Value::Must),
        known(Token::Endpoint(Udp), "udp-service", Some('u'), Value::Must),
        known(Token::Endpoint(Sctp), "sctp-service", None, Value::Must),
        known(Token::Mark, "fwmark-service", Some('f'), Value::Must),
        known(Token::Ipv6, "ipv6", Some('6'), Value::No),
        with_value(Scheduler, "scheduler", Some('s')),
        with_value(Engine, "pe", None),
        known(Token::Item(Persistent), "persistent", Some('p'), Value::May),
        with_value(Netmask, "netmask", Some('M')),
        with_value(RealServer, "real-server", Some('r')),
        known(Token::Forward(Masquerading), "masquerading", Some('m'), Value::No),
        known(Token::Forward(Tunneling), "ipip", Some('i'), Value::No),
        known(Token::Forward(Gatewaying), "gatewaying", Some('g'), Value::No),
        with_value(TunnelType, "tun-type", None),
        with_value(TunnelPort, "tun-port", None),
        flag(TunnelNoChecksum, "tun-nocsum", None),
        flag(TunnelChecksum, "tun-csum", None),
        flag(TunnelRemoteChecksum, "tun-remcsum", None),
        with_value(Weight, "weight", Some('w')),
        with_value(UpperThreshold, "u-threshold", Some('x')),
        with_value(LowerThreshold, "l-threshold", Some('y')),
        flag(Connection, "connection", Some('c')),
        flag(Timeout, "timeout", None),
        flag(Daemon, "daemon", None),
        flag(Stats, "stats", None),
        flag(Rate, "rate", None),
        flag(Exact, "exact", None),
        flag(Thresholds, "thresholds", None),
        flag(PersistentConn, "persistent-conn", None),
        flag(TunnelInfo, "tun-info", None),
        flag(NoSort, "nosort", None),
        known(Token::Sort, "sort", None, Value::No),
        flag(Numeric, "numeric", Some('n')),
        flag(OnePacket, "ops", Some('o')),
        with_value(SchedulerFlags, "sched-flags", Some('b')),
        with_value(SyncId, "syncid", None),
        with_value(SyncMaxLen, "sync-maxlen", None),
        with_value(McastInterface, "mcast-interface", None),
        with_value(McastGroup, "mcast-group", None),
        with_value(McastPort, "mcast-port", None),
        with_value(McastTtl, "mcast-ttl", None),
    ]
};
