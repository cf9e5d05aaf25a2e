//! Which release a device gets next, on its way to the one that its group wants.
//!
//! [`Paths`] is asked for one model, one goal and one policy. What a device runs is known by what it reports, and nothing
//! else, so a path leads from report to report: a *hop* to a release is one that may be installed over whatever reports
//! the like. The next hop is the first of the shortest path; among equally short ones, that to the highest version, then
//! that whose name comes first.
//!
//! A hop is allowed where
//! - the release is verified, and what `upgradableFrom` says matches (a release that says nothing can be had from all);
//! - under `UpgradeOnly`, it does not lead to an older version. One that only is another spelling of the same is allowed.
//!
//! What a device runs is compared in this way. Where one of the releases has what it reports as `reports`, by the `version`
//! of that release; where several have, a hop must be allowed from each of them. Where none has, by what the device
//! reports: `upgradableFrom` is held against it, and for the order it is compared with what devices on the release report
//! (a device on `V5.2.1-P2` is older than a release 5.2.1 that reports `V5.2.1-P3`), or, where these two cannot be ordered,
//! with the release's version.
//!
//! Each hop of a path brings a device closer to the goal, by number of hops, and the one after it is found by the same
//! count: a device that does as it is told arrives, and is never sent in a circle.

use std::sync::Arc;

use fettle_crds::FirmwarePolicy;

use super::model::Text;
use super::versions::{Match, Requirement, Version};

/// A release, as it is for one model.
#[derive(Debug, Clone)]
pub struct Release {
    pub name: Text,
    /// What is ordered.
    pub version: Text,
    /// What a device on it reports.
    pub reports: Text,
    /// Its image for the model is fetched and verified.
    pub verified: bool,
    /// `None`: it can be installed over anything.
    pub upgradable_from: Option<Arc<Requirement>>,
}

/// The next release for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The name of the release.
    pub release: Text,
    pub version: Text,
    pub reports: Text,
    /// How many hops it is to the goal, with this one: 1 where this is the goal.
    pub hops: usize,
}

/// Why there is no next release for a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoHop {
    #[error("it runs the release already")]
    AlreadyThere,
    /// Only under `UpgradeOnly`.
    #[error("it runs something newer")]
    Newer,
    /// There may be a path, but for two versions without an order: the first is what a device runs, or would run on the
    /// way, the second that of a release or in its `upgradableFrom`.
    #[error("`{a}` and `{b}` cannot be ordered")]
    NotComparable { a: Text, b: Text },
    #[error("no chain of releases leads there over what upgradableFrom allows")]
    NoPath,
    /// There is a path over these, in the order of the path, once they are verified.
    #[error("the way there is over releases that are not verified yet: {}", .releases.join(", "))]
    NotVerified { releases: Vec<Text> },
}

/// The ways to one goal, for the devices of one model. What was found is kept: one entry for each text that was asked for,
/// so never more than there are devices.
#[derive(Debug)]
pub struct Paths {
    policy: FirmwarePolicy,
    goal: Stone,
    /// All other releases, those first that are taken first.
    stones: Vec<Stone>,
    found: super::Map<Text, Result<Hop, NoHop>>,
    /// Drawn when the first device asks that is not there.
    map: Option<Map>,
}

/// A release, with what it is compared by.
#[derive(Debug)]
struct Stone {
    release: Release,
    version: Version,
    reports: Version,
}

impl Stone {
    fn new(release: Release) -> Self {
        let version = Version::parse(&release.version);
        let reports = Version::parse(&release.reports);
        Self { release, version, reports }
    }
}

/// What a device runs, as far as its report tells.
enum Runs<'a> {
    /// One of these, each of which reports the same.
    Releases(Vec<&'a Stone>),
    /// None of ours.
    Foreign { report: &'a str, version: Version },
}

/// Whether a hop is allowed, as far as order and `upgradableFrom` go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edge {
    Allowed,
    Refused,
    /// That depends on the order of two versions that have none.
    Unknown {
        a: Text,
        b: Text,
    },
}

impl Edge {
    /// Both must hold.
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Refused => Self::Refused,
            Self::Allowed => other(),
            Self::Unknown { a, b } => match other() {
                Self::Refused => Self::Refused,
                Self::Allowed | Self::Unknown { .. } => Self::Unknown { a, b },
            },
        }
    }
}

/// Which hops count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Those that are allowed now.
    Now,
    /// As if all releases were verified.
    OnceVerified,
    /// And as if what has no order was in the right one.
    OnceOrdered,
}

