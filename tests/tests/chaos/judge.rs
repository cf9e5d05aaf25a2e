//! The rules of a rollout, judged by nothing but what the devices themselves wrote down.
//!
//! The judge knows who the devices are and what was asked for. It asks neither the API nor any program of Fettle's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fettle_device::journal::{Digest, Entry, Event, FileKind};
use fettle_protocol::Mac;
use fettle_protocol::message::kind;

use crate::muster::{Character, OLD, Subject};

/// What was asked for.
pub struct Order {
    /// The release that is rolled out to all, the one that is stopped at its canaries, and the one that goes back. Each is
    /// newer than the one before.
    pub release: &'static str,
    pub halted: &'static str,
    pub aborted: &'static str,
    /// The images of these, by model.
    pub images: BTreeMap<&'static str, Vec<Digest>>,
    /// So many may be away at once.
    pub max_unavailable: usize,
    /// How many devices the rollout has taken on when its second step is done.
    pub second_step: usize,
    /// How many tries a device has, of each release.
    pub tries: usize,
    /// When the release that is halted was asked for, by the count of the journal; when the next was; and when that was told
    /// to go back.
    pub halted_from: u64,
    pub aborted_from: u64,
    pub back_from: u64,
}

/// A rule that was broken, and by what happened to which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub rule: Rule,
    pub mac: Mac,
    /// The other device that it is about, if there is one.
    pub other: Option<Mac>,
    pub seq: u64,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Never more devices away through us than may.
    MaxUnavailable,
    /// Never both of a pair.
    Spread,
    /// The canaries are done before anybody else is commanded, and a step before the next.
    Steps,
    /// Nothing for a device that no image is for, and no image of another model.
    Model,
    /// Only forwards, but to where it was where that was wanted.
    Downgrade,
    /// Nobody gets again what they run.
    DoubleFlash,
    /// No more than so many tries.
    Tries,
    /// The server keeps to the protocol.
    Protocol,
    /// No device is bricked by what it was sent.
    Bricked,
    /// Nobody begins after a halt.
    Halt,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, mac, other: _, seq, what } = self;
        write!(f, "{rule:?}: {mac}, at {seq}: {what}")
    }
}

/// What the journal says, in figures: how hard the devices had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    pub most_unavailable: usize,
    pub faults: usize,
    pub connections: usize,
    pub flashes: usize,
}

/// What the judge keeps of a device while it reads.
#[derive(Debug, Default)]
struct Course {
    running: String,
    /// Of the connection that stands, or the last one.
    connected: Option<u64>,
    /// Since its message 6.
    away: bool,
    /// What it has reported while it ran it.
    reported: BTreeSet<String>,
    /// By version, forwards and on the way back.
    flashed: BTreeMap<(String, bool), usize>,
}

struct Judge<'a> {
    order: &'a Order,
    subjects: &'a BTreeMap<Mac, Subject>,
    courses: BTreeMap<Mac, Course>,
    /// In the order of their first command of the release that is rolled out to all.
    commanded: Vec<Mac>,
    /// When devices went away through us and came back.
    edges: Vec<(u64, i64, Mac)>,
    breaches: Vec<Breach>,
    account: Account,
}

/// Reads the journal of all devices, in the order in which things happened, and names every rule that was broken.
pub fn judge(order: &Order, subjects: &BTreeMap<Mac, Subject>, entries: &[(Mac, Entry)]) -> (Vec<Breach>, Account) {
    let fresh = || Course { running: OLD.to_owned(), ..Course::default() };
    let mut judge = Judge {
        order,
        subjects,
        courses: subjects.keys().map(|mac| (*mac, fresh())).collect(),
        commanded: Vec::new(),
        edges: Vec::new(),
        breaches: Vec::new(),
        account: Account::default(),
    };
    for (mac, entry) in entries {
        judge.read(*mac, entry);
    }
    judge.count_who_is_away();
    (judge.breaches, judge.account)
}

