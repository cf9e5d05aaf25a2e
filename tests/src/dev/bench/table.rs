//! The figures of one size for a person; pure.

use super::bare::Bare;
use super::fleet::IMAGE_SIZE;
use super::run::{Figures, Idle, Process, Wave};

/// What is aimed at.
const DEVICES_PER_SECOND: f64 = 100.0;
const WRITES_PER_DEVICE: f64 = 3.0;
/// Of each of these at this many devices.
const MEMORY: (usize, u64) = (1_000, 64 << 20);
const WITH_GOALS: &[&str] = &["fettle-controller", "fettle-bridge"];

const MIB: f64 = (1 << 20) as f64;

/// A line of figures: what, how much, the goal, and what there is to say besides.
struct Line {
    what: String,
    value: String,
    goal: String,
    remark: String,
}

impl Line {
    fn new(what: &str, value: String) -> Self {
        Self { what: what.to_owned(), value, goal: String::new(), remark: String::new() }
    }

    fn goal(mut self, goal: String, met: bool) -> Self {
        self.goal = if met { goal } else { format!("{goal} missed") };
        self
    }

    fn remark(mut self, remark: String) -> Self {
        self.remark = remark;
        self
    }
}

/// The table of a size.
pub(super) fn of(figures: &Figures) -> String {
    let Figures { devices, upgrade, with_config, in_steps, idle, processes, other_cpu_seconds, bare } = figures;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "\n{devices} devices, {cores} cores: each fetches {IMAGE_SIZE} and takes 2 s to install it; maxUnavailable 100%, no logs\n\n"
    );
    let mut lines = speed(upgrade, bare);
    lines.extend(writes(upgrade, Some(idle)));
    if let Some(wave) = with_config {
        lines.push(Line::new(
            "with a configuration besides: devices per second",
            format!("{:.1}", wave.devices_per_second),
        ));
        lines.extend(writes(wave, None));
    }
    let goal = format!("≥ {DEVICES_PER_SECOND}");
    lines.push(
        Line::new("in three steps (1, 10 %, all): devices per second", format!("{:.1}", in_steps.devices_per_second))
            .goal(goal, in_steps.devices_per_second >= DEVICES_PER_SECOND)
            .remark(format!("in {:.1} s", in_steps.seconds)),
    );
    lines.extend(writes(in_steps, None));
    for Line { what, value, goal, remark } in lines {
        text.push_str(format!("  {what:<50} {value:>9}   {goal:<14} {remark}").trim_end());
        text.push('\n');
    }
    text.push_str("\n  process                       peak memory   goal            CPU s   ms per device\n");
    for Process { name, peak_memory, upgrade_cpu_seconds } in processes {
        let (limited, goal) = MEMORY;
        let has_goal = *devices == limited && WITH_GOALS.iter().any(|program| name.starts_with(program));
        let goal_text = match (has_goal, *peak_memory <= goal) {
            (false, _) => String::new(),
            (true, true) => format!("≤ {} MiB", goal >> 20),
            (true, false) => format!("≤ {} MiB missed", goal >> 20),
        };
        text.push_str(&format!(
            "  {name:<27} {:>9.1} MiB   {goal_text:<14} {upgrade_cpu_seconds:>6.2} {:>10.2}\n",
            *peak_memory as f64 / MIB,
            upgrade_cpu_seconds * 1000.0 / *devices as f64
        ));
    }
    let row = |name: &str, cpu_seconds: f64, each: &str| {
        format!("  {name:<27} {:>13}   {:<14} {cpu_seconds:>6.2} {each:>10}\n", "", "")
    };
    text.push_str(&row("all else on this machine", *other_cpu_seconds, ""));
    let each = bare.api_server_cpu_seconds * 1000.0 / *devices as f64;
    text.push_str(&row("kube-apiserver, bare client", bare.api_server_cpu_seconds, &format!("{each:.2}")));
    let seconds = upgrade.seconds;
    text.push_str(&format!(
        "\n  CPU is that of the {seconds:.1} s of the upgrade; memory is the highest of a process's life.\n"
    ));
    if !upgrade.other_writes.is_empty() {
        let others: Vec<String> = upgrade.other_writes.iter().map(|(what, count)| format!("{count} {what}")).collect();
        text.push_str(&format!("  Other writes during the upgrade: {}.\n", others.join(", ")));
    }
    text
}

fn speed(upgrade: &Wave, bare: &Bare) -> Vec<Line> {
    let Wave { seconds, devices_per_second, steady_devices_per_second, first_command_seconds, .. } = upgrade;
    let Bare { devices_per_second: reached, watch_latency_seconds, .. } = bare;
    let rate = |rate: Option<f64>| rate.map_or("none".to_owned(), |rate| format!("{rate:.1}"));
    let first = first_command_seconds.map_or("none".to_owned(), |seconds| format!("{:.0} ms", seconds * 1000.0));
    vec![
        Line::new("devices per second, apply to all current", format!("{devices_per_second:.1}"))
            .goal(format!("≥ {DEVICES_PER_SECOND}"), *devices_per_second >= DEVICES_PER_SECOND)
            .remark(format!("in {seconds:.1} s")),
        Line::new("  from the first tenth to the last", rate(*steady_devices_per_second)),
        Line::new("  a bare client that makes the same API writes", format!("{reached:.1}")).remark(format!(
            "in {:.1} s; Fettle reaches {:.0} % of it",
            bare.seconds,
            devices_per_second / reached * 100.0
        )),
        Line::new("from apply to the first command on the wire", first)
            .remark(format!("a bare client's watch: {:.0} ms", watch_latency_seconds * 1000.0)),
    ]
}

fn writes(wave: &Wave, idle: Option<&Idle>) -> Vec<Line> {
    let Wave { writes_per_device, conflicts, device_writes, .. } = wave;
    // A device more than the goal is one too many; shown are two digits.
    let mut lines = vec![
        Line::new("API writes per device upgrade", format!("{writes_per_device:.2}"))
            .goal(format!("{WRITES_PER_DEVICE}"), *writes_per_device <= WRITES_PER_DEVICE)
            .remark(format!("{device_writes} writes, {conflicts} conflicts besides")),
    ];
    if let Some(Idle { seconds, device_writes }) = idle {
        lines.push(
            Line::new("API writes of all idle devices", format!("{device_writes}"))
                .goal("0".to_owned(), *device_writes == 0)
                .remark(format!("in {seconds:.0} s")),
        );
    }
    lines
}
