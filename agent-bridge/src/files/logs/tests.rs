use std::os::unix::fs::PermissionsExt;

use jiff::SignedDuration;
use tempfile::TempDir;

use super::*;

struct Rig {
    store: Arc<LogStore>,
    news: mpsc::Receiver<LogNews>,
    registry: Registry,
}

fn retention() -> Retention {
    Retention { bytes: 40 * 1024, age: SignedDuration::from_hours(24 * 365 * 100), ..Retention::default() }
}

fn open(dir: &TempDir) -> Rig {
    open_with(dir, retention(), 20 * 1024)
}

fn open_with(dir: &TempDir, retention: Retention, upload_size: u64) -> Rig {
    let (sender, news) = mpsc::channel(64);
    let dir = dir.path().join("logs");
    let settings =
        LogSettings { dir, place: "file://b-0/logs".into(), retention, bucket: None, upload_size, news: sender };
    let registry = Registry::new();
    Rig { store: Arc::new(LogStore::open(settings, &registry).unwrap()), news, registry }
}

fn permission(command: u32) -> Permission {
    Permission::upload(DeviceId::of_uid("uid"), command, Timestamp::from_second(4_000_000_000).unwrap())
}

async fn bring(store: &Arc<LogStore>, command: u32, device: &str, content: &[u8]) -> Result<(), LogError> {
    store.expect_upload(&permission(command), device, 3).unwrap();
    let mut upload = store.begin(&permission(command)).await?;
    upload.write(content).await?;
    upload.finish().await
}

fn stored(store: &LogStore) -> Vec<String> {
    let (dir, mut names) = (&store.settings.dir, Vec::new());
    for device in std::fs::read_dir(dir).unwrap() {
        for log in std::fs::read_dir(device.unwrap().path()).unwrap() {
            names.push(log.unwrap().path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    names
}

fn used(store: &LogStore) -> u64 {
    let state = store.state();
    state.shelf.used() + state.arriving
}

/// A log of a former run.
fn former(dir: &TempDir, path: &str, size: usize) {
    let path = dir.path().join("logs").join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![1; size]).unwrap();
}

#[tokio::test]
async fn a_log_is_stored_under_its_device_time_and_command_and_its_session_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open(&dir);
    bring(&rig.store, 7, "sw-1", b"log").await.unwrap();
    let names = stored(&rig.store);
    let path = dir.path().join("logs").join(&names[0]);
    assert_eq!(std::fs::read(&path).unwrap(), b"log");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (device, rest) = names[0].split_once('/').unwrap();
    let (time, command) = rest.split_once('-').unwrap();
    assert_eq!((device, command), ("sw-1", "7.log"));
    assert_eq!((time.len(), &time[8..9], &time[15..]), (16, "T", "Z"), "{time}");
    let LogNews::Arrived(arrived) = rig.news.try_recv().unwrap() else { panic!("it has arrived") };
    assert_eq!(arrived.location, format!("file://b-0/logs/{}", names[0]));
    assert_eq!((arrived.device_name.as_str(), arrived.target, arrived.size), ("sw-1", 3, 3));
    assert_eq!(arrived.device, DeviceId::of_uid("uid"));
}

#[tokio::test]
async fn only_what_is_expected_is_taken_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open(&dir);
    let store = &rig.store;
    assert!(matches!(store.begin(&permission(1)).await, Err(LogError::NotExpected)));
    bring(store, 1, "sw-1", b"log").await.unwrap();
    assert!(matches!(store.begin(&permission(1)).await, Err(LogError::NotExpected)));
    for name in ["", "..", ".hidden", "a/b", "SW", "sw_1"] {
        assert_eq!(store.expect_upload(&permission(2), name, 3), Err(InvalidDeviceName(name.into())));
    }
    assert!(rig.news.try_recv().is_ok() && rig.news.try_recv().is_err());
}

#[tokio::test]
async fn a_device_may_try_again_after_an_attempt_that_broke_off_and_the_first_whole_file_counts() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(&dir);
    let store = &rig.store;
    store.expect_upload(&permission(1), "sw-1", 3).unwrap();
    let mut first = store.begin(&permission(1)).await.unwrap();
    let mut second = store.begin(&permission(1)).await.unwrap();
    assert!(matches!(store.begin(&permission(1)).await, Err(LogError::Busy)));
    first.write(b"half").await.unwrap();
    second.write(b"whole").await.unwrap();
    second.finish().await.unwrap();
    assert!(matches!(first.finish().await, Err(LogError::NotExpected)));
    let names = stored(store);
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(std::fs::read(dir.path().join("logs").join(&names[0])).unwrap(), b"whole");
}

#[tokio::test]
async fn one_that_is_too_large_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open(&dir);
    let result = bring(&rig.store, 1, "sw-1", &[0; 20 * 1024 + 1]).await;
    assert!(matches!(result, Err(LogError::TooLarge { limit: 20_480 })), "{result:?}");
    assert_eq!(stored(&rig.store), [""; 0]);
    assert_eq!(used(&rig.store), 0);
}

