//! Which domains a device is in, by its labels: numbers, that stay the same for as long as the limited labels do.
//!
//! To look up the value of each label of each device in each pass takes a fourth of it where values are many. So the numbers
//! outlive a pass, and with the labels of a device is remembered which are its own. That follows from the labels alone, and
//! whoever asks cannot tell the difference but by the time.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Map;
use super::labels::Labels;
use super::model::Text;

/// In place of a domain, where a device lacks the label.
const NONE: u32 = u32::MAX;

/// So many rows more than twice the devices there are may be of labels that no device has any more.
const SPARE: usize = 1024;

/// The domains of all values of some labels.
#[derive(Debug, Default)]
pub struct Places {
    /// Of all that there ever were, these; from 1.
    number: u32,
    /// The labels that make domains.
    keys: Vec<String>,
    /// For each of them, the domain of each value.
    by_value: Vec<Map<Text, u32>>,
    domains: usize,
    /// The domains of devices whose values are the same, one after the other: as many for each row as there are labels.
    rows: Vec<u32>,
    by_row: Map<Box<[u32]>, u32>,
}

/// The domains of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(u32);

/// The places of the last pass, until the next takes them. A copy of them would give the same numbers to others: it is empty.
#[derive(Debug, Default)]
pub struct LastPlaces(Mutex<Option<Places>>);

impl LastPlaces {
    /// Those of the last pass, where they are by these labels and not mostly of devices that are gone.
    pub(super) fn take(&self, keys: Vec<String>, devices: usize) -> Places {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let fits = |last: &Places| last.keys == keys && last.by_row.len() <= 2 * devices + SPARE;
        last.filter(fits).unwrap_or_else(|| Places::new(keys))
    }

    pub(super) fn keep(&self, places: &mut Places) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mem::take(places));
    }
}

impl Clone for LastPlaces {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Places {
    fn new(keys: Vec<String>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let by_value = keys.iter().map(|_| Map::default()).collect();
        Self { number: NUMBER.fetch_add(1, Ordering::Relaxed), keys, by_value, ..Self::default() }
    }

    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// How many domains there are, or were.
    pub fn domains(&self) -> usize {
        self.domains
    }

    /// The domain of a value of the label at that place of [`Self::keys`]; a new one, where there is none.
    pub fn of_value(&mut self, key: usize, value: &Text) -> usize {
        self.domain(key, value) as usize
    }

    fn domain(&mut self, key: usize, value: &Text) -> u32 {
        match self.by_value[key].get(value) {
            Some(domain) => *domain,
            None => {
                let domain = self.domains as u32;
                self.domains += 1;
                self.by_value[key].insert(value.clone(), domain);
                domain
            }
        }
    }

    /// The domains of a device with these labels.
    pub fn of(&mut self, labels: &Labels) -> Row {
        if let Some(row) = labels.domains.said_by(self.number) {
            return Row(row);
        }
        let mut row = vec![NONE; self.keys.len()].into_boxed_slice();
        for (key, domain) in row.iter_mut().enumerate() {
            if let Some(value) = labels.get(&self.keys[key]) {
                *domain = self.domain(key, value);
            }
        }
        let number = match self.by_row.get(&row) {
            Some(number) => *number,
            None => {
                let number = self.by_row.len() as u32;
                self.rows.extend(&row);
                self.by_row.insert(row, number);
                number
            }
        };
        labels.domains.remember(self.number, number);
        Row(number)
    }

    /// The domain that a row has for each of [`Self::keys`].
    pub fn row(&self, Row(number): Row) -> impl Iterator<Item = Option<usize>> {
        let row = &self.rows[number as usize * self.keys.len()..][..self.keys.len()];
        row.iter().map(|domain| (*domain != NONE).then_some(*domain as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&'static str, &'static str)]) -> Labels {
        labels.iter().copied().collect()
    }

    fn places(keys: &[&str]) -> Places {
        Places::new(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    fn domains(places: &mut Places, labels: &Labels) -> Vec<Option<usize>> {
        let row = places.of(labels);
        places.row(row).collect()
    }

    #[test]
    fn equal_values_are_one_domain_and_a_label_that_is_not_there_is_none() {
        let mut places = places(&["pair", "site"]);
        let (a, b) = (labels(&[("pair", "1"), ("site", "x")]), labels(&[("pair", "2"), ("site", "x"), ("role", "y")]));
        let (first, second) = (domains(&mut places, &a), domains(&mut places, &b));
        assert_eq!(first[1], second[1]);
        assert_ne!(first[0], second[0]);
        assert_eq!(domains(&mut places, &labels(&[("site", "x")])), [None, first[1]]);
        assert_eq!(domains(&mut places, &labels(&[("pair", "2"), ("site", "x")])), second);
        assert_eq!(places.of_value(0, &"2".into()), second[0].unwrap());
        assert_eq!(places.domains(), 3);
    }

    #[test]
    fn a_value_of_one_label_is_no_domain_of_another() {
        let mut places = places(&["pair", "site"]);
        let same = domains(&mut places, &labels(&[("pair", "1"), ("site", "1")]));
        assert_ne!(same[0], same[1]);
    }

    #[test]
    fn what_was_said_by_other_places_is_not_believed() {
        let device = labels(&[("pair", "1"), ("site", "x")]);
        let mut by_pair = places(&["pair"]);
        domains(&mut by_pair, &labels(&[("pair", "0")]));
        assert_eq!(domains(&mut by_pair, &device), [Some(1)]);
        let mut by_site = places(&["site"]);
        assert_eq!(domains(&mut by_site, &device), [Some(0)]);
        assert_eq!(domains(&mut by_pair, &device), [Some(1)]);
    }

    #[test]
    fn they_are_kept_for_the_same_labels_until_most_of_them_are_of_nobody() {
        let keys = || vec!["pair".to_owned()];
        let last = LastPlaces::default();
        let mut first = last.take(keys(), 1);
        for number in 0..SPARE + 3 {
            first.of(&[("pair", number.to_string())].into_iter().collect());
        }
        let number = first.number;
        last.keep(&mut first);
        assert_ne!(last.clone().take(keys(), 2).number, number, "a copy has none");
        let mut same = last.take(keys(), 2);
        assert_eq!(same.number, number);
        last.keep(&mut same);
        assert_ne!(last.take(keys(), 1).number, number, "too many rows for one device");
        last.keep(&mut same);
        assert_ne!(last.take(vec!["site".to_owned()], 2).number, number);
    }
}
