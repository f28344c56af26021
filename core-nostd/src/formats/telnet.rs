//! Telnet: what stands between the bytes of a terminal and those of its connection.
//!
//! RFC 854 (commands, and the line end `CR NUL`), RFC 855 (options), RFC 856 (binary), RFC 857 (echo), RFC 858
//! (suppress go-ahead), RFC 1143 (answers that can't go round in circles). A byte FFh of the terminal is doubled on
//! the connection; what follows a single one is a command.
//!
//! A server offers first, as QEMU's does: it will echo, suppress go-ahead and be binary, and asks the client to be
//! binary. Other options are refused. A break is told; other functions (erase, interrupt, are you there) mean nothing
//! to a line without a process, and are passed over, as are subnegotiations. Output is sent as it is even if the
//! client has not agreed to binary: a carriage return that the guest sends alone stays alone.
//!
//! Limits: [`ANSWERS_MAX`] answers a connection, since two ends that were told by a third what was never said can answer
//! each other for ever.

/// Interpret as command: the byte that begins all that is no terminal's. One of the terminal's is sent twice.
pub const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
/// Subnegotiation begins.
const SB: u8 = 250;
const BRK: u8 = 243;
/// Subnegotiation ends.
const SE: u8 = 240;

/// RFC 856.
const BINARY: u8 = 0;
/// RFC 857.
const ECHO: u8 = 1;
/// RFC 858: suppress go-ahead.
const SGA: u8 = 3;

/// What a server says when its client has come.
pub static OFFER: [u8; 12] = [
    IAC, WILL, ECHO, IAC, WILL, SGA, IAC, WILL, BINARY, IAC, DO, BINARY,
];

/// Answers that a connection gets. Wishes are not heard any more then.
pub const ANSWERS_MAX: u8 = 64;

/// A set of the options that are known here.
type Options = u8;

/// An option's bit; none for an unknown one.
const fn bit(option: u8) -> Options {
    match option {
        BINARY => 1,
        ECHO => 2,
        SGA => 4,
        _ => 0,
    }
}

/// What is agreed about one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Side {
    /// What is agreed to if it is asked for.
    fine: Options,
    /// What was asked for, and not answered yet.
    asked: Options,
    on: Options,
}

impl Side {
    /// Takes the peer's wish, and tells whether it has to be answered, with what is done.
    fn wish(&mut self, option: u8, on: bool) -> Option<bool> {
        let bit = bit(option);
        if self.asked & bit != 0 {
            self.asked &= !bit;
            if on {
                self.on |= bit;
            }
            return None;
        }
        if on && bit & self.fine == 0 {
            return Some(false);
        }
        let was = self.on & bit != 0;
        if on {
            self.on |= bit;
        } else {
            self.on &= !bit;
        }
        (was != on).then_some(on)
    }
}

/// Where in the input we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Data,
    /// A carriage return came: a zero behind it only fills a place.
    Return,
    Command,
    /// WILL, WONT, DO or DONT came.
    Option(u8),
    Subnegotiation,
    /// FFh came within one.
    SubnegotiationCommand,
}

/// What a byte of the connection comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing yet, or nothing at all.
    Nothing,
    /// This byte for the terminal.
    Byte(u8),
    /// The other end's break key.
    Break,
    /// The peer is to be sent this.
    Answer([u8; 3]),
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Telnet {
    state: State,
    /// Answers that are left.
    answers: u8,
    /// What this end does.
    local: Side,
    /// What the peer does.
    remote: Side,
}

impl Telnet {
    /// A server, which sends [`OFFER`] first.
    pub const fn server() -> Self {
        let all = bit(BINARY) | bit(ECHO) | bit(SGA);
        Self {
            state: State::Data,
            answers: ANSWERS_MAX,
            local: Side {
                fine: all,
                asked: all,
                on: 0,
            },
            remote: Side {
                fine: bit(BINARY) | bit(SGA),
                asked: bit(BINARY),
                on: 0,
            },
        }
    }

