//! What people do to keyboards and mice, and what a PS/2 keyboard makes of a key.
//!
//! Keys have the names of QMP's QKeyCode. Their scan codes follow IBM's PS/2 Hardware Interface Technical Reference (keyboard, sets
//! 1 to 3) and Microsoft's Keyboard Scan Code Specification (keys of later keyboards); which keys have a code in which set is
//! as in QEMU 7.2, as observed.
//!
//! Not modelled: make-only keys and typematic rates of set 3, and the shift states that a real keyboard pretends around keys
//! of the cursor block.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::names::named;

/// What comes before the code of a key that the first PC's keyboard did not have.
const EXTENDED: u8 = 0xe0;

/// What comes before the codes of the pause key.
const EXTENDED_1: u8 = 0xe1;

/// What comes before a code, in sets 2 and 3, when the key goes up.
const RELEASE: u8 = 0xf0;

/// In a code of set 1: the key goes up.
const RELEASE_BIT: u8 = 0x80;

/// In [`KEYS`]: [`EXTENDED`] comes before the codes in sets 1 and 2.
const EXTENDED_BIT: u8 = 0x80;

/// Every key, in QMP's order: its name, and its codes in sets 1, 2 and 3, or 0. The first one is also the key's number
/// in QMP.
const KEYS: [(&str, u8, u8, u8); 150] = [
    ("unmapped", 0x00, 0x00, 0x00),
    ("shift", 0x2a, 0x12, 0x12),
    ("shift_r", 0x36, 0x59, 0x59),
    ("alt", 0x38, 0x11, 0x19),
    ("alt_r", 0xb8, 0x11, 0x39),
    ("ctrl", 0x1d, 0x14, 0x11),
    ("ctrl_r", 0x9d, 0x14, 0x58),
    ("menu", 0x9e, 0x00, 0x91),
    ("esc", 0x01, 0x76, 0x08),
    ("1", 0x02, 0x16, 0x16),
    ("2", 0x03, 0x1e, 0x1e),
    ("3", 0x04, 0x26, 0x26),
    ("4", 0x05, 0x25, 0x25),
    ("5", 0x06, 0x2e, 0x2e),
    ("6", 0x07, 0x36, 0x36),
    ("7", 0x08, 0x3d, 0x3d),
    ("8", 0x09, 0x3e, 0x3e),
    ("9", 0x0a, 0x46, 0x46),
    ("0", 0x0b, 0x45, 0x45),
    ("minus", 0x0c, 0x4e, 0x4e),
    ("equal", 0x0d, 0x55, 0x55),
    ("backspace", 0x0e, 0x66, 0x66),
    ("tab", 0x0f, 0x0d, 0x0d),
    ("q", 0x10, 0x15, 0x15),
    ("w", 0x11, 0x1d, 0x1d),
    ("e", 0x12, 0x24, 0x24),
    ("r", 0x13, 0x2d, 0x2d),
    ("t", 0x14, 0x2c, 0x2c),
    ("y", 0x15, 0x35, 0x35),
    ("u", 0x16, 0x3c, 0x3c),
    ("i", 0x17, 0x43, 0x43),
    ("o", 0x18, 0x44, 0x44),
    ("p", 0x19, 0x4d, 0x4d),
    ("bracket_left", 0x1a, 0x54, 0x54),
    ("bracket_right", 0x1b, 0x5b, 0x5b),
    ("ret", 0x1c, 0x5a, 0x5a),
    ("a", 0x1e, 0x1c, 0x1c),
    ("s", 0x1f, 0x1b, 0x1b),
    ("d", 0x20, 0x23, 0x23),
    ("f", 0x21, 0x2b, 0x2b),
    ("g", 0x22, 0x34, 0x34),
    ("h", 0x23, 0x33, 0x33),
    ("j", 0x24, 0x3b, 0x3b),
    ("k", 0x25, 0x42, 0x42),
    ("l", 0x26, 0x4b, 0x4b),
    ("semicolon", 0x27, 0x4c, 0x4c),
    ("apostrophe", 0x28, 0x52, 0x52),
    ("grave_accent", 0x29, 0x0e, 0x0e),
    ("backslash", 0x2b, 0x5d, 0x5c),
    ("z", 0x2c, 0x1a, 0x1a),
    ("x", 0x2d, 0x22, 0x22),
    ("c", 0x2e, 0x21, 0x21),
    ("v", 0x2f, 0x2a, 0x2a),
    ("b", 0x30, 0x32, 0x32),
    ("n", 0x31, 0x31, 0x31),
    ("m", 0x32, 0x3a, 0x3a),
    ("comma", 0x33, 0x41, 0x41),
    ("dot", 0x34, 0x49, 0x49),
    ("slash", 0x35, 0x4a, 0x4a),
    ("asterisk", 0x37, 0x7c, 0x7e),
    ("spc", 0x39, 0x29, 0x29),
    ("caps_lock", 0x3a, 0x58, 0x14),
    ("f1", 0x3b, 0x05, 0x07),
    ("f2", 0x3c, 0x06, 0x0f),
    ("f3", 0x3d, 0x04, 0x17),
    ("f4", 0x3e, 0x0c, 0x1f),
    ("f5", 0x3f, 0x03, 0x27),
    ("f6", 0x40, 0x0b, 0x2f),
    ("f7", 0x41, 0x83, 0x37),
    ("f8", 0x42, 0x0a, 0x3f),
    ("f9", 0x43, 0x01, 0x47),
    ("f10", 0x44, 0x09, 0x4f),
    ("num_lock", 0x45, 0x77, 0x76),
    ("scroll_lock", 0x46, 0x7e, 0x5f),
    ("kp_divide", 0xb5, 0x4a, 0x4a),
    ("kp_multiply", 0x37, 0x7c, 0x7e),
    ("kp_subtract", 0x4a, 0x7b, 0x4e),
    ("kp_add", 0x4e, 0x79, 0x7c),
    ("kp_enter", 0x9c, 0x5a, 0x79),
    ("kp_decimal", 0x53, 0x71, 0x71),
    ("sysrq", 0x54, 0x84, 0x57),
    ("kp_0", 0x52, 0x70, 0x70),
    ("kp_1", 0x4f, 0x69, 0x69),
    ("kp_2", 0x50, 0x72, 0x72),
    ("kp_3", 0x51, 0x7a, 0x7a),
    ("kp_4", 0x4b, 0x6b, 0x6b),
    ("kp_5", 0x4c, 0x73, 0x73),
    ("kp_6", 0x4d, 0x74, 0x74),
    ("kp_7", 0x47, 0x6c, 0x6c),
    ("kp_8", 0x48, 0x75, 0x75),
    ("kp_9", 0x49, 0x7d, 0x7d),
    ("less", 0x56, 0x61, 0x13),
    ("f11", 0x57, 0x78, 0x56),
    ("f12", 0x58, 0x07, 0x5e),
    ("print", 0xb7, 0x7c, 0x57),
    ("home", 0xc7, 0x6c, 0x6e),
    ("pgup", 0xc9, 0x7d, 0x6f),
    ("pgdn", 0xd1, 0x7a, 0x6d),
    ("end", 0xcf, 0x69, 0x65),
    ("left", 0xcb, 0x6b, 0x61),
    ("up", 0xc8, 0x75, 0x63),
    ("down", 0xd0, 0x72, 0x60),
    ("right", 0xcd, 0x74, 0x6a),
    ("insert", 0xd2, 0x70, 0x67),
    ("delete", 0xd3, 0x71, 0x64),
    ("stop", 0xe8, 0x28, 0x0a),
    ("again", 0x85, 0x00, 0x0b),
    ("props", 0x86, 0x00, 0x0c),
    ("undo", 0x87, 0x00, 0x10),
    ("front", 0x8c, 0x00, 0x00),
    ("copy", 0xf8, 0x00, 0x18),
    ("open", 0x64, 0x00, 0x20),
    ("paste", 0x65, 0x00, 0x28),
    ("find", 0xc1, 0x00, 0x30),
    ("cut", 0xbc, 0x00, 0x38),
    ("lf", 0x5b, 0x00, 0x00),
    ("help", 0xf5, 0x00, 0x09),
    ("meta_l", 0xdb, 0x1f, 0x8b),
    ("meta_r", 0xdc, 0x27, 0x8c),
    ("compose", 0xdd, 0x2f, 0x8d),
    ("pause", 0xc6, 0x7e, 0x62),
    ("ro", 0x73, 0x51, 0x00),
    ("hiragana", 0x77, 0x62, 0x87),
    ("henkan", 0x79, 0x64, 0x86),
    ("yen", 0x7d, 0x6a, 0x5d),
    ("muhenkan", 0x7b, 0x67, 0x85),
    ("katakanahiragana", 0x70, 0x13, 0x87),
    ("kp_comma", 0x7e, 0x6d, 0x00),
    ("kp_equals", 0x59, 0x0f, 0x00),
    ("power", 0xde, 0x37, 0x00),
    ("sleep", 0xdf, 0x3f, 0x00),
    ("wake", 0xe3, 0x5e, 0x00),
    ("audionext", 0x99, 0x4d, 0x93),
    ("audioprev", 0x90, 0x15, 0x94),
    ("audiostop", 0xa4, 0x3b, 0x98),
    ("audioplay", 0xa2, 0x34, 0x00),
    ("audiomute", 0xa0, 0x23, 0x9c),
    ("volumeup", 0xb0, 0x32, 0x95),
    ("volumedown", 0xae, 0x21, 0x9d),
    ("mediaselect", 0xed, 0x50, 0x00),
    ("mail", 0xec, 0x48, 0x00),
    ("calculator", 0xa1, 0x2b, 0xa3),
    ("computer", 0xeb, 0x40, 0x00),
    ("ac_home", 0xb2, 0x3a, 0x97),
    ("ac_back", 0xea, 0x38, 0x00),
    ("ac_forward", 0xe9, 0x30, 0x00),
    ("ac_refresh", 0xe7, 0x20, 0x00),
    ("ac_bookmarks", 0xe6, 0x18, 0x00),
    ("lang1", 0x72, 0x00, 0x00),
    ("lang2", 0x71, 0x00, 0x00),
];