impl Judge<'_> {
    fn read(&mut self, mac: Mac, entry: &Entry) {
        let (Some(subject), Some(course)) = (self.subjects.get(&mac), self.courses.get_mut(&mac)) else { return };
        let seq = entry.seq;
        let mut breach = |rule, what: String| self.breaches.push(Breach { rule, mac, other: None, seq, what });
        match &entry.event {
            Event::Connected { .. } => {
                self.account.connections += 1;
                course.connected = Some(seq);
            }
            Event::Sent { message: kind::DEVICE_INFORMATION, .. } => {
                course.reported.insert(course.running.clone());
                if course.away {
                    course.away = false;
                    // Whoever hears the message may act before it is written down here; nobody before the connection is.
                    self.edges.push((course.connected.unwrap_or(seq), -1, mac));
                }
            }
            Event::Received(command) => match command.message {
                kind::DOWNLOAD_VERSION | kind::DOWNLOAD_PROFILE => {
                    if subject.character == Character::Foreign {
                        breach(Rule::Model, format!("command {} for a {}", command.message, subject.model));
                    }
                    self.begins(mac, seq);
                }
                kind::RESTART if !course.away => {
                    course.away = true;
                    self.edges.push((seq, 1, mac));
                }
                _ => {}
            },
            Event::Downloaded { file: FileKind::Image, crc_ok: true, sha256, .. } => {
                let images = self.order.images.get(subject.model).map(Vec::as_slice).unwrap_or_default();
                if !images.contains(sha256) {
                    breach(Rule::Model, format!("a {} fetched an image that is not for it", subject.model));
                }
            }
            Event::FlashEnded { version } => {
                self.account.flashes += 1;
                let is_back = seq >= self.order.back_from;
                let version = version.clone().unwrap_or_default();
                if version == course.running {
                    breach(Rule::DoubleFlash, format!("{version} was written over itself"));
                } else if age(self.order, &version) < age(self.order, &course.running)
                    && !(is_back && course.running == self.order.aborted && version == self.order.release)
                {
                    breach(Rule::Downgrade, format!("{version} was written over {}", course.running));
                }
                let tries = course.flashed.entry((version.clone(), is_back)).or_default();
                *tries += 1;
                let may = match subject.character {
                    Character::Honest => 1,
                    // A person had it tried again.
                    Character::Failing => 2 * self.order.tries,
                    _ => self.order.tries,
                };
                if *tries > may {
                    breach(Rule::Tries, format!("{version} was written {tries} times"));
                }
            }
            Event::Booted { version } => course.running.clone_from(version),
            Event::Bricked { reason } => breach(Rule::Bricked, reason.clone()),
            Event::Violation(violation) => breach(Rule::Protocol, violation.to_string()),
            Event::Fault { .. } => self.account.faults += 1,
            Event::Sent { .. }
            | Event::PoweredOn
            | Event::PoweredOff
            | Event::ConnectFailed { .. }
            | Event::Disconnected { .. }
            | Event::Downloaded { .. }
            | Event::DownloadFailed { .. }
            | Event::GivenUp
            | Event::FlashBegan
            | Event::RestartBegan
            | Event::Vanished
            | Event::ConfigApplied { .. }
            | Event::ApplyFailed { .. }
            | Event::LogUploaded { .. }
            | Event::UploadFailed { .. }
            | Event::RequestRefused { .. } => {}
        }
    }

    /// A device has received the first command of a try.
    fn begins(&mut self, mac: Mac, seq: u64) {
        let Order { release, halted, second_step, halted_from, aborted_from, .. } = *self.order;
        let subject = &self.subjects[&mac];
        let breach = |rule, other, what| Breach { rule, mac, other, seq, what };
        if seq >= aborted_from {
            return;
        }
        if seq >= halted_from {
            if !subject.is_canary {
                let what = format!("it is no canary, and {halted} was halted at those");
                self.breaches.push(breach(Rule::Halt, None, what));
            }
            return;
        }
        let is_done = |mac: &&Mac| self.courses[mac].reported.contains(release);
        let canaries = self.subjects.iter().filter(|(_, subject)| subject.is_canary).map(|(mac, _)| mac);
        let canary = canaries.filter(|_| !subject.is_canary).find(|mac| !is_done(mac)).copied();
        if canary.is_some() {
            let what = "it is no canary, and one of those was not done".to_owned();
            self.breaches.push(breach(Rule::Steps, canary, what));
        }
        if self.commanded.contains(&mac) {
            return;
        }
        if let Some(before) = self.commanded.get(..second_step) {
            let helps_itself = |mac: &&Mac| self.subjects[mac].character.helps_itself();
            let other = before.iter().filter(helps_itself).find(|mac| !is_done(mac)).copied();
            if other.is_some() {
                let count = self.commanded.len() + 1;
                let what = format!("it is number {count} to be commanded, and one of the step before was not done");
                self.breaches.push(breach(Rule::Steps, other, what));
            }
        }
        self.commanded.push(mac);
    }

    fn count_who_is_away(&mut self) {
        self.edges.sort_unstable();
        let mut away = BTreeSet::new();
        let mut was_over = false;
        for (seq, change, mac) in std::mem::take(&mut self.edges) {
            if change < 0 {
                away.remove(&mac);
            } else {
                let pair = self.subjects[&mac].pair;
                let partner = away.iter().find(|other| pair.is_some() && self.subjects[*other].pair == pair).copied();
                if partner.is_some() {
                    let what = "both of a pair are away".to_owned();
                    self.breaches.push(Breach { rule: Rule::Spread, mac, other: partner, seq, what });
                }
                away.insert(mac);
            }
            let count = away.len();
            self.account.most_unavailable = self.account.most_unavailable.max(count);
            let is_over = count > self.order.max_unavailable;
            if is_over && !was_over {
                let what = format!("{count} are away, and {} may", self.order.max_unavailable);
                self.breaches.push(Breach { rule: Rule::MaxUnavailable, mac, other: None, seq, what });
            }
            was_over = is_over;
        }
    }
}

