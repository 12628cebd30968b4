//! The server's end of the control socket.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::task::AbortHandle;
use utoipa::IntoParams;
use utoipa::openapi::{Info, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::message::{Connections, Failure, Status};
use super::{Doors, changes, connections, failover, status, templates, upgrade, zero};
use crate::control::http;

/// Starts to serve the control socket. Needs the context of a tokio runtime.
pub(in crate::control) fn start(
    listener: StdUnixListener,
    doors: Doors,
) -> io::Result<AbortHandle> {
    let listener = UnixListener::from_std(listener)?;
    let (router, document) = described();
    let describe = move || std::future::ready(Json(document.clone()));
    let router: Router = router
        .route("/v1/openapi.json", axum::routing::get(describe))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(doors);
    Ok(tokio::spawn(http::serve(listener, router)).abort_handle())
}

/// The API's description, as `/v1/openapi.json` gives it.
pub fn openapi() -> OpenApi {
    described().1
}

/// Everything that is described.
fn described() -> (Router<Doors>, OpenApi) {
    let info = Info::new("pointsman", env!("CARGO_PKG_VERSION"));
    let document = OpenApiBuilder::new().info(info).build();
    OpenApiRouter::with_openapi(document)
        .routes(routes!(get_status))
        .routes(routes!(get_connections))
        .routes(routes!(templates::list))
        .routes(routes!(changes::list_services, changes::add_service, changes::replace_services))
        .routes(routes!(changes::get_service, changes::set_service, changes::remove_service))
        .routes(routes!(changes::add_server))
        .routes(routes!(changes::set_server, changes::remove_server))
        .routes(routes!(changes::get_timeouts, changes::set_timeouts))
        .routes(routes!(changes::list_drains, changes::drain))
        .routes(routes!(changes::cancel_drain))
        .routes(routes!(failover::get_failover))
        .routes(routes!(failover::release))
        .routes(routes!(failover::take_over))
        .routes(routes!(upgrade::get_upgrade, upgrade::begin))
        .routes(routes!(zero::zero_all))
        .routes(routes!(zero::zero_service))
        .routes(routes!(changes::reload))
        .routes(routes!(changes::save))
        .split_for_parts()
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) failure: Failure,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: &str) -> Self {
        Self {
            status,
            failure: Failure { error: error.into(), hint: hint.into(), ..Failure::default() },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.failure)).into_response()
    }
}

/// What a request asks for behind its path. Names that are not known are refused: a misspelt
/// `dry_run` must not make the change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<T>(pub(super) T);

impl<T: serde::de::DeserializeOwned, S: Sync> axum::extract::FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Refusal> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(asked)| Self(asked)).map_err(|error| {
            let hint = "/v1/openapi.json lists what this path takes behind the question mark";
            Refusal::new(StatusCode::BAD_REQUEST, error.body_text(), hint)
        })
    }
}

/// The control loop does not answer.
pub(super) fn unavailable() -> Refusal {
    let hint = "many requests are under way, or the director is stopping; try again";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the control loop does not answer", hint)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most so many.
    limit: Option<usize>,
    /// The `next` of the answer before.
    cursor: Option<String>,
}

/// Services, servers, workers and interfaces, with what they count.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn get_status(State(doors): State<Doors>) -> Json<Status> {
    Json(status::of(&doors.observed))
}

/// Single connections, page by page.
#[utoipa::path(
    get, path = "/v1/connections", params(Page),
    responses((status = 200, body = Connections), (status = 400, body = Failure), (status = 504, body = Failure))
)]
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
    let hint = "/v1/openapi.json lists what there is; GET /v1/status is a good beginning";
    Refusal::new(StatusCode::NOT_FOUND, "there is nothing here", hint)
}

async fn unknown_method() -> Refusal {
    let hint = "/v1/openapi.json lists the methods of each path";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this method is not supported", hint)
}
