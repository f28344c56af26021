//! Line editing on a terminal: keys in, the line and what to show in return.
//!
//! Keys are those of a VT100 and its successors (ECMA-48 control sequences) and the control
//! characters that shells know. What is shown is the least that keeps the terminal's line as it
//! should be: cursor moves by `CSI n C` and `CSI n D`, and `CSI K` behind what became shorter. A
//! line that is wider than the terminal looks wrong once the cursor is moved back over the edge;
//! it is kept right all the same.
//!
//! UTF-8 is counted and moved over by characters, each a column wide. Control characters without
//! a meaning are passed over, NUL among them. Bytes beyond [`LINE_MAX`] are dropped.

use core::ops::Range;

use thimble_core::qmp::{Sink, SinkFull};

/// Bytes of a line at most.
pub const LINE_MAX: usize = 4095;

/// What a key asks of the line's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Nothing: the editor has done it, or it means nothing.
    Done,
    /// The line is complete.
    Enter,
    /// The word before the cursor may be completed.
    Complete,
    /// The line before this one.
    Previous,
    /// The line after this one.
    Next,
    /// Everything is to be shown again on an empty screen.
    Redraw,
}

/// Where in a key's sequence of bytes we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    None,
    /// ESC came.
    Escape,
    /// ESC O came.
    Ss3,
    /// ESC [ came, and these numbers: the first and the last one.
    Csi {
        first: u8,
        last: u8,
        begun: bool,
    },
}

/// A line being typed.
#[derive(Debug)]
pub(super) struct Editor {
    line: heapless::Vec<u8, LINE_MAX>,
    /// Where the next character goes: 0 to the line's length, between two characters.
    cursor: usize,
    sequence: Sequence,
}

type Shown = Result<(), SinkFull>;

/// Whether a byte goes on with a character of UTF-8.
const fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Columns that bytes take on the terminal.
fn columns(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| !continues(**byte)).count()
}

