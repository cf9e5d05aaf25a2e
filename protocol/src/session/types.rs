//! The vocabulary of a session: what it is told, and what it wants done.

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};

use crate::datum::{Capabilities, ExecutionResult};
use crate::dialect::Dialect;
use crate::message::{DeviceInformation, DeviceMessage, Download, ErrorDetail, Location, Release, ServerMessage};

/// A connection of the bridge, unique within one run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What the Kubernetes API says of the device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// It may be served: declared once, approved.
    pub legal: bool,
    /// The model it must report, where one is declared.
    pub model: Option<String>,
    /// Who holds its session.
    pub hold: Hold,
    /// Who asks for it while another holds it.
    pub contender: Contender,
    /// The session as it stands is one that was told to disconnect.
    pub dismissed: bool,
    /// When the device was there last, where it is not connected.
    pub last_seen: Option<Timestamp>,
    /// The facts that are on record.
    pub known: Option<Known>,
    /// The configuration that is on record as put into force.
    pub applied: Option<String>,
    /// What it may become.
    pub target: Option<Target>,
    /// What it is to run once its turn has come, where that is something else than it was on record to run.
    pub declared: Option<Release>,
    /// How far the target named in it has come.
    pub progress: Option<Progress>,
    /// How far it has said that it has come with a command.
    pub reached: Option<Reached>,
    /// The connections that it has lost by itself since the end of a try.
    pub drops: Option<Drops>,
    /// Where its newest log is.
    pub log: Option<String>,
    /// The target whose log was refused for want of room.
    pub log_refused: Option<i64>,
    /// What a person who asks for its log says, where that was not acted on yet; and what was acted on last.
    pub log_request: Option<String>,
    pub log_answer: Option<String>,
    /// It may be asked for its log over UDP where it has no connection.
    pub udp: bool,
    /// Where it called from last.
    pub address: Option<String>,
}

/// Who holds a device's session, as the API has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hold {
    /// Nobody, or a bridge that is no more.
    #[default]
    Nobody,
    /// This run of this bridge.
    Us,
    /// A former run of this bridge.
    Predecessor,
    /// Another bridge that lives.
    Other,
}

/// Who asks for a session that another bridge holds, as the API has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contender {
    #[default]
    Nobody,
    /// This run of this bridge.
    Us,
    Other,
}

/// What is on record of a device's last message 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub version: String,
    pub model: String,
    pub config: Option<String>,
    pub serial: Option<String>,
    /// By name, in the order of the bits.
    pub capabilities: Vec<String>,
    pub dialect: Dialect,
    /// Of the session, where there is one.
    pub address: Option<String>,
}

/// A permission with an end (design: "a target"): one try of one device, planned on what it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub id: i64,
    /// The version that the device reported when this was planned.
    pub from: String,
    /// What the device reports once it runs the firmware; `None`: the firmware stays.
    pub firmware: Option<String>,
    /// The identity of the configuration; `None`: the configuration stays.
    pub config: Option<String>,
    /// When the configuration is put into force; at once, without this.
    pub scheduled: Option<Scheduled>,
    /// How far it may go.
    pub stage: Stage,
    /// No first command after this.
    pub start_by: Timestamp,
    /// The end of the try.
    pub until: Timestamp,
    /// How long before `until` the last command may go: for clocks that differ.
    pub margin: SignedDuration,
    /// Logs are wanted after a success, after a failure.
    pub logs: (bool, bool),
    /// The device is current and its connection is to be closed.
    pub done: bool,
    /// It has ended in the words of the controller.
    pub ended: bool,
}

/// How far a target lets a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// It may fetch what it is to run: as far as 5=0, or 7=0 where the configuration alone is wanted.
    Download,
    #[default]
    Activate,
}

/// A time at which a device puts a profile into force (mode 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduled {
    pub at: Timestamp,
    /// What the device's clock says then: datum 12. `None`: what is on record is no time, and no device is told of it.
    pub local: Option<DateTime>,
}

/// How often a device has lost its connection by itself since the end of the try of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    pub target: i64,
    pub count: i64,
}

/// What is on record of the way to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub target: i64,
    pub phase: Phase,
}

