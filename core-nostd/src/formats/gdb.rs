//! The framing of gdb's remote serial protocol: packets out of bytes, bytes out of packets.
//!
//! Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol", sections "Overview" and "Packet
//! Acknowledgment". A packet is `$`, its payload, `#` and two digits that say the sum of the payload's bytes as they were
//! sent. In the payload `}` stands before a byte that is changed by 20h, and in answers `*` and a byte say how often the
//! byte before them comes again. Outside of packets there are `+`, `-` and the byte 3, which asks for an interrupt.
//!
//! What packets mean is not known here. Not modelled: notifications (`%`), and the sequence numbers of old.

use crate::qmp::{Sink, SinkFull};

/// Bytes that a payload may have. A longer one is reported when it ends, and is otherwise lost.
pub const PACKET_MAX: usize = 4096;

/// Asks for an interrupt, outside of packets.
pub const INTERRUPT: u8 = 3;

/// Is sent before a byte that would mean something else: that byte is changed by [`ESCAPE_BIT`].
const ESCAPE: u8 = b'}';
/// See [`ESCAPE`].
const ESCAPE_BIT: u8 = 0x20;
/// Stands before the number of times that the byte before it comes again.
const RUN: u8 = b'*';
/// What is added to that number, so that it can be printed.
const RUN_BASE: u8 = 29;
/// A run is worth its two bytes from so many repetitions on, and fewer have no number that can be printed.
const RUN_MIN: usize = 3;
/// More repetitions have no number that can be printed.
const RUN_MAX: usize = (126 - RUN_BASE) as usize;

/// What a [`Decoder`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A packet is whole: see [`Decoder::packet`].
    Packet,
    /// A packet came whose sum is wrong.
    BadSum,
    /// A packet came that is longer than [`PACKET_MAX`].
    TooLong,
    /// `+`: the last packet has arrived.
    Ack,
    /// `-`: the last packet is to be sent again.
    Nak,
    /// Byte 3.
    Interrupt,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the debugger: `*` stands for itself.
    Requests,
    /// To it.
    Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Outside,
    Payload,
    /// Behind `}`.
    Escaped,
    /// Behind `*`.
    Counting,
    /// Behind `#`.
    Sum,
    /// Behind the first digit of the sum, if it is one.
    Digit(Option<u8>),
}

/// Finds packets in bytes that come in pieces of any size.
#[derive(Clone, Debug)]
pub struct Decoder {
    direction: Direction,
    state: State,
    sum: u8,
    /// Bytes of the payload, those that found no room too.
    length: usize,
    payload: [u8; PACKET_MAX],
}

impl Decoder {
    /// Outside of any packet.
    pub const fn new(direction: Direction) -> Self {
        Self {
            direction,
            state: State::Outside,
            sum: 0,
            length: 0,
            payload: [0; PACKET_MAX],
        }
    }

    /// Takes a byte; tells what it completes. A `$` always begins a packet: what was cut off before it is lost.
    pub fn push(&mut self, byte: u8) -> Option<Item> {
        if byte == b'$' && !matches!(self.state, State::Escaped | State::Counting) {
            (self.state, self.sum, self.length) = (State::Payload, 0, 0);
            return None;
        }
        if !matches!(self.state, State::Outside | State::Sum | State::Digit(_)) && byte != b'#' {
            self.sum = self.sum.wrapping_add(byte);
        }
        match (self.state, byte) {
            (State::Outside, b'+') => return Some(Item::Ack),
            (State::Outside, b'-') => return Some(Item::Nak),
            (State::Outside, INTERRUPT) => return Some(Item::Interrupt),
            (State::Outside, _) => {}
            // Even behind an escape: none is sent so.
            (State::Payload | State::Escaped | State::Counting, b'#') => self.state = State::Sum,
            (State::Payload, ESCAPE) => self.state = State::Escaped,
            (State::Payload, RUN) if self.direction == Direction::Answers => {
                self.state = State::Counting;
            }
            (State::Payload, byte) => self.add(byte),
            (State::Escaped, byte) => {
                self.add(byte ^ ESCAPE_BIT);
                self.state = State::Payload;
            }
            (State::Counting, byte) => {
                let last = self.length.min(PACKET_MAX).checked_sub(1);
                let last = last.map_or(0, |last| self.payload[last]);
                for _ in 0..byte.saturating_sub(RUN_BASE) {
                    self.add(last);
                }
                self.state = State::Payload;
            }
            (State::Sum, byte) => self.state = State::Digit(digit(byte)),
            (State::Digit(first), byte) => {
                self.state = State::Outside;
                let sum = first.zip(digit(byte)).map(|(high, low)| high << 4 | low);
                return Some(if sum != Some(self.sum) {
                    Item::BadSum
                } else if self.length > PACKET_MAX {
                    Item::TooLong
                } else {
                    Item::Packet
                });
            }
        }
        None
    }