/// Bytes of all names.
const TEXT_LENGTH: usize = {
    let (mut length, mut key) = (0, 0);
    while key < KEYS.len() {
        length += KEYS[key].0.len();
        key += 1;
    }
    length
};

/// The table as it is in the binary: without pointers.
struct Table {
    names: [u8; TEXT_LENGTH],
    /// Where each name starts.
    starts: [u16; KEYS.len() + 1],
    codes: [[u8; 3]; KEYS.len()],
}

static TABLE: Table = {
    let mut table = Table {
        names: [0; TEXT_LENGTH],
        starts: [0; KEYS.len() + 1],
        codes: [[0; 3]; KEYS.len()],
    };
    let (mut length, mut key) = (0, 0);
    while key < KEYS.len() {
        let (name, set_1, set_2, set_3) = KEYS[key];
        table.codes[key] = [set_1, set_2, set_3];
        let mut at = 0;
        while at < name.len() {
            table.names[length] = name.as_bytes()[at];
            length += 1;
            at += 1;
        }
        key += 1;
        table.starts[key] = length as u16;
    }
    table
};

/// A key: QMP's QKeyCode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QKeyCode(u8);

impl QKeyCode {
    /// All keys, in QMP's order.
    pub const ALL: &'static [Self] = &{
        let mut all = [Self(0); KEYS.len()];
        let mut key = 0;
        while key < all.len() {
            all[key] = Self(key as u8);
            key += 1;
        }
        all
    };

    /// The key that does nothing.
    pub const UNMAPPED: Self = Self(0);

    const ALT: Self = Self::named("alt");
    const ALT_R: Self = Self::named("alt_r");
    const CTRL: Self = Self::named("ctrl");
    const CTRL_R: Self = Self::named("ctrl_r");
    const NUM_LOCK: Self = Self::named("num_lock");
    const PAUSE: Self = Self::named("pause");
    const PRINT: Self = Self::named("print");
    const SHIFT: Self = Self::named("shift");
    const SHIFT_R: Self = Self::named("shift_r");
    const SYSRQ: Self = Self::named("sysrq");

    /// A key that this source names. Evaluated by the compiler only.
    const fn named(name: &str) -> Self {
        let mut key = 0;
        while key < KEYS.len() {
            let (known, name) = (KEYS[key].0.as_bytes(), name.as_bytes());
            let mut at = 0;
            while at < known.len() && at < name.len() && known[at] == name[at] {
                at += 1;
            }
            if at == known.len() && at == name.len() {
                return Self(key as u8);
            }
            key += 1;
        }
        panic!("no such key");
    }

    /// The key at a place of the table.
    pub fn new(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// The key of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|key| key.name().as_bytes() == name)
    }

    /// The key of this number: its code in set 1, with bit 7 set where E0h comes before it. [`QKeyCode::UNMAPPED`] if
    /// there is none.
    pub fn from_number(number: i64) -> Self {
        let mut all = Self::ALL.iter().copied();
        all.find(|key| number != 0 && i64::from(key.codes()[0]) == number)
            .unwrap_or(Self::UNMAPPED)
    }

    /// Its place in the table.
    pub const fn index(self) -> u8 {
        self.0
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let at = usize::from(self.0);
        let start = TABLE.starts.get(at).copied().unwrap_or(0);
        let end = TABLE.starts.get(at + 1).copied().unwrap_or(start);
        let name = TABLE.names.get(start.into()..end.into());
        core::str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }

    fn codes(self) -> [u8; 3] {
        TABLE
            .codes
            .get(usize::from(self.0))
            .copied()
            .unwrap_or([0; 3])
    }
}

