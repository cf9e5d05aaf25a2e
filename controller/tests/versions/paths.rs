//! Which release is next, against an oracle that tries every path.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use fettle_controller::plan::model::Text;
use fettle_controller::plan::paths::{Hop, NoHop, Paths, Release};
use fettle_controller::plan::versions::{Match, Requirement, compare};
use fettle_crds::FirmwarePolicy::{self, Exact, UpgradeOnly};
use proptest::prelude::*;
use proptest::sample::select;

/// A release named after its version, verified, that can be installed over anything.
fn release(version: &str) -> Release {
    Release {
        name: format!("fw-{version}").into(),
        version: version.into(),
        reports: version.into(),
        verified: true,
        upgradable_from: None,
    }
}

fn over(from: &str, release: Release) -> Release {
    Release { upgradable_from: Some(Arc::new(Requirement::parse(from).unwrap())), ..release }
}

fn reports(report: &str, release: Release) -> Release {
    Release { reports: report.into(), ..release }
}

fn named(name: &str, release: Release) -> Release {
    Release { name: name.into(), ..release }
}

fn unverified(release: Release) -> Release {
    Release { verified: false, ..release }
}

/// What a device that reports this gets: the name of the next release, and how many hops there are.
fn next(goal: &Release, others: &[Release], policy: FirmwarePolicy, reported: &str) -> Result<(String, usize), NoHop> {
    let mut paths = Paths::new(goal.clone(), others.iter().cloned(), policy);
    paths.next(&reported.into()).clone().map(|hop| (hop.release.to_string(), hop.hops))
}

fn hop(name: &str, hops: usize) -> Result<(String, usize), NoHop> {
    Ok((name.to_owned(), hops))
}

fn not_comparable(a: &str, b: &str) -> Result<(String, usize), NoHop> {
    Err(NoHop::NotComparable { a: a.into(), b: b.into() })
}

#[test]
fn an_older_device_gets_the_goal_at_once_where_nothing_forbids_it() {
    let goal = release("5.2.1");
    assert_eq!(next(&goal, &[release("5.0.0")], UpgradeOnly, "4.0.0"), hop("fw-5.2.1", 1));
}

#[test]
fn a_device_that_reports_what_the_goal_reports_is_there() {
    let goal = reports("V5.2.1-P3", release("5.2.1"));
    assert_eq!(next(&goal, &[], UpgradeOnly, "V5.2.1-P3"), Err(NoHop::AlreadyThere));
    assert_eq!(next(&unverified(goal), &[], Exact, "V5.2.1-P3"), Err(NoHop::AlreadyThere));
}

#[test]
fn stepping_stones_are_taken_one_after_the_other_and_no_more_than_needed() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let stones =
        [over(">=3.0.0", release("4.8.0")), over(">=2.0.0", release("3.5.0")), release("2.4.0"), release("4.9.9-rc1")];
    // 4.9.9-rc1 can be had from everything, so it alone is the way for all that is older.
    assert_eq!(next(&goal, &stones, UpgradeOnly, "1.0.0"), hop("fw-4.9.9-rc1", 2));
    let stones = &stones[..3];
    assert_eq!(next(&goal, stones, UpgradeOnly, "1.0.0"), hop("fw-2.4.0", 4));
    assert_eq!(next(&goal, stones, UpgradeOnly, "2.4.0"), hop("fw-3.5.0", 3));
    assert_eq!(next(&goal, stones, UpgradeOnly, "3.5.0"), hop("fw-4.8.0", 2));
    assert_eq!(next(&goal, stones, UpgradeOnly, "4.8.0"), hop("fw-5.2.1", 1));
    assert_eq!(next(&goal, stones, UpgradeOnly, "3.7.2"), hop("fw-4.8.0", 2));
}

#[test]
fn a_short_path_is_found_beside_a_long_one_that_joins_it() {
    let goal = over("=4.1 || =4.2", release("5"));
    for (short, long) in [("4.1", "4.2"), ("4.2", "4.1")] {
        let stones = [
            over("=2.0", release(short)),
            over("=3.0", release(long)),
            over("=2.0", release("3.0")),
            over("=1.0", release("2.0")),
        ];
        assert_eq!(next(&goal, &stones, UpgradeOnly, "1.0"), hop("fw-2.0", 3));
        assert_eq!(next(&goal, &stones, UpgradeOnly, "2.0"), hop(&format!("fw-{short}"), 2));
    }
}

