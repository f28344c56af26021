//! QMP's wire: a parser that takes bytes in pieces, and a writer that needs no memory of its own.
//!
//! The dialect is the one that QEMU 7.2 speaks, found by observation: JSON as in RFC 8259, plus
//! single-quoted strings and the bytes 0xFE and 0xFF as a reset. A message ends where its brackets
//! balance; nothing separates messages.

mod lexer;
mod parser;
mod unicode;
mod value;
mod writer;

pub use lexer::{
    Kept, Parser, Progress, QMP_MESSAGE_MAX, QMP_NESTING_MAX, QMP_TOKENS_MAX, SIZE_LIMIT_TEXT,
    TOKENS_LIMIT_TEXT,
};
pub use parser::ParseError;
pub use value::{Elements, Kind, Members, Value};
pub use writer::{Sink, SinkFull, Writer, write_escaped, write_json, write_value};

#[cfg(test)]
mod tests;
