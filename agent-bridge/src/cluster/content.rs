//! Gets the file of a command ready: from the Secret that keeps what it is, into the cache, with a credential for it; or what
//! makes it of the image that the device runs.

mod configuration;
mod difference;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fettle_crds::content::ImageContent;
use fettle_crds::{Crc, Device, Target, WireTransfer};
use fettle_protocol::crc::CrcKind;
use fettle_protocol::datum::{Capabilities, DifferenceKind, Transfer};
use fettle_protocol::message::{Difference, Download, Location};
use fettle_protocol::proof::LogKey;
use fettle_protocol::session::{Command, File, SourceError, Step, Transferred};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use tokio::sync::watch;

use configuration::Templates;

use super::declared::Declared;
use super::images::{FetchError, Images, Wanted};
use super::lease::Held;
use super::request::{backoff, request};
use crate::files::credentials::{Credentials, DeviceId, Minted, Permission};
use crate::files::differences::Differences;
use crate::files::external::{Configurations, External, Fetched, Over, Told};
use crate::files::ledger::Transfers;
use crate::files::logs::LogStore;
use crate::files::store::{Content, Need, Store};

/// Contents that are remembered: as many as a namespace has revisions under way, by far.
const REMEMBERED: usize = 1024;
/// Between two attempts to read a Secret.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A device's word on one connection may overtake what we learn on another.
const ACCOUNTING: Duration = Duration::from_secs(2);

/// Where devices are told to fetch and bring files.
#[derive(Debug, Clone)]
pub struct Advertised {
    /// Datum 5.
    pub address: Ipv4Addr,
    /// Datum 71, for FTP.
    pub ftp_port: u16,
    /// Datum 71, for TFTP.
    pub tftp_port: u16,
    /// Datum 72, as far as the path: without a slash at its end.
    pub http: HttpBase,
}

/// Where the HTTP server is, as devices are told it.
#[derive(Debug, Clone)]
pub struct HttpBase(String);

impl HttpBase {
    /// `name`: instead of the address.
    pub fn new(scheme: Scheme, name: Option<&str>, address: Ipv4Addr, port: u16) -> Self {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match name {
            Some(name) => Self(format!("{scheme}://{name}:{port}")),
            None => Self(format!("{scheme}://{address}:{port}")),
        }
    }

    fn url(&self, minted: &Minted) -> String {
        format!("{}/{}/{}", self.0, minted.path, minted.file)
    }
}

/// Whether the HTTP server speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// Gets files ready. Clones share what they remember.
#[derive(Clone)]
pub struct Contents {
    secrets: Api<Secret>,
    images: Images,
    store: Store,
    credentials: Credentials,
    transfers: Arc<Transfers>,
    logs: Arc<LogStore>,
    advertised: Advertised,
    external: Option<External>,
    differences: Option<(Differences, watch::Receiver<Declared>)>,
    held: Held,
    /// The SHA-256 of what a Secret keeps, where that is the same for every device.
    known: Remembered<[u8; 32]>,
    /// The image that a Secret is about.
    known_images: Remembered<KnownImage>,
    templates: Templates,
}

/// What there is to know of an image besides its bytes.
#[derive(Debug, Clone, Copy)]
struct KnownImage {
    sha256: [u8; 32],
    /// What its devices mean by CRC.
    crc: CrcKind,
    /// Datum 70, where it is signed so.
    signature: Option<[u8; 64]>,
}

/// What was read of Secrets, by their names; each locked while it is read, so that it is read once for all who ask.
type Remembered<T> = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<Option<T>>>>>>;

impl Contents {
    /// Gets files ready from the content Secrets of the namespace of `secrets`, while the Lease is `held`.
    pub fn new(
        secrets: Api<Secret>,
        images: Images,
        credentials: Credentials,
        transfers: Arc<Transfers>,
        logs: Arc<LogStore>,
        advertised: Advertised,
        held: Held,
    ) -> Self {
        let store = images.store().clone();
        let (known, templates) = (Arc::default(), Templates::default());
        Self {
            secrets,
            images,
            store,
            credentials,
            transfers,
            logs,
            advertised,
            external: None,
            differences: None,
            held,
            known,
            known_images: Remembered::default(),
            templates,
        }
    }

