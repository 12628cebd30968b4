//! Which ways of steering a port is tried with: a function of what its device can do.

use crate::control::SteeringMode;
use crate::dpdk::capabilities::Capabilities;
use crate::dpdk::rss::HashedEnd;
use crate::wire::toeplitz::KEY_OCTETS;

/// The sides of the director that a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// To clients: the outside party is the source of what comes.
    Outside,
    /// To real servers: it is the destination.
    Inside,
    /// To both.
    Both,
}

impl Side {
    /// The end of a flow that is the outside party; `None`: the destination tells.
    pub(super) const fn outside_end(self) -> Option<HashedEnd> {
        match self {
            Self::Outside => Some(HashedEnd::Source),
            Self::Inside => Some(HashedEnd::Destination),
            Self::Both => None,
        }
    }
}

/// What a driver wants of flow rules that spread packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuleStyle {
    /// A rule has a key and a table of its own: the two directions may share a port.
    OwnKey,
    /// A rule says what is hashed; key and table are the port's.
    PortKey,
}

/// The drivers that hash one end of a flow by flow rules. Others may take such a rule and hash all
/// the same what they always do.
const RULE_STYLES: [(&str, RuleStyle); 5] = [
    ("mlx5_pci", RuleStyle::OwnKey),
    ("net_ice", RuleStyle::PortKey),
    ("net_iavf", RuleStyle::PortKey),
    ("net_i40e", RuleStyle::PortKey),
    ("net_hns3", RuleStyle::PortKey),
];

/// How a port is to be steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// To be tried one after the other. The last one asks nothing of the device.
    pub(super) modes: Vec<SteeringMode>,
    /// How flow rules are written, where they are tried.
    pub(super) rule_style: Option<RuleStyle>,
    /// Octets of the key; 0: the device's own stays.
    pub(super) key_octets: usize,
    /// Entries of the table from hash to queue.
    pub(super) entries: usize,
}

impl Plan {
    /// Whether the NIC may come to steer.
    pub(super) fn is_hardware(&self) -> bool {
        self.modes.iter().any(|mode| mode.is_hardware())
    }
}

/// The plan for a port on a side, with so many receive queues (as far as the device has them) for
/// so many workers.
pub(super) fn plan(can: &Capabilities, side: Side, queues: u16, workers: u16) -> Plan {
    let key_octets = match usize::from(can.hash_key_octets) {
        octets @ 40..=KEY_OCTETS => octets,
        _ => 0,
    };
    let mut plan = Plan {
        modes: Vec::new(),
        rule_style: None,
        key_octets,
        entries: usize::from(can.reta_size),
    };
    if workers <= 1 {
        plan.modes.push(SteeringMode::OneWorker);
        return plan;
    }
    if queues.min(can.max_rx_queues) <= 1 || can.rss_types == 0 {
        plan.modes.push(SteeringMode::Software);
        return plan;
    }
    if key_octets != 0 && plan.entries.is_power_of_two() {
        plan.rule_style = rule_style(can, side);
        if plan.rule_style.is_some() {
            plan.modes.push(SteeringMode::FlowRules);
        }
        let only = side.outside_end().map_or(0, HashedEnd::types);
        if only != 0 && can.rss_types & only == only {
            plan.modes.push(SteeringMode::HashedEnd);
        }
    }
    plan.modes.extend([SteeringMode::WholeFlow, SteeringMode::Software]);
    plan
}

