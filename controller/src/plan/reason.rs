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
}

impl Failure {
    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Try(verdict) => verdict.as_str(),
            Self::FellBack => "FellBack",
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
            | Self::ConfigNotForModel => Class::Waiting,
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
            | Self::Failed(_) => true,
            Self::Updating
            | Self::Settling
            | Self::WaitingForSlot
            | Self::Retrying
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
