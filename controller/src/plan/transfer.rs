//! How a device fetches its files: as people say, or as experience has it.
//!
//! `Auto` is HTTP for a device that announces it, else FTP. After a try in which the device could not fetch what it was told
//! to, the next goes another way: HTTP, FTP, TFTP, as far as the device has them, and round again. Which ways have failed a
//! device, and not worked since, is remembered with the next grant, in the same write; so what worked is what its next
//! upgrade begins with.

use fettle_crds::{Transfer, Verdict, WireTransfer};

use super::model::{Device, End, Group, Progress};

/// Some ways of fetching files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ways(u8);

/// In the order in which they are tried.
const ALL: [WireTransfer; 3] = [WireTransfer::Http, WireTransfer::Ftp, WireTransfer::Tftp];

impl Ways {
    fn bit(way: WireTransfer) -> u8 {
        match way {
            WireTransfer::Http => 1,
            WireTransfer::Ftp => 2,
            WireTransfer::Tftp => 4,
        }
    }

    fn has(self, way: WireTransfer) -> bool {
        self.0 & Self::bit(way) != 0
    }

    fn with(self, way: WireTransfer) -> Self {
        Self(self.0 | Self::bit(way))
    }

    fn without(self, way: WireTransfer) -> Self {
        Self(self.0 & !Self::bit(way))
    }

    /// In the order in which they are tried.
    pub fn iter(self) -> impl Iterator<Item = WireTransfer> {
        ALL.into_iter().filter(move |way| self.has(*way))
    }
}

impl FromIterator<WireTransfer> for Ways {
    fn from_iter<I: IntoIterator<Item = WireTransfer>>(ways: I) -> Self {
        ways.into_iter().fold(Self::default(), Self::with)
    }
}

/// How a device fetches in its next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub way: WireTransfer,
    /// What has failed so far: to be remembered.
    pub failed: Ways,
}

/// What a try tells of the way that its files went.
enum Told {
    Failed,
    Worked,
    Nothing,
}

fn told(verdict: Verdict) -> Told {
    match verdict {
        Verdict::DownloadFailed | Verdict::NotTransferred => Told::Failed,
        Verdict::Upgraded
        | Verdict::ResultLost
        | Verdict::ApplyFailed
        | Verdict::CameBackUnchanged
        | Verdict::UnexpectedVersion => Told::Worked,
        Verdict::AlreadyCurrent | Verdict::CrcMismatch | Verdict::TimedOut | Verdict::SourceUnavailable => {
            Told::Nothing
        }
    }
}

/// Whether the device is to fetch over HTTP and does not announce that it can.
pub fn cannot(device: &Device, group: &Group) -> bool {
    device.transfer.unwrap_or(group.transfer) == Transfer::Http && !takes_http(device)
}

fn takes_http(device: &Device) -> bool {
    device.facts.reported.as_ref().is_some_and(|reported| reported.takes_http)
}

/// How the device fetches in a try that is granted now.
pub fn choose(device: &Device, group: &Group) -> Choice {
    let last = match device.attempt() {
        Some((target, Progress::Ended(End { reason, .. }))) => Some((target.transfer, told(reason))),
        Some((_, Progress::Granted | Progress::Begun)) | None => None,
    };
    let before = device.decisions.failed_ways;
    let (failed, just_failed) = match last {
        Some((way, Told::Failed)) => (before.with(way), Some(way)),
        Some((way, Told::Worked)) => (before.without(way), None),
        Some((_, Told::Nothing)) | None => (before, None),
    };
    match device.transfer.unwrap_or(group.transfer) {
        Transfer::Ftp => Choice { way: WireTransfer::Ftp, failed },
        Transfer::Tftp => Choice { way: WireTransfer::Tftp, failed },
        Transfer::Http if takes_http(device) => Choice { way: WireTransfer::Http, failed },
        // One that has lost HTTP with a release, and is on its way back from that, goes back all the same.
        Transfer::Http | Transfer::Auto => among_those_it_has(device, failed, just_failed),
    }
}

fn among_those_it_has(device: &Device, failed: Ways, just_failed: Option<WireTransfer>) -> Choice {
    let has = |way: &WireTransfer| match way {
        WireTransfer::Http => takes_http(device),
        WireTransfer::Ftp | WireTransfer::Tftp => true,
    };
    let first = |failed: Ways| ALL.into_iter().filter(has).find(|way| !failed.has(*way));
    if let Some(way) = first(failed) {
        return Choice { way, failed };
    }
    // Round again: what failed long ago may work by now, sooner than what failed just now.
    let failed = just_failed.into_iter().collect();
    Choice { way: first(failed).unwrap_or(WireTransfer::Ftp), failed }
}