fn rule_style(can: &Capabilities, side: Side) -> Option<RuleStyle> {
    let (_, style) = RULE_STYLES.iter().find(|(driver, _)| *driver == can.driver)?;
    (side != Side::Both || *style == RuleStyle::OwnKey).then_some(*style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::SteeringMode::{FlowRules, HashedEnd as OneEnd, Software, WholeFlow};

    const IP_TCP_UDP: u64 = dpdk_sys::SHIM_RSS_IP | dpdk_sys::SHIM_RSS_TCP | dpdk_sys::SHIM_RSS_UDP;
    const ONE_END: u64 = dpdk_sys::SHIM_RSS_SOURCE_ONLY | dpdk_sys::SHIM_RSS_DESTINATION_ONLY;

    /// Driver, queues, hash types, table, key, and what is tried on a port of one side and on one
    /// of both.
    type Recorded = (&'static str, u16, u64, u16, u8, &'static [SteeringMode], SteeringMode);

    /// What drivers say in `rte_eth_dev_info`, as far as steering goes by it.
    const RECORDED: [Recorded; 15] = [
        (
            "mlx5_pci",
            1024,
            IP_TCP_UDP | ONE_END,
            512,
            40,
            &[FlowRules, OneEnd, WholeFlow, Software],
            FlowRules,
        ),
        ("net_ice", 64, IP_TCP_UDP, 512, 52, &[FlowRules, WholeFlow, Software], WholeFlow),
        ("net_i40e", 64, IP_TCP_UDP, 512, 52, &[FlowRules, WholeFlow, Software], WholeFlow),
        ("net_iavf", 16, IP_TCP_UDP, 64, 52, &[FlowRules, WholeFlow, Software], WholeFlow),
        (
            "net_hns3",
            64,
            IP_TCP_UDP | ONE_END,
            512,
            40,
            &[FlowRules, OneEnd, WholeFlow, Software],
            WholeFlow,
        ),
        ("net_cn10k", 64, IP_TCP_UDP | ONE_END, 256, 48, &[OneEnd, WholeFlow, Software], WholeFlow),
        ("net_ixgbe", 128, IP_TCP_UDP, 128, 40, &[WholeFlow, Software], WholeFlow),
        ("net_ena", 32, IP_TCP_UDP, 128, 40, &[WholeFlow, Software], WholeFlow),
        ("net_virtio", 8, IP_TCP_UDP, 128, 40, &[WholeFlow, Software], WholeFlow),
        ("net_virtio", 1, 0, 0, 0, &[Software], Software),
        ("net_vmxnet3", 16, IP_TCP_UDP, 0, 0, &[WholeFlow, Software], WholeFlow),
        ("net_af_packet", 16, 0, 0, 0, &[Software], Software),
        ("net_null", 1024, 0x2_003f_fffc, 128, 0, &[WholeFlow, Software], WholeFlow),
        ("net_pcap", 1, 0, 0, 0, &[Software], Software),
        ("net_ring", 1, 0, 0, 0, &[Software], Software),
    ];

    fn capabilities(recorded: &Recorded) -> Capabilities {
        let (driver, max_rx_queues, rss_types, reta_size, hash_key_octets, ..) = *recorded;
        Capabilities {
            driver: driver.to_owned(),
            max_rx_queues,
            rss_types,
            reta_size,
            hash_key_octets,
            ..Capabilities::default()
        }
    }

    #[test]
    fn every_driver_is_tried_with_the_best_that_it_can() {
        for recorded in &RECORDED {
            let (driver, .., one_side, both) = recorded;
            let can = capabilities(recorded);
            for side in [Side::Outside, Side::Inside] {
                assert_eq!(plan(&can, side, 4, 4).modes, *one_side, "{driver}, {side:?}");
            }
            assert_eq!(plan(&can, Side::Both, 4, 4).modes[0], *both, "{driver}");
        }
    }

    #[test]
    fn one_worker_needs_no_steering_and_one_queue_cannot_be_spread() {
        for recorded in &RECORDED {
            let can = capabilities(recorded);
            assert_eq!(plan(&can, Side::Outside, 1, 1).modes, [SteeringMode::OneWorker]);
            assert_eq!(plan(&can, Side::Outside, 1, 4).modes, [Software]);
        }
    }

    #[test]
    fn a_table_that_lower_bits_do_not_index_and_a_key_that_cannot_be_set_rule_hardware_out() {
        let mut can = capabilities(&RECORDED[0]);
        assert!(plan(&can, Side::Outside, 4, 4).is_hardware());
        can.reta_size = 100;
        assert_eq!(plan(&can, Side::Outside, 4, 4).modes, [WholeFlow, Software]);
        (can.reta_size, can.hash_key_octets) = (512, 0);
        assert_eq!(plan(&can, Side::Outside, 4, 4).modes, [WholeFlow, Software]);
    }

    #[test]
    fn key_and_table_come_with_the_rule_where_the_driver_wants_them_there() {
        let style =
            |place: usize| plan(&capabilities(&RECORDED[place]), Side::Inside, 4, 4).rule_style;
        assert_eq!(style(0), Some(RuleStyle::OwnKey));
        assert_eq!(style(1), Some(RuleStyle::PortKey));
        assert_eq!(style(6), None);
        assert_eq!(plan(&capabilities(&RECORDED[1]), Side::Inside, 4, 4).key_octets, 52);
    }
}
