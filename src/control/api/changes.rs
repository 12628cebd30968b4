//! Everything that changes what the operator wants: services, servers, idle times, the file.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::oneshot;
use utoipa::IntoParams;

use super::Doors;
use super::call::{Answer, Call, Manner, with_etag};
use super::message::{
    Changed, DrainSpec, DrainingServer, Failure, Saved, ServerSpec, ServiceSpec, Services,
    TimeoutsSpec,
};
use super::server::{Asked, Refusal, unavailable};
use super::spec::timeouts_spec;
use crate::control::desired::{Change, DrainOrder, Emptying, ServerName, no_service};
use crate::control::observed::unix_seconds;
use crate::control::request::{Request, SaveRequest};

/// Every service as it is stated.
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Services)))]
pub(super) async fn list_services(State(doors): State<Doors>) -> Response {
    let inventory = doors.observed.inventory();
    let services = inventory.config.services.iter().map(ServiceSpec::from).collect();
    let (version, etag) = (inventory.revision, doors.etag(inventory.revision));
    with_etag(&etag, Json(Services { version, etag: etag.clone(), services }))
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
    let found = services.iter().find(|service| service.name == name);
    let found = found.ok_or_else(|| Refusal::from(no_service(&name, &inventory.config)))?;
    Ok(with_etag(&doors.etag(inventory.revision), Json(ServiceSpec::from(found))))
}

/// Add a service.
#[utoipa::path(
    post, path = "/v1/services", request_body = ServiceSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn add_service(call: Call) -> Answer {
    let change = Change::AddService(call.object()?);
    call.make(change).await
}

/// Make these all the services that there are.
#[utoipa::path(
    put, path = "/v1/services", request_body = Vec<ServiceSpec>, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn replace_services(call: Call) -> Answer {
    let change = Change::ReplaceServices(call.json("an array of services")?);
    call.make(change).await
}

/// Set keys of a service; `null` takes one out.
#[utoipa::path(
    patch, path = "/v1/services/{service}", request_body = ServiceSpec,
    params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_service(Path(service): Path<String>, call: Call) -> Answer {
    let change = Change::SetService { service, keys: call.object()? };
    call.make(change).await
}

/// Remove a service and its servers.
#[utoipa::path(
    delete, path = "/v1/services/{service}", params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn remove_service(Path(service): Path<String>, call: Call) -> Answer {
    let change = Change::RemoveService { service, connections: call.manner.removal()? };
    call.make(change).await
}

/// Add a server to a service.
#[utoipa::path(
    post, path = "/v1/services/{service}/servers", request_body = ServerSpec,
    params(("service" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn add_server(Path(service): Path<String>, call: Call) -> Answer {
    let change = Change::AddServer { service, keys: call.object()? };
    call.make(change).await
}

/// Set keys of a server; `null` takes one out.
#[utoipa::path(
    patch, path = "/v1/services/{service}/servers/{server}", request_body = ServerSpec,
    params(("service" = String, Path), ("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_server(
    Path((service, server)): Path<(String, String)>,
    call: Call,
) -> Answer {
    let change = Change::SetServer { service, server: server_name(&server)?, keys: call.object()? };
    call.make(change).await
}

/// Remove a server from a service.
#[utoipa::path(
    delete, path = "/v1/services/{service}/servers/{server}",
    params(("service" = String, Path), ("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn remove_server(
    Path((service, server)): Path<(String, String)>,
    call: Call,
) -> Answer {
    let (server, connections) = (server_name(&server)?, call.manner.removal()?);
    let change = Change::RemoveServer { service, server, connections };
    call.make(change).await
}

/// The idle times of connections.
#[utoipa::path(get, path = "/v1/timeouts", responses((status = 200, body = TimeoutsSpec)))]
pub(super) async fn get_timeouts(State(doors): State<Doors>) -> Response {
    let inventory = doors.observed.inventory();
    with_etag(&doors.etag(inventory.revision), Json(timeouts_spec(&inventory.config.timeouts)))
}

/// Set idle times; `null` gives one back its default.
#[utoipa::path(
    patch, path = "/v1/timeouts", request_body = TimeoutsSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn set_timeouts(call: Call) -> Answer {
    let change = Change::SetTimeouts(call.object()?);
    call.make(change).await
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
    with_etag(&doors.etag(inventory.revision), Json(drains))
}

/// Drain servers: they take no new connections, whatever their weight, until that is cancelled.
#[utoipa::path(
    post, path = "/v1/drains", request_body = DrainSpec, params(Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn drain(call: Call) -> Answer {
    let DrainSpec { server, service, timeout, remove } = call.json("a server to be drained")?;
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
    call.make(Change::Drain(order)).await
}

/// Let drained servers take connections again.
#[utoipa::path(
    delete, path = "/v1/drains/{server}", params(("server" = String, Path), Manner),
    responses((status = 200, body = Changed), (status = 404, body = Failure), (status = 412, body = Failure))
)]
pub(super) async fn cancel_drain(Path(server): Path<String>, call: Call) -> Answer {
    let service = call.manner.service.clone();
    let order = DrainOrder { server: server_name(&server)?, service, how: None };
    call.make(Change::Drain(order)).await
}

/// Make everything as the configuration file says it.
#[utoipa::path(
    post, path = "/v1/reload", params(Manner),
    responses((status = 200, body = Changed), (status = 422, body = Failure))
)]
pub(super) async fn reload(call: Call) -> Answer {
    let path = call.doors.path.as_path();
    let text = std::fs::read_to_string(path).map_err(|cause| {
        let error = format!("cannot read {}: {cause}", path.display());
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, "nothing has changed")
    })?;
    call.make(Change::Reload { text }).await
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

fn server_name(text: &str) -> Result<ServerName, Refusal> {
    ServerName::parse(text).ok_or_else(|| {
        let hint = "write an address with its port, such as 10.0.0.11:8080 or [2001:db8::11]:80";
        Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is not a server's address"), hint)
    })
}
