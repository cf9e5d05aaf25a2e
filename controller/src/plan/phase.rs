//! The word for how a group stands.

/// How a group stands, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Empty,
    Complete,
    Progressing,
    Waiting,
    Paused,
    RollingBack,
    RolledBack,
    Stalled,
}

impl Phase {
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Complete,
        Self::Progressing,
        Self::Waiting,
        Self::Paused,
        Self::RollingBack,
        Self::RolledBack,
        Self::Stalled,
    ];

    /// As it stands in a status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Complete => "Complete",
            Self::Progressing => "Progressing",
            Self::Waiting => "Waiting",
            Self::Paused => "Paused",
            Self::RollingBack => "RollingBack",
            Self::RolledBack => "RolledBack",
            Self::Stalled => "Stalled",
        }
    }

    /// Whether nothing will move unless somebody changes something.
    pub const fn is_stalled(self) -> bool {
        matches!(self, Self::Stalled | Self::RolledBack)
    }
}
