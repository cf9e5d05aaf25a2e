//! Files of artifacts in OCI registries: the manifest that has the declared digest names a layer, and the layer is a file
//! on a web server. Who is asked to log in does it as the registry says.
//!
//! Everything that a registry sends besides the file is bounded and read whole before it is looked at.

use futures::StreamExt;
use reqwest::header::{ACCEPT, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::super::SourceError;
use super::http::{Manners, Web};
use super::{Auth, Network, OciSource};

/// The largest manifest: what registries have to take (distribution specification, "Pushing Manifests").
const MAX_MANIFEST: usize = 4 << 20;
/// The largest token, with what comes around it.
const MAX_TOKEN: usize = 64 << 10;

const MANIFEST_TYPES: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const TITLE: &str = "org.opencontainers.image.title";

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry wants to be shown.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    Other,
}

/// A registry, asked for one artifact.
struct Registry<'a> {
    network: &'a Network,
    client: Client,
    base: Url,
    source: &'a OciSource,
    origin: &'a str,
}

/// Finds the layer that is the file, and gets it ready to be asked for.
pub(super) async fn layer(
    network: &Network,
    source: &OciSource,
    expected: &[u8; 32],
    origin: &str,
) -> Result<Web, SourceError> {
    let invalid = |detail: &str| SourceError::InvalidSource { origin: origin.to_owned(), detail: detail.to_owned() };
    if source.insecure && source.auth != Auth::Nobody {
        return Err(invalid("credentials are sent over https only"));
    }
    let client = network.client(source.ca.as_deref(), origin).await?;
    let scheme = if source.insecure { "http" } else { "https" };
    // The name that Docker's own registry is known by is not that of its server.
    let host = if source.registry == "docker.io" { "registry-1.docker.io" } else { &source.registry };
    let registry = Registry {
        network,
        client,
        base: Url::parse(&format!("{scheme}://{host}/v2/{}/", source.repository))
            .map_err(|_| invalid("it names no registry"))?,
        source,
        origin,
    };
    let (manifest, auth) = registry.manifest().await?;
    let layer = registry.choose(&manifest)?;
    let digest = layer.digest.strip_prefix("sha256:").and_then(|hex| {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
        <[u8; 32]>::try_from(bytes).ok()
    });
    let digest = digest.ok_or_else(|| registry.invalid("its layer has no SHA-256 digest"))?;
    if digest != *expected {
        return Err(SourceError::HashMismatch { origin: origin.to_owned(), expected: *expected, found: digest });
    }
    if layer.size > network.limit {
        return Err(SourceError::TooLarge { origin: origin.to_owned(), limit: network.limit });
    }
    let url = registry.url("blobs", &layer.digest)?;
    Web::with(network, registry.client.clone(), url, auth, Manners::Registry(layer.digest.clone()), origin)
}

