//! Which of two versions is the newer one.

use std::cmp::Ordering;

use fettle_controller::plan::versions::{Version, compare};
use proptest::prelude::*;
use proptest::sample::select;

/// Releases as vendors brought them out, oldest first.
const SEQUENCES: &[(&str, &[&str])] = &[
    (
        "semver, by the example of its specification",
        &[
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "v1.0.1",
            "V1.10.0",
        ],
    ),
    (
        "dotted with patches",
        &["4.8.0", "V4.9.0", "5.2.1-beta1", "5.2.1-RC1", "5.2.1", "V5.2.1-P3", "V5.2.1-P10", "5.2.2-SNAPSHOT", "5.2.2"],
    ),
    (
        "Huawei VRP",
        &[
            "V200R005C00SPC500",
            "V200R005C10",
            "V200R005C10B010",
            "V200R005C10SPC500",
            "V200R005C10SPC500SPH012",
            "V200R005C10SPC800",
            "V200R019C10SPC500",
            "V200R021C00SPC100",
            "V300R001C00",
        ],
    ),
    ("H3C Comware", &["R6616P01", "R6635", "R6635P05", "R6635P05H02", "R6635P07", "R6635P10", "R6710"]),
    (
        "H3C Comware, as it is displayed",
        &["7.1.070, Release 6626P03", "7.1.070, Release 6635P05", "7.1.070, Release 6635P10", "7.1.075, Release 1510"],
    ),
    (
        "Cisco IOS",
        &[
            "12.2(55)SE",
            "12.2(55)SE5",
            "12.2(55)SE12",
            "15.0(2)SE11",
            "15.2(2)E9",
            "15.2(2a)E1",
            "15.2(4)E10",
            "15.2(7)E0a",
            "15.2(7)E3",
            "15.2(7)E3k",
            "15.2(7)E10",
        ],
    ),
    ("Cisco IOS, a train that looks like early access", &["12.1(22)", "12.1(22)EA1", "12.1(22)EA2", "12.1(22)EA14"]),
    (
        "Cisco IOS XE",
        &["3.6.8E", "16.3.1", "16.12.05b", "17.03.04", "17.3.4a", "17.3.5", "17.9.4", "17.9.4a", "17.12.1"],
    ),
    ("Cisco IOS XE before 16", &["03.06.06E", "03.06.08E", "03.06.10E", "03.07.00E"]),
    (
        "Cisco NX-OS",
        &[
            "7.0(3)I7(9)",
            "7.0(3)I7(10)",
            "9.2(1)",
            "9.3(5)",
            "9.3(7)",
            "9.3(7a)",
            "9.3(8)",
            "9.3(10)",
            "10.2(3)F",
            "10.2(4)M",
            "10.3(1)F",
        ],
    ),
    ("Cisco ASA", &["9.8(4)", "9.16(4)", "9.16(4)14", "9.16(4)57", "9.18(1)"]),
    (
        "Juniper Junos",
        &[
            "15.1R7-S2",
            "15.1X53-D59.3",
            "15.1X53-D590",
            "18.4R3-S7.2",
            "18.4R3-S11",
            "20.4B1",
            "20.4R1.12",
            "21.4R1",
            "21.4R3",
            "21.4R3.15",
            "21.4R3-S2",
            "21.4R3-S2.3",
            "21.4R3-S10",
            "22.2R1",
        ],
    ),
    ("Junos Evolved", &["21.4R1-EVO", "21.4R3-EVO", "21.4R3-S2-EVO", "21.4R3-S3-EVO", "21.4R3-S10-EVO", "22.3R1-EVO"]),
    (
        "Arista EOS",
        &["4.28.0F", "4.28.3M", "4.28.10M", "4.28.10.1M", "4.29.0.2F", "4.29.1F", "4.29.2F", "4.29.10M", "4.30.0F"],
    ),
    (
        "MikroTik RouterOS",
        &[
            "6.49.10",
            "7.9",
            "7.12rc1",
            "7.12",
            "7.12.1",
            "7.13beta1",
            "7.13beta3",
            "7.13rc1",
            "7.13rc2",
            "7.13",
            "7.13.1",
        ],
    ),
    (
        "Aruba CX",
        &["FL.10.09.1010", "FL.10.10.1000", "FL.10.13.0005", "FL.10.13.1000", "FL.10.13.1130", "FL.10.14.0001"],
    ),
    ("ArubaOS-Switch", &["WC.16.08.0026", "WC.16.10.0009", "WC.16.10.0012", "WC.16.11.0001"]),
    ("Fortinet", &["v7.0.9,build0444", "v7.2.4,build1396", "v7.2.5,build1517", "v7.2.10,build1706"]),
    ("Palo Alto", &["10.1.9", "10.2.3", "10.2.3-h4", "10.2.3-h12", "10.2.4", "10.2.10"]),
    ("Extreme EXOS", &["31.7.1.4", "31.7.1.4-patch1-9", "31.7.1.4-patch1-33", "31.7.2.28", "32.1.1.6"]),
    (
        "Nokia TiMOS",
        &["TiMOS-C-20.10.B1-12", "TiMOS-C-20.10.R3", "TiMOS-C-20.10.R3-1", "TiMOS-C-20.10.R12", "TiMOS-C-21.2.R1"],
    ),
    ("Ubiquiti EdgeOS", &["v2.0.9", "v2.0.9-hotfix.1", "v2.0.9-hotfix.6", "v2.0.9-hotfix.10", "v3.0.0-rc.2", "v3.0.0"]),
    ("Zyxel", &["V4.50(ABNS.7)", "V4.70(ABNS.2)", "V4.70(ABNS.3)", "V4.70(ABNS.10)C0", "V4.80(ABNS.0)"]),
    ("TP-Link", &["1.0.9 Build 20220101 Rel.1", "1.20.0 Build 20230302 Rel.57831", "1.20.0 Build 20231012 Rel.1000"]),
    ("OpenWrt", &["22.03.5", "23.05.0-rc1", "23.05.0-rc4", "23.05.0", "23.05.2"]),
    ("Dell iDRAC", &["5.10.30.00", "6.00.02.00", "6.00.30.00", "6.10.00.00", "6.10.30.00", "7.00.00.00"]),
    ("ConnectX firmware", &["16.27.2008", "16.31.2006", "16.35.1012", "16.35.2000", "16.35.3006"]),
    ("a counter", &["9", "10", "17", "100"]),
    ("dates", &["2025-12-31", "2026-01-02", "2026-09-30", "2026-11-21", "2026-11-21-2", "2027-01-01"]),
    ("dates in one number", &["20251231", "20260102", "20261121-rc1", "20261121", "20261121.2", "20270101"]),
    ("calendar versions", &["2025.12", "2026.2", "2026.11-rc.1", "2026.11", "2026.11.1", "2026.12", "2026.47"]),
    ("SONiC", &["SONiC.202205", "SONiC.20220531.9", "SONiC.20220531.27", "SONiC.202211", "SONiC.202305"]),
    ("dates in several ways", &["2025.12", "20260131", "2026-02-28", "202603", "2026/03/01", "2026.11"]),
];

