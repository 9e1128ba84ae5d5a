//! The check of registrations: Kameo parses everything that passes it without a panic.
#![no_main]

use kameo::remote::registry::ActorRegistration;
use libfuzzer_sys::fuzz_target;
use ping_core::registry::is_registration;

fuzz_target!(|bytes: &[u8]| {
    if is_registration(bytes) {
        let _ = ActorRegistration::from_bytes(bytes);
    }
});
