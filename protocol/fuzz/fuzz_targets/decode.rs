//! Bytes from anybody, through frames and both message decoders and back.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fettle_protocol_fuzz::decode(bytes));
