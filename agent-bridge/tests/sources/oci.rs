//! Debian's docker-registry, and artifacts that an OCI client of other people's has put there.

use std::collections::BTreeMap;
use std::fmt::Write;

use fettle_bridge::files::store::{Auth, OciSource, Source};
use oci_client::client::{CertificateEncoding, ClientConfig, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest, Sha256};

use crate::cutter::Cutter;
use crate::foreign::Foreign;
use crate::pki::Is;
use crate::setup::{MAX_FILE, Setup};

const TITLE: &str = "org.opencontainers.image.title";

fn login(password: &str) -> Auth {
    Auth::Basic { user: "fettle".into(), password: password.into() }
}

fn registry(setup: &Setup) -> Foreign {
    let (certificate, key) = setup.authority.certificate(setup.dir.path(), "registry", Is::Good);
    Foreign::docker_registry(&certificate, &key)
}

/// Puts an artifact of these files into the registry; returns its digest.
async fn push(setup: &Setup, registry: &str, tag: &str, files: &[(&str, &[u8])]) -> String {
    let ca = oci_client::client::Certificate {
        encoding: CertificateEncoding::Pem,
        data: setup.authority.pem.clone().into_bytes(),
    };
    let client = Client::try_from(ClientConfig { tls_certs_only: vec![ca], ..ClientConfig::default() }).unwrap();
    let layer = |(title, bytes): &(&str, &[u8])| {
        let title = BTreeMap::from([(TITLE.to_owned(), (*title).to_owned())]);
        ImageLayer::new(bytes.to_vec(), "application/octet-stream".to_owned(), Some(title))
    };
    let layers: Vec<_> = files.iter().map(layer).collect();
    let config = Config::new(&b"{}"[..], "application/vnd.oci.empty.v1+json".to_owned(), None);
    let manifest = OciImageManifest::build(&layers, &config, None);
    let reference = Reference::with_tag(registry.to_owned(), "firmware/s5700".to_owned(), tag.to_owned());
    let auth = RegistryAuth::Basic("fettle".to_owned(), "pa55".to_owned());
    client.push(&reference, &layers, config, &auth, Some(manifest)).await.unwrap();
    client.fetch_manifest_digest(&reference, &auth).await.unwrap()
}

fn source(setup: &Setup, registry: &str, digest: &str) -> OciSource {
    OciSource {
        registry: registry.to_owned(),
        repository: "firmware/s5700".into(),
        digest: digest.to_owned(),
        file: None,
        auth: login("pa55"),
        ca: Some(setup.authority.pem.clone()),
        insecure: false,
    }
}

#[tokio::test]
async fn the_file_of_an_artifact_is_fetched_by_who_may() {
    fettle_runtime::install_crypto();
    let setup = Setup::new();
    let server = registry(&setup);
    let registry = server.address.to_string();
    let one = push(&setup, &registry, "one", &[("s5700.bin", &setup.image)]).await;
    let two = push(&setup, &registry, "two", &[("README", b"read me"), ("s5700.bin", &setup.image)]).await;
    let good = source(&setup, &registry, &one);
    let none = format!("sha256:{}", "0".repeat(64));
    for (refused, reason) in [
        (OciSource { auth: login("wr0ng"), ..good.clone() }, "Unauthorized"),
        (OciSource { auth: Auth::Nobody, ..good.clone() }, "Unauthorized"),
        (OciSource { ca: None, ..good.clone() }, "CertificateInvalid"),
        (OciSource { digest: none, ..good.clone() }, "NotFound"),
        (OciSource { repository: "firmware/none".into(), ..good.clone() }, "NotFound"),
        (OciSource { digest: two.clone(), ..good.clone() }, "InvalidArtifact"),
        (OciSource { file: Some("none".into()), digest: two.clone(), ..good.clone() }, "InvalidArtifact"),
        (OciSource { file: Some("README".into()), digest: two.clone(), ..good.clone() }, "HashMismatch"),
        (OciSource { insecure: true, ..good.clone() }, "InvalidSource"),
    ] {
        assert_eq!(setup.refused(&Source::Oci(refused), &["pa55", "wr0ng"]).await, reason);
    }
    setup.fetches(&Source::Oci(OciSource { file: Some("s5700.bin".into()), digest: two, ..good.clone() })).await;
    setup.fetches(&Source::Oci(good)).await;
}

#[tokio::test]
async fn a_layer_whose_connection_breaks_is_asked_for_the_rest() {
    fettle_runtime::install_crypto();
    let setup = Setup::new();
    let server = registry(&setup);
    let digest = push(&setup, &server.address.to_string(), "one", &[("s5700.bin", &setup.image)]).await;
    // Asked to log in, the manifest, and the file in three pieces.
    let all = usize::MAX;
    let cutter = Cutter::new(server.address, &[all, all, 500_000, 700_000]).await;
    setup.fetches(&Source::Oci(source(&setup, &cutter.address.to_string(), &digest))).await;
    assert_eq!(cutter.connections(), 5);
}