impl Registry<'_> {
    fn invalid(&self, detail: &str) -> SourceError {
        SourceError::InvalidArtifact { origin: self.origin.to_owned(), detail: detail.to_owned() }
    }

    fn url(&self, kind: &str, digest: &str) -> Result<Url, SourceError> {
        self.base.join(&format!("{kind}/{digest}")).map_err(|_| self.invalid("its digest is not one"))
    }

    fn web(&self, url: Url, auth: Auth) -> Result<Web, SourceError> {
        Web::with(self.network, self.client.clone(), url, auth, Manners::Web, self.origin)
    }

    /// The manifest, and as whom the registry gave it.
    async fn manifest(&self) -> Result<(Manifest, Auth), SourceError> {
        let url = self.url("manifests", &self.source.digest)?;
        let ask = async |auth: Auth| {
            let web = self.web(url.clone(), auth)?;
            let response = web.ask(web.get().header(ACCEPT, MANIFEST_TYPES)).await?;
            Ok::<_, SourceError>((web, response))
        };
        let (mut web, mut response) = ask(Auth::Nobody).await?;
        let mut auth = Auth::Nobody;
        if response.status() == StatusCode::UNAUTHORIZED {
            auth = self.log_in(&response).await?;
            (web, response) = ask(auth.clone()).await?;
        }
        if response.status() != StatusCode::OK {
            return Err(web.refused(response).await);
        }
        let bytes = self.read(&web, response, MAX_MANIFEST).await?;
        let found = format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)));
        if found != self.source.digest {
            return Err(self.invalid("the registry sent a manifest of another digest"));
        }
        let manifest = serde_json::from_slice(&bytes).map_err(|_| self.invalid("its manifest is not one"))?;
        Ok((manifest, auth))
    }

    async fn log_in(&self, response: &Response) -> Result<Auth, SourceError> {
        let unauthorized = || SourceError::Unauthorized {
            origin: self.origin.to_owned(),
            status: response.status().as_u16(),
            code: None,
        };
        let wanted = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        match challenge(wanted.unwrap_or_default()) {
            Challenge::Basic if self.source.auth != Auth::Nobody => Ok(self.source.auth.clone()),
            Challenge::Bearer { realm, service, scope } => {
                let mut url = Url::parse(&realm).map_err(|_| self.invalid("its registry names no place to log in"))?;
                if url.scheme() != self.base.scheme() && url.scheme() != "https" {
                    return Err(self.invalid("its registry wants the login in the open"));
                }
                let pull = format!("repository:{}:pull", self.source.repository);
                url.query_pairs_mut()
                    .extend_pairs(service.map(|service| ("service", service)))
                    .append_pair("scope", scope.as_deref().unwrap_or(&pull));
                let web = self.web(url, self.source.auth.clone())?;
                let response = web.ask(web.get()).await?;
                if response.status() != StatusCode::OK {
                    return Err(web.refused(response).await);
                }
                let bytes = self.read(&web, response, MAX_TOKEN).await?;
                let token: Token =
                    serde_json::from_slice(&bytes).map_err(|_| self.invalid("its registry's token is not one"))?;
                token.token.or(token.access_token).map(Auth::Bearer).ok_or_else(unauthorized)
            }
            Challenge::Basic | Challenge::Other => Err(unauthorized()),
        }
    }

    async fn read(&self, web: &Web, response: Response, limit: usize) -> Result<Vec<u8>, SourceError> {
        let mut body = web.body(response);
        let mut bytes = Vec::new();
        loop {
            let next = tokio::time::timeout(self.network.stall, body.next());
            let next = next
                .await
                .map_err(|_| SourceError::Stalled { origin: self.origin.to_owned(), after: self.network.stall })?;
            let Some(chunk) = next.transpose()? else { return Ok(bytes) };
            if bytes.len() + chunk.len() > limit {
                return Err(self.invalid("its registry sent more than a manifest or a token can be"));
            }
            bytes.extend_from_slice(&chunk);
        }
    }

    fn choose<'m>(&self, manifest: &'m Manifest) -> Result<&'m Layer, SourceError> {
        match &self.source.file {
            Some(title) => manifest
                .layers
                .iter()
                .find(|layer| layer.annotations.get(TITLE) == Some(title))
                .ok_or_else(|| self.invalid("no layer of it has the title that `file` says")),
            None => match manifest.layers.as_slice() {
                [layer] => Ok(layer),
                [] => Err(self.invalid("it has no layers: it may be an index, which names other manifests")),
                _ => Err(self.invalid("it has several layers: say in `file` which, by its title")),
            },
        }
    }
}

/// The first way to log in that we know, of those that a registry offers.
fn challenge(wanted: &str) -> Challenge {
    let offers = http_auth::parse_challenges(wanted).unwrap_or_default();
    for offer in &offers {
        let value = |name: &str| {
            let found = offer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if offer.scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            return Challenge::Bearer { realm, service: value("service"), scope: value("scope") };
        }
        if offer.scheme.eq_ignore_ascii_case("basic") {
            return Challenge::Basic;
        }
    }
    Challenge::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_wants_is_read() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull""#;
        assert_eq!(
            challenge(bearer),
            Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry.example".into()),
                scope: Some("repository:a/b:pull".into()),
            }
        );
        assert_eq!(challenge(r#"Basic realm="Registry""#), Challenge::Basic);
        for other in ["", "Digest nonce=\"x\"", "Bearer service=\"x\"", "\"", "Negotiate"] {
            assert_eq!(challenge(other), Challenge::Other, "{other}");
        }
    }
}
