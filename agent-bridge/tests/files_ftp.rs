//! The FTP server, spoken to line by line: what no well-behaved client does, and what must come of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fettle_bridge::files::Deadlines;
use files_support::{Command, PATIENCE, Servers, UPLOAD_SIZE, assert_same, bytes};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// A control connection.
struct Client {
    control: BufReader<TcpStream>,
}

impl Client {
    async fn connect(servers: &Servers) -> Self {
        Self::connect_from(servers, Ipv4Addr::LOCALHOST).await
    }

    async fn connect_from(servers: &Servers, local: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((local, 0))).unwrap();
        Self { control: BufReader::new(socket.connect(servers.ftp()).await.unwrap()) }
    }

    /// One that has logged in.
    async fn logged_in(servers: &Servers, command: &Command) -> Self {
        let mut client = Self::connect(servers).await;
        client.expect("220").await;
        client.ask(&format!("USER {}", command.minted.user), "331").await;
        client.ask(&format!("PASS {}", command.minted.password), "230").await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.control.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next line. Empty: the server has closed the connection.
    async fn reply(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.control.read_line(&mut line)).await;
        read.expect("the server does not answer").unwrap_or_default();
        line
    }

    async fn expect(&mut self, code: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(code), "{reply:?} instead of {code}");
        reply
    }

    async fn ask(&mut self, line: &str, code: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).await;
        self.expect(code).await
    }

    /// Where `PASV` says that data connections go.
    async fn passive(&mut self) -> SocketAddr {
        let reply = self.ask("PASV", "227").await;
        let numbers = reply.split_once('(').unwrap().1.split_once(')').unwrap().0;
        let numbers: Vec<u8> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
        let [a, b, c, d, high, low] = numbers[..] else { panic!("{reply}") };
        SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))
    }

    async fn data(&mut self) -> TcpStream {
        let address = self.passive().await;
        TcpStream::connect(address).await.unwrap()
    }

    async fn expect_closed(&mut self) {
        assert_eq!(self.reply().await, "");
    }
}

fn deadlines(change: impl FnOnce(&mut Deadlines)) -> impl FnOnce(&mut fettle_bridge::files::FileServerConfig) {
    move |config| change(&mut config.deadlines)
}

const SOON: Duration = Duration::from_millis(100);

#[tokio::test]
async fn before_the_login_nothing_can_be_done() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::connect(&servers).await;
    client.expect("220").await;
    for line in ["PASV", "EPSV", "CWD /", "PWD", "LIST", "TYPE I", "REST 1", "ABOR", "ALLO 1"] {
        client.ask(line, "530").await;
    }
    client.ask(&format!("RETR {}", command.path()), "530").await;
    client.ask(&format!("STOR {}", command.path()), "530").await;
    client.ask("PASS secret", "503").await;
    client.ask("NOOP", "200").await;
    client.ask("SYST", "215").await;
    client.ask("QUIT", "221").await;
    client.expect_closed().await;
}

#[tokio::test]
async fn three_wrong_passwords_end_the_connection() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let (ours, others) = (servers.order_download("uid-1", &content), servers.order_download("uid-2", &content));
    let mut client = Client::connect(&servers).await;
    client.expect("220").await;
    for (password, code) in [("anything", "530"), (&*others.minted.password, "530"), ("", "421")] {
        client.ask(&format!("USER {}", ours.minted.user), "331").await;
        client.ask(&format!("PASS {password}"), code).await;
    }
    client.expect_closed().await;
    assert_eq!(servers.metric("fettle_bridge_ftp_logins_refused_total", &[]), 3.0);
}

#[tokio::test]
async fn a_device_gets_only_what_it_was_told_to_fetch() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let (ours, others) = (servers.order_download("uid-1", &content), servers.order_download("uid-2", &content));
    let upload = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::logged_in(&servers, &ours).await;
    for path in [
        others.path(),
        upload.path(),
        "/etc/passwd".into(),
        format!("../../{}", ours.path()),
        format!("{}/../{}", ours.minted.path, ours.minted.file),
        ours.minted.file.clone(),
        "a".repeat(400),
    ] {
        client.ask(&format!("SIZE {path}"), "550").await;
        client.ask(&format!("RETR {path}"), "550").await;
    }
    client.ask(&format!("STOR {}", ours.path()), "550").await;
    client.ask(&format!("SIZE {}", ours.path()), "213 5").await;
    client.ask(&format!("CWD {}", ours.minted.path), "250").await;
    client.ask(&format!("SIZE {}", ours.minted.file), "213 5").await;
    client.ask(&format!("SIZE /{}", ours.path()), "213 5").await;
    client.ask(&format!("MDTM {}", ours.minted.file), "213 20").await;
    client.ask("CWD /etc", "550").await;
    client.ask("CDUP", "250").await;
    client.ask(&format!("SIZE {}", ours.minted.file), "550").await;
}

