//! A command's result on its way out.

use serde::Serialize;
use thimble_core::qmp::{Sink, SinkFull, Writer, write_json};

/// Bytes of one value that serde writes at most: a result, or an element of a list. What is longer is streamed.
const VALUE_MAX: usize = 4096;

/// Where a handler writes its result: at most one value. Without one the result is `{}`.
pub(crate) struct Reply<'s, S: Sink> {
    sink: &'s mut S,
    begun: bool,
}

impl<'s, S: Sink> Reply<'s, S> {
    pub(crate) fn new(sink: &'s mut S) -> Self {
        Self { sink, begun: false }
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
    pub(crate) fn value<T: Serialize>(&mut self, value: &T) -> Result<(), SinkFull> {
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
            self.sink.put(b"{}")?;
        }
        Ok(())
    }
}

/// A list being written. An element that does not fit fails the reply at its end.
pub(crate) struct ListReply<'s, S: Sink> {
    writer: Writer<'s, S>,
    full: Result<(), SinkFull>,
}

impl<S: Sink> ListReply<'_, S> {
    /// Adds an element.
    pub(crate) fn push<T: Serialize>(&mut self, value: &T) {
        self.stream(|writer| {
            let mut buffer = [0; VALUE_MAX];
            writer.raw(text(value, &mut buffer)?)
        });
    }

    /// Adds an element that is written piece by piece.
    pub(crate) fn stream(
        &mut self,
        element: impl FnOnce(&mut Writer<'_, S>) -> Result<(), SinkFull>,
    ) {
        if self.full.is_ok() {
            self.full = element(&mut self.writer);
        }
    }

    pub(crate) fn end(mut self) -> Result<(), SinkFull> {
        self.full?;
        self.writer.end_array()
    }
}

fn text<'b, T: Serialize>(
    value: &T,
    buffer: &'b mut [u8; VALUE_MAX],
) -> Result<&'b [u8], SinkFull> {
    let length = serde_json_core::to_slice(value, buffer).map_err(|_| SinkFull)?;
    Ok(&buffer[..length])
}

/// Writes a value as JSON.
pub(crate) fn put<S: Sink, T: Serialize>(sink: &mut S, value: &T) -> Result<(), SinkFull> {
    write_json(sink, text(value, &mut [0; VALUE_MAX])?)
}
