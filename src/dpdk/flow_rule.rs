//! Flow rules (`rte_flow`) that spread packets over queues by one end of their flow.

use std::ffi::{CStr, c_char, c_int};
use std::net::IpAddr;
use std::ptr::{self, NonNull};

use super::error::{DpdkError, positive};
use super::port::Port;
use super::rss::HashedEnd;
use crate::ids::{PortId, QueueId};

/// Room for a driver's words.
const WHY_OCTETS: usize = 256;

/// Packets of one kind, and how they are spread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssRule {
    /// IPv6, else IPv4.
    pub ipv6: bool,
    /// UDP, else TCP.
    pub udp: bool,
    /// Behind a VLAN tag, else without one.
    pub tagged: bool,
    /// Only packets to this address, which is of the rule's address family.
    pub destination: Option<IpAddr>,
    /// What is hashed.
    pub end: HashedEnd,
    /// The key; empty: the port's.
    pub key: Vec<u8>,
    /// The table from hash to queue; empty: the port's.
    pub queues: Vec<QueueId>,
    /// 0 goes before 1.
    pub priority: u32,
}

impl RssRule {
    /// Drivers that take a table with the rule want the types of both layers, the others want that
    /// of the pattern alone.
    fn types(&self) -> u64 {
        let (network, transport) = match (self.ipv6, self.udp) {
            (false, false) => (dpdk_sys::SHIM_RSS_IPV4, dpdk_sys::SHIM_RSS_IPV4_TCP),
            (false, true) => (dpdk_sys::SHIM_RSS_IPV4, dpdk_sys::SHIM_RSS_IPV4_UDP),
            (true, false) => (dpdk_sys::SHIM_RSS_IPV6, dpdk_sys::SHIM_RSS_IPV6_TCP),
            (true, true) => (dpdk_sys::SHIM_RSS_IPV6, dpdk_sys::SHIM_RSS_IPV6_UDP),
        };
        let network = if self.queues.is_empty() { 0 } else { network };
        network | transport | self.end.types()
    }

    /// The rule in C's terms, for as long as `call` runs.
    fn with_raw<T>(&self, call: impl FnOnce(&dpdk_sys::shim_rss_rule) -> T) -> T {
        let destination = self.destination.map(|address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        });
        let queues: Vec<u16> = self.queues.iter().map(|queue| queue.0).collect();
        call(&dpdk_sys::shim_rss_rule {
            types: self.types(),
            key: pointer(&self.key),
            queues: pointer(&queues),
            destination: destination.as_deref().map_or(ptr::null(), pointer),
            key_octets: u32::try_from(self.key.len()).unwrap_or(0),
            queue_count: u32::try_from(queues.len()).unwrap_or(0),
            priority: self.priority,
            ipv6: self.ipv6.into(),
            udp: self.udp.into(),
            tagged: self.tagged.into(),
        })
    }
}

/// Null for nothing: drivers look at the pointer.
fn pointer<T>(items: &[T]) -> *const T {
    if items.is_empty() { ptr::null() } else { items.as_ptr() }
}

/// A rule that the device follows.
#[derive(Debug)]
pub(super) struct ActiveRule(NonNull<dpdk_sys::rte_flow>);

// SAFETY: DPDK takes a rule's handle on any thread; the port's lock keeps calls apart.
unsafe impl Send for ActiveRule {}

impl ActiveRule {
    /// Takes the rule back. A port that forgot it when it stopped has nothing to take back.
    pub(super) fn destroy(self, port: PortId) {
        // SAFETY: DPDK made the handle for this port, and it is given up here.
        let code = unsafe { dpdk_sys::shim_rss_rule_destroy(port.0, self.0.as_ptr()) };
        if code < 0 {
            tracing::debug!(port = port.0, code, "a flow rule does not go away");
        }
    }
}

impl Port {
    /// Has the device follow the rules, all of them or none, until the port stops. It must run.
    pub fn add_rules(&mut self, rules: &[RssRule]) -> Result<(), DpdkError> {
        let mut control = self.device().control();
        for rule in rules {
            self.validate(rule)?;
        }
        let before = control.rules.len();
        for rule in rules {
            match self.create(rule) {
                Ok(rule) => control.rules.push(rule),
                Err(error) => {
                    control.destroy_rules(before, self.id());
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn validate(&self, rule: &RssRule) -> Result<(), DpdkError> {
        let mut why = [0; WHY_OCTETS];
        let code = rule.with_raw(|raw| {
            // SAFETY: DPDK checks the port, reads the rule during the call, and writes at most as
            // many octets as it is told.
            unsafe {
                dpdk_sys::shim_rss_rule_validate(self.id().0, raw, why.as_mut_ptr(), why.len())
            }
        });
        if code < 0 { Err(self.refused("rte_flow_validate", code, &why)) } else { Ok(()) }
    }

    fn create(&self, rule: &RssRule) -> Result<ActiveRule, DpdkError> {
        let mut why = [0; WHY_OCTETS];
        let created = rule.with_raw(|raw| {
            // SAFETY: as in `validate`.
            unsafe { dpdk_sys::shim_rss_rule_create(self.id().0, raw, why.as_mut_ptr(), why.len()) }
        });
        NonNull::new(created)
            .map(ActiveRule)
            .ok_or_else(|| self.refused("rte_flow_create", 0, &why))
    }

    fn refused(&self, call: &'static str, code: c_int, why: &[c_char]) -> DpdkError {
        // SAFETY: the shim ends the text with a zero, within the room that it was given.
        let why = unsafe { CStr::from_ptr(why.as_ptr()) }.to_string_lossy().into_owned();
        let said = if why.is_empty() { Vec::new() } else { vec![why] };
        DpdkError::Call { call, subject: self.name().to_owned(), errno: positive(code), said }
    }
}
