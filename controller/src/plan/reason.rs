//! Why a device is not current: a closed list, one reason for each device.

use fettle_crds::Verdict;

/// Why a device does not run, or is not known to run, what its group wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    // It moves.
    /// It has a target whose outcome is not known.
    Updating,
    /// It reports what it should run, but not yet for `minReady`.
    Settling,
    // It waits for us.
    /// `maxUnavailable` others are away through us.
    WaitingForSlot,
    /// Its last try failed; the next one waits for a slot.
    Retrying,
    /// Its last try failed; there is a pause before the next.
    BackingOff,
    /// As many with its value of a label are away through us as may.
    WaitingForSpread,
    /// Others with its value of a label are away, and none of them through a try that runs.
    BlockedBySpread,
    /// The step takes on no more, or others.
    WaitingForStep,
    /// The rollout rests after a step.
    Soaking,
    /// The rollout is on the way back, and begins with it in the next pass.
    RollbackStarting,
    /// `maxUnavailable` others are away, and none of them through a try that runs: `held` takes them out.
    BlockedByUnavailable,
    /// Its rollout is just being made.
    RolloutStarting,
    /// A pass grants a bounded number: it is among the first of the next.
    NextPass,
    // It waits for something else.
    /// The images of the release are not verified yet.
    FirmwareNotReady,
    /// The group cannot be acted on; its condition says why.
    GroupInvalid,
    /// No window is open, or not for long enough.
    WaitingForWindow,
    /// It fetches what it is to run, ahead of the window.
    Downloading,
    /// It has fetched what it is to run, and waits for the window with it.
    Downloaded,
    /// Its configuration is put into force at a time of day, of which it is told shortly before.
    WaitingForTime,
    /// A freeze holds.
    Frozen,
    /// More devices failed than may: nothing is granted.
    Stopped,
    /// Its bridge has just started; the device has a while to call again.
    BridgeStarting,
    /// It was connected a moment ago.
    Reconnecting,
    /// It was sent away when it was done, and has not called since.
    Dismissed,
    /// It is away.
    Offline,
    /// It has never called.
    NeverConnected,
    // A person must do something, or wanted it so.
    /// A person has to let the rollout go past a step.
    WaitingForApproval,
    /// The step has devices, but none of them can be granted, and none is current.
    StepEmpty,
    /// The rollout, or the group, is paused.
    Paused,
    /// A person has ended the rollout.
    Aborted,
    /// It runs what it ran before; the revision is refused.
    RolledBack,
    /// The revision was rolled back; it had not been granted it.
    Refused,
    /// What it ran before is not to be had: it stays where it is.
    NoWayBack,
    /// It runs something newer than its group wants.
    NewerThanDesired,
    /// What it runs and what its group wants have no order.
    VersionsNotComparable,
    /// No chain of releases leads from what it runs to what its group wants.
    NoUpgradePath,
    Held,
    NotApproved,
    DuplicateMac,
    /// More than one group selects it: none acts.
    Overlap,
    /// It reports another model than its spec says.
    WrongModel,
    /// The release has no image for its model.
    NoImageForModel,
    /// The configuration is not for its model.
    ConfigNotForModel,
    /// The template of its configuration cannot be rendered for it: a label is missing, say.
    TemplateError,
    /// Its configuration is put into force at a time, and nobody knows the zone of its clock.
    UnknownTimeZone,
    /// It is to fetch over HTTP, and does not announce that it can.
    HttpNotAnnounced,
    /// It failed.
    Failed(Failure),
}

/// How a device failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// It is out of tries, and the last one ended so; or one try was enough (`UnexpectedVersion`).
    Try(Verdict),
    /// It ran what it should, and does no longer.
    FellBack,
    /// Before the soak of its step was over, it was away for long, or lost its connection again and again.
    Unstable,
}

impl Failure {
    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Try(verdict) => verdict.as_str(),
            Self::FellBack => "FellBack",
            Self::Unstable => "Unstable",
        }
    }
}

