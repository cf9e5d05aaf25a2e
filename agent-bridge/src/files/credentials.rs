//! Credentials for file transfers: minted for one device, one content and one command, and checked without any memory of
//! what was minted, so that every replica with the same key can check them.
//!
//! TFTP knows no password, so path and file name together (data 6 and 7) are the whole capability: 64 characters of
//! lower-case base32 over 40 bytes. FTP asks for a user and a password besides (data 8 and 9), which say who speaks; a
//! transfer needs both, of one device. Over HTTP the path is all again: a password would travel in the same head of the
//! same request, seen by whoever sees the path, and a URL that needs nothing else is one that every client can fetch.
//!
//! Pure: no I/O and no clock. Nothing here prints a secret, `Debug` included.

use std::fmt;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use fettle_protocol::proof::LogKey;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Length of path and of file name, each: the most that data 6 and 7 are allowed, and exactly 20 bytes in base32.
pub const PART_LEN: usize = 32;

/// Length of key material that is enough: what an attacker would have to guess is then no shorter than the HMAC.
pub const MIN_KEY_LEN: usize = 32;

/// The tag on a path: 88 bits, what 40 bytes leave after the fields. It can only be guessed online, one packet a guess.
const PATH_TAG_LEN: usize = 11;
const PATH_FIELDS_LEN: usize = TOKEN_LEN - PATH_TAG_LEN;
const TOKEN_LEN: usize = 40;

/// The tag in a password: 20 bytes less expiry and command.
const PASSWORD_LEN: usize = 20;
const PASSWORD_TAG_LEN: usize = 12;
const PASSWORD_FIELDS_LEN: usize = PASSWORD_LEN - PASSWORD_TAG_LEN;

/// What the HMAC is over, so that a tag of one kind never passes for another.
const PATH_DOMAIN: &[u8] = b"fettle path 1\0";
const LOGIN_DOMAIN: &[u8] = b"fettle login 1\0";
const LOG_REQUEST_DOMAIN: &[u8] = b"fettle log request 1\0";

/// Which device a credential is for: the front of the SHA-256 of its `Device`'s uid. Prints as the FTP user name does,
/// and is no secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId([u8; 8]);

impl DeviceId {
    /// Of the uid of a `Device` object: a device that is deleted and declared again is another one.
    pub fn of_uid(uid: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(uid.as_bytes()).into();
        Self(front(&digest))
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = decode(text)?;
        bytes.as_slice().try_into().ok().map(Self)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({self})")
    }
}

/// Which content a credential is for: the first 12 bytes of its SHA-256. Nobody finds two files that share 96 bits by
/// chance, and who could make two on purpose could as well declare either.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentId([u8; 12]);

impl ContentId {
    /// What an upload names: there is no content yet.
    const NONE: Self = Self([0; 12]);

    pub fn of(sha256: &[u8; 32]) -> Self {
        Self(front(sha256))
    }

    pub fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({})", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// What may be done with a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The device fetches a file.
    Download,
    /// The device brings a file.
    Upload,
}

impl Operation {
    const fn code(self) -> u8 {
        match self {
            Self::Download => 1,
            Self::Upload => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Download),
            2 => Some(Self::Upload),
            _ => None,
        }
    }
}

/// What a credential allows: one operation, of one device, on one content, under one command, until it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permission {
    pub operation: Operation,
    pub device: DeviceId,
    pub content: ContentId,
    /// Unique among the commands whose credentials live.
    pub command: u32,
    /// Whole seconds since 1970; the last second in which it holds.
    expires: u32,
}

impl Permission {
    /// To fetch the content with this SHA-256.
    pub fn download(device: DeviceId, sha256: &[u8; 32], command: u32, expires: Timestamp) -> Self {
        let content = ContentId::of(sha256);
        Self { operation: Operation::Download, device, content, command, expires: seconds(expires) }
    }

    /// To bring one file.
    pub fn upload(device: DeviceId, command: u32, expires: Timestamp) -> Self {
        Self { operation: Operation::Upload, device, content: ContentId::NONE, command, expires: seconds(expires) }
    }

