//! The machine under the agent: what a vendor implements, and a simulated one.
//!
//! The agent decides when; the hardware knows how: where an image goes, how the flash is written, what a profile means.

use std::future::Future;
use std::sync::Arc;

use crate::journal::{Digest, FileKind};
use crate::spec::Vocabulary;

mod simulated;

pub use simulated::SimulatedHardware;

/// Why the machine did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    #[error("the file is larger than the {0} bytes there are for it")]
    TooLarge(u64),
    #[error("there is nothing to put into force")]
    NothingStored,
    #[error("{0}")]
    Other(String),
}

/// A device that does not come up again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BootError(pub String);

/// A profile that has been put into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedConfig {
    /// Datum 64 of the message 4 that it came with; `None` where that had none.
    pub identity: Option<String>,
    pub sha256: Digest,
    pub content: Arc<[u8]>,
}

/// What the agent needs of the machine.
///
/// A file comes as [`open`](Self::open), [`write`](Self::write) repeatedly, and [`store`](Self::store) if it is whole and
/// right, else [`discard`](Self::discard). `open` discards what is open. These and the queries are called on the
/// device's task: what takes long (slow flash) belongs on a thread of its own. The rest may take its time.
pub trait Hardware: Send + 'static {
    /// Datum 2: what runs.
    fn version(&self) -> String;

    /// Datum 64: the identity of the configuration in force, where it is known.
    fn config(&self) -> Option<String>;

    /// The image that runs, byte by byte as it was fetched, where the machine keeps it: differences are applied to it.
    fn image(&self) -> Option<Arc<[u8]>> {
        None
    }

    /// How much of the protocol what runs knows, where that is not what the device was made with. It is asked for after each
    /// boot; an ear for datagrams keeps to what it was made with.
    fn vocabulary(&self) -> Option<Vocabulary> {
        None
    }

    /// A file is about to come. `size` where the server said it.
    ///
    /// # Errors
    /// Where there is no room for it: it is not fetched.
    fn open(&mut self, file: FileKind, size: Option<u64>) -> Result<(), HardwareError>;

    /// The next bytes of it.
    ///
    /// # Errors
    /// Where they cannot be kept: the transfer ends.
    fn write(&mut self, chunk: &[u8]) -> Result<(), HardwareError>;

    /// The file is whole, and what the server said it is. From here on it survives a loss of power. `identity` is datum 64.
    ///
    /// # Errors
    /// Where it cannot be kept.
    fn store(&mut self, identity: Option<String>) -> Result<(), HardwareError>;

    /// The file is of no use.
    fn discard(&mut self);

    /// Whether an image is stored and not yet in the flash.
    fn has_image(&self) -> bool;

    /// Writes the stored image into the slot that does not run, and boots from it next time. The version it will be, where
    /// the machine can tell.
    fn flash(&mut self) -> impl Future<Output = Result<Option<String>, HardwareError>> + Send;

    /// Goes down and comes up again. The version that came up. On a machine where the agent goes down with the rest, this
    /// never returns.
    fn boot(&mut self) -> impl Future<Output = Result<String, BootError>> + Send;

    /// The power is gone: what is open or half written is lost. Of interest to simulated machines alone.
    fn lose_power(&mut self);

    /// Puts the stored profile into force; what is in force may be put into force again.
    fn apply(&mut self) -> impl Future<Output = Result<AppliedConfig, HardwareError>> + Send;

    /// What message 10 uploads.
    fn log(&self) -> Vec<u8>;
}
