//! One client at a time: curl and atftp, from our servers and from others.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::foreign::Foreign;
use super::ours::{self, Ours};

const MIB: usize = 1 << 20;

/// Over FTP a file this large takes long enough to be timed, and is in no cache of a processor.
const LARGE: (&str, usize) = ("large", 256 * MIB);
/// Over TFTP each block is answered, so that it takes as long.
const MEDIUM: (&str, usize) = ("medium", 64 * MIB);
/// With blocks of 512 bytes.
const SMALL: (&str, usize) = ("small", 8 * MIB);
/// A configuration: here the way to the first byte counts.
const TINY: (&str, usize) = ("tiny", 16 * 1024);

const PASSWORD: &str = "secret-of-the-bench";

/// How the file is asked for.
enum Client {
    Curl(&'static [&'static str]),
    /// With options of TFTP.
    Atftp(&'static [&'static str]),
}

struct Row {
    name: &'static str,
    file: (&'static str, usize),
    client: Client,
    servers: &'static [Server],
}

#[derive(Clone, Copy, PartialEq)]
enum Server {
    Vsftpd,
    Nginx,
    TftpdHpa,
    Atftpd,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Vsftpd => "vsftpd",
            Self::Nginx => "nginx",
            Self::TftpdHpa => "tftpd-hpa",
            Self::Atftpd => "atftpd",
        }
    }
}

const BOTH: &[Server] = &[Server::TftpdHpa, Server::Atftpd];

const ROWS: &[Row] = &[
    Row { name: "ftp 256 MiB", file: LARGE, client: Client::Curl(&[]), servers: &[Server::Vsftpd] },
    Row { name: "ftp 16 KiB", file: TINY, client: Client::Curl(&[]), servers: &[Server::Vsftpd] },
    Row { name: "http 256 MiB", file: LARGE, client: Client::Curl(&["--fail"]), servers: &[Server::Nginx] },
    Row { name: "http 16 KiB", file: TINY, client: Client::Curl(&["--fail"]), servers: &[Server::Nginx] },
    Row { name: "tftp 8 MiB", file: SMALL, client: Client::Curl(&["--tftp-no-options"]), servers: BOTH },
    Row {
        name: "tftp 64 MiB blksize 1428",
        file: MEDIUM,
        client: Client::Curl(&["--tftp-blksize", "1428"]),
        servers: BOTH,
    },
    Row {
        name: "tftp 64 MiB blksize 8192",
        file: MEDIUM,
        client: Client::Curl(&["--tftp-blksize", "8192"]),
        servers: BOTH,
    },
    Row {
        name: "tftp 64 MiB blksize 1428 windowsize 16",
        file: MEDIUM,
        client: Client::Atftp(&["blksize 1428", "windowsize 16"]),
        servers: &[Server::Atftpd],
    },
    Row {
        name: "tftp 64 MiB blksize 8192 windowsize 8",
        file: MEDIUM,
        client: Client::Atftp(&["blksize 8192", "windowsize 8"]),
        servers: &[Server::Atftpd],
    },
    Row {
        name: "tftp 16 KiB blksize 1428",
        file: TINY,
        client: Client::Curl(&["--tftp-blksize", "1428"]),
        servers: BOTH,
    },
];

pub fn run(work: &Path, only: &str, rounds: u16) {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.name.contains(only)).collect();
    if rows.is_empty() {
        return;
    }
    let folder = work.join("single");
    std::fs::create_dir(&folder).unwrap();
    let files = [LARGE, MEDIUM, SMALL, TINY];
    for (name, size) in files {
        ours::file(&folder, name, size);
    }
    let us = Ours::start(&folder, &files.map(|(name, _)| name));
    let foreign = |server: Server| match server {
        Server::Vsftpd => Foreign::vsftpd(&folder, PASSWORD, ""),
        Server::Nginx => {
            let root = folder.display();
            // As its documentation has it for large files.
            let tuned = "sendfile on; tcp_nopush on; tcp_nodelay on;";
            Foreign::nginx(&format!("server {{ listen LISTEN; root {root}; {tuned} }}"))
        }
        Server::TftpdHpa => Foreign::tftpd_hpa(&folder),
        Server::Atftpd => Foreign::atftpd(&folder),
    };
    let all = [Server::Vsftpd, Server::Nginx, Server::TftpdHpa, Server::Atftpd];
    let foreign = all.map(|server| (server, foreign(server)));
    println!("\none client at a time; the median of {rounds}; goal: at or above each\n");
    println!("  {:<42} {:>12}   {:<10} {:>12}   {:>5}", "", "ours", "", "theirs", "ratio");
    for row in rows {
        for server in row.servers {
            let (_, theirs) = foreign.iter().find(|(is, _)| is == server).unwrap();
            let (our_time, their_time) = measure(row, rounds, &us, theirs.address, &folder);
            let ratio = their_time.as_secs_f64() / our_time.as_secs_f64();
            println!(
                "  {:<42} {:>12}   {:<10} {:>12}   {ratio:>5.2}{}",
                row.name,
                figure(row, our_time),
                server.name(),
                figure(row, their_time),
                if ratio < 1.0 { "  missed" } else { "" },
            );
        }
    }
}

/// The speed; for a tiny file the time.
fn figure(row: &Row, time: Duration) -> String {
    let (_, size) = row.file;
    match size {
        size if size < MIB => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
        size => format!("{:.0} MiB/s", (size / MIB) as f64 / time.as_secs_f64()),
    }
}

/// The medians, ours and theirs.
fn measure(row: &Row, rounds: u16, us: &Ours, theirs: SocketAddr, folder: &Path) -> (Duration, Duration) {
    let (name, size) = row.file;
    let ours_at = match row.name.split(' ').next() {
        Some("ftp") => us.ftp,
        Some("http") => us.http,
        _ => us.tftp,
    };
    // Short ones are repeated, for a process begins in about as long as they take.
    let rounds = if size < MIB { rounds * 10 } else { rounds };
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let minted = us.order("device", name);
        let path = format!("{}/{}", minted.path, minted.file);
        ours.push(fetch(row, ours_at, &path, &format!("{}:{}", minted.user, minted.password), folder));
        others.push(fetch(row, theirs, name, &format!("ftp:{PASSWORD}"), folder));
    }
    (median(ours), median(others))
}

fn fetch(row: &Row, server: SocketAddr, path: &str, login: &str, folder: &Path) -> Duration {
    let scheme = row.name.split(' ').next().unwrap();
    let out = folder.join("out");
    let mut command = match &row.client {
        Client::Curl(options) => {
            let mut command = Command::new("curl");
            command.args(["--disable", "--noproxy", "*", "--silent", "--show-error"]).args(*options);
            if scheme == "ftp" {
                command.args(["--user", login]);
            }
            // Into nothing: it is the servers that are measured, not the disk.
            command.args(["-o", "/dev/null"]).arg(format!("{scheme}://{server}/{path}"));
            command
        }
        Client::Atftp(options) => {
            let mut command = Command::new("atftp");
            command.args(options.iter().flat_map(|option| ["--option", *option]));
            command
                .args(["--get", "-r", path, "-l"])
                .arg(&out)
                .arg(server.ip().to_string())
                .arg(server.port().to_string());
            command
        }
    };
    let begun = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("tools/packages installs it");
    let took = begun.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    if matches!(row.client, Client::Atftp(_)) {
        let fetched = std::fs::metadata(&out).unwrap().len();
        assert_eq!(fetched, row.file.1 as u64, "{command:?}");
        std::fs::remove_file(out).unwrap();
    }
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
