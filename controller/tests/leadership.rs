//! Who leads, and until when, on an API server of a few lines and on paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, Request, Response};
use fettle_controller::lease::{Elector, Leadership};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const DURATION: Duration = Duration::from_secs(15);

/// How the API server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Answers,
    Fails,
    /// Takes every request, and never answers.
    Hangs,
}

/// An API server that knows one Lease.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    lease: Option<Lease>,
    version: u64,
    mood: Mood,
}

impl Server {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { lease: None, version: 0, mood: Mood::Answers })))
    }

    fn is(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    /// A client for which the server behaves so; for others it may behave otherwise.
    fn client(&self, mood: Option<Server>) -> Client {
        let (data, mood) = (self.clone(), mood.unwrap_or_else(|| self.clone()));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (data, mood) = (data.clone(), mood.clone());
            async move {
                let bytes = request.body_bytes().await;
                let mood = mood.0.lock().unwrap().mood;
                let (status, body) = match mood {
                    Mood::Answers => data.answer(&bytes.0, &bytes.1),
                    Mood::Fails => failure(500),
                    Mood::Hangs => std::future::pending().await,
                };
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(body)).unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn elector(&self, name: &str, mood: Option<Server>) -> Elector {
        let api = Api::namespaced(self.client(mood), "default");
        Elector::new(api, "fettle-controller".to_owned(), name, DURATION)
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (u16, Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        if *method == Method::GET {
            return state
                .lease
                .as_ref()
                .map_or_else(|| failure(404), |lease| (200, serde_json::to_vec(lease).unwrap()));
        }
        let mut lease: Lease = serde_json::from_slice(body).unwrap();
        let held = state.lease.as_ref().map(|lease| lease.metadata.resource_version.clone());
        let may_write = match held {
            None => *method == Method::POST,
            Some(version) => *method == Method::PUT && version == lease.metadata.resource_version,
        };
        if !may_write {
            return failure(409);
        }
        state.version += 1;
        lease.metadata.resource_version = Some(state.version.to_string());
        state.lease = Some(lease.clone());
        (200, serde_json::to_vec(&lease).unwrap())
    }

    fn holder(&self) -> Option<String> {
        let state = self.0.lock().unwrap();
        state.lease.as_ref()?.spec.as_ref()?.holder_identity.clone()
    }
}

fn failure(code: u16) -> (u16, Vec<u8>) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code
    });
    (code, status.to_string().into_bytes())
}

trait Parts {
    async fn body_bytes(self) -> (Method, Vec<u8>);
}

impl Parts for Request<Body> {
    async fn body_bytes(self) -> (Method, Vec<u8>) {
        let (parts, body) = self.into_parts();
        (parts.method, body.collect_bytes().await.unwrap().to_vec())
    }
}

async fn lead(elector: &Elector) -> Leadership {
    elector.lead(&CancellationToken::new(), || ()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_told_to_stop_does_not_lead_any_more() {
    let server = Server::new();
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(server.elector("a", None).lead(&stop, || ()).await.is_none());
    assert_eq!(server.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_releases_the_lease_and_the_next_leads_soon() {
    let server = Server::new();
    let (first, second) = (server.elector("first", None), server.elector("second", None));
    let leadership = lead(&first).await;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let keeps = async {
        first.keep(&leadership, &stop).await;
        assert_eq!(leadership.time_to_write(), None);
        first.release().await;
    };
    let stops = async {
        sleep(Duration::from_secs(60)).await;
        assert!(server.holder().unwrap().starts_with("first/"));
        stop.cancel();
    };
    let (_, _, _) = tokio::join!(keeps, stops, lead(&second));
    assert!(began.elapsed() < Duration::from_secs(60) + DURATION / 2, "{:?}", began.elapsed());
    assert!(server.holder().unwrap().starts_with("second/"));
}

/// However the API server fails the leader, its last moment to write is before the first of the next leader.
async fn the_old_leader_ends_before_the_next_begins(mood: Mood) {
    let (server, for_first) = (Server::new(), Server::new());
    let (first, second) = (server.elector("first", Some(for_first.clone())), server.elector("second", None));
    let leadership = lead(&first).await;
    for_first.is(mood);
    let never = CancellationToken::new();
    let ends = async {
        first.keep(&leadership, &never).await;
        assert_eq!(leadership.time_to_write(), None);
        Instant::now()
    };
    let begins = async {
        lead(&second).await;
        Instant::now()
    };
    let (ended, began) = tokio::join!(ends, begins);
    assert!(ended <= began, "the old leader ended {:?} after the next began", ended - began);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_renewals_fail_ends_before_the_next_begins() {
    the_old_leader_ends_before_the_next_begins(Mood::Fails).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_renewals_hang_ends_before_the_next_begins() {
    the_old_leader_ends_before_the_next_begins(Mood::Hangs).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    let server = Server::new();
    let elector = server.elector("a", None);
    let leadership = lead(&elector).await;
    let stop = CancellationToken::new();
    let outage = async {
        server.is(Mood::Fails);
        sleep(Duration::from_secs(8)).await;
        server.is(Mood::Answers);
        sleep(Duration::from_secs(60)).await;
        assert!(leadership.time_to_write().is_some());
        stop.cancel();
    };
    tokio::join!(elector.keep(&leadership, &stop), outage);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_another_holder_ends() {
    let server = Server::new();
    let elector = server.elector("a", None);
    let leadership = lead(&elector).await;
    {
        let mut state = server.0.lock().unwrap();
        let spec = state.lease.as_mut().unwrap().spec.as_mut().unwrap();
        spec.holder_identity = Some("somebody".to_owned());
    }
    elector.keep(&leadership, &CancellationToken::new()).await;
    assert!(leadership.ended.is_cancelled());
    assert_eq!(server.holder().unwrap(), "somebody");
}
