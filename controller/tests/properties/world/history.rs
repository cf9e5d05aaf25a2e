//! What befalls a fleet: one happening after the other, each with how far the clock jumps; and how a history that breaks a
//! rule is cut down to the part of it that matters.

use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::strategy::{NewTree, ValueTree};
use proptest::test_runner::TestRunner;

/// The clock jumps, then something happens, then the controller plans.
#[derive(Debug, Clone)]
pub struct Tick {
    pub jump: Jump,
    pub event: Event,
}

/// How far the clock jumps.
#[derive(Debug, Clone, Copy)]
pub enum Jump {
    Seconds(i64),
    /// To when the plan wants to look again.
    Wake,
    /// To when a device or a bridge does something next.
    Act,
    /// Nobody plans for so many minutes, and then it is a controller that has only just begun to look.
    Outage(i64),
}

/// How a device takes its next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temper {
    CrcMismatch,
    DownloadFails,
    NotTransferred,
    ApplyFails,
    ComesBackUnchanged,
    ComesBackStrange,
    /// It never comes back from its restart.
    Bricks,
    /// It comes back so many minutes after its try has ended.
    Late(i64),
    /// It loses its connection in the download, for so many seconds.
    Vanishes(i64),
    /// It comes back, and loses its connection so often within the next minutes.
    Loops(u8),
    /// Its watchdog takes it back so many minutes after.
    FallsBack(i64),
}

/// What happens. Numbers of devices and groups are taken modulo how many there are.
#[derive(Debug, Clone)]
pub enum Event {
    Nothing,
    /// So many tries of the device go that way.
    Temper(usize, Temper, u8),
    /// The device is away by itself for so many minutes.
    Away(usize, i64),
    /// Somebody installs a release by hand.
    Reflash(usize, usize),
    Kill(usize),
    Start(usize),
    PauseGroup(usize, bool),
    PauseRollout(usize, bool),
    Approve(usize),
    Abort(usize, u8),
    RetryAll(usize),
    RetryOne(usize),
    AcceptFailures(usize, Option<u32>),
    Hold(usize, bool),
    ApproveDevice(usize, bool),
    /// The device goes to that group; to both for 2; to none for 3.
    Move(usize, usize),
    /// The device goes to another site and pair.
    Relabel(usize, usize),
    /// The group wants that release, and that configuration.
    Want(usize, usize, usize),
    Limit(usize, u32),
    /// A freeze begins in so many minutes, for so many.
    Freeze(usize, i64, i64),
    Thaw(usize),
    Verified(usize, bool),
    /// Of the writes of the next plan only those are carried out whose bit is set.
    Lose(u8),
    /// The grants of the next plan are not answered; they are carried out later, if at all.
    Doubt(bool),
}

fn jump() -> impl Strategy<Value = Jump> {
    prop_oneof![
        8 => prop::sample::select(vec![0, 1, 2, 7, 20, 61]).prop_map(Jump::Seconds),
        7 => Just(Jump::Act),
        4 => Just(Jump::Wake),
        1 => prop_oneof![3 => 1..30i64, 1 => Just(24 * 60 * 3)].prop_map(Jump::Outage),
    ]
}

fn temper() -> impl Strategy<Value = Temper> {
    prop_oneof![
        2 => Just(Temper::CrcMismatch),
        1 => Just(Temper::DownloadFails),
        1 => Just(Temper::NotTransferred),
        1 => Just(Temper::ApplyFails),
        2 => Just(Temper::ComesBackUnchanged),
        1 => Just(Temper::ComesBackStrange),
        1 => Just(Temper::Bricks),
        2 => (0..30i64).prop_map(Temper::Late),
        2 => prop::sample::select(vec![3, 70, 2000]).prop_map(Temper::Vanishes),
        1 => (1..4u8).prop_map(Temper::Loops),
        1 => (1..90i64).prop_map(Temper::FallsBack),
    ]
}

fn fault() -> impl Strategy<Value = Event> {
    let device = 0..40usize;
    prop_oneof![
        6 => (device.clone(), temper(), 1..5u8).prop_map(|(device, temper, times)| Event::Temper(device, temper, times)),
        6 => (device.clone(), prop::sample::select(vec![0, 0, 1, 2, 2, 10, 10, 40, 60 * 24 * 4]))
            .prop_map(|(device, minutes)| Event::Away(device, minutes)),
        1 => (device, 0..5usize).prop_map(|(device, release)| Event::Reflash(device, release)),
        2 => (0..2usize).prop_map(Event::Kill),
        4 => (0..2usize).prop_map(Event::Start),
        1 => (0..5usize, prop::bool::weighted(0.9)).prop_map(|(release, yes)| Event::Verified(release, yes)),
        3 => any::<u8>().prop_map(Event::Lose),
        2 => any::<bool>().prop_map(Event::Doubt),
    ]
}

