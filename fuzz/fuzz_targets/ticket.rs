//! The parser of tickets: it rejects a text, or reads a ticket that it reads again when it is printed.
#![no_main]

use data_encoding::BASE32_NOPAD;
use libfuzzer_sys::fuzz_target;
use ping_core::nat::Ticket;
use sha2::{Digest, Sha256};

fuzz_target!(|content: &[u8]| {
    // Almost no text has the right checksum, so it is made.
    let checksum = Sha256::digest(content);
    let word = format!("kping1{}", BASE32_NOPAD.encode(&[content, &checksum[..4]].concat()));
    let Ok(ticket) = word.parse::<Ticket>() else { return };
    assert!(ticket.addresses.len() <= 6 && ticket.relays.len() <= 3);
    let again: Ticket = ticket.to_string().parse().expect("what is written can be read");
    assert_eq!(again, ticket);
});
