//! What devices are told to run, kept by content: immutable Secrets whose names are digests of what they hold.
//!
//! The controller makes them from the users' objects; the bridge fetches and renders from them alone. So Git may prune
//! or overwrite the users' objects without taking away what is under way, or the way back.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Crc, Signature, Source};

/// The label that content Secrets carry; its value is `image` or `config`.
pub const LABEL: &str = "fettle.dev/content";
/// Its value where it is a configuration.
pub const CONFIG: &str = "config";
/// The label that says whose objects these are.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "fettle");

const IMAGE_KEY: &str = "image.json";
const VERSION_KEY: &str = "version";
const CONFIG_KEY: &str = "config";
const TEMPLATE_KEY: &str = "template";

/// What one image is: enough to fetch and verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageContent {
    /// The version of the release.
    pub version: String,
    /// What a device on it reports.
    pub reports: String,
    /// Where it comes from.
    pub source: Source,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
    /// Who vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What its devices mean by CRC. Not there where they mean what most do: the name is that of an image of old then.
    #[serde(default, skip_serializing_if = "Crc::is_default")]
    pub crc: Crc,
}

/// A configuration as it was read: the same bytes for every device, or a template of them.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigContent {
    /// The version that its profile says.
    pub version: String,
    /// What the bytes are.
    pub form: Form,
    /// As they were read. May hold secrets: never logged.
    pub bytes: Vec<u8>,
}

/// What the source of a configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// What each device gets.
    Text,
    /// What is rendered for each device ([`render`](crate::render)).
    Template,
}

impl Form {
    /// The key of the Secret that its bytes are under.
    const fn key(self) -> &'static str {
        match self {
            Self::Text => CONFIG_KEY,
            Self::Template => TEMPLATE_KEY,
        }
    }
}

/// The identity of a configuration: `version+hash8`, of the bytes as a device gets them.
pub fn identity(version: &str, bytes: &[u8]) -> String {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
    format!("{version}+{}", &digest[..8])
}

/// Why a Secret is not the content that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("Secret {name} lacks the key {key}")]
    MissingKey { name: String, key: &'static str },
    #[error("Secret {name}: {IMAGE_KEY} cannot be read")]
    Malformed { name: String, source: serde_json::Error },
    #[error("Secret {name} does not hold what its name says: somebody replaced it")]
    Tampered { name: String },
}

impl ImageContent {
    /// The name of the Secret that keeps this.
    pub fn name(&self) -> String {
        format!("fettle-image-{}", short(&Sha256::digest(self.json())))
    }

    /// The Secret that keeps this.
    pub fn to_secret(&self) -> Secret {
        secret(self.name(), "image", BTreeMap::from([(IMAGE_KEY.to_owned(), ByteString(self.json()))]))
    }

    /// Reads it from its Secret.
    ///
    /// # Errors
    /// [`ContentError`] where the Secret is not one of ours, or not what its name says.
    pub fn from_secret(secret: &Secret) -> Result<Self, ContentError> {
        let name = name_of(secret);
        let json = value(secret, IMAGE_KEY)?;
        let content: Self =
            serde_json::from_slice(json).map_err(|source| ContentError::Malformed { name: name.clone(), source })?;
        if content.name() == name { Ok(content) } else { Err(ContentError::Tampered { name }) }
    }

