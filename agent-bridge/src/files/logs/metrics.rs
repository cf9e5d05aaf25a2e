//! What the log store counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::shelf::Why;

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) bytes: IntGauge,
    pub(super) logs: IntGauge,
    /// 1 from an upload that found no room until one finds some.
    pub(super) full: IntGauge,
    removed: IntCounterVec,
    pub(super) put: IntCounter,
    pub(super) put_failed: IntCounter,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bytes = IntGauge::new("fettle_bridge_log_store_bytes", "Bytes that the logs of devices take.")?;
        let logs = IntGauge::new("fettle_bridge_log_store_logs", "Logs of devices that are kept.")?;
        let full = IntGauge::new(
            "fettle_bridge_log_store_full",
            "1 while logs of devices are refused because there is no room: the last one that came found none.",
        )?;
        let removed = IntCounterVec::new(
            Opts::new("fettle_bridge_logs_removed_total", "Logs of devices that were deleted, by what was exceeded."),
            &["reason"],
        )?;
        for why in Why::ALL {
            removed.with_label_values(&[why.label()]);
        }
        let put = IntCounter::new("fettle_bridge_logs_put_total", "Logs of devices that were put into the bucket.")?;
        let put_failed = IntCounter::new(
            "fettle_bridge_log_puts_failed_total",
            "Attempts to put a log into the bucket that failed; each is made again.",
        )?;
        registry.register(Box::new(put.clone()))?;
        registry.register(Box::new(put_failed.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(logs.clone()))?;
        registry.register(Box::new(full.clone()))?;
        registry.register(Box::new(removed.clone()))?;
        Ok(Self { bytes, logs, full, removed, put, put_failed })
    }

    pub(super) fn removed(&self, why: Why) {
        self.removed.with_label_values(&[why.label()]).inc();
    }
}
