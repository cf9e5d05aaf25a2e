//! The tree of `kubectl fettle get`: group, rollout, steps, devices. Pure.

use jiff::Timestamp;

use crate::paint::{Line, Tone, bar};
use crate::time;
use crate::view::{DeviceView, FleetView, GroupView, RolloutView, State, StepState, StepView};

const BAR: usize = 20;
/// Of more devices in one place than this, only those are shown that fail or move: the others are counted.
const FEW: usize = 16;
/// Of each of those, so many.
const SHOWN: usize = 8;

/// What is shown.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    pub now: Timestamp,
    /// Every device, however many there are.
    pub all: bool,
    /// Sentences go over several lines of this width; `None`: they do not.
    pub width: Option<usize>,
}

impl Tree {
    /// A namespace, or some groups of it.
    pub fn fleet(&self, fleet: &FleetView) -> Vec<Line> {
        let mut lines = Vec::new();
        for group in &fleet.groups {
            if !lines.is_empty() {
                lines.push(Line::new());
            }
            lines.extend(self.group(group));
        }
        if !fleet.others.is_empty() {
            if !lines.is_empty() {
                lines.push(Line::new());
            }
            let names = Columns::of(fleet.others.iter());
            lines.push(Line::new().with(Tone::Title, "devices of no group"));
            self.devices(&mut lines, "", &fleet.others, names);
        }
        lines
    }

    fn group(&self, group: &GroupView) -> Vec<Line> {
        let mut head = Line::new().with(Tone::Title, &group.name);
        if let Some(desired) = &group.desired {
            head = head.plain(" → ").with(Tone::Title, desired);
        }
        let phase = group.phase.as_deref().unwrap_or("new");
        let mut lines = vec![head.plain("   ").with(tone_of_phase(phase), phase)];
        let (full, rest) = bar(group.counts.current, group.counts.total, BAR);
        let progress = Line::new().with(Tone::Good, full).with(Tone::Faint, rest).plain(" ");
        let message = match (&group.message, group.is_unseen) {
            (_, true) => "the controller has not looked at it since it was changed (is fettle-controller running?)",
            (Some(message), false) => message,
            (None, false) => "",
        };
        let tone = if group.is_unseen { Tone::Waiting } else { tone_of_message(phase) };
        lines.extend(self.wrapped(progress, tone, message));
        let granted = group.rollout.iter().flat_map(|rollout| &rollout.steps).flat_map(|step| &step.devices);
        let columns = Columns::of(granted.chain(&group.devices));
        match &group.rollout {
            Some(rollout) => self.rollout(&mut lines, rollout, &group.devices, columns),
            None => self.devices(&mut lines, "", &group.devices, columns),
        }
        lines
    }

    fn rollout(&self, lines: &mut Vec<Line>, rollout: &RolloutView, rest: &[DeviceView], columns: Columns) {
        let mut line = Line::new().plain(&rollout.name);
        let ago = |at: Timestamp| time::between(at, self.now);
        match (rollout.started_at, rollout.completed_at) {
            (_, Some(at)) => line = line.with(Tone::Faint, format!(", complete since {}", ago(at))),
            (Some(at), None) => line = line.with(Tone::Faint, format!(", began {} ago", ago(at))),
            (None, None) => {}
        }
        if let Some(end) = rollout.estimated_end.filter(|end| *end > self.now) {
            line = line.with(Tone::Faint, format!(", done in about {}", time::between(self.now, end)));
        }
        if let Some(waiting) = &rollout.waiting {
            let until = waiting.until.filter(|until| *until > self.now);
            let until = until.map_or_else(String::new, |until| format!(", {} to go", time::between(self.now, until)));
            let since = ago(waiting.since);
            line = line.with(Tone::Waiting, format!(", waits for {} since {since}{until}", waiting.reason));
        }
        lines.push(line);
        match rollout.steps.as_slice() {
            // All at once: a step would say nothing.
            [only] => {
                let all: Vec<DeviceView> = only.devices.iter().chain(rest).cloned().collect();
                self.devices(lines, "", &all, columns);
            }
            steps => {
                for (index, step) in steps.iter().enumerate() {
                    let is_last = index + 1 == steps.len() && rest.is_empty();
                    let (branch, indent) = branch(is_last);
                    lines.push(self.step(branch, step));
                    self.devices(lines, indent, &step.devices, columns);
                }
                if !rest.is_empty() {
                    let (branch, indent) = branch(true);
                    lines.push(Line::new().with(Tone::Faint, branch).with(Tone::Faint, "not taken on by a step"));
                    self.devices(lines, indent, rest, columns);
                }
            }
        }
    }

