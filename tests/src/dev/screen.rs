//! How progress is shown: as a table that changes in place on a terminal, else as a line now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

use super::progress::{Row, Section, State};

/// Without a terminal, a line at most this often.
const LINE_EVERY: Duration = Duration::from_secs(3);

const BAR: usize = 20;
const GAP: &str = "  ";

/// Where progress goes.
pub(super) struct Screen {
    started: Instant,
    /// How many lines of the last table are on the terminal; none where there is no terminal.
    drawn: Option<usize>,
    colours: bool,
    last_line: Option<(Instant, String)>,
}

impl Screen {
    /// For a table of `rows` lines and `columns` columns, where there is a terminal that has room for it.
    pub(super) fn open(rows: usize, columns: usize) -> Self {
        let out = io::stdout();
        let room =
            tcgetwinsize(&out).is_ok_and(|size| usize::from(size.ws_row) > rows && usize::from(size.ws_col) >= columns);
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Screen { started: Instant::now(), drawn: (out.is_terminal() && room).then_some(0), colours, last_line: None }
    }

    /// Shows the state of things, if it is time.
    pub(super) fn show(&mut self, sections: &[Section]) {
        match self.drawn {
            Some(drawn) => {
                let lines = table(sections, self.started.elapsed(), self.colours);
                let mut text = if drawn > 0 { format!("\x1b[{drawn}F\x1b[J") } else { String::new() };
                lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
                self.drawn = Some(lines.len());
                print(&text);
            }
            None => {
                let line = summary(sections);
                let last = self.last_line.as_ref();
                let is_due = last.is_none_or(|(at, last)| at.elapsed() >= LINE_EVERY && *last != line);
                if is_due && !line.is_empty() {
                    print(&format!("{:>4} s  {line}\n", self.started.elapsed().as_secs()));
                    self.last_line = Some((Instant::now(), line));
                }
            }
        }
    }

    /// Shows the last state, whether it is time or not.
    pub(super) fn finish(&mut self, sections: &[Section]) {
        if let Some((at, _)) = &mut self.last_line {
            *at = self.started;
        }
        self.show(sections);
    }
}

/// Prints to standard output, where a program's result belongs.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody looking is no reason to stop.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn summary(sections: &[Section]) -> String {
    let section = |section: &Section| {
        let count = |is: fn(State) -> bool| section.rows.iter().filter(|row| is(row.state)).count();
        let moving = count(|state| matches!(state, State::Fetching | State::Restarting | State::Applying));
        format!("{}: {} of {} current, {moving} on their way", section.name, section.current(), section.rows.len())
    };
    sections.iter().map(section).collect::<Vec<_>>().join("; ")
}

/// The groups side by side.
fn table(sections: &[Section], elapsed: Duration, colours: bool) -> Vec<String> {
    let columns: Vec<Vec<Cell>> = sections.iter().map(column).collect();
    let widths: Vec<usize> =
        columns.iter().map(|column| column.iter().map(|cell| cell.text.chars().count()).max().unwrap_or(0)).collect();
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut lines: Vec<String> = (0..height)
        .map(|index| {
            let cells = columns.iter().zip(&widths).map(|(column, width)| match column.get(index) {
                Some(cell) => cell.padded(*width, colours),
                None => " ".repeat(*width),
            });
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
        })
        .collect();
    lines.push(format!("{} s", elapsed.as_secs()));
    lines
}

struct Cell {
    text: String,
    colour: &'static str,
}

impl Cell {
    fn plain(text: String) -> Self {
        Cell { text, colour: "" }
    }

    fn padded(&self, width: usize, colours: bool) -> String {
        let padding = " ".repeat(width - self.text.chars().count());
        if colours && !self.colour.is_empty() {
            format!("{}{}\x1b[0m{padding}", self.colour, self.text)
        } else {
            format!("{}{padding}", self.text)
        }
    }
}

fn column(section: &Section) -> Vec<Cell> {
    let (current, total) = (section.current(), section.rows.len());
    let full = (current * BAR).checked_div(total).unwrap_or(0);
    let bar = format!("{}{} {current} of {total} current", "█".repeat(full), "░".repeat(BAR - full));
    let title = Cell { text: format!("{} → {}", section.name, section.desired), colour: "\x1b[1m" };
    let longest = |of: fn(&Row) -> &str| section.rows.iter().map(|row| of(row).len()).max().unwrap_or(0);
    let widths = (longest(|row| &row.name), longest(|row| &row.version), longest(|row| &row.config));
    let head = [title, Cell::plain(bar), Cell::plain(String::new())];
    head.into_iter().chain(section.rows.iter().map(|row| line(row, widths))).collect()
}

fn line(row: &Row, (names, versions, configs): (usize, usize, usize)) -> Cell {
    let Row { name, version, config, state } = row;
    let (word, colour) = match state {
        State::Unseen => ("away", "\x1b[2m"),
        State::Waiting => ("waiting", "\x1b[2m"),
        State::Fetching => ("downloading", "\x1b[33m"),
        State::Restarting => ("restarting", "\x1b[33m"),
        State::Applying => ("applying", "\x1b[33m"),
        State::Failed(_) => ("failed", "\x1b[31m"),
        State::Current => ("current", "\x1b[32m"),
    };
    Cell { text: format!("{name:names$} {version:versions$} {config:configs$} {word:11}"), colour }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, states: &[State]) -> Section {
        let row = |(index, state): (usize, &State)| Row {
            name: format!("{name}-{index}"),
            version: "4.9.0".to_owned(),
            config: "16".to_owned(),
            state: *state,
        };
        Section {
            name: name.to_owned(),
            desired: "5.2.1".to_owned(),
            rows: states.iter().enumerate().map(row).collect(),
        }
    }

    #[test]
    fn groups_stand_side_by_side_with_their_devices_below() {
        let sections = [section("a", &[State::Current, State::Restarting]), section("b", &[State::Waiting])];
        let lines = table(&sections, Duration::from_secs(7), false);
        assert_eq!(
            lines,
            [
                "a → 5.2.1                            b → 5.2.1",
                "██████████░░░░░░░░░░ 1 of 2 current  ░░░░░░░░░░░░░░░░░░░░ 0 of 1 current",
                "",
                "a-0 4.9.0 16 current                 b-0 4.9.0 16 waiting",
                "a-1 4.9.0 16 restarting",
                "7 s",
            ]
        );
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let sections = [section("a", &[State::Current]), section("b", &[State::Waiting])];
        let coloured = table(&sections, Duration::ZERO, true);
        let plain = table(&sections, Duration::ZERO, false);
        for (coloured, plain) in coloured.iter().zip(plain) {
            let mut bare = String::new();
            let mut rest = coloured.as_str();
            while let Some((before, after)) = rest.split_once('\x1b') {
                bare.push_str(before);
                rest = after.split_once('m').unwrap().1;
            }
            bare.push_str(rest);
            assert_eq!(bare.trim_end(), plain);
        }
    }

    #[test]
    fn without_a_terminal_a_line_says_how_far_each_group_is() {
        let sections = [section("a", &[State::Current, State::Applying]), section("b", &[State::Failed("TimedOut")])];
        assert_eq!(summary(&sections), "a: 1 of 2 current, 1 on their way; b: 0 of 1 current, 0 on their way");
    }
}
