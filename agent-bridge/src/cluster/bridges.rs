//! Which bridges live: what their Leases say, and when we heard it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use tokio::time::Instant;

/// The label of a bridge's Lease.
pub const LABEL: &str = "fettle.dev/bridge";

/// The Leases of all bridges of the namespace, as they were last seen.
///
/// A Lease holds for its duration from when its renewal was *seen*: clocks of different machines are not compared. And time
/// passes only while something is heard: each bridge hears at least its own renewals. While the watch is silent nobody is
/// declared dead, for nobody could have been heard to live.
#[derive(Debug, Clone, Default)]
pub struct Bridges {
    leases: BTreeMap<String, Seen>,
    /// How long we have been listening.
    listened: Duration,
    heard: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Seen {
    holder: String,
    renewed: Option<Timestamp>,
    duration: Duration,
    /// As [`Bridges::listened`] counts.
    until: Duration,
    ended: bool,
}

impl Bridges {
    /// Notes what a Lease says, heard at `now`. Returns the bridges of which a run has begun or ended by it.
    pub fn apply(&mut self, lease: &Lease, now: Instant) -> Vec<String> {
        self.listen(now);
        let name = lease.name_any();
        let mut changed = Vec::new();
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        match (spec.holder_identity.filter(|holder| !holder.is_empty()), seconds) {
            (Some(holder), Some(seconds)) => {
                let former = self.leases.get(&name);
                let renewed = spec.renew_time.map(|time| time.0);
                // A write that renews nothing, such as that of a label, is no sign of life.
                if former.is_none_or(|former| former.holder != holder || former.renewed != renewed) {
                    if former.is_none_or(|former| former.holder != holder || former.ended) {
                        changed.push(name.clone());
                    }
                    let duration = Duration::from_secs(seconds);
                    let until = self.listened.saturating_add(duration);
                    self.leases.insert(name, Seen { holder, renewed, duration, until, ended: false });
                }
            }
            (_, _) => changed.extend(self.leases.remove(&name).filter(|former| !former.ended).map(|_| name)),
        }
        self.expire(&mut changed);
        changed
    }

    /// Forgets a bridge whose Lease was deleted. Returns the bridges of which a run has ended by it.
    pub fn remove(&mut self, name: &str, now: Instant) -> Vec<String> {
        self.listen(now);
        let mut ended = Vec::new();
        ended.extend(self.leases.remove(name).filter(|former| !former.ended).map(|_| name.to_owned()));
        self.expire(&mut ended);
        ended
    }

    /// Lets the time pass since something was heard last, but for a silence in which renewals may have gone unheard.
    fn listen(&mut self, now: Instant) {
        let silence = self.heard.replace(now).map_or(Duration::ZERO, |heard| now.duration_since(heard));
        // Bridges renew three times in each duration.
        let longest = self.leases.values().map(|seen| seen.duration / 2).min().unwrap_or_default();
        self.listened += silence.min(longest);
    }

    fn expire(&mut self, ended: &mut Vec<String>) {
        for (name, seen) in &mut self.leases {
            if !seen.ended && seen.until <= self.listened {
                seen.ended = true;
                ended.push(name.clone());
            }
        }
    }

    /// Whether this run of this bridge holds its Lease.
    pub fn lives(&self, name: &str, incarnation: &str) -> bool {
        self.leases.get(name).is_some_and(|seen| {
            !seen.ended && seen.holder.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) == Some(incarnation)
        })
    }

    /// The first living bridge by name: the one that writes what only one should.
    pub fn first(&self) -> Option<&str> {
        self.leases.iter().find(|(_, seen)| !seen.ended).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use kube::api::ObjectMeta;

    use super::*;

    fn lease(name: &str, holder: &str, renewed: i64) -> Lease {
        Lease {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                ..LeaseSpec::default()
            }),
        }
    }

    /// We are `b-9`, and hear ourselves every five seconds.
    struct Listening {
        bridges: Bridges,
        begin: Instant,
    }

    impl Listening {
        fn new() -> Self {
            Self { bridges: Bridges::default(), begin: Instant::now() }
        }

        fn hear(&mut self, lease: &Lease, second: u64) -> Vec<String> {
            self.bridges.apply(lease, self.begin + Duration::from_secs(second))
        }

        fn hear_ourselves(&mut self, second: u64) -> Vec<String> {
            self.hear(&lease("b-9", "b-9/us", second as i64), second)
        }
    }

    #[test]
    fn a_bridge_lives_for_the_duration_from_when_its_renewal_was_seen() {
        let mut listening = Listening::new();
        listening.hear_ourselves(0);
        // The clock of that machine is an hour behind.
        assert_eq!(listening.hear(&lease("b-0", "b-0/one", -3600), 0), ["b-0"], "a run has begun");
        for second in [5, 10] {
            assert!(listening.hear_ourselves(second).is_empty());
            listening.hear(&lease("b-0", "b-0/one", -3600), second);
            assert!(listening.bridges.lives("b-0", "one"));
        }
        assert_eq!(listening.hear_ourselves(15), ["b-0"], "the same renewal again is no news");
        assert!(!listening.bridges.lives("b-0", "one"));
        assert!(listening.hear_ourselves(20).is_empty(), "it is told once");
        assert_eq!(listening.hear(&lease("b-0", "b-0/one", -3580), 21), ["b-0"]);
        assert!(listening.bridges.lives("b-0", "one"), "it was only late");
    }

    #[test]
    fn nobody_dies_while_nothing_is_heard() {
        let mut listening = Listening::new();
        listening.hear_ourselves(0);
        listening.hear(&lease("b-0", "b-0/one", 0), 1);
        // The API server was away for a minute; whom we hear first after it is chance.
        assert!(listening.hear_ourselves(61).is_empty());
        assert!(listening.bridges.lives("b-0", "one"));
        listening.hear(&lease("b-0", "b-0/one", 61), 62);
        let ended: Vec<_> = (1..5).flat_map(|turn| listening.hear_ourselves(62 + 5 * turn)).collect();
        assert_eq!(ended, ["b-0"]);
    }

    #[test]
    fn only_the_run_that_the_lease_names_lives() {
        let mut listening = Listening::new();
        listening.hear(&lease("b-0", "b-0/two", 0), 0);
        assert!(!listening.bridges.lives("b-0", "one"));
        assert!(!listening.bridges.lives("b-1", "two"));
        assert_eq!(listening.hear(&lease("b-0", "b-0/three", 1), 1), ["b-0"], "another run");
        assert!(listening.bridges.lives("b-0", "three"));
        assert_eq!(listening.hear(&lease("b-0", "", 3), 3), ["b-0"], "released");
        assert!(!listening.bridges.lives("b-0", "three"));
        listening.hear(&lease("b-0", "b-0/four", 4), 4);
        assert_eq!(listening.bridges.remove("b-0", listening.begin + Duration::from_secs(5)), ["b-0"]);
    }

    #[test]
    fn the_first_living_bridge_by_name_writes_for_all() {
        let mut listening = Listening::new();
        assert_eq!(listening.bridges.first(), None);
        listening.hear_ourselves(0);
        listening.hear(&lease("b-0", "b-0/x", 0), 0);
        assert_eq!(listening.bridges.first(), Some("b-0"));
        for second in [5, 10, 15] {
            listening.hear_ourselves(second);
        }
        assert_eq!(listening.bridges.first(), Some("b-9"));
    }
}
