//! What the controller measures. Labels come from closed lists.

pub mod fleet;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use self::fleet::Fleet;

/// The metrics of the controller.
#[derive(Clone)]
pub struct Metrics {
    pub leader: IntGauge,
    pub passes: IntCounter,
    pub pass_seconds: Histogram,
    writes: IntCounterVec,
    pub grants: IntCounter,
    pub withdrawals: IntCounter,
    pub fleet: Fleet,
    watch_errors: IntCounterVec,
    malformed: IntCounterVec,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Device,
    Group,
    Rollout,
    Profile,
    Firmware,
    Content,
    Lease,
    ConfigMap,
    Secret,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Device,
        Self::Group,
        Self::Rollout,
        Self::Profile,
        Self::Firmware,
        Self::Content,
        Self::Lease,
        Self::ConfigMap,
        Self::Secret,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "Device",
            Self::Group => "DeviceGroup",
            Self::Rollout => "DeviceRollout",
            Self::Profile => "ConfigProfile",
            Self::Firmware => "Firmware",
            Self::Content => "Content",
            Self::Lease => "Lease",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// How a write came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Result {
    Ok,
    /// Somebody wrote since; the next pass plans on that.
    Conflict,
    /// The object is gone.
    Gone,
    /// The API server said no.
    Refused,
    /// The API server was not there, or had no time.
    Unavailable,
    /// There was no answer, or none that says whether it was done.
    Unanswered,
    /// The leadership ended before.
    NotLeading,
}

impl Result {
    const ALL: [Self; 7] =
        [Self::Ok, Self::Conflict, Self::Gone, Self::Refused, Self::Unavailable, Self::Unanswered, Self::NotLeading];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Unanswered => "unanswered",
            Self::NotLeading => "not_leading",
        }
    }
}

impl Metrics {
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let vec = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            leader: IntGauge::new("fettle_controller_leader", "1 where this controller leads, else 0")?,
            passes: IntCounter::new("fettle_controller_passes_total", "Planning passes")?,
            pass_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "fettle_controller_pass_seconds",
                    "How long planning took in a pass, without writes",
                )
                .buckets(prometheus::exponential_buckets(0.0001, 4.0, 8)?),
            )?,
            writes: vec(
                "fettle_controller_writes_total",
                "Writes to the API server, by kind and result",
                &["kind", "result"],
            )?,
            grants: IntCounter::new("fettle_controller_grants_total", "Tries granted to devices")?,
            withdrawals: IntCounter::new(
                "fettle_controller_withdrawals_total",
                "Targets taken back before they began",
            )?,
            fleet: Fleet::new(registry)?,
            watch_errors: vec("fettle_controller_watch_errors_total", "Watches that broke, by kind", &["kind"])?,
            malformed: vec("fettle_controller_malformed_total", "Objects that could not be read, by kind", &["kind"])?,
        };
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.passes.clone()))?;
        registry.register(Box::new(metrics.pass_seconds.clone()))?;
        registry.register(Box::new(metrics.writes.clone()))?;
        registry.register(Box::new(metrics.grants.clone()))?;
        registry.register(Box::new(metrics.withdrawals.clone()))?;
        registry.register(Box::new(metrics.watch_errors.clone()))?;
        registry.register(Box::new(metrics.malformed.clone()))?;
        metrics.begin_series();
        Ok(metrics)
    }

    /// Every series is there from the start: the first increase of one that begins with it is none to Prometheus.
    fn begin_series(&self) {
        for kind in Kind::ALL.map(Kind::as_str) {
            self.watch_errors.with_label_values(&[kind]);
            self.malformed.with_label_values(&[kind]);
            for result in Result::ALL {
                self.writes.with_label_values(&[kind, result.as_str()]);
            }
        }
    }

    pub fn wrote(&self, kind: Kind, result: Result) {
        self.writes.with_label_values(&[kind.as_str(), result.as_str()]).inc();
    }

    pub fn watch_broke(&self, kind: Kind) {
        self.watch_errors.with_label_values(&[kind.as_str()]).inc();
    }

    pub fn malformed(&self, kind: Kind) {
        self.malformed.with_label_values(&[kind.as_str()]).inc();
    }
}
