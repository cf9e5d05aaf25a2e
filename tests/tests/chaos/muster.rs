//! Who takes part: hundreds of devices of several models, one in ten with something wrong with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use fettle_device::faults::Fault;
use fettle_device::spec::{FilePorts, mac_plus};
use fettle_device::{DeviceSpec, Vocabulary};
use fettle_protocol::Mac;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom as _, IndexedRandom as _, SliceRandom as _};

/// What all devices run at first.
pub const OLD: &str = "4.9.0";

/// The models that releases have an image for.
pub const MODELS: [&str; 2] = ["S5700", "S5720"];

/// One that no release has an image for.
pub const FOREIGN_MODEL: &str = "S9999";

/// Of so many devices, in the order of their names, one has something wrong with it.
const ONE_IN: usize = 10;

/// Of so many, one is of the foreign model.
const FOREIGN_ONE_IN: usize = 100;

/// Of so many, one is a canary.
const CANARY_ONE_IN: usize = 50;

/// Faults that pass: whoever has one is current in the end, without anybody's help.
const PASSING: [&str; 13] = [
    "boot=comeBackOld",
    "boot=slow:3s",
    "connect=flood:20",
    "download3=corrupt",
    "download3=dropConnection:after",
    "download3=failDownload",
    "download3=resetConnection:before",
    "download3=throttle:40000",
    "information=garbage",
    "information=lyingLength",
    "restart6=refuse",
    "result5=dropConnection:before",
    "result5=loseResult",
];

/// Faults of devices that are gone until somebody switches them on again.
const RETURNING: [&str; 2] = ["boot=vanish", "restart6=vanish"];

/// Faults that last until the faults are over: these devices answer, and fail.
const FAILING: [&str; 5] = [
    "boot=comeBackOld*always",
    "boot=comeBackWith:4.9.9",
    "download3=corrupt*always",
    "download3=failDownload*always",
    "restart6=refuse*always",
];

/// The device never comes back from its first restart.
const DEADLY: [&str; 2] = ["boot=vanish*always", "restart6=vanish*always"];

/// What there is to say of a device beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Character {
    Honest,
    /// It has a fault that passes.
    Passing,
    /// It vanishes once, and is switched on again.
    Returning,
    /// It fails for as long as faults last.
    Failing,
    /// It never comes back from its first restart.
    Dead,
    /// It is of a model that no release is for.
    Foreign,
}

impl Character {
    /// Whether it becomes current without anybody's help.
    pub fn helps_itself(self) -> bool {
        match self {
            Self::Honest | Self::Passing => true,
            Self::Returning | Self::Failing | Self::Dead | Self::Foreign => false,
        }
    }

    /// Whether it is current when all faults are over.
    pub fn is_current_at_last(self) -> bool {
        match self {
            Self::Honest | Self::Passing | Self::Returning | Self::Failing => true,
            Self::Dead | Self::Foreign => false,
        }
    }
}

/// One device, as the judge has to know it.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: String,
    pub model: &'static str,
    pub is_canary: bool,
    pub character: Character,
    /// One of two must be there; `None`: it stands alone.
    pub pair: Option<usize>,
}

/// A bridge, as devices have to know it.
#[derive(Debug, Clone, Copy)]
pub struct BridgeAddress {
    pub device: SocketAddr,
    pub files: FilePorts,
}

/// All devices.
pub struct Muster {
    pub subjects: BTreeMap<Mac, Subject>,
    pub specs: Vec<DeviceSpec>,
}

impl Muster {
    /// So many devices, each of which calls one of the bridges.
    pub fn new(count: usize, bridges: &[BridgeAddress], rng: &mut StdRng) -> Result<Self> {
        let mut characters = vec![Character::Honest; count];
        for (block, characters) in characters.chunks_mut(ONE_IN).enumerate() {
            // In turn, so that no step has more that fail than its budget allows, whatever the seed.
            let character = match block % 5 {
                0 | 2 => Character::Passing,
                1 => Character::Failing,
                3 => Character::Dead,
                _ => Character::Returning,
            };
            *characters.choose_mut(rng).context("a block has devices")? = character;
        }
        let honest = |characters: &[Character]| -> Vec<usize> {
            (0..count).filter(|index| characters[*index] == Character::Honest).collect()
        };
        for index in honest(&characters).sample(rng, count / FOREIGN_ONE_IN) {
            characters[*index] = Character::Foreign;
        }
        // Their step has to end well, with one fault among them that does.
        let passing = (0..count).filter(|index| characters[*index] == Character::Passing).collect::<Vec<_>>();
        let mut canaries: Vec<usize> = passing.sample(rng, 1).copied().collect();
        canaries.extend(honest(&characters).sample(rng, count / CANARY_ONE_IN - 1));

        let mut passing = PASSING;
        passing.shuffle(rng);
        let mut passing = passing.into_iter().cycle();
        let mut paired = 0..;
        let mut muster = Self { subjects: BTreeMap::new(), specs: Vec::new() };
        for (index, character) in characters.into_iter().enumerate() {
            let fault = match character {
                Character::Honest | Character::Foreign => None,
                Character::Passing => passing.next(),
                Character::Returning => RETURNING.choose(rng).copied(),
                Character::Failing => FAILING.choose(rng).copied(),
                Character::Dead => DEADLY.choose(rng).copied(),
            };
            let model = match character {
                Character::Foreign => FOREIGN_MODEL,
                _ => MODELS.choose(rng).copied().context("there are models")?,
            };
            let mac = mac_plus(Mac::new([0x02, 0x00, 0x5e, 0x00, 0x00, 0x00]), index as u64);
            let spec = spec(mac, model, fault, bridges, rng)?;
            let is_canary = canaries.contains(&index);
            let name = format!("sw-{index:05}");
            // Neighbours in the order in which devices are taken. Whoever dies would keep its partner where it is for ever.
            let pair = if character == Character::Dead { None } else { paired.next().map(|place: usize| place / 2) };
            muster.subjects.insert(mac, Subject { name, model, is_canary, character, pair });
            muster.specs.push(spec);
        }
        Ok(muster)
    }
}

fn spec(mac: Mac, model: &str, fault: Option<&str>, bridges: &[BridgeAddress], rng: &mut StdRng) -> Result<DeviceSpec> {
    let mut spec = DeviceSpec::new(mac, model, OLD);
    spec.faults = fault.map(str::parse::<Fault>).transpose()?.into_iter().collect();
    let home = rng.random_range(0..bridges.len());
    spec.file_ports = bridges[home].files;
    spec.bridges = vec![bridges[home].device];
    if rng.random() {
        // It learns from each command where the files are, and can do with any bridge.
        spec.vocabulary = Vocabulary::Extended;
        spec.bridges = bridges.iter().cycle().skip(home).take(bridges.len()).map(|bridge| bridge.device).collect();
    }
    // Long enough for many to be down at once, on a slow machine too.
    spec.timings.install = Duration::from_millis(rng.random_range(300..900));
    spec.timings.restart = Duration::from_millis(rng.random_range(100..300));
    spec.timings.backoff.first = Duration::from_millis(200);
    spec.timings.backoff.max = Duration::from_secs(2);
    Ok(spec)
}