bitflags! {
    /// Keys that change what others send, and are down.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Modifiers: u8 {
        /// Left shift.
        const SHIFT = 1 << 0;
        /// Right shift.
        const SHIFT_R = 1 << 1;
        /// Left control.
        const CTRL = 1 << 2;
        /// Right control.
        const CTRL_R = 1 << 3;
        /// Left alt.
        const ALT = 1 << 4;
        /// Right alt.
        const ALT_R = 1 << 5;
    }
}

impl Modifiers {
    /// What a key is among these.
    pub const fn of(key: QKeyCode) -> Self {
        match key {
            QKeyCode::SHIFT => Self::SHIFT,
            QKeyCode::SHIFT_R => Self::SHIFT_R,
            QKeyCode::CTRL => Self::CTRL,
            QKeyCode::CTRL_R => Self::CTRL_R,
            QKeyCode::ALT => Self::ALT,
            QKeyCode::ALT_R => Self::ALT_R,
            _ => Self::empty(),
        }
    }
}

/// Bytes that a key sends at most.
const CODES_MAX: usize = 8;

/// What a key sends.
#[derive(Default)]
struct Codes(heapless::Vec<u8, CODES_MAX>);

impl Codes {
    fn push(&mut self, byte: u8) {
        let _ = self.0.push(byte);
    }

