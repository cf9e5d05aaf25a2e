//! What the bridge measures. All label values come from closed enums, and every series is there from the start: an alert
//! on what has never happened yet has something to look at.

use std::time::Duration;

use fettle_protocol::Dialect;
use fettle_protocol::session::{Reason, Work};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// The metrics of sessions and of what they write. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics {
    /// Connections that are open.
    pub connections: IntGauge,
    /// The most that there may be.
    pub connections_limit: IntGauge,
    sessions: IntGaugeVec,
    /// Connections that were accepted.
    pub accepted: IntCounter,
    calls: IntCounterVec,
    closed: IntCounterVec,
    messages: IntCounterVec,
    tries: IntCounterVec,
    try_seconds: HistogramVec,
    stage_seconds: HistogramVec,
    reached: IntGaugeVec,
    writes: IntCounterVec,
    write_seconds: Histogram,
    /// Writes that are not answered yet, or wait for their turn.
    pub writes_pending: IntGauge,
    /// Whether this bridge holds its Lease: 1 or 0.
    pub lease_held: IntGauge,
    /// Results that nothing asked for.
    pub unasked: IntCounter,
    /// Messages of types that this version does not know.
    pub unknown_messages: IntCounter,
    /// Second connections with one MAC.
    pub contentions: IntCounter,
    /// Devices of the namespace that the watch has brought.
    pub devices_known: IntGauge,
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
    /// The device does not answer any more: a power cut, or the way to it is gone.
    Silent,
    /// We said 2 or 6, and the device hung up, or had the time to.
    Finished,
    /// The bytes are not a message, or not one that this device may send.
    Malformed,
    /// The first message was not message 1, or did not come in time.
    NoInformation,
    /// A message began and did not end in time.
    Stalled,
    /// Too many messages.
    Flood,
    /// It does not take what we send.
    NotReading,
    /// There are too many connections, in all or from this address, or too many long messages.
    TooMany,
    /// The API server could not say who the device is.
    ApiUnavailable,
    /// The session closed it.
    Session(Reason),
    /// The bridge is shutting down.
    Shutdown,
}

impl Closed {
    /// All but those of [`Closed::Session`].
    const OWN: [Self; 12] = [
        Self::ByDevice,
        Self::Broken,
        Self::Silent,
        Self::Finished,
        Self::Malformed,
        Self::NoInformation,
        Self::Stalled,
        Self::Flood,
        Self::NotReading,
        Self::TooMany,
        Self::ApiUnavailable,
        Self::Shutdown,
    ];

    /// Whether neither side meant it to end.
    pub const fn is_loss(self) -> bool {
        match self {
            Self::Broken | Self::Silent | Self::NotReading => true,
            Self::ByDevice
            | Self::Finished
            | Self::Malformed
            | Self::NoInformation
            | Self::Stalled
            | Self::Flood
            | Self::TooMany
            | Self::ApiUnavailable
            | Self::Session(_)
            | Self::Shutdown => false,
        }
    }

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ByDevice => "ByDevice",
            Self::Broken => "Broken",
            Self::Silent => "Silent",
            Self::Finished => "Finished",
            Self::Malformed => "Malformed",
            Self::NoInformation => "NoInformation",
            Self::Stalled => "Stalled",
            Self::Flood => "Flood",
            Self::NotReading => "NotReading",
            Self::TooMany => "TooMany",
            Self::ApiUnavailable => "ApiUnavailable",
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
    Refused,
}

impl WriteOutcome {
    const ALL: [Self; 4] = [Self::Done, Self::Conflict, Self::Unavailable, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Conflict => "Conflict",
            Self::Unavailable => "Unavailable",
            Self::Refused => "Refused",
        }
    }
}

/// What a device takes its time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From 3 to 5.
    Version,
    /// From 6 to the next message 1.
    Restart,
    /// From 4 to 7.
    Profile,
    /// From 8 to 9.
    Apply,
    /// From 10 to 11.
    Log,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Version, Self::Restart, Self::Profile, Self::Apply, Self::Log];

    const fn of(work: Work) -> Self {
        match work {
            Work::Version => Self::Version,
            Work::Profile => Self::Profile,
            Work::Apply => Self::Apply,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "Version",
            Self::Restart => "Restart",
            Self::Profile => "Profile",
            Self::Apply => "Apply",
            Self::Log => "Log",
        }
    }
}

