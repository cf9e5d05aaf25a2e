//! The I/O around the planner: watches into an index, passes over the index, writes of what a pass says.
//!
//! ```text
//! watches ─► channel ─► index ─► plan() ─► writes ─┐
//!                         ▲                        │ what the API server answered
//!                         └────────────────────────┘
//! ```
//!
//! - One pass at a time: while its writes run, events wait in the channel, and the next pass plans on all of them together.
//! - A pass follows a change by a moment (`MERGE`), so that many changes make one pass.
//! - Before the first pass every kind has been listed, and after the leadership was got: nothing older is believed.
//! - Nothing is retried. A write that failed leaves the index as it was, and the next pass plans it anew; after failures
//!   passes come less often.

pub mod convert;
pub mod index;
mod notices;
mod watch;
mod write;

use std::collections::HashMap;
use std::time::Duration;

use fettle_crds::{DeviceGroupStatus, DeviceRolloutStatus};
use fettle_runtime::Events;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::ObjectMeta;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::index::{Index, News, Observed, Written};
use self::write::{Batch, Writer};
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::metrics::fleet::Shown;
use crate::plan::model::{Settings, Snapshot, Text};
use crate::plan::output::{DeviceWrite, GroupWrite, Plan};
use crate::plan::{self};

/// A pass comes this long after the first change that it is for: short for a person, long enough to merge a burst.
const MERGE: Duration = Duration::from_millis(50);
/// The status of one group, or of one rollout, is written no more often than this.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Passes after failed writes come after this, doubling up to the second, until one has no failures.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Events that wait for a pass to end. A watch waits where it is full: the API server buffers for it.
const WAITING_EVENTS: usize = 4096;
/// So many events are taken in before it is looked whether a pass is due.
const EVENTS_AT_ONCE: usize = 1024;

/// What the controller works with, whether it leads or not.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub namespace: String,
    pub reconnect_grace: Duration,
    pub retry_backoff: Duration,
    pub events: Events,
    pub metrics: Metrics,
}

/// Whether anything that this controller wrote may still come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastWrites {
    Answered,
    /// The API server may be about to carry one out: another leader must not begin yet.
    InDoubt,
}

/// Acts as the leader, from the lists that it begins with to the end of the term or to `stop`. `ready` is called when all
/// is listed.
pub async fn lead(
    context: &Context,
    leadership: &Leadership,
    stop: &CancellationToken,
    ready: impl Fn(),
) -> LastWrites {
    let (to, mut observed) = mpsc::channel(WAITING_EVENTS);
    let end_watches = CancellationToken::new();
    let mut watches = watch::start(&context.client, &context.namespace, &to, &context.metrics, &end_watches);
    drop(to);
    let mut acting = Loop::new(context, leadership);
    acting.run(&mut observed, leadership, stop, ready).await;
    end_watches.cancel();
    drop(observed);
    while watches.join_next().await.is_some() {}
    if acting.writer.is_in_doubt() { LastWrites::InDoubt } else { LastWrites::Answered }
}

struct Loop<'a> {
    context: &'a Context,
    index: Index,
    writer: Writer,
    shown: Shown,
    /// When the statuses of groups and rollouts were last written.
    reported: HashMap<Text, Instant>,
    failures: u32,
}

impl<'a> Loop<'a> {
    fn new(context: &'a Context, leadership: &Leadership) -> Self {
        let settings = Settings {
            reconnect_grace: SignedDuration::try_from(context.reconnect_grace).unwrap_or(SignedDuration::MAX),
            retry_backoff: SignedDuration::try_from(context.retry_backoff).unwrap_or(SignedDuration::MAX),
            watching_since: now(),
        };
        let snapshot = Snapshot { settings, ..Snapshot::default() };
        let (client, namespace) = (context.client.clone(), context.namespace.clone());
        Self {
            context,
            index: Index::new(snapshot, context.metrics.clone()),
            writer: Writer::new(client, namespace, leadership.clone(), context.metrics.clone()),
            shown: Shown::new(&context.metrics.fleet),
            reported: HashMap::new(),
            failures: 0,
        }
    }

