//! The check of answers: it decides the same however the bytes are split, and lets no answer of another kind through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ping_core::hardening::is_answered;

fuzz_target!(|input: (bool, u8, &[u8])| {
    const AGREEMENT: &[u8] = b"\x13/multistream/1.0.0\n\x17/kameo/messaging/1.0.0\n";
    let (is_tell, step, answer) = input;
    let (request, other): (&[u8], &[u8]) =
        if is_tell { (b"\xa1\x64Tell", b"\xa1\x63Ask") } else { (b"\xa1\x63Ask", b"\xa1\x64Tell") };
    let request = [AGREEMENT, request].concat();
    for answer in [answer.into(), [AGREEMENT, answer].concat()] {
        let whole = is_answered(&request, &answer, answer.len().max(1));
        assert_eq!(is_answered(&request, &answer, usize::from(step) + 1), whole);
    }
    assert!(!is_answered(&request, &[AGREEMENT, other, answer].concat(), usize::from(step) + 1));
});
