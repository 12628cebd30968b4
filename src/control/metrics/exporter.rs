//! The HTTP listener of the metrics.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::collector::Everything;
use crate::control::http;
use crate::control::observed::Observed;

#[derive(Clone, Debug)]
struct Exporter {
    registry: Registry,
    observed: Arc<Observed>,
}

/// Starts to serve metrics. Needs the context of a tokio runtime.
pub(in crate::control) fn start(
    listener: StdTcpListener,
    observed: &Arc<Observed>,
) -> io::Result<AbortHandle> {
    let registry = Registry::new();
    let register = || registry.register(Box::new(Everything::new(Arc::clone(observed))?));
    register().map_err(io::Error::other)?;
    let exporter = Exporter { registry, observed: Arc::clone(observed) };
    let listener = TcpListener::from_std(listener)?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(unknown_path)
        .with_state(exporter);
    Ok(tokio::spawn(http::serve(listener, router)).abort_handle())
}

async fn metrics(State(exporter): State<Exporter>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&exporter.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(exporter): State<Exporter>) -> Response {
    verdict(&exporter.observed.ailments(), "healthy")
}

async fn readyz(State(exporter): State<Exporter>) -> Response {
    verdict(&exporter.observed.obstacles(), "ready")
}

fn verdict(complaints: &[String], good: &str) -> Response {
    if complaints.is_empty() {
        format!("{good}\n").into_response()
    } else {
        let lines = format!("not {good}:\n{}\n", complaints.join("\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
    }
}

async fn unknown_path() -> (StatusCode, &'static str) {
    let help = "There is nothing here. pointsman serves /metrics (for Prometheus), \
                /healthz (is every thread alive?) and /readyz (can traffic come?).\n";
    (StatusCode::NOT_FOUND, help)
}
