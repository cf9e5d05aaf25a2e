//! What goes wrong with a device, on purpose: faults by the step at which they strike.
//!
//! A [`FaultPlan`] is asked at each step what strikes there; it counts how often each fault still may. What a fault then
//! does is done where the step is: the conversation's in the driver, the boot's in the simulated hardware.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;

/// Where in the upgrade a fault strikes. The numbers are those of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// Before a TCP connection is made; what has to be said strikes as soon as it stands.
    Connect,
    /// Message 1 is due.
    Information,
    /// Message 3 has come.
    Download3,
    /// Message 5 is due.
    Result5,
    /// Message 6 has come.
    Restart6,
    /// The device boots, for whatever reason.
    Boot,
    /// Message 4 has come.
    Download4,
    /// Message 7 is due.
    Result7,
    /// Message 8 has come (for a scheduled profile: its time).
    Apply8,
    /// Message 9 is due.
    Result9,
    /// Message 10 has come.
    Upload10,
    /// Message 11 is due.
    Result11,
}

impl Step {
    const ALL: [Self; 12] = [
        Self::Connect,
        Self::Information,
        Self::Download3,
        Self::Result5,
        Self::Restart6,
        Self::Boot,
        Self::Download4,
        Self::Result7,
        Self::Apply8,
        Self::Result9,
        Self::Upload10,
        Self::Result11,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Information => "information",
            Self::Download3 => "download3",
            Self::Result5 => "result5",
            Self::Restart6 => "restart6",
            Self::Boot => "boot",
            Self::Download4 => "download4",
            Self::Result7 => "result7",
            Self::Apply8 => "apply8",
            Self::Result9 => "result9",
            Self::Upload10 => "upload10",
            Self::Result11 => "result11",
        }
    }
}

/// Before the step is done, or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// Nothing of the step happens.
    Before,
    /// The step is done in full (a download, an application: to its end; a message: sent), and nothing after it.
    After,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// Closes the connection (FIN) and calls again.
    DropConnection(Moment),
    /// Resets the connection (RST) and calls again.
    ResetConnection(Moment),
    /// Is never heard of again: closes the connection, and nothing but `DeviceHandle::power_on` brings it back. At `Boot`
    /// it never comes up.
    Vanish,
    /// Waits so long first.
    Slow(#[serde(serialize_with = "duration::serialize")] Duration),
    /// Download steps: takes no more than so many bytes a second.
    Throttle(u64),
    /// Download steps: a byte of what arrives is damaged.
    Corrupt,
    /// `Download3`: the image that it runs is not the one that its version stands for, so no difference applies to it.
    OtherBase,
    /// Download steps: tries nothing, and says 5=2 or 7=2.
    FailDownload,
    /// Download steps: fetches nothing, and says 5=0 or 7=0.
    ClaimWithoutDownload,
    /// `Apply8`, `Upload10`: does nothing and answers 1. `Restart6`: stays up. Download steps: as `FailDownload`.
    Refuse,
    /// `Boot`: the old image, whatever was installed.
    ComeBackOld,
    /// `Boot`: an image of this version, wherever it came from.
    ComeBackWith(String),
    /// Result steps: it is done, and the message never goes out.
    LoseResult,
    /// `Connect`, `Information`: connects and never says anything; reads what comes, and notices when it is closed.
    Silent,
    /// Stops reading and saying anything; the connection stays until the handle ends it.
    HalfOpen,
    /// Stops before the step as `DeviceHandle::freeze` makes it stop, and goes on when it is thawed.
    Freeze,
    /// Sends the first half of a message 1, and as `Silent` from then on.
    Stall,
    /// Sends so many messages 1 at once.
    Flood(u32),
    /// Sends bytes that are no message.
    Garbage,
    /// Sends a message whose LENGTH is a lie.
    LyingLength,
    /// Sends a message of a type that nobody knows.
    UnknownMessage,
    /// Sends a message that is the server's to send.
    WrongDirection,
    /// Sends message 5, 7, 9 or 11 with result 0, which nothing asked for.
    Unasked(u8),
    /// Sends these bytes.
    Raw(Vec<u8>),
}

impl FaultKind {
    /// Whether the simulated hardware does it, at `Boot`.
    pub(crate) fn is_hardware(&self) -> bool {
        matches!(self, Self::ComeBackOld | Self::ComeBackWith(_))
    }
}

