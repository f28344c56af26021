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

    /// Waits until the guest has written `text`, and returns what came before it since the last call. Carriage returns are left out.
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
                self.ahead
                    .extend(text.chars().filter(|&letter| letter != '\r'));
                true
            }
            Err(error) => matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
            ),
        }
    }
}
