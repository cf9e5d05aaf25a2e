//! A client that says exactly what it is told to say.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::files_support::{PATIENCE, Servers};

pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    pub(crate) async fn connect(servers: &Servers) -> Self {
        Self::connect_from(servers, Ipv4Addr::LOCALHOST).await
    }

    pub(crate) async fn connect_from(servers: &Servers, local: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // What is not read stays with the server.
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind(SocketAddr::from((local, 0))).unwrap();
        Self { stream: BufReader::new(socket.connect(servers.http()).await.unwrap()) }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// Says what may not arrive any more.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// A request without a body, and its answer.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, fields: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n")).await;
        self.answer(method).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        let answer = async {
            let line = self.line().await;
            let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status = status.unwrap_or_else(|| panic!("no answer: {line:?}"));
            let mut fields = Vec::new();
            loop {
                let line = self.line().await;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
                fields.push((name.to_lowercase(), value.to_owned()));
            }
            let mut answer = Answer { status, fields, body: Vec::new() };
            let length = answer.field("content-length").map_or(0, |length| length.parse().unwrap());
            if method != "HEAD" && status != 304 {
                answer.body.resize(length, 0);
                self.stream.read_exact(&mut answer.body).await.unwrap();
            }
            answer
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("the server does not answer")
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap_or_default();
        line.trim_end().to_owned()
    }

    /// Reads so many bytes, and leaves the rest.
    pub(crate) async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut bytes)).await.expect("nothing comes").unwrap();
        bytes
    }

    /// All that comes until the server closes the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        // It may be closed with a reset, as it is said to somebody who goes on talking.
        let _ = read.expect("the server does not close the connection");
        bytes
    }

    pub(crate) async fn expect_closed(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}
