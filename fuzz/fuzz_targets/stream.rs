//! The decoder of the stream's frames: any bytes, in any pieces, are frames that encode to the same bytes, or are
//! rejected at the same place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ping_core::stream::{
    Frame, Malformed,
    io::{Reader, Writer},
};

/// The frames that these bytes are read as, in pieces of this size.
fn read(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<Malformed>) {
    let mut reader = Reader::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(malformed) => return (frames, Some(malformed)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (frames, malformed) = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(piece) + 1), (frames.clone(), malformed));
    let mut writer = Writer::default();
    frames.into_iter().for_each(|frame| writer.push(frame));
    assert!(bytes.starts_with(&writer.into_bytes()));
});