#[test]
fn releases_of_vendors_come_in_the_order_in_which_they_came_out() {
    for (vendor, sequence) in SEQUENCES {
        for (i, a) in sequence.iter().enumerate() {
            for (j, b) in sequence.iter().enumerate() {
                assert_eq!(compare(a, b), Some(i.cmp(&j)), "{vendor}: {a} and {b}");
            }
        }
    }
}

#[test]
fn versions_of_different_shapes_have_no_order() {
    let shapes = [
        "5.2.1",
        "2026-11-21",
        "V200R005C10SPC500",
        "15.2(7)E3",
        "FL.10.13.1000",
        "R6635P05",
        "SONiC.202305",
        "TiMOS-C-20.10.R3",
        "latest",
        "main",
        "",
        "Stand für den Kern 5",
        "21.11.2026",
        "11/21/2026",
        "1-2-2026",
        "1.2~rc1",
    ];
    for (i, a) in shapes.iter().enumerate() {
        for (j, b) in shapes.iter().enumerate() {
            let expected = (i == j).then_some(Ordering::Equal);
            assert_eq!(compare(a, b), expected, "{a} and {b}");
        }
    }
}

#[test]
fn other_spellings_of_a_version_are_equal_to_it() {
    for (a, b) in [
        ("5.2.1", "v5.2.1"),
        ("5.2.1", "V5.2.1"),
        ("5.2.1", "Version 5.2.1"),
        ("5.2.1", "ver. 5.2.1"),
        ("5.2.1", " 5.2.1 \0\0"),
        ("5.2.1", "5.2.1+build.7"),
        ("5.2.1+1", "5.2.1+2"),
        ("5.2", "5.2.0"),
        ("5", "5.0.0"),
        ("5.2-rc1", "5.2.0-rc1"),
        ("5.02.01", "5.2.1"),
        ("V5.2.1-P3", "v5.2.1-p3"),
        ("V5.2.1-P3", "5.2.1P3"),
        ("V5.2.1-P3", "5.2.1 p.03"),
        ("7.13rc2", "7.13-RC.2"),
        ("2026-11-21", "20261121"),
        ("2026-11-21", "2026.11.21"),
        ("2026.1.2", "20260102"),
        ("v200r005c10spc500", "V200R005C10SPC500"),
        ("fl.10.13.1000", "FL-10.13.1000"),
    ] {
        assert_eq!(compare(a, b), Some(Ordering::Equal), "{a} and {b}");
    }
}

