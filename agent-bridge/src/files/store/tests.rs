//! The cache as a whole, on a real folder, with a small HTTP server of its own.

mod broken;
mod changed;

use super::reader::Disk;
use super::*;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

const MAX_FILE: u64 = 4096;
const QUICK: Patience = Patience { stall: Duration::from_secs(30), pause: Duration::from_millis(1) };

struct Setup {
    dir: TempDir,
    store: Store,
}

impl Setup {
    fn new() -> Self {
        Self::with_cache(1 << 20)
    }

    fn with_cache(cache_size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let store = open(&dir, cache_size);
        Self { dir, store }
    }

    /// One that finds sooner than others that a source has stalled.
    fn impatient(self) -> Self {
        self.patient(Patience { stall: Duration::from_millis(50), ..QUICK }, 1 << 20)
    }

    /// One that loses no time between two connections.
    fn quick(self) -> Self {
        self.patient(QUICK, 1 << 20)
    }

    fn patient(self, patience: Patience, cache_size: u64) -> Self {
        let (cache, files) = (self.dir.path().join("cache"), self.dir.path().join("files"));
        let store = Store::open_with(&cache, &files, MAX_FILE, cache_size, patience).unwrap();
        Self { dir: self.dir, store }
    }

    /// A bridge that was started again on the same folder.
    fn restarted(self) -> Self {
        let store = open(&self.dir, 1 << 20);
        Self { dir: self.dir, store }
    }

    fn file(&self, name: &str, content: &[u8]) -> Source {
        std::fs::write(self.dir.path().join("files").join(name), content).unwrap();
        Source::File { path: name.into() }
    }

    fn cached(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path().join("cache"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn read(&self, sha256: &[u8; 32]) -> Option<Vec<u8>> {
        let readable = self.store.open_content(&ContentId::of(sha256)).await.unwrap()?;
        let mut all = Vec::new();
        while (all.len() as u64) < readable.size() {
            let offset = all.len() as u64;
            readable.load(offset).await.unwrap();
            readable.with_bytes(offset, 1000, Disk::Loaded, |bytes| all.extend_from_slice(bytes)).unwrap();
        }
        Some(all)
    }
}

fn open(dir: &TempDir, cache_size: u64) -> Store {
    let (cache, files) = (dir.path().join("cache"), dir.path().join("files"));
    Store::open(&cache, &files, MAX_FILE, cache_size).unwrap()
}

fn web(url: &str) -> Source {
    Source::Http(HttpSource { url: url.into(), ..HttpSource::default() })
}

fn sha256(content: &[u8]) -> [u8; 32] {
    Sha256::digest(content).into()
}

/// Answers each connection with what `answer` makes of the request line; the connection then stays open, silent.
struct Http {
    url: String,
    requests: Arc<AtomicUsize>,
    _server: AbortOnDropHandle<()>,
}

impl Http {
    async fn new(answer: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let (base, count) = (url.clone(), Arc::clone(&requests));
        let server = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let line = String::from_utf8(request).unwrap().lines().next().unwrap().to_owned();
                stream.write_all(&answer(&line, &base)).await.unwrap();
                open.push(stream);
            }
        });
        Self { url, requests, _server: AbortOnDropHandle::new(server) }
    }

    fn source(&self, path: &str) -> Source {
        web(&format!("{}{path}", self.url))
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    response.extend_from_slice(body);
    response
}

#[tokio::test]
async fn a_file_is_fetched_verified_and_kept_under_its_hash() {
    let setup = Setup::new();
    let content = b"123456789";
    let fetched = setup.store.fetch(&setup.file("a.bin", content), sha256(content), Need::Device).await.unwrap();
    // The check value of CRC-32/IEEE.
    assert_eq!(fetched, Content { sha256: sha256(content), size: 9, crc: 0xcbf4_3926 });
    assert_eq!(setup.cached(), [hex(&sha256(content))]);
    assert_eq!(setup.store.get(&sha256(content)).await, Some(fetched));
    assert_eq!(setup.read(&sha256(content)).await.unwrap(), content);
    let mode = std::fs::metadata(setup.dir.path().join("cache").join(hex(&sha256(content)))).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn content_has_the_crc_of_every_kind_and_is_read_for_it_once() {
    let setup = Setup::new();
    let content =
        setup.store.fetch(&setup.file("a.bin", b"123456789"), sha256(b"123456789"), Need::Device).await.unwrap();
    let (bzip2, posix) =
        tokio::join!(setup.store.crc(&content, CrcKind::Bzip2), setup.store.crc(&content, CrcKind::Posix));
    assert_eq!((bzip2.unwrap(), posix.unwrap()), (0xfc89_1918, 0x377a_6011));
    assert_eq!(setup.store.crc(&content, CrcKind::Ieee).await.unwrap(), content.crc);
    // What is known needs no file any more; what is not says that there is none.
    std::fs::remove_file(setup.dir.path().join("cache").join(hex(&sha256(b"123456789")))).unwrap();
    assert_eq!(setup.store.crc(&content, CrcKind::Bzip2).await.unwrap(), 0xfc89_1918);
    let missing = setup.store.crc(&content, CrcKind::Xfer).await.unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_has_another_hash_is_refused_and_leaves_nothing() {
    let setup = Setup::new();
    let error = setup.store.fetch(&setup.file("a.bin", b"other"), sha256(b"declared"), Need::Device).await.unwrap_err();
    assert_eq!(error.reason(), "HashMismatch");
    assert!(
        error.to_string().contains(&hex(&sha256(b"other"))) && error.to_string().contains(&hex(&sha256(b"declared")))
    );
    assert_eq!(setup.cached(), [""; 0]);
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 0 });
}

