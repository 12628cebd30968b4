//! Everything that changes what the operator wants: services, servers, idle times, the file.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::Doors;
use super::message::{
    Changed, DrainSpec, DrainingServer, Failure, Saved, ServerSpec, ServiceSpec, Services,
    TimeoutsSpec,
};
use super::server::{Asked, Refusal, unavailable};
use super::spec::timeouts_spec;
use crate::control::desired::{Change, DrainOrder, Emptying, Keys, Refused, ServerName};
use crate::control::observed::unix_seconds;
use crate::control::run::{ChangeRequest, NotChanged, Request, SaveRequest};
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
    service: Option<String>,
}

impl Manner {
    fn removal(&self) -> Result<Option<Removal>, Refusal> {
        let Some(word) = &self.connections else { return Ok(None) };
        let known = Removal::ALL.into_iter().find(|removal| removal.name() == word);
        known.map(Some).ok_or_else(|| {
            let names = Removal::ALL.map(Removal::name).join(", ");
            let error = format!("connections: {word:?} is unknown: expected one of {names}");
            Refusal::new(StatusCode::BAD_REQUEST, error, "finish is what IPVS does")
        })
    }
}

type Body = Result<Bytes, BytesRejection>;

/// Every service as it is stated.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Services)))]
pub(super) async fn list_services(State(doors): State<Doors>) -> Response {
    let inventory = doors.observed.inventory();
    let services = inventory.config.services.iter().map(ServiceSpec::from).collect();
    let version = inventory.revision;
    with_version(version, Json(Services { version, services }))
}

/// One service as it is stated.
#[utoipa::path(
    get, path = "/v1/services/{service}", params(("service" = String, Path)),
    responses((status = 200, body = ServiceSpec), (status = 404, body = Failure))
)]
pub(super) async fn get_service(
    State(doors): State<Doors>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let inventory = doors.observed.inventory();
    let services = &inventory.config.services;
    let found = services.iter().find(|service| service.name == name).ok_or_else(|| {
        let names: Vec<_> = services.iter().map(|service| service.name.clone()).collect();
        let nearest = crate::control::config::nearest(&name, &names).map(str::to_owned);
        Refusal::from(Refused::NoService { name, nearest })
    })?;
    Ok(with_version(inventory.revision, Json(ServiceSpec::from(found))))
}

/// Add a service.
#[utoipa::path(
    post, path = "/v1/services", request_body = ServiceSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn add_service(
    State(doors): State<Doors>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let change = Change::AddService(object(body)?);
    doors.change(change, manner, &headers).await
}

/// Make these all the services that there are.
#[utoipa::path(
    put, path = "/v1/services", request_body = Vec<ServiceSpec>, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn replace_services(
    State(doors): State<Doors>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let change = Change::ReplaceServices(json(body, "an array of services")?);
    doors.change(change, manner, &headers).await
}

/// Set keys of a service; `null` takes one out.
#[utoipa::path(
    patch, path = "/v1/services/{service}", request_body = ServiceSpec,
    params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_service(
    State(doors): State<Doors>,
    Path(service): Path<String>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let change = Change::SetService { service, keys: object(body)? };
    doors.change(change, manner, &headers).await
}

/// Remove a service and its servers.
#[utoipa::path(
    delete, path = "/v1/services/{service}", params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn remove_service(
    State(doors): State<Doors>,
    Path(service): Path<String>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let change = Change::RemoveService { service, connections: manner.removal()? };
    doors.change(change, manner, &headers).await
}

/// Add a server to a service.
#[utoipa::path(
    post, path = "/v1/services/{service}/servers", request_body = ServerSpec,
    params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn add_server(
    State(doors): State<Doors>,
    Path(service): Path<String>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let change = Change::AddServer { service, keys: object(body)? };
    doors.change(change, manner, &headers).await
}

