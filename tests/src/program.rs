//! One of Fettle's own programs, or another's controller, as a process: started, killed, started again at the same addresses, and asked how it is.

use std::collections::BTreeMap;
use std::env;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{Process, Spec};

/// On a machine that compiles beside it, the first answer of a debug build takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a pod gets before it is killed, and more than enough here.
const STOP_WITHIN: Duration = Duration::from_secs(15);

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A program that runs or can run again, always as the same pod: same name, identity, addresses and folders.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    spec: Spec,
    metrics: SocketAddr,
    process: Mutex<Option<Process>>,
}

impl Program {
    /// `metrics` is where it answers `/readyz`, and most programs `/metrics` too.
    pub fn new(
        name: &str,
        program: PathBuf,
        args: Vec<String>,
        env: BTreeMap<String, String>,
        metrics: SocketAddr,
        log: PathBuf,
    ) -> Self {
        let env = env.into_iter().collect();
        let spec = Spec { name: name.to_owned(), program, args, env, log, sweep: None };
        Program { name: name.to_owned(), spec, metrics, process: Mutex::new(None) }
    }

    /// Starts it and returns when it is ready.
    pub async fn start(&self) -> Result<()> {
        self.start_without_waiting()?;
        self.ready().await
    }

    /// Starts it; for tests of what happens before it is ready.
    pub fn start_without_waiting(&self) -> Result<()> {
        let mut process = self.lock();
        if process.as_mut().is_some_and(|process| process.exited().is_none()) {
            bail!("{} runs already", self.name);
        }
        *process = Some(Process::spawn(self.spec.clone())?);
        Ok(())
    }

    /// Returns when `/readyz` says yes, or the program ended, or took too long.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Ok((200, _)) = self.get("/readyz").await {
                return Ok(());
            }
            let (exited, tail) = {
                let mut process = self.lock();
                let process = process.as_mut().with_context(|| format!("{} was not started", self.name))?;
                (process.exited(), process.log_tail(20))
            };
            if let Some(status) = exited {
                bail!("{} ended ({status}); the end of {}:\n{tail}", self.name, self.spec.log.display());
            }
            if Instant::now() > deadline {
                let seconds = READY_WITHIN.as_secs();
                bail!("{} is not ready after {seconds} s; the end of {}:\n{tail}", self.name, self.spec.log.display());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Ends it at once (SIGKILL), as a power cut or the kernel's memory killer would.
    pub fn kill(&self) {
        if let Some(mut process) = self.lock().take() {
            process.kill();
        }
    }

    /// Ends it in order (SIGTERM), as Kubernetes ends a pod.
    pub async fn stop(&self) {
        let process = self.lock().take();
        if let Some(mut process) = process {
            process.stop(STOP_WITHIN).await;
        }
    }

    /// Kills it and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        self.start().await
    }

    /// Lets it run on after this process has ended.
    pub fn release(&self) {
        if let Some(process) = self.lock().as_mut() {
            process.release();
        }
    }

    /// Sends a signal, such as STOP and CONT for a program that hangs for a while.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(process) = self.lock().as_mut() {
            process.signal(signal);
        }
    }

    /// While it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::pid)
    }

    /// The file that is run.
    pub fn path(&self) -> &Path {
        &self.spec.program
    }

    /// Whether it was started and has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.lock().as_mut().is_some_and(|process| process.exited().is_some())
    }

    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> Result<String> {
        match self.get("/metrics").await.with_context(|| format!("{} does not answer", self.name))? {
            (200, text) => Ok(text),
            (status, _) => bail!("{}: /metrics answered {status}", self.name),
        }
    }

    /// The sum over the series of `metric` whose line has all of `labels` in it, each written as `name="value"`.
    pub async fn metric(&self, metric: &str, labels: &[&str]) -> Result<f64> {
        let text = self.metrics().await?;
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(metric);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)))
        });
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let ask = async {
            let mut connection = TcpStream::connect(self.metrics).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.metrics);
            connection.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).await?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
            Ok((status, body))
        };
        tokio::time::timeout(ANSWER_WITHIN, ask).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program of this workspace: beside the running one, or, for a test, one folder above it.
pub fn find(program: &str) -> Result<PathBuf> {
    let me = env::current_exe()?;
    let beside = me.ancestors().skip(1).take(2).map(|folder| folder.join(program)).find(|path| path.is_file());
    beside.with_context(|| {
        let folder = me.parent().unwrap_or(&me).display();
        format!("no {program} near {folder}: `cargo build --workspace --bins` builds it (as `make test` does first)")
    })
}
