//! Which of two versions is the newer one.
//!
//! # What can be compared
//!
//! A version is a *product*, a *head* of numbers and a *tail* of words and numbers: `FL.10.13.1000` is the product `fl` and
//! the head 10, 13, 1000; `V5.2.1-P3` has no product, the head 5, 2, 1 and the tail P, 3. The product is what stands before
//! the first digit, less a last `v`, `ver` or `version`. Two versions can be compared where their products are the same
//! and their heads have the same shape:
//!
//! | shape | head | examples |
//! |---|---|---|
//! | calendar | begins with a year from 1980 to 2099, and is joined by `.`, `-`, `_` or `/`, or written as one number of 8 or 6 digits | `2026-11-21`, `20261121`, `2026.11`, `202311` |
//! | bracketed | numbers with dots, then a number in brackets | `15.2(7)E3`, `9.3(10)` |
//! | release | V, a number, R, a number, without dots | `V200R005C10SPC500` |
//! | dotted | one number, or several with dots: all the rest | `1.2.3-rc.1`, `4.29.1F`, `21.4R3-S2`, `7.13rc2`, `17` |
//!
//! Anything else (no digit; a character that is no letter or digit of ASCII, no blank and none of `. - _ / : , ( ) [ ]`; a date
//! that begins with a day or a month) can be compared with the very same text only.
//!
//! # How
//!
//! Heads come first, number by number; where one has fewer, the rest counts as 0, so `5.2` is `5.2.0`. Where heads are
//! equal, tails are gone through together, and at the first difference the order is
//!
//! > pre-release word < nothing more < closing bracket < number < word, by the alphabet
//!
//! So `7.13rc2` < `7.13` < `7.13-1` < `7.13-P3` < `7.13-P10` < `7.13.1`, `21.4R3.15` < `21.4R3-S2.3`, and
//! `9.3(7)` < `9.3(7a)` < `9.3(10)`. Inside a pre-release every word counts as a word, as semver has it:
//! `alpha` < `alpha.1` < `alpha.beta` < `beta`.
//!
//! # Pre-release or patch
//!
//! Semver reads `5.2.1-P3` as something before `5.2.1`; vendors mean a patch after it. Only words that no vendor uses for a
//! patch are pre-releases ([`PRE_RELEASE`]), whole words, in any case. All else comes after. Where that guess is wrong, a
//! device on a beta is called newer than its release and stays, which somebody sees; the other guess would take the patch
//! from a device that has it. Directly after a closing bracket even these words are none: `12.1(22)EA14` is a train of releases.
//!
//! # What is equal
//!
//! Versions are equal where they differ in nothing but: blanks and NUL around them; upper and lower case; `v`, `ver` or
//! `version` before the first digit; zeros before a number, and at the end of the head; what follows a `+` (build metadata);
//! how the head of a calendar version is joined; which separators stand in product and tail (`5.2.1-P3`, `5.2.1P3`,
//! `5.2.1 p.3`).
//!
//! All versions of one product and shape are in total order.

use std::cmp::Ordering;

/// Words that say that a release is yet to come.
pub const PRE_RELEASE: [&str; 12] =
    ["alpha", "beta", "canary", "dev", "devel", "ea", "nightly", "pre", "preview", "prerelease", "rc", "snapshot"];

/// What may stand between numbers and words.
const SEPARATORS: &[u8] = b".-_/:, ()[]";

/// The order of two versions; `None`: they cannot be ordered.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    Version::parse(a).partial_cmp(&Version::parse(b))
}

/// A version, as it is compared. `==` and `<` are those of this module's rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    family: Family,
    /// Without zeros at its end.
    head: Vec<Number>,
    /// Ends with [`Part::End`].
    tail: Vec<Part>,
}

/// Within which there is an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Family {
    /// The text itself: equal to itself, and without order to all else.
    Unordered(String),
    Ordered {
        product: String,
        shape: Shape,
    },
}

/// How a head is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    Release,
    Dotted,
    Bracketed,
    Calendar,
}

/// A part of a tail. The order of the variants is the order of versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Pre(String),
    End,
    /// The closing bracket of a bracketed version: `15.2(2)E1` < `15.2(2a)E1`.
    Close,
    Number(Number),
    Word(String),
}

/// A number of any length. Fewer digits are less, so the order of the fields is the order of numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Number {
    length: usize,
    /// Without zeros before them; none for 0.
    digits: String,
}

impl Number {
    fn new(digits: &str) -> Self {
        let digits = digits.trim_start_matches('0');
        Self { length: digits.len(), digits: digits.to_owned() }
    }
}

impl Version {
    /// Reads any text; what cannot be read as a version is equal to itself alone.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_matches([' ', '\0']);
        Self::read(text).unwrap_or_else(|| Self {
            family: Family::Unordered(text.to_owned()),
            head: Vec::new(),
            tail: Vec::new(),
        })
    }

    fn read(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || SEPARATORS.contains(&byte)) {
            return None;
        }
        let (before, numbers) = text.split_at(text.find(|c: char| c.is_ascii_digit())?);
        let before = before.to_ascii_lowercase();
        let mut product: Vec<&str> =
            before.split(|c: char| !c.is_ascii_alphabetic()).filter(|w| !w.is_empty()).collect();
        let mark = product.pop_if(|word| matches!(*word, "v" | "ver" | "version"));
        if product.is_empty() && begins_with_day_or_month(numbers) {
            return None;
        }
        let (shape, mut head, rest) = read_head(numbers, mark == Some("v"));
        while head.pop_if(|number| number.length == 0).is_some() {}
        let family = Family::Ordered { product: product.join(" "), shape };
        Some(Self { family, head, tail: read_tail(rest, shape) })
    }

    /// An order of all versions, for lists that are to be stable: within a family theirs, and families in an order that
    /// means nothing.
    pub fn stable_cmp(&self, other: &Self) -> Ordering {
        self.family.cmp(&other.family).then_with(|| self.within_family(other))
    }

    fn within_family(&self, other: &Self) -> Ordering {
        self.head.cmp(&other.head).then_with(|| self.tail.cmp(&other.tail))
    }
}

