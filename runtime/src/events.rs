//! Events, with reasons from a closed list, published without ever holding up what they tell of.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::logs::chain;

/// An event is told or it is not; nothing depends on it.
const DEADLINE: Duration = Duration::from_secs(5);
/// The API server refuses longer notes.
const NOTE_MAX: usize = 1000;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// The reasons of one program: an enum, so that the list is closed.
pub trait EventReason: Copy {
    /// As it stands in the event, in `PascalCase`.
    fn reason(self) -> &'static str;
    /// What was being done, in `PascalCase`.
    fn action(self) -> &'static str;
    /// How bad it is.
    fn severity(self) -> Severity;
}

/// Publishes events as one program. Events that are the same but for their text are counted in one object.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// For the program of this name (`fettle-controller`), run as `instance` (the pod).
    pub fn new(client: Client, program: &str, instance: &str) -> Self {
        let reporter = Reporter { controller: program.to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes an event on an object. A failure is logged, and that is all.
    pub async fn publish<R: EventReason>(
        &self,
        on: &ObjectReference,
        related: Option<ObjectReference>,
        reason: R,
        note: &str,
    ) {
        let type_ = match reason.severity() {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        };
        let event = Event {
            type_,
            reason: reason.reason().to_owned(),
            note: Some(note.chars().take(NOTE_MAX).collect()),
            action: reason.action().to_owned(),
            secondary: related,
        };
        match tokio::time::timeout(DEADLINE, self.recorder.publish(&event, on)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(reason = reason.reason(), error = %chain(&error), "event not published");
            }
            Err(_) => tracing::warn!(reason = reason.reason(), error = "deadline", "event not published"),
        }
    }
}
