//! The running director's side of an upgrade: a thread that starts the new one, tells it everything
//! and lets go when it forwards. Until then nothing has changed, whatever becomes of the new one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender as Channel};
use std::time::Duration;

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use super::codec::{Frame, Reader, Unreadable, Word, Writer};
use super::listeners;
use super::sender::Sender;
use super::succession::{NoUpgrade, check_file};
use crate::dataplane::handover::Phase;

/// How long the new director may take to start: EAL, ports, tables.
const START_TIME: Duration = Duration::from_secs(120);
/// How long for each step after that, and for the last one, while nobody forwards.
const STEP_TIME: Duration = Duration::from_secs(30);
const SWITCH_TIME: Duration = Duration::from_secs(3);
/// How long before they do the workers of both directors know when they are to hold still, and by
/// how much the new ones do so earlier.
const NOTICE: Duration = Duration::from_millis(50);
const OVERLAP: Duration = Duration::from_millis(1);

/// Why the new director does not take this one's place.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("cannot start {program}: {cause}", program = .program.display())]
    Start { program: PathBuf, cause: io::Error },
    #[error("cannot speak with the new director: {0}")]
    Io(#[from] io::Error),
    #[error("the new director says no: {0}")]
    Refused(String),
    #[error("the new director {0}; its log says why")]
    Gone(String),
    #[error("the new director says what is not expected; is it another version of pointsman?")]
    Unexpected,
    #[error("{0} connections ended faster than could be told; try again when there is less to do")]
    Lost(u64),
}

/// What an upgrade takes.
#[derive(Debug)]
pub(in crate::control) struct UpgradeParts {
    /// The new director's program.
    pub(in crate::control) program: PathBuf,
    /// Its configuration file.
    pub(in crate::control) config: PathBuf,
    /// What tells it everything.
    pub(in crate::control) sender: Sender,
    /// Those of the control socket and of the metrics.
    pub(in crate::control) listeners: Vec<OwnedFd>,
    /// The time stamp counter.
    pub(in crate::control) clock: fn() -> u64,
    /// Keeps descriptors of this process from the new one.
    pub(in crate::control) keep_descriptors: fn() -> io::Result<()>,
    /// Whether the new director was started.
    pub(in crate::control) started: oneshot::Sender<Result<u32, NoUpgrade>>,
}

/// How an upgrade has ended.
#[derive(Debug)]
pub(in crate::control) enum Ending {
    /// Another process forwards: this one is to end.
    Done { pid: u32, connections: u64, gap: Duration },
    /// This one goes on.
    Failed(String),
}

/// The thread, from outside. It is made at the start, before any thread is kept on a CPU: what it
/// starts may run on all of them.
#[derive(Debug)]
pub(in crate::control) struct Upgrade {
    parts: Channel<UpgradeParts>,
}

impl Upgrade {
    /// Starts the thread. How upgrades end comes by the receiver.
    pub(in crate::control) fn start() -> io::Result<(Self, tokio_mpsc::UnboundedReceiver<Ending>)> {
        let (parts, asked) = mpsc::channel();
        let (tell, endings) = tokio_mpsc::unbounded_channel();
        let run = move || run(&asked, &tell);
        std::thread::Builder::new().name("upgrade".into()).spawn(run)?;
        Ok((Self { parts }, endings))
    }

    /// Begins an upgrade; `false`: the thread is gone.
    pub(in crate::control) fn begin(&self, parts: UpgradeParts) -> bool {
        self.parts.send(parts).is_ok()
    }
}

fn run(asked: &Receiver<UpgradeParts>, tell: &tokio_mpsc::UnboundedSender<Ending>) {
    while let Ok(parts) = asked.recv() {
        let ending = upgrade(parts);
        if tell.send(ending).is_err() {
            return;
        }
    }
}

fn upgrade(parts: UpgradeParts) -> Ending {
    let UpgradeParts { program, config, sender, listeners, clock, keep_descriptors, started } =
        parts;
    let start = |cause| {
        let program = program.clone();
        NoUpgrade::NotStarted(Failed::Start { program, cause }.to_string())
    };
    let begun = check_file(&config)
        .and_then(|()| keep_descriptors().and_then(|()| begin(&program, &config)).map_err(start));
    let (child, stream) = match begun {
        Ok(begun) => begun,
        Err(why) => {
            let error = why.to_string();
            // Who asked may have given up.
            started.send(Err(why)).ok();
            return Ending::Failed(error);
        }
    };
    let pid = child.id();
    tracing::info!(pid, program = %program.display(), "a new director was started");
    started.send(Ok(pid)).ok();
    let mut heir = Heir { child, switched: false };
    let told = tell_all(&stream, &sender, &listeners, clock);
    match told {
        Ok((connections, gap)) => {
            heir.switched = true;
            Ending::Done { pid, connections, gap }
        }
        Err(failed) => {
            let failed = heir.ended(failed);
            // Nobody else may forward when this director goes on.
            drop(heir);
            sender.handover.begin(0);
            sender.handover.set_phase(Phase::Open);
            Ending::Failed(failed.to_string())
        }
    }
}

