//! Recorded sessions, played to a machine and a monitor in memory: the proof that the core needs neither std nor a heap.
//!
//! The image `core_proof` runs [`replay`] inside a guest, a test runs it in a process, and both print the same text. What is
//! played: the register scripts and QMP cases that are compared with QEMU elsewhere, and what those leave out (the virtual
//! clock, consoles, saved state, a whole QMP session). Nothing here judges an answer.

use core::fmt::{self, Write};
use core::sync::atomic::AtomicU8;

use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, Width, pc_testdev};
use thimble_core::machine::qtest::Qtest;
use thimble_core::machine::{
    Board, CLASSES, Config, Host, Irqchip, Machine, SERIAL_MAX, STATE_MAX,
};
use thimble_core::memory::{ArrayRam, GuestRam};
use thimble_monitor::{Event, InMemory, QmpError, Session, Timestamp};

/// Bytes of guest RAM.
const RAM: usize = 2 << 20;
/// Bytes of the longest request; the scripts' are shorter.
const LINE: usize = 4096;
/// Bytes of replies between two reads.
const REPLIES: usize = 32 << 10;

/// The firmware image: its last 16 bytes differ, so that it is seen where it shows through.
static ROM: [u8; 0x1000] = {
    let mut rom = [0x90; 0x1000];
    let mut at = 0;
    while at < 16 {
        rom[0xff0 + at] = 0xf0 + at as u8;
        at += 1;
    }
    rom
};

macro_rules! scripts {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../qemu-tests/qtest/", $name, ".qtest"))),)*
            ("clock", include_str!("replay/clock.qtest"))]
    };
}

/// Scripts by name. Their first lines, with options for emulators, are not looked at.
const SCRIPTS: &[(&str, &str)] = scripts!(
    "protocol" "widths" "pic" "pit" "rtc" "serial" "i8042" "i8042-mouse" "i8042-queues" "port92" "post" "fw-cfg"
    "fw-cfg-edges" "pci" "pci-config" "i440fx" "pam" "smram" "piix3" "piix3-writes" "debugcon" "debugcon-readback"
    "ib700" "pvpanic" "pc-testdev" "debug-exit" "piix4-pm" "apmc"
);

/// QMP cases, in the spelling of `qemu-tests/tests/qmp.rs`.
const CASES: &str = include_str!("../../qemu-tests/qmp/bytes.list");
const SESSION: &[u8] = include_bytes!("replay/session.qmp");

/// All that a replay writes to. Too large for a stack: it belongs into a `static`.
pub struct Memory {
    ram: ArrayRam<RAM>,
    line: [u8; LINE],
    state: [u8; STATE_MAX],
    session: Session,
    replies: heapless::Vec<u8, REPLIES>,
}