    fn add(&mut self, byte: u8) {
        if let Some(place) = self.payload.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// The payload of the packet that [`Decoder::push`] has completed last, as far as there is room for it.
    pub fn packet(&self) -> &[u8] {
        self.payload.get(..self.length).unwrap_or(&self.payload)
    }
}

/// Writes a packet to the debugger, with runs made short.
///
/// # Errors
/// If it does not fit; a part of it may be written.
pub fn encode(payload: &[u8], sink: &mut dyn Sink) -> Result<(), SinkFull> {
    let mut sum = 0u8;
    sink.put(b"$")?;
    let mut put = |bytes: &[u8]| {
        sum = bytes.iter().fold(sum, |sum, byte| sum.wrapping_add(*byte));
        sink.put(bytes)
    };
    let mut rest = payload;
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b'#' | b'$' | ESCAPE | RUN => put(&[ESCAPE, byte ^ ESCAPE_BIT])?,
            byte => put(&[byte])?,
        }
        let again = behind
            .iter()
            .take(RUN_MAX)
            .take_while(|next| **next == byte)
            .count();
        let again = match again {
            ..RUN_MIN => 0,
            // Their numbers would look like a packet's end and beginning.
            6 | 7 => 5,
            again => again,
        };
        if again > 0 {
            put(&[RUN, RUN_BASE + again as u8])?;
        }
        rest = &behind[again..];
    }
    sink.put(&[b'#', hex_digit(sum >> 4), hex_digit(sum & 15)])
}

/// The value of a hexadecimal digit.
pub const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The digit of a value below 16.
pub const fn hex_digit(value: u8) -> u8 {
    match value {
        0..10 => b'0' + value,
        _ => b'a' + (value & 15) - 10,
    }
}

/// Takes a number of up to 64 bits from the front of a text; `None` if there is none.
pub fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let count = text.iter().take_while(|byte| digit(**byte).is_some());
    let (digits, rest) = text.split_at(count.count());
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for byte in digits {
        // Its upper digits may only be zeros.
        if value >> 60 != 0 {
            return None;
        }
        value = value << 4 | u64::from(digit(*byte)?);
    }
    Some((value, rest))
}

/// Fills bytes from a text of two digits each; `None` if it is too short or no such text. Gives what is behind.
pub fn bytes<'t>(text: &'t [u8], to: &mut [u8]) -> Option<&'t [u8]> {
    let (digits, rest) = text.split_at_checked(to.len().checked_mul(2)?)?;
    for (to, pair) in to.iter_mut().zip(digits.chunks_exact(2)) {
        *to = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(rest)
}

