//! Two ports, two lcores, and the trials that they run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pointsman::dpdk::eal::{Eal, EalArgs};
use pointsman::dpdk::lcore::LcoreId;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::port::{Port, PortSettings};

use super::client_side::{ClientSide, Offered};
use super::link::Link;
use super::metrics::Reading;
use super::numbers::fraction;
use super::plan::{Progress, Step};
use super::server_side::{Served, ServerSide};
use super::settings::{LabArgs, Scene};
use super::station::Station;
use super::trial::{Load, Trial};
use crate::results::say;
use pointsman_bench::flows::Transport;

/// Octets of an Ethernet frame on the wire beside the frame: preamble and gap.
const BETWEEN_FRAMES: u32 = 20;
/// How long an answer to the question for the director's address may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// Connections of one lesson for the director.
const LESSONS: u32 = 32;
const LESSONS_A_SECOND: f64 = 500.0;
/// Octets of packet in an mbuf.
const DATA_ROOM: u16 = 2048;
/// Mbufs that an lcore keeps for itself.
const CACHE: u32 = 256;
/// How often a memif port tries to find its other side, and a link is looked at.
const POLL: Duration = Duration::from_millis(50);
/// The clients' lcore, and the servers'.
const LCORES: [LcoreId; 2] = [LcoreId(1), LcoreId(2)];

/// A generator that is connected.
#[derive(Debug)]
pub(crate) struct Session {
    eal: Arc<Eal>,
    sides: Option<(ClientSide, ServerSide)>,
    /// They close with their last queue, and stop with this.
    ports: Vec<Port>,
    pub(crate) args: LabArgs,
    pub(crate) scene: Scene,
    /// All that were run.
    pub(crate) trials: Vec<Trial>,
    next_flow: u32,
    next_trial: u32,
}

/// EAL for a laboratory: lcore 0 for itself, then the clients', the servers' and `more`.
pub(crate) fn start_eal(args: &LabArgs, more: &[u16], devices: &[&str]) -> Result<Arc<Eal>> {
    let cpus = [args.main_cpu, args.client_cpu, args.server_cpu];
    let lcores = cpus.iter().chain(more).enumerate();
    let lcores: Vec<_> = lcores.map(|(lcore, cpu)| format!("{lcore}@{cpu}")).collect();
    let mut eal = vec!["--lcores".to_owned(), lcores.join(","), "--no-telemetry".to_owned()];
    let memory: &[&str] =
        if args.no_huge { &["--no-huge", "--no-shconf"] } else { &["--in-memory"] };
    eal.extend(memory.iter().copied().map(str::to_owned));
    eal.extend(["-m".to_owned(), args.memory.to_string()]);
    for device in devices {
        if is_virtual(device) {
            eal.push(format!("--vdev={device}"));
        } else {
            eal.extend(["-a".to_owned(), (*device).to_owned()]);
        }
    }
    if devices.iter().all(|device| is_virtual(device)) {
        eal.push("--no-pci".to_owned());
    }
    eal.extend(args.eal_arg.iter().cloned());
    Ok(Eal::init(&EalArgs::new("pointsman-bench", eal))?)
}

fn is_virtual(device: &str) -> bool {
    device.starts_with("net_")
}

impl Session {
    /// Opens both ports, waits for their links, and finds the director.
    pub(crate) fn connect(args: &LabArgs) -> Result<Self> {
        let scene = args.scene()?;
        let devices = [args.outside.as_str(), args.inside.as_str()];
        let eal = start_eal(args, &[], &devices)?;
        let socket = eal.lcore_socket(LCORES[0]);
        let pool = Mempool::create(&eal, "lab", args.mbufs, DATA_ROOM, CACHE, socket)?;
        let mut ports = Vec::new();
        let mut links = Vec::new();
        for device in devices {
            let (port, link) = open(&eal, device, args, &pool)?;
            links.push((link, port.mac()));
            ports.push(port);
        }
        wait_for_links(&mut ports, args.link_timeout)?;
        let (Some((inside, inside_mac)), Some((outside, outside_mac))) = (links.pop(), links.pop())
        else {
            bail!("two ports are needed");
        };
        let mut session =
            Self::of_links(eal, args, scene, &pool, [(outside, outside_mac), (inside, inside_mac)]);
        session.ports = ports;
        session.find_director()?;
        session.teach_director()?;
        Ok(session)
    }