#[tokio::test]
async fn content_that_is_not_here_is_no_such_file() {
    let servers = Servers::start();
    let nowhere = fettle_bridge::files::store::Content { sha256: [7; 32], size: 1, crc: 0 };
    let command = servers.order_download("uid-1", &nowhere);
    let mut client = Client::logged_in(&servers, &command).await;
    client.ask(&format!("RETR {}", command.path()), "550").await;
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "ftp", "not_found"]), 1.0);
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_connection_and_what_follows_is_not_kept() {
    let servers = Servers::start();
    let mut client = Client::connect(&servers).await;
    client.expect("220").await;
    client.send(&[b'x'; 600]).await;
    client.expect("500").await;
    client.expect_closed().await;

    let mut client = Client::connect(&servers).await;
    client.expect("220").await;
    client.send(format!("NOOP{}\r\n", " ".repeat(506)).as_bytes()).await;
    client.expect("200").await;
}

#[tokio::test]
async fn who_does_not_log_in_or_falls_silent_is_sent_away() {
    let servers = Servers::start_with(deadlines(|d| (d.login, d.idle) = (10 * SOON, 10 * SOON)));
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut idle = Client::logged_in(&servers, &command).await;
    let mut slow = Client::connect(&servers).await;
    slow.expect("220").await;
    // Each byte alone is in time, and no line comes of them.
    for byte in b"USER" {
        slow.send(&[*byte]).await;
    }
    slow.expect("421").await;
    slow.expect_closed().await;
    idle.expect("421").await;
    idle.expect_closed().await;
}

#[tokio::test]
async fn the_server_connects_to_nobody() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let told = client.ask("PORT 127,0,0,1,0,22", "502").await;
    assert!(told.contains("PASV"), "{told}");
    client.ask("EPRT |1|127.0.0.1|22|", "502").await;
    client.ask(&format!("RETR {}", command.path()), "425").await;
}

#[tokio::test]
async fn the_data_connection_is_the_peers_alone() {
    let servers = Servers::start();
    let content = servers.content(b"secret configuration").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let address = client.passive().await;
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let mut thief = elsewhere.connect(address).await.unwrap();
    client.send(format!("RETR {}\r\n", command.path()).as_bytes()).await;
    let mut stolen = Vec::new();
    let _ = thief.read_to_end(&mut stolen).await;
    assert_eq!(stolen, b"");
    let mut data = TcpStream::connect(address).await.unwrap();
    client.expect("150").await;
    let mut fetched = Vec::new();
    data.read_to_end(&mut fetched).await.unwrap();
    assert_eq!(fetched, b"secret configuration");
    drop(data);
    client.expect("226").await;
}

