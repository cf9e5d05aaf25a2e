//! Takes away what is over, fetches logs, and looks for what earlier runs have left. Logs wait for nothing but each other:
//! somebody may be waiting for them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use suppaftp::Status;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{ExternalError, Visit};
use super::{External, Fetched, Inner, Operation, Use, name};
use crate::files::credentials::Permission;

/// How long a file lies there that nobody uses: the next device of a rollout may be told of it soon.
const LINGER: Duration = Duration::from_secs(5);

/// How often is looked for uses that have ended by themselves. A try lasts minutes.
const LOOK: Duration = Duration::from_secs(2);

/// How often is looked for what others have left there.
pub(super) const CLEAN: Duration = Duration::from_secs(15 * 60);

/// The pause after a visit that failed; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// How often a log is asked for that does not come.
const MAX_TRIES: u32 = 5;

/// Logs that are fetched at once: half of the visits, so that as many are left for what devices wait for.
const LOGS_AT_ONCE: usize = super::MAX_VISITS / 2;

impl External {
    /// Keeps the server tidy until the token is cancelled. What lies there then is removed by the next run, when nobody can
    /// need it any more: devices may be fetching it.
    pub async fn keep(self, stop: CancellationToken) {
        stop.run_until_cancelled(Arc::clone(&self.inner).keep()).await;
    }
}

impl Inner {
    async fn keep(self: Arc<Self>) {
        tokio::join!(self.keep_tidy(), self.take_logs());
    }

    async fn keep_tidy(&self) {
        let (mut clean_at, mut tidy_at) = (Instant::now(), Instant::now());
        let mut pause = FIRST_PAUSE;
        loop {
            self.let_go();
            if tidy_at <= Instant::now() {
                match self.tidy(&mut clean_at).await {
                    Ok(()) => pause = FIRST_PAUSE,
                    Err(error) => {
                        tracing::warn!(error = %fettle_runtime::chain(&error), "external file server; trying again");
                        tidy_at = Instant::now() + pause;
                        pause = (pause * 2).min(LAST_PAUSE);
                    }
                }
            }
            // New work, or the time for what ends by itself.
            let _ = tokio::time::timeout(LOOK, self.work.notified()).await;
        }
    }

    /// Removes what is to be removed, and looks for more now and then. Fails where the server does not serve us at all.
    async fn tidy(&self, clean_at: &mut Instant) -> Result<(), ExternalError> {
        self.remove().await?;
        if *clean_at <= Instant::now() {
            let cleaned = self.clean().await;
            self.metrics.count(Operation::Clean, &cleaned);
            cleaned?;
            *clean_at = Instant::now() + CLEAN;
        }
        Ok(())
    }

    /// Uses end with their permission; files without users are of no use after a while.
    fn let_go(&self) {
        let (now, mut state) = (Instant::now(), self.state());
        state.end_by_time(Timestamp::now());
        if !state.arrived.is_empty() {
            self.arrivals.notify_one();
        }
        let mut idle = Vec::new();
        state.placed.retain(|_, files| {
            idle.extend(files.extract_if(.., |file| file.users == 0 && file.idle_since.elapsed() >= LINGER));
            !files.is_empty()
        });
        self.metrics.files.sub(i64::try_from(idle.len()).unwrap_or_default());
        for file in idle {
            state.removals.add(file.name, now);
        }
    }

    async fn remove(&self) -> Result<(), ExternalError> {
        let names = self.state().removals.due(Instant::now());
        if names.is_empty() {
            return Ok(());
        }
        let mut refused = Ok(());
        let visited = self
            .visit(async |visit| {
                for name in &names {
                    match visit.remove(name).await {
                        Ok(()) => {
                            tracing::info!(file = name, "removed from the external file server");
                            self.state().removals.removed(name);
                        }
                        Err(error) => {
                            // Also where the server broke off over it: the next visit begins with another.
                            self.state().removals.refused(name, Instant::now());
                            let ExternalError::Refused { .. } = &error else { return Err(error) };
                            let told = fettle_runtime::chain(&error).to_string();
                            tracing::warn!(file = name, error = told, "not removed from the external file server");
                            refused = Err(error);
                        }
                    }
                }
                Ok(())
            })
            .await;
        self.metrics.count(Operation::Remove, &visited.as_ref().map_err(drop).and(refused.as_ref().map_err(drop)));
        visited
    }

