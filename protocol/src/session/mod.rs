//! What the server does about one device: a state machine, `on(event, now) -> effects`, across its connections.
//!
//! A [`Session`] is made when a device first calls, or when the Kubernetes API says that this bridge holds it, and lives
//! until nothing is left to remember. Its driver feeds it what happens (a call, a message, a drop, a change in the API,
//! the outcome of a write) and carries out the [`Effect`]s in their order; it decides nothing.
//!
//! # What it guarantees
//! - One command is outstanding on a connection. At its deadline the connection is closed; no further command is sent
//!   into an outstanding one, whatever new target has come.
//! - 6 and 8 go only on the connection that brought 5=0 or 7=0 for the current target, after our own accounting has
//!   confirmed the transfer, and after the API has acknowledged [`Phase::Restarting`] or [`Phase::Applying`].
//! - No first command after `start_by`, no 3, 4, 6 or 8 after `until` less `margin`.
//! - It never retries a try: a result but 0, the old version after a restart, or the end of its time ends it. What is
//!   repeated within a try is what the contract with the device allows: a download after a lost connection, and one
//!   more push of a profile whose result was lost.
//! - While the end of a try is not written, nothing further is sent.
//!
//! # What it assumes
//! - `now` does not jump by more than the margin of a target.
//! - The driver feeds the [`View`] that a write returned before it feeds [`Event::Written`], and feeds a fresh view after
//!   a conflict.

mod judge;
mod machine;
mod types;

pub use types::{
    Command, ConnectionId, Contender, Counted, Effect, Event, File, Hold, Known, Phase, Progress, Reason, Record,
    SessionRecord, SourceError, Step, Target, Timing, Transferred, TryEnd, View, WriteError,
};

use jiff::Timestamp;

use crate::message::DeviceInformation;

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
    /// A write that the API has not answered yet.
    writing: bool,
    /// When a contender is refused, unless our connection turns out to be dead.
    refuse_at: Option<Timestamp>,
    /// The number that the next command gets.
    next_command: u32,
}

#[derive(Debug, Clone)]
struct Connection {
    id: ConnectionId,
    address: String,
    info: DeviceInformation,
}

#[derive(Debug, Clone)]
struct Newcomer {
    connection: Connection,
    /// When the holder that has not yielded by then stays.
    decide_at: Timestamp,
}

/// What is outstanding on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// No connection, since then.
    Away { since: Timestamp },
    /// Connected; nothing outstanding.
    Idle,
    /// Connected; the MAC is another bridge's, which has been or is being asked.
    Contending { decide_at: Timestamp, asked: bool },
    /// Connected again after an unanswered command: the device may still be at it.
    Settling { until: Timestamp },
    /// The driver gets the file ready.
    Preparing { command: Command },
    /// 3 or 4 is outstanding.
    Downloading { command: Command, deadline: Timestamp },
    /// 5=0 or 7=0 came; our own accounting is asked.
    Checking { command: Command },
    /// The phase is being written, before 6 or 8.
    Announcing { command: Command },
    /// 6 was sent; the connection is closing.
    Restarting,
    /// 8 is outstanding.
    Applying { deadline: Timestamp },
    /// 10 is outstanding.
    Uploading { deadline: Timestamp },
    /// 2 was sent; the connection is closing.
    Dismissed,
}

/// What outlives a connection, and not this process.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The target that this is about.
    target: Option<i64>,
    /// A first command of the target was sent.
    started: bool,
    /// This process knows that no 6 has reached the device: none was sent, or TCP never acknowledged it. What a former
    /// run of the bridge did is not known.
    not_restarted: bool,
    /// A command got no answer, of whatever target.
    unanswered: bool,
    /// How often the result of 8 was lost.
    losses: u8,
    /// How the try ended, until it is written.
    end: Option<TryEnd>,
    /// The target whose log is wanted.
    log_of: Option<i64>,
}