/// From a simulated device in a test to a large image over a slow line: the default time-out of a try is 15 minutes.
const DEVICE_BUCKETS: [f64; 12] = [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 3600.0];
/// An API server answers in milliseconds; the deadline is 10 s.
const WRITE_BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

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

/// The reasons for which tries end.
const OF_TRIES: [Reason; 11] = [
    Reason::Upgraded,
    Reason::ResultLost,
    Reason::AlreadyCurrent,
    Reason::CrcMismatch,
    Reason::DownloadFailed,
    Reason::NotTransferred,
    Reason::ApplyFailed,
    Reason::CameBackUnchanged,
    Reason::UnexpectedVersion,
    Reason::TimedOut,
    Reason::SourceUnavailable,
];

/// The reasons for which sessions close connections.
const OF_CONNECTIONS: [Reason; 5] =
    [Reason::DeadlineExceeded, Reason::HolderAnswers, Reason::HeldElsewhere, Reason::Replaced, Reason::Illegal];

const fn result_label(reason: Reason) -> &'static str {
    if reason.is_success() { "Succeeded" } else { "Failed" }
}

/// Makes metrics of one prefix and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn options(name: &str, help: &str) -> Opts {
        Opts::new(format!("fettle_bridge_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounter::with_opts(Self::options(name, help))?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGauge::with_opts(Self::options(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Self::options(name, help), labels)?)
    }

    fn histogram(name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::from(Self::options(name, help)).buckets(buckets.to_vec())
    }
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// Where the registry has one of them already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let try_seconds = "time from the first command of a try to its end";
        let stage_seconds = "time that devices took for a command, or to come back from a restart";
        let write_seconds = "time until the API server answered a write to a Device status";
        let histogram = |name, help, label| {
            make.register(HistogramVec::new(Maker::histogram(name, help, &DEVICE_BUCKETS), &[label])?)
        };
        let metrics = Self {
            connections: make.gauge("connections", "device connections that are open")?,
            connections_limit: make.gauge("connections_limit", "the most device connections that may be open")?,
            sessions: make.register(IntGaugeVec::new(
                Maker::options("sessions", "devices with a session here, by what is going on"),
                &["state"],
            )?)?,
            accepted: make.counter("connections_accepted_total", "device connections that were accepted")?,
            calls: make.counters(
                "calls_total",
                "connections that said message 1, by the dialect that it was in",
                &["dialect"],
            )?,
            closed: make.counters(
                "connections_closed_total",
                "device connections that ended, by reason",
                &["reason"],
            )?,
            messages: make.counters("messages_total", "messages of the device protocol", &["direction", "type"])?,
            tries: make.counters("tries_total", "tries that ended, by reason", &["reason"])?,
            try_seconds: histogram("try_seconds", try_seconds, "result")?,
            stage_seconds: histogram("stage_seconds", stage_seconds, "stage")?,
            reached: make.register(IntGaugeVec::new(
                Maker::options("progress_devices", "devices at a command that say how far they are, by quarter"),
                &["stage", "percent"],
            )?)?,
            writes: make.counters("status_writes_total", "writes to Device statuses, by outcome", &["outcome"])?,
            write_seconds: make.register(Histogram::with_opts(Maker::histogram(
                "status_write_seconds",
                write_seconds,
                &WRITE_BUCKETS,
            ))?)?,
            writes_pending: make.gauge("status_writes_pending", "writes that wait for their turn or their answer")?,
            lease_held: make.gauge("lease_held", "whether this bridge holds its Lease: 1 or 0")?,
            unasked: make.counter("unasked_results_total", "results that nothing asked for")?,
            unknown_messages: make.counter("unknown_messages_total", "messages of unknown type, skipped")?,
            contentions: make.counter("contentions_total", "second connections with one MAC")?,
            devices_known: make.gauge("devices_known", "Devices of the namespace that this bridge knows of")?,
            enrolled: make.counter("enrolled_total", "unknown devices that were recorded")?,
            illegal: make.counter("illegal_calls_total", "calls of devices that may not be served")?,
            malformed: make.counter("malformed_objects_total", "objects of the API that could not be read")?,
        };
        metrics.begin_series();
        Ok(metrics)
    }

    fn begin_series(&self) {
        for dialect in Dialect::all() {
            self.calls.with_label_values(&[dialect.to_string().as_str()]);
        }
        let of_sessions = OF_CONNECTIONS.map(Closed::Session);
        for reason in Closed::OWN.into_iter().chain(of_sessions) {
            self.closed.with_label_values(&[reason.as_str()]);
        }
        for reason in OF_TRIES {
            self.tries.with_label_values(&[reason_label(reason)]);
            self.try_seconds.with_label_values(&[result_label(reason)]);
        }
        for stage in Stage::ALL {
            self.stage_seconds.with_label_values(&[stage.as_str()]);
        }
        for work in [Work::Version, Work::Profile, Work::Apply] {
            for percent in [None, Some(0), Some(25), Some(50), Some(75)] {
                self.reached.with_label_values(&[Stage::of(work).as_str(), quarter(percent)]);
            }
        }
        for outcome in WriteOutcome::ALL {
            self.writes.with_label_values(&[outcome.as_str()]);
        }
    }

    /// A device has said who it is.
    pub fn called(&self, dialect: Dialect) {
        self.calls.with_label_values(&[dialect.to_string().as_str()]).inc();
    }

    /// A connection ended.
    pub fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.as_str()]).inc();
    }

    /// A session went from one state to another, began (from `None`), or is over (to `None`).
    pub fn session(&self, from: Option<&'static str>, to: Option<&'static str>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.sessions.with_label_values(&[from]).dec();
        }
        if let Some(to) = to {
            self.sessions.with_label_values(&[to]).inc();
        }
    }

    /// A device at a command has said how far it is, no more says so (to `None`), or does so for the first time.
    pub fn reached(&self, from: Option<(Work, Option<u8>)>, to: Option<(Work, Option<u8>)>) {
        if from == to {
            return;
        }
        let gauge = |(work, percent)| self.reached.with_label_values(&[Stage::of(work).as_str(), quarter(percent)]);
        if let Some(from) = from {
            gauge(from).dec();
        }
        if let Some(to) = to {
            gauge(to).inc();
        }
    }

    /// A try ended; how long after its first command, where there was one.
    pub fn try_ended(&self, reason: Reason, after: Option<Duration>) {
        self.tries.with_label_values(&[reason_label(reason)]).inc();
        if let Some(after) = after {
            self.try_seconds.with_label_values(&[result_label(reason)]).observe(after.as_secs_f64());
        }
    }

    /// A device has done something.
    pub fn took(&self, stage: Stage, time: Duration) {
        self.stage_seconds.with_label_values(&[stage.as_str()]).observe(time.as_secs_f64());
    }

    /// A write came to an end.
    pub fn written(&self, outcome: WriteOutcome, after: Duration) {
        self.writes.with_label_values(&[outcome.as_str()]).inc();
        self.write_seconds.observe(after.as_secs_f64());
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

/// How far a device is, coarse enough for a label.
const fn quarter(percent: Option<u8>) -> &'static str {
    match percent {
        None => "unknown",
        Some(0..25) => "0",
        Some(25..50) => "25",
        Some(50..75) => "50",
        Some(75..) => "75",
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
        35 => "35",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_there_before_anything_has_happened_and_sessions_are_counted_where_they_are() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for series in [
            "fettle_bridge_calls_total{dialect=\"DataLenWithoutHeader+LittleEndian\"} 0",
            "fettle_bridge_connections_closed_total{reason=\"Silent\"} 0",
            "fettle_bridge_connections_closed_total{reason=\"HolderAnswers\"} 0",
            "fettle_bridge_tries_total{reason=\"UnexpectedVersion\"} 0",
            "fettle_bridge_status_writes_total{outcome=\"Refused\"} 0",
            "fettle_bridge_stage_seconds_count{stage=\"Restart\"} 0",
        ] {
            assert!(text().contains(series), "{series}\n{}", text());
        }
        let quarters =
            |quarter: &str| format!("fettle_bridge_progress_devices{{percent=\"{quarter}\",stage=\"Version\"}}");
        let (begun, done) = ((Work::Version, None), (Work::Version, Some(100)));
        metrics.reached(None, Some(begun));
        metrics.reached(Some(begun), Some(done));
        assert!(text().contains(&format!("{} 0", quarters("unknown"))), "{}", text());
        assert!(text().contains(&format!("{} 1", quarters("75"))), "{}", text());
        metrics.reached(Some(done), None);
        assert!(text().contains(&format!("{} 0", quarters("75"))), "{}", text());
        metrics.session(None, Some("Idle"));
        metrics.session(Some("Idle"), Some("Preparing"));
        assert!(text().contains("fettle_bridge_sessions{state=\"Idle\"} 0"));
        assert!(text().contains("fettle_bridge_sessions{state=\"Preparing\"} 1"));
    }
}
