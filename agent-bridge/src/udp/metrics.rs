//! What is counted of datagrams. Labels come from closed enums.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Why a device without a connection was not asked for its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// Another Device has the address by now.
    AddressTaken,
    /// What is on record is no address.
    NoAddress,
    /// The system will not send there.
    Unreachable,
}

impl NotSent {
    const ALL: [Self; 3] = [Self::AddressTaken, Self::NoAddress, Self::Unreachable];

    const fn label(self) -> &'static str {
        match self {
            Self::AddressTaken => "AddressTaken",
            Self::NoAddress => "NoAddress",
            Self::Unreachable => "Unreachable",
        }
    }
}

/// Why a datagram counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Dropped {
    /// It is from where nobody was asked, or too late.
    NotAsked,
    /// It is not a message 11.
    Malformed,
    /// More came than could be taken in.
    TooMany,
}

impl Dropped {
    const ALL: [Self; 3] = [Self::NotAsked, Self::Malformed, Self::TooMany];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::NotAsked => "NotAsked",
            Self::Malformed => "Malformed",
            Self::TooMany => "TooMany",
        }
    }
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) sent: IntCounter,
    not_sent: IntCounterVec,
    dropped: IntCounterVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sent = IntCounter::new(
            "fettle_bridge_udp_log_requests_total",
            "Datagrams that asked a device without a connection for its log.",
        )?;
        let not_sent = IntCounterVec::new(
            Opts::new(
                "fettle_bridge_udp_log_requests_not_sent_total",
                "Devices without a connection that could not be asked for their log.",
            ),
            &["reason"],
        )?;
        let dropped = IntCounterVec::new(
            Opts::new("fettle_bridge_udp_dropped_total", "Datagrams that came and counted for nothing."),
            &["reason"],
        )?;
        for why in NotSent::ALL {
            not_sent.with_label_values(&[why.label()]);
        }
        for why in Dropped::ALL {
            dropped.with_label_values(&[why.label()]);
        }
        registry.register(Box::new(sent.clone()))?;
        registry.register(Box::new(not_sent.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self { sent, not_sent, dropped })
    }

    pub(super) fn not_sent(&self, why: NotSent) {
        self.not_sent.with_label_values(&[why.label()]).inc();
    }

    pub(super) fn dropped(&self, why: Dropped) {
        self.dropped.with_label_values(&[why.label()]).inc();
    }
}