/// How far a device says that it has come with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Of which the command is.
    pub target: i64,
    /// 0–100.
    pub percent: Option<u8>,
    /// Not empty, at most 248 bytes.
    pub text: Option<String>,
}

/// What a device is at while it says how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// From 3 to 5.
    Version,
    /// From 4 to 7.
    Profile,
    /// From 8 to 9.
    Apply,
}

/// How far a target has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The device has fetched what it is to run, and its target said no more than that.
    Downloaded,
    /// 8 names a time; the device waits for it.
    Scheduled,
    Restarting,
    /// The 6 of that has not reached the device, and whoever meets it may say it again.
    RestartLost,
    Applying,
    Done,
}

impl Phase {
    /// Whether a 6 or 8 may have gone out, so that the device may be another than it was, and it is not known yet.
    pub const fn is_begun(self) -> bool {
        match self {
            Self::Scheduled | Self::Restarting | Self::RestartLost | Self::Applying => true,
            Self::Downloaded | Self::Done => false,
        }
    }
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The device, the network between, or the bridge for what the device did.
    Device,
    /// The bridge, for reasons of its own.
    Bridge,
}

/// Which of the two downloads, or the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Version,
    Profile,
    Log,
}

/// A command with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Unique among the commands to this device for as long as a credential lives.
    pub number: u32,
    /// The target that it serves.
    pub target: i64,
    pub step: Step,
}

/// A file that is ready, as the device is to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum File {
    Download(Download),
    Upload(Location),
}

/// Why a file could not be made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceError(pub String);

/// What our own accounting says of a download that the device calls verified, or has not finished in its time, or of a log that it says it has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transferred {
    Wholly,
    NotWholly,
    /// Not a byte of it.
    Nothing,
    /// A log that was brought elsewhere, and could not be fetched from there: why.
    Unfetched(String),
}

/// How a write came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// Somebody else wrote; the view has been fed anew.
    Conflict,
    /// The API could not be reached, or would not; some time has passed.
    Unavailable,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection that has said message 1 for the first time.
    Called { connection: ConnectionId, address: String, info: DeviceInformation },
    /// A further message.
    Said { connection: ConnectionId, message: DeviceMessage },
    /// A connection is gone. `acknowledged`: TCP has confirmed all that we sent on it.
    Dropped { connection: ConnectionId, acknowledged: bool, by: EndedBy },
    /// The API says something new.
    Viewed(Box<View>),
    /// The write that was wanted has been answered.
    Written(Result<(), WriteError>),
    /// The file of a command is ready, or cannot be had.
    Prepared(Command, Result<File, SourceError>),
    /// What our own accounting says.
    Checked(Command, Transferred),
    /// A log of the device has arrived wholly.
    Logged(Log),
    /// A log of the device found no room.
    LogRefused(LogRefused),
    /// 11, over UDP, from a device that [`Effect::Ask`] asked.
    Replied(ExecutionResult, ErrorDetail),
    /// Time has passed: [`deadline`](super::Session::deadline) is over.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send on this connection.
    Send(ConnectionId, ServerMessage),
    /// Send what is to be sent, shut the sending side, drain, close at the peer's FIN or after 5 s: never an RST. Then
    /// [`Event::Dropped`] is due.
    Finish(ConnectionId),
    /// Close at once, for this reason.
    Close(ConnectionId, Reason),
    /// Find out whether the peer of this connection is still there: keep-alive 1 s × 3.
    Probe(ConnectionId),
    /// Get the file of this command ready, for a device that has announced that it `can` take this; its credential lives
    /// until the instant. What is on record of the device may be of the firmware before.
    Prepare { command: Command, can: Capabilities, until: Timestamp },
    /// Ask our own accounting whether the file of this command went out, or a log came in, wholly.
    Check(Command),
    /// Send 10 over UDP to the device that called from this address last, where no other device has it. Its answer counts
    /// until the instant.
    Ask { to: String, command: Command, location: Location, until: Timestamp },
    /// Write to the API, on condition that nobody wrote since the last view.
    Write(Record),
    /// Compute the view anew, and feed it: a Lease may have ended. Always the last one.
    Refresh,
    /// Count, and say in the log.
    Count(Counted),
}

