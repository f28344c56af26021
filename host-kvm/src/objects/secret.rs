//! Secrets: passwords and keys for whoever needs them, told on the command line or over QMP, or in a file.
//!
//! One may be encrypted with another, which is a key for AES-256 in CBC mode: so a client hands the process one key in a file, and
//! can then name all other secrets where anyone may see them.
//!
//! As with QEMU, `data` can be read back as it was given; what is in a file, or comes out of decryption, can't.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thimble_core::formats::aes::{self, AesError};
use thimble_core::qom::QomValue;
use thimble_monitor::QmpError;
use thimble_monitor::schema::QCryptoSecretFormat;
use thimble_monitor::schema::arguments::SecretProperties;

use crate::error_text;
use crate::files::{self, OFlags};

/// Bytes of a secret's file at most.
const FILE_MAX: u64 = 1 << 20;

/// For how long a pipe may keep the process waiting.
const PIPE_PATIENCE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// A secret.
pub struct Secret {
    bytes: Vec<u8>,
    format: QCryptoSecretFormat,
    /// As given: `data`, `file`, `keyid`, `iv`.
    texts: [Option<String>; 4],
}

fn refused(text: String) -> QmpError {
    QmpError::generic(format_args!("{text}"))
}

impl Secret {
    /// A secret as described; `find` looks for the bytes of the one that it is encrypted with.
    ///
    /// # Errors
    /// In QEMU's words.
    pub fn new<'s>(
        given: &SecretProperties<'_>,
        find: impl FnOnce(&str) -> Result<&'s [u8], QmpError>,
    ) -> Result<Self, QmpError> {
        if given.loaded.is_some() {
            return Err(refused(
                "Property 'secret.loaded' is not writable".to_owned(),
            ));
        }
        let mut bytes = match (given.data, given.file) {
            (Some(data), None) => data.to_vec(),
            (None, Some(file)) => read_file(Path::new(OsStr::from_bytes(file)))?,
            (Some(_), Some(_)) => {
                return Err(refused(
                    "'file' and 'data' are mutually exclusive".to_owned(),
                ));
            }
            (None, None) => {
                return Err(refused(
                    "Either 'file' or 'data' must be provided".to_owned(),
                ));
            }
        };
        let key = match given.keyid {
            Some(id) => {
                let key = find(&String::from_utf8_lossy(id))?;
                Some((key, given.iv))
            }
            None => None,
        };
        let key = key.map(|(key, vector)| key_of(key, vector)).transpose()?;
        if given.format == QCryptoSecretFormat::Base64 {
            bytes = from_base64(&bytes)?;
        }
        if let Some((key, vector)) = key {
            let length = bytes.len();
            let plain = aes::decrypt_cbc(&key, &vector, &mut bytes);
            let plain = plain.map_err(|error| {
                refused(match error {
                    AesError::Length => {
                        format!("Length {length} must be a multiple of block size 16")
                    }
                    AesError::Padding(count) => {
                        format!(
                            "Incorrect number of padding bytes ({count}) found on decrypted data"
                        )
                    }
                })
            });
            bytes.truncate(plain?);
        }
        let text = |given: Option<&[u8]>| given.map(|g| String::from_utf8_lossy(g).into_owned());
        Ok(Self {
            bytes,
            format: given.format,
            texts: [given.data, given.file, given.keyid, given.iv].map(text),
        })
    }

    /// The secret itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Hands the value of a property to `take`.
    pub fn value(&self, property: &str, take: &mut dyn FnMut(QomValue<'_>)) {
        let names = ["data", "file", "keyid", "iv"];
        take(match names.iter().position(|name| *name == property) {
            Some(at) => QomValue::Str(self.texts[at].as_deref().unwrap_or_default()),
            None if property == "format" => QomValue::Str(self.format.name()),
            None => QomValue::Bool(true),
        });
    }
}

/// The key and the vector for a cipher.
fn key_of(
    key: &[u8],
    vector: Option<&[u8]>,
) -> Result<([u8; aes::KEY], [u8; aes::BLOCK]), QmpError> {
    let key = key
        .try_into()
        .map_err(|_| refused("Key should be 32 bytes in length".to_owned()))?;
    let vector = vector.ok_or_else(|| refused("IV is required to decrypt secret".to_owned()))?;
    let vector = from_base64(vector)?;
    let length = vector.len();
    let vector = vector
        .try_into()
        .map_err(|_| refused(format!("IV should be 16 bytes in length not {length}")))?;
    Ok((key, vector))
}

