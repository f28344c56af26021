//! The escape key in the input of a terminal that several share: guest consoles and monitors.
//!
//! A state machine: bytes in, bytes for who has the terminal and commands out. The key is Ctrl-A
//! unless `-echr` says another one; what follows it is a command.

/// The default escape key, Ctrl-A.
pub const DEFAULT_KEY: u8 = 0x01;

/// What the user asked for with the escape key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `x`: end the emulator.
    Quit,
    /// `h` or `?`: list the commands.
    Help,
    /// `c`: the terminal to the next of those who share it.
    Switch,
    /// `b`: a break on the line.
    Break,
    /// `t`: the time before each line, or no longer.
    Timestamps,
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

    /// Takes one byte: a byte for who has the terminal, a command, or nothing. A key without meaning
    /// after the escape key is dropped. So is `s`, which saves what a snapshot of a disk has gathered:
    /// there are no disks.
    pub(super) fn feed(&mut self, byte: u8) -> (Option<u8>, Option<Command>) {
        if !self.armed {
            self.armed = byte == self.key;
            return (Some(byte).filter(|_| !self.armed), None);
        }
        self.armed = false;
        let command = match byte {
            _ if byte == self.key => return (Some(byte), None),
            b'a' => return (Some(self.key), None),
            b'x' => Command::Quit,
            b'h' | b'?' => Command::Help,
            b'c' => Command::Switch,
            b'b' => Command::Break,
            b't' => Command::Timestamps,
            _ => return (None, None),
        };
        (None, Some(command))
    }

    /// The list of commands, in lines that a raw terminal needs.
    pub(super) fn help(&self) -> String {
        let key = match self.key {
            0 => "C-@".to_owned(),
            1..=26 => format!("C-{}", char::from(b'a' - 1 + self.key)),
            27..=31 => format!("C-{}", char::from(b'@' + self.key)),
            key => char::from(key).to_string(),
        };
        let mut text = String::new();
        for (name, what) in [
            ("h", "this list"),
            ("x", "end the emulator"),
            ("t", "times before lines on and off"),
            ("b", "a break on the line"),
            ("c", "the terminal to the next: console, monitor"),
            (&key, "the key itself"),
        ] {
            text += &format!("\r\n{key} {name:4} {what}");
        }
        text + "\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_bytes() {
        let mut escape = Escape::new(DEFAULT_KEY);
        let (mut bytes, mut commands) = (Vec::new(), Vec::new());
        for &byte in b"ab\x01\x01c\x01ad\x01h\x01q\x01s\x01?\x01c\x01b\x01t\x01x" {
            let (byte, command) = escape.feed(byte);
            bytes.extend(byte);
            commands.extend(command);
        }
        assert_eq!(bytes, b"ab\x01c\x01d");
        use Command::{Break, Help, Quit, Switch, Timestamps};
        assert_eq!(commands, [Help, Help, Switch, Break, Timestamps, Quit]);
        assert!(Escape::new(20).help().contains("\r\nC-t x    end"));
        assert!(Escape::new(29).help().contains("\r\nC-] C-]  the"));
    }
}
