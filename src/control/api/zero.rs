//! `POST /v1/zero`: counters begin at 0 again.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::extract::{Path, State};

use super::Doors;
use super::message::{Failure, Zeroed};
use super::server::Refusal;
use crate::control::desired::no_service;

/// Let the counters of every service begin at 0 again, as far as `since_zero` tells them.
#[utoipa::path(post, path = "/v1/zero", responses((status = 200, body = Zeroed)))]
pub(super) async fn zero_all(State(doors): State<Doors>) -> Result<Json<Zeroed>, Refusal> {
    zero(&doors, None)
}

/// Let the counters of one service begin at 0 again.
#[utoipa::path(
    post, path = "/v1/services/{service}/zero", params(("service" = String, Path)),
    responses((status = 200, body = Zeroed), (status = 404, body = Failure))
)]
pub(super) async fn zero_service(
    State(doors): State<Doors>,
    Path(service): Path<String>,
) -> Result<Json<Zeroed>, Refusal> {
    zero(&doors, Some(service))
}

fn zero(doors: &Doors, service: Option<String>) -> Result<Json<Zeroed>, Refusal> {
    if doors.observed.zero(service.as_deref()).is_some() {
        return Ok(Json(Zeroed { service }));
    }
    let config = &doors.observed.inventory().config;
    Err(no_service(&service.unwrap_or_default(), config).into())
}
