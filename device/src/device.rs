//! One device on a real network: drives the [`Agent`], and lives through connections, restarts and losses of power.
//!
//! It decides nothing about the protocol. What it adds are waits between connections, and the faults that it is told to
//! suffer. A vendor's device is a [`Device`] over the vendor's own [`Hardware`], without faults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Facts, Identity, Input};
use crate::ear::Ear;
use crate::faults::{FaultKind, FaultPlan, Moment, Step};
use crate::handle::{DeviceHandle, Mailbox, Order};
use crate::hardware::Hardware;
use crate::journal::{Disconnect, Event};
use crate::link::{Closing, Link};
use crate::operation::{Bench, Boot, Cut, Finished, Operation, chain};
use crate::record::{Ledger, Notebook};
use crate::session::End;
use crate::spec::DeviceSpec;
use crate::transfer::Route;

/// What the devices of a process share.
#[derive(Clone)]
pub struct Surroundings {
    /// Where devices call that have no bridges of their own, one after the other until one answers.
    pub bridges: Arc<[SocketAddr]>,
    /// How many transfers run at once.
    pub transfers: Arc<Semaphore>,
    /// Ends all devices.
    pub shutdown: CancellationToken,
}

/// A device that can be run.
pub struct Device<H> {
    pub(crate) spec: Arc<DeviceSpec>,
    pub(crate) agent: Agent,
    pub(crate) bench: Bench<H>,
    pub(crate) notebook: Arc<Notebook>,
    pub(crate) faults: Arc<FaultPlan>,
    mailbox: Arc<Mailbox>,
    shutdown: CancellationToken,
    bridges: Arc<[SocketAddr]>,
    next_bridge: usize,
    /// Fruitless connections since the last one on which the server asked for something.
    pub(crate) failures: u32,
    /// What the last message 2 said of when to call again.
    pub(crate) call_again: Option<Duration>,
    /// What message 1 says.
    facts: Facts,
    pub(crate) operation: Option<Operation>,
    /// How an operation ended, before the agent has heard of it.
    pub(crate) pending: Option<Finished>,
    pub(crate) scheduled: Option<Instant>,
    frozen: bool,
}

/// What comes next in a device's life.
enum Next {
    /// Call a bridge, after a wait.
    Call(Duration),
    Boot(Boot),
    /// Do nothing until the power comes back.
    Dark,
    Stop,
}

/// What a device waited for.
pub(crate) enum Wake {
    Shutdown,
    Order(Order),
    Finished(Finished, Option<Cut>),
    ScheduledTime,
    /// The connection has something to read, or has ended.
    Readable,
    /// The time that was asked for.
    Elapsed,
}

impl<H: Hardware> Device<H> {
    /// A device with its power on, and a hand on it. Nothing happens before [`run`](Self::run).
    pub fn new(spec: DeviceSpec, hardware: H, surroundings: &Surroundings) -> (Self, DeviceHandle) {
        let faults = Arc::new(FaultPlan::new(spec.faults.clone()));
        // Without a file there is nothing that can fail.
        let ledger = Arc::new(Ledger::in_memory());
        Self::assemble(Arc::new(spec), hardware, faults, ledger, surroundings)
    }

    pub(crate) fn assemble(
        spec: Arc<DeviceSpec>,
        hardware: H,
        faults: Arc<FaultPlan>,
        ledger: Arc<Ledger>,
        surroundings: &Surroundings,
    ) -> (Self, DeviceHandle) {
        let notebook = Arc::new(Notebook::new(spec.mac, &spec.version, ledger));
        let mailbox = Arc::new(Mailbox::default());
        let facts = Facts { version: hardware.version(), config: hardware.config() };
        let identity = Identity {
            mac: spec.mac,
            model: spec.model.clone(),
            serial: Some(spec.serial()),
            vocabulary: spec.vocabulary,
            withheld: spec.withheld(),
            scheduled_reply: spec.scheduled_reply,
            late_results: spec.late_results,
        };
        let bench = Bench {
            hardware: Arc::new(Mutex::new(hardware)),
            notebook: notebook.clone(),
            route: Route::of(&spec),
            flash_at: spec.timings.flash_at,
            crc: spec.crc,
            image_key: spec.image_key,
            log_key: Arc::default(),
            transfers: surroundings.transfers.clone(),
        };
        let bridges =
            if spec.bridges.is_empty() { surroundings.bridges.clone() } else { spec.bridges.as_slice().into() };
        let handle = DeviceHandle { notebook: notebook.clone(), faults: faults.clone(), mailbox: mailbox.clone() };
        let device = Self {
            spec,
            agent: Agent::new(identity),
            bench,
            notebook,
            faults,
            mailbox,
            shutdown: surroundings.shutdown.clone(),
            bridges,
            next_bridge: 0,
            failures: 0,
            call_again: None,
            facts,
            operation: None,
            pending: None,
            scheduled: None,
            frozen: false,
        };
        (device, handle)
    }

