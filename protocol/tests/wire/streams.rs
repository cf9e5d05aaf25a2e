//! Messages as TCP brings them: cut anywhere, several at once, endless.

use fettle_protocol::frame::{self, MAX_FRAME_LEN};
use fettle_protocol::{Decoder, Frame, FrameError};

use crate::goldens;

/// All whole frames that the decoder holds.
fn drain(decoder: &mut Decoder) -> Vec<Frame> {
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

fn whole(bytes: &[u8]) -> Frame {
    frame::decode(bytes).unwrap().unwrap().0
}

#[test]
fn a_message_cut_at_any_byte_is_incomplete_and_neither_an_error_nor_a_message() {
    for (name, bytes) in goldens::files() {
        for len in 0..bytes.len() {
            assert_eq!(frame::decode(&bytes[..len]), Ok(None), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn a_message_read_in_two_parts_is_the_same_wherever_it_is_split() {
    for (name, bytes) in goldens::files() {
        for at in 0..=bytes.len() {
            let mut decoder = Decoder::new();
            decoder.push(&bytes[..at]);
            let mut frames = drain(&mut decoder);
            assert_eq!(frames.len(), usize::from(at == bytes.len()), "{name} split at {at}");
            assert_eq!(decoder.is_partial(), 0 < at && at < bytes.len(), "{name} split at {at}");
            decoder.push(&bytes[at..]);
            frames.extend(drain(&mut decoder));
            assert_eq!(frames, [whole(&bytes)], "{name} split at {at}");
            assert!(!decoder.is_partial(), "{name} split at {at}");
        }
    }
}

#[test]
fn messages_in_one_read_come_out_in_order() {
    let files = goldens::files();
    let mut decoder = Decoder::new();
    for bytes in files.values() {
        decoder.push(bytes);
    }
    let expected: Vec<Frame> = files.values().map(|bytes| whole(bytes)).collect();
    assert_eq!(drain(&mut decoder), expected);
    assert_eq!(decoder.buffered(), 0);
}

#[test]
fn a_stream_of_all_messages_can_be_read_in_pieces_of_any_size() {
    let files = goldens::files();
    let stream: Vec<u8> = files.values().flatten().copied().collect();
    let expected: Vec<Frame> = files.values().map(|bytes| whole(bytes)).collect();
    for size in 1..300 {
        let mut decoder = Decoder::new();
        let mut frames = Vec::new();
        for piece in stream.chunks(size) {
            decoder.push(piece);
            frames.extend(drain(&mut decoder));
        }
        assert!(frames == expected, "in pieces of {size}");
        assert!(!decoder.is_partial(), "in pieces of {size}");
    }
}

#[test]
fn a_message_of_the_greatest_length_is_read() {
    let frame = Frame { message: 200, data: vec![(255, vec![0xaa; 248]); 255] };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    assert_eq!(bytes.len(), MAX_FRAME_LEN);
    assert_eq!(frame::decode(&bytes[..bytes.len() - 1]), Ok(None));
    assert_eq!(frame::decode(&bytes), Ok(Some((frame, MAX_FRAME_LEN))));
}

#[test]
fn a_decoder_that_is_emptied_after_each_read_never_holds_more_than_one_message() {
    const READ: usize = 4096;
    let mut bytes = Vec::new();
    Frame { message: 200, data: vec![(255, vec![0; 248]); 255] }.encode(&mut bytes).unwrap();
    let endless = bytes.iter().copied().cycle().take(20 * bytes.len()).collect::<Vec<u8>>();
    let mut decoder = Decoder::new();
    let mut frames = 0;
    for read in endless.chunks(READ) {
        decoder.push(read);
        assert!(decoder.buffered() < MAX_FRAME_LEN + READ);
        frames += drain(&mut decoder).len();
        assert!(decoder.buffered() < MAX_FRAME_LEN);
    }
    assert_eq!(frames, 20);
}

#[test]
fn a_great_length_alone_does_not_make_the_decoder_wait_for_what_cannot_come() {
    // One datum cannot have 65535 bytes, so there is nothing to wait for.
    let mut decoder = Decoder::new();
    decoder.push(&[1, 1, 0xff, 0xff]);
    assert_eq!(decoder.next_frame(), Err(FrameError::LengthTooLarge { message: 1, length: 0xffff, data_num: 1 }));
}

#[test]
fn a_decoder_gives_the_same_error_ever_after() {
    let mut decoder = Decoder::new();
    decoder.push(&[34, 0, 0, 0]);
    decoder.push(&[1, 1, 0, 0]);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame { message: 34, data: vec![] })));
    let error = FrameError::LengthTooSmall { message: 1, length: 0, data_num: 1 };
    assert_eq!(decoder.next_frame(), Err(error));
    decoder.push(&[34, 0, 0, 0]);
    assert_eq!(decoder.next_frame(), Err(error));
}