impl Memory {
    /// All zeros.
    pub const fn new() -> Self {
        Self {
            ram: ArrayRam::new(),
            line: [0; LINE],
            state: [0; STATE_MAX],
            session: Session::new(),
            replies: heapless::Vec::new(),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// What the machine asked of its host, as text.
#[derive(Default)]
struct Calls {
    text: heapless::String<2048>,
    /// Calls for which there was no room.
    lost: u32,
    exited: bool,
}

impl Calls {
    fn note(&mut self, call: fmt::Arguments<'_>) {
        let before = self.text.len();
        if writeln!(self.text, "    {call}").is_err() {
            self.text.truncate(before);
            self.lost += 1;
        }
    }

    fn print(&mut self, out: &mut impl Write) -> fmt::Result {
        out.write_str(&self.text)?;
        if self.lost > 0 {
            writeln!(out, "    and {} calls more", self.lost)?;
        }
        self.text.clear();
        self.lost = 0;
        Ok(())
    }
}

impl Host for Calls {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        self.note(format_args!("console {}: {bytes:02x?}", console.0));
        bytes.len()
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        self.note(format_args!("line {gsi}: {}", u8::from(level)));
    }

    fn set_intr(&mut self, level: bool) {
        self.note(format_args!("INTR: {}", u8::from(level)));
    }

    fn power(&mut self, request: PowerRequest) {
        self.note(format_args!("{request:?}"));
        self.exited |= matches!(request, PowerRequest::Exit(_));
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.note(format_args!("{event:?}"));
    }

    fn memory_remapped(&mut self) {
        self.note(format_args!("memory remapped"));
    }

    fn set_a20(&mut self, enabled: bool) {
        self.note(format_args!("A20: {}", u8::from(enabled)));
    }
}

/// FNV-1a, so that large blocks can be compared by a short text.
fn checksum(bytes: &[u8], start: u32) -> u32 {
    bytes.iter().fold(start, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

const CHECKSUM_START: u32 = 0x811c_9dc5;

/// Plays everything, and prints every answer.
///
/// # Errors
/// The output's.
pub fn replay(memory: &mut Memory, out: &mut impl Write) -> fmt::Result {
    for gpa in (0..RAM as u64).step_by(ROM.len()) {
        // Addresses within RAM can't fail.
        let _ = memory.ram.write(gpa, &[0; ROM.len()]);
    }
    boards(memory, out)?;
    for (name, script) in SCRIPTS {
        writeln!(out, "== qtest {name}")?;
        play_script(memory, script, out)?;
    }
    writeln!(out, "== consoles")?;
    consoles(memory, out)?;
    for case in CASES.lines() {
        if !case.is_empty() && !case.starts_with('#') {
            writeln!(out, "== qmp {case}")?;
            play_case(memory, case, out)?;
        }
    }
    writeln!(out, "== qmp session")?;
    play_session(memory, out)?;
    writeln!(out, "== end")
}

/// Memory of `pc-testdev`, which each new device clears.
static TESTDEV: [AtomicU8; pc_testdev::MEMORY] = [const { AtomicU8::new(0) }; pc_testdev::MEMORY];

/// A machine with one device of each class that can be plugged.
fn build<'m>(
    board: Board,
    irqchip: Irqchip,
    ram: &'m ArrayRam<RAM>,
    out: &mut impl Write,
) -> Result<Option<Machine<'m>>, fmt::Error> {
    let size = match board {
        Board::None => 0,
        _ => RAM as u64,
    };
    let config = Config {
        board,
        irqchip,
        rom: &ROM,
        rtc_base: 1_582_984_798,
        uuid: [0x5a; 16],
        kernel: b"a kernel",
        initrd: b"an initrd",
        cmdline: b"a command line",
        testdev_memory: &TESTDEV,
        ..Config::new(ram, size)
    };
    let mut machine = match Machine::new(config) {
        Ok(machine) => machine,
        Err(error) => {
            writeln!(out, "no machine: {error}")?;
            return Ok(None);
        }
    };
    for class in CLASSES {
        match machine.plug(&PropertyValues::new(class)) {
            Ok(Some(console)) => writeln!(out, "{}: console {}", class.name, console.0)?,
            Ok(None) => writeln!(out, "{}: plugged", class.name)?,
            Err(error) => writeln!(out, "{}: {error}", class.name)?,
        }
    }
    Ok(Some(machine))
}

/// Says nothing.
struct Silence;

impl Write for Silence {
    fn write_str(&mut self, _text: &str) -> fmt::Result {
        Ok(())
    }
}

/// Every board, with its memory map and its state after a reset.
fn boards(memory: &mut Memory, out: &mut impl Write) -> fmt::Result {
    for board in [Board::Pc, Board::Microvm, Board::None] {
        for irqchip in [Irqchip::Machine, Irqchip::Host] {
            writeln!(out, "== board {} {irqchip:?}", board.name())?;
            let Some(mut machine) = build(board, irqchip, &memory.ram, out)? else {
                continue;
            };
            for region in machine.memory_map().regions() {
                writeln!(out, "{region:x?}")?;
            }
            let mut calls = Calls::default();
            machine.reset(&mut calls, 0);
            calls.print(out)?;
            save(&machine, &mut memory.state, out)?;
        }
    }
    Ok(())
}

/// Saves a machine, and returns the length.
fn save(
    machine: &Machine<'_>,
    state: &mut [u8],
    out: &mut impl Write,
) -> Result<usize, fmt::Error> {
    match machine.save(state) {
        Ok(length) => {
            let sum = checksum(state.get(..length).unwrap_or(&[]), CHECKSUM_START);
            writeln!(out, "state: {length} bytes, {sum:08x}")?;
            Ok(length)
        }
        Err(error) => {
            writeln!(out, "state: {error:?}")?;
            Ok(0)
        }
    }
}

fn play_script(memory: &mut Memory, script: &str, out: &mut impl Write) -> fmt::Result {
    let ram = &memory.ram;
    let Some(mut machine) = build(Board::Pc, Irqchip::Machine, ram, &mut Silence)? else {
        return Ok(());
    };
    let mut calls = Calls::default();
    let mut clock = 0;
    let mut qtest = Qtest::new(&mut memory.line);
    for request in script.lines() {
        if request.is_empty() || request.starts_with('#') {
            continue;
        }
        let mut input = request.as_bytes();
        while !input.is_empty() {
            let taken = qtest.feed(&mut machine, &mut calls, &mut clock, input, out);
            input = input.get(taken.max(1)..).unwrap_or(&[]);
        }
        qtest.feed(&mut machine, &mut calls, &mut clock, b"\n", out);
        calls.print(out)?;
        if calls.exited {
            break;
        }
    }
    // Another machine goes on from the state of this one, and saves the same.
    let length = save(&machine, &mut memory.state, out)?;
    let Some(mut other) = build(Board::Pc, Irqchip::Machine, ram, &mut Silence)? else {
        return Ok(());
    };
    let loaded = other.load(&mut calls, clock, memory.state.get(..length).unwrap_or(&[]));
    writeln!(out, "loaded: {loaded:?}")?;
    calls.print(out)?;
    save(&other, &mut memory.state, out).map(drop)
}

/// Bytes into each serial port, and time until their time-outs have passed.
fn consoles(memory: &mut Memory, out: &mut impl Write) -> fmt::Result {
    const FIFO_ENABLE: u32 = 0x81;
    const RECEIVED_INTERRUPT: u32 = 1;
    let Some(mut machine) = build(Board::Pc, Irqchip::Host, &memory.ram, out)? else {
        return Ok(());
    };
    let mut calls = Calls::default();
    let mut now = 0;
    machine.pio_write(&mut calls, now, 0x3fa, Width::Byte, FIFO_ENABLE);
    machine.pio_write(&mut calls, now, 0x3f9, Width::Byte, RECEIVED_INTERRUPT);
    for console in (0..SERIAL_MAX as u8).map(ConsoleId) {
        let room = machine.console_room(console);
        let taken = machine.console_receive(&mut calls, now, console, b"tiny");
        writeln!(out, "console {}: room {room}, took {taken}", console.0)?;
        calls.print(out)?;
    }
    for _ in 0..4 {
        let Some(deadline) = machine.next_deadline() else {
            break;
        };
        now = deadline;
        machine.advance(&mut calls, now);
        let cause = machine.pio_read(&mut calls, now, 0x3fa, Width::Byte);
        let byte = machine.pio_read(&mut calls, now, 0x3f8, Width::Byte);
        writeln!(out, "at {now}: cause {cause:#x}, byte {byte:#x}")?;
        calls.print(out)?;
    }
    Ok(())
}

/// What QMP commands act on.
type Vm<'m> = InMemory<'m, Calls>;

fn vm(machine: Machine<'_>) -> Vm<'_> {
    let mut vm = InMemory::new(machine, Calls::default());
    vm.name = Some("guest");
    vm.uuid = [0x5a; 16];
    vm
}

/// Does what was to be done in the background: prints what would be written to the file.
fn save_memory(vm: &mut Vm<'_>) -> Option<Result<(), QmpError>> {
    let (_, saved) = vm.saving.take()?;
    if saved.size > RAM as u64 {
        let size = saved.size;
        return Some(Err(QmpError::generic(format_args!(
            "{size} bytes are too many"
        ))));
    }
    let mut sum = CHECKSUM_START;
    for at in 0..saved.size {
        let mut byte = [0];
        let gpa = saved.address.wrapping_add(at);
        vm.machine.physical_read(&mut vm.host, 0, gpa, &mut byte);
        sum = checksum(&byte, sum);
    }
    vm.host.note(format_args!(
        "{:?} to file {}: {} bytes, {sum:08x}",
        saved.space,
        saved.filename.escape_ascii(),
        saved.size
    ));
    Some(Ok(()))
}

/// One connection to the monitor.
struct Connection<'a, 'm> {
    session: &'a mut Session,
    replies: &'a mut heapless::Vec<u8, REPLIES>,
    vm: Vm<'m>,
}

impl<'a, 'm> Connection<'a, 'm> {
    fn open(
        session: &'a mut Session,
        replies: &'a mut heapless::Vec<u8, REPLIES>,
        machine: Machine<'m>,
    ) -> Self {
        // A greeting that does not fit breaks the session, which is printed.
        let _ = session.open(replies);
        let vm = vm(machine);
        Self {
            session,
            replies,
            vm,
        }
    }

    fn send(&mut self, mut bytes: &[u8], out: &mut impl Write) -> fmt::Result {
        loop {
            // Pending replies keep a session from taking input.
            for chunk in self.replies.utf8_chunks() {
                out.write_str(chunk.valid())?;
                write!(out, "{}", chunk.invalid().escape_ascii())?;
            }
            self.replies.clear();
            self.vm.host.print(out)?;
            if self.session.broken() {
                return writeln!(out, "broken");
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = self.session.feed(bytes, &mut self.vm, self.replies);
            if let Some(result) = save_memory(&mut self.vm) {
                self.session.complete(result, &mut self.vm, self.replies);
            }
            bytes = bytes.get(taken..).unwrap_or(&[]);
        }
    }
}

/// One case on a connection of its own, a byte at a time.
fn play_case(memory: &mut Memory, case: &str, out: &mut impl Write) -> fmt::Result {
    let Some(machine) = build(Board::Pc, Irqchip::Machine, &memory.ram, &mut Silence)? else {
        return Ok(());
    };
    let before_negotiation = case.strip_prefix('!');
    let mut connection = Connection::open(&mut memory.session, &mut memory.replies, machine);
    connection.replies.clear();
    if before_negotiation.is_none() {
        connection.send(br#"{"execute": "qmp_capabilities"}"#, &mut Silence)?;
    }
    let mut spelling = before_negotiation.unwrap_or(case).bytes();
    while let Some(byte) = spelling.next() {
        let byte = match byte {
            // Between pieces.
            b'|' => continue,
            b'\\' => match spelling.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'0') => 0,
                Some(b'x') => {
                    let mut digit = || char::from(spelling.next()?).to_digit(16);
                    (digit().unwrap_or(0) << 4 | digit().unwrap_or(0)) as u8
                }
                other => other.unwrap_or(b'\\'),
            },
            other => other,
        };
        connection.send(&[byte], out)?;
    }
    // Ends a number or a word.
    connection.send(b"\n", out)
}

/// A session from the greeting to `quit`, in pieces of all lengths.
fn play_session(memory: &mut Memory, out: &mut impl Write) -> fmt::Result {
    const PIECE_MAX: usize = 13;
    let Some(machine) = build(Board::Pc, Irqchip::Machine, &memory.ram, &mut Silence)? else {
        return Ok(());
    };
    let mut connection = Connection::open(&mut memory.session, &mut memory.replies, machine);
    let mut rest = SESSION;
    for length in (1..=PIECE_MAX).cycle() {
        let (piece, later) = rest.split_at(length.min(rest.len()));
        connection.send(piece, out)?;
        if later.is_empty() {
            break;
        }
        rest = later;
    }
    let told = Event::Powerdown;
    let time = Timestamp::default();
    if connection
        .session
        .event(&told, time, connection.replies)
        .is_err()
    {
        writeln!(out, "no room for an event")?;
    }
    connection.send(b"", out)
}
