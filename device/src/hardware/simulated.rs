//! A machine with two image slots, a profile store and a log, all in memory.
//!
//! Of an image it keeps no more than its first line: thousands of them fetch images at the same time. One that can apply
//! differences keeps the whole.

use std::collections::VecDeque;
use std::sync::Arc;

use fettle_protocol::Mac;
use sha2::{Digest as _, Sha256};

use super::{AppliedConfig, BootError, Hardware, HardwareError};
use crate::difference::MAX_IMAGE;
use crate::faults::{FaultKind, FaultPlan, Step};
use crate::image::{ImageHeader, MAX_HEADER_LEN};
use crate::journal::{Digest, FileKind};
use crate::spec::{DeviceSpec, Timings, Vocabulary};

/// The largest profile it takes: far more than a configuration has, and little enough that a fleet of thousands may hold
/// real ones.
const MAX_PROFILE: u64 = 1 << 20;
/// The largest image that is kept whole.
const MAX_KEPT: usize = MAX_IMAGE as usize;
/// Lines of its log: some ten upgrades' worth.
const LOG_LINES: usize = 64;

/// What is in an image slot, as far as booting goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    /// Its first line, and all bytes, where they are kept.
    Bootable(ImageHeader, Option<Arc<[u8]>>),
    /// Why not.
    Unbootable(String),
}

/// A file that is coming.
#[derive(Debug)]
enum Incoming {
    /// All of it where it is kept, else its beginning.
    Image {
        beginning: Vec<u8>,
    },
    Profile {
        content: Vec<u8>,
    },
}

/// The machine.
#[derive(Debug)]
pub struct SimulatedHardware {
    mac: Mac,
    model: String,
    timings: Timings,
    faults: Arc<FaultPlan>,
    /// What runs, if it ever boots again from the slot it runs from.
    running: String,
    /// How much of the protocol that knows, where an image has changed it.
    vocabulary: Option<Vocabulary>,
    /// Its bytes, of a machine that can apply differences to them.
    image: Option<Arc<[u8]>>,
    /// Whether it can.
    keeps: bool,
    /// The other slot: what the next boot takes, once it is written.
    other: Option<Slot>,
    incoming: Option<Incoming>,
    stored_image: Option<Slot>,
    stored_profile: Option<AppliedConfig>,
    /// The identity of what is in force.
    config: Option<String>,
    bricked: Option<String>,
    log: VecDeque<String>,
}

impl SimulatedHardware {
    /// A machine that runs what `spec` says, and suffers the faults of [`Step::Boot`] that concern what comes up.
    pub fn new(spec: &DeviceSpec, faults: Arc<FaultPlan>) -> Self {
        let mut machine = Self {
            mac: spec.mac,
            model: spec.model.clone(),
            timings: spec.timings,
            faults,
            running: spec.version.clone(),
            vocabulary: None,
            image: spec.image.clone(),
            keeps: spec.image.is_some(),
            other: None,
            incoming: None,
            stored_image: None,
            stored_profile: None,
            config: spec.config.clone(),
            bricked: None,
            log: VecDeque::new(),
        };
        machine.record("running", &spec.version);
        machine
    }

    fn record(&mut self, what: &str, detail: &str) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:.3} {what} {detail}", jiff::Timestamp::now()));
    }

    /// What an image with this beginning does when it is booted.
    fn judge(&self, beginning: Vec<u8>) -> Slot {
        match ImageHeader::parse(&beginning) {
            None => Slot::Unbootable("what is in the flash is no image".to_owned()),
            Some(header) if header.model == self.model => Slot::Bootable(header, self.keeps.then(|| beginning.into())),
            Some(ImageHeader { model, .. }) => {
                Slot::Unbootable(format!("the image is for {model}, the device is a {}", self.model))
            }
        }
    }
}

impl Hardware for SimulatedHardware {
    fn version(&self) -> String {
        self.running.clone()
    }

    fn config(&self) -> Option<String> {
        self.config.clone()
    }

    fn image(&self) -> Option<Arc<[u8]>> {
        self.image.clone()
    }

    fn vocabulary(&self) -> Option<Vocabulary> {
        self.vocabulary
    }

