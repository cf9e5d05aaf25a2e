//! FTP within TLS, for clients that ask for it: curl, lftp, Python's ftplib.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files_support;

use fettle_bridge::files::credentials::Minted;
use files_support::certificates::certificates;
use files_support::programs::{curl, ftp_url, out, python, run, succeeded, text};
use files_support::{PATIENCE, Servers, assert_same, bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn start(folder: &std::path::Path) -> Servers {
    let files = certificates(folder);
    Servers::start_with(|config| config.ftp_tls = Some(files))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_and_brings_within_tls_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let servers = start(folder.path());
    let image = bytes(3_000_001);
    let content = servers.content(&image).await;
    let (out, log) = (out(&servers), servers.dir.path().join("log"));
    std::fs::write(&log, bytes(30_000)).unwrap();
    let authority = folder.path().join("ca.crt");
    for tls in [
        &[][..],
        &["--ssl-reqd", "--cacert", text(&authority)],
        &["--ssl-reqd", "--tls-max", "1.2", "--cacert", text(&authority)],
        // Only the control connection.
        &["--ftp-ssl-control", "--cacert", text(&authority)],
    ] {
        let download = servers.order_download("uid-1", &content);
        let url = ftp_url(&servers, &download, &download.path());
        succeeded(&curl(&[tls, &["-o", text(&out), &url]].concat()).await);
        assert_same(&std::fs::read(&out).unwrap(), &image);
        assert!(servers.is_complete(&download).await, "{tls:?}");
        std::fs::write(&out, &image[..1_000_000]).unwrap();
        succeeded(&curl(&[tls, &["-C", "-", "-o", text(&out), &url]].concat()).await);
        assert_same(&std::fs::read(&out).unwrap(), &image);
        let upload = servers.order_upload("uid-1", "sw-1");
        let url = ftp_url(&servers, &upload, &upload.path());
        succeeded(&curl(&[tls, &["-T", text(&log), &url]].concat()).await);
        assert!(servers.is_complete(&upload).await, "{tls:?}");
    }
    for stored in servers.stored_logs("sw-1") {
        assert_same(&std::fs::read(&stored).unwrap(), &bytes(30_000));
    }
    let download = servers.order_download("uid-1", &content);
    let distrusting = curl(&["--ssl-reqd", &ftp_url(&servers, &download, &download.path())]).await;
    assert_eq!(distrusting.status.code(), Some(60), "{distrusting:?}");
    // Without a certificate there is none to trust.
    let plain = Servers::start();
    let content = plain.content(b"image").await;
    let download = plain.order_download("uid-1", &content);
    let refused = curl(&["--ssl-reqd", &ftp_url(&plain, &download, &download.path())]).await;
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lftp_fetches_within_tls_in_segments() {
    let folder = tempfile::tempdir().unwrap();
    let servers = start(folder.path());
    let image = bytes(1_000_001);
    let content = servers.content(&image).await;
    let download = servers.order_download("uid-1", &content);
    let (out, authority) = (out(&servers), folder.path().join("ca.crt"));
    let Minted { user, password, .. } = &download.minted;
    let script = format!(
        "set net:max-retries 2; set cmd:fail-exit yes; set ftp:ssl-force yes; set ftp:ssl-protect-data yes; \
         set ssl:ca-file {}; open -u {user},{password} -p {} ftp://127.0.0.1; pget -n 3 {} -o {}",
        text(&authority),
        servers.ftp().port(),
        download.path(),
        text(&out),
    );
    succeeded(&run("lftp", &["--norc", "-c", &script]).await);
    assert_same(&std::fs::read(&out).unwrap(), &image);
    assert!(servers.is_complete(&download).await);
}

const DEVICE: &str = r#"
import ftplib, hashlib, io, ssl, sys
host, port, user, password, path, digest, authority, log_user, log_password, log = sys.argv[1:11]
context = ssl.create_default_context(cafile=authority)
ftp = ftplib.FTP_TLS(context=context)
ftp.connect(host, int(port), timeout=30)
ftp.login(user, password)   # AUTH TLS comes first
ftp.prot_p()
assert ftp.nlst() == []
found = hashlib.sha256()
ftp.retrbinary('RETR ' + path, found.update)
assert found.hexdigest() == digest
size = ftp.size(path)
tail = io.BytesIO()
ftp.retrbinary('RETR ' + path, tail.write, rest=size - 10)
assert len(tail.getvalue()) == 10
ftp.prot_c()
found = hashlib.sha256()
ftp.retrbinary('RETR ' + path, found.update)
assert found.hexdigest() == digest
ftp.quit()
ftp = ftplib.FTP_TLS(context=context)
ftp.connect(host, int(port), timeout=30)
ftp.login(log_user, log_password)
ftp.prot_p()
print(ftp.storbinary('STOR ' + log, io.BytesIO(b'log' * 1000))[:3])
ftp.quit()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_pythons_ftplib_is_served_within_tls() {
    let folder = tempfile::tempdir().unwrap();
    let servers = start(folder.path());
    let content = servers.content(&bytes(500_000)).await;
    let (download, upload) = (servers.order_download("uid-1", &content), servers.order_upload("uid-1", "sw-1"));
    let (host, port) = (servers.ftp().ip().to_string(), servers.ftp().port().to_string());
    let digest: String = content.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let authority = folder.path().join("ca.crt");
    let (Minted { user, password, .. }, theirs) = (&download.minted, &upload.minted);
    let args = [
        &host,
        &port,
        user,
        password,
        &download.path(),
        &digest,
        text(&authority),
        &theirs.user,
        &theirs.password,
        &upload.path(),
    ];
    assert_eq!(succeeded(&python(DEVICE, &args).await), "226\n");
    assert!(servers.is_complete(&download).await && servers.is_complete(&upload).await);
    assert_eq!(std::fs::read(&servers.stored_logs("sw-1")[0]).unwrap(), b"log".repeat(1000));
}

#[tokio::test]
async fn what_comes_in_the_clear_behind_the_request_for_tls_is_nobodys_word() {
    let folder = tempfile::tempdir().unwrap();
    let servers = start(folder.path());
    let mut client = TcpStream::connect(servers.ftp()).await.unwrap();
    client.write_all(b"PROT P\r\nAUTH TLS\r\nNOOP\r\n").await.unwrap();
    let mut told = String::new();
    let ended = tokio::time::timeout(PATIENCE, client.read_to_string(&mut told)).await;
    assert!(ended.is_ok_and(|read| read.is_ok()), "{told}");
    let codes: Vec<&str> = told.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "503", "234"], "{told}");
}
