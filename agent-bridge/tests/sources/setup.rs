//! A store over folders of its own, and an image.

use std::path::PathBuf;
use std::time::Duration;

use fettle_bridge::files::store::{Content, Need, Patience, Source, SourceError, Store};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::pki::Authority;

/// The largest file that is fetched.
pub const MAX_FILE: u64 = 4 << 20;

pub struct Setup {
    pub dir: TempDir,
    pub store: Store,
    pub authority: Authority,
    /// Large enough that it arrives in many pieces.
    pub image: Vec<u8>,
}

impl Setup {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let www = dir.path().join("www");
        std::fs::create_dir(&www).unwrap();
        // Only pauses that nobody has to wait for; a silence is waited out as long as it takes.
        let patience = Patience { stall: Duration::from_secs(60), pause: Duration::from_millis(1) };
        let store = Store::open_with(&dir.path().join("cache"), &www, MAX_FILE, 16 << 20, patience).unwrap();
        let image: Vec<u8> =
            (0..2_000_003_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(www.join("image.bin"), &image).unwrap();
        Self { dir, store, authority: Authority::new(), image }
    }

    /// What servers serve.
    pub fn www(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.image).into()
    }

    /// Fetches what is to be the image.
    pub async fn fetch(&self, source: &Source) -> Result<Content, SourceError> {
        self.store.fetch(source, self.sha256(), Need::Device).await
    }

    /// Fetches the image, which has to arrive as it is.
    pub async fn fetches(&self, source: &Source) {
        let content = self.fetch(source).await.unwrap();
        let cached = self.dir.path().join("cache").join(data_encoding::HEXLOWER.encode(&content.sha256));
        assert!(std::fs::read(cached).unwrap() == self.image, "the cache holds something else");
    }

    /// The reason for which the image cannot be had. Nothing is left of it, and none of these secrets is in what is said.
    pub async fn refused(&self, source: &Source, secrets: &[&str]) -> &'static str {
        let error = self.fetch(source).await.unwrap_err();
        for text in [error.to_string(), format!("{error:?}"), source.to_string(), format!("{source:?}")] {
            for secret in secrets {
                assert!(!text.contains(secret), "{secret} in: {text}");
            }
        }
        error.reason()
    }
}
