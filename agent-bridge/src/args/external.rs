//! The file server of the operator's that serves devices in place of ours, if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::files::external::{Configurations, ExternalConfig, Login, PutServer, Told, address, is_plain};

/// The standard ports.
const FTP: u16 = 21;
const TFTP: u16 = 69;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "File server of your own")]
pub struct ExternalArgs {
    /// An FTP server that serves devices in place of the bridge's, as ftp://user@host:port/folder, or ftps:// to turn to
    /// TLS first. The bridge puts files into that folder, from where the login begins, and takes them away again.
    #[arg(id = "external-ftp-url", long, env = "FETTLE_EXTERNAL_FTP_URL", value_name = "URL")]
    pub url: Option<String>,
    /// File with the password of that user.
    #[arg(id = "external-ftp-password-file", long, env = "FETTLE_EXTERNAL_FTP_PASSWORD_FILE", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// File with the certificates (PEM) of those whom ftps:// may trust [default: those that the system trusts].
    #[arg(id = "external-ftp-ca-file", long, env = "FETTLE_EXTERNAL_FTP_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// IPv4 address, with or without a port, at which devices reach that server over FTP [default: that of the URL].
    #[arg(id = "external-ftp-address", long, env = "FETTLE_EXTERNAL_FTP_ADDRESS", value_name = "ADDRESS")]
    pub ftp_address: Option<String>,
    /// Name of the folder as devices see it where their login begins; "/" where it is that itself [default: the folder of
    /// the URL].
    #[arg(id = "external-ftp-path", long, env = "FETTLE_EXTERNAL_FTP_PATH", value_name = "FOLDER")]
    pub ftp_path: Option<String>,
    /// User name that devices are told [default: the user of the URL, with that one's password].
    #[arg(id = "external-device-user", long, env = "FETTLE_EXTERNAL_DEVICE_USER", value_name = "USER")]
    pub device_user: Option<String>,
    /// File with the password that devices are told.
    #[arg(
        id = "external-device-password-file",
        long,
        env = "FETTLE_EXTERNAL_DEVICE_PASSWORD_FILE",
        value_name = "FILE"
    )]
    pub device_password_file: Option<PathBuf>,
    /// IPv4 address, with or without a port, of a TFTP server that serves what is put there by FTP [default: TFTP is served
    /// by the bridge].
    #[arg(id = "external-tftp-address", long, env = "FETTLE_EXTERNAL_TFTP_ADDRESS", value_name = "ADDRESS")]
    pub tftp_address: Option<String>,
    /// Name of the folder as that TFTP server knows it; "/" where it is its root [default: as over FTP].
    #[arg(id = "external-tftp-path", long, env = "FETTLE_EXTERNAL_TFTP_PATH", value_name = "FOLDER")]
    pub tftp_path: Option<String>,
    /// Put configurations there, too, as they are rendered, with the passwords in them: whoever has the devices' login, or hears
    /// the network, may read them there. Otherwise the bridge serves them.
    #[arg(
        id = "external-configurations",
        long,
        env = "FETTLE_EXTERNAL_CONFIGURATIONS",
        value_name = "BOOL",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub configurations: bool,
}

impl ExternalArgs {
    /// What is to be served from where; `None`: all by the bridge itself.
    ///
    /// # Errors
    /// With what to change, where a flag is missing or says what no device takes.
    pub fn config(&self) -> anyhow::Result<Option<ExternalConfig>> {
        let Some(text) = &self.url else {
            let others = [&self.ftp_address, &self.ftp_path, &self.device_user, &self.tftp_address, &self.tftp_path];
            let files = [&self.password_file, &self.ca_file, &self.device_password_file];
            let none = others.iter().all(|flag| flag.is_none()) && files.iter().all(|flag| flag.is_none());
            let none = none && !self.configurations;
            ensure!(none, "a file server of your own needs --external-ftp-url, by which files are put there");
            return Ok(None);
        };
        let url = reqwest::Url::parse(text).with_context(|| format!("--external-ftp-url: {text:?} is not a URL"))?;
        let secure = match url.scheme() {
            "ftp" => false,
            "ftps" => true,
            other => bail!("--external-ftp-url begins with {other}://: want ftp:// or ftps://"),
        };
        ensure!(
            url.password().is_none(),
            "a password does not belong into --external-ftp-url: use --external-ftp-password-file"
        );
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        ensure!(!host.is_empty(), "--external-ftp-url names no host");
        let user = if url.username().is_empty() { "anonymous" } else { url.username() };
        let login = Login {
            user: decoded(user),
            password: password(self.password_file.as_deref(), "--external-ftp-password-file")?,
        };
        let folder = decoded(url.path().strip_prefix('/').unwrap_or_default());
        let folder = folder.trim_end_matches('/').to_owned();
        let port = url.port().unwrap_or(FTP);
        let tls = secure.then(|| connector(self.ca_file.as_deref()).map(Arc::new)).transpose()?;

        let ftp_address = self.ftp_address.clone().unwrap_or_else(|| format!("{host}:{port}"));
        let ftp_address = address(&ftp_address, FTP).with_context(|| {
            format!(
                "devices are told an IPv4 address, and {ftp_address:?} is none: say one with --external-ftp-address"
            )
        })?;
        let ftp_folder = seen_as(self.ftp_path.as_deref().unwrap_or(&folder), "--external-ftp-path")?;
        let told_login = match &self.device_user {
            None => login.clone(),
            Some(user) => Login {
                user: user.clone(),
                password: password(self.device_password_file.as_deref(), "--external-device-password-file")?,
            },
        };
        ensure!(
            is_plain(&told_login.user) && is_plain(&told_login.password),
            "devices take user names and passwords of at most 32 of a-z, 0-9, . and -: give the server a user that has such \
             ones, and say them with --external-device-user and --external-device-password-file"
        );
        let tftp = match &self.tftp_address {
            None => None,
            Some(text) => Some(Told {
                address: address(text, TFTP)
                    .with_context(|| format!("--external-tftp-address: {text:?} is not an IPv4 address"))?,
                folder: match &self.tftp_path {
                    Some(path) => seen_as(path, "--external-tftp-path")?,
                    None => ftp_folder.clone(),
                },
                login: Login { user: String::new(), password: String::new() },
            }),
        };
        Ok(Some(ExternalConfig {
            server: PutServer { host, port, folder, login, tls },
            ftp: Told { address: ftp_address, folder: ftp_folder, login: told_login },
            tftp,
            configurations: if self.configurations { Configurations::External } else { Configurations::Ours },
        }))
    }
}