    async fn run(
        &mut self,
        observed: &mut mpsc::Receiver<Observed>,
        leadership: &Leadership,
        stop: &CancellationToken,
        ready: impl Fn(),
    ) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        // When the next pass is due, if one is.
        let mut due: Option<Instant> = None;
        let mut earliest = Instant::now();
        loop {
            let pass = due.map(|due| due.max(earliest)).filter(|_| self.index.is_complete());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = leadership.ended.cancelled() => return,
                () = sleep_until(pass.unwrap_or_else(Instant::now)), if pass.is_some() => {
                    ready();
                    (due, earliest) = self.pass().await;
                }
                count = observed.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    let mut news = false;
                    for event in events.drain(..) {
                        news |= self.index.observe(event) == News::Yes;
                    }
                    if news {
                        let soon = Instant::now() + MERGE;
                        due = Some(due.map_or(soon, |due| due.min(soon)));
                    }
                }
            }
        }
    }

    /// One pass. Returns when the next is due by itself, and how early it may come at all.
    async fn pass(&mut self) -> (Option<Instant>, Instant) {
        let (planned, began) = (now(), Instant::now());
        let plan = plan::plan(&self.index.snapshot, planned);
        self.context.metrics.passes.inc();
        self.context.metrics.pass_seconds.observe(began.elapsed().as_secs_f64());
        let groups = self.index.snapshot.groups.iter().map(|(name, group)| (name, &group.status));
        self.shown.pass(&plan, groups);

        let next = plan.next.map(|next| {
            let wait = Duration::try_from(next.duration_since(planned)).unwrap_or_default();
            began + wait
        });
        let (batch, next_status) = self.carry_out(plan).await;
        let wrote = !batch.written.is_empty();
        for (device, until) in batch.in_doubt {
            self.index.doubt(device, until);
        }
        let written_at = now();
        for written in batch.written {
            self.index.wrote(written, written_at);
        }
        self.failures = if batch.failed { self.failures.saturating_add(1) } else { 0 };
        let ended = Instant::now();
        let backoff = backoff(self.failures);
        let again = (wrote || batch.failed).then_some(ended);
        let due = [next, next_status, again].into_iter().flatten().min();
        (due, ended + backoff)
    }

    async fn carry_out(&mut self, plan: Plan) -> (Batch, Option<Instant>) {
        let Plan { contents, rollouts, devices, groups, rollout_statuses, profiles, deletions, .. } = plan;
        let mut batch = Batch::default();
        let needed: Vec<Text> = contents.iter().map(|content| content.name().clone()).collect();
        if !contents.is_empty() || !rollouts.is_empty() {
            let kept = self.writer.contents_and_rollouts(contents, rollouts).await;
            batch.append(kept);
        }
        // A grant may name what could not be kept.
        let names_lacking = |write: &DeviceWrite| {
            let lacking = |name: &str| needed.iter().any(|needed| **needed == *name) && !batch.has_content(name);
            let previous = write.decisions.previous.as_deref();
            let firmware = previous.and_then(|previous| previous.firmware.content.as_deref());
            let config = previous.and_then(|previous| previous.config.as_ref()).map(|config| &*config.content);
            firmware.into_iter().chain(config).any(lacking)
        };
        let devices: Vec<DeviceWrite> = devices.into_iter().filter(|write| !names_lacking(write)).collect();
        let mut next_status: Option<Instant> = None;
        let mut later = |at: Instant| next_status = Some(next_status.map_or(at, |next: Instant| next.min(at)));
        let mut is_due = |name: &Text| self.may_report(name).map_err(&mut later).is_ok();
        let (groups, waiting): (Vec<GroupWrite>, Vec<GroupWrite>) =
            groups.into_iter().partition(|write| is_due(&write.group));
        let rollouts = rollout_statuses.into_iter().filter(|(rollout, _)| is_due(rollout)).collect();
        // Neither stands on the other's success, and what only tells must not hold up what grants.
        let (decided, told) = tokio::join!(self.writer.devices(devices), self.report(groups, rollouts));
        // A configuration that was changed is done only after the groups that it concerns are no longer: who waits for all of
        // them (kstatus) would find each of them done in between.
        let is_untold = told.failed || waiting.iter().any(|write| self.leaves_ready(write));
        batch.append(decided);
        batch.append(told);
        for (profile, status) in profiles.into_iter().filter(|_| !is_untold) {
            batch.append(self.writer.profile_status(&profile, &status).await);
        }
        for (device, version) in deletions.devices {
            batch.append(self.writer.delete_device(&device, version).await);
        }
        for (rollout, uid) in deletions.rollouts {
            batch.append(self.writer.delete_rollout(&rollout, &uid).await);
        }
        for content in deletions.contents {
            batch.append(self.writer.delete_content(&content).await);
        }
        (batch, next_status)
    }

    /// Whether a group is ready, as it is written, and not any more, as it is to be written.
    fn leaves_ready(&self, write: &GroupWrite) -> bool {
        let is_ready = |status: &DeviceGroupStatus| {
            status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let written = self.index.snapshot.groups.get(&write.group);
        written.is_some_and(|group| is_ready(&group.status)) && !is_ready(&write.status)
    }

    /// Writes the statuses of groups and rollouts.
    async fn report(&self, groups: Vec<GroupWrite>, rollouts: Vec<(Text, DeviceRolloutStatus)>) -> Batch {
        let mut batch = Batch::default();
        for GroupWrite { group, status, notices } in groups {
            let written = self.writer.group_status(&group, &status).await;
            if let Some(Written::Group(written)) = written.written.first() {
                self.tell(&written.metadata, status.rollout.as_deref(), notices).await;
            }
            batch.append(written);
        }
        for (rollout, status) in rollouts {
            batch.append(self.writer.rollout_status(&rollout, &status).await);
        }
        batch
    }

    /// Whether a status may be written now; else when.
    fn may_report(&mut self, name: &Text) -> Result<(), Instant> {
        let now = Instant::now();
        if let Some(at) = self.reported.get(name).map(|last| *last + STATUS_EVERY).filter(|at| *at > now) {
            return Err(at);
        }
        self.reported.retain(|_, last| *last + STATUS_EVERY > now);
        self.reported.insert(name.clone(), now);
        Ok(())
    }

    /// Events on the group. Those of one rollout are apart from those of the next.
    async fn tell(&self, group: &ObjectMeta, rollout: Option<&str>, notices: Vec<plan::output::Notice>) {
        let namespace = &self.context.namespace;
        let on = write::reference("DeviceGroup", namespace, group.name.as_deref(), group.uid.as_deref());
        let rollout = rollout.and_then(|name| self.index.snapshot.rollouts.get(name));
        let rollout = rollout
            .map(|rollout| write::reference("DeviceRollout", namespace, Some(&rollout.name), Some(&rollout.uid)));
        for notice in notices {
            let name = group.name.as_deref().unwrap_or_default();
            tracing::info!(group = name, reason = ?notice.kind, note = notice.message, "told");
            self.context.events.publish(&on, rollout.clone(), notice.kind, &notice.message).await;
        }
    }
}

/// How long to wait after that many failed passes in a row.
fn backoff(failures: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = BACKOFF.0.saturating_mul(1 << (failures - 1).min(16));
    doubled.min(BACKOFF.1).mul_f64(1.0 + 0.5 * rand::random::<f64>())
}

/// The time, as exact as it is written.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}
