//! The order of versions, requirements, and the paths over them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod order;
mod paths;
mod requirement;
