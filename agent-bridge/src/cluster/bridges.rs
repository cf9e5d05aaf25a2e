//! Which bridges live: what their Leases say, and when we heard it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

/// The label of a bridge's Lease.
pub const LABEL: &str = "fettle.dev/bridge";

/// The Leases of all bridges of the namespace, as they were last seen.
///
/// A Lease holds for its duration from when its renewal was *seen*: clocks of different machines are not compared.
#[derive(Debug, Clone, Default)]
pub struct Bridges {
    leases: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    holder: String,
    renewed: Option<Timestamp>,
    until: Timestamp,
}

impl Bridges {
    /// Notes what a Lease says, seen at `now`.
    pub fn apply(&mut self, lease: &Lease, now: Timestamp) {
        let name = lease.name_any();
        let spec = lease.spec.clone().unwrap_or_default();
        let (Some(holder), Some(seconds)) =
            (spec.holder_identity.filter(|holder| !holder.is_empty()), spec.lease_duration_seconds)
        else {
            self.leases.remove(&name);
            return;
        };
        let renewed = spec.renew_time.map(|time| time.0);
        // A write that renews nothing, such as that of a label, is no sign of life.
        let unchanged = |seen: &Seen| seen.holder == holder && seen.renewed == renewed;
        if !self.leases.get(&name).is_some_and(unchanged) {
            let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let until = now.saturating_add(duration).unwrap_or(Timestamp::MAX);
            self.leases.insert(name, Seen { holder, renewed, until });
        }
    }

    /// Forgets a bridge whose Lease was deleted.
    pub fn remove(&mut self, name: &str) {
        self.leases.remove(name);
    }

    /// Whether this run of this bridge holds its Lease.
    pub fn lives(&self, name: &str, incarnation: &str, now: Timestamp) -> bool {
        self.leases.get(name).is_some_and(|seen| {
            now < seen.until
                && seen.holder.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) == Some(incarnation)
        })
    }

    /// The first living bridge by name: the one that writes what only one should.
    pub fn first(&self, now: Timestamp) -> Option<&str> {
        self.leases.iter().find(|(_, seen)| now < seen.until).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use kube::api::ObjectMeta;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lease(name: &str, holder: &str, renewed: i64) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(at(renewed))),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_bridge_lives_for_the_duration_from_when_its_renewal_was_seen() {
        let mut bridges = Bridges::default();
        // The clock of that machine is an hour behind.
        bridges.apply(&lease("b-0", "b-0/one", 0), at(3600));
        assert!(bridges.lives("b-0", "one", at(3614)));
        assert!(!bridges.lives("b-0", "one", at(3615)));
        bridges.apply(&lease("b-0", "b-0/one", 0), at(3614));
        assert!(!bridges.lives("b-0", "one", at(3615)), "the same renewal is no news");
        bridges.apply(&lease("b-0", "b-0/one", 5), at(3614));
        assert!(bridges.lives("b-0", "one", at(3628)));
    }

    #[test]
    fn only_the_run_that_the_lease_names_lives() {
        let mut bridges = Bridges::default();
        bridges.apply(&lease("b-0", "b-0/two", 0), at(0));
        assert!(!bridges.lives("b-0", "one", at(1)));
        assert!(!bridges.lives("b-1", "two", at(1)));
        bridges.apply(&lease("b-0", "", 3), at(3));
        assert!(!bridges.lives("b-0", "two", at(4)), "released");
    }

    #[test]
    fn the_first_living_bridge_by_name_writes_for_all() {
        let mut bridges = Bridges::default();
        bridges.apply(&lease("b-1", "b-1/x", 0), at(10));
        bridges.apply(&lease("b-0", "b-0/x", 0), at(0));
        assert_eq!(bridges.first(at(5)), Some("b-0"));
        assert_eq!(bridges.first(at(20)), Some("b-1"));
        assert_eq!(bridges.first(at(30)), None);
    }
}
