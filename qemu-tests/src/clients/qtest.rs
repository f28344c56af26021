//! A client of the qtest protocol: one request line, one answer line, and interrupt lines in between.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{LineReader, connect};
use crate::emulator::PATIENCE;

/// A connection to a qtest server.
pub struct QtestClient {
    stream: UnixStream,
    reader: LineReader,
    interrupts: Vec<String>,
}

impl QtestClient {
    /// Connects as soon as somebody listens.
    ///
    /// # Errors
    ///
    /// If nobody does in time.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = connect(path, timeout)?;
        Ok(Self {
            reader: LineReader::new(stream.try_clone()?),
            stream,
            interrupts: Vec::new(),
        })
    }

    /// Sends one request line and waits for its answer, without the line's end.
    /// `IRQ` lines on the way are collected: see [`Self::take_interrupts`].
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the server closes the connection instead (see [`connection_closed`]), or `TimedOut`.
    pub fn request(&mut self, request: &str) -> io::Result<String> {
        let sent = self.stream.write_all(format!("{request}\n").as_bytes());
        if sent.is_err() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        loop {
            let line = self.reader.line(PATIENCE)?;
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.starts_with("IRQ ") {
                self.interrupts.push(line);
            } else {
                return Ok(line);
            }
        }
    }

    /// The `IRQ` lines since the last call.
    pub fn take_interrupts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.interrupts)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next line, of whatever kind.
    ///
    /// # Errors
    ///
    /// As [`Self::request`].
    pub fn line(&mut self, timeout: Duration) -> io::Result<String> {
        let line = self.reader.line(timeout)?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

/// Whether an error says that the peer is gone, and not that it is slow.
pub fn connection_closed(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}
