//! A guest's serial port behind a socket: what the guest writes is waited for, and it is typed to.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::Instance;
use crate::emulator::PATIENCE;

/// The test's end of a guest's serial port.
pub struct Console {
    stream: UnixStream,
    /// What came and was not yet waited for.
    ahead: String,
    /// All that came before it.
    seen: String,
    escape: Escape,
}

/// How far a control sequence has come (ECMA-48, 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// Behind the escape character.
    Begun,
    /// Within parameters, up to a letter.
    Parameters,
}

impl Escape {
    /// Whether a character is text, and none of a control sequence or a carriage return.
    fn is_text(&mut self, letter: char) -> bool {
        *self = match (*self, letter) {
            (Self::None, '\x1b') => Self::Begun,
            (Self::None, _) => return letter != '\r',
            (Self::Begun, '[') => Self::Parameters,
            (Self::Parameters, ' '..='?') => Self::Parameters,
            (Self::Begun | Self::Parameters, _) => Self::None,
        };
        false
    }
}

impl Console {
    /// Options of a serial port that [`Console::connect`] finds. The emulator waits for it.
    pub const ARGS: [&'static str; 2] = ["-serial", "unix:{dir}/serial.sock,server=on,wait=on"];

    /// Connects to the serial port of [`Console::ARGS`].
    ///
    /// # Panics
    ///
    /// If the socket doesn't come in time.
    pub fn connect(instance: &Instance) -> Self {
        let (path, end) = (
            instance.dir().join("serial.sock"),
            Instant::now() + PATIENCE,
        );
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < end, "{error}: {}", instance.report()),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let step = Some(Duration::from_millis(50));
        stream.set_read_timeout(step).expect("a timeout");
        Self {
            stream,
            ahead: String::new(),
            seen: String::new(),
            escape: Escape::None,
        }
    }

    /// Types `text`.
    ///
    /// # Panics
    ///
    /// If the emulator has ended.
    pub fn send(&mut self, text: &str) {
        let sent = self.stream.write_all(text.as_bytes());
        sent.unwrap_or_else(|error| panic!("{error}: {}", self.shown()));
    }

    /// Waits until the guest has written `text`, and returns what came before it since the last call. Carriage returns are left out, and
    /// so are control sequences: firmware moves the cursor in the middle of words.
    ///
    /// # Panics
    ///
    /// If it doesn't come in time; shows what came.
    pub fn wait(&mut self, text: &str, patience: Duration) -> String {
        let end = Instant::now() + patience;
        loop {
            if let Some(at) = self.ahead.find(text) {
                let rest = self.ahead.split_off(at + text.len());
                let found = std::mem::replace(&mut self.ahead, rest);
                self.seen += &found;
                return found[..at].to_string();
            }
            let alive = self.read();
            let in_time = Instant::now() < end;
            assert!(alive && in_time, "no {text:?}: {}", self.shown());
        }
    }

    /// Whether the guest writes `text` in time.
    pub fn shows(&mut self, text: &str, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while !self.ahead.contains(text) {
            if !self.read() || Instant::now() >= end {
                return false;
            }
        }
        true
    }

    /// All that the guest has written.
    pub fn shown(&self) -> String {
        format!("{}{}", self.seen, self.ahead)
    }

    /// Takes what has come, or waits for a moment; false at the end.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                let text = String::from_utf8_lossy(&bytes[..count]);
                let is_text = |letter: &char| self.escape.is_text(*letter);
                self.ahead.extend(text.chars().filter(is_text));
                true
            }
            Err(error) => matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_no_text() {
        let mut escape = Escape::None;
        let told = "a\x1b[2J\x1b[0;30;47mb\x1b[?7l\x1bc c\r\n";
        let text: String = told
            .chars()
            .filter(|letter| escape.is_text(*letter))
            .collect();
        assert_eq!(text, "ab c\n");
    }
}
