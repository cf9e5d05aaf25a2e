//! A device that does what it is told, as far as connections let it, and tells the truth: what it runs is the ground truth
//! of the properties.

use fettle_protocol::datum::{Capabilities, DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, UpgradeAt};
use fettle_protocol::session::{ConnectionId, Session};
use fettle_protocol::{DeviceMessage, ServerMessage};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::world::{Link, World, info, telling};

/// How the next thing that it is told goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Luck {
    Good,
    /// It says that it failed, and is as before.
    Bad,
}

/// When it answers an 8 for a later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// At that time.
    Then,
    /// At once.
    AtOnce,
    /// At once, and then.
    Both,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) version: String,
    pub(crate) config: String,
    /// It can tell its configuration.
    tells: bool,
    /// It takes announcements.
    listens: bool,
    habit: Habit,
    pub(crate) link: Option<Link>,
    image: Option<String>,
    profile: Option<String>,
    /// What it puts into force, and when.
    scheduled: Option<(Timestamp, String)>,
    /// The result of a push that it could not say at the time: it says it after its next message 1.
    owed: Option<ExecutionResult>,
}

impl Device {
    pub(crate) fn new(tells: bool, listens: bool, habit: Habit) -> Self {
        let (version, config) = ("1.0".to_owned(), "A".to_owned());
        let (image, profile, scheduled, owed) = (None, None, None, None);
        Self { version, config, tells, listens, habit, link: None, image, profile, scheduled, owed }
    }

    /// Its clock has gone on.
    pub(crate) fn looks_at_clock(&mut self, world: &mut World) {
        let Some((_, config)) = self.scheduled.take_if(|(at, _)| *at <= world.now) else { return };
        self.config = config;
        let link = self.link.filter(|link| world.wires[link].open && !world.wires[link].finishing);
        if let Some(link) = link.filter(|_| self.tells) {
            world.says_one(link, self.info());
        }
        match (self.habit, link) {
            (Habit::AtOnce, _) => {}
            (Habit::Then | Habit::Both, Some(link)) if world.wires[&link].open => {
                world.says_nine(link, ExecutionResult::Success);
            }
            (Habit::Then | Habit::Both, _) => self.owed = Some(ExecutionResult::Success),
        }
    }

    /// What it accepts it says, or owes.
    fn schedules(&mut self, local: DateTime) -> Option<ExecutionResult> {
        let at = local.to_zoned(TimeZone::UTC).unwrap().timestamp();
        self.scheduled = Some((at, self.profile.take().expect("8 without a profile")));
        (self.habit != Habit::Then).then_some(ExecutionResult::Success)
    }

    pub(crate) fn info(&self) -> DeviceInformation {
        let info = if self.tells { telling(&self.version, &self.config) } else { info(&self.version) };
        let listens = if self.listens { Capabilities::ANNOUNCEMENT } else { Capabilities::default() };
        DeviceInformation { capabilities: info.capabilities.with(listens), ..info }
    }