    /// Fetches logs as they arrive.
    async fn take_logs(&self) {
        let mut taking = FuturesUnordered::new();
        loop {
            while taking.len() < LOGS_AT_ONCE
                && let Some((permission, name)) = self.next_arrived()
            {
                taking.push(self.take_and_tell(permission, name));
            }
            tokio::select! {
                Some(()) = taking.next() => {}
                () = self.arrivals.notified() => {}
            }
        }
    }

    fn next_arrived(&self) -> Option<(Permission, String)> {
        self.state().arrived.pop_front()
    }

    async fn take_and_tell(&self, permission: Permission, name: String) {
        let taken = self.take_log(&permission, &name).await;
        self.metrics.count(Operation::Take, &taken);
        let outcome = taken.unwrap_or_else(|error| {
            let error = fettle_runtime::chain(&error).to_string();
            tracing::warn!(
                device = %permission.device, command = permission.command, error,
                "log not fetched from the external file server"
            );
            Fetched::Failed(error)
        });
        let mut state = self.state();
        state.fetched(&permission, outcome);
        state.removals.add(name, Instant::now());
        self.work.notify_one();
    }

    /// A log, if it has come. What cannot be had after some tries is given up.
    async fn take_log(&self, permission: &Permission, name: &str) -> Result<Fetched, ExternalError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.visit(async |visit| self.take_one(visit, permission, name).await).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            let is_final = match &error {
                // What that server or our store refuses once, it refuses again.
                ExternalError::Refused { .. } | ExternalError::Log(_) | ExternalError::Unreadable(_) => true,
                ExternalError::Unreachable(_)
                | ExternalError::Silent(_)
                | ExternalError::Broken { .. }
                | ExternalError::Tls(_)
                | ExternalError::Gibberish(_)
                | ExternalError::WrongSize { .. } => tries == MAX_TRIES,
            };
            if is_final {
                return Err(error);
            }
            tokio::time::sleep(FIRST_PAUSE * tries).await;
        }
    }

    async fn take_one(&self, visit: &mut Visit, permission: &Permission, name: &str) -> Result<Fetched, ExternalError> {
        let nothing = || {
            tracing::info!(device = %permission.device, command = permission.command, "no log on the external file server");
            Ok(Fetched::Nothing)
        };
        let size = visit.size(name).await?;
        if size == Some(0) {
            // But the room that was made for it.
            return nothing();
        }
        let mut upload = self.logs.begin(permission).await?;
        match visit.take(name, &mut upload).await {
            // There are servers that tell no sizes.
            Err(ExternalError::Refused { status: Status::FileUnavailable, .. }) if size.is_none() => return nothing(),
            taken => taken?,
        }
        if upload.received() == 0 {
            return nothing();
        }
        upload.finish().await?;
        Ok(Fetched::Stored)
    }

    /// Removes what nobody needs any more, whoever put it there.
    async fn clean(&self) -> Result<(), ExternalError> {
        let now = Timestamp::now();
        let names = self.visit(async |visit| visit.names().await).await?;
        let mut state = self.state();
        let ours: std::collections::HashSet<String> = (state.placed.values().flatten().map(|file| file.name.clone()))
            .chain(state.uses.values().map(|use_| match use_ {
                Use::Download { name, .. } | Use::Upload { name, .. } => name.clone(),
            }))
            .collect();
        let is_stale = |name: &String| name::is_stale(name, now) && !ours.contains(name);
        let stale: Vec<String> = names.into_iter().filter(is_stale).collect();
        if !stale.is_empty() {
            tracing::info!(files = stale.len(), "files of earlier runs lie on the external file server");
            self.work.notify_one();
        }
        for name in stale {
            state.removals.add(name, Instant::now());
        }
        Ok(())
    }
}
