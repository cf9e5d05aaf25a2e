//! A file server of the operator's, in place of ours: what devices are told to fetch is put there by FTP, and taken away
//! when nobody needs it; what they are told to bring is fetched from there into the log store.
//!
//! ```text
//!  store ─► put ─► their server ─► device        device ─► their server ─► taken ─► logs
//! ```
//!
//! Configurations are put there only where that is wanted. A file lies there once for all devices that are told to fetch the same content, under a name of its own that says until
//! when it may be needed. So what a bridge that was killed has left is removed by whichever bridge finds it later.
//!
//! Refuses to judge transfers: it cannot see what that server sends to whom. Who may read what there is that server's to
//! decide; all that we do is to give names that nobody guesses.

mod client;
mod keeper;
mod name;
mod removals;
mod server;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::credentials::Permission;
use super::logs::LogStore;
use super::store::{Content, Flights, Store};
pub use client::ExternalError;
use client::Visit;
use removals::Removals;
pub use server::{Login, PutServer, Told, address, is_plain};

/// Connections to that server at once. More would only share the same line, and such servers often allow few.
const MAX_VISITS: usize = 4;

/// How much longer than the first device that needs it a file may be needed: others are told of the same file, while the
/// end of their try is not later than that.
const SHARED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// So long before a log is no longer waited for it is fetched, though nobody said that it has come: whoever waits for it is
/// still there then. Less where logs are not waited for that long.
const BEFORE_ITS_END: SignedDuration = SignedDuration::from_secs(30);

/// How long somebody waits for a log to be fetched who is told of it. An attempt takes seconds where that server serves.
const FETCH: Duration = Duration::from_secs(300);

/// How long is known how fetching a log came out: who asks does so at once.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Which files it serves, to whom.
#[derive(Debug, Clone)]
pub struct ExternalConfig {
    pub server: PutServer,
    pub ftp: Told,
    /// `None`: TFTP is served by us.
    pub tftp: Option<Told>,
    pub configurations: Configurations,
}

/// Who serves configurations, which may hold passwords: over there every device that is told of a file has the same login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configurations {
    Ours,
    External,
}

/// Over which protocol a device is told to transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Ftp,
    Tftp,
}

/// The external file server. Clones are one.
#[derive(Debug, Clone)]
pub struct External {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ExternalConfig,
    store: Store,
    logs: Arc<LogStore>,
    state: Mutex<State>,
    puts: Flights<[u8; 32], Result<(), Arc<ExternalError>>>,
    visits: Semaphore,
    /// There is something to remove.
    work: Notify,
    /// There is a log to fetch.
    arrivals: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// What lies there for devices to fetch. Different files of one content may have different ends.
    placed: HashMap<[u8; 32], Vec<Placed>>,
    uses: HashMap<Permission, Use>,
    /// What lies there and is of no use.
    removals: Removals,
    /// Logs that may have arrived.
    arrived: VecDeque<(Permission, String)>,
    /// How fetching them comes out: of no more logs than are expected within [`KNOWN_FOR`].
    fetches: HashMap<Permission, Fetch>,
}

/// A log that is being fetched, or was not long ago.
#[derive(Debug)]
struct Fetch {
    outcome: watch::Sender<Option<Fetched>>,
    ended: Option<Instant>,
}

/// How fetching a log came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    Stored,
    /// There is none.
    Nothing,
    /// With a reason.
    Failed(String),
}

/// A file that lies there.
#[derive(Debug)]
struct Placed {
    name: String,
    expires: Timestamp,
    users: usize,
    /// Since when it has no users.
    idle_since: Instant,
}

#[derive(Debug)]
enum Use {
    Download {
        sha256: [u8; 32],
        name: String,
    },
    Upload {
        name: String,
        /// When it is looked for whether it has come.
        look_at: Timestamp,
    },
}

#[derive(Debug, Clone)]
struct Metrics {
    files: IntGauge,
    operations: IntCounterVec,
}

/// What is done there; labels of a metric.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Put,
    Take,
    Remove,
    Clean,
}

impl Metrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let files = IntGauge::new(
            "fettle_bridge_external_files",
            "Files of ours that lie on the external file server, as far as this run has put them there.",
        )?;
        let operations = IntCounterVec::new(
            Opts::new(
                "fettle_bridge_external_operations_total",
                "What was done on the external file server: files put, logs taken, files removed, leftovers looked for.",
            ),
            &["operation", "result"],
        )?;
        registry.register(Box::new(files.clone()))?;
        registry.register(Box::new(operations.clone()))?;
        Ok(Self { files, operations })
    }

    fn count<T, E>(&self, operation: Operation, result: &Result<T, E>) {
        let operation = match operation {
            Operation::Put => "put",
            Operation::Take => "take",
            Operation::Remove => "remove",
            Operation::Clean => "clean",
        };
        let result = if result.is_ok() { "ok" } else { "failed" };
        self.operations.with_label_values(&[operation, result]).inc();
    }
}

