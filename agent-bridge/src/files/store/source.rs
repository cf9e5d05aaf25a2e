//! Where content comes from, and what can go wrong on the way.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use reqwest::{Client, Response, StatusCode, Url, redirect};

/// Redirects that are followed: enough for a release page that points at a store that points at a mirror.
pub(super) const MAX_REDIRECTS: usize = 5;

/// A place that content is fetched from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A regular file, named relative to the folder that is mounted for this.
    File { path: String },
    /// `http` or `https`; a user and a password in the URL are used, and not printed.
    Http { url: String },
}

/// Names the place without what may be secret in it: user, password and query of a URL.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(f, "file {path}"),
            Self::Http { url } => match Url::parse(url) {
                Ok(url) => {
                    write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                    if let Some(port) = url.port() {
                        write!(f, ":{port}")?;
                    }
                    f.write_str(url.path())
                }
                Err(_) => f.write_str("the URL"),
            },
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// Why content cannot be had. Each is a sentence for a condition, beside its [`reason`](Self::reason).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{origin} does not exist{detail}")]
    NotFound { origin: String, detail: String },
    #[error("{origin} has SHA-256 {}, but {} is declared", HEXLOWER.encode(found), HEXLOWER.encode(expected))]
    HashMismatch { origin: String, expected: [u8; 32], found: [u8; 32] },
    #[error("{origin} is larger than {limit} bytes, the limit for a file")]
    TooLarge { origin: String, limit: u64 },
    #[error("{origin} cannot be fetched: {detail}")]
    Unreachable { origin: String, detail: String },
    #[error("{origin} cannot be fetched: nothing came for {} s", after.as_secs())]
    Stalled { origin: String, after: Duration },
    #[error("{origin} is not allowed: {detail}")]
    InvalidPath { origin: String, detail: &'static str },
    #[error("the cache of {limit} bytes has no room for {origin}: the rest is in use")]
    CacheFull { origin: String, limit: u64 },
    #[error("the cache cannot {doing} {origin}: {detail}")]
    Io { origin: String, doing: &'static str, detail: String },
}

impl SourceError {
    /// The reason of a condition: from a closed list, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::HashMismatch { .. } => "HashMismatch",
            Self::TooLarge { .. } => "TooLarge",
            Self::Unreachable { .. } => "Unreachable",
            Self::Stalled { .. } => "Stalled",
            Self::InvalidPath { .. } => "InvalidPath",
            Self::CacheFull { .. } => "CacheFull",
            Self::Io { .. } => "Io",
        }
    }
}

/// Opens a file of `files_dir`. Symbolic links are followed within it (mounted volumes consist of them), and nothing leads
/// out of it. What someone could swap in between the check and the opening would still have to have the declared hash.
pub(super) fn open_file(files_dir: &Path, path: &str, origin: &str) -> Result<File, SourceError> {
    let invalid = |detail| SourceError::InvalidPath { origin: origin.to_owned(), detail };
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            SourceError::NotFound { origin: origin.to_owned(), detail: String::new() }
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => invalid("it is not a file name"),
        _ => SourceError::Io { origin: origin.to_owned(), doing: "read", detail: error.to_string() },
    };

    let relative = Path::new(path);
    if path.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(invalid("a path must be relative and must not contain '..'"));
    }
    let root = files_dir.canonicalize().map_err(unreadable)?;
    let real: PathBuf = root.join(relative).canonicalize().map_err(unreadable)?;
    if !real.starts_with(&root) {
        return Err(invalid("it leads out of the folder of files"));
    }
    // Before opening: to open a pipe would wait for its other end.
    if !real.metadata().map_err(unreadable)?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    File::open(&real).map_err(unreadable)
}

