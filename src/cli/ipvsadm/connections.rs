//! `-Lc`: connections.

use std::io::{self, Write};

use super::rows::ConnectionRow;
use super::text::Style;
use crate::service::Protocol;

/// The lines above connections; `engines`: with columns for what persistence engines know.
pub(super) fn write_header(out: &mut dyn Write, engines: bool) -> io::Result<()> {
    write!(
        out,
        "IPVS connection entries\npro expire {:<11} {:<18} {:<18} ",
        "state", "source", "virtual"
    )?;
    if engines {
        writeln!(out, "{:<18} {:<16} pe_data", "destination", "pe name")
    } else {
        writeln!(out, "destination")
    }
}

/// A connection. Of one without a persistence engine the columns of engines stay empty, and no
/// connection here has one.
pub(super) fn write_connection(
    out: &mut dyn Write,
    connection: &ConnectionRow,
    style: Style<'_>,
) -> io::Result<()> {
    let ConnectionRow { protocol, state, expires, .. } = connection;
    let known = match protocol.as_str() {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    };
    let [client, service, server] = [connection.client, connection.service, connection.server]
        .map(|address| style.endpoint(address, known));
    let expires = format!("{:02}:{:02}", expires / 60, expires % 60);
    writeln!(out, "{protocol:<3} {expires:<6} {state:<11} {client:<18} {service:<18} {server}")
}
