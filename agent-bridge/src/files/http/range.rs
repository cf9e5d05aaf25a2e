//! Which part of a file a request is for (RFC 9110, 13 and 14). Pure.
//!
//! One range in each request. Where a request asks for several, it gets the whole file, as RFC 9110 (14.2) allows; where it
//! asks in words that mean nothing, too.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

/// What a request for a file is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// 200
    Whole,
    /// 206: bytes of the file, at least one.
    Part(Range<u64>),
    /// 304: the client has it already, and said so.
    NotModified,
    /// 412: it wants another file.
    Failed,
    /// 416: the file ends before that.
    Unsatisfiable,
}

/// Whether a `Range` is looked at: with `GET` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    Honoured,
    Ignored,
}

impl Selection {
    /// Of a file of this size, whose entity tag is strong and never changes. There is no date of modification, so a condition
    /// on one is no condition (13.1.3, 13.1.4), and a range under one is not given (13.1.5).
    pub(super) fn of(headers: &HeaderMap, ranges: Ranges, tag: &str, size: u64) -> Self {
        // In the order of 13.2.2.
        if let Some(listed) = listed(headers, &header::IF_MATCH, tag, Comparison::Strong)
            && !listed
        {
            return Self::Failed;
        }
        if listed(headers, &header::IF_NONE_MATCH, tag, Comparison::Weak) == Some(true) {
            return Self::NotModified;
        }
        let same = headers.get(header::IF_RANGE).is_none_or(|value| value.as_bytes() == tag.as_bytes());
        if ranges == Ranges::Ignored || !same {
            return Self::Whole;
        }
        let mut values = headers.get_all(header::RANGE).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(|value| part(value, size)).unwrap_or(Self::Whole),
            _ => Self::Whole,
        }
    }
}

/// How two entity tags are compared (8.8.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of entity tags has this one, where there is a list.
fn listed(headers: &HeaderMap, name: &HeaderName, tag: &str, comparison: Comparison) -> Option<bool> {
    let is_it = |one: &str| match comparison {
        Comparison::Strong => one == tag,
        Comparison::Weak => one.strip_prefix("W/").unwrap_or(one) == tag,
    };
    // Our tags have no comma in them: a foreign one that has falls into pieces of which none is ours.
    let has = |value: &HeaderValue| {
        value.to_str().is_ok_and(|list| list.split(',').map(str::trim).any(|one| one == "*" || is_it(one)))
    };
    let mut values = headers.get_all(name).iter().peekable();
    values.peek()?;
    Some(values.any(has))
}

/// The one range of a `Range`. `None`: it is not one range of bytes.
fn part(value: &str, size: u64) -> Option<Selection> {
    let (unit, range) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let range = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(0)) => return Some(Selection::Unsatisfiable),
        // The whole of nothing has no range.
        (None, Some(_)) if size == 0 => return None,
        (None, Some(suffix)) => size.saturating_sub(suffix)..size,
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), _) if first >= size => return Some(Selection::Unsatisfiable),
        (Some(first), None) => first..size,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size),
    };
    Some(Selection::Part(range))
}

/// Digits or nothing; `None`: something else. What is beyond all sizes is as large as can be.
fn number(digits: &str) -> Option<Option<u64>> {
    match digits {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"a1\"";

    fn select(fields: &[(HeaderName, &str)], size: u64) -> Selection {
        let headers =
            fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        Selection::of(&headers, Ranges::Honoured, TAG, size)
    }

    fn range(value: &str, size: u64) -> Selection {
        select(&[(header::RANGE, value)], size)
    }

    #[test]
    fn a_range_is_cut_to_the_file() {
        for (value, part) in [
            ("bytes=0-", 0..100),
            ("bytes=0-0", 0..1),
            ("bytes=99-", 99..100),
            ("bytes=10-19", 10..20),
            ("bytes=10-1000", 10..100),
            ("bytes=10-99999999999999999999999", 10..100),
            ("bytes=-1", 99..100),
            ("bytes=-100", 0..100),
            ("bytes=-99999999999999999999999", 0..100),
            ("Bytes=5-5", 5..6),
            ("bytes= 5-5 ", 5..6),
        ] {
            assert_eq!(range(value, 100), Selection::Part(part), "{value}");
        }
    }

    #[test]
    fn a_range_beyond_the_file_is_refused() {
        for value in ["bytes=100-", "bytes=100-200", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(range(value, 100), Selection::Unsatisfiable, "{value}");
        }
        assert_eq!(range("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(range("bytes=-0", 0), Selection::Unsatisfiable);
        assert_eq!(range("bytes=-5", 0), Selection::Whole);
    }

    #[test]
    fn what_is_no_single_range_of_bytes_is_answered_with_the_whole_file() {
        for value in [
            "bytes=0-1,3-4",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=1",
            "bytes",
            "lines=1-2",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "",
        ] {
            assert_eq!(range(value, 100), Selection::Whole, "{value}");
        }
        let twice = [(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=3-4")];
        assert_eq!(select(&twice, 100), Selection::Whole);
        let ignored = Selection::of(
            &HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-1"))]),
            Ranges::Ignored,
            TAG,
            100,
        );
        assert_eq!(ignored, Selection::Whole);
    }

    #[test]
    fn a_range_of_another_file_is_not_given() {
        let part = (header::RANGE, "bytes=1-1");
        assert_eq!(select(&[part.clone(), (header::IF_RANGE, TAG)], 100), Selection::Part(1..2));
        for other in ["\"a2\"", "W/\"a1\"", "a1", "Sat, 21 Nov 2026 00:00:00 GMT"] {
            assert_eq!(select(&[part.clone(), (header::IF_RANGE, other)], 100), Selection::Whole, "{other}");
        }
        let beyond = [(header::RANGE, "bytes=100-"), (header::IF_RANGE, "\"a2\"")];
        assert_eq!(select(&beyond, 100), Selection::Whole);
    }

    #[test]
    fn conditions_are_judged_before_ranges() {
        let part = (header::RANGE, "bytes=100-");
        for (name, value, expected) in [
            (header::IF_MATCH, "\"a2\", \"a1\"", Selection::Unsatisfiable),
            (header::IF_MATCH, "*", Selection::Unsatisfiable),
            (header::IF_MATCH, "\"a2\"", Selection::Failed),
            (header::IF_MATCH, "W/\"a1\"", Selection::Failed),
            (header::IF_NONE_MATCH, "\"a2\"", Selection::Unsatisfiable),
            (header::IF_NONE_MATCH, "\"a2\",W/\"a1\"", Selection::NotModified),
            (header::IF_NONE_MATCH, "*", Selection::NotModified),
            (header::IF_MODIFIED_SINCE, "Sat, 21 Nov 2026 00:00:00 GMT", Selection::Unsatisfiable),
            (header::IF_UNMODIFIED_SINCE, "Sat, 21 Nov 2026 00:00:00 GMT", Selection::Unsatisfiable),
        ] {
            assert_eq!(select(&[part.clone(), (name.clone(), value)], 100), expected, "{name}: {value}");
        }
    }
}
