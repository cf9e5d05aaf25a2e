//! One child process: its log, its end, and the promise that it does not outlive whoever started it.
//!
//! A test binary can be killed at any moment, and nobody wants to find an API server of last week on the machine. So each
//! child has a guard beside it, a forked shell that reads from a pipe which only the parent holds. When the parent ends,
//! however it ends, the pipe closes and the guard kills the child. `make up` has to leave its processes behind: when all of
//! them are ready, it [releases](Process::release) them.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// `$1` is a folder to remove after the child, or empty. `$$` stays the pid of the first shell in its subshells, which
/// `exec` turns into the child. A line on the pipe sends the guard away: the child was reaped, and its pid may be
/// another's by then, or it was released. The outer subshell ends at once, so that the guard is no child of the child,
/// which would never reap it. SIGHUP stays ignored over `exec`: a child may outlive the terminal.
const GUARDED: &str = r#"sweep=$1; shift; exec 3<&0; trap '' HUP
( ( trap '' INT TERM
    read -r _ <&3 || {
      kill -KILL $$
      [ -z "$sweep" ] || rm -rf -- "$sweep" || { sleep 1; rm -rf -- "$sweep"; }
    } ) >/dev/null 2>&1 & )
exec "$@" </dev/null 3<&-"#;

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For messages.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Set in the child's environment, besides what it inherits.
    pub env: Vec<(String, String)>,
    /// Takes standard output and standard error; appended to.
    pub log: PathBuf,
    /// A folder to remove when the starter was killed; whoever ends in order removes it itself.
    pub sweep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is ours to end.
    Held,
    /// It has ended, and its pid is no longer its own.
    Reaped,
    /// It runs on without us.
    Released,
}

/// A child that runs, or has run.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    child: Child,
    guard: Option<ChildStdin>,
    log: PathBuf,
    state: State,
}

impl Process {
    pub fn spawn(spec: Spec) -> Result<Self> {
        let Spec { name, program, args, env, log, sweep } = spec;
        let output: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new("sh")
            .args(["-c", GUARDED, "sh"])
            .arg(sweep.unwrap_or_default())
            .arg(&program)
            .args(args)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // its own group: Ctrl-C reaches the starter alone, which then ends its children in order
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let guard = child.stdin.take();
        Ok(Process { name, program, child, guard, log, state: State::Held })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of what it printed.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()), lines)
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.dismiss_guard(State::Reaped);
        }
        status
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        match self.state {
            State::Held => {
                // Failing means that it is gone already.
                let _ = self.child.kill();
                let _ = self.child.wait();
                self.dismiss_guard(State::Reaped);
            }
            State::Reaped | State::Released => {}
        }
    }

    /// Lets it run on after this process has ended.
    pub fn release(&mut self) {
        if self.exited().is_none() {
            self.dismiss_guard(State::Released);
        }
    }

    /// Asks it to end (SIGTERM); kills it after `patience`.
    pub async fn stop(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.signal(Signal::TERM);
        while self.exited().is_none() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill();
    }

    /// Sends a signal, as an operator would; a process that is gone takes it silently.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
        {
            let _ = kill_process(pid, signal);
        }
    }

    fn dismiss_guard(&mut self, state: State) {
        self.state = state;
        if let Some(mut guard) = self.guard.take() {
            // Failing means that the guard is gone already.
            let _ = guard.write_all(b"\n");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `lines` lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
