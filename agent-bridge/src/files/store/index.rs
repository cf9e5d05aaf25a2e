//! What is in the cache, what it takes, and what goes first. No I/O.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use jiff::Timestamp;

use super::seal::{Seal, Sealed};
use super::{Content, Usage};
use crate::files::credentials::ContentId;

/// Contents at most, however small they are: an entry takes about 150 bytes of memory, a configuration for each of 16,000
/// devices has room.
const MAX_CONTENTS: usize = 16_384;

/// Who needs content. What is needed less goes first, and never makes room for itself by what is needed more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nobody, as far as is known.
    Nobody,
    /// A release holds it that no group names.
    Declared,
    /// A group names the release that holds it.
    Group,
    /// A device is about to fetch it.
    Device,
}

impl Need {
    /// Whether content that is needed like this may go for what is needed like `other`.
    fn yields_to(self, other: Self) -> bool {
        match other {
            Self::Nobody => false,
            // Each release is fetched once, to be verified, whatever the cache holds afterwards.
            Self::Declared => self <= Self::Declared,
            Self::Group => self < Self::Group,
            // What other devices fetch now is pinned.
            Self::Device => true,
        }
    }
}

/// Everything that could go is pinned, or needed more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// An earlier process left it.
    Unverified,
    /// As it was when its file had this seal.
    Verified { crc: u32, seal: Seal },
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) size: u64,
    pub(super) state: State,
    last_used: u64,
    pinned_until: Option<Timestamp>,
    /// One descriptor for all transfers of this content.
    opened: Weak<Sealed>,
}

#[derive(Debug, Clone)]
pub(super) struct Index {
    entries: BTreeMap<[u8; 32], Entry>,
    /// What is needed, whether it is here or not; all else is needed by nobody.
    needs: HashMap<[u8; 32], Need>,
    /// Bytes of the entries, and reserved.
    used: u64,
    limit: u64,
    /// Counts uses: the order in which contents were used last.
    clock: u64,
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self { entries: BTreeMap::new(), needs: HashMap::new(), used: 0, limit, clock: 0 }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn usage(&self) -> Usage {
        Usage { contents: self.entries.len(), bytes: self.used }
    }

    /// The entry, as used now.
    pub(super) fn touch(&mut self, sha256: &[u8; 32]) -> Option<&Entry> {
        self.clock += 1;
        let entry = self.entries.get_mut(sha256)?;
        entry.last_used = self.clock;
        Some(entry)
    }

    /// The whole hash of what a credential names.
    pub(super) fn find(&self, id: &ContentId) -> Option<[u8; 32]> {
        let mut first = [0; 32];
        first[..id.as_bytes().len()].copy_from_slice(id.as_bytes());
        let (sha256, _) = self.entries.range(first..).next()?;
        (ContentId::of(sha256) == *id).then_some(*sha256)
    }

    pub(super) fn insert(&mut self, sha256: [u8; 32], size: u64, state: State) {
        self.clock += 1;
        let last_used = self.clock;
        match self.entries.get_mut(&sha256) {
            Some(entry) => {
                self.used = self.used - entry.size + size;
                (entry.size, entry.state, entry.last_used) = (size, state, last_used);
            }
            None => {
                self.used += size;
                let entry = Entry { size, state, last_used, pinned_until: None, opened: Weak::new() };
                self.entries.insert(sha256, entry);
            }
        }
    }

    /// What was found again is what its name says. `false`: it is gone meanwhile.
    pub(super) fn set_verified(&mut self, content: &Content, seal: Seal) -> bool {
        let there = self.entries.contains_key(&content.sha256);
        if there {
            self.insert(content.sha256, content.size, State::Verified { crc: content.crc, seal });
        }
        there
    }

    /// Removes content that is still in the state in which it was found wanting.
    pub(super) fn remove_in(&mut self, state: State, sha256: &[u8; 32]) -> bool {
        let same = self.entries.get(sha256).is_some_and(|entry| entry.state == state);
        if same {
            self.remove(sha256);
        }
        same
    }

    pub(super) fn remove(&mut self, sha256: &[u8; 32]) {
        if let Some(entry) = self.entries.remove(sha256) {
            self.used -= entry.size;
        }
    }

    pub(super) fn pin(&mut self, sha256: &[u8; 32], until: Timestamp) -> bool {
        let Some(entry) = self.entries.get_mut(sha256) else { return false };
        entry.pinned_until = entry.pinned_until.max(Some(until));
        true
    }

    /// Says anew what is needed.
    pub(super) fn set_needs(&mut self, needs: HashMap<[u8; 32], Need>) {
        self.needs = needs;
    }