    /// It does the next thing: calls, says what it owes, or obeys.
    pub(crate) fn acts(&mut self, world: &mut World, luck: Luck) {
        let Some(link) = self.link.filter(|link| world.wires[link].open) else {
            self.loses_connection(world, Arrived::Everything);
            self.link = Some(world.calls(self.info()));
            return;
        };
        if let Some(result) = self.owed.take() {
            return world.says_nine(link, result);
        }
        let inbox = &mut world.wires.get_mut(&link).unwrap().inbox;
        if inbox.is_empty() {
            return;
        }
        match (inbox.remove(0), luck) {
            (ServerMessage::DownloadVersion(_), Luck::Bad) => world.says_five(link, DownloadResult::CrcMismatch),
            (ServerMessage::DownloadVersion(download), Luck::Good) => {
                self.image = world.ordered(&download).firmware;
                world.says_five(link, DownloadResult::Verified);
            }
            (ServerMessage::DownloadProfile(_), Luck::Bad) => world.says_seven(link, DownloadResult::Failed(2)),
            (ServerMessage::DownloadProfile(download), Luck::Good) => {
                self.profile = world.ordered(&download).config;
                world.says_seven(link, DownloadResult::Verified);
            }
            (ServerMessage::Restart, luck) => {
                if luck == Luck::Bad {
                    // The image does not boot: it comes back with what it had.
                    self.image = None;
                }
                self.restarts();
                self.link = None;
                world.drops(link);
            }
            (ServerMessage::UpgradeProfile(_), Luck::Bad) => world.says_nine(link, ExecutionResult::Failure(1)),
            (ServerMessage::UpgradeProfile(UpgradeAt::Time(local)), Luck::Good) => {
                if let Some(accepted) = self.schedules(local) {
                    world.says_nine(link, accepted);
                }
            }
            (ServerMessage::UpgradeProfile(UpgradeAt::Immediately), Luck::Good) => {
                self.pushes();
                world.says_nine(link, ExecutionResult::Success);
                if self.tells && world.wires[&link].open {
                    world.says_one(link, self.info());
                }
            }
            (ServerMessage::UploadLog(_), _) => world.says_eleven(link, ExecutionResult::Success),
            (ServerMessage::Interrupt(_), _) => {
                self.link = None;
                world.drops(link);
            }
            // It changes nothing about what the device does.
            (ServerMessage::Announcement(_), _) => {}
            (ServerMessage::Unknown(kind), _) => panic!("the server says {kind}"),
        }
    }

    /// A result that nothing asked for. Never one that answers what is outstanding: that would be a lie.
    pub(crate) fn babbles(&mut self, world: &mut World, message: DeviceMessage) {
        if let Some(link) = self.link
            && let wire = &world.wires[&link]
            && wire.open
            && wire.outstanding.is_none_or(|(answer, _)| answer != message.kind())
        {
            if matches!(message, DeviceMessage::ProfileUpgraded(ExecutionResult::Failure(_), _)) {
                let holds = |session: &Session| session.connection().is_some_and(|(id, _)| id == ConnectionId(link));
                if !world.session.as_ref().is_some_and(holds) {
                    // Nobody listens to it before it holds the MAC.
                    return;
                }
                // Of what it is to do at a time this would be a lie too.
                self.scheduled = None;
            }
            world.says(link, message);
        }
    }

    /// Its connection is gone, here. What it had got by then it still does.
    pub(crate) fn loses_connection(&mut self, world: &mut World, arrived: Arrived) {
        let Some(link) = self.link.take() else { return };
        let inbox = std::mem::take(&mut world.wires.get_mut(&link).unwrap().inbox);
        if arrived == Arrived::Nothing {
            return;
        }
        for message in inbox {
            match message {
                ServerMessage::Restart => self.restarts(),
                ServerMessage::UpgradeProfile(UpgradeAt::Time(local)) => self.owed = self.schedules(local),
                ServerMessage::UpgradeProfile(UpgradeAt::Immediately) => {
                    self.pushes();
                    self.owed = Some(ExecutionResult::Success);
                }
                ServerMessage::Interrupt(_)
                | ServerMessage::DownloadVersion(_)
                | ServerMessage::DownloadProfile(_)
                | ServerMessage::UploadLog(_)
                | ServerMessage::Announcement(_)
                | ServerMessage::Unknown(_) => {}
            }
        }
    }

    fn restarts(&mut self) {
        if let Some(image) = self.image.take() {
            self.version = image;
        }
        (self.profile, self.owed) = (None, None);
    }

    /// A later 8 replaces an earlier one.
    fn pushes(&mut self) {
        self.scheduled = None;
        self.config = self.profile.take().expect("8 without a profile");
    }
}

/// What of what we said last had come to the device when its connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    Everything,
    Nothing,
}
