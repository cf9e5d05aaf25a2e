//! Conditions as Kubernetes has them: `lastTransitionTime` moves only when one flips, so that equal states are equal
//! statuses.

use fettle_crds::Condition;
use fettle_crds::schema::message as cut;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Conditions, in the making.
pub(super) struct Conditions<'a> {
    before: &'a [Condition],
    generation: i64,
    now: Timestamp,
    done: Vec<Condition>,
    unset: Vec<&'static str>,
}

impl<'a> Conditions<'a> {
    pub(super) fn new(before: &'a [Condition], generation: i64, now: Timestamp) -> Self {
        Self { before, generation, now, done: Vec::new(), unset: Vec::new() }
    }

    pub(super) fn set(&mut self, type_: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let before = self.before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        self.done.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time: before.map_or(Time(self.now), |before| before.last_transition_time.clone()),
            reason: reason.to_owned(),
            message: cut(message),
        });
    }

    /// It is not for us to say any more.
    pub(super) fn unset(&mut self, type_: &'static str) {
        self.unset.push(type_);
    }

    /// Those of others stay.
    pub(super) fn done(mut self) -> Vec<Condition> {
        let is_other = |type_: &str| self.done.iter().all(|done| done.type_ != type_) && !self.unset.contains(&type_);
        let others = self.before.iter().filter(|before| is_other(&before.type_));
        let others: Vec<Condition> = others.cloned().collect();
        self.done.extend(others);
        self.done
    }
}
