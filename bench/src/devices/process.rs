//! Programs that are measured: started with a pinned life, ended by their own id.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to end.
const END: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running program. It is killed when this is dropped, or when the benchmark dies.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Program {
    /// Starts a program; what it prints goes to a file in `folder`.
    pub(super) fn start<S: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = S>,
        folder: &Path,
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        // setpriv only tells the kernel to end the program with us, then becomes it: same id.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {} by setpriv", program.display()))?;
        Ok(Self { child, name, log })
    }

    /// Types a line.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its input is closed")?;
        writeln!(stdin, "{line}").with_context(|| self.words())
    }

    /// An error if it has ended already.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}\n{}", self.name, self.words()),
        }
    }

    /// Asks it to end, by SIGTERM.
    pub(super) fn terminate(&mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        Ok(())
    }

    /// Waits until it has ended, and gives what it printed.
    pub(super) fn end(mut self) -> Result<String> {
        let status = self.wait()?;
        if !status.success() {
            bail!("{} failed: {status}\n{}", self.name, self.words());
        }
        Ok(self.words())
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > END {
                bail!("{} does not end\n{}", self.name, self.words());
            }
            std::thread::sleep(POLL);
        }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // It is being given up; there is nobody to tell.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
