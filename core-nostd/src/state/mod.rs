//! Saving and loading: every device's state as one numbered, checked section.
//!
//! A section is a header (name, version, length, CRC-32) and the device's saved form in postcard.
//! Saved forms are types of their own, so that a new field in a device breaks the build until
//! someone has thought about saved state; what is loaded is untrusted and validated.
//!
//! ```text
//! u8 name length | name | u16 version | u32 payload length | u32 CRC-32 of payload | payload
//! ```
//! All integers are little-endian.

use core::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::devices::Context;
use crate::trace::events as trace;

/// Bytes of a section's name at most.
pub const NAME_MAX: usize = 31;

/// A part of the machine whose state can be saved and loaded.
pub trait SavedState {
    /// Name of the section's kind: the device's QOM type name where it has one. At most
    /// [`NAME_MAX`] bytes.
    const NAME: &'static str;

    /// Version of [`SavedState::Saved`]. It rises with each change of that type.
    const VERSION: u16;

    /// The saved form.
    type Saved: Serialize + DeserializeOwned;

    /// All guest-visible state and what is needed to go on from it.
    fn save(&self) -> Self::Saved;

    /// Takes over a saved form after checking it, and drives lines and timers to match.
    /// On error the device is unchanged.
    fn load(&mut self, saved: Self::Saved, cx: &mut Context<'_>) -> Result<(), StateError>;
}

/// A device that may be absent: the section of one that is there.
impl<D: SavedState> SavedState for Option<D> {
    const NAME: &'static str = D::NAME;
    const VERSION: u16 = D::VERSION;
    type Saved = Option<D::Saved>;

    fn save(&self) -> Self::Saved {
        self.as_ref().map(D::save)
    }

    fn load(&mut self, saved: Self::Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        match (self, saved) {
            (Some(device), Some(saved)) => device.load(saved, cx),
            (None, None) => Ok(()),
            _ => Err(StateError::Invalid("presence")),
        }
    }
}

/// Why state could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// The buffer has no room for the section.
    Full,
    /// The input ends inside a section.
    Truncated,
    /// The section is of another kind than the one expected.
    Name,
    /// The version is one that this build does not know.
    Version(u16),
    /// The checksum does not match the payload.
    Checksum,
    /// The payload is no saved form of the device.
    Malformed,
    /// A field, named, holds a value that the device can not have.
    Invalid(&'static str),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the state does not fit the buffer"),
            Self::Truncated => f.write_str("the state ends early"),
            Self::Name => f.write_str("the state is of another device"),
            Self::Version(version) => write!(f, "state version {version} is not known"),
            Self::Checksum => f.write_str("the state's checksum is wrong"),
            Self::Malformed => f.write_str("the state is malformed"),
            Self::Invalid(field) => {
                write!(f, "the state's field '{field}' has an impossible value")
            }
        }
    }
}

/// Writes one device's section to the front of `buffer` and returns its length.
pub fn save<D: SavedState>(device: &D, buffer: &mut [u8]) -> Result<usize, StateError> {
    let head = 1 + D::NAME.len();
    let body = head + 10;
    let room = buffer.get_mut(body..).ok_or(StateError::Full)?;
    let payload = postcard::to_slice(&device.save(), room).map_err(|_| StateError::Full)?;
    let (length, checksum) = (payload.len(), crc32(payload));
    buffer[0] = D::NAME.len() as u8;
    buffer[1..head].copy_from_slice(D::NAME.as_bytes());
    buffer[head..head + 2].copy_from_slice(&D::VERSION.to_le_bytes());
    buffer[head + 2..head + 6].copy_from_slice(&(length as u32).to_le_bytes());
    buffer[head + 6..body].copy_from_slice(&checksum.to_le_bytes());
    trace::vmstate_save(D::VERSION, length, D::NAME.as_bytes());
    Ok(body + length)
}

