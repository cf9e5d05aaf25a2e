//! `-w`: what there is, as it changes. A watch keeps the objects; a terminal shows a frame, and only the lines that changed
//! are written again.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::pin::Pin;
use std::time::Duration;

use fettle_crds::{ConfigProfile, Device, DeviceGroup, DeviceRollout, Firmware};
use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt as _};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::objects::Objects;
use crate::output;
use crate::paint::{Line, Look, Tone};

/// A frame at most this often: fast enough to look alive, slow enough to cost nothing.
const FRAME: Duration = Duration::from_millis(250);
/// What configurations refer to is read anew this often; and the Leases of bridges, which hold for longer.
const REST: Duration = Duration::from_secs(5);

/// The objects of one kind, as a watch tells of them.
struct Kept<K> {
    /// A listing that is under way.
    listing: Option<BTreeMap<String, K>>,
}

impl<K: Resource> Kept<K> {
    const fn new() -> Self {
        Self { listing: None }
    }

    fn take(&mut self, held: &mut BTreeMap<String, K>, event: Event<DeserializeGuard<K>>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(DeserializeGuard(Ok(object))) => {
                self.listing.get_or_insert_default().insert(object.name_any(), object);
            }
            Event::InitDone => {
                if let Some(listing) = self.listing.take() {
                    *held = listing;
                }
            }
            Event::Apply(DeserializeGuard(Ok(object))) => drop(held.insert(object.name_any(), object)),
            Event::Delete(DeserializeGuard(Ok(object))) => drop(held.remove(&object.name_any())),
            // What cannot be read is left as it was.
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => {}
        }
    }
}

/// An event of one of the watches.
#[allow(clippy::large_enum_variant, reason = "none lives long")]
enum Seen {
    Device(Event<DeserializeGuard<Device>>),
    Group(Event<DeserializeGuard<DeviceGroup>>),
    Rollout(Event<DeserializeGuard<DeviceRollout>>),
    Firmware(Event<DeserializeGuard<Firmware>>),
    Profile(Event<DeserializeGuard<ConfigProfile>>),
    /// The watch begins anew by itself.
    Broken,
}

type Watches = SelectAll<Pin<Box<dyn Stream<Item = Seen>>>>;

fn watch<K>(cluster: &Cluster, wrap: fn(Event<DeserializeGuard<K>>) -> Seen) -> Pin<Box<dyn Stream<Item = Seen>>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    Box::pin(events.map(move |event| event.map_or(Seen::Broken, wrap)))
}

/// Shows what `draw` makes of the objects, until it is interrupted, or until `draw` says that this was the last.
///
/// # Errors
/// The objects cannot be read, or `draw` fails.
pub async fn show(
    cluster: &Cluster,
    look: Look,
    mut draw: impl FnMut(&Objects, Look) -> Result<Vec<Line>, Failure>,
) -> Result<(), Failure> {
    let mut objects = cluster.objects().await?;
    let mut watches: Watches = select_all([
        watch(cluster, Seen::Device),
        watch(cluster, Seen::Group),
        watch(cluster, Seen::Rollout),
        watch(cluster, Seen::Firmware),
        watch(cluster, Seen::Profile),
    ]);
    let (mut devices, mut groups, mut rollouts) = (Kept::new(), Kept::new(), Kept::new());
    let (mut firmwares, mut profiles) = (Kept::new(), Kept::new());
    let mut screen = Screen::open(look);
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read_rest = Instant::now() + REST;
    let stop = fettle_runtime::shutdown_token()
        .map_err(|error| Failure::new(Code::Error, format!("signals cannot be listened to: {error}")))?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return screen.close(),
            seen = watches.next() => match seen {
                Some(Seen::Device(event)) => devices.take(&mut objects.devices, event),
                Some(Seen::Group(event)) => groups.take(&mut objects.groups, event),
                Some(Seen::Rollout(event)) => rollouts.take(&mut objects.rollouts, event),
                Some(Seen::Firmware(event)) => firmwares.take(&mut objects.firmwares, event),
                Some(Seen::Profile(event)) => {
                    profiles.take(&mut objects.profiles, event);
                    // It may refer to what nobody has read yet.
                    read_rest = Instant::now();
                }
                Some(Seen::Broken) => screen.complain("the cluster does not answer; tried again"),
                None => return screen.close(),
            },
            _ = frames.tick() => {
                if read_rest <= Instant::now() {
                    read_rest = Instant::now() + REST;
                    match cluster.rest(&mut objects).await {
                        Ok(()) => screen.content(),
                        Err(failure) => screen.complain(&failure.message),
                    }
                }
                let look = screen.look();
                let lines = draw(&objects, look)?;
                screen.show(lines)?;
            }
        }
    }
}