    fn json(&self) -> Vec<u8> {
        // Plain strings and structs: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl ConfigContent {
    /// The identity of the source. Of a text that is what a device gets; of a template each device has its own.
    pub fn identity(&self) -> String {
        identity(&self.version, &self.bytes)
    }

    /// The name of the Secret that keeps this.
    pub fn name(&self) -> String {
        // No version begins with NUL: a template is never taken for a text.
        let form: &[u8] = match self.form {
            Form::Text => b"",
            Form::Template => b"\0template\0",
        };
        let digest = Sha256::new().chain_update(form).chain_update(&self.version).chain_update([0]);
        format!("fettle-config-{}", short(&digest.chain_update(&self.bytes).finalize()))
    }

    /// The Secret that keeps this.
    pub fn to_secret(&self) -> Secret {
        let data = BTreeMap::from([
            (VERSION_KEY.to_owned(), ByteString(self.version.clone().into_bytes())),
            (self.form.key().to_owned(), ByteString(self.bytes.clone())),
        ]);
        secret(self.name(), CONFIG, data)
    }

    /// Reads it from its Secret.
    ///
    /// # Errors
    /// [`ContentError`] where the Secret is not one of ours, or not what its name says.
    pub fn from_secret(secret: &Secret) -> Result<Self, ContentError> {
        let is_template = secret.data.as_ref().is_some_and(|data| data.contains_key(TEMPLATE_KEY));
        let form = if is_template { Form::Template } else { Form::Text };
        let content = Self {
            version: String::from_utf8_lossy(value(secret, VERSION_KEY)?).into_owned(),
            form,
            bytes: value(secret, form.key())?.to_vec(),
        };
        let name = name_of(secret);
        if content.name() == name { Ok(content) } else { Err(ContentError::Tampered { name }) }
    }
}

fn short(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..8])
}

fn name_of(secret: &Secret) -> String {
    secret.metadata.name.clone().unwrap_or_default()
}

fn value<'a>(secret: &'a Secret, key: &'static str) -> Result<&'a [u8], ContentError> {
    let found = secret.data.as_ref().and_then(|data| data.get(key));
    found.map(|bytes| bytes.0.as_slice()).ok_or_else(|| ContentError::MissingKey { name: name_of(secret), key })
}

fn secret(name: String, kind: &str, data: BTreeMap<String, ByteString>) -> Secret {
    let labels = [(LABEL, kind), MANAGED_BY].map(|(key, value)| (key.to_owned(), value.to_owned()));
    Secret {
        metadata: ObjectMeta { name: Some(name), labels: Some(BTreeMap::from(labels)), ..ObjectMeta::default() },
        type_: Some(format!("fettle.dev/{kind}")),
        immutable: Some(true),
        data: Some(data),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileSource;

    fn config(version: &str, text: &str) -> ConfigContent {
        ConfigContent { version: version.into(), form: Form::Text, bytes: text.into() }
    }

    #[test]
    fn the_identity_of_a_configuration_is_its_version_and_a_digest_of_its_bytes() {
        // printf 'vlan 7\n' | sha256sum
        assert_eq!(config("17", "vlan 7\n").identity(), "17+9b2d0486");
        assert_ne!(config("17", "vlan 8\n").identity(), config("17", "vlan 7\n").identity());
    }

    #[test]
    fn content_comes_back_from_its_secret_and_a_changed_secret_is_found_out() {
        let wanted = config("17", "vlan 7\n");
        let mut secret = wanted.to_secret();
        assert!(ConfigContent::from_secret(&secret).unwrap() == wanted);
        secret.data.as_mut().unwrap().insert(CONFIG_KEY.into(), ByteString(b"vlan 8\n".to_vec()));
        assert!(matches!(ConfigContent::from_secret(&secret), Err(ContentError::Tampered { .. })));

        let template = ConfigContent { form: Form::Template, ..wanted.clone() };
        assert!(ConfigContent::from_secret(&template.to_secret()).unwrap() == template);
        assert_ne!(template.name(), wanted.name(), "what is rendered is not what is taken as it stands");

        let image = ImageContent {
            version: "5.2.1".into(),
            reports: "V5.2.1".into(),
            source: Source { file: Some(FileSource { path: "a.bin".into() }), ..Source::default() },
            sha256: "00".repeat(32),
            signature: None,
            crc: Crc::Ieee,
        };
        let of_old = br#"{"version":"5.2.1","reports":"V5.2.1","source":{"file":{"path":"a.bin"}},"sha256":""#;
        assert_eq!(image.json(), [of_old, "00".repeat(32).as_bytes(), br#""}"#].concat(), "its name must stay");
        assert_ne!(ImageContent { crc: Crc::Bzip2, ..image.clone() }.name(), image.name());
        let mut secret = image.to_secret();
        assert_eq!(ImageContent::from_secret(&secret).unwrap(), image);
        secret.data.as_mut().unwrap().remove(IMAGE_KEY);
        let error = ImageContent::from_secret(&secret).unwrap_err().to_string();
        assert!(error.contains("lacks the key image.json"), "{error}");
    }
}
