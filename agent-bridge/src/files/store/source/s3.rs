//! Objects of S3 and of what speaks as S3 does: each request is signed anew, in its URL, and made as to any web server.
//!
//! The signature holds for one object on one host: a redirect to another host takes nothing along that could be used there.

use std::time::Duration;

use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::signer::Signer;
use reqwest::{Client, Method, Url};

use super::super::SourceError;
use super::http::{Manners, Web};
use super::{Auth, Network, Opened, S3Keys, S3Source};

/// How long a signed request may be under way to the server; what has begun may take longer.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// An object, ready to be asked for.
pub(in crate::files::store) struct Object {
    web: Web,
    key: Path,
    /// `None`: anybody may ask.
    signer: Option<AmazonS3>,
}

impl Object {
    pub(super) async fn new(network: &Network, source: &S3Source, origin: &str) -> Result<Self, SourceError> {
        let invalid = |detail: String| SourceError::InvalidSource { origin: origin.to_owned(), detail };
        let S3Source { bucket, key, region, endpoint, keys, ca } = source;
        let key = Path::parse(key).map_err(|_| invalid("the key is not one that can be asked for".to_owned()))?;
        let client = network.client(ca.as_deref(), origin).await?;
        let aws = || format!("https://s3.{region}.amazonaws.com");
        let endpoint = endpoint.clone().unwrap_or_else(aws);
        let endpoint = endpoint.trim_end_matches('/');
        let url = object_url(endpoint, bucket, &key).ok_or_else(|| invalid("the endpoint is not a URL".to_owned()))?;
        let web = Web::with(network, client.clone(), url, Auth::Nobody, Manners::S3, origin)?;
        let signer = match keys {
            Some(S3Keys { id, secret, token }) => {
                let builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region)
                    .with_endpoint(endpoint)
                    .with_allow_http(true)
                    .with_http_connector(Ours(client))
                    .with_access_key_id(id)
                    .with_secret_access_key(secret);
                let builder = match token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                };
                // What it says could repeat what it was given.
                Some(builder.build().map_err(|_| invalid("nothing can be signed for it".to_owned()))?)
            }
            None => None,
        };
        Ok(Self { web, key, signer })
    }

    pub(super) async fn open(&self, offset: u64, version: Option<&str>) -> Result<Opened, SourceError> {
        let Some(signer) = &self.signer else { return self.web.open(offset, version).await };
        let signed = signer.signed_url(Method::GET, &self.key, SIGNED_FOR).await;
        let url = signed.map_err(|_| self.web.invalid("nothing can be signed for it"))?;
        self.web.at(url).open(offset, version).await
    }
}

/// The bucket as the first part of the path, as every store of this kind understands.
fn object_url(endpoint: &str, bucket: &str, key: &Path) -> Option<Url> {
    let mut url = Url::parse(endpoint).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().push(bucket).extend(key.parts().map(|part| part.as_ref().to_owned()));
    Some(url)
}

/// The library signs; it does not ask anybody anything. If it did, it would by our client.
#[derive(Debug)]
struct Ours(Client);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
