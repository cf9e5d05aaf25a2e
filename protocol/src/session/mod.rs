//! What the server does about one device: a state machine, `on(event, now) -> effects`, across its connections.
//!
//! A [`Session`] is made when a device first calls, or when the Kubernetes API says that a former run of this bridge held
//! it and the time for its return is over. It lives until nothing is left to remember. Its driver feeds it what happens (a
//! call, a message, a drop, a change in the API, the outcome of a write) and carries out the [`Effect`]s in their order;
//! it decides nothing.
//!
//! # What it guarantees
//! - One command is outstanding on a connection. At its deadline the connection is closed; no further command is sent
//!   into an outstanding one, whatever new target has come.
//! - 6 and 8 go only on the connection that brought 5=0 or 7=0 for the current target, after our own accounting has
//!   confirmed the transfer, after the API has acknowledged [`Phase::Restarting`], [`Phase::Applying`] or
//!   [`Phase::Scheduled`], and while the device still says what the command was planned on.
//! - A target of [`Stage::Download`] gets no 6 and no 8. What it has fetched is written once, and has no end; when the same
//!   target says [`Stage::Activate`], 6 or 8 goes on the connection that brought the file, or it begins again with 3 or 4.
//! - An 8 that names a time is given once. Until that time and [`Timing::confirm`] it has no deadline, and keeps no
//!   connection from being idle; what it means is on record, so that it outlives connections and bridges.
//! - Only the holder of a device, as the API has it, sends it a 3, 4, 6, 8 or 10; but for a 10 over UDP to a device that
//!   nobody holds.
//! - No first command after `start_by`, no 3, 4, 6 or 8 after `until` less `margin`.
//! - It never retries a try: a result but 0, the old version after a restart, or the end of its time ends it. What is
//!   repeated within a try is what the contract with the device allows: a download after a lost connection, and one
//!   more push of a profile whose result was lost.
//! - While the end of a try is not written, nothing further is sent.
//! - How far a device has come is written once in [`Timing::reached`], and not of a command that has taken less.
//! - What a device is to run is announced where it takes that: once for each change and connection, and never into a
//!   command.
//! - A device that was sent away, and does not call again in the time of [`Timing::away`], is written off.
//! - A log costs one write at most, and none where another write is due that can tell of it.
//! - What is on record as the configuration in force is taken off the record where it may no longer be true.
//! - After a [`Event::Tick`] at [`Session::deadline`] the next deadline is later, or there is none.
//!
//! # What it assumes
//! - `now` does not jump by more than the margin of a target.
//! - Views never go back. The driver feeds the [`View`] that a write returned before it feeds [`Event::Written`], and
//!   feeds a fresh view after a conflict.
//! - After [`Effect::Finish`], [`Effect::Prepare`], [`Effect::Check`] and [`Effect::Write`] their event comes.
//!
//! # What it leaves to others
//! Which Device a MAC is, devices that are none, and how long a 2 is held back from a device that repeats itself: the
//! driver. The grace in which devices come back after a restart of the bridge: the driver. What a device may become, and
//! tries that end while nobody holds the device: the controller.
//!
//! # Where what is
//! `machine`: events. `timing`: how long it waits. `reached`: how far the device says it is. `log`: the device's log. `judge`: which command comes next, and when it may go. `record`: what is written. `hold`: who
//! holds the MAC.

mod hold;
mod judge;
mod log;
mod machine;
mod reached;
mod record;
mod timing;
mod types;

pub use timing::Timing;
pub use types::{
    Change, Command, ConnectionId, Contender, Counted, Drops, Effect, EndedBy, Event, File, Hold, Known, Log,
    LogRefused, LogResult, Phase, Progress, Reached, Reason, Record, Scheduled, SessionRecord, SourceError, Stage,
    Step, Target, Transferred, TryEnd, View, Work, WriteError,
};

use jiff::{SignedDuration, Timestamp};

use crate::datum::Capabilities;
use crate::message::{DeviceInformation, Release};

