//! The record: a Device of the Kubernetes API, as far as a session has to do with it.

use fettle_protocol::message::{DeviceInformation, Release};
use fettle_protocol::session::{
    Change, Contender, Drops, Hold, Known, Log, LogRefused, LogResult, Phase, Progress, Reached, Record, SessionRecord,
    Target, TryEnd, View,
};
use jiff::Timestamp;

/// One run of one bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) bridge: u8,
    pub(crate) run: u8,
}

pub(crate) const US: Run = Run { bridge: 0, run: 1 };
pub(crate) const OTHER: Run = Run { bridge: 1, run: 1 };
pub(crate) const THIRD: Run = Run { bridge: 2, run: 1 };

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) by: Run,
    pub(crate) address: String,
    pub(crate) dismissed: bool,
    pub(crate) contender: Option<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgrade {
    pub(crate) target: i64,
    pub(crate) phase: Phase,
    pub(crate) end: Option<TryEnd>,
}

/// What is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) legal: bool,
    pub(crate) model: Option<String>,
    pub(crate) holder: Option<Holder>,
    pub(crate) reported: Option<DeviceInformation>,
    pub(crate) applied: Option<String>,
    pub(crate) upgrade: Option<Upgrade>,
    pub(crate) reached: Option<Reached>,
    pub(crate) drops: Option<Drops>,
    pub(crate) log: Option<Log>,
    pub(crate) log_refused: Option<LogRefused>,
    /// What a person asks for, and what came of what.
    pub(crate) log_request: Option<String>,
    pub(crate) log_answer: Option<(String, LogResult)>,
    /// It may be asked over UDP; where it called from last.
    pub(crate) udp: bool,
    pub(crate) address: Option<String>,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) target: Option<Target>,
    /// What its group declares.
    pub(crate) declared: Option<Release>,
    /// The target of which the controller has said how it ended.
    pub(crate) outcome: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) version: u64,
    /// When it is written.
    pub(crate) now: Timestamp,
    pub(crate) status: Status,
    /// The runs of bridges whose Lease holds.
    pub(crate) alive: Vec<Run>,
    /// What was written by the bridge in question, in order.
    pub(crate) written: Vec<Record>,
}

impl Api {
    /// A declared, approved device of which nothing is known.
    pub(crate) fn new() -> Self {
        let status = Status {
            legal: true,
            model: None,
            holder: None,
            reported: None,
            applied: None,
            upgrade: None,
            reached: None,
            drops: None,
            log: None,
            log_refused: None,
            log_request: None,
            log_answer: None,
            udp: false,
            address: None,
            last_seen: None,
            target: None,
            declared: None,
            outcome: None,
        };
        Self { version: 1, now: Timestamp::UNIX_EPOCH, status, alive: vec![US, OTHER, THIRD], written: Vec::new() }
    }

