//! How the two ends of a stream agree on its protocol, as far as this node follows it: libp2p's multistream-select.

use crate::cluster::messages::DIRECTORY_PROTOCOL;

/// The protocol of Kameo's messages.
pub(super) const MESSAGING: &[u8] = b"/kameo/messaging/1.0.0";

/// Whether the messages of a protocol are read to their end before they are understood. All others read little at a
/// time.
pub(super) fn carries_messages(protocol: &[u8]) -> bool {
    protocol == MESSAGING || protocol == DIRECTORY_PROTOCOL.as_ref().as_bytes()
}

/// The protocol by which the two ends of a stream agree on another one.
pub(super) const MULTISTREAM: &[u8] = b"/multistream/1.0.0";

/// The first message in these bytes, if it is complete, and how many bytes it takes with its length. The length is an
/// unsigned varint: groups of seven bits, the lowest first.
pub(super) fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let digits = bytes.iter().take(3).position(|byte| byte & 0x80 == 0)? + 1;
    let length = bytes[..digits].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    Some((bytes.get(digits..digits + length)?, digits + length))
}
