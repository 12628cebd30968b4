//! Every metric, in one table: the exporter, `docs/metrics.md` and the tests all read it.

use std::fmt::Write;

use crate::dataplane::stats::DropReason;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only up, from 0 at the start.
    Counter,
    /// Up and down.
    Gauge,
}

impl Kind {
    /// As Prometheus writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What there is to know about a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// `pointsman_…`
    pub name: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// What is counted.
    pub unit: &'static str,
    /// Names of the labels.
    pub labels: &'static [&'static str],
    /// One sentence for the operator.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)+) => {
        /// The metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        impl Metric {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Name, kind, unit, labels, meaning.
            pub const fn info(self) -> Info {
                match self {
                    $(Self::$variant => Info {
                        name: concat!("pointsman_", $name),
                        kind: Kind::$kind,
                        unit: $unit,
                        labels: &[$($label),*],
                        help: $help,
                    },)+
                }
            }
        }
    };
}

metrics! {
    BuildInfo Gauge "build_info" "1" ["version", "commit", "dpdk"] "What runs: always 1.";
    StartTime Gauge "start_time_seconds" "seconds" [] "When the director started, since 1970-01-01 UTC.";
    ServiceTableVersion Gauge "service_table_version" "version" [] "Version of the services in force; it grows with every change.";

    Changes Counter "changes_total" "changes" ["result"] "Changes of what is wanted (services, servers, idle times, the file): applied, without effect (none), refused.";
    ChangesAcknowledged Counter "changes_acknowledged_total" "changes" [] "Changes that every worker has taken over.";
    ChangeSeconds Counter "change_acknowledge_seconds_total" "seconds" [] "Time from those changes to the last worker's acknowledgement, in all.";
    LastChangeSeconds Gauge "last_change_acknowledge_seconds" "seconds" [] "The same of the last change.";

    FailoverRole Gauge "failover_role" "1" ["group", "role"] "Whether the director has this role in its pair: 1 for one of master, backup, fault.";
    FailoverTransitions Counter "failover_transitions_total" "changes" ["group"] "Changes of the role since the start.";
    FailoverPriority Gauge "failover_priority" "1" ["group"] "The VRRP priority that it sends.";
    AdvertisementsSent Counter "failover_advertisements_sent_total" "packets" ["group"] "VRRP advertisements sent.";
    AdvertisementsReceived Counter "failover_advertisements_received_total" "packets" ["group"] "VRRP advertisements of other directors of the group.";
    AdvertisementsRefused Counter "failover_advertisements_refused_total" "packets" ["group", "reason"] "VRRP packets that did not count: forwarded (`hop_limit`), malformed, of another router (`router_id`), of another version, interval or password, or from no peer (sender).";
    AnnouncementsSent Counter "failover_announcements_total" "packets" ["group"] "Gratuitous ARP and unsolicited Neighbor Advertisements for moving addresses.";
    SyncSent Counter "failover_connections_sent_total" "connections" ["group"] "Connections told to the other director.";
    SyncReceived Counter "failover_connections_received_total" "connections" ["group"] "Connections that another director has told.";
    SyncRefused Counter "failover_connection_messages_refused_total" "packets" ["group"] "Synchronisation messages of which something was not understood, or that are of another group.";
    SyncWaiting Gauge "failover_connections_waiting" "connections" ["group"] "Connections that wait to be told: the lag.";
    ConnectionsKnown Gauge "failover_connections_known" "1" ["group", "state"] "What this director knows of the other one's connections: 1 for one of off, telling (it is the master), asking, learning, learnt, unanswered (nobody tells everything).";
    StandbyHeard Gauge "failover_standby_heard_seconds" "seconds" ["group"] "Seconds since the other director has said that it stands by; absent until it does.";
    FailoverUnreached Gauge "failover_unreached" "1" ["group"] "Whether a link is missing that some moving addresses need, while the director goes on with the others.";
    SyncLost Counter "failover_connections_lost_total" "connections" ["group"] "Connections, and messages, that found a queue full; they come again.";
    ConnectionsAdopted Counter "connections_adopted_total" "connections" ["worker"] "Connections that were taken over from another director's messages.";
    ConnectionHalves Gauge "connection_halves" "connections" ["worker"] "Connections of full NAT that another director began and whose server's packets come to another worker than the client's: each worker has a record.";
    ConnectionsNotAdopted Counter "connections_not_adopted_total" "connections" ["worker"] "Connections and templates of another director that were left out: their service, server or way back is not known here.";
    PeerHeard Gauge "failover_peer_heard_seconds" "seconds" ["group", "interface", "family"] "Time since another director was heard; absent: never.";
    FailoverLinkUp Gauge "failover_link_up" "1" ["group", "interface", "family"] "Whether the interface has a link, as failover sees it.";

    PacketsReceived Counter "packets_received_total" "packets" ["worker"] "Packets taken from receive queues.";
    OctetsReceived Counter "octets_received_total" "octets" ["worker"] "Octets of the received frames, without FCS.";
    PacketsOriginated Counter "packets_originated_total" "packets" ["worker"] "Packets that the worker made itself: ARP, Neighbor Discovery, listener reports, echo replies, errors, pieces of packets that were split.";
    PacketsTransmitted Counter "packets_transmitted_total" "packets" ["worker"] "Packets that a transmit queue took.";
    OctetsTransmitted Counter "octets_transmitted_total" "octets" ["worker"] "Octets of the transmitted frames, without FCS.";
    PacketsConsumed Counter "packets_consumed_total" "packets" ["worker"] "Packets that ended here because they were answered or understood.";
    PacketsDropped Counter "packets_dropped_total" "packets" ["worker", "reason"] "Packets dropped, by reason.";
    PacketsHeld Gauge "packets_held" "packets" ["worker"] "Packets that wait for a neighbour's Ethernet address, or for their datagram's first fragment.";
    PacketsHandedOver Counter "packets_handed_over_total" "packets" ["worker", "direction"] "Packets taken over from (in) and given to (out) other workers.";
    ErrorsSent Counter "errors_sent_total" "packets" ["worker"] "ICMP errors and TCP resets of the director's own.";
    RemovalProbes Counter "removal_probes_total" "packets" ["worker"] "Segments that ask clients of removed servers for their sequence numbers, so that they can be reset.";
    RemovalResets Counter "removal_resets_total" "packets" ["worker"] "TCP resets to clients whose server was removed.";
    ErrorsSuppressed Counter "errors_suppressed_total" "packets" ["worker"] "ICMP errors and TCP resets that the rate limit held back.";
    NoBuffer Counter "originate_failures_total" "packets" ["worker"] "Own packets that could not be made because no buffer was free.";

    Connections Gauge "connections" "connections" ["worker", "family", "state"] "Live connections by state, as IPVS names them; the states of SCTP begin with SCTP_.";
    ConnectionTableUsed Gauge "connection_table_used" "connections" ["worker", "family"] "Live connections.";
    ConnectionTableCapacity Gauge "connection_table_capacity" "connections" ["worker", "family"] "Connections that fit.";
    ConnectionsExpired Counter "connections_expired_total" "connections" ["worker", "family"] "Connections forgotten after their timeout.";

    Masqueraded Gauge "masquerade_connections" "connections" ["worker"] "Live connections that inside hosts opened.";
    MasqueradeConnections Counter "masquerade_connections_total" "connections" ["worker"] "Connections that inside hosts opened.";
    MasqueradeInPackets Counter "masquerade_in_packets_total" "packets" ["worker"] "Packets from outside of connections that inside hosts opened.";
    MasqueradeOutPackets Counter "masquerade_out_packets_total" "packets" ["worker"] "Packets to the outside of connections that inside hosts opened.";
    MasqueradeInOctets Counter "masquerade_in_octets_total" "octets" ["worker"] "Octets of those packets from outside, from the IP header on.";
    MasqueradeOutOctets Counter "masquerade_out_octets_total" "octets" ["worker"] "Octets of those packets to the outside, from the IP header on.";

    ServiceConnections Counter "service_connections_total" "connections" ["service", "listen"] "Connections scheduled; of a one-packet service, datagrams.";
    ServiceInPackets Counter "service_in_packets_total" "packets" ["service", "listen"] "Packets from clients.";
    ServiceOutPackets Counter "service_out_packets_total" "packets" ["service", "listen"] "Packets to clients.";
    ServiceInOctets Counter "service_in_octets_total" "octets" ["service", "listen"] "Octets from clients, from the IP header on.";
    ServiceOutOctets Counter "service_out_octets_total" "octets" ["service", "listen"] "Octets to clients, from the IP header on.";
    ServiceActive Gauge "service_active_connections" "connections" ["service", "listen"] "Active connections (`ActiveConn`).";
    ServiceInactive Gauge "service_inactive_connections" "connections" ["service", "listen"] "Inactive connections (`InActConn`).";

    ServerConnections Counter "server_connections_total" "connections" ["service", "listen", "server"] "Connections scheduled to the real server; of a one-packet service, datagrams.";
    ServerInPackets Counter "server_in_packets_total" "packets" ["service", "listen", "server"] "Packets from clients to the real server.";
    ServerOutPackets Counter "server_out_packets_total" "packets" ["service", "listen", "server"] "Packets from the real server to clients.";
    ServerInOctets Counter "server_in_octets_total" "octets" ["service", "listen", "server"] "Octets from clients to the real server, from the IP header on.";
    ServerOutOctets Counter "server_out_octets_total" "octets" ["service", "listen", "server"] "Octets from the real server to clients, from the IP header on.";
    ServerActive Gauge "server_active_connections" "connections" ["service", "listen", "server"] "Active connections (`ActiveConn`).";
    ServerInactive Gauge "server_inactive_connections" "connections" ["service", "listen", "server"] "Inactive connections (`InActConn`).";
    ServerTemplates Gauge "server_connection_templates" "templates" ["service", "listen", "server"] "Clients that persistence binds to the real server (`PersistConn`).";
    ServerWeight Gauge "server_weight" "weight" ["service", "listen", "server"] "Weight; 0 takes no new connections.";

    ServerState Gauge "server_state" "1" ["service", "listen", "server", "state"] "The real server's state (`in_service`, `starting` slowly, overloaded, quiesced, draining): always 1.";

    WorkerPolls Counter "worker_polls_total" "polls" ["worker", "kind"] "Rounds of the worker's loop: all, and those that found packets (busy).";
    WorkerCycles Counter "worker_cycles_total" "cycles" ["worker", "kind"] "TSC cycles of all rounds, pauses included (all), and of those that found packets (busy).";
    WorkerBusyRatio Gauge "worker_busy_ratio" "ratio" ["worker"] "Share of time with packets over the last second, 0 to 1.";
    WorkerCyclesPerPacket Gauge "worker_cycles_per_packet" "cycles" ["worker"] "TSC cycles per packet over the last second; 0 without packets.";
    WorkerBursts Counter "worker_bursts_total" "bursts" ["worker"] "Bursts of packets that were processed; packets received and handed over (in) divided by them are the packets per burst.";
    WorkerStageCycles Counter "worker_stage_cycles_total" "cycles" ["worker", "stage"] "TSC cycles by stage (receive, `look_up`, forward, transmit, housekeep), of one round in 63.";
    WorkerStagePackets Counter "worker_stage_packets_total" "packets" ["worker"] "Packets of those rounds: divide the cycles by them.";
    WorkerWaiting Gauge "worker_waiting_packets" "packets" ["worker", "queue"] "Packets that waited in the receive queues (receive; 0 where the driver cannot tell) and in the rings from other workers (`hand_over`) when last looked at.";
    TscHertz Gauge "tsc_hertz" "hertz" [] "TSC cycles in a second.";
    EventsLost Counter "events_lost_total" "events" ["worker"] "Events lost because the control thread did not empty the worker's queue.";
    Neighbors Gauge "neighbors" "neighbors" ["worker"] "Known and wanted neighbours.";
    ControlConnections Gauge "control_connections" "connections" ["worker"] "Control connections that a helper (FTP) reads.";
    UnhelpedConnections Counter "unhelped_connections_total" "connections" ["worker"] "Control connections that passed unread, because the worker had no room for another one.";
    ExpectedConnections Gauge "expected_connections" "connections" ["worker"] "Data connections that helpers expect; the first worker tells those of all.";
    Templates Gauge "connection_templates" "templates" ["worker"] "Connection templates: clients whose server persistence remembers; the first worker tells those of all.";
    TemplatesLost Counter "connection_templates_lost_total" "connections" ["worker"] "Connections of persistent services that were scheduled and are not remembered, because there was no room for another template (`persistence_templates`).";

    PortRxPackets Counter "port_rx_packets_total" "packets" ["interface", "driver"] "Packets that the port received.";
    PortTxPackets Counter "port_tx_packets_total" "packets" ["interface", "driver"] "Packets that the port sent.";
    PortRxOctets Counter "port_rx_octets_total" "octets" ["interface", "driver"] "Octets that the port received.";
    PortTxOctets Counter "port_tx_octets_total" "octets" ["interface", "driver"] "Octets that the port sent.";
    PortMissed Counter "port_missed_total" "packets" ["interface", "driver"] "Packets lost because a receive queue was full: the workers are too slow (`imissed`).";
    PortRxErrors Counter "port_rx_errors_total" "packets" ["interface", "driver"] "Broken packets received (`ierrors`).";
    PortTxErrors Counter "port_tx_errors_total" "packets" ["interface", "driver"] "Packets that the port could not send (`oerrors`).";
    PortNoBuffer Counter "port_no_buffer_total" "events" ["interface", "driver"] "Failures to find a buffer for a received packet: more mbufs are needed (`rx_nombuf`).";
    PortLinkUp Gauge "port_link_up" "0 or 1" ["interface", "driver"] "Whether the link is up.";
    PortSteering Gauge "port_steering_info" "1" ["interface", "driver", "mode", "hash_check"] "How the port's packets reach their workers (docs/steering.md), and whether its NIC hashes as that takes for granted: always 1.";
    MempoolCapacity Gauge "mempool_capacity" "buffers" ["pool"] "Packet buffers in all.";
    MempoolInUse Gauge "mempool_in_use" "buffers" ["pool"] "Packet buffers that are not free.";
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `src/control/metrics/registry.rs` with `POINTSMAN_WRITE_DOCS=1 cargo test --no-default-features --test metrics`: do not edit.\n\n\
         `http://ADDRESS/metrics` serves them in the Prometheus text format; ADDRESS is `metrics` \
         in `[director]`, 127.0.0.1:9464 unless set.\n\
         `/healthz` answers 200 while the control loop and every worker make progress, else 503 \
         and what does not. `/readyz` answers 200 when, besides, every worker polls, every link \
         is up, and every gateway, router and next hop of a real server has answered ARP or \
         Neighbor Discovery or has been given up; else 503 and what is missing.\n\n\
         For each worker, and for their sum, no packet vanishes:\n\
         `received + handed_over{in} + originated = transmitted + handed_over{out} + consumed + \
         dropped + held`.\n\n\
         `interface` is the interface on the port. A port with several, which are VLANs of it, is \
         counted once, under all their names: `outside+inside`.\n\n\
         | name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in Metric::ALL {
        let Info { name, kind, unit, labels, help } = metric.info();
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "| `{name}` | {} | {unit} | {} | {help} |",
            kind.name(),
            labels.join(", ")
        );
    }
    text.push_str(
        "\n## Reasons of `pointsman_packets_dropped_total`\n\n| reason | meaning |\n|---|---|\n",
    );
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.name(), reason.meaning().trim());
    }
    text
}
