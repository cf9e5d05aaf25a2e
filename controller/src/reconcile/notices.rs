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
            Self::Resumed => "Resumed",
        }
    }

    fn action(self) -> &'static str {
        "Rollout"
    }

    fn severity(self) -> Severity {
        match self {
            Self::RolloutStarted | Self::RolloutComplete | Self::Resumed => Severity::Normal,
            Self::RolloutStopped | Self::FirmwareFailed | Self::GroupInvalid | Self::OverlappingGroups => {
                Severity::Warning
            }
        }
    }
}