    /// Its ear for datagrams, where it has one.
    pub(crate) fn ear(&self) -> Option<Ear<H>> {
        let (spec, bench, faults) = (self.spec.clone(), self.bench.clone(), self.faults.clone());
        let port = self.bridges.first().filter(|_| spec.udp)?.port();
        Some(Ear { spec, bench, faults, port })
    }

    /// Lives until the shutdown.
    pub async fn run(mut self) {
        self.notebook.note(Event::PoweredOn);
        let mut next = Next::Call(self.spec.start_delay);
        loop {
            next = match next {
                Next::Call(delay) => {
                    let end = self.call(delay).await;
                    self.after(end)
                }
                Next::Boot(why) => self.boot(why).await,
                Next::Dark => self.dark().await,
                Next::Stop => return,
            };
        }
    }

    fn after(&mut self, end: End) -> Next {
        match end {
            End::Lost => {
                if let Some(wait) = self.call_again.take() {
                    self.failures = 0;
                    return Next::Call(self.spec.timings.backoff.told(wait, rand::random()));
                }
                self.failures = self.failures.saturating_add(1);
                Next::Call(self.spec.timings.backoff.delay(self.failures, rand::random()))
            }
            End::Moved => Next::Call(Duration::ZERO),
            End::Restart => Next::Boot(Boot::Commanded),
            End::PowerCut => {
                self.notebook.note(Event::PoweredOff);
                Next::Dark
            }
            End::Vanished => {
                self.notebook.note(Event::Vanished);
                Next::Dark
            }
            End::Shutdown => Next::Stop,
        }
    }

    /// Waits, connects, and talks until the connection ends.
    async fn call(&mut self, delay: Duration) -> End {
        if let Some(end) = self.pass(delay).await {
            return end;
        }
        let strike = self.strike(Step::Connect);
        if let Some(end) = self.pass(strike.delay).await {
            return end;
        }
        match &strike.kind {
            Some(FaultKind::DropConnection(Moment::Before) | FaultKind::ResetConnection(Moment::Before)) => {
                return End::Lost;
            }
            Some(FaultKind::Vanish) => return End::Vanished,
            _ => {}
        }
        let mut link = match self.connect().await {
            Ok(link) => link,
            Err(end) => return end,
        };
        let began = Instant::now();
        let (end, closing, reason) = self.converse(&mut link, strike.kind).await;
        if began.elapsed() > self.spec.timings.backoff.max {
            // It was worth something.
            self.failures = 0;
        }
        link.close(closing).await;
        self.notebook.note(Event::Disconnected { reason });
        self.disconnected(&end);
        end
    }

    /// What the loss of a connection means for what is being done.
    fn disconnected(&mut self, end: &End) {
        match end {
            End::Restart | End::PowerCut | End::Vanished | End::Shutdown => {
                self.operation = None;
                self.pending = None;
            }
            End::Lost | End::Moved => {}
        }
        let effects = self.agent.on(Input::Disconnected);
        self.perform_offline(effects);
        if let Some(finished) = self.pending.take() {
            self.finished_offline(finished);
        }
    }

