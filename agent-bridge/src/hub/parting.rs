//! The end of a hub: what is under way ends, and what nobody else could know of a device is written.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Hub, Outcome};
use crate::cluster::record::patch;
use crate::cluster::writer::Written;
use crate::tcp::{FromConnection, Told};

/// For all last writes: what an API server that answers does in milliseconds, and a fraction of what a pod has to end.
const PARTING: Duration = Duration::from_secs(5);

impl Hub {
    /// Ends: reads and preparations at once, writes when they are answered. Nothing further begins, but for what sessions
    /// leave behind.
    pub(super) async fn part(
        mut self,
        mut connections: mpsc::Receiver<FromConnection>,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) {
        // The connections have ended before: how they did says whether what was said last has arrived.
        while let Ok((connection, told)) = connections.try_recv() {
            if matches!(told, Told::Gone { .. }) {
                self.told(connection, told);
            }
        }
        self.tasks.close();
        // Ours is not waited for.
        (self.outcomes, _) = mpsc::channel(1);
        while let Some(outcome) = outcomes.recv().await {
            // No session is fed any more: it would want the next thing done.
            if let Outcome::Written { written: Written::Done(device) | Written::Conflict(device), .. } = outcome {
                let _ = self.note(*device);
            }
        }
        self.tasks.wait().await;
        let open = CancellationToken::new();
        let writes = self.entries.iter().filter_map(|(mac, entry)| {
            let record = entry.session.as_ref()?.parting(self.view(*mac)?)?;
            let device = self.index.whole(&entry.name)?;
            let patch = patch(&record, device, &self.parts.us, Timestamp::now());
            tracing::debug!(parent: &entry.span, %patch, "writing before the end");
            Some(self.parts.writer.write(&entry.name, patch, 0, &open))
        });
        if tokio::time::timeout(PARTING, join_all(writes)).await.is_err() {
            tracing::warn!("ended before it was on record which devices were not told to restart");
        }
    }
}
