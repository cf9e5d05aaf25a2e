//! One connection of a device, from its first byte to its last: what the agent wants done is done, faults permitting.

use std::collections::VecDeque;
use std::time::Duration;

use fettle_protocol::DeviceMessage;
use fettle_protocol::datum::number;
use fettle_protocol::message::{Download, Location, kind};
use tokio::time::Instant;

use crate::agent::{Effect, HangUp, Input};
use crate::checked::Mishap;
use crate::device::{Device, Wake};
use crate::faults::{FaultKind, Moment, Step, Strike};
use crate::handle::Order;
use crate::hardware::Hardware;
use crate::journal::{Disconnect, Event, FileKind};
use crate::link::{Closing, Link, Manners, Reading};
use crate::operation::{Cut, Finished, Pretence, chain};
use crate::rudeness;

/// What the end of a connection means for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It calls again, after a wait.
    Lost,
    /// It calls again at once.
    Moved,
    Restart,
    PowerCut,
    Vanished,
    Shutdown,
}

/// What it means, how the device lets go, and what the journal says.
pub(crate) type Ending = (End, Closing, Disconnect);

fn ending(end: End, reason: Disconnect) -> Ending {
    (end, Closing::Finish, reason)
}

fn failed(error: &std::io::Error) -> Ending {
    ending(End::Lost, Disconnect::Failed(chain(error)))
}

impl From<Cut> for Ending {
    fn from(cut: Cut) -> Self {
        let closing = match cut {
            Cut::Close => Closing::Finish,
            Cut::Reset => Closing::Reset,
        };
        (End::Lost, closing, Disconnect::LetGo)
    }
}

/// What a fault that can strike anywhere leaves of the step.
enum Mercy {
    Go,
    GoAndCut(Cut),
    End(Ending),
}

impl<H: Hardware> Device<H> {
    /// Talks until the connection ends. `fault` is the one that struck at [`Step::Connect`].
    pub(crate) async fn converse(&mut self, link: &mut Link, fault: Option<FaultKind>) -> Ending {
        if let Some(kind) = fault {
            match self.suffer(link, kind).await {
                Mercy::Go => {}
                Mercy::GoAndCut(cut) => return cut.into(),
                Mercy::End(ending) => return ending,
            }
        }
        if link.manners == Manners::Normal {
            let effects = self.agent.on(Input::Connected(self.facts()));
            if let Some(ending) = self.perform(link, effects).await {
                return ending;
            }
        }
        loop {
            let ended = match self.pending.take() {
                Some(finished) => self.finished(link, finished, None).await,
                None => {
                    let tick = self.next_tick(link);
                    let wake = self.wait(Some(link), tick).await;
                    self.woken(link, wake).await
                }
            };
            if let Some(ending) = ended {
                return ending;
            }
        }
    }

    /// When an extended device has something to say unasked.
    fn next_tick(&self, link: &Link) -> Option<Instant> {
        let timings = &self.spec.timings;
        let interval = if self.operation.is_some() { timings.progress } else { timings.keep_alive };
        (self.agent.has_timers() && link.manners == Manners::Normal).then(|| link.quiet_since + interval)
    }

    async fn woken(&mut self, link: &mut Link, wake: Wake) -> Option<Ending> {
        match wake {
            Wake::Shutdown => Some(ending(End::Shutdown, Disconnect::Shutdown)),
            Wake::Order(order) => self.obey_online(order),
            Wake::Finished(finished, cut) => self.finished(link, finished, cut).await,
            Wake::ScheduledTime => {
                let effects = self.agent.on(Input::ScheduledTime);
                self.perform(link, effects).await
            }
            Wake::Readable => self.read(link).await,
            Wake::Elapsed => {
                link.quiet_since = Instant::now();
                let input = match &self.operation {
                    Some(operation) => Input::ProgressDue(operation.percent()),
                    None => Input::KeepAliveDue,
                };
                let effects = self.agent.on(input);
                self.perform(link, effects).await
            }
        }
    }

    async fn read(&mut self, link: &mut Link) -> Option<Ending> {
        match link.read() {
            Ok(Reading::Nothing) => return None,
            Ok(Reading::End) => return Some(ending(End::Lost, Disconnect::Closed)),
            Ok(Reading::Some) => {}
            Err(error) => return Some(failed(&error)),
        }
        loop {
            let input = match link.decoder.next_frame() {
                Ok(None) => return None,
                Ok(Some(frame)) => Input::Received(frame),
                Err(error) => Input::Malformed(error),
            };
            let effects = self.agent.on(input);
            if let Some(ending) = self.perform(link, effects).await {
                return Some(ending);
            }
            if link.manners != Manners::Normal {
                // What has come and was not looked at is thrown away as well.
                return None;
            }
        }
    }