/// nginx as a registry that has its logins elsewhere, as most public ones have, and that redirects to a store of files.
#[tokio::test]
async fn a_registry_may_send_to_another_place_for_a_token_and_to_another_for_the_file() {
    let setup = Setup::new();
    let digest = data_encoding::HEXLOWER.encode(&setup.sha256());
    let manifest = format!(
        r#"{{"schemaVersion": 2, "layers": [{{"mediaType": "a/b", "digest": "sha256:{digest}", "size": {}}}]}}"#,
        setup.image.len()
    );
    let name = format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(&manifest)));
    let folder = setup.www().join("v2/firmware/s5700/manifests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(&name), manifest).unwrap();
    let large = format!("sha256:{}", "1".repeat(64));
    std::fs::write(folder.join(&large), vec![b' '; 5 << 20]).unwrap();

    let (certificate, key) = setup.authority.certificate(setup.dir.path(), "nginx", Is::Good);
    let passwords = setup.dir.path().join("passwords");
    std::fs::write(&passwords, "fettle:{PLAIN}pa55\n").unwrap();
    let mut server = format!(
        "server {{\n  listen LISTEN ssl;\n  ssl_certificate {};\n  ssl_certificate_key {};\n  root {};\n",
        certificate.display(),
        key.display(),
        setup.www().display()
    );
    let store = Foreign::nginx(&format!("{server}  if ($http_authorization) {{ return 418; }}\n}}"));
    writeln!(
        server,
        "  location = /token {{ auth_basic token; auth_basic_user_file {}; try_files /token.json =404; }}\n\
         \x20 location /v2/ {{\n\
         \x20   if ($http_authorization != 'Bearer t0k3n') {{\n\
         \x20     add_header WWW-Authenticate 'Bearer realm=\"https://LISTEN/token\",service=\"registry\"' always;\n\
         \x20     return 401;\n\
         \x20   }}\n\
         \x20   location ~ /blobs/ {{ return 307 https://{}/image.bin; }}\n\
         \x20 }}\n}}",
        passwords.display(),
        store.address,
    )
    .unwrap();
    std::fs::write(setup.www().join("token.json"), r#"{"token": "t0k3n", "expires_in": 300}"#).unwrap();
    let registry = Foreign::nginx(&server);
    let good = source(&setup, &registry.address.to_string(), &name);
    for (refused, reason) in [
        (OciSource { auth: login("wr0ng"), ..good.clone() }, "Unauthorized"),
        (OciSource { auth: Auth::Nobody, ..good.clone() }, "Unauthorized"),
        (OciSource { digest: large, ..good.clone() }, "InvalidArtifact"),
    ] {
        assert_eq!(setup.refused(&Source::Oci(refused), &["pa55", "wr0ng", "t0k3n"]).await, reason);
    }
    setup.fetches(&Source::Oci(good)).await;
}

#[tokio::test]
async fn a_manifest_that_is_not_the_one_declared_or_names_a_file_over_the_limit_is_refused() {
    let setup = Setup::new();
    let folder = setup.www().join("v2/firmware/s5700/manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let put = |manifest: &str| {
        let digest = format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(manifest)));
        std::fs::write(folder.join(&digest), manifest).unwrap();
        digest
    };
    let nginx = Foreign::nginx(&format!("server {{ listen LISTEN; root {}; }}", setup.www().display()));
    let image = data_encoding::HEXLOWER.encode(&setup.sha256());
    let large = put(&format!(r#"{{"layers": [{{"digest": "sha256:{image}", "size": {}}}]}}"#, MAX_FILE + 1));
    let index = put(r#"{"manifests": [{"digest": "sha256:00", "size": 1}]}"#);
    let other = put(r#"{"layers": [{"digest": "sha512:00", "size": 1}]}"#);
    let forged = format!("sha256:{}", "2".repeat(64));
    std::fs::write(folder.join(&forged), r#"{"layers": []}"#).unwrap();
    let no_json = put("no JSON");
    for (digest, reason) in [
        (large, "TooLarge"),
        (index, "InvalidArtifact"),
        (other, "InvalidArtifact"),
        (forged, "InvalidArtifact"),
        (no_json, "InvalidArtifact"),
    ] {
        let plain = OciSource {
            insecure: true,
            auth: Auth::Nobody,
            ca: None,
            ..source(&setup, &nginx.address.to_string(), &digest)
        };
        assert_eq!(setup.refused(&Source::Oci(plain), &[]).await, reason);
    }
}
