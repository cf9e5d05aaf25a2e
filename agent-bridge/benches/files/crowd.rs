//! Many devices at once: whether each gets its share, how much all get together, and how much memory that takes.
//!
//! The devices are connections of one process, all of which begin at the same moment. Their shares are looked at when half
//! of all bytes have arrived, while all of them are under way.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Barrier, Semaphore};

use super::foreign::Foreign;
use super::ours::{self, Ours};

const MIB: usize = 1 << 20;
const MODEST: (&str, usize) = ("modest", 8 * MIB);
const HUGE: (&str, usize) = ("huge", 256 * MIB);

/// As much as one device fetches, of whichever file: all of the smaller one.
const EACH: u64 = 8 * MIB as u64;
/// Over TFTP, where each block is answered.
const EACH_OVER_TFTP: u64 = MIB as u64;

const BLOCK: usize = 1428;
const PASSWORD: &str = "secret-of-the-bench";

/// The least that Jain's index of fairness is to be: 1 where all have the same, 1/n where one has all.
const FAIR: f64 = 0.9;
/// How much more memory the larger file may take: what measuring twice differs by.
const MEMORY_SLACK: u64 = 2 * MIB as u64;

/// Logins at once: vsftpd loses connections that come faster.
static LOGINS: Semaphore = Semaphore::const_new(8);

/// Where a device fetches what.
struct Order {
    server: SocketAddr,
    user: String,
    password: String,
    path: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Ftp,
    Tftp,
}

struct Crowd {
    seconds: f64,
    bytes: u64,
    /// Of each device, when half had arrived.
    shares: Vec<u64>,
}

impl Crowd {
    fn speed(&self) -> String {
        format!("{:.0} MiB/s", self.bytes as f64 / MIB as f64 / self.seconds)
    }

    fn jain(&self) -> f64 {
        let sum: f64 = self.shares.iter().map(|share| *share as f64).sum();
        let squares: f64 = self.shares.iter().map(|share| (*share as f64).powi(2)).sum();
        sum * sum / (self.shares.len() as f64 * squares)
    }

    fn least_to_most(&self) -> f64 {
        let (least, most) = (self.shares.iter().min().unwrap(), self.shares.iter().max().unwrap());
        *least as f64 / *most as f64
    }
}

