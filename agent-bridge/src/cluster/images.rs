//! Has images fetched: reads from Secrets what their sources need, at each fetch anew, and checks who vouches for them.
//!
//! Nothing of a Secret is kept, logged or repeated in an error.

use fettle_crds as api;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::content::digest;
use super::docker_config::{DOCKER_CONFIG, registry_login};
use super::request::{ApiError, request};
use crate::files::store::{
    Auth, Content, HttpSource, Need, OciSource, S3Keys, S3Source, Signature, SignatureError, Source, SourceError, Store,
};

/// The type of Secrets that prove who a pod is. They are nobody else's business, though they have a key `token`.
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";

/// Whether images are taken that nobody vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum SignaturePolicy {
    /// Where there is a signature, it has to be right.
    Optional,
    /// An image without a signature is not fetched, and not given to devices.
    Required,
}

/// An image, as somebody declared it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where it comes from.
    pub source: &'a api::Source,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: &'a str,
    /// Who vouches for it.
    pub signature: Option<&'a api::Signature>,
}

/// Why an image cannot be had. Each is a sentence for a condition, beside its [`reason`](Self::reason).
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    InvalidHash(String),
    #[error("Secret {secret} ({field}) does not exist")]
    SecretNotFound { secret: String, field: &'static str },
    #[error("Secret {secret} ({field}): {detail}")]
    SecretInvalid { secret: String, field: &'static str, detail: String },
    #[error("Secret {secret} ({field}) cannot be read")]
    SecretUnreadable { secret: String, field: &'static str, source: ApiError },
    #[error("the image has no signature, and this installation takes none without (--signatures Required)")]
    SignatureMissing,
    #[error("signature: {0}")]
    SignatureUnreadable(SignatureError),
}

impl FetchError {
    /// The reason of a condition: from a closed list, in CamelCase.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Source(error) => error.reason(),
            Self::InvalidHash(_) => "InvalidHash",
            Self::SecretNotFound { .. } => "SecretNotFound",
            Self::SecretInvalid { .. } => "SecretInvalid",
            Self::SecretUnreadable { .. } => "SecretUnreadable",
            Self::SignatureMissing => "SignatureMissing",
            Self::SignatureUnreadable(_) => "SignatureInvalid",
        }
    }

    /// Whether the API server is away: that says nothing about the image.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::SecretUnreadable { source, .. } => !source.is_refusal(),
            Self::Source(_)
            | Self::InvalidHash(_)
            | Self::SecretNotFound { .. }
            | Self::SecretInvalid { .. }
            | Self::SignatureMissing
            | Self::SignatureUnreadable(_) => false,
        }
    }
}

/// Has images fetched into the store.
#[derive(Clone)]
pub struct Images {
    secrets: Api<Secret>,
    store: Store,
    policy: SignaturePolicy,
}

impl Images {
    /// Reads the Secrets of the namespace of `secrets`.
    pub fn new(secrets: Api<Secret>, store: Store, policy: SignaturePolicy) -> Self {
        Self { secrets, store, policy }
    }

    /// Where images are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The image, in the cache, and vouched for where somebody is to.
    ///
    /// # Errors
    /// Where it cannot be had, or must not be.
    pub async fn fetch(&self, wanted: Wanted<'_>, need: Need) -> Result<Content, FetchError> {
        let Wanted { source, sha256, signature } = wanted;
        if signature.is_none() && self.policy == SignaturePolicy::Required {
            return Err(FetchError::SignatureMissing);
        }
        let sha256 = digest(sha256).map_err(|error| FetchError::InvalidHash(error.0))?;
        // First what a person can mend without a fetch.
        let signature = match signature {
            Some(signature) => Some(self.signature(signature).await?),
            None => None,
        };
        let content = match self.store.get(&sha256).await {
            Some(content) => content,
            None => self.store.fetch(&self.source(source).await?, sha256, need).await?,
        };
        if let Some(signature) = signature {
            self.store.verify(&content, signature).await?;
        }
        Ok(content)
    }

    /// The source with what it needs from Secrets.
    async fn source(&self, source: &api::Source) -> Result<Source, FetchError> {
        let api::Source { file, http, oci, s3 } = source;
        match (file, http, oci, s3) {
            (Some(file), ..) => Ok(Source::File { path: file.path.clone() }),
            (None, Some(http), ..) => Ok(Source::Http(self.http(http).await?)),
            (None, None, Some(oci), _) => Ok(Source::Oci(self.oci(oci).await?)),
            (None, None, None, Some(s3)) => Ok(Source::S3(self.s3(s3).await?)),
            // The schema does not let this through; an empty path is refused by the store with a sentence.
            (None, None, None, None) => Ok(Source::File { path: String::new() }),
        }
    }

