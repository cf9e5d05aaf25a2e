//! A server that says what a test tells it to, and file servers of other people.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fettle_device::spec::{Backoff, FilePorts, Timings};
use fettle_device::{DeviceHandle, DeviceSpec, Fleet, FleetConfig, FleetHandle};
use fettle_protocol::datum::Transfer;
use fettle_protocol::message::{DeviceInformation, Download, Location, UpgradeAt};
use fettle_protocol::{Decoder, DeviceMessage, Frame, Mac, ServerMessage};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far more than anything here takes; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn within<T>(what: &str, step: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(done) => done,
        Err(_elapsed) => panic!("waited in vain: {what}"),
    }
}

/// The server's listening socket.
pub struct Bridge {
    listener: TcpListener,
}

impl Bridge {
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection, before anything is said on it.
    pub async fn accept(&self) -> Talk {
        let (stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        Talk { stream, decoder: Decoder::new() }
    }

    /// The next connection, and what message 1 says on it.
    pub async fn greet(&self) -> (Talk, DeviceInformation) {
        let mut talk = self.accept().await;
        let information = talk.hear_information().await;
        (talk, information)
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Finished,
    Reset,
}

/// One connection, the server's end.
pub struct Talk {
    stream: TcpStream,
    decoder: Decoder,
}

impl Talk {
    pub async fn say(&mut self, message: ServerMessage) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        self.say_bytes(&bytes).await;
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Frame, Ended> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Ok(frame);
            }
            let mut buffer = [0; 4096];
            match within("a message", self.stream.read(&mut buffer)).await {
                Ok(0) => return Err(Ended::Finished),
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(_) => return Err(Ended::Reset),
            }
        }
    }

    /// What comes first, message or not.
    pub async fn read_bytes(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let read = within("bytes", self.stream.read(&mut buffer)).await.unwrap();
        buffer.truncate(read);
        buffer
    }

    pub fn peer(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }

    pub async fn hear(&mut self) -> DeviceMessage {
        let frame = self.next().await.expect("a message, not the end");
        DeviceMessage::from_frame(&frame).unwrap()
    }

    pub async fn hear_information(&mut self) -> DeviceInformation {
        match self.hear().await {
            DeviceMessage::Information(information) => information,
            other => panic!("{other:?} instead of message 1"),
        }
    }

    /// Nothing more comes but the end.
    pub async fn end(&mut self) -> Ended {
        match self.next().await {
            Err(ended) => ended,
            Ok(frame) => panic!("message {} instead of the end", frame.message),
        }
    }

    /// What is said is thrown away; then the end.
    pub async fn drain(&mut self) -> Ended {
        loop {
            if let Err(ended) = self.next().await {
                return ended;
            }
        }
    }

    /// 3 → 5, in numbers.
    pub async fn order_image(&mut self, download: Download) -> u32 {
        self.say(ServerMessage::DownloadVersion(download)).await;
        self.result(5).await
    }

    /// 4 → 7, in numbers.
    pub async fn order_profile(&mut self, download: Download) -> u32 {
        self.say(ServerMessage::DownloadProfile(download)).await;
        self.result(7).await
    }

    /// 8 → 9, in numbers.
    pub async fn order_upgrade(&mut self) -> u32 {
        self.say(ServerMessage::UpgradeProfile(UpgradeAt::Immediately)).await;
        self.result(9).await
    }

    /// The result that this message tells.
    pub async fn result(&mut self, message: u8) -> u32 {
        let frame = self.next().await.expect("a result, not the end");
        assert_eq!(frame.message, message, "{frame:?}");
        let (_, value) = frame.data.iter().find(|(datum, _)| [10, 13].contains(datum)).unwrap();
        u32::from_be_bytes(value.as_slice().try_into().unwrap())
    }
}

/// An FTP and a TFTP server over one folder, on free ports.
pub struct Files {
    folder: TempDir,
    pub ports: FilePorts,
}

impl Files {
    pub async fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a1")).unwrap();
        let ports = FilePorts { ftp: ftp(folder.path().to_owned()).await, tftp: tftp(folder.path()).await };
        Self { folder, ports }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is in a file that was sent here, as soon as it is all there: async-tftp acknowledges before it has written.
    pub async fn read_when(&self, name: &str, is_complete: impl Fn(&str) -> bool) -> String {
        within("the file", async {
            loop {
                match std::fs::read_to_string(self.path(name)) {
                    Ok(text) if is_complete(&text) => return text,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        })
        .await
    }

    /// A file, and what a server would say about it.
    pub fn put(&self, transfer: Transfer, name: &str, content: &[u8]) -> Download {
        std::fs::write(self.path(&format!("a1/{name}")), content).unwrap();
        Download::base(self.location(transfer, name), fettle_protocol::crc::CrcKind::Ieee.of(content))
    }

    pub fn location(&self, transfer: Transfer, name: &str) -> Location {
        let (user, password) = match transfer {
            Transfer::Ftp => ("u7", "p7"),
            Transfer::Tftp | Transfer::Http => ("", ""),
        };
        Location {
            transfer,
            server: [127, 0, 0, 1],
            path: "a1".to_owned(),
            file: name.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            port: None,
            url: None,
            log_key: None,
        }
    }
}

async fn ftp(folder: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let folder = folder.clone();
            let server =
                libunftp::ServerBuilder::new(Box::new(move || unftp_sbe_fs::Filesystem::new(folder.clone()).unwrap()))
                    .passive_host(Ipv4Addr::LOCALHOST)
                    .build()
                    .unwrap();
            tokio::spawn(server.service(stream));
        }
    });
    port
}

async fn tftp(folder: &Path) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let builder = async_tftp::server::TftpServerBuilder::with_dir_rw(folder).unwrap();
    let server = builder.std_socket(socket).unwrap().build().await.unwrap();
    tokio::spawn(server.serve());
    port
}

pub const MAC: Mac = Mac::new([2, 0, 0x5e, 0, 0x53, 0x0e]);

/// A strict device in a hurry.
pub fn spec(ports: FilePorts) -> DeviceSpec {
    let timings = Timings {
        install: Duration::from_millis(5),
        restart: Duration::from_millis(5),
        apply: Duration::from_millis(5),
        backoff: Backoff { first: Duration::from_millis(5), max: Duration::from_millis(20) },
        ..Timings::default()
    };
    DeviceSpec { timings, file_ports: ports, ..DeviceSpec::new(MAC, "S5700", "4.9.0") }
}

/// Everything that a test of one device needs.
pub struct Scene {
    pub bridge: Bridge,
    pub files: Files,
    pub fleet: FleetHandle,
    pub device: DeviceHandle,
}

impl Scene {
    pub async fn set(change: impl FnOnce(&mut DeviceSpec)) -> Self {
        let bridge = Bridge::bind().await;
        let files = Files::serve().await;
        let mut spec = spec(files.ports);
        change(&mut spec);
        let fleet = Fleet::start(FleetConfig::new(vec![bridge.address()], vec![spec])).unwrap();
        let device = fleet.devices().remove(0);
        Self { bridge, files, fleet, device }
    }

    /// The device ends, and did nothing that it should not have.
    pub async fn close(self) {
        within("the fleet's end", self.fleet.shutdown()).await;
        assert_eq!(self.fleet.violations(), [], "{}", self.fleet.dump());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.fleet.dump());
        }
    }
}

pub fn image(version: &str) -> Vec<u8> {
    fettle_device::image::build("S5700", version, 100_000)
}
