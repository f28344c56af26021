//! PS/2 keyboard and mouse: what the keyboard controller's two serial lines lead to.
//!
//! They follow IBM's PS/2 Hardware Interface Technical Reference (keyboard; mouse) and Microsoft's description of the mouse
//! with a wheel. Where firmware can see a difference they answer as QEMU 7.2 was observed to answer: a new keyboard command
//! discards what is left of the last one's reply, the mouse keeps replies up to its queue's size, its status shows no
//! buttons, it keeps buttons and movements when it is reset by a command, and unknown commands of the mouse are not answered.
//!
//! The keyboard's bytes that find no room are lost, as QEMU's are; the mouse keeps movements until there is room.
//!
//! Not modelled: time on the serial lines, typematic repeat (the host repeats), set 3's choice of keys that repeat or tell of
//! their release.

use serde::{Deserialize, Serialize};

use super::input::{InputAxis, InputButton, Modifiers, QKeyCode, scan_codes, translate};
use crate::state::StateError;
use crate::trace::events as trace;

/// Bytes that each device keeps for the controller to fetch.
pub(super) const QUEUE_SIZE: usize = 16;

/// Bytes of the longest reply of the keyboard.
const REPLY_SIZE: usize = 3;

// Commands of both devices, and the keyboard's.

pub(super) const SET_LEDS: u8 = 0xed;
pub(super) const ECHO: u8 = 0xee;
pub(super) const SCAN_CODE_SET: u8 = 0xf0;
pub(super) const IDENTIFY: u8 = 0xf2;
pub(super) const SET_RATE: u8 = 0xf3;
pub(super) const ENABLE: u8 = 0xf4;
pub(super) const DISABLE: u8 = 0xf5;
pub(super) const SET_DEFAULTS: u8 = 0xf6;
pub(super) const ALL_MAKE_BREAK_REPEAT: u8 = 0xfa;
pub(super) const KEY_MAKE_BREAK: u8 = 0xfc;
pub(super) const RESET: u8 = 0xff;

// The mouse's commands beside those.

pub(super) const SET_SCALING_1: u8 = 0xe6;
pub(super) const SET_SCALING_2: u8 = 0xe7;
pub(super) const SET_RESOLUTION: u8 = 0xe8;
pub(super) const STATUS_REQUEST: u8 = 0xe9;
pub(super) const STREAM_MODE: u8 = 0xea;
pub(super) const READ_DATA: u8 = 0xeb;
pub(super) const RESET_WRAP: u8 = 0xec;
pub(super) const SET_WRAP: u8 = 0xee;
pub(super) const REMOTE_MODE: u8 = 0xf0;

// What devices answer.

pub(super) const ACK: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
pub(super) const TEST_PASSED: u8 = 0xaa;
/// First byte of a keyboard's identity; the second is 83h.
pub(super) const KEYBOARD_ID: u8 = 0xab;

/// Bytes of a device that wait to be read.
type Queue = heapless::Deque<u8, QUEUE_SIZE>;

/// The keyboard.
#[derive(Clone, Debug)]
pub(super) struct Keyboard {
    /// Rest of the reply to the last command; it goes out before keys.
    reply: heapless::Deque<u8, REPLY_SIZE>,
    keys: Queue,
    /// Command that waits for its argument.
    command: Option<u8>,
    scanning: bool,
    /// Scroll lock, num lock and caps lock in bits 0 to 2.
    pub(super) leds: u8,
    set: u8,
    typematic: u8,
    /// Keys that change what others send. Their release goes unseen while the keyboard is off.
    held: Modifiers,
    /// The last byte was the prefix of a release, which the controller has kept to translate it with the next.
    release: bool,
}

/// Which extensions the mouse has been talked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Protocol {
    /// Two or three buttons, three-byte packets: identity 0.
    Standard,
    /// A wheel, four-byte packets: identity 3.
    Wheel,
    /// A wheel and five buttons: identity 4.
    Explorer,
}

