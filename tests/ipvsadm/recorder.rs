//! A director that writes down what it is asked for, as the stand-in for the kernel did when
//! `tests/oracle/ipvsadm_arguments.json` was recorded.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use pointsman::cli::ipvsadm::{
    ConnectionSink, Director, Failure, Persistence, Refusal, ServerSpec, ServiceKey, ServiceRow,
    ServiceSpec, Timeouts,
};

/// What is written on stderr and what the director is asked for, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<String>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        self.0.borrow().clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push_str(std::str::from_utf8(octets).unwrap());
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Recorder {
    pub(crate) log: Log,
    /// The error of every change.
    pub(crate) answer: Option<Refusal>,
}

impl Recorder {
    fn note(&self, what: &str) -> Result<(), Refusal> {
        writeln!(self.log.0.borrow_mut(), "[{what}]").unwrap();
        self.answer.clone().map_or(Ok(()), Err)
    }

    fn service(&self, operation: &str, spec: &ServiceSpec) -> Result<(), Refusal> {
        let mut text = format!("{operation} {} {}", which(&spec.key), spec.scheduler);
        if let Some(persistence) = &spec.persistence {
            let Persistence { timeout, granularity } = persistence;
            write!(text, " persistent {timeout} mask {granularity}").unwrap();
        }
        let flags = [
            (spec.one_packet, " one-packet"),
            (spec.flags.fallback, " flag-1"),
            (spec.flags.port, " flag-2"),
            (spec.flags.third, " flag-3"),
        ];
        flags.iter().filter(|(set, _)| *set).for_each(|(_, name)| text += name);
        self.note(&text)
    }

    fn server(&self, operation: &str, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        let ServerSpec { address, weight, upper, lower, .. } = spec;
        self.note(&format!(
            "{operation} {} {address} masquerading weight {weight} upper {upper} lower {lower}",
            which(key)
        ))
    }
}

fn which(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Endpoint { protocol, address } => format!("{protocol} {address}"),
        ServiceKey::Mark { mark, .. } => format!("mark {mark}"),
    }
}

impl Director for Recorder {
    fn capacity(&mut self) -> Result<u64, Refusal> {
        Ok(4096)
    }

    fn services(&mut self) -> Result<Vec<ServiceRow>, Refusal> {
        Ok(Vec::new())
    }

    fn connections(&mut self, _: &mut ConnectionSink<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn timeouts(&mut self) -> Result<Timeouts, Refusal> {
        Ok(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 })
    }

    fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        self.service("add-service", spec)
    }

    fn edit_service(&mut self, spec: &ServiceSpec) -> Result<(), Refusal> {
        self.service("edit-service", spec)
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), Refusal> {
        self.note(&format!("delete-service {}", which(key)))
    }

    fn clear(&mut self) -> Result<(), Refusal> {
        self.note("clear")
    }

    fn add_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        self.server("add-server", key, spec)
    }

    fn edit_server(&mut self, key: &ServiceKey, spec: &ServerSpec) -> Result<(), Refusal> {
        self.server("edit-server", key, spec)
    }

    fn delete_server(&mut self, key: &ServiceKey, server: SocketAddr) -> Result<(), Refusal> {
        self.note(&format!("delete-server {} {server}", which(key)))
    }

    fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Refusal> {
        self.note(&format!("zero {}", key.map_or_else(|| "all".into(), which)))
    }

    fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Refusal> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        self.note(&format!("set {tcp} {tcp_fin} {udp}"))
    }
}
