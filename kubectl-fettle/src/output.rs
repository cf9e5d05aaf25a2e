//! Standard output and standard error: whether they are terminals, how wide, and what happens when nobody reads any more.

use std::io::{self, IsTerminal as _, Write as _};

use rustix::termios::tcgetwinsize;
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::paint::{Colours, Line, Look};

/// When lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// Data in place of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Yaml,
}

/// How lines look on standard output.
pub fn look(colour: Colour) -> Look {
    let out = io::stdout();
    let is_terminal = out.is_terminal();
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = match colour {
        Colour::Always => Colours::Yes,
        Colour::Auto if is_terminal && !unwanted => Colours::Yes,
        Colour::Auto | Colour::Never => Colours::No,
    };
    Look { colours, width: is_terminal.then(|| size().map_or(80, |(columns, _)| columns)) }
}

/// The columns and rows of the terminal, where standard output is one.
pub fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && rows > 0).then_some((columns, rows))
}

/// Prints lines.
///
/// # Errors
/// [`write()`]
pub fn lines(look: Look, lines: impl IntoIterator<Item = Line>) -> Result<(), Failure> {
    write(&look.text(lines))
}

/// Prints data.
///
/// # Errors
/// [`write()`]
pub fn data(format: Format, data: &impl Serialize) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(data).map(|text| text + "\n").map_err(|error| error.to_string()),
        Format::Yaml => serde_yaml::to_string(data).map_err(|error| error.to_string()),
    };
    write(&text.map_err(|error| Failure::new(Code::Error, error))?)
}

/// Writes to standard output. Nobody reading any more, as behind `| head`, is the end, and no error.
///
/// # Errors
/// It cannot be written to.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(Code::Error, format!("standard output cannot be written to: {error}"))),
    }
}

/// Says something that is not the result, on standard error.
pub fn note(text: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}
