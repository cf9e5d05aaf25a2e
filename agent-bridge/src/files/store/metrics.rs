//! What the cache counts. Labels come from closed enums.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::source::Source;
use super::{Content, Inner, SourceError};

/// What fetches came to.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    fetches: IntCounterVec,
    pub(super) resumed: IntCounter,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let fetches = Opts::new(
            "fettle_bridge_fetches_total",
            "Fetches of images that ended, by kind of source: the reason of a condition, or Fetched.",
        );
        Ok(Self {
            fetches: IntCounterVec::new(fetches, &["source", "result"])?,
            resumed: IntCounter::new(
                "fettle_bridge_fetches_resumed_total",
                "Times that a source broke off in a fetch and was asked for the rest.",
            )?,
        })
    }

    pub(super) fn ended(&self, source: &Source, result: &Result<Content, SourceError>) {
        let kind = match source {
            Source::File { .. } => "file",
            Source::Http(_) => "http",
            Source::Oci(_) => "oci",
            Source::S3(_) => "s3",
        };
        let result = result.as_ref().map_or_else(SourceError::reason, |_| "Fetched");
        self.fetches.with_label_values(&[kind, result]).inc();
    }

    /// Shows these, and what the cache holds at each look.
    pub(super) fn register(&self, inner: &Arc<Inner>, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.fetches.clone()))?;
        registry.register(Box::new(self.resumed.clone()))?;
        registry.register(Box::new(Gauges {
            inner: Arc::clone(inner),
            bytes: IntGauge::new("fettle_bridge_cache_bytes", "Bytes in the cache of files, and being written to it.")?,
            limit: IntGauge::new("fettle_bridge_cache_limit_bytes", "The most bytes that it may hold (--cache-size).")?,
            contents: IntGauge::new("fettle_bridge_cache_contents", "Files in the cache.")?,
        }))
    }
}

struct Gauges {
    inner: Arc<Inner>,
    bytes: IntGauge,
    limit: IntGauge,
    contents: IntGauge,
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        [&self.bytes, &self.limit, &self.contents].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (usage, limit) = {
            let index = self.inner.index();
            (index.usage(), index.limit())
        };
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.bytes.set(number(usage.bytes));
        self.limit.set(number(limit));
        self.contents.set(number(usage.contents as u64));
        [&self.bytes, &self.limit, &self.contents].into_iter().flat_map(Collector::collect).collect()
    }
}
