//! Which bytes of a file were sent, where its client says for each part where it begins.

use std::ops::Range;

/// Parts kept at most: one that breaks off makes one, and so does each place at which a client begins. Whoever fetches in
/// more has to fetch some again.
const MAX_PARTS: usize = 64;

/// Parts in order, of which no two touch.
#[derive(Debug, Default)]
pub(super) struct Coverage(Vec<Range<u64>>);

impl Coverage {
    pub(super) fn add(&mut self, added: Range<u64>) {
        if added.is_empty() {
            return;
        }
        let begin = self.0.partition_point(|part| part.end < added.start);
        let end = self.0.partition_point(|part| part.start <= added.end);
        let touched = &self.0[begin..end];
        let start = touched.first().map_or(added.start, |part| part.start.min(added.start));
        let stop = touched.last().map_or(added.end, |part| part.end.max(added.end));
        self.0.splice(begin..end, std::iter::once(start..stop));
        if self.0.len() > MAX_PARTS {
            let shortest = self.0.iter().enumerate().min_by_key(|(_, part)| part.end - part.start);
            if let Some(at) = shortest.map(|(at, _)| at) {
                self.0.remove(at);
            }
        }
    }

    /// How many bytes there are from the start of the file on, without a gap.
    pub(super) fn without_gap(&self) -> u64 {
        self.0.first().filter(|part| part.start == 0).map_or(0, |part| part.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_that_touch_become_one() {
        let mut coverage = Coverage::default();
        for part in [4..6, 0..2, 8..9, 2..4, 5..8, 7..7] {
            coverage.add(part);
        }
        assert_eq!(coverage.0, [Range { start: 0, end: 9 }]);
        assert_eq!(coverage.without_gap(), 9);
    }

    #[test]
    fn no_more_parts_are_kept_than_the_limit() {
        let mut coverage = Coverage::default();
        coverage.add(0..100);
        for part in 1..1_000 {
            coverage.add(part * 1_000..part * 1_000 + 1);
        }
        assert_eq!(coverage.0.len(), MAX_PARTS);
        assert_eq!(coverage.without_gap(), 100, "the longest ones stay");
    }

    proptest! {
        #[test]
        fn it_covers_what_was_added_and_nothing_else(parts in proptest::collection::vec((0_u64..100, 0_u64..20), 0..40)) {
            let mut coverage = Coverage::default();
            let mut bytes = [false; 128];
            for (start, len) in parts {
                coverage.add(start..start + len);
                bytes[start as usize..(start + len) as usize].fill(true);
            }
            let covered: Vec<bool> = (0..128).map(|at| coverage.0.iter().any(|part| part.contains(&at))).collect();
            prop_assert_eq!(&covered[..], &bytes[..]);
            let without_gap = bytes.iter().position(|sent| !sent).unwrap() as u64;
            prop_assert_eq!(coverage.without_gap(), without_gap);
            prop_assert!(coverage.0.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
