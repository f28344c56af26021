//! 8042 keyboard controller of a PC at ports 60h and 64h, with the PS/2 keyboard and mouse that
//! are plugged into it.
//!
//! It follows IBM's PS/2 Hardware Interface Technical Reference (keyboard and auxiliary device
//! controller); where firmware can see a difference it answers as QEMU 7.2 was observed to answer:
//! the controller's own replies overtake the devices', keyboard and mouse take turns, and unknown
//! commands are not answered. The devices are in the file `ps2.rs`. The host hands in what someone
//! does to them, as [`InputEvent`]s.
//!
//! Not modelled: the controller's RAM beyond the command byte, its test inputs and password.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::class::{DeviceClass, Property, PropertyKind, Value};
use super::input::InputEvent;
use super::ps2::{Keyboard, Mouse, SavedKeyboard, SavedMouse};
use super::{Context, Effect, PortDevice, PowerRequest, ShutdownCause, Width};
use crate::irq::IrqLine;
use crate::state::{SavedState, StateError};
use crate::trace::events as trace;

/// The port of the data register; offset 0.
pub const DATA_PORT: u16 = 0x60;

/// The port of the status and command registers; offset [`COMMAND`].
pub const COMMAND_PORT: u16 = 0x64;

/// Offset of the data register.
const DATA: u16 = 0;

/// Offset of the status (read) and command (write) registers.
pub const COMMAND: u16 = COMMAND_PORT - DATA_PORT;

/// The class, which takes these properties.
pub static CLASS: DeviceClass = DeviceClass {
    name: "i8042",
    parent: "isa-device",
    bus: Some("ISA"),
    doc: "keyboard controller with PS/2 keyboard and mouse",
    user_creatable: true,
    properties: &[
        Property {
            name: "kbd-irq",
            kind: PropertyKind::Uint8,
            default: Value::Uint(1),
            doc: "ISA interrupt of the keyboard",
        },
        Property {
            name: "mouse-irq",
            kind: PropertyKind::Uint8,
            default: Value::Uint(12),
            doc: "ISA interrupt of the mouse",
        },
    ],
};

bitflags! {
    /// Status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        /// The output buffer holds a byte.
        const OUTPUT_FULL = 1 << 0;
        /// The self test has passed.
        const SYSTEM = 1 << 2;
        /// The last write was a command; QEMU shows it always.
        const COMMAND = 1 << 3;
        /// The keyboard lock is open.
        const UNLOCKED = 1 << 4;
        /// The byte in the output buffer is the mouse's.
        const AUX_FULL = 1 << 5;
    }

    /// Controller command byte.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Mode: u8 {
        /// A keyboard byte interrupts.
        const KEYBOARD_INTERRUPT = 1 << 0;
        /// A mouse byte interrupts.
        const AUX_INTERRUPT = 1 << 1;
        /// System flag.
        const SYSTEM = 1 << 2;
        /// Bit 3, which the AT used to override the lock.
        const NO_LOCK = 1 << 3;
        /// The keyboard's clock is held.
        const KEYBOARD_DISABLED = 1 << 4;
        /// The mouse's clock is held.
        const AUX_DISABLED = 1 << 5;
        /// Scan codes are translated from set 2 to set 1.
        const TRANSLATE = 1 << 6;
        /// Bit 7, without a function.
        const RESERVED = 1 << 7;
    }

    /// Output port.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct OutputPort: u8 {
        /// Low resets the processor.
        const NO_RESET = 1 << 0;
        /// Address bit 20 passes.
        const A20 = 1 << 1;
        /// The mouse's lines, which idle high here.
        const AUX_LINES = 3 << 2;
        /// Follows the keyboard's interrupt.
        const KEYBOARD_FULL = 1 << 4;
        /// Follows the mouse's interrupt.
        const AUX_FULL = 1 << 5;
        /// The keyboard's lines, which idle high here.
        const KEYBOARD_LINES = 3 << 6;
    }
}

/// Output port after reset.
const OUTPUT_PORT_RESET: OutputPort = OutputPort::NO_RESET
    .union(OutputPort::A20)
    .union(OutputPort::AUX_LINES)
    .union(OutputPort::KEYBOARD_LINES);

/// Status bits that never change.
const STATUS_FIXED: Status = Status::COMMAND.union(Status::UNLOCKED);

/// Input port as read by C0h: the keyboard is not locked.
const INPUT_PORT: u8 = 0x80;

// Controller commands.

