//! What a device is given in place of an image: the difference from the one that it runs, where that is ready and worth it.

use fettle_crds::{Device, Target};
use jiff::Timestamp;
use tokio::sync::watch;

use super::Contents;
use crate::cluster::declared::Declared;
use crate::files::differences::{Differences, Pair};
use crate::files::store::{Content, most};

impl Contents {
    /// Devices that can apply them are given differences, of the images that `declared` says they run.
    #[must_use]
    pub fn with_differences(mut self, differences: Differences, declared: watch::Receiver<Declared>) -> Self {
        self.differences = differences.are_made().then_some((differences, declared));
        self
    }

    /// A device is there, of which this is on record: what it may be given soon is made by then.
    pub fn look_ahead(&self, device: &Device) {
        if let Some((differences, declared)) = &self.differences
            && let Some(pair) = declared.borrow().difference_for(device)
        {
            differences.want(pair);
        }
    }

    /// What the device is given in place of the image, where that is ready and worth it.
    pub(super) async fn difference(
        &self,
        device: &Device,
        target: &Target,
        image: &Content,
        until: Timestamp,
    ) -> Option<Content> {
        let (differences, declared) = self.differences.as_ref()?;
        let base = declared.borrow().base_of(device).filter(|base| *base != image.sha256)?;
        let reported = device.status.as_ref().and_then(|status| status.reported.as_ref())?;
        let pair = Pair::new(base, image.sha256);
        let Some(made) = differences.ready(pair).await else {
            // For the next device that runs this.
            differences.want(pair);
            return None;
        };
        let chance = Chance {
            attempt: target.attempt,
            runs_base: reported.version == target.from,
            image: image.size,
            difference: made.size,
        };
        // Pinned at once: what is evicted from here on is no longer what was found.
        let given = (chance.is_taken() && self.store.pin(&made.sha256, until)).then_some(made)?;
        tracing::debug!(image = image.size, difference = given.size, "a difference is given in place of the image");
        differences.told(image.size, given.size);
        Some(given)
    }
}

/// What there is to know about a difference that is ready, for a device that can apply it and has another try.
#[derive(Debug, Clone, Copy)]
struct Chance {
    /// Which of the tries this is, from 1.
    attempt: u32,
    /// The device reports what the difference was made from, and what its target was planned on.
    runs_base: bool,
    /// Bytes.
    image: u64,
    difference: u64,
}

impl Chance {
    /// Whether it is used. A further try is never made worse by what the first may have failed by.
    const fn is_taken(self) -> bool {
        self.attempt == 1 && self.runs_base && self.difference <= most(self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_difference_is_for_the_first_try_of_a_device_that_runs_its_base_and_clearly_smaller_or_it_is_not_used(
            attempt in 1_u32..4,
            runs_base in proptest::prelude::any::<bool>(),
            image in 0_u64..1 << 40,
            difference in 0_u64..1 << 40,
        ) {
            let chance = Chance { attempt, runs_base, image, difference };
            let wanted = attempt == 1 && runs_base && difference as f64 <= image as f64 * 0.75;
            // An image that is no multiple of four has a few bytes less to spare.
            let on_the_edge = (difference as f64 - image as f64 * 0.75).abs() < 4.0;
            proptest::prop_assert!(chance.is_taken() == wanted || on_the_edge, "{chance:?}");
        }
    }
}