    /// When it ends, to the second.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_second(i64::from(self.expires)).unwrap_or(Timestamp::MAX)
    }

    /// How long it still holds; zero once it has expired.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        let end = i64::from(self.expires) + 1;
        Duration::try_from(SignedDuration::from_secs(end) - now.as_duration()).unwrap_or_default()
    }

    fn to_bytes(self) -> [u8; PATH_FIELDS_LEN] {
        let mut bytes = [0; PATH_FIELDS_LEN];
        bytes[0] = self.operation.code();
        bytes[1..5].copy_from_slice(&self.expires.to_be_bytes());
        bytes[5..13].copy_from_slice(&self.device.0);
        bytes[13..25].copy_from_slice(&self.content.0);
        bytes[25..29].copy_from_slice(&self.command.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; PATH_FIELDS_LEN]) -> Option<Self> {
        Some(Self {
            operation: Operation::from_code(bytes[0])?,
            expires: u32::from_be_bytes(front(&bytes[1..])),
            device: DeviceId(front(&bytes[5..])),
            content: ContentId(front(&bytes[13..])),
            command: u32::from_be_bytes(front(&bytes[25..])),
        })
    }
}

/// Who logged in over FTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    pub device: DeviceId,
    /// The command that the password was minted for.
    pub command: u32,
}

/// Data 6–9 of a command. With TFTP and HTTP, `user` and `password` are not sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Minted {
    pub path: String,
    pub file: String,
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a credential does not allow what was asked. A device hears of none of this but "no such file" or "login incorrect".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it does not have the form of a credential")]
    Malformed,
    #[error("it was not minted with this key")]
    Forged,
    #[error("it has expired")]
    Expired,
    #[error("it is for the other operation")]
    WrongOperation,
    #[error("it is another device's")]
    WrongDevice,
}

/// The key is shorter than [`MIN_KEY_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential key has {0} bytes; at least {MIN_KEY_LEN} are needed")]
pub struct KeyTooShort(pub usize);

/// Mints and checks credentials with one key.
#[derive(Clone)]
pub struct Credentials {
    mac: Hmac<Sha256>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    pub fn new(key: &[u8; MIN_KEY_LEN]) -> Self {
        // An HMAC key as long as a block is used as it is; a shorter one is padded with zeros to the same effect.
        let mut block = [0; 64];
        block[..MIN_KEY_LEN].copy_from_slice(key);
        Self { mac: Hmac::new(&block.into()) }
    }

    /// Of the contents of a key file, of which all bytes count.
    pub fn from_key_material(material: &[u8]) -> Result<Self, KeyTooShort> {
        if material.len() < MIN_KEY_LEN {
            return Err(KeyTooShort(material.len()));
        }
        Ok(Self::new(&Sha256::digest(material).into()))
    }

    /// With a key that ends with this process, and so does every credential.
    pub fn random() -> Self {
        Self::new(&rand::random())
    }

    /// The key by which the device with this uid knows who asks for its log over UDP (datum 82): the same for as long as ours is,
    /// of every replica.
    pub fn log_key(&self, uid: &str) -> LogKey {
        LogKey::new(self.tag(LOG_REQUEST_DOMAIN, &[uid.as_bytes()]))
    }

    pub fn mint(&self, permission: &Permission) -> Minted {
        let fields = permission.to_bytes();
        let tag: [u8; PATH_TAG_LEN] = front(&self.tag(PATH_DOMAIN, &[&fields]));
        let mut token = [0; TOKEN_LEN];
        token[..PATH_FIELDS_LEN].copy_from_slice(&fields);
        token[PATH_FIELDS_LEN..].copy_from_slice(&tag);
        let (path, file) = token.split_at(TOKEN_LEN / 2);

        let mut password = [0; PASSWORD_LEN];
        password[..4].copy_from_slice(&permission.expires.to_be_bytes());
        password[4..8].copy_from_slice(&permission.command.to_be_bytes());
        let tag = self.login_tag(permission.device, &password[..PASSWORD_FIELDS_LEN]);
        password[PASSWORD_FIELDS_LEN..].copy_from_slice(&tag);

        Minted {
            path: encode(path),
            file: encode(file),
            user: permission.device.to_string(),
            password: encode(&password),
        }
    }

    /// Of a path as a device asks for it: data 6 and 7 joined with or without a slash, with or without one before them,
    /// with `./` anywhere, in any case.
    pub fn check_path(&self, path: &str, operation: Operation, now: Timestamp) -> Result<Permission, Refusal> {
        let token: [u8; TOKEN_LEN] = joined(path)
            .and_then(|text| decode(&text))
            .and_then(|bytes| bytes.as_slice().try_into().ok())
            .ok_or(Refusal::Malformed)?;
        let fields: [u8; PATH_FIELDS_LEN] = front(&token);
        let tag = self.tag(PATH_DOMAIN, &[&fields]);
        if !bool::from(token[PATH_FIELDS_LEN..].ct_eq(&tag[..PATH_TAG_LEN])) {
            return Err(Refusal::Forged);
        }
        let permission = Permission::from_bytes(&fields).ok_or(Refusal::Malformed)?;
        if now.as_second() > i64::from(permission.expires) {
            return Err(Refusal::Expired);
        }
        if permission.operation != operation {
            return Err(Refusal::WrongOperation);
        }
        Ok(permission)
    }