const READ_MODE: u8 = 0x20;
const WRITE_MODE: u8 = 0x60;
const DISABLE_AUX: u8 = 0xa7;
const ENABLE_AUX: u8 = 0xa8;
const TEST_AUX: u8 = 0xa9;
const SELF_TEST: u8 = 0xaa;
const TEST_KEYBOARD: u8 = 0xab;
const DISABLE_KEYBOARD: u8 = 0xad;
const ENABLE_KEYBOARD: u8 = 0xae;
const READ_INPUT_PORT: u8 = 0xc0;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
const WRITE_AUX_BUFFER: u8 = 0xd3;
const WRITE_AUX: u8 = 0xd4;
const DISABLE_A20: u8 = 0xdd;
const ENABLE_A20: u8 = 0xdf;
/// F0h to FFh pulse the output port's bits that are clear in the command's low half.
const PULSE: u8 = 0xf0;

/// Answer to the controller's self test.
const SELF_TEST_PASSED: u8 = 0x55;

/// What a keyboard controller is connected to.
#[derive(Clone, Copy, Debug)]
pub struct I8042Wiring {
    /// Interrupt of the keyboard.
    pub keyboard_irq: IrqLine,
    /// Interrupt of the mouse.
    pub mouse_irq: IrqLine,
}

/// Where the byte in the output buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The controller, in the keyboard's name.
    Controller,
    /// The controller, in the mouse's name.
    ControllerAux,
    /// The keyboard.
    Keyboard,
    /// The mouse.
    Mouse,
}

impl Source {
    const fn is_aux(self) -> bool {
        matches!(self, Self::ControllerAux | Self::Mouse)
    }
}

/// The keyboard controller.
#[derive(Debug)]
pub struct I8042 {
    wiring: I8042Wiring,
    state: State,
}

/// All that the guest sees.
#[derive(Clone, Debug)]
struct State {
    mode: Mode,
    /// Whether the self test has run.
    tested: bool,
    port: OutputPort,
    /// Controller command that waits for its data byte.
    command: Option<u8>,
    /// Whose byte the output buffer holds. It leaves its device when the guest reads it.
    full: Option<Source>,
    /// Last byte that was read.
    data: u8,
    /// A byte of the controller's own, and whether it goes out in the mouse's name.
    own: Option<(u8, bool)>,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mode: Mode::KEYBOARD_INTERRUPT | Mode::AUX_INTERRUPT,
            tested: false,
            port: OUTPUT_PORT_RESET,
            command: None,
            full: None,
            data: 0,
            own: None,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
        }
    }
}

impl I8042 {
    /// A controller after power-on with both devices plugged in.
    pub fn new(wiring: I8042Wiring) -> Self {
        Self {
            wiring,
            state: State::default(),
        }
    }

    /// Power-on state; address bit 20 passes.
    pub fn reset(&mut self, cx: &mut Context<'_>) {
        self.state = State::default();
        trace::ps2_kbd_reset();
        trace::ps2_mouse_reset();
        cx.effects.push(Effect::A20(true));
        self.drive(cx);
    }

    /// As firmware leaves it, for a guest that starts without: tested, keys translated to set 1, and the mouse held.
    pub fn set_up(&mut self) {
        self.state.tested = true;
        self.state.mode = Mode::KEYBOARD_INTERRUPT | Mode::AUX_DISABLED | Mode::TRANSLATE;
    }

    /// Someone does something. A mouse tells of it with the next [`I8042::sync`]. What the guest has switched off notices
    /// nothing. True if the keyboard noticed a key.
    pub fn input(&mut self, cx: &mut Context<'_>, event: InputEvent) -> bool {
        let state = &mut self.state;
        match event {
            InputEvent::Key { key, down } => {
                let translates = state.mode.contains(Mode::TRANSLATE);
                let noticed = state.keyboard.key(key, down, translates);
                self.fill(cx);
                return noticed;
            }
            InputEvent::Button { button, down } => state.mouse.button(button, down),
            InputEvent::Move { axis, by } => state.mouse.moves(axis, by),
        }
        false
    }

    /// What was done with the mouse until now belongs together. True if a button is held.
    pub fn sync(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.state.mouse.sync();
        self.fill(cx);
        held
    }

