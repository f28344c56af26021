//! A QMP client that keeps what it receives in order, and events apart from replies.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use super::{LineReader, connect};
use crate::emulator::PATIENCE;

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The error class, `GenericError` for most.
    pub class: String,
    /// The sentence.
    pub description: String,
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.description)
    }
}

/// A connection to a QMP server.
pub struct QmpClient {
    stream: UnixStream,
    reader: LineReader,
    greeting: Value,
    events: VecDeque<Value>,
    next_id: u64,
}

impl QmpClient {
    /// Connects as soon as somebody listens, and reads the greeting.
    ///
    /// # Errors
    ///
    /// If neither comes in time, or the greeting isn't JSON.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Self> {
        let stream = connect(path, timeout)?;
        let mut reader = LineReader::new(stream.try_clone()?);
        let greeting = parse(&reader.line(timeout)?)?;
        Ok(Self {
            stream,
            reader,
            greeting,
            events: VecDeque::new(),
            next_id: 0,
        })
    }

    /// The greeting.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Leaves capability negotiation, without any capability.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    pub fn negotiate(&mut self) {
        let reply = self.execute("qmp_capabilities", json!({}));
        assert_eq!(reply, Ok(json!({})));
    }

    /// Runs a command and waits for its reply; events that come before it are kept.
    ///
    /// # Errors
    ///
    /// The server's error reply.
    ///
    /// # Panics
    ///
    /// If the connection ends, or no reply comes in time.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.send_command(command, &arguments);
        self.reply(command, &id)
    }

    fn reply(&mut self, command: &str, id: &Value) -> Result<Value, QmpError> {
        loop {
            let message = self
                .message(PATIENCE)
                .unwrap_or_else(|error| panic!("no reply to {command}: {error}"));
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if message == self.greeting {
                // QEMU greets twice whom it meets while --preconfig begins.
                continue;
            } else if let Some(value) = message.get("return") {
                assert_eq!(message["id"], *id, "the id comes back");
                return Ok(value.clone());
            } else {
                assert_eq!(message["id"], *id, "the id comes back: {message}");
                let text = |name: &str| message["error"][name].as_str().unwrap_or("").to_string();
                return Err(QmpError {
                    class: text("class"),
                    description: text("desc"),
                });
            }
        }
    }

    /// Sends a command without waiting, and returns its id.
    ///
    /// # Panics
    ///
    /// If the connection has ended.
    pub fn send_command(&mut self, command: &str, arguments: &Value) -> Value {
        let (id, request) = self.request(command, arguments);
        self.send_raw(request.as_bytes())
            .expect("the connection stands");
        id
    }

    fn request(&mut self, command: &str, arguments: &Value) -> (Value, String) {
        self.next_id += 1;
        let id = json!(self.next_id);
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        (id, request.to_string())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes with descriptors, of which the server gets copies.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(fds.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let flags = SendFlags::empty();
        let sent = sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags)?;
        self.stream.write_all(&bytes[sent..])
    }

    /// Runs a command with descriptors and waits for its reply.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    ///
    /// # Panics
    ///
    /// As [`Self::execute`].
    pub fn execute_with(
        &mut self,
        command: &str,
        arguments: &Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, QmpError> {
        let (id, request) = self.request(command, arguments);
        let sent = match fds {
            [] => self.send_raw(request.as_bytes()),
            _ => self.send_with(request.as_bytes(), fds),
        };
        sent.expect("the connection stands");
        self.reply(command, &id)
    }

    /// Sends the same bytes again and again, without reading, until the server takes no more; returns how often.
    ///
    /// # Panics
    ///
    /// If the server takes 100 MB.
    pub fn flood(&mut self, bytes: &[u8]) -> usize {
        let timeout = Some(Duration::from_millis(300));
        self.stream.set_write_timeout(timeout).expect("a socket");
        (0..)
            .find(|sent| {
                assert!(
                    sent * bytes.len() < 100_000_000,
                    "the server takes everything"
                );
                self.stream.write_all(bytes).is_err()
            })
            .unwrap_or_default()
    }

    /// The next message, whether reply or event. Events kept by [`Self::execute`] are not repeated.
    ///
    /// # Errors
    ///
    /// `TimedOut`, `UnexpectedEof` at the connection's end, `InvalidData` with the line for what isn't JSON.
    pub fn message(&mut self, timeout: Duration) -> io::Result<Value> {
        parse(&self.reader.line(timeout)?)
    }

    /// The next line as it came, without its line feed.
    ///
    /// # Errors
    ///
    /// `TimedOut`, or `UnexpectedEof` at the connection's end.
    pub fn line(&mut self, timeout: Duration) -> io::Result<Vec<u8>> {
        self.reader.line(timeout)
    }

    /// The next event, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Self::message`].
    ///
    /// # Panics
    ///
    /// If a reply comes that nobody waits for.
    pub fn event(&mut self, timeout: Duration) -> io::Result<Value> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        let message = self.message(timeout)?;
        assert!(message.get("event").is_some(), "an event, not {message}");
        Ok(message)
    }

    /// Waits for the event `name`, and drops the ones before it.
    ///
    /// # Panics
    ///
    /// If it doesn't come in time, or the connection ends.
    pub fn wait_event(&mut self, name: &str, timeout: Duration) -> Value {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self
                .event(left)
                .unwrap_or_else(|error| panic!("no event {name}: {error}"));
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Whether the server has closed the connection within `timeout`. Messages on the way are dropped.
    pub fn closed(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reader.line(left) {
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::UnexpectedEof,
            }
        }
    }
}

fn parse(line: &[u8]) -> io::Result<Value> {
    serde_json::from_slice(line).map_err(|error| {
        let text = String::from_utf8_lossy(line);
        io::Error::new(ErrorKind::InvalidData, format!("{error}: {text}"))
    })
}
