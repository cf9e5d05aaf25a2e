//! Devices that call and that nobody has declared.

use std::net::IpAddr;

use fettle_crds::content::MANAGED_BY;
use fettle_crds::{Device, DeviceSpec};
use fettle_protocol::message::DeviceInformation;
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::FIELD_MANAGER;

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

/// Records a device that called, named after its MAC. Idempotent: one that is recorded already stays as it is.
///
/// # Errors
/// Those of the API server.
pub async fn record(api: &Api<Device>, info: &DeviceInformation, address: IpAddr, approved: bool) -> kube::Result<()> {
    let name = info.mac.dns_label();
    let spec = DeviceSpec { mac: info.mac.to_string(), model: None, approved, held: false, transfer: None };
    let mut device = Device::new(&name, spec);
    device.metadata.labels = Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into());
    match api
        .create(&PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }, &device)
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
        Err(error) => return Err(error),
    }
    tracing::info!(device = name, mac = %info.mac, model = info.model, version = info.version, %address, approved, "unknown device recorded");
    let now = Timestamp::now();
    let status = json!({"status": {
        "lastSeen": now,
        "reported": {"version": info.version, "model": info.model, "serial": info.serial, "at": now},
    }});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_status(&name, &parameters, &Patch::Merge(status)).await.map(|_| ())
}
