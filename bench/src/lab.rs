//! EAL with one lcore on each CPU that measures, and a pool of mbufs for all of them.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use pointsman::dpdk::eal::{Eal, EalArgs};
use pointsman::dpdk::lcore::{LcoreHandle, LcoreId};
use pointsman::dpdk::mempool::Mempool;

use crate::quiet;
use crate::results::{free_huge_pages, say};

/// Mbufs of the pool, and how many of them each lcore keeps at hand.
const MBUFS: u32 = 8191;
const POOL_CACHE: u32 = 256;
/// DPDK's memory, MiB. More is taken when it is asked for, where there are huge pages.
const MEMORY_MIB: u64 = 64;

/// How often, how long, and where to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LabArgs {
    /// Runs of each measure; their median counts.
    #[arg(long, default_value_t = 45)]
    pub(crate) runs: usize,
    /// Milliseconds of one run: shorter than a core is usually left alone, or shared.
    #[arg(long, default_value_t = 20)]
    pub(crate) milliseconds: u64,
    /// Seconds that each comparison waits, altogether, for cores that nobody shares.
    #[arg(long, default_value_t = 20)]
    pub(crate) patience: u64,
    /// The CPUs to measure on. What one worker does is measured on the first; all are used where
    /// workers are compared. DPDK's own thread sleeps on the last.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 0])]
    cpus: Vec<u16>,
}

/// The place where everything in memory is measured. DPDK allows one in a process.
#[derive(Debug)]
pub(crate) struct Lab {
    /// What was asked for.
    pub(crate) args: LabArgs,
    eal: Arc<Eal>,
    pool: Mempool,
}

impl Lab {
    /// Huge pages where there are enough, else ordinary memory.
    pub(crate) fn open(args: &LabArgs) -> Result<Self> {
        let last = args.cpus.last().context("--cpus names no CPU")?;
        let huge = free_huge_pages() * 2 >= MEMORY_MIB;
        if !huge {
            say("no free huge pages: ordinary memory, which costs about twice the cycles");
        }
        let memory: &[&str] = if huge { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
        let workers = (1..).zip(&args.cpus).map(|(lcore, cpu)| format!(",{lcore}@{cpu}"));
        let lcores = format!("0@{last}{}", workers.collect::<String>());
        let mib = MEMORY_MIB.to_string();
        let fixed = ["--no-pci", "--no-telemetry", "-m", &mib, "--lcores", &lcores];
        let all = memory.iter().chain(&fixed).copied();
        let eal = Eal::init(&EalArgs::new("pointsman-bench", all)).context("EAL")?;
        let pool = Mempool::create(&eal, "packets", MBUFS, 2048, POOL_CACHE, None)?;
        Ok(Self { args: args.clone(), eal, pool })
    }

    /// DPDK's runtime.
    pub(crate) fn eal(&self) -> &Arc<Eal> {
        &self.eal
    }

    /// The pool that packets come from.
    pub(crate) fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// Where threads belong that do not forward.
    pub(crate) fn last_cpu(&self) -> u16 {
        self.args.cpus.last().copied().unwrap_or(0)
    }

    /// How many lcores can measure at the same time.
    pub(crate) fn lcores(&self) -> u16 {
        u16::try_from(self.args.cpus.len()).unwrap_or(u16::MAX)
    }

    /// Whether the CPUs of all lcores are quiet while each of them works: two that are hardware
    /// threads of one core are not. None may be working.
    pub(crate) fn is_quiet(&self) -> Result<bool> {
        let look = |place| self.start(place, || Ok(quiet::is_quiet()));
        let looking: Vec<_> = (0..self.lcores()).map(look).collect::<Result<_>>()?;
        let mut all = true;
        for look in looking {
            all &= look.join()??;
        }
        Ok(all)
    }

    /// Starts work on the lcore with this place in the list of CPUs.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        place: u16,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<LcoreHandle<Result<T>>> {
        Ok(self.eal.launch(LcoreId(u32::from(place) + 1), work)?)
    }

    /// Does work on the first lcore.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let result = self.start(0, work)?.join()?;
        let lost = self.pool.in_use();
        ensure!(result.is_err() || lost == 0, "{lost} mbufs did not come back to the pool");
        result
    }
}