    async fn connect(&mut self) -> Result<Link, End> {
        let Some(bridge) = self.bridges.get(self.next_bridge % self.bridges.len().max(1)).copied() else {
            // Nowhere to call, until the handle says where.
            return Err(End::Lost);
        };
        let limit = self.spec.timings.connect;
        let connected = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Err(End::Shutdown),
            connected = tokio::time::timeout(limit, open(self.spec.local_address, bridge)) => connected,
        };
        let error = match connected {
            Ok(Ok((stream, local))) => {
                self.notebook.note(Event::Connected { bridge, local });
                return Ok(Link::new(stream, self.spec.dialect));
            }
            Ok(Err(error)) => chain(&error),
            Err(_elapsed) => format!("no answer within {limit:?}"),
        };
        self.next_bridge = self.next_bridge.wrapping_add(1);
        self.notebook.note(Event::ConnectFailed { bridge, error });
        Err(End::Lost)
    }

    /// What message 1 says.
    pub(crate) fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Writes the flash after message 6, and comes up.
    async fn boot(&mut self, why: Boot) -> Next {
        let strike = self.strike(Step::Boot);
        let dies = strike.kind == Some(FaultKind::Vanish);
        self.operation = Some(self.bench.boot(why, strike.delay, dies));
        loop {
            match self.wait(None, None).await {
                Wake::Shutdown => return Next::Stop,
                Wake::Order(Order::PowerCut) => {
                    self.lose_power().await;
                    self.notebook.note(Event::PoweredOff);
                    return Next::Dark;
                }
                Wake::Order(order) => self.obey_offline(order),
                Wake::Finished(Finished::Booted(Ok(version)), _) => {
                    self.facts.version.clone_from(&version);
                    self.notebook.note(Event::Booted { version });
                    if let Some(vocabulary) = self.bench.hardware.lock().await.vocabulary() {
                        self.agent.speaks(vocabulary);
                    }
                    let effects = self.agent.on(match why {
                        Boot::Commanded => Input::Restarted,
                        Boot::PowerOn => Input::PoweredOn,
                    });
                    self.perform_offline(effects);
                    return Next::Call(Duration::ZERO);
                }
                Wake::Finished(Finished::Booted(Err(error)), _) => {
                    self.notebook.note(Event::Bricked { reason: error.0 });
                    return Next::Dark;
                }
                Wake::Finished(Finished::Died, _) => {
                    self.notebook.note(Event::Vanished);
                    return Next::Dark;
                }
                // A time that comes while it is down comes late: as soon as it is up.
                Wake::ScheduledTime => self.scheduled = Some(Instant::now() + self.spec.timings.restart),
                Wake::Finished(..) | Wake::Readable | Wake::Elapsed => {}
            }
        }
    }

    async fn lose_power(&mut self) {
        self.operation = None;
        self.bench.hardware.lock().await.lose_power();
    }

    async fn dark(&mut self) -> Next {
        self.lose_power().await;
        self.frozen = false;
        // The time in a clock that runs on without it; a time that comes now comes when the power is back.
        let mut is_time = false;
        loop {
            match self.wait(None, None).await {
                Wake::Shutdown => return Next::Stop,
                Wake::Order(Order::PowerOn) => {
                    self.notebook.note(Event::PoweredOn);
                    if is_time {
                        self.scheduled = Some(Instant::now());
                    }
                    return Next::Boot(Boot::PowerOn);
                }
                Wake::Order(order) => self.obey_offline(order),
                Wake::ScheduledTime => is_time = true,
                Wake::Finished(..) | Wake::Readable | Wake::Elapsed => {}
            }
        }
    }

    /// Lets time pass without a connection; `Some` where it does not end with a call.
    async fn pass(&mut self, delay: Duration) -> Option<End> {
        let until = Instant::now() + delay;
        loop {
            match self.wait(None, Some(until)).await {
                Wake::Elapsed => return None,
                Wake::Shutdown => return Some(End::Shutdown),
                Wake::Order(Order::PowerCut) => return Some(End::PowerCut),
                Wake::Order(order @ Order::Reconnect(_)) => {
                    self.obey_offline(order);
                    return None;
                }
                Wake::Order(order) => self.obey_offline(order),
                Wake::Finished(finished, _) => self.finished_offline(finished),
                Wake::ScheduledTime => {
                    let effects = self.agent.on(Input::ScheduledTime);
                    self.perform_offline(effects);
                }
                Wake::Readable => {}
            }
        }
    }

    fn finished_offline(&mut self, finished: Finished) {
        if let Some(input) = self.learn(finished) {
            let effects = self.agent.on(input);
            self.perform_offline(effects);
        }
    }

    /// What an operation's end is to the agent.
    pub(crate) fn learn(&mut self, finished: Finished) -> Option<Input> {
        match finished {
            Finished::Fetched(file, fetched) => Some(Input::Fetched(file, fetched)),
            Finished::Applied(applied) => {
                let facts = applied.map(|config| {
                    self.facts.config = config.identity;
                    self.facts.clone()
                });
                Some(Input::Applied(facts))
            }
            Finished::Uploaded(uploaded) => Some(Input::Uploaded(uploaded)),
            // Boots have nobody to talk to.
            Finished::Booted(_) | Finished::Died => None,
        }
    }

    /// What an order means where there is no connection.
    fn obey_offline(&mut self, order: Order) {
        match order {
            Order::MoveTo(bridge) | Order::Reconnect(Some(bridge)) => self.move_to(bridge),
            Order::Freeze => self.frozen = true,
            Order::Thaw => self.frozen = false,
            Order::Reconnect(None) | Order::Reset | Order::PowerCut | Order::PowerOn => {}
        }
    }

    /// What an order means on a connection: how that ends, if it does.
    pub(crate) fn obey_online(&mut self, order: Order) -> Option<(End, Closing, Disconnect)> {
        match order {
            Order::PowerCut => Some((End::PowerCut, Closing::Reset, Disconnect::PowerCut)),
            Order::Reset => Some((End::Lost, Closing::Reset, Disconnect::LetGo)),
            Order::Reconnect(to) => {
                if let Some(bridge) = to {
                    self.move_to(bridge);
                }
                Some((End::Moved, Closing::Finish, Disconnect::LetGo))
            }
            Order::PowerOn | Order::Freeze | Order::Thaw | Order::MoveTo(_) => {
                self.obey_offline(order);
                None
            }
        }
    }

    fn move_to(&mut self, bridge: SocketAddr) {
        self.bridges = Arc::from([bridge]);
        self.failures = 0;
    }

    /// Waits for whatever comes first. The only place where a device waits for anything but its own sending.
    pub(crate) async fn wait(&mut self, link: Option<&Link>, until: Option<Instant>) -> Wake {
        let Self { shutdown, mailbox, operation, scheduled, frozen, .. } = self;
        let moves = !*frozen;
        let finishes = async {
            match operation {
                Some(operation) => operation.future.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let readable = async {
            match link.filter(|link| link.reads()) {
                Some(link) => link.readable().await,
                None => std::future::pending().await,
            }
        };
        // One timer for both.
        let scheduled_at = *scheduled;
        let earliest = [until, scheduled_at].into_iter().flatten().min();
        let elapses = async {
            match earliest {
                Some(instant) => tokio::time::sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Wake::Shutdown,
            order = mailbox.take() => Wake::Order(order),
            finished = finishes, if moves => {
                let cut = self.operation.take().and_then(|operation| operation.cut);
                Wake::Finished(finished, cut)
            }
            () = readable, if moves => Wake::Readable,
            () = elapses, if moves => {
                if scheduled_at.is_some() && scheduled_at == earliest {
                    self.scheduled = None;
                    Wake::ScheduledTime
                } else {
                    Wake::Elapsed
                }
            }
        }
    }

    pub(crate) fn token(&self) -> CancellationToken {
        self.shutdown.clone()
    }
}

async fn open(local: Option<Ipv4Addr>, bridge: SocketAddr) -> std::io::Result<(TcpStream, SocketAddr)> {
    let socket = if bridge.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(IpAddr::V4(local), 0))?;
    }
    let stream = socket.connect(bridge).await?;
    stream.set_nodelay(true)?;
    // Finds a bridge that is gone without a word in a minute and a half, and keeps NAT tables warm.
    let keep_alive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}
