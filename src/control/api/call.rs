//! A change as somebody asks for it, and what it is answered with.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::Doors;
use super::server::{Asked, Refusal, unavailable};
use crate::control::desired::{Change, Keys, Refused};
use crate::control::request::{ChangeRequest, NotChanged, Request};
use crate::service::Removal;

/// What every change may be asked for.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Manner {
    /// Only tell what would change.
    #[serde(default)]
    dry_run: bool,
    /// Of a removal, what becomes of the connections: finish, reset or forget; absent: what
    /// `on_removal` of the service says.
    connections: Option<String>,
    /// Of a cancelled drain, the service; absent: all.
    pub(super) service: Option<String>,
}

impl Manner {
    pub(super) fn removal(&self) -> Result<Option<Removal>, Refusal> {
        let Some(word) = &self.connections else { return Ok(None) };
        let known = Removal::ALL.into_iter().find(|removal| removal.name() == word);
        known.map(Some).ok_or_else(|| {
            let names = Removal::ALL.map(Removal::name).join(", ");
            let error = format!("connections: {word:?} is unknown: expected one of {names}");
            Refusal::new(StatusCode::BAD_REQUEST, error, "finish is what IPVS does")
        })
    }
}

/// What every change is answered with.
pub(super) type Answer = Result<Response, Refusal>;

/// A change as somebody asks for it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) doors: Doors,
    pub(super) manner: Manner,
    /// The version that the caller has decided by.
    expected: Option<u64>,
    /// Who asks, for the log.
    origin: String,
    body: Bytes,
}

impl FromRequest<Doors> for Call {
    type Rejection = Refusal;

    async fn from_request(request: extract::Request, doors: &Doors) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let Asked(manner) = Asked::from_request_parts(&mut parts, doors).await?;
        let expected = doors.expected_version(&parts.headers)?;
        let origin = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let origin = origin.unwrap_or("api").chars().filter(|c| !c.is_control()).take(64).collect();
        let request = extract::Request::from_parts(parts, body);
        let body = Bytes::from_request(request, doors).await.map_err(|error| {
            Refusal::new(error.status(), error.body_text(), "send at most 2 MiB")
        })?;
        Ok(Self { doors: doors.clone(), manner, expected, origin, body })
    }
}

impl Call {
    pub(super) fn object(&self) -> Result<Keys, Refusal> {
        self.json("an object")
    }

    pub(super) fn json<T: DeserializeOwned>(&self, expected: &str) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let hint = format!("send {expected} in JSON; /v1/openapi.json describes it");
            let error = format!("the body is not understood: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, error, &hint)
        })
    }

    /// Has the control loop make a change; answers when all workers have it, or were waited for.
    pub(super) async fn make(self, change: Change) -> Answer {
        let Self { doors, manner: Manner { dry_run, .. }, expected, origin, .. } = self;
        let (reply, answer) = oneshot::channel();
        let request = Request::Change(ChangeRequest { change, expected, dry_run, origin, reply });
        doors.requests.send(request).await.map_err(|_| unavailable())?;
        let changed = answer.await.map_err(|_| unavailable())??;
        let status =
            if changed.silent_workers.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok((status, with_etag(&doors.etag(changed.version), Json(changed))).into_response())
    }
}

impl Doors {
    /// A version of this run of the director: versions begin anew with each.
    pub(super) fn etag(&self, version: u64) -> String {
        format!("\"{:x}-{version}\"", self.observed.clock.started().as_millis())
    }

    /// The version that `If-Match` names; none and `*` mean whatever there is.
    fn expected_version(&self, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
        let Some(header) = headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = header.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(None);
        }
        let stated = text.trim_matches('"').split_once('-');
        let version = stated.and_then(|(_, version)| version.parse().ok());
        let version = version.ok_or_else(|| {
            let hint = "write the ETag that GET /v1/services gave";
            Refusal::new(StatusCode::BAD_REQUEST, format!("If-Match: {text:?} is no ETag"), hint)
        })?;
        if text != self.etag(version) {
            let error = format!("{text} is of an earlier run of the director");
            let hint = "read the services again, and decide anew";
            let mut refusal = Refusal::new(StatusCode::PRECONDITION_FAILED, error, hint);
            refusal.failure.version = Some(self.observed.inventory().revision);
            return Err(refusal);
        }
        Ok(Some(version))
    }
}

impl From<NotChanged> for Refusal {
    fn from(why: NotChanged) -> Self {
        match why {
            NotChanged::Refused(refused) => refused.into(),
            NotChanged::OtherVersion { expected, version } => {
                let error = format!("version {version} is in force, not {expected}");
                let hint = "read the services again, and decide anew";
                let mut refusal = Self::new(StatusCode::PRECONDITION_FAILED, error, hint);
                refusal.failure.version = Some(version);
                refusal
            }
            NotChanged::Upgrade => {
                let error = "a new director is about to take this one's place";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error, "ask it, in a moment")
            }
            NotChanged::Straggler(worker) => {
                let error = format!("worker {worker} has not taken the last changes over");
                let hint = "it may be stuck: see `pointsman status --workers`";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error, hint)
            }
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let error = refused.to_string();
        let (status, hint, problems) = match refused {
            Refused::NoService { nearest: Some(nearest), .. } => {
                (StatusCode::NOT_FOUND, format!("did you mean {nearest:?}?"), Vec::new())
            }
            Refused::NoService { nearest: None, .. } => {
                let hint = "`pointsman service list` shows those that there are";
                (StatusCode::NOT_FOUND, hint.to_owned(), Vec::new())
            }
            Refused::NoServer { nearest: Some(nearest), .. } => {
                (StatusCode::NOT_FOUND, format!("did you mean {nearest}?"), Vec::new())
            }
            Refused::NoServer { service, nearest: None, .. } => {
                let hint = format!("`pointsman service show {service}` shows those that it has");
                (StatusCode::NOT_FOUND, hint, Vec::new())
            }
            Refused::Invalid(problems) => {
                let hint = problems.first().and_then(|problem| problem.help.clone());
                let hint = hint.unwrap_or_else(|| "nothing has changed".to_owned());
                (StatusCode::UNPROCESSABLE_ENTITY, hint, problems)
            }
            Refused::NoRoomForFamily { .. } => {
                let hint = "set ipv6_share in [director] and restart the director";
                (StatusCode::UNPROCESSABLE_ENTITY, hint.to_owned(), Vec::new())
            }
            Refused::Compile(_) | Refused::NoSlot { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "nothing has changed".to_owned(), Vec::new())
            }
        };
        let mut refusal = Self::new(status, error, &hint);
        refusal.failure.problems = problems;
        refusal
    }
}

pub(super) fn with_etag(etag: &str, answer: impl IntoResponse) -> Response {
    ([(header::ETAG, etag.to_owned())], answer).into_response()
}
