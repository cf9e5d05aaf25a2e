//! Against an S3 server that checks signatures (s3s, over a folder).

#[path = "../../../../tests/files_support/s3_server.rs"]
mod s3_server;

use std::net::SocketAddr;

use jiff::SignedDuration;
use object_store::memory::InMemory;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::super::shelf::name;
use super::super::{Arrived, LogNews, LogSettings, Retention};
use super::*;
use crate::files::credentials::{DeviceId, Permission};

const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    store: Arc<LogStore>,
    news: mpsc::Receiver<LogNews>,
    stop: CancellationToken,
    keeper: Option<tokio::task::JoinHandle<()>>,
}

impl Rig {
    fn open(dir: &TempDir, bucket: Bucket, retention: Retention) -> Self {
        let (sender, news) = mpsc::channel(16);
        let settings = LogSettings {
            dir: dir.path().join("logs"),
            place: String::new(),
            retention,
            bucket: Some(bucket),
            upload_size: 1 << 20,
            news: sender,
        };
        let store = Arc::new(LogStore::open(settings, &Registry::new()).unwrap());
        Self { store, news, stop: CancellationToken::new(), keeper: None }
    }

    fn keep(&mut self) {
        self.keeper = Some(tokio::spawn(Arc::clone(&self.store).keep(Arc::new(|| true), self.stop.clone())));
    }

    async fn end(mut self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.take() {
            keeper.await.unwrap();
        }
    }

    async fn bring(&mut self, command: u32, content: &[u8]) -> Result<Arrived, LogError> {
        let expires = Timestamp::from_second(4_000_000_000).unwrap();
        let permission = Permission::upload(DeviceId::of_uid("uid"), command, expires);
        self.store.expect_upload(&permission, "sw-1", 3).unwrap();
        let mut upload = self.store.begin(&permission).await?;
        upload.write(content).await?;
        upload.finish().await?;
        match self.news.try_recv().unwrap() {
            LogNews::Arrived(arrived) => Ok(arrived),
            LogNews::NoRoom(_) => panic!("it has arrived"),
        }
    }

    /// How many logs wait in the folder.
    fn waiting(&self) -> usize {
        self.store.state().shelf.len()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reached).await.is_ok(), "never: {what}");
}

/// A server over the folder `s3` of `dir`, with the bucket `logs`.
fn serve(dir: &TempDir, listener: TcpListener) -> AbortOnDropHandle<()> {
    let root = dir.path().join("s3");
    std::fs::create_dir_all(root.join("logs")).unwrap();
    s3_server::serve(&root, listener)
}

fn bucket(address: SocketAddr, secret: &str) -> Bucket {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = AmazonS3Builder::new().with_access_key_id("AKIAFETTLE").with_secret_access_key(secret);
    let endpoint = format!("http://{address}");
    Bucket::with(keys, "s3://logs/fettle/eu", Some("eu-central-1"), Some(&endpoint)).unwrap()
}

#[tokio::test]
async fn what_arrives_is_put_into_the_bucket_where_its_status_says() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut rig = Rig::open(&dir, bucket(listener.local_addr().unwrap(), "s3cr3t"), Retention::default());
    let _server = serve(&dir, listener);
    rig.keep();
    let log = rig.bring(7, b"log").await.unwrap();
    until("the log is put", || rig.waiting() == 0).await;
    let path = log.location.strip_prefix("s3://").unwrap();
    assert!(path.starts_with("logs/fettle/eu/sw-1/") && path.ends_with("-7.log"), "{path}");
    assert_eq!(std::fs::read(dir.path().join("s3").join(path)).unwrap(), b"log");
    assert!(!dir.path().join("logs/sw-1").exists(), "it stays in one place");
    rig.end().await;
}

#[tokio::test]
async fn what_cannot_be_put_waits_over_a_restart_and_is_put_then() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _server = serve(&dir, listener);
    let mut rig = Rig::open(&dir, bucket(address, "wr0ng"), Retention::default());
    rig.keep();
    let log = rig.bring(7, b"log").await.unwrap();
    until("an attempt fails", || rig.store.metrics.put_failed.get() > 0).await;
    assert_eq!(rig.waiting(), 1);
    rig.end().await;

    let mut rig = Rig::open(&dir, bucket(address, "s3cr3t"), Retention::default());
    assert_eq!(rig.waiting(), 1);
    rig.keep();
    until("the log is put", || rig.waiting() == 0).await;
    let path = log.location.strip_prefix("s3://").unwrap();
    assert_eq!(std::fs::read(dir.path().join("s3").join(path)).unwrap(), b"log");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_answer_while_it_is_looked_through_holds_up_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut rig = Rig::open(&dir, bucket(listener.local_addr().unwrap(), "s3cr3t"), Retention::default());
    rig.keep();
    let (_asked, _) = listener.accept().await.unwrap();
    let begun = tokio::time::Instant::now();
    rig.end().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "it waited for the bucket");
}