    /// Whether so many bytes more fit as it is.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.used.saturating_add(bytes) <= self.limit
    }

    /// Counts so many bytes more as used, for what is needed like this; returns what has to be deleted for that: what is
    /// needed least, and of that the least recently used first. Nothing is evicted where that would not be enough.
    pub(super) fn reserve(&mut self, bytes: u64, need: Need, now: Timestamp) -> Result<Vec<[u8; 32]>, Full> {
        let mut missing = (self.used.saturating_add(bytes)).saturating_sub(self.limit);
        let mut too_many = (self.entries.len() + 1).saturating_sub(MAX_CONTENTS);
        let mut evicted = Vec::new();
        if missing > 0 || too_many > 0 {
            let mut candidates: Vec<_> = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.pinned_until.is_none_or(|until| until < now))
                .map(|(sha256, entry)| (self.need(sha256), entry.last_used, *sha256, entry.size))
                .filter(|(needed, ..)| needed.yields_to(need))
                .collect();
            candidates.sort_unstable();
            for (_, _, sha256, size) in candidates {
                if missing == 0 && too_many == 0 {
                    break;
                }
                missing = missing.saturating_sub(size);
                too_many = too_many.saturating_sub(1);
                evicted.push(sha256);
            }
            if missing > 0 || too_many > 0 {
                return Err(Full);
            }
        }
        for sha256 in &evicted {
            self.remove(sha256);
        }
        self.used += bytes;
        Ok(evicted)
    }

    fn need(&self, sha256: &[u8; 32]) -> Need {
        self.needs.get(sha256).copied().unwrap_or(Need::Nobody)
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    pub(super) fn opened(&self, sha256: &[u8; 32]) -> Option<Arc<Sealed>> {
        self.entries.get(sha256)?.opened.upgrade()
    }

    pub(super) fn set_opened(&mut self, sha256: &[u8; 32], file: &Arc<Sealed>) {
        if let Some(entry) = self.entries.get_mut(sha256) {
            entry.opened = Arc::downgrade(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIED: State = State::Verified { crc: 0, seal: Seal::of_nothing() };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn index(sizes: &[(u8, u64)], limit: u64) -> Index {
        let mut index = Index::new(limit);
        for (name, size) in sizes {
            index.insert([*name; 32], *size, VERIFIED);
        }
        index
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_is_needed() {
        let mut index = index(&[(1, 40), (2, 40), (3, 20)], 100);
        index.touch(&[1; 32]);
        assert_eq!(index.reserve(30, Need::Device, at(0)), Ok(vec![[2; 32]]));
        assert_eq!(index.usage(), Usage { contents: 2, bytes: 90 });
        assert_eq!(index.reserve(10, Need::Device, at(0)), Ok(vec![]));
    }

    #[test]
    fn what_is_pinned_stays_until_its_pin_ends_and_the_latest_pin_counts() {
        let mut index = index(&[(1, 60), (2, 40)], 100);
        assert!(index.pin(&[1; 32], at(20)));
        assert!(index.pin(&[1; 32], at(10)));
        assert!(!index.pin(&[9; 32], at(10)));
        assert_eq!(index.reserve(60, Need::Device, at(20)), Err(Full));
        assert_eq!(index.usage(), Usage { contents: 2, bytes: 100 }, "nothing is evicted in vain");
        assert_eq!(index.reserve(60, Need::Device, at(21)), Ok(vec![[1; 32]]));
    }

    #[test]
    fn what_nobody_needs_goes_first_and_nothing_goes_for_what_is_needed_less() {
        let mut index = index(&[(1, 40), (2, 30), (3, 30)], 100);
        index.set_needs([([1; 32], Need::Declared), ([2; 32], Need::Group)].into());
        assert_eq!(index.clone().reserve(40, Need::Group, at(0)), Ok(vec![[3; 32], [1; 32]]));
        assert_eq!(index.clone().reserve(30, Need::Declared, at(0)), Ok(vec![[3; 32]]));
        assert_eq!(index.clone().reserve(80, Need::Declared, at(0)), Err(Full), "a group needs the rest");
        assert_eq!(index.clone().reserve(80, Need::Group, at(0)), Err(Full), "no group is worth more than another");
        assert_eq!(index.clone().reserve(1, Need::Nobody, at(0)), Err(Full));
        assert_eq!(index.reserve(80, Need::Device, at(0)), Ok(vec![[3; 32], [1; 32], [2; 32]]));
    }

    #[test]
    fn more_than_the_whole_cache_never_fits() {
        assert_eq!(index(&[(1, 60)], 100).reserve(101, Need::Device, at(0)), Err(Full));
        assert_eq!(index(&[(1, 60)], 100).reserve(u64::MAX, Need::Device, at(0)), Err(Full));
    }

    #[test]
    fn the_number_of_contents_is_bounded_however_small_they_are() {
        let mut index = Index::new(u64::MAX);
        for number in 0..u32::try_from(MAX_CONTENTS).unwrap() {
            let mut sha256 = [0; 32];
            sha256[..4].copy_from_slice(&number.to_be_bytes());
            index.insert(sha256, 0, VERIFIED);
        }
        assert_eq!(index.reserve(1, Need::Device, at(0)).unwrap().len(), 1);
    }

    #[test]
    fn content_is_found_by_what_a_credential_says_of_it() {
        let index = index(&[(1, 1), (3, 1)], 100);
        assert_eq!(index.find(&ContentId::of(&[3; 32])), Some([3; 32]));
        assert_eq!(index.find(&ContentId::of(&[2; 32])), None);
        assert_eq!(index.find(&ContentId::of(&[4; 32])), None);
    }
}
