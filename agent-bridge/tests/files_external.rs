//! A file server of somebody else's in place of ours: vsftpd, and tftpd-hpa over the same folder. What devices are told lies
//! there, and nothing stays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fettle_bridge::args::ExternalArgs;
use fettle_bridge::files::external::{
    Configurations, External, ExternalConfig, ExternalError, Fetched, Login, Over, PutServer, Told,
};
use fettle_bridge::files::store::Content;
use files_support::certificates::certificates;
use files_support::foreign::Foreign;
use files_support::programs::{curl, out, succeeded, text};
use files_support::{Command, PATIENCE, Servers, assert_same, bytes};
use futures::FutureExt;
use futures::future::join_all;
use jiff::Timestamp;
use prometheus::Registry;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const PASSWORD: &str = "pass-1.word";

struct World {
    servers: Servers,
    vsftpd: Foreign,
    folder: PathBuf,
    external: External,
    stop: CancellationToken,
}

impl World {
    /// With a folder on vsftpd, of which `config` says more.
    fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    fn start_with(config: &str, change: impl FnOnce(&mut ExternalConfig)) -> Self {
        let servers = Servers::start();
        let share = servers.dir.path().join("share");
        let folder = share.join("fw");
        std::fs::create_dir_all(&folder).unwrap();
        let vsftpd = Foreign::vsftpd(&share, PASSWORD, config);
        let mut config = config_of(vsftpd.address);
        change(&mut config);
        let external =
            External::new(config, servers.store.clone(), Arc::clone(&servers.logs), &servers.registry).unwrap();
        Self { servers, vsftpd, folder, external, stop: CancellationToken::new() }
    }

    /// With what stands before vsftpd, for the bridge.
    async fn start_behind(answers: impl Fn(&str) -> Option<&'static str> + Clone + Send + Sync + 'static) -> Self {
        let mut world = Self::start("");
        let config = config_of(before(world.vsftpd.address, answers).await);
        let (store, logs) = (world.servers.store.clone(), Arc::clone(&world.servers.logs));
        world.external = External::new(config, store, logs, &Registry::new()).unwrap();
        world
    }

    fn keep(&self) {
        tokio::spawn(self.external.clone().keep(self.stop.clone()));
    }

    /// Orders a device to fetch it from there; its name there.
    async fn order(&self, uid: &str, content: &Content) -> Result<(Command, String), Arc<ExternalError>> {
        let command = self.servers.order_download(uid, content);
        let name = self.external.place(&command.permission, content).await?;
        Ok((command, name))
    }

    fn url(&self, name: &str) -> String {
        format!("ftp://ftp:{PASSWORD}@{}/fw/{name}", self.vsftpd.address)
    }

