//! In which order firmware tries devices: letters, which SeaBIOS reads in CMOS as Bochs' BIOS did, and paths by `bootindex`, which it
//! reads in the file `bootorder`.
//!
//! Letters are kinds of devices: `a` and `b` floppy disks, `c` hard disks, `d` CD-ROMs, `n` networks. A path is Open Firmware's,
//! as QEMU writes it. What has a path comes before what has only a letter.

use core::fmt;

/// Letters that firmware looks at.
pub const LETTERS_MAX: usize = 3;

/// Devices and ROMs with an index at most.
pub const ENTRIES_MAX: usize = 24;

/// Bytes of a path at most.
pub const PATH_MAX: usize = 160;

/// Bytes of the file at most: each path with the end of its line, and the word that ends the search.
pub const FILE_MAX: usize = ENTRIES_MAX * (PATH_MAX + 1) + HALT.len() + 1;

/// Name of the file with paths.
pub const FILE: &str = "bootorder";

/// Stands for no device: what follows is not tried.
const HALT: &str = "HALT";

/// CMOS: the third device in the upper half; bit 0: floppy disks are not asked for a signature.
const CMOS_THIRD: u8 = 0x38;
/// CMOS: the second device in the upper half, the first one in the lower.
const CMOS_FIRST: u8 = 0x3d;
/// See [`CMOS_THIRD`].
const NO_FLOPPY_SIGNATURE: u8 = 1 << 0;

/// A path.
pub type Path = heapless::String<PATH_MAX>;

/// Kinds of devices in the order in which firmware tries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters([u8; LETTERS_MAX]);

/// Why letters are no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LettersError {
    /// No letter from `a` to `p`.
    Invalid(char),
    /// It is there twice.
    Twice(char),
    /// There are more than [`LETTERS_MAX`].
    TooMany,
    /// PCs have no such devices.
    NotOnPc(char),
    /// The board's firmware takes no order.
    NoOrder,
}

impl fmt::Display for LettersError {
    /// QEMU's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(letter) => write!(f, "Invalid boot device '{letter}'"),
            Self::Twice(letter) => write!(f, "Boot device '{letter}' was given twice"),
            Self::TooMany => f.write_str("Too many boot devices for PC"),
            Self::NotOnPc(letter) => write!(f, "Invalid boot device for PC: '{letter}'"),
            Self::NoOrder => {
                f.write_str("no function defined to set boot device list for this architecture")
            }
        }
    }
}

impl Letters {
    /// Hard disks, floppy disks, CD-ROMs.
    pub const DEFAULT: Self = Self([2, 1, 3]);

    /// Checks letters for any board: which there are, and that none is there twice.
    ///
    /// # Errors
    /// [`LettersError::Invalid`], [`LettersError::Twice`].
    pub fn check(text: &str) -> Result<(), LettersError> {
        let mut seen = 0_u32;
        for letter in text.chars() {
            if !('a'..='p').contains(&letter) {
                return Err(LettersError::Invalid(letter));
            }
            let bit = 1 << (letter as u32 - 'a' as u32);
            if seen & bit != 0 {
                return Err(LettersError::Twice(letter));
            }
            seen |= bit;
        }
        Ok(())
    }

    /// Reads the letters of a PC.
    ///
    /// # Errors
    /// All but [`LettersError::NoOrder`].
    pub fn parse(text: &str) -> Result<Self, LettersError> {
        Self::check(text)?;
        if text.len() > LETTERS_MAX {
            return Err(LettersError::TooMany);
        }
        let mut numbers = [0; LETTERS_MAX];
        for (number, letter) in numbers.iter_mut().zip(text.chars()) {
            *number = match letter {
                'a' | 'b' => 1,
                'c' => 2,
                'd' => 3,
                'n' => 4,
                _ => return Err(LettersError::NotOnPc(letter)),
            };
        }
        Ok(Self(numbers))
    }