#[test]
fn what_looks_alike_is_not_equal() {
    for (a, b) in [
        ("5.2.1", "5.2.1-0"),
        ("5.2.1-4", "5.2.1.4"),
        ("5.2.1-P", "5.2.1-P0"),
        ("5.2.1-P3", "5.2.1-P3.0"),
        ("5.2.1-P31", "5.2.1-P3.1"),
        ("5.2.1-rc", "5.2.1-rcx"),
        ("9.3(10)", "9.3(1)0"),
        ("latest", "Latest"),
    ] {
        assert_ne!(compare(a, b), Some(Ordering::Equal), "{a} and {b}");
    }
}

#[test]
fn only_whole_words_that_are_known_are_pre_releases() {
    for word in "alpha beta canary dev devel ea nightly pre preview prerelease rc snapshot RC Beta".split(' ') {
        for version in [format!("5.2.1-{word}"), format!("5.2.1{word}1"), format!("5.2.1 ({word} 1)")] {
            assert_eq!(compare(&version, "5.2.1"), Some(Ordering::Less), "{version}");
        }
    }
    for word in "P p1 SP1 HF2 h4 b7 a rcx betamax patch1 hotfix.1 F M GA build7 final 3 x86".split(' ') {
        let version = format!("5.2.1-{word}");
        assert_eq!(compare(&version, "5.2.1"), Some(Ordering::Greater), "{version}");
        assert_eq!(compare(&version, "5.2.1.1"), Some(Ordering::Less), "{version}");
    }
}

#[test]
fn a_patch_may_have_pre_releases_of_its_own() {
    assert_eq!(compare("5.2.1-P3-rc1", "5.2.1-P3"), Some(Ordering::Less));
    assert_eq!(compare("5.2.1-P3-rc1", "5.2.1-P2"), Some(Ordering::Greater));
}

#[test]
fn numbers_of_any_length_are_compared_whole() {
    let long = "9".repeat(100);
    let longer = format!("1{}", "0".repeat(100));
    assert_eq!(compare(&long, &longer), Some(Ordering::Less));
    assert_eq!(compare(&format!("1.0-P{longer}"), &format!("1.0-P{long}")), Some(Ordering::Greater));
}

