//! The codec against the wire: golden bytes, streams, refusals, properties, and the page that vendors read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod annotated;
mod datagrams;
mod dialects;
mod goldens;
#[path = "../../fuzz/src/lib.rs"]
mod invariants;
mod properties;
mod protocol_page;
mod refusals;
mod seed_corpus;
mod streams;