/// Starts the new director, with a socket as its standard input.
fn begin(program: &PathBuf, config: &PathBuf) -> io::Result<(Child, UnixStream)> {
    let (here, there) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(config).arg("--successor");
    command.stdin(Stdio::from(OwnedFd::from(there)));
    Ok((command.spawn()?, here))
}

/// The new director, which does not outlive a failure.
struct Heir {
    child: Child,
    switched: bool,
}

impl Heir {
    /// What has become of it, where it does not speak any more.
    fn ended(&mut self, failed: Failed) -> Failed {
        let is_silent = matches!(
            &failed,
            Failed::Io(cause) if matches!(
                cause.kind(),
                io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
            )
        );
        if !is_silent {
            return failed;
        }
        // It ends, or has ended.
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Failed::Gone(format!("has ended ({status})"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Failed::Gone("has closed the connection".to_owned())
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.switched {
            // It may have ended by itself.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn tell_all(
    stream: &UnixStream,
    sender: &Sender,
    listeners: &[OwnedFd],
    clock: fn() -> u64,
) -> Result<(u64, Duration), Failed> {
    let hz = sender.observed.tsc_hz;
    stream.set_write_timeout(Some(STEP_TIME))?;
    stream.set_read_timeout(Some(START_TIME))?;
    let mut writer = Writer::begin(stream.try_clone()?)?;
    writer.frame(&Frame::Head(sender.head.clone()))?;
    listeners::send(stream, listeners)?;
    let mut reader = Reader::begin(stream.try_clone()?).map_err(unreadable)?;
    hear(&mut reader, &Word::Ready)?;
    stream.set_read_timeout(Some(STEP_TIME))?;
    sender.pass(1, &mut writer)?;
    writer.frame(&Frame::Word(Word::Told))?;
    hear(&mut reader, &Word::Taken)?;
    stream.set_read_timeout(Some(SWITCH_TIME))?;
    stream.set_write_timeout(Some(SWITCH_TIME))?;
    let cycles = |span: Duration| {
        u64::try_from(span.as_micros()).unwrap_or(u64::MAX).saturating_mul(hz / 1_000_000)
    };
    // The new one a little earlier: a packet that comes twice does less harm than one that is lost.
    let held_at = clock().saturating_add(cycles(NOTICE));
    writer.frame(&Frame::Word(Word::Hold { at: held_at.saturating_sub(cycles(OVERLAP)) }))?;
    hear(&mut reader, &Word::Holding)?;
    sender.handover.hold_from(held_at);
    sender.await_hold()?;
    sender.pass(2, &mut writer)?;
    match sender.handover.lost() {
        0 => {}
        lost => return Err(Failed::Lost(lost)),
    }
    sender.rest(&mut writer)?;
    writer.frame(&Frame::Word(Word::Over { held_at }))?;
    let begun = next(&mut reader)?;
    let Word::Begun { connections, gap_us, .. } = begun else { return Err(Failed::Unexpected) };
    Ok((connections, Duration::from_micros(gap_us)))
}

fn hear(reader: &mut Reader<UnixStream>, awaited: &Word) -> Result<(), Failed> {
    let word = next(reader)?;
    if word == *awaited { Ok(()) } else { Err(Failed::Unexpected) }
}

fn next(reader: &mut Reader<UnixStream>) -> Result<Word, Failed> {
    match reader.frame().map_err(unreadable)? {
        Frame::Word(Word::Failed(why)) => Err(Failed::Refused(why)),
        Frame::Word(word) => Ok(word),
        Frame::Head(_) | Frame::Records(_) | Frame::End { .. } => Err(Failed::Unexpected),
    }
}

fn unreadable(why: Unreadable) -> Failed {
    match why {
        Unreadable::Io(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
            Failed::Gone("does not answer in time".to_owned())
        }
        Unreadable::Io(cause) => Failed::Io(cause),
        Unreadable::Short => Failed::Io(io::ErrorKind::UnexpectedEof.into()),
        Unreadable::Foreign | Unreadable::Version(_) | Unreadable::Damaged => Failed::Unexpected,
    }
}
