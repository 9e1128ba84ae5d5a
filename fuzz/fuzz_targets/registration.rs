//! What is let through to Kameo's registry as a registration: whatever it is, Kameo reads it without a panic.
#![no_main]

use kameo::remote::registry::ActorRegistration;
use libfuzzer_sys::fuzz_target;
use ping_core::protocol;

#[allow(dead_code, reason = "only a part is tried here")]
#[path = "../../ping-core/src/admission.rs"]
mod admission;

fuzz_target!(|bytes: &[u8]| {
    if admission::is_registration(bytes) {
        let _ = ActorRegistration::from_bytes(bytes);
    }
});