#[tokio::test]
async fn a_data_connection_that_does_not_come_is_given_up_and_its_port_given_back() {
    let servers = Servers::start_with(deadlines(|d| d.data_connection = SOON));
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    client.passive().await;
    client.ask(&format!("RETR {}", command.path()), "425").await;
    // A port that nobody asks a file on is not kept either.
    let address = client.passive().await;
    let refused = tokio::time::timeout(PATIENCE, async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(refused.await.is_ok());
    client.ask("NOOP", "200").await;
}

#[tokio::test]
async fn passive_mode_names_the_advertised_address_and_extended_mode_none() {
    let servers = Servers::start_with(|config| config.advertise = Ipv4Addr::new(192, 0, 2, 7));
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    assert_eq!(client.passive().await.ip(), Ipv4Addr::new(192, 0, 2, 7));
    client.ask("EPSV", "229 Entering Extended Passive Mode (|||").await;
    client.ask("EPSV 1", "229").await;
    client.ask("EPSV 2", "522").await;
    client.ask("EPSV ALL", "200").await;
    client.ask("PASV", "522").await;
    client.ask("EPSV", "229").await;
}

#[tokio::test]
async fn data_ports_come_from_the_range() {
    // Below those that the system gives out by itself: the tests beside this one would be given it between two uses.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let free = (first..32_000).find(is_free).unwrap();
    let servers = Servers::start_with(|config| config.ftp_passive_ports = free..=free);
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    for _ in 0..3 {
        assert_eq!(client.passive().await.port(), free);
    }
}

#[tokio::test]
async fn a_download_is_complete_only_when_the_client_took_it_to_its_end() {
    let servers = Servers::start_with(deadlines(|d| d.stall = 30 * SOON));
    let image = bytes(20_000_000);
    let content = servers.content(&image).await;

    let leaves = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &leaves).await;
    let mut data = client.data().await;
    client.ask(&format!("RETR {}", leaves.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    drop(data);
    client.expect("426").await;

    let stalls = servers.order_download("uid-1", &content);
    let mut data = client.data().await;
    client.ask(&format!("RETR {}", stalls.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    client.expect("426").await;
    drop(data);

    let begins_late = servers.order_download("uid-1", &content);
    let mut data = client.data().await;
    client.ask(&format!("REST {}", image.len() - 10), "350").await;
    client.ask(&format!("RETR {}", begins_late.path()), "150").await;
    let mut tail = Vec::new();
    data.read_to_end(&mut tail).await.unwrap();
    assert_same(&tail, &image[image.len() - 10..]);
    drop(data);
    client.expect("226").await;

    for (command, complete) in [(&leaves, false), (&stalls, false), (&begins_late, true)] {
        let progress = servers.transfers.progress(&command.permission).unwrap();
        assert_eq!(progress.complete, complete, "{progress:?}");
    }
    for result in ["aborted", "timeout", "complete"] {
        assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "ftp", result]), 1.0, "{result}");
    }
}

#[tokio::test]
async fn a_download_ends_with_its_credential() {
    let servers = Servers::start();
    let content = servers.content(&bytes(20_000_000)).await;
    let soon = jiff::Timestamp::now() + Duration::from_secs(5);
    let command = servers.order_download_until("uid-1", &content, soon);
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    client.expect("426").await;
    assert!(!servers.transfers.progress(&command.permission).unwrap().complete);
    client.ask(&format!("RETR {}", command.path()), "550").await;
}

#[tokio::test]
async fn a_start_beyond_the_end_is_refused_and_forgotten() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.ask("REST 6", "350").await;
    client.ask(&format!("RETR {}", command.path()), "550").await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    let mut all = Vec::new();
    data.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"image");
    drop(data);
    client.expect("226").await;
}

#[tokio::test]
async fn commands_that_come_together_are_answered_in_order() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.send(format!("TYPE I\r\nRETR {}\r\nPWD\nQUIT\r\n", command.path()).as_bytes()).await;
    client.expect("200").await;
    client.expect("150").await;
    let mut all = Vec::new();
    data.read_to_end(&mut all).await.unwrap();
    drop(data);
    client.expect("226").await;
    client.expect("257").await;
    client.expect("221").await;
    client.expect_closed().await;
}

#[tokio::test]
async fn a_transfer_can_be_aborted_and_the_next_one_works() {
    let servers = Servers::start();
    let image = bytes(20_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    client.send(b"ABORT\r\n").await;
    drop(data);
    client.expect("426").await;
    // That was not an ABOR, and it is answered after the transfer, which ended with its data connection.
    client.expect("502").await;

    let mut data = client.data().await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    client.send(b"\xff\xf4\xff\xf2ABOR\r\n").await;
    client.expect("426").await;
    client.expect("226").await;
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "ftp"]), 0.0);

    let mut data = client.data().await;
    client.ask(&format!("REST {}", image.len() - 1), "350").await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    data.read_to_end(&mut Vec::new()).await.unwrap();
    drop(data);
    client.expect("226").await;
}

#[tokio::test]
async fn a_listing_is_empty() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    for list in ["LIST -a", "NLST"] {
        let mut data = client.data().await;
        client.ask(list, "150").await;
        let mut listing = Vec::new();
        data.read_to_end(&mut listing).await.unwrap();
        assert_eq!(listing, b"");
        client.expect("226").await;
    }
}

