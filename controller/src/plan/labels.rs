//! The labels of a device, as passes go over them.

use super::model::Text;

/// The labels of a device, in the order of their keys.
///
/// Each pass looks at those of all devices. So they are one allocation, and keys and values are shared among devices: what
/// selectors and limits ask for is then mostly at hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Text, Text)]>);

impl Labels {
    /// The value of a label. Devices have few, of keys that mostly differ in length: going over them is quickest.
    pub fn get(&self, key: &str) -> Option<&Text> {
        self.0.iter().find(|(known, _)| **known == *key).map(|(_, value)| value)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl fettle_crds::Labels for Labels {
    fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(|value| &**value)
    }
}

impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let mut labels: Box<[(Text, Text)]> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        labels.sort_unstable();
        Self(labels)
    }
}
