//! A fetch from a volume of this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::download::Job;
use super::ingest::{self, Ingest};
use super::source::file::open_file;
use super::{Content, Inner, SourceError, blocking};

/// Copies a file of the folder of files.
pub(super) async fn copy(inner: &Arc<Inner>, path: String, job: Job) -> Result<Content, SourceError> {
    let inner = Arc::clone(inner);
    // A thread cannot be dropped like a future: it is told when nobody waits any more.
    let abandoned = Arc::new(AtomicBool::new(false));
    let _tell = SetOnDrop(Arc::clone(&abandoned));
    blocking(&job.origin.clone(), move || {
        let origin = &job.origin;
        let file = open_file(&inner.files_dir, &path, origin)?;
        let mut ingest = Ingest::new(&inner, origin, job.need)?;
        ingest::each_chunk(&file, |chunk| {
            if abandoned.load(Ordering::Relaxed) {
                return Err(ingest::abandoned(origin));
            }
            ingest.write(chunk)
        })
        .map_err(|error| error.into_source_error(origin))?;
        ingest.finish(job.expected)
    })
    .await
}

pub(super) struct SetOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