    /// The keyboard's LEDs: scroll lock, num lock and caps lock in bits 0 to 2.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds
    }

    fn status(&self) -> Status {
        let mut status = STATUS_FIXED;
        status.set(Status::SYSTEM, self.state.tested);
        status.set(Status::OUTPUT_FULL, self.state.full.is_some());
        let aux = self.state.full.is_some_and(Source::is_aux);
        status.set(Status::AUX_FULL, aux);
        status
    }

    /// Drives the interrupts, and the output port's bits that follow the output buffer.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let state = &mut self.state;
        let mode = state.mode;
        let aux = state.full.is_some_and(Source::is_aux);
        let full = state.full.is_some();
        state.port.set(OutputPort::KEYBOARD_FULL, full);
        state.port.set(OutputPort::AUX_FULL, aux);
        let keyboard = full
            && !aux
            && mode.contains(Mode::KEYBOARD_INTERRUPT)
            && !mode.contains(Mode::KEYBOARD_DISABLED);
        cx.lines.set(self.wiring.keyboard_irq, keyboard);
        let mouse = aux && mode.contains(Mode::AUX_INTERRUPT);
        cx.lines.set(self.wiring.mouse_irq, mouse);
    }

    /// Fills the output buffer, where it is empty, from whoever has something to say.
    fn fill(&mut self, cx: &mut Context<'_>) {
        self.fill_after(cx, None);
    }

    /// [`I8042::fill`], where a device that was just read lets the other one go first.
    fn fill_after(&mut self, cx: &mut Context<'_>, last: Option<Source>) {
        let state = &mut self.state;
        if state.full.is_some() {
            return;
        }
        let keyboard = state.keyboard.has_data() && !state.mode.contains(Mode::KEYBOARD_DISABLED);
        let mouse = state.mouse.has_data() && !state.mode.contains(Mode::AUX_DISABLED);
        state.full = match state.own {
            Some((_, false)) => Some(Source::Controller),
            Some((_, true)) => Some(Source::ControllerAux),
            None if keyboard && !(mouse && last == Some(Source::Keyboard)) => {
                Some(Source::Keyboard)
            }
            None if mouse => Some(Source::Mouse),
            None => None,
        };
        self.drive(cx);
    }

    fn own(&mut self, cx: &mut Context<'_>, byte: u8, aux: bool) {
        self.state.own = Some((byte, aux));
        self.fill(cx);
    }

    fn read_data(&mut self, cx: &mut Context<'_>) -> u8 {
        let state = &mut self.state;
        let Some(source) = state.full.take() else {
            return state.data;
        };
        let byte = match source {
            Source::Controller | Source::ControllerAux => state.own.take().map(|(byte, _)| byte),
            Source::Keyboard => state.keyboard.take(),
            Source::Mouse => state.mouse.take(),
        };
        if matches!(source, Source::Keyboard | Source::Mouse) {
            trace::ps2_read_data();
        }
        // A device may have discarded its byte since it filled the buffer: the last one shows.
        state.data = byte.unwrap_or(state.data);
        // The line falls before the next byte raises it, for edge-triggered controllers.
        self.drive(cx);
        self.fill_after(cx, Some(source));
        self.state.data
    }

    fn write_data(&mut self, cx: &mut Context<'_>, byte: u8) {
        trace::pckbd_kbd_write_data(byte);
        match self.state.command.take() {
            Some(WRITE_MODE) => {
                self.state.mode = Mode::from_bits_truncate(byte);
                let translates = self.state.mode.contains(Mode::TRANSLATE);
                trace::ps2_keyboard_set_translation(translates);
                self.drive(cx);
                self.fill(cx);
            }
            Some(WRITE_OUTPUT_PORT) => self.write_output_port(cx, byte),
            Some(WRITE_KEYBOARD_BUFFER) => self.own(cx, byte, false),
            Some(WRITE_AUX_BUFFER) => self.own(cx, byte, true),
            Some(WRITE_AUX) => {
                // Talking to a device switches its interface on.
                self.state.mode -= Mode::AUX_DISABLED;
                self.state.mouse.write(byte);
                self.fill(cx);
            }
            _ => {
                self.state.mode -= Mode::KEYBOARD_DISABLED;
                let translate = self.state.mode.contains(Mode::TRANSLATE);
                self.state.keyboard.write(byte, translate);
                self.fill(cx);
            }
        }
    }

    fn write_output_port(&mut self, cx: &mut Context<'_>, byte: u8) {
        trace::pckbd_outport_write(byte);
        let port = OutputPort::from_bits_truncate(byte);
        self.state.port = port;
        cx.effects.push(Effect::A20(port.contains(OutputPort::A20)));
        if !port.contains(OutputPort::NO_RESET) {
            reset_request(cx);
        }
    }

    fn set_a20(&mut self, cx: &mut Context<'_>, on: bool) {
        self.state.port.set(OutputPort::A20, on);
        cx.effects.push(Effect::A20(on));
    }

    fn write_command(&mut self, cx: &mut Context<'_>, command: u8) {
        trace::pckbd_kbd_write_command(command);
        let state = &mut self.state;
        state.command = None;
        match command {
            READ_MODE => {
                let mode = state.mode.bits();
                self.own(cx, mode, false);
            }
            WRITE_MODE
            | WRITE_OUTPUT_PORT
            | WRITE_KEYBOARD_BUFFER
            | WRITE_AUX_BUFFER
            | WRITE_AUX => state.command = Some(command),
            DISABLE_AUX => state.mode |= Mode::AUX_DISABLED,
            ENABLE_AUX => {
                state.mode -= Mode::AUX_DISABLED;
                self.fill(cx);
            }
            TEST_AUX | TEST_KEYBOARD => self.own(cx, 0, false),
            SELF_TEST => {
                state.tested = true;
                self.own(cx, SELF_TEST_PASSED, false);
            }
            DISABLE_KEYBOARD => state.mode |= Mode::KEYBOARD_DISABLED,
            ENABLE_KEYBOARD => {
                state.mode -= Mode::KEYBOARD_DISABLED;
                self.fill(cx);
            }
            READ_INPUT_PORT => self.own(cx, INPUT_PORT, false),
            READ_OUTPUT_PORT => {
                let port = state.port.bits();
                self.own(cx, port, false);
            }
            DISABLE_A20 => self.set_a20(cx, false),
            ENABLE_A20 => self.set_a20(cx, true),
            PULSE..=0xff if command & OutputPort::NO_RESET.bits() == 0 => reset_request(cx),
            // Not answered, as observed.
            _ => trace::unimp_pckbd_command(command),
        }
    }
}

