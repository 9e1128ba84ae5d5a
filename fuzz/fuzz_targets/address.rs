//! The parser of server addresses: it rejects a text, or reads an address that it reads again when it is printed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ping_core::ServerAddress;

fuzz_target!(|text: &str| {
    let Ok(server) = text.parse::<ServerAddress>() else { return };
    assert!(server.port > 0 && !server.transports().is_empty());
    let again: ServerAddress = server.to_string().parse().expect("what is written can be read");
    assert_eq!((again.host(), again.port), (server.host(), server.port));
});