#[tokio::test]
async fn a_folder_that_is_full_of_what_waits_takes_in_no_more_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let narrow = [Retention { logs: 1, ..Retention::default() }, Retention { bytes: 4096, ..Retention::default() }];
    for (command, retention) in (1..).zip(narrow) {
        let dir = tempfile::tempdir_in(dir.path()).unwrap();
        let mut rig = Rig::open(&dir, in_memory(), retention);
        rig.bring(command, b"log").await.unwrap();
        let refused = rig.bring(command + 10, b"log").await;
        assert!(matches!(refused, Err(LogError::Full { .. })), "{refused:?}");
        assert_eq!(rig.waiting(), 1);
        rig.store.tidy_all(Timestamp::now() + SignedDuration::from_hours(24 * 365));
        assert_eq!(rig.waiting(), 1, "it is not too old to be put");
    }
}

fn in_memory() -> Bucket {
    let prefix = Path::parse("fettle").unwrap();
    Bucket { store: Arc::new(InMemory::new()), prefix, place: "s3://logs/fettle".into() }
}

#[tokio::test]
async fn the_oldest_go_from_the_bucket_by_age_by_number_of_a_device_and_in_all_and_by_bytes() {
    let now = Timestamp::now();
    let hours = SignedDuration::from_hours;
    let wide = Retention { bytes: 1000, logs: 1000, per_device: 1000, age: hours(1000) };
    for (retention, left) in [
        (wide, vec!["a/1", "a/2", "b/3", "a/4"]),
        (Retention { age: SignedDuration::from_mins(150), ..wide }, vec!["b/3", "a/4"]),
        (Retention { per_device: 1, ..wide }, vec!["b/3", "a/4"]),
        (Retention { logs: 3, ..wide }, vec!["a/2", "b/3", "a/4"]),
        (Retention { bytes: 25, ..wide }, vec!["b/3", "a/4"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let bucket = in_memory();
        let rig = Rig::open(&dir, bucket.clone(), retention);
        for (hour, device) in (1..).zip(["a", "a", "b", "a"]) {
            let key = Key { name: name(now - hours(5 - hour), hour as u32), device: device.into() };
            bucket.put(&key, vec![0; 10]).await.unwrap();
        }
        for theirs in
            ["fettle/readme.txt", "fettle/a/notes", "fettle/a/b/20200101T000000Z-1.log", "x/20200101T000000Z-1.log"]
        {
            bucket.store.put(&Path::parse(theirs).unwrap(), PutPayload::from(vec![0; 10])).await.unwrap();
        }
        rig.store.sweep(&bucket, now).await;
        let mut kept = bucket.list().await.unwrap();
        let mut names = Vec::new();
        while let Some(key) = kept.oldest().cloned() {
            let (_, command) = key.name.strip_suffix(".log").unwrap().split_once('-').unwrap();
            names.push(format!("{}/{command}", key.device));
            kept.remove(&key);
        }
        assert_eq!(names, left, "{retention:?}");
        let all: Vec<_> = bucket.store.list(None).try_collect().await.unwrap();
        assert_eq!(all.len(), left.len() + 4, "what others keep there is theirs");
    }
}

#[test]
fn a_place_is_a_bucket_with_or_without_a_prefix() {
    let place = |text: &str| Bucket::of_s3(text, Some("x"), Some("http://127.0.0.1:9")).map(|bucket| bucket.place);
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert_eq!(place("s3://logs").unwrap(), "s3://logs");
    assert_eq!(place("s3://logs/a/b/").unwrap(), "s3://logs/a/b");
    for wrong in ["", "logs", "s3://", "s3:///a", "http://logs/a", "s3://logs/a//b"] {
        assert!(matches!(place(wrong), Err(BucketError::Place(_))), "{wrong}");
    }
}
