//! Messages as bytes: CBOR as Kameo writes it, protobuf as Kademlia does.

use anyhow::Result;
use libp2p::PeerId;

/// The fields of Kameo's ask of this actor id, in CBOR. The payload is not a ping in MessagePack.
pub(crate) fn ask(actor_id: &[u8]) -> Vec<u8> {
    text_map(&[
        ("actor_id", bytes_item(actor_id)),
        ("actor_remote_id", text_item("ping_pong_app::PingActor")),
        ("message_remote_id", text_item("a1b2c3d4-e5f6-7890-abcd-ef1234567890")),
        ("payload", vec![0x83, 1, 2, 3]),
        ("mailbox_timeout", vec![0xf6]),
        ("reply_timeout", vec![0xf6]),
        ("immediate", vec![0xf4]),
    ])
}

/// The head of a CBOR item (RFC 8949).
pub(crate) fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..24 => vec![major << 5 | length as u8],
        24..256 => vec![major << 5 | 24, length as u8],
        256..65_536 => [&[major << 5 | 25][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[major << 5 | 26][..], &(length as u32).to_be_bytes()].concat(),
    }
}

pub(crate) fn text_item(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.into()].concat()
}

pub(crate) fn bytes_item(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len()), bytes.into()].concat()
}

/// Bytes as Kameo writes a payload: a list of numbers.
pub(crate) fn bytes_list(bytes: &[u8]) -> Vec<u8> {
    let numbers = bytes.iter().flat_map(|&byte| head(0, usize::from(byte)));
    head(4, bytes.len()).into_iter().chain(numbers).collect()
}

pub(crate) fn text_map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries_bytes = entries.iter().flat_map(|(key, value)| [text_item(key), value.clone()].concat());
    head(5, entries.len()).into_iter().chain(entries_bytes).collect()
}

/// A length in protobuf's variable format.
pub(crate) fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A length-delimited field of protobuf.
pub(crate) fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

/// A Kademlia message of this type, as libp2p's `dht.proto` has it, behind its length.
pub(crate) fn kademlia(kind: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let message = [vec![0x08, kind], fields.concat()].concat();
    [varint(message.len()), message].concat()
}

pub(crate) fn put_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    kademlia(0, &[field(2, key), field(3, &[field(1, key), field(2, value)].concat())])
}

pub(crate) fn add_provider(key: &[u8], provider: &PeerId) -> Vec<u8> {
    kademlia(2, &[field(2, key), field(9, &field(1, &provider.to_bytes()))])
}

pub(crate) fn get_providers(key: &[u8]) -> Vec<u8> {
    kademlia(3, &[field(2, key)])
}

pub(crate) fn find_node(peer: &PeerId) -> Vec<u8> {
    kademlia(4, &[field(2, &peer.to_bytes())])
}

pub(crate) fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    pairs.collect()
}