#[tokio::test]
async fn an_upload_that_is_too_large_or_breaks_off_leaves_nothing() {
    let servers = Servers::start();
    let large = bytes(usize::try_from(UPLOAD_SIZE).unwrap() + 1);
    let command = servers.order_upload("uid-1", "sw-1");
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.ask(&format!("STOR {}", command.path()), "150").await;
    // The server may close before all of it is sent.
    let _ = data.write_all(&large).await;
    let _ = data.shutdown().await;
    client.expect("552").await;

    let data = client.data().await;
    client.ask(&format!("STOR {}", command.path()), "150").await;
    socket2::SockRef::from(&data).set_linger(Some(Duration::ZERO)).unwrap();
    drop(data);
    client.expect("426").await;
    assert_eq!(servers.stored_logs("sw-1").len(), 0);
    assert!(!servers.transfers.progress(&command.permission).unwrap().complete);

    let mut data = client.data().await;
    client.ask("REST 1", "350").await;
    client.ask(&format!("STOR {}", command.path()), "554").await;
    client.ask(&format!("STOR {}", command.path()), "150").await;
    data.write_all(b"log").await.unwrap();
    drop(data);
    client.expect("226").await;
    assert!(servers.is_complete(&command).await);
    assert_eq!(servers.stored_logs("sw-1").len(), 1);
}

#[tokio::test]
async fn connections_of_one_address_and_of_one_device_are_limited() {
    let servers = Servers::start_with(|config| {
        config.limits.ftp_connections_per_address = 3;
        config.limits.per_device = 2;
    });
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let first = Client::logged_in(&servers, &command).await;
    let _second = Client::logged_in(&servers, &command).await;
    let mut third = Client::connect(&servers).await;
    third.expect("220").await;
    let mut fourth = Client::connect(&servers).await;
    fourth.expect("421").await;
    let mut elsewhere = Client::connect_from(&servers, Ipv4Addr::new(127, 0, 0, 2)).await;
    elsewhere.expect("220").await;

    third.ask(&format!("USER {}", command.minted.user), "331").await;
    third.ask(&format!("PASS {}", command.minted.password), "421").await;
    third.expect_closed().await;
    drop(first);
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let mut client = Client::connect(&servers).await;
            if client.reply().await.starts_with("220") {
                client.ask(&format!("USER {}", command.minted.user), "331").await;
                client.send(format!("PASS {}\r\n", command.minted.password).as_bytes()).await;
                if client.reply().await.starts_with("230") {
                    return;
                }
            }
        }
    });
    assert!(waited.await.is_ok(), "the places of those that have gone are not given back");
}

#[tokio::test]
async fn over_the_limit_of_all_a_connection_waits_for_its_turn() {
    let servers = Servers::start_with(|config| config.limits.ftp_connections = 1);
    let mut first = Client::connect(&servers).await;
    first.expect("220").await;
    let mut second = Client::connect(&servers).await;
    second.send(b"NOOP\r\n").await;
    first.ask("NOOP", "200").await;
    assert!(tokio::time::timeout(SOON, second.control.fill_buf()).await.is_err(), "it must wait");
    drop(first);
    second.expect("220").await;
    second.expect("200").await;
}

#[tokio::test]
async fn a_stop_says_goodbye_and_ends_everything() {
    let servers = Servers::start();
    let image = bytes(20_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut idle = Client::logged_in(&servers, &command).await;
    let mut busy = Client::logged_in(&servers, &command).await;
    let mut data = busy.data().await;
    busy.ask(&format!("RETR {}", command.path()), "150").await;
    data.read_exact(&mut [0; 1000]).await.unwrap();
    let ((), ()) = tokio::join!(servers.stop(), async {
        idle.expect("421").await;
        idle.expect_closed().await;
        busy.expect("421").await;
        drop((idle, busy));
    });
    assert!(TcpStream::connect(servers.ftp()).await.is_err());
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "ftp"]), 0.0);
}

#[tokio::test]
async fn a_download_of_a_file_that_somebody_changes_under_it_breaks_off_and_the_next_is_refused() {
    let servers = Servers::start();
    // More than the kernel takes at once for a client that does not read.
    let image = bytes(64 << 20);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let mut client = Client::logged_in(&servers, &command).await;
    let mut data = client.data().await;
    client.ask(&format!("RETR {}", command.path()), "150").await;
    let mut received = vec![0; 1 << 20];
    data.read_exact(&mut received).await.unwrap();
    let cached = std::fs::File::options().write(true).open(servers.cached(&content)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&cached, &vec![0; 32 << 20], 32 << 20).unwrap();
    data.read_to_end(&mut received).await.unwrap();
    client.expect("451").await;
    assert!(received.len() < image.len(), "{} bytes came", received.len());
    assert_same(&received, &image[..received.len()]);
    assert!(!servers.transfers.progress(&command.permission).unwrap().complete);
    servers.ended("download", "ftp", "failed").await;

    client.data().await;
    client.ask(&format!("RETR {}", command.path()), "550").await;
    assert!(!servers.cached(&content).exists());
}
