//! What the API says of whom: the watches, the answers to our own requests, and what follows for sessions.
//!
//! A session is of one Device object. It goes on when that is replaced by another with the same MAC (deleted and created
//! again, or a recorded one by a declared one), but nothing of what was ordered for the former counts for the new one.

use std::sync::{Arc, PoisonError};

use fettle_crds::Device;
use fettle_protocol::Mac;
use fettle_protocol::session::{EndedBy, Event, Reason, Session, View, WriteError};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use tokio::time::Instant;

use super::logs::{is_first, is_to_be_asked};
use super::{Entry, Hub};
use crate::cluster::index::Lookup;
use crate::cluster::view::{Standing, view};
use crate::cluster::writer::Written;
use crate::metrics::Closed;
use crate::tcp::Order;

/// Devices that are looked at in a turn, where something else is declared: a fleet of them does not keep others waiting.
const LOOKED_AT: usize = 64;

impl Hub {
    pub(super) fn lease_event(&mut self, event: watcher::Result<watcher::Event<Lease>>) -> bool {
        let now = Instant::now();
        let mut bridges = self.parts.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match event {
            Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease)) => bridges.apply(&lease, now),
            Ok(watcher::Event::Delete(lease)) => bridges.remove(&lease.name_any(), now),
            Ok(watcher::Event::InitDone) => return true,
            Ok(watcher::Event::Init) => return false,
            Err(error) => {
                tracing::warn!(error = %fettle_runtime::chain(&error), "leases not watched; trying again");
                return false;
            }
        };
        drop(bridges);
        for bridge in changed {
            self.bridge_changed(&bridge);
        }
        false
    }

    /// A run of a bridge has begun or ended: what it holds counts, or is free.
    fn bridge_changed(&mut self, bridge: &str) {
        tracing::debug!(bridge, "a run of a bridge has begun or ended");
        let concerns = |device: &Arc<Device>| {
            let session = device.status.as_ref().and_then(|status| status.session.as_ref());
            session.is_some_and(|session| {
                session.bridge == bridge || session.contender.as_ref().is_some_and(|asks| asks.bridge == bridge)
            })
        };
        let concerned: Vec<_> = (self.entries.iter())
            .filter(|(_, entry)| self.index.whole(&entry.name).is_some_and(concerns))
            .map(|(mac, _)| *mac)
            .collect();
        for mac in concerned {
            self.changed(mac);
        }
    }

    pub(super) fn device_event(&mut self, event: watcher::Result<watcher::Event<DeserializeGuard<Device>>>) -> bool {
        match event {
            Ok(watcher::Event::Init) => self.index.restart(),
            Ok(watcher::Event::Apply(device) | watcher::Event::InitApply(device)) => match device.0 {
                Ok(device) => {
                    let (index, keep) = self.keep();
                    let concerned = index.watched(device, keep);
                    self.all_changed(concerned);
                }
                Err(error) => {
                    self.parts.metrics.malformed.inc();
                    tracing::warn!(device = error.metadata.name, error = error.error, "device cannot be read");
                    self.index.unreadable(&error.metadata.name.unwrap_or_default());
                }
            },
            Ok(watcher::Event::Delete(device)) => {
                let version = device.resource_version();
                let concerned = self.index.deleted(version.as_deref(), &device.name_any());
                self.all_changed(concerned);
            }
            Ok(watcher::Event::InitDone) => {
                let concerned = self.index.restarted();
                self.all_changed(concerned);
                return true;
            }
            Err(error) => tracing::warn!(error = %fettle_runtime::chain(&error), "devices not watched; trying again"),
        }
        false
    }

    /// Something else is declared: whoever is told of that, or may be given a difference, is looked at again.
    pub(super) fn declared_anew(&mut self) {
        self.parts.declared.mark_unchanged();
        let listening = self.connections.values().filter(|connected| connected.listens);
        self.listening = listening.map(|connected| connected.mac).collect();
    }

    /// Some of those that are to be looked at.
    pub(super) fn look_at_listening(&mut self) {
        for _ in 0..LOOKED_AT {
            let Some(mac) = self.listening.pop() else { return };
            if self.entries.contains_key(&mac) {
                self.changed(mac);
            }
        }
    }

    /// A Device that the API has answered with.
    pub(super) fn answered(&mut self, device: Device) {
        let concerned = self.note(device);
        self.all_changed(concerned);
    }

    /// Takes in a Device that the API has answered with, and says whom that concerns.
    pub(super) fn note(&mut self, device: Device) -> impl IntoIterator<Item = Mac> + use<> {
        let (index, keep) = self.keep();
        index.answered(device, keep)
    }

    /// The index, and which Devices it is to keep whole.
    fn keep(&mut self) -> (&mut crate::cluster::index::Index, impl FnOnce(&Device, Mac) -> bool) {
        let (us, entries, awaiting) = (&self.parts.us.name, &self.entries, &self.awaiting);
        let bridges = &self.parts.bridges;
        let keep = move |device: &Device, mac| {
            let session = device.status.as_ref().and_then(|status| status.session.as_ref());
            entries.contains_key(&mac)
                || awaiting.contains_key(&mac)
                || session.is_some_and(|session| session.bridge == *us)
                || (is_to_be_asked(device) && is_first(us, bridges))
        };
        (&mut self.index, keep)
    }

    fn all_changed(&mut self, concerned: impl IntoIterator<Item = Mac>) {
        for mac in concerned {
            self.changed(mac);
        }
    }

    /// Something about this MAC has changed in the API.
    pub(super) fn changed(&mut self, mac: Mac) {
        if !self.entries.contains_key(&mac) {
            self.judge_waiting(mac);
            return self.look_after(mac);
        }
        if let Some(view) = self.view(mac) {
            return self.feed(mac, Event::Viewed(Box::new(view)));
        }
        match self.index.lookup(mac) {
            Lookup::Known(name) => match self.index.whole(&name).cloned() {
                Some(device) => self.succeed(mac, name, &device),
                None => self.read(mac, name),
            },
            Lookup::Unknown | Lookup::Unapproved | Lookup::Ambiguous => {
                self.feed(mac, Event::Viewed(Box::default()));
            }
        }
    }

    /// What the API says of the device with this session; `None`: the Device that it is of is no more.
    pub(super) fn view(&self, mac: Mac) -> Option<View> {
        let entry = self.entries.get(&mac)?;
        let device = self.index.whole(&entry.name)?;
        (device.metadata.uid.as_deref() == entry.uid.as_deref()).then(|| self.view_of(mac, &entry.name, device))
    }

    fn view_of(&self, mac: Mac, name: &Arc<str>, device: &Device) -> View {
        let standing = match self.index.lookup(mac) {
            Lookup::Known(known) if known == *name => Standing::Accepted,
            Lookup::Known(_) | Lookup::Unknown | Lookup::Unapproved | Lookup::Ambiguous => Standing::NotAccepted,
        };
        self.parts.contents.look_ahead(device);
        let bridges = self.parts.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        view(device, standing, &self.parts.us, &bridges, &self.parts.declared.borrow())
    }

    /// A session for the device with this MAC.
    pub(super) fn begin(&mut self, mac: Mac, name: Arc<str>, device: &Device) {
        let session = Session::new(self.parts.timing, self.view_of(mac, &name, device), self.started);
        let state = session.state_name();
        self.parts.metrics.session(None, Some(state));
        let entry = Entry {
            span: span(&name, mac),
            name,
            uid: uid(device),
            session: Some(session),
            state,
            reached: None,
            timer: None,
            permission: None,
            failures: 0,
            stage: None,
            began: None,
        };
        self.entries.insert(mac, entry);
    }

    /// The Device that a session was of is no more, and this one has its MAC.
    fn succeed(&mut self, mac: Mac, name: Arc<str>, device: &Device) {
        let view = self.view_of(mac, &name, device);
        let Some(entry) = self.entries.get_mut(&mac) else { return };
        tracing::info!(device = %name, %mac, former = %entry.name, "the Device of a connected device was replaced");
        entry.span = span(&name, mac);
        (entry.name, entry.uid, entry.failures) = (name, uid(device), 0);
        if let Some((_, permission)) = entry.permission.take() {
            self.parts.contents.forget(&permission);
        }
        // The ids of targets begin anew with the object: between the two there is none.
        self.feed(mac, Event::Viewed(Box::new(View { target: None, progress: None, ..view.clone() })));
        let outstanding = |entry: &Entry| entry.session.as_ref().and_then(Session::connection);
        if let Some((connection, true)) = self.entries.get(&mac).and_then(outstanding) {
            // What it answers would be taken for an answer to the new one's target.
            self.order(connection, Order::Close(Closed::Session(Reason::Replaced)));
            self.feed(mac, Event::Dropped { connection, acknowledged: true, by: EndedBy::Bridge });
        }
        self.feed(mac, Event::Viewed(Box::new(view)));
    }

    /// Sessions of the run before whose devices stayed away are given up.
    pub(super) fn adopt_orphans(&mut self) {
        let us = &self.parts.us;
        let orphans: Vec<_> = (self.index.all_whole())
            .filter(|device| {
                let session = device.status.as_ref().and_then(|status| status.session.as_ref());
                session.is_some_and(|session| session.bridge == us.name && session.incarnation != us.incarnation)
            })
            .filter_map(|device| Some((device.spec.mac.parse().ok()?, Arc::clone(device))))
            .collect();
        let mut given_up = 0_u64;
        for (mac, device) in orphans {
            if !self.entries.contains_key(&mac) {
                given_up += 1;
                self.begin(mac, device.name_any().into(), &device);
                self.feed(mac, Event::Tick);
            }
        }
        if given_up > 0 {
            tracing::info!(given_up, "sessions of the run before whose devices stayed away");
        }
    }

    /// A write was answered, or was not.
    pub(super) fn written(&mut self, mac: Mac, name: &str, of: Option<Arc<str>>, written: Written) {
        let mut result = written.result();
        match written {
            Written::Done(device) | Written::Conflict(device) => self.answered(*device),
            Written::Gone => {
                let concerned = self.index.gone(name, of.as_deref());
                self.all_changed(concerned);
            }
            Written::Unavailable | Written::Refused => {}
        }
        let Some(entry) = self.entries.get_mut(&mac) else { return };
        entry.failures = if result.is_ok() { 0 } else { entry.failures.saturating_add(1) };
        if entry.uid != of {
            // What is on record of the former object is nothing that the session may build on.
            result = Err(WriteError::Conflict);
        }
        self.feed(mac, Event::Written(result));
    }

    pub(super) fn read(&mut self, mac: Mac, name: Arc<str>) {
        if !self.reading.insert(mac) {
            return;
        }
        let writer = self.parts.writer.clone();
        self.spawn(async move { super::Outcome::Read(mac, writer.look(&name).await) });
    }

    pub(super) fn has_read(&mut self, mac: Mac, read: Written) {
        self.reading.remove(&mac);
        match read {
            Written::Done(device) | Written::Conflict(device) => {
                self.answered(*device);
                // Another with its MAC may wait since, or the watch was faster.
                self.judge_waiting(mac);
                self.let_go_of_waiting(mac);
            }
            Written::Gone => {
                if let Some(waiting) = self.awaiting.remove(&mac) {
                    self.send_away(waiting.connection, mac, "its Device has just been deleted");
                }
            }
            Written::Unavailable | Written::Refused => self.let_go_of_waiting(mac),
        }
    }

    /// What is remembered of a device that is over.
    pub(super) fn forget(&mut self, mac: Mac) {
        let Some(entry) = self.entries.remove(&mac) else { return };
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, mac));
        }
        if let Some((_, permission)) = entry.permission {
            self.parts.contents.forget(&permission);
        }
        self.index.slim(&entry.name);
        self.parts.metrics.session(Some(entry.state), None);
        self.parts.metrics.reached(entry.reached, None);
    }
}

fn uid(device: &Device) -> Option<Arc<str>> {
    device.metadata.uid.as_deref().map(Arc::from)
}

fn span(name: &str, mac: Mac) -> tracing::Span {
    tracing::info_span!("session", device = name, %mac)
}
