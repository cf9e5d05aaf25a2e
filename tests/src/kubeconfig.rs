//! Kubeconfigs: the administrator's, and one for each identity that a program runs under.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::pki::{Authority, Issued, Pki};

/// The one name for the cluster, the user and the context in the files that we write.
const NAME: &str = "fettle";

/// Writes the administrator's kubeconfig for an API server of ours.
pub(crate) fn write_admin(path: &Path, server: &str, pki: &Pki) -> Result<()> {
    let encode = |pem: &str| BASE64.encode(pem.as_bytes());
    let cluster = json!({"server": server, "certificate-authority-data": encode(&pki.ca_pem)});
    let user = json!({
        "client-certificate-data": encode(&pki.admin_certificate_pem),
        "client-key-data": encode(&pki.admin_key_pem),
    });
    write(path, cluster, user, "default")
}

/// Writes a kubeconfig for whom a certificate was issued.
pub(crate) fn write_with_certificate(path: &Path, server: &str, authority: &Authority, user: &Issued) -> Result<()> {
    let encode = |pem: &str| BASE64.encode(pem.as_bytes());
    let cluster = json!({"server": server, "certificate-authority-data": encode(&authority.pem)});
    let user = json!({
        "client-certificate-data": encode(&user.certificate_pem),
        "client-key-data": encode(&user.key_pem),
    });
    write(path, cluster, user, "default")
}

/// Writes a kubeconfig for the cluster that `admin` leads to, with a bearer token and a namespace of its own.
pub(crate) fn write_with_token(path: &Path, admin: &Path, token: &str, namespace: &str) -> Result<()> {
    let admin = Kubeconfig::read_from(admin)?;
    let current = admin.current_context.context("the kubeconfig has no current-context")?;
    let context = admin.contexts.into_iter().find(|context| context.name == current).and_then(|named| named.context);
    let name = context.context("the kubeconfig does not have its current context")?.cluster;
    let cluster = admin.clusters.into_iter().find(|cluster| cluster.name == name).and_then(|named| named.cluster);
    let cluster = serde_json::to_value(cluster.context("the kubeconfig's context names no cluster of it")?)?;
    write(path, cluster, json!({"token": token}), namespace)
}

/// Writes JSON, which is YAML; readable by its owner alone, as it holds a secret.
fn write(path: &Path, cluster: Value, user: Value, namespace: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}],
    });
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(&serde_json::to_vec_pretty(&config)?)?;
    Ok(())
}

/// A client of the current async runtime. A client must not be handed from one test's runtime to another's: its
/// connection ends with the runtime that opened it.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    // The first one to ask decides for the process; everybody here asks for the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    Ok(Client::try_from(config)?)
}
