//! Thousands of devices in one process.
//!
//! Each is one task with a connection of its own and no thread; an idle one takes a few KiB. What is shared is a bound on
//! the transfers that run at once, one token that ends all, and one ledger that adds them up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fettle_protocol::Mac;
use fettle_protocol::frame::MAX_VALUE_LEN;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::conformance::Violation;
use crate::device::{Device, Surroundings};
use crate::faults::FaultPlan;
use crate::handle::DeviceHandle;
use crate::hardware::SimulatedHardware;
use crate::journal;
use crate::record::{Ledger, Observer, Record, Summary};
use crate::spec::DeviceSpec;

/// Transfers that run at once, unless told otherwise. Each takes two sockets and some 40 KiB; the others wait their turn,
/// as they would on a slower network.
pub const DEFAULT_TRANSFERS: usize = 512;

/// How often the journal's file is brought up to date.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// What to simulate.
pub struct FleetConfig {
    /// Where devices call that have no bridges of their own: the first that answers, and after a failure the next.
    pub bridges: Vec<SocketAddr>,
    pub devices: Vec<DeviceSpec>,
    /// How many transfers run at once.
    pub transfers: usize,
    /// Over how long the first connections are spread, evenly.
    pub ramp: Duration,
    /// Where every entry of every journal is written as a line of JSON.
    pub journal: Option<PathBuf>,
    /// Who sees every entry as it is made.
    pub observer: Option<Observer>,
}

impl FleetConfig {
    /// These devices, calling there, all at once.
    pub fn new(bridges: Vec<SocketAddr>, devices: Vec<DeviceSpec>) -> Self {
        Self { bridges, devices, transfers: DEFAULT_TRANSFERS, ramp: Duration::ZERO, journal: None, observer: None }
    }
}

/// Why a fleet does not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("cannot create the journal {path}")]
    Journal { path: PathBuf, source: std::io::Error },
    #[error("device {mac}: its {what} must have between 1 and {MAX_VALUE_LEN} bytes")]
    Text { mac: Mac, what: &'static str },
}

/// The simulator.
#[derive(Debug, Clone, Copy)]
pub struct Fleet;

impl Fleet {
    /// Switches all devices on. To be called on a tokio runtime, which they then live on.
    ///
    /// # Errors
    /// [`FleetError`]: nothing is running then.
    pub fn start(config: FleetConfig) -> Result<FleetHandle, FleetError> {
        let FleetConfig { bridges, devices, transfers, ramp, journal, observer } = config;
        devices.iter().try_for_each(check)?;
        let ledger = Ledger::new(journal.as_deref(), observer)
            .map_err(|source| FleetError::Journal { path: journal.clone().unwrap_or_default(), source })?;
        let ledger = Arc::new(ledger);
        let shutdown = CancellationToken::new();
        let fleet = FleetHandle {
            surroundings: Surroundings {
                bridges: bridges.into(),
                transfers: Arc::new(Semaphore::new(transfers.clamp(1, Semaphore::MAX_PERMITS))),
                shutdown: shutdown.clone(),
            },
            summary: ledger.watch(),
            ledger: ledger.clone(),
            devices: Mutex::new(Vec::with_capacity(devices.len())),
            tasks: TaskTracker::new(),
            _shutdown: shutdown.clone().drop_guard(),
        };
        if journal.is_some() {
            fleet.tasks.spawn(async move {
                let mut flushes = tokio::time::interval(FLUSH_INTERVAL);
                while shutdown.run_until_cancelled(flushes.tick()).await.is_some() {
                    ledger.flush();
                }
            });
        }
        let count = devices.len().max(1) as u32;
        for (index, mut device) in devices.into_iter().enumerate() {
            device.start_delay += ramp / count * index as u32;
            fleet.spawn(device);
        }
        Ok(fleet)
    }
}

fn check(device: &DeviceSpec) -> Result<(), FleetError> {
    let texts = [
        ("model", Some(&device.model)),
        ("version", Some(&device.version)),
        ("configuration", device.config.as_ref()),
        ("serial number", device.serial.as_ref()),
    ];
    for (what, text) in texts {
        if text.is_some_and(|text| !(1..=MAX_VALUE_LEN).contains(&text.len())) {
            return Err(FleetError::Text { mac: device.mac, what });
        }
    }
    Ok(())
}