/// Where frames go.
struct Screen {
    look: Look,
    /// The lines that are on the terminal, and its size then; `None`: there is no terminal.
    shown: Option<(Vec<String>, (usize, usize))>,
    last: Vec<Line>,
    complaint: Option<String>,
}

impl Screen {
    fn open(look: Look) -> Self {
        let shown = look.width.is_some().then(|| (Vec::new(), (0, 0)));
        if shown.is_some() {
            // Another screen, so that what was there comes back; without a cursor.
            put("\x1b[?1049h\x1b[?25l");
        }
        Self { look, shown, last: Vec::new(), complaint: None }
    }

    /// With the width that the terminal has now.
    fn look(&self) -> Look {
        let width = self.shown.as_ref().map(|_| output::size().map_or(80, |(columns, _)| columns));
        Look { width, ..self.look }
    }

    fn complain(&mut self, what: &str) {
        self.complaint = Some(what.to_owned());
    }

    fn content(&mut self) {
        self.complaint = None;
    }

    fn show(&mut self, mut lines: Vec<Line>) -> Result<(), Failure> {
        if let Some(complaint) = &self.complaint {
            lines.push(Line::new().with(Tone::Bad, complaint));
        }
        let look = self.look();
        let Some((shown, size)) = &mut self.shown else {
            // A file or a pipe gets what is new, as a whole.
            if lines != self.last {
                output::lines(look, lines.iter().cloned().chain([Line::new()]))?;
                self.last = lines;
            }
            return Ok(());
        };
        let (columns, rows) = output::size().unwrap_or((80, 24));
        let frame = frame(&lines, look, rows);
        let changed = if *size == (columns, rows) { changes(shown, &frame) } else { redraw(&frame) };
        if !changed.is_empty() {
            put(&changed);
        }
        *shown = frame;
        *size = (columns, rows);
        self.last = lines;
        Ok(())
    }

    /// Leaves the last frame where the next prompt comes.
    fn close(mut self) -> Result<(), Failure> {
        let look = self.look();
        let lines = std::mem::take(&mut self.last);
        if self.shown.take().is_some() {
            put(LEAVE);
            output::lines(look, lines)?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.shown.is_some() {
            put(LEAVE);
        }
    }
}

/// The cursor, and the screen that was there before.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    // A terminal that is gone needs nothing any more; the next frame finds out.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// As much as there is room for, and how much there is not.
fn frame(lines: &[Line], look: Look, rows: usize) -> Vec<String> {
    let fit = |line: &Line| match look.width {
        Some(width) => line.clone().fit(width).render(look.colours),
        None => line.render(look.colours),
    };
    if lines.len() <= rows {
        return lines.iter().map(fit).collect();
    }
    let kept = rows.saturating_sub(1);
    let more = format!("… {} more lines: name a group, or make the terminal larger", lines.len() - kept);
    lines[..kept].iter().map(fit).chain([fit(&Line::new().with(Tone::Faint, more))]).collect()
}

/// The terminal shows all of it at once, where it can.
fn at_once(text: &str) -> String {
    format!("\x1b[?2026h{text}\x1b[?2026l")
}

fn redraw(frame: &[String]) -> String {
    let lines: String = frame.iter().enumerate().map(|(row, line)| place(row, line)).collect();
    at_once(&format!("\x1b[2J{lines}"))
}

/// Only the lines that differ.
fn changes(shown: &[String], frame: &[String]) -> String {
    let differs = |(row, line): (usize, &String)| (shown.get(row) != Some(line)).then(|| place(row, line));
    let lines: String = frame.iter().enumerate().filter_map(differs).collect();
    let below = if shown.len() > frame.len() { format!("\x1b[{};1H\x1b[J", frame.len() + 1) } else { String::new() };
    if lines.is_empty() && below.is_empty() { String::new() } else { at_once(&format!("{lines}{below}")) }
}

fn place(row: usize, line: &str) -> String {
    format!("\x1b[{};1H{line}\x1b[K", row + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Colours;

    fn texts(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn only_the_lines_that_differ_are_written() {
        let shown = texts(&["a", "b", "c"]);
        assert_eq!(changes(&shown, &shown), "");
        assert_eq!(changes(&shown, &texts(&["a", "x", "c"])), "\x1b[?2026h\x1b[2;1Hx\x1b[K\x1b[?2026l");
        assert_eq!(changes(&shown, &texts(&["a"])), "\x1b[?2026h\x1b[2;1H\x1b[J\x1b[?2026l");
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let lines: Vec<Line> = (0..10).map(|number| Line::new().plain(number.to_string())).collect();
        let look = Look { colours: Colours::No, width: Some(80) };
        let frame = frame(&lines, look, 4);
        assert_eq!(frame[..3], texts(&["0", "1", "2"]));
        assert!(frame[3].starts_with("… 7 more lines"), "{frame:?}");
        assert_eq!(frame.len(), 4);
    }
}
