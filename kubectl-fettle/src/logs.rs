//! `kubectl fettle logs`: where the newest log of a device is, and asking for one.

use std::time::Duration;

use clap::Args;
use fettle_crds::{Device, LOG_AT, LogResult};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::json;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::output::{self, Format};
use crate::say::MANAGER;
use crate::time;

/// Say where the newest log of a device is, or have it bring one
///
/// Devices bring their logs after a try that failed (or as spec.logs of the group says), and when somebody asks. A log is
/// kept by the bridge that it was brought to, or in a bucket; this says where, and how to read it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kubectl fettle logs access-berlin-07
  kubectl fettle logs access-berlin-07 --request --timeout 5m")]
pub struct LogsArgs {
    /// The device
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// Ask the device for its log, and wait until it is there
    #[arg(long)]
    pub request: bool,
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = fettle_runtime::duration)]
    pub timeout: Duration,
    /// Print data instead
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// # Errors
/// There is no such device, or no log of it.
pub async fn run(args: &LogsArgs, cluster: &Cluster) -> Result<(), Failure> {
    let name = args.device.strip_prefix("device/").unwrap_or(&args.device);
    let device: Device = cluster.get(name).await?;
    let device = if args.request { request(args, cluster, name).await? } else { device };
    let Some(log) = device.status.and_then(|status| status.last_log) else {
        let message = format!("device {name} has brought no log: `kubectl fettle logs {name} --request` asks for one");
        return Err(Failure::new(Code::NotFound, message));
    };
    if let Some(format) = args.output {
        return output::data(format, &log);
    }
    let ago = time::between(log.at, Timestamp::now());
    let of = if log.target > 0 { format!(", after target {}", log.target) } else { String::new() };
    output::write(&format!("{}\n", log.location))?;
    output::note(&format!("{} bytes, brought {ago} ago{of}. To read it:", log.size));
    output::note(&format!("  {}", how_to_read(&log.location, &cluster.namespace)));
    Ok(())
}

/// The command that prints a log.
pub fn how_to_read(location: &str, namespace: &str) -> String {
    let of_bridge = location.strip_prefix("file://").and_then(|rest| rest.split_once('/'));
    match of_bridge {
        Some((bridge, path)) => format!("kubectl exec -n {namespace} {bridge} -- fettle-bridge --print-log /{path}"),
        None if location.starts_with("s3://") => format!("aws s3 cp {location} -"),
        None => location.to_owned(),
    }
}

/// A new wish, and what became of it.
async fn request(args: &LogsArgs, cluster: &Cluster, name: &str) -> Result<Device, Failure> {
    let wish = Timestamp::now().to_string();
    let patch = json!({"metadata": {"annotations": {LOG_AT: wish}}});
    let api = cluster.api::<Device>();
    let patched = api.patch(name, &PatchParams::apply(MANAGER), &Patch::Merge(&patch)).await;
    patched.map_err(|error| cluster.explain::<Device>("patch", &error))?;
    let answered = |device: Option<&Device>| {
        let request = device.and_then(|device| device.status.as_ref()?.log_request.as_ref());
        request.is_some_and(|request| request.value == wish)
    };
    let device = match timeout(args.timeout, await_condition(api, name, answered)).await {
        Ok(Ok(Some(device))) => device,
        Ok(Ok(None)) => return Err(cluster.no_such::<Device>(name)),
        Ok(Err(error)) => {
            return Err(Failure::new(Code::Error, format!("the watch has ended: {}", fettle_runtime::chain(&error))));
        }
        Err(_) => {
            let message = format!(
                "device {name} has not brought its log in time. It is asked when it is connected, and no try is under way: \
                 the wish stays, and `kubectl fettle logs {name}` tells of what comes"
            );
            return Err(Failure::new(Code::Timeout, message));
        }
    };
    let request = device.status.as_ref().and_then(|status| status.log_request.clone());
    match request.map(|request| (request.result, request.message.unwrap_or_default())) {
        Some((LogResult::Failed, why)) => {
            Err(Failure::new(Code::Failed, format!("device {name} was asked, and there is no log: {why}")))
        }
        Some((LogResult::Stored, _)) | None => Ok(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_of_a_log_has_a_command_that_reads_it() {
        let of_bridge = how_to_read("file://fettle-bridge-0/var/lib/fettle/logs/sw-1/20261121T021109Z-118.log", "net");
        assert_eq!(
            of_bridge,
            "kubectl exec -n net fettle-bridge-0 -- fettle-bridge --print-log /var/lib/fettle/logs/sw-1/20261121T021109Z-118.log"
        );
        assert_eq!(how_to_read("s3://logs/eu/sw-1/1.log", "net"), "aws s3 cp s3://logs/eu/sw-1/1.log -");
    }
}