    /// A session on links that are there.
    pub(crate) fn of_links(
        eal: Arc<Eal>,
        args: &LabArgs,
        scene: Scene,
        pool: &Mempool,
        [(outside, outside_mac), (inside, inside_mac)]: [(Link, [u8; 6]); 2],
    ) -> Self {
        let client = ClientSide {
            link: outside,
            pool: pool.clone(),
            station: Station { mac: outside_mac, owned: scene.outside.clone() },
            clients: scene.clients,
            traffic: scene.traffic,
            vip: scene.vip,
            gateway: scene.gateway,
            director: scene.director,
            yields: args.shared_cpus,
        };
        let server = ServerSide {
            link: inside,
            pool: pool.clone(),
            station: Station { mac: inside_mac, owned: scene.inside.clone() },
            clients: scene.clients,
            traffic: scene.traffic,
            yields: args.shared_cpus,
            connections: Vec::new(),
            servers: Vec::new(),
        };
        Self {
            eal,
            sides: Some((client, server)),
            ports: Vec::new(),
            args: args.clone(),
            scene,
            trials: Vec::new(),
            next_flow: 0,
            next_trial: 1,
        }
    }

    fn find_director(&mut self) -> Result<()> {
        let load = Load { longest: Some(RESOLVE), ..Load::of(Step::Resolve) };
        self.play(&load)?;
        let known = self.sides.as_ref().and_then(|(client, _)| client.director);
        let Some(mac) = known else {
            bail!(
                "nobody answered who has {} after {RESOLVE:?}: is the director running, and this \
                 port its outside? --director-mac says it without asking",
                self.scene.vip.ip()
            );
        };
        say(&format!("the director's outside is {}", mac.map(|o| format!("{o:02x}")).join(":")));
        Ok(())
    }

    /// Opens a few connections until all of them reach the servers: the director may have to find
    /// these first (RFC 2544 section 23 calls them learning frames). They are no trial.
    fn teach_director(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let first = self.fresh_flows(LESSONS)?;
            let (_, served) =
                self.play(&Load::once(Step::Open, first, LESSONS, LESSONS_A_SECOND))?;
            if served.tally.received == u64::from(LESSONS) {
                return self.close(first, LESSONS, LESSONS_A_SECOND);
            }
            ensure!(
                begun.elapsed() < self.args.link_timeout,
                "{} of {LESSONS} packets to {} reached the servers: does the director have this \
                 service, its servers and this port as its inside?",
                served.tally.received,
                self.scene.vip
            );
        }
    }

    /// Closes TCP connections that have been opened; of UDP there is nothing to close. No trial.
    pub(crate) fn close(&mut self, first: u32, count: u32, rate: f64) -> Result<()> {
        if self.scene.traffic.transport == Transport::Udp {
            return Ok(());
        }
        self.play(&Load::once(Step::Close, first, count, rate)).map(drop)
    }

    /// Packets in a second that the outside port's link carries, frames of so many octets; `None`
    /// for a virtual device.
    pub(crate) fn line_rate(&self, frame: u32) -> Option<f64> {
        let speed = self.ports.first()?.link().speed_mbps?;
        (!is_virtual(&self.args.outside))
            .then(|| f64::from(speed) * 1e6 / 8.0 / f64::from(frame + BETWEEN_FRAMES))
    }

    /// Flows that no trial has used yet.
    pub(crate) fn fresh_flows(&mut self, count: u32) -> Result<u32> {
        let first = self.next_flow;
        let capacity = self.scene.clients.capacity();
        self.next_flow =
            first.checked_add(count).filter(|end| *end <= capacity).with_context(|| {
                format!("all {capacity} flows were used; give a larger network of --clients")
            })?;
        Ok(first)
    }

    /// How many connections the last opening brought to the servers.
    pub(crate) fn opened(&self) -> u32 {
        let opened = self.sides.as_ref().map_or(0, |(_, server)| server.connections.len());
        u32::try_from(opened).unwrap_or(u32::MAX)
    }

    /// Does nothing but answer for a while.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<()> {
        self.play(&Load { longest: Some(time), ..Load::of(Step::Rest) }).map(drop)
    }

    /// Waits until the director's table is empty, `longest` at most; without metrics just as long.
    pub(crate) fn settle(&mut self, longest: Duration) -> Result<()> {
        let Some(address) = self.args.metrics else { return self.rest(longest) };
        let begun = Instant::now();
        while Reading::take(address)?.live > 0.0 {
            ensure!(
                begun.elapsed() < longest,
                "the director still has connections after {longest:?}: lower its timeouts or \
                 raise --settle"
            );
            self.rest(POLL)?;
        }
        Ok(())
    }

    /// Runs one trial, and keeps its record.
    pub(crate) fn trial(&mut self, load: &Load) -> Result<Trial> {
        let before = self.args.metrics.map(Reading::take).transpose()?;
        let (offered, served) = self.play(load)?;
        let mut trial = Trial::new(
            self.trials.len() + 1,
            load,
            &offered,
            &served,
            self.scene.traffic,
            self.args.pace,
        );
        if let (Some(address), Some(before)) = (self.args.metrics, before) {
            let after = Reading::take(address)?;
            trial.director_connections = Some(after.scheduled - before.scheduled);
        }
        say(&trial.to_string());
        self.trials.push(trial.clone());
        Ok(trial)
    }

    /// Both sides on their lcores, from beginning to end.
    fn play(&mut self, load: &Load) -> Result<(Offered, Served)> {
        let plan = load.plan(self.next_trial, &self.args);
        self.next_trial += 1;
        let (mut client, mut server) = self.sides.take().context("an earlier trial broke off")?;
        let progress = Arc::new(Progress::default());
        let [clients_lcore, servers_lcore] = LCORES;
        let (to_server, to_client) = (plan.clone(), plan);
        let watched = Arc::clone(&progress);
        let server = self.eal.launch(servers_lcore, move || {
            let served = server.run(&to_server, &watched);
            (server, served)
        })?;
        let watched = Arc::clone(&progress);
        let client = self.eal.launch(clients_lcore, move || {
            let offered = client.run(&to_client, &watched);
            // Also after an error: the other side waits for it.
            watched.over.store(true, std::sync::atomic::Ordering::Release);
            (client, offered)
        })?;
        let ((client, offered), (server, served)) = (client.join()?, server.join()?);
        self.sides = Some((client, server));
        Ok((offered?, served?))
    }

    /// Packets that ports lost or could not receive.
    pub(crate) fn port_losses(&self) -> u64 {
        let lost = |port: &Port| {
            let stats = port.stats();
            stats.imissed + stats.ierrors + stats.rx_nombuf + stats.oerrors
        };
        self.ports.iter().map(lost).sum()
    }

    /// The line rate, or what was asked for.
    pub(crate) fn limit(&self, asked: Option<f64>, frame: u32) -> Result<f64> {
        let limit = asked.or_else(|| self.line_rate(frame)).context(
            "the speed of this device says nothing: give --max-rate, in packets a second",
        )?;
        ensure!(limit > 0.0 && limit.is_finite(), "a rate of {limit} packets/s cannot be offered");
        Ok(limit)
    }
}

