//! What takes long: downloads, uploads, applying, booting. Each is one future, of which a device runs at most one; dropping it
//! stops it.

use std::error::Error;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fettle_protocol::crc::CrcKind;
use fettle_protocol::message::{Difference, Download, Location};
use fettle_protocol::proof::LogKey;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, Semaphore};

use crate::agent::Fetched;
use crate::checked::{Checked, Memory, Mishap};
use crate::difference::{self, DifferenceError};
use crate::hardware::{AppliedConfig, BootError, Hardware, HardwareError};
use crate::journal::{Digest, Event, FileKind};
use crate::record::Notebook;
use crate::signature::{Check, ImageKey};
use crate::spec::FlashAt;
use crate::transfer::{self, Route};

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum Finished {
    Fetched(FileKind, Fetched),
    Applied(Result<AppliedConfig, String>),
    Uploaded(Result<(), String>),
    Booted(Result<String, BootError>),
    /// It will never come up, by a fault.
    Died,
}

/// What is done to the connection when the operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Close,
    Reset,
}

/// One that runs.
pub(crate) struct Operation {
    pub(crate) future: Pin<Box<dyn Future<Output = Finished> + Send>>,
    /// By a fault.
    pub(crate) cut: Option<Cut>,
    done: Arc<AtomicU64>,
    /// Bytes, where they are known beforehand.
    expected: Option<u64>,
}

impl Operation {
    pub(crate) fn new(future: impl Future<Output = Finished> + Send + 'static) -> Self {
        Self { future: Box::pin(future), cut: None, done: Arc::default(), expected: None }
    }

    pub(crate) fn cut_after(mut self, cut: Option<Cut>) -> Self {
        self.cut = cut;
        self
    }

    /// How far it has come, where that can be told.
    pub(crate) fn percent(&self) -> Option<u8> {
        let expected = self.expected.filter(|expected| *expected > 0)?;
        let percent = self.done.load(Ordering::Relaxed).saturating_mul(100) / expected;
        // At most 100, which fits.
        Some(percent.min(100) as u8)
    }
}

/// What operations work with: a device's own.
pub(crate) struct Bench<H> {
    pub(crate) hardware: Arc<Mutex<H>>,
    pub(crate) notebook: Arc<Notebook>,
    pub(crate) route: Route,
    pub(crate) flash_at: FlashAt,
    /// What the device means by the CRC of a file.
    pub(crate) crc: CrcKind,
    /// Who vouches for images.
    pub(crate) image_key: Option<ImageKey>,
    /// The newest key by which requests for logs over UDP are proven.
    pub(crate) log_key: Arc<std::sync::Mutex<Option<LogKey>>>,
    /// How many transfers run at once, in the whole process.
    pub(crate) transfers: Arc<Semaphore>,
}

impl<H> Clone for Bench<H> {
    fn clone(&self) -> Self {
        let Self { hardware, notebook, route, flash_at, crc, image_key, log_key, transfers } = self;
        Self {
            hardware: hardware.clone(),
            notebook: notebook.clone(),
            route: route.clone(),
            flash_at: *flash_at,
            crc: *crc,
            image_key: *image_key,
            log_key: log_key.clone(),
            transfers: transfers.clone(),
        }
    }
}

/// Why a device boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Message 6.
    Commanded,
    /// Its power is back.
    PowerOn,
}

