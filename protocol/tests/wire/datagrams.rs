//! Messages over UDP: goldens, whole datagrams, and the proof of who asks.

use std::path::Path;

use fettle_protocol::datum::ExecutionResult;
use fettle_protocol::message::{ErrorDetail, kind};
use fettle_protocol::proof::{self, LogKey, Nonce, ProofError};
use fettle_protocol::{DeviceMessage, Dialect, Frame, ServerMessage, datagram};

use crate::annotated;
use crate::goldens;

/// The bytes of a file in `tests/golden/datagrams/`.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/datagrams").join(format!("{name}.txt"));
    annotated::bytes(&std::fs::read_to_string(path).unwrap())
}

/// The frames of all of them.
pub(crate) fn frames() -> Vec<Frame> {
    let of = |name, kind| datagram::read(Dialect::CANONICAL, &golden(name), kind).unwrap();
    vec![of("10", kind::UPLOAD_LOG), of("10-proven", kind::UPLOAD_LOG), of("11", kind::LOG_RESULT)]
}

fn key() -> LogKey {
    LogKey::new(std::array::from_fn(|index| index as u8))
}

/// 2026-11-20T12:00:00Z, and eight bytes at random.
fn nonce() -> Nonce {
    Nonce::new(1_795_176_000_000, [0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18])
}

fn request() -> ServerMessage {
    ServerMessage::UploadLog(goldens::ftp("l5j2h8", "device.log", "d14.l", "z4x7c1v9"))
}

#[test]
fn the_goldens_are_what_is_sent_and_what_is_read() {
    let plain = golden("10");
    assert_eq!(datagram::write(Dialect::CANONICAL, &request().to_frame()).unwrap(), plain);
    assert_eq!(datagram::read_request(Dialect::CANONICAL, &plain), Ok(request()));

    let proven = golden("10-proven");
    assert_eq!(proof::write(Dialect::CANONICAL, &request().to_frame(), nonce(), &key()).unwrap(), proven);
    assert_eq!(datagram::read_request(Dialect::CANONICAL, &proven), Ok(request()), "what is new is skipped");
    let frame = datagram::read(Dialect::CANONICAL, &proven, kind::UPLOAD_LOG).unwrap();
    assert_eq!(proof::check(&proven, &frame, &key()), Ok(nonce()));

    let answer = DeviceMessage::LogUploaded(ExecutionResult::Success, ErrorDetail::default());
    assert_eq!(datagram::write(Dialect::CANONICAL, &answer.to_frame()).unwrap(), golden("11"));
    assert_eq!(datagram::read_reply(Dialect::CANONICAL, &golden("11")), Ok(answer));
}

#[test]
fn a_proof_is_right_in_every_dialect_and_wrong_where_a_byte_or_the_key_is_another() {
    for dialect in Dialect::all() {
        let bytes = proof::write(dialect, &request().to_frame(), nonce(), &key()).unwrap();
        let read = |bytes: &[u8]| datagram::read(dialect, bytes, kind::UPLOAD_LOG);
        let frame = read(&bytes).unwrap();
        assert_eq!(proof::check(&bytes, &frame, &key()), Ok(nonce()), "{dialect}");
        assert_eq!(proof::check(&bytes, &frame, &LogKey::new([0; 32])), Err(ProofError::Wrong));
        for index in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[index] ^= 1;
            let Ok(frame) = read(&wrong) else { continue };
            assert!(proof::check(&wrong, &frame, &key()).is_err(), "{dialect}: byte {index}");
        }
    }
}

#[test]
fn what_has_no_proof_or_something_behind_it_proves_nothing() {
    let check = |frame: &Frame| {
        let bytes = datagram::write(Dialect::CANONICAL, frame).unwrap();
        proof::check(&bytes, frame, &key())
    };
    let plain = request().to_frame();
    assert_eq!(check(&plain), Err(ProofError::Missing));
    let bytes = proof::write(Dialect::CANONICAL, &plain, nonce(), &key()).unwrap();
    let proven = datagram::read(Dialect::CANONICAL, &bytes, kind::UPLOAD_LOG).unwrap();
    let change = |change: &dyn Fn(&mut Frame)| {
        let mut frame = proven.clone();
        change(&mut frame);
        check(&frame)
    };
    assert_eq!(change(&|frame| frame.data.push((99, vec![]))), Err(ProofError::Missing));
    assert_eq!(change(&|frame| drop(frame.data.pop())), Err(ProofError::Missing));
    assert_eq!(change(&|frame| frame.data.retain(|(datum, _)| *datum != 80)), Err(ProofError::Missing));
    assert_eq!(change(&|frame| frame.data.insert(0, (80, vec![0; 16]))), Err(ProofError::Missing), "which of the two");
    assert_eq!(change(&|frame| frame.data.last_mut().unwrap().1.truncate(31)), Err(ProofError::Missing));
    assert_eq!(change(&|_| {}), Ok(nonce()));
}

#[test]
fn a_later_nonce_is_greater_and_nothing_shows_a_key() {
    assert!(Nonce::new(1, [0; 8]) > Nonce::new(0, [0xff; 8]));
    assert!(Nonce::new(256, [0; 8]) > Nonce::new(255, [0; 8]));
    assert!(Nonce::new(7, [0, 0, 0, 0, 0, 0, 0, 2]) > Nonce::new(7, [0, 0, 0, 0, 0, 0, 0, 1]));
    assert_eq!(format!("{:?}", key()), "LogKey { .. }");
}
