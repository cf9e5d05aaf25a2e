//! The file servers beside other people's, in one run: the same file to the same client, over FTP, HTTP, and TFTP with
//! blocks and windows of several sizes. Then many devices at once: whether each gets its share, and what memory that takes.
//!
//! Our servers are a process of their own, as the others are, and so their memory can be seen. What is compared is fetched
//! in turns, ours and theirs, so that a machine that does other things disturbs both alike; of the rounds the median counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench that cannot be set up has nothing to say"
)]
#![allow(clippy::print_stdout, reason = "it is what a bench is for")]

mod crowd;
#[path = "../../tests/files_support/foreign.rs"]
mod foreign;
mod ours;
#[path = "../../tests/files_support/setting.rs"]
mod setting;
mod single;

use std::path::PathBuf;

use clap::Parser;

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// Only rows with this in their name, such as ftp, windowsize or devices
    #[arg(default_value = "")]
    row: String,
    /// How often each file is fetched from each server
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How many devices fetch at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..))]
    devices: u16,
    /// Serves this folder and these files in it, each as NAME=SHA256, until its input ends; prints where
    #[arg(long, hide = true, num_args = 1.., value_name = "FOLDER FILES")]
    serve: Option<Vec<String>>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(serve) = arguments.serve {
        let (folder, files) = serve.split_first().expect("a folder to serve");
        return ours::serve(&PathBuf::from(folder), files);
    }
    let work = tempfile::tempdir().unwrap();
    single::run(work.path(), &arguments.row, arguments.rounds);
    crowd::run(work.path(), &arguments.row, usize::from(arguments.devices));
}
