//! Errors as QMP tells them: a class that clients match on, and a sentence.

use core::fmt::{self, Write as _};

use thimble_core::qmp::SinkFull;
use thimble_core::qom::QomError;

use crate::reply::{Full, VALUE_MAX};

/// Bytes of a [`QmpError`]'s sentence at most; what is longer is cut.
pub const DESC_MAX: usize = 512;

/// QMP's error classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Anything without a class of its own.
    Generic,
    /// There is no such command, or not now.
    CommandNotFound,
    /// A device is not there.
    DeviceNotFound,
    /// A device does not do that in its state.
    DeviceNotActive,
    /// The accelerator lacks a capability.
    KvmMissingCap,
}

impl ErrorClass {
    /// QMP's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::KvmMissingCap => "KVMMissingCap",
        }
    }
}

/// A sentence that is cut between characters where it is longer than [`DESC_MAX`] bytes.
#[derive(Default)]
pub(crate) struct Cut(pub(crate) heapless::String<DESC_MAX>);

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars()
            .try_for_each(|c| self.0.push(c).map_err(|_| fmt::Error))
    }
}

/// Why the machine's owner could not carry out a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The class.
    pub class: ErrorClass,
    /// The sentence, without a full stop.
    pub desc: heapless::String<DESC_MAX>,
}

impl QmpError {
    /// An error of a class. A sentence over [`DESC_MAX`] bytes is cut between characters.
    pub fn new(class: ErrorClass, desc: fmt::Arguments<'_>) -> Self {
        let mut cut = Cut::default();
        // A full buffer is the cut.
        let _ = cut.write_fmt(desc);
        Self { class, desc: cut.0 }
    }

    /// An error of class GenericError.
    pub fn generic(desc: fmt::Arguments<'_>) -> Self {
        Self::new(ErrorClass::Generic, desc)
    }
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

/// Where an argument is: the path to it, of which the schema bounds the names and the tokens of a message the numbers.
pub(crate) type PathText = heapless::String<256>;

/// Pieces of an error's text at most.
pub(crate) const PIECES_MAX: usize = 5;

/// Why a command is answered with an error. Texts are pieces to be joined, so that they may quote
/// input of any length.
#[derive(Debug)]
// There is no heap to box the owner's error.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Fail<'t> {
    Text(ErrorClass, [&'t [u8]; PIECES_MAX]),
    /// A GenericError about an argument: what comes before its path, the path, and what comes after.
    At(&'static str, PathText, [&'t [u8]; PIECES_MAX - 2]),
    Owner(QmpError),
    Object(QomError<'t>),
    Result(Full),
}

impl<'t> Fail<'t> {
    /// A GenericError.
    pub(crate) fn generic(pieces: &[&'t [u8]]) -> Self {
        Self::class(ErrorClass::Generic, pieces)
    }

    /// An error of up to [`PIECES_MAX`] pieces.
    pub(crate) fn class(class: ErrorClass, pieces: &[&'t [u8]]) -> Self {
        Self::Text(class, joined(pieces))
    }

    /// A GenericError about the argument at a path.
    pub(crate) fn at(before: &'static str, path: PathText, after: &[&'t [u8]]) -> Self {
        Self::At(before, path, joined(after))
    }

    /// The class and the text's pieces.
    pub(crate) fn parts(&self) -> (ErrorClass, [&[u8]; PIECES_MAX]) {
        match self {
            Self::Text(class, pieces) => (*class, *pieces),
            Self::At(before, path, [a, b, c]) => (
                ErrorClass::Generic,
                [before.as_bytes(), path.as_bytes(), a, b, c],
            ),
            Self::Owner(error) => (error.class, joined(&[error.desc.as_bytes()])),
            Self::Object(error) => {
                let class = match error.is_device_not_found() {
                    true => ErrorClass::DeviceNotFound,
                    false => ErrorClass::Generic,
                };
                (class, error.pieces().map(str::as_bytes))
            }
            Self::Result(Full::Output) => (
                ErrorClass::Generic,
                joined(&[b"The reply is larger than the output limit (4194304 bytes)"]),
            ),
            Self::Result(Full::Value) => (
                ErrorClass::Generic,
                joined(&[b"A value in the reply is larger than the limit (16384 bytes)"]),
            ),
        }
    }
}

const _: () = assert!(crate::MONITOR_OUT_MAX == 4_194_304 && VALUE_MAX == 16_384);

fn joined<'t, const N: usize>(pieces: &[&'t [u8]]) -> [&'t [u8]; N] {
    let mut text: [&[u8]; N] = [&[]; N];
    for (to, from) in text.iter_mut().zip(pieces) {
        *to = from;
    }
    text
}

impl From<Full> for Fail<'_> {
    fn from(full: Full) -> Self {
        Self::Result(full)
    }
}

impl From<SinkFull> for Fail<'_> {
    fn from(full: SinkFull) -> Self {
        Self::Result(full.into())
    }
}

impl<'t> From<QomError<'t>> for Fail<'t> {
    fn from(error: QomError<'t>) -> Self {
        Self::Object(error)
    }
}

impl From<QmpError> for Fail<'_> {
    fn from(error: QmpError) -> Self {
        Self::Owner(error)
    }
}