#[test]
fn a_number_that_is_no_date_is_a_number() {
    for (a, b) in [("20261321", "30261121"), ("20261100", "20261199"), ("19791231", "19791299"), ("2026", "2027")] {
        assert_eq!(compare(a, b), Some(Ordering::Less), "{a} and {b}");
        assert_eq!(compare(a, "5"), Some(Ordering::Greater), "{a}");
    }
}

/// Pieces that versions are made of, with many that are nearly the same.
fn versions() -> impl Strategy<Value = String> {
    let start = select(vec!["", "", "", "v", "V", "Version ", "R", "FL.", "SONiC.", "x", "+", "-", " "]);
    let number = select(vec!["0", "1", "2", "3", "10", "01", "200", "2026", "1999", "20261121", "202611", "11", "21"]);
    let joint = select(vec![
        ".", ".", ".", "-", "(", ")", "R", "r", "C", "P", " ", "_", "/", "-rc", "rc", "beta.", "~", "+", "",
    ]);
    let word = select(vec![
        "",
        "",
        "",
        "-P3",
        "-P10",
        "-rc1",
        "-rc",
        "a",
        ")",
        ")E3",
        "SPC500",
        "-alpha.beta",
        "+7",
        ".0",
        "é",
    ]);
    let made = (start, prop::collection::vec((number, joint), 0..4), number_or_none(), word).prop_map(
        |(start, parts, last, word)| {
            let parts: String = parts.into_iter().flat_map(|(number, joint)| [number, joint]).collect();
            format!("{start}{parts}{last}{word}")
        },
    );
    let real: Vec<&str> = SEQUENCES.iter().flat_map(|(_, sequence)| sequence.iter().copied()).collect();
    prop_oneof![4 => made, 2 => select(real).prop_map(str::to_owned), 1 => "[ -~]{0,12}", 1 => "\\PC{0,8}"]
}

fn number_or_none() -> impl Strategy<Value = &'static str> {
    select(vec!["", "0", "1", "2", "7", "10", "2026", "15", "21"])
}