/// One thing that goes wrong, and how often. In files and on command lines it is a text: see [`ParseFaultError`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Fault {
    pub at: Step,
    pub kind: FaultKind,
    /// `None`: always.
    pub times: Option<u32>,
}

impl TryFrom<String> for Fault {
    type Error = ParseFaultError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Fault {
    /// The first time that `at` is reached.
    pub fn once(at: Step, kind: FaultKind) -> Self {
        Self { at, kind, times: Some(1) }
    }

    /// The first `times` times.
    pub fn times(at: Step, kind: FaultKind, times: u32) -> Self {
        Self { at, kind, times: Some(times) }
    }

    /// Every time.
    pub fn always(at: Step, kind: FaultKind) -> Self {
        Self { at, kind, times: None }
    }
}

/// The faults that a device still has before it. Shared with the handle, which can replace them at any time.
#[derive(Debug, Default)]
pub struct FaultPlan(Mutex<Vec<Fault>>);

/// What strikes at one step: all faults that match are used up together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Strike {
    /// The waits of all `Slow`, together.
    pub(crate) delay: Duration,
    pub(crate) throttle: Option<u64>,
    /// The first that is neither.
    pub(crate) kind: Option<FaultKind>,
}

impl FaultPlan {
    /// Strikes in this order, where several match a step.
    pub fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    /// Forgets what is left, and takes these.
    pub fn replace(&self, faults: Vec<Fault>) {
        *self.lock() = faults;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        // A list is whole after every statement that changes it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the conversation suffers at `step`.
    pub(crate) fn strike(&self, step: Step) -> Strike {
        let mut strike = Strike::default();
        self.take(step, |kind| match kind {
            FaultKind::Slow(delay) => {
                strike.delay += *delay;
                true
            }
            FaultKind::Throttle(rate) => {
                strike.throttle = Some(*rate);
                true
            }
            kind if kind.is_hardware() || strike.kind.is_some() => false,
            kind => {
                strike.kind = Some(kind.clone());
                true
            }
        });
        strike
    }

    /// What the hardware suffers at `step`.
    pub(crate) fn strike_hardware(&self, step: Step) -> Option<FaultKind> {
        let mut struck = None;
        self.take(step, |kind| {
            let takes = struck.is_none() && kind.is_hardware();
            if takes {
                struck = Some(kind.clone());
            }
            takes
        });
        struck
    }

    fn take(&self, step: Step, mut takes: impl FnMut(&FaultKind) -> bool) {
        let mut faults = self.lock();
        for fault in faults.iter_mut().filter(|fault| fault.at == step && fault.times != Some(0)) {
            if takes(&fault.kind)
                && let Some(times) = &mut fault.times
            {
                *times -= 1;
            }
        }
        faults.retain(|fault| fault.times != Some(0));
    }
}

/// The text is not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a fault: want STEP=KIND, STEP=KIND:ARGUMENT, and *TIMES or *always after it, such as \
     restart6=vanish, result9=loseResult*2, boot=comeBackWith:5.0.0, apply8=slow:30s, result5=dropConnection:after"
)]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseFaultError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Fault> {
    let (step, rest) = text.split_once('=')?;
    let at = Step::ALL.into_iter().find(|known| known.name() == step)?;
    let (kind, times) = match rest.rsplit_once('*') {
        None => (rest, Some(1)),
        Some((kind, "always")) => (kind, None),
        Some((kind, times)) => (kind, Some(times.parse().ok()?)),
    };
    let (name, argument) = match kind.split_once(':') {
        None => (kind, None),
        Some((name, argument)) => (name, Some(argument)),
    };
    let moment = || match argument? {
        "before" => Some(Moment::Before),
        "after" => Some(Moment::After),
        _ => None,
    };
    let plain = |kind| argument.is_none().then_some(kind);
    let kind = match name {
        "dropConnection" => FaultKind::DropConnection(moment()?),
        "resetConnection" => FaultKind::ResetConnection(moment()?),
        "slow" => FaultKind::Slow(duration::parse(argument?).ok()?),
        "throttle" => FaultKind::Throttle(argument?.parse().ok()?),
        "comeBackWith" => FaultKind::ComeBackWith(argument?.to_owned()),
        "flood" => FaultKind::Flood(argument?.parse().ok()?),
        "unasked" => FaultKind::Unasked(argument?.parse().ok()?),
        "raw" => FaultKind::Raw(data_encoding::HEXLOWER_PERMISSIVE.decode(argument?.as_bytes()).ok()?),
        "vanish" => plain(FaultKind::Vanish)?,
        "corrupt" => plain(FaultKind::Corrupt)?,
        "otherBase" => plain(FaultKind::OtherBase)?,
        "failDownload" => plain(FaultKind::FailDownload)?,
        "claimWithoutDownload" => plain(FaultKind::ClaimWithoutDownload)?,
        "refuse" => plain(FaultKind::Refuse)?,
        "comeBackOld" => plain(FaultKind::ComeBackOld)?,
        "loseResult" => plain(FaultKind::LoseResult)?,
        "silent" => plain(FaultKind::Silent)?,
        "halfOpen" => plain(FaultKind::HalfOpen)?,
        "freeze" => plain(FaultKind::Freeze)?,
        "stall" => plain(FaultKind::Stall)?,
        "garbage" => plain(FaultKind::Garbage)?,
        "lyingLength" => plain(FaultKind::LyingLength)?,
        "unknownMessage" => plain(FaultKind::UnknownMessage)?,
        "wrongDirection" => plain(FaultKind::WrongDirection)?,
        _ => return None,
    };
    Some(Fault { at, kind, times })
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_at_its_step_as_often_as_it_says() {
        let plan = FaultPlan::new(vec![
            Fault::times(Step::Download3, FaultKind::Corrupt, 2),
            Fault::always(Step::Result9, FaultKind::LoseResult),
        ]);
        assert_eq!(plan.strike(Step::Result5), Strike::default());
        assert_eq!(plan.strike(Step::Download3).kind, Some(FaultKind::Corrupt));
        assert_eq!(plan.strike(Step::Download3).kind, Some(FaultKind::Corrupt));
        assert_eq!(plan.strike(Step::Download3).kind, None);
        for _ in 0..5 {
            assert_eq!(plan.strike(Step::Result9).kind, Some(FaultKind::LoseResult));
        }
    }

    #[test]
    fn a_wait_strikes_together_with_what_else_there_is_and_two_others_one_after_the_other() {
        let second = Duration::from_secs(1);
        let plan = FaultPlan::new(vec![
            Fault::once(Step::Apply8, FaultKind::Slow(second)),
            Fault::once(Step::Apply8, FaultKind::Refuse),
            Fault::once(Step::Apply8, FaultKind::Vanish),
        ]);
        let first = plan.strike(Step::Apply8);
        assert_eq!(first, Strike { delay: second, throttle: None, kind: Some(FaultKind::Refuse) });
        assert_eq!(plan.strike(Step::Apply8).kind, Some(FaultKind::Vanish));
        assert_eq!(plan.strike(Step::Apply8), Strike::default());
    }

    #[test]
    fn the_boot_of_the_hardware_and_the_conversation_about_it_have_their_own_faults() {
        let plan = FaultPlan::new(vec![
            Fault::once(Step::Boot, FaultKind::ComeBackOld),
            Fault::once(Step::Boot, FaultKind::Slow(Duration::from_secs(9))),
        ]);
        assert_eq!(plan.strike(Step::Boot), Strike { delay: Duration::from_secs(9), ..Strike::default() });
        assert_eq!(plan.strike_hardware(Step::Boot), Some(FaultKind::ComeBackOld));
        assert_eq!(plan.strike_hardware(Step::Boot), None);
    }

    #[test]
    fn faults_are_read_from_the_command_line() {
        let cases = [
            ("restart6=vanish", Fault::once(Step::Restart6, FaultKind::Vanish)),
            ("result9=loseResult*2", Fault::times(Step::Result9, FaultKind::LoseResult, 2)),
            ("download3=corrupt*always", Fault::always(Step::Download3, FaultKind::Corrupt)),
            ("boot=comeBackWith:5.0.0", Fault::once(Step::Boot, FaultKind::ComeBackWith("5.0.0".to_owned()))),
            ("apply8=slow:30s", Fault::once(Step::Apply8, FaultKind::Slow(Duration::from_secs(30)))),
            ("result5=dropConnection:after", Fault::once(Step::Result5, FaultKind::DropConnection(Moment::After))),
            ("connect=raw:00ff", Fault::once(Step::Connect, FaultKind::Raw(vec![0, 0xff]))),
        ];
        for (text, fault) in cases {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for bad in ["", "vanish", "restart=vanish", "restart6=vanish:now", "apply8=slow", "result9=loseResult*often"] {
            assert_eq!(bad.parse::<Fault>(), Err(ParseFaultError(bad.to_owned())));
        }
    }
}
