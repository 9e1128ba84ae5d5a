//! Answers to this node's own requests: each must be of the kind that its request asks for.
//!
//! Kameo 0.22 panics in the asker when an ask is answered as if it were a tell, or a link, or with a failure that only
//! the asker's own node can report. So the bytes of an answer are compared with those of its request before Kameo reads
//! them: the first bytes of both name their kind.

use std::io;

use super::negotiation::{MESSAGING, MULTISTREAM, first_message};

/// How the kinds of request and answer begin that a node expects: a CBOR map with one entry, whose key is this name, as
/// Kameo writes it.
const KINDS: [&[u8]; 2] = [b"\xa1\x63Ask", b"\xa1\x64Tell"];

/// Compares what is read from a stream that this node opened with what was written to it.
#[derive(Debug, Default)]
pub(super) struct AnswerCheck {
    request: Head,
    answer: Head,
}

/// How many bytes say all: the names of two protocols, each behind its length, and the kind.
const ENOUGH: usize = 64;

/// The first bytes in one direction of a stream.
#[derive(Debug)]
struct Head {
    bytes: [u8; ENOUGH],
    length: usize,
    kind: Kind,
}

impl Default for Head {
    fn default() -> Self {
        Self { bytes: [0; ENOUGH], length: 0, kind: Kind::default() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kind {
    #[default]
    NotYetKnown,
    /// One of [`KINDS`].
    Known(usize),
    /// Another kind.
    Other,
    /// The stream carries another protocol.
    Unchecked,
}

impl AnswerCheck {
    /// Takes what was written. Returns whether the stream carries Kameo's messages, as soon as that is known.
    pub(super) fn on_write(&mut self, bytes: &[u8]) -> Option<bool> {
        self.request.take(bytes);
        match self.request.kind {
            Kind::NotYetKnown => None,
            kind => Some(kind != Kind::Unchecked),
        }
    }

    /// Takes what was read. Returns whether the rest needs no check; fails if it answers another kind of request.
    pub(super) fn on_read(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.answer.take(bytes);
        match (self.request.kind, self.answer.kind) {
            (Kind::Unchecked, _) => Ok(true),
            (_, Kind::NotYetKnown | Kind::Unchecked) => Ok(false),
            (Kind::Known(asked), Kind::Known(answered)) if asked == answered => Ok(true),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not of the kind of its request")),
        }
    }
}

impl Head {
    fn take(&mut self, bytes: &[u8]) {
        if self.kind != Kind::NotYetKnown {
            return;
        }
        let more = bytes.len().min(ENOUGH - self.length);
        self.bytes[self.length..self.length + more].copy_from_slice(&bytes[..more]);
        self.length += more;
        self.kind = kind_of(&self.bytes[..self.length]);
    }
}

/// What a stream that begins with these bytes carries.
fn kind_of(mut bytes: &[u8]) -> Kind {
    loop {
        let Some((message, length)) = first_message(bytes) else {
            return if bytes.len() < ENOUGH { Kind::NotYetKnown } else { Kind::Unchecked };
        };
        bytes = &bytes[length..];
        match message.strip_suffix(b"\n") {
            Some(MULTISTREAM) => {}
            Some(MESSAGING) => break,
            _ => return Kind::Unchecked,
        }
    }
    match KINDS.iter().position(|kind| bytes.starts_with(kind)) {
        Some(kind) => Kind::Known(kind),
        None if KINDS.iter().any(|kind| kind.starts_with(bytes)) => Kind::NotYetKnown,
        None => Kind::Other,
    }
}

/// Whether bytes that are read pass as the answer to those that were written, in pieces of this length.
pub fn is_answered(request: &[u8], answer: &[u8], piece: usize) -> bool {
    let mut check = AnswerCheck::default();
    request.chunks(piece).for_each(|bytes| _ = check.on_write(bytes));
    answer.chunks(piece).all(|bytes| check.on_read(bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREEMENT: &[u8] = b"\x13/multistream/1.0.0\n\x17/kameo/messaging/1.0.0\n";

    fn passes(request: &[u8], answer: &[u8], step: usize) -> bool {
        is_answered(&[AGREEMENT, request].concat(), &[AGREEMENT, answer].concat(), step)
    }

    #[test]
    fn an_answer_is_of_the_kind_of_its_request() {
        let (ask, tell): (&[u8], &[u8]) = (b"\xa1\x63Ask\xa7...", b"\xa1\x64Tell\xa6...");
        for step in [1, 3, 1000] {
            assert!(passes(ask, b"\xa1\x63Ask\xa1\x62Ok\x80", step));
            assert!(passes(tell, b"\xa1\x64Tell\xa1\x62Ok\xf6", step));
            for wrong in [
                &b"\xa1\x64Tell\xa1\x62Ok\xf6"[..],
                b"\xa1\x64Link\xa1\x62Ok\xf6",
                b"\xa1\x66Unlink\xa1\x62Ok\xf6",
                b"\xa1\x6eSignalLinkDied\xa1\x62Ok\xf6",
                b"\xa1\x6fOutboundFailure\x6bDialFailure",
                // The same in forms that Kameo never writes.
                b"\xbf\x63Ask\xa1\x62Ok\x80\xff",
                b"\xa1\x78\x03Ask\xa1\x62Ok\x80",
                b"\x63Ask",
            ] {
                assert!(!passes(ask, wrong, step), "{wrong:02x?}");
            }
            assert!(!passes(tell, b"\xa1\x63Ask\xa1\x62Ok\x80", step));
        }
    }

    #[test]
    fn other_protocols_pass_unchecked() {
        let mut check = AnswerCheck::default();
        assert_eq!(check.on_write(b"\x13/multistream/1.0.0\n\x15/kameo-ping/stream/1\n"), Some(false));
        assert!(check.on_read(b"\xa1\x64Link").is_ok_and(|is_done| is_done));
    }
}
