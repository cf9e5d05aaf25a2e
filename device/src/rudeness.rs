//! What a device sends that no device should. Pure.

use fettle_protocol::datum::{DownloadResult, ExecutionResult};
use fettle_protocol::message::{DeviceInformation, ErrorDetail, kind};
use fettle_protocol::{DeviceMessage, Dialect, Frame, ServerMessage};

use crate::faults::FaultKind;

/// How many messages of a flood are written at once.
const BURST: u32 = 64;

/// The bytes of a fault, in writes; none where the fault is not one of bytes. It is rude in the dialect of the device.
pub(crate) fn bytes(fault: &FaultKind, information: &DeviceInformation, dialect: Dialect) -> Vec<Vec<u8>> {
    let encoded = |frame: &Frame| {
        let mut bytes = Vec::new();
        // Everything here is short; a device whose own message 1 is too long never gets here.
        let _ = frame.encode_in(dialect, &mut bytes);
        bytes
    };
    let information = DeviceMessage::Information(information.clone()).to_frame();
    match fault {
        FaultKind::Stall => {
            let mut half = encoded(&information);
            half.truncate(half.len() / 2);
            vec![half]
        }
        FaultKind::Flood(count) => {
            let one = encoded(&information);
            let bursts = count / BURST;
            let rest = (count % BURST) as usize;
            let mut writes = vec![one.repeat(BURST as usize); bursts as usize];
            writes.push(one.repeat(rest));
            writes
        }
        // A header whose LENGTH its DATA_NUM cannot have.
        FaultKind::Garbage => vec![b"GET / HTTP/1.1\r\nHost: fettle\r\n\r\n".to_vec()],
        FaultKind::LyingLength => {
            let mut message = encoded(&information);
            // LENGTH says one datum's header more than there is.
            let low = if dialect.has(Dialect::LITTLE_ENDIAN) { 2 } else { 3 };
            if let Some(low) = message.get_mut(low) {
                *low = low.wrapping_add(4);
            }
            vec![message]
        }
        FaultKind::UnknownMessage => vec![encoded(&Frame { message: 200, data: vec![(200, vec![1, 2, 3])] })],
        FaultKind::WrongDirection => vec![encoded(&ServerMessage::Restart.to_frame())],
        FaultKind::Unasked(message) => {
            let detail = ErrorDetail::default();
            let message = match *message {
                kind::VERSION_RESULT => DeviceMessage::VersionDownloaded(DownloadResult::Verified, detail),
                kind::PROFILE_RESULT => DeviceMessage::ProfileDownloaded(DownloadResult::Verified, detail),
                kind::UPGRADE_RESULT => DeviceMessage::ProfileUpgraded(ExecutionResult::Success, detail),
                kind::LOG_RESULT => DeviceMessage::LogUploaded(ExecutionResult::Success, detail),
                other => DeviceMessage::Unknown(other),
            };
            vec![encoded(&message.to_frame())]
        }
        FaultKind::Raw(bytes) => vec![bytes.clone()],
        FaultKind::DropConnection(_)
        | FaultKind::ResetConnection(_)
        | FaultKind::Vanish
        | FaultKind::Freeze
        | FaultKind::Slow(_)
        | FaultKind::Throttle(_)
        | FaultKind::Corrupt
        | FaultKind::OtherBase
        | FaultKind::FailDownload
        | FaultKind::ClaimWithoutDownload
        | FaultKind::Refuse
        | FaultKind::ComeBackOld
        | FaultKind::ComeBackWith(_)
        | FaultKind::LoseResult
        | FaultKind::Silent
        | FaultKind::HalfOpen => vec![],
    }
}

#[cfg(test)]
mod tests {
    use fettle_protocol::datum::Capabilities;
    use fettle_protocol::{Decoder, FrameError, Mac, MessageError};

    use super::*;

    fn decoded(fault: &FaultKind) -> Result<Vec<Frame>, FrameError> {
        let canonical = decoded_in(Dialect::CANONICAL, fault);
        for dialect in Dialect::all() {
            assert_eq!(decoded_in(dialect, fault).is_ok(), canonical.is_ok(), "{fault:?} in {dialect}");
        }
        canonical
    }

    fn decoded_in(dialect: Dialect, fault: &FaultKind) -> Result<Vec<Frame>, FrameError> {
        let information = DeviceInformation {
            mac: Mac::new([2; 6]),
            version: "4.9.0".to_owned(),
            model: "S5700".to_owned(),
            config: None,
            serial: None,
            capabilities: Capabilities::default(),
            dialect: Dialect::CANONICAL,
        };
        let mut decoder = Decoder::of(dialect);
        let mut frames = Vec::new();
        for bytes in bytes(fault, &information, dialect) {
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn each_is_rude_in_its_own_way() {
        assert!(decoded(&FaultKind::Garbage).is_err());
        assert!(decoded(&FaultKind::LyingLength).is_err());
        assert_eq!(decoded(&FaultKind::Stall), Ok(vec![]));
        assert_eq!(decoded(&FaultKind::Flood(200)).unwrap().len(), 200);
        let frames = decoded(&FaultKind::WrongDirection).unwrap();
        assert!(matches!(DeviceMessage::from_frame(&frames[0]), Err(MessageError::WrongDirection { .. })));
        let frames = decoded(&FaultKind::UnknownMessage).unwrap();
        assert!(matches!(DeviceMessage::from_frame(&frames[0]), Ok(DeviceMessage::Unknown(200))));
        for message in [5, 7, 9, 11] {
            let frames = decoded(&FaultKind::Unasked(message)).unwrap();
            assert!(DeviceMessage::from_frame(&frames[0]).is_ok(), "{message}");
        }
    }
}