/// A folder as devices are told it.
fn seen_as(path: &str, flag: &str) -> anyhow::Result<String> {
    let folder = path.trim_matches('/');
    ensure!(
        is_plain(folder),
        "devices take the name of one folder, of at most 32 of a-z, 0-9, . and -, and {path:?} is none: say how they see it \
         with {flag}"
    );
    Ok(folder.to_owned())
}

fn password(file: Option<&Path>, flag: &str) -> anyhow::Result<String> {
    let Some(file) = file else { return Ok(String::new()) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the password file {} cannot be read ({flag})", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// What a URL writes as `%41`.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => (decoded.push(value), at += 3),
            None => (decoded.push(*byte), at += 1),
        };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn connector(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect)
                .with_context(|| format!("{} has no certificates (--external-ftp-ca-file)", file.display()))?;
            for certificate in certificates {
                roots.add(certificate).with_context(|| format!("a certificate of {} is not valid", file.display()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    ensure!(!roots.is_empty(), "there is nobody to trust for ftps://: say who with --external-ftp-ca-file");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str) -> ExternalArgs {
        ExternalArgs { url: Some(url.to_owned()), ..ExternalArgs::default() }
    }

    fn refusal(args: &ExternalArgs) -> String {
        format!("{:#}", args.config().unwrap_err())
    }

    #[test]
    fn a_url_alone_says_all_that_there_is_to_say() {
        let config = args("ftp://fettle@192.0.2.9/firmware").config().unwrap().unwrap();
        assert_eq!((config.server.host.as_str(), config.server.port), ("192.0.2.9", 21));
        assert_eq!(config.server.folder, "firmware");
        assert_eq!(config.ftp.address, "192.0.2.9:21".parse().unwrap());
        assert_eq!((config.ftp.folder.as_str(), config.ftp.login.user.as_str()), ("firmware", "fettle"));
        assert!(config.tftp.is_none() && config.server.tls.is_none());
        assert_eq!(config.configurations, Configurations::Ours);
        let config = args("ftp://192.0.2.9:2121").config().unwrap().unwrap();
        assert_eq!((config.ftp.address.port(), config.ftp.folder.as_str()), (2121, ""));
        assert_eq!(config.ftp.login.user, "anonymous");
    }

    #[test]
    fn what_devices_see_may_be_something_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ours"), "Secret_1!\n").unwrap();
        std::fs::write(dir.path().join("theirs"), "read-only\n").unwrap();
        let args = ExternalArgs {
            password_file: Some(dir.path().join("ours")),
            ftp_address: Some("198.51.100.7".to_owned()),
            ftp_path: Some("/".to_owned()),
            device_user: Some("devices".to_owned()),
            device_password_file: Some(dir.path().join("theirs")),
            tftp_address: Some("198.51.100.8:6969".to_owned()),
            tftp_path: Some("fw".to_owned()),
            configurations: true,
            ..args("ftp://Fettle@files.example/srv/firmware%20images/")
        };
        let config = args.config().unwrap().unwrap();
        assert_eq!(config.server.folder, "srv/firmware images");
        assert_eq!(config.server.login.password, "Secret_1!");
        assert_eq!((config.ftp.address, config.ftp.folder.as_str()), ("198.51.100.7:21".parse().unwrap(), ""));
        assert_eq!(config.ftp.login, Login { user: "devices".into(), password: "read-only".into() });
        let tftp = config.tftp.unwrap();
        assert_eq!((tftp.address, tftp.folder.as_str()), ("198.51.100.8:6969".parse().unwrap(), "fw"));
        assert_eq!(config.configurations, Configurations::External);
    }

    #[test]
    fn what_devices_would_not_take_is_refused_with_what_to_do() {
        assert!(refusal(&args("ftp://u@files.example/x")).contains("--external-ftp-address"));
        assert!(refusal(&args("http://192.0.2.9/")).contains("want ftp://"));
        assert!(refusal(&args("ftp://u:p@192.0.2.9/")).contains("--external-ftp-password-file"));
        assert!(refusal(&args("ftp://u@192.0.2.9/a/b")).contains("--external-ftp-path"));
        assert!(refusal(&args("ftp://U@192.0.2.9/")).contains("--external-device-user"));
        let tftp = ExternalArgs { tftp_address: Some("files".into()), ..args("ftp://u@192.0.2.9/") };
        assert!(refusal(&tftp).contains("--external-tftp-address"));
        let alone = ExternalArgs { tftp_address: Some("192.0.2.9".into()), ..ExternalArgs::default() };
        assert!(refusal(&alone).contains("--external-ftp-url"));
        let alone = ExternalArgs { configurations: true, ..ExternalArgs::default() };
        assert!(refusal(&alone).contains("--external-ftp-url"));
        assert!(ExternalArgs::default().config().unwrap().is_none());
    }
}
