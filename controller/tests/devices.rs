//! Whose a MAC is, as devices come, go, and are declared otherwise.

#![allow(clippy::unwrap_used)]

use fettle_controller::plan::devices::Devices;
use fettle_controller::plan::membership::Standing;
use fettle_controller::plan::model::{Device, Origin};
use fettle_controller::reconcile::convert::Interner;
use proptest::prelude::*;
use serde_json::json;

/// What happens to the device of a number.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Declared {
        mac: u8,
        approved: bool,
    },
    /// A bridge records it.
    Recorded {
        mac: u8,
    },
    Removed,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..3u8, any::<bool>()).prop_map(|(mac, approved)| Happens::Declared { mac, approved }),
        (0..3u8).prop_map(|mac| Happens::Recorded { mac }),
        Just(Happens::Removed),
    ]
}

fn device(name: &str, mac: u8, approved: bool, origin: Origin) -> Device {
    let object = json!({
        "metadata": {"name": name, "resourceVersion": "1", "generation": 1, "uid": name},
        "spec": {"mac": format!("02:00:5e:00:53:{mac:02x}"), "approved": approved},
    });
    let device = Interner::default().device(serde_json::from_value(object).unwrap()).unwrap();
    Device { origin, ..device }
}

/// By looking at all devices.
fn expected(devices: &Devices, device: &Device) -> (Standing, Vec<String>) {
    let others = devices
        .values()
        .filter(|other| other.origin == Origin::Declared && other.mac == device.mac && other.name != device.name);
    let others: Vec<String> = others.map(|other| other.name.to_string()).collect();
    let standing = match device.origin {
        Origin::Pending if !others.is_empty() => Standing::Yields,
        Origin::Declared if !others.is_empty() => Standing::DuplicateMac,
        Origin::Declared if device.approved => Standing::Accepted,
        Origin::Declared | Origin::Pending => Standing::NotApproved,
    };
    (standing, others)
}

proptest! {
    #[test]
    fn standing_is_what_a_look_at_all_devices_says(
        events in prop::collection::vec((0..5usize, happens()), 1..40),
    ) {
        let mut devices = Devices::default();
        for (number, happens) in events {
            let name = format!("sw-{number}");
            match happens {
                Happens::Declared { mac, approved } => {
                    devices.insert(device(&name, mac, approved, Origin::Declared));
                }
                Happens::Recorded { mac } => {
                    devices.insert(device(&name, mac, false, Origin::Pending));
                }
                Happens::Removed => {
                    devices.remove(&name);
                }
            }
            for device in devices.values() {
                let (standing, others) = expected(&devices, device);
                prop_assert_eq!(devices.standing(device), standing, "{} after {:?}", device.name, happens);
                if standing == Standing::DuplicateMac {
                    let sharing: Vec<String> = devices.sharing_mac(device).map(ToString::to_string).collect();
                    prop_assert_eq!(sharing, others);
                }
            }
        }
    }
}