impl External {
    /// What it removes and fetches waits for [`keep`](Self::keep).
    ///
    /// # Errors
    /// Where metrics cannot be registered.
    pub fn new(
        config: ExternalConfig,
        store: Store,
        logs: Arc<LogStore>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let inner = Inner {
            config,
            store,
            logs,
            state: Mutex::default(),
            puts: Flights::new(),
            visits: Semaphore::new(MAX_VISITS),
            work: Notify::new(),
            arrivals: Notify::new(),
            metrics: Metrics::register(registry)?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What devices are told; `None`: our own server serves them.
    pub fn told(&self, over: Over) -> Option<&Told> {
        match over {
            Over::Ftp => Some(&self.inner.config.ftp),
            Over::Tftp => self.inner.config.tftp.as_ref(),
        }
    }

    /// Who serves configurations.
    pub fn configurations(&self) -> Configurations {
        self.inner.config.configurations
    }

    /// Puts content there, unless it is there already, for a device to fetch under this permission. Returns its name.
    ///
    /// # Errors
    /// Where it cannot be put there.
    pub async fn place(&self, permission: &Permission, content: &Content) -> Result<String, Arc<ExternalError>> {
        loop {
            if let Some(name) = self.inner.state().use_placed(permission, &content.sha256) {
                return Ok(name);
            }
            let (inner, content, expires) = (Arc::clone(&self.inner), *content, permission.expires());
            self.inner
                .puts
                .join(&content.sha256, async move { inner.put(content, expires).await.map_err(Arc::new) })
                .await?;
        }
    }

    /// A name under which a device may bring a log under this permission, which the log store expects.
    ///
    /// # Errors
    /// Where no room can be made for it.
    pub async fn expect(&self, permission: &Permission, over: Over) -> Result<String, ExternalError> {
        let name = name::new(permission.expires());
        match over {
            Over::Ftp => {}
            // RFC 1350 servers let files be written over, and seldom made.
            Over::Tftp => {
                let mut leftover = Leftover { inner: &self.inner, name: Some(name.clone()) };
                self.inner.visit(async |visit| visit.make_room(&name).await).await?;
                leftover.name = None;
            }
        }
        let look_at = look_at(permission.expires(), Timestamp::now());
        self.inner.state().uses.insert(*permission, Use::Upload { name: name.clone(), look_at });
        self.inner.work.notify_one();
        Ok(name)
    }

    /// Whether what the permission allows is there, and not with us.
    pub fn has(&self, permission: &Permission) -> bool {
        self.inner.state().uses.contains_key(permission)
    }

    /// The device says that it has brought the log.
    pub fn brought(&self, permission: &Permission) {
        let mut state = self.inner.state();
        if matches!(state.uses.get(permission), Some(Use::Upload { .. })) {
            state.release(permission);
            self.inner.arrivals.notify_one();
        }
    }

    /// How fetching the log came out that was brought under this permission; `None`: none was to be brought here.
    pub async fn fetched(&self, permission: &Permission) -> Option<Fetched> {
        let mut outcome = self.inner.state().fetches.get(permission)?.outcome.subscribe();
        let fetched = tokio::time::timeout(FETCH, outcome.wait_for(Option::is_some)).await;
        let fetched = fetched.ok().and_then(|waited| waited.ok()?.clone());
        let late = || Fetched::Failed("the external file server has not let it be fetched so far".to_owned());
        Some(fetched.unwrap_or_else(late))
    }

    /// What the permission was for is over.
    pub fn release(&self, permission: &Permission) {
        self.inner.state().release(permission);
        self.inner.work.notify_one();
        self.inner.arrivals.notify_one();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs in, does something there, and leaves, when it is our turn.
    async fn visit<T>(
        &self,
        act: impl AsyncFnOnce(&mut Visit) -> Result<T, ExternalError>,
    ) -> Result<T, ExternalError> {
        let Ok(_turn) = self.visits.acquire().await else { return Err(ExternalError::Silent("a turn")) };
        let mut visit = Visit::begin(&self.config.server).await?;
        let result = act(&mut visit).await;
        visit.end().await;
        result
    }

    async fn put(&self, content: Content, needed_until: Timestamp) -> Result<(), ExternalError> {
        let expires = needed_until.saturating_add(SHARED_FOR).unwrap_or(needed_until);
        let name = name::new(expires);
        let gone = || ExternalError::Unreadable(std::io::ErrorKind::NotFound.into());
        let id = super::credentials::ContentId::of(&content.sha256);
        let readable = self.store.open_content(&id).await.map_err(ExternalError::Unreadable)?.ok_or_else(gone)?;
        // Half a file is of no use, whatever ended it.
        let mut leftover = Leftover { inner: self, name: Some(name.clone()) };
        let put = self.visit(async |visit| visit.put(&name, &readable).await).await;
        self.metrics.count(Operation::Put, &put);
        put?;
        leftover.name = None;
        tracing::info!(file = name, size = content.size, "put on the external file server");
        let placed = Placed { name, expires, users: 0, idle_since: Instant::now() };
        self.state().placed.entry(content.sha256).or_default().push(placed);
        self.metrics.files.inc();
        self.work.notify_one();
        Ok(())
    }
}

/// When a log is looked for that is expected from now on until `expires`.
fn look_at(expires: Timestamp, now: Timestamp) -> Timestamp {
    let before = BEFORE_ITS_END.min(expires.duration_since(now) / 10);
    expires.saturating_sub(before).unwrap_or(now)
}

/// A file that may lie there, and is removed unless it comes into use.
struct Leftover<'a> {
    inner: &'a Inner,
    name: Option<String>,
}

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.inner.state().removals.add(name, Instant::now());
            self.inner.work.notify_one();
        }
    }
}