impl Protocol {
    const fn id(self) -> u8 {
        match self {
            Self::Standard => 0,
            Self::Wheel => 3,
            Self::Explorer => 4,
        }
    }
}

/// The mouse.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mouse {
    queue: Queue,
    command: Option<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling_2: bool,
    resolution: u8,
    rate: u8,
    /// The last sample rates, newest last, by which drivers ask for extensions.
    knock: [u8; 3],
    protocol: Protocol,
    buttons: u8,
    /// Movement that has not been reported: right, up, wheel towards the user, wheel tilted to the left.
    dx: i32,
    dy: i32,
    dz: i32,
    dw: i32,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            reply: heapless::Deque::new(),
            keys: Queue::new(),
            command: None,
            scanning: true,
            leds: 0,
            set: 2,
            typematic: 0,
            held: Modifiers::empty(),
            release: false,
        }
    }
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            queue: Queue::new(),
            command: None,
            reporting: false,
            remote: false,
            wrap: false,
            scaling_2: false,
            resolution: 0,
            rate: 0,
            knock: [0; 3],
            protocol: Protocol::Standard,
            buttons: 0,
            dx: 0,
            dy: 0,
            dz: 0,
            dw: 0,
        }
    }
}

impl Keyboard {
    pub(super) fn has_data(&self) -> bool {
        !self.reply.is_empty() || !self.keys.is_empty()
    }

    fn answer(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let _ = self.reply.push_back(*byte);
        }
    }

    pub(super) fn take(&mut self) -> Option<u8> {
        self.reply.pop_front().or_else(|| self.keys.pop_front())
    }

    /// Forgets everything but the LEDs' and typematic settings' defaults and waiting keys.
    fn defaults(&mut self) {
        trace::ps2_reset_keyboard();
        trace::ps2_set_ledstate(0);
        self.keys.clear();
        self.leds = 0;
        self.set = 2;
        self.typematic = 0;
    }

    pub(super) fn write(&mut self, byte: u8, translate: bool) {
        trace::ps2_write_keyboard(byte);
        self.reply.clear();
        if let Some(command) = self.command.take() {
            self.argument(command, byte, translate);
            return;
        }
        match byte {
            ECHO => self.answer(&[ECHO]),
            IDENTIFY => {
                let second = if translate { 0x41 } else { 0x83 };
                self.answer(&[ACK, KEYBOARD_ID, second]);
            }
            SET_LEDS | SCAN_CODE_SET | SET_RATE | KEY_MAKE_BREAK => {
                self.command = Some(byte);
                self.answer(&[ACK]);
            }
            ENABLE => {
                self.scanning = true;
                self.answer(&[ACK]);
            }
            DISABLE | SET_DEFAULTS => {
                self.defaults();
                self.scanning = byte == SET_DEFAULTS;
                self.answer(&[ACK]);
            }
            0x00 | ALL_MAKE_BREAK_REPEAT => self.answer(&[ACK]),
            RESET => {
                self.defaults();
                self.scanning = true;
                self.answer(&[ACK, TEST_PASSED]);
            }
            _ => {
                trace::unimp_ps2_keyboard_command(byte);
                self.answer(&[RESEND]);
            }
        }
    }

    fn argument(&mut self, command: u8, byte: u8, translate: bool) {
        match (command, byte) {
            (SCAN_CODE_SET, 0) => {
                // The number itself passes the translation, too.
                let number = match (translate, self.set) {
                    (true, 1) => 0x43,
                    (true, 2) => 0x41,
                    (true, _) => 0x3f,
                    (false, set) => set,
                };
                self.answer(&[ACK, number]);
            }
            (SCAN_CODE_SET, 1..=3) => {
                self.set = byte;
                self.answer(&[ACK]);
            }
            (SCAN_CODE_SET, _) => self.answer(&[RESEND]),
            (SET_LEDS, _) => {
                self.leds = byte & 7;
                trace::ps2_set_ledstate(byte);
                self.answer(&[ACK]);
            }
            // Keys of set 3 tell of their release anyhow.
            (KEY_MAKE_BREAK, _) => self.answer(&[ACK]),
            _ => {
                self.typematic = byte & 0x7f;
                self.answer(&[ACK]);
            }
        }
    }

    /// A key goes down or up: queues its bytes, as far as there is room. A keyboard that is switched off notices
    /// nothing: false.
    pub(super) fn key(&mut self, key: QKeyCode, down: bool, translates: bool) -> bool {
        if !self.scanning {
            return false;
        }
        self.held.set(Modifiers::of(key), down);
        let (held, set) = (self.held.bits(), self.set);
        trace::ps2_keyboard_event(key.index(), down, held, set, translates);
        for byte in scan_codes(set, key, down, self.held) {
            trace::ps2_put_keycode(byte);
            let byte = match translates {
                true => translate(byte, &mut self.release),
                false => Some(byte),
            };
            // Replies take room from keys, but not the other way round.
            if self.reply.len() + self.keys.len() < QUEUE_SIZE
                && let Some(byte) = byte
            {
                let _ = self.keys.push_back(byte);
            }
        }
        true
    }
}

