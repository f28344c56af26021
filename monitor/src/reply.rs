//! A command's result on its way out.

use serde::Serialize;
use thimble_core::qmp::{Sink, SinkFull, Writer, write_escaped, write_json};

/// Bytes of one value that serde writes at most: a result, or an element of a list. What may be longer is streamed.
pub(crate) const VALUE_MAX: usize = 16 * 1024;

/// Why a result could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The output is full.
    Output,
    /// A value has more than [`VALUE_MAX`] bytes.
    Value,
}

impl From<SinkFull> for Full {
    fn from(_: SinkFull) -> Self {
        Self::Output
    }
}

/// A text with room for any error.
pub(crate) type ShortText = heapless::Vec<u8, { crate::DESC_MAX + 128 }>;

/// Where a handler writes its result: at most one value. Without one the result is `{}`.
pub(crate) struct Reply<'s, S: Sink> {
    sink: &'s mut S,
    begun: bool,
    /// A text that is the result, as long as it is so short that it waits for its end.
    text: Option<ShortText>,
}

impl<'s, S: Sink> Reply<'s, S> {
    pub(crate) fn new(sink: &'s mut S) -> Self {
        Self::of_text(sink, None)
    }

    /// A reply whose result is this text, if there is one.
    pub(crate) fn of_text(sink: &'s mut S, text: Option<ShortText>) -> Self {
        Self {
            sink,
            begun: false,
            text,
        }
    }

    /// The text that is the result, if it is short: nothing is written of it.
    pub(crate) fn take_text(&mut self) -> Option<ShortText> {
        self.text.take()
    }

    /// Whether the handler has written something.
    pub(crate) fn begun(&self) -> bool {
        self.begun
    }

    fn begin(&mut self) -> Result<(), SinkFull> {
        self.begun = true;
        self.sink.put(b"{\"return\": ")
    }

    /// A whole result.
    pub(crate) fn value<T: Serialize>(&mut self, value: &T) -> Result<(), Full> {
        self.begin()?;
        put(self.sink, value)
    }

    /// A result that is a list, element by element.
    pub(crate) fn list(&mut self) -> Result<ListReply<'_, S>, SinkFull> {
        self.begin()?;
        let mut writer = Writer::new(self.sink);
        writer.begin_array()?;
        Ok(ListReply {
            writer,
            full: Ok(()),
        })
    }

    /// A result that is a text, piece by piece. A piece must not end within a character. A short text is kept back until
    /// [`Reply::end`], so that something else may come before the reply.
    pub(crate) fn text(
        &mut self,
        write: impl FnOnce(&mut dyn Sink) -> Result<(), SinkFull>,
    ) -> Result<(), SinkFull> {
        self.text = Some(ShortText::new());
        write(&mut Escaped(self))?;
        match self.begun {
            true => self.sink.put(b"\""),
            false => Ok(()),
        }
    }

    /// A result that is JSON already.
    #[cfg(feature = "sabotage")]
    pub(crate) fn raw(&mut self, json: &str) -> Result<(), SinkFull> {
        self.begin()?;
        self.sink.put(json.as_bytes())
    }

    /// Completes the result.
    pub(crate) fn end(mut self) -> Result<(), SinkFull> {
        if !self.begun {
            self.begin()?;
            match self.text.take() {
                None => self.sink.put(b"{}")?,
                Some(text) => {
                    self.sink.put(b"\"")?;
                    write_escaped(self.sink, &text)?;
                    self.sink.put(b"\"")?;
                }
            }
        }
        Ok(())
    }
}

/// What is put into it is within a JSON string.
struct Escaped<'r, 's, S: Sink>(&'r mut Reply<'s, S>);

impl<S: Sink> Sink for Escaped<'_, '_, S> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        let reply = &mut *self.0;
        if let Some(text) = &mut reply.text {
            if text.extend_from_slice(bytes).is_ok() {
                return Ok(());
            }
            let text = core::mem::take(text);
            reply.text = None;
            reply.begin()?;
            reply.sink.put(b"\"")?;
            write_escaped(reply.sink, &text)?;
        }
        write_escaped(reply.sink, bytes)
    }
}

/// A list being written. An element that does not fit fails the reply at its end.
pub(crate) struct ListReply<'s, S: Sink> {
    writer: Writer<'s, S>,
    full: Result<(), Full>,
}

impl<S: Sink> ListReply<'_, S> {
    /// Adds an element.
    pub(crate) fn push<T: Serialize>(&mut self, value: &T) {
        if self.full.is_ok() {
            self.full = with_json(value, |json| self.writer.raw(json));
        }
    }

    /// Adds an element that is written piece by piece.
    pub(crate) fn stream(
        &mut self,
        element: impl FnOnce(&mut Writer<'_, S>) -> Result<(), SinkFull>,
    ) {
        if self.full.is_ok() {
            self.full = element(&mut self.writer).map_err(Full::from);
        }
    }

    pub(crate) fn end(mut self) -> Result<(), Full> {
        self.full?;
        Ok(self.writer.end_array()?)
    }
}

/// Bytes of most values; only for longer ones more memory is touched.
const SMALL: usize = 512;

/// Makes JSON of a value, and lends it.
fn with_json<T: Serialize>(
    value: &T,
    take: impl FnOnce(&[u8]) -> Result<(), SinkFull>,
) -> Result<(), Full> {
    let mut small = [0; SMALL];
    if let Ok(length) = serde_json_core::to_slice(value, &mut small) {
        return Ok(take(&small[..length])?);
    }
    let mut large = [0; VALUE_MAX];
    let length = serde_json_core::to_slice(value, &mut large).map_err(|_| Full::Value)?;
    Ok(take(&large[..length])?)
}

/// Writes a small value as a part of what is written piece by piece.
pub(crate) fn element<S: Sink, T: Serialize>(
    writer: &mut Writer<'_, S>,
    value: &T,
) -> Result<(), SinkFull> {
    with_json(value, |json| writer.raw(json)).map_err(|_| SinkFull)
}

/// Writes a value as JSON.
pub(crate) fn put<S: Sink, T: Serialize>(sink: &mut S, value: &T) -> Result<(), Full> {
    with_json(value, |json| write_json(sink, json))
}

/// Writes an event's member that is an object. One of more than [`VALUE_MAX`] bytes counts as one that does not fit.
pub(crate) fn put_member<S: Sink, T: Serialize>(
    w: &mut Writer<'_, S>,
    value: &T,
) -> Result<(), SinkFull> {
    with_json(value, |json| w.raw(json)).map_err(|_| SinkFull)
}
