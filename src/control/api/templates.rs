//! `GET /v1/templates`: which clients persistence sends to which server.
#![allow(unused_qualifications, reason = "utoipa's macros write the types of parameters out")]

use axum::Json;
use axum::extract::State;
use hashbrown::HashMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Doors;
use super::message::{Template, Templates};
use super::server::Asked;

/// Templates in one answer, when the client does not say.
const LIMIT: usize = 10_000;

/// How many are listed.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AtMost {
    /// At most so many; absent: 10,000.
    limit: Option<usize>,
}

/// Clients that persistence sends to a server.
#[utoipa::path(get, path = "/v1/templates", params(AtMost), responses((status = 200, body = Templates)))]
pub(super) async fn list(
    State(doors): State<Doors>,
    Asked(AtMost { limit }): Asked<AtMost>,
) -> Json<Templates> {
    let inventory = doors.observed.inventory();
    let servers = inventory.services.iter().flat_map(|entry| {
        entry.servers.iter().map(move |server| (server.slot, (&entry.service, server.server)))
    });
    let servers: HashMap<_, _> = servers.collect();
    // Those of servers that are gone are cleared by the workers.
    let known = doors.observed.loads.templates().listing().filter_map(|row| {
        let (service, server) = servers.get(&row.server)?;
        Some(Template {
            service: service.name.clone(),
            listen: service.listen.to_string(),
            client: row.client,
            server: server.address,
            expires_ms: row.expires_ms,
        })
    });
    Json(Templates { templates: known.take(limit.unwrap_or(LIMIT)).collect() })
}