fn open(eal: &Arc<Eal>, device: &str, args: &LabArgs, pool: &Mempool) -> Result<(Port, Link)> {
    let mut port = Port::open(eal, device)?;
    let settings = PortSettings {
        rx_descriptors: args.descriptors,
        tx_descriptors: args.descriptors,
        promiscuous: true,
        ..PortSettings::default()
    };
    port.configure(&settings, std::slice::from_ref(pool))?;
    let begun = Instant::now();
    while let Err(error) = port.start() {
        if !error.is_temporary() || begun.elapsed() > args.link_timeout {
            return Err(error.into());
        }
        std::thread::sleep(POLL);
    }
    let (mut rx, mut tx) = port.take_queues();
    match (rx.pop(), tx.pop()) {
        (Some(rx), Some(tx)) => Ok((port, Link::Port { rx, tx })),
        _ => bail!("{device} has no queues"),
    }
}

fn wait_for_links(ports: &mut [Port], longest: Duration) -> Result<()> {
    say("both ports run; waiting for their links");
    let begun = Instant::now();
    while let Some(down) = ports.iter().find(|port| !port.link().up) {
        ensure!(begun.elapsed() < longest, "the link of {} is down after {longest:?}", down.name());
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// So many packets at this rate, and the time that they take at most.
pub(crate) fn longest(packets: u32, rate: f64, drain: Duration) -> Duration {
    const SPARE: Duration = Duration::from_secs(1);
    let planned = Duration::try_from_secs_f64(fraction(packets.into()) / rate);
    planned.unwrap_or(Duration::MAX).saturating_mul(2).saturating_add(drain).saturating_add(SPARE)
}

/// What the first of `attempts` attempts that passes gives, or else the last one.
pub(crate) fn attempt<T>(
    attempts: u32,
    passed: impl Fn(&T) -> bool,
    mut once: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut outcome = once()?;
    for _ in 1..attempts {
        if passed(&outcome) {
            break;
        }
        outcome = once()?;
    }
    Ok(outcome)
}