fn person() -> impl Strategy<Value = Event> {
    let device = 0..40usize;
    let group = 0..3usize;
    let seldom = prop::bool::weighted(0.25);
    prop_oneof![
        2 => (group.clone(), seldom).prop_map(|(group, yes)| Event::PauseGroup(group, yes)),
        2 => (group.clone(), seldom).prop_map(|(group, yes)| Event::PauseRollout(group, yes)),
        6 => group.clone().prop_map(Event::Approve),
        2 => (group.clone(), 0..6u8).prop_map(|(group, how)| Event::Abort(group, how)),
        4 => group.clone().prop_map(Event::RetryAll),
        4 => device.clone().prop_map(Event::RetryOne),
        2 => (group.clone(), prop::option::of(0..5u32)).prop_map(|(group, many)| Event::AcceptFailures(group, many)),
        3 => (device.clone(), prop::bool::weighted(0.3)).prop_map(|(device, yes)| Event::Hold(device, yes)),
        1 => (device.clone(), prop::bool::weighted(0.8)).prop_map(|(device, yes)| Event::ApproveDevice(device, yes)),
        2 => (device.clone(), prop::sample::select(vec![0, 0, 0, 0, 1, 1, 1, 1, 2, 3]))
            .prop_map(|(device, to)| Event::Move(device, to)),
        1 => (device, 0..30usize).prop_map(|(device, to)| Event::Relabel(device, to)),
        4 => (group.clone(), prop::sample::select(vec![0, 1, 2, 2, 3, 3, 4, 4, 4, 5]), 0..3usize).prop_map(|(group, release, config)| Event::Want(group, release, config)),
        1 => (group.clone(), 1..5u32).prop_map(|(group, limit)| Event::Limit(group, limit)),
        1 => (group.clone(), 0..90i64, 1..600i64).prop_map(|(group, from, long)| Event::Freeze(group, from, long)),
        2 => group.prop_map(Event::Thaw),
    ]
}

/// What can befall a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// Anything.
    Hostile,
    /// Devices do as they are told, and are away now and then; people want another configuration, go back, pause that, and let
    /// it go on.
    Fickle,
    /// Devices do as they are told; a bridge and controllers die, and lose what they write; people only let things go on.
    Honest,
}

fn honest() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => Just(Event::Nothing),
        1 => prop_oneof![Just(Event::Kill(0)), Just(Event::Start(0))],
        2 => (0..3usize).prop_map(Event::Approve),
        1 => any::<u8>().prop_map(Event::Lose),
        1 => any::<bool>().prop_map(Event::Doubt),
    ]
}

fn fickle() -> impl Strategy<Value = Event> {
    let group = 0..3usize;
    let often = prop::bool::weighted(0.4);
    prop_oneof![
        10 => Just(Event::Nothing),
        2 => (group.clone(), prop::sample::select(vec![3, 3, 4, 4, 5]), 0..3usize)
            .prop_map(|(group, release, config)| Event::Want(group, release, config)),
        2 => (group.clone(), 1..3u8).prop_map(|(group, how)| Event::Abort(group, how)),
        2 => (group.clone(), often).prop_map(|(group, yes)| Event::PauseGroup(group, yes)),
        1 => (group.clone(), often).prop_map(|(group, yes)| Event::PauseRollout(group, yes)),
        2 => group.clone().prop_map(Event::Approve),
        2 => (0..40usize, prop::sample::select(vec![0, 2, 40])).prop_map(|(device, minutes)| Event::Away(device, minutes)),
        1 => (group, 1..5u32).prop_map(|(group, limit)| Event::Limit(group, limit)),
        1 => any::<u8>().prop_map(Event::Lose),
    ]
}

fn tick(luck: Luck) -> BoxedStrategy<Tick> {
    let event = match luck {
        Luck::Hostile => prop_oneof![16 => Just(Event::Nothing), 4 => fault(), 2 => person()].boxed(),
        Luck::Fickle => fickle().boxed(),
        Luck::Honest => honest().boxed(),
    };
    (jump(), event).prop_map(|(jump, event)| Tick { jump, event }).boxed()
}

/// Histories of so many ticks. One that breaks a rule is cut down by halves, quarters, eighths: what can be left out is.
#[derive(Debug, Clone, Copy)]
pub struct Histories {
    pub ticks: usize,
    pub luck: Luck,
}

impl Strategy for Histories {
    type Tree = Cut;
    type Value = Vec<Tick>;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let tick = tick(self.luck);
        let kept = (0..self.ticks).map(|_| Ok(tick.new_tree(runner)?.current())).collect::<Result<Vec<_>, Reason>>()?;
        let chunk = kept.len().div_ceil(2);
        Ok(Cut { kept, left_out: None, chunk, at: 0 })
    }
}

type Reason = proptest::test_runner::Reason;

/// A history while it is being cut down.
pub struct Cut {
    kept: Vec<Tick>,
    /// What is being tried to be left out, and where it was.
    left_out: Option<(usize, Vec<Tick>)>,
    chunk: usize,
    at: usize,
}

impl Cut {
    fn leave_out_next(&mut self) -> bool {
        while self.chunk > 0 {
            if self.at < self.kept.len() {
                let end = (self.at + self.chunk).min(self.kept.len());
                self.left_out = Some((self.at, self.kept.drain(self.at..end).collect()));
                return true;
            }
            (self.chunk, self.at) = (self.chunk / 2, 0);
        }
        false
    }
}

impl ValueTree for Cut {
    type Value = Vec<Tick>;

    fn current(&self) -> Vec<Tick> {
        self.kept.clone()
    }

    fn simplify(&mut self) -> bool {
        self.left_out = None;
        self.leave_out_next()
    }

    /// What was left out mattered. Even if nothing else is to be tried, it is run once more: only so is it known to the
    /// runner as what breaks the rule.
    fn complicate(&mut self) -> bool {
        let Some((at, ticks)) = self.left_out.take() else { return false };
        self.at = at + ticks.len();
        self.kept.splice(at..at, ticks);
        self.leave_out_next();
        true
    }
}

pub fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}
