//! `/v1/upgrade`: a new director in the place of this one.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::Doors;
use super::message::{Failure, UpgradeSpec, UpgradeStatus};
use super::server::{Refusal, unavailable};
use crate::control::handover::{NoUpgrade, UpgradeRequest};
use crate::control::request::Request;

/// What has become of the last upgrade, and what this director has taken over.
#[utoipa::path(get, path = "/v1/upgrade", responses((status = 200, body = UpgradeStatus)))]
pub(super) async fn get_upgrade(State(doors): State<Doors>) -> Json<UpgradeStatus> {
    Json(doors.observed.upgrade())
}

/// Start a new director that takes the place of this one, connections and all. Its end is told by
/// `GET`, which the new director answers once it forwards.
#[utoipa::path(
    post, path = "/v1/upgrade", request_body = UpgradeSpec,
    responses(
        (status = 202, body = UpgradeStatus), (status = 400, body = Failure),
        (status = 409, body = Failure)
    )
)]
pub(super) async fn begin(
    State(doors): State<Doors>,
    body: Bytes,
) -> Result<(StatusCode, Json<UpgradeStatus>), Refusal> {
    let body = if body.is_empty() { b"{}" } else { &body[..] };
    let spec: UpgradeSpec = serde_json::from_slice(body).map_err(|error| {
        let hint = "send program and config, both may be missing; /v1/openapi.json describes them";
        let error = format!("the body is not understood: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, error, hint)
    })?;
    let (reply, answer) = oneshot::channel();
    let request = Request::Upgrade(UpgradeRequest { spec, reply });
    doors.requests.send(request).await.map_err(|_| unavailable())?;
    let successor = answer.await.map_err(|_| unavailable())??;
    let status = UpgradeStatus { successor: Some(successor), ..UpgradeStatus::under_way() };
    Ok((StatusCode::ACCEPTED, Json(status)))
}

impl From<NoUpgrade> for Refusal {
    fn from(why: NoUpgrade) -> Self {
        Self::new(StatusCode::CONFLICT, why.to_string(), why.hint())
    }
}