impl Reading {
    fn counts(self, edge: &Edge, stone: &Stone) -> bool {
        match (edge, self) {
            (Edge::Refused, _) => false,
            (Edge::Allowed, Self::Now) => stone.release.verified,
            (Edge::Allowed, Self::OnceVerified | Self::OnceOrdered) | (Edge::Unknown { .. }, Self::OnceOrdered) => true,
            (Edge::Unknown { .. }, Self::Now | Self::OnceVerified) => false,
        }
    }
}

/// A place among the stones; the goal is the one after the last.
type Place = usize;

/// How far it is from each release to the goal.
#[derive(Debug)]
struct Map {
    /// From each stone, that is from whatever reports the like, to each place.
    edges: Vec<Vec<Edge>>,
    now: Vec<Option<usize>>,
    once_verified: Vec<Option<usize>>,
    once_ordered: Vec<Option<usize>>,
}

impl Map {
    fn distances(&self, reading: Reading) -> &[Option<usize>] {
        match reading {
            Reading::Now => &self.now,
            Reading::OnceVerified => &self.once_verified,
            Reading::OnceOrdered => &self.once_ordered,
        }
    }
}

impl Paths {
    /// The ways to a goal over the other releases for the same model. What has the goal's name or reports what the goal
    /// does is none of them: on such a release, a device would pass for one that has arrived.
    pub fn new(goal: Release, others: impl IntoIterator<Item = Release>, policy: FirmwarePolicy) -> Self {
        let others = others.into_iter().filter(|other| other.name != goal.name && other.reports != goal.reports);
        let mut stones: Vec<Stone> = others.map(Stone::new).collect();
        stones.sort_by(|a, b| b.version.stable_cmp(&a.version).then_with(|| a.release.name.cmp(&b.release.name)));
        Self { policy, goal: Stone::new(goal), stones, found: super::Map::default(), map: None }
    }

    /// The next release for a device that reports this version.
    pub fn next(&mut self, reported: &Text) -> &Result<Hop, NoHop> {
        if !self.found.contains_key(reported) {
            let next = self.find(reported);
            self.found.insert(reported.clone(), next);
        }
        &self.found[reported]
    }

    fn find(&mut self, reported: &str) -> Result<Hop, NoHop> {
        if *self.goal.release.reports == *reported {
            return Err(NoHop::AlreadyThere);
        }
        let map = self.map.take().unwrap_or_else(|| self.draw());
        let next = self.find_on(&map, reported);
        self.map = Some(map);
        next
    }

    fn find_on(&self, map: &Map, reported: &str) -> Result<Hop, NoHop> {
        let runs = self.runs(reported);
        if self.policy == FirmwarePolicy::UpgradeOnly {
            self.check_order(&runs)?;
        }
        let from: Vec<Edge> = self.places().map(|place| self.edge(&runs, self.stone(place))).collect();
        if let Some((place, hops)) = self.nearest(map, &from, Reading::Now) {
            let Release { name, version, reports, verified: _, upgradable_from: _ } = &self.stone(place).release;
            return Ok(Hop { release: name.clone(), version: version.clone(), reports: reports.clone(), hops });
        }
        let releases: Vec<Text> = self
            .path(map, &from, Reading::OnceVerified)
            .map(|(_, place)| &self.stone(place).release)
            .filter(|release| !release.verified)
            .map(|release| release.name.clone())
            .collect();
        if !releases.is_empty() {
            return Err(NoHop::NotVerified { releases });
        }
        let without_order = self.path(map, &from, Reading::OnceOrdered).find_map(|(edge, _)| match edge {
            Edge::Unknown { a, b } => Some(NoHop::NotComparable { a: a.clone(), b: b.clone() }),
            Edge::Allowed | Edge::Refused => None,
        });
        Err(without_order.unwrap_or(NoHop::NoPath))
    }

    fn runs<'a>(&'a self, reported: &'a str) -> Runs<'a> {
        let releases: Vec<&Stone> = self.stones.iter().filter(|stone| *stone.release.reports == *reported).collect();
        if releases.is_empty() {
            Runs::Foreign { report: reported, version: Version::parse(reported) }
        } else {
            Runs::Releases(releases)
        }
    }

    /// Whether the goal is not older than what the device runs.
    fn check_order(&self, runs: &Runs<'_>) -> Result<(), NoHop> {
        match not_older(runs, &self.goal) {
            Edge::Allowed => Ok(()),
            Edge::Refused => Err(NoHop::Newer),
            Edge::Unknown { a, b } => Err(NoHop::NotComparable { a, b }),
        }
    }