    async fn finished(&mut self, link: &mut Link, finished: Finished, cut: Option<Cut>) -> Option<Ending> {
        if let Some(cut) = cut {
            // The connection goes first; what is then left of the result is the agent's to say.
            self.pending = Some(finished);
            return Some(cut.into());
        }
        let input = self.learn(finished)?;
        let effects = self.agent.on(input);
        self.perform(link, effects).await
    }

    /// Does what the agent wants, in order. `Some` where that ends the connection.
    async fn perform(&mut self, link: &mut Link, effects: Vec<Effect>) -> Option<Ending> {
        let mut queue = VecDeque::from(effects);
        let mut ended: Option<Ending> = None;
        while let Some(effect) = queue.pop_front() {
            let end = match effect {
                // Nobody hears it any more; what is to be done besides is done all the same.
                Effect::Send(_) if ended.is_some() => None,
                Effect::Send(message) => self.say(link, &message).await,
                Effect::Fetch(file, download) => self.fetch(link, file, *download).await,
                Effect::Apply => {
                    let (more, end) = self.apply(link).await;
                    queue.extend(more);
                    end
                }
                Effect::Upload(location) => {
                    let (more, end) = self.upload(link, *location).await;
                    queue.extend(more);
                    end
                }
                Effect::Restart => self.restart(link).await,
                Effect::HangUp(HangUp::Told(again)) => {
                    self.call_again = again.map(|seconds| Duration::from_secs(u64::from(seconds)));
                    Some(ending(End::Lost, Disconnect::Interrupted))
                }
                Effect::HangUp(HangUp::Malformed) => Some(ending(End::Lost, Disconnect::Malformed)),
                effect @ (Effect::Note(_) | Effect::Schedule(_) | Effect::Unschedule | Effect::Abandon) => {
                    self.perform_offline(vec![effect]);
                    None
                }
            };
            ended = ended.or(end);
        }
        ended
    }

