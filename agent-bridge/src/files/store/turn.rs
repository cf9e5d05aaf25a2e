//! Whose turn it is to fetch: few sources send at once, and one that is silent does not keep others from it.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// A turn to fetch. It goes to another while its source lets wait for itself, and is waited for again when there is something to
/// take from it.
pub(super) struct Turn<'a> {
    turns: &'a Semaphore,
    held: Option<SemaphorePermit<'a>>,
    /// A silence that costs the turn.
    silence: Duration,
}

impl<'a> Turn<'a> {
    /// When it is free.
    pub(super) async fn first(turns: &'a Semaphore, silence: Duration) -> Self {
        let mut turn = Self { turns, held: None, silence };
        turn.again().await;
        turn
    }

    /// Waits for what a source has to say.
    pub(super) async fn wait_for<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        if self.held.is_some() {
            match timeout(self.silence, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) => self.held = None,
            }
        }
        answer.await
    }

    /// Takes the turn again, where it is another's.
    pub(super) async fn again(&mut self) {
        if self.held.is_none() {
            // Turns are never closed.
            self.held = self.turns.acquire().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const SILENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_lets_wait_for_itself_loses_its_turn_and_gets_it_back_after_others() {
        let turns = Semaphore::new(1);
        let mut first = Turn::first(&turns, SILENCE).await;
        assert_eq!(first.wait_for(ready(1)).await, 1);
        assert_eq!(turns.available_permits(), 0, "an answer that comes at once costs nothing");
        {
            let mut silent = pin!(first.wait_for(pending::<()>()));
            assert!(timeout(SILENCE / 2, &mut silent).await.is_err());
            assert_eq!(turns.available_permits(), 0, "it may think for a moment");
            assert!(timeout(SILENCE, &mut silent).await.is_err());
        }
        let second = Turn::first(&turns, SILENCE).await;
        assert_eq!(first.wait_for(ready(2)).await, 2);
        assert!(timeout(SILENCE, first.again()).await.is_err(), "it is the other's turn");
        drop(second);
        first.again().await;
        assert_eq!(turns.available_permits(), 0);
    }
}
