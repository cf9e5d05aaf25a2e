//! Events of the bridge: what a person should know of one device and no status field says.

use std::sync::Arc;

use fettle_crds::Device;
use fettle_runtime::{EventReason, Events, Severity};
use kube::Resource;
use tokio::sync::Semaphore;

/// Events that are being published at once. More are dropped: a storm of them says nothing new.
const CONCURRENT: usize = 8;

/// Why there is an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A second connection claimed the MAC of a device that is connected, and was closed.
    MacContention,
}

impl EventReason for Notice {
    fn reason(self) -> &'static str {
        match self {
            Self::MacContention => "MacContention",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::MacContention => "CloseConnection",
        }
    }

    fn severity(self) -> Severity {
        match self {
            Self::MacContention => Severity::Warning,
        }
    }
}

/// Publishes them. Clones share the bound.
#[derive(Clone)]
pub struct Notices {
    events: Events,
    places: Arc<Semaphore>,
}

impl Notices {
    /// Publishes through `events`.
    pub fn new(events: Events) -> Self {
        Self { events, places: Arc::new(Semaphore::new(CONCURRENT)) }
    }

    /// Publishes an event on `device`, if there is room.
    pub async fn publish(&self, device: &Device, notice: Notice, note: &str) {
        if let Ok(_place) = self.places.try_acquire() {
            self.events.publish(&device.object_ref(&()), None, notice, note).await;
        }
    }
}