#[test]
fn of_equally_short_paths_that_over_the_highest_version_is_taken_then_by_name() {
    let goal = over(">=4.0.0", release("5.0.0"));
    let stones = [release("4.1.0"), release("4.10.0"), release("4.9.0")];
    assert_eq!(next(&goal, &stones, UpgradeOnly, "3.0.0"), hop("fw-4.10.0", 2));
    let twins = [named("b", release("4.10.0")), named("a", reports("V4.10", release("v4.10"))), release("4.9.0")];
    assert_eq!(next(&goal, &twins, UpgradeOnly, "3.0.0"), hop("a", 2));
}

#[test]
fn upgrade_only_leaves_what_is_newer_and_exact_takes_it_back() {
    let goal = release("5.2.1");
    let known = [release("6.0.0")];
    for newer in ["6.0.0", "5.2.1-P1", "5.2.2-rc1"] {
        assert_eq!(next(&goal, &known, UpgradeOnly, newer), Err(NoHop::Newer), "{newer}");
        assert_eq!(next(&goal, &known, Exact, newer), hop("fw-5.2.1", 1), "{newer}");
    }
}

#[test]
fn exact_goes_back_only_over_what_upgradable_from_allows() {
    let goal = over("<6", release("5.2.1"));
    assert_eq!(next(&goal, &[], Exact, "7.0.0"), Err(NoHop::NoPath));
    assert_eq!(next(&goal, &[over(">=6", release("5.9.0"))], Exact, "7.0.0"), hop("fw-5.9.0", 2));
}

#[test]
fn upgrade_only_never_goes_down_on_the_way() {
    // From 4.5 only over 4.0, which is older.
    let goal = over("=4.0", release("5.0"));
    let stones = [release("4.0")];
    assert_eq!(next(&goal, &stones, UpgradeOnly, "4.5"), Err(NoHop::NoPath));
    assert_eq!(next(&goal, &stones, Exact, "4.5"), hop("fw-4.0", 2));
    assert_eq!(next(&goal, &stones, UpgradeOnly, "3.0"), hop("fw-4.0", 2));
}

#[test]
fn another_spelling_of_the_same_version_is_no_way_down() {
    let goal = release("5.2.1");
    assert_eq!(next(&goal, &[], UpgradeOnly, "v5.2.1+build7"), hop("fw-5.2.1", 1));
}

#[test]
fn versions_without_an_order_are_named() {
    let goal = release("5.2.1");
    assert_eq!(next(&goal, &[], UpgradeOnly, "2026-11-21"), not_comparable("2026-11-21", "5.2.1"));
    assert_eq!(next(&goal, &[], Exact, "2026-11-21"), hop("fw-5.2.1", 1));
    let known = [reports("V5", release("2026-11-21"))];
    assert_eq!(next(&goal, &known, UpgradeOnly, "V5"), not_comparable("2026-11-21", "5.2.1"));
}

#[test]
fn a_requirement_without_an_order_to_what_runs_is_named_under_either_policy() {
    let goal = over(">=2026-01-01", release("5.2.1"));
    for policy in [UpgradeOnly, Exact] {
        assert_eq!(next(&goal, &[], policy, "5.0.0"), not_comparable("5.0.0", "2026-01-01"));
    }
    // Also where it is further on.
    let stones = [over(">=4", release("5.0.0"))];
    assert_eq!(
        next(&over(">=2026-01-01, <=2027", release("5.2.1")), &stones, UpgradeOnly, "4.0.0"),
        not_comparable("4.0.0", "2026-01-01")
    );
    let goal = over("=5.0.0, !=2026-01-01", release("5.2.1"));
    assert_eq!(next(&goal, &stones, UpgradeOnly, "4.0.0"), not_comparable("5.0.0", "2026-01-01"));
}

#[test]
fn what_has_no_order_does_not_hinder_where_there_is_another_way() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let stones = [over(">=2026-01-01", release("4.9.0")), release("4.8.0"), release("2026-11-21")];
    assert_eq!(next(&goal, &stones, UpgradeOnly, "4.0.0"), hop("fw-4.8.0", 2));
}

#[test]
fn no_chain_is_a_reason() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let stones = [over(">=4.0.0", release("4.8.0")), over(">=4.0.0", release("4.9.0"))];
    assert_eq!(next(&goal, &stones, UpgradeOnly, "3.0.0"), Err(NoHop::NoPath));
}

