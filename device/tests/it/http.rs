//! HTTP, against a server that answers as a test wants: breaks off, is another, refuses.

use std::sync::Arc;

use fettle_device::{Authorities, AuthoritiesError, Vocabulary};
use fettle_protocol::ServerMessage;
use fettle_protocol::datum::{Capabilities, Transfer};
use fettle_protocol::message::{Download, Location};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Scene, within};

const PROFILE: &[u8] = b"hostname sw-berlin-014\n";

/// One connection with one request.
struct Asked {
    stream: TcpStream,
    head: String,
}

impl Asked {
    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    async fn answer(mut self, head: &str, body: &[u8]) {
        self.stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        self.stream.write_all(body).await.unwrap();
    }
}

struct Server(TcpListener);

impl Server {
    async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// The next request, as far as its head goes.
    async fn asked(&self) -> Asked {
        let (mut stream, _) = within("a connection", self.0.accept()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("a request", stream.read_u8()).await.unwrap());
        }
        Asked { stream, head: String::from_utf8(head).unwrap() }
    }

    fn location(&self) -> Location {
        Location {
            transfer: Transfer::Http,
            server: [127, 0, 0, 1],
            path: "a1".to_owned(),
            file: "profile.cfg".to_owned(),
            user: String::new(),
            password: String::new(),
            port: None,
            url: Some(format!("http://{}/a1/profile.cfg", self.0.local_addr().unwrap())),
            log_key: None,
        }
    }

    fn download(&self) -> Download {
        Download::base(self.location(), fettle_protocol::crc::CrcKind::Ieee.of(PROFILE))
    }
}

async fn scene() -> Scene {
    Scene::set(|spec| spec.vocabulary = Vocabulary::Extended).await
}

#[tokio::test]
async fn a_download_that_breaks_off_is_taken_up_where_it_did() {
    let (scene, server) = (scene().await, Server::bind().await);
    let (mut talk, information) = scene.bridge.greet().await;
    assert!(information.capabilities.has(Capabilities::HTTP));
    talk.say(ServerMessage::DownloadProfile(server.download())).await;
    let size = PROFILE.len();

    let whole = server.asked().await;
    assert!(whole.head.starts_with("GET /a1/profile.cfg HTTP/1.1\r\n"), "{}", whole.head);
    assert_eq!(whole.field("range"), None);
    whole.answer(&format!("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: {size}"), &PROFILE[..2]).await;
    // Nothing at all, and then the rest.
    drop(server.asked().await);
    let rest = server.asked().await;
    assert_eq!((rest.field("range"), rest.field("if-range")), (Some("bytes=2-"), Some("\"x\"")));
    let length = size - 2;
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"x\"\r\nContent-Length: {length}\r\nContent-Range: bytes 2-{}/{size}",
        size - 1
    );
    rest.answer(&head, &PROFILE[2..]).await;
    assert_eq!(talk.result(7).await, 0);
    scene.close().await;
}

#[tokio::test]
async fn a_file_that_has_become_another_or_is_refused_is_not_downloaded() {
    let (scene, server) = (scene().await, Server::bind().await);
    let (mut talk, _) = scene.bridge.greet().await;
    let size = PROFILE.len();
    for second in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {size}"),
        format!("HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes 0-0/{size}"),
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0".to_owned(),
    ] {
        talk.say(ServerMessage::DownloadProfile(server.download())).await;
        server.asked().await.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {size}"), &PROFILE[..2]).await;
        server.asked().await.answer(&second, b"").await;
        assert_eq!(talk.result(7).await, 2, "{second}");
    }
    for refusal in ["HTTP/1.1 404 Not Found", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/", "nonsense"] {
        talk.say(ServerMessage::DownloadProfile(server.download())).await;
        server.asked().await.answer(&format!("{refusal}\r\nContent-Length: 0"), b"").await;
        assert_eq!(talk.result(7).await, 2, "{refusal}");
    }
    for url in ["", "ftp://127.0.0.1/x", "/x", "http://"] {
        let mut download = server.download();
        download.location.url = Some(url.to_owned());
        assert_eq!(talk.order_profile(download).await, 2, "{url}");
    }
    scene.close().await;
}

