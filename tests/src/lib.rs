//! The harness of Fettle's end-to-end tests, of `make demo` and of `make up`.
//!
//! It starts a real Kubernetes control plane and, on it, the programs as the chart describes them. Nothing is simulated
//! but the devices. Read it in this order:
//!
//! - [`ControlPlane`]: kube-apiserver, etcd and kube-controller-manager on loopback; one for a whole test run.
//! - [`TestNamespace`]: what one test has for itself, with kubectl, and a dump of its state when the test fails.
//! - [`Installation`]: controller and bridges in that namespace, as the chart renders them, with their own identities;
//!   each a [`Program`] that a test can kill and start again.
//! - [`Node`]: a node besides, which runs pods; as root on Linux. [`image`]: what it runs, made without a daemon.
//! - [`tools`]: where foreign programs come from; [`process`]: how children are kept from outliving their parent.

pub mod chart;
pub mod control_plane;
pub mod dev;
mod dump;
pub mod image;
pub mod installation;
pub mod kubeconfig;
pub mod manifest;
pub mod namespace;
pub mod node;
mod pki;
pub mod ports;
pub mod process;
pub mod program;
pub mod tools;

pub use control_plane::ControlPlane;
pub use installation::Installation;
pub use namespace::TestNamespace;
pub use node::Node;
pub use program::Program;

/// Tells the person who waits what goes on: one line on standard error, where it does not mix with a program's output.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        // Nobody listening is no reason to stop.
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}
