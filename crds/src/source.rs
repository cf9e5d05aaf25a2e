//! Where an image comes from, and the Secrets that are needed to fetch it. Secrets are named, never quoted: the bridge reads
//! them at each fetch, so that they can be changed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Where an image comes from: exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("[has(self.file), has(self.http), has(self.oci), has(self.s3)].filter(x, x).size() == 1", "source: give exactly one of file, http, oci and s3"))]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A file on a volume of the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// A file on a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A file of an artifact in an OCI registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// An object of an S3 bucket, or of a store that speaks as S3 does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Source>,
}

/// A file on a volume of the bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct FileSource {
    /// Its path, relative to the folder that the bridge was told (`--files-dir`).
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = ("!self.startsWith('/') && !self.split('/').exists(p, p == '..')", "path must be relative to the bridge's files folder and must not contain '..'"))]
    pub path: String,
}

/// A file on a web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("!has(self.credentialsSecret) || self.url.startsWith('https://')", "credentialsSecret: credentials are sent over https only, so url must begin with https://"))]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// Its address: `http://` or `https://`, without user and password.
    #[schemars(regex(pattern = "^https?://[^/?#]+"), length(max = 2048))]
    #[x_kube(validation = ("!self.matches('^https?://[^/?#]*@')", "url must not hold a user or a password: put them into a Secret, and name it in credentialsSecret"))]
    pub url: String,
    /// A Secret with the keys `username` and `password`, or with the key `token` (sent as a bearer's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// The certificates of the authorities that may vouch for the server, in place of those that the bridge's system
    /// trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaRef>,
}

/// A file of an artifact in an OCI registry: a layer of its manifest, as `oras push` puts it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("!(has(self.credentialsSecret) && has(self.insecure) && self.insecure)", "credentialsSecret: credentials are sent over https only, so leave insecure out"))]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// The artifact, by its digest: `registry.example/firmware/s5700@sha256:…`.
    #[schemars(length(max = 512))]
    #[x_kube(validation = ("self.matches('^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?@sha256:[0-9a-f]{64}$')", "image must name a registry, a repository and a digest, such as registry.example/firmware/s5700@sha256:… with 64 hexadecimal digits"))]
    pub image: String,
    /// The title of the layer that is the file (`org.opencontainers.image.title`). An artifact of one layer needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub file: Option<String>,
    /// A Secret of the type `kubernetes.io/dockerconfigjson`, as for pulling images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// The certificates of the authorities that may vouch for the registry, in place of those that the bridge's system
    /// trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaRef>,
    /// Whether the registry is asked over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// An object of an S3 bucket, or of a store that speaks as S3 does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Source {
    /// The bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// The key of the object.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("!self.startsWith('/') && !self.endsWith('/') && self.split('/').all(p, p != '' && p != '.' && p != '..')", "key must not begin or end with '/', and must not contain '//', '.' or '..' as a part"))]
    pub key: String,
    /// The region of the bucket.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z0-9-]+$"))]
    pub region: String,
    /// Where the store is: `https://…`, or `http://…`; AWS, where this is left out. The bucket follows as the first part of
    /// the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://[^/?#@]+(/[^?#@]*)?$"), length(max = 512))]
    pub endpoint: Option<String>,
    /// A Secret with the keys `accessKeyId` and `secretAccessKey`, and `sessionToken` where the credentials are temporary.
    /// Without it the object is asked for as anybody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// The certificates of the authorities that may vouch for the store, in place of those that the bridge's system
    /// trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaRef>,
}

/// A Secret of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
}

/// A key of a Secret of the same namespace, with certificates in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaRef {
    /// Its name.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// The key of it.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub key: String,
}

/// Who vouches for an image: exactly one kind of signature, and the key that it is checked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = ("has(self.ed25519) != has(self.minisign)", "signature: give exactly one of ed25519 and minisign"))]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// An Ed25519 signature (RFC 8032, without prehash or context) over all bytes of the file, in base64:
    /// `openssl pkeyutl -sign -rawin -inkey key.pem -in FILE | base64 -w0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 88), regex(pattern = "^[A-Za-z0-9+/]{86}==$"))]
    pub ed25519: Option<String>,
    /// The text of the file that `minisign -S -m FILE` writes beside it, as it is. `minisign -l` makes another kind, which
    /// is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub minisign: Option<String>,
    /// The public key.
    pub public_key_secret: PublicKeyRef,
}

/// A key of a Secret of the same namespace, with a public key: for `ed25519` in PEM (`openssl pkey -pubout`) or its 32 bytes in
/// base64; for `minisign` the file that `minisign -G` writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublicKeyRef {
    /// Its name.
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub name: String,
    /// The key of it.
    #[serde(default = "default_public_key")]
    #[schemars(length(min = 1, max = schema::NAME_MAX))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_public_key() -> String {
    "key".to_owned()
}
