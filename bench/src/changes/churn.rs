//! A million connections expire, or begin, while others are forwarded.

use anyhow::{Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::FrameBurst;
use pointsman::dataplane::pipeline::Origin;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::wire::flow_key::Direction;
use pointsman_bench::template::Template;
use pointsman_bench::world::{Plan, World};

use super::{ChangesArgs, Rates, TRAFFIC};
use crate::forwarding::{BURST_U32, Forwarding, milliseconds};
use crate::lab::Lab;
use crate::measure::cpu_time;
use crate::source::Flows;

/// How much later than its time a connection may end.
const LATE_MS: u64 = 512;

/// Both rates, in turns.
pub(super) fn measure(args: &ChangesArgs, lab: &Lab, change: Change) -> Result<Rates> {
    let (args, pool) = (args.clone(), lab.pool().clone());
    lab.run(move || Busy::new(Forwarding::new(&pool, 0), args, change)?.churn())
}

/// What happens beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Connections that were idle end.
    Expire,
    /// Connections begin.
    Begin,
}

/// A worker that forwards.
struct Busy {
    args: ChangesArgs,
    change: Change,
    forwarding: Forwarding,
    plan: Plan,
    world: World<Mbuf>,
    packet: Template,
    /// Milliseconds.
    now: u64,
}

impl Busy {
    fn new(mut forwarding: Forwarding, args: ChangesArgs, change: Change) -> Result<Self> {
        let plan = Plan::new(TRAFFIC, args.busy_flows + args.churn);
        let (mut world, _) = World::new(&plan, &mut forwarding.sink)?;
        let busy = Flows::sequential(args.busy_flows);
        forwarding.establish(&mut world, &plan, busy, |_| Tick(0))?;
        let packet = plan.packet(Direction::Inbound, 0);
        let mut busy = Self { args, change, forwarding, plan, world, packet, now: 0 };
        if change == Change::Expire {
            busy.grow_idle()?;
        }
        Ok(busy)
    }

    fn random(&self) -> Flows {
        Flows::random(self.args.busy_flows)
    }

    /// Milliseconds that pass while all connections of the churn expire: by the number of packets,
    /// at 20 in a microsecond.
    fn span_ms(&self) -> u64 {
        u64::from(self.args.churn) * u64::from(self.args.packets_per_connection) / 20_000
    }

    /// Connections that begin evenly over the span, then fall idle until just before the first
    /// one's time is over; busy flows go on.
    fn grow_idle(&mut self) -> Result<()> {
        let (first, churn, span) = (self.args.busy_flows, self.args.churn, self.span_ms());
        let idle = Flows::sequential(churn).beyond(first);
        let bursts = u64::from(churn.div_ceil(BURST_U32));
        let when = |burst| milliseconds(u64::from(burst) * span / bursts);
        self.forwarding.establish(&mut self.world, &self.plan, idle, when)?;
        self.now = span;
        self.forward(self.random(), 4 * self.args.busy_flows, 0)?;
        let timeout = pointsman::service::Timeouts::default().udp;
        self.now = u64::try_from(timeout.as_millis())? - 1;
        self.forward(self.random(), 24 * self.args.busy_flows, 0)?;
        Ok(())
    }

    /// Forwards so many packets, during which so many milliseconds pass: million packets per
    /// second of CPU time.
    fn forward(&mut self, mut flows: Flows, packets: u32, passing_ms: u64) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let bursts = u64::from(packets.div_ceil(BURST_U32));
        let begun = cpu_time();
        for number in 0..bursts {
            let now = milliseconds(self.now + number * passing_ms / bursts);
            self.forwarding.source.receive(&mut burst, &self.packet, &mut flows)?;
            self.world.round(&mut burst, Origin::Port, now, &mut self.forwarding.sink);
        }
        self.now += passing_ms;
        let microseconds = cpu_time().saturating_sub(begun).as_secs_f64() * 1e6;
        Ok(f64::from(packets) / microseconds)
    }

    /// All connections of the churn end or begin, in parts.
    fn churn(mut self) -> Result<Rates> {
        let ChangesArgs { churn, packets_per_connection, parts, busy_flows, .. } = self.args;
        let packets = churn / parts * packets_per_connection;
        let before = self.world.expired();
        let mut rates = Rates::default();
        for part in 0..parts {
            rates.undisturbed.push(self.forward(self.random(), packets / 4, 0)?);
            let rate = match self.change {
                Change::Expire => {
                    let passing = self.span_ms() / u64::from(parts);
                    self.forward(self.random(), packets, passing)?
                }
                Change::Begin => {
                    let next = busy_flows + part * (churn / parts);
                    let flows = Flows::growing(busy_flows, packets_per_connection, next);
                    self.forward(flows, packets, 0)?
                }
            };
            rates.disturbed.push(rate);
        }
        self.check(before)?;
        Ok(rates)
    }

    /// Everything that was to change did, and nothing else.
    fn check(&mut self, expired_before: u64) -> Result<()> {
        let ChangesArgs { churn, busy_flows, parts, .. } = self.args;
        let churn = churn / parts * parts;
        self.world.lost_nothing()?;
        if self.change == Change::Begin {
            let begun = self.world.connections() - busy_flows;
            ensure!(begun == churn, "{begun} of {churn} connections began");
            return Ok(());
        }
        let ended = self.world.expired() - expired_before;
        let (churn, span) = (u64::from(churn), self.span_ms());
        // Connections end slot by slot of the timer wheel: the last ones a little later.
        let least = churn * span.saturating_sub(LATE_MS) / span.max(1) / 20 * 19;
        ensure!(ended >= least, "{ended} of {churn} connections expired in time");
        self.now += LATE_MS;
        self.forward(self.random(), 24 * busy_flows, 0)?;
        let left = self.world.connections();
        ensure!(left == busy_flows, "{left} connections are left, not {busy_flows}");
        Ok(())
    }
}