/// How new a version is. What no release is called is as old as can be: devices come back with it by a fault.
fn age(order: &Order, version: &str) -> usize {
    [OLD, order.release, order.halted, order.aborted]
        .iter()
        .position(|known| *known == version)
        .map_or(0, |place| place + 1)
}

#[cfg(test)]
mod tests {
    use fettle_device::conformance::Violation;
    use fettle_device::journal::Received;
    use jiff::Timestamp;

    use super::*;

    const MODEL: &str = "S5700";
    const NEW: &str = "5.2.1";
    const NEXT: &str = "5.3.0";
    const LAST: &str = "5.4.0";
    const HALTED_FROM: u64 = 1000;
    const ABORTED_FROM: u64 = 2000;
    const BACK_FROM: u64 = 3000;

    /// What happened, in the making.
    #[derive(Default)]
    struct History {
        subjects: BTreeMap<Mac, Subject>,
        entries: Vec<(Mac, Entry)>,
    }

    impl History {
        /// A canary (number 0), and so many others.
        fn of(others: u8, character: Character) -> Self {
            let subject = |number| Subject {
                name: format!("sw-{number}"),
                model: MODEL,
                is_canary: number == 0,
                character: if number == 0 { Character::Honest } else { character },
                pair: None,
            };
            let subjects = (0..=others).map(|number| (mac(number), subject(number))).collect();
            Self { subjects, entries: Vec::new() }
        }

        fn then(mut self, number: u8, events: impl IntoIterator<Item = Event>) -> Self {
            for event in events {
                let seq = self.entries.last().map_or(1, |(_, entry)| entry.seq + 1);
                self.entries.push((mac(number), Entry { seq, at: Timestamp::UNIX_EPOCH, event }));
            }
            self
        }