    /// A client, which sends nothing first.
    pub const fn client() -> Self {
        let side = Side {
            fine: bit(BINARY) | bit(SGA),
            asked: 0,
            on: 0,
        };
        Self {
            state: State::Data,
            answers: ANSWERS_MAX,
            local: side,
            remote: Side {
                fine: side.fine | bit(ECHO),
                ..side
            },
        }
    }

    /// Takes a byte from the peer.
    pub fn receive(&mut self, byte: u8) -> Received {
        let (state, received) = self.step(byte);
        self.state = state;
        received
    }

    fn step(&mut self, byte: u8) -> (State, Received) {
        let nothing = Received::Nothing;
        match (self.state, byte) {
            (State::Data | State::Return, IAC) => (State::Command, nothing),
            (State::Return, 0) => (State::Data, nothing),
            (State::Command, WILL | WONT | DO | DONT) => (State::Option(byte), nothing),
            (State::Command, SB) => (State::Subnegotiation, nothing),
            (State::Command, BRK) => (State::Data, Received::Break),
            (State::Command, IAC) => (State::Data, Received::Byte(IAC)),
            (State::Command, _) => (State::Data, nothing),
            (State::Option(verb), option) => (State::Data, self.negotiate(verb, option)),
            (State::Subnegotiation, IAC) => (State::SubnegotiationCommand, nothing),
            (State::SubnegotiationCommand, SE) => (State::Data, nothing),
            (State::Subnegotiation | State::SubnegotiationCommand, _) => {
                (State::Subnegotiation, nothing)
            }
            (State::Data | State::Return, b'\r') if self.remote.on & bit(BINARY) == 0 => {
                (State::Return, Received::Byte(byte))
            }
            (State::Data | State::Return, _) => (State::Data, Received::Byte(byte)),
        }
    }

