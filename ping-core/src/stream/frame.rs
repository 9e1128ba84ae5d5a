//! The frames of a stream. `docs/stream.md` describes them byte by byte.

use std::{error, fmt};

use bytes::{BufMut, Bytes};

use crate::protocol::RunId;

/// How many bytes of payload one frame carries: as many as yamux and Noise put in one frame. Small pings fit between
/// two parts of a large payload.
pub const MAX_PART_SIZE: usize = 16 * 1024;

/// The length of a frame's own length field, in bytes.
pub(crate) const LENGTH: usize = 4;

/// The largest value of the length field: kind, one number, and payload.
const MAX_LENGTH: usize = 1 + 8 + MAX_PART_SIZE;

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A ping, or the end of one whose payload came before: count it and send a pong.
    Ask {
        /// The client's number for this ping. The pong repeats it.
        id: u64,
    },
    /// A ping, or the end of one whose payload came before: count it.
    Tell {
        /// The client's number for this ping.
        id: u64,
    },
    /// A part of the payload of a ping whose [`Ask`](Self::Ask) follows: send it back.
    AskPart {
        /// The number of that ping.
        id: u64,
        /// From 1 to [`MAX_PART_SIZE`] bytes.
        payload: Bytes,
    },
    /// A part of the payload of a ping whose [`Tell`](Self::Tell) follows.
    TellPart {
        /// The number of that ping.
        id: u64,
        /// From 1 to [`MAX_PART_SIZE`] bytes.
        payload: Bytes,
    },
    /// The pings of this stream belong to a run, and are counted once each. Only the first frame of a client can be
    /// one.
    Run {
        /// The run.
        run: RunId,
    },
    /// The client will not send any ping of the run below this number again.
    SettledBelow {
        /// That number.
        floor: u64,
    },
    /// The server is ready. Its first frame.
    Welcome {
        /// How many pings the actor has counted so far.
        total: u64,
    },
    /// The answer to one [`Ask`](Self::Ask). All parts of its payload have been sent back before it.
    Pong {
        /// The number of the ping.
        id: u64,
        /// How many pings the actor has counted, from all clients, this one included.
        total: u64,
    },
    /// How many [`Tell`](Self::Tell)s are counted, in their order of arrival.
    Counted {
        /// How many on this stream.
        tells: u64,
        /// How many pings of all kinds, from all clients, these included.
        total: u64,
    },
    /// The payload of an [`AskPart`](Self::AskPart), sent back.
    Part {
        /// The number of the ping.
        id: u64,
        /// From 1 to [`MAX_PART_SIZE`] bytes.
        payload: Bytes,
    },
    /// The server ends the stream. Its last frame.
    End {
        /// Why, in UTF-8, from 1 to [`MAX_PART_SIZE`] bytes.
        reason: Bytes,
    },
}

/// A frame's kind: its first byte behind the length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    Ask = 0x01,
    Tell = 0x02,
    AskPart = 0x03,
    TellPart = 0x04,
    Run = 0x05,
    SettledBelow = 0x06,
    Welcome = 0x80,
    Pong = 0x81,
    Counted = 0x82,
    Part = 0x83,
    End = 0x84,
}

impl Kind {
    fn of(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            0x01 => Self::Ask,
            0x02 => Self::Tell,
            0x03 => Self::AskPart,
            0x04 => Self::TellPart,
            0x05 => Self::Run,
            0x06 => Self::SettledBelow,
            0x80 => Self::Welcome,
            0x81 => Self::Pong,
            0x82 => Self::Counted,
            0x83 => Self::Part,
            0x84 => Self::End,
            _ => return Err(Malformed::Kind(byte)),
        })
    }

    /// How many numbers a frame of this kind has, and whether a payload follows them.
    fn layout(self) -> (usize, bool) {
        match self {
            Self::Ask | Self::Tell | Self::SettledBelow | Self::Welcome => (1, false),
            Self::Run | Self::Pong | Self::Counted => (2, false),
            Self::AskPart | Self::TellPart | Self::Part => (1, true),
            Self::End => (0, true),
        }
    }
}

/// The fixed part of a frame: everything but the payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    kind: Kind,
    numbers: [u64; 2],
    /// How many bytes come before the payload, the length field included.
    pub(crate) fixed: usize,
    /// How many bytes of payload follow.
    pub(crate) payload: usize,
}

