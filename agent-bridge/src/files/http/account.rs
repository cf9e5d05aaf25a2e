//! What a connection has sent of a file: between the body, which hands bytes over, and the wire, which sees them leave.
//!
//! A byte counts as sent when the kernel has it, as with FTP, and not when it was handed to hyper, which keeps what the
//! kernel does not take. hyper flushes the wire only after it has written all that it holds; so with a flush all that was
//! handed over has left.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::files::credentials::{DeviceId, Permission};
use crate::files::ledger::Record;
use crate::files::limits::Place;
use crate::files::metrics::{Active, Outcome};

/// Of one connection, on which transfers follow one another.
#[derive(Debug, Default)]
pub(super) struct Account(Mutex<Option<Transfer>>);

/// A download that is under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) permission: Permission,
    pub(super) record: Record,
    pub(super) active: Active,
    pub(super) _place: Place<DeviceId>,
    /// The bytes of the file that are still to be sent.
    pub(super) left: Range<u64>,
    /// Of these, how many the wire was given.
    pub(super) handed: u64,
    /// The end of the permission.
    pub(super) deadline: Instant,
}

impl Account {
    /// Begins a transfer. One of before that is still here has lost its client.
    pub(super) fn begin(&self, transfer: Transfer) {
        *self.lock() = Some(transfer);
        // Of an empty file nothing will be handed over.
        self.flushed();
    }

    pub(super) fn hand_over(&self, bytes: u64) {
        if let Some(transfer) = &mut *self.lock() {
            transfer.handed += bytes;
        }
    }

    /// All that was handed over has left.
    pub(super) fn flushed(&self) {
        let mut current = self.lock();
        let Some(transfer) = &mut *current else { return };
        let sent = transfer.left.start..transfer.left.start + std::mem::take(&mut transfer.handed);
        transfer.left.start = sent.end;
        if !sent.is_empty() || transfer.left.is_empty() {
            transfer.active.bytes(sent.end - sent.start);
            transfer.record.sent(sent);
        }
        if transfer.left.is_empty()
            && let Some(transfer) = current.take()
        {
            transfer.end(Outcome::Complete);
        }
    }

    /// Ends the transfer that is under way, if there is one.
    pub(super) fn fail(&self, outcome: Outcome) {
        if let Some(transfer) = self.lock().take() {
            transfer.end(outcome);
        }
    }

    /// When the transfer that is under way must have ended.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lock().as_ref().map(|transfer| transfer.deadline)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    fn end(self, outcome: Outcome) {
        let Permission { device, command, .. } = self.permission;
        tracing::debug!(%device, command, left = self.left.end - self.left.start, outcome = outcome.label(), "HTTP download ended");
        self.active.end(outcome);
    }
}