    /// Where there is one, devices are served by a file server of the operator's.
    #[must_use]
    pub fn with_external(mut self, external: Option<External>) -> Self {
        self.external = external;
        self
    }

    /// The file of `command` to `device`, which `can` take this by its own last word, with a credential that lives until
    /// `until`. A bridge without its Lease gets none
    /// ready before it has it again: its sessions do not count, and another may be about to command the device.
    ///
    /// # Errors
    /// Where the file is not to be had, with a sentence. While the API server does not answer, it is asked again, until
    /// `until`.
    pub async fn prepare(
        &self,
        device: &Device,
        command: Command,
        can: Capabilities,
        until: Timestamp,
    ) -> Result<(File, Permission), SourceError> {
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        let prepared = async {
            self.held.clone().wait().await;
            // Boxed: thousands of these wait at the beginning of a rollout.
            Box::pin(self.prepare_now(device, command, can, until)).await
        };
        let late = || SourceError("the file was not to be had before the end of the try".to_owned());
        tokio::time::timeout(left, prepared).await.unwrap_or_else(|_| Err(late()))
    }

    async fn prepare_now(
        &self,
        device: &Device,
        command: Command,
        can: Capabilities,
        until: Timestamp,
    ) -> Result<(File, Permission), SourceError> {
        let target = device.status.as_ref().and_then(|status| status.target.as_ref());
        let current = target.filter(|target| target.id == command.target);
        let id = DeviceId::of_uid(device.metadata.uid.as_deref().unwrap_or_default());
        match command.step {
            Step::Log => {
                let permission = Permission::upload(id, command.number, until);
                self.logs
                    .expect_upload(&permission, &device.name_any(), command.target)
                    .map_err(|error| SourceError(error.to_string()))?;
                self.transfers.expect(&permission, None);
                // A person may ask for the log of a device that never had a target.
                let transfer = target.map_or(WireTransfer::Ftp, |target| target.transfer);
                let location = match self.elsewhere(command.step, transfer, can) {
                    Some((external, told, over)) => {
                        let name = external.expect(&permission, over).await.map_err(|error| refused(&error))?;
                        location_elsewhere(told, over, name, can)
                    }
                    None => self.location(&permission, transfer, can),
                };
                let location = Location { log_key: self.log_key(device, can), ..location };
                Ok((File::Upload(location), permission))
            }
            Step::Version | Step::Profile => {
                let target = current.ok_or_else(|| SourceError("the target has gone".to_owned()))?;
                let lacking = || SourceError("the target has no such part".to_owned());
                let (content, crc, signature) = match command.step {
                    Step::Version => {
                        let firmware = target.firmware.as_ref().ok_or_else(lacking)?;
                        self.firmware(&firmware.content, until).await?
                    }
                    Step::Profile | Step::Log => {
                        let config = target.config.as_ref().ok_or_else(lacking)?;
                        (self.config(device, config, until).await?, self.crc_of_config(target, until).await?, None)
                    }
                };
                let difference = match command.step {
                    Step::Version if can.has(Capabilities::DELTA) => {
                        self.difference(device, target, &content, until).await
                    }
                    Step::Version | Step::Profile | Step::Log => None,
                };
                let file = difference.unwrap_or(content);
                let permission = Permission::download(id, &file.sha256, command.number, until);
                if !self.store.pin(&file.sha256, until) {
                    return Err(SourceError("the cache has no room to keep the file for the device".to_owned()));
                }
                let crc = self.store.crc(&file, crc).await.map_err(|error| refused(&error))?;
                self.transfers.expect(&permission, Some(file.size));
                let location = match self.elsewhere(command.step, target.transfer, can) {
                    Some((external, told, over)) => {
                        let name = external.place(&permission, &file).await.map_err(|error| refused(&error))?;
                        location_elsewhere(told, over, name, can)
                    }
                    None => self.location(&permission, target.transfer, can),
                };
                let location = Location { log_key: self.log_key(device, can), ..location };
                let facts = can.has(Capabilities::FILE_FACTS);
                let config = target.config.as_ref().filter(|_| command.step == Step::Profile);
                let download = Download {
                    location,
                    crc,
                    config: config
                        .filter(|_| can.has(Capabilities::CONFIG_VERSION))
                        .map(|config| config.identity.clone()),
                    attempt: can.has(Capabilities::ATTEMPT).then_some(target.attempt),
                    size: facts.then_some(file.size),
                    sha256: facts.then_some(content.sha256),
                    signature: signature.filter(|_| can.has(Capabilities::SIGNATURE)).map(Box::new),
                    difference: difference
                        .map(|_| Box::new(Difference { base: target.from.clone(), kind: DifferenceKind::Zstd })),
                };
                Ok((File::Download(download), permission))
            }
        }
    }

