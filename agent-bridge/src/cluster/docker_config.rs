//! Logins to registries, as Secrets of the type `kubernetes.io/dockerconfigjson` hold them.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::files::store::Auth;

/// The key of such a Secret.
pub(super) const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// The login of Docker's own registry stands under a name that is not the registry's.
const DOCKER_IO: (&str, &str) = ("index.docker.io", "docker.io");

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    username: Option<String>,
    password: Option<String>,
    /// `user:password` in base64.
    auth: Option<String>,
}

/// The login that is for this repository: of its registry, or of the longest path of it that there is one for.
///
/// # Errors
/// Where there is none, or none that can be read; with a sentence that repeats nothing.
pub(super) fn registry_login(config: &[u8], registry: &str, repository: &str) -> Result<Auth, String> {
    let config: DockerConfig =
        serde_json::from_slice(config).map_err(|_| format!("key {DOCKER_CONFIG} is not a Docker configuration"))?;
    let place = format!("{registry}/{repository}/");
    let fits = |key: &str| place.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
    let logins = config.auths.iter().map(|(key, login)| (plain(key), login)).filter(|(key, _)| fits(key));
    let (_, login) =
        logins.max_by_key(|(key, _)| key.len()).ok_or_else(|| format!("it holds no login for {registry}"))?;
    login.read().ok_or_else(|| format!("its login for {registry} holds no user and password"))
}

/// The place that a key stands for: tools write registries as URLs, with the version of a protocol behind them.
fn plain(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (written, meant) = DOCKER_IO;
    key.strip_prefix(written).map_or_else(|| key.to_owned(), |rest| format!("{meant}{rest}"))
}

impl Login {
    fn read(&self) -> Option<Auth> {
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Some(Auth::Basic { user: user.clone(), password: password.clone() });
        }
        let both = String::from_utf8(BASE64.decode(self.auth.as_ref()?.as_bytes()).ok()?).ok()?;
        let (user, password) = both.split_once(':')?;
        Some(Auth::Basic { user: user.to_owned(), password: password.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(config: &str, registry: &str, repository: &str) -> Result<String, String> {
        match registry_login(config.as_bytes(), registry, repository)? {
            Auth::Basic { user, password } => {
                assert_eq!(password, "pa55");
                Ok(user)
            }
            Auth::Nobody | Auth::Bearer(_) => panic!("not a login"),
        }
    }

    #[test]
    fn a_login_is_found_by_its_registry_and_the_longest_path_counts() {
        // printf one:pa55 | base64
        let config = r#"{"auths": {
            "https://registry.example:5000/v2/": {"auth": "b25lOnBhNTU="},
            "registry.example:5000/firmware": {"username": "two", "password": "pa55"},
            "https://index.docker.io/v1/": {"username": "three", "password": "pa55"}
        }}"#;
        assert_eq!(user(config, "registry.example:5000", "other/a").as_deref(), Ok("one"));
        assert_eq!(user(config, "registry.example:5000", "firmware/a").as_deref(), Ok("two"));
        assert_eq!(user(config, "registry.example:5000", "firmware").as_deref(), Ok("two"));
        assert_eq!(user(config, "registry.example:5000", "firmwares/a").as_deref(), Ok("one"));
        assert_eq!(user(config, "docker.io", "library/a").as_deref(), Ok("three"));
        assert!(user(config, "registry.example", "firmware/a").is_err(), "another port is another server");
    }

    #[test]
    fn what_cannot_be_read_is_said_without_repeating_it() {
        for config in ["pa55", r#"{"auths": {"r.example": {"auth": "pa55"}}}"#, r#"{"auths": {"r.example": {}}}"#, "{}"]
        {
            let error = user(config, "r.example", "a").unwrap_err();
            assert!(!error.contains("pa55"), "{error}");
        }
    }
}
