//! The client's end of the control socket, as the subcommands use it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::message::{Connections, Failure, Status};

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
    #[error("{}; {}", .0.error, .0.hint)]
    Refused(Failure),
    /// The answer is not what this version understands.
    #[error("the director's answer is not understood ({0}); is it another version of pointsman?")]
    NotUnderstood(String),
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

    /// The answer to `GET path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let silent = |_| ClientError::Silent { path: self.socket.clone() };
        let (success, body) =
            tokio::time::timeout(ANSWER_TIME, self.exchange(path)).await.map_err(silent)??;
        let understood = |error: serde_json::Error| ClientError::NotUnderstood(error.to_string());
        if success {
            serde_json::from_slice(&body).map_err(understood)
        } else {
            Err(ClientError::Refused(serde_json::from_slice(&body).map_err(understood)?))
        }
    }

    async fn exchange(&self, path: &str) -> Result<(bool, Bytes), ClientError> {
        let stream = connect(&self.socket).await?;
        let failed = |cause: String| ClientError::Connection { path: self.socket.clone(), cause };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        // Ends with the exchange; its error, if any, is also the exchange's.
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "pointsman")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(error.to_string()))?;
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