/// What is left of a version when all is taken away in which equal ones may differ; made without the reader's help.
fn essence(text: &str) -> Vec<String> {
    let text = text.trim_matches([' ', '\0']).to_ascii_lowercase();
    let text = text.split('+').next().unwrap_or_default();
    let mut runs: Vec<String> = Vec::new();
    let mut last = None;
    for c in text.chars() {
        let kind = if c.is_ascii_digit() { Some(0) } else { c.is_ascii_alphabetic().then_some(1) };
        match runs.last_mut() {
            Some(run) if kind.is_some() && kind == last => run.push(c),
            _ if kind.is_some() => runs.push(c.to_string()),
            _ => {}
        }
        last = kind;
    }
    if let Some(first) = runs.iter().position(|run| run.starts_with(|c: char| c.is_ascii_digit())) {
        let date = runs[first].clone();
        if matches!(date.len(), 6 | 8) {
            let pairs = (4..date.len()).step_by(2).map(|at| date[at..at + 2].to_owned());
            let parts: Vec<String> = std::iter::once(date[..4].to_owned()).chain(pairs).collect();
            runs.splice(first..=first, parts);
        }
        if first > 0 && matches!(&*runs[first - 1], "v" | "ver" | "version") {
            runs.remove(first - 1);
        }
    }
    runs.into_iter().map(|run| run.trim_start_matches('0').to_owned()).filter(|run| !run.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn every_text_is_equal_to_itself(a in versions()) {
        prop_assert_eq!(compare(&a, &a), Some(Ordering::Equal));
    }

    #[test]
    fn an_order_is_the_other_way_round_from_the_other_side(a in versions(), b in versions()) {
        prop_assert_eq!(compare(&a, &b), compare(&b, &a).map(Ordering::reverse));
        let (a, b) = (Version::parse(&a), Version::parse(&b));
        prop_assert_eq!(a == b, a.partial_cmp(&b) == Some(Ordering::Equal));
        prop_assert_eq!(a.stable_cmp(&b), b.stable_cmp(&a).reverse());
        prop_assert!(a.partial_cmp(&b).is_none_or(|order| order == a.stable_cmp(&b)));
    }

    #[test]
    fn equal_ones_differ_only_in_what_does_not_count(a in versions(), b in versions()) {
        if compare(&a, &b) == Some(Ordering::Equal) {
            prop_assert_eq!(essence(&a), essence(&b), "{:?} and {:?}", a, b);
        }
    }

    #[test]
    fn what_can_be_compared_is_in_one_line(texts in prop::collection::vec(versions(), 3..10)) {
        let versions: Vec<Version> = texts.iter().map(|text| Version::parse(text)).collect();
        for (a, b, c) in triples(&versions) {
            let (Some(ab), bc, ac) = (a.partial_cmp(b), b.partial_cmp(c), a.partial_cmp(c)) else { continue };
            prop_assert_eq!(bc.is_some(), ac.is_some(), "{:?}: {:?}, {:?}, {:?}", texts, a, b, c);
            if bc == Some(ab) || ab == Ordering::Equal {
                prop_assert_eq!(ac, bc, "{:?}: {:?}, {:?}, {:?}", texts, a, b, c);
            }
        }
    }

    #[test]
    fn semver_is_ordered_as_semver_says(a in semver(), b in semver()) {
        let oracle = |text: &str| semver::Version::parse(text).unwrap();
        prop_assert_eq!(compare(&a, &b), Some(oracle(&a).cmp_precedence(&oracle(&b))), "{} and {}", a, b);
        prop_assert_eq!(compare(&format!("v{a}"), &b), compare(&a, &b));
    }

    #[test]
    fn a_higher_patch_is_newer_and_lies_before_the_next_release(
        head in prop::collection::vec(0u32..40, 1..5), low in 0u32..2000, more in 1u32..2000, v in select(vec!["", "v", "V"])
    ) {
        let text = |head: &[u32]| head.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
        let mut next = head.clone();
        *next.last_mut().unwrap() += 1;
        let (base, next) = (text(&head), format!("{v}{}", text(&next)));
        let line = [
            format!("{base}-rc{low}"),
            format!("{v}{base}rc{}", low + more),
            format!("{v}{base}"),
            format!("{base}-P{low}"),
            format!("{v}{base}P{}", low + more),
            format!("{next}-alpha"),
            next.clone(),
        ];
        for pair in line.windows(2) {
            prop_assert_eq!(compare(&pair[0], &pair[1]), Some(Ordering::Less), "{:?}", pair);
        }
    }
}

/// Every three, in every order.
fn triples<T>(all: &[T]) -> impl Iterator<Item = (&T, &T, &T)> {
    all.iter().flat_map(move |a| all.iter().flat_map(move |b| all.iter().map(move |c| (a, b, c))))
}

/// Semver whose pre-releases begin with a word that says so, and whose identifiers do not mix letters and digits: semver
/// orders `rc10` before `rc9`, and we do not.
fn semver() -> impl Strategy<Value = String> {
    let number = || select(vec![0u64, 1, 2, 9, 10, 11, 100]);
    let word = select(vec!["alpha", "beta", "dev", "pre", "rc", "snapshot"]);
    let more =
        prop_oneof![number().prop_map(|n| n.to_string()), select(vec!["alpha", "rc", "x"]).prop_map(str::to_owned)];
    let pre = prop::option::of((word, prop::collection::vec(more, 0..3)));
    let build = select(vec!["", "", "+7", "+build.2"]);
    (number(), number(), number(), pre, build).prop_map(|(major, minor, patch, pre, build)| {
        let pre = pre.map_or_else(String::new, |(word, more)| {
            more.iter().fold(format!("-{word}"), |text, identifier| format!("{text}.{identifier}"))
        });
        format!("{major}.{minor}.{patch}{pre}{build}")
    })
}