#[tokio::test]
async fn the_oldest_make_room_and_their_empty_folders_go() {
    let dir = tempfile::tempdir().unwrap();
    former(&dir, "sw-1/20200101T000000Z-1.log", 16 * 1024);
    former(&dir, "sw-2/20210101T000000Z-2.log", 16 * 1024);
    former(&dir, "sw-2/.partial-1", 4);
    let rig = open(&dir);
    assert_eq!(used(&rig.store), 32 * 1024);
    bring(&rig.store, 3, "sw-3", &[3; 20 * 1024]).await.unwrap();
    assert!(!dir.path().join("logs/sw-1").exists());
    assert_eq!(stored(&rig.store).len(), 2, "{:?}", stored(&rig.store));
    assert_eq!(used(&rig.store), 36 * 1024);
}

#[tokio::test]
async fn a_store_that_is_full_of_what_is_arriving_refuses_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = open_with(&dir, retention(), 40 * 1024);
    let store = &rig.store;
    store.expect_upload(&permission(1), "sw-1", 3).unwrap();
    let mut first = store.begin(&permission(1)).await.unwrap();
    first.write(&[1; 32 * 1024]).await.unwrap();
    let refused = bring(store, 2, "sw-2", &[2; 10 * 1024]).await;
    assert!(matches!(refused, Err(LogError::Full { limit: 40_960 })), "{refused:?}");
    let why = "the log store of 40960 bytes has no room for it".to_owned();
    let told = NoRoom { device_name: "sw-2".into(), device: DeviceId::of_uid("uid"), target: 3, why };
    assert_eq!(rig.news.try_recv(), Ok(LogNews::NoRoom(told)));
    assert_eq!(rig.store.metrics.full.get(), 1);
    first.finish().await.unwrap();
    assert_eq!(store.metrics.full.get(), 0);
    assert_eq!(used(store), 32 * 1024);
}

#[tokio::test]
async fn many_tiny_logs_count_as_what_they_take_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open_with(&dir, Retention { per_device: 100, ..retention() }, 20 * 1024);
    for command in 0..20 {
        bring(&rig.store, command, "sw-1", b"x").await.unwrap();
    }
    assert_eq!(stored(&rig.store).len(), 10);
}

#[tokio::test]
async fn a_device_that_brings_many_logs_loses_its_own_oldest_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    former(&dir, "sw-2/20200101T000000Z-1.log", 1);
    let rig = open_with(&dir, Retention { per_device: 2, ..retention() }, 1024);
    for command in 0..5 {
        bring(&rig.store, command, "sw-1", b"x").await.unwrap();
    }
    let names = stored(&rig.store);
    assert_eq!((names.len(), names[2].as_str()), (3, "sw-2/20200101T000000Z-1.log"), "{names:?}");
    assert!(names[0].ends_with("-3.log") && names[1].ends_with("-4.log"), "{names:?}");
    assert_eq!(removed(&rig.registry, "per_device"), 3);
}

#[tokio::test]
async fn what_is_too_old_or_too_much_goes_at_the_start_and_nothing_that_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    former(&dir, "sw-1/20200101T000000Z-1.log", 1);
    former(&dir, "sw-1/notes.txt", 1);
    for command in 0..4 {
        former(&dir, &format!("sw-{command}/{}", shelf::name(Timestamp::now(), command)), 1);
    }
    let month = SignedDuration::from_hours(30 * 24);
    let rig = open_with(&dir, Retention { age: month, logs: 3, ..retention() }, 1024);
    let names = stored(&rig.store);
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(names.contains(&"sw-1/notes.txt".to_owned()), "{names:?}");
    assert_eq!((removed(&rig.registry, "age"), removed(&rig.registry, "number")), (1, 1));
}

#[tokio::test]
async fn what_becomes_too_old_goes_without_anything_else_happening() {
    let dir = tempfile::tempdir().unwrap();
    let rig = open_with(&dir, Retention { age: SignedDuration::from_hours(1), ..retention() }, 1024);
    bring(&rig.store, 1, "sw-1", b"x").await.unwrap();
    rig.store.tidy_all(Timestamp::now() + SignedDuration::from_mins(59));
    assert_eq!(stored(&rig.store).len(), 1);
    rig.store.tidy_all(Timestamp::now() + SignedDuration::from_mins(61));
    assert_eq!(stored(&rig.store), [""; 0]);
    assert_eq!(removed(&rig.registry, "age"), 1);
}

fn removed(registry: &Registry, why: &str) -> u64 {
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    let series = format!("fettle_bridge_logs_removed_total{{reason=\"{why}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(series.as_str())?.parse().ok()).unwrap()
}
