//! What images need besides their bytes: Secrets, read anew each time, and signatures, by policy.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use fettle_bridge::cluster::images::{FetchError, Images, SignaturePolicy, Wanted};
use fettle_bridge::files::store::{Need, Store};
use fettle_crds::{Signature, Source};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

// openssl genpkey -algorithm ed25519; openssl pkey -pubout; printf image | openssl pkeyutl -sign -rawin
const KEY: &str = "2wBoRzpd8v4oUQiIKiQhYtSyBu5+Js9vgrYEETNUJQw=";
const SIGNATURE: &str = "qtuAVea5rpZcvdSNk2zTp6mLeN0mpgtSwmD7NVQkRdus1/tqpPpf8at5OXMfPShMpZjtx5SK2sWmjrWPGKUhAg==";
/// RFC 8032, section 7.1, test 1.
const OTHER_KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// An API server that has these Secrets and nothing else. `None`: it may not be read.
#[derive(Clone, Default)]
struct Secrets(Arc<Mutex<BTreeMap<String, Option<Value>>>>);

impl Secrets {
    fn set(&self, name: &str, data: &[(&str, &str)]) {
        self.set_typed(name, "Opaque", data);
    }

    fn set_typed(&self, name: &str, type_: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (*key, BASE64.encode(value.as_bytes()))).collect();
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": type_, "data": data});
        self.0.lock().unwrap().insert(name.to_owned(), Some(secret));
    }

    fn forbid(&self, name: &str) {
        self.0.lock().unwrap().insert(name.to_owned(), None);
    }

    fn client(&self) -> Client {
        let secrets = self.clone();
        let answer = move |request: http::Request<Body>| {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let status = |code: u16, reason: &str| {
                (
                    code,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}),
                )
            };
            let (code, body) = match secrets.0.lock().unwrap().get(&name) {
                Some(Some(secret)) => (200, secret.clone()),
                Some(None) => status(403, "Forbidden"),
                None => status(404, "NotFound"),
            };
            let response = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            std::future::ready(Ok::<_, Infallible>(response.unwrap()))
        };
        Client::new(tower::service_fn(answer), "default")
    }
}

struct Setup {
    secrets: Secrets,
    images: Images,
    sha256: String,
    _dir: TempDir,
}

impl Setup {
    fn new(policy: SignaturePolicy) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("image"), "image").unwrap();
        let store = Store::open(&dir.path().join("cache"), dir.path(), 1 << 20, 1 << 20).unwrap();
        let secrets = Secrets::default();
        secrets.set("release-key", &[("key", KEY), ("other", OTHER_KEY), ("none", "no key")]);
        let images = Images::new(Api::namespaced(secrets.client(), "default"), store, policy);
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest("image"));
        Self { secrets, images, sha256, _dir: dir }
    }

    async fn fetch(&self, source: Value, signature: Option<Value>) -> Result<u64, FetchError> {
        let source: Source = serde_json::from_value(source).unwrap();
        let signature: Option<Signature> = signature.map(|signature| serde_json::from_value(signature).unwrap());
        let wanted = Wanted { source: &source, sha256: &self.sha256, signature: signature.as_ref() };
        self.images.fetch(wanted, Need::Device).await.map(|content| content.size)
    }

    /// The reason of a refusal, which says this and hides the other.
    async fn refused(&self, source: Value, signature: Option<Value>, says: &str) -> &'static str {
        let error = self.fetch(source, signature).await.unwrap_err();
        let text = fettle_runtime::chain(&error).to_string();
        assert!(text.contains(says), "{says} in: {text}");
        assert!(!format!("{text} {error:?}").contains("s3cr3t"), "{text}");
        error.reason()
    }
}

fn file() -> Value {
    json!({"file": {"path": "image"}})
}

fn signed(key: &str) -> Option<Value> {
    Some(json!({"ed25519": SIGNATURE, "publicKeySecret": {"name": "release-key", "key": key}}))
}