/// A hand on a running fleet. Dropping it ends the fleet without waiting for it.
pub struct FleetHandle {
    surroundings: Surroundings,
    summary: watch::Receiver<Summary>,
    ledger: Arc<Ledger>,
    devices: Mutex<Vec<DeviceHandle>>,
    tasks: TaskTracker,
    _shutdown: DropGuard,
}

impl FleetHandle {
    fn list(&self) -> MutexGuard<'_, Vec<DeviceHandle>> {
        // A list is whole after every call.
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, spec: DeviceSpec) -> DeviceHandle {
        let faults = Arc::new(FaultPlan::new(spec.faults.clone()));
        let hardware = SimulatedHardware::new(&spec, faults.clone());
        let (device, handle) =
            Device::assemble(Arc::new(spec), hardware, faults, self.ledger.clone(), &self.surroundings);
        if let Some(ear) = device.ear() {
            self.tasks.spawn(ear.listen(self.surroundings.shutdown.clone()));
        }
        self.tasks.spawn(device.run());
        self.list().push(handle.clone());
        handle
    }

    /// Adds a device to the fleet: also one with the MAC of another, for two connections with one MAC.
    ///
    /// # Errors
    /// [`FleetError::Text`].
    pub fn add(&self, device: DeviceSpec) -> Result<DeviceHandle, FleetError> {
        check(&device)?;
        Ok(self.spawn(device))
    }

    /// All devices, in the order of their making.
    pub fn devices(&self) -> Vec<DeviceHandle> {
        self.list().clone()
    }

    /// The first device with this MAC.
    pub fn device(&self, mac: Mac) -> Option<DeviceHandle> {
        self.list().iter().find(|device| device.mac() == mac).cloned()
    }

    /// The fleet in numbers, as it is now.
    pub fn summary(&self) -> Summary {
        self.summary.borrow().clone()
    }

    /// Follows the fleet in numbers.
    pub fn watch(&self) -> watch::Receiver<Summary> {
        self.summary.clone()
    }

    /// Returns as soon as the numbers are so, be it already.
    pub async fn wait_until(&self, are_so: impl Fn(&Summary) -> bool) {
        let mut summary = self.summary.clone();
        // The sender is the ledger's, which `self` keeps.
        let _ = summary.wait_for(|summary| are_so(summary)).await;
    }

    /// Returns as soon as each device has been so once since this was called, be it already; not necessarily all at the
    /// same time.
    pub async fn wait_until_each(&self, is_so: impl Fn(&Record) -> bool) {
        for device in self.devices() {
            device.wait_until(&is_so).await;
        }
    }

    /// The most devices that were down at the same time, of those that `counts` takes.
    pub fn most_down_at_once(&self, counts: impl Fn(Mac) -> bool) -> usize {
        let devices = self.devices();
        let chosen = devices.iter().filter(|device| counts(device.mac()));
        journal::most_at_once(chosen.flat_map(|device| device.read(|record| record.journal().outages())))
    }

    /// Everything that the server did and must never do.
    pub fn violations(&self) -> Vec<(Mac, Violation)> {
        let mut violations = Vec::new();
        for device in self.devices() {
            device.read(|record| {
                violations.extend(record.journal().violations().into_iter().map(|v| (device.mac(), v.clone())));
            });
        }
        violations
    }

    /// Every device's journal, for when a test fails.
    pub fn dump(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for device in self.devices() {
            // A string takes everything.
            let _ = device.read(|record| {
                writeln!(
                    text,
                    "{} {:?} on {}\n{}",
                    device.mac(),
                    record.condition(),
                    record.version(),
                    record.journal()
                )
            });
        }
        text
    }

    /// Ends all devices, and returns when they have ended and the journal's file is complete.
    pub async fn shutdown(&self) {
        self.surroundings.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.ledger.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is allocated besides: the record and its journal (under 2 KiB at first), and the socket's registration.
    #[tokio::test]
    async fn the_task_of_a_device_is_small() {
        let spec = DeviceSpec::new(Mac::new([2; 6]), "S5700", "4.9.0");
        let surroundings = Surroundings {
            bridges: Arc::from([]),
            transfers: Arc::new(Semaphore::new(1)),
            shutdown: CancellationToken::new(),
        };
        let hardware = SimulatedHardware::new(&spec, Arc::default());
        let (device, _handle) = Device::new(spec, hardware, &surroundings);
        let size = size_of_val(&device.run());
        assert!(size <= 4096, "{size}");
    }
}
