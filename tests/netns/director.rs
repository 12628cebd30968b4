//! A director in a laboratory.

use std::fs;
use std::time::Duration;

use prometheus_parse::{Scrape, Value};
use toml::Table;

use crate::lab::{Lab, eventually, forget_soon};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_pointsman");
const READY_WITHIN: Duration = Duration::from_secs(30);

/// It runs until `stop`, or until the laboratory goes.
pub(crate) struct Director<'l> {
    lab: &'l Lab,
    /// `net_af_xdp` forgets the buffers in its rings when it closes.
    forgets_buffers: bool,
    /// Services that keep no connections, but count them.
    one_packet: Vec<String>,
}

/// One worker, and three on two CPUs.
const WORKERS: [&str; 2] = ["0", "0, 1, 0"];

/// Says what the director has dropped, where a scenario fails.
struct Postmortem<'d, 'l>(&'d Director<'l>);

impl Drop for Postmortem<'_, '_> {
    fn drop(&mut self) {
        let line = "curl -sS --max-time 5 http://127.0.0.1:9464/metrics";
        if std::thread::panicking() {
            let output = self.0.lab.attempt("director", line).stdout;
            let text = String::from_utf8_lossy(&output);
            let nonzero =
                text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
            eprintln!("metrics above 0:");
            nonzero.for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Runs a scenario with one worker and with three, in one laboratory. Each time every packet is
/// accounted for, and no connection, packet or buffer is left at the end.
pub(crate) fn with_one_and_three_workers(
    lab: &Lab,
    change: impl Fn(&mut Table),
    scenario: impl Fn(&Director<'_>),
) {
    for workers in WORKERS {
        eprintln!("workers: {workers}");
        let mut config = lab.config(workers);
        forget_soon(&mut config);
        change(&mut config);
        let director = lab.direct(&config);
        let postmortem = Postmortem(&director);
        scenario(&director);
        drop(postmortem);
        director.balanced_metrics();
        director.is_empty_again();
        director.stop();
    }
}

impl<'l> Director<'l> {
    pub(crate) fn start(lab: &'l Lab, config: &Table) -> Self {
        let file = lab.state().join("pointsman.toml");
        let text = toml::to_string(config).unwrap();
        let forgets_buffers = text.contains("net_af_xdp");
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        lab.lab(&["start", "director", "pointsman", BINARY, "run", "--config", file]);
        let director = Self { lab, forgets_buffers, one_packet: one_packet_services(config) };
        eventually(READY_WITHIN, "the director is ready", || {
            let ended = lab.state().join("pointsman.exit").exists();
            assert!(!ended, "the director ended at once:\n{}", lab.log("pointsman"));
            director.is_ready().then_some(())
        });
        director
    }

    fn is_ready(&self) -> bool {
        let line = "curl -sf --max-time 2 -o /dev/null http://127.0.0.1:9464/readyz";
        self.lab.attempt("director", line).status.success()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let line = "curl -sSf --max-time 5 http://127.0.0.1:9464/metrics";
        let text = self.lab.run("director", line);
        Metrics::parse(&text)
    }

    /// Metrics at a moment when every packet is accounted for: the conservation law, for the sum
    /// and for each worker.
    pub(crate) fn balanced_metrics(&self) -> Metrics {
        eventually(Duration::from_secs(10), "every packet is accounted for", || {
            let metrics = self.metrics();
            metrics.is_balanced().then_some(metrics)
        })
    }

    /// All connections are forgotten, by the tables, the services and the servers.
    pub(crate) fn is_empty_again(&self) {
        let gauges = [
            "connection_table_used",
            "connections",
            "masquerade_connections",
            "control_connections",
            "service_active_connections",
            "service_inactive_connections",
            "packets_held",
        ];
        // A scrape reads one after the other, while the last connection may end.
        let metrics = eventually(Duration::from_secs(20), &format!("{gauges:?} are 0"), || {
            let metrics = self.metrics();
            gauges.iter().all(|gauge| metrics.sum(gauge, &[]) == 0).then_some(metrics)
        });
        let of =
            |service: &String| metrics.sum("service_connections_total", &[("service", service)]);
        let kept = metrics.sum("service_connections_total", &[])
            - self.one_packet.iter().map(of).sum::<u64>();
        let opened = kept + metrics.sum("masquerade_connections_total", &[]);
        assert_eq!(metrics.sum("connections_expired_total", &[]), opened);
    }

    /// SIGTERM: it ends with code 0, and says that every packet and every buffer is accounted for.
    pub(crate) fn stop(self) {
        let forgets_buffers = self.forgets_buffers;
        let account = self.stop_with_account();
        assert!(account.contains("imbalance=0 "), "{account}");
        assert!(forgets_buffers || account.contains("imbalance=0 buffers_in_use=0"), "{account}");
    }

    /// SIGTERM: it ends with code 0; its account.
    fn stop_with_account(self) -> String {
        let code = self.lab.end("pointsman");
        let log = self.lab.log("pointsman");
        assert_eq!(code, 0, "{log}");
        let mut lines = log.lines().map(plain);
        let account = lines.find(|line| line.contains(" stopped received=")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        assert!(!self.lab.state().join("pointsman.sock").exists(), "the socket is left behind");
        account
    }
}

/// The names of the services with `one_packet`.
fn one_packet_services(config: &Table) -> Vec<String> {
    let services = config.get("service").and_then(|services| services.as_array());
    let one_packet = |service: &&toml::Value| {
        service.get("one_packet").and_then(toml::Value::as_bool) == Some(true)
    };
    let named = services.into_iter().flatten().filter(one_packet);
    named.map(|service| service["name"].as_str().unwrap().to_owned()).collect()
}

/// Without colours.
pub(crate) fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// One scrape.
pub(crate) struct Metrics(Scrape);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        Self(Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap())
    }

    /// The sum of a metric's samples that have all these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let name = format!("pointsman_{name}");
        let samples = self.0.samples.iter().filter(|sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(key) == Some(*value);
            sample.metric == name && labels.iter().all(has)
        });
        let values: Vec<_> = samples.map(|sample| number(&sample.value)).collect();
        assert!(!values.is_empty(), "/metrics has no {name} {labels:?}");
        values.iter().sum()
    }

    /// Drops by reason, without those that any network causes: frames for others, which a switch
    /// floods.
    pub(crate) fn drops(&self) -> Vec<(String, u64)> {
        let mut drops = std::collections::BTreeMap::new();
        for sample in &self.0.samples {
            if sample.metric == "pointsman_packets_dropped_total" {
                let reason = sample.labels.get("reason").unwrap().to_owned();
                *drops.entry(reason).or_insert(0) += number(&sample.value);
            }
        }
        drops.into_iter().filter(|(reason, n)| *n > 0 && reason != "not_for_us").collect()
    }

    /// New connections by real server, in the order of their addresses.
    pub(crate) fn connections(&self, service: &str) -> Vec<u64> {
        let mut servers = Vec::new();
        for sample in &self.0.samples {
            if sample.metric == "pointsman_server_connections_total"
                && sample.labels.get("service") == Some(service)
            {
                let server = sample.labels.get("server").unwrap().to_owned();
                servers.push((server, number(&sample.value)));
            }
        }
        servers.sort_by(|one, other| one.0.cmp(&other.0));
        servers.into_iter().map(|(_, connections)| connections).collect()
    }

    pub(crate) fn workers(&self) -> Vec<String> {
        let polls = "pointsman_packets_received_total";
        let samples = self.0.samples.iter().filter(|sample| sample.metric == polls);
        samples.map(|sample| sample.labels.get("worker").unwrap().to_owned()).collect()
    }

    fn is_balanced(&self) -> bool {
        let of = |worker: &str| {
            let labels = [("worker", worker)];
            let sum = |name| self.sum(name, &labels);
            let handed = |direction| {
                self.sum("packets_handed_over_total", &[labels[0], ("direction", direction)])
            };
            let came =
                sum("packets_received_total") + handed("in") + sum("packets_originated_total");
            let went = sum("packets_transmitted_total")
                + handed("out")
                + sum("packets_consumed_total")
                + sum("packets_dropped_total")
                + sum("packets_held");
            (came, went)
        };
        let accounts: Vec<_> = self.workers().iter().map(|worker| of(worker)).collect();
        assert!(accounts.iter().any(|(came, _)| *came > 0), "no packet at all");
        let out = self.sum("packets_handed_over_total", &[("direction", "out")]);
        let taken = self.sum("packets_handed_over_total", &[("direction", "in")]);
        out == taken && accounts.iter().all(|(came, went)| came == went)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "all that is asked for are numbers of things"
)]
fn number(value: &Value) -> u64 {
    match value {
        Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => *n as u64,
        Value::Histogram(_) | Value::Summary(_) => panic!("pointsman has neither"),
    }
}
