//! Kinds of CRC-32.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the vendor of a device means by CRC: the kind of CRC-32 that the device computes of what it fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum Crc {
    /// That of IEEE 802.3, Ethernet and ZIP.
    #[default]
    #[serde(rename = "IEEE")]
    Ieee,
    /// That of bzip2.
    #[serde(rename = "BZIP2")]
    Bzip2,
    /// That of MPEG-2.
    #[serde(rename = "MPEG2")]
    Mpeg2,
    /// That of the POSIX utility cksum, without the length that it appends.
    #[serde(rename = "CKSUM")]
    Cksum,
    /// What the POSIX utility cksum prints.
    #[serde(rename = "POSIX")]
    Posix,
    /// CRC-32C: that of iSCSI.
    Castagnoli,
    /// That of IEEE, not inverted at the end.
    #[serde(rename = "JAMCRC")]
    Jamcrc,
    /// That of XFER.
    #[serde(rename = "XFER")]
    Xfer,
    /// That of AUTOSAR.
    #[serde(rename = "AUTOSAR")]
    Autosar,
}

impl Crc {
    /// Whether it is the one that nobody has to name.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
