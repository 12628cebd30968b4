//! The client's end of the control socket, as the subcommands use it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::http;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::message::{
    Changed, Connections, DrainSpec, DrainingServer, FailoverStatus, Failure, Saved, ServiceSpec,
    Services, Status, Templates, TimeoutsSpec, UpgradeSpec, UpgradeStatus, Zeroed,
};

/// Time for a whole request.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The longest answer that is read, octets.
const ANSWER_OCTETS: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no director answers at {path}: is it running? Start it with `pointsman run --config \
         FILE`, or name its socket with --socket",
        path = .path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The caller may not use the socket.
    #[error(
        "{path} may not be used by this user; use sudo, or a user of the socket's group",
        path = .path.display()
    )]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The connection failed on the way.
    #[error("cannot talk to the director at {path}: {cause}", path = .path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        cause: String,
    },
    /// It takes too long.
    #[error(
        "the director at {path} has not answered for {seconds} s; its control thread may be stuck",
        path = .path.display(), seconds = ANSWER_TIME.as_secs()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The director says no.
    #[error("{}", Said(.0))]
    Refused(Box<Failure>),
    /// Some workers have not said that they have the change.
    #[error(
        "{text}worker {workers} has not taken it over yet: it may be stuck, see `pointsman status --workers`"
    )]
    NotTakenOver {
        /// What has changed.
        text: String,
        /// The workers.
        workers: String,
    },
    /// The time of a drain is over.
    #[error("not empty:\n{0}")]
    NotEmpty(String),
    /// The answer is not what this version understands.
    #[error("the director's answer is not understood ({0}); is it another version of pointsman?")]
    NotUnderstood(String),
}