    fn open(&mut self, file: FileKind, size: Option<u64>) -> Result<(), HardwareError> {
        self.incoming = None;
        self.incoming = Some(match file {
            FileKind::Image => {
                self.stored_image = None;
                Incoming::Image { beginning: Vec::new() }
            }
            FileKind::Profile => {
                if size.is_some_and(|size| size > MAX_PROFILE) {
                    return Err(HardwareError::TooLarge(MAX_PROFILE));
                }
                self.stored_profile = None;
                Incoming::Profile { content: Vec::new() }
            }
        });
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), HardwareError> {
        match &mut self.incoming {
            None => return Err(HardwareError::Other("no file is open".to_owned())),
            Some(Incoming::Image { beginning }) => {
                let most = if self.keeps { MAX_KEPT } else { MAX_HEADER_LEN };
                if self.keeps && chunk.len() > most - beginning.len() {
                    return Err(HardwareError::TooLarge(MAX_KEPT as u64));
                }
                let room = most.saturating_sub(beginning.len()).min(chunk.len());
                beginning.extend_from_slice(&chunk[..room]);
            }
            Some(Incoming::Profile { content }) => {
                if (content.len() + chunk.len()) as u64 > MAX_PROFILE {
                    return Err(HardwareError::TooLarge(MAX_PROFILE));
                }
                content.extend_from_slice(chunk);
            }
        }
        Ok(())
    }

