//! A command's result on its way out.

use serde::Serialize;
use thimble_core::qmp::{Sink, SinkFull, Writer};

/// Bytes of a result that [`Reply::typed`] writes at most.
const TYPED_MAX: usize = 512;

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

    /// A result of small and bounded size.
    pub(crate) fn typed<T: Serialize>(&mut self, value: &T) -> Result<(), SinkFull> {
        let mut buffer = [0; TYPED_MAX];
        let length = serde_json_core::to_slice(value, &mut buffer).map_err(|_| SinkFull)?;
        self.begin()?;
        self.sink.put(&buffer[..length])
    }

    /// A result that is streamed.
    pub(crate) fn writer(&mut self) -> Result<Writer<'_, S>, SinkFull> {
        self.begin()?;
        Ok(Writer::new(self.sink))
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
