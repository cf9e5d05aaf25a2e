//! Images from where releases are kept: over https, as one who may, and vouched for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use data_encoding::{BASE64, HEXLOWER};
use fettle_crds::{TryResult, Verdict};
use fettle_device::{DeviceSpec, ImageKey, Vocabulary, image};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, PublicKeyData as _, SanType,
    SigningKey as _,
};
use sha2::{Digest, Sha256};

use crate::foreign::Foreign;
use crate::world::{MODEL, NEW, OLD, World, strict};

const PASSWORD: &str = "c0rrect-h0rse";

/// A server for this folder that asks for the user `fettle`, and the authority that vouches for it.
fn https(folder: &std::path::Path) -> Result<(Foreign, String)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let pem = authority.self_signed(&authority_key)?.pem();
    let mut server = CertificateParams::default();
    server.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let server_key = KeyPair::generate()?;
    let certificate = server.signed_by(&server_key, &Issuer::new(authority, authority_key))?;
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let config = format!(
        "server {{ listen LISTEN ssl; ssl_certificate {}; ssl_certificate_key {}; root {}; auth_basic images;\n\
         auth_basic_user_file {}; }}",
        write("server.crt", certificate.pem())?,
        write("server.key", server_key.serialize_pem())?,
        folder.display(),
        write("passwords", format!("fettle:{{PLAIN}}{PASSWORD}\n"))?,
    );
    Ok((Foreign::nginx(&config), pem))
}

fn secret(name: &str, data: serde_json::Value) -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_a_signed_image_over_https_from_who_wants_a_login_and_an_unsigned_one_is_refused() -> Result<()> {
    let mut world = World::start_with("sources", |builder| builder.env("FETTLE_SIGNATURES", "Required")).await?;
    let folder = world.fettle.files_dir().to_owned();
    let bytes = image::build(MODEL, NEW, 64 * 1024);
    fs::write(folder.join("s5700.bin"), &bytes)?;
    let (server, authority) = https(&folder)?;
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let public_key = pem(&key.subject_public_key_info());
    let login =
        |password: &str| secret("images-login", serde_json::json!({"username": "fettle", "password": password}));
    world.apply(&login("wr0ng")).await?;
    world.apply(&secret("images-ca", serde_json::json!({"ca.crt": authority}))).await?;
    world.apply(&secret("release-key", serde_json::json!({"key": public_key}))).await?;
    let firmware = |name: &str, signature: &str| {
        format!(
            "apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: {name}}}\nspec:\n  version: \"{NEW}\"\n  images:\n  - models: [{MODEL}]\n    source:\n      http: {{url: \"https://{}/s5700.bin?t0k3n\", credentialsSecret: {{name: images-login}}, caSecret: {{name: images-ca}}}}\n    sha256: {}\n{signature}",
            server.address,
            HEXLOWER.encode(&Sha256::digest(&bytes)),
        )
    };
    let signed = |over: &[u8]| -> Result<String> {
        let signature = BASE64.encode(&key.sign(over)?);
        Ok(format!("    signature: {{ed25519: \"{signature}\", publicKeySecret: {{name: release-key}}}}\n"))
    };

    world.apply(&firmware("unsigned", "")).await?;
    world.firmware_is("unsigned", "False", "SignatureMissing").await?;
    // A Secret that is put right is seen without any word about it to the Firmware.
    world.apply(&firmware("access-5.2.1", &signed(&bytes)?)).await?;
    world.firmware_is("access-5.2.1", "False", "Unauthorized").await?;
    world.apply(&login(PASSWORD)).await?;
    world.firmware_is("access-5.2.1", "True", "Verified").await?;
    // That another has brought the same bytes into the cache vouches for nothing.
    world.apply(&firmware("forged", &signed(b"another image")?)).await?;
    world.firmware_is("forged", "False", "SignatureInvalid").await?;

    let device = world.device("sw-1", strict(1)).await?;
    // It checks the signature itself, after the bridge did.
    let checks = |number, key: &str| -> Result<DeviceSpec> {
        let image_key = Some(ImageKey::parse(key)?);
        Ok(DeviceSpec { vocabulary: Vocabulary::Extended, image_key, ..strict(number) })
    };
    let checking = world.device("sw-2", checks(2, &public_key)?).await?;
    world.group(&["firmware: {name: access-5.2.1}", "rollout: {retries: 0, maxUnavailable: 100%}"]).await?;
    world.all_current(2).await?;
    for device in [&device, &checking] {
        assert_eq!(device.version(), NEW, "{}", device.journal());
    }
    // One that has the key of somebody else takes nothing that this one has signed.
    let other = pem(&KeyPair::generate_for(&PKCS_ED25519)?.subject_public_key_info());
    let refusing = world.device("sw-3", checks(3, &other)?).await?;
    let status = world.try_ended("sw-3", 1, TryResult::Failed, Verdict::DownloadFailed).await?;
    let why = status.upgrade.and_then(|upgrade| upgrade.message);
    assert!(why.as_ref().is_some_and(|why| why.contains("the signature of the image is wrong")), "{why:?}");
    assert_eq!(refusing.version(), OLD, "{}", refusing.journal());

    let log = fs::read_to_string(world.fettle.bridge().program().log())?;
    for hidden in [PASSWORD, "wr0ng", "t0k3n"] {
        assert!(!log.contains(hidden), "{hidden} is in the log of the bridge");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_too_small_for_all_releases_keeps_what_a_group_needs() -> Result<()> {
    // Two images of 64 KiB, and not three.
    let mut world = World::start_with("small-cache", |builder| builder.env("FETTLE_CACHE_SIZE", "150KiB")).await?;
    let cached = |version: &str| -> Result<bool> {
        let sha256 = HEXLOWER.encode(&Sha256::digest(image::build(MODEL, version, 64 * 1024)));
        Ok(world.fettle.bridge().data_dir().join("cache").join(sha256).try_exists()?)
    };
    world.firmware(NEW).await?;
    world.firmware_is("access-5.2.1", "True", "Verified").await?;
    world.group(&["firmware: {name: access-5.2.1}"]).await?;
    for version in ["6.0.0", "6.1.0", "6.2.0"] {
        world.firmware(version).await?;
        world.firmware_is(&format!("access-{version}"), "True", "Verified").await?;
        assert!(cached(version)?, "{version} was verified just now");
        assert!(cached(NEW)?, "the group needs {NEW}");
    }
    assert!(!cached("6.1.0")?, "6.2.0 had its place");
    // What has made room comes again when a group needs it.
    world.group(&["firmware: {name: access-6.1.0}"]).await?;
    let device = world.device("sw-1", strict(1)).await?;
    world.all_current(1).await?;
    assert_eq!(device.version(), "6.1.0", "{}", device.journal());
    Ok(())
}

/// As `openssl pkey -pubout` writes it.
fn pem(spki: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(spki))
}
