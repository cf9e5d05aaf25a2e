//! What a connection does with the options of its socket, and how much it takes.

use prometheus::Registry;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::Metrics;
use crate::sparing::Sparing;
use crate::tcp::limits::Limits;

/// A connection, and its peer.
async fn pair() -> (Box<Connection>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    let shared = Shared {
        hub: mpsc::channel(1).0,
        metrics: Metrics::new(&Registry::new()).unwrap(),
        shutdown: CancellationToken::new(),
        lines: Sparing::new(),
    };
    let place = Limits::new(1, 1).take(address.ip()).unwrap();
    let mut connection = Connection::new(ConnectionId(1), stream, address, place, Arc::new(shared));
    connection.due = None;
    (connection, peer)
}

/// Whether keep-alive is on, and after how many seconds it begins.
fn keep_alive(connection: &Connection) -> (bool, u64) {
    let socket = SockRef::from(&connection.stream);
    (socket.keepalive().unwrap(), socket.tcp_keepalive_time().unwrap().as_secs())
}

/// Lets the next instant come that the connection waits for.
async fn wait(connection: &mut Connection) -> Result<(), Closed> {
    sleep_until(connection.wakes_at().unwrap()).await;
    connection.on_time().await.map_err(|end| end.reason)
}

async fn order(connection: &mut Connection, order: Order) {
    assert!(connection.carry_out(Some(order)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_probe_lasts_its_time_and_then_the_socket_is_as_it_should_be_by_then() {
    let (mut connection, _peer) = pair().await;
    order(&mut connection, Order::Outstanding(true)).await;
    assert!(!keep_alive(&connection).0, "the deadline of the command counts");
    let began = Instant::now();
    order(&mut connection, Order::Probe).await;
    assert_eq!(keep_alive(&connection), (true, 1));
    wait(&mut connection).await.unwrap();
    order(&mut connection, Order::Probe).await;
    wait(&mut connection).await.unwrap();
    assert_eq!(began.elapsed(), PROBE_LOOK + PROBE_REST, "who calls often does not put it off");
    assert!(!keep_alive(&connection).0, "the command is still outstanding");

    order(&mut connection, Order::Probe).await;
    order(&mut connection, Order::Outstanding(false)).await;
    assert_eq!(keep_alive(&connection), (true, 1), "the probe goes on");
    wait(&mut connection).await.unwrap();
    wait(&mut connection).await.unwrap();
    assert_eq!(keep_alive(&connection), (true, 60));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_has_long_not_acknowledged_what_it_was_sent_is_silent() {
    let (mut connection, _peer) = pair().await;
    // Its kernel takes nothing any more: as much a lack of acknowledgement as any.
    while connection.stream.try_write(&[0; 65_536]).is_ok() {}
    connection.wrote = Some(Instant::now());
    order(&mut connection, Order::Probe).await;
    assert_eq!(wait(&mut connection).await, Err(Closed::Silent));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_sent_something_just_now_has_time_to_acknowledge_it() {
    let (mut connection, _peer) = pair().await;
    order(&mut connection, Order::Probe).await;
    tokio::time::advance(PROBE_LOOK - Duration::from_secs(1)).await;
    while connection.stream.try_write(&[0; 65_536]).is_ok() {}
    connection.wrote = Some(Instant::now());
    assert_eq!(wait(&mut connection).await, Ok(()));
}

#[test]
fn a_connection_that_waits_takes_a_few_hundred_bytes() {
    fn size_of_run<F>(_: impl FnOnce(Box<Connection>) -> F) -> usize {
        size_of::<F>()
    }
    let (task, state) = (size_of_run(Connection::run), size_of::<Connection>());
    assert!(task + state <= 1024, "a connection takes {task} bytes for its task and {state} for its state");
}