    fn step(&self, branch: &str, step: &StepView) -> Line {
        let (mark, tone, word) = match step.state {
            StepState::Done => ("✔", Tone::Good, ""),
            StepState::Running => ("▶", Tone::Busy, ""),
            StepState::Soaking => ("◷", Tone::Waiting, "soaks"),
            StepState::WaitingForApproval => ("?", Tone::Waiting, "waits for approval"),
            StepState::Empty => ("?", Tone::Waiting, "has nobody who could begin"),
            StepState::GoesBack => ("↩", Tone::Bad, "goes back"),
            StepState::ToCome => ("·", Tone::Faint, ""),
        };
        let mut line = Line::new().with(Tone::Faint, branch).with(tone, mark);
        line = line.plain(format!(" step {} of {}: {}", step.number, step.of, step.about));
        if let Some(soak) = &step.soak {
            line = line.with(Tone::Faint, format!(", soak {soak}"));
        }
        if step.needs_approval {
            let approval = if step.is_approved { ", approved" } else { ", wants approval" };
            line = line.with(Tone::Faint, approval);
        }
        if let (Some(size), Some(granted)) = (step.size, step.granted)
            && step.state != StepState::Done
        {
            line = line.plain(format!("   {granted} of {size} taken on"));
        }
        if !word.is_empty() {
            let left = step.soak_until.filter(|until| step.state == StepState::Soaking && *until > self.now);
            let left = left.map_or_else(String::new, |until| format!(", {} to go", time::between(self.now, until)));
            line = line.plain("   ").with(tone, format!("{word}{left}"));
        }
        line
    }

    /// Devices below something. Of many, those that nobody looks for are only counted.
    fn devices(&self, lines: &mut Vec<Line>, indent: &str, devices: &[DeviceView], columns: Columns) {
        let mut entries: Vec<Line> = Vec::new();
        let mut ordered: Vec<&DeviceView> = devices.iter().collect();
        if self.all || devices.len() <= FEW {
            entries.extend(ordered.into_iter().map(|device| self.device(device, columns)));
        } else {
            ordered.sort_by(|a, b| (a.state, a.reason, &a.name).cmp(&(b.state, b.reason, &b.name)));
            for alike in ordered.chunk_by(|a, b| (a.state, a.reason) == (b.state, b.reason)) {
                let shown = match alike {
                    [DeviceView { state: State::Failed | State::Updating, .. }, ..] => alike.len().min(SHOWN),
                    [_] => 1,
                    _ => 0,
                };
                entries.extend(alike[..shown].iter().map(|device| self.device(device, columns)));
                let [first, ..] = alike else { continue };
                let hidden = alike.len() - shown;
                if hidden > 0 {
                    let more = if shown > 0 { "more " } else { "" };
                    let (mark, tone) = mark(first);
                    let text = format!("{hidden} {more}{}", state_in_words(first));
                    entries.push(Line::new().with(tone, mark).plain(" ").with(tone, text));
                }
            }
        }
        let last = entries.len();
        for (index, entry) in entries.into_iter().enumerate() {
            let (branch, _) = branch(index + 1 == last);
            let mut line = Line::new().with(Tone::Faint, format!("{indent}{branch}"));
            line.0.extend(entry.0);
            lines.push(line);
        }
    }