/// Displays what the director says.
struct Said<'a>(&'a Failure);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { error, hint, problems, .. } = self.0;
        match &problems[..] {
            [] => write!(f, "{error}; {hint}"),
            [problem] => problem.fmt(f),
            problems => {
                write!(f, "{} things are wrong:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

/// What is to be changed, and how.
#[derive(Clone, Debug)]
pub struct ChangeCall {
    method: Method,
    path: String,
    query: Option<String>,
    body: Option<serde_json::Value>,
    etag: Option<String>,
    dry_run: bool,
    origin: &'static str,
}

/// A part of a path, whatever is in it.
fn part(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

impl ChangeCall {
    fn new(method: Method, path: String, body: Option<serde_json::Value>) -> Self {
        Self { method, path, query: None, body, etag: None, dry_run: false, origin: "pointsman" }
    }

    /// One more service, whose keys are those of `[[service]]`.
    pub fn add_service(keys: serde_json::Value) -> Self {
        Self::new(Method::POST, "/v1/services".to_owned(), Some(keys))
    }

    /// All services are these.
    pub fn replace_services(services: serde_json::Value) -> Self {
        Self::new(Method::PUT, "/v1/services".to_owned(), Some(services))
    }

    /// Keys of a service; `null` takes one out.
    pub fn set_service(service: &str, keys: serde_json::Value) -> Self {
        Self::new(Method::PATCH, format!("/v1/services/{}", part(service)), Some(keys))
    }

    /// A service goes.
    pub fn remove_service(service: &str) -> Self {
        Self::new(Method::DELETE, format!("/v1/services/{}", part(service)), None)
    }

    /// One more server.
    pub fn add_server(service: &str, keys: serde_json::Value) -> Self {
        Self::new(Method::POST, format!("/v1/services/{}/servers", part(service)), Some(keys))
    }

    /// Keys of a server; `null` takes one out.
    pub fn set_server(service: &str, server: &str, keys: serde_json::Value) -> Self {
        Self::new(Method::PATCH, server_path(service, server), Some(keys))
    }

    /// A server goes.
    pub fn remove_server(service: &str, server: &str) -> Self {
        Self::new(Method::DELETE, server_path(service, server), None)
    }

    /// Keys of the idle times.
    pub fn set_timeouts(keys: serde_json::Value) -> Self {
        Self::new(Method::PATCH, "/v1/timeouts".to_owned(), Some(keys))
    }

    /// A server is to take no new connections until it is empty.
    pub fn drain(spec: &DrainSpec) -> Self {
        let body = serde_json::to_value(spec).unwrap_or_default();
        Self::new(Method::POST, "/v1/drains".to_owned(), Some(body))
    }

    /// A server is to take connections again: of one service, or of all.
    pub fn cancel_drain(server: &str, service: Option<&str>) -> Self {
        let query = service.map(|service| format!("service={}", part(service)));
        let path = format!("/v1/drains/{}", part(server));
        Self { query, ..Self::new(Method::DELETE, path, None) }
    }

    /// Everything as the configuration file says it.
    pub fn reload() -> Self {
        Self::new(Method::POST, "/v1/reload".to_owned(), None)
    }

    /// What becomes of the connections of what is removed: finish, reset or forget.
    #[must_use]
    pub fn connections(self, ending: Option<&str>) -> Self {
        let query = ending.map(|ending| format!("connections={}", part(ending)));
        Self { query: query.or(self.query), ..self }
    }

    /// Only if what is in force is what this `ETag` was given for.
    #[must_use]
    pub fn if_match(self, etag: &str) -> Self {
        Self { etag: Some(etag.to_owned()), ..self }
    }

    /// Only tell what would change.
    #[must_use]
    pub fn dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// Who asks, for the director's log.
    #[must_use]
    pub fn origin(self, origin: &'static str) -> Self {
        Self { origin, ..self }
    }
}

fn server_path(service: &str, server: &str) -> String {
    format!("/v1/services/{}/servers/{}", part(service), part(server))
}

/// A client of one director.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the director at this socket; connects for each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/connections`: the next at most `limit` ones.
    pub async fn connections(
        &self,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Connections, ClientError> {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        self.get(&format!("/v1/connections?limit={limit}{cursor}")).await
    }

    /// `GET /v1/services`
    pub async fn services(&self) -> Result<Services, ClientError> {
        self.get("/v1/services").await
    }

    /// `GET /v1/services/NAME`
    pub async fn service(&self, name: &str) -> Result<ServiceSpec, ClientError> {
        self.get(&format!("/v1/services/{}", part(name))).await
    }

    /// `GET /v1/templates`: at most `limit`.
    pub async fn templates(&self, limit: usize) -> Result<Templates, ClientError> {
        self.get(&format!("/v1/templates?limit={limit}")).await
    }

    /// `GET /v1/drains`
    pub async fn drains(&self) -> Result<Vec<DrainingServer>, ClientError> {
        self.get("/v1/drains").await
    }

    /// `GET /v1/timeouts`
    pub async fn timeouts(&self) -> Result<TimeoutsSpec, ClientError> {
        self.get("/v1/timeouts").await
    }

    /// Makes a change; the answer comes when all workers have it, or have been waited for.
    pub async fn change(&self, call: ChangeCall) -> Result<Changed, ClientError> {
        let ChangeCall { method, path, query, body, etag, dry_run, origin } = call;
        let queries = query.into_iter().chain(dry_run.then(|| "dry_run=true".to_owned()));
        let queries: Vec<_> = queries.collect();
        let path = if queries.is_empty() { path } else { format!("{path}?{}", queries.join("&")) };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::USER_AGENT, origin);
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        self.ask(request, body).await
    }

    /// `GET /v1/failover`: the pair.
    pub async fn failover(&self) -> Result<FailoverStatus, ClientError> {
        self.get("/v1/failover").await
    }

    /// `POST /v1/failover/release`: the other director is to take over.
    pub async fn release(&self) -> Result<FailoverStatus, ClientError> {
        self.ask(Request::post("/v1/failover/release"), String::new()).await
    }

    /// `POST /v1/failover/takeover`: this director is to take over.
    pub async fn take_over(&self) -> Result<FailoverStatus, ClientError> {
        self.ask(Request::post("/v1/failover/takeover"), String::new()).await
    }

    /// `GET /v1/upgrade`: what has become of the last upgrade.
    pub async fn upgrade(&self) -> Result<UpgradeStatus, ClientError> {
        self.get("/v1/upgrade").await
    }

    /// `POST /v1/upgrade`: a new director is to take the place of the running one.
    pub async fn begin_upgrade(&self, spec: &UpgradeSpec) -> Result<UpgradeStatus, ClientError> {
        let body = serde_json::to_string(spec);
        let body = body.map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        self.ask(Request::post("/v1/upgrade"), body).await
    }

    /// `POST /v1/zero`: counters of a service, or of all, begin at 0 again.
    pub async fn zero(&self, service: Option<&str>) -> Result<Zeroed, ClientError> {
        let path = service.map(|service| format!("/v1/services/{}/zero", part(service)));
        let path = path.unwrap_or_else(|| "/v1/zero".to_owned());
        self.ask(Request::post(path), String::new()).await
    }

    /// `POST /v1/save`: writes what is wanted into the configuration file, with `force` whatever
    /// has been written there meanwhile.
    pub async fn save(&self, force: bool) -> Result<Saved, ClientError> {
        let request = Request::post(format!("/v1/save?force={force}"));
        self.ask(request, String::new()).await
    }

    /// The answer to `GET path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Request::get(path), String::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> Result<T, ClientError> {
        let failed = |cause: String| ClientError::Connection { path: self.socket.clone(), cause };
        let request = request.header(header::HOST, "pointsman").body(Full::from(body));
        let request = request.map_err(|error| failed(error.to_string()))?;
        let silent = |_| ClientError::Silent { path: self.socket.clone() };
        let (success, body) =
            tokio::time::timeout(ANSWER_TIME, self.exchange(request)).await.map_err(silent)??;
        let understood = |error: serde_json::Error| ClientError::NotUnderstood(error.to_string());
        if success {
            serde_json::from_slice(&body).map_err(understood)
        } else {
            let failure = serde_json::from_slice(&body).map_err(understood)?;
            Err(ClientError::Refused(Box::new(failure)))
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(bool, Bytes), ClientError> {
        let stream = connect(&self.socket).await?;
        let failed = |cause: String| ClientError::Connection { path: self.socket.clone(), cause };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Ends with the exchange; its error, if any, is also the exchange's.
        let connection = tokio::spawn(connection);
        let response =
            sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        let success = response.status().is_success();
        let body = Limited::new(response.into_body(), ANSWER_OCTETS)
            .collect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        connection.abort();
        Ok((success, body.to_bytes()))
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let path = || socket.to_owned();
    UnixStream::connect(socket).await.map_err(|cause| {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        if matches!(cause.kind(), NotFound | ConnectionRefused) {
            ClientError::NotRunning { path: path() }
        } else if cause.kind() == PermissionDenied {
            ClientError::NotAllowed { path: path() }
        } else {
            ClientError::Connection { path: path(), cause: cause.to_string() }
        }
    })
}
