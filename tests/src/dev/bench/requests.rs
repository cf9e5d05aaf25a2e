//! Which requests the API server has answered, as it counts them itself (`apiserver_request_total`).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use fettle_crds::GROUP;
use kube::Client;

/// What changes something. Server-side apply is its own verb there.
const WRITES: &[&str] = &["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];

/// Writes that were answered until now.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    by_kind: BTreeMap<Kind, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    group: String,
    resource: String,
    subresource: String,
    verb: String,
    code: String,
}

/// The writes between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Writes {
    /// To Devices and their statuses, that were carried out.
    pub(super) devices: u64,
    /// To Devices and their statuses, that somebody else was faster than.
    pub(super) conflicts: u64,
    /// To all else of Fettle's and beside it, by resource.
    pub(super) others: BTreeMap<String, u64>,
}

impl Requests {
    /// As the API server has them now.
    pub(super) async fn read(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await.context("the API server does not tell its metrics")?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut by_kind = BTreeMap::new();
        for line in text.lines() {
            let Some((labels, value)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.split_once("} "))
            else {
                continue;
            };
            let labels: BTreeMap<&str, &str> = labels.split(',').filter_map(|label| label.split_once('=')).collect();
            let label =
                |name: &str| labels.get(name).map(|value| value.trim_matches('"').to_owned()).unwrap_or_default();
            let kind = Kind {
                group: label("group"),
                resource: label("resource"),
                subresource: label("subresource"),
                verb: label("verb"),
                code: label("code"),
            };
            // Counters are written as floating point numbers, and are whole.
            let count = value.parse::<f64>().unwrap_or_default() as u64;
            *by_kind.entry(kind).or_default() += count;
        }
        Self { by_kind }
    }

    /// What was written between `earlier` and this.
    pub(super) fn since(&self, earlier: &Self) -> Writes {
        let mut writes = Writes::default();
        for (kind, count) in &self.by_kind {
            let count = count - earlier.by_kind.get(kind).copied().unwrap_or_default();
            if count == 0 || !WRITES.contains(&kind.verb.as_str()) {
                continue;
            }
            let succeeded = kind.code.starts_with('2');
            match (kind.group.as_str(), kind.resource.as_str()) {
                (GROUP, "devices") if succeeded => writes.devices += count,
                (GROUP, "devices") if kind.code == "409" => writes.conflicts += count,
                (_, resource) => {
                    let refused = if succeeded { String::new() } else { format!(" ({})", kind.code) };
                    *writes.others.entry(format!("{resource}{refused}")).or_default() += count;
                }
            }
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_devices_are_told_from_reads_conflicts_and_others() {
        let line = |verb: &str, resource: &str, subresource: &str, code: u16, count: u32| {
            format!(
                "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"fettle.dev\",\
                 resource=\"{resource}\",scope=\"resource\",subresource=\"{subresource}\",verb=\"{verb}\",\
                 version=\"v1alpha1\"}} {count}\n"
            )
        };
        let earlier = line("PATCH", "devices", "status", 200, 10);
        let later = [
            line("PATCH", "devices", "status", 200, 30),
            line("APPLY", "devices", "status", 200, 5),
            line("PATCH", "devices", "status", 409, 2),
            line("LIST", "devices", "", 200, 7),
            line("APPLY", "devicegroups", "status", 200, 3),
            line("POST", "devicerollouts", "", 403, 1),
            "apiserver_request_terminations_total{code=\"200\"} 9\n".to_owned(),
        ]
        .concat();
        let writes = Requests::parse(&later).since(&Requests::parse(&earlier));
        assert_eq!((writes.devices, writes.conflicts), (25, 2));
        let others = BTreeMap::from([("devicegroups".to_owned(), 3), ("devicerollouts (403)".to_owned(), 1)]);
        assert_eq!(writes.others, others);
    }
}