/// Loads one device from the section at the front of `bytes` and returns what follows it.
pub fn load<'b, D: SavedState>(
    device: &mut D,
    bytes: &'b [u8],
    cx: &mut Context<'_>,
) -> Result<&'b [u8], StateError> {
    let (&name_length, bytes) = bytes.split_first().ok_or(StateError::Truncated)?;
    let (name, bytes) = bytes
        .split_at_checked(name_length.into())
        .ok_or(StateError::Truncated)?;
    if name != D::NAME.as_bytes() {
        return Err(StateError::Name);
    }
    let (version, bytes) = bytes.split_first_chunk().ok_or(StateError::Truncated)?;
    let (length, bytes) = bytes.split_first_chunk().ok_or(StateError::Truncated)?;
    let (checksum, bytes) = bytes.split_first_chunk().ok_or(StateError::Truncated)?;
    let version = u16::from_le_bytes(*version);
    if version != D::VERSION {
        return Err(StateError::Version(version));
    }
    let length = u32::from_le_bytes(*length) as usize;
    let (payload, rest) = bytes
        .split_at_checked(length)
        .ok_or(StateError::Truncated)?;
    if crc32(payload) != u32::from_le_bytes(*checksum) {
        return Err(StateError::Checksum);
    }
    match postcard::take_from_bytes(payload) {
        Ok((saved, [])) => {
            trace::vmstate_load(version, D::NAME.as_bytes());
            device.load(saved, cx)?;
        }
        _ => return Err(StateError::Malformed),
    }
    Ok(rest)
}

/// CRC-32 as in IEEE 802.3: reflected polynomial EDB88320h, initial value and final XOR all ones.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// The tests that every device's saved state must pass, in one line:
/// `lifecycle_tests!(Serial, Serial::new(wiring), |device, bench| { change it });`
///
/// Save and load round-trips, a changed device saves differently, reset equals new, and garbage,
/// truncation, other names and other versions are refused. The device needs
/// `fn reset(&mut self, cx: &mut Context)`.
#[cfg(test)]
macro_rules! lifecycle_tests {
    ($device:ty, $new:expr, $change:expr) => {
        mod lifecycle {
            use super::*;
            use crate::devices::testing::Bench;
            use crate::state::{SavedState, StateError, load, save};

            fn changed(bench: &mut Bench) -> $device {
                let mut device: $device = $new;
                let change: fn(&mut $device, &mut Bench) = $change;
                change(&mut device, bench);
                device
            }

            fn section(device: &$device) -> std::vec::Vec<u8> {
                let mut buffer = std::vec![0; 0x20000];
                let length = save(device, &mut buffer).unwrap();
                buffer.truncate(length);
                buffer
            }

            #[test]
            fn save_and_load_round_trip() {
                let mut bench = Bench::new();
                let bytes = section(&changed(&mut bench));
                let mut other: $device = $new;
                assert_ne!(bytes, section(&other), "the change must show in the saved state");
                let rest = load(&mut other, &bytes, &mut bench.context()).unwrap();
                assert!(rest.is_empty());
                assert_eq!(bytes, section(&other));
            }

            #[test]
            fn reset_equals_new() {
                let mut bench = Bench::new();
                let mut device = changed(&mut bench);
                device.reset(&mut bench.context());
                let mut new: $device = $new;
                new.reset(&mut Bench::new().context());
                assert_eq!(section(&device), section(&new));
            }

            #[test]
            fn garbage_is_refused() {
                let mut bench = Bench::new();
                let bytes = section(&changed(&mut bench));
                let mut device: $device = $new;
                let before = section(&device);
                for length in 0..bytes.len() {
                    assert!(load(&mut device, &bytes[..length], &mut bench.context()).is_err());
                }
                let mut other = bytes.clone();
                other[1] ^= 1;
                assert_eq!(load(&mut device, &other, &mut bench.context()).err(), Some(StateError::Name));
                let mut other = bytes.clone();
                other[1 + <$device>::NAME.len()] ^= 0x40;
                assert!(matches!(
                    load(&mut device, &other, &mut bench.context()),
                    Err(StateError::Version(_))
                ));
                let mut other = bytes.clone();
                *other.last_mut().unwrap() ^= 1;
                assert_eq!(
                    load(&mut device, &other, &mut bench.context()).err(),
                    Some(StateError::Checksum)
                );
                assert_eq!(before, section(&device));
            }
        }
    };
}
#[cfg(test)]
pub(crate) use lifecycle_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
