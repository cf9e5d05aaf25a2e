//! The word for how a group stands.

/// Of a rollout alone: another has taken its place.
pub const SUPERSEDED: &str = "Superseded";

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The words in backticks of what the API says of a phase.
    fn described(kind: &str) -> BTreeSet<String> {
        let crd = fettle_crds::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let schema =
            crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()).unwrap();
        let status = &schema.properties.as_ref().unwrap()["status"];
        let phase = &status.properties.as_ref().unwrap()["phase"];
        phase.description.as_deref().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_api_names_every_phase() {
        let mut phases: BTreeSet<String> = Phase::ALL.iter().map(|phase| phase.as_str().to_owned()).collect();
        assert_eq!(described("DeviceGroup"), phases);
        phases.insert(SUPERSEDED.to_owned());
        assert_eq!(described("DeviceRollout"), phases);
    }
}