    /// The bytes of CMOS that tell the letters: indices and values.
    pub fn cmos(self, floppy_signature: bool) -> [(u8, u8); 2] {
        let Self([first, second, third]) = self;
        let flag = match floppy_signature {
            true => 0,
            false => NO_FLOPPY_SIGNATURE,
        };
        [
            (CMOS_THIRD, third << 4 | flag),
            (CMOS_FIRST, second << 4 | first),
        ]
    }
}

/// What firmware is told about booting.
#[derive(Clone, Copy, Debug)]
pub struct BootSettings<'m> {
    /// The order.
    pub order: Letters,
    /// The order until the first reset, where it is another one.
    pub once: Option<Letters>,
    /// Whether there is a menu.
    pub menu: bool,
    /// Milliseconds that the menu's prompt or the picture is shown.
    pub splash_time: Option<u16>,
    /// A picture, and the name of the file that firmware looks for it in.
    pub splash: Option<(&'static str, &'m [u8])>,
    /// Milliseconds until firmware that found nothing to boot starts over; `None`: never.
    pub reboot_timeout: Option<u16>,
    /// Only devices with an index are tried, if any has one.
    pub strict: bool,
    /// Whether floppy disks must have a boot signature.
    pub floppy_signature: bool,
    /// The port of the serial port that SeaBIOS is to use as screen and keyboard though it may expect a display; with
    /// [`graphics`](crate::machine::Config::graphics) off it does so itself.
    pub serial_console: Option<u16>,
}

impl BootSettings<'_> {
    /// What nobody has asked for otherwise.
    pub const DEFAULT: Self = Self {
        order: Letters::DEFAULT,
        once: None,
        menu: false,
        splash_time: None,
        splash: None,
        reboot_timeout: None,
        strict: false,
        floppy_signature: true,
        serial_console: None,
    };
}

/// Why a path could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// Another one has this index.
    Taken(i32),
    /// There are [`ENTRIES_MAX`].
    Full,
    /// It is longer than [`PATH_MAX`] bytes.
    Long,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // QEMU's words.
            Self::Taken(index) => write!(f, "The bootindex {index} has already been used"),
            Self::Full => write!(f, "at most {ENTRIES_MAX} of them can have a bootindex"),
            Self::Long => write!(
                f,
                "its place in the boot order has more than {PATH_MAX} bytes"
            ),
        }
    }
}

/// Devices and ROMs with an index, in its order.
#[derive(Clone, Debug, Default)]
pub struct Entries(heapless::Vec<(i32, Path), ENTRIES_MAX>);

impl Entries {
    /// None.
    pub const fn new() -> Self {
        Self(heapless::Vec::new())
    }

    /// Whether there is room for another entry with this index, which isn't taken.
    ///
    /// # Errors
    /// [`EntryError::Taken`], [`EntryError::Full`].
    pub fn check(&self, index: i32) -> Result<(), EntryError> {
        match self.0.binary_search_by_key(&index, |(other, _)| *other) {
            Ok(_) => Err(EntryError::Taken(index)),
            Err(_) if self.0.is_full() => Err(EntryError::Full),
            Err(_) => Ok(()),
        }
    }

    /// Adds a path. One with a negative index is not told to firmware.
    ///
    /// # Errors
    /// See [`EntryError`].
    pub fn add(&mut self, index: i32, path: &str) -> Result<(), EntryError> {
        if index < 0 {
            return Ok(());
        }
        let at = match self.0.binary_search_by_key(&index, |(other, _)| *other) {
            Ok(_) => return Err(EntryError::Taken(index)),
            Err(at) => at,
        };
        let path = path.try_into().map_err(|_| EntryError::Long)?;
        self.0
            .insert(at, (index, path))
            .map_err(|_| EntryError::Full)
    }

    /// Takes a path out again, if it is there.
    pub fn remove(&mut self, path: &str) {
        self.0.retain(|(_, other)| other != path);
    }

    /// The index of a path, if it is there.
    pub fn index_of(&self, path: &str) -> Option<i32> {
        let found = self.0.iter().find(|(_, other)| other == path);
        found.map(|(index, _)| *index)
    }