impl Mouse {
    /// Queues bytes, all or none.
    fn answer(&mut self, bytes: &[u8]) -> bool {
        if QUEUE_SIZE - self.queue.len() < bytes.len() {
            return false;
        }
        for byte in bytes {
            let _ = self.queue.push_back(*byte);
        }
        true
    }

    fn defaults(&mut self) {
        self.rate = 100;
        self.resolution = 2;
        self.reporting = false;
        self.remote = false;
        self.scaling_2 = false;
    }

    pub(super) fn write(&mut self, byte: u8) {
        trace::ps2_write_mouse(byte);
        match self.command.take() {
            Some(SET_RATE) => {
                self.set_rate(byte);
                self.answer(&[ACK]);
                return;
            }
            Some(_) => {
                self.resolution = byte;
                self.answer(&[ACK]);
                return;
            }
            None => {}
        }
        if self.wrap && byte != RESET_WRAP && byte != RESET {
            self.answer(&[byte]);
            return;
        }
        match byte {
            SET_SCALING_1 => self.scaling_2 = false,
            SET_SCALING_2 => self.scaling_2 = true,
            SET_RESOLUTION | SET_RATE => self.command = Some(byte),
            STREAM_MODE => self.remote = false,
            REMOTE_MODE => self.remote = true,
            SET_WRAP => self.wrap = true,
            RESET_WRAP => self.wrap = false,
            ENABLE => self.reporting = true,
            DISABLE => self.reporting = false,
            SET_DEFAULTS => self.defaults(),
            STATUS_REQUEST => {
                let status = u8::from(self.remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.scaling_2) << 4;
                self.answer(&[ACK, status, self.resolution, self.rate]);
                return;
            }
            IDENTIFY => {
                self.answer(&[ACK, self.protocol.id()]);
                return;
            }
            READ_DATA => {
                self.answer(&[ACK]);
                self.packet();
                return;
            }
            RESET => {
                self.defaults();
                self.wrap = false;
                self.protocol = Protocol::Standard;
                self.knock = [0; 3];
                // Buttons stay down, and movements unreported.
                self.queue.clear();
                self.answer(&[ACK, TEST_PASSED, Protocol::Standard.id()]);
                return;
            }
            _ => {
                trace::unimp_ps2_mouse_command(byte);
                return;
            }
        }
        self.answer(&[ACK]);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.knock = [self.knock[1], self.knock[2], rate];
        match self.knock {
            [200, 100, 80] => self.protocol = Protocol::Wheel,
            [200, 200, 80] => self.protocol = Protocol::Explorer,
            _ => {}
        }
    }