#[test]
fn what_is_not_verified_is_never_on_a_path_and_is_named_where_it_alone_leads_there() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let stones = [unverified(release("4.9.0")), over(">=3.5.0", release("4.8.0")), over("<3.5.0", release("3.5.0"))];
    // Over 4.9.0 it would be shorter.
    assert_eq!(next(&goal, &stones, UpgradeOnly, "3.0.0"), hop("fw-3.5.0", 3));
    let missing =
        |names: &[&str]| Err(NoHop::NotVerified { releases: names.iter().map(|name| (*name).into()).collect() });
    assert_eq!(next(&goal, &stones[..1], UpgradeOnly, "3.0.0"), missing(&["fw-4.9.0"]));
    assert_eq!(next(&unverified(goal.clone()), &stones[..1], UpgradeOnly, "3.0.0"), missing(&["fw-4.9.0", "fw-5.2.1"]));
    // Nothing is begun that could not be finished.
    assert_eq!(next(&unverified(goal), &stones[1..], UpgradeOnly, "3.5.0"), missing(&["fw-5.2.1"]));
}

#[test]
fn a_device_on_a_release_that_is_not_verified_leaves_it_all_the_same() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let known = [unverified(reports("odd", release("4.8.0")))];
    assert_eq!(next(&goal, &known, UpgradeOnly, "odd"), hop("fw-5.2.1", 1));
}

#[test]
fn a_report_is_known_by_the_release_that_says_it() {
    // By its text alone, "V9" would be newer than the goal.
    let goal = over(">=4.8.0", reports("V10", release("5.2.1")));
    let known = [reports("V9", release("4.8.0")), reports("V8", release("4.7.0"))];
    assert_eq!(next(&goal, &known, UpgradeOnly, "V9"), hop("fw-5.2.1", 1));
    assert_eq!(next(&goal, &known, UpgradeOnly, "V8"), hop("fw-4.8.0", 2));
}

#[test]
fn a_report_of_none_of_ours_is_compared_with_reports_before_versions() {
    // By the version 5.2.1, a device on P2 would be newer.
    let goal = reports("V5.2.1-P3", release("5.2.1"));
    assert_eq!(next(&goal, &[], UpgradeOnly, "V5.2.1-P2"), hop("fw-5.2.1", 1));
    assert_eq!(next(&goal, &[], UpgradeOnly, "V5.2.1-P10"), Err(NoHop::Newer));
    // Where reports have no order, versions may.
    let goal = reports("autumn", release("5.2.1"));
    assert_eq!(next(&goal, &[], UpgradeOnly, "5.2.0"), hop("fw-5.2.1", 1));
    assert_eq!(next(&goal, &[], UpgradeOnly, "5.2.2"), Err(NoHop::Newer));
    assert_eq!(next(&goal, &[], UpgradeOnly, "summer"), not_comparable("summer", "5.2.1"));
}

#[test]
fn where_several_releases_report_the_same_a_hop_must_be_allowed_from_each() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let twins = |low: &str, high: &str| {
        [named("low", reports("V4", release(low))), named("high", reports("V4", release(high)))]
    };
    assert_eq!(next(&goal, &twins("4.8.0", "4.9.0"), UpgradeOnly, "V4"), hop("fw-5.2.1", 1));
    assert_eq!(next(&goal, &twins("4.7.0", "4.9.0"), UpgradeOnly, "V4"), Err(NoHop::NoPath));
    assert_eq!(next(&goal, &twins("4.8.0", "5.3.0"), UpgradeOnly, "V4"), Err(NoHop::Newer));
    assert_eq!(next(&goal, &twins("4.8.0", "2026-11-21"), UpgradeOnly, "V4"), not_comparable("2026-11-21", "5.2.1"));
}

#[test]
fn what_reports_the_same_as_the_goal_is_no_stone() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let twin = [named("rebuilt", reports("5.2.1", release("4.9.0")))];
    assert_eq!(next(&goal, &twin, UpgradeOnly, "3.0.0"), Err(NoHop::NoPath));
}

#[test]
fn a_hop_says_what_the_device_will_report() {
    let goal = over(">=4.8.0", release("5.2.1"));
    let mut paths = Paths::new(goal, [reports("V4-P8", release("4.8.0"))], UpgradeOnly);
    let expected = Hop { release: "fw-4.8.0".into(), version: "4.8.0".into(), reports: "V4-P8".into(), hops: 2 };
    assert_eq!(paths.next(&"4.0.0".into()), &Ok(expected.clone()));
    // And says the same when it is asked again.
    assert_eq!(paths.next(&"4.0.0".into()), &Ok(expected));
}

