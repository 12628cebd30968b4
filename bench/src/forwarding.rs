//! What one lcore measures with: the loops around a source, a data plane and a sink, timed burst
//! by burst.

use std::time::Duration;

use anyhow::{Result, ensure};
use pointsman::clock::Tick;
use pointsman::dataplane::frame::{BURST, FrameBurst, Outlet};
use pointsman::dataplane::pipeline::Origin;
use pointsman::dataplane::stopwatch;
use pointsman::dpdk::mbuf::Mbuf;
use pointsman::dpdk::mempool::Mempool;
use pointsman::dpdk::tsc;
use pointsman::ids::InterfaceId;
use pointsman::wire::ethernet::EthernetHeader;
use pointsman_bench::template::Template;
use pointsman_bench::world::{Compiler, Exit, INSIDE, Plan, World};
use zerocopy::FromBytes;

use crate::measure::{Cycles, cpu_time};
use crate::sink::Sink;
use crate::source::{Flows, Source};

/// Bursts of one run at most.
pub(crate) const BURSTS: usize = 1 << 18;
/// Turns of one run at most, with the stop watch and without.
const TURNS: usize = BURSTS / stopwatch::ROUNDS as usize;

/// A source, a sink and a stop watch.
#[derive(Debug)]
pub(crate) struct Forwarding {
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    pub(crate) cycles: Cycles,
    cycles_per_ms: u64,
    /// Of one run.
    milliseconds: u64,
}

impl Forwarding {
    /// With packets of this pool; a run takes so many milliseconds.
    pub(crate) fn new(pool: &Mempool, milliseconds: u64) -> Self {
        Self {
            source: Source::new(pool),
            sink: Sink::new(pool),
            cycles: Cycles::new(BURSTS),
            cycles_per_ms: (tsc::hz() / 1000).max(1),
            milliseconds,
        }
    }

    /// A data plane in which all of `flows` are established.
    pub(crate) fn world(&mut self, plan: &Plan, flows: &Flows) -> Result<(World<Mbuf>, Compiler)> {
        let (mut world, compiler) = World::new(plan, &mut self.sink)?;
        self.establish(&mut world, plan, flows.clone(), |_| Tick(0))?;
        Ok((world, compiler))
    }

    /// Opens flows, in order: a datagram each, or the three segments of a handshake. `when` tells
    /// the time of each burst by its number.
    pub(crate) fn establish(
        &mut self,
        world: &mut World<Mbuf>,
        plan: &Plan,
        mut order: Flows,
        when: impl Fn(u32) -> Tick,
    ) -> Result<()> {
        let before = self.sink.transmitted();
        let opening = plan.opening();
        let mut burst = FrameBurst::new();
        let bursts = order.count().div_ceil(BURST_U32);
        for number in 0..bursts {
            // A burst is so many flows; each goes through its opening.
            let start = order.clone();
            for template in &opening {
                order = start.clone();
                self.source.receive(&mut burst, template, &mut order)?;
                world.round(&mut burst, Origin::Port, when(number), &mut self.sink);
            }
        }
        let sent = self.sink.transmitted() - before;
        let wanted = u64::from(bursts) * (BURST * opening.len()) as u64;
        ensure!(sent == wanted, "{}: {sent} of {wanted} packets came through", plan.traffic);
        Ok(())
    }

