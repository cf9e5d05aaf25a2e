//! What was transferred under which permission. A device that says that it has downloaded a file is believed only if its
//! last byte was sent; a log is uploaded when its file has arrived, whatever the device says (design §5).
//!
//! The session announces what it orders with [`Transfers::expect`]; the file servers record what happens. What nobody
//! announced (a credential that another replica minted) is served and not recorded. The ledger decides nothing, and forgets
//! at a restart: a session that lost its bridge begins again with a new command.

mod coverage;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::credentials::Permission;
use super::expected::Expected;
use coverage::Coverage;

/// Entries kept at most. A device has one or two commands outstanding, and a replica tens of thousands of devices; an entry
/// takes about 300 bytes.
const MAX_ENTRIES: usize = 65_536;

/// How far a transfer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the file were sent or received, counted from its start to the furthest.
    pub reached: u64,
    /// The size of the file, where it is known.
    pub size: Option<u64>,
    /// The last byte was sent, or the upload is stored.
    pub complete: bool,
}

/// The transfers that sessions have ordered.
#[derive(Debug)]
pub struct Transfers {
    entries: Mutex<Expected<Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    size: Option<u64>,
    reached: AtomicU64,
    /// Of a download in ranges.
    covered: Mutex<Coverage>,
    complete: watch::Sender<bool>,
}

impl Transfers {
    pub fn new() -> Self {
        Self { entries: Mutex::new(Expected::new(MAX_ENTRIES)) }
    }

    /// Announces a transfer, before the command that orders it is sent. `size` is the file's, `None` for an upload.
    /// Announced again, it begins again.
    pub fn expect(&self, permission: &Permission, size: Option<u64>) {
        let entry = Arc::new(Entry {
            size,
            reached: AtomicU64::new(0),
            covered: Mutex::default(),
            complete: watch::Sender::new(false),
        });
        self.lock().insert(*permission, entry, Timestamp::now());
    }

    /// Ends what [`expect`](Self::expect) began, when the command has its answer. Expiry does the same later.
    pub fn forget(&self, permission: &Permission) {
        self.lock().remove(permission);
    }

    /// Whether the last byte was sent (for an upload: whether the file has arrived wholly), waiting for it for a while:
    /// a device's word on one connection may overtake what we learn on another. `false` at once for what nobody expects.
    pub async fn wait_complete(&self, permission: &Permission, patience: Duration) -> bool {
        let Some(entry) = self.entry(permission) else { return false };
        let mut complete = entry.complete.subscribe();
        tokio::time::timeout(patience, complete.wait_for(|complete| *complete)).await.is_ok_and(|waited| waited.is_ok())
    }

    pub fn progress(&self, permission: &Permission) -> Option<Progress> {
        let entry = self.entry(permission)?;
        let complete = *entry.complete.borrow();
        Some(Progress { reached: entry.reached.load(Ordering::Relaxed), size: entry.size, complete })
    }

    /// For a file server: the record of one transfer that begins now.
    pub(super) fn begin(&self, permission: &Permission) -> Record {
        Record { entry: self.entry(permission) }
    }

