//! QMP for people to read: each value on a line of its own, four spaces further in at each level.

use thimble_core::qmp::{Sink, SinkFull};

/// Spreads compact messages over lines as they are written. Between two messages it is as new.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pretty {
    depth: usize,
    /// Within a string, and behind a `\` in it.
    string: bool,
    escaped: bool,
    /// Something was opened, or follows a comma: the next value begins a line.
    fresh: bool,
}

impl Pretty {
    /// Takes a part of a message.
    ///
    /// # Errors
    /// If the output is full.
    pub fn put(&mut self, bytes: &[u8], out: &mut dyn Sink) -> Result<(), SinkFull> {
        for byte in bytes {
            self.byte(*byte, out)?;
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8, out: &mut dyn Sink) -> Result<(), SinkFull> {
        if self.string {
            self.string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return out.put(&[byte]);
        }
        match byte {
            b' ' | b'\r' | b'\n' => return Ok(()),
            b'}' | b']' => {
                self.fresh = false;
                self.depth = self.depth.saturating_sub(1);
                self.line(out)?;
                out.put(&[byte])?;
                if self.depth == 0 {
                    out.put(b"\r\n")?;
                }
                return Ok(());
            }
            b',' => self.fresh = true,
            b':' => return out.put(b": "),
            _ => {
                if core::mem::take(&mut self.fresh) {
                    self.line(out)?;
                }
                match byte {
                    b'{' | b'[' => {
                        self.depth += 1;
                        self.fresh = true;
                    }
                    b'"' => self.string = true,
                    _ => {}
                }
            }
        }
        out.put(&[byte])
    }

    fn line(&self, out: &mut dyn Sink) -> Result<(), SinkFull> {
        out.put(b"\r\n")?;
        for _ in 0..self.depth {
            out.put(b"    ")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_on_lines() {
        let compact =
            br#"{"return": [{"a": "x\"{,:}", "b": -1.5}, [], {}, null], "id": {"c": true}}"#;
        let expected = r#"{
    "return": [
        {
            "a": "x\"{,:}",
            "b": -1.5
        },
        [
        ],
        {
        },
        null
    ],
    "id": {
        "c": true
    }
}
"#;
        // Wherever it is cut, and twice.
        for cut in 0..compact.len() {
            let mut pretty = Pretty::default();
            let mut out = heapless::Vec::<u8, 1024>::new();
            for part in [&compact[..cut], &compact[cut..], b"\r\n", compact, b"\r\n"] {
                pretty.put(part, &mut out).unwrap();
            }
            let text = core::str::from_utf8(&out).unwrap();
            let twice = std::format!("{expected}{expected}").replace('\n', "\r\n");
            assert_eq!(text, twice);
        }
    }
}