    /// Whether a hop is allowed, but for verification.
    fn edge(&self, runs: &Runs<'_>, to: &Stone) -> Edge {
        match self.policy {
            FirmwarePolicy::UpgradeOnly => not_older(runs, to).and(|| upgradable(runs, to)),
            FirmwarePolicy::Exact => upgradable(runs, to),
        }
    }

    /// All places: the stones in their order, then the goal.
    fn places(&self) -> std::ops::RangeInclusive<Place> {
        0..=self.stones.len()
    }

    fn stone(&self, place: Place) -> &Stone {
        self.stones.get(place).unwrap_or(&self.goal)
    }

    /// The next place on the shortest path, and how many hops that path has.
    fn nearest(&self, map: &Map, from: &[Edge], reading: Reading) -> Option<(Place, usize)> {
        let distances = map.distances(reading);
        let open = self.places().filter(|place| reading.counts(&from[*place], self.stone(*place)));
        let reached = open.filter_map(|place| Some((place, distances[place]? + 1)));
        // Of equal ones the first is taken, and the stones are in that order. Only the goal is one hop away.
        reached.min_by_key(|(_, hops)| *hops)
    }

    /// The shortest path: each hop, and the place that it leads to.
    fn path<'a>(
        &'a self,
        map: &'a Map,
        from: &'a [Edge],
        reading: Reading,
    ) -> impl Iterator<Item = (&'a Edge, Place)> + 'a {
        let step = move |from: &'a [Edge]| self.nearest(map, from, reading).map(|(place, _)| (&from[place], place));
        std::iter::successors(step(from), move |(_, place)| map.edges.get(*place).and_then(|from| step(from)))
    }

    fn draw(&self) -> Map {
        let edges: Vec<Vec<Edge>> = self
            .stones
            .iter()
            .map(|stone| {
                let runs = self.runs(&stone.release.reports);
                self.places().map(|place| self.edge(&runs, self.stone(place))).collect()
            })
            .collect();
        let now = self.measure(&edges, Reading::Now);
        let once_verified = self.measure(&edges, Reading::OnceVerified);
        let once_ordered = self.measure(&edges, Reading::OnceOrdered);
        Map { edges, now, once_verified, once_ordered }
    }

    /// How many hops it is from each place to the goal: breadth first, from the goal back.
    fn measure(&self, edges: &[Vec<Edge>], reading: Reading) -> Vec<Option<usize>> {
        let goal = self.stones.len();
        let mut distances = vec![None; goal + 1];
        distances[goal] = Some(0);
        let mut reached = std::collections::VecDeque::from([(goal, 0)]);
        while let Some((to, distance)) = reached.pop_front() {
            for (place, from) in edges.iter().enumerate() {
                if distances[place].is_none() && reading.counts(&from[to], self.stone(to)) {
                    distances[place] = Some(distance + 1);
                    reached.push_back((place, distance + 1));
                }
            }
        }
        distances
    }
}

/// Whether a release is not older than what a device runs.
fn not_older(runs: &Runs<'_>, to: &Stone) -> Edge {
    let judge = |order: Option<std::cmp::Ordering>, a: &str, b: &Text| match order {
        Some(order) if order.is_le() => Edge::Allowed,
        Some(_) => Edge::Refused,
        None => Edge::Unknown { a: a.into(), b: b.clone() },
    };
    match runs {
        Runs::Releases(releases) => from_each(releases, |from| {
            judge(from.version.partial_cmp(&to.version), &from.release.version, &to.release.version)
        }),
        Runs::Foreign { report, version } => {
            let order = version.partial_cmp(&to.reports).or_else(|| version.partial_cmp(&to.version));
            judge(order, report, &to.release.version)
        }
    }
}

/// Whether `upgradableFrom` allows a release over what a device runs.
fn upgradable(runs: &Runs<'_>, to: &Stone) -> Edge {
    let Some(requirement) = &to.release.upgradable_from else { return Edge::Allowed };
    let judge = |text: &str, version: &Version| match requirement.admits(version) {
        Match::Yes => Edge::Allowed,
        Match::No => Edge::Refused,
        Match::Unknown { with } => Edge::Unknown { a: text.into(), b: with.into() },
    };
    match runs {
        Runs::Releases(releases) => from_each(releases, |from| judge(&from.release.version, &from.version)),
        Runs::Foreign { report, version } => judge(report, version),
    }
}

/// A device may run any of them, so it must hold for each.
fn from_each(releases: &[&Stone], edge: impl Fn(&Stone) -> Edge) -> Edge {
    releases.iter().fold(Edge::Allowed, |all, from| all.and(|| edge(from)))
}
