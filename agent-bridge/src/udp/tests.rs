use std::time::Duration;

use fettle_protocol::datum::Transfer;
use jiff::SignedDuration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A bridge's socket that is served, and one of a device that it knows.
struct Rig {
    datagrams: std::sync::Arc<Datagrams>,
    device: UdpSocket,
    replies: mpsc::Receiver<Reply>,
    registry: Registry,
    stop: CancellationToken,
}

impl Rig {
    async fn start() -> Self {
        let device = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let registry = Registry::new();
        let port = device.local_addr().unwrap().port();
        let datagrams = Datagrams::bind("127.0.0.1:0".parse().unwrap(), port, &registry).await.unwrap();
        let datagrams = std::sync::Arc::new(datagrams);
        let (sender, replies) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let (served, stopped) = (std::sync::Arc::clone(&datagrams), stop.clone());
        tokio::spawn(async move { served.serve(sender, stopped).await });
        Self { datagrams, device, replies, registry, stop }
    }

    fn ask(&self, dialect: Dialect, until: Timestamp) {
        self.datagrams.ask("127.0.0.2".parse().unwrap(), Asked { mac: mac(), dialect, key: None, until }, location());
    }

    async fn received(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2000];
        let (len, from) = tokio::time::timeout(PATIENCE, self.device.recv_from(&mut buffer)).await.unwrap().unwrap();
        (buffer[..len].to_vec(), from)
    }

    async fn replies_with(&self, bytes: &[u8]) {
        self.device.send_to(bytes, self.datagrams.local_addr().unwrap()).await.unwrap();
    }

    async fn reply(&mut self) -> Reply {
        tokio::time::timeout(PATIENCE, self.replies.recv()).await.unwrap().unwrap()
    }

    /// Waits until so many datagrams were dropped for this reason.
    async fn dropped(&self, reason: &str, count: u64) {
        let series = format!("fettle_bridge_udp_dropped_total{{reason=\"{reason}\"}} {count}");
        let reached = async {
            loop {
                let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
                if text.lines().any(|line| line == series) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn mac() -> Mac {
    Mac::new([2, 0, 0x5e, 0, 0x53, 1])
}

fn location() -> Location {
    Location {
        transfer: Transfer::Ftp,
        server: [127, 0, 0, 1],
        path: "p".into(),
        file: "f".into(),
        user: "u".into(),
        password: "w".into(),
        port: None,
        url: None,
        log_key: None,
    }
}

fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(10)
}

fn eleven(dialect: Dialect) -> Vec<u8> {
    let message = DeviceMessage::LogUploaded(ExecutionResult::Success, ErrorDetail::default());
    datagram::write(dialect, &message.to_frame()).unwrap()
}

#[tokio::test]
async fn a_device_is_asked_at_the_port_that_it_calls_in_its_own_dialect_and_answers_once() {
    for dialect in [Dialect::CANONICAL, Dialect::LITTLE_ENDIAN] {
        let mut rig = Rig::start().await;
        rig.ask(dialect, later());
        let (bytes, from) = rig.received().await;
        assert_eq!(from, rig.datagrams.local_addr().unwrap());
        assert_eq!(datagram::read_request(dialect, &bytes), Ok(ServerMessage::UploadLog(location())));
        rig.replies_with(&eleven(dialect)).await;
        let expected = Reply { mac: mac(), result: ExecutionResult::Success, detail: ErrorDetail::default() };
        assert_eq!(rig.reply().await, expected);
        rig.replies_with(&eleven(dialect)).await;
        rig.dropped("NotAsked", 1).await;
    }
}

#[tokio::test]
async fn a_device_that_wants_a_proof_gets_one_that_grows_and_never_the_key() {
    let rig = Rig::start().await;
    let key = LogKey::new([7; 32]);
    let mut last = None;
    for _ in 0..3 {
        let asked = Asked { mac: mac(), dialect: Dialect::CANONICAL, key: Some(key), until: later() };
        rig.datagrams.ask("127.0.0.2".parse().unwrap(), asked, Location { log_key: Some(key), ..location() });
        let (bytes, _) = rig.received().await;
        let frame = datagram::read(Dialect::CANONICAL, &bytes, fettle_protocol::message::kind::UPLOAD_LOG).unwrap();
        assert_eq!(ServerMessage::from_frame(&frame), Ok(ServerMessage::UploadLog(location())), "without the key");
        let nonce = proof::check(&bytes, &frame, &key).unwrap();
        assert!(last.is_none_or(|last| last < nonce));
        last = Some(nonce);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn nothing_counts_of_what_nobody_asked_for_or_what_comes_too_late_or_from_elsewhere() {
    let rig = Rig::start().await;
    rig.replies_with(&eleven(Dialect::CANONICAL)).await;
    rig.dropped("NotAsked", 1).await;
    rig.ask(Dialect::CANONICAL, Timestamp::now() - SignedDuration::from_secs(1));
    rig.replies_with(&eleven(Dialect::CANONICAL)).await;
    rig.dropped("NotAsked", 2).await;
    rig.ask(Dialect::CANONICAL, later());
    // The same address, another port; another address, which nobody asked.
    for elsewhere in ["127.0.0.2:0", "127.0.0.3:0"] {
        let elsewhere = UdpSocket::bind(elsewhere).await.unwrap();
        let to = rig.datagrams.local_addr().unwrap();
        elsewhere.send_to(&eleven(Dialect::CANONICAL), to).await.unwrap();
    }
    rig.dropped("NotAsked", 4).await;
}

#[tokio::test]
async fn only_one_whole_message_11_counts() {
    let mut rig = Rig::start().await;
    rig.ask(Dialect::CANONICAL, later());
    let whole = eleven(Dialect::CANONICAL);
    let mut wrong = vec![vec![], vec![0; datagram::MAX_LEN + 1], [&whole[..], &whole[..]].concat()];
    wrong.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
    // 34, 1 and 9, which come on connections.
    wrong.push(vec![34, 0, 0, 0]);
    wrong.push([&[9][..], &whole[1..]].concat());
    for bytes in &wrong {
        rig.replies_with(bytes).await;
    }
    rig.dropped("Malformed", wrong.len() as u64).await;
    rig.replies_with(&whole).await;
    assert_eq!(rig.reply().await.mac, mac(), "what was dropped has used nothing up");
}
