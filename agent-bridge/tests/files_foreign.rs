//! The file servers against other people's FTP clients, of which some speak TFTP too: curl, lftp, and Python's ftplib as a
//! device that is strict about what FTP says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use std::process::Output;

use fettle_bridge::files::credentials::Minted;
use jiff::Timestamp;

use files_support::programs::{curl, ftp_url, out, python, run, succeeded, text, tftp_url, told};
use files_support::{Command, Servers, UPLOAD_SIZE, assert_same, bytes};

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_over_ftp_in_every_way_in_which_it_can_name_the_file() {
    let servers = Servers::start();
    let image = bytes(1_000_003);
    let content = servers.content(&image).await;
    let out = out(&servers);
    for options in [
        &[][..],
        &["--disable-epsv"],
        &["--ftp-method", "nocwd"],
        &["--ftp-method", "singlecwd"],
        &["--disable-epsv", "--ftp-skip-pasv-ip"],
    ] {
        for joined in [false, true] {
            let command = servers.order_download("uid-1", &content);
            let path = if joined { command.path().replace('/', "") } else { command.path() };
            let url = ftp_url(&servers, &command, &path);
            let output = curl(&[options, &["-o", text(&out), &url]].concat()).await;
            succeeded(&output);
            assert_same(&std::fs::read(&out).unwrap(), &image);
            assert!(servers.is_complete(&command).await, "{options:?}");
        }
    }
    assert_eq!(servers.metric("fettle_bridge_transfers_total", &["download", "ftp", "complete"]), 10.0);
    assert_eq!(servers.metric("fettle_bridge_transfer_bytes_total", &["download", "ftp"]), 10.0 * 1_000_003.0);
    assert_eq!(servers.metric("fettle_bridge_transfers_active", &["download", "ftp"]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_a_file_that_is_too_large_for_memory_over_ftp_and_tftp() {
    let servers = Servers::start();
    let image = bytes(5_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let out = out(&servers);
    let urls = [ftp_url(&servers, &command, &command.path()), tftp_url(&servers, &command.path())];
    for url in urls {
        let output = curl(&["--tftp-blksize", "8192", "-o", text(&out), &url]).await;
        succeeded(&output);
        assert_same(&std::fs::read(&out).unwrap(), &image);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_resumes_a_download_over_ftp_where_it_broke_off() {
    let servers = Servers::start();
    let image = bytes(300_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let out = out(&servers);
    std::fs::write(&out, &image[..123_456]).unwrap();
    let url = ftp_url(&servers, &command, &command.path());
    succeeded(&curl(&["-C", "-", "-o", text(&out), &url]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    assert!(servers.is_complete(&command).await);
    let sent = servers.metric("fettle_bridge_transfer_bytes_total", &["download", "ftp"]);
    assert_eq!(sent, 300_000.0 - 123_456.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_an_empty_file_and_one_of_whole_blocks() {
    let servers = Servers::start();
    let out = out(&servers);
    for len in [0, 511, 512, 513, 1024] {
        let file = bytes(len);
        let content = servers.content(&file).await;
        let command = servers.order_download("uid-1", &content);
        for url in [ftp_url(&servers, &command, &command.path()), tftp_url(&servers, &command.path())] {
            let _ = std::fs::remove_file(&out);
            succeeded(&curl(&["-o", text(&out), &url]).await);
            assert_same(&std::fs::read(&out).unwrap_or_default(), &file);
        }
        assert!(servers.is_complete(&command).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_brings_a_log_over_ftp_and_tftp() {
    let servers = Servers::start();
    let log = bytes(40_000);
    let file = out(&servers);
    std::fs::write(&file, &log).unwrap();
    let over_ftp = servers.order_upload("uid-1", "sw-ftp");
    succeeded(&curl(&["-T", text(&file), &ftp_url(&servers, &over_ftp, &over_ftp.path())]).await);
    let over_tftp = servers.order_upload("uid-2", "sw-tftp");
    succeeded(&curl(&["--tftp-blksize", "1024", "-T", text(&file), &tftp_url(&servers, &over_tftp.path())]).await);
    for (command, name) in [(&over_ftp, "sw-ftp"), (&over_tftp, "sw-tftp")] {
        assert!(servers.is_complete(command).await, "{name}");
        let stored = servers.stored_logs(name);
        assert_eq!(stored.len(), 1, "{stored:?}");
        assert_same(&std::fs::read(&stored[0]).unwrap(), &log);
        assert!(text(&stored[0]).ends_with(&format!("-{}.log", command.permission.command)), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_told_why_it_gets_nothing() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let ours = servers.order_download("uid-1", &content);
    let others = servers.order_download("uid-2", &content);
    let long_ago = Timestamp::now() - std::time::Duration::from_secs(10);
    let expired = servers.order_download_until("uid-1", &content, long_ago);
    let upload = servers.order_upload("uid-1", "sw-1");
    let large = out(&servers);
    std::fs::write(&large, bytes(usize::try_from(UPLOAD_SIZE).unwrap() + 1)).unwrap();

    // Exit codes of curl: 67 login denied, 78 no such file (9: no such directory), 25 upload refused, 69/68/71 by TFTP's errors.
    let wrong_password =
        format!("ftp://{}:{}@{}/{}", ours.minted.user, others.minted.password, servers.ftp(), ours.path());
    let cases = [
        (vec![wrong_password], vec![67]),
        (vec![ftp_url(&servers, &expired, &expired.path())], vec![67]),
        (vec![ftp_url(&servers, &ours, &expired.path())], vec![78]),
        (vec![ftp_url(&servers, &ours, &others.path())], vec![78]),
        (vec![ftp_url(&servers, &ours, &upload.path())], vec![78]),
        (vec![ftp_url(&servers, &ours, "%2fetc/passwd")], vec![9, 78]),
        (vec!["--path-as-is".into(), ftp_url(&servers, &ours, "../../etc/passwd")], vec![9, 78]),
        (vec!["-T".into(), text(&large).into(), ftp_url(&servers, &ours, &ours.path())], vec![25]),
        (vec!["-T".into(), text(&large).into(), ftp_url(&servers, &upload, &upload.path())], vec![25, 55, 18, 70]),
        (vec![tftp_url(&servers, &expired.path())], vec![68]),
        (vec![tftp_url(&servers, "etc/passwd")], vec![68]),
        (vec![tftp_url(&servers, &upload.path())], vec![68]),
        (vec!["-T".into(), text(&large).into(), tftp_url(&servers, &ours.path())], vec![68]),
        (vec!["-T".into(), text(&large).into(), tftp_url(&servers, &upload.path())], vec![70]),
    ];
    for (args, expected) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = curl(&args).await;
        let code = output.status.code().unwrap();
        assert!(expected.contains(&code), "{args:?}: {code} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"");
    }
    assert_eq!(servers.stored_logs("sw-1").len(), 0);
    assert!(servers.stays_incomplete(&ours).await);
}

/// lftp, logged in with the credentials of `command`, told these words.
async fn lftp(servers: &Servers, command: &Command, words: &str) -> Output {
    let Minted { user, password, .. } = &command.minted;
    let (ip, port) = (servers.ftp().ip(), servers.ftp().port());
    // No configuration of the user's; it would try for hours.
    let settings = "set net:max-retries 2; set net:timeout 20; set cmd:fail-exit yes; set xfer:clobber yes";
    let script = format!("{settings}; open -u {user},{password} -p {port} ftp://[{ip}]; {words}");
    let script = if ip.is_ipv6() { script } else { script.replace(['[', ']'], "") };
    run("lftp", &["--norc", "-c", &script]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn lftp_fetches_at_once_in_segments_and_where_it_broke_off() {
    let servers = Servers::start();
    let image = bytes(2_000_003);
    let content = servers.content(&image).await;
    let out = out(&servers);
    for extended in ["yes", "no"] {
        for get in ["get", "pget -n 4", "get -c"] {
            let command = servers.order_download("uid-1", &content);
            let _ = std::fs::remove_file(&out);
            if get == "get -c" {
                std::fs::write(&out, &image[..777_777]).unwrap();
            }
            let words = format!("set ftp:prefer-epsv {extended}; {get} {} -o {}", command.path(), text(&out));
            succeeded(&lftp(&servers, &command, &words).await);
            assert_same(&std::fs::read(&out).unwrap(), &image);
            assert!(servers.is_complete(&command).await, "{get}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lftp_mirrors_what_is_to_be_seen_which_is_nothing_and_brings_a_log() {
    let servers = Servers::start();
    let content = servers.content(b"image").await;
    let command = servers.order_download("uid-1", &content);
    let mirrored = servers.dir.path().join("mirror");
    succeeded(&lftp(&servers, &command, &format!("mirror / {}", text(&mirrored))).await);
    assert_eq!(std::fs::read_dir(&mirrored).unwrap().count(), 0);
    let log = servers.dir.path().join("log");
    std::fs::write(&log, bytes(40_000)).unwrap();
    let upload = servers.order_upload("uid-1", "sw-1");
    succeeded(&lftp(&servers, &upload, &format!("put {} -o {}", text(&log), upload.path())).await);
    assert!(servers.is_complete(&upload).await);
    assert_same(&std::fs::read(&servers.stored_logs("sw-1")[0]).unwrap(), &bytes(40_000));
    let refused = lftp(&servers, &command, "get etc/passwd -o /dev/null").await;
    assert!(!refused.status.success() && told(&refused).contains("550"), "{}", told(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_ipv6_is_served_over_it() {
    // As a listener on all addresses of both families, and as one of the newer family alone.
    for listen in ["[::]:0", "[::1]:0"] {
        let servers = Servers::start_with(|config| {
            (config.ftp, config.tftp) = (listen.parse().unwrap(), listen.parse().unwrap());
        });
        let image = bytes(200_003);
        let content = servers.content(&image).await;
        let (out, log) = (out(&servers), servers.dir.path().join("log"));
        std::fs::write(&log, bytes(20_000)).unwrap();
        let hosts: &[&str] = if listen == "[::1]:0" { &["[::1]"] } else { &["[::1]", "127.0.0.1"] };
        for host in hosts {
            let download = servers.order_download("uid-1", &content);
            let upload = servers.order_upload("uid-1", "sw-1");
            let Minted { user, password, .. } = &download.minted;
            let ftp = format!("ftp://{user}:{password}@{host}:{}", servers.ftp().port());
            let tftp = format!("tftp://{host}:{}", servers.tftp().port());
            for server in [&ftp, &tftp] {
                let url = format!("{server}/{}", download.path());
                succeeded(&curl(&["-o", text(&out), &url]).await);
                assert_same(&std::fs::read(&out).unwrap(), &image);
            }
            assert!(servers.is_complete(&download).await);
            succeeded(&curl(&["-T", text(&log), &format!("{ftp}/{}", upload.path())]).await);
            assert!(servers.is_complete(&upload).await);
        }
        if listen == "[::1]:0" {
            let command = servers.order_download("uid-1", &content);
            let words = format!("pget -n 2 {} -o {}", command.path(), text(&out));
            succeeded(&lftp(&servers, &command, &words).await);
            assert_same(&std::fs::read(&out).unwrap(), &image);
        }
    }
}

const STRICT_DEVICE: &str = r#"
import ftplib, hashlib, io, socket, sys
host, port, user, password, path, name, digest = sys.argv[1:8]

ftp = ftplib.FTP()
ftp.connect(host, int(port), timeout=30)
assert ftp.getwelcome().startswith('220')
ftp.login(user, password)
assert ftp.pwd() == '/', ftp.pwd()
assert ftp.nlst() == [], 'nothing to see'

# By CWD, as a device may join data 6 and 7.
ftp.cwd(path)
assert ftp.pwd() == '/' + path
found = hashlib.sha256()
ftp.retrbinary('RETR ' + name, found.update, blocksize=1400)
assert found.hexdigest() == digest

# By PASV, with a size asked for first, resumed in the middle, on the same connection.
ftp.af = socket.AF_INET
size = ftp.size(name)
head, tail = io.BytesIO(), io.BytesIO()
ftp.cwd('..')
ftp.cwd('/')
ftp.retrbinary('RETR /' + path + '/' + name, head.write)
ftp.retrbinary('RETR ' + path + name, tail.write, rest=size // 2)
assert head.getvalue()[size // 2:] == tail.getvalue()
assert len(head.getvalue()) == size

# Aborts in mid-transfer, with the Telnet signals that RFC 959 asks for, and goes on.
data = ftp.transfercmd('RETR ' + path + '/' + name)
data.recv(10)
reply = ftp.abort()
assert reply[:3] in ('426', '226', '225'), reply
data.close()
while reply[:3] != '226':
    reply = ftp.getmultiline()
assert ftp.sendcmd('NOOP').startswith('200')
for refused in ('DELE x', 'SITE CHMOD 777 x', 'RNFR x', 'MKD x', 'STOR ' + path + '/' + name, 'RETR ../../etc/passwd'):
    try:
        ftp.voidcmd(refused)
    except ftplib.error_perm as refusal:
        assert str(refusal)[:3] in ('502', '550'), refusal
    else:
        raise AssertionError(refused)
ftp.quit()
print('ok')
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_device_on_pythons_ftplib_fetches_resumes_aborts_and_is_refused_the_rest() {
    let servers = Servers::start();
    let image = bytes(3_000_000);
    let content = servers.content(&image).await;
    let command = servers.order_download("uid-1", &content);
    let (host, port) = (servers.ftp().ip().to_string(), servers.ftp().port().to_string());
    let digest: String = content.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let minted = &command.minted;
    let args = [&host, &port, &minted.user, &minted.password, &minted.path, &minted.file, &digest];
    let output = python(STRICT_DEVICE, &args.map(String::as_str)).await;
    assert_eq!(succeeded(&output), "ok\n");
    assert!(servers.is_complete(&command).await);
}

const LOG_DEVICE: &str = r#"
import ftplib, sys
host, port, user, password, path, name, log = sys.argv[1:8]
ftp = ftplib.FTP()
ftp.connect(host, int(port), timeout=30)
ftp.login(user, password)
ftp.cwd(path)
with open(log, 'rb') as file:
    print(ftp.storbinary('STOR ' + name, file))
try:
    with open(log, 'rb') as file:
        ftp.storbinary('STOR ' + name, file)
except ftplib.error_perm as refusal:
    print(refusal)
ftp.quit()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_device_brings_its_log_once() {
    let servers = Servers::start();
    let log = servers.dir.path().join("log");
    std::fs::write(&log, bytes(20_000)).unwrap();
    let command = servers.order_upload("uid-1", "sw-1");
    let (host, port) = (servers.ftp().ip().to_string(), servers.ftp().port().to_string());
    let minted = &command.minted;
    let args = [&host, &port, &minted.user, &minted.password, &minted.path, &minted.file, text(&log)];
    let output = python(LOG_DEVICE, &args).await;
    let told = succeeded(&output);
    let replies: Vec<&str> = told.lines().map(|line| &line[..3]).collect();
    assert_eq!(replies, ["226", "550"], "{told}");
    assert!(servers.is_complete(&command).await);
    assert_eq!(servers.stored_logs("sw-1").len(), 1);
}