    pub(super) fn has_data(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<u8> {
        self.queue.pop_front()
    }

    /// It moves. A mouse that is switched off notices nothing.
    pub(super) fn moves(&mut self, axis: InputAxis, by: i32) {
        match axis {
            _ if !self.reporting => {}
            InputAxis::X => self.dx = self.dx.wrapping_add(by),
            InputAxis::Y => self.dy = self.dy.wrapping_sub(by),
        }
    }

    /// A button goes down or up, or the wheel turns.
    pub(super) fn button(&mut self, button: InputButton, down: bool) {
        if !self.reporting {
            return;
        }
        let turns = i32::from(down);
        let bit = match button {
            InputButton::Left => 1,
            InputButton::Right => 1 << 1,
            InputButton::Middle => 1 << 2,
            InputButton::Side => 1 << 3,
            InputButton::Extra => 1 << 4,
            InputButton::WheelUp => return self.dz = self.dz.wrapping_sub(turns),
            InputButton::WheelDown => return self.dz = self.dz.wrapping_add(turns),
            InputButton::WheelLeft => return self.dw = self.dw.wrapping_add(turns),
            InputButton::WheelRight => return self.dw = self.dw.wrapping_sub(turns),
        };
        self.buttons = self.buttons & !bit | if down { bit } else { 0 };
    }

    /// Queues one report of what has moved; what it has no bits for stays for the next. False: there was no room.
    fn packet(&mut self) -> bool {
        let size = if self.protocol == Protocol::Standard {
            3
        } else {
            4
        };
        if QUEUE_SIZE - self.queue.len() < size {
            return false;
        }
        let x = part(&mut self.dx, 127);
        let y = part(&mut self.dy, 127);
        let head = 1 << 3 | u8::from(x < 0) << 4 | u8::from(y < 0) << 5 | self.buttons & 7;
        // A mouse has no memory for what it can't tell.
        let fourth = match self.protocol {
            Protocol::Standard => {
                (self.dz, self.dw) = (0, 0);
                return self.answer(&[head, x as u8, y as u8]);
            }
            Protocol::Wheel => {
                self.dw = 0;
                part(&mut self.dz, 127) as u8
            }
            Protocol::Explorer if self.dw != 0 => 0x40 | part(&mut self.dw, 31) as u8 & 0x3f,
            Protocol::Explorer => part(&mut self.dz, 7) as u8 & 0x0f | (self.buttons & 0x18) << 1,
        };
        self.answer(&[head, x as u8, y as u8, fourth])
    }

    /// What was done until now belongs together: queues reports of all of it, one at least, as far as there is room.
    /// Whether a button is held.
    pub(super) fn sync(&mut self) -> bool {
        if !self.reporting {
            return false;
        }
        trace::ps2_mouse_event(self.dx, self.dy, self.dz, self.buttons);
        if !self.remote {
            while self.packet() && (self.dx, self.dy, self.dz, self.dw) != (0, 0, 0, 0) {}
        }
        self.buttons != 0
    }
}

/// Takes up to `most` counts off a movement.
fn part(movement: &mut i32, most: i32) -> i32 {
    let taken = (*movement).clamp(-most, most);
    *movement -= taken;
    taken
}

/// Saved form of the keyboard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedKeyboard {
    reply: heapless::Deque<u8, REPLY_SIZE>,
    keys: Queue,
    command: Option<u8>,
    scanning: bool,
    leds: u8,
    set: u8,
    typematic: u8,
    held: u8,
    release: bool,
}

/// Saved form of the mouse: all of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedMouse(Mouse);

impl Keyboard {
    pub(super) fn save(&self) -> SavedKeyboard {
        let Self {
            reply,
            keys,
            command,
            scanning,
            leds,
            set,
            typematic,
            held,
            release,
        } = self;
        SavedKeyboard {
            reply: reply.clone(),
            keys: keys.clone(),
            command: *command,
            scanning: *scanning,
            leds: *leds,
            set: *set,
            typematic: *typematic,
            held: held.bits(),
            release: *release,
        }
    }
}