fn reset_request(cx: &mut Context<'_>) {
    let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
    cx.effects.push(Effect::Power(reset));
}

impl PortDevice for I8042 {
    fn pio_read(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width) -> u32 {
        match offset {
            DATA => {
                let value = self.read_data(cx);
                trace::pckbd_kbd_read_data(value);
                value.into()
            }
            COMMAND => {
                let value = self.status().bits();
                trace::pckbd_kbd_read_status(value);
                value.into()
            }
            _ => 0xff,
        }
    }

    fn pio_write(&mut self, cx: &mut Context<'_>, offset: u16, _width: Width, value: u32) {
        match offset {
            DATA => self.write_data(cx, value as u8),
            COMMAND => self.write_command(cx, value as u8),
            _ => {}
        }
    }
}

/// Saved form, version 2. Registers hold the reference's bits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    mode: u8,
    tested: bool,
    port: u8,
    command: Option<u8>,
    full: Option<Source>,
    data: u8,
    own: Option<(u8, bool)>,
    keyboard: SavedKeyboard,
    mouse: SavedMouse,
}

impl SavedState for I8042 {
    const NAME: &'static str = CLASS.name;
    const VERSION: u16 = 2;
    type Saved = Saved;

    fn save(&self) -> Saved {
        let State {
            mode,
            tested,
            port,
            command,
            full,
            data,
            own,
            keyboard,
            mouse,
        } = &self.state;
        Saved {
            mode: mode.bits(),
            tested: *tested,
            port: port.bits(),
            command: *command,
            full: *full,
            data: *data,
            own: *own,
            keyboard: keyboard.save(),
            mouse: mouse.save(),
        }
    }

