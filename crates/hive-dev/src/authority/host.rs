//! What clients on a Unix socket say in `:authority`.
//!
//! There is no host, so some say the path of the socket: gRPC's C core (and so Python, C++ and Ruby) with its slashes
//! escaped, Java as it is. The HTTP/2 server refuses both as malformed, and gRPC implementations of other languages
//! do not. So the signs that it refuses are replaced on their way in, each by one of the same length, and nothing else
//! in the connection changes: lengths stay right, and the compression of both sides stays in step.
//!
//! Only the structure of HTTP/2 (RFC 9113 §4 and §6.2) and of HPACK (RFC 7541 §6) is followed, not their meaning. What
//! does not keep to it is passed on, and refused by the server behind.

/// The client's first words (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The name, which some spell out, and its index for others (RFC 7541, appendix A).
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;

/// Follows what one client sends.
#[derive(Debug)]
pub(super) struct Host {
    part: Part,
    /// So many bytes of the part are still to come.
    left: usize,
    header: [u8; FRAME_HEADER_BYTES],
    padding: usize,
    field: Field,
}

/// What of the connection comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    FrameHeader,
    /// Padding's length and priority, before the fields.
    Before,
    Fields,
    Ignored,
}

/// What of a field comes next. A block of fields may be cut anywhere, for it may come in several frames.
#[derive(Clone, Copy, Debug)]
enum Field {
    Start,
    /// More of a number.
    Number {
        so_far: usize,
        shift: u32,
        of: Number,
    },
    /// The first byte of a text's length.
    Length(Text),
    Text {
        left: usize,
        plain: bool,
        text: Text,
    },
}

/// What a number is about.
#[derive(Clone, Copy, Debug)]
enum Number {
    /// A whole field, or the size of the table.
    Whole,
    /// The name of a field whose value follows.
    Name,
    Length {
        plain: bool,
        text: Text,
    },
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// Whether it has been like that name so far.
    Name {
        is_authority: bool,
    },
    Value {
        is_authority: bool,
    },
}

impl Default for Host {
    fn default() -> Self {
        let (part, left) = (Part::Ignored, PREFACE_BYTES);
        Self { part, left, header: Default::default(), padding: 0, field: Field::Start }
    }
}

impl Host {
    /// Looks at what came next, and mends it.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let (here, rest) = bytes.split_at_mut(self.left.min(bytes.len()));
            match self.part {
                Part::FrameHeader => {
                    let at = FRAME_HEADER_BYTES - self.left;
                    self.header[at..at + here.len()].copy_from_slice(here);
                }
                Part::Before if self.header[4] & PADDED != 0 && self.left == self.before() => {
                    self.padding = usize::from(here[0]);
                }
                Part::Fields => here.iter_mut().for_each(|byte| self.field.pass(byte)),
                Part::Before | Part::Ignored => {}
            }
            self.left -= here.len();
            bytes = rest;
            while self.left == 0 {
                self.next_part();
            }
        }
    }

    fn next_part(&mut self) {
        let [a, b, c, kind, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        (self.part, self.left) = match self.part {
            Part::FrameHeader if kind == HEADERS => {
                (self.field, self.padding) = (Field::Start, 0);
                (Part::Before, self.before())
            }
            Part::FrameHeader if kind == CONTINUATION => {
                self.padding = 0;
                (Part::Fields, length)
            }
            Part::FrameHeader => (Part::Ignored, length),
            Part::Before => (Part::Fields, length.saturating_sub(self.before() + self.padding)),
            Part::Fields => (Part::Ignored, self.padding),
            Part::Ignored => (Part::FrameHeader, FRAME_HEADER_BYTES),
        };
    }

    /// How long the part before the fields is.
    fn before(&self) -> usize {
        let flags = self.header[4];
        usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 }
    }
}

impl Field {
    fn pass(&mut self, byte: &mut u8) {
        *self = match *self {
            Self::Start => match *byte {
                // Indexed; with a value that is to be remembered; the table's size; a value that is not.
                0x80.. => Self::number(*byte, 7, Number::Whole),
                0x40.. => Self::number(*byte, 6, Number::Name),
                0x20.. => Self::number(*byte, 5, Number::Whole),
                _ => Self::number(*byte, 4, Number::Name),
            },
            Self::Number { so_far, shift, of } => {
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX);
                let so_far = so_far.saturating_add(more);
                match *byte & 0x80 {
                    0 => Self::after(so_far, of),
                    _ => Self::Number { so_far, shift: shift.saturating_add(7), of },
                }
            }
            Self::Length(text) => {
                Self::number(*byte, 7, Number::Length { plain: *byte & 0x80 == 0, text })
            }
            Self::Text { left, plain, text } => {
                let text = text.pass(byte, left, plain);
                if left > 1 { Self::Text { left: left - 1, plain, text } } else { text.end() }
            }
        };
    }

    /// A number that begins in the last `bits` of a byte (RFC 7541 §5.1).
    fn number(byte: u8, bits: u32, of: Number) -> Self {
        let mask = u8::MAX >> (8 - bits);
        match byte & mask {
            all if all == mask => Self::Number { so_far: usize::from(mask), shift: 0, of },
            number => Self::after(usize::from(number), of),
        }
    }

    fn after(number: usize, of: Number) -> Self {
        match (of, number) {
            (Number::Whole, _) => Self::Start,
            (Number::Name, 0) => Self::Length(Text::Name { is_authority: true }),
            (Number::Name, index) => {
                Self::Length(Text::Value { is_authority: index == AUTHORITY_INDEX })
            }
            (Number::Length { text, .. }, 0) => text.end(),
            (Number::Length { plain, text }, left) => {
                Self::Text { left, plain, text: text.of_length(left) }
            }
        }
    }
}

