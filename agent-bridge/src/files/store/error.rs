//! Why content cannot be had: a closed list, each with a sentence that names the source without its secrets.

use std::time::Duration;

use data_encoding::HEXLOWER;

/// Why content cannot be had. Each is a sentence for a condition, beside its [`reason`](Self::reason).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{origin} does not exist{detail}")]
    NotFound { origin: String, detail: String },
    #[error("{origin} has SHA-256 {}, but {} is declared", HEXLOWER.encode(found), HEXLOWER.encode(expected))]
    HashMismatch { origin: String, expected: [u8; 32], found: [u8; 32] },
    #[error("{origin} is larger than {limit} bytes, the limit for a file")]
    TooLarge { origin: String, limit: u64 },
    #[error("{origin} cannot be fetched: the server wants other credentials (it answered {status}{})", said(code))]
    Unauthorized { origin: String, status: u16, code: Option<String> },
    #[error("{origin} cannot be fetched: its server's certificate is not to be trusted: {detail}")]
    CertificateInvalid { origin: String, detail: String },
    #[error("{origin} cannot be fetched: {detail}")]
    RedirectRefused { origin: String, detail: String },
    #[error("{origin} cannot be fetched: {detail}")]
    Unreachable { origin: String, detail: String },
    #[error("{origin} cannot be fetched: nothing came for {} s", after.as_secs())]
    Stalled { origin: String, after: Duration },
    #[error("{origin} is not allowed: {detail}")]
    InvalidPath { origin: String, detail: &'static str },
    #[error("{origin} cannot be fetched as it is declared: {detail}")]
    InvalidSource { origin: String, detail: String },
    #[error("{origin} is not an artifact that can be used: {detail}")]
    InvalidArtifact { origin: String, detail: String },
    #[error("the cache of {limit} bytes has no room for {origin}: the rest is in use")]
    CacheFull { origin: String, limit: u64 },
    #[error("the disk of the cache is full: there is no room for {origin}")]
    DiskFull { origin: String },
    #[error("the cache cannot {doing} {origin}: {detail}")]
    Io { origin: String, doing: &'static str, detail: String },
    #[error("the signature is not one of the declared key over this image: {detail}")]
    SignatureInvalid { detail: &'static str },
}

impl SourceError {
    /// The reason of a condition: from a closed list, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::HashMismatch { .. } => "HashMismatch",
            Self::TooLarge { .. } => "TooLarge",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::CertificateInvalid { .. } => "CertificateInvalid",
            Self::RedirectRefused { .. } => "RedirectRefused",
            Self::Unreachable { .. } => "Unreachable",
            Self::Stalled { .. } => "Stalled",
            Self::InvalidPath { .. } => "InvalidPath",
            Self::InvalidSource { .. } => "InvalidSource",
            Self::InvalidArtifact { .. } => "InvalidArtifact",
            Self::CacheFull { .. } => "CacheFull",
            Self::DiskFull { .. } => "DiskFull",
            Self::Io { .. } => "Io",
            Self::SignatureInvalid { .. } => "SignatureInvalid",
        }
    }

    /// What becomes of what came before this.
    pub(super) fn aftermath(&self) -> Aftermath {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } => Aftermath::Resume,
            // Such as a token that has expired, or a certificate: what came before is as good as it was.
            Self::Unauthorized { .. } | Self::CertificateInvalid { .. } => Aftermath::Keep,
            Self::NotFound { .. }
            | Self::HashMismatch { .. }
            | Self::TooLarge { .. }
            | Self::RedirectRefused { .. }
            | Self::InvalidPath { .. }
            | Self::InvalidSource { .. }
            | Self::InvalidArtifact { .. }
            | Self::CacheFull { .. }
            | Self::DiskFull { .. }
            | Self::Io { .. }
            | Self::SignatureInvalid { .. } => Aftermath::Discard,
        }
    }
}

/// What becomes of what a source has sent before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aftermath {
    /// The way to the source broke: it is asked for the rest.
    Resume,
    /// It is kept for whoever asks next.
    Keep,
    Discard,
}

fn said(code: &Option<String>) -> String {
    code.as_ref().map(|code| format!(", {code}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_both_hashes() {
        let error = SourceError::HashMismatch { origin: "file a".into(), expected: [0x11; 32], found: [0x22; 32] };
        let (expected, found) = ("11".repeat(32), "22".repeat(32));
        assert_eq!(error.to_string(), format!("file a has SHA-256 {found}, but {expected} is declared"));
    }
}
