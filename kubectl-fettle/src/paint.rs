//! Text with meaning: lines of spans, which become coloured or plain text of a width.
//!
//! What is said decides the tone, a terminal decides whether that is a colour. Nothing here knows what is shown.

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What a text is to the one who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    /// The name of what follows.
    Title,
    /// There, and not what anybody looks for.
    Faint,
    Good,
    /// It moves.
    Busy,
    /// Somebody has to do something, or it waits.
    Waiting,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Plain => Style::new(),
            Self::Title => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => colour(AnsiColor::Green),
            Self::Busy => colour(AnsiColor::Cyan),
            Self::Waiting => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
        }
    }
}

/// A part of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub text: String,
    pub tone: Tone,
}

/// A line, without its end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line(pub Vec<Span>);

impl Line {
    pub fn new() -> Self {
        Self::default()
    }

    /// With more text at its end.
    #[must_use]
    pub fn with(mut self, tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        // Whatever comes from devices and people's manifests must not speak to the terminal.
        let text = if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text };
        if !text.is_empty() {
            self.0.push(Span { text, tone });
        }
        self
    }

    #[must_use]
    pub fn plain(self, text: impl Into<String>) -> Self {
        self.with(Tone::Plain, text)
    }

    /// With blanks up to a column.
    #[must_use]
    pub fn to_column(self, column: usize) -> Self {
        let missing = column.saturating_sub(self.width());
        self.plain(" ".repeat(missing))
    }

    /// The columns that it takes.
    pub fn width(&self) -> usize {
        self.0.iter().map(|span| span.text.width()).sum()
    }

    /// Cut to a width, with a sign that it was.
    #[must_use]
    pub fn fit(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        let mut cut = Self::new();
        for Span { text, tone } in self.0 {
            let mut kept = String::new();
            let mut is_full = false;
            for character in text.chars() {
                let columns = character.width().unwrap_or(0);
                if columns > left {
                    is_full = true;
                    break;
                }
                left -= columns;
                kept.push(character);
            }
            cut = cut.with(tone, kept);
            if is_full {
                break;
            }
        }
        cut.with(Tone::Faint, "…")
    }

    /// As it is written out.
    pub fn render(&self, colours: Colours) -> String {
        let mut out = String::new();
        for (index, Span { text, tone }) in self.0.iter().enumerate() {
            let is_last = index + 1 == self.0.len();
            let text = if is_last { text.trim_end() } else { text };
            let style = tone.style();
            if colours == Colours::No || style.is_plain() {
                out.push_str(text);
            } else {
                out.push_str(&format!("{style}{text}{style:#}"));
            }
        }
        if colours == Colours::No { out.trim_end().to_owned() } else { out }
    }
}

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    Yes,
    No,
}

/// How lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub colours: Colours,
    /// Of the terminal; `None`: there is none, and nothing is cut.
    pub width: Option<usize>,
}

impl Look {
    /// Lines as text.
    pub fn text(self, lines: impl IntoIterator<Item = Line>) -> String {
        let mut out = String::new();
        for line in lines {
            let line = match self.width {
                Some(width) => line.fit(width),
                None => line,
            };
            out.push_str(&line.render(self.colours));
            out.push('\n');
        }
        out
    }
}

/// How far something is, as a bar of so many columns, in eighths of one.
pub fn bar(done: i64, of: i64, columns: usize) -> (String, String) {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let (done, of) = (usize::try_from(done.max(0)).unwrap_or(0), usize::try_from(of.max(0)).unwrap_or(0));
    let eighths = (done.min(of) * columns * 8).checked_div(of).unwrap_or(0);
    let full = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    let rest = "░".repeat(columns - full.chars().count());
    (full, rest)
}

/// Rows of cells as lines, each column as wide as its widest cell; the last is not padded.
pub fn table(rows: Vec<Vec<Line>>) -> Vec<Line> {
    const GAP: usize = 3;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Line::width).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: Vec<Line>| {
        let mut line = Line::new();
        let mut at = 0;
        for (cell, width) in row.into_iter().zip(&widths) {
            line = line.to_column(at);
            line.0.extend(cell.0);
            at += width + GAP;
        }
        line
    };
    rows.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_cut_where_the_terminal_ends() {
        let line = Line::new().plain("access-").with(Tone::Bad, "berlin");
        assert_eq!(line.clone().fit(13).render(Colours::No), "access-berlin");
        assert_eq!(line.clone().fit(12).render(Colours::No), "access-berl…");
        assert_eq!(line.fit(3).width(), 3);
    }

    #[test]
    fn what_a_device_says_cannot_speak_to_the_terminal() {
        let line = Line::new().plain("4.9\x1b[2J\n\u{9b}1m");
        assert!(!line.render(Colours::Yes).contains(char::is_control));
    }

    #[test]
    fn colours_are_only_there_where_they_are_wanted() {
        let line = Line::new().with(Tone::Good, "current").with(Tone::Plain, " now");
        assert_eq!(line.render(Colours::No), "current now");
        assert_eq!(line.render(Colours::Yes), "\x1b[32mcurrent\x1b[0m now");
    }

    #[test]
    fn a_bar_is_as_wide_as_it_was_asked_for_and_full_only_at_the_end() {
        for done in 0..=97 {
            let (full, rest) = bar(done, 97, 20);
            assert_eq!(full.width() + rest.width(), 20);
            assert_eq!(rest.is_empty() && full.chars().all(|c| c == '█'), done == 97);
        }
        assert_eq!(bar(0, 0, 4), (String::new(), "░░░░".to_owned()));
        assert_eq!(bar(1, 2, 3), ("█▌".to_owned(), "░".to_owned()));
    }
}