impl Text {
    fn of_length(self, length: usize) -> Self {
        match self {
            Self::Name { .. } => Self::Name { is_authority: length == AUTHORITY.len() },
            value @ Self::Value { .. } => value,
        }
    }

    /// One more byte, when so many are left with it. A text that is not plain is one in Huffman's code: nobody who
    /// says a path in `:authority` uses it.
    fn pass(self, byte: &mut u8, left: usize, plain: bool) -> Self {
        match self {
            Self::Name { is_authority: true } => {
                let expected = AUTHORITY.len().checked_sub(left).and_then(|at| AUTHORITY.get(at));
                Self::Name { is_authority: plain && expected == Some(byte) }
            }
            Self::Value { is_authority: true } if plain && matches!(*byte, b'%' | b'/') => {
                *byte = b'-';
                self
            }
            other => other,
        }
    }

    fn end(self) -> Field {
        match self {
            Self::Name { is_authority } => Field::Length(Self::Value { is_authority }),
            Self::Value { .. } => Field::Start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method: POST`, `:authority` by its index and spelled out, `:path`, and fields of names like it.
    fn fields(authority: &[u8]) -> Vec<u8> {
        let length = [u8::try_from(authority.len()).expect("short")];
        [
            &[0x83, 0x41],
            &length[..],
            authority,
            b"\x04\x06/A/%2F\x40\x0a:authority",
            &length,
            authority,
            b"\x00\x0a:authoritx\x04b%2F\x00\x03a/%\x04b%2F",
            &[0x3f, 0x80, 0x01],
        ]
        .concat()
    }

    /// A connection on which every field and every frame says `%` and `/`.
    fn connection(authority: &[u8]) -> Vec<u8> {
        let fields = fields(authority);
        let (begin, end) = fields.split_at(6);
        let padded = [&[3, 0, 0, 0, 0, 16], &fields[..], b"%/%"].concat();
        [
            PREFACE.to_vec(),
            frame(4, 0, b""),
            frame(HEADERS, 0x04, &fields),
            frame(0, 0, b"A/%2F"),
            frame(HEADERS, 0x04 | PADDED | PRIORITY, &padded),
            frame(HEADERS, 0, begin),
            frame(CONTINUATION, 0x04, end),
            frame(8, 0, b"%/%/"),
        ]
        .concat()
    }

    #[test]
    fn only_the_authority_is_mended_however_the_connection_is_cut() {
        for (said, mended) in [
            (&b"tmp%2Fa%2Fapi.sock"[..], &b"tmp-2Fa-2Fapi.sock"[..]),
            (b"/tmp/api.sock", b"-tmp-api.sock"),
            (b"localhost:80", b"localhost:80"),
            (b"", b""),
        ] {
            let expected = connection(mended);
            for cut in 1..expected.len() {
                let (mut host, mut bytes) = (Host::default(), connection(said));
                bytes.chunks_mut(cut).for_each(|piece| host.pass(piece));
                assert_eq!(bytes, expected, "in pieces of {cut}");
            }
        }
    }

    #[test]
    fn a_long_authority_is_followed_to_its_end() {
        let block = |sign: u8| {
            let text = [sign].repeat(200);
            // 200 is 127 and 73 more (RFC 7541 §5.1).
            [&[0x41, 0x7f, 73], &text[..], b"\x04\x01/"].concat()
        };
        let (mut host, mut bytes) = (Host::default(), PREFACE.to_vec());
        bytes.extend(frame(HEADERS, 0x04, &block(b'/')));
        host.pass(&mut bytes);
        assert_eq!(bytes[PREFACE.len()..], frame(HEADERS, 0x04, &block(b'-')));
    }

    #[test]
    fn nothing_that_a_client_sends_stops_it() {
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let mut noise: Vec<u8> = PREFACE.to_vec();
            for _ in 0..20 {
                let payload: Vec<u8> = (0..40).map(|_| next(&mut state)).collect();
                noise.extend(frame(next(&mut state) % 10, next(&mut state), &payload));
                noise.push(next(&mut state));
            }
            Host::default().pass(&mut noise);
        }
    }

    fn next(state: &mut u64) -> u8 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 56) as u8
    }
}
