//! Captures for `net_pcap`: the first (for UDP: any) packet of every flow, in random order.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use pointsman::wire::flow_key::Direction;
use pointsman::wire::tcp::flags;

use pointsman_bench::flows::{Random, Traffic};
use pointsman_bench::template::Template;

/// Writes one packet of each of `flows` flows, from clients to the services.
pub(crate) fn write(traffic: Traffic, flows: u32, path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut writer = PcapWriter::new(BufWriter::new(file))?;
    let template = Template::new(traffic, Direction::Inbound, flags::SYN);
    let octets = u32::try_from(template.octets())?;
    let order = Random::new(u64::from(flows)).shuffled(flows);
    for (place, flow) in (0..).zip(order) {
        let frame = template.frame(flow);
        writer.write_packet(&PcapPacket::new(Duration::from_micros(place), octets, &frame))?;
    }
    Ok(())
}
