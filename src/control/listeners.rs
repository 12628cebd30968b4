//! The doors of the control thread: bound before anything else starts, so that an address in use
//! or a second director is found out while there is nothing to undo.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::config::Config;
use super::{api, metrics};

/// Owner and group may use the control socket, others not.
const SOCKET_MODE: u32 = 0o660;
/// The group that may, where there is one of this name.
const SOCKET_GROUP: &str = "pointsman";

/// Why the control side cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The metrics address is taken.
    #[error(
        "{address} is in use by another process; set another address as `metrics` in [director], \
         or `metrics = \"off\"`"
    )]
    MetricsInUse {
        /// The configured address.
        address: SocketAddr,
    },
    /// The metrics address cannot be used.
    #[error("cannot listen on {address} for metrics: {cause}; check `metrics` in [director]")]
    Metrics {
        /// The configured address.
        address: SocketAddr,
        /// What the operating system says.
        #[source]
        cause: io::Error,
    },
    /// Another director answers at the control socket.
    #[error(
        "another director answers at {path}; stop it, or set another `socket` in [director]",
        path = .path.display()
    )]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is where the control socket should be.
    #[error(
        "{path} exists and is not a socket; remove it, or set another `socket` in [director]",
        path = .path.display()
    )]
    NotASocket {
        /// The configured path.
        path: PathBuf,
    },
    /// The control socket cannot be made.
    #[error(
        "cannot make the control socket {path}: {cause}; run as a user who may write there, or \
         set another `socket` in [director]",
        path = .path.display()
    )]
    Socket {
        /// The configured path.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        cause: io::Error,
    },
    /// The operating system gives no thread, event queue or signal handler.
    #[error("cannot start the control thread: {0}")]
    Thread(#[source] io::Error),
    /// What the director hands over does not fit together.
    #[error("cannot take over the services: {0}")]
    Services(#[from] super::desired::Refused),
}

/// The bound listeners. Dropping them removes the socket's file.
#[derive(Debug)]
pub struct Listeners {
    pub(super) metrics: Option<TcpListener>,
    pub(super) api: ApiListener,
}

impl Listeners {
    /// Binds what the configuration names.
    pub fn bind(config: &Config) -> Result<Self, StartError> {
        // The socket first: that a director runs says more than that its address is taken.
        let api = ApiListener::bind(&config.director.socket)?;
        let metrics = config.director.metrics.map(bind_metrics).transpose()?;
        Ok(Self { metrics, api })
    }

    /// Takes over those of the director before; where the configuration names others, those are
    /// bound. The file of the socket is this director's from [`Self::own`] on.
    pub fn inherit(config: &Config, inherited: Vec<OwnedFd>) -> Result<Self, StartError> {
        let mut inherited = inherited.into_iter();
        let path = &config.director.socket;
        let api = inherited.next().map(UnixListener::from);
        let is_same = |socket: &UnixListener| {
            let address = socket.local_addr().ok();
            address.is_some_and(|address| address.as_pathname() == Some(path))
        };
        let api = match api.filter(is_same) {
            Some(socket) => {
                let file = SocketFile { path: path.clone(), identity: None, made_directory: None };
                ApiListener { socket, file }
            }
            None => ApiListener::bind(path)?,
        };
        let metrics = inherited.next().map(TcpListener::from);
        let is_same = |listener: &TcpListener| {
            listener.local_addr().ok().is_some_and(|own| Some(own) == config.director.metrics)
        };
        let metrics = match metrics.filter(is_same) {
            Some(listener) => Some(listener),
            None => config.director.metrics.map(bind_metrics).transpose()?,
        };
        Ok(Self { metrics, api })
    }

    /// The socket's file is this director's, which removes it at the end.
    pub fn own(&mut self) {
        self.api.file.identity = identity_of(&self.api.file.path);
    }

    /// Those of the control socket and of the metrics, once more.
    pub(super) fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all = vec![OwnedFd::from(self.api.socket.try_clone()?)];
        if let Some(metrics) = &self.metrics {
            all.push(metrics.try_clone()?.into());
        }
        Ok(all)
    }

    /// Begins to serve: the file of the socket, and who serves.
    pub(super) fn serve(
        self,
        doors: api::Doors,
    ) -> Result<(SocketFile, Vec<AbortHandle>), StartError> {
        let Self { api: ApiListener { socket, file }, metrics } = self;
        let observed = Arc::clone(&doors.observed);
        let served = api::server::start(socket, doors)
            .map_err(|cause| StartError::Socket { path: file.path().to_owned(), cause })?;
        let mut servers = vec![served];
        if let Some(listener) = metrics {
            let served = metrics::exporter::start(listener, &observed);
            servers.push(served.map_err(StartError::Thread)?);
        }
        Ok((file, servers))
    }

    /// Where metrics are served: tells the port when the configured one is 0.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }
}