/// What is to be written to the status of the device; all parts in one patch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub session: SessionRecord,
    /// What the device said of itself.
    pub info: Option<DeviceInformation>,
    /// How far the target has come.
    pub progress: Option<(i64, Phase)>,
    /// How the try ended, where the phase is `Done`. What was counted in `drops` is of a former one then: it goes off the
    /// record, unless there is a new count.
    pub end: Option<TryEnd>,
    /// How far the device has come with its command.
    pub reached: Change<Reached>,
    /// The new count, with the release that it comes from.
    pub drops: Option<Drops>,
    /// The configuration on record as applied may not be in force any more: it is to be taken off the record. Never
    /// together with an `end` that has one.
    pub forget_applied: bool,
    /// The newest log.
    pub log: Option<Log>,
    /// That there was no room for the newest log.
    pub log_refused: Change<LogRefused>,
    /// How what a person asked for has come out: their word, and the result.
    pub log_answer: Option<(String, LogResult)>,
}

/// What becomes of something on record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Change<T> {
    #[default]
    Unchanged,
    Set(T),
    /// It goes off the record.
    Clear,
}

/// What becomes of the session on record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SessionRecord {
    #[default]
    Unchanged,
    /// It is ours, from this address.
    Claim { address: String },
    /// There is none; the device was last seen then.
    Release { last_seen: Timestamp },
    /// It is ours, and the device was told to disconnect.
    Dismiss,
    /// It is ours, from this address, and the device is told to disconnect, as the one that held it has told it before.
    Inherit { address: String },
    /// Another holds it, and we ask for it.
    Contend { address: String },
    /// We hold it, and whoever asks for it does not get it.
    Refuse,
}

/// A log that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The newest target when the device was asked for it; 0 where there was none.
    pub target: i64,
    /// Where it is: no two logs are at one place.
    pub location: String,
    pub at: Timestamp,
    /// Bytes.
    pub size: u64,
}

/// A log that was not taken in, for want of room. The device may bring it again as long as it is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRefused {
    /// The newest target when the device was asked for it; 0 where there was none.
    pub target: i64,
    /// What has no room, in a sentence of any length.
    pub why: String,
}

/// How it came out that a person asked for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogResult {
    /// It has arrived.
    Stored,
    /// Why there is none, in a sentence of any length.
    Failed(String),
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryEnd {
    pub target: i64,
    pub reason: Reason,
    /// A sentence, where there is more to say; of any length.
    pub message: String,
    /// The configuration that is in force since, and known to be.
    pub applied: Option<String>,
}

/// Why something ended: a try, or a connection. Closed: metric labels come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    // Tries that succeeded.
    Upgraded,
    ResultLost,
    AlreadyCurrent,
    // Tries that failed.
    CrcMismatch,
    DownloadFailed,
    NotTransferred,
    ApplyFailed,
    CameBackUnchanged,
    UnexpectedVersion,
    TimedOut,
    SourceUnavailable,
    // Connections.
    DeadlineExceeded,
    HolderAnswers,
    HeldElsewhere,
    Replaced,
    Illegal,
}

impl Reason {
    /// Whether a try that ended for this reason succeeded.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Upgraded | Self::ResultLost | Self::AlreadyCurrent)
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// A result that nothing asked for, by the number of its message.
    Unasked(u8),
    /// A message of a type that this version does not know.
    UnknownMessage(u8),
    /// A newcomer for a MAC that is held.
    Contention,
    /// A try ended.
    Ended(Reason),
}

impl Known {
    /// What the device takes. Of a name that we do not know, another version of the bridge knows.
    pub(super) fn capabilities(&self) -> Capabilities {
        let known = self.capabilities.iter().filter_map(|name| Capabilities::named(name));
        known.fold(Capabilities::default(), Capabilities::with)
    }

    /// Whether `info` says just this.
    pub(super) fn is(&self, info: &DeviceInformation) -> bool {
        let Self { version, model, config, serial, capabilities, dialect, address: _ } = self;
        *version == info.version
            && *model == info.model
            && *config == info.config
            && *serial == info.serial
            && info.capabilities.names().eq(capabilities.iter().map(String::as_str))
            && *dialect == info.dialect
    }
}
