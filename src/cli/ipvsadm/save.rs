//! `-S`: services and servers as the options that make them.

use std::io::{self, Write};

use super::command::ServiceKey;
use super::rows::ServiceRow;
use super::text::{Style, protocol};
use crate::service::Protocol;

/// The lines of a service and its servers. Thresholds are not saved, as ipvsadm does not.
pub(super) fn write_service(
    out: &mut dyn Write,
    service: &ServiceRow,
    style: Style<'_>,
) -> io::Result<()> {
    let which = which(&service.key, style);
    write!(out, "-A {which} -s {}", service.scheduler)?;
    if let Some(persistence) = &service.persistence {
        write!(out, " -p {}", persistence.timeout)?;
        if !persistence.granularity.is_whole() {
            write!(out, " -M {}", persistence.granularity)?;
        }
    }
    if service.one_packet {
        write!(out, " -o")?;
    }
    if !service.flags.is_none() {
        write!(out, " -b {}", service.flags.names(&service.scheduler))?;
    }
    writeln!(out)?;
    let protocol = protocol(&service.key);
    for server in &service.servers {
        let address = style.endpoint(server.address, protocol);
        writeln!(out, "-a {which} -r {address} -m -w {}", server.weight)?;
    }
    Ok(())
}

/// `-t 192.0.2.100:80`, `-f 8 -6`
fn which(key: &ServiceKey, style: Style<'_>) -> String {
    match key {
        ServiceKey::Endpoint { protocol, address } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", style.endpoint(*address, Some(*protocol)))
        }
        ServiceKey::Mark { mark, ipv6: false } => format!("-f {mark}"),
        ServiceKey::Mark { mark, ipv6: true } => format!("-f {mark} -6"),
    }
}