    pub fn check_login(&self, user: &str, password: &str, now: Timestamp) -> Result<Login, Refusal> {
        let device = DeviceId::parse(user).ok_or(Refusal::Malformed)?;
        let password: [u8; PASSWORD_LEN] =
            decode(password).and_then(|bytes| bytes.as_slice().try_into().ok()).ok_or(Refusal::Malformed)?;
        let (fields, tag) = password.split_at(PASSWORD_FIELDS_LEN);
        if !bool::from(tag.ct_eq(&self.login_tag(device, fields))) {
            return Err(Refusal::Forged);
        }
        if now.as_second() > i64::from(u32::from_be_bytes(front(fields))) {
            return Err(Refusal::Expired);
        }
        Ok(Login { device, command: u32::from_be_bytes(front(&fields[4..])) })
    }

    fn login_tag(&self, device: DeviceId, fields: &[u8]) -> [u8; PASSWORD_TAG_LEN] {
        front(&self.tag(LOGIN_DOMAIN, &[&device.0, fields]))
    }

    fn tag(&self, domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(domain);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The 64 characters of a path, without its slashes and dots. `None` where it is not of that form; nothing longer is built.
fn joined(path: &str) -> Option<String> {
    let mut text = String::with_capacity(2 * PART_LEN);
    for component in path.split('/').filter(|component| !component.is_empty() && *component != ".") {
        if text.len() + component.len() > 2 * PART_LEN {
            return None;
        }
        text.push_str(component);
    }
    (text.len() == 2 * PART_LEN).then_some(text)
}

/// Whether this is one of the two parts of a path, by its form.
pub(super) fn is_part(component: &str) -> bool {
    component.len() == PART_LEN && component.bytes().all(|b| b.is_ascii_alphabetic() || matches!(b, b'2'..=b'7'))
}

fn encode(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()
}

/// The first `N` bytes; all callers have at least as many.
fn front<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut front = [0; N];
    front.copy_from_slice(&bytes[..N]);
    front
}

/// Whole seconds since 1970, rounded up, within what 32 bits hold (until 2106).
fn seconds(time: Timestamp) -> u32 {
    let up = i64::from(time.subsec_nanosecond() > 0);
    u32::try_from(time.as_second().saturating_add(up).max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn download() -> Permission {
        Permission::download(DeviceId::of_uid("0b9f2c1e"), &[0xab; 32], 77, at(1_000))
    }

    #[test]
    fn every_datum_fits_the_alphabet_and_the_length_of_the_protocol() {
        let minted = Credentials::new(&KEY).mint(&download());
        assert_eq!((minted.path.len(), minted.file.len(), minted.password.len()), (32, 32, 32));
        for text in [&minted.path, &minted.file, &minted.user, &minted.password] {
            assert!(!text.is_empty() && text.len() <= 32);
            assert!(text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')), "{text}");
        }
    }

    #[test]
    fn a_path_is_accepted_in_every_form_in_which_a_device_may_join_it() {
        let credentials = Credentials::new(&KEY);
        let minted = credentials.mint(&download());
        let (path, file) = (&minted.path, &minted.file);
        for form in [
            format!("{path}/{file}"),
            format!("/{path}/{file}"),
            format!("{path}{file}"),
            format!("/{path}{file}"),
            format!("./{path}/{file}"),
            format!("{path}/./{file}"),
            format!("/{path}/{file}/./"),
            format!("//{path}//{file}"),
            format!("{path}/{file}").to_uppercase(),
        ] {
            assert_eq!(credentials.check_path(&form, Operation::Download, at(1_000)), Ok(download()), "{form}");
        }
    }

    #[test]
    fn what_is_no_credential_is_refused_by_its_form() {
        let credentials = Credentials::new(&KEY);
        let minted = credentials.mint(&download());
        for form in [
            String::new(),
            "/".into(),
            "etc/passwd".into(),
            minted.path.clone(),
            format!("{}/../{}", minted.path, minted.file),
            format!("{}/{}a", minted.path, minted.file),
            format!("{}/{}", minted.path, "1".repeat(32)),
            "ä".repeat(32),
            "/".repeat(100_000),
        ] {
            assert_eq!(credentials.check_path(&form, Operation::Download, at(0)), Err(Refusal::Malformed), "{form}");
        }
    }

    #[test]
    fn a_credential_holds_through_the_second_in_which_it_expires_and_no_longer() {
        let credentials = Credentials::new(&KEY);
        let minted = credentials.mint(&download());
        let path = format!("{}/{}", minted.path, minted.file);
        assert!(credentials.check_path(&path, Operation::Download, at(1_000)).is_ok());
        assert_eq!(credentials.check_path(&path, Operation::Download, at(1_001)), Err(Refusal::Expired));
        assert!(credentials.check_login(&minted.user, &minted.password, at(1_000)).is_ok());
        assert_eq!(credentials.check_login(&minted.user, &minted.password, at(1_001)), Err(Refusal::Expired));
    }

    #[test]
    fn what_remains_ends_with_the_second_in_which_it_expires() {
        let half = SignedDuration::from_millis(500);
        assert_eq!(download().remaining(at(990) + half), Duration::from_millis(10_500));
        assert_eq!(download().remaining(at(1_001)), Duration::ZERO);
        assert_eq!(download().remaining(at(2_000)), Duration::ZERO);
    }

    #[test]
    fn a_credential_to_fetch_does_not_allow_to_bring_and_the_other_way_round() {
        let credentials = Credentials::new(&KEY);
        let upload = Permission::upload(DeviceId::of_uid("x"), 1, at(1_000));
        for (permission, other) in [(download(), Operation::Upload), (upload, Operation::Download)] {
            let minted = credentials.mint(&permission);
            let path = format!("{}/{}", minted.path, minted.file);
            assert_eq!(credentials.check_path(&path, permission.operation, at(1_000)), Ok(permission));
            assert_eq!(credentials.check_path(&path, other, at(1_000)), Err(Refusal::WrongOperation));
        }
    }

    #[test]
    fn a_replica_with_another_key_believes_nothing() {
        let minted = Credentials::new(&KEY).mint(&download());
        let other = Credentials::new(&[8; 32]);
        let path = format!("{}/{}", minted.path, minted.file);
        assert_eq!(other.check_path(&path, Operation::Download, at(0)), Err(Refusal::Forged));
        assert_eq!(other.check_login(&minted.user, &minted.password, at(0)), Err(Refusal::Forged));
    }

    #[test]
    fn a_password_is_of_one_device() {
        let credentials = Credentials::new(&KEY);
        let minted = credentials.mint(&download());
        let login = credentials.check_login(&minted.user.to_uppercase(), &minted.password, at(1_000)).unwrap();
        assert_eq!(login, Login { device: DeviceId::of_uid("0b9f2c1e"), command: 77 });
        let other = DeviceId::of_uid("another").to_string();
        assert_eq!(credentials.check_login(&other, &minted.password, at(0)), Err(Refusal::Forged));
        assert_eq!(credentials.check_login("anonymous", "guest@", at(0)), Err(Refusal::Malformed));
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials::new(&KEY);
        let minted = credentials.mint(&download());
        let printed = format!("{minted:?} {credentials:?}");
        for secret in [&minted.path, &minted.file, &minted.password] {
            assert!(!printed.contains(secret.as_str()), "{printed}");
        }
    }

    #[test]
    fn a_key_file_that_is_too_short_is_refused_and_all_of_a_longer_one_counts() {
        assert_eq!(Credentials::from_key_material(&[1; 31]).unwrap_err(), KeyTooShort(31));
        let minted = |key: &[u8]| Credentials::from_key_material(key).unwrap().mint(&download());
        assert_ne!(minted(&[1; 33]), minted(&[1; 34]));
    }

    #[test]
    fn an_expiry_within_a_second_rounds_up() {
        let expires = at(1_000) + SignedDuration::from_millis(1);
        assert_eq!(Permission::upload(DeviceId::of_uid("x"), 1, expires).expires(), at(1_001));
    }

    proptest! {
        #[test]
        fn a_changed_character_anywhere_is_refused(index in 0usize..64, replacement in "[a-z2-7]") {
            let credentials = Credentials::new(&KEY);
            let minted = credentials.mint(&download());
            let mut path = format!("{}{}", minted.path, minted.file);
            prop_assume!(path[index..=index] != replacement);
            path.replace_range(index..=index, &replacement);
            prop_assert_eq!(credentials.check_path(&path, Operation::Download, at(0)), Err(Refusal::Forged));
        }

        #[test]
        fn no_text_is_more_than_refused(path in ".{0,100}", user in ".{0,40}", password in ".{0,40}") {
            let credentials = Credentials::new(&KEY);
            prop_assert!(credentials.check_path(&path, Operation::Download, at(0)).is_err());
            prop_assert!(credentials.check_login(&user, &password, at(0)).is_err());
        }
    }
}
