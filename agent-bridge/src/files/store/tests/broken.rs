//! Web servers that break off, change their minds and lie.

use super::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\nETag: \"one\"\r\n";

/// Gives each connection the next answer, and closes it; the last answer again and again. Remembers what it was asked.
struct Script {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

impl Script {
    async fn new(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/image", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: Vec<_> = answers.iter().map(|answer| answer.replace('\n', "\r\n")).collect();
        let note = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            for turn in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                note.lock().unwrap().push(String::from_utf8(request).unwrap().to_lowercase());
                let answer = answers.get(turn).or(answers.last()).unwrap();
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { url, asked, _server: AbortOnDropHandle::new(server) }
    }

    /// From where on each connection was asked for the file, and in which state.
    fn ranges(&self) -> Vec<Option<(String, String)>> {
        let asked = self.asked.lock().unwrap();
        let header = |request: &str, name: &str| {
            request.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().to_owned()))
        };
        asked.iter().map(|request| Some((header(request, "range:")?, header(request, "if-range:")?))).collect()
    }
}

fn from(offset: u64) -> Option<(String, String)> {
    Some((format!("bytes={offset}-"), "\"one\"".to_owned()))
}

async fn fetch(setup: &Setup, script: &Script) -> Result<u64, &'static str> {
    let fetched = setup.store.fetch(&web(&script.url), sha256(b"0123456789"), Need::Device).await;
    fetched.map(|content| content.size).map_err(|error| error.reason())
}

#[tokio::test]
async fn a_fetch_that_breaks_off_goes_on_where_it_was() {
    let script = Script::new(&[
        "HTTP/1.1 200 OK\nETag: \"one\"\nContent-Length: 10\n\n0123",
        "HTTP/1.1 206 Partial Content\nETag: \"one\"\nContent-Range: bytes 4-9/10\nContent-Length: 6\n\n456",
        "HTTP/1.1 206 Partial Content\nETag: \"one\"\nContent-Range: bytes 7-9/10\nContent-Length: 3\n\n789",
    ])
    .await;
    let setup = Setup::new().quick();
    assert_eq!(fetch(&setup, &script).await, Ok(10));
    assert_eq!(script.ranges(), [None, from(4), from(7)]);
    assert_eq!(setup.read(&sha256(b"0123456789")).await.unwrap(), b"0123456789");
}

#[tokio::test]
async fn a_file_that_has_changed_meanwhile_is_fetched_from_the_beginning() {
    let old = "HTTP/1.1 200 OK\nETag: \"one\"\nContent-Length: 10\n\nabcd";
    for anew in [
        // The server sees that it is another one; knows no ranges; has less than there was; sends another range.
        "HTTP/1.1 200 OK\nETag: \"two\"\nContent-Length: 10\n\n0123456789",
        "HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789",
    ] {
        let script = Script::new(&[old, anew]).await;
        assert_eq!(fetch(&Setup::new().quick(), &script).await, Ok(10), "{anew}");
        assert_eq!(script.ranges(), [None, from(4)]);
    }
    for useless in [
        "HTTP/1.1 416 Range Not Satisfiable\nContent-Length: 0\n\n",
        "HTTP/1.1 206 Partial Content\nContent-Range: bytes 2-9/10\nContent-Length: 8\n\n23456789",
        "HTTP/1.1 206 Partial Content\nContent-Length: 6\n\n456789",
    ] {
        let whole = "HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789";
        let script = Script::new(&[old, useless, whole]).await;
        assert_eq!(fetch(&Setup::new().quick(), &script).await, Ok(10), "{useless}");
        assert_eq!(script.ranges(), [None, from(4), None]);
    }
}

#[tokio::test]
async fn pieces_that_do_not_fit_together_are_fetched_anew_once() {
    let old = "HTTP/1.1 200 OK\nETag: \"one\"\nContent-Length: 10\n\nabcd";
    // It has changed, and the server does not say so.
    let rest = "HTTP/1.1 206 Partial Content\nContent-Range: bytes 4-9/10\nContent-Length: 6\n\n456789";
    let script = Script::new(&[old, rest, "HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"]).await;
    assert_eq!(fetch(&Setup::new().quick(), &script).await, Ok(10));
    assert_eq!(script.ranges(), [None, from(4), None]);

    let wrong = Script::new(&[old, rest, "HTTP/1.1 200 OK\nContent-Length: 10\n\nabcdefghij"]).await;
    let setup = Setup::new().quick();
    assert_eq!(fetch(&setup, &wrong).await, Err("HashMismatch"));
    assert_eq!(wrong.ranges().len(), 3);
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 0 });
}