fn bind_metrics(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|cause: io::Error| {
        if cause.kind() == ErrorKind::AddrInUse {
            StartError::MetricsInUse { address }
        } else {
            StartError::Metrics { address, cause }
        }
    })
}

/// The control socket and its file.
#[derive(Debug)]
pub(super) struct ApiListener {
    pub(super) socket: UnixListener,
    pub(super) file: SocketFile,
}

impl ApiListener {
    fn bind(path: &Path) -> Result<Self, StartError> {
        let failed = |cause| StartError::Socket { path: path.to_owned(), cause };
        let made_directory = make_directory_of(path).map_err(failed)?;
        if is_taken(path)? {
            fs::remove_file(path).map_err(failed)?;
        }
        let socket = UnixListener::bind(path).map_err(|cause| {
            // In use: another director was quicker.
            if cause.kind() == ErrorKind::AddrInUse {
                StartError::SocketInUse { path: path.to_owned() }
            } else {
                failed(cause)
            }
        })?;
        let identity = identity_of(path);
        let file = SocketFile { path: path.to_owned(), identity, made_directory };
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        give_to_group(path);
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { socket, file })
    }
}

/// Which file is at a path.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok()
}

/// Gives the socket to its group. Without one, or without the right to, it stays with the group of
/// who runs the director.
fn give_to_group(path: &Path) {
    let group = nix::unistd::Group::from_name(SOCKET_GROUP).ok().flatten();
    if let Some(group) = group
        && let Err(cause) = std::os::unix::fs::chown(path, None, Some(group.gid.as_raw()))
    {
        let socket = path.display();
        tracing::warn!(%socket, group = SOCKET_GROUP, %cause, "the group cannot have the socket");
    }
}

/// Whether a socket lies at `path` that nobody serves any more.
fn is_taken(path: &Path) -> Result<bool, StartError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(false) };
    if !metadata.file_type().is_socket() {
        return Err(StartError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        // An answer, or a queue too full for one: somebody is there.
        Ok(_) => Err(StartError::SocketInUse { path: path.to_owned() }),
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
            Err(StartError::SocketInUse { path: path.to_owned() })
        }
        Err(cause) => Err(StartError::Socket { path: path.to_owned(), cause }),
    }
}

/// Makes the directory of the socket when it is missing, and tells which one was made.
fn make_directory_of(path: &Path) -> io::Result<Option<PathBuf>> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.exists() => {
            fs::create_dir_all(parent)?;
            Ok(Some(parent.to_owned()))
        }
        _ => Ok(None),
    }
}

/// Removes the socket's file when it goes, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    made_directory: Option<PathBuf>,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file is another director's now.
    pub(super) fn leave(&mut self) {
        self.identity = None;
        self.made_directory = None;
    }

    /// Removes the file now: for an exit that runs no destructors.
    pub(super) fn remove(&mut self) {
        let ours = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino())).ok();
        if ours.is_some() && ours == self.identity.take() {
            if let Err(cause) = fs::remove_file(&self.path) {
                tracing::warn!(socket = %self.path.display(), %cause, "cannot remove the socket");
            }
            if let Some(directory) = self.made_directory.take() {
                // Stays when something else lives there now.
                fs::remove_dir(directory).ok();
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}