        /// So the first two others are a pair.
        fn paired(mut self) -> Self {
            for number in [1, 2] {
                self.subjects.get_mut(&mac(number)).unwrap().pair = Some(0);
            }
            self
        }

        /// What is next is at that place of the journal.
        fn at(mut self, seq: u64) -> Self {
            if let Some((_, last)) = self.entries.last_mut() {
                last.seq = seq - 1;
            }
            self
        }

        /// From here on the release that is halted is asked for.
        fn halted(self) -> Self {
            self.at(HALTED_FROM)
        }

        /// Two may be away at once, and the second step is done with three.
        fn broken(&self) -> Vec<(Rule, Mac)> {
            let order = Order {
                release: NEW,
                halted: NEXT,
                aborted: LAST,
                images: BTreeMap::from([(MODEL, vec![image(NEW), image(NEXT), image(LAST)])]),
                max_unavailable: 2,
                second_step: 3,
                tries: 2,
                halted_from: HALTED_FROM,
                aborted_from: ABORTED_FROM,
                back_from: BACK_FROM,
            };
            let (breaches, _) = judge(&order, &self.subjects, &self.entries);
            breaches.into_iter().map(|breach| (breach.rule, breach.mac)).collect()
        }
    }

    fn mac(number: u8) -> Mac {
        Mac::new([2, 0, 0, 0, 0, number])
    }

    fn image(version: &str) -> Digest {
        let mut digest = [0; 32];
        digest[..version.len()].copy_from_slice(version.as_bytes());
        Digest(digest)
    }

    fn told(message: u8) -> Event {
        Event::Received(Received { message, place: None, at: None, announced: None })
    }

    fn fetched(sha256: Digest) -> Event {
        Event::Downloaded { file: FileKind::Image, bytes: 1, crc_ok: true, sha256 }
    }

    /// Up to the restart.
    fn goes(version: &str) -> Vec<Event> {
        vec![told(3), fetched(image(version)), told(6), Event::FlashEnded { version: Some(version.to_owned()) }]
    }

    fn returns(version: &str) -> Vec<Event> {
        let (bridge, local) = (([127, 0, 0, 1], 7070).into(), ([127, 0, 0, 1], 50_000).into());
        vec![
            Event::Booted { version: version.to_owned() },
            Event::Connected { bridge, local },
            Event::Sent { message: 1, result: None },
        ]
    }

    fn upgrades(version: &str) -> Vec<Event> {
        [goes(version), returns(version)].concat()
    }

    #[test]
    fn an_orderly_rollout_breaks_no_rule() {
        let history = History::of(4, Character::Honest).then(0, upgrades(NEW));
        let history = history.then(1, goes(NEW)).then(2, goes(NEW)).then(1, returns(NEW)).then(2, returns(NEW));
        let history = history.then(3, upgrades(NEW)).then(4, upgrades(NEW)).halted().then(0, upgrades(NEXT));
        assert_eq!(history.broken(), []);
    }

    #[test]
    fn one_more_away_than_may_is_found_also_where_others_never_return() {
        let away = History::of(4, Character::Dead).then(0, upgrades(NEW)).then(1, goes(NEW)).then(2, goes(NEW));
        assert_eq!(away.broken(), []);
        assert_eq!(away.then(3, goes(NEW)).broken(), [(Rule::MaxUnavailable, mac(3))]);
    }

    #[test]
    fn a_pair_of_which_both_are_away_is_found() {
        let pair = || History::of(2, Character::Honest).paired().then(0, upgrades(NEW));
        assert_eq!(pair().then(1, upgrades(NEW)).then(2, upgrades(NEW)).broken(), []);
        let both = pair().then(1, goes(NEW)).then(2, goes(NEW));
        assert_eq!(both.broken(), [(Rule::Spread, mac(2))]);
    }