    /// Whether what the permission allows has been done wholly, by our own accounting. What another server has sent, only the
    /// device knows; what it has brought there, whoever fetches it.
    pub async fn check(&self, permission: &Permission) -> Transferred {
        if let Some(external) = &self.external {
            match external.fetched(permission).await {
                Some(Fetched::Stored) => return Transferred::Wholly,
                Some(Fetched::Nothing) => return Transferred::NotWholly,
                Some(Fetched::Failed(why)) => return Transferred::Unfetched(why),
                None => {}
            }
            if external.has(permission) {
                external.release(permission);
                return Transferred::Wholly;
            }
        }
        let complete = self.transfers.wait_complete(permission, ACCOUNTING).await;
        let nothing = || self.transfers.progress(permission).is_some_and(|progress| progress.reached == 0);
        match complete {
            true => Transferred::Wholly,
            false if nothing() => Transferred::Nothing,
            false => Transferred::NotWholly,
        }
    }

    /// The command that the permission was for is over.
    pub fn forget(&self, permission: &Permission) {
        self.transfers.forget(permission);
        if let Some(external) = &self.external {
            external.release(permission);
        }
    }

    /// The device says that it has brought its log, or that it could not.
    pub fn brought(&self, permission: &Permission) {
        if let Some(external) = &self.external {
            external.brought(permission);
        }
    }

    /// The image that the Secret `name` is about, in the cache. Read once for all who ask at the same time.
    async fn firmware(
        &self,
        name: &str,
        until: Timestamp,
    ) -> Result<(Content, CrcKind, Option<[u8; 64]>), SourceError> {
        let known = remembered(&self.known_images, name, REMEMBERED);
        let mut known = known.lock().await;
        if let Some(KnownImage { sha256, crc, signature }) = *known
            && let Some(content) = self.store.get(&sha256).await
        {
            return Ok((content, crc, signature));
        }
        let secret = self.read(name, until).await?;
        let image = ImageContent::from_secret(&secret).map_err(|error| refused(&error))?;
        let content = self.image(&image, until).await.map_err(|error| refused(&error))?;
        let crc = crc_kind(image.crc);
        let signature = image.signature.as_ref().and_then(|signature| raw_signature(signature.ed25519.as_deref()?));
        *known = Some(KnownImage { sha256: content.sha256, crc, signature });
        Ok((content, crc, signature))
    }

