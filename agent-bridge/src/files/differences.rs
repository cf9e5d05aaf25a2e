//! Differences between images, for devices that can apply them: which are wanted, made one after the other, and which are
//! ready.
//!
//! Nobody waits for one. What is known of them does not outlive the process; what was made is content of the cache like any
//! other, and made again where it was evicted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fettle_protocol::datum::DifferenceKind;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::store::{Content, NoDifference, Store};

/// Pairs that are remembered: as many as a namespace has models and releases under way, by far. Beyond this all are forgotten
/// but those that are to be made.
const REMEMBERED: usize = 1024;
/// Pairs that wait to be made. More are wanted again by whoever looks next.
const WAITING: usize = 64;
/// What could not be made is not tried again sooner: it costs about as much as what can be.
const AGAIN: Duration = Duration::from_secs(600);
/// To find that an image is not here costs nothing, and it may be on its way: this bridge has just begun.
const SOON: Duration = Duration::from_secs(15);

/// What a difference is made from, and what it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    pub base: [u8; 32],
    pub image: [u8; 32],
    pub kind: DifferenceKind,
}

impl Pair {
    /// Of the one kind that is made.
    pub const fn new(base: [u8; 32], image: [u8; 32]) -> Self {
        Self { base, image, kind: DifferenceKind::Zstd }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    Wanted,
    Ready(Content),
    /// There is none, and nobody looks again before that.
    None(Instant),
}

/// The differences of this process. Clones share them.
#[derive(Debug, Clone)]
pub struct Differences {
    store: Store,
    known: Arc<Mutex<HashMap<Pair, State>>>,
    wanted: mpsc::Sender<Pair>,
    metrics: Metrics,
    limit: u64,
}

/// Makes what is wanted.
#[derive(Debug)]
pub struct Maker {
    differences: Differences,
    wanted: mpsc::Receiver<Pair>,
}

impl Differences {
    /// Of images of at most `limit` bytes, in `store`; with 0, none.
    ///
    /// # Errors
    /// Where the registry has such metrics already.
    pub fn new(store: Store, limit: u64, registry: &Registry) -> Result<(Self, Maker), prometheus::Error> {
        let (sender, wanted) = mpsc::channel(WAITING);
        let metrics = Metrics::new(registry)?;
        let differences = Self { store, known: Arc::default(), wanted: sender, metrics, limit };
        Ok((differences.clone(), Maker { differences, wanted }))
    }

    /// Whether any are made.
    pub fn are_made(&self) -> bool {
        self.limit > 0
    }

    /// Has one made, where it is not known yet. Costs a look into a table.
    pub fn want(&self, pair: Pair) {
        if !self.are_made() {
            return;
        }
        let mut known = self.known();
        match known.get(&pair) {
            Some(State::Wanted | State::Ready(_)) => return,
            Some(State::None(until)) if Instant::now() < *until => return,
            Some(State::None(_)) | None => {}
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, state| matches!(state, State::Wanted));
        }
        if self.wanted.try_send(pair).is_ok() {
            known.insert(pair, State::Wanted);
        }
    }

    /// The difference, where it is ready and still in the cache.
    pub async fn ready(&self, pair: Pair) -> Option<Content> {
        let Some(State::Ready(made)) = self.known().get(&pair).copied() else { return None };
        let found = self.store.get(&made.sha256).await;
        if found.is_none() {
            self.known().remove(&pair);
        }
        found
    }

    /// A device was told to fetch a difference in place of an image of so many bytes.
    pub fn told(&self, image: u64, difference: u64) {
        self.metrics.told.inc();
        self.metrics.saved.inc_by(image.saturating_sub(difference));
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Pair, State>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self, pair: Pair, made: Result<Content, NoDifference>) {
        self.metrics.made.with_label_values(&[result_label(&made)]).inc();
        let hex = |sha256| data_encoding::HEXLOWER.encode(sha256);
        let (base, image) = (hex(&pair.base), hex(&pair.image));
        let state = match made {
            Ok(made) => {
                tracing::info!(base, image, size = made.size, "difference made");
                State::Ready(made)
            }
            Err(error) => {
                let why = fettle_runtime::chain(&error).to_string();
                tracing::info!(base, image, why, "no difference made: devices fetch the whole image");
                let pause = if matches!(error, NoDifference::NotThere) { SOON } else { AGAIN };
                State::None(Instant::now() + pause)
            }
        };
        self.known().insert(pair, state);
    }
}

impl Maker {
    /// Makes what is wanted, one at a time, until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while let Some(Some(pair)) = shutdown.run_until_cancelled(self.wanted.recv()).await {
            let Self { differences, .. } = &self;
            let make = differences.store.make_difference(pair.base, pair.image, differences.limit);
            let Some(made) = shutdown.run_until_cancelled(make).await else { return };
            differences.made(pair, made);
        }
    }
}

/// What is counted. Labels come from a closed enum.
#[derive(Debug, Clone)]
struct Metrics {
    made: IntCounterVec,
    told: IntCounter,
    saved: IntCounter,
}