    fn load(&mut self, saved: Saved, cx: &mut Context<'_>) -> Result<(), StateError> {
        use StateError::Invalid;
        let Saved {
            mode,
            tested,
            port,
            command,
            full,
            data,
            own,
            keyboard,
            mouse,
        } = saved;
        if !matches!(
            command,
            None | Some(
                WRITE_MODE
                    | WRITE_OUTPUT_PORT
                    | WRITE_KEYBOARD_BUFFER
                    | WRITE_AUX_BUFFER
                    | WRITE_AUX
            )
        ) {
            return Err(Invalid("command"));
        }
        if matches!(full, Some(Source::Controller | Source::ControllerAux)) && own.is_none() {
            return Err(Invalid("full"));
        }
        let port = OutputPort::from_bits_truncate(port);
        self.state = State {
            mode: Mode::from_bits_truncate(mode),
            tested,
            port,
            command,
            full,
            data,
            own,
            keyboard: keyboard.try_into()?,
            mouse: mouse.try_into()?,
        };
        self.drive(cx);
        // The guest may have written the bits that follow the buffer, and they read back so.
        self.state.port = port;
        cx.effects.push(Effect::A20(port.contains(OutputPort::A20)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::input::{InputAxis, InputButton, QKeyCode};
    use crate::devices::ps2::*;
    use crate::devices::testing::Bench;
    use crate::state::lifecycle_tests;

    const KEYBOARD: IrqLine = IrqLine::new(1);
    const MOUSE: IrqLine = IrqLine::new(12);

    fn new() -> I8042 {
        I8042::new(I8042Wiring {
            keyboard_irq: KEYBOARD,
            mouse_irq: MOUSE,
        })
    }

    fn key(name: &str, down: bool) -> InputEvent {
        let key = QKeyCode::from_name(name.as_bytes()).unwrap();
        InputEvent::Key { key, down }
    }

    lifecycle_tests!(I8042, new(), |device, bench| {
        bench.out(device, COMMAND, SELF_TEST);
        bench.out(device, DATA, IDENTIFY);
        bench.out(device, COMMAND, WRITE_AUX);
        bench.out(device, DATA, STATUS_REQUEST);
        bench.out(device, COMMAND, WRITE_MODE);
        device.input(&mut bench.context(), key("alt", true));
        while bench.effects.take().is_some() {}
    });

    struct Board {
        bench: Bench,
        device: I8042,
    }

    impl Board {
        fn new() -> Self {
            Self {
                bench: Bench::new(),
                device: new(),
            }
        }

        fn command(&mut self, value: u8) {
            self.bench.out(&mut self.device, COMMAND, value);
        }

        fn data(&mut self, value: u8) {
            self.bench.out(&mut self.device, DATA, value);
        }

        fn with_data(&mut self, command: u8, value: u8) {
            self.command(command);
            self.data(value);
        }

        fn status(&mut self) -> u8 {
            self.bench.inb(&mut self.device, COMMAND)
        }

        /// Reads until the output buffer is empty; mouse bytes have bit 8 set.
        fn drain(&mut self) -> std::vec::Vec<u16> {
            let mut bytes = std::vec::Vec::new();
            while self.status() & 1 != 0 {
                let aux = self.status() & 0x20 != 0;
                assert_eq!(self.bench.lines.level(MOUSE), aux);
                let byte = self.bench.inb(&mut self.device, DATA);
                bytes.push(u16::from(byte) | u16::from(aux) << 8);
            }
            bytes
        }

        fn ask(&mut self, command: u8) -> u8 {
            self.command(command);
            assert_eq!(self.status() & 0x21, 1);
            self.bench.inb(&mut self.device, DATA)
        }

        fn input(&mut self, event: InputEvent) {
            self.device.input(&mut self.bench.context(), event);
        }

        fn movement(&mut self, x: i32, y: i32) {
            for (axis, by) in [(InputAxis::X, x), (InputAxis::Y, y)] {
                self.input(InputEvent::Move { axis, by });
            }
        }

        fn button(&mut self, button: InputButton, down: bool) {
            self.input(InputEvent::Button { button, down });
        }

        /// What the mouse tells of what was done.
        fn reports(&mut self) -> std::vec::Vec<u16> {
            self.device.sync(&mut self.bench.context());
            self.drain()
        }

        fn knock(&mut self, rates: [u8; 3]) {
            for rate in rates {
                self.mouse(SET_RATE);
                self.mouse(rate);
            }
        }

        fn keyboard(&mut self, byte: u8) -> std::vec::Vec<u16> {
            self.data(byte);
            self.drain()
        }

        fn mouse(&mut self, byte: u8) -> std::vec::Vec<u16> {
            self.with_data(WRITE_AUX, byte);
            self.drain()
        }
    }

    #[test]
    fn controller_commands() {
        let mut board = Board::new();
        assert_eq!(board.status(), 0x18);
        assert_eq!(board.ask(READ_MODE), 0x03);
        assert_eq!(board.ask(SELF_TEST), 0x55);
        assert_eq!(board.status(), 0x1c);
        assert_eq!(board.ask(TEST_KEYBOARD), 0);
        assert_eq!(board.ask(TEST_AUX), 0);
        assert_eq!(board.ask(READ_INPUT_PORT), 0x80);
        board.command(DISABLE_KEYBOARD);
        assert_eq!(board.ask(READ_MODE), 0x13);
        board.command(DISABLE_AUX);
        assert_eq!(board.ask(READ_MODE), 0x33);
        board.command(0x21);
        assert_eq!(board.status(), 0x1c);
        board.with_data(WRITE_MODE, 0xff);
        assert_eq!(board.ask(READ_MODE), 0xff);
    }

    #[test]
    fn output_port_gates_a20_and_resets() {
        let mut board = Board::new();
        let reset = Effect::Power(PowerRequest::Reset(ShutdownCause::GuestReset));
        assert_eq!(board.ask(READ_OUTPUT_PORT), 0xcf);
        board.command(DISABLE_A20);
        assert_eq!(board.bench.effects.take(), Some(Effect::A20(false)));
        assert_eq!(board.ask(READ_OUTPUT_PORT), 0xcd);
        board.with_data(WRITE_OUTPUT_PORT, 0x13);
        assert_eq!(board.bench.effects.take(), Some(Effect::A20(true)));
        assert_eq!(board.ask(READ_OUTPUT_PORT), 0x13);
        assert_eq!(board.bench.effects.take(), None);
        board.with_data(WRITE_OUTPUT_PORT, 0xce);
        assert_eq!(board.bench.effects.take(), Some(Effect::A20(true)));
        assert_eq!(board.bench.effects.take(), Some(reset));
        board.command(0xfe);
        assert_eq!(board.bench.effects.take(), Some(reset));
        board.command(0xff);
        assert_eq!(board.bench.effects.take(), None);
    }

    #[test]
    fn keyboard_commands() {
        let mut board = Board::new();
        board.with_data(WRITE_MODE, 0x61);
        assert_eq!(board.keyboard(RESET), [0xfa, 0xaa]);
        assert_eq!(board.keyboard(IDENTIFY), [0xfa, 0xab, 0x41]);
        assert_eq!(board.keyboard(SET_LEDS), [0xfa]);
        assert_eq!(board.keyboard(0x07), [0xfa]);
        assert_eq!(board.device.leds(), 7);
        assert_eq!(board.keyboard(ECHO), [0xee]);
        assert_eq!(board.keyboard(SCAN_CODE_SET), [0xfa]);
        assert_eq!(board.keyboard(0), [0xfa, 0x41]);
        assert_eq!(board.keyboard(SET_RATE), [0xfa]);
        assert_eq!(board.keyboard(0), [0xfa]);
        assert_eq!(board.keyboard(KEY_MAKE_BREAK), [0xfa]);
        assert_eq!(board.keyboard(RESET), [0xfa], "a key");
        for unknown in [0x05, 0xec, 0xf7, 0xfb, 0xfd, 0xfe] {
            assert_eq!(board.keyboard(unknown), [0xfe]);
        }
        board.with_data(WRITE_MODE, 0x03);
        assert_eq!(board.keyboard(IDENTIFY), [0xfa, 0xab, 0x83]);
    }

    #[test]
    fn a_new_keyboard_command_discards_the_old_reply() {
        let mut board = Board::new();
        board.data(IDENTIFY);
        board.data(RESET);
        assert_eq!(board.drain(), [0xfa, 0xaa]);
        assert_eq!(board.bench.inb(&mut board.device, DATA), 0xaa);
    }

    #[test]
    fn sources_take_turns_and_the_controller_goes_first() {
        let mut board = Board::new();
        board.with_data(WRITE_AUX, IDENTIFY);
        board.data(IDENTIFY);
        assert_eq!(board.drain(), [0x1fa, 0xfa, 0x100, 0xab, 0x83]);
        board.data(IDENTIFY);
        board.with_data(WRITE_AUX, IDENTIFY);
        assert_eq!(board.drain(), [0xfa, 0x1fa, 0xab, 0x100, 0x83]);
        board.data(IDENTIFY);
        board.command(SELF_TEST);
        assert_eq!(board.drain(), [0xfa, 0x55, 0xab, 0x83]);
        board.with_data(WRITE_AUX_BUFFER, 0x56);
        assert_eq!(board.drain(), [0x156]);
    }

    #[test]
    fn a_disabled_interface_holds_its_bytes() {
        let mut board = Board::new();
        board.data(IDENTIFY);
        board.command(DISABLE_KEYBOARD);
        assert_eq!(board.drain(), [0xfa]);
        assert_eq!(board.status(), 0x18);
        board.command(ENABLE_KEYBOARD);
        assert!(board.bench.lines.level(KEYBOARD));
        assert_eq!(board.drain(), [0xab, 0x83]);
        board.with_data(WRITE_AUX, IDENTIFY);
        board.command(DISABLE_AUX);
        assert_eq!(board.drain(), [0x1fa]);
        board.command(DISABLE_KEYBOARD);
        board.command(READ_MODE);
        assert!(!board.bench.lines.level(KEYBOARD));
        assert_eq!(board.drain(), [0x33]);
        assert_eq!(board.keyboard(ECHO), [0xee], "a command switches it on");
    }

    #[test]
    fn keys_come_in_the_chosen_set() {
        let mut board = Board::new();
        let press = |board: &mut Board| {
            for name in ["a", "up"] {
                for down in [true, false] {
                    board.input(key(name, down));
                }
            }
            board.drain()
        };
        let set_2 = [0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75];
        let set_1 = [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8];
        assert_eq!(press(&mut board), set_2);
        board.with_data(WRITE_MODE, 0x43);
        assert_eq!(press(&mut board), set_1);
        board.with_data(WRITE_MODE, 0x03);
        board.keyboard(SCAN_CODE_SET);
        board.keyboard(1);
        assert_eq!(press(&mut board), set_1);
        board.keyboard(SCAN_CODE_SET);
        board.keyboard(3);
        let set_3 = [0x1c, 0xf0, 0x1c, 0x63, 0xf0, 0x63];
        assert_eq!(press(&mut board), set_3);
        board.keyboard(DISABLE);
        assert!(press(&mut board).is_empty());
    }

    #[test]
    fn guests_without_firmware_get_translated_keys() {
        let mut board = Board::new();
        board.device.set_up();
        assert_eq!(board.status(), 0x1c);
        assert_eq!(board.ask(READ_MODE), 0x61);
        board.input(key("a", false));
        assert_eq!(board.drain(), [0x9e]);
    }

    #[test]
    fn bytes_without_room_are_lost() {
        let mut board = Board::new();
        board.with_data(WRITE_MODE, 0x43);
        for _ in 0..15 {
            board.input(key("a", true));
        }
        board.input(key("left", true));
        let mut bytes = std::vec![0x1e; 15];
        bytes.push(0xe0);
        assert_eq!(board.drain(), bytes);
        // A reply always fits, and takes room.
        board.data(IDENTIFY);
        for _ in 0..20 {
            board.input(key("a", true));
        }
        let bytes = board.drain();
        assert_eq!(
            (bytes.len(), &bytes[..4]),
            (16, &[0xfa, 0xab, 0x41, 0x1e][..])
        );
        for _ in 0..20 {
            board.input(key("a", true));
        }
        board.data(IDENTIFY);
        assert_eq!(board.drain().len(), 19);
    }

    #[test]
    fn held_keys_outlast_commands_but_not_a_reset() {
        let mut board = Board::new();
        board.with_data(WRITE_MODE, 0x43);
        board.input(key("alt", true));
        assert_eq!(board.keyboard(RESET), [0xfa, 0xaa]);
        board.input(key("print", true));
        assert_eq!(board.drain(), [0xb8, 0x38, 0x54]);
        // Nothing is noticed meanwhile.
        board.keyboard(DISABLE);
        board.input(key("alt", false));
        board.keyboard(ENABLE);
        board.input(key("print", false));
        assert_eq!(board.drain(), [0xd4, 0xb8, 0x38]);
        board.device.reset(&mut board.bench.context());
        board.input(key("print", true));
        assert_eq!(board.drain(), [0xe0, 0x12, 0xe0, 0x7c]);
    }

    #[test]
    fn the_translation_waits_for_what_follows_a_release() {
        let mut board = Board::new();
        board.with_data(WRITE_MODE, 0x43);
        board.keyboard(SCAN_CODE_SET);
        board.keyboard(1);
        // Its code with the bit of set 1 is the prefix of set 2.
        board.input(key("katakanahiragana", false));
        assert!(board.drain().is_empty());
        board.with_data(WRITE_MODE, 0x03);
        board.input(key("a", true));
        board.with_data(WRITE_MODE, 0x43);
        for _ in 0..2 {
            board.input(key("a", true));
        }
        assert_eq!(board.drain(), [0x1e, 0x83, 0x03]);
    }

    #[test]
    fn mouse_commands() {
        let mut board = Board::new();
        assert_eq!(board.mouse(RESET), [0x1fa, 0x1aa, 0x100]);
        assert_eq!(board.mouse(IDENTIFY), [0x1fa, 0x100]);
        let status = [0x1fa, 0x100, 0x102, 0x164];
        assert_eq!(board.mouse(STATUS_REQUEST), status);
        assert_eq!(board.mouse(SET_RESOLUTION), [0x1fa]);
        assert_eq!(board.mouse(3), [0x1fa]);
        board.mouse(SET_SCALING_2);
        board.mouse(ENABLE);
        let status = [0x1fa, 0x130, 0x103, 0x164];
        assert_eq!(board.mouse(STATUS_REQUEST), status);
        assert_eq!(board.mouse(READ_DATA), [0x1fa, 0x108, 0x100, 0x100]);
        board.mouse(SET_WRAP);
        assert_eq!(board.mouse(ENABLE), [0x1f4]);
        assert_eq!(board.mouse(RESET_WRAP), [0x1fa]);
        assert!(board.mouse(0xe1).is_empty());
        for _ in 0..7 {
            board.with_data(WRITE_AUX, STATUS_REQUEST);
        }
        assert_eq!(board.drain().len(), QUEUE_SIZE);
    }

    #[test]
    fn the_knock_brings_the_wheel() {
        let mut board = Board::new();
        board.mouse(RESET);
        board.mouse(ENABLE);
        board.button(InputButton::WheelUp, true);
        assert_eq!(board.reports(), [0x108, 0x100, 0x100]);
        for (rates, id) in [([200, 100, 80], 0x103), ([200, 200, 80], 0x104)] {
            board.knock(rates);
            assert_eq!(board.mouse(IDENTIFY), [0x1fa, id]);
            // Up is away from the user, and the wheel's turns are counted.
            board.button(InputButton::WheelUp, true);
            board.button(InputButton::WheelUp, false);
            board.movement(-3, -5);
            board.button(InputButton::Side, true);
            board.button(InputButton::Left, true);
            let fourth = if id == 0x103 { 0x1ff } else { 0x11f };
            assert_eq!(board.reports(), [0x119, 0x1fd, 0x105, fourth]);
        }
        for _ in 0..9 {
            board.button(InputButton::WheelDown, true);
        }
        for _ in 0..40 {
            board.button(InputButton::WheelRight, true);
        }
        let reports = board.reports();
        let fourths: std::vec::Vec<_> = reports.iter().skip(3).step_by(4).collect();
        assert_eq!(fourths, [&0x161, &0x177, &0x117, &0x112]);
    }

    #[test]
    fn movements_wait_for_room() {
        let mut board = Board::new();
        board.mouse(ENABLE);
        board.movement(200, -200);
        assert_eq!(board.reports(), [0x108, 0x17f, 0x17f, 0x108, 0x149, 0x149]);
        board.movement(127 * 5 + 1, 0);
        assert_eq!(board.reports().len(), 15);
        board.movement(0, 0);
        assert_eq!(board.reports(), [0x108, 0x101, 0x100]);
        // They are kept even by a reset command, as are buttons.
        board.button(InputButton::Middle, true);
        board.movement(i32::MIN, 0);
        assert_eq!(board.reports().len(), 15);
        board.mouse(RESET);
        board.mouse(ENABLE);
        board.movement(0, 0);
        assert_eq!(
            board.reports()[..6],
            [0x11c, 0x181, 0x100, 0x11c, 0x181, 0x100]
        );
        board.mouse(DISABLE);
        board.button(InputButton::Left, true);
        assert!(board.reports().is_empty());
    }

    #[test]
    fn remote_mice_tell_when_asked() {
        let mut board = Board::new();
        board.mouse(ENABLE);
        board.mouse(REMOTE_MODE);
        board.movement(130, 0);
        assert!(board.reports().is_empty());
        assert_eq!(board.mouse(READ_DATA), [0x1fa, 0x108, 0x17f, 0x100]);
        assert_eq!(board.mouse(READ_DATA), [0x1fa, 0x108, 0x103, 0x100]);
        assert_eq!(board.mouse(STATUS_REQUEST), [0x1fa, 0x160, 0x100, 0x100]);
    }

    #[test]
    fn contradictory_state_is_refused() {
        fn refused(field: &'static str, spoil: fn(&mut Saved)) {
            let (mut bench, mut device) = (Bench::new(), new());
            let mut saved = device.save();
            spoil(&mut saved);
            assert_eq!(
                device.load(saved, &mut bench.context()),
                Err(StateError::Invalid(field))
            );
        }
        refused("command", |saved| saved.command = Some(0));
        refused("full", |saved| saved.full = Some(Source::Controller));
    }
}