#[tokio::test]
async fn what_came_before_the_source_was_given_up_is_there_for_the_next_fetch() {
    let silent = "";
    let rest = "HTTP/1.1 206 Partial Content\nContent-Range: bytes 4-9/10\nContent-Length: 6\n\n456789";
    let first = "HTTP/1.1 200 OK\nETag: \"one\"\nContent-Length: 10\n\n0123";
    let script = Script::new(&[first, silent, silent, silent, rest]).await;
    let setup = Setup::new().quick();
    assert_eq!(fetch(&setup, &script).await, Err("Unreachable"));
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 4 }, "it counts as used");
    let registry = Registry::new();
    setup.store.register(&registry).unwrap();
    let shown = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    for line in [
        "fettle_bridge_fetches_total{result=\"Unreachable\",source=\"http\"} 1",
        "fettle_bridge_fetches_resumed_total 3",
        "fettle_bridge_cache_bytes 4",
        "fettle_bridge_cache_limit_bytes 1048576",
        "fettle_bridge_cache_contents 0",
    ] {
        assert!(shown.contains(line), "{line} in:\n{shown}");
    }
    assert_eq!(fetch(&setup, &script).await, Ok(10));
    assert_eq!(script.ranges(), [None, from(4), from(4), from(4), from(4)]);
    assert_eq!(setup.cached().len(), 1);
}

#[tokio::test]
async fn what_is_kept_to_be_resumed_is_the_first_to_go_and_never_more_than_a_few() {
    let setup = Setup::new().patient(QUICK, 100);
    for _ in 0..10 {
        let script = Script::new(&["HTTP/1.1 200 OK\nETag: \"one\"\nContent-Length: 100\n\n0123456789", ""]).await;
        let fetched = setup.store.fetch(&web(&script.url), sha256(script.url.as_bytes()), Need::Device).await;
        assert_eq!(fetched.unwrap_err().reason(), "Unreachable");
    }
    assert_eq!(setup.store.usage(), Usage { contents: 0, bytes: 40 });
    let kept = setup.store.put(vec![1; 50]).await.unwrap();
    let content = setup.store.put(vec![2; 50]).await.unwrap();
    assert!(setup.store.get(&kept.sha256).await.is_some(), "whole content stays");
    assert!(setup.store.get(&content.sha256).await.is_some());
    assert_eq!(setup.cached().len(), 2);
}

#[tokio::test]
async fn a_server_that_lies_about_the_length_or_names_no_state_is_not_asked_for_ever() {
    let short = format!("{HEAD}Content-Length: 10\r\n\r\n0123").replace("\r\n", "\n");
    let nameless = "HTTP/1.1 200 OK\nContent-Length: 10\n\n0123".to_owned();
    for answer in [short, nameless] {
        let script = Script::new(&[&answer]).await;
        let setup = Setup::new().quick();
        assert_eq!(fetch(&setup, &script).await, Err("Unreachable"));
        assert_eq!(script.ranges().len(), 4, "once, and three times without any more than that");
    }
    // What comes after the announced end is not even looked at.
    let more = Script::new(&["HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789and more"]).await;
    assert_eq!(fetch(&Setup::new().quick(), &more).await, Ok(10));
}

#[tokio::test]
async fn credentials_do_not_travel_in_the_open() {
    let script = Script::new(&["HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"]).await;
    let setup = Setup::new();
    for (url, auth) in [
        (script.url.clone(), Auth::Bearer("t0k3n".into())),
        (script.url.clone(), Auth::Basic { user: "u5er".into(), password: "pa55".into() }),
        (script.url.replace("://", "://u5er:pa55@"), Auth::Nobody),
    ] {
        let source = Source::Http(HttpSource { url, auth, ca: None });
        let error = setup.store.fetch(&source, sha256(b"0123456789"), Need::Device).await.unwrap_err();
        assert_eq!(error.reason(), "InvalidSource");
        for secret in ["u5er", "pa55", "t0k3n"] {
            assert!(!format!("{error} {error:?} {source} {source:?}").contains(secret));
        }
    }
    assert!(script.ranges().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn keys_that_have_expired_are_told_from_a_server_that_cannot_and_a_strange_code_is_not_repeated() {
    let answer = |status: &str, code: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>AKIAFETTLE t0k3n</Message></Error>");
        format!("HTTP/1.1 {status}\nContent-Length: {}\n\n{body}", body.len())
    };
    for (status, code, reason, said) in [
        ("400 Bad Request", "ExpiredToken", "Unauthorized", "(it answered 400, ExpiredToken)"),
        ("403 Forbidden", "RequestTimeTooSkewed", "Unauthorized", "(it answered 403, RequestTimeTooSkewed)"),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            "Unreachable",
            "400 Bad Request, AuthorizationHeaderMalformed",
        ),
        ("404 Not Found", "NoSuchBucket", "NotFound", "404 Not Found, NoSuchBucket"),
        ("503 Busy", "<b>t0k3n</b>", "Unreachable", "the server answered 503 Service Unavailable"),
        ("403 Forbidden", &"x".repeat(10_000), "Unauthorized", "(it answered 403)"),
    ] {
        let script = Script::new(&[&answer(status, code)]).await;
        let source = Source::S3(S3Source {
            bucket: "images".into(),
            key: "image".into(),
            region: "eu-central-1".into(),
            endpoint: Some(script.url.clone()),
            keys: Some(S3Keys { id: "AKIAFETTLE".into(), secret: "s3cr3t".into(), token: Some("t0k3n".into()) }),
            ca: None,
        });
        let error = Setup::new().store.fetch(&source, sha256(b"0123456789"), Need::Device).await.unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(error.to_string().contains(said), "{error}");
        for secret in ["AKIAFETTLE", "s3cr3t", "t0k3n"] {
            assert!(!format!("{error} {error:?} {source:?}").contains(secret), "{error:?}");
        }
    }
}