    /// Cycles per packet of plain forwarding.
    pub(crate) fn plain(&mut self, packet: &Template, flows: &mut Flows) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let end = self.begin();
        let mut before = tsc::now();
        loop {
            self.source.receive(&mut burst, packet, flows)?;
            swap_macs(&mut burst, &mut self.sink);
            let after = tsc::now();
            self.cycles.push(after.wrapping_sub(before));
            before = after;
            if after >= end {
                return Ok(self.cycles.median_per(BURST));
            }
        }
    }

    /// Cycles per packet of the director.
    pub(crate) fn director(
        &mut self,
        world: &mut World<Mbuf>,
        packet: &Template,
        flows: &mut Flows,
    ) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let end = self.begin();
        let start = tsc::now();
        let mut before = start;
        loop {
            let now = self.tick(before.wrapping_sub(start));
            self.source.receive(&mut burst, packet, flows)?;
            world.round(&mut burst, Origin::Port, now, &mut self.sink);
            let after = tsc::now();
            self.cycles.push(after.wrapping_sub(before));
            before = after;
            if after >= end {
                return Ok(self.cycles.median_per(BURST));
            }
        }
    }

    /// Cycles per packet with the stop watch and without it, in the same tables: the two take turns
    /// every [`stopwatch::ROUNDS`] rounds, of which one is looked at. A median over bursts would not
    /// see that one, a median over turns does.
    pub(crate) fn watched_and_unwatched(
        &mut self,
        world: &mut World<Mbuf>,
        packet: &Template,
        flows: &mut Flows,
    ) -> Result<[f64; 2]> {
        let mut turns = [Cycles::new(TURNS), Cycles::new(TURNS)];
        let end = self.begin();
        let start = tsc::now();
        let mut before = start;
        while before < end {
            for (is_watched, cycles) in [true, false].into_iter().zip(&mut turns) {
                world.watch(is_watched);
                self.turn(world, packet, flows, start)?;
                let after = tsc::now();
                cycles.push(after.wrapping_sub(before));
                before = after;
            }
        }
        world.watch(true);
        Ok(turns.map(|mut cycles| cycles.median_per(BURST * stopwatch::ROUNDS as usize)))
    }

    /// As many rounds as the stop watch looks at one of.
    fn turn(
        &mut self,
        world: &mut World<Mbuf>,
        packet: &Template,
        flows: &mut Flows,
        start: u64,
    ) -> Result<()> {
        let mut burst = FrameBurst::new();
        for _ in 0..stopwatch::ROUNDS {
            let now = self.tick(tsc::now().wrapping_sub(start));
            self.source.receive(&mut burst, packet, flows)?;
            world.round(&mut burst, Origin::Port, now, &mut self.sink);
        }
        Ok(())
    }

    /// Million packets per second of CPU time, over so long; `start` is the time's beginning.
    pub(crate) fn rate(
        &mut self,
        world: &mut World<Mbuf>,
        packet: &Template,
        mut flows: Flows,
        (start, duration): (u64, Duration),
    ) -> Result<f64> {
        let mut burst = FrameBurst::new();
        let mut packets = 0.0;
        let begun = cpu_time();
        let mut now = tsc::now();
        let end = now + u64::try_from(duration.as_millis())? * self.cycles_per_ms;
        while now < end {
            let tick = self.tick(now.wrapping_sub(start));
            self.source.receive(&mut burst, packet, &mut flows)?;
            world.round(&mut burst, Origin::Port, tick, &mut self.sink);
            packets += f64::from(BURST_U32);
            now = tsc::now();
        }
        Ok(packets / 1e6 / cpu_time().saturating_sub(begun).as_secs_f64())
    }

    /// Forgets the last run; when this one is to end.
    pub(crate) fn begin(&mut self) -> u64 {
        self.cycles.clear();
        tsc::now() + self.milliseconds * self.cycles_per_ms
    }

    /// Cycles as time.
    pub(crate) fn tick(&self, cycles: u64) -> Tick {
        milliseconds(cycles / self.cycles_per_ms)
    }
}

/// [`BURST`], to count flows with.
pub(crate) const BURST_U32: u32 = 64;
const _: () = assert!(BURST_U32 as usize == BURST);

/// Plain forwarding: what `dpdk-testpmd --forward-mode=macswap` does, through our wrappers.
#[inline]
fn swap_macs(burst: &mut FrameBurst<Mbuf>, sink: &mut Sink) {
    for mut frame in burst.drain(..) {
        if let Ok((link, _)) = EthernetHeader::mut_from_prefix(frame.octets_mut()) {
            std::mem::swap(&mut link.source, &mut link.destination);
        }
        sink.transmit(InterfaceId(INSIDE), frame);
    }
    sink.flush();
}

/// A tick wraps, by design.
pub(crate) fn milliseconds(since_start: u64) -> Tick {
    let [.., a, b, c, d] = since_start.to_be_bytes();
    Tick(u32::from_be_bytes([a, b, c, d]))
}
