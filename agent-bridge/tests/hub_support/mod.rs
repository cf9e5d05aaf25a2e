//! A hub, with watches that a test feeds and connections that it reads the orders of. The API server is one that does not
//! answer, or is not there: what a hub does with answers is for the end-to-end tests, against a real one.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fettle_bridge::cluster::Identity;
use fettle_bridge::cluster::bridges::Bridges;
use fettle_bridge::cluster::content::{Advertised, Contents, HttpBase, Scheme};
use fettle_bridge::cluster::declared::Declared;
use fettle_bridge::cluster::enrolment::Enrolment;
use fettle_bridge::cluster::images::{Images, SignaturePolicy};
use fettle_bridge::cluster::lease::Heartbeat;
use fettle_bridge::cluster::notices::Notices;
use fettle_bridge::cluster::writer::Writer;
use fettle_bridge::files::credentials::Credentials;
use fettle_bridge::files::ledger::Transfers;
use fettle_bridge::files::logs::{LogSettings, LogStore, Retention};
use fettle_bridge::files::store::Store;
use fettle_bridge::hub::{Hub, Parts, Sources, Watches};
use fettle_bridge::metrics::{Closed, Metrics};
use fettle_bridge::tcp::{FromConnection, Inbox, Order, Told, orders};
use fettle_bridge::udp::Datagrams;
use fettle_crds::{Device, DeviceSpec, DeviceStatus, Reported, Session};
use fettle_protocol::datum::Capabilities;
use fettle_protocol::message::DeviceInformation;
use fettle_protocol::session::{ConnectionId, Timing};
use fettle_protocol::{Dialect, Mac};
use fettle_runtime::Events;
use futures::FutureExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use prometheus::Registry;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Within this everything happens that has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The address that devices call from.
pub const ADDRESS: &str = "192.0.2.1";
pub const VERSION: &str = "4.9.0";
pub const MODEL: &str = "S5700";

/// An API server as it must not be.
pub enum ApiServer {
    /// It takes requests, and never answers.
    Hangs,
    /// Nobody listens.
    IsAway,
}

pub struct Rig {
    pub us: Identity,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
    /// Requests to the API server, where it hangs.
    pub requests: Requests,
    /// What groups and releases declare.
    pub declares: watch::Sender<Declared>,
    devices: UnboundedSender<watcher::Result<Event<DeserializeGuard<Device>>>>,
    leases: UnboundedSender<watcher::Result<Event<Lease>>>,
    connections: mpsc::Sender<FromConnection>,
    synced: watch::Receiver<bool>,
    registry: Registry,
    next: u64,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub async fn start(api_server: ApiServer, enrolment: Enrolment) -> Self {
        Self::start_with(api_server, enrolment, SignedDuration::from_hours(1)).await
    }

    pub async fn start_with(api_server: ApiServer, enrolment: Enrolment, reconnect_grace: SignedDuration) -> Self {
        fettle_runtime::install_crypto();
        let requests = Requests::default();
        let client = client(api_server, requests.clone()).await;
        let folder = tempfile::tempdir().unwrap();
        let us = Identity { name: "b-0".into(), incarnation: "ours".into() };
        let store = Store::open(&folder.path().join("cache"), folder.path(), 1 << 20, 1 << 24).unwrap();
        let registry = Registry::new();
        let (news, logs_told) = mpsc::channel(64);
        let settings = LogSettings {
            dir: folder.path().join("logs"),
            place: "file://b-0/logs".into(),
            retention: Retention::default(),
            bucket: None,
            upload_size: 1 << 20,
            news,
        };
        let logs = LogStore::open(settings, &registry).unwrap();
        let address = [127, 0, 0, 1].into();
        let http = HttpBase::new(Scheme::Http, None, address, 8080);
        let advertised = Advertised { address, ftp_port: 21, tftp_port: 69, http };
        let lease = Duration::from_secs(15);
        let heartbeat = Heartbeat::new(Api::namespaced(client.clone(), "default"), us.clone(), lease);
        let contents = Contents::new(
            Api::namespaced(client.clone(), "default"),
            Images::new(Api::namespaced(client.clone(), "default"), store, SignaturePolicy::Optional),
            Credentials::random(),
            Arc::new(Transfers::new()),
            Arc::new(logs),
            advertised,
            heartbeat.held(),
        );
        let datagrams = Datagrams::bind("127.0.0.1:0".parse().unwrap(), 7070, &registry).await.unwrap();
        let (_, replies) = mpsc::channel(1);
        let metrics = Metrics::new(&registry).unwrap();
        let api: Api<Device> = Api::namespaced(client.clone(), "default");
        let (declares, declared) = watch::channel(Declared::default());
        let hub = Hub::new(Parts {
            us: us.clone(),
            timing: Timing::default(),
            enrolment,
            reconnect_grace,
            devices: api.clone(),
            contents,
            writer: Writer::new(api, metrics.clone()),
            notices: Notices::new(Events::new(client, "fettle-bridge", &us.name)),
            metrics,
            bridges: Arc::new(Mutex::new(Bridges::default())),
            datagrams: Arc::new(datagrams),
            declared,
        });
        let (devices, watched_devices) = unbounded();
        let (leases, watched_leases) = unbounded();
        let (connections, told) = mpsc::channel(4096);
        let (is_synced, synced) = watch::channel(false);
        let shutdown = CancellationToken::new();
        let watches = Watches { devices: watched_devices, leases: watched_leases };
        let sources = Sources { connections: told, logs: logs_told, replies };
        let task = tokio::spawn(hub.run(watches, sources, is_synced, shutdown.clone()));
        let next = 0;
        let _folder = folder;
        Self { us, shutdown, task, requests, declares, devices, leases, connections, synced, registry, next, _folder }
    }

