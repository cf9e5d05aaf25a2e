//! What is wrong with a template, in words that tell nothing of what is in it, and in words that do.

use minijinja::ErrorKind;

use super::words::ValueTooLarge;

/// So much of what the engine says is passed on: it may quote a value.
const DETAIL_MAX: usize = 240;

/// Why a template cannot be rendered, for any device or for one.
#[derive(Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Of the source, from 1.
    pub line: Option<usize>,
    pub fault: Fault,
    /// In the engine's words, which may quote the source and values.
    detail: Option<String>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// It is no text in UTF-8.
    NotText,
    /// It is larger than a template may be.
    SourceTooLarge,
    /// It does not follow the syntax.
    Syntax,
    /// It uses what Jinja has and templates here have not.
    NotSupported,
    /// It names a variable, filter, test or function that there is none of.
    UnknownName,
    /// It uses what is not defined: a label that the device has not.
    Undefined,
    /// It does with a value what cannot be done with such a value.
    Operation,
    /// A value in it grows beyond what one may have.
    ValueTooLarge,
    /// It takes too many steps.
    TooLong,
    /// What it makes is larger than what a device can get.
    ResultTooLarge,
}

impl Fault {
    const fn words(self) -> &'static str {
        match self {
            Self::NotText => "it is not text in UTF-8",
            Self::SourceTooLarge => "it is larger than the 256 KiB that a template may have",
            Self::Syntax => "it does not follow the syntax of templates",
            Self::NotSupported => "it uses what templates here do not have",
            Self::UnknownName => "it uses a name that there is none of",
            Self::Undefined => "it uses what is not defined for the device, such as a label that it does not have",
            Self::Operation => "it does what cannot be done with such a value",
            Self::ValueTooLarge => "a value in it grows beyond 16 KiB, or 4,096 items",
            Self::TooLong => "it takes more steps than a rendering may",
            Self::ResultTooLarge => "it makes more than the 1 MiB that a device can get",
        }
    }
}

/// Whether what is said of a template may quote it: its source, and values in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quotes {
    Yes,
    /// It comes from a Secret, or may.
    No,
}

impl TemplateError {
    pub(super) fn of(fault: Fault) -> Self {
        Self { line: None, fault, detail: None }
    }

    pub(super) fn at(line: usize, fault: Fault, detail: impl Into<String>) -> Self {
        Self { line: Some(line), fault, detail: Some(cut(&detail.into())) }
    }

    pub(super) fn from_engine(error: &minijinja::Error) -> Self {
        let is_too_large =
            std::error::Error::source(error).and_then(|source| source.downcast_ref::<ValueTooLarge>()).is_some();
        let fault = match error.kind() {
            _ if is_too_large => Fault::ValueTooLarge,
            ErrorKind::SyntaxError | ErrorKind::BadEscape => Fault::Syntax,
            ErrorKind::UndefinedError => Fault::Undefined,
            ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::UnknownFunction
            | ErrorKind::UnknownMethod => Fault::UnknownName,
            ErrorKind::OutOfFuel => Fault::TooLong,
            // The engine may get further kinds: whatever they are, the template did what could not be done.
            _ => Fault::Operation,
        };
        Self { line: error.line(), fault, detail: error.detail().map(cut) }
    }

    /// At the same place, for another reason, of which the engine knows nothing.
    pub(super) fn because(self, fault: Fault) -> Self {
        Self { fault, detail: None, ..self }
    }

    /// In a sentence.
    pub fn sentence(&self, quotes: Quotes) -> String {
        let what = match (&self.detail, quotes) {
            (Some(detail), Quotes::Yes) => detail.as_str(),
            (Some(_), Quotes::No) | (None, _) => self.fault.words(),
        };
        match self.line {
            Some(line) => format!("line {line}: {what}"),
            None => what.to_owned(),
        }
    }
}

/// Never quotes, either.
impl std::fmt::Debug for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, fault, detail: _ } = self;
        f.debug_struct("TemplateError").field("line", line).field("fault", fault).finish_non_exhaustive()
    }
}

/// Never quotes.
impl std::fmt::Display for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sentence(Quotes::No))
    }
}

impl std::error::Error for TemplateError {}

fn cut(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    match text.char_indices().nth(DETAIL_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}
