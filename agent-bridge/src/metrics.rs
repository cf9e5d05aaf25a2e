//! What the bridge measures. All label values come from closed enums.

use fettle_protocol::session::Reason;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The metrics of sessions and of what they write. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics {
    /// Connections that are open.
    pub connections: IntGauge,
    /// Devices with a session here.
    pub sessions: IntGauge,
    /// Connections that were accepted.
    pub accepted: IntCounter,
    closed: IntCounterVec,
    messages: IntCounterVec,
    tries: IntCounterVec,
    writes: IntCounterVec,
    /// Results that nothing asked for.
    pub unasked: IntCounter,
    /// Messages of types that this version does not know.
    pub unknown_messages: IntCounter,
    /// Second connections with one MAC.
    pub contentions: IntCounter,
    /// Unknown devices that were recorded.
    pub enrolled: IntCounter,
    /// Calls of devices that may not be served.
    pub illegal: IntCounter,
    /// Objects of the API that could not be read.
    pub malformed: IntCounter,
}

/// Why a connection ended. Also the text in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The device closed it.
    ByDevice,
    /// The network or the device broke it.
    Broken,
    /// We said 2 or 6, and the device hung up.
    Finished,
    /// The bytes are not a message.
    Malformed,
    /// The first message was not message 1, or did not come in time.
    NoInformation,
    /// A message began and did not end in time.
    Stalled,
    /// Too many messages.
    Flood,
    /// It does not take what we send.
    NotReading,
    /// There are too many connections, in all or from this address.
    TooMany,
    /// The session closed it.
    Session(Reason),
    /// The bridge is shutting down.
    Shutdown,
}

impl Closed {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ByDevice => "ByDevice",
            Self::Broken => "Broken",
            Self::Finished => "Finished",
            Self::Malformed => "Malformed",
            Self::NoInformation => "NoInformation",
            Self::Stalled => "Stalled",
            Self::Flood => "Flood",
            Self::NotReading => "NotReading",
            Self::TooMany => "TooMany",
            Self::Session(reason) => reason_label(reason),
            Self::Shutdown => "Shutdown",
        }
    }
}

/// How a write came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    Done,
    Conflict,
    Unavailable,
}

impl WriteOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Conflict => "Conflict",
            Self::Unavailable => "Unavailable",
        }
    }
}

/// The label of a reason.
pub const fn reason_label(reason: Reason) -> &'static str {
    match reason {
        Reason::Upgraded => "Upgraded",
        Reason::ResultLost => "ResultLost",
        Reason::AlreadyCurrent => "AlreadyCurrent",
        Reason::CrcMismatch => "CrcMismatch",
        Reason::DownloadFailed => "DownloadFailed",
        Reason::NotTransferred => "NotTransferred",
        Reason::ApplyFailed => "ApplyFailed",
        Reason::CameBackUnchanged => "CameBackUnchanged",
        Reason::UnexpectedVersion => "UnexpectedVersion",
        Reason::TimedOut => "TimedOut",
        Reason::SourceUnavailable => "SourceUnavailable",
        Reason::DeadlineExceeded => "DeadlineExceeded",
        Reason::HolderAnswers => "HolderAnswers",
        Reason::HeldElsewhere => "HeldElsewhere",
        Reason::Replaced => "Replaced",
        Reason::Illegal => "Illegal",
    }
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Where the registry has one of them already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(format!("fettle_bridge_{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(format!("fettle_bridge_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(format!("fettle_bridge_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        Ok(Self {
            connections: gauge("connections", "device connections that are open")?,
            sessions: gauge("sessions", "devices with a session here")?,
            accepted: counter("connections_accepted_total", "device connections that were accepted")?,
            closed: counters("connections_closed_total", "device connections that ended, by reason", &["reason"])?,
            messages: counters("messages_total", "messages of the device protocol", &["direction", "type"])?,
            tries: counters("tries_total", "tries that ended, by reason", &["reason"])?,
            writes: counters("status_writes_total", "writes to Device statuses, by outcome", &["outcome"])?,
            unasked: counter("unasked_results_total", "results that nothing asked for")?,
            unknown_messages: counter("unknown_messages_total", "messages of unknown type, skipped")?,
            contentions: counter("contentions_total", "second connections with one MAC")?,
            enrolled: counter("enrolled_total", "unknown devices that were recorded")?,
            illegal: counter("illegal_calls_total", "calls of devices that may not be served")?,
            malformed: counter("malformed_objects_total", "objects of the API that could not be read")?,
        })
    }

    /// A connection ended.
    pub fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.as_str()]).inc();
    }

    /// A try ended.
    pub fn try_ended(&self, reason: Reason) {
        self.tries.with_label_values(&[reason_label(reason)]).inc();
    }

    /// A write was answered.
    pub fn written(&self, outcome: WriteOutcome) {
        self.writes.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A message came in. Types that we do not know are one.
    pub fn received(&self, kind: u8) {
        self.messages.with_label_values(&["in", kind_label(kind)]).inc();
    }

    /// A message went out.
    pub fn sent(&self, kind: u8) {
        self.messages.with_label_values(&["out", kind_label(kind)]).inc();
    }
}

const fn kind_label(kind: u8) -> &'static str {
    match kind {
        1 => "1",
        2 => "2",
        3 => "3",
        4 => "4",
        5 => "5",
        6 => "6",
        7 => "7",
        8 => "8",
        9 => "9",
        10 => "10",
        11 => "11",
        32 => "32",
        33 => "33",
        34 => "34",
        _ => "other",
    }
}