#[tokio::test]
async fn a_signature_is_checked_where_it_is_there_and_missed_where_it_is_required() {
    let setup = Setup::new(SignaturePolicy::Optional);
    assert_eq!(setup.refused(file(), signed("other"), "another key made it").await, "SignatureInvalid");
    assert_eq!(setup.refused(file(), signed("none"), "not an Ed25519 public key").await, "SecretInvalid");
    assert_eq!(setup.refused(file(), signed("absent"), "has no key absent").await, "SecretInvalid");
    assert_eq!(setup.fetch(file(), None).await.unwrap(), 5);
    assert_eq!(setup.fetch(file(), signed("key")).await.unwrap(), 5);
    // A key that was replaced vouches for nothing any more, though the image is in the cache.
    setup.secrets.set("release-key", &[("key", OTHER_KEY)]);
    assert_eq!(setup.refused(file(), signed("key"), "another key made it").await, "SignatureInvalid");

    let setup = Setup::new(SignaturePolicy::Required);
    assert_eq!(setup.refused(file(), None, "--signatures Required").await, "SignatureMissing");
    assert_eq!(setup.fetch(file(), signed("key")).await.unwrap(), 5);
    assert_eq!(setup.refused(file(), None, "").await, "SignatureMissing", "not even from the cache");
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_said_by_its_name_and_never_by_what_it_holds() {
    let setup = Setup::new(SignaturePolicy::Optional);
    let web = json!({"http": {
        "url": "https://127.0.0.1:1/image", "credentialsSecret": {"name": "login"}, "caSecret": {"name": "ca"},
    }});
    let refused = |says: &'static str| setup.refused(web.clone(), None, says);
    assert_eq!(refused("Secret login (credentialsSecret) does not exist").await, "SecretNotFound");
    setup.secrets.forbid("login");
    assert_eq!(refused("Secret login (credentialsSecret) cannot be read").await, "SecretUnreadable");
    setup.secrets.set("login", &[("username", "s3cr3t")]);
    assert_eq!(refused("Secret login (credentialsSecret): it has no key password").await, "SecretInvalid");
    setup.secrets.set_typed("login", "kubernetes.io/service-account-token", &[("token", "s3cr3t")]);
    assert_eq!(refused("tokens of service accounts are not used").await, "SecretInvalid");
    setup.secrets.set("login", &[("username", "fettle"), ("password", "s3cr3t\n")]);
    assert_eq!(refused("Secret ca (caSecret) does not exist").await, "SecretNotFound");
    setup.secrets.set("ca", &[("ca.crt", "s3cr3t")]);
    assert_eq!(refused("holds no certificates in PEM").await, "InvalidSource");

    let digest = "0".repeat(64);
    let oci = json!({"oci": {
        "image": format!("127.0.0.1:1/a/b:tag@sha256:{digest}"), "credentialsSecret": {"name": "registry"},
    }});
    setup.secrets.set("registry", &[(".dockerconfigjson", r#"{"auths": {"other.example": {"auth": "s3cr3t"}}}"#)]);
    assert_eq!(setup.refused(oci.clone(), None, "it holds no login for 127.0.0.1:1").await, "SecretInvalid");
    setup.secrets.set("registry", &[("password", "s3cr3t")]);
    assert_eq!(setup.refused(oci, None, "it has no key .dockerconfigjson").await, "SecretInvalid");

    let s3 = json!({"s3": {"bucket": "images", "key": "a", "region": "x", "credentialsSecret": {"name": "keys"}}});
    setup.secrets.set("keys", &[("accessKeyId", "s3cr3t")]);
    assert_eq!(setup.refused(s3, None, "it has no key secretAccessKey").await, "SecretInvalid");
}

#[tokio::test]
async fn an_api_server_that_refuses_is_not_taken_for_one_that_is_away() {
    let setup = Setup::new(SignaturePolicy::Optional);
    setup.secrets.forbid("release-key");
    assert!(!setup.fetch(file(), signed("key")).await.unwrap_err().is_outage());
}

#[test]
fn the_page_names_every_reason_and_no_other() {
    let reasons = |code: &'static str| {
        let (_, code) = code.split_once("pub fn reason(").unwrap();
        let (code, _) = code.split_once("\n    }\n").unwrap();
        code.split('"').skip(1).step_by(2)
    };
    let said_elsewhere = ["Fetching"];
    let mut known: Vec<_> = reasons(include_str!("../src/files/store/error.rs"))
        .chain(reasons(include_str!("../src/cluster/images.rs")))
        .chain(said_elsewhere)
        .collect();
    let page = include_str!("../../docs/sources.md");
    let mut named: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(reason, _)| reason)).collect();
    known.sort_unstable();
    known.dedup();
    named.sort_unstable();
    assert_eq!(named, known);
}