impl PartialOrd for Version {
    /// `None`: they cannot be ordered.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.family == other.family).then(|| self.within_family(other))
    }
}

/// Reads the numbers that a text begins with, up to where its tail begins.
fn read_head(text: &str, after_v: bool) -> (Shape, Vec<Number>, &str) {
    if let Some((head, rest)) = read_date(text) {
        return (Shape::Calendar, head, rest);
    }
    let (first, rest) = split_digits(text);
    let mut head = vec![Number::new(first)];
    if after_v && let Some(number) = strip_any(rest, "Rr").filter(|rest| begins_with_digit(rest)) {
        let (digits, rest) = split_digits(number);
        head.push(Number::new(digits));
        return (Shape::Release, head, rest);
    }
    let rest = read_joined(rest, ".", &mut head);
    match rest.strip_prefix('(').filter(|rest| begins_with_digit(rest)) {
        Some(bracket) => {
            let (digits, rest) = split_digits(bracket);
            head.push(Number::new(digits));
            (Shape::Bracketed, head, rest)
        }
        None => (Shape::Dotted, head, rest),
    }
}

/// Reads a head that begins with a year.
fn read_date(text: &str) -> Option<(Vec<Number>, &str)> {
    const JOINTS: &str = ".-_/";
    let (first, rest) = split_digits(text);
    let month = |digits: &str| in_range(digits, 1, 12);
    let parts: &[&str] = match first.len() {
        4 if strip_any(rest, JOINTS).is_some_and(begins_with_digit) => &[first],
        6 if month(&first[4..]) => &[&first[..4], &first[4..]],
        8 if month(&first[4..6]) && in_range(&first[6..], 1, 31) => &[&first[..4], &first[4..6], &first[6..]],
        _ => return None,
    };
    if !is_year(&first[..4]) {
        return None;
    }
    let mut head = parts.iter().map(|digits| Number::new(digits)).collect();
    let rest = read_joined(rest, JOINTS, &mut head);
    Some((head, rest))
}

/// Whether it is a date such as `21.11.2026` or `11/21/2026`: its numbers do not come in the order of their weight. One with
/// dots must have two digits each, as `5.1.2050` may well be a version.
fn begins_with_day_or_month(text: &str) -> bool {
    let Some(joint) = text.chars().find(|c| !c.is_ascii_digit()).filter(|c| ".-/".contains(*c)) else { return false };
    let parts: Vec<&str> = text.split(joint).collect();
    let [first, second, year] = parts[..] else { return false };
    let day_or_month =
        |digits: &str| digits.len() <= 2 && (joint != '.' || digits.len() == 2) && in_range(digits, 1, 31);
    let one_is_a_month = in_range(first, 1, 12) || in_range(second, 1, 12);
    day_or_month(first) && day_or_month(second) && one_is_a_month && year.len() == 4 && is_year(year)
}

fn is_year(digits: &str) -> bool {
    in_range(digits, 1980, 2099)
}

fn in_range(digits: &str, from: u32, to: u32) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.parse::<u32>().is_ok_and(|number| (from..=to).contains(&number))
}

/// Reads numbers that are each behind one of the joints, and returns what follows them.
fn read_joined<'a>(mut rest: &'a str, joints: &str, head: &mut Vec<Number>) -> &'a str {
    while let Some(number) = strip_any(rest, joints).filter(|rest| begins_with_digit(rest)) {
        let (digits, after) = split_digits(number);
        head.push(Number::new(digits));
        rest = after;
    }
    rest
}

/// Reads all that follows the head.
fn read_tail(mut rest: &str, shape: Shape) -> Vec<Part> {
    let mut tail = Vec::new();
    let mut in_pre_release = false;
    let mut after_bracket = false;
    while let Some(first) = rest.chars().next() {
        let length = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        if first.is_ascii_digit() {
            let (digits, after) = split_digits(rest);
            tail.push(Part::Number(Number::new(digits)));
            rest = after;
        } else if length > 0 {
            let (word, after) = rest.split_at(length);
            let word = word.to_ascii_lowercase();
            if !in_pre_release && !after_bracket && PRE_RELEASE.contains(&&*word) {
                in_pre_release = true;
                tail.push(Part::Pre(word));
            } else {
                tail.push(Part::Word(word));
            }
            rest = after;
        } else {
            if first == ')' && shape == Shape::Bracketed {
                tail.push(Part::Close);
            }
            rest = &rest[first.len_utf8()..];
        }
        after_bracket = first == ')';
    }
    tail.push(Part::End);
    tail
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn strip_any<'a>(text: &'a str, one_of: &str) -> Option<&'a str> {
    text.strip_prefix(|c| one_of.contains(c))
}
