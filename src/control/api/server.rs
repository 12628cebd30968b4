//! The server's end of the control socket.

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;

use super::message::{Connections, Failure, Status};
use super::{Doors, connections, status};
use crate::control::http;

/// Starts to serve the control socket. Needs the context of a tokio runtime.
pub(in crate::control) fn start(listener: StdUnixListener, doors: Doors) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let router = Router::new()
        .route("/v1/status", get(get_status))
        .route("/v1/connections", get(get_connections))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(doors);
    tokio::spawn(http::serve(listener, router));
    Ok(())
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: &str) -> Self {
        Self { status, failure: Failure { error: error.into(), hint: hint.into() } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn get_status(State(doors): State<Doors>) -> Json<Status> {
    Json(status::of(&doors.observed))
}

async fn get_connections(
    State(doors): State<Doors>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Connections>, Refusal> {
    let Query(Page { limit, cursor }) = page.map_err(|error| {
        let hint = "limit is a number, cursor the `next` of the answer before";
        Refusal::new(StatusCode::BAD_REQUEST, error.body_text(), hint)
    })?;
    connections::list(&doors, limit, cursor.as_deref()).await.map(Json)
}

async fn unknown_path() -> Refusal {
    let hint = "GET /v1/status or GET /v1/connections?limit=100";
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here", hint)
}

async fn unknown_method() -> Refusal {
    let hint = "everything in /v1 is read with GET; nothing can be changed here yet";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not supported", hint)
}
