//! The API of Fettle: group `fettle.dev`, version `v1alpha1`, as Rust types with schema, defaults, bounds and rules.
//!
//! `crdgen` writes `crds/yaml/` and the chart's copy from these types. Nothing here does I/O. The crate knows no other
//! crate of the project: what controller and bridge must agree on, apart from the API itself, is in [`content`], [`render`] and [`version`].

#![allow(clippy::duplicated_attributes, reason = "kube repeats the keys of printcolumn")]

mod config_profile;
pub mod content;
mod crc;
mod device;
mod device_group;
mod device_log;
mod device_progress;
mod device_rollout;
mod device_session;
mod firmware;
pub mod render;
pub mod schema;
mod selector;
mod source;
mod strategy;
pub mod version;

pub use config_profile::{ConfigProfile, ConfigProfileSpec, ConfigProfileStatus, ConfigRef};
pub use crc::Crc;
pub use device::{
    Applied, Device, DeviceSpec, DeviceStatus, Granted, Outcome, Phase, Previous, PreviousFirmware, Reported,
    Scheduled, Stage, Target, TargetConfig, TargetFirmware, TryResult, Upgrade, Verdict,
};
pub use device_group::{
    Apply, ApplyMode, DesiredConfig, DesiredFirmware, DeviceGroup, DeviceGroupSpec, DeviceGroupStatus, FirmwarePolicy,
    Logs, SessionPolicy, Transfer, UploadLogs, WireTransfer,
};
pub use device_log::{LOG_AT, LOG_AT_MAX, LastLog, LogRefused, LogRequest, LogResult};
pub use device_progress::Progress;
pub use device_rollout::{
    Abort, Counts, DeviceRollout, DeviceRolloutSpec, DeviceRolloutStatus, Failure, FinishedStep, RollbackStatus,
    RolloutConfig, RolloutFirmware, RolloutImage, StepStatus, Waiting,
};
pub use device_session::{Contender, Drops, Session};
pub use firmware::{Firmware, FirmwareSpec, FirmwareStatus, Image, ImageStatus};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
pub use schema::{Duration, IntOrPercent};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use source::{CaRef, FileSource, HttpSource, OciSource, PublicKeyRef, S3Source, SecretRef, Signature, Source};
pub use strategy::{Approval, DownloadTime, Freeze, OnFailure, Spread, Step, Strategy, Window};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// The API group of every kind.
pub const GROUP: &str = "fettle.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";

/// The definitions of all kinds, in alphabetical order.
pub fn all() -> Vec<CustomResourceDefinition> {
    use kube::CustomResourceExt;
    let mut all = vec![ConfigProfile::crd(), DeviceGroup::crd(), DeviceRollout::crd(), Device::crd(), Firmware::crd()];
    all.iter_mut().for_each(schema::tidy);
    all
}