    fn entry(&self, permission: &Permission) -> Option<Arc<Entry>> {
        self.lock().get(permission).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Expected<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Transfers {
    fn default() -> Self {
        Self::new()
    }
}

/// What one transfer does, for the ledger.
#[derive(Debug)]
pub(super) struct Record {
    entry: Option<Arc<Entry>>,
}

impl Record {
    /// All bytes before `offset` were sent, by this transfer or an earlier one that it resumes, or received.
    pub(super) fn reached(&self, offset: u64) {
        if let Some(entry) = &self.entry {
            entry.reached.fetch_max(offset, Ordering::Relaxed);
        }
    }

    /// These bytes were sent, by a protocol whose client says for each part where it begins. The file is complete when
    /// all of its bytes were sent, in whatever parts and order.
    pub(super) fn sent(&self, range: Range<u64>) {
        let Some(entry) = &self.entry else { return };
        let from_start = {
            let mut covered = entry.covered.lock().unwrap_or_else(PoisonError::into_inner);
            covered.add(range);
            covered.without_gap()
        };
        entry.reached.fetch_max(from_start, Ordering::Relaxed);
        if entry.size.is_some_and(|size| from_start >= size) {
            entry.complete.send_replace(true);
        }
    }

    /// The last byte was sent, or the upload is stored.
    pub(super) fn complete(&self) {
        if let Some(entry) = &self.entry {
            entry.complete.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::credentials::DeviceId;

    fn permission(command: u32) -> Permission {
        let expires = Timestamp::from_second(4_000_000_000).unwrap();
        Permission::download(DeviceId::of_uid("uid"), &[1; 32], command, expires)
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_is_complete_when_its_last_byte_was_sent_and_not_before() {
        let transfers = Transfers::new();
        transfers.expect(&permission(1), Some(10));
        let record = transfers.begin(&permission(1));
        record.reached(9);
        assert!(!transfers.wait_complete(&permission(1), Duration::from_secs(2)).await);
        record.reached(10);
        record.complete();
        assert!(transfers.wait_complete(&permission(1), Duration::ZERO).await);
        let progress = Progress { reached: 10, size: Some(10), complete: true };
        assert_eq!(transfers.progress(&permission(1)), Some(progress));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_as_soon_as_the_last_byte_is_sent() {
        let transfers = Transfers::new();
        transfers.expect(&permission(1), Some(10));
        let record = transfers.begin(&permission(1));
        let begun = tokio::time::Instant::now();
        let ordered = permission(1);
        let (complete, ()) = tokio::join!(transfers.wait_complete(&ordered, Duration::from_secs(2)), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            record.complete();
        });
        assert!(complete);
        assert_eq!(begun.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test]
    async fn a_download_in_ranges_is_complete_when_every_byte_was_sent_and_not_with_the_last() {
        let transfers = Transfers::new();
        transfers.expect(&permission(1), Some(10));
        let reached = || transfers.progress(&permission(1)).unwrap().reached;
        transfers.begin(&permission(1)).sent(6..10);
        assert_eq!(reached(), 0);
        transfers.begin(&permission(1)).sent(0..5);
        assert_eq!(reached(), 5);
        assert!(!transfers.wait_complete(&permission(1), Duration::ZERO).await);
        transfers.begin(&permission(1)).sent(4..7);
        assert_eq!(reached(), 10);
        assert!(transfers.wait_complete(&permission(1), Duration::ZERO).await);
    }

    #[tokio::test]
    async fn an_empty_file_is_complete_when_it_was_sent() {
        let transfers = Transfers::new();
        transfers.expect(&permission(1), Some(0));
        assert!(!transfers.wait_complete(&permission(1), Duration::ZERO).await);
        transfers.begin(&permission(1)).sent(0..0);
        assert!(transfers.wait_complete(&permission(1), Duration::ZERO).await);
    }

    #[tokio::test]
    async fn what_nobody_expects_is_served_and_never_complete() {
        let transfers = Transfers::new();
        transfers.begin(&permission(1)).complete();
        assert!(!transfers.wait_complete(&permission(1), Duration::from_secs(2)).await);
        assert_eq!(transfers.progress(&permission(1)), None);
    }

    #[tokio::test]
    async fn the_transfer_of_one_command_says_nothing_about_another() {
        let transfers = Transfers::new();
        transfers.expect(&permission(1), Some(10));
        transfers.expect(&permission(2), Some(10));
        transfers.begin(&permission(1)).complete();
        assert!(!transfers.wait_complete(&permission(2), Duration::ZERO).await);
        transfers.forget(&permission(1));
        assert!(!transfers.wait_complete(&permission(1), Duration::ZERO).await);
    }
}