/// What the server knows of one device and is doing about it.
#[derive(Debug, Clone)]
pub struct Session {
    timing: Timing,
    view: View,
    /// The connection that holds the MAC, and what it said in its last message 1.
    connection: Option<Connection>,
    /// A connection that wants the MAC while another holds it.
    newcomer: Option<Newcomer>,
    state: State,
    memory: Memory,
    /// A command may have got no answer, of whatever target: the device may still be at it.
    unanswered: bool,
    /// Until then what is remembered outlives the session on record: a device that comes back to an unanswered command
    /// is met by who sent it, and its log is asked for.
    remember_until: Option<Timestamp>,
    /// What a connection that is gone said of the device, where it is not on record.
    unrecorded: Option<DeviceInformation>,
    heard: reached::Heard,
    /// A log that is not on record yet.
    log: Option<Log>,
    /// A log that found no room, which is not on record yet.
    log_refused: Option<LogRefused>,
    /// What a person asked for.
    request: Option<log::Request>,
    /// The device has no connection, and is asked for its log without one.
    remote: Option<log::Remote>,
    /// A write that the API has not answered yet.
    writing: bool,
    /// When a contender is refused, unless our connection turns out to be dead.
    refuse_at: Option<Timestamp>,
    /// The number of the last command.
    last_command: Option<u32>,
}

#[derive(Debug, Clone)]
struct Connection {
    id: ConnectionId,
    address: String,
    info: DeviceInformation,
    /// What was announced on it last.
    announced: Option<Release>,
}

#[derive(Debug, Clone)]
struct Newcomer {
    connection: Connection,
    /// When the holder that has not yielded by then stays.
    decide_at: Timestamp,
}

/// What is outstanding on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No connection, since then.
    Away { since: Timestamp, loss: Loss },
    /// Connected; nothing outstanding.
    Idle,
    /// Connected; the MAC is another bridge's, which has been or is being asked.
    Contending { decide_at: Timestamp, patience: u8, asked: bool },
    /// Connected again after an unanswered command: the device may still be at it.
    Settling { until: Timestamp },
    /// The driver gets the file ready, whose credential lives until then.
    Preparing { command: Command, until: Timestamp },
    /// 3 or 4 is outstanding.
    Downloading { command: Command, deadline: Timestamp },
    /// 5=0 or 7=0 came; our own accounting is asked.
    Checking { command: Command },
    /// The transfer is confirmed. 6 or 8 waits for the target to say so, and for its phase to be on record.
    Held { command: Command },
    /// 6 was sent; the connection is closing.
    Restarting { target: i64 },
    /// 8 is outstanding.
    Applying { target: i64, deadline: Timestamp },
    /// 8 was sent for a later time, and has got no answer on this connection.
    Scheduled { target: i64, deadline: Timestamp },
    /// 10 is outstanding.
    Uploading { command: Command, deadline: Timestamp },
    /// 2 was sent; the connection is closing.
    Dismissed,
}

/// How a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// By the device itself, whose last try had ended: what says how stable it is.
    ByItself,
    /// We closed it, on a device that was there.
    ByUs,
    Otherwise,
}

/// What is known of one target beyond its record. It outlives a connection, and not this process.
#[derive(Debug, Clone, Default)]
struct Memory {
    target: Option<i64>,
    /// A first command of the target was sent, in the stage that it has.
    started: bool,
    /// No 6 of the target has reached the device: none was sent, or TCP never acknowledged it.
    not_restarted: bool,
    /// An 8 of the target was sent, or may have been by who held the device before.
    pushed: bool,
    /// How often the result of 8 was lost.
    losses: u8,
    /// What the device was told to put into force, and when, where that is known.
    scheduled: Option<(Option<String>, Timestamp)>,
    /// The device has accepted the time that it was told.
    accepted: bool,
    /// It has, and was there for long enough after that time.
    confirmed: bool,
    /// How the try ended, until it is written.
    end: Option<TryEnd>,
    /// The time of the try was over in this download; our own accounting is asked, and then its end is known.
    late: Option<Command>,
    /// The log of the target is wanted.
    log_wanted: bool,
    /// The device was asked for it over UDP.
    log_asked: bool,
    /// A connection was lost on which 10 was outstanding.
    log_lost: bool,
}

impl Session {
    /// A device that is not connected to this bridge, and has not been since `now`.
    pub fn new(timing: Timing, view: View, now: Timestamp) -> Self {
        let mut session = Self {
            timing,
            view: View::default(),
            connection: None,
            newcomer: None,
            state: State::Away { since: now, loss: Loss::Otherwise },
            memory: Memory::default(),
            unanswered: false,
            remember_until: None,
            unrecorded: None,
            heard: reached::Heard::default(),
            log: None,
            log_refused: None,
            request: None,
            remote: None,
            writing: false,
            refuse_at: None,
            last_command: None,
        };
        session.adopt(view, now);
        // Nor does it know of what was sent, also where it is on record as the holder.
        session.allow_for_others();
        session
    }

