//! `-L`: services and servers, timeouts.

use std::io::{self, Write};

use super::command::{Timeouts, View};
use super::rows::{Counters, ServerRow, ServiceRow};
use super::text::{Style, protocol};

/// The version of IPVS whose language this is, and how many connections fit.
pub(super) fn write_version(out: &mut dyn Write, size: u64) -> io::Result<()> {
    writeln!(out, "IP Virtual Server version 1.2.1 (size={size})")
}

/// The two lines above services and servers.
pub(super) fn write_header(out: &mut dyn Write, view: View) -> io::Result<()> {
    const ADDRESS: &str = "Prot LocalAddress:Port";
    const SERVER: &str = "  -> RemoteAddress:Port";
    let columns = match view {
        View::Plain => {
            return writeln!(
                out,
                "{ADDRESS} Scheduler Flags\n{SERVER}           Forward Weight ActiveConn InActConn"
            );
        }
        View::TunnelInfo => {
            return writeln!(
                out,
                "{ADDRESS} Scheduler Flags\n{SERVER}           Forward TunnelInfo    Weight \
                 ActiveConn InActConn"
            );
        }
        View::Stats => counters_header(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
        View::Rate => counters_header(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
        View::Thresholds => {
            format!(" {:<10} {:<10} {:<10} {:<10}", "Uthreshold", "Lthreshold", ACTIVE, INACTIVE)
        }
        View::PersistentConn => {
            format!(" {:<9} {:<11} {:<10} {:<10}", "Weight", "PersistConn", ACTIVE, INACTIVE)
        }
    };
    writeln!(out, "{ADDRESS:<33}{columns}\n{SERVER}")
}

const ACTIVE: &str = "ActiveConn";
const INACTIVE: &str = "InActConn";

fn counters_header(columns: [&str; 5]) -> String {
    columns.map(|column| format!(" {column:>8}")).concat()
}

/// A service and its servers.
pub(super) fn write_service(
    out: &mut dyn Write,
    service: &ServiceRow,
    view: View,
    style: Style<'_>,
) -> io::Result<()> {
    let title = style.service(&service.key);
    let counters = match view {
        View::Stats => stats(&service.totals, style),
        View::Rate => rates(&service.rates, style),
        View::Plain | View::Thresholds | View::PersistentConn | View::TunnelInfo => {
            writeln!(out, "{title} {}", properties(service))?;
            return write_servers(out, service, view, style);
        }
    };
    writeln!(out, "{title:<33}{counters}")?;
    write_servers(out, service, view, style)
}

/// `wlc (flag-1) persistent 360 mask 255.255.255.0 ops`
fn properties(service: &ServiceRow) -> String {
    let mut words = vec![service.scheduler.clone()];
    if !service.flags.is_none() {
        words.push(format!("({})", service.flags.names(&service.scheduler)));
    }
    if let Some(persistence) = &service.persistence {
        words.push(format!("persistent {}", persistence.timeout));
        if !persistence.granularity.is_whole() {
            words.push(format!("mask {}", persistence.granularity));
        }
    }
    if service.one_packet {
        words.push("ops".to_owned());
    }
    words.join(" ")
}

fn write_servers(
    out: &mut dyn Write,
    service: &ServiceRow,
    view: View,
    style: Style<'_>,
) -> io::Result<()> {
    let protocol = protocol(&service.key);
    for server in &service.servers {
        let address = style.column(server.address, protocol);
        writeln!(out, "  -> {address:<28}{}", server_columns(server, view, style))?;
    }
    Ok(())
}

fn server_columns(server: &ServerRow, view: View, style: Style<'_>) -> String {
    let ServerRow { weight_in_force: weight, upper, lower, active, inactive, persistent, .. } =
        server;
    match view {
        View::Plain => format!(" Masq    {weight:<6} {active:<10} {inactive:<10}"),
        View::TunnelInfo => {
            format!(" Masq    n/a           {weight:<6} {active:<10} {inactive:<10}")
        }
        View::Stats => stats(&server.totals, style),
        View::Rate => rates(&server.rates, style),
        View::Thresholds => format!(" {upper:<10} {lower:<10} {active:<10} {inactive:<10}"),
        View::PersistentConn => {
            format!(" {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
        }
    }
}

fn stats(counters: &Counters, style: Style<'_>) -> String {
    let Counters { connections, in_packets, out_packets, in_octets, out_octets } = *counters;
    [connections, in_packets, out_packets, in_octets, out_octets]
        .map(|number| style.large(number))
        .concat()
}

fn rates(counters: &Counters, style: Style<'_>) -> String {
    let Counters { connections, in_packets, out_packets, in_octets, out_octets } = counters;
    let octets = [*in_octets, *out_octets].map(|number| style.large(number)).concat();
    format!(" {connections:>8} {in_packets:>8} {out_packets:>8}{octets}")
}

/// `-L --timeout`
pub(super) fn write_timeouts(out: &mut dyn Write, timeouts: Timeouts) -> io::Result<()> {
    let Timeouts { tcp, tcp_fin, udp } = timeouts;
    writeln!(out, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}")
}