impl Head {
    /// Reads the fixed part of the frame that these bytes start with; `None` if it is not complete.
    ///
    /// # Errors
    ///
    /// When no frame starts like this, as soon as the bytes show it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(1..=MAX_LENGTH).contains(&length) {
            return Err(Malformed::Length(length));
        }
        let Some((&kind, mut rest)) = rest.split_first() else { return Ok(None) };
        let kind = Kind::of(kind)?;
        let (count, carries) = kind.layout();
        let fixed = 1 + 8 * count;
        let payload = length.checked_sub(fixed).ok_or(Malformed::Short { kind: kind as u8, length })?;
        if carries != (payload > 0) || payload > MAX_PART_SIZE {
            return Err(Malformed::Short { kind: kind as u8, length });
        }
        let mut numbers = [0; 2];
        for number in &mut numbers[..count] {
            let Some((bytes, behind)) = rest.split_first_chunk() else { return Ok(None) };
            *number = u64::from_be_bytes(*bytes);
            rest = behind;
        }
        Ok(Some(Self { kind, numbers, fixed: LENGTH + fixed, payload }))
    }

    /// The frame of this fixed part and this payload.
    pub(crate) fn with(self, payload: Bytes) -> Frame {
        let [first, second] = self.numbers;
        match self.kind {
            Kind::Ask => Frame::Ask { id: first },
            Kind::Tell => Frame::Tell { id: first },
            Kind::AskPart => Frame::AskPart { id: first, payload },
            Kind::TellPart => Frame::TellPart { id: first, payload },
            Kind::Run => Frame::Run { run: RunId(first, second) },
            Kind::SettledBelow => Frame::SettledBelow { floor: first },
            Kind::Welcome => Frame::Welcome { total: first },
            Kind::Pong => Frame::Pong { id: first, total: second },
            Kind::Counted => Frame::Counted { tells: first, total: second },
            Kind::Part => Frame::Part { id: first, payload },
            Kind::End => Frame::End { reason: payload },
        }
    }
}

impl Frame {
    /// Writes the fixed part of the frame to `out`, and returns the payload.
    pub(crate) fn encode(self, out: &mut Vec<u8>) -> Bytes {
        let kind = self.kind_of();
        let none = Bytes::new();
        let (numbers, payload) = match self {
            Self::Ask { id } | Self::Tell { id } => ([id, 0], none),
            Self::Run { run: RunId(high, low) } => ([high, low], none),
            Self::SettledBelow { floor: number } | Self::Welcome { total: number } => ([number, 0], none),
            Self::Pong { id, total } => ([id, total], none),
            Self::Counted { tells, total } => ([tells, total], none),
            Self::AskPart { id, payload } | Self::TellPart { id, payload } | Self::Part { id, payload } => {
                ([id, 0], payload)
            }
            Self::End { reason } => ([0, 0], reason),
        };
        let (count, _) = kind.layout();
        debug_assert!(payload.len() <= MAX_PART_SIZE, "a part is at most MAX_PART_SIZE bytes long");
        // At most MAX_LENGTH, which fits.
        out.put_u32((1 + 8 * count + payload.len()) as u32);
        out.put_u8(kind as u8);
        numbers[..count].iter().for_each(|number| out.put_u64(*number));
        payload
    }

    /// The frame's kind on the wire.
    pub(crate) fn kind(&self) -> u8 {
        self.kind_of() as u8
    }

    fn kind_of(&self) -> Kind {
        match self {
            Self::Ask { .. } => Kind::Ask,
            Self::Tell { .. } => Kind::Tell,
            Self::AskPart { .. } => Kind::AskPart,
            Self::TellPart { .. } => Kind::TellPart,
            Self::Run { .. } => Kind::Run,
            Self::SettledBelow { .. } => Kind::SettledBelow,
            Self::Welcome { .. } => Kind::Welcome,
            Self::Pong { .. } => Kind::Pong,
            Self::Counted { .. } => Kind::Counted,
            Self::Part { .. } => Kind::Part,
            Self::End { .. } => Kind::End,
        }
    }
}

/// Bytes that are not a frame, or a frame that is not allowed where it arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// No frame has this length.
    Length(usize),
    /// There is no such kind.
    Kind(u8),
    /// A frame of this kind does not have this length.
    Short {
        /// The kind's byte.
        kind: u8,
        /// The value of the length field.
        length: usize,
    },
    /// A frame of this kind is not sent in this direction, or not at this point.
    Unexpected(u8),
    /// A ping of a run whose number is below those that may still be sent, or too far above them.
    Outside(u64),
    /// A count of tells that exceeds what was sent, or is lower than the count before it.
    Miscounted(u64),
    /// The stream ended within a frame.
    Cut,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "a frame of {length} bytes (allowed: 1 to {MAX_LENGTH})"),
            Self::Kind(kind) => write!(f, "a frame of unknown kind {kind:#04x}"),
            Self::Short { kind, length } => write!(f, "a frame of kind {kind:#04x} with the wrong length {length}"),
            Self::Unexpected(kind) => write!(f, "an unexpected frame of kind {kind:#04x}"),
            Self::Outside(id) => write!(f, "ping number {id} is outside the window of its run"),
            Self::Miscounted(tells) => write!(f, "an impossible count of {tells} told pings"),
            Self::Cut => write!(f, "the stream ended within a frame"),
        }
    }
}

impl error::Error for Malformed {}
