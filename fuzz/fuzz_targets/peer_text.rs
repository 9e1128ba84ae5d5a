//! Text of a peer: whatever it is, it comes out short and printable.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ping_core::PeerText;

fuzz_target!(|bytes: &[u8]| {
    let text = PeerText::new(String::from_utf8_lossy(bytes)).to_string();
    assert!(text.chars().count() <= 257, "{text}");
    assert!(!text.chars().any(|c| c.is_control() || ('\u{200b}'..='\u{200f}').contains(&c)), "{text:?}");
    assert!(!text.contains(|c| ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c)));
});
