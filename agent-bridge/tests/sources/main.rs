//! Every kind of source against a server of its kind that other people wrote: nginx, Debian's docker-registry (with what an
//! OCI client has put there), and an S3 server that checks signatures. And against what none of them does: connections
//! that break off in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../files_support/foreign.rs"]
mod foreign;
#[path = "../files_support/s3_server.rs"]
mod s3_server;
#[path = "../files_support/small_disk.rs"]
mod small_disk;

mod cutter;
mod disk;
mod oci;
mod pki;
mod s3;
mod setup;
mod web;