    /// The first lists: these Devices, and the Lease of `b-1`, whose run `x` lives.
    pub async fn listed(&mut self, devices: Vec<Device>) {
        self.leases.unbounded_send(Ok(Event::InitApply(lease("b-1", "b-1/x")))).unwrap();
        self.leases.unbounded_send(Ok(Event::InitDone)).unwrap();
        self.list(devices);
        self.synced.wait_for(|synced| *synced).await.unwrap();
    }

    /// The watch of Devices begins, or begins anew, with these.
    pub fn list(&self, devices: Vec<Device>) {
        self.watch(Event::Init);
        for device in devices {
            self.watch(Event::InitApply(DeserializeGuard(Ok(device))));
        }
        self.watch(Event::InitDone);
    }

    pub fn changed(&self, device: Device) {
        self.watch(Event::Apply(DeserializeGuard(Ok(device))));
    }

    pub fn deleted(&self, device: Device) {
        self.watch(Event::Delete(DeserializeGuard(Ok(device))));
    }

    fn watch(&self, event: Event<DeserializeGuard<Device>>) {
        self.devices.unbounded_send(Ok(event)).unwrap();
    }

    pub fn lease(&self, lease: Lease) {
        self.leases.unbounded_send(Ok(Event::Apply(lease))).unwrap();
    }

    /// A device calls.
    pub async fn call(&mut self, number: u16) -> Caller {
        self.call_in(Dialect::CANONICAL, number).await
    }

    /// A device calls that speaks a dialect.
    pub async fn call_in(&mut self, dialect: Dialect, number: u16) -> Caller {
        self.calls(DeviceInformation { dialect, ..information(number) }).await
    }

    /// A device calls that can do more.
    pub async fn call_with(&mut self, capabilities: Capabilities, number: u16) -> Caller {
        self.calls(DeviceInformation { capabilities, ..information(number) }).await
    }

    async fn calls(&mut self, info: DeviceInformation) -> Caller {
        self.next += 1;
        let id = ConnectionId(self.next);
        let (orders, inbox) = orders();
        let info = Box::new(info);
        let address = ADDRESS.parse().unwrap();
        self.connections.send((id, Told::Called { info, address, orders })).await.unwrap();
        Caller { id, inbox }
    }

    pub async fn hangs_up(&self, caller: Caller) {
        self.ends(caller, Closed::ByDevice).await;
    }

    /// A connection ends, for whatever reason.
    pub async fn ends(&self, caller: Caller, reason: Closed) {
        let gone = Told::Gone { reason, acknowledged: true };
        self.connections.send((caller.id, gone)).await.unwrap();
    }

