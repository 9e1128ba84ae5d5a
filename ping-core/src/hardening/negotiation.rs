//! How the two ends of a stream agree on its protocol, as far as this node follows it: libp2p's multistream-select.

/// The protocol of Kameo's messages, whose requests are read to their end. All others read little at a time.
pub(super) const MESSAGING: &[u8] = b"/kameo/messaging/1.0.0";

/// The protocol by which the two ends of a stream agree on another one.
pub(super) const MULTISTREAM: &[u8] = b"/multistream/1.0.0";

/// The first message in these bytes, if it is complete, and how many bytes it takes with its length. The length is an
/// unsigned varint: groups of seven bits, the lowest first.
pub(super) fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let digits = bytes.iter().take(3).position(|byte| byte & 0x80 == 0)? + 1;
    let length = bytes[..digits].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    Some((bytes.get(digits..digits + length)?, digits + length))
}