#[test]
fn reasons_are_told_in_words() {
    let goal = over(">=4.8.0", unverified(release("5.2.1")));
    let told = |reported: &str| next(&goal, &[], UpgradeOnly, reported).unwrap_err().to_string();
    assert_eq!(told("4.9.0"), "the way there is over releases that are not verified yet: fw-5.2.1");
    assert_eq!(told("2026-11-21"), "`2026-11-21` and `5.2.1` cannot be ordered");
}

/// A model with its releases, and what a device reports.
#[derive(Debug, Clone)]
struct Case {
    goal: Release,
    others: Vec<Release>,
    policy: FirmwarePolicy,
    reported: Text,
}

const VERSIONS: [&str; 10] = ["1", "2", "2-P1", "3", "3-P2", "4-rc1", "4", "5", "2026-01", "odd"];

fn cases() -> impl Strategy<Value = Case> {
    let version = || select(VERSIONS.to_vec());
    let comparator = || {
        let sign = select(vec!["=", "=", "=", ">=", "<=", "<", "!="]);
        (sign, version()).prop_map(|(sign, version)| format!("{sign}{}", version.replace("odd", "odd1")))
    };
    let joint = select(vec![" || ", " || ", ", "]);
    let both = (comparator(), joint, comparator()).prop_map(|(a, joint, b)| format!("{a}{joint}{b}"));
    let requirement = prop_oneof![1 => Just("*".to_owned()), 4 => comparator(), 6 => both];
    let report = prop_oneof![4 => Just(None), 1 => select(vec!["V1", "V2", "V3", "X", "3", "2-P1"]).prop_map(Some)];
    let made = (version(), report, prop::bool::weighted(0.8), prop::option::weighted(0.9, requirement));
    let releases = prop::collection::vec(made, 1..9).prop_map(|made| {
        let numbered = made.into_iter().enumerate().map(|(number, (version, report, verified, requirement))| Release {
            name: format!("r{number}").into(),
            version: version.into(),
            reports: report.unwrap_or(version).into(),
            verified,
            upgradable_from: requirement.map(|text| Arc::new(Requirement::parse(&text).unwrap())),
        });
        numbered.collect::<Vec<Release>>()
    });
    let reported = prop_oneof![3 => version(), 1 => select(vec!["V1", "V2", "V3", "X", "2.5", "0"])];
    (releases, select(vec![UpgradeOnly, Exact]), reported).prop_map(|(mut others, policy, reported)| {
        let goal = others.remove(0);
        Case { goal, others, policy, reported: reported.into() }
    })
}

impl Case {
    fn paths(&self) -> Paths {
        Paths::new(self.goal.clone(), self.others.iter().cloned(), self.policy)
    }

    fn releases(&self) -> impl Iterator<Item = &Release> {
        std::iter::once(&self.goal).chain(&self.others)
    }

    /// The order between what a device reports and a release, from each thing that it may run.
    fn orders(&self, report: &str, to: &Release) -> Vec<Option<Ordering>> {
        let known: Vec<_> =
            self.releases().filter(|r| *r.reports == *report).map(|r| compare(&r.version, &to.version)).collect();
        if known.is_empty() {
            vec![compare(report, &to.reports).or_else(|| compare(report, &to.version))]
        } else {
            known
        }
    }

    /// Whether a release may be installed over whatever reports this, verified or not.
    fn allows(&self, report: &str, to: &Release) -> bool {
        let is_up = self.orders(report, to).iter().all(|order| order.is_some_and(Ordering::is_le));
        let known: Vec<&str> = self.releases().filter(|r| *r.reports == *report).map(|r| &*r.version).collect();
        let runs = if known.is_empty() { vec![report] } else { known };
        let admits =
            |version: &&str| to.upgradable_from.as_ref().is_none_or(|from| from.matches(version) == Match::Yes);
        (self.policy == Exact || is_up) && runs.iter().all(admits)
    }

    /// The lengths of all paths without a circle, by trying them, over releases that pass.
    fn lengths(&self, report: &str, seen: &mut BTreeSet<Text>, pass: fn(&Release) -> bool) -> Vec<usize> {
        let mut lengths = Vec::new();
        for to in self.releases().filter(|to| pass(to) && self.allows(report, to)) {
            if to.name == self.goal.name {
                lengths.push(1);
            } else if to.reports != self.goal.reports && seen.insert(to.reports.clone()) {
                lengths.extend(self.lengths(&to.reports, seen, pass).into_iter().map(|length| length + 1));
                seen.remove(&to.reports);
            }
        }
        lengths
    }