    /// A key of these codes, which is nothing where the set has none for it.
    fn add(&mut self, set: u8, codes: [u8; 3], down: bool) {
        let extended = codes[0] & EXTENDED_BIT != 0;
        let (code, extended) = match set {
            1 => (codes[0] & !EXTENDED_BIT, extended),
            2 => (codes[1], extended),
            _ => (codes[2], false),
        };
        if code == 0 {
            return;
        }
        if extended {
            self.push(EXTENDED);
        }
        match (down, set) {
            (true, _) => self.push(code),
            (false, 1) => self.push(code | RELEASE_BIT),
            (false, _) => {
                self.push(RELEASE);
                self.push(code);
            }
        }
    }
}

/// The codes of the print key: alone, with alt held, and the shift that it pretends.
const PRINT: [u8; 3] = [0x37 | EXTENDED_BIT, 0x7c, 0];
const PRINT_WITH_ALT: [u8; 3] = [0x54, 0x84, 0];
const PRETENDED_SHIFT: [u8; 3] = [0x2a | EXTENDED_BIT, 0x12, 0];

/// The codes of the pause key with control held.
const BREAK: [u8; 3] = [0x46 | EXTENDED_BIT, 0x7e, 0];

/// The bytes that a keyboard sends in scan code set `set`, 1 to 3, when a key goes down or up while others are held.
pub fn scan_codes(
    set: u8,
    key: QKeyCode,
    down: bool,
    held: Modifiers,
) -> heapless::Vec<u8, CODES_MAX> {
    let mut codes = Codes::default();
    match key {
        QKeyCode::PRINT | QKeyCode::SYSRQ if set != 3 => print(&mut codes, set, down, held),
        QKeyCode::PAUSE if set != 3 => pause(&mut codes, set, down, held),
        _ => codes.add(set, key.codes(), down),
    }
    codes.0
}