    /// Whether firmware has nothing to be told.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the file to the front of `memory`, which has [`FILE_MAX`] bytes, and returns its length: paths, a line each, the
    /// last one ended by a zero. `strict` adds that nothing else is to be tried.
    pub fn write(&self, strict: bool, memory: &mut [u8; FILE_MAX]) -> usize {
        let halt = (strict && !self.is_empty()).then_some(HALT);
        let mut used = 0;
        for line in self.0.iter().map(|(_, path)| path.as_str()).chain(halt) {
            let end = used + line.len();
            // All of them fit: see FILE_MAX.
            if let Some(to) = memory.get_mut(used..end) {
                to.copy_from_slice(line.as_bytes());
            }
            if let Some(to) = memory.get_mut(end) {
                *to = b'\n';
            }
            used = end + 1;
        }
        if let Some(last) = used.checked_sub(1).and_then(|last| memory.get_mut(last)) {
            *last = 0;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};

    /// Observed with QEMU 7.2.
    #[test]
    fn letters_become_bytes_of_cmos() {
        for (text, third, first) in [
            ("cad", 0x30, 0x12),
            ("nda", 0x10, 0x34),
            ("d", 0x00, 0x03),
            ("ab", 0x00, 0x11),
            ("", 0, 0),
        ] {
            let letters = Letters::parse(text).unwrap();
            assert_eq!(letters.cmos(true), [(0x38, third), (0x3d, first)], "{text}");
            assert_eq!(letters.cmos(false)[0], (0x38, third | 1), "{text}");
        }
        assert_eq!(Letters::parse("cad"), Ok(Letters::DEFAULT));
        for (text, reason) in [
            ("q", "Invalid boot device 'q'"),
            ("C", "Invalid boot device 'C'"),
            ("aa", "Boot device 'a' was given twice"),
            ("abcd", "Too many boot devices for PC"),
            ("abcdq", "Invalid boot device 'q'"),
            ("ce", "Invalid boot device for PC: 'e'"),
            ("c\u{e4}", "Invalid boot device '\u{e4}'"),
        ] {
            let error = Letters::parse(text).unwrap_err();
            assert_eq!(error.to_string(), reason, "{text}");
        }
        assert_eq!(Letters::check("abcdefghijklmnop"), Ok(()));
    }

    #[test]
    fn paths_come_by_index() {
        let (mut entries, mut memory) = (Entries::new(), [0xff; FILE_MAX]);
        assert_eq!(entries.write(true, &mut memory), 0);
        entries.add(7, "/b").unwrap();
        entries.add(-1, "/nowhere").unwrap();
        entries.add(2, "/a").unwrap();
        let taken = entries.add(7, "/c").unwrap_err();
        assert_eq!(taken.to_string(), "The bootindex 7 has already been used");
        let length = entries.write(false, &mut memory);
        assert_eq!(&memory[..length], b"/a\n/b\0");
        let length = entries.write(true, &mut memory);
        assert_eq!(&memory[..length], b"/a\n/b\nHALT\0");
        entries.remove("/a");
        let length = entries.write(false, &mut memory);
        assert_eq!(&memory[..length], b"/b\0");
    }

    #[test]
    fn the_longest_file_fits() {
        let (mut entries, mut memory) = (Entries::new(), [0; FILE_MAX]);
        let path: String = "x".repeat(PATH_MAX);
        for index in 0..ENTRIES_MAX as i32 {
            entries.add(index, &path).unwrap();
        }
        assert_eq!(entries.add(99, "/"), Err(EntryError::Full));
        assert_eq!(entries.write(true, &mut memory), FILE_MAX);
        assert_eq!(&memory[FILE_MAX - 5..], b"HALT\0");
        let long: String = "x".repeat(PATH_MAX + 1);
        assert_eq!(Entries::new().add(1, &long), Err(EntryError::Long));
    }
}
