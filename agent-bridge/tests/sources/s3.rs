//! An S3 server that checks signatures (s3s, over a folder).

use std::net::SocketAddr;

use fettle_bridge::files::store::{S3Keys, S3Source, Source};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::cutter::Cutter;
use crate::s3_server;
use crate::setup::Setup;

/// A server with the image in the bucket `images`, for one who has the keys.
async fn server(setup: &Setup) -> (SocketAddr, AbortOnDropHandle<()>) {
    let root = setup.dir.path().join("s3");
    std::fs::create_dir_all(root.join("images/release 5")).unwrap();
    std::fs::write(root.join("images/release 5/image+1.bin"), &setup.image).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, s3_server::serve(&root, listener))
}

fn source(address: SocketAddr, key: &str, secret: &str) -> S3Source {
    S3Source {
        bucket: "images".into(),
        key: key.into(),
        region: "eu-central-1".into(),
        endpoint: Some(format!("http://{address}/")),
        keys: Some(S3Keys { id: "AKIAFETTLE".into(), secret: secret.into(), token: None }),
        ca: None,
    }
}

#[tokio::test]
async fn an_object_is_fetched_by_who_has_the_keys() {
    let setup = Setup::new();
    let (address, _server) = server(&setup).await;
    let good = source(address, "release 5/image+1.bin", "s3cr3t");
    for (refused, reason) in [
        (source(address, "release 5/image+1.bin", "wr0ng"), "Unauthorized"),
        (S3Source { keys: None, ..good.clone() }, "Unauthorized"),
        (source(address, "release 5/none.bin", "s3cr3t"), "NotFound"),
        (S3Source { bucket: "none".into(), ..good.clone() }, "NotFound"),
        (S3Source { key: "a//b".into(), ..good.clone() }, "InvalidSource"),
        (S3Source { endpoint: Some("nowhere".into()), ..good.clone() }, "InvalidSource"),
    ] {
        assert_eq!(setup.refused(&Source::S3(refused.clone()), &["s3cr3t", "wr0ng"]).await, reason, "{}", refused.key);
    }
    setup.fetches(&Source::S3(good)).await;
}

#[tokio::test]
async fn temporary_keys_come_with_a_token() {
    let setup = Setup::new();
    let (address, _server) = server(&setup).await;
    let mut temporary = source(address, "release 5/image+1.bin", "s3cr3t");
    temporary.keys.as_mut().unwrap().token = Some("t0k3n".into());
    setup.fetches(&Source::S3(temporary)).await;
}

#[tokio::test]
async fn an_object_whose_connection_breaks_is_asked_for_the_rest_with_a_new_signature() {
    let setup = Setup::new();
    let (address, _server) = server(&setup).await;
    let cutter = Cutter::new(address, &[500_000, 700_000]).await;
    setup.fetches(&Source::S3(source(cutter.address, "release 5/image+1.bin", "s3cr3t"))).await;
    assert_eq!(cutter.connections(), 3);
}
