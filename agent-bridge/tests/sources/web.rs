//! nginx: logins, certificates, ranges, redirects, limits.

use std::fmt::Write;

use fettle_bridge::files::store::{Auth, HttpSource, Source};

use crate::cutter::Cutter;
use crate::foreign::Foreign;
use crate::pki::{Authority, Is};
use crate::setup::{MAX_FILE, Setup};

fn basic(password: &str) -> Auth {
    Auth::Basic { user: "fettle".into(), password: password.into() }
}

fn source(url: String, auth: Auth, ca: Option<&str>) -> Source {
    Source::Http(HttpSource { url, auth, ca: ca.map(str::to_owned) })
}

/// A server over https, with what its configuration says besides.
fn https(setup: &Setup, name: &str, is: Is, rest: &str) -> String {
    let (certificate, key) = setup.authority.certificate(setup.dir.path(), name, is);
    let mut server = String::from("server {\n  listen LISTEN ssl;\n");
    writeln!(server, "  ssl_certificate {};\n  ssl_certificate_key {};", certificate.display(), key.display()).unwrap();
    writeln!(server, "  root {};\n{rest}\n}}", setup.www().display()).unwrap();
    server
}

/// Asks for the user `fettle` with the password `pa55`.
fn login(setup: &Setup) -> String {
    let passwords = setup.dir.path().join("passwords");
    std::fs::write(&passwords, "fettle:{PLAIN}pa55\n").unwrap();
    format!("  auth_basic images;\n  auth_basic_user_file {};", passwords.display())
}

#[tokio::test]
async fn who_has_the_password_and_trusts_the_authority_gets_the_file() {
    let setup = Setup::new();
    let nginx = Foreign::nginx(&https(&setup, "good", Is::Good, &login(&setup)));
    let url = format!("https://{}/image.bin?token=t0k3n", nginx.address);
    let (ca, other) = (setup.authority.pem.clone(), Authority::new().pem);
    for (auth, ca, reason) in [
        (basic("wr0ng"), Some(ca.as_str()), "Unauthorized"),
        (Auth::Nobody, Some(&ca), "Unauthorized"),
        (Auth::Bearer("wr0ng".into()), Some(&ca), "Unauthorized"),
        (basic("pa55"), Some(&other), "CertificateInvalid"),
        (basic("pa55"), None, "CertificateInvalid"),
        (basic("pa55"), Some("no certificate"), "InvalidSource"),
    ] {
        let source = source(url.clone(), auth, ca);
        assert_eq!(setup.refused(&source, &["wr0ng", "pa55", "t0k3n"]).await, reason);
    }
    setup.fetches(&source(url, basic("pa55"), Some(&ca))).await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_for_another_name_is_not_taken() {
    let setup = Setup::new();
    for is in [Is::Expired, Is::OfAnotherName] {
        let nginx = Foreign::nginx(&https(&setup, "bad", is, ""));
        let source = source(format!("https://{}/image.bin", nginx.address), Auth::Nobody, Some(&setup.authority.pem));
        assert_eq!(setup.refused(&source, &[]).await, "CertificateInvalid");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_for_the_rest_alone() {
    let setup = Setup::new();
    let nginx = Foreign::nginx(&https(&setup, "good", Is::Good, &login(&setup)));
    let cutter = Cutter::new(nginx.address, &[500_000, 1_000_000]).await;
    setup
        .fetches(&source(format!("https://{}/image.bin", cutter.address), basic("pa55"), Some(&setup.authority.pem)))
        .await;
    assert_eq!(cutter.connections(), 3);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_fetched_is_fetched_as_it_is_now() {
    let setup = Setup::new();
    let served = setup.www().join("image.bin");
    // It begins as another file, of another time.
    std::fs::write(&served, vec![7; 2_000_003]).unwrap();
    let file = std::fs::File::options().write(true).open(&served).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let nginx = Foreign::nginx(&format!("server {{ listen LISTEN; root {}; }}", setup.www().display()));
    let cutter = Cutter::new(nginx.address, &[500_000, 0, 0, 0]).await;
    let source = source(format!("http://{}/image.bin", cutter.address), Auth::Nobody, None);
    assert_eq!(setup.refused(&source, &[]).await, "Unreachable");
    assert!(setup.store.usage().bytes > 400_000, "what came of it waits to be resumed");

    std::fs::write(setup.www().join("new"), &setup.image).unwrap();
    std::fs::rename(setup.www().join("new"), &served).unwrap();
    setup.fetches(&source).await;
    assert_eq!(cutter.connections(), 5, "the server itself begins anew");
    // What happens to the source afterwards is nothing to the cache.
    std::fs::remove_file(&served).unwrap();
    setup.fetches(&source).await;
}

#[tokio::test]
async fn a_login_is_not_taken_along_to_another_host_and_nothing_into_the_open() {
    let setup = Setup::new();
    // Says who came: whoever brings a login is turned away.
    let other = Foreign::nginx(&https(
        &setup,
        "other",
        Is::Good,
        "  if ($http_authorization) { return 418; }\n  location /loop { return 302 https://$http_host/loop; }",
    ));
    let open = Foreign::nginx(&format!("server {{ listen LISTEN; root {}; }}", setup.www().display()));
    let rest = format!(
        "{}\n  location /away {{ return 307 https://{}/image.bin; }}\n  location /open {{ return 302 http://{}/image.bin; }}\n\
         location /loop {{ return 302 /loop; }}",
        login(&setup),
        other.address,
        open.address,
    );
    // A redirect is sent before the login is looked at: only `root` is behind it.
    let nginx = Foreign::nginx(&https(&setup, "good", Is::Good, &rest));
    let at = |path: &str| source(format!("https://{}{path}", nginx.address), basic("pa55"), Some(&setup.authority.pem));
    for path in ["/open", "/loop"] {
        assert_eq!(setup.refused(&at(path), &["pa55"]).await, "RedirectRefused", "{path}");
    }
    setup.fetches(&at("/away")).await;
}

#[tokio::test]
async fn a_file_over_the_limit_is_refused_whether_its_length_is_said_or_not() {
    let setup = Setup::new();
    std::fs::write(setup.www().join("large.bin"), vec![0; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
    // What goes through server-side includes is of no length that anybody knew before.
    let nginx = Foreign::nginx(&format!(
        "server {{ listen LISTEN; root {www}; location /chunked {{ alias {www}/; ssi on; ssi_types *; }} }}",
        www = setup.www().display()
    ));
    for path in ["/large.bin", "/chunked/large.bin"] {
        let source = source(format!("http://{}{path}", nginx.address), Auth::Nobody, None);
        assert_eq!(setup.refused(&source, &[]).await, "TooLarge", "{path}");
    }
    assert_eq!(setup.store.usage().bytes, 0);
}