    /// The sum over the series that begin with this.
    pub fn metric(&self, series: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let values = text.lines().filter_map(|line| line.strip_prefix(series)?.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }

    /// Waits until a metric has this value.
    pub async fn until(&self, series: &str, value: u64) {
        let reached = async {
            while self.metric(series) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
            panic!("{series} never became {value}:\n{text}");
        }
    }
}

/// The requests that came, as text. None is answered, so each has a connection of its own.
#[derive(Clone, Default)]
pub struct Requests(Arc<Mutex<Vec<String>>>);

impl Requests {
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The one that has this in it, if it has come.
    pub fn with(&self, part: &str) -> Option<String> {
        self.0.lock().unwrap().iter().find(|request| request.contains(part)).cloned()
    }

    /// Whether one of them records device `number`.
    pub fn record(&self, number: u16) -> bool {
        let name = format!("\"{}\"", mac(number).dns_label());
        self.0.lock().unwrap().iter().any(|request| request.starts_with("POST") && request.contains(&name))
    }

    /// Waits until they are so.
    pub async fn until(&self, are_so: impl Fn(&Self) -> bool) {
        let come = async {
            while !are_so(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, come).await.is_err() {
            panic!("the requests are never so: {:#?}", self.0.lock().unwrap());
        }
    }
}

/// The end of a connection that the hub orders about.
pub struct Caller {
    pub id: ConnectionId,
    inbox: Inbox,
}

impl Caller {
    pub async fn next(&mut self) -> Order {
        let next = tokio::time::timeout(PATIENCE, self.inbox.next()).await;
        next.expect("no order came").expect("the hub let go")
    }

    /// An order that is there already.
    pub fn try_next(&mut self) -> Option<Order> {
        self.inbox.next().now_or_never().flatten()
    }

    /// Is told 2, after so many seconds, and finished.
    pub async fn is_sent_away_after(&mut self, seconds: u64) {
        let bytes = [2, 0, 0, 0].into();
        assert_eq!(self.next().await, Order::Send { bytes, after: Duration::from_secs(seconds) });
        assert_eq!(self.next().await, Order::Finish);
    }
}

pub fn mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac::new([0x02, 0, 0x5e, 0, high, low])
}

fn information(number: u16) -> DeviceInformation {
    DeviceInformation {
        mac: mac(number),
        version: VERSION.into(),
        model: MODEL.into(),
        config: None,
        serial: None,
        capabilities: Capabilities::default(),
        dialect: Dialect::CANONICAL,
    }
}

/// A declared Device with the MAC of device `number`, as of `version`.
pub fn declared(name: &str, number: u16, version: u64) -> Device {
    let spec: DeviceSpec = serde_json::from_value(serde_json::json!({"mac": mac(number).to_string()})).unwrap();
    let mut device = Device::new(name, spec);
    device.metadata.uid = Some(format!("uid-{name}"));
    device.metadata.resource_version = Some(version.to_string());
    device
}

/// The same, with a session of a run of a bridge and with all that the device says on record.
pub fn connected(device: Device, bridge: &str, incarnation: &str) -> Device {
    let session = Session {
        bridge: bridge.into(),
        incarnation: incarnation.into(),
        address: ADDRESS.into(),
        since: Timestamp::UNIX_EPOCH,
        dismissed: false,
        contender: None,
    };
    let reported = Reported {
        version: VERSION.into(),
        model: MODEL.into(),
        config: None,
        serial: None,
        capabilities: Vec::new(),
        dialect: Vec::new(),
        at: Timestamp::UNIX_EPOCH,
    };
    let status = DeviceStatus { session: Some(session), reported: Some(reported), ..DeviceStatus::default() };
    Device { status: Some(status), ..device }
}

pub fn lease(name: &str, holder: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.into());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    });
    lease
}

async fn client(api_server: ApiServer, requests: Requests) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    match api_server {
        ApiServer::IsAway => drop(listener),
        ApiServer::Hangs => {
            tokio::spawn(async move {
                let mut open = Vec::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let requests = requests.clone();
                    open.push(tokio::spawn(async move {
                        let (mut text, mut place) = (Vec::new(), None);
                        while stream.read_buf(&mut text).await.is_ok_and(|count| count > 0) {
                            let mut all = requests.0.lock().unwrap();
                            let place = *place.get_or_insert_with(|| {
                                all.push(String::new());
                                all.len() - 1
                            });
                            all[place] = String::from_utf8_lossy(&text).into_owned();
                        }
                    }));
                }
            });
        }
    }
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}
