//! Takes away what is over, fetches logs, and looks for what earlier runs have left: one task, that does one thing at a time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{ExternalError, Visit};
use super::{External, Inner, Operation, Use, name};
use crate::files::credentials::Permission;

/// How long a file lies there that nobody uses: the next device of a rollout may be told of it soon.
const LINGER: Duration = Duration::from_secs(5);

/// How often is looked for uses that have ended by themselves. A try lasts minutes.
const LOOK: Duration = Duration::from_secs(2);

/// How often is looked for what others have left there.
const CLEAN: Duration = Duration::from_secs(15 * 60);

/// The pause after a visit that failed; it doubles up to the other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// How often a log is asked for that does not come.
const MAX_TRIES: u32 = 5;

/// What waits to be removed at most. What is forgotten is found again by its name.
const MAX_REMOVALS: usize = 10_000;

impl External {
    /// Keeps the server tidy until the token is cancelled. What lies there then is removed by the next run, when nobody can
    /// need it any more: devices may be fetching it.
    pub async fn keep(self, stop: CancellationToken) {
        stop.run_until_cancelled(Arc::clone(&self.inner).keep()).await;
    }
}

impl Inner {
    async fn keep(self: Arc<Self>) {
        let mut clean_at = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            self.let_go();
            let mut worked = self.take_logs().await.and(self.remove().await);
            if clean_at <= Instant::now() {
                clean_at = Instant::now() + CLEAN;
                let cleaned = self.clean().await;
                self.metrics.count(Operation::Clean, &cleaned);
                worked = worked.and(cleaned);
            }
            match worked {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    // New work, or the time for what ends by itself.
                    let _ = tokio::time::timeout(LOOK, self.work.notified()).await;
                }
                Err(error) => {
                    tracing::warn!(error = %fettle_runtime::chain(&error), "external file server; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Uses end with their permission; files without users are of no use after a while.
    fn let_go(&self) {
        let (now, mut state) = (Timestamp::now(), self.state());
        let over: Vec<Permission> = state.uses.keys().filter(|use_| use_.remaining(now).is_zero()).copied().collect();
        for permission in over {
            state.release(&permission);
        }
        let mut idle = Vec::new();
        state.placed.retain(|_, files| {
            idle.extend(files.extract_if(.., |file| file.users == 0 && file.idle_since.elapsed() >= LINGER));
            !files.is_empty()
        });
        self.metrics.files.sub(i64::try_from(idle.len()).unwrap_or_default());
        state.removals.extend(idle.into_iter().map(|file| file.name));
        state.removals.truncate(MAX_REMOVALS);
    }

    async fn remove(&self) -> Result<(), ExternalError> {
        let mut names = std::mem::take(&mut self.state().removals);
        if names.is_empty() {
            return Ok(());
        }
        let removed = self
            .visit(async |visit| {
                while let Some(name) = names.last() {
                    visit.remove(name).await?;
                    tracing::info!(file = name, "removed from the external file server");
                    names.pop();
                }
                Ok(())
            })
            .await;
        self.metrics.count(Operation::Remove, &removed);
        self.state().removals.append(&mut names);
        removed
    }

    async fn take_logs(&self) -> Result<(), ExternalError> {
        let logs = std::mem::take(&mut self.state().arrived);
        for (permission, name) in logs {
            let taken = self.take_log(&permission, &name).await;
            self.metrics.count(Operation::Take, &taken);
            if let Err(error) = taken {
                tracing::warn!(
                    device = %permission.device, command = permission.command, error = %fettle_runtime::chain(&error),
                    "log not fetched from the external file server"
                );
            }
            self.state().removals.push(name);
        }
        Ok(())
    }

    /// A log, if it has come. What cannot be had after some tries is given up.
    async fn take_log(&self, permission: &Permission, name: &str) -> Result<(), ExternalError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.visit(async |visit| self.take_one(visit, permission, name).await).await {
                Ok(()) => return Ok(()),
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

    async fn take_one(&self, visit: &mut Visit, permission: &Permission, name: &str) -> Result<(), ExternalError> {
        match visit.size(name).await? {
            // Nothing has come, or nothing but the room that was made for it.
            None | Some(0) => {
                tracing::info!(device = %permission.device, command = permission.command, "no log on the external file server");
                Ok(())
            }
            Some(_) => {
                let mut upload = self.logs.begin(permission).await?;
                visit.take(name, &mut upload).await?;
                upload.finish().await?;
                Ok(())
            }
        }
    }

    /// Removes what nobody needs any more, whoever put it there.
    async fn clean(&self) -> Result<(), ExternalError> {
        let now = Timestamp::now();
        let names = self.visit(async |visit| visit.names().await).await?;
        let mut state = self.state();
        let ours: std::collections::HashSet<String> = (state.placed.values().flatten().map(|file| file.name.clone()))
            .chain(state.uses.values().map(|use_| match use_ {
                Use::Download { name, .. } | Use::Upload { name } => name.clone(),
            }))
            .collect();
        let stale = names.into_iter().filter(|name| name::is_stale(name, now) && !ours.contains(name));
        state.removals.extend(stale);
        if !state.removals.is_empty() {
            tracing::info!(files = state.removals.len(), "files of earlier runs lie on the external file server");
            self.work.notify_one();
        }
        Ok(())
    }
}