    fn shortest(&self, report: &str, pass: fn(&Release) -> bool) -> Option<usize> {
        self.lengths(report, &mut BTreeSet::from([report.into()]), pass).into_iter().min()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn the_answer_is_what_trying_every_path_finds(case in cases()) {
        let answer = case.paths().next(&case.reported).clone();
        if case.reported == case.goal.reports {
            prop_assert_eq!(answer, Err(NoHop::AlreadyThere));
            return Ok(());
        }
        let orders = case.orders(&case.reported, &case.goal);
        if case.policy == UpgradeOnly && orders.contains(&Some(Ordering::Greater)) {
            prop_assert_eq!(answer, Err(NoHop::Newer));
            return Ok(());
        }
        if case.policy == UpgradeOnly && orders.contains(&None) {
            let is_named = matches!(&answer, Err(NoHop::NotComparable { b, .. }) if *b == case.goal.version);
            prop_assert!(is_named, "{:?}", answer);
            return Ok(());
        }
        let shortest = case.shortest(&case.reported, |release| release.verified);
        match &answer {
            Ok(hop) => prop_assert_eq!(Some(hop.hops), shortest),
            Err(NoHop::NotVerified { releases }) => {
                prop_assert_eq!(shortest, None);
                prop_assert!(case.shortest(&case.reported, |_| true).is_some());
                prop_assert!(!releases.is_empty());
                for name in releases {
                    prop_assert!(case.releases().any(|release| release.name == *name && !release.verified));
                }
            }
            Err(NoHop::NoPath | NoHop::NotComparable { .. }) => {
                prop_assert_eq!(case.shortest(&case.reported, |_| true), None);
            }
            Err(NoHop::AlreadyThere | NoHop::Newer) => prop_assert!(false, "{:?}", answer),
        }
        if let Err(NoHop::NotComparable { a, b }) = &answer {
            prop_assert_eq!(compare(a, b), None);
        }
    }

    #[test]
    fn a_device_that_does_as_it_is_told_arrives_never_down_and_over_verified_releases_alone(case in cases()) {
        let mut paths = case.paths();
        let mut report = case.reported.clone();
        let mut left = None;
        while let Ok(hop) = paths.next(&report).clone() {
            prop_assert_eq!(hop.hops, left.unwrap_or(hop.hops), "after {}", report);
            let to = case.releases().find(|release| release.name == hop.release).unwrap();
            prop_assert_eq!((&to.version, &to.reports), (&hop.version, &hop.reports));
            prop_assert!(to.verified && case.allows(&report, to), "{} over {}", to.name, report);
            if case.policy == UpgradeOnly {
                for order in case.orders(&report, to) {
                    prop_assert!(order.is_some_and(Ordering::is_le), "{} over {}", to.name, report);
                }
            }
            left = Some(hop.hops - 1);
            report = hop.reports;
        }
        if let Some(left) = left {
            prop_assert_eq!((left, &report), (0, &case.goal.reports));
        }
    }

    #[test]
    fn of_the_hops_of_a_shortest_path_the_highest_is_taken(case in cases()) {
        let Ok(hop) = case.paths().next(&case.reported).clone() else { return Ok(()) };
        let taken = case.releases().find(|release| release.name == hop.release).unwrap();
        for other in case.others.iter().filter(|other| other.verified && other.reports != case.goal.reports) {
            let rest = case.shortest(&other.reports, |release| release.verified);
            if case.allows(&case.reported, other) && rest.is_some_and(|rest| rest + 1 == hop.hops) {
                match compare(&other.version, &taken.version) {
                    Some(Ordering::Equal) => prop_assert!(other.name >= taken.name, "{:?}", other),
                    order => prop_assert!(order != Some(Ordering::Greater), "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn the_order_in_which_releases_are_given_does_not_matter(case in cases(), seed in any::<prop::sample::Index>()) {
        let expected = case.paths().next(&case.reported).clone();
        let mut turned = case.clone();
        turned.others.reverse();
        if !turned.others.is_empty() {
            turned.others.rotate_left(seed.index(case.others.len()));
        }
        prop_assert_eq!(turned.paths().next(&case.reported).clone(), expected.clone());
        // Nor does it matter who was asked for before.
        let mut paths = case.paths();
        for before in VERSIONS {
            paths.next(&before.into());
        }
        prop_assert_eq!(paths.next(&case.reported), &expected);
    }
}