/// Moves the cursor by columns: `C` to the right, `D` to the left.
fn walk(count: usize, direction: u8, out: &mut dyn Sink) -> Shown {
    match count {
        0 => Ok(()),
        1 => out.put(&[0x1b, b'[', direction]),
        _ => {
            let mut digits = [0; 8];
            let (mut at, mut rest) = (digits.len(), count);
            // A line has fewer columns than 10^8.
            while rest > 0 && at > 0 {
                at -= 1;
                digits[at] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            out.put(b"\x1b[")?;
            out.put(&digits[at..])?;
            out.put(&[direction])
        }
    }
}

impl Editor {
    /// An empty line.
    pub(super) const fn new() -> Self {
        Self {
            line: heapless::Vec::new(),
            cursor: 0,
            sequence: Sequence::None,
        }
    }

    /// Forgets the line.
    pub(super) fn clear(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.sequence = Sequence::None;
    }

    /// What was typed.
    pub(super) fn line(&self) -> &[u8] {
        &self.line
    }

    /// What stands before the cursor.
    pub(super) fn before(&self) -> &[u8] {
        &self.line[..self.cursor]
    }

    /// Shows the line behind a prompt that was just shown.
    pub(super) fn show(&self, out: &mut dyn Sink) -> Shown {
        out.put(&self.line)?;
        walk(columns(&self.line[self.cursor..]), b'D', out)
    }

    /// Puts another line in the place of this one.
    pub(super) fn set(&mut self, line: &[u8], out: &mut dyn Sink) -> Shown {
        self.replace(0..self.line.len(), line, out)
    }

    /// Takes text at the cursor, as if it were typed.
    pub(super) fn insert(&mut self, text: &[u8], out: &mut dyn Sink) -> Shown {
        self.replace(self.cursor..self.cursor, text, out)
    }

    /// Puts as much of `new` as fits in the place of a part that the cursor stands in or at, and the
    /// cursor behind it.
    fn replace(&mut self, part: Range<usize>, new: &[u8], out: &mut dyn Sink) -> Shown {
        let room = LINE_MAX - (self.line.len() - part.len());
        let new = &new[..new.len().min(room)];
        if part.is_empty() && new.is_empty() {
            return Ok(());
        }
        let mut from = part.start;
        let before = columns(&self.line[from..self.cursor]);
        let shorter = columns(new) < columns(&self.line[part.clone()]);
        let (old, tail) = (self.line.len(), self.line.len() - part.end);
        let length = part.start + new.len() + tail;
        // The length is at most LINE_MAX, as `new` was cut to the room.
        let _ = self.line.resize(length.max(old), 0);
        self.line.copy_within(part.end..old, part.start + new.len());
        self.line[part.start..part.start + new.len()].copy_from_slice(new);
        self.line.truncate(length);
        self.cursor = part.start + new.len();
        let mut back = before;
        if tail > 0 && new.first().is_some_and(|byte| continues(*byte)) {
            // A character that came in pieces between others is shown again as a whole.
            from = self.previous(from);
            back += columns(&self.line[from..part.start]);
        }
        walk(back, b'D', out)?;
        out.put(&self.line[from..])?;
        if shorter {
            out.put(b"\x1b[K")?;
        }
        walk(columns(&self.line[self.cursor..]), b'D', out)
    }

    /// Moves the cursor.
    fn go(&mut self, to: usize, out: &mut dyn Sink) -> Shown {
        let from = core::mem::replace(&mut self.cursor, to);
        if to < from {
            walk(columns(&self.line[to..from]), b'D', out)
        } else {
            walk(columns(&self.line[from..to]), b'C', out)
        }
    }

    /// Where the character before `at` begins.
    fn previous(&self, at: usize) -> usize {
        let start = self.line[..at].iter().rposition(|byte| !continues(*byte));
        start.unwrap_or(0)
    }

    /// Where the character at the cursor ends.
    fn next(&self) -> usize {
        let rest = self.line.iter().enumerate().skip(self.cursor + 1);
        let mut starts = rest.filter(|(_, byte)| !continues(**byte));
        starts.next().map_or(self.line.len(), |(at, _)| at)
    }

    /// Where the word before the cursor begins.
    fn word_start(&self) -> usize {
        let before = self.before().trim_ascii_end();
        let space = before.iter().rposition(|byte| *byte == b' ');
        space.map_or(0, |at| at + 1)
    }

    /// Where the word behind the cursor ends.
    fn word_end(&self) -> usize {
        let behind = &self.line[self.cursor..];
        let spaces = behind.len() - behind.trim_ascii_start().len();
        let word = behind[spaces..].iter().position(|byte| *byte == b' ');
        self.cursor + word.map_or(behind.len(), |length| spaces + length)
    }

    /// Takes a byte from the terminal.
    pub(super) fn take(&mut self, byte: u8, out: &mut dyn Sink) -> Result<Key, SinkFull> {
        let (cursor, length) = (self.cursor, self.line.len());
        // These two end a line wherever they stand, as in input that is no terminal's.
        if matches!(byte, b'\r' | b'\n') {
            self.sequence = Sequence::None;
            return Ok(Key::Enter);
        }
        let sequence = core::mem::replace(&mut self.sequence, Sequence::None);
        match sequence {
            Sequence::None => {}
            Sequence::Escape => return self.escaped(byte, out),
            Sequence::Ss3 => return self.function(byte, 0, 0, out),
            Sequence::Csi { first, last, begun } => {
                return self.csi(byte, first, last, begun, out);
            }
        }
        match byte {
            0x01 => self.go(0, out)?,
            0x02 => self.go(self.previous(cursor), out)?,
            0x04 => self.replace(cursor..self.next(), b"", out)?,
            0x05 => self.go(length, out)?,
            0x06 => self.go(self.next(), out)?,
            0x08 | 0x7f => self.replace(self.previous(cursor)..cursor, b"", out)?,
            b'\t' => return Ok(Key::Complete),
            0x0b => self.replace(cursor..length, b"", out)?,
            0x0c => return Ok(Key::Redraw),
            0x0e => return Ok(Key::Next),
            0x10 => return Ok(Key::Previous),
            0x15 => self.replace(0..cursor, b"", out)?,
            0x17 => self.replace(self.word_start()..cursor, b"", out)?,
            0x1b => self.sequence = Sequence::Escape,
            0x00..0x20 => {}
            _ => self.insert(&[byte], out)?,
        }
        Ok(Key::Done)
    }

    /// The byte behind ESC: the other half of a key with Alt, or the start of more.
    fn escaped(&mut self, byte: u8, out: &mut dyn Sink) -> Result<Key, SinkFull> {
        let cursor = self.cursor;
        match byte {
            b'[' => {
                self.sequence = Sequence::Csi {
                    first: 0,
                    last: 0,
                    begun: false,
                }
            }
            b'O' => self.sequence = Sequence::Ss3,
            0x1b => self.sequence = Sequence::Escape,
            b'b' => self.go(self.word_start(), out)?,
            b'f' => self.go(self.word_end(), out)?,
            b'd' => self.replace(cursor..self.word_end(), b"", out)?,
            0x08 | 0x7f => self.replace(self.word_start()..cursor, b"", out)?,
            _ => {}
        }
        Ok(Key::Done)
    }

    /// A byte of a control sequence: a parameter, or its end.
    fn csi(
        &mut self,
        byte: u8,
        mut first: u8,
        mut last: u8,
        mut begun: bool,
        out: &mut dyn Sink,
    ) -> Result<Key, SinkFull> {
        match byte {
            b'0'..=b'9' => {
                last = last.saturating_mul(10).saturating_add(byte - b'0');
                if !begun {
                    first = last;
                }
            }
            b';' => {
                last = 0;
                begun = true;
            }
            // Other parameters, and intermediate bytes.
            0x20..0x40 => {}
            0x40..0x7f => return self.function(byte, first, if begun { last } else { 0 }, out),
            0x1b => {
                self.sequence = Sequence::Escape;
                return Ok(Key::Done);
            }
            // Not within a sequence.
            _ => return Ok(Key::Done),
        }
        self.sequence = Sequence::Csi { first, last, begun };
        Ok(Key::Done)
    }

    /// A function key, by the last byte of its sequence. A modifier other than Shift makes words of
    /// characters.
    fn function(
        &mut self,
        byte: u8,
        number: u8,
        modifier: u8,
        out: &mut dyn Sink,
    ) -> Result<Key, SinkFull> {
        let (cursor, length) = (self.cursor, self.line.len());
        let words = modifier > 2;
        match byte {
            b'A' => return Ok(Key::Previous),
            b'B' => return Ok(Key::Next),
            b'C' if words => self.go(self.word_end(), out)?,
            b'C' => self.go(self.next(), out)?,
            b'D' if words => self.go(self.word_start(), out)?,
            b'D' => self.go(self.previous(cursor), out)?,
            b'H' => self.go(0, out)?,
            b'F' => self.go(length, out)?,
            b'~' => match number {
                1 | 7 => self.go(0, out)?,
                3 => self.replace(cursor..self.next(), b"", out)?,
                4 | 8 => self.go(length, out)?,
                _ => {}
            },
            _ => {}
        }
        Ok(Key::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    struct Paper(Vec<u8>);

    impl Sink for Paper {
        fn put(&mut self, bytes: &[u8]) -> Shown {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// A terminal of one endless line: what it shows, and the column of its cursor.
    fn terminal(bytes: &[u8]) -> (String, usize) {
        let text = String::from_utf8_lossy(bytes);
        let (mut cells, mut column): (Vec<char>, usize) = (Vec::new(), 0);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '\x1b' {
                if column < cells.len() {
                    cells[column] = c;
                } else {
                    cells.push(c);
                }
                column += 1;
                continue;
            }
            assert_eq!(chars.next(), Some('['));
            let mut number = None;
            loop {
                match chars.next().expect("a whole sequence") {
                    'C' => column += number.unwrap_or(1),
                    'D' => column -= number.unwrap_or(1),
                    'K' => cells.truncate(column),
                    digit => {
                        let digit = digit.to_digit(10).expect("a digit") as usize;
                        number = Some(number.unwrap_or(0) * 10 + digit);
                        continue;
                    }
                }
                break;
            }
            assert!(column <= cells.len());
        }
        (cells.into_iter().collect(), column)
    }

    fn typed(keys: &[u8]) -> (Editor, Vec<u8>) {
        let (mut editor, mut paper) = (Editor::new(), Paper(Vec::new()));
        for byte in keys {
            editor.take(*byte, &mut paper).expect("endless paper");
        }
        (editor, paper.0)
    }

    #[test]
    fn keys_do_what_they_say() {
        for (keys, before, behind) in [
            ("abc", "abc", ""),
            ("abc\x01x", "x", "abc"),
            ("abc\x01\x05x", "abcx", ""),
            ("abc\x1b[D\x1b[Dx", "ax", "bc"),
            ("abc\x1bOD\x1bOD\x1bOCx", "abx", "c"),
            ("abc\x02\x02\x06x", "abx", "c"),
            ("abc\x1b[H\x1b[3~", "", "bc"),
            ("abc\x1b[1~x\x1b[4~y", "xabcy", ""),
            ("abc\x1bOHx\x1bOFy", "xabcy", ""),
            ("abc\x7f\x08x", "ax", ""),
            ("abc\x1b[D\x7f", "a", "c"),
            ("abc\x01\x04\x04", "", "c"),
            ("abc\x02\x0b", "ab", ""),
            ("abc\x02\x15", "", "c"),
            ("one two  \x17", "one ", ""),
            ("one two\x1bb\x1bbx", "x", "one two"),
            ("one two\x01\x1bfx", "onex", " two"),
            ("one two\x01\x1bf\x1bd", "one", ""),
            ("one two\x1b\x7f", "one ", ""),
            ("one two\x1b[1;5Dx", "one x", "two"),
            ("one two\x01\x1b[1;3Cx", "onex", " two"),
            ("a\x1b[99~b\x1b[12345678901234567890Zc\x1bOxd", "abcd", ""),
            ("a\x1b[?25hb\x1b\x1b[Dc", "acb", ""),
            ("a\x00b\x03\x1ac", "abc", ""),
            ("\x7f\x08\x17\x15\x04\x1b[D\x1b[C", "", ""),
            ("äöü\x1b[D\x7f", "ä", "ü"),
            ("äü\x02ö", "äö", "ü"),
        ] {
            let (editor, shown) = typed(keys.as_bytes());
            let behind_bytes = &editor.line()[editor.before().len()..];
            // The two halves of the cursor in "acb" are told by what is shown.
            if keys.contains("\x1b\x1b[D") {
                assert_eq!(editor.line(), before.as_bytes());
            } else {
                assert_eq!(editor.before(), before.as_bytes(), "{keys:?}");
                assert_eq!(behind_bytes, behind.as_bytes(), "{keys:?}");
            }
            let whole = String::from_utf8(editor.line().to_vec()).expect("text");
            let column = columns(editor.before());
            assert_eq!(terminal(&shown), (whole, column), "{keys:?}");
        }
    }

    #[test]
    fn what_the_owner_is_asked() {
        for (keys, key) in [
            ("\r", Key::Enter),
            ("\n", Key::Enter),
            ("\x1b[\r", Key::Enter),
            ("\t", Key::Complete),
            ("\x10", Key::Previous),
            ("\x1b[A", Key::Previous),
            ("\x0e", Key::Next),
            ("\x1bOB", Key::Next),
            ("\x0c", Key::Redraw),
        ] {
            let (mut editor, mut paper) = (Editor::new(), Paper(Vec::new()));
            let keys = keys.bytes();
            let last = keys.map(|byte| editor.take(byte, &mut paper)).last();
            assert_eq!(last, Some(Ok(key)));
            assert!(paper.0.is_empty());
        }
    }

    #[test]
    fn long_lines_are_cut_and_cheap() {
        let mut keys = std::vec![b'x'; LINE_MAX + 10];
        let (editor, shown) = typed(&keys);
        assert_eq!((editor.line().len(), shown.len()), (LINE_MAX, LINE_MAX));
        keys.push(0x01);
        keys.push(b'y');
        let (editor, shown) = typed(&keys);
        assert_eq!((editor.before(), editor.line()[0]), (&b""[..], b'x'));
        assert_eq!(shown.len(), LINE_MAX + "\x1b[4095D".len());
    }

    proptest! {
        /// Whatever is typed, the terminal shows the line.
        #[test]
        fn the_terminal_shows_the_line(
            keys in prop::collection::vec(
                prop_oneof![
                    4 => "[a-c ]".prop_map(String::into_bytes),
                    1 => Just("é".as_bytes().to_vec()),
                    3 => prop::sample::select(std::vec![
                        1_u8, 2, 4, 5, 6, 8, 11, 21, 23, 127,
                    ]).prop_map(|key| std::vec![key]),
                    2 => prop::sample::select(std::vec![
                        "\x1bb", "\x1bf", "\x1bd", "\x1b[C", "\x1b[D", "\x1b[3~", "\x1b[1;5C", "\x1b[1;5D",
                    ]).prop_map(|key| key.as_bytes().to_vec()),
                ],
                0..60,
            ),
        ) {
            let (editor, shown) = typed(&keys.concat());
            let line = String::from_utf8(editor.line().to_vec()).expect("whole characters");
            prop_assert_eq!(terminal(&shown), (line, columns(editor.before())));
        }

        /// No input does harm.
        #[test]
        fn any_bytes(keys in prop::collection::vec(any::<u8>(), 0..300)) {
            let (editor, _) = typed(&keys);
            prop_assert!(editor.before().len() <= editor.line().len());
        }
    }
}
