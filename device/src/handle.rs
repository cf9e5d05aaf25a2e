//! A hand on a running device: looking at it, waiting for it, and pulling its plugs.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fettle_protocol::Mac;
use tokio::sync::Notify;

use crate::faults::{Fault, FaultPlan};
use crate::hardware::AppliedConfig;
use crate::journal::Journal;
use crate::record::{Notebook, Record};

/// What a handle tells its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    PowerCut,
    PowerOn,
    Freeze,
    Thaw,
    /// Close the connection, and call again at once: there, if it says where.
    Reconnect(Option<SocketAddr>),
    /// Reset the connection, and call again.
    Reset,
    /// Call there from the next connection on.
    MoveTo(SocketAddr),
}

/// Orders to one device. Each is a moment's work for it, so there are never more waiting than somebody gave at once.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    orders: Mutex<VecDeque<Order>>,
    arrived: Notify,
}

impl Mailbox {
    fn orders(&self) -> MutexGuard<'_, VecDeque<Order>> {
        // A queue is whole after every call.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, order: Order) {
        self.orders().push_back(order);
        self.arrived.notify_one();
    }

    /// The next order. Cancel-safe; one reader.
    pub(crate) async fn take(&self) -> Order {
        loop {
            if let Some(order) = self.orders().pop_front() {
                return order;
            }
            self.arrived.notified().await;
        }
    }
}

/// One device of a fleet. Cheap to clone; the device lives on without it.
#[derive(Clone)]
pub struct DeviceHandle {
    pub(crate) notebook: Arc<Notebook>,
    pub(crate) faults: Arc<FaultPlan>,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeviceHandle").field(&self.mac()).finish()
    }
}

impl DeviceHandle {
    /// Who it is.
    pub fn mac(&self) -> Mac {
        self.notebook.mac()
    }

    /// Looks at what it is and what happened to it. The device waits meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        self.notebook.read(look)
    }

    /// The version it runs, or last ran.
    pub fn version(&self) -> String {
        self.read(|record| record.version().to_owned())
    }

    /// The profile that it last put into force, content and all.
    pub fn config(&self) -> Option<AppliedConfig> {
        self.read(|record| record.config().cloned())
    }

    /// A copy of what happened to it.
    pub fn journal(&self) -> Journal {
        self.read(|record| record.journal().clone())
    }

    /// Returns as soon as the record is so, be it already. Wrap it into a timeout, and show [`journal`](Self::journal)
    /// when that strikes.
    pub async fn wait_until(&self, is_so: impl Fn(&Record) -> bool) {
        self.notebook.wait_until(is_so).await;
    }

    /// Replaces the faults that it still has before it.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.faults.replace(faults);
    }

    /// The power is gone: the connection is reset (a simulator cannot make its kernel keep silent; for that, drop packets
    /// in a network namespace), what was being done is lost. It stays off.
    pub fn power_cut(&self) {
        self.mailbox.put(Order::PowerCut);
    }

    /// The power is back, or what had vanished is: it boots.
    pub fn power_on(&self) {
        self.mailbox.put(Order::PowerOn);
    }

    /// Stops responding: reads nothing, says nothing, does nothing; its connection stays (and its kernel answers probes).
    pub fn freeze(&self) {
        self.mailbox.put(Order::Freeze);
    }

    /// Goes on where it was frozen.
    pub fn thaw(&self) {
        self.mailbox.put(Order::Thaw);
    }

    /// Closes the connection, and calls again at once.
    pub fn reconnect(&self) {
        self.mailbox.put(Order::Reconnect(None));
    }

    /// Closes the connection, and calls there at once and from now on.
    pub fn reconnect_to(&self, bridge: SocketAddr) {
        self.mailbox.put(Order::Reconnect(Some(bridge)));
    }

    /// Resets the connection, and calls again after the usual wait.
    pub fn reset(&self) {
        self.mailbox.put(Order::Reset);
    }

    /// Calls there from the next connection on; the one that stands is kept.
    pub fn move_to(&self, bridge: SocketAddr) {
        self.mailbox.put(Order::MoveTo(bridge));
    }
}