/// The client for all HTTP sources. Blocks: it reads the certificates that the system trusts.
pub(super) fn client(stall: Duration) -> reqwest::Result<Client> {
    // main installs the provider first thing; tests of this crate alone have no main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("fettle-bridge/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::limited(MAX_REDIRECTS))
        .referer(false)
        .connect_timeout(stall)
        // A source is asked once in a long while: no connection is kept for the next time.
        .pool_max_idle_per_host(0)
        .build()
}

/// Sends the request and judges the head of the response.
pub(super) async fn request(
    client: &Client,
    url: &str,
    origin: &str,
    limit: u64,
    stall: Duration,
) -> Result<Response, SourceError> {
    let invalid = |detail| SourceError::InvalidPath { origin: origin.to_owned(), detail };
    let parsed = Url::parse(url).map_err(|_| invalid("it is not a URL"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(invalid("only http and https URLs are fetched"));
    }
    let response = tokio::time::timeout(stall, client.get(parsed).send())
        .await
        .map_err(|_| SourceError::Stalled { origin: origin.to_owned(), after: stall })?
        .map_err(|error| http_error(error, origin, stall))?;
    match response.status() {
        StatusCode::OK => {}
        status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => {
            return Err(SourceError::NotFound {
                origin: origin.to_owned(),
                detail: format!(" (the server answered {status})"),
            });
        }
        status => {
            let detail = format!("the server answered {status}");
            return Err(SourceError::Unreachable { origin: origin.to_owned(), detail });
        }
    }
    if response.content_length().is_some_and(|size| size > limit) {
        return Err(SourceError::TooLarge { origin: origin.to_owned(), limit });
    }
    Ok(response)
}

/// An error of the HTTP client as ours, without the URL, which may hold a secret.
pub(super) fn http_error(error: reqwest::Error, origin: &str, stall: Duration) -> SourceError {
    let origin = origin.to_owned();
    if error.is_timeout() {
        return SourceError::Stalled { origin, after: stall };
    }
    if error.is_redirect() {
        return SourceError::Unreachable { origin, detail: format!("it redirects more than {MAX_REDIRECTS} times") };
    }
    // The client says what it was doing, and only its innermost cause says what was wrong.
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    SourceError::Unreachable { origin, detail: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_without_its_secrets() {
        let source = Source::Http { url: "https://user:pa55@images.example:8443/s5700.bin?token=t0k#x".into() };
        assert_eq!(source.to_string(), "https://images.example:8443/s5700.bin");
        assert_eq!(format!("{source:?}"), "Source(https://images.example:8443/s5700.bin)");
        assert_eq!(Source::Http { url: "pa55".into() }.to_string(), "the URL");
    }

    #[test]
    fn what_leads_out_of_the_folder_or_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir_all(files.join("..data/models")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(files.join("..data/models/a.bin"), "inside").unwrap();
        std::os::unix::fs::symlink("..data/models", files.join("models")).unwrap();
        std::os::unix::fs::symlink("../secret", files.join("escape")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", files.join("absolute")).unwrap();
        let pipe = files.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();

        let reason = |path: &str| open_file(&files, path, "file x").map(|_| ()).map_err(|e| e.reason());
        assert_eq!(reason("models/a.bin"), Ok(()), "links within the folder are how volumes are mounted");
        assert_eq!(reason("./models/a.bin"), Ok(()));
        for path in
            ["", "/etc/passwd", "../secret", "models/../../secret", "escape", "absolute", "models", "pipe", "a\0b"]
        {
            assert_eq!(reason(path), Err("InvalidPath"), "{path:?}");
        }
        for path in ["none", "models/a.bin/b"] {
            assert_eq!(reason(path), Err("NotFound"), "{path:?}");
        }
    }

    #[test]
    fn a_mismatch_names_both_hashes() {
        let error = SourceError::HashMismatch { origin: "file a".into(), expected: [0x11; 32], found: [0x22; 32] };
        let (expected, found) = ("11".repeat(32), "22".repeat(32));
        assert_eq!(error.to_string(), format!("file a has SHA-256 {found}, but {expected} is declared"));
    }
}
