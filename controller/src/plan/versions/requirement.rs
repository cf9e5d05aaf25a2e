//! What a device may run to get an image: `upgradableFrom`.
//!
//! ```text
//! requirement = all *( "||" all )                 one of them must match
//! all         = comparator *( "," comparator )    all of them must match
//! comparator  = "*" / [ ">=" / ">" / "<=" / "<" / "=" / "!=" ] version
//! version     = a letter or digit, then letters, digits and . _ ( ) / : + -, with a digit before any +
//! ```
//!
//! with blanks around each of these. A version alone means `=`. The order is that of [`compare`](super::compare), so
//! `>=4.8.0` does not match `4.8.0-rc1`, and `<5.0.0` does. The API server checks the same grammar, by
//! [`REQUIREMENT_PATTERN`]; its schema also bounds the length, and thereby the number of comparators.

use std::cmp::Ordering;

pub use fettle_crds::schema::REQUIREMENT_PATTERN;

use super::Version;

/// The characters of a version in a requirement, besides letters and digits. All that [`Version`] can order, but for blanks
/// and commas, which mean something else here, and square brackets, which nobody missed.
const PUNCTUATION: &str = "._()/:+-";

/// What a device may run to get an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// One of them must match.
    alternatives: Vec<Vec<Comparator>>,
}

/// Whether a version is within a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match<'a> {
    Yes,
    No,
    /// That depends on the order between it and this version of the requirement, and there is none.
    Unknown {
        with: &'a str,
    },
}

/// Why a text is no requirement, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    #[error("it is empty: leave it out, or write * for every version")]
    Empty,
    #[error("a comparator is missing before or after `{beside}`: write one there, or remove the `{beside}`")]
    MissingComparator { beside: &'static str },
    #[error("`{operator}` has no version after it: write one, as in {operator}4.8.0")]
    MissingVersion { operator: &'static str },
    #[error("`{found}` is no operator: {instead}")]
    UnknownOperator { found: String, instead: &'static str },
    #[error("`{text}` holds a blank: put a comma between comparators that must all match, or || between alternatives")]
    BlankInVersion { text: String },
    #[error("`{text}` uses * in a version: * stands alone, for every version; a range is >=4.8, <4.9")]
    PartialWildcard { text: String },
    #[error("`{text}` holds `{character}`: a version is written with letters, digits and . _ ( ) / : + -")]
    Character { text: String, character: char },
    #[error("`{text}` is not a version: it must begin with a letter or a digit, and have a digit before any +")]
    NotAVersion { text: String },
}

/// One condition on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Comparator {
    Any,
    Compare { operator: Operator, text: String, version: Version },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
    NotEqual,
}

impl Operator {
    /// Longer ones first: they begin with shorter ones.
    const WRITTEN: [(&'static str, Self); 6] = [
        (">=", Self::AtLeast),
        ("<=", Self::AtMost),
        ("!=", Self::NotEqual),
        (">", Self::Above),
        ("<", Self::Below),
        ("=", Self::Equal),
    ];

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::AtLeast => order.is_ge(),
            Self::Above => order.is_gt(),
            Self::AtMost => order.is_le(),
            Self::Below => order.is_lt(),
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
        }
    }
}

impl Requirement {
    /// Reads a requirement.
    pub fn parse(text: &str) -> Result<Self, RequirementError> {
        if blanks_off(text).is_empty() {
            return Err(RequirementError::Empty);
        }
        let alternatives = text.split("||").map(|all| {
            let beside = if all.contains(',') { "," } else { "||" };
            all.split(',').map(|comparator| Comparator::parse(blanks_off(comparator), beside)).collect()
        });
        Ok(Self { alternatives: alternatives.collect::<Result<_, _>>()? })
    }

    /// Whether a version is within it.
    pub fn matches(&self, version: &str) -> Match<'_> {
        self.admits(&Version::parse(version))
    }

    /// Whether a version that was read already is within it. What has no order matters only where it decides: an
    /// alternative that matches is enough, and a comparator that does not rules its alternative out.
    pub fn admits(&self, version: &Version) -> Match<'_> {
        let mut found = Match::No;
        for all in &self.alternatives {
            let mut matched = Match::Yes;
            for comparator in all {
                match comparator.admits(version) {
                    Match::Yes => {}
                    Match::No => {
                        matched = Match::No;
                        break;
                    }
                    unknown @ Match::Unknown { .. } if matched == Match::Yes => matched = unknown,
                    Match::Unknown { .. } => {}
                }
            }
            match matched {
                Match::Yes => return Match::Yes,
                unknown @ Match::Unknown { .. } if found == Match::No => found = unknown,
                Match::Unknown { .. } | Match::No => {}
            }
        }
        found
    }
}

impl Comparator {
    fn parse(text: &str, beside: &'static str) -> Result<Self, RequirementError> {
        if text.is_empty() {
            return Err(RequirementError::MissingComparator { beside });
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some((found, instead)) = foreign_operator(text) {
            return Err(RequirementError::UnknownOperator { found: found.to_owned(), instead });
        }
        let written =
            Operator::WRITTEN.iter().find_map(|(sign, operator)| Some((*sign, *operator, text.strip_prefix(sign)?)));
        let (operator, text) = match written {
            Some((sign, operator, rest)) => match blanks_off(rest) {
                "" => return Err(RequirementError::MissingVersion { operator: sign }),
                version => (operator, version),
            },
            None => (Operator::Equal, text),
        };
        check_version(text)?;
        Ok(Self::Compare { operator, text: text.to_owned(), version: Version::parse(text) })
    }

    fn admits(&self, version: &Version) -> Match<'_> {
        match self {
            Self::Any => Match::Yes,
            Self::Compare { operator, text, version: other } => match version.partial_cmp(other) {
                Some(order) if operator.holds(order) => Match::Yes,
                Some(_) => Match::No,
                None => Match::Unknown { with: text },
            },
        }
    }
}

/// An operator of another language at the beginning of a text, and what to write instead.
fn foreign_operator(text: &str) -> Option<(&'static str, &'static str)> {
    const RANGE: &str = "write a range, as >=4.8.0, <5.0.0";
    const FOREIGN: [(&str, &str); 9] = [
        ("==", "write ="),
        ("=>", "write >="),
        ("=<", "write <="),
        ("<>", "write !="),
        ("~>", RANGE),
        ("~", RANGE),
        ("^", RANGE),
        ("!", "write !="),
        ("|", "write || between alternatives"),
    ];
    let found = FOREIGN.iter().find(|(found, _)| text.starts_with(found) && !text.starts_with("!="));
    found.copied()
}

fn check_version(text: &str) -> Result<(), RequirementError> {
    let own = || text.to_owned();
    if text.contains(' ') {
        return Err(RequirementError::BlankInVersion { text: own() });
    }
    if text.contains('*') {
        return Err(RequirementError::PartialWildcard { text: own() });
    }
    if let Some(character) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !PUNCTUATION.contains(*c)) {
        return Err(RequirementError::Character { text: own(), character });
    }
    let without_build = text.split('+').next().unwrap_or_default();
    let is_version =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && without_build.contains(|c: char| c.is_ascii_digit());
    if is_version { Ok(()) } else { Err(RequirementError::NotAVersion { text: own() }) }
}

/// Blanks alone, not line breaks: what the API server lets in is one line.
fn blanks_off(text: &str) -> &str {
    text.trim_matches(' ')
}
