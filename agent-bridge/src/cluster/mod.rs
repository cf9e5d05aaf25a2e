//! The bridge's side towards the Kubernetes API: what it watches, what it writes, and as which run of which bridge.

pub mod address;
pub mod bridges;
pub mod content;
pub mod declared;
mod docker_config;
pub mod enrolment;
pub mod firmware;
pub mod groups;
pub mod images;
pub mod index;
pub mod lease;
pub mod notices;
pub mod record;
mod request;
pub mod view;
pub mod writer;

pub use request::ApiError;

/// The field manager of everything that the bridge writes.
pub const FIELD_MANAGER: &str = "fettle-bridge";

/// Said where a right is missing that the chart gives to each replica by its name.
const UNNAMED: &str = "the bridge's role does not name this replica: replicas are added with bridge.replicas of the chart, not \
                       with kubectl scale";

/// One run of one bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The bridge: the name of its pod, and of its Lease.
    pub name: String,
    /// This run of it: random, so that no two runs are alike.
    pub incarnation: String,
}

impl Identity {
    /// A new run of the bridge with this name.
    pub fn new(name: String) -> Self {
        let bytes: [u8; 16] = rand::random();
        Self { name, incarnation: data_encoding::HEXLOWER.encode(&bytes) }
    }

    /// As it stands in the Lease.
    pub fn holder(&self) -> String {
        format!("{}/{}", self.name, self.incarnation)
    }
}