/// Writes bytes as two digits each.
///
/// # Errors
/// If they do not fit.
pub fn put_bytes(bytes: &[u8], sink: &mut dyn Sink) -> Result<(), SinkFull> {
    for byte in bytes {
        sink.put(&[hex_digit(byte >> 4), hex_digit(byte & 15)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// What bytes hold, with the payloads of packets.
    fn items(direction: Direction, bytes: &[u8]) -> Vec<(Item, Vec<u8>)> {
        let mut decoder = Decoder::new(direction);
        let mut found = Vec::new();
        for byte in bytes {
            if let Some(item) = decoder.push(*byte) {
                let payload = match item {
                    Item::Packet => decoder.packet().to_vec(),
                    _ => Vec::new(),
                };
                found.push((item, payload));
            }
        }
        found
    }

    fn requests(bytes: &[u8]) -> Vec<(Item, Vec<u8>)> {
        items(Direction::Requests, bytes)
    }

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let mut out = heapless::Vec::<u8, { 2 * PACKET_MAX + 4 }>::new();
        encode(payload, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn packets_and_what_is_between_them() {
        let bytes = b"+$g#67\x03-x$#00$OK#9a";
        let found = requests(bytes);
        let expected = [
            (Item::Ack, &b""[..]),
            (Item::Packet, b"g"),
            (Item::Interrupt, b""),
            (Item::Nak, b""),
            (Item::Packet, b""),
            (Item::Packet, b"OK"),
        ];
        assert!(found.iter().map(|(i, p)| (*i, p.as_slice())).eq(expected));
    }

    #[test]
    fn sums_are_of_the_bytes_as_sent() {
        // }: 7d, then 03: #.
        let found = requests(b"$X0,1:}\x03#ea");
        let sum = b"X0,1:}\x03".iter().fold(0u8, |s, b| s.wrapping_add(*b));
        assert_eq!(sum, 0x9f);
        assert_eq!(found, [(Item::BadSum, Vec::new())]);
        let found = requests(b"$X0,1:}\x03#9F");
        assert_eq!(found, [(Item::Packet, b"X0,1:#".to_vec())]);
        assert_eq!(requests(b"$g#6x"), [(Item::BadSum, Vec::new())]);
        assert_eq!(requests(b"$g#x7"), [(Item::BadSum, Vec::new())]);
    }

    #[test]
    fn a_cut_packet_is_forgotten_at_the_next() {
        let expected = [(Item::Packet, b"g".to_vec())];
        for cut in [&b"$m0,"[..], b"$m0,4#", b"$m0,4#2"] {
            assert_eq!(requests(&[cut, b"$g#67"].concat()), expected);
        }
        // Byte 3 in a payload is a byte.
        assert_eq!(requests(b"$\x03#03"), [(Item::Packet, b"\x03".to_vec())]);
    }

    #[test]
    fn a_packet_of_the_greatest_length_fits_and_no_longer_one() {
        for (length, item) in [(PACKET_MAX, Item::Packet), (PACKET_MAX + 1, Item::TooLong)] {
            let mut bytes = std::vec![b'$'];
            bytes.resize(length + 1, b'a');
            let sum = (length as u8).wrapping_mul(b'a');
            bytes.extend([b'#', hex_digit(sum >> 4), hex_digit(sum & 15)]);
            bytes.extend(b"$g#67");
            let found = requests(&bytes);
            assert_eq!((found[0].0, found[1].0), (item, Item::Packet));
            assert_eq!(found[1].1, b"g");
        }
    }

    #[test]
    fn runs_are_those_of_the_manual() {
        assert_eq!(encoded(b"0000"), b"$0* #7a");
        // Seven and eight alike are a run of five more, and the rest.
        assert_eq!(encoded(b"0000000"), b"$0*\"0#ac");
        assert_eq!(encoded(b"00000000"), b"$0*\"00#dc");
        assert_eq!(encoded(b"000000000"), b"$0*%#7f");
        assert_eq!(encoded(b"000"), b"$000#90");
        // In requests there are none.
        assert_eq!(requests(b"$0* #7a"), [(Item::Packet, b"0* ".to_vec())]);
    }

    #[test]
    fn what_is_encoded_reads_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mixed: Vec<u8> = (0..400u32).map(|n| (n * n / 700) as u8).collect();
        let runs = |byte| (0..300).map(move |n| std::vec![byte; n]);
        let payloads = [all, mixed].into_iter();
        for payload in payloads.chain(runs(b'0')).chain(runs(b'*')) {
            let bytes = encoded(&payload);
            let text = &bytes[1..bytes.len() - 3];
            assert!(!text.contains(&b'$') && !text.contains(&b'#'));
            let found = items(Direction::Answers, &bytes);
            assert_eq!(found, [(Item::Packet, payload)]);
        }
    }

    #[test]
    fn a_run_of_nothing_is_nothing_bad() {
        assert_eq!(
            items(Direction::Answers, b"$*!#4b"),
            [(Item::Packet, std::vec![0; 4])]
        );
        let found = items(Direction::Answers, b"$0*\x00#5a");
        assert_eq!(found, [(Item::Packet, b"0".to_vec())]);
    }

    #[test]
    fn numbers_and_bytes() {
        assert_eq!(number(b"ffff,4"), Some((0xffff, &b",4"[..])));
        assert_eq!(number(b"0FFFFFFFFFFFFFFFF"), Some((u64::MAX, &b""[..])));
        assert_eq!(number(b"10000000000000000"), None);
        assert_eq!(number(b",4"), None);
        let mut two = [0; 2];
        assert_eq!(bytes(b"12fF;", &mut two), Some(&b";"[..]));
        assert_eq!(two, [0x12, 0xff]);
        assert_eq!(bytes(b"123", &mut two), None);
        assert_eq!(bytes(b"12g4", &mut two), None);
        let mut out = heapless::Vec::<u8, 4>::new();
        put_bytes(&[0xab, 1], &mut out).unwrap();
        assert_eq!(out, b"ab01");
        assert_eq!(put_bytes(&[0], &mut out), Err(SinkFull));
    }
}