    fn negotiate(&mut self, verb: u8, option: u8) -> Received {
        if self.answers == 0 {
            return Received::Nothing;
        }
        let (side, yes, no) = match verb {
            DO | DONT => (&mut self.local, WILL, WONT),
            _ => (&mut self.remote, DO, DONT),
        };
        match side.wish(option, matches!(verb, DO | WILL)) {
            None => Received::Nothing,
            Some(on) => {
                self.answers -= 1;
                Received::Answer([IAC, if on { yes } else { no }, option])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// What comes to the terminal, and what is answered.
    fn hear(telnet: &mut Telnet, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut heard, mut answered) = (Vec::new(), Vec::new());
        for byte in bytes {
            match telnet.receive(*byte) {
                Received::Nothing => {}
                Received::Byte(byte) => heard.push(byte),
                Received::Break => heard.extend_from_slice(b"<break>"),
                Received::Answer(answer) => answered.extend_from_slice(&answer),
            }
        }
        (heard, answered)
    }

    #[test]
    fn commands_are_taken_out() {
        for (bytes, heard) in [
            (&b"ab\n"[..], &b"ab\n"[..]),
            (b"a\xff\xffb", b"a\xffb"),
            (b"a\xff\xf3b", b"a<break>b"),
            // NOP, data mark, interrupt, abort, are you there, erase, erase line, go ahead, end of record.
            (
                b"a\xff\xf1b\xff\xf2\xff\xf4\xff\xf5c\xff\xf6\xff\xf7\xff\xf8\xff\xf9\xff\xefd",
                b"abcd",
            ),
            (b"a\xff\xfa\x18\x00xterm\xff\xffy\xff\xf0b", b"ab"),
            (b"a\r\0b\r\nc\r\xff\xf1d", b"a\rb\r\nc\rd"),
            // A zero that is none of the line end's.
            (b"a\0b", b"a\0b"),
        ] {
            let (mut server, mut client) = (Telnet::server(), Telnet::client());
            assert_eq!(hear(&mut server, bytes), (heard.to_vec(), Vec::new()));
            assert_eq!(hear(&mut client, bytes), (heard.to_vec(), Vec::new()));
        }
    }

    #[test]
    fn a_binary_peer_sends_zeros() {
        let mut server = Telnet::server();
        let (heard, answered) = hear(&mut server, b"\xff\xfb\x00\r\0");
        assert_eq!((&heard[..], &answered[..]), (&b"\r\0"[..], &b""[..]));
        // Until it has enough of it.
        let (heard, answered) = hear(&mut server, b"\xff\xfc\x00\r\0");
        assert_eq!(
            (&heard[..], &answered[..]),
            (&b"\r"[..], &b"\xff\xfe\x00"[..])
        );
    }

    #[test]
    fn options_are_answered_once() {
        let mut server = Telnet::server();
        for (wish, answer) in [
            // What was offered is confirmed, or refused.
            (b"\xff\xfd\x01", &b""[..]),
            (b"\xff\xfe\x03", b""),
            (b"\xff\xfd\x01", b""),
            // A change of mind.
            (b"\xff\xfe\x01", b"\xff\xfc\x01"),
            (b"\xff\xfe\x01", b""),
            (b"\xff\xfd\x03", b"\xff\xfb\x03"),
            // What a server does not do: a client's echo, a terminal type, a window size.
            (b"\xff\xfb\x01", b"\xff\xfe\x01"),
            (b"\xff\xfd\x18", b"\xff\xfc\x18"),
            (b"\xff\xfb\x1f", b"\xff\xfe\x1f"),
            (b"\xff\xfc\x1f", b""),
            (b"\xff\xfe\xff", b""),
        ] {
            let (heard, answered) = hear(&mut server, wish);
            assert_eq!((&heard[..], &answered[..]), (&b""[..], answer), "{wish:?}");
        }
    }

    #[test]
    fn client_and_server_agree() {
        let (mut server, mut client) = (Telnet::server(), Telnet::client());
        let (heard, answers) = hear(&mut client, &OFFER);
        assert!(heard.is_empty());
        assert_eq!(hear(&mut server, &answers), (Vec::new(), Vec::new()));
        assert_eq!(server.local.on, bit(ECHO) | bit(SGA) | bit(BINARY));
        assert_eq!(server.remote.on, bit(BINARY));
        assert_eq!(client.local.on, bit(BINARY));
        assert_eq!(client.remote.on, server.local.on);
    }

    #[test]
    fn a_third_party_does_not_make_two_ends_talk_for_ever() {
        let (mut server, mut client) = (Telnet::server(), Telnet::client());
        let offers = b"\xff\xfc\x00\xff\xfb\x00\xff\xfc\x00";
        let (_, mut said) = hear(&mut server, offers);
        let mut turns = 0;
        while !said.is_empty() {
            (_, said) = hear(&mut client, &said);
            (_, said) = hear(&mut server, &said);
            turns += 1;
        }
        assert_eq!(turns, ANSWERS_MAX / 2);
    }

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let mut sent = Vec::new();
        for byte in bytes {
            sent.push(*byte);
            if *byte == IAC {
                sent.push(IAC);
            }
        }
        sent
    }

    proptest! {
        /// What one end says the other one hears, once they are binary.
        #[test]
        fn bytes_go_through(bytes in prop::collection::vec(prop_oneof![Just(IAC), Just(b'\r'), any::<u8>()], 0..200)) {
            let mut server = Telnet::server();
            hear(&mut server, b"\xff\xfb\x00");
            prop_assert_eq!(hear(&mut server, &encoded(&bytes)), (bytes, Vec::new()));
        }

        /// Two ends that answer each other come to an end, whatever was said.
        #[test]
        fn negotiations_end(bytes in prop::collection::vec(prop_oneof![Just(IAC), 250..=254_u8, any::<u8>()], 0..200)) {
            let (mut server, mut client) = (Telnet::server(), Telnet::client());
            let (_, mut said) = hear(&mut server, &bytes);
            for _ in 0..ANSWERS_MAX {
                (_, said) = hear(&mut client, &said);
                (_, said) = hear(&mut server, &said);
            }
            prop_assert_eq!(said, Vec::<u8>::new());
        }
    }
}