    /// What the device means by the CRC of a configuration: what the target says of it, else what the image of the target
    /// says, for a device has one routine for both.
    async fn crc_of_config(&self, target: &Target, until: Timestamp) -> Result<CrcKind, SourceError> {
        let of_config = target.config.as_ref().and_then(|config| config.crc);
        let name = match (of_config, &target.firmware) {
            (Some(crc), _) => return Ok(crc_kind(crc)),
            (None, None) => return Ok(CrcKind::Ieee),
            (None, Some(firmware)) => &firmware.content,
        };
        // An image that is being fetched is not waited for.
        let known = remembered(&self.known_images, name, REMEMBERED);
        if let Some(KnownImage { crc, .. }) = known.try_lock().ok().and_then(|known| *known) {
            return Ok(crc);
        }
        let image = ImageContent::from_secret(&self.read(name, until).await?).map_err(|error| refused(&error))?;
        Ok(crc_kind(image.crc))
    }

    /// The image, fetched and vouched for. An API server that does not answer is asked again, as for any Secret.
    async fn image(&self, image: &ImageContent, until: Timestamp) -> Result<Content, FetchError> {
        let ImageContent { version: _, reports: _, source, sha256, signature, crc: _ } = image;
        let wanted = Wanted { source, sha256, signature: signature.as_ref() };
        let mut failures = 0;
        loop {
            let error = match self.images.fetch(wanted, Need::Device).await {
                Err(error) if error.is_outage() && Timestamp::now() < until => error,
                fetched => return fetched,
            };
            failures += 1;
            let error = fettle_runtime::chain(&error).to_string();
            tracing::warn!(error, failures, "what a source needs is not read; trying again");
            tokio::time::sleep(backoff(FIRST_PAUSE, LAST_PAUSE, failures)).await;
        }
    }

    /// The Secret, asked for until it answers or the time of the try is over.
    async fn read(&self, name: &str, until: Timestamp) -> Result<Secret, SourceError> {
        for failures in 1.. {
            let error = match request(self.secrets.get_opt(name)).await {
                Ok(Some(secret)) => return Ok(secret),
                Ok(None) => break,
                Err(error) => error,
            };
            if Timestamp::now() >= until {
                return Err(refused(&error));
            }
            let error = fettle_runtime::chain(&error).to_string();
            tracing::warn!(secret = name, error, failures, "content not read; trying again");
            tokio::time::sleep(backoff(FIRST_PAUSE, LAST_PAUSE, failures)).await;
        }
        Err(SourceError(format!("Secret {name} does not exist: somebody deleted it")))
    }

    /// What a device that takes it knows us by where it has no connection.
    fn log_key(&self, device: &Device, can: Capabilities) -> Option<LogKey> {
        let uid = device.metadata.uid.as_deref()?;
        can.has(Capabilities::LOG_REQUEST_AUTH).then(|| self.credentials.log_key(uid))
    }

    /// The operator's server, where it serves that and what goes this way. HTTP is always ours.
    fn elsewhere(&self, step: Step, transfer: WireTransfer, can: Capabilities) -> Option<(&External, &Told, Over)> {
        let over = match transfer {
            WireTransfer::Http if can.has(Capabilities::HTTP) => return None,
            WireTransfer::Http | WireTransfer::Ftp => Over::Ftp,
            WireTransfer::Tftp => Over::Tftp,
        };
        let external = self.external.as_ref()?;
        match (step, external.configurations()) {
            (Step::Profile, Configurations::Ours) => return None,
            (Step::Profile, Configurations::External) | (Step::Version | Step::Log, _) => {}
        }
        Some((external, external.told(over)?, over))
    }

    fn location(&self, permission: &Permission, transfer: WireTransfer, can: Capabilities) -> Location {
        let minted = self.credentials.mint(permission);
        let with_port = can.has(Capabilities::SERVER_PORT);
        let server = self.advertised.address.octets();
        match transfer {
            // One that restarted into a release without HTTP is told the rest over FTP.
            WireTransfer::Http if can.has(Capabilities::HTTP) => Location {
                transfer: Transfer::Http,
                server,
                url: Some(self.advertised.http.url(&minted)),
                path: minted.path,
                file: minted.file,
                user: String::new(),
                password: String::new(),
                port: None,
                log_key: None,
            },
            WireTransfer::Http | WireTransfer::Ftp => Location {
                transfer: Transfer::Ftp,
                server,
                path: minted.path,
                file: minted.file,
                user: minted.user,
                password: minted.password,
                port: with_port.then_some(self.advertised.ftp_port),
                url: None,
                log_key: None,
            },
            WireTransfer::Tftp => Location {
                transfer: Transfer::Tftp,
                server,
                path: minted.path,
                file: minted.file,
                user: String::new(),
                password: String::new(),
                port: with_port.then_some(self.advertised.tftp_port),
                url: None,
                log_key: None,
            },
        }
    }
}

