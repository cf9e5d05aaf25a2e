//! How a vendor's engineers have read the layout of a message, where it can be read in more than one way
//! (`docs/protocol.md`, "Other readings").
//!
//! The bytes of a datum are the same in all of them: its header, its value, and the padding. What differs is what the
//! fields that count bytes count, and the order of the bytes of a number. So a message takes as many bytes in one dialect
//! as in the next, and its VALUE_LENs alone say how many; DATA_LEN and LENGTH say in which dialect it is.

use std::fmt;
use std::str::FromStr;

use crate::frame::{DATUM_HEADER_LEN, HEADER_LEN};

/// A reading of the layout: the ways in which it differs from the documented one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dialect(u8);

impl Dialect {
    /// As documented. What anybody builds anew speaks this.
    pub const CANONICAL: Self = Self(0);
    /// DATA_LEN does not count the four bytes of the datum's own header.
    pub const DATA_LEN_WITHOUT_HEADER: Self = Self(1 << 0);
    /// DATA_LEN does not count the padding.
    pub const DATA_LEN_WITHOUT_PADDING: Self = Self(1 << 1);
    /// LENGTH counts the four bytes of the message's own header.
    pub const LENGTH_WITH_HEADER: Self = Self(1 << 2);
    /// LENGTH, and the data that are numbers, have their lowest byte first. Addresses are bytes in the order in which they
    /// are written, in every dialect.
    pub const LITTLE_ENDIAN: Self = Self(1 << 3);

    /// Every difference with its name.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::DATA_LEN_WITHOUT_HEADER, "DataLenWithoutHeader"),
        (Self::DATA_LEN_WITHOUT_PADDING, "DataLenWithoutPadding"),
        (Self::LENGTH_WITH_HEADER, "LengthWithHeader"),
        (Self::LITTLE_ENDIAN, "LittleEndian"),
    ];
    const CANONICAL_NAME: &'static str = "Canonical";

    /// All dialects. Where a message fits several, the first of them in this order is meant: the canonical one before all
    /// others, and those that are big-endian before those that are not.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..1 << Self::NAMES.len()).map(Self)
    }

    /// Whether it has all differences of `other`.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The differences of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The differences of this one that `other` does not have.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The names of its differences from the canonical dialect, which has none.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(difference, _)| self.has(*difference)).map(|(_, name)| name)
    }

    /// The dialect with these differences; a name that this version does not know means nothing.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let known = names.into_iter().filter_map(|name| Self::NAMES.into_iter().find(|(_, known)| *known == name));
        known.fold(Self::CANONICAL, |dialect, (difference, _)| dialect.with(difference))
    }

    /// DATA_LEN of a datum whose value has so many bytes, and so many with its padding.
    pub(crate) const fn data_len(self, value: usize, padded: usize) -> usize {
        let counted = if self.has(Self::DATA_LEN_WITHOUT_PADDING) { value } else { padded };
        if self.has(Self::DATA_LEN_WITHOUT_HEADER) { counted } else { DATUM_HEADER_LEN + counted }
    }

    /// How many bytes LENGTH counts besides the data.
    pub(crate) const fn length_beyond_data(self) -> usize {
        if self.has(Self::LENGTH_WITH_HEADER) { HEADER_LEN } else { 0 }
    }

    /// A number of two bytes, as this dialect has it on the wire.
    pub(crate) const fn u16_bytes(self, number: u16) -> [u8; 2] {
        if self.has(Self::LITTLE_ENDIAN) { number.to_le_bytes() } else { number.to_be_bytes() }
    }

    /// The number that these bytes of the wire are.
    pub(crate) const fn u16_value(self, bytes: [u8; 2]) -> u16 {
        if self.has(Self::LITTLE_ENDIAN) { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    }
}

/// The names of the differences, joined by `+`; `Canonical` where there is none.
impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.names();
        f.write_str(names.next().unwrap_or(Self::CANONICAL_NAME))?;
        names.try_for_each(|name| write!(f, "+{name}"))
    }
}

/// A text that names no dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no dialect: {0:?}; give Canonical, or any of DataLenWithoutHeader, DataLenWithoutPadding, LengthWithHeader and \
     LittleEndian, joined by +"
)]
pub struct ParseDialectError(String);

/// As it is displayed; capitals do not matter.
impl FromStr for Dialect {
    type Err = ParseDialectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case(Self::CANONICAL_NAME) {
            return Ok(Self::CANONICAL);
        }
        text.split('+').try_fold(Self::CANONICAL, |dialect, part| {
            let difference = Self::NAMES.into_iter().find(|(_, name)| name.eq_ignore_ascii_case(part));
            difference.map(|(difference, _)| dialect.with(difference)).ok_or_else(|| ParseDialectError(text.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_a_name_by_which_it_is_found() {
        let all: Vec<_> = Dialect::all().collect();
        assert_eq!((all.len(), all[0]), (16, Dialect::CANONICAL));
        for dialect in all {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
            assert_eq!(Dialect::from_names(dialect.names().chain(["Unheard"])), dialect);
            assert_eq!(dialect.to_string().to_lowercase().parse(), Ok(dialect));
        }
        let both = Dialect::DATA_LEN_WITHOUT_HEADER.with(Dialect::LITTLE_ENDIAN);
        assert_eq!(both.to_string(), "DataLenWithoutHeader+LittleEndian");
        assert_eq!(Dialect::CANONICAL.to_string(), "Canonical");
        for wrong in ["", "Canonical+LittleEndian", "LittleEndian+", "BigEndian"] {
            assert!(wrong.parse::<Dialect>().is_err(), "{wrong}");
        }
    }
}
