//! The logs that devices bring: which session is to know of one, and who is asked for one without a connection.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use fettle_crds::Device;
use fettle_protocol::message::Location;
use fettle_protocol::session::{Event, Log, LogRefused};
use fettle_protocol::{Dialect, Mac};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc;

use super::Hub;
use crate::cluster::bridges::Bridges;
use crate::cluster::index::Lookup;
use crate::cluster::view::log_request;
use crate::files::credentials::DeviceId;
use crate::files::logs::{Arrived, LogNews, NoRoom};
use crate::udp::{Asked, NotSent};

impl Hub {
    /// Takes in what has become of logs so far. What a device says of its log is judged after that.
    pub(super) fn heard_of_logs(&mut self, logs: &mut mpsc::Receiver<LogNews>) {
        while let Ok(news) = logs.try_recv() {
            self.log_news(news);
        }
    }

    /// A log has arrived, or found no room. A device that is another by now, or whose session is over, is not told of: a log
    /// is kept all the same.
    pub(super) fn log_news(&mut self, news: LogNews) {
        match news {
            LogNews::Arrived(Arrived { device_name, device, target, location, at, size }) => {
                let Some(mac) = self.who_logs(&device_name, device) else {
                    return tracing::info!(
                        device = device_name,
                        location,
                        "log of a device that has no session any more"
                    );
                };
                self.feed(mac, Event::Logged(Log { target, location, at, size }));
            }
            LogNews::NoRoom(NoRoom { device_name, device, target, why }) => {
                tracing::warn!(device = device_name, target, why, "no room for a log");
                let why = format!("{} has no room for its log: {why}", self.parts.us.name);
                if let Some(mac) = self.who_logs(&device_name, device) {
                    self.feed(mac, Event::LogRefused(LogRefused { target, why }));
                }
            }
        }
    }

    /// The device of that name, where it is the same still, and has a session.
    fn who_logs(&self, name: &str, device: DeviceId) -> Option<Mac> {
        let mac = self.index.mac(name)?;
        let uid = self.entries.get(&mac)?.uid.as_deref()?;
        (DeviceId::of_uid(uid) == device).then_some(mac)
    }

    /// Asks a device without a connection for its log, unless another has its address by now.
    pub(super) fn ask_for_log(&self, mac: Mac, to: &str, location: Location, until: Timestamp) {
        let datagrams = &self.parts.datagrams;
        let Some(entry) = self.entries.get(&mac) else { return };
        let Ok(address) = to.parse::<IpAddr>() else { return datagrams.not_sent(NotSent::NoAddress) };
        if self.index.is_taken(address, &entry.name) {
            let device = &*entry.name;
            tracing::warn!(device, %address, "not asked for its log: another Device has this address, or had it last");
            return datagrams.not_sent(NotSent::AddressTaken);
        }
        let key = location.log_key;
        let reported = self.index.whole(&entry.name).and_then(|device| device.status.as_ref()?.reported.as_ref());
        let dialect = reported.map(|reported| Dialect::from_names(reported.dialect.iter().map(String::as_str)));
        datagrams.ask(address, Asked { mac, dialect: dialect.unwrap_or_default(), key, until }, location);
    }

    /// A device that nobody holds, and of which a person wants the log, gets a session of the first bridge.
    pub(super) fn look_after(&mut self, mac: Mac) {
        let Lookup::Known(name) = self.index.lookup(mac) else { return };
        let device = self.index.whole(&name).filter(|device| is_to_be_asked(device)).cloned();
        let Some(device) = device.filter(|_| is_first(&self.parts.us.name, &self.parts.bridges)) else { return };
        if !self.entries.contains_key(&mac) && !self.awaiting.contains_key(&mac) {
            self.begin(mac, device.name_any().into(), &device);
            self.feed(mac, Event::Tick);
        }
    }
}

/// Whether a person wants the log of a device that has no session and may be asked without a connection.
pub(super) fn is_to_be_asked(device: &Device) -> bool {
    let Some(status) = &device.status else { return false };
    status.session.is_none()
        && status.target.as_ref().is_some_and(|target| target.udp_logs)
        && log_request(device).is_some()
}

/// Whether this bridge does what only one should.
pub(super) fn is_first(us: &str, bridges: &Mutex<Bridges>) -> bool {
    bridges.lock().unwrap_or_else(PoisonError::into_inner).first() == Some(us)
}