/// The place of what the Secret `name` holds. Where too many are remembered, all are read anew as they are wanted.
fn remembered<T>(all: &Remembered<T>, name: &str, most: usize) -> Arc<tokio::sync::Mutex<Option<T>>> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= most && !all.contains_key(name) {
        all.clear();
    }
    all.entry(name.to_owned()).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(None))).clone()
}

/// Where a file lies on a server that is not ours.
fn location_elsewhere(told: &Told, over: Over, name: String, can: Capabilities) -> Location {
    Location {
        transfer: match over {
            Over::Ftp => Transfer::Ftp,
            Over::Tftp => Transfer::Tftp,
        },
        server: told.address.ip().octets(),
        path: told.folder.clone(),
        file: name,
        user: told.login.user.clone(),
        password: told.login.password.clone(),
        port: can.has(Capabilities::SERVER_PORT).then_some(told.address.port()),
        url: None,
        log_key: None,
    }
}

/// A kind of CRC, as the protocol computes it.
const fn crc_kind(crc: Crc) -> CrcKind {
    match crc {
        Crc::Ieee => CrcKind::Ieee,
        Crc::Bzip2 => CrcKind::Bzip2,
        Crc::Mpeg2 => CrcKind::Mpeg2,
        Crc::Cksum => CrcKind::Cksum,
        Crc::Posix => CrcKind::Posix,
        Crc::Castagnoli => CrcKind::Castagnoli,
        Crc::Jamcrc => CrcKind::Jamcrc,
        Crc::Xfer => CrcKind::Xfer,
        Crc::Autosar => CrcKind::Autosar,
    }
}

/// The bytes of an Ed25519 signature, from base64.
fn raw_signature(text: &str) -> Option<[u8; 64]> {
    data_encoding::BASE64.decode(text.trim().as_bytes()).ok()?.try_into().ok()
}

/// A SHA-256 from its hexadecimal form.
pub(super) fn digest(hex: &str) -> Result<[u8; 32], SourceError> {
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| SourceError(format!("{hex:?} is not a SHA-256")))
}

fn refused(error: &(dyn std::error::Error + 'static)) -> SourceError {
    SourceError(fettle_runtime::chain(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_sent_as_its_bytes() {
        let text = data_encoding::BASE64.encode(&[7; 64]);
        assert_eq!(raw_signature(&format!("{text}\n")), Some([7; 64]));
        assert_eq!(raw_signature(&data_encoding::BASE64.encode(&[7; 63])), None);
    }

    #[test]
    fn a_url_fits_into_its_datum_whatever_the_host_and_says_what_data_6_and_7_do() {
        let permission = Permission::upload(DeviceId::of_uid("uid"), 1, Timestamp::UNIX_EPOCH);
        let minted = Credentials::random().mint(&permission);
        let address = [192, 0, 2, 1].into();
        let url = HttpBase::new(Scheme::Http, None, address, 8080).url(&minted);
        assert_eq!(url, format!("http://192.0.2.1:8080/{}/{}", minted.path, minted.file));
        let longest =
            HttpBase::new(Scheme::Https, Some(&"a".repeat(crate::args::MAX_HOST)), address, 65535).url(&minted);
        assert!(longest.len() <= fettle_protocol::frame::MAX_VALUE_LEN, "{} bytes", longest.len());
    }
}