    async fn http(&self, http: &api::HttpSource) -> Result<HttpSource, FetchError> {
        let api::HttpSource { url, credentials_secret, ca_secret } = http;
        let auth = match self.credentials(credentials_secret.as_ref()).await? {
            Some(secret) if secret.has("token") => Auth::Bearer(secret.text("token")?),
            Some(secret) => Auth::Basic { user: secret.text("username")?, password: secret.text("password")? },
            None => Auth::Nobody,
        };
        Ok(HttpSource { url: url.clone(), auth, ca: self.ca(ca_secret.as_ref()).await? })
    }

    async fn oci(&self, oci: &api::OciSource) -> Result<OciSource, FetchError> {
        let api::OciSource { image, file, credentials_secret, ca_secret, insecure } = oci;
        // The schema lets nothing through that is not like this.
        let (name, digest) = image.split_once('@').unwrap_or((image, ""));
        let (registry, repository) = name.split_once('/').unwrap_or((name, ""));
        let repository = repository.split_once(':').map_or(repository, |(repository, _tag)| repository);
        let auth = match self.credentials(credentials_secret.as_ref()).await? {
            Some(secret) => {
                let config = secret.bytes(DOCKER_CONFIG)?;
                registry_login(config, registry, repository).map_err(|detail| secret.invalid(detail))?
            }
            None => Auth::Nobody,
        };
        Ok(OciSource {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            digest: digest.to_owned(),
            file: file.clone(),
            auth,
            ca: self.ca(ca_secret.as_ref()).await?,
            insecure: *insecure,
        })
    }

    async fn s3(&self, s3: &api::S3Source) -> Result<S3Source, FetchError> {
        let api::S3Source { bucket, key, region, endpoint, credentials_secret, ca_secret } = s3;
        let keys = match self.credentials(credentials_secret.as_ref()).await? {
            Some(secret) => Some(S3Keys {
                id: secret.text("accessKeyId")?,
                secret: secret.text("secretAccessKey")?,
                token: secret.has("sessionToken").then(|| secret.text("sessionToken")).transpose()?,
            }),
            None => None,
        };
        Ok(S3Source {
            bucket: bucket.clone(),
            key: key.clone(),
            region: region.clone(),
            endpoint: endpoint.clone(),
            keys,
            ca: self.ca(ca_secret.as_ref()).await?,
        })
    }

    async fn credentials(&self, secret: Option<&api::SecretRef>) -> Result<Option<Read>, FetchError> {
        match secret {
            Some(secret) => Ok(Some(self.read(&secret.name, "credentialsSecret").await?)),
            None => Ok(None),
        }
    }

    async fn ca(&self, ca: Option<&api::CaRef>) -> Result<Option<String>, FetchError> {
        match ca {
            Some(ca) => Ok(Some(self.read(&ca.name, "caSecret").await?.text(&ca.key)?)),
            None => Ok(None),
        }
    }

    async fn signature(&self, signature: &api::Signature) -> Result<Signature, FetchError> {
        let api::Signature { ed25519, minisign, public_key_secret } = signature;
        let secret = self.read(&public_key_secret.name, "publicKeySecret").await?;
        let key = secret.bytes(&public_key_secret.key)?;
        let read = match (ed25519, minisign) {
            (Some(text), _) => Signature::ed25519(text, key),
            (None, Some(text)) => Signature::minisign(text, key),
            // The schema does not let this through.
            (None, None) => return Err(FetchError::SignatureMissing),
        };
        read.map_err(|error| match error.is_of_key() {
            true => secret.invalid(format!("key {}: {error}", public_key_secret.key)),
            false => FetchError::SignatureUnreadable(error),
        })
    }

    async fn read(&self, name: &str, field: &'static str) -> Result<Read, FetchError> {
        let secret = || name.to_owned();
        match request(self.secrets.get_opt(name)).await {
            Ok(Some(found)) if found.type_.as_deref() == Some(SERVICE_ACCOUNT_TOKEN) => {
                let detail = "tokens of service accounts are not used for sources".to_owned();
                Err(FetchError::SecretInvalid { secret: secret(), field, detail })
            }
            Ok(Some(found)) => Ok(Read { name: secret(), field, secret: found }),
            Ok(None) => Err(FetchError::SecretNotFound { secret: secret(), field }),
            Err(source) => Err(FetchError::SecretUnreadable { secret: secret(), field, source }),
        }
    }
}

/// A Secret that was read, and what it was read for.
struct Read {
    name: String,
    field: &'static str,
    secret: Secret,
}

impl Read {
    fn has(&self, key: &str) -> bool {
        self.secret.data.as_ref().is_some_and(|data| data.contains_key(key))
    }

    fn bytes(&self, key: &str) -> Result<&[u8], FetchError> {
        let value = self.secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
        value.ok_or_else(|| self.invalid(format!("it has no key {key}")))
    }

    /// Without the line break that an editor leaves at the end.
    fn text(&self, key: &str) -> Result<String, FetchError> {
        let text = std::str::from_utf8(self.bytes(key)?).map_err(|_| self.invalid(format!("key {key} is not text")))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn invalid(&self, detail: String) -> FetchError {
        FetchError::SecretInvalid { secret: self.name.clone(), field: self.field, detail }
    }
}
