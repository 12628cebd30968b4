//! The director's own counts, where it can be asked for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prometheus_parse::{Scrape, Value};

/// How long the director may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Some of a director's counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Connections that were scheduled since it started.
    pub(crate) scheduled: f64,
    /// Connections in its table now.
    pub(crate) live: f64,
}

impl Reading {
    /// Asks the director.
    pub(crate) fn take(address: SocketAddr) -> Result<Self> {
        let text = get(address).with_context(|| format!("metrics of {address}"))?;
        let body = text.split_once("\r\n\r\n").map_or(text.as_str(), |(_, body)| body);
        Self::parse(body)
    }

    fn parse(body: &str) -> Result<Self> {
        let scrape = Scrape::parse(body.lines().map(|line| Ok(line.to_owned())))?;
        let sum = |metric: &str| {
            let mut values = scrape
                .samples
                .iter()
                .filter(|sample| sample.metric == metric)
                .filter_map(|sample| match sample.value {
                    Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => {
                        Some(value)
                    }
                    Value::Histogram(_) | Value::Summary(_) => None,
                })
                .peekable();
            ensure!(values.peek().is_some(), "the director shows no {metric}");
            Ok(values.sum::<f64>())
        };
        Ok(Self {
            scheduled: sum("pointsman_service_connections_total")?,
            live: sum("pointsman_connection_table_used")?,
        })
    }
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_services_workers_and_families() {
        let text = "# TYPE pointsman_service_connections_total counter\n\
                    pointsman_service_connections_total{service=\"a\"} 3\n\
                    pointsman_service_connections_total{service=\"b\"} 4\n\
                    # TYPE pointsman_connection_table_used gauge\n\
                    pointsman_connection_table_used{worker=\"0\",family=\"ipv4\"} 5\n";
        assert_eq!(Reading::parse(text).unwrap(), Reading { scheduled: 7.0, live: 5.0 });
        assert!(Reading::parse("pointsman_connection_table_used 1\n").is_err());
    }
}
