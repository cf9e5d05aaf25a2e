//! What the hub orders a connection to do, on its way there.
//!
//! A channel of the usual kind takes two KiB for each connection, whether or not anything is in it. This one takes a
//! hundred bytes, and says what is wanted here: once the hub lets go of a connection, nothing that still waits is
//! carried out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::metrics::Closed;

/// What the hub orders a connection to do, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Send these bytes, after a while where one is given.
    Send { bytes: Box<[u8]>, after: Duration },
    /// Shut the sending side, drain, close at the peer's FIN or after 5 s.
    Finish,
    /// Close at once.
    Close(Closed),
    /// Find out quickly whether the peer is still there.
    Probe,
    /// Whether a command is outstanding: its deadline counts then, and keep-alive does not.
    Outstanding(bool),
}

/// Orders that may wait in a connection: more than the hub ever gives in one go (send, finish, outstanding, probe).
const WAITING: usize = 8;

/// The hub's end. Dropping it ends the connection.
#[derive(Debug)]
pub struct Orders(Arc<Shared>);

/// The connection's end.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// Why a connection did not take an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("too many orders wait: the connection is stuck")]
    Full,
    #[error("the connection has ended, and says so in its turn")]
    Ended,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Order>,
    closed: bool,
}

/// The two ends for a new connection.
pub fn orders() -> (Orders, Inbox) {
    let shared = Arc::<Shared>::default();
    (Orders(Arc::clone(&shared)), Inbox(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting = VecDeque::new();
        drop(state);
        self.news.notify_one();
    }
}

impl Orders {
    /// Gives an order.
    ///
    /// # Errors
    /// [`NotTaken`], and the order will not be carried out.
    pub fn give(&self, order: Order) -> Result<(), NotTaken> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(NotTaken::Ended);
        }
        if state.waiting.len() >= WAITING {
            return Err(NotTaken::Full);
        }
        state.waiting.push_back(order);
        drop(state);
        self.0.news.notify_one();
        Ok(())
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inbox {
    /// The next order; `None` once the hub has let go, whatever was waiting. Cancel-safe.
    pub async fn next(&mut self) -> Option<Order> {
        loop {
            {
                let mut state = self.0.lock();
                if state.closed {
                    return None;
                }
                if let Some(order) = state.waiting.pop_front() {
                    if state.waiting.is_empty() {
                        state.waiting = VecDeque::new();
                    }
                    return Some(order);
                }
            }
            // What came since the look has left a permit.
            self.0.news.notified().await;
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn orders_come_in_their_order_and_no_more_than_a_few_wait() {
        let (orders, mut inbox) = orders();
        assert_eq!(inbox.next().now_or_never(), None, "waits");
        orders.give(Order::Probe).unwrap();
        orders.give(Order::Finish).unwrap();
        assert_eq!(inbox.next().await, Some(Order::Probe));
        assert_eq!(inbox.next().await, Some(Order::Finish));
        for _ in 0..WAITING {
            orders.give(Order::Probe).unwrap();
        }
        assert_eq!(orders.give(Order::Probe), Err(NotTaken::Full));
    }

    #[tokio::test]
    async fn an_order_wakes_who_waits_for_it() {
        let (orders, mut inbox) = orders();
        let waiting = tokio::spawn(async move { inbox.next().await });
        tokio::task::yield_now().await;
        orders.give(Order::Finish).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(Order::Finish));
    }

    #[tokio::test]
    async fn nothing_is_carried_out_once_the_hub_has_let_go_and_nothing_is_taken_once_the_connection_has_ended() {
        let (given, mut inbox) = orders();
        given.give(Order::Finish).unwrap();
        drop(given);
        assert_eq!(inbox.next().await, None);

        let (given, inbox) = orders();
        drop(inbox);
        assert_eq!(given.give(Order::Finish), Err(NotTaken::Ended));
    }
}