impl TryFrom<SavedKeyboard> for Keyboard {
    type Error = StateError;

    fn try_from(saved: SavedKeyboard) -> Result<Self, StateError> {
        use StateError::Invalid;
        let SavedKeyboard {
            reply,
            keys,
            command,
            scanning,
            leds,
            set,
            typematic,
            held,
            release,
        } = saved;
        if !matches!(
            command,
            None | Some(SET_LEDS | SCAN_CODE_SET | SET_RATE | KEY_MAKE_BREAK)
        ) {
            return Err(Invalid("keyboard.command"));
        }
        if leds > 7 {
            return Err(Invalid("keyboard.leds"));
        }
        if !(1..=3).contains(&set) {
            return Err(Invalid("keyboard.set"));
        }
        if typematic > 0x7f {
            return Err(Invalid("keyboard.typematic"));
        }
        let held = Modifiers::from_bits(held).ok_or(Invalid("keyboard.held"))?;
        Ok(Self {
            reply,
            keys,
            command,
            scanning,
            leds,
            set,
            typematic,
            held,
            release,
        })
    }
}

impl Mouse {
    pub(super) fn save(&self) -> SavedMouse {
        SavedMouse(self.clone())
    }
}

impl TryFrom<SavedMouse> for Mouse {
    type Error = StateError;

    fn try_from(SavedMouse(mouse): SavedMouse) -> Result<Self, StateError> {
        use StateError::Invalid;
        if !matches!(mouse.command, None | Some(SET_RESOLUTION | SET_RATE)) {
            return Err(Invalid("mouse.command"));
        }
        if mouse.buttons > 0x1f {
            return Err(Invalid("mouse.buttons"));
        }
        Ok(mouse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_keyboards_are_refused() {
        let refused = |field, spoil: fn(&mut SavedKeyboard)| {
            let mut saved = Keyboard::default().save();
            spoil(&mut saved);
            let loaded = Keyboard::try_from(saved);
            assert_eq!(loaded.err(), Some(StateError::Invalid(field)));
        };
        refused("keyboard.command", |saved| saved.command = Some(0));
        refused("keyboard.leds", |saved| saved.leds = 8);
        refused("keyboard.set", |saved| saved.set = 0);
        refused("keyboard.typematic", |saved| saved.typematic = 0x80);
        refused("keyboard.held", |saved| saved.held = 0x40);
    }

    #[test]
    fn contradictory_mice_are_refused() {
        let refused = |field, spoil: fn(&mut SavedMouse)| {
            let mut saved = Mouse::default().save();
            spoil(&mut saved);
            assert_eq!(
                Mouse::try_from(saved).err(),
                Some(StateError::Invalid(field))
            );
        };
        refused("mouse.command", |saved| saved.0.command = Some(0));
        refused("mouse.buttons", |saved| saved.0.buttons = 0x20);
    }

    /// What a hostile snapshot has of movements overflows nothing.
    #[test]
    fn extreme_movements_are_told() {
        for extreme in [i32::MIN, i32::MAX] {
            let mut saved = Mouse::default().save();
            (saved.0.reporting, saved.0.protocol) = (true, Protocol::Explorer);
            (saved.0.dx, saved.0.dy, saved.0.dz, saved.0.dw) = (extreme, extreme, extreme, extreme);
            let mut mouse = Mouse::try_from(saved).unwrap();
            mouse.moves(InputAxis::X, extreme);
            mouse.moves(InputAxis::Y, extreme);
            mouse.button(InputButton::WheelUp, true);
            mouse.button(InputButton::WheelLeft, true);
            mouse.sync();
            assert_eq!(mouse.queue.len(), QUEUE_SIZE);
        }
    }
}