fn print(codes: &mut Codes, set: u8, down: bool, held: Modifiers) {
    let alt = if held.contains(Modifiers::ALT) {
        QKeyCode::ALT
    } else if held.contains(Modifiers::ALT_R) {
        QKeyCode::ALT_R
    } else if held.is_empty() {
        match down {
            true => {
                codes.add(set, PRETENDED_SHIFT, true);
                codes.add(set, PRINT, true);
            }
            false => {
                codes.add(set, PRINT, false);
                codes.add(set, PRETENDED_SHIFT, false);
            }
        }
        return;
    } else {
        return codes.add(set, PRINT, down);
    };
    if !down {
        codes.add(set, PRINT_WITH_ALT, false);
    }
    codes.add(set, alt.codes(), false);
    codes.add(set, alt.codes(), true);
    if down {
        codes.add(set, PRINT_WITH_ALT, true);
    }
}

/// The pause key sends all that it has when it goes down.
fn pause(codes: &mut Codes, set: u8, down: bool, held: Modifiers) {
    if !down {
        return;
    }
    for down in [true, false] {
        if held.intersects(Modifiers::CTRL | Modifiers::CTRL_R) {
            codes.add(set, BREAK, down);
        } else {
            codes.push(EXTENDED_1);
            codes.add(set, QKeyCode::CTRL.codes(), down);
            codes.add(set, QKeyCode::NUM_LOCK.codes(), down);
        }
    }
}

/// The keyboard controller's translation of set 2 to set 1, up to 7Fh.
static TRANSLATION: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// A byte of a keyboard as the keyboard controller translates it, which turns set 2 into set 1. `release`: whether the byte
/// before it was F0h, which becomes a bit of the next byte and is nothing itself.
pub fn translate(byte: u8, release: &mut bool) -> Option<u8> {
    if byte == RELEASE {
        *release = true;
        return None;
    }
    let code = match byte {
        // Those of two keys that have no seven bits.
        0x83 => 0x41,
        0x84 => 0x54,
        _ => TRANSLATION.get(usize::from(byte)).copied().unwrap_or(byte),
    };
    let bit = match core::mem::take(release) {
        true => RELEASE_BIT,
        false => 0,
    };
    Some(code | bit)
}

named! {
    /// A button of a mouse: QMP's InputButton.
    InputButton {
        /// The left one.
        #[default]
        Left = "left",
        /// The middle one.
        Middle = "middle",
        /// The right one.
        Right = "right",
        /// The wheel, away from the user.
        WheelUp = "wheel-up",
        /// The wheel, towards the user.
        WheelDown = "wheel-down",
        /// The first one at the side.
        Side = "side",
        /// The second one at the side.
        Extra = "extra",
        /// The wheel, tilted to the left.
        WheelLeft = "wheel-left",
        /// The wheel, tilted to the right.
        WheelRight = "wheel-right",
    }
}

