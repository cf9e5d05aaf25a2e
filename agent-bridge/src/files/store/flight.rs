//! Work that many want at once is done once: whoever asks while it runs shares its result.
//!
//! Nothing is spawned. Whoever waits drives the work, and when the last of them goes away it is dropped where it is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

type Work<T> = BoxFuture<'static, T>;

/// The work that runs now, by key. As many entries as are being waited for.
#[derive(Debug)]
pub(in crate::files) struct Flights<K, T: Clone> {
    running: Arc<Mutex<Running<K, T>>>,
}

#[derive(Debug)]
struct Running<K, T: Clone> {
    flights: HashMap<K, (u64, WeakShared<Work<T>>)>,
    next_id: u64,
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(in crate::files) fn new() -> Self {
        Self { running: Arc::new(Mutex::new(Running { flights: HashMap::new(), next_id: 0 })) }
    }

    /// The result of the work that runs for this key, or else of `work`.
    pub(in crate::files) async fn join(&self, key: &K, work: impl Future<Output = T> + Send + 'static) -> T {
        self.enter(key, work).await
    }

    fn enter(&self, key: &K, work: impl Future<Output = T> + Send + 'static) -> Shared<Work<T>> {
        let mut running = lock(&self.running);
        if let Some((_, flight)) = running.flights.get(key)
            && let Some(flight) = flight.upgrade()
        {
            return flight;
        }
        let id = running.next_id;
        running.next_id += 1;
        let landing = Landing { running: Arc::clone(&self.running), key: key.clone(), id };
        let flight = async move {
            let _landing = landing;
            work.await
        }
        .boxed()
        .shared();
        if let Some(weak) = flight.downgrade() {
            running.flights.insert(key.clone(), (id, weak));
        }
        flight
    }
}

/// Takes the entry away when the work ends, in whatever way.
struct Landing<K: Eq + Hash, T: Clone> {
    running: Arc<Mutex<Running<K, T>>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut running = lock(&self.running);
        // Another flight may have begun for the same key, after the last one waiting for this one went away.
        if running.flights.get(&self.key).is_some_and(|(id, _)| *id == self.id) {
            running.flights.remove(&self.key);
        }
    }
}

fn lock<K, T: Clone>(running: &Mutex<Running<K, T>>) -> MutexGuard<'_, Running<K, T>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn who_asks_while_it_runs_shares_the_result_and_who_comes_later_does_it_again() {
        let flights: Flights<u8, usize> = Flights::new();
        let begun = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Notify::new());
        let work = || {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                number
            }
        };
        let (first, second, ()) = tokio::join!(flights.join(&1, work()), flights.join(&1, work()), async {
            tokio::task::yield_now().await;
            go.notify_one();
        });
        assert_eq!((first, second), (0, 0));
        go.notify_one();
        assert_eq!(flights.join(&1, work()).await, 1);
    }

    #[tokio::test]
    async fn one_who_goes_away_does_not_stop_the_others_and_the_last_one_does() {
        let flights: Flights<u8, u8> = Flights::new();
        let go = Arc::new(Notify::new());
        let dropped = Arc::new(());
        let work = |alive: Arc<()>| {
            let go = Arc::clone(&go);
            async move {
                go.notified().await;
                drop(alive);
                7
            }
        };
        let mut first = flights.enter(&1, work(Arc::clone(&dropped)));
        assert!(futures::poll!(&mut first).is_pending());
        let second = flights.enter(&1, async { 8 });
        drop(first);
        go.notify_one();
        assert_eq!(second.await, 7);

        let mut alone = flights.enter(&2, work(Arc::clone(&dropped)));
        assert!(futures::poll!(&mut alone).is_pending());
        drop(alone);
        assert_eq!(Arc::strong_count(&dropped), 1, "the work is dropped with the last one who waits");
        assert!(lock(&flights.running).flights.is_empty());
    }
}