impl Metrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let made = Opts::new("fettle_bridge_differences_total", "Differences between images: made, or why not.");
        let metrics = Self {
            made: IntCounterVec::new(made, &["result"])?,
            told: IntCounter::new(
                "fettle_bridge_difference_commands_total",
                "Times that a device was told to fetch a difference in place of an image.",
            )?,
            saved: IntCounter::new(
                "fettle_bridge_difference_saved_bytes_total",
                "Bytes of images that devices were not told to fetch, because of differences.",
            )?,
        };
        for result in RESULTS {
            metrics.made.with_label_values(&[result]);
        }
        registry.register(Box::new(metrics.made.clone()))?;
        registry.register(Box::new(metrics.told.clone()))?;
        registry.register(Box::new(metrics.saved.clone()))?;
        Ok(metrics)
    }
}

const RESULTS: [&str; 6] = ["Made", "NotThere", "TooLarge", "NotSmaller", "NoRoom", "Failed"];

const fn result_label(made: &Result<Content, NoDifference>) -> &'static str {
    match made {
        Ok(_) => RESULTS[0],
        Err(NoDifference::NotThere) => RESULTS[1],
        Err(NoDifference::TooLarge { .. }) => RESULTS[2],
        Err(NoDifference::NotSmaller) => RESULTS[3],
        Err(NoDifference::NoRoom(_)) => RESULTS[4],
        Err(NoDifference::Wrong | NoDifference::GivenUp | NoDifference::Failed(_)) => RESULTS[5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        store: Store,
        differences: Differences,
        maker: Maker,
        pair: Pair,
    }

    async fn scene(limit: u64) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache"), folder.path(), 1 << 20, 1 << 24).unwrap();
        let mut bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let base = store.put(bytes.clone()).await.unwrap().sha256;
        bytes[7] ^= 1;
        let pair = Pair::new(base, store.put(bytes).await.unwrap().sha256);
        let (differences, maker) = Differences::new(store.clone(), limit, &Registry::new()).unwrap();
        Scene { folder, store, differences, maker, pair }
    }

    /// Makes all that is wanted.
    async fn make(scene: &mut Scene) -> usize {
        let mut count = 0;
        while let Ok(pair) = scene.maker.wanted.try_recv() {
            let made = scene.store.make_difference(pair.base, pair.image, scene.differences.limit).await;
            scene.differences.made(pair, made);
            count += 1;
        }
        count
    }

    #[tokio::test]
    async fn what_many_want_is_made_once_and_again_where_it_was_evicted() {
        let mut scene = scene(1 << 20).await;
        assert_eq!(scene.differences.ready(scene.pair).await, None);
        for _ in 0..3 {
            scene.differences.want(scene.pair);
        }
        assert_eq!(scene.differences.ready(scene.pair).await, None, "nobody waits for it");
        assert_eq!(make(&mut scene).await, 1);
        scene.differences.want(scene.pair);
        assert_eq!(make(&mut scene).await, 0);
        let ready = scene.differences.ready(scene.pair).await.unwrap();
        let file = scene.folder.path().join("cache").join(data_encoding::HEXLOWER.encode(&ready.sha256));
        std::fs::remove_file(file).unwrap();
        assert_eq!(scene.differences.ready(scene.pair).await, None, "somebody has removed it");
        scene.differences.want(scene.pair);
        assert_eq!(make(&mut scene).await, 1);
        assert_eq!(scene.differences.ready(scene.pair).await, Some(ready));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_made_is_left_alone_for_a_while_and_what_nobody_wants_made_is_not() {
        let mut failing = scene(1000).await;
        failing.differences.want(failing.pair);
        assert_eq!(make(&mut failing).await, 1);
        failing.differences.want(failing.pair);
        assert_eq!((make(&mut failing).await, failing.differences.ready(failing.pair).await), (0, None));
        tokio::time::advance(AGAIN).await;
        failing.differences.want(failing.pair);
        assert_eq!(make(&mut failing).await, 1);
        std::fs::remove_dir_all(failing.folder.path().join("cache")).unwrap();
        tokio::time::advance(AGAIN).await;
        failing.differences.want(failing.pair);
        assert_eq!(make(&mut failing).await, 1);
        tokio::time::advance(SOON).await;
        failing.differences.want(failing.pair);
        assert_eq!(make(&mut failing).await, 1, "its images may be here by now");
        let mut off = scene(0).await;
        off.differences.want(off.pair);
        assert_eq!(make(&mut off).await, 0);
    }

    #[tokio::test]
    async fn more_than_can_wait_are_wanted_again() {
        let mut scene = scene(1 << 20).await;
        let pair = |number: usize| Pair::new([0; 32], std::array::from_fn(|at| number.to_le_bytes()[at % 8]));
        for number in 0..=WAITING {
            scene.differences.want(pair(number));
        }
        assert_eq!(scene.differences.known().len(), WAITING);
        make(&mut scene).await;
        scene.differences.want(pair(WAITING));
        assert_eq!(make(&mut scene).await, 1);
    }
}
