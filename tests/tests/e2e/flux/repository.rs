//! A Git repository as Flux' kustomize-controller sees one: an object whose status names a `tar.gz` on an HTTP server. Flux'
//! source-controller, which makes those of real repositories, is not needed: the test is its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use fettle_tests::TestNamespace;

/// The name of the `GitRepository`.
pub const NAME: &str = "fleet";

/// A request of Flux is a line and a few headers.
const REQUEST_MAX: usize = 16 * 1024;

const REQUEST_WITHIN: Duration = Duration::from_secs(10);

type Archives = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// The repository, and the server of what was committed to it, which ends with it.
pub struct Repository {
    address: SocketAddr,
    archives: Archives,
    commits: u32,
    _server: JoinSet<()>,
}

impl Repository {
    /// An empty one.
    pub async fn create(namespace: &TestNamespace) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let archives = Archives::default();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, archives.clone()));
        let object = json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": NAME},
            "spec": {"url": "https://git.example/fleet", "interval": "1h"},
        });
        namespace.kubectl_with_input(&["apply", "--server-side", "-f", "-"], &object.to_string()).await?;
        Ok(Self { address, archives, commits: 0, _server: server })
    }

    /// Commits a tree of files, each with its path, in place of what was there; returns the revision.
    pub async fn commit(&mut self, namespace: &TestNamespace, files: &[(&str, &str)]) -> Result<String> {
        let archive = archive(files)?;
        self.commits += 1;
        let path = format!("{}.tar.gz", self.commits);
        let revision = format!("main@sha1:{:040x}", self.commits);
        let status = json!({"status": {
            "observedGeneration": 1,
            "artifact": {
                "path": path,
                "url": format!("http://{}/{path}", self.address),
                "revision": revision,
                "digest": format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(&archive))),
                "size": archive.len(),
                "lastUpdateTime": "2026-01-01T00:00:00Z",
            },
        }});
        self.archives.lock().unwrap_or_else(PoisonError::into_inner).insert(format!("/{path}"), archive);
        let patch = status.to_string();
        let object = format!("gitrepository.source.toolkit.fluxcd.io/{NAME}");
        namespace.kubectl(&["patch", &object, "--subresource=status", "--type=merge", "-p", &patch]).await?;
        Ok(revision)
    }
}

/// The files as source-controller packs them.
fn archive(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(path, text)?;
    }
    let packed = Command::new("tar").arg("--directory").arg(folder.path()).args(["--create", "--gzip", "."]).output();
    let packed = packed.context("cannot run tar")?;
    ensure!(packed.status.success(), "tar: {}", String::from_utf8_lossy(&packed.stderr));
    Ok(packed.stdout)
}

async fn serve(listener: TcpListener, archives: Archives) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(tokio::time::timeout(REQUEST_WITHIN, answer(connection, archives.clone())));
    }
}

/// One request on each connection, for the path of an archive.
async fn answer(mut connection: TcpStream, archives: Archives) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
        if connection.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let archive = archives.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    let (status, body) = archive.map_or(("404 Not Found", Vec::new()), |archive| ("200 OK", archive));
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(&body).await?;
    connection.shutdown().await
}
