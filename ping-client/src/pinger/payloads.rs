//! The payloads of pings.

use bytes::Bytes;

/// How far the payloads of neighbouring pings are shifted against each other at most. A prime, so that no power of
/// two brings two of them to the same shift.
const SHIFTS: usize = 4093;

/// Payloads that differ from ping to ping, so that none passes for another. All of them are views of the same
/// memory.
#[derive(Clone, Debug)]
pub(super) struct Payloads {
    pattern: Bytes,
    size: usize,
}

impl Payloads {
    pub(super) fn new(size: u64) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let length = if size == 0 { 0 } else { size.saturating_add(SHIFTS) };
        // Knuth's multiplicative hashing ("The Art of Computer Programming", volume 3, section 6.4) of the place.
        let byte = |place: usize| ((place as u32).wrapping_mul(2_654_435_761) >> 24) as u8;
        Self { pattern: (0..length).map(byte).collect(), size }
    }

    /// The payload of the ping with this sequence number.
    pub(super) fn of(&self, sequence: u64) -> Bytes {
        if self.size == 0 {
            return Bytes::new();
        }
        let shift = (sequence % SHIFTS as u64) as usize;
        self.pattern.slice(shift..shift + self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_differ_from_ping_to_ping() {
        let payloads = Payloads::new(1000);
        let first: Vec<_> = (1..100).map(|number| payloads.of(number)).collect();
        assert!(first.iter().all(|payload| payload.len() == 1000));
        assert!((1..99).all(|n| first[..n].iter().all(|other| *other != first[n])));
        assert!(Payloads::new(0).of(1).is_empty());
    }
}
