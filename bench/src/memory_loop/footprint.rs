//! Memory of a connection, everything included: what the process takes more once a data plane is
//! there and full of connections.

use anyhow::{Result, ensure};
use pointsman_bench::flows::{Family, Traffic, Transport};
use pointsman_bench::world::Plan;

use crate::forwarding::Forwarding;
use crate::lab::Lab;
use crate::measure::Runs;
use crate::results::{Report, Row, resident_kib};
use crate::scale::scale;
use crate::source::Flows;

const COMMAND: &str = "pointsman-bench loop --only memory";
const TITLE: &str = "Memory of a connection, octets: what the process takes for a whole data plane \
                     that is full, by its capacity";
/// Capacities: one that suits an index that is a power of two, the director's default, and one
/// that suits it worst, where the index has just doubled.
const CAPACITIES: [u32; 3] = [1 << 20, 4_000_000, 1_400_000];

pub(super) fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for family in [Family::V4, Family::V6] {
        for capacity in CAPACITIES {
            rows.push(measure(lab, family, capacity)?);
        }
    }
    report.add(TITLE, rows)
}

fn measure(lab: &Lab, family: Family, capacity: u32) -> Result<Row> {
    let pool = lab.pool().clone();
    let octets = lab.run(move || {
        let mut forwarding = Forwarding::new(&pool, 0);
        let traffic = Traffic { family, transport: Transport::Udp };
        let before = resident_kib();
        let plan = Plan::new(traffic, capacity);
        let (world, _) = forwarding.world(&plan, &Flows::sequential(capacity))?;
        let have = world.connections();
        ensure!(have == capacity, "{have} connections, not {capacity}");
        Ok((resident_kib() - before) * 1024.0 / f64::from(capacity))
    })?;
    let mut runs = Runs::default();
    runs.push(octets);
    let family = match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let name = format!("memory/{family}/{}_connections/connection", scale(capacity));
    Ok(Row::new(name, "octets", &runs, COMMAND))
}
