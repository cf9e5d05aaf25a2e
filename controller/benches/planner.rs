//! What the planner costs: a pass over a whole namespace, and an event on the way into it.
//!
//! An event costs what taking it into the index costs, and its share of the pass that follows. Passes merge what has come
//! since the last one, so that this share does not grow with the number of devices, but with what it costs to reach them:
//! the memory of a large fleet is in no cache.
//!
//! Shown is CPU time of the one thread that plans, which waits for nothing: whatever else a machine does, it disturbs that
//! less than it does a clock on the wall. Of some rounds the middle one counts.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to say")]
#![allow(clippy::print_stdout, reason = "it is what a bench is for")]

mod fleet;

use std::hint::black_box;
use std::time::Duration;

use clap::Parser;
use fettle_controller::plan::plan;
use fettle_controller::reconcile::index::{Index, News, Observed};
use rustix::time::{ClockId, clock_gettime};

use self::fleet::{Fleet, Shape};

/// What a pass may take, at so many devices.
const GOAL: (usize, Duration) = (100_000, Duration::from_millis(50));
/// The events that are merged into a pass: one in so many devices has news.
const BURST: usize = 100;
/// A single event is over too soon for a clock: so many are measured together.
const EVENTS: usize = 200;

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// Only rows with this in their name
    #[arg(default_value = "")]
    row: String,
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    devices: Vec<usize>,
    /// How often each is measured
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A line of figures: its name, what is measured, and the fleet that it is measured with.
type Row = (&'static str, Figure, fn(usize) -> Shape);

#[derive(Clone, Copy, PartialEq)]
enum Figure {
    /// A pass.
    Pass,
    /// An event that the index takes in.
    Event,
    /// The same, with its share of a pass for as many as are merged.
    Merged,
}

const ROWS: [Row; 6] = [
    ("pass: all are current", Figure::Pass, Shape::idle),
    ("pass: half a rollout of three steps", Figure::Pass, Shape::rollout),
    ("pass: the same, in groups of 1,000", Figure::Pass, Shape::groups),
    ("pass: with spread, window, budget, failures", Figure::Pass, Shape::limits),
    ("event: into the index", Figure::Event, Shape::rollout),
    ("event: 1 % of the devices, with their pass", Figure::Merged, Shape::rollout),
];

fn main() {
    let Arguments { row, devices, rounds, bench: _ } = Arguments::parse();
    println!("\nThe planner: CPU time of a pass, and for each event; the middle one of {rounds} rounds\n");
    print!("  {:<44}", "devices");
    devices.iter().for_each(|devices| print!(" {devices:>10}"));
    println!("   goal");
    for (name, figure, shape) in ROWS.into_iter().filter(|(name, ..)| name.contains(&row)) {
        print!("  {name:<44}");
        let mut goal = "";
        for devices in &devices {
            let mut fleet = Fleet::new(&shape(*devices));
            let mut each: Vec<Duration> = (0..rounds).map(|_| figure.measure(&mut fleet, *devices)).collect();
            each.sort_unstable();
            let middle = each[each.len() / 2];
            print!(" {:>10}", readable(middle));
            if figure == Figure::Pass && *devices == GOAL.0 {
                goal = if middle < GOAL.1 { "< 50 ms" } else { "< 50 ms missed" };
            }
        }
        println!("   {goal}");
    }
    println!();
}

impl Figure {
    fn measure(self, fleet: &mut Fleet, devices: usize) -> Duration {
        let Fleet { index, now, news } = fleet;
        // What a plan has to say is dropped in the end, and that is part of what it costs.
        match self {
            Self::Pass => cpu_time(|| drop(black_box(plan(black_box(&index.snapshot), *now)))),
            Self::Event => {
                let events = news.burst(EVENTS);
                cpu_time(|| events.into_iter().for_each(|event| take_in(index, event))) / EVENTS as u32
            }
            Self::Merged => {
                let events = news.burst((devices / BURST).max(1));
                let count = events.len() as u32;
                let all = cpu_time(|| {
                    events.into_iter().for_each(|event| take_in(index, event));
                    drop(black_box(plan(black_box(&index.snapshot), *now)));
                });
                all / count
            }
        }
    }
}

fn take_in(index: &mut Index, event: Observed) {
    assert!(index.observe(event) == News::Yes, "an event that says nothing new");
}

fn cpu_time(work: impl FnOnce()) -> Duration {
    let read = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
    };
    let before = read();
    work();
    read() - before
}

fn readable(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    if micros < 1_000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1_000.0) }
}