fn read_file(path: &Path) -> Result<Vec<u8>, QmpError> {
    let name = path.display();
    let open = files::open(path, OFlags::RDONLY | OFlags::NONBLOCK);
    let file = open.map_err(|error| {
        refused(format!(
            "Unable to read {name}: Failed to open file \u{201c}{name}\u{201d}: {}",
            error_text(&error)
        ))
    })?;
    read_all(&file).map_err(|error| {
        refused(format!(
            "Unable to read {name}: Error reading file \u{201c}{name}\u{201d}: {}",
            error_text(&error)
        ))
    })
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !file.metadata()?.is_file() {
        // A pipe is given a while until someone writes into it; then it has to keep coming.
        let mut files = [PollFd::new(file, PollFlags::IN)];
        if poll(&mut files, Some(&PIPE_PATIENCE))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let mut limited = file.take(FILE_MAX + 1);
    loop {
        match limited.read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > FILE_MAX => {
                return Err(io::Error::other("it has more than 1 MiB"));
            }
            Ok(_) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut files = [PollFd::new(file, PollFlags::IN)];
                if poll(&mut files, Some(&PIPE_PATIENCE))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Decodes base64 (RFC 4648, section 4), in which there may be line feeds and nothing else between. Padding may be missing.
fn from_base64(text: &[u8]) -> Result<Vec<u8>, QmpError> {
    let wrong = || refused("Base64 data contains invalid characters".to_owned());
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    // As many bits as are no whole byte yet, and how many they are.
    let (mut bits, mut count) = (0_u32, 0);
    let mut padded = false;
    for &character in text {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padded = true;
                continue;
            }
            b'\n' => continue,
            _ => return Err(wrong()),
        };
        if padded {
            return Err(wrong());
        }
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given<'a>(data: Option<&'a [u8]>, file: Option<&'a [u8]>) -> SecretProperties<'a> {
        SecretProperties {
            loaded: None,
            format: QCryptoSecretFormat::Raw,
            keyid: None,
            iv: None,
            data,
            file,
        }
    }

    fn made(given: &SecretProperties<'_>) -> Result<Vec<u8>, String> {
        let secret = Secret::new(given, |_| Err(refused("nothing to find".to_owned())));
        secret
            .map(|secret| secret.bytes().to_vec())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn base64_is_decoded() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9\nvYg\n==\n", b"foob"),
            ("Zm9vYmE", b"fooba"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(from_base64(text.as_bytes()).unwrap(), bytes, "{text}");
        }
        for text in ["!", "A A=", "AA==AA==", "Zm9v\r\n", "\u{e4}"] {
            assert!(from_base64(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn files_and_pipes_are_read_whole() {
        let dir = std::env::temp_dir().join(format!("thimble-secret-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("plain");
        let name = path.as_os_str().as_bytes();
        std::fs::write(&path, b"a\xff\0\n").unwrap();
        assert_eq!(made(&given(None, Some(name))).unwrap(), b"a\xff\0\n");
        std::fs::write(&path, vec![b'x'; FILE_MAX as usize]).unwrap();
        let whole = made(&given(None, Some(name))).unwrap();
        assert_eq!(whole.len() as u64, FILE_MAX);
        std::fs::write(&path, vec![b'x'; FILE_MAX as usize + 1]).unwrap();
        let error = made(&given(None, Some(name))).unwrap_err();
        assert!(error.ends_with("it has more than 1 MiB"), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();

        let (read, write) = rustix::pipe::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let name = format!("/dev/fd/{}", read.as_raw_fd());
        let writer = std::thread::spawn(move || {
            for piece in [&b"se"[..], b"cr", b"et"] {
                std::thread::sleep(std::time::Duration::from_millis(20));
                rustix::io::write(&write, piece).unwrap();
            }
        });
        let secret = made(&given(None, Some(name.as_bytes()))).unwrap();
        assert_eq!(secret, b"secret");
        writer.join().unwrap();
        let (silent, _write) = rustix::pipe::pipe().unwrap();
        let name = format!("/dev/fd/{}", silent.as_raw_fd());
        assert!(made(&given(None, Some(name.as_bytes()))).is_err());
    }

    #[test]
    fn what_can_be_read_back_is_what_was_given() {
        let secret = Secret::new(
            &SecretProperties {
                format: QCryptoSecretFormat::Base64,
                ..given(Some(b"Zm9v"), None)
            },
            |_| Err(refused("nothing to find".to_owned())),
        );
        let secret = secret.ok().unwrap();
        assert_eq!(secret.bytes(), b"foo");
        let value = |property| {
            let mut text = String::new();
            secret.value(property, &mut |value| text = format!("{value:?}"));
            text
        };
        assert_eq!(value("data"), "Str(\"Zm9v\")");
        assert_eq!(value("file"), "Str(\"\")");
        assert_eq!(value("format"), "Str(\"base64\")");
        assert_eq!(value("loaded"), "Bool(true)");
        assert!(made(&given(None, None)).is_err());
        assert!(made(&given(Some(b""), Some(b""))).is_err());
    }
}
