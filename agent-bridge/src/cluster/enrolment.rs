//! Devices that call and that nobody has declared.

use std::net::IpAddr;
use std::time::Duration;

use fettle_crds::content::MANAGED_BY;
use fettle_crds::{Device, DeviceSpec};
use fettle_protocol::message::DeviceInformation;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PostParams};
use serde_json::json;

use super::FIELD_MANAGER;
use super::record::reported;
use super::request::{ApiError, backoff, patch_params, request};

/// What it said of itself is tried to be written so often: the person who is to approve it wants to know.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// What becomes of a device that calls and is not declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[clap(rename_all = "PascalCase")]
pub enum Enrolment {
    /// It is recorded as a Device that waits for a person to set `spec.approved`.
    Approve,
    /// It is recorded as an approved Device.
    Auto,
    /// It is not recorded.
    Deny,
}

/// What came of recording a device.
#[derive(Debug)]
pub enum Recorded {
    Created(Box<Device>),
    /// There is a Device of that name already: another bridge was faster, or somebody gave that name to another device.
    Exists(Box<Device>),
}

/// Records a device that called, named after its MAC. Idempotent: one that is recorded already stays as it is.
///
/// # Errors
/// Those of the API server.
pub async fn record(
    api: &Api<Device>,
    info: &DeviceInformation,
    address: IpAddr,
    approved: bool,
) -> Result<Recorded, ApiError> {
    let name = info.mac.dns_label();
    let mac = info.mac.to_string();
    let spec = DeviceSpec { mac, model: None, approved, held: false, transfer: None, time_zone: None };
    let mut device = Device::new(&name, spec);
    device.metadata.labels = Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = match request(api.create(&parameters, &device)).await {
        Err(error) if error.code() == Some(409) => {
            return Ok(Recorded::Exists(Box::new(request(api.get(&name)).await?)));
        }
        created => created?,
    };
    tracing::info!(
        device = name, mac = %info.mac, model = info.model, version = info.version, %address, approved,
        "unknown device recorded"
    );
    let now = Timestamp::now();
    let status = Patch::Merge(json!({"status": {"lastSeen": now, "reported": reported(info, now)}}));
    for failures in 1..ATTEMPTS {
        match request(api.patch_status(&name, &patch_params(), &status)).await {
            Ok(device) => return Ok(Recorded::Created(Box::new(device))),
            // Somebody has deleted it; that is an answer too.
            Err(error) if error.code() == Some(404) => return Err(error),
            Err(error) => {
                tracing::warn!(device = name, error = %fettle_runtime::chain(&error), "what it said is not recorded yet");
                tokio::time::sleep(backoff(FIRST_PAUSE, LAST_PAUSE, failures)).await;
            }
        }
    }
    Ok(Recorded::Created(Box::new(created)))
}
