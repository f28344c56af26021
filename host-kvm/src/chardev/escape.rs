//! The escape key in the input of a terminal that the guest's console and the emulator share.
//!
//! A state machine: bytes in, bytes for the guest and commands out. The key is Ctrl-A unless
//! `-echr` says another one; what follows it is a command.

/// The default escape key, Ctrl-A.
pub const DEFAULT_KEY: u8 = 0x01;

/// What the user asked for with the escape key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `x`: end the emulator.
    Quit,
    /// `h` or `?`: list the commands.
    Help,
    /// `c`: the human monitor, which does not exist.
    Monitor,
}

/// Where in the input we are.
#[derive(Clone, Debug)]
pub(super) struct Escape {
    key: u8,
    armed: bool,
}

impl Escape {
    /// A machine that has seen nothing yet.
    pub(super) const fn new(key: u8) -> Self {
        Self { key, armed: false }
    }

    /// Takes one byte: a byte for the guest, a command, or nothing. A key without meaning after
    /// the escape key is dropped.
    pub(super) fn feed(&mut self, byte: u8) -> (Option<u8>, Option<Command>) {
        if !self.armed {
            self.armed = byte == self.key;
            return (Some(byte).filter(|_| !self.armed), None);
        }
        self.armed = false;
        match byte {
            _ if byte == self.key => (Some(byte), None),
            b'a' => (Some(self.key), None),
            b'x' => (None, Some(Command::Quit)),
            b'h' | b'?' => (None, Some(Command::Help)),
            b'c' => (None, Some(Command::Monitor)),
            _ => (None, None),
        }
    }

    /// What to show for a command, in lines that a raw terminal needs.
    pub(super) fn message(&self, command: Command) -> String {
        let key = match self.key {
            0 => "C-@".to_owned(),
            1..=26 => format!("C-{}", char::from(b'a' - 1 + self.key)),
            27..=31 => format!("C-{}", char::from(b'@' + self.key)),
            key => char::from(key).to_string(),
        };
        match command {
            Command::Quit => "thimble: terminated\r\n".to_owned(),
            Command::Help => format!(
                "\r\n{key} h    this list\r\n{key} x    end the emulator\r\n{key} {key}  send {key}\r\n"
            ),
            Command::Monitor => "\r\nthere is no human monitor\r\n".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_bytes() {
        let mut escape = Escape::new(DEFAULT_KEY);
        let (mut bytes, mut commands) = (Vec::new(), Vec::new());
        for &byte in b"ab\x01\x01c\x01ad\x01h\x01q\x01c\x01x" {
            let (byte, command) = escape.feed(byte);
            bytes.extend(byte);
            commands.extend(command);
        }
        assert_eq!(bytes, b"ab\x01c\x01d");
        assert_eq!(commands, [Command::Help, Command::Monitor, Command::Quit]);
        assert!(Escape::new(20).message(Command::Help).contains("C-t x"));
    }
}
