//! What the file servers count. Labels come from closed enums.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::credentials::Operation;
use super::logs::LogError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Ftp,
    Tftp,
    /// With TLS or without.
    Http,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Ftp, Self::Tftp, Self::Http];

    const fn label(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::Tftp => "tftp",
            Self::Http => "http",
        }
    }
}

const fn operation_label(operation: Operation) -> &'static str {
    match operation {
        Operation::Download => "download",
        Operation::Upload => "upload",
    }
}

/// How a transfer ended, or why none began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The last byte was sent, or the upload is stored.
    Complete,
    /// The device ended it, by command, by error packet or by closing its connection; or this program stopped.
    Aborted,
    /// The device fell silent.
    TimedOut,
    /// No credential for it, or one that does not hold.
    Refused,
    /// The credential holds, but what it names is not here.
    NotFound,
    /// An upload for which there is no room.
    Full,
    /// An upload over its limit, or a file that is too large for the way in which it was asked for.
    TooLarge,
    /// Our fault.
    Failed,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Complete,
        Self::Aborted,
        Self::TimedOut,
        Self::Refused,
        Self::NotFound,
        Self::Full,
        Self::TooLarge,
        Self::Failed,
    ];

    pub(super) fn of_log_error(error: &LogError) -> Self {
        match error {
            LogError::NotExpected => Self::Refused,
            LogError::TooLarge { .. } => Self::TooLarge,
            LogError::Full { .. } | LogError::DiskFull | LogError::Busy => Self::Full,
            LogError::Io(_) => Self::Failed,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
            Self::NotFound => "not_found",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    transfers: IntCounterVec,
    bytes: IntCounterVec,
    active: IntGaugeVec,
    logins_refused: prometheus::IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let transfers = IntCounterVec::new(
            Opts::new(
                "fettle_bridge_transfers_total",
                "File transfers that ended, and requests for one that were refused.",
            ),
            &["protocol", "operation", "result"],
        )?;
        let bytes = IntCounterVec::new(
            Opts::new("fettle_bridge_transfer_bytes_total", "Bytes of files sent to devices and received from them."),
            &["protocol", "operation"],
        )?;
        let active = IntGaugeVec::new(
            Opts::new("fettle_bridge_transfers_active", "File transfers that are under way."),
            &["protocol", "operation"],
        )?;
        let logins_refused =
            prometheus::IntCounter::new("fettle_bridge_ftp_logins_refused_total", "FTP logins that were refused.")?;
        registry.register(Box::new(transfers.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(active.clone()))?;
        registry.register(Box::new(logins_refused.clone()))?;
        let metrics = Self { transfers, bytes, active, logins_refused };
        metrics.begin_series();
        Ok(metrics)
    }

    /// Every series is there from the start: the first increase of one that begins with it is none to Prometheus.
    fn begin_series(&self) {
        for protocol in Protocol::ALL.map(Protocol::label) {
            for operation in [Operation::Download, Operation::Upload].map(operation_label) {
                self.bytes.with_label_values(&[protocol, operation]);
                self.active.with_label_values(&[protocol, operation]);
                for outcome in Outcome::ALL {
                    self.transfers.with_label_values(&[protocol, operation, outcome.label()]);
                }
            }
        }
    }

    /// A request that began no transfer.
    pub(super) fn refused(&self, protocol: Protocol, operation: Operation, outcome: Outcome) {
        self.transfers.with_label_values(&[protocol.label(), operation_label(operation), outcome.label()]).inc();
    }

    pub(super) fn login_refused(&self) {
        self.logins_refused.inc();
    }

    /// A transfer that begins. It counts as active until it is dropped.
    pub(super) fn begin(&self, protocol: Protocol, operation: Operation) -> Active {
        let labels = [protocol.label(), operation_label(operation)];
        let gauge = self.active.with_label_values(&labels);
        gauge.inc();
        let bytes = self.bytes.with_label_values(&labels);
        Active { metrics: self.clone(), protocol, operation, gauge, bytes, outcome: Outcome::Aborted }
    }
}

/// A transfer that is under way. Dropped before [`end`](Self::end), it was aborted.
#[derive(Debug)]
pub(super) struct Active {
    metrics: Metrics,
    protocol: Protocol,
    operation: Operation,
    gauge: prometheus::IntGauge,
    bytes: prometheus::IntCounter,
    outcome: Outcome,
}

impl Active {
    pub(super) fn bytes(&self, count: u64) {
        self.bytes.inc_by(count);
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauge.dec();
        self.metrics.refused(self.protocol, self.operation, self.outcome);
    }
}
