//! From a command line to a command, with ipvsadm's complaints.
//!
//! What is wrong is found in ipvsadm's order: options from left to right with their values, then
//! words that are no options, then options that the command does not take or lacks, then what
//! does not go together.

use std::net::SocketAddr;

use super::command::{
    Command, Forwarding, Granularity, Listing, Persistence, SchedulerFlags, ServerSpec, ServiceKey,
    ServiceSpec, View, What, unspecified,
};
use super::names::Names;
use super::options::{self, Item, Items, OPTIONS, Token, Verb};
use super::parameters::{check_value, scheduler_flags, timeout, timeouts, whole};
use super::popt::{BadOption, Given, Words};
use super::value::{self, number};
use crate::service::Protocol;

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Complaint {
    /// Nothing that can be understood: the usage is hinted at.
    #[error("no command")]
    NoCommand,
    /// An option is unknown or lacks its value. Of `-R`, the next line goes on.
    #[error(transparent)]
    Option(#[from] BadOption),
    /// The command cannot be.
    #[error("{0}")]
    Wrong(String),
}

pub(super) type Parsed<T> = Result<T, Complaint>;

pub(super) fn wrong<T>(message: impl Into<String>) -> Parsed<T> {
    Err(Complaint::Wrong(message.into()))
}

/// The command of a command line (without the program's name).
pub(super) fn parse(words: &[String], names: &dyn Names) -> Parsed<Command> {
    let mut words = Words::new(OPTIONS, words);
    let Ok(Some(first)) = words.next() else { return Err(Complaint::NoCommand) };
    let Token::Verb(verb) = first.token else { return Err(Complaint::NoCommand) };
    if verb == Verb::Help {
        return Ok(Command::Help);
    }
    if verb == Verb::Version {
        return Ok(Command::Version);
    }
    if verb == Verb::StartDaemon {
        check_role(&first, "illegal start-daemon parameter specified")?;
    } else if verb == Verb::StopDaemon {
        check_role(&first, "illegal start_daemon specified")?;
    }
    let mut draft = Draft::new(verb, names);
    while let Some(given) = words.next()? {
        draft.take(&given)?;
    }
    draft.finish(words.others)
}

fn check_role(given: &Given<'_, Token>, message: &str) -> Parsed<()> {
    match given.value {
        Some("master" | "backup") => Ok(()),
        _ => wrong(message),
    }
}

/// What the options have said so far.
struct Draft<'a> {
    verb: Verb,
    names: &'a dyn Names,
    given: Items,
    /// The service: its protocol, for the names of ports.
    protocol: Option<Protocol>,
    address: SocketAddr,
    mark: Option<u32>,
    granularity: Granularity,
    scheduler: &'a str,
    flags: &'a str,
    timeout: u32,
    engine: &'a str,
    server: ServerSpec,
    tunnel: &'a str,
}

impl<'a> Draft<'a> {
    fn new(verb: Verb, names: &'a dyn Names) -> Self {
        let nowhere = SocketAddr::new(unspecified(false), 0);
        Self {
            verb,
            names,
            given: Items::default(),
            protocol: None,
            address: nowhere,
            mark: None,
            granularity: whole(false),
            scheduler: "",
            flags: "",
            timeout: Persistence::TIMEOUT,
            engine: "",
            server: ServerSpec {
                address: nowhere,
                forwarding: Forwarding::default(),
                weight: 1,
                upper: 0,
                lower: 0,
            },
            tunnel: "ipip",
        }
    }

    /// One option after the command.
    fn take(&mut self, given: &Given<'a, Token>) -> Parsed<()> {
        let value = given.value.unwrap_or_default();
        match given.token {
            Token::Verb(_) => wrong(format!("invalid option `{}'", given.word)),
            Token::Sort => Ok(()),
            Token::Ipv6 => self.take_ipv6(),
            Token::Endpoint(protocol) => {
                self.note(Item::Service)?;
                self.take_endpoint(protocol, value)
            }
            Token::Mark => {
                self.note(Item::Service)?;
                let Some(mark) = number(value, 1..=u32::MAX) else {
                    return wrong(format!("invalid fwmark value `{value}' specified"));
                };
                self.mark = Some(mark);
                self.protocol = Some(Protocol::Tcp);
                Ok(())
            }
            Token::Forward(forwarding) => {
                self.note(Item::Forwarding)?;
                self.server.forwarding = forwarding;
                Ok(())
            }
            Token::Item(item) => {
                self.note(item)?;
                self.take_item(item, given.value)
            }
        }
    }

