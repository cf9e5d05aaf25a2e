//! Whether a device is there: connected, dismissed, away for a while, offline.
//!
//! A session counts only while the Lease of its bridge holds and names the same incarnation. For `reconnectGrace` after a
//! bridge's start the sessions of its former incarnation are neither connected nor offline.

use jiff::{SignedDuration, Timestamp};

use super::model::{Bridge, Device, Session, Settings, Snapshot};

/// For how long a device that was sent away may stay away when no bridge is there that would say that it is gone: as long as
/// any device waits, an hour and the fifth by which calls are spread (protocol page, 77), and three minutes for its call.
const SENT_AWAY: SignedDuration = SignedDuration::from_mins(75);

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has a session with a bridge that lives. That lasts until the bridge's Lease ends, unless it is renewed.
    Connected { lease_ends: Timestamp },
    /// It was done and was sent away: available, and to call again in its own time. Its bridge says where that is over; or it
    /// lasts until then, if the bridge does not live on.
    Dismissed { until: Timestamp },
    /// Its bridge has started anew, and the device has until then to call again; or that bridge's Lease ends then, unless it is
    /// renewed.
    BridgeStarting { until: Timestamp },
    /// It is gone, but will count as such only then.
    Reconnecting { since: Timestamp },
    /// It is gone.
    Offline { since: Timestamp },
    /// It has never called.
    Never,
}

impl Presence {
    /// What is known of a device's presence.
    pub fn of(device: &Device, snapshot: &Snapshot, now: Timestamp) -> Self {
        let grace = snapshot.settings.reconnect_grace;
        let gone = |since: Timestamp| {
            if now < since + grace { Self::Reconnecting { since } } else { Self::Offline { since } }
        };
        let Some(session) = &device.facts.session else {
            return device.facts.last_seen.map_or(Self::Never, gone);
        };
        let holder = Holder::of(session, snapshot.bridges.get(&session.bridge), now);
        if session.dismissed {
            let lost = match holder {
                Holder::Lives { lease_ends } => return Self::Dismissed { until: lease_ends },
                Holder::Successor { started, .. } => started,
                Holder::Gone { since } => since,
                Holder::Unknown => device.facts.last_seen.map_or(session.since, |seen| seen.max(session.since)),
            };
            let until = lost + SENT_AWAY;
            return if now < until { Self::Dismissed { until } } else { gone(lost) };
        }
        match holder {
            Holder::Lives { lease_ends } => Self::Connected { lease_ends },
            Holder::Successor { started, lease_ends } if now < started + grace => {
                Self::BridgeStarting { until: lease_ends.min(started + grace) }
            }
            Holder::Successor { started, .. } => gone(started),
            Holder::Gone { since } => gone(since),
            Holder::Unknown => gone(device.facts.last_seen.unwrap_or(session.since)),
        }
    }

    /// Whether a bridge that lives holds its session.
    pub fn is_connected(self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// Whether it counts against the limits by its absence alone.
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Offline { .. } | Self::Never)
    }

    /// When the device, or its bridge, was lost, as far as is known.
    pub fn lost_at(self) -> Option<Timestamp> {
        match self {
            Self::Reconnecting { since } | Self::Offline { since } => Some(since),
            Self::Connected { .. } | Self::Dismissed { .. } | Self::BridgeStarting { .. } | Self::Never => None,
        }
    }

    /// When it will be something else by the passing of time alone.
    pub fn changes_at(self, settings: &Settings) -> Option<Timestamp> {
        match self {
            Self::Connected { lease_ends: at } | Self::Dismissed { until: at } | Self::BridgeStarting { until: at } => {
                Some(at)
            }
            Self::Reconnecting { since } => Some(since + settings.reconnect_grace),
            Self::Offline { .. } | Self::Never => None,
        }
    }
}

/// What became of the bridge that wrote a session.
enum Holder {
    Lives {
        lease_ends: Timestamp,
    },
    /// The same bridge runs, but anew.
    Successor {
        started: Timestamp,
        lease_ends: Timestamp,
    },
    /// Its Lease has ended or was released.
    Gone {
        since: Timestamp,
    },
    /// There is no such Lease.
    Unknown,
}

impl Holder {
    fn of(session: &Session, bridge: Option<&Bridge>, now: Timestamp) -> Self {
        let Some(bridge) = bridge else { return Self::Unknown };
        match &bridge.incarnation {
            None => Self::Gone { since: bridge.renewed },
            Some(_) if bridge.expires <= now => Self::Gone { since: bridge.expires },
            Some(incarnation) if *incarnation == session.incarnation => Self::Lives { lease_ends: bridge.expires },
            Some(_) => Self::Successor { started: bridge.started, lease_ends: bridge.expires },
        }
    }
}