/// Set keys of a server; `null` takes one out.
#[utoipa::path(
    patch, path = "/v1/services/{service}/servers/{server}", request_body = ServerSpec,
    params(("service" = String, Path), ("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_server(
    State(doors): State<Doors>,
    Path((service, server)): Path<(String, String)>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let change = Change::SetServer { service, server: server_name(&server)?, keys: object(body)? };
    doors.change(change, manner, &headers).await
}

/// Remove a server from a service.
#[utoipa::path(
    delete, path = "/v1/services/{service}/servers/{server}",
    params(("service" = String, Path), ("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn remove_server(
    State(doors): State<Doors>,
    Path((service, server)): Path<(String, String)>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (server, connections) = (server_name(&server)?, manner.removal()?);
    let change = Change::RemoveServer { service, server, connections };
    doors.change(change, manner, &headers).await
}

/// The idle times of connections.
#[utoipa::path(get, path = "/v1/timeouts", responses((status = 200, body = TimeoutsSpec)))]
pub(super) async fn get_timeouts(State(doors): State<Doors>) -> Response {
    let inventory = doors.observed.inventory();
    with_version(inventory.revision, Json(timeouts_spec(&inventory.config.timeouts)))
}

/// Set idle times; `null` gives one back its default.
#[utoipa::path(
    patch, path = "/v1/timeouts", request_body = TimeoutsSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_timeouts(
    State(doors): State<Doors>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    doors.change(Change::SetTimeouts(object(body)?), manner, &headers).await
}

/// The servers that are drained, and the connections that they still have.
#[utoipa::path(get, path = "/v1/drains", responses((status = 200, body = Vec<DrainingServer>)))]
pub(super) async fn list_drains(State(doors): State<Doors>) -> Response {
    let inventory = doors.observed.inventory();
    let mut drains = Vec::new();
    for entry in &inventory.services {
        for server in &entry.servers {
            drains.extend(server.drain.as_ref().map(|drain| DrainingServer {
                service: entry.service.name.clone(),
                server: drain.server.clone(),
                since: drain.since,
                deadline: drain.deadline,
                remove: drain.remove,
                connections: server.connections(&doors.observed.loads),
            }));
        }
    }
    with_version(inventory.revision, Json(drains))
}

/// Drain servers: they take no new connections, whatever their weight, until that is cancelled.
#[utoipa::path(
    post, path = "/v1/drains", request_body = DrainSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn drain(
    State(doors): State<Doors>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let DrainSpec { server, service, timeout, remove } = json(body, "a server to be drained")?;
    let timeout = timeout.map(|text| {
        humantime::parse_duration(&text).map_err(|_| {
            let hint = "write a duration with its unit, such as \"90s\", \"15m\" or \"2h\"";
            let error = format!("timeout: {text:?} is not a duration");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, hint)
        })
    });
    let timeout = timeout.transpose()?;
    let how = Some(Emptying { timeout, remove, now: unix_seconds() });
    let order = DrainOrder { server: server_name(&server)?, service, how };
    doors.change(Change::Drain(order), manner, &headers).await
}

/// Let drained servers take connections again.
#[utoipa::path(
    delete, path = "/v1/drains/{server}", params(("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn cancel_drain(
    State(doors): State<Doors>,
    Path(server): Path<String>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let service = manner.service.clone();
    let order = DrainOrder { server: server_name(&server)?, service, how: None };
    doors.change(Change::Drain(order), manner, &headers).await
}

/// Make everything as the configuration file says it.
#[utoipa::path(
    post, path = "/v1/reload", params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure))
)]
pub(super) async fn reload(
    State(doors): State<Doors>,
    Asked(manner): Asked<Manner>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let path = doors.path.as_path();
    let text = std::fs::read_to_string(path).map_err(|cause| {
        let error = format!("cannot read {}: {cause}", path.display());
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, "nothing has changed")
    })?;
    doors.change(Change::Reload { text }, manner, &headers).await
}

/// How the file is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Saving {
    /// Whatever has been written into it meanwhile.
    #[serde(default)]
    force: bool,
}

/// Write what is in force back to the configuration file.
#[utoipa::path(
    post, path = "/v1/save", params(Saving),
    responses((status = 200, body = Saved), (status = 409, body = Failure))
)]
pub(super) async fn save(
    State(doors): State<Doors>,
    Asked(Saving { force }): Asked<Saving>,
) -> Result<Json<Saved>, Refusal> {
    let (reply, answer) = oneshot::channel();
    let request = Request::Save(SaveRequest { force, reply });
    doors.requests.send(request).await.map_err(|_| unavailable())?;
    answer
        .await
        .map_err(|_| unavailable())?
        .map(Json)
        .map_err(|failure| Refusal { status: StatusCode::CONFLICT, failure })
}

impl Doors {
    async fn change(
        &self,
        change: Change,
        Manner { dry_run, .. }: Manner,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let expected = expected_version(headers)?;
        let origin = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let origin = origin.unwrap_or("api").chars().filter(|c| !c.is_control()).take(64).collect();
        let (reply, answer) = oneshot::channel();
        let request = Request::Change(ChangeRequest { change, expected, dry_run, origin, reply });
        self.requests.send(request).await.map_err(|_| unavailable())?;
        let changed = answer.await.map_err(|_| unavailable())??;
        let status =
            if changed.silent_workers.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok((status, with_version(changed.version, Json(changed))).into_response())
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
            Refused::NoServer { service, .. } => {
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

fn with_version(version: u64, answer: impl IntoResponse) -> Response {
    ([(header::ETAG, format!("\"{version}\""))], answer).into_response()
}

/// `If-Match: "17"`; none and `*` mean whatever there is.
fn expected_version(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(header) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = header.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    text.trim_matches('"').parse().map(Some).map_err(|_| {
        let hint = "write the version that GET /v1/services gave: If-Match: \"17\"";
        Refusal::new(StatusCode::BAD_REQUEST, format!("If-Match: {text:?} is no version"), hint)
    })
}

fn server_name(text: &str) -> Result<ServerName, Refusal> {
    ServerName::parse(text).ok_or_else(|| {
        let hint = "write an address with its port, such as 10.0.0.11:8080 or [2001:db8::11]:80";
        Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is not a server's address"), hint)
    })
}

fn object(body: Body) -> Result<Keys, Refusal> {
    json(body, "an object")
}

fn json<T: DeserializeOwned>(body: Body, expected: &str) -> Result<T, Refusal> {
    let body = body.map_err(|error| {
        let hint = "send at most 2 MiB";
        Refusal::new(error.status(), error.body_text(), hint)
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        let hint = format!("send {expected} in JSON; /v1/openapi.json describes it");
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not understood: {error}"), &hint)
    })
}
