//! What `upgradableFrom` says, and what it cannot say.

use std::cmp::Ordering;

use fettle_controller::plan::versions::{Match, REQUIREMENT_PATTERN, Requirement, RequirementError, compare};
use proptest::prelude::*;
use proptest::sample::select;
use regex::Regex;

fn requirement(text: &str) -> Requirement {
    Requirement::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn a_requirement_admits_what_its_comparators_say() {
    for (text, yes, no) in [
        (">=4.8.0", &["4.8.0", "v4.8", "4.8.0-P1", "5.0.0"][..], &["4.7.9", "4.8.0-rc1"][..]),
        (">4.8.0", &["4.8.0-P1", "4.8.1"], &["4.8.0", "4.8"]),
        ("<5.0.0", &["4.99", "5.0.0-rc1"], &["5.0.0", "5.0.0-P1"]),
        ("<=5.2.1-P3", &["5.2.1", "5.2.1-P3", "V5.2.1P2"], &["5.2.1-P10", "5.2.2"]),
        ("=5.2", &["5.2", "5.2.0", "V5.2.0+7"], &["5.2.1"]),
        ("5.2", &["5.2.0"], &["5.2.1", "5.1"]),
        ("!=5.2.1", &["5.2.0", "5.2.2"], &["5.2.1", "v5.2.1"]),
        ("*", &["5.2.1", "2026-11-21", "latest", ""], &[]),
        (">=4.8.0, <5.0.0, !=4.9.3", &["4.8.0", "4.9.2"], &["4.9.3", "5.0.0", "4.7"]),
        ("4.2.7 || >=4.8.0,<5", &["4.2.7", "4.9"], &["4.2.8", "5.0"]),
        ("  >= 4.8.0 ,< 5||=6.0  ", &["4.8.0", "6.0.0"], &["5.0", "6.0.1"]),
        (">=15.2(4)E8, <15.2(7)E3", &["15.2(4)E8", "15.2(4)E10", "15.2(7)E2"], &["15.2(7)E3", "15.2(4)E7"]),
        (">=V200R005C10SPC500", &["V200R005C10SPC500", "V200R019C00"], &["V200R005C10"]),
        (">=20.10.R3 || >=2026-01-01", &["20.10.R12", "2026-11-21"], &[]),
        ("*, !=5.2.2", &["5.2.1"], &["5.2.2"]),
    ] {
        for version in yes {
            assert_eq!(requirement(text).matches(version), Match::Yes, "{text} and {version}");
        }
        for version in no {
            assert_eq!(requirement(text).matches(version), Match::No, "{text} and {version}");
        }
    }
}

#[test]
fn what_has_no_order_is_unknown_where_it_decides() {
    for (text, version, with) in [
        (">=4.8.0", "2026-11-21", "4.8.0"),
        ("=4.8.0", "latest", "4.8.0"),
        ("!=4.8.0", "latest", "4.8.0"),
        (">=V200R005C10, <V300R001C00", "5.2.1", "V200R005C10"),
        (">=2026-01-01 || >=4.8.0", "4.7.0", "2026-01-01"),
        (">=4.8.0, <2026-01-01", "4.9.0", "2026-01-01"),
    ] {
        assert_eq!(requirement(text).matches(version), Match::Unknown { with }, "{text} and {version}");
    }
}

#[test]
fn what_has_no_order_does_not_matter_where_something_else_decides() {
    for (text, version, expected) in [
        (">=2026-01-01 || >=4.8.0", "4.8.0", Match::Yes),
        (">=2026-01-01 || *", "latest", Match::Yes),
        (">=2026-01-01, >=4.8.0", "4.7.0", Match::No),
        (">=4.8.0, <2026-01-01", "4.7.0", Match::No),
    ] {
        assert_eq!(requirement(text).matches(version), expected, "{text} and {version}");
    }
}

#[test]
fn an_error_says_what_to_change() {
    for (text, says) in [
        ("", "it is empty: leave it out, or write * for every version"),
        ("   ", "it is empty: leave it out, or write * for every version"),
        (">=4.8.0,", "a comparator is missing before or after `,`: write one there, or remove the `,`"),
        ("|| 4.8.0", "a comparator is missing before or after `||`: write one there, or remove the `||`"),
        (">=", "`>=` has no version after it: write one, as in >=4.8.0"),
        ("^4.8.0", "`^` is no operator: write a range, as >=4.8.0, <5.0.0"),
        ("~>4.8", "`~>` is no operator: write a range, as >=4.8.0, <5.0.0"),
        ("==4.8.0", "`==` is no operator: write ="),
        ("=>4.8.0", "`=>` is no operator: write >="),
        (
            "4.8.0 | 4.9.0",
            "`4.8.0 | 4.9.0` holds a blank: put a comma between comparators that must all match, or || between alternatives",
        ),
        (
            ">=4.8.0 <5.0.0",
            "`4.8.0 <5.0.0` holds a blank: put a comma between comparators that must all match, or || between alternatives",
        ),
        ("4.8.*", "`4.8.*` uses * in a version: * stands alone, for every version; a range is >=4.8, <4.9"),
        (">=4.8\n", "`4.8\n` holds `\n`: a version is written with letters, digits and . _ ( ) / : + -"),
        (
            ">=latest",
            "`latest` is not a version: it must begin with a letter or a digit, and have a digit before any +",
        ),
        (">=.5", "`.5` is not a version: it must begin with a letter or a digit, and have a digit before any +"),
        (">=v+5", "`v+5` is not a version: it must begin with a letter or a digit, and have a digit before any +"),
    ] {
        assert_eq!(Requirement::parse(text).expect_err(text).to_string(), says, "{text:?}");
    }
    assert_eq!(Requirement::parse("1,"), Err(RequirementError::MissingComparator { beside: "," }));
}

/// Texts that are requirements, and texts that nearly are.
fn texts() -> impl Strategy<Value = String> {
    let part = select(vec![
        ">=",
        "<=",
        "!=",
        ">",
        "<",
        "=",
        "*",
        ",",
        "||",
        "|",
        " ",
        "  ",
        "4.8.0",
        "V5.2.1-P3",
        "15.2(7)E3",
        "latest",
        "0",
        "v",
        "+",
        "+7",
        ".",
        "-",
        "~",
        "^",
        "!",
        "&&",
        "\n",
        "\t",
        "é",
        "2026/11/21",
        "a:1",
        "[1]",
        "_",
        "(1)",
        ">=4.8.0",
        "<5, ",
        " || ",
    ]);
    let version = select(vec!["4.8.0", "V5.2.1-P3", "15.2(7)E3", "a1", "1+2"]);
    let comparator = (select(vec![">=", "<=", "!=", ">", "<", "=", ""]), select(vec!["", " "]), version);
    let valid =
        prop::collection::vec((comparator, select(vec![",", "||", " , ", " || ", "  ||"])), 1..5).prop_map(|all| {
            let text: String = all
                .into_iter()
                .map(|((sign, blank, version), joint)| format!("{sign}{blank}{version}{joint}"))
                .collect();
            text.trim_end_matches([' ', ',', '|']).to_owned()
        });
    let spoilt = (valid.clone(), any::<prop::sample::Index>(), part.clone()).prop_map(|(mut text, at, part)| {
        let at = at.index(text.len() + 1);
        text.insert_str(at, part);
        text
    });
    prop_oneof![
        2 => prop::collection::vec(part, 0..7).prop_map(|parts| parts.concat()),
        1 => valid,
        2 => spoilt,
        1 => "[ -~]{0,8}",
    ]
}

#[test]
fn the_corpus_has_both_kinds_of_texts() {
    // The test below would prove nothing of a corpus that is all of one kind.
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let accepted =
        (0..1000).filter(|_| Requirement::parse(&texts().new_tree(&mut runner).unwrap().current()).is_ok()).count();
    assert!((200..800).contains(&accepted), "{accepted} of 1000 are accepted");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, ..ProptestConfig::default() })]

    #[test]
    fn the_pattern_accepts_what_the_reader_accepts(text in texts()) {
        thread_local!(static PATTERN: Regex = Regex::new(REQUIREMENT_PATTERN).unwrap());
        let accepted = PATTERN.with(|pattern| pattern.is_match(&text));
        let read = Requirement::parse(&text);
        prop_assert_eq!(accepted, read.is_ok(), "{:?}: {:?}", text, read);
    }

    #[test]
    fn a_single_comparator_is_the_order_of_versions(
        a in select(vec!["4.8.0", "4.8.0-rc1", "4.8.0-P3", "4.8.0-P10", "4.8.1", "5.0.0", "2026-11-21", "9.3(10)", "R6635P05"]),
        b in select(vec!["4.8.0", "4.8.0-rc1", "4.8.0-P3", "4.8.0-P10", "4.8.1", "5.0.0", "2026-11-21", "9.3(10)", "R6635P05"]),
    ) {
        let order = compare(a, b);
        for (sign, holds) in [
            (">=", order.map(Ordering::is_ge)),
            (">", order.map(Ordering::is_gt)),
            ("<=", order.map(Ordering::is_le)),
            ("<", order.map(Ordering::is_lt)),
            ("=", order.map(Ordering::is_eq)),
            ("", order.map(Ordering::is_eq)),
            ("!=", order.map(Ordering::is_ne)),
        ] {
            let requirement = requirement(&format!("{sign}{b}"));
            let expected = match holds {
                Some(true) => Match::Yes,
                Some(false) => Match::No,
                None => Match::Unknown { with: b },
            };
            prop_assert_eq!(requirement.matches(a), expected, "{} {} {}", a, sign, b);
        }
    }
}