#[tokio::test]
async fn a_log_is_put_and_what_the_server_says_is_the_result() {
    let (scene, server) = (scene().await, Server::bind().await);
    let (mut talk, _) = scene.bridge.greet().await;
    for (answer, result) in [("HTTP/1.1 201 Created", 0), ("HTTP/1.1 413 Payload Too Large", 1)] {
        talk.say(ServerMessage::UploadLog(server.location())).await;
        let mut asked = server.asked().await;
        assert!(asked.head.starts_with("PUT /a1/profile.cfg HTTP/1.1\r\n"), "{}", asked.head);
        let length = asked.field("content-length").unwrap().parse().unwrap();
        let mut log = vec![0; length];
        within("the log", asked.stream.read_exact(&mut log)).await.unwrap();
        assert!(!log.is_empty());
        asked.answer(&format!("{answer}\r\nContent-Length: 0"), b"").await;
        assert_eq!(talk.result(11).await, result, "{answer}");
    }
    scene.close().await;
}

/// A server's certificate that vouches for itself, and what believes it.
fn certificate(name: &str) -> (tokio_rustls::TlsAcceptor, Authorities) {
    let issued = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config).into(), Authorities::from_pem(issued.cert.pem().as_bytes()).unwrap())
}

#[tokio::test]
async fn over_tls_it_believes_whom_it_was_told_to_believe_and_nobody_else() {
    let (ours, believed) = certificate("127.0.0.1");
    let (others, _) = certificate("127.0.0.1");
    let (elsewhere, _) = certificate("files.example.net");
    let size = PROFILE.len();
    for (acceptor, authorities, result) in
        [(ours, Some(believed.clone()), 0), (others, Some(believed.clone()), 2), (elsewhere, Some(believed), 2)]
    {
        let scene = Scene::set(|spec| {
            spec.vocabulary = Vocabulary::Extended;
            spec.authorities = authorities;
        })
        .await;
        let server = Server::bind().await;
        let (mut talk, _) = scene.bridge.greet().await;
        let mut download = server.download();
        download.location.url = download.location.url.map(|url| url.replace("http://", "https://"));
        talk.say(ServerMessage::DownloadProfile(download)).await;
        let (stream, _) = within("a connection", server.0.accept()).await.unwrap();
        if let Ok(mut stream) = within("TLS", acceptor.accept(stream)).await {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
            stream.write_all(&[answer.as_bytes(), PROFILE].concat()).await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(talk.result(7).await, result);
        } else {
            assert_eq!(talk.result(7).await, result);
        }
        scene.close().await;
    }
}

#[tokio::test]
async fn who_believes_nobody_fetches_from_no_server_over_tls() {
    let (scene, server) = (scene().await, Server::bind().await);
    let (mut talk, _) = scene.bridge.greet().await;
    let mut download = server.download();
    download.location.url = download.location.url.map(|url| url.replace("http://", "https://"));
    assert_eq!(talk.order_profile(download).await, 2);
    assert!(matches!(Authorities::from_pem(b"nothing"), Err(AuthoritiesError::Empty)));
    scene.close().await;
}

#[tokio::test]
async fn a_device_need_not_announce_all_that_it_knows() {
    let scene = Scene::set(|spec| {
        spec.vocabulary = Vocabulary::Extended;
        spec.withheld = Capabilities::HTTP;
    })
    .await;
    let (_talk, information) = scene.bridge.greet().await;
    assert!(!information.capabilities.has(Capabilities::HTTP));
    assert!(information.capabilities.has(Capabilities::SERVER_PORT));
    scene.close().await;
}
