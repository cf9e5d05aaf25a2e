//! How the plugin ends, as the shell and a pipeline see it.

use std::process::ExitCode;

/// Why a command did not do what it was to do: a sentence, and what it is to a pipeline.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

/// The exit codes. They are documented, and do not change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The API server could not be reached, or said no.
    Error = 1,
    /// What was asked makes no sense; clap's own errors end with this, too.
    Usage = 2,
    /// The rollout has failed, was aborted or rolled back; the manifests have faults.
    Failed = 3,
    /// Nothing goes on unless a person does something.
    Person = 4,
    /// It did not come about in time.
    Timeout = 5,
    /// There is no such object.
    NotFound = 6,
    /// What was asked does not fit what there is now: nothing was changed.
    Refused = 7,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
