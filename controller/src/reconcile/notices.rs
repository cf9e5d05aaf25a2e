//! What people are told once, as events on the group.

use fettle_runtime::{EventReason, Severity};

use crate::plan::output::NoticeKind;

impl EventReason for NoticeKind {
    fn reason(self) -> &'static str {
        match self {
            Self::RolloutStarted => "RolloutStarted",
            Self::RolloutComplete => "RolloutComplete",
            Self::RolloutStopped => "RolloutStopped",
            Self::FirmwareFailed => "FirmwareFailed",
            Self::GroupInvalid => "GroupInvalid",
            Self::OverlappingGroups => "OverlappingGroups",
            Self::VersionsNotComparable => "VersionsNotComparable",
            Self::ApprovalWanted => "ApprovalWanted",
            Self::RolloutAborted => "RolloutAborted",
            Self::RolloutRollingBack => "RolloutRollingBack",
            Self::RolloutRolledBack => "RolloutRolledBack",
            Self::Resumed => "Resumed",
        }
    }

    fn action(self) -> &'static str {
        "Rollout"
    }

    fn severity(self) -> Severity {
        match self {
            Self::RolloutStarted | Self::RolloutComplete | Self::ApprovalWanted | Self::Resumed => Severity::Normal,
            Self::RolloutStopped
            | Self::RolloutAborted
            | Self::RolloutRollingBack
            | Self::RolloutRolledBack
            | Self::FirmwareFailed
            | Self::GroupInvalid
            | Self::OverlappingGroups
            | Self::VersionsNotComparable => Severity::Warning,
        }
    }
}
