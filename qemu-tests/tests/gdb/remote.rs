//! A debugger by hand: packets over the socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use qemu_tests::Instance;

use super::{PATIENCE, wait_for};

/// A connection.
pub(crate) struct Remote {
    stream: UnixStream,
    /// Whether packets are to be acknowledged.
    acknowledges: bool,
}

impl Remote {
    /// Connects to a run's debugger socket.
    pub(crate) fn connect(instance: &Instance) -> Self {
        let path = instance.dir().join("gdb.sock");
        wait_for(&path, instance);
        let stream = UnixStream::connect(path).expect("a connection");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has one");
        Self {
            stream,
            acknowledges: true,
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer listens");
    }

    /// Sends a packet; false if the peer is gone, or takes nothing any more.
    pub(crate) fn try_send(&mut self, packet: &str) -> bool {
        let timeout = Some(Duration::from_secs(2));
        self.stream.set_write_timeout(timeout).expect("a socket");
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        let framed = format!("${packet}#{sum:02x}");
        self.stream.write_all(framed.as_bytes()).is_ok()
    }

    /// Sends a packet.
    pub(crate) fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.raw(format!("${packet}#{sum:02x}").as_bytes());
    }

    /// The next byte; `None` at the end of the connection.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// The next packet's payload with runs made long; `None` at the end of the connection.
    pub(crate) fn packet(&mut self) -> Option<String> {
        while self.byte()? != b'$' {}
        let mut payload = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                b'*' => {
                    let count = self.byte()? - 29;
                    let last = payload.chars().last().expect("something to repeat");
                    payload.extend(std::iter::repeat_n(last, count.into()));
                }
                byte => payload.push(byte.into()),
            }
        }
        (self.byte()?, self.byte()?);
        if self.acknowledges {
            self.raw(b"+");
        }
        Some(payload)
    }

    /// Sends a packet; its answer.
    pub(crate) fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        let answer = self.packet();
        if packet == "QStartNoAckMode" {
            self.acknowledges = false;
        }
        answer.unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    /// Whether nothing comes for a while but acknowledgments.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let short = Duration::from_millis(300);
        self.stream
            .set_read_timeout(Some(short))
            .expect("a socket has one");
        let mut byte = [0];
        let quiet = loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'+' => {}
                Ok(_) => break false,
                Err(error) => {
                    break matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                }
            }
        };
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket has one");
        quiet
    }
}