    /// Does what needs no connection.
    pub(crate) fn perform_offline(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Note(event) => self.notebook.note(event),
                Effect::Schedule(time) => self.schedule(time),
                Effect::Unschedule => self.scheduled = None,
                Effect::Abandon => {
                    self.pending = None;
                    if self.operation.take().is_some() {
                        self.notebook.note(Event::GivenUp);
                    }
                }
                Effect::Apply => {
                    let strike = self.strike(Step::Apply8);
                    self.operation = Some(self.bench.apply(strike.delay));
                }
                // The agent asks for none of these without a connection.
                Effect::Send(_) | Effect::Fetch(..) | Effect::Upload(_) | Effect::Restart | Effect::HangUp(_) => {}
            }
        }
    }

    fn schedule(&mut self, time: jiff::civil::DateTime) {
        self.failures = 0;
        // A time that the clocks skip or repeat is one of the two it could be: a device has no better rule.
        let until = time
            .to_zoned(self.spec.time_zone.clone())
            .map(|zoned| zoned.timestamp().duration_since(jiff::Timestamp::now()))
            .map(|wait| Duration::try_from(wait).unwrap_or(Duration::ZERO));
        // Centuries away is never.
        self.scheduled = until.ok().and_then(|wait| Instant::now().checked_add(wait));
    }

    /// What strikes at `step`, with an entry for each.
    pub(crate) fn strike(&self, step: Step) -> Strike {
        let strike = self.faults.strike(step);
        if strike.delay > Duration::ZERO {
            self.notebook.note(Event::Fault { at: step, kind: FaultKind::Slow(strike.delay) });
        }
        if let Some(rate) = strike.throttle {
            self.notebook.note(Event::Fault { at: step, kind: FaultKind::Throttle(rate) });
        }
        if let Some(kind) = &strike.kind {
            self.notebook.note(Event::Fault { at: step, kind: kind.clone() });
        }
        strike
    }

    async fn fetch(&mut self, link: &mut Link, file: FileKind, download: Download) -> Option<Ending> {
        self.failures = 0;
        self.bench.learn_key(&download.location);
        let strike = self.strike(match file {
            FileKind::Image => Step::Download3,
            FileKind::Profile => Step::Download4,
        });
        let mut mishap = Mishap { corrupt: false, other_base: false, throttle: strike.throttle };
        let mut pretence = None;
        let mut cut = None;
        match strike.kind {
            None => {}
            Some(FaultKind::Corrupt) => mishap.corrupt = true,
            Some(FaultKind::OtherBase) => mishap.other_base = true,
            Some(FaultKind::FailDownload | FaultKind::Refuse) => pretence = Some(Pretence::Failure),
            Some(FaultKind::ClaimWithoutDownload) => pretence = Some(Pretence::Success),
            Some(kind) => match self.suffer(link, kind).await {
                Mercy::Go => {}
                Mercy::GoAndCut(after) => cut = Some(after),
                Mercy::End(ending) => return self.drop_work(ending),
            },
        }
        link.quiet_since = Instant::now();
        self.operation = Some(self.bench.fetch(file, download, strike.delay, mishap, pretence).cut_after(cut));
        None
    }

    async fn apply(&mut self, link: &mut Link) -> (Vec<Effect>, Option<Ending>) {
        self.failures = 0;
        let strike = self.strike(Step::Apply8);
        let mut cut = None;
        match strike.kind {
            None => {}
            Some(FaultKind::Refuse) => {
                let error = "by a fault".to_owned();
                self.notebook.note(Event::ApplyFailed { error: error.clone() });
                return (self.agent.on(Input::Applied(Err(error))), None);
            }
            Some(kind) => match self.suffer(link, kind).await {
                Mercy::Go => {}
                Mercy::GoAndCut(after) => cut = Some(after),
                Mercy::End(ending) => return (vec![], self.drop_work(ending)),
            },
        }
        link.quiet_since = Instant::now();
        self.operation = Some(self.bench.apply(strike.delay).cut_after(cut));
        (vec![], None)
    }

    async fn upload(&mut self, link: &mut Link, location: Location) -> (Vec<Effect>, Option<Ending>) {
        self.failures = 0;
        self.bench.learn_key(&location);
        let strike = self.strike(Step::Upload10);
        let mut cut = None;
        match strike.kind {
            None => {}
            Some(FaultKind::Refuse) => {
                let error = "by a fault".to_owned();
                self.notebook.note(Event::UploadFailed { error: error.clone() });
                return (self.agent.on(Input::Uploaded(Err(error))), None);
            }
            Some(kind) => match self.suffer(link, kind).await {
                Mercy::Go => {}
                Mercy::GoAndCut(after) => cut = Some(after),
                Mercy::End(ending) => return (vec![], self.drop_work(ending)),
            },
        }
        link.quiet_since = Instant::now();
        self.operation = Some(self.bench.upload(location, strike.delay).cut_after(cut));
        (vec![], None)
    }

    async fn restart(&mut self, link: &mut Link) -> Option<Ending> {
        self.failures = 0;
        let strike = self.strike(Step::Restart6);
        if let Some(ending) = self.pause(strike.delay).await {
            return Some(ending);
        }
        match strike.kind {
            None => {}
            Some(FaultKind::Refuse) => return None,
            Some(kind) => match self.suffer(link, kind).await {
                Mercy::Go | Mercy::GoAndCut(_) => {}
                Mercy::End(ending) => return Some(ending),
            },
        }
        self.notebook.note(Event::RestartBegan);
        Some(ending(End::Restart, Disconnect::Restarting))
    }

    /// A fault ended the connection before what was commanded was begun.
    fn drop_work(&mut self, ending: Ending) -> Option<Ending> {
        let effects = self.agent.on(Input::Dropped);
        self.perform_offline(effects);
        Some(ending)
    }

    /// Says something, unless a fault prevents it.
    async fn say(&mut self, link: &mut Link, message: &DeviceMessage) -> Option<Ending> {
        let frame = message.to_frame();
        let step = match frame.message {
            kind::DEVICE_INFORMATION => Some(Step::Information),
            kind::VERSION_RESULT => Some(Step::Result5),
            kind::PROFILE_RESULT => Some(Step::Result7),
            kind::UPGRADE_RESULT => Some(Step::Result9),
            kind::LOG_RESULT => Some(Step::Result11),
            _ => None,
        };
        let mut cut = None;
        if let Some(step) = step.filter(|_| link.manners == Manners::Normal) {
            let strike = self.strike(step);
            if let Some(ending) = self.pause(strike.delay).await {
                return Some(ending);
            }
            match strike.kind {
                None => {}
                Some(FaultKind::LoseResult) => return None,
                Some(kind) => match self.suffer(link, kind).await {
                    Mercy::Go => {}
                    Mercy::GoAndCut(after) => cut = Some(after),
                    Mercy::End(ending) => return Some(ending),
                },
            }
        }
        if link.manners != Manners::Normal {
            return None;
        }
        let mut bytes = Vec::new();
        if let Err(error) = frame.encode_in(self.spec.dialect, &mut bytes) {
            return Some(ending(End::Lost, Disconnect::Failed(chain(&error))));
        }
        if let Some(ending) = self.write(link, &bytes).await {
            return Some(ending);
        }
        link.quiet_since = Instant::now();
        let result = frame
            .data
            .iter()
            .find(|(datum, _)| [number::DOWNLOAD_RESULT, number::EXECUTION_RESULT].contains(datum))
            .and_then(|(_, value)| value.as_slice().try_into().ok().map(u32::from_be_bytes));
        self.notebook.note(Event::Sent { message: frame.message, result });
        cut.map(Ending::from)
    }

    async fn write(&mut self, link: &mut Link, bytes: &[u8]) -> Option<Ending> {
        let shutdown = self.token();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Some(ending(End::Shutdown, Disconnect::Shutdown)),
            written = link.write(bytes) => written.err().map(|error| failed(&error)),
        }
    }

    /// A fault that can strike at any step.
    async fn suffer(&mut self, link: &mut Link, kind: FaultKind) -> Mercy {
        match kind {
            FaultKind::DropConnection(Moment::Before) => return Mercy::End(Cut::Close.into()),
            FaultKind::DropConnection(Moment::After) => return Mercy::GoAndCut(Cut::Close),
            FaultKind::ResetConnection(Moment::Before) => return Mercy::End(Cut::Reset.into()),
            FaultKind::ResetConnection(Moment::After) => return Mercy::GoAndCut(Cut::Reset),
            FaultKind::Vanish => return Mercy::End(ending(End::Vanished, Disconnect::LetGo)),
            FaultKind::Silent => link.manners = Manners::Mute,
            FaultKind::HalfOpen => link.manners = Manners::Deaf,
            FaultKind::Freeze => {
                if let Some(ending) = self.freeze().await {
                    return Mercy::End(ending);
                }
            }
            FaultKind::Stall
            | FaultKind::Flood(_)
            | FaultKind::Garbage
            | FaultKind::LyingLength
            | FaultKind::UnknownMessage
            | FaultKind::WrongDirection
            | FaultKind::Unasked(_)
            | FaultKind::Raw(_) => {
                let stalls = kind == FaultKind::Stall;
                let information = self.agent.information(self.facts());
                for bytes in rudeness::bytes(&kind, &information, self.spec.dialect) {
                    if let Some(ending) = self.write(link, &bytes).await {
                        return Mercy::End(ending);
                    }
                }
                if stalls {
                    link.manners = Manners::Mute;
                }
            }
            // Those of other steps mean nothing here.
            FaultKind::Slow(_)
            | FaultKind::Throttle(_)
            | FaultKind::Corrupt
            | FaultKind::OtherBase
            | FaultKind::FailDownload
            | FaultKind::ClaimWithoutDownload
            | FaultKind::Refuse
            | FaultKind::ComeBackOld
            | FaultKind::ComeBackWith(_)
            | FaultKind::LoseResult => {}
        }
        Mercy::Go
    }

    /// Until somebody thaws it: nothing elapses for a device that is frozen.
    async fn freeze(&mut self) -> Option<Ending> {
        self.obey_online(Order::Freeze);
        self.pause(Duration::from_nanos(1)).await
    }

    /// A fault's wait on a connection. What happens meanwhile is done afterwards.
    async fn pause(&mut self, delay: Duration) -> Option<Ending> {
        if delay.is_zero() {
            return None;
        }
        let until = Instant::now() + delay;
        loop {
            match self.wait(None, Some(until)).await {
                Wake::Elapsed => return None,
                Wake::Shutdown => return Some(ending(End::Shutdown, Disconnect::Shutdown)),
                Wake::Order(order) => {
                    if let Some(ending) = self.obey_online(order) {
                        return Some(ending);
                    }
                }
                Wake::Finished(finished, _) => self.pending = Some(finished),
                Wake::ScheduledTime => self.scheduled = Some(until + Duration::from_millis(1)),
                Wake::Readable => {}
            }
        }
    }
}