    /// Takes in an event and says what is to be done.
    #[must_use]
    pub fn on(mut self, event: Event, now: Timestamp) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        self.take_in(event, now, &mut effects);
        self.advance(now, &mut effects);
        (self, effects)
    }

    /// The next instant at which [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.decide_at);
        let end_of_try = self.open_target().and_then(|target| self.end_of_try(target));
        // What waits for an answer goes on when that comes, not at a time.
        let unless_writing = |at: Option<Timestamp>| at.filter(|_| !self.writing && self.memory.late.is_none());
        let state = match self.state {
            State::Away { since, .. } => unless_writing(match self.view.hold {
                Hold::Us | Hold::Predecessor => self.release_at(since),
                Hold::Nobody => self.remember_until,
                Hold::Other => None,
            })
            .into_iter()
            .chain(unless_writing(self.remote_deadline(since)))
            .min(),
            State::Settling { until } => Some(until),
            State::Contending { decide_at, .. } => Some(decide_at),
            State::Downloading { deadline, .. }
            | State::Applying { deadline, .. }
            | State::Scheduled { deadline, .. } => {
                [Some(deadline), unless_writing(self.reached_due())].into_iter().flatten().min()
            }
            State::Preparing { until: deadline, .. } => Some(deadline),
            State::Uploading { deadline, .. } => Some(self.upload_deadline(deadline)),
            State::Idle => unless_writing([end_of_try, self.confirmation()].into_iter().flatten().min()),
            State::Held { .. } => unless_writing(end_of_try),
            State::Checking { .. } => end_of_try,
            State::Restarting { .. } | State::Dismissed => None,
        };
        [newcomer, unless_writing(self.refuse_at), state].into_iter().flatten().min()
    }

    /// What is to be written before this process ends, seeing that this is on record: what a later one, or another bridge, could
    /// not know of the device.
    pub fn parting(&self, view: View) -> Option<Record> {
        let mut parted = self.clone();
        parted.adopt(view, Timestamp::MAX);
        let progress = parted.lost_restart().filter(|_| parted.view.hold == Hold::Us);
        progress.map(|progress| Record { progress: Some(progress), ..Record::default() })
    }

    /// Whether nothing is left to remember: the device is away, the API has all that is known, and nobody will ask.
    pub fn is_over(&self) -> bool {
        let forgotten = match self.view.hold {
            Hold::Us | Hold::Predecessor => false,
            Hold::Nobody => self.remember_until.is_none(),
            Hold::Other => true,
        };
        matches!(self.state, State::Away { .. })
            && self.newcomer.is_none()
            && !self.writing
            && self.memory.end.is_none()
            && self.remote.is_none()
            && !self.is_to_be_asked()
            && !self.has_log_news()
            && forgotten
    }

    /// The connection that holds the MAC, and whether a command is outstanding on it, so that its own deadline counts
    /// and keep-alive does not. An 8 for a later time is none: the device may be silent for days.
    pub fn connection(&self) -> Option<(ConnectionId, bool)> {
        let outstanding =
            matches!(self.state, State::Downloading { .. } | State::Applying { .. } | State::Uploading { .. });
        self.connection.as_ref().map(|connection| (connection.id, outstanding))
    }

    /// What the device takes, by what it last said here, else by what is on record.
    fn capabilities(&self) -> Capabilities {
        let said = self.connection.as_ref().map(|connection| &connection.info).or(self.unrecorded.as_ref());
        said.map_or_else(
            || self.view.known.as_ref().map(Known::capabilities).unwrap_or_default(),
            |info| info.capabilities,
        )
    }

    /// What is going on, in a word: for logs and metrics.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Away { .. } => "Away",
            State::Idle if self.is_scheduled() => "Scheduled",
            State::Idle => "Idle",
            State::Contending { .. } => "Contending",
            State::Settling { .. } => "Settling",
            State::Preparing { .. } => "Preparing",
            State::Downloading { .. } => "Downloading",
            State::Checking { .. } => "Checking",
            State::Held { .. } if self.is_download() => "Held",
            State::Held { .. } => "Announcing",
            State::Restarting { .. } => "Restarting",
            State::Applying { .. } => "Applying",
            State::Scheduled { .. } => "Scheduled",
            State::Uploading { .. } => "Uploading",
            State::Dismissed => "Dismissed",
        }
    }
}

/// `duration` after `now`, or the end of all time where a setting is that large.
fn after(now: Timestamp, duration: SignedDuration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// `duration` before `instant`, or the beginning of all time.
fn before(instant: Timestamp, duration: SignedDuration) -> Timestamp {
    instant.checked_sub(duration).unwrap_or(Timestamp::MIN)
}