    fn device(&self, device: &DeviceView, columns: Columns) -> Line {
        let (mark, tone) = mark(device);
        let mut line = Line::new().with(tone, mark).plain(format!(" {:width$}   ", device.name, width = columns.name));
        line = line.plain(format!("{:width$}   ", runs(device), width = columns.runs));
        line = line.with(tone, state_in_words(device));
        if let Some(doing) = &device.doing {
            let since = time::between(doing.since, self.now);
            line = line.plain(format!(", {} {since}", doing.phase));
            if let Some(percent) = doing.percent {
                let (full, rest) = bar(percent.into(), 100, BAR / 2);
                line = line.plain(" ").with(Tone::Busy, full).with(Tone::Faint, rest).plain(format!(" {percent}%"));
            }
            if let Some(text) = &doing.text {
                line = line.with(Tone::Faint, format!(" ({text})"));
            }
            if doing.attempt > 1 {
                line = line.with(Tone::Waiting, format!(", try {}", doing.attempt));
            }
        }
        if let Some(seen) = device.last_seen.filter(|_| device.state == State::Offline) {
            line = line.with(Tone::Faint, format!(", seen {} ago", time::between(seen, self.now)));
        }
        if let Some(message) = &device.message {
            line = line.with(Tone::Faint, format!(": {message}"));
        }
        line
    }

    /// A sentence behind something, over as many lines as it needs, each under the first.
    fn wrapped(&self, first: Line, tone: Tone, text: &str) -> Vec<Line> {
        let indent = first.width();
        let room = self.width.map_or(usize::MAX, |width| width.saturating_sub(indent).max(20));
        let mut lines = vec![first];
        let mut used = 0;
        for word in text.split_whitespace() {
            let columns = unicode_width::UnicodeWidthStr::width(word);
            if used > 0 && used + 1 + columns > room {
                lines.push(Line::new().to_column(indent));
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                let gap = if used > 0 { " " } else { "" };
                *line = std::mem::take(line).with(tone, format!("{gap}{word}"));
                used += gap.len() + columns;
            }
        }
        lines
    }
}

/// How wide names and versions are.
#[derive(Debug, Clone, Copy)]
struct Columns {
    name: usize,
    runs: usize,
}

impl Columns {
    fn of<'a>(devices: impl Iterator<Item = &'a DeviceView>) -> Self {
        let widths = devices.map(|device| (device.name.chars().count(), runs(device).chars().count()));
        let (name, runs) = widths.fold((0, 0), |(a, b), (name, runs)| (a.max(name), b.max(runs)));
        Self { name, runs }
    }
}

/// What a device runs, and where it is on its way to.
fn runs(device: &DeviceView) -> String {
    let version = device.version.as_deref().unwrap_or("?");
    let to = device.to.as_ref().map(|to| (to.version.as_deref(), to.config.as_deref()));
    match to {
        Some((Some(to), _)) => format!("{version} → {to}"),
        Some((None, Some(config))) => format!("{version} → config {config}"),
        Some((None, None)) | None => version.to_owned(),
    }
}

fn branch(is_last: bool) -> (&'static str, &'static str) {
    if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") }
}

fn mark(device: &DeviceView) -> (&'static str, Tone) {
    match device.state {
        State::Current => ("✔", Tone::Good),
        State::Updating => ("▶", Tone::Busy),
        State::Failed => ("✖", Tone::Bad),
        State::Offline => ("◌", Tone::Faint),
        State::Waiting => ("·", Tone::Plain),
        State::None => ("·", Tone::Faint),
    }
}

fn state_in_words(device: &DeviceView) -> String {
    match (device.state, device.reason) {
        (State::Current | State::Updating, _) | (_, None) => device.state.as_str().to_owned(),
        (State::None, Some(reason)) => reason.to_owned(),
        (state, Some(reason)) if reason.eq_ignore_ascii_case(state.as_str()) => state.as_str().to_owned(),
        (State::Failed | State::Waiting | State::Offline, Some(reason)) => {
            format!("{} ({reason})", device.state.as_str())
        }
    }
}

fn tone_of_phase(phase: &str) -> Tone {
    match phase {
        "Complete" | "Empty" => Tone::Good,
        "Progressing" => Tone::Busy,
        "Stalled" | "RollingBack" | "RolledBack" => Tone::Bad,
        _ => Tone::Waiting,
    }
}

/// A message says why, where something does not go on.
fn tone_of_message(phase: &str) -> Tone {
    match tone_of_phase(phase) {
        Tone::Bad => Tone::Bad,
        _ => Tone::Plain,
    }
}