/// What happens instead of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pretence {
    Failure,
    Success,
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl<H: Hardware> Bench<H> {
    /// Keeps the key that a command has brought, where it has.
    pub(crate) fn learn_key(&self, location: &Location) {
        if let Some(key) = location.log_key {
            *self.log_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        }
    }

    /// The key that the last command has brought.
    pub(crate) fn log_key(&self) -> Option<LogKey> {
        *self.log_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fetch(
        &self,
        file: FileKind,
        download: Download,
        delay: Duration,
        mishap: Mishap,
        pretence: Option<Pretence>,
    ) -> Operation {
        let bench = self.clone();
        let done = Arc::new(AtomicU64::new(0));
        let (expected, progress) = (download.size, done.clone());
        let future = async move {
            tokio::time::sleep(delay).await;
            let fetched = match pretence {
                Some(Pretence::Success) => Fetched::Verified,
                Some(Pretence::Failure) => {
                    let error = "by a fault".to_owned();
                    bench.notebook.note(Event::DownloadFailed { file, error: error.clone() });
                    Fetched::Failed(error)
                }
                None => bench.fetch_file(file, &download, mishap, progress).await,
            };
            Finished::Fetched(file, fetched)
        };
        Operation { future: Box::pin(future), cut: None, done, expected }
    }

    async fn fetch_file(
        &self,
        file: FileKind,
        download: &Download,
        mishap: Mishap,
        progress: Arc<AtomicU64>,
    ) -> Fetched {
        let failed = |error: &dyn Error| {
            let error = chain(error);
            self.notebook.note(Event::DownloadFailed { file, error: error.clone() });
            Fetched::Failed(error)
        };
        let check = match (file, self.image_key) {
            (FileKind::Image, Some(key)) => match key.check(download.signature.as_deref()) {
                Ok(check) => Some(check),
                Err(error) => return failed(&error),
            },
            (FileKind::Image, None) | (FileKind::Profile, _) => None,
        };
        // Never closed.
        let _permit = self.transfers.acquire().await;
        let mut hardware = self.hardware.lock().await;
        if let Some(difference) = &download.difference {
            return match self.make_of(difference, &mut hardware, download, check, mishap, progress).await {
                Ok(fetched) => fetched,
                Err(error) => failed(&*error),
            };
        }
        if let Err(error) = hardware.open(file, download.size) {
            return failed(&error);
        }
        let mut sink = Checked::new(&mut *hardware, self.crc, check, mishap, progress);
        let transferred = transfer::fetch(&self.route, &download.location, &mut sink).await;
        let (arrival, signature, _) = sink.arrived();
        if let Err(error) = transferred {
            hardware.discard();
            return failed(&error);
        }
        let crc_ok = arrival.is(download);
        self.notebook.note(Event::Downloaded { file, bytes: arrival.bytes, crc_ok, sha256: arrival.sha256 });
        if !crc_ok {
            hardware.discard();
            return Fetched::CrcMismatch;
        }
        if let Some(Err(error)) = signature.map(Check::finish) {
            hardware.discard();
            return failed(&error);
        }
        if let Err(error) = hardware.store(download.config.clone()) {
            return failed(&error);
        }
        if file == FileKind::Image
            && self.flash_at == FlashAt::Download
            && let Err(error) = self.flash(&mut hardware).await
        {
            return failed(&error);
        }
        Fetched::Verified
    }

    /// Fetches a difference, and stores the image that it makes of the one that runs, where that is the promised one.
    async fn make_of(
        &self,
        difference: &Difference,
        hardware: &mut H,
        download: &Download,
        check: Option<Check>,
        mishap: Mishap,
        progress: Arc<AtomicU64>,
    ) -> Result<Fetched, Box<dyn Error + Send + Sync>> {
        let promised = download.sha256.map(Digest).ok_or("nothing says what the difference makes")?;
        difference::check(difference, &hardware.version())?;
        let mut running = hardware.image().ok_or(DifferenceError::NoBase)?;
        if mishap.other_base {
            running = running.iter().map(|byte| !byte).collect();
        }
        let mut sink = Checked::new(Memory::default(), self.crc, None, mishap, progress);
        transfer::fetch(&self.route, &download.location, &mut sink).await?;
        let (arrival, _, Memory(fetched)) = sink.arrived();
        let crc_ok = arrival.is(download);
        let (file, bytes) = (FileKind::Image, arrival.bytes);
        if !crc_ok {
            self.notebook.note(Event::Downloaded { file, bytes, crc_ok, sha256: arrival.sha256 });
            return Ok(Fetched::CrcMismatch);
        }
        let made = tokio::task::spawn_blocking(move || difference::apply(&running, &fetched)).await??;
        // What was fetched, and what has come of it: that is what the device has downloaded.
        let sha256 = Digest(Sha256::digest(&made).into());
        let fits = sha256 == promised;
        self.notebook.note(Event::Downloaded { file, bytes, crc_ok: fits, sha256 });
        if !fits {
            return Ok(Fetched::OtherImage);
        }
        if let Some(mut check) = check {
            check.update(&made);
            check.finish()?;
        }
        hardware.open(file, Some(made.len() as u64))?;
        hardware.write(&made)?;
        hardware.store(None)?;
        if self.flash_at == FlashAt::Download {
            self.flash(hardware).await?;
        }
        Ok(Fetched::Verified)
    }

    async fn flash(&self, hardware: &mut H) -> Result<(), HardwareError> {
        self.notebook.note(Event::FlashBegan);
        let version = hardware.flash().await?;
        self.notebook.note(Event::FlashEnded { version });
        Ok(())
    }

    pub(crate) fn apply(&self, delay: Duration) -> Operation {
        let bench = self.clone();
        Operation::new(async move {
            tokio::time::sleep(delay).await;
            let applied = bench.hardware.lock().await.apply().await;
            Finished::Applied(match applied {
                Ok(config) => {
                    bench.notebook.note_config(config.clone());
                    Ok(config)
                }
                Err(error) => {
                    let error = chain(&error);
                    bench.notebook.note(Event::ApplyFailed { error: error.clone() });
                    Err(error)
                }
            })
        })
    }

    pub(crate) fn upload(&self, location: Location, delay: Duration) -> Operation {
        let bench = self.clone();
        Operation::new(async move {
            tokio::time::sleep(delay).await;
            let _permit = bench.transfers.acquire().await;
            let log = bench.hardware.lock().await.log();
            Finished::Uploaded(match transfer::send(&bench.route, &location, &log).await {
                Ok(()) => {
                    bench.notebook.note(Event::LogUploaded { bytes: log.len() as u64 });
                    Ok(())
                }
                Err(error) => {
                    let error = chain(&error);
                    bench.notebook.note(Event::UploadFailed { error: error.clone() });
                    Err(error)
                }
            })
        })
    }

    /// Boots; after message 6, writes the flash before, if there is something to write.
    pub(crate) fn boot(&self, why: Boot, delay: Duration, dies: bool) -> Operation {
        let bench = self.clone();
        Operation::new(async move {
            let mut hardware = bench.hardware.lock().await;
            if why == Boot::Commanded
                && hardware.has_image()
                && let Err(error) = bench.flash(&mut hardware).await
            {
                return Finished::Booted(Err(BootError(chain(&error))));
            }
            tokio::time::sleep(delay).await;
            if dies { Finished::Died } else { Finished::Booted(hardware.boot().await) }
        })
    }
}