named! {
    /// Where to a mouse moves: QMP's InputAxis.
    InputAxis {
        /// To the right.
        #[default]
        X = "x",
        /// Down.
        Y = "y",
    }
}

/// What someone does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key goes down or up.
    Key {
        /// Which.
        key: QKeyCode,
        /// Down.
        down: bool,
    },
    /// A button does, or the wheel turns by a notch.
    Button {
        /// Which.
        button: InputButton,
        /// Down. A wheel that goes up does nothing.
        down: bool,
    },
    /// The mouse moves.
    Move {
        /// Where to.
        axis: InputAxis,
        /// How far, in counts.
        by: i32,
    },
}

/// Saved form of a key: its place in the table.
impl Serialize for QKeyCode {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(self.0)
    }
}

impl<'d> Deserialize<'d> for QKeyCode {
    fn deserialize<D: serde::Deserializer<'d>>(from: D) -> Result<Self, D::Error> {
        let index = u8::deserialize(from)?;
        Self::new(index).ok_or_else(|| serde::de::Error::custom("no key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for key in QKeyCode::ALL {
            assert_eq!(QKeyCode::from_name(key.name().as_bytes()), Some(*key));
            assert_eq!(QKeyCode::new(key.index()), Some(*key));
            // The asterisk has the number of the keypad's.
            let found = QKeyCode::from_number(key.codes()[0].into());
            assert_eq!(found.codes(), key.codes(), "{}", key.name());
        }
        assert_eq!(QKeyCode::from_name(b""), None);
        assert_eq!(QKeyCode::from_name(b"shif"), None);
        assert_eq!(QKeyCode::new(150), None);
        for number in [i64::MIN, -1, 0, 0x55, 0xff, 0x101, 0x1_0000_001e] {
            assert_eq!(QKeyCode::from_number(number), QKeyCode::UNMAPPED);
        }
        assert_eq!(QKeyCode::PRINT.codes()[0], 0xb7);
    }

    /// Codes of set 2 become those of set 1, but for the three keys that have none in set 2 there and others in set 1.
    #[test]
    fn translated_codes_of_set_2_are_those_of_set_1() {
        for key in QKeyCode::ALL.iter().copied() {
            for held in [Modifiers::empty(), Modifiers::ALT, Modifiers::CTRL_R] {
                for down in [true, false] {
                    let (mut release, mut translated) = (false, Codes::default());
                    for byte in scan_codes(2, key, down, held) {
                        if let Some(byte) = translate(byte, &mut release) {
                            translated.push(byte);
                        }
                    }
                    assert!(!release);
                    if !translated.0.is_empty() {
                        let name = key.name();
                        assert_eq!(translated.0, scan_codes(1, key, down, held), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn print_and_pause_depend_on_what_is_held() {
        let print = QKeyCode::PRINT;
        let held = Modifiers::ALT_R | Modifiers::SHIFT;
        assert_eq!(
            scan_codes(1, print, true, held),
            [0xe0, 0xb8, 0xe0, 0x38, 0x54]
        );
        let up = [0xf0, 0x84, 0xe0, 0xf0, 0x11, 0xe0, 0x11];
        assert_eq!(scan_codes(2, print, false, held), up);
        assert_eq!(scan_codes(1, print, true, Modifiers::SHIFT), [0xe0, 0x37]);
        let alone = scan_codes(1, print, false, Modifiers::empty());
        assert_eq!(alone, [0xe0, 0xb7, 0xe0, 0xaa]);
        let pause = scan_codes(2, QKeyCode::PAUSE, true, Modifiers::SHIFT);
        assert_eq!(pause, [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
        let held = scan_codes(1, QKeyCode::PAUSE, true, Modifiers::CTRL);
        assert_eq!(held, [0xe0, 0x46, 0xe0, 0xc6]);
        assert_eq!(
            scan_codes(3, QKeyCode::PAUSE, false, Modifiers::CTRL),
            [0xf0, 0x62]
        );
    }
}