pub fn run(work: &Path, only: &str, devices: usize) {
    if !"devices at once".contains(only) {
        return;
    }
    let folder = work.join("crowd");
    std::fs::create_dir(&folder).unwrap();
    for (name, size) in [MODEST, HUGE] {
        ours::file(&folder, name, size);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (vsftpd, tftpd_hpa) =
        (Foreign::vsftpd(&folder, PASSWORD, "max_per_ip=0\nmax_clients=0"), Foreign::tftpd_hpa(&folder));
    println!(
        "\n{devices} devices at once; goal: fair, Jain's index at least {FAIR}, and at or above the other's speed\n"
    );
    println!("  {:<42} {:>12} {:>8} {:>12}", "", "all", "Jain", "least/most");
    for protocol in [Protocol::Ftp, Protocol::Tftp] {
        let us = Ours::start(&folder, &[MODEST.0]);
        let ours = runtime.block_on(crowd(protocol, orders(&us, protocol, MODEST.0, devices)));
        let (name, foreign) = match protocol {
            Protocol::Ftp => ("ftp, vsftpd", &vsftpd),
            Protocol::Tftp => ("tftp blksize 1428, tftpd-hpa", &tftpd_hpa),
        };
        let theirs = runtime.block_on(crowd(protocol, foreign_orders(foreign, devices)));
        let missed = ours.jain() < FAIR || ours.seconds > theirs.seconds;
        for (name, crowd) in [("ours", &ours), (name, &theirs)] {
            let remark = if missed && name == "ours" { "  missed" } else { "" };
            let (speed, jain, least) = (crowd.speed(), crowd.jain(), crowd.least_to_most());
            println!("  {name:<42} {speed:>12} {jain:>8.3} {least:>12.2}{remark}");
        }
    }

    println!(
        "\nmemory of our servers at its peak, {devices} devices at once; goal: that it does not grow with the file\n"
    );
    for protocol in [Protocol::Ftp, Protocol::Tftp] {
        let peaks = [MODEST, HUGE].map(|(name, size)| {
            let us = Ours::start(&folder, &[name]);
            runtime.block_on(crowd(protocol, orders(&us, protocol, name, devices)));
            (size, us.peak_memory())
        });
        let grown = peaks[1].1 > peaks[0].1 + MEMORY_SLACK;
        for (size, peak) in peaks {
            let name =
                format!("{}, a file of {} MiB", if protocol == Protocol::Ftp { "ftp" } else { "tftp" }, size / MIB);
            let remark = if grown && size == HUGE.1 { "  missed" } else { "" };
            println!("  {name:<42} {:>8.1} MiB{remark}", peak as f64 / MIB as f64);
        }
    }
}

fn orders(us: &Ours, protocol: Protocol, file: &str, devices: usize) -> Vec<Order> {
    let order = |number: usize| {
        let minted = us.order(&format!("device-{number}"), file);
        let server = match protocol {
            Protocol::Ftp => us.ftp,
            Protocol::Tftp => us.tftp,
        };
        Order { server, user: minted.user, password: minted.password, path: format!("{}/{}", minted.path, minted.file) }
    };
    (0..devices).map(order).collect()
}

fn foreign_orders(server: &Foreign, devices: usize) -> Vec<Order> {
    let order = |_| Order {
        server: server.address,
        user: "ftp".to_owned(),
        password: PASSWORD.to_owned(),
        path: MODEST.0.to_owned(),
    };
    (0..devices).map(order).collect()
}

async fn crowd(protocol: Protocol, orders: Vec<Order>) -> Crowd {
    let each = match protocol {
        Protocol::Ftp => EACH,
        Protocol::Tftp => EACH_OVER_TFTP,
    };
    let devices = orders.len();
    let arrived: Arc<Vec<AtomicU64>> = Arc::new((0..devices).map(|_| AtomicU64::new(0)).collect());
    let start = Arc::new(Barrier::new(devices + 1));
    let fetching: FuturesUnordered<_> = (orders.into_iter().enumerate())
        .map(|(index, order)| {
            let (arrived, start) = (Arc::clone(&arrived), Arc::clone(&start));
            tokio::spawn(async move {
                match protocol {
                    Protocol::Ftp => fetch_ftp(order, each, &arrived[index], &start).await,
                    Protocol::Tftp => fetch_tftp(order, each, &arrived[index], &start).await,
                }
            })
        })
        .collect();
    let shares = || -> Vec<u64> { arrived.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect() };
    let watching = async {
        start.wait().await;
        let begun = Instant::now();
        loop {
            let shares = shares();
            if shares.iter().sum::<u64>() >= each * devices as u64 / 2 {
                return (begun, shares);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // Where one of them fails, there is no half to wait for.
    let ((begun, half), _) =
        futures::try_join!(async { Ok(watching.await) }, fetching.try_collect::<Vec<()>>()).unwrap();
    Crowd { seconds: begun.elapsed().as_secs_f64(), bytes: shares().iter().sum(), shares: half }
}

async fn fetch_ftp(order: Order, each: u64, arrived: &AtomicU64, start: &Barrier) {
    let mut control = {
        let _turn = LOGINS.acquire().await.unwrap();
        let mut control = BufReader::new(TcpStream::connect(order.server).await.unwrap());
        reply(&mut control, "220").await;
        ask(&mut control, &format!("USER {}", order.user), "331").await;
        ask(&mut control, &format!("PASS {}", order.password), "230").await;
        ask(&mut control, "TYPE I", "200").await;
        control
    };
    start.wait().await;
    let passive = ask(&mut control, "EPSV", "229").await;
    let port = passive.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
    let mut data = TcpStream::connect((order.server.ip(), port)).await.unwrap();
    ask(&mut control, &format!("RETR {}", order.path), "150").await;
    let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
    while total < each {
        let len = data.read(&mut buffer).await.unwrap() as u64;
        assert!(len > 0, "the connection ended after {total} bytes");
        total += len;
        arrived.fetch_add(len, Ordering::Relaxed);
        // Devices read each for itself. Here one that always finds bytes would keep all others from reading.
        tokio::task::yield_now().await;
    }
}

async fn ask(control: &mut BufReader<TcpStream>, command: &str, expected: &str) -> String {
    control.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    reply(control, expected).await
}

async fn reply(control: &mut BufReader<TcpStream>, expected: &str) -> String {
    let mut line = String::new();
    control.read_line(&mut line).await.unwrap();
    assert!(line.starts_with(expected), "{line:?} instead of {expected}");
    line
}

async fn fetch_tftp(order: Order, each: u64, arrived: &AtomicU64, start: &Barrier) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let request = format!("\0\x01{}\0octet\0blksize\0{BLOCK}\0", order.path);
    start.wait().await;
    let (mut packet, mut transfer, mut next, mut total) = (vec![0; 2048], order.server, 1_u16, 0);
    let mut last = request.into_bytes();
    socket.send_to(&last, transfer).await.unwrap();
    while total < each {
        let Ok(received) = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut packet)).await else {
            socket.send_to(&last, transfer).await.unwrap();
            continue;
        };
        let (len, from) = received.unwrap();
        let answered = match packet[1] {
            6 => 0,
            3 if packet[2..4] == next.to_be_bytes() => {
                total += len as u64 - 4;
                arrived.fetch_add(len as u64 - 4, Ordering::Relaxed);
                next = next.wrapping_add(1);
                next.wrapping_sub(1)
            }
            3 => continue,
            _ => panic!("{:?}", String::from_utf8_lossy(&packet[..len])),
        };
        transfer = from;
        let [high, low] = answered.to_be_bytes();
        last = vec![0, 4, high, low];
        socket.send_to(&last, transfer).await.unwrap();
    }
    // Enough.
    socket.send_to(b"\0\x05\0\0\0", transfer).await.unwrap();
}
