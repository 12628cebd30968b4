//! `GET /v1/connections`: pages gathered from the workers, one after the other.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Doors;
use super::message::{Connection, Connections};
use super::server::Refusal;
use crate::control::request::Request;
use crate::dataplane::mailbox::{ConnectionPage, ConnectionRow};
use crate::ids::WorkerId;
use crate::wire::ipv4::protocol;

/// Connections in one answer, when the client does not say, and at most.
const LIMIT: usize = 100;
const MOST: usize = 10_000;
/// Rows of a page: what a worker fills between two bursts.
const PAGE_ROWS: usize = 256;
/// Time that a worker has for a page.
const PAGE_TIME: Duration = Duration::from_secs(1);
/// Time after which an answer is sent with what there is: sparse tables have many empty pages.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Where to go on: a worker (its place) and its own cursor. Written `WORKER.CURSOR`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    place: usize,
    inner: u64,
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let (place, inner) = text.split_once('.')?;
        Some(Self { place: place.parse().ok()?, inner: inner.parse().ok()? })
    }
}

/// The next connections, at most `limit`.
pub(super) async fn list(
    doors: &Doors,
    limit: Option<usize>,
    cursor: Option<&str>,
) -> Result<Connections, Refusal> {
    let limit = limit.unwrap_or(LIMIT).clamp(1, MOST);
    let mut cursor = cursor.map_or(Some(Cursor::default()), Cursor::parse).ok_or_else(|| {
        let hint = "use the `next` of the answer before, or leave the cursor out to begin";
        Refusal::new(StatusCode::BAD_REQUEST, "this is not a cursor", hint)
    })?;
    let end = Instant::now() + ANSWER_TIME;
    let mut connections = Vec::new();
    while let Some(worker) = doors.observed.workers.get(cursor.place) {
        let room = limit.saturating_sub(connections.len());
        if room == 0 || Instant::now() >= end {
            let next = Some(format!("{}.{}", cursor.place, cursor.inner));
            return Ok(Connections { connections, next });
        }
        let page =
            ConnectionPage { cursor: cursor.inner, ..ConnectionPage::new(room.min(PAGE_ROWS)) };
        let page = ask(doors, worker.id, page).await?;
        connections.extend(page.rows.iter().map(|row| of_row(row, worker.id)));
        cursor = if page.done {
            Cursor { place: cursor.place + 1, inner: 0 }
        } else {
            Cursor { inner: page.cursor, ..cursor }
        };
    }
    Ok(Connections { connections, next: None })
}

async fn ask(
    doors: &Doors,
    worker: WorkerId,
    page: ConnectionPage,
) -> Result<ConnectionPage, Refusal> {
    let (reply, answer) = oneshot::channel();
    let request = Request::Connections { worker, page, reply };
    let unavailable = || {
        let hint = "other listings are under way, or the director is stopping; try again";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once", hint)
    };
    doors.requests.try_send(request).map_err(|_| unavailable())?;
    match timeout(PAGE_TIME, answer).await {
        Ok(Ok(page)) => Ok(page),
        Ok(Err(_)) => Err(unavailable()),
        Err(_) => {
            let error = format!("worker {worker} has not answered for {} s", PAGE_TIME.as_secs());
            let hint = "it may be overloaded or stuck: see `pointsman status --workers`";
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, error, hint))
        }
    }
}

fn of_row(row: &ConnectionRow, worker: WorkerId) -> Connection {
    Connection {
        protocol: protocol::name(row.protocol).to_owned(),
        state: row.state.to_string(),
        client: row.client,
        service: row.service,
        server: row.server,
        expires_ms: row.expires_ms,
        worker: worker.0,
    }
}