    #[test]
    fn whoever_goes_back_without_having_to_or_twice_is_found() {
        let forth =
            || History::of(1, Character::Honest).then(0, upgrades(NEW)).at(ABORTED_FROM).then(0, upgrades(LAST));
        assert_eq!(forth().at(BACK_FROM).then(0, upgrades(NEW)).broken(), []);
        assert_eq!(forth().then(0, upgrades(NEW)).broken()[0], (Rule::Downgrade, mac(0)));
        let twice = forth().at(BACK_FROM).then(0, [goes(NEW), returns(LAST)].concat()).then(0, goes(NEW));
        assert_eq!(twice.broken(), [(Rule::Tries, mac(0))]);
        assert_eq!(forth().at(BACK_FROM).then(0, upgrades(OLD)).broken()[0].0, Rule::Model);
    }

    #[test]
    fn who_is_commanded_before_the_canary_is_done_is_found() {
        let early = History::of(1, Character::Honest).then(0, goes(NEW)).then(1, [told(3)]);
        assert_eq!(early.broken(), [(Rule::Steps, mac(1))]);
        let unreported = History::of(1, Character::Honest).then(0, upgrades(NEW)[..5].to_vec()).then(1, [told(3)]);
        assert_eq!(unreported.broken(), [(Rule::Steps, mac(1))]);
    }

    #[test]
    fn who_is_commanded_before_the_step_before_is_done_is_found() {
        let history = |character| {
            let history = History::of(3, character).then(0, upgrades(NEW)).then(1, upgrades(NEW));
            history.then(2, goes(NEW)).then(3, [told(3)])
        };
        assert_eq!(history(Character::Passing).broken(), [(Rule::Steps, mac(3))]);
        assert_eq!(history(Character::Dead).broken(), [], "nobody waits for the dead");
    }

    #[test]
    fn an_image_of_another_model_and_a_command_without_an_image_are_found() {
        let other = History::of(0, Character::Honest).then(0, [told(3), fetched(Digest([7; 32]))]);
        assert_eq!(other.broken(), [(Rule::Model, mac(0))]);
        let foreign = History::of(1, Character::Foreign).then(0, upgrades(NEW)).then(1, [told(4)]);
        assert_eq!(foreign.broken(), [(Rule::Model, mac(1))]);
    }

    #[test]
    fn what_is_written_twice_or_backwards_or_too_often_is_found() {
        let canary = History::of(1, Character::Passing).then(0, upgrades(NEW));
        let again = canary.then(1, upgrades(NEW)).then(1, upgrades(NEW));
        assert_eq!(again.broken(), [(Rule::DoubleFlash, mac(1))]);
        let back = again.halted().then(0, upgrades(NEXT)).then(0, upgrades(NEW));
        assert_eq!(back.broken()[1..], [(Rule::Downgrade, mac(0)), (Rule::Tries, mac(0))]);
        let fails = [goes(NEW), returns(OLD)].concat();
        let often = History::of(1, Character::Passing).then(0, upgrades(NEW));
        let often = often.then(1, fails.clone()).then(1, fails.clone());
        assert_eq!(often.broken(), []);
        assert_eq!(often.then(1, fails).broken(), [(Rule::Tries, mac(1))]);
    }

    #[test]
    fn bricks_and_violations_of_the_protocol_are_found() {
        let violation = Event::Violation(Violation::RestartWithoutDownload);
        let brick = Event::Bricked { reason: "no image".to_owned() };
        let history = History::of(0, Character::Honest).then(0, [violation, brick]);
        assert_eq!(history.broken(), [(Rule::Protocol, mac(0)), (Rule::Bricked, mac(0))]);
    }

    #[test]
    fn whoever_begins_after_a_halt_is_found() {
        let history = History::of(1, Character::Honest).then(0, upgrades(NEW)).then(1, upgrades(NEW)).halted();
        assert_eq!(history.then(0, goes(NEXT)).then(1, [told(3)]).broken(), [(Rule::Halt, mac(1))]);
    }
}