    fn note(&mut self, item: Item) -> Parsed<()> {
        self.given.note(item).map_err(Complaint::Wrong)
    }

    fn take_ipv6(&mut self) -> Parsed<()> {
        if self.mark.is_none() {
            // With an empty line after it, as ipvsadm has it.
            return wrong("-6 used before -f\n");
        }
        self.address = SocketAddr::new(unspecified(true), 0);
        self.granularity = whole(true);
        Ok(())
    }

    fn take_endpoint(&mut self, protocol: Protocol, value: &str) -> Parsed<()> {
        self.protocol = Some(protocol);
        let Some(endpoint) = value::endpoint(value, self.protocol, self.names) else {
            return wrong("illegal virtual server address[:port] specified");
        };
        self.address = value::with_port(endpoint, 0);
        if self.address.is_ipv6() {
            self.granularity = whole(true);
        }
        Ok(())
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are flags, or only checked")]
    fn take_item(&mut self, item: Item, given: Option<&'a str>) -> Parsed<()> {
        let value = given.unwrap_or_default();
        let natural = |message: &str| match number(value, 0..=i32::MAX.unsigned_abs()) {
            Some(number) => Ok(number),
            None => wrong(message),
        };
        match item {
            Item::Scheduler => self.scheduler = value,
            Item::SchedulerFlags => self.flags = value,
            Item::Engine => self.engine = value,
            Item::Persistent => {
                if let Some(value) = given {
                    self.timeout = timeout(value, 1)?;
                }
            }
            Item::Netmask => self.take_netmask(value)?,
            Item::RealServer => {
                let Some(endpoint) = value::endpoint(value, self.protocol, self.names) else {
                    return wrong("illegal real server address[:port] specified");
                };
                self.server.address = value::with_port(endpoint, self.address.port());
            }
            Item::Weight => self.server.weight = natural("illegal weight specified")?,
            Item::UpperThreshold => self.server.upper = natural("illegal u_threshold specified")?,
            Item::LowerThreshold => self.server.lower = natural("illegal l_threshold specified")?,
            Item::TunnelType => {
                if !matches!(value, "ipip" | "gue" | "gre") {
                    return wrong("illegal tunnel type specified");
                }
                self.tunnel = value;
            }
            _ => check_value(item, value)?,
        }
        Ok(())
    }

    /// The mask counts for the family that is known by now: an IPv6 service that comes later has
    /// the default.
    fn take_netmask(&mut self, value: &str) -> Parsed<()> {
        self.granularity = if self.address.is_ipv6() {
            let length = value::leading_number(value);
            match u8::try_from(length).ok().filter(|length| (1..=128).contains(length)) {
                Some(length) => Granularity::Prefix(length),
                None => return wrong("illegal ipv6 netmask specified"),
            }
        } else {
            match value::ipv4(value) {
                Some(mask) => Granularity::Mask(mask),
                None => return wrong("illegal virtual server persistent mask specified"),
            }
        };
        Ok(())
    }

    /// All options are taken: what is left is `others`.
    fn finish(self, others: Vec<&str>) -> Parsed<Command> {
        let mut others = others.into_iter();
        let timeouts = if self.verb == Verb::Set {
            Some(timeouts(others.next(), others.next(), others.next())?)
        } else {
            None
        };
        if let Some(other) = others.next() {
            return wrong(format!("unexpected argument {other}"));
        }
        let scheduler = if self.scheduler.is_empty() { "wlc" } else { self.scheduler };
        let flags = scheduler_flags(self.flags, scheduler)?;
        options::check(self.verb, self.given).map_err(Complaint::Wrong)?;
        let command = match self.verb {
            Verb::AddService => Command::AddService(self.service(scheduler, flags)?),
            Verb::EditService => Command::EditService(self.service(scheduler, flags)?),
            Verb::DeleteService => Command::DeleteService(self.key()),
            Verb::Clear => Command::Clear,
            Verb::Restore => Command::Restore,
            Verb::Save => Command::Save { numeric: self.given.has(Item::Numeric) },
            Verb::AddServer => Command::AddServer(self.key(), self.server()?),
            Verb::EditServer => Command::EditServer(self.key(), self.server()?),
            Verb::DeleteServer => Command::DeleteServer(self.key(), self.server.address),
            Verb::List => Command::List(self.listing()),
            Verb::Zero => Command::Zero(self.given.has(Item::Service).then(|| self.key())),
            Verb::Set => match timeouts {
                Some(timeouts) => Command::Set(timeouts),
                None => return Err(Complaint::NoCommand),
            },
            Verb::StartDaemon => Command::StartDaemon,
            Verb::StopDaemon => Command::StopDaemon,
            Verb::Help => Command::Help,
            Verb::Version => Command::Version,
        };
        Ok(command)
    }

    fn key(&self) -> ServiceKey {
        match self.mark {
            Some(mark) => ServiceKey::Mark { mark, ipv6: self.address.is_ipv6() },
            None => ServiceKey::Endpoint {
                protocol: self.protocol.unwrap_or(Protocol::Tcp),
                address: self.address,
            },
        }
    }

    fn service(&self, scheduler: &str, flags: SchedulerFlags) -> Parsed<ServiceSpec> {
        let persistence = self
            .given
            .has(Item::Persistent)
            .then_some(Persistence { timeout: self.timeout, granularity: self.granularity });
        let one_packet = self.given.has(Item::OnePacket);
        if self.mark.is_none() {
            if self.address.port() == 0 && persistence.is_none() {
                return wrong("Zero port specified for non-persistent service");
            }
            if one_packet && self.protocol != Some(Protocol::Udp) {
                return wrong("One-Packet Scheduling is only for UDP virtual services");
            }
        }
        Ok(ServiceSpec {
            key: self.key(),
            scheduler: scheduler.to_owned(),
            flags,
            persistence,
            one_packet,
            engine: (!self.engine.is_empty()).then(|| self.engine.to_owned()),
        })
    }

    fn server(&self) -> Parsed<ServerSpec> {
        let mut server = self.server;
        let tunneling = server.forwarding == Forwarding::Tunneling;
        if server.address.is_ipv6() != self.address.is_ipv6() && !tunneling {
            return wrong("Different address family is allowed only for tunneling servers");
        }
        if tunneling {
            options::check_tunnel(self.tunnel, self.given).map_err(Complaint::Wrong)?;
        } else if options::has_tunnel_options(self.given) {
            return wrong("Tunnel options conflict with forward method");
        }
        if server.forwarding != Forwarding::Masquerading && self.mark.is_none() {
            // What is not translated arrives at the service's port.
            server.address.set_port(self.address.port());
        }
        Ok(server)
    }

    fn listing(&self) -> Listing {
        let views = [
            (Item::Stats, View::Stats),
            (Item::Rate, View::Rate),
            (Item::Thresholds, View::Thresholds),
            (Item::PersistentConn, View::PersistentConn),
            (Item::TunnelInfo, View::TunnelInfo),
        ];
        let view = views.into_iter().find(|(item, _)| self.given.has(*item));
        let what = if self.given.has(Item::Connection) {
            What::Connections { engines: self.given.has(Item::PersistentConn) }
        } else if self.given.has(Item::Timeout) {
            What::Timeouts
        } else if self.given.has(Item::Daemon) {
            What::Daemons
        } else {
            let only = self.given.has(Item::Service).then(|| self.key());
            What::Services(view.map_or(View::Plain, |(_, view)| view), only)
        };
        Listing {
            what,
            numeric: self.given.has(Item::Numeric),
            exact: self.given.has(Item::Exact),
            sorted: !self.given.has(Item::NoSort),
        }
    }
}