    /// What lies there.
    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.folder).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Whether a log of this device is stored, and not only on its way.
    fn has_log(&self, device_name: &str) -> bool {
        self.servers.stored_logs(device_name).iter().any(|path| path.extension().is_some_and(|end| end == "log"))
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "not so: {what}\n{:?}\n{}", self.names(), self.servers.dump());
    }

    fn operations(&self, operation: &str, result: &str) -> f64 {
        self.servers.metric("fettle_bridge_external_operations_total", &[operation, result])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

fn config_of(address: SocketAddr) -> ExternalConfig {
    let login = Login { user: "ftp".into(), password: PASSWORD.into() };
    ExternalConfig {
        server: PutServer {
            host: address.ip().to_string(),
            port: address.port(),
            folder: "fw".into(),
            login: login.clone(),
            tls: None,
        },
        ftp: Told { address: v4(address), folder: "fw".into(), login },
        tftp: None,
        configurations: Configurations::Ours,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_lies_there_once_for_all_who_need_it_and_is_gone_when_the_last_is_done() {
    let world = World::start("");
    world.keep();
    let image = bytes(1_500_001);
    let content = world.servers.content(&image).await;
    let devices: Vec<String> = (0..20).map(|number| format!("uid-{number}")).collect();
    let ordered = join_all(devices.iter().map(async |uid| world.order(uid, &content).await.unwrap())).await;
    let names = world.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(ordered.iter().all(|(_, name)| *name == names[0]));
    assert_eq!(world.operations("put", "ok"), 1.0);

    let out = out(&world.servers);
    succeeded(&curl(&["-o", text(&out), &world.url(&names[0])]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);

    for (command, _) in &ordered[1..] {
        world.external.release(&command.permission);
    }
    assert!(world.external.has(&ordered[0].0.permission));
    // One device still has to fetch it: whatever is looked for meanwhile, it stays.
    let other = world.servers.content(b"another").await;
    let (another, _) = world.order("uid-x", &other).await.unwrap();
    world.external.release(&another.permission);
    world.until("the other one is removed", || world.operations("remove", "ok") >= 1.0).await;
    assert_eq!(world.names(), names);
    world.external.release(&ordered[0].0.permission);
    world.until("nothing is left", || world.names().is_empty()).await;
    assert_eq!(world.servers.metric("fettle_bridge_external_files", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_nobody_ends_ends_with_its_time() {
    let world = World::start("");
    world.keep();
    let content = world.servers.content(b"image").await;
    let soon = Timestamp::now() + Duration::from_secs(1);
    let command = world.servers.order_download_until("uid-1", &content, soon);
    world.external.place(&command.permission, &content).await.unwrap();
    assert_eq!(world.names().len(), 1);
    world.until("nothing is left", || world.names().is_empty()).await;
    assert!(!world.external.has(&command.permission));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_has_left_is_removed_and_nothing_else() {
    let world = World::start("");
    let hours_ago = Timestamp::now().as_second() - 7200;
    let in_an_hour = Timestamp::now().as_second() + 3600;
    let stale = format!("fettle-{hours_ago:08x}-abcdefghijklmnop");
    let needed = format!("fettle-{in_an_hour:08x}-abcdefghijklmnop");
    for name in [stale.as_str(), &needed, "fettle-readme", "boot.bin"] {
        std::fs::write(world.folder.join(name), "x").unwrap();
    }
    world.keep();
    world.until("the stale one is gone", || !world.folder.join(&stale).exists()).await;
    assert_eq!(world.names(), ["boot.bin", &needed, "fettle-readme"]);
}

/// Stands before a server, and answers by itself what `answers` knows an answer to; an empty one is none.
async fn before(
    server: SocketAddr,
    answers: impl Fn(&str) -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
                let (mut lines, mut reply) = (BufReader::new(from_client).lines(), vec![0; 1024]);
                // Until one of both is gone.
                loop {
                    let passed_on = tokio::select! {
                        read = from_server.read(&mut reply) => {
                            let Ok(len @ 1..) = read else { break };
                            to_client.write_all(&reply[..len]).await
                        }
                        line = lines.next_line() => {
                            let Ok(Some(line)) = line else { break };
                            match answers(&line) {
                                Some(answer) => to_client.write_all(answer.as_bytes()).await,
                                None => to_server.write_all(format!("{line}\r\n").as_bytes()).await,
                            }
                        }
                    };
                    if passed_on.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_removed_keeps_no_other_and_no_log_waiting() {
    let is_stuck = |line: &str| line.starts_with("DELE ") && line.ends_with("zzzz");
    let world = World::start_behind(move |line| is_stuck(line).then_some("450 Somebody reads it.\r\n")).await;
    let hours_ago = Timestamp::now().as_second() - 7200;
    let stale = |end: &str| format!("fettle-{hours_ago:08x}-abcdefghijkl{end}");
    let stuck = stale("zzzz");
    for name in [stale("aaaa"), stale("bbbb"), stuck.clone()] {
        std::fs::write(world.folder.join(name), "x").unwrap();
    }
    world.keep();
    world.until("all others are removed", || world.names() == [stuck.as_str()]).await;

    let command = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    std::fs::write(world.folder.join(&name), "log").unwrap();
    world.external.brought(&command.permission);
    world.until("the log is stored", || world.has_log("sw-1")).await;
    world.until("all others are removed", || world.names() == [stuck.as_str()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_the_server_keeps_us_waiting_for_keeps_no_other_waiting() {
    let stuck = Arc::new(OnceLock::<String>::new());
    let name = Arc::clone(&stuck);
    let is_stuck =
        move |line: &str| line.strip_prefix("RETR ").is_some_and(|of| name.get().is_some_and(|name| name == of));
    let world = World::start_behind(move |line| is_stuck(line).then_some("")).await;
    world.keep();
    for device in ["sw-1", "sw-2"] {
        let command = world.servers.order_upload("uid-1", device);
        let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
        std::fs::write(world.folder.join(&name), "log").unwrap();
        stuck.get_or_init(|| name);
        world.external.brought(&command.permission);
    }
    world.until("the other log is stored", || world.has_log("sw-2")).await;
    assert!(!world.has_log("sw-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_fetched_from_a_server_that_tells_no_sizes() {
    let world = World::start("cmds_denied=SIZE");
    world.keep();
    let command = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    std::fs::write(world.folder.join(&name), "log").unwrap();
    world.external.brought(&command.permission);
    world.until("the log is stored", || world.has_log("sw-1")).await;
    assert_same(&std::fs::read(&world.servers.stored_logs("sw-1")[0]).unwrap(), b"log");
    world.until("nothing is left", || world.names().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_brought_there_is_fetched_and_removed() {
    let world = World::start("");
    world.keep();
    let log = bytes(30_000);
    let file = out(&world.servers);
    std::fs::write(&file, &log).unwrap();
    let command = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    succeeded(&curl(&["-T", text(&file), &world.url(&name)]).await);
    world.external.brought(&command.permission);
    assert_eq!(world.external.fetched(&command.permission).await, Some(Fetched::Stored));
    assert_same(&std::fs::read(&world.servers.stored_logs("sw-1")[0]).unwrap(), &log);
    world.until("nothing is left", || world.names().is_empty()).await;

    // One that never comes leaves nothing either.
    let command = world.servers.order_upload("uid-1", "sw-2");
    world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    world.external.brought(&command.permission);
    assert_eq!(world.external.fetched(&command.permission).await, Some(Fetched::Nothing));
    assert_eq!(world.operations("take", "ok"), 2.0);
    assert_eq!(world.servers.stored_logs("sw-2").len(), 0);

    // Nor one that finds no room, and then it is known why.
    let command = world.servers.order_upload("uid-1", "sw-3");
    let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    std::fs::write(world.folder.join(&name), bytes(100_000)).unwrap();
    world.external.brought(&command.permission);
    let Some(Fetched::Failed(why)) = world.external.fetched(&command.permission).await else {
        panic!("it is too large")
    };
    assert!(why.ends_with("it is larger than 65536 bytes, the limit for a log"), "{why}");
    world.until("nothing is left", || world.names().is_empty()).await;
    let download = world.order("uid-1", &world.servers.content(b"image").await).await.unwrap().0;
    assert_eq!(world.external.fetched(&download.permission).await, None, "no log");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_log_hears_how_fetching_it_came_out_however_long_that_takes() {
    let mut world = World::start("");
    let command = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    std::fs::write(world.folder.join(&name), "log").unwrap();
    world.external.brought(&command.permission);
    let mut fetched = pin!(world.external.fetched(&command.permission));
    assert_eq!(fetched.as_mut().now_or_never(), None, "nobody has looked yet");
    world.keep();
    assert_eq!(fetched.await, Some(Fetched::Stored));

    let command = world.servers.order_upload("uid-1", "sw-1");
    world.external.expect(&command.permission, Over::Ftp).await.unwrap();
    world.vsftpd.stop();
    world.external.brought(&command.permission);
    let Some(Fetched::Failed(why)) = world.external.fetched(&command.permission).await else { panic!("it is away") };
    assert!(why.starts_with("the external file server cannot be reached"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tftpd_hpa_serves_what_was_put_there_and_takes_logs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: tftpd-hpa changes its root, and that takes root");
        return;
    }
    // It lets be written to what everybody may write to, and vsftpd lets its anonymous user not say so of a file.
    let world = World::start("anon_umask=000\nfile_open_mode=0666");
    world.keep();
    let tftpd = Foreign::tftpd_hpa(world.folder.parent().unwrap());
    let image = bytes(100_000);
    let content = world.servers.content(&image).await;
    let (command, name) = world.order("uid-1", &content).await.unwrap();
    let out = out(&world.servers);
    succeeded(&curl(&["-o", text(&out), &format!("tftp://{}/fw/{name}", tftpd.address)]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    world.external.release(&command.permission);

    let upload = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&upload.permission, Over::Tftp).await.unwrap();
    succeeded(&curl(&["-T", text(&out), &format!("tftp://{}/fw/{name}", tftpd.address)]).await);
    world.external.brought(&upload.permission);
    // It is larger than a log may be.
    world.until("it was looked at", || world.operations("take", "failed") == 1.0).await;
    assert_eq!(world.servers.stored_logs("sw-1").len(), 0);
    let upload = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&upload.permission, Over::Tftp).await.unwrap();
    std::fs::write(&out, &image[..20_000]).unwrap();
    succeeded(&curl(&["-T", text(&out), &format!("tftp://{}/fw/{name}", tftpd.address)]).await);
    world.external.brought(&upload.permission);
    world.until("the log is stored", || world.has_log("sw-1")).await;
    world.until("nothing is left", || world.names().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_it_is() {
    let reason = async |world: &World| {
        let content = world.servers.content(b"image").await;
        let error = world.order("uid-1", &content).await.err().expect("it is refused");
        fettle_runtime::chain(&*error).to_string()
    };
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::start_with("", |config| config.server.port = gone.port());
    assert!(reason(&world).await.starts_with("the external file server cannot be reached"));
    let world = World::start_with("", |config| config.server.login.password = "wrong".into());
    let told = reason(&world).await;
    assert!(told.contains("refused: login: ") && !told.contains("wrong"), "{told}");
    let world = World::start_with("", |config| config.server.folder = "not-there".into());
    assert!(reason(&world).await.contains("changing to the folder"));
    let world = World::start("write_enable=NO");
    assert!(reason(&world).await.contains("putting a file"));
    assert_eq!(world.operations("put", "failed"), 1.0);
    assert_eq!(world.names().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_a_while_is_tidied_when_it_is_back() {
    let mut world = World::start("");
    world.keep();
    let content = world.servers.content(b"image").await;
    let (command, _) = world.order("uid-1", &content).await.unwrap();
    world.vsftpd.stop();
    world.external.release(&command.permission);
    world.until("it was tried", || world.operations("remove", "failed") >= 1.0).await;
    world.vsftpd.start_again();
    world.until("nothing is left", || world.names().is_empty()).await;
}

/// What makes vsftpd refuse whatever is not within TLS, with this certificate. It wants data connections to resume the
/// session of the control connection, as it does unless told otherwise.
fn tls_alone(folder: &std::path::Path) -> String {
    let files = certificates(folder);
    format!(
        "ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_logins_ssl=YES\nforce_anon_data_ssl=YES\nrsa_cert_file={}\n\
         rsa_private_key_file={}\nssl_ciphers=HIGH",
        files.certificate.display(),
        files.key.display()
    )
}

/// What the operator's flags say of such a server.
fn ftps(folder: &std::path::Path, config: &mut ExternalConfig) {
    let password = folder.join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let args = ExternalArgs {
        url: Some(format!("ftps://ftp@{}:{}/fw", config.server.host, config.server.port)),
        password_file: Some(password),
        ca_file: Some(folder.join("ca.crt")),
        ..ExternalArgs::default()
    };
    *config = args.config().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_there_and_back_within_tls_alone() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start_with(&tls_alone(folder.path()), |config| ftps(folder.path(), config));
    world.keep();
    let image = bytes(1_500_001);
    let content = world.servers.content(&image).await;
    let (command, name) = world.order("uid-1", &content).await.unwrap();
    assert_eq!(world.names(), [name.as_str()]);
    assert_same(&std::fs::read(world.folder.join(&name)).unwrap(), &image);
    // Who does not speak TLS gets nothing of it, so ours did.
    let plain = curl(&["-o", "/dev/null", &world.url(&name)]).await;
    assert!(!plain.status.success());
    let (authority, out) = (folder.path().join("ca.crt"), out(&world.servers));
    let tls = ["--ssl-reqd", "--cacert", text(&authority)];
    succeeded(&curl(&[&tls[..], &["-o", text(&out), &world.url(&name)]].concat()).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);

    let log = bytes(30_000);
    std::fs::write(&out, &log).unwrap();
    let upload = world.servers.order_upload("uid-1", "sw-1");
    let name = world.external.expect(&upload.permission, Over::Ftp).await.unwrap();
    succeeded(&curl(&[&tls[..], &["-T", text(&out), &world.url(&name)]].concat()).await);
    world.external.brought(&upload.permission);
    world.until("the log is stored", || world.has_log("sw-1")).await;
    assert_same(&std::fs::read(&world.servers.stored_logs("sw-1")[0]).unwrap(), &log);
    world.external.release(&command.permission);
    world.until("nothing is left", || world.names().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_to_a_server_that_is_not_to_be_trusted_or_knows_no_tls() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tls = tls_alone(folder.path());
    certificates(other.path());
    for (config, says) in [(tls.as_str(), "does not speak TLS as it should"), ("", "refused: beginning TLS")] {
        let world = World::start_with(config, |config| ftps(other.path(), config));
        let content = world.servers.content(b"image").await;
        let error = world.order("uid-1", &content).await.err().expect("it is refused");
        let told = fettle_runtime::chain(&*error).to_string();
        assert!(told.contains(says), "{told}");
        assert_eq!(world.names().len(), 0);
    }
}
