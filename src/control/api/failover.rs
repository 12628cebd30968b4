//! `/v1/failover`: the pair, and what the operator wants of it.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Doors;
use super::message::{FailoverStatus, Failure};
use super::server::{Refusal, unavailable};
use crate::control::failover::{Failover, Order};

/// The pair as this director sees it.
#[utoipa::path(
    get, path = "/v1/failover",
    responses((status = 200, body = FailoverStatus), (status = 404, body = Failure))
)]
pub(super) async fn get_failover(
    State(doors): State<Doors>,
) -> Result<Json<FailoverStatus>, Refusal> {
    Ok(Json(of(&doors)?.status()))
}

/// Give up, so that the other director takes over.
#[utoipa::path(
    post, path = "/v1/failover/release",
    responses((status = 200, body = FailoverStatus), (status = 404, body = Failure))
)]
pub(super) async fn release(State(doors): State<Doors>) -> Result<Json<FailoverStatus>, Refusal> {
    order(&doors, Order::Release).await
}

/// Take over from the other director.
#[utoipa::path(
    post, path = "/v1/failover/takeover",
    responses(
        (status = 200, body = FailoverStatus), (status = 404, body = Failure),
        (status = 409, body = Failure)
    )
)]
pub(super) async fn take_over(State(doors): State<Doors>) -> Result<Json<FailoverStatus>, Refusal> {
    order(&doors, Order::TakeOver).await
}

fn of(doors: &Doors) -> Result<&Failover, Refusal> {
    doors.observed.failover.as_ref().ok_or_else(|| {
        let hint = "add a [[failover]] to the configuration file and restart";
        Refusal::new(StatusCode::NOT_FOUND, "this director is alone: it has no peer", hint)
    })
}

async fn order(doors: &Doors, order: Order) -> Result<Json<FailoverStatus>, Refusal> {
    match of(doors)?.order(order).await {
        Some(Ok(status)) => Ok(Json(status)),
        Some(Err(fault)) => {
            let error = format!("this director cannot take over: {fault}");
            let hint = "repair that first; pointsman ha tells when it works again";
            Err(Refusal::new(StatusCode::CONFLICT, error, hint))
        }
        None => Err(unavailable()),
    }
}