#[tokio::test]
async fn what_is_missing_too_large_or_outside_is_told_apart() {
    let setup = Setup::new();
    let large = vec![0; 5000];
    for (source, hash, reason) in [
        (Source::File { path: "none".into() }, sha256(b""), "NotFound"),
        (setup.file("large", &large), sha256(&large), "TooLarge"),
        (Source::File { path: "../files/large".into() }, sha256(&large), "InvalidPath"),
        (web("ftp://files.example/a"), sha256(b""), "InvalidSource"),
        (web("not a url"), sha256(b""), "InvalidSource"),
        (web("http://127.0.0.1:1/a"), sha256(b""), "Unreachable"),
    ] {
        let error = setup.store.fetch(&source, hash, Need::Device).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    assert_eq!(setup.cached(), [""; 0]);
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 0 });
}

#[tokio::test]
async fn a_web_server_is_asked_once_by_all_who_ask_together_and_never_again() {
    let http = Http::new(|_, _| ok(b"image")).await;
    let setup = Setup::new();
    let source = http.source("/image.bin");
    let fetches = (0..20).map(|_| setup.store.fetch(&source, sha256(b"image"), Need::Device));
    for fetched in futures::future::join_all(fetches).await {
        assert_eq!(fetched.unwrap().size, 5);
    }
    assert!(setup.store.fetch(&source, sha256(b"image"), Need::Device).await.is_ok());
    assert_eq!(http.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_a_web_server_answers_becomes_a_reason() {
    let http = Http::new(|line, base| match line.split(' ').nth(1).unwrap() {
        "/redirect" => {
            format!("HTTP/1.1 302 Found\r\nLocation: {base}/image\r\nContent-Length: 0\r\n\r\n").into_bytes()
        }
        "/loop" => format!("HTTP/1.1 302 Found\r\nLocation: {base}/loop\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        "/image" => ok(b"image"),
        "/missing" => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/broken" => b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(),
        "/announced" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".to_vec(),
        "/endless" => {
            let chunk = "400\r\n".to_owned() + &"x".repeat(1024) + "\r\n";
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned() + &chunk.repeat(100)).into_bytes()
        }
        path => panic!("{path}"),
    })
    .await;
    let setup = Setup::new();
    for (path, outcome) in [
        ("/missing", Err("NotFound")),
        ("/broken", Err("Unreachable")),
        ("/loop", Err("RedirectRefused")),
        ("/announced", Err("TooLarge")),
        ("/endless", Err("TooLarge")),
        ("/redirect", Ok(5)),
    ] {
        let result = setup.store.fetch(&http.source(path), sha256(b"image"), Need::Device).await;
        assert_eq!(result.as_ref().map(|c| c.size).map_err(SourceError::reason), outcome, "{path}: {result:?}");
    }
    assert_eq!(setup.cached().len(), 1, "nothing half-written is left");
}

#[tokio::test]
async fn a_web_server_that_falls_silent_has_stalled() {
    let http = Http::new(|line, _| match line.split(' ').nth(1).unwrap() {
        "/at-once" => Vec::new(),
        "/half-way" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nim".to_vec(),
        path => panic!("{path}"),
    })
    .await;
    let setup = Setup::new().impatient();
    for path in ["/at-once", "/half-way"] {
        let error = setup.store.fetch(&http.source(path), sha256(b"image"), Need::Device).await.unwrap_err();
        assert_eq!(error.reason(), "Stalled", "{path}: {error}");
    }
}

#[tokio::test]
async fn sources_that_say_nothing_do_not_keep_others_waiting() {
    let silent = Http::new(|_, _| Vec::new()).await;
    let half = Http::new(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nim".to_vec()).await;
    // Long before any of them has stalled.
    let setup = Setup::new().patient(Patience { stall: Duration::from_secs(6), ..QUICK }, 1 << 20);
    let good = setup.file("good", b"good");
    let (good, silent) = (&good, [silent.source("/"), half.source("/")]);
    let dead = (0..8_u8).map(|number| setup.store.fetch(&silent[usize::from(number % 2)], [number; 32], Need::Device));
    let mut dead = std::pin::pin!(futures::future::join_all(dead));
    tokio::select! {
        biased;
        _ = &mut dead => panic!("the silent ones had stalled before it was another's turn"),
        fetched = async {
            // They were first.
            while setup.store.inner.fetching.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            setup.store.fetch(good, sha256(b"good"), Need::Device).await
        } => assert_eq!(fetched.unwrap().size, 4),
    }
}

#[tokio::test]
async fn another_source_of_the_same_content_is_tried_where_one_fails() {
    let setup = Setup::new();
    let (bad, good) = (setup.file("bad", b"other"), setup.file("good", b"image"));
    let (first, second) = tokio::join!(
        setup.store.fetch(&bad, sha256(b"image"), Need::Device),
        setup.store.fetch(&good, sha256(b"image"), Need::Device),
    );
    assert_eq!(first.unwrap_err().reason(), "HashMismatch");
    assert_eq!(second.unwrap().size, 5);
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_any_more_ends_and_leaves_nothing() {
    let http = Http::new(|_, _| b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nim".to_vec()).await;
    let setup = Setup::new();
    let source = http.source("/");
    {
        let mut fetch = Box::pin(setup.store.fetch(&source, sha256(b"image"), Need::Device));
        while setup.store.usage().bytes == 0 {
            assert!(futures::poll!(&mut fetch).is_pending());
            tokio::task::yield_now().await;
        }
    }
    while !setup.cached().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 0 });
}

#[tokio::test]
async fn content_is_found_again_after_a_restart_and_hashed_before_it_is_used() {
    let setup = Setup::new();
    let content = setup.store.fetch(&setup.file("a", b"image"), sha256(b"image"), Need::Device).await.unwrap();
    setup.store.put(b"config".to_vec()).await.unwrap();
    let cache = setup.dir.path().join("cache");
    std::fs::write(cache.join(hex(&sha256(b"config"))), b"change").unwrap();
    std::fs::write(cache.join(".partial-1"), b"half").unwrap();
    std::fs::write(cache.join("README"), b"not ours").unwrap();

    let setup = setup.restarted();
    assert_eq!(setup.store.usage(), Usage { contents: 2, bytes: 11 });
    assert_eq!(setup.read(&sha256(b"image")).await.unwrap(), b"image");
    assert_eq!(setup.store.get(&sha256(b"image")).await, Some(content));
    assert_eq!(setup.read(&sha256(b"config")).await, None, "it is not what its name says");
    let mut left = ["README".to_owned(), hex(&sha256(b"image"))];
    left.sort();
    assert_eq!(setup.cached(), left);
    assert_eq!(setup.store.usage(), Usage { contents: 1, bytes: 5 });
}

#[tokio::test]
async fn a_restart_with_a_smaller_cache_keeps_what_was_written_last() {
    let setup = Setup::new();
    for (age, name) in [(30, "a"), (20, "b"), (10, "c")] {
        let content = setup.store.put(name.repeat(40).into_bytes()).await.unwrap();
        let file = File::options().write(true).open(setup.store.inner.path_of(&content.sha256)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let store = open(&setup.dir, 100);
    assert_eq!(store.usage(), Usage { contents: 2, bytes: 80 });
    assert_eq!(store.get(&sha256("a".repeat(40).as_bytes())).await, None);
    assert_eq!(setup.cached().len(), 2);
}

#[tokio::test]
async fn a_cache_full_of_pinned_content_refuses_more_and_otherwise_the_oldest_goes() {
    let setup = Setup::with_cache(100);
    let pinned = setup.store.put(vec![1; 60]).await.unwrap();
    let soon = Timestamp::now() + Duration::from_secs(3600);
    assert!(setup.store.pin(&pinned.sha256, soon));
    let old = setup.store.put(vec![2; 40]).await.unwrap();

    let error = setup.store.put(vec![3; 50]).await.unwrap_err();
    assert_eq!(error.reason(), "CacheFull");
    let new = setup.store.put(vec![3; 40]).await.unwrap();
    assert_eq!(setup.store.get(&old.sha256).await, None);
    assert_eq!(setup.read(&pinned.sha256).await.unwrap(), vec![1; 60]);
    assert_eq!(setup.read(&new.sha256).await.unwrap(), vec![3; 40]);
    assert_eq!(setup.cached().len(), 2);
    assert_eq!(setup.store.usage(), Usage { contents: 2, bytes: 100 });
}

#[tokio::test]
async fn what_is_put_twice_is_there_once() {
    let setup = Setup::new();
    let first = setup.store.put(b"config".to_vec()).await.unwrap();
    assert_eq!(setup.store.put(b"config".to_vec()).await, Ok(first));
    assert_eq!(setup.store.usage(), Usage { contents: 1, bytes: 6 });
}

#[tokio::test]
async fn a_transfer_reads_on_when_its_content_is_evicted() {
    let setup = Setup::with_cache(100);
    let content = setup.store.put(vec![1; 100]).await.unwrap();
    let readable = setup.store.open_content(&ContentId::of(&content.sha256)).await.unwrap().unwrap();
    setup.store.put(vec![2; 100]).await.unwrap();
    assert_eq!(setup.store.get(&content.sha256).await, None);
    assert_eq!(readable.with_bytes(90, 100, Disk::Avoid, <[u8]>::to_vec).unwrap(), [1; 10]);
}

#[tokio::test]
async fn content_whose_file_somebody_removed_is_fetched_again() {
    let setup = Setup::new();
    let source = setup.file("a", b"image");
    let content = setup.store.fetch(&source, sha256(b"image"), Need::Device).await.unwrap();
    std::fs::remove_file(setup.store.inner.path_of(&content.sha256)).unwrap();
    assert_eq!(setup.read(&content.sha256).await, None);
    assert_eq!(setup.store.fetch(&source, sha256(b"image"), Need::Device).await, Ok(content));
    assert_eq!(setup.read(&content.sha256).await.unwrap(), b"image");
}

#[tokio::test]
async fn memory_for_files_is_bounded_also_while_transfers_hold_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache"), dir.path(), 1 << 30, 1 << 30).unwrap();
    let mut held = Vec::new();
    for number in 0..6 {
        let content = store.put(vec![number; 2 << 20]).await.unwrap();
        held.push(store.open_content(&ContentId::of(&content.sha256)).await.unwrap().unwrap());
    }
    let in_memory = |held: &[Readable]| held.iter().filter(|readable| readable.is_in_memory()).count();
    assert_eq!(in_memory(&held), 3, "the fourth would be over 8 MiB with what it takes besides");
    for (number, readable) in (0..).zip(&held) {
        readable.load(0).await.unwrap();
        let tail = readable.with_bytes((2 << 20) - 2, 10, Disk::Loaded, <[u8]>::to_vec).unwrap();
        assert_eq!(tail, [number; 2]);
    }
    held.clear();
    let content = store.put(vec![9; 2 << 20]).await.unwrap();
    let readable = store.open_content(&ContentId::of(&content.sha256)).await.unwrap().unwrap();
    assert!(readable.is_in_memory(), "what nobody reads makes room");
}

#[tokio::test]
async fn who_reads_small_blocks_gets_its_own_bytes_whoever_reads_in_between() {
    const LEN: usize = 3 << 20;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache"), dir.path(), 1 << 30, 1 << 30).unwrap();
    let files = [251, 241].map(|period| (0..LEN).map(|at| (at % period) as u8).collect::<Vec<u8>>());
    let mut readers = Vec::new();
    for file in [0, 1, 0] {
        let content = store.put(files[file].clone()).await.unwrap();
        let readable = store.open_content(&ContentId::of(&content.sha256)).await.unwrap().unwrap();
        assert!(!readable.is_in_memory());
        readers.push((readable, &files[file], 0));
    }
    for turn in 0..10_000 {
        // Now one for a while, now each in turn.
        let (readable, file, at) = &mut readers[(turn / (1 + turn / 100 % 9)) % 3];
        let end = (*at + 1428).min(LEN);
        let read = readable.with_bytes(*at as u64, 1428, Disk::Loaded, <[u8]>::to_vec).unwrap();
        assert!(read == file[*at..end], "turn {turn}, at {at}");
        // At the end an empty block, and from the beginning again.
        *at = if *at == LEN { 0 } else { end };
    }
}