    /// Somebody else writes.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status);
        self.version += 1;
    }

    fn lives(&self, run: Run) -> bool {
        self.alive.contains(&run)
    }

    pub(crate) fn held_by_the_living(&self) -> bool {
        self.status.holder.as_ref().is_some_and(|holder| self.lives(holder.by))
    }

    /// What it says to that run of that bridge.
    pub(crate) fn view(&self, us: Run) -> View {
        let Status { legal, model, holder, reported, applied, upgrade, drops, log, target, outcome, .. } = &self.status;
        let Status { declared, reached, log_refused, log_request, log_answer, udp, address, .. } = &self.status;
        let log_answer = log_answer.as_ref().map(|(request, _)| request.clone());
        View {
            legal: *legal,
            model: model.clone(),
            hold: match holder {
                None => Hold::Nobody,
                Some(holder) if holder.by == us => Hold::Us,
                Some(holder) if holder.by.bridge == us.bridge => Hold::Predecessor,
                Some(holder) if self.lives(holder.by) => Hold::Other,
                Some(_) => Hold::Nobody,
            },
            contender: match holder.as_ref().and_then(|holder| holder.contender) {
                Some(run) if run == us => Contender::Us,
                Some(run) if self.lives(run) => Contender::Other,
                Some(_) | None => Contender::Nobody,
            },
            dismissed: holder.as_ref().is_some_and(|holder| holder.dismissed),
            last_seen: self.status.last_seen,
            known: reported.as_ref().map(|info| Known {
                version: info.version.clone(),
                model: info.model.clone(),
                config: info.config.clone(),
                serial: info.serial.clone(),
                capabilities: info.capabilities.names().map(str::to_owned).collect(),
                dialect: info.dialect,
                address: holder.as_ref().map(|holder| holder.address.clone()),
            }),
            applied: applied.clone(),
            target: target.clone().map(|target| Target { ended: *outcome == Some(target.id), ..target }),
            declared: declared
                .clone()
                .filter(|release| reported.as_ref().is_some_and(|info| info.version != release.version)),
            progress: upgrade.as_ref().map(|upgrade| Progress { target: upgrade.target, phase: upgrade.phase }),
            reached: reached.clone(),
            drops: *drops,
            log: log.as_ref().map(|log| log.location.clone()),
            log_refused: log_refused.as_ref().map(|refused| refused.target),
            log_request: log_request.clone().filter(|request| log_answer.as_ref() != Some(request)),
            log_answer,
            udp: *udp,
            address: holder.as_ref().map(|holder| holder.address.clone()).or_else(|| address.clone()),
        }
    }

    /// Writes `record` for `us`, where nobody has written since `base`. A record is one that changes something and that
    /// its writer may write.
    pub(crate) fn write(&mut self, us: Run, record: &Record, base: u64) -> Result<(), ()> {
        if base != self.version {
            return Err(());
        }
        let before = self.status.clone();
        let held_by_other = self.view(us).hold == Hold::Other;
        let Record { session, info, progress, end, reached, drops, forget_applied, log, log_refused, log_answer } =
            record;
        if held_by_other {
            let (log, log_refused, log_answer) = (log.clone(), log_refused.clone(), log_answer.clone());
            let only_log = *record == Record { log, log_refused, log_answer, ..Record::default() };
            assert!(
                matches!(session, SessionRecord::Contend { .. })
                    || only_log
                    || (matches!(session, SessionRecord::Inherit { .. }) && before.holder.as_ref().unwrap().dismissed),
                "what another bridge holds was written: {record:?}"
            );
        }
        let status = &mut self.status;
        match session {
            SessionRecord::Unchanged => {}
            SessionRecord::Claim { address } => {
                status.last_seen = None;
                status.holder = Some(Holder { by: us, address: address.clone(), dismissed: false, contender: None });
            }
            SessionRecord::Inherit { address } => {
                status.last_seen = Some(self.now);
                status.holder = Some(Holder { by: us, address: address.clone(), dismissed: true, contender: None });
            }
            SessionRecord::Release { last_seen } => {
                status.last_seen = Some(*last_seen);
                status.address = status.holder.take().map(|holder| holder.address);
            }
            SessionRecord::Dismiss => {
                status.last_seen = Some(self.now);
                status.holder.as_mut().unwrap().dismissed = true;
            }
            SessionRecord::Contend { address: _ } => status.holder.as_mut().unwrap().contender = Some(us),
            SessionRecord::Refuse => status.holder.as_mut().unwrap().contender = None,
        }
        if let Some(info) = info {
            status.reported = Some(info.clone());
        }
        if *forget_applied {
            status.applied = None;
        }
        if let Some((target, phase)) = *progress {
            assert_eq!(status.target.as_ref().map(|target| target.id), Some(target), "progress of no current target");
            assert_eq!(phase == Phase::Done, end.is_some(), "an end is told where there is one: {record:?}");
            if let Some(upgrade) = &status.upgrade {
                assert!(
                    upgrade.target < target || (upgrade.target == target && upgrade.phase != Phase::Done),
                    "{record:?} after {upgrade:?}",
                );
            }
            let begun =
                status.upgrade.as_ref().is_some_and(|upgrade| upgrade.target == target && upgrade.phase.is_begun());
            assert!(phase != Phase::Downloaded || !begun, "a try that has begun is as if it had not: {record:?}");
            status.upgrade = Some(Upgrade { target, phase, end: end.clone() });
        }
        if let Some(end) = end {
            assert_eq!(*progress, Some((end.target, Phase::Done)));
            if let Some(config) = &end.applied {
                assert!(!forget_applied, "{record:?}");
                status.applied = Some(config.clone());
            }
            status.drops = None;
        }
        match reached {
            Change::Unchanged => {}
            Change::Set(reached) => {
                assert_eq!(
                    status.target.as_ref().map(|target| target.id),
                    Some(reached.target),
                    "of no current target"
                );
                status.reached = Some(reached.clone());
            }
            Change::Clear => status.reached = None,
        }
        if let Some(drops) = drops {
            assert!(matches!(session, SessionRecord::Release { .. }), "a drop that costs a write: {record:?}");
            let ended = status.upgrade.as_ref().filter(|upgrade| upgrade.phase == Phase::Done);
            assert_eq!(ended.map(|upgrade| upgrade.target), Some(drops.target), "drops since no end: {record:?}");
            status.drops = Some(*drops);
        }
        if let Some(log) = log {
            status.log = Some(log.clone());
        }
        match log_refused {
            Change::Unchanged => {}
            Change::Set(refused) => status.log_refused = Some(refused.clone()),
            Change::Clear => status.log_refused = None,
        }
        if let Some(answer) = log_answer {
            status.log_answer = Some(answer.clone());
        }
        assert_ne!(*status, before, "a write that changes nothing: {record:?}");
        self.version += 1;
        self.written.push(record.clone());
        Ok(())
    }
}