impl Reason {
    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Updating => "Updating",
            Self::Settling => "Settling",
            Self::WaitingForSlot => "WaitingForSlot",
            Self::Retrying => "Retrying",
            Self::BackingOff => "BackingOff",
            Self::WaitingForSpread => "WaitingForSpread",
            Self::BlockedBySpread => "BlockedBySpread",
            Self::WaitingForStep => "WaitingForStep",
            Self::Soaking => "Soaking",
            Self::RollbackStarting => "RollbackStarting",
            Self::WaitingForWindow => "WaitingForWindow",
            Self::Downloading => "Downloading",
            Self::Downloaded => "Downloaded",
            Self::WaitingForTime => "WaitingForTime",
            Self::UnknownTimeZone => "UnknownTimeZone",
            Self::HttpNotAnnounced => "HttpNotAnnounced",
            Self::Frozen => "Frozen",
            Self::WaitingForApproval => "WaitingForApproval",
            Self::StepEmpty => "StepEmpty",
            Self::Paused => "Paused",
            Self::Aborted => "Aborted",
            Self::RolledBack => "RolledBack",
            Self::Refused => "Refused",
            Self::NoWayBack => "NoWayBack",
            Self::NewerThanDesired => "NewerThanDesired",
            Self::VersionsNotComparable => "VersionsNotComparable",
            Self::NoUpgradePath => "NoUpgradePath",
            Self::BlockedByUnavailable => "BlockedByUnavailable",
            Self::RolloutStarting => "RolloutStarting",
            Self::NextPass => "NextPass",
            Self::FirmwareNotReady => "FirmwareNotReady",
            Self::GroupInvalid => "GroupInvalid",
            Self::Stopped => "Stopped",
            Self::BridgeStarting => "BridgeStarting",
            Self::Reconnecting => "Reconnecting",
            Self::Dismissed => "Dismissed",
            Self::Offline => "Offline",
            Self::NeverConnected => "NeverConnected",
            Self::Held => "Held",
            Self::NotApproved => "NotApproved",
            Self::DuplicateMac => "DuplicateMac",
            Self::Overlap => "Overlap",
            Self::WrongModel => "WrongModel",
            Self::NoImageForModel => "NoImageForModel",
            Self::ConfigNotForModel => "ConfigNotForModel",
            Self::TemplateError => "TemplateError",
            Self::Failed(failure) => failure.as_str(),
        }
    }

    /// In words, after a number of devices.
    pub fn words(self) -> String {
        match self {
            Self::Updating => "updating",
            Self::Settling => "settling",
            Self::WaitingForSlot | Self::NextPass => "waiting for their turn",
            Self::Retrying => "waiting for their next try",
            Self::BackingOff => "in the pause before their next try",
            Self::WaitingForSpread => "waiting for others at the same place",
            Self::BlockedBySpread => "blocked by others at the same place that are away",
            Self::WaitingForStep => "waiting for their step",
            Self::Soaking => "waiting for the soak to end",
            Self::RollbackStarting => "about to go back",
            Self::WaitingForWindow => "waiting for a window",
            Self::Downloading => "downloading ahead of a window",
            Self::Downloaded => "downloaded and waiting for a window",
            Self::WaitingForTime => "waiting for their time of day",
            Self::UnknownTimeZone => "in a time zone that is not known",
            Self::HttpNotAnnounced => "told to use HTTP, which they do not announce",
            Self::Frozen => "frozen",
            Self::WaitingForApproval => "waiting for approval",
            Self::StepEmpty => "waiting for a step that nobody can begin",
            Self::Paused => "paused",
            Self::Aborted => "left by the aborted rollout",
            Self::RolledBack => "rolled back",
            Self::Refused => "not taken to the refused revision",
            Self::NoWayBack => "with no way back",
            Self::NewerThanDesired => "newer than desired",
            Self::VersionsNotComparable => "on a version that cannot be ordered",
            Self::NoUpgradePath => "without an upgrade path",
            Self::BlockedByUnavailable => "blocked by devices that are away",
            Self::RolloutStarting => "about to start",
            Self::FirmwareNotReady => "waiting for the firmware to be verified",
            Self::GroupInvalid => "not acted on",
            Self::Stopped => "stopped",
            Self::BridgeStarting => "waiting for their bridge to start",
            Self::Reconnecting => "reconnecting",
            Self::Dismissed => "away until they call again",
            Self::Offline => "offline",
            Self::NeverConnected => "never connected",
            Self::Held => "held",
            Self::NotApproved => "not approved",
            Self::DuplicateMac => "with a MAC that another Device has too",
            Self::Overlap => "selected by another group too",
            Self::WrongModel => "of another model than declared",
            Self::NoImageForModel => "of a model that the firmware has no image for",
            Self::ConfigNotForModel => "of a model that the configuration is not for",
            Self::TemplateError => "with a template error",
            Self::Failed(failure) => return format!("failed ({})", failure.as_str()),
        }
        .to_owned()
    }

    /// Which of the counts a device with this reason is in.
    pub const fn class(self) -> Class {
        match self {
            Self::Updating => Class::Updating,
            Self::Offline | Self::NeverConnected => Class::Offline,
            Self::Failed(_) => Class::Failed,
            Self::Settling
            | Self::WaitingForSlot
            | Self::Retrying
            | Self::BackingOff
            | Self::WaitingForSpread
            | Self::BlockedBySpread
            | Self::WaitingForStep
            | Self::Soaking
            | Self::RollbackStarting
            | Self::WaitingForWindow
            | Self::Downloading
            | Self::Downloaded
            | Self::WaitingForTime
            | Self::UnknownTimeZone
            | Self::HttpNotAnnounced
            | Self::Frozen
            | Self::WaitingForApproval
            | Self::StepEmpty
            | Self::Paused
            | Self::Aborted
            | Self::RolledBack
            | Self::Refused
            | Self::NoWayBack
            | Self::NewerThanDesired
            | Self::VersionsNotComparable
            | Self::NoUpgradePath
            | Self::BlockedByUnavailable
            | Self::RolloutStarting
            | Self::NextPass
            | Self::FirmwareNotReady
            | Self::GroupInvalid
            | Self::Stopped
            | Self::BridgeStarting
            | Self::Reconnecting
            | Self::Dismissed
            | Self::Held
            | Self::NotApproved
            | Self::DuplicateMac
            | Self::Overlap
            | Self::WrongModel
            | Self::NoImageForModel
            | Self::ConfigNotForModel
            | Self::TemplateError => Class::Waiting,
        }
    }

    /// Whether a rollout that has brought somebody there is complete although a device has this reason: nothing that
    /// Fettle could do by itself would change it.
    pub const fn is_left_behind(self) -> bool {
        match self {
            Self::Offline
            | Self::NeverConnected
            | Self::Held
            | Self::NotApproved
            | Self::DuplicateMac
            | Self::Overlap
            | Self::WrongModel
            | Self::NoImageForModel
            | Self::ConfigNotForModel
            | Self::TemplateError
            | Self::UnknownTimeZone
            | Self::HttpNotAnnounced
            | Self::NewerThanDesired
            | Self::VersionsNotComparable
            | Self::NoUpgradePath
            | Self::RolledBack
            | Self::Refused
            | Self::NoWayBack
            | Self::Failed(_) => true,
            Self::Updating
            | Self::Settling
            | Self::WaitingForSlot
            | Self::Retrying
            | Self::BackingOff
            | Self::WaitingForSpread
            | Self::BlockedBySpread
            | Self::WaitingForStep
            | Self::Soaking
            | Self::RollbackStarting
            | Self::WaitingForWindow
            | Self::Downloading
            | Self::Downloaded
            | Self::WaitingForTime
            | Self::Frozen
            | Self::WaitingForApproval
            | Self::StepEmpty
            | Self::Paused
            | Self::Aborted
            | Self::BlockedByUnavailable
            | Self::RolloutStarting
            | Self::NextPass
            | Self::FirmwareNotReady
            | Self::GroupInvalid
            | Self::Stopped
            | Self::BridgeStarting
            | Self::Reconnecting
            | Self::Dismissed => false,
        }
    }
}

/// The counts of a rollout, one of which each device that is not current is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Updating,
    Waiting,
    Failed,
    Offline,
}

#[cfg(test)]
mod tests {
    /// What the page says is what is written into statuses: the exhaustive matches of this file are the lists.
    #[test]
    fn every_reason_is_explained_to_those_who_operate() {
        let page = include_str!("../../../docs/operations.md");
        let names = include_str!("reason.rs").lines().filter_map(|line| {
            let name = line.trim().strip_prefix("Self::")?.split_once(" => \"")?.1;
            name.strip_suffix("\",")
        });
        let names: Vec<&str> = names.filter(|name| name.starts_with(char::is_uppercase)).collect();
        assert!(names.len() > 40, "{names:?}");
        let verdicts = ["CrcMismatch", "DownloadFailed", "NotTransferred", "ApplyFailed", "CameBackUnchanged"];
        let verdicts = verdicts.into_iter().chain(["UnexpectedVersion", "TimedOut", "SourceUnavailable"]);
        for name in names.into_iter().chain(verdicts) {
            assert!(page.contains(&format!("| `{name}` |")), "docs/operations.md does not say what {name} means");
        }
    }
}