impl State {
    /// The name of a file that lies there long enough, counted as used.
    fn use_placed(&mut self, permission: &Permission, sha256: &[u8; 32]) -> Option<String> {
        let files = self.placed.get_mut(sha256)?;
        let file = files.iter_mut().find(|file| file.expires >= permission.expires())?;
        file.users += 1;
        let name = file.name.clone();
        let before = self.uses.insert(*permission, Use::Download { sha256: *sha256, name: name.clone() });
        // Asked for twice under one permission, it is used once.
        if let Some(Use::Download { sha256, name }) = before {
            self.idle(&sha256, &name);
        }
        Some(name)
    }

    fn release(&mut self, permission: &Permission) {
        match self.uses.remove(permission) {
            None => {}
            Some(Use::Download { sha256, name }) => self.idle(&sha256, &name),
            Some(Use::Upload { name, look_at: _ }) => {
                self.fetches.insert(*permission, Fetch { outcome: watch::Sender::new(None), ended: None });
                self.arrived.push_back((*permission, name));
            }
        }
    }

    /// Fetching a log came out so.
    fn fetched(&mut self, permission: &Permission, outcome: Fetched) {
        if let Some(fetch) = self.fetches.get_mut(permission) {
            fetch.outcome.send_replace(Some(outcome));
            fetch.ended = Some(Instant::now());
        }
    }

    /// What has ended by itself: commands with their time, and what is known of logs after a while.
    fn end_by_time(&mut self, now: Timestamp) {
        let is_over = |permission: &Permission, use_: &Use| match use_ {
            Use::Download { .. } => permission.remaining(now).is_zero(),
            Use::Upload { look_at, .. } => *look_at <= now,
        };
        let over: Vec<Permission> = self
            .uses
            .iter()
            .filter(|(permission, use_)| is_over(permission, use_))
            .map(|(permission, _)| *permission)
            .collect();
        for permission in over {
            self.release(&permission);
        }
        self.fetches.retain(|_, fetch| fetch.ended.is_none_or(|ended| ended.elapsed() < KNOWN_FOR));
    }

    /// A file has a user less.
    fn idle(&mut self, sha256: &[u8; 32], name: &str) {
        let files = self.placed.get_mut(sha256).into_iter().flatten();
        for file in files.filter(|file| file.name == name) {
            file.users = file.users.saturating_sub(1);
            file.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::DeviceId;
    use super::*;

    #[test]
    fn a_log_is_fetched_before_nobody_waits_for_it_any_more_though_nobody_says_that_it_has_come() {
        let begin = Timestamp::UNIX_EPOCH;
        for (expected_for, looked_for_after) in [(600, 570), (100, 90)] {
            let (mut state, expires) = (State::default(), begin + SignedDuration::from_secs(expected_for));
            let permission = Permission::upload(DeviceId::of_uid("uid"), 1, expires);
            let upload = Use::Upload { name: "log".to_owned(), look_at: look_at(expires, begin) };
            state.uses.insert(permission, upload);
            state.end_by_time(begin + SignedDuration::from_secs(looked_for_after - 1));
            assert_eq!((state.uses.len(), state.arrived.len()), (1, 0), "it may be on its way");
            state.end_by_time(begin + SignedDuration::from_secs(looked_for_after));
            assert_eq!((state.uses.len(), &state.arrived), (0, &VecDeque::from([(permission, "log".to_owned())])));
        }
    }
}