    fn store(&mut self, identity: Option<String>) -> Result<(), HardwareError> {
        match self.incoming.take() {
            None => return Err(HardwareError::Other("no file is open".to_owned())),
            Some(Incoming::Image { beginning }) => {
                self.record("stored", "an image");
                self.stored_image = Some(self.judge(beginning));
            }
            Some(Incoming::Profile { content }) => {
                self.record("stored", "a profile");
                let sha256 = Digest(Sha256::digest(&content).into());
                self.stored_profile = Some(AppliedConfig { identity, sha256, content: content.into() });
            }
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.incoming = None;
    }

    fn has_image(&self) -> bool {
        self.stored_image.is_some()
    }

    async fn flash(&mut self) -> Result<Option<String>, HardwareError> {
        // Half written until it is whole: what a loss of power leaves is the running slot.
        self.other = None;
        let Some(image) = self.stored_image.take() else { return Err(HardwareError::NothingStored) };
        tokio::time::sleep(self.timings.install).await;
        let version = match &image {
            Slot::Bootable(header, _) => Some(header.version.clone()),
            Slot::Unbootable(_) => None,
        };
        self.record("flashed", version.as_deref().unwrap_or("what is no image of ours"));
        self.other = Some(image);
        Ok(version)
    }

    async fn boot(&mut self) -> Result<String, BootError> {
        tokio::time::sleep(self.timings.restart).await;
        if let Some(reason) = &self.bricked {
            return Err(BootError(reason.clone()));
        }
        match (self.faults.strike_hardware(Step::Boot), self.other.take()) {
            // Whatever is in the other slot is not taken.
            (Some(FaultKind::ComeBackOld), _) => {}
            (Some(FaultKind::ComeBackWith(version)), _) => (self.running, self.image) = (version, None),
            (_, None) => {}
            (_, Some(Slot::Bootable(header, image))) => {
                (self.running, self.image) = (header.version, image);
                self.vocabulary = header.vocabulary.or(self.vocabulary);
            }
            (_, Some(Slot::Unbootable(reason))) => {
                self.bricked = Some(reason.clone());
                return Err(BootError(reason));
            }
        }
        let running = self.running.clone();
        self.record("booted", &running);
        Ok(running)
    }

    fn lose_power(&mut self) {
        self.incoming = None;
    }

    async fn apply(&mut self) -> Result<AppliedConfig, HardwareError> {
        let Some(profile) = self.stored_profile.clone() else { return Err(HardwareError::NothingStored) };
        tokio::time::sleep(self.timings.apply).await;
        self.config.clone_from(&profile.identity);
        self.record("configured", profile.identity.as_deref().unwrap_or(""));
        Ok(profile)
    }

    fn log(&self) -> Vec<u8> {
        let mut log = format!("log of {} {}\n", self.model, self.mac);
        for line in &self.log {
            log.push_str(line);
            log.push('\n');
        }
        log.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::faults::Fault;
    use crate::image;

    fn machine(faults: Vec<Fault>) -> SimulatedHardware {
        let spec = DeviceSpec::new(Mac::new([2, 0, 0, 0, 0, 1]), "S5700", "4.9.0");
        SimulatedHardware::new(&spec, Arc::new(FaultPlan::new(faults)))
    }

    fn put(machine: &mut SimulatedHardware, file: FileKind, content: &[u8], identity: Option<&str>) {
        machine.open(file, None).unwrap();
        for chunk in content.chunks(7) {
            machine.write(chunk).unwrap();
        }
        machine.store(identity.map(str::to_owned)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_boots_what_was_flashed_and_keeps_booting_it() {
        let mut machine = machine(vec![]);
        put(&mut machine, FileKind::Image, &image::build("S5700", "5.2.1", 3000), None);
        assert_eq!(machine.boot().await, Ok("4.9.0".to_owned()), "stored is not flashed");
        assert_eq!(machine.flash().await, Ok(Some("5.2.1".to_owned())));
        assert_eq!(machine.version(), "4.9.0", "flashed is not booted");
        assert_eq!(machine.boot().await, Ok("5.2.1".to_owned()));
        assert_eq!(machine.boot().await, Ok("5.2.1".to_owned()));
        assert_eq!(machine.flash().await, Err(HardwareError::NothingStored));
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_boots_may_know_another_vocabulary_and_where_it_does_not_say_so_the_former_stays() {
        let mut machine = machine(vec![]);
        let extended = Some(Vocabulary::Extended);
        for (says, knows) in [(None, None), (extended, extended), (None, extended)] {
            let header = ImageHeader { model: "S5700".to_owned(), version: "5.2.1".to_owned(), vocabulary: says };
            put(&mut machine, FileKind::Image, &image::build_of(&header, 600), None);
            machine.flash().await.unwrap();
            machine.boot().await.unwrap();
            assert_eq!(machine.vocabulary(), knows, "{says:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_of_another_model_and_what_is_no_image_brick_it_for_good() {
        for bad in [image::build("S9999", "5.2.1", 600), b"no image at all".to_vec()] {
            let mut machine = machine(vec![]);
            put(&mut machine, FileKind::Image, &bad, None);
            assert_eq!(machine.flash().await, Ok(None));
            assert!(machine.boot().await.is_err());
            assert!(machine.boot().await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn power_lost_while_the_flash_is_written_leaves_the_running_slot() {
        let mut machine = machine(vec![]);
        put(&mut machine, FileKind::Image, &image::build("S5700", "5.2.1", 600), None);
        tokio::time::timeout(Duration::from_millis(1), machine.flash()).await.unwrap_err();
        machine.lose_power();
        assert_eq!(machine.boot().await, Ok("4.9.0".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_come_back_with_the_old_or_a_third_version() {
        let mut machine = machine(vec![
            Fault::once(Step::Boot, FaultKind::ComeBackOld),
            Fault::once(Step::Boot, FaultKind::ComeBackWith("5.0.0".to_owned())),
        ]);
        for expected in ["4.9.0", "5.0.0", "5.2.1"] {
            put(&mut machine, FileKind::Image, &image::build("S5700", "5.2.1", 600), None);
            machine.flash().await.unwrap();
            assert_eq!(machine.boot().await, Ok(expected.to_owned()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_profile_counts_when_it_is_applied_and_may_be_applied_twice() {
        let mut machine = machine(vec![]);
        assert_eq!(machine.apply().await, Err(HardwareError::NothingStored));
        put(&mut machine, FileKind::Profile, b"hostname a\n", Some("17+77c0d1e2"));
        assert_eq!(machine.config(), None);
        let applied = machine.apply().await.unwrap();
        assert_eq!(&applied.content[..], b"hostname a\n");
        assert_eq!(machine.config().as_deref(), Some("17+77c0d1e2"));
        assert_eq!(machine.apply().await, Ok(applied));
    }

    #[test]
    fn a_profile_that_is_too_large_is_refused_as_soon_as_that_is_known() {
        let mut machine = machine(vec![]);
        let too_large = HardwareError::TooLarge(MAX_PROFILE);
        assert_eq!(machine.open(FileKind::Profile, Some(MAX_PROFILE + 1)), Err(too_large.clone()));
        machine.open(FileKind::Profile, None).unwrap();
        machine.write(&vec![0; MAX_PROFILE as usize]).unwrap();
        assert_eq!(machine.write(b"x"), Err(too_large));
    }

    #[tokio::test(start_paused = true)]
    async fn its_log_tells_what_it_did() {
        let mut machine = machine(vec![]);
        put(&mut machine, FileKind::Image, &image::build("S5700", "5.2.1", 600), None);
        machine.flash().await.unwrap();
        machine.boot().await.unwrap();
        let log = String::from_utf8(machine.log()).unwrap();
        for part in ["log of S5700 02:00:00:00:00:01", "running 4.9.0", "flashed 5.2.1", "booted 5.2.1"] {
            assert!(log.contains(part), "{part}: {log}");
        }
    }
}
