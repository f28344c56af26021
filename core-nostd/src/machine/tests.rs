//! Tests of the machine as a whole, with a host in memory.

use super::*;
use crate::devices::class::PropertyValues;
use crate::devices::input::{InputAxis, InputButton, InputEvent, QKeyCode};
use crate::devices::{
    GuestEvent, PowerRequest, ShutdownCause, acpi_pm, debug_exit, debugcon, ib700, pc_testdev,
    pvpanic, serial, vmgenid,
};
use crate::irq::Msi;
use crate::memory::ArrayRam;
use crate::time::SECOND;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::string::String;
use std::vec::Vec;

const RAM: usize = 2 << 20;
static ROM: [u8; 0x1_0000] = {
    let mut rom = [0x90; 0x1_0000];
    rom[0xfff0] = 0xea;
    rom
};

/// RAM for each machine of these tests: too large for a test's stack.
static RAMS: [ArrayRam<RAM>; 64] = [const { ArrayRam::new() }; 64];
static NEXT_RAM: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) console: Vec<(u8, u8)>,
    /// Bytes that consoles take; `None`: all.
    pub(super) room: Option<usize>,
    pub(super) power: Vec<PowerRequest>,
    pub(super) events: Vec<GuestEvent>,
    pub(super) lost: usize,
    pub(super) gsis: Vec<(u8, bool)>,
    pub(super) intr: bool,
    pub(super) messages: Vec<Msi>,
    pub(super) routes: Vec<(u8, Option<Msi>)>,
    pub(super) remaps: usize,
    pub(super) flushed: Vec<u64>,
    pub(super) a20: Option<bool>,
}

impl Host for Recorder {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room.unwrap_or(usize::MAX));
        self.console
            .extend(bytes[..taken].iter().map(|byte| (console.0, *byte)));
        taken
    }

    fn console_lost(&mut self, _console: ConsoleId) {
        self.lost += 1;
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        self.gsis.push((gsi, level));
    }

    fn set_intr(&mut self, level: bool) {
        self.intr = level;
    }

    fn msi(&mut self, message: Msi) {
        self.messages.push(message);
    }

    fn route_changed(&mut self, pin: u8, message: Option<Msi>) {
        self.routes.push((pin, message));
    }

    fn power(&mut self, request: PowerRequest) {
        self.power.push(request);
    }

    fn guest_event(&mut self, event: GuestEvent) {
        self.events.push(event);
    }

    fn memory_remapped(&mut self) {
        self.remaps += 1;
    }

    fn flush_page(&mut self, gpa: u64) {
        self.flushed.push(gpa);
    }

    fn set_a20(&mut self, enabled: bool) {
        self.a20 = Some(enabled);
    }
}

fn testdev_memory() -> &'static [AtomicU8] {
    let cells: std::vec::Vec<AtomicU8> =
        (0..pc_testdev::MEMORY).map(|_| AtomicU8::new(0)).collect();
    cells.leak()
}

fn machine(board: Board, irqchip: Irqchip) -> Machine<'static> {
    machine_with(board, irqchip, true)
}

fn machine_with(board: Board, irqchip: Irqchip, pit: bool) -> Machine<'static> {
    machine_without(board, irqchip, |config| config.pit = pit)
}

pub(super) fn machine_without(
    board: Board,
    irqchip: Irqchip,
    change: impl FnOnce(&mut Config<'_>),
) -> Machine<'static> {
    let ram = &RAMS[NEXT_RAM.fetch_add(1, Ordering::Relaxed)];
    let mut config = Config {
        board,
        irqchip,
        rom: &ROM,
        kernel: b"kernel",
        cmdline: b"quiet",
        testdev_memory: testdev_memory(),
        ..Config::new(ram, RAM as u64)
    };
    change(&mut config);
    let mut machine = Machine::new(config).unwrap();
    machine.plug(&PropertyValues::new(&serial::CLASS)).unwrap();
    machine
        .plug(&PropertyValues::new(&debugcon::CLASS))
        .unwrap();
    machine
        .plug(&PropertyValues::new(&debug_exit::CLASS))
        .unwrap();
    machine
}

/// Drives the HPET into legacy replacement mode with comparator 0 in periods, and back: who interrupts, and that the interval
/// timer wakes nobody meanwhile.
#[test]
fn the_hpet_stands_for_the_interval_timer() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Split), Recorder::default());
    let ticks = |host: &mut Recorder, line: u8| {
        let count = host.gsis.iter().filter(|gsi| **gsi == (line, true)).count();
        host.gsis.clear();
        count
    };
    let write = |machine: &mut Machine<'_>, host: &mut Recorder, now, at: u64, value: u32| {
        machine.physical_write(host, now, 0xfed0_0000 + at, &value.to_le_bytes());
    };
    let mut now = 0;
    let run = |machine: &mut Machine<'_>, host: &mut Recorder, now: &mut u64, to| {
        let mut steps = 0;
        while let Some(at) = machine.next_deadline().filter(|at| *at <= to) {
            *now = at;
            machine.advance(host, at);
            steps += 1;
        }
        *now = to;
        steps
    };
    // Counter 0 in periods of a millisecond.
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        machine.pio_write(&mut host, now, port, Width::Byte, value);
    }
    run(&mut machine, &mut host, &mut now, 10_000_000);
    assert_eq!(ticks(&mut host, 0), 10);
    // The clock's periodic interrupt, never acknowledged.
    for (port, value) in [(0x70, 0x0b), (0x71, 0x42)] {
        machine.pio_write(&mut host, now, port, Width::Byte, value);
    }
    assert_eq!(ticks(&mut host, 8), 1);
    write(&mut machine, &mut host, now, 0x10, 3);
    assert_eq!(run(&mut machine, &mut host, &mut now, 20_000_000), 0);
    assert_eq!((ticks(&mut host, 0), ticks(&mut host, 8)), (0, 0));
    // Once in half a millisecond.
    write(&mut machine, &mut host, now, 0x100, 4 | 8 | 0x40);
    let counter = {
        let mut bytes = [0; 4];
        machine.physical_read(&mut host, now, 0xfed0_00f0, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    assert_eq!(counter, 1_000_000);
    write(&mut machine, &mut host, now, 0x108, counter + 50_000);
    write(&mut machine, &mut host, now, 0x108, 50_000);
    write(&mut machine, &mut host, now, 0x100, 4 | 8 | 0x40);
    write(&mut machine, &mut host, now, 0x10c, 0);
    run(&mut machine, &mut host, &mut now, 30_000_000);
    assert_eq!(ticks(&mut host, 0), 20);
    // A copy goes on the same, and tells no edge that was none.
    let mut state = std::vec![0; STATE_MAX];
    let used = machine.save(&mut state).unwrap();
    let mut copy = self::machine(Board::Pc, Irqchip::Split);
    let mut other = Recorder::default();
    copy.load(&mut other, now, &state[..used]).unwrap();
    assert_eq!((ticks(&mut other, 0), ticks(&mut other, 8)), (0, 0));
    assert_eq!(copy.next_deadline(), machine.next_deadline());
    let mut at = now;
    run(&mut copy, &mut other, &mut at, 40_000_000);
    assert_eq!(ticks(&mut other, 0), 20);
    // Back: both drive their lines again, from the level on that they have.
    write(&mut machine, &mut host, now, 0x100, 0);
    write(&mut machine, &mut host, now, 0x10, 1);
    run(&mut machine, &mut host, &mut now, 40_000_000);
    assert_eq!(
        (host.gsis.contains(&(8, true)), ticks(&mut host, 0)),
        (true, 11)
    );
    // A reset lets them go as well.
    copy.reset(&mut other, at);
    other.gsis.clear();
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        copy.pio_write(&mut other, at, port, Width::Byte, value);
    }
    run(&mut copy, &mut other, &mut at, 50_000_000);
    assert_eq!(ticks(&mut other, 0), 10);
}

#[test]
fn serial_output_reaches_the_host() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    machine.pio_write(&mut host, 0, 0x3f8, Width::Byte, 0x41);
    machine.pio_write(&mut host, 0, 0xe9, Width::Byte, 0x42);
    assert_eq!(host.console, [(0, 0x41), (4, 0x42)]);
    assert_eq!(machine.pio_read(&mut host, 0, 0x3fd, Width::Byte), 0x60);
}

#[test]
fn a_full_console_holds_the_transmitter() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    host.room = Some(0);
    machine.pio_write(&mut host, 0, 0x3f8, Width::Byte, 0x41);
    assert_eq!(machine.pio_read(&mut host, 0, 0x3fd, Width::Byte), 0);
    host.room = None;
    machine.console_writable(&mut host, 0, ConsoleId(0));
    assert_eq!(host.console, [(0, 0x41)]);
    assert_eq!(machine.pio_read(&mut host, 0, 0x3fd, Width::Byte), 0x60);
}

#[test]
fn lost_debug_output_is_told() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    machine.pio_write(&mut host, 0, 0xe9, Width::Byte, 0x41);
    assert_eq!(host.lost, 0);
    host.room = Some(0);
    machine.pio_write(&mut host, 0, 0xe9, Width::Byte, 0x42);
    assert_eq!((host.console, host.lost), (std::vec![(4, 0x41)], 1));
}

#[test]
fn input_raises_the_interrupt() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    machine.pio_write(&mut host, 0, 0x3f9, Width::Byte, 1);
    assert_eq!(
        machine.console_receive(&mut host, 0, ConsoleId(0), b"ab"),
        1
    );
    assert_eq!(host.gsis, [(4, true)]);
    assert_eq!(
        machine.pio_read(&mut host, 0, 0x3f8, Width::Byte),
        u32::from(b'a')
    );
    assert_eq!(host.gsis, [(4, true), (4, false)]);
}

#[test]
fn own_controllers_drive_intr() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Machine), Recorder::default());
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xef),
    ] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    machine.pio_write(&mut host, 0, 0x3f9, Width::Byte, 1);
    machine.console_receive(&mut host, 0, ConsoleId(0), b"a");
    assert!(host.intr);
    machine.pio_read(&mut host, 0, 0x3f8, Width::Byte);
    machine.pio_write(&mut host, 0, 0x20, Width::Byte, 0x0c);
    machine.pio_read(&mut host, 0, 0x20, Width::Byte);
}

#[test]
fn wide_accesses_are_split() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    // Scratch register 3FFh, then 400h, where nothing is.
    machine.pio_write(&mut host, 0, 0x3ff, Width::Word, 0x1234);
    assert_eq!(machine.pio_read(&mut host, 0, 0x3ff, Width::Word), 0xff34);
    // Behind the last port comes the first one: the DMA controller's.
    assert_eq!(machine.pio_read(&mut host, 0, 0xffff, Width::Dword), 0xff);
}

#[test]
fn pam_registers_remap_memory() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    let mut byte = [0];
    machine.physical_read(&mut host, 0, 0xf_fff0, &mut byte);
    assert_eq!(byte, [0xea]);
    machine.pio_write(&mut host, 0, 0xcf8, Width::Dword, 0x8000_0058);
    machine.pio_write(&mut host, 0, 0xcfd, Width::Byte, 0x30);
    assert_eq!(host.remaps, 1);
    machine.physical_write(&mut host, 0, 0xf_fff0, &[0x12]);
    machine.physical_read(&mut host, 0, 0xf_fff0, &mut byte);
    assert_eq!(byte, [0x12]);
    machine.reset(&mut host, 0);
    machine.physical_read(&mut host, 0, 0xf_fff0, &mut byte);
    assert_eq!(byte, [0xea], "the ROM is back");
}

#[test]
fn physical_accesses_cross_regions() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    let end = RAM as u64 - 2;
    machine.physical_write(&mut host, 0, end, &[1, 2, 3, 4]);
    let mut bytes = [9; 4];
    machine.physical_read(&mut host, 0, end, &mut bytes);
    assert_eq!(bytes, [1, 2, 0, 0]);
    // Behind the last address comes the first one.
    machine.physical_write(&mut host, 0, u64::MAX - 1, &[5, 6, 7, 8]);
    machine.physical_read(&mut host, 0, u64::MAX - 1, &mut bytes);
    assert_eq!(bytes, [0, 0, 7, 8]);
    machine.physical_read(&mut host, 0, (1 << 32) - 2, &mut bytes);
    assert_eq!(bytes, [0x90, 0x90, 0, 0]);
}

#[test]
fn resets_and_exits() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    machine.pio_write(&mut host, 0, 0xcf9, Width::Byte, 0x06);
    machine.pio_write(&mut host, 0, 0x64, Width::Byte, 0xfe);
    machine.pio_write(&mut host, 0, 0x501, Width::Byte, 0x10);
    let reset = PowerRequest::Reset(ShutdownCause::GuestReset);
    assert_eq!(host.power, [reset, reset, PowerRequest::Exit(33)]);
}

#[test]
fn a_watchdog_expires_and_is_reset_with_the_machine() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    machine.plug(&PropertyValues::new(&ib700::CLASS)).unwrap();
    machine.pio_write(&mut host, 0, 0x443, Width::Byte, 0x0e);
    assert_eq!(machine.next_deadline(), Some(2 * SECOND));
    machine.advance(&mut host, 2 * SECOND);
    assert_eq!(host.events, [GuestEvent::WatchdogExpired]);
    machine.pio_write(&mut host, 0, 0x443, Width::Byte, 0x0e);
    machine.reset(&mut host, 0);
    assert_eq!(machine.next_deadline(), None);
    let again = machine.plug(&PropertyValues::new(&ib700::CLASS));
    assert_eq!(again, Err(DeviceError::TooMany(1)));
}

#[test]
fn a_panic_device_answers_at_its_port_and_is_told_to_firmware() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    let mut values = PropertyValues::new(&pvpanic::CLASS);
    values.set("ioport", "0x1234").unwrap();
    values.set("events", "1").unwrap();
    machine.plug(&values).unwrap();
    assert_eq!(machine.pio_read(&mut host, 0, 0x1234, Width::Byte), 1);
    machine.pio_write(&mut host, 0, 0x1234, Width::Byte, 2);
    machine.pio_write(&mut host, 0, 0x1234, Width::Byte, 1);
    assert_eq!(host.events, [GuestEvent::CrashLoaded, GuestEvent::Panicked]);
    let key = machine.fw_cfg.file_key(pvpanic::FW_CFG_FILE).unwrap();
    machine.pio_write(&mut host, 0, 0x510, Width::Word, key.into());
    let mut byte = || machine.pio_read(&mut host, 0, 0x511, Width::Byte);
    assert_eq!([byte(), byte(), byte()], [0x34, 0x12, 0]);
    let again = machine.plug(&values);
    assert_eq!(again, Err(DeviceError::FwCfgFile(pvpanic::FW_CFG_FILE)));
}

#[test]
fn a_guest_that_sets_its_clock_is_heard() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    // Minute 1 of 1970 in place of minute 0, and one second later second 0.
    for (at, index, value) in [(0, 0x02, 0x01), (SECOND, 0x00, 0x00)] {
        machine.pio_write(&mut host, at, 0x70, Width::Byte, index);
        machine.pio_write(&mut host, at, 0x71, Width::Byte, value);
    }
    let told = [60, 59].map(|offset| GuestEvent::RtcChanged { offset });
    assert_eq!(host.events, told);
}

#[test]
fn devices_are_checked() {
    let mut machine = machine(Board::Pc, Irqchip::Host);
    let mut serial = PropertyValues::new(&serial::CLASS);
    serial.set("index", "0").unwrap();
    let error = machine.plug(&serial).unwrap_err();
    assert_eq!(error, DeviceError::IndexTaken(0));
    serial.set("index", "4").unwrap();
    assert_eq!(machine.plug(&serial), Err(DeviceError::Property("index")));
    let mut exit = PropertyValues::new(&debug_exit::CLASS);
    exit.set("iobase", "0x10000").unwrap();
    assert_eq!(machine.plug(&exit), Err(DeviceError::Property("iobase")));
}

#[test]
fn state_moves_between_machines() {
    let mut host = Recorder::default();
    for irqchip in [Irqchip::Machine, Irqchip::Split, Irqchip::Host] {
        for board in [Board::Pc, Board::Microvm, Board::None] {
            if board == Board::None {
                continue;
            }
            let with_watchdog = || {
                let mut machine = machine(board, irqchip);
                machine.plug(&PropertyValues::new(&ib700::CLASS)).unwrap();
                machine
                    .plug(&PropertyValues::new(&pc_testdev::CLASS))
                    .unwrap();
                machine
            };
            let mut first = with_watchdog();
            let memory = pc_testdev::MEMORY_BASE;
            first.physical_write(&mut host, 5, memory + 0x1ffe, b"four");
            first.pio_write(&mut host, 5, pc_testdev::LINES_BASE + 9, Width::Byte, 1);
            for port in (0x20..0x500u16).chain(0xcf8..0xd00) {
                if ![0x64, 0x92, 0xcf9].contains(&port) {
                    first.pio_write(&mut host, 5, port, Width::Byte, u32::from(port) * 7);
                }
            }
            let mut saved = std::vec![0; STATE_MAX];
            let length = first.save(&mut saved).unwrap();
            let mut second = with_watchdog();
            second.load(&mut host, 5, &saved[..length]).unwrap();
            let mut bytes = [0; 4];
            second.physical_read(&mut host, 5, memory + 0x1ffe, &mut bytes);
            assert_eq!(&bytes, b"four");
            let mut again = std::vec![0; STATE_MAX];
            let again_length = second.save(&mut again).unwrap();
            assert_eq!(saved[..length], again[..again_length]);
            assert_eq!(first.memory_map(), second.memory_map());
            assert_eq!(first.next_deadline(), second.next_deadline());
            assert!(second.load(&mut host, 5, &saved[..length - 1]).is_err());
            assert!(second.load(&mut host, 5, &saved[..length + 1]).is_err());
        }
    }
}

#[test]
fn the_test_device_flushes_pages_and_drives_lines() {
    let mut host = Recorder::default();
    let mut machine = machine(Board::Pc, Irqchip::Host);
    let values = PropertyValues::new(&pc_testdev::CLASS);
    machine.plug(&values).unwrap();
    assert_eq!(machine.plug(&values), Err(DeviceError::TooMany(1)));
    machine.pio_write(&mut host, 0, 0xe4, Width::Dword, 0x8000_1234);
    machine.pio_write(&mut host, 0, 0xe4, Width::Byte, 0x12);
    assert_eq!(host.flushed, [0x8000_1234]);
    machine.pio_write(&mut host, 0, 0x2017, Width::Byte, 1);
    machine.pio_write(&mut host, 0, 0x2017, Width::Byte, 0);
    assert_eq!(host.gsis, [(23, true), (23, false)]);
    // Two lines by one access.
    machine.pio_write(&mut host, 0, 0x2003, Width::Word, 0x0101);
    assert_eq!(host.gsis[2..], [(3, true), (4, true)]);
}

#[test]
fn boards_without_a_timer() {
    let mut host = Recorder::default();
    let mut machine = machine_with(Board::Pc, Irqchip::Machine, false);
    for port in [0x40, 0x43, 0x61] {
        machine.pio_write(&mut host, 0, port, Width::Byte, 0x34);
        assert_eq!(machine.pio_read(&mut host, 0, port, Width::Byte), 0xff);
    }
    let controllers = machine.controllers();
    assert_eq!(controllers.pit, None);
    let pics = controllers.pic.as_ref().unwrap();
    assert_eq!(pics.master.pins & 1, 0);
    machine.set_controllers(&mut host, 0, controllers).unwrap();
    let mut saved = std::vec![0; STATE_MAX];
    let length = machine.save(&mut saved).unwrap();
    machine.load(&mut host, 0, &saved[..length]).unwrap();
    let mut other = machine_with(Board::Pc, Irqchip::Machine, true);
    assert!(other.load(&mut host, 0, &saved[..length]).is_err());
    let mut wrong = other.controllers();
    assert!(
        machine
            .set_controllers(&mut host, 0, wrong.clone())
            .is_err()
    );
    wrong.pit = None;
    assert!(other.set_controllers(&mut host, 0, wrong).is_err());
}

#[test]
fn a_board_without_8259s_and_clock() {
    let mut host = Recorder::default();
    let bare = || {
        machine_without(Board::Microvm, Irqchip::Machine, |config| {
            (config.pic, config.rtc) = (false, false);
        })
    };
    let mut machine = bare();
    assert!(!machine.has_pic() && !machine.has_rtc());
    for port in [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x70, 0x71] {
        machine.pio_write(&mut host, 0, port, Width::Byte, 0x0a);
        assert_eq!(machine.pio_read(&mut host, 0, port, Width::Byte), 0xff);
    }
    assert_eq!(machine.rtc_seconds(0), None);
    // Lines go to the I/O APIC alone: nobody asks a processor by its own pin.
    for line in 0..16 {
        machine.set_line(&mut host, 0, IrqLine::new(line), true);
    }
    assert!(!machine.intr());
    let controllers = machine.controllers();
    assert_eq!(controllers.pic, None);
    assert_eq!(
        controllers.ioapic.pins & 0xffff,
        0xfffe,
        "the PIT's is pin 2"
    );
    machine.reset(&mut host, 0);
    machine.set_controllers(&mut host, 0, controllers).unwrap();
    let mut saved = std::vec![0; STATE_MAX];
    let length = machine.save(&mut saved).unwrap();
    bare().load(&mut host, 0, &saved[..length]).unwrap();
    let mut other = super::tests::machine(Board::Microvm, Irqchip::Machine);
    assert!(other.load(&mut host, 0, &saved[..length]).is_err());
    let full = other.controllers();
    assert!(machine.set_controllers(&mut host, 0, full.clone()).is_err());
    let none = Controllers { pic: None, ..full };
    assert!(other.set_controllers(&mut host, 0, none).is_err());
    // The kernel's come all together.
    let all = machine_without(Board::Microvm, Irqchip::Host, |config| config.pic = false);
    assert!(all.has_pic());
}

#[test]
fn an_express_bus() {
    use crate::devices::i6300esb;
    use crate::pci::gpex;
    /// What the watchdog's first register has from the start.
    const PRELOAD: u32 = 0xf_ffff;
    let mut host = Recorder::default();
    let board = |acpi, ioapic2| {
        let mut machine = machine_without(Board::Microvm, Irqchip::Machine, |config| {
            (config.pcie, config.acpi, config.ioapic2) = (true, acpi, ioapic2);
        });
        if machine.has_pci() {
            let mut watchdog = PropertyValues::new(&i6300esb::CLASS);
            watchdog.set("addr", "3").unwrap();
            machine.plug(&watchdog).unwrap();
        }
        machine
    };
    assert!(!board(false, true).has_pci(), "only ACPI tells of it");
    let read = |machine: &mut Machine<'_>, host: &mut Recorder, gpa: u64| {
        let mut bytes = [0; 4];
        machine.physical_read(host, 0, gpa, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    // Slot 3's pin A is the last interrupt; virtio devices have the others.
    for (ioapic2, irq) in [(true, 19), (false, 15)] {
        let mut machine = board(true, ioapic2);
        let function = gpex::ECAM + (3 << 15);
        assert_eq!(read(&mut machine, &mut host, gpex::ECAM), 0x0008_1b36);
        assert_eq!(read(&mut machine, &mut host, function), 0x25ab_8086);
        assert_eq!(read(&mut machine, &mut host, function + 0x100), u32::MAX);
        assert_eq!(read(&mut machine, &mut host, gpex::ECAM - 4), u32::MAX);
        assert_eq!(read(&mut machine, &mut host, gpex::ECAM + (1 << 28)), 0);
        let base = gpex::WINDOWS[0].0 as u32 + 0x1000;
        for (register, value) in [(0x10, base), (4, 2)] {
            machine.physical_write(&mut host, 0, function + register, &value.to_le_bytes());
        }
        assert_eq!(read(&mut machine, &mut host, base.into()), PRELOAD);
        assert_eq!(
            read(&mut machine, &mut host, u64::from(base) + 0x10),
            u32::MAX
        );
        assert_eq!(machine.express_irq().map(|first| first + 3), Some(irq));
        let mut saved = std::vec![0; STATE_MAX];
        let length = machine.save(&mut saved).unwrap();
        let mut other = board(true, ioapic2);
        other.load(&mut host, 0, &saved[..length]).unwrap();
        assert_eq!(read(&mut other, &mut host, base.into()), PRELOAD);
        machine.reset(&mut host, 0);
        assert_eq!(read(&mut machine, &mut host, base.into()), u32::MAX);
    }
}

#[test]
fn a_command_line_that_comes_late() {
    let mut host = Recorder::default();
    let mut machine = machine(Board::Microvm, Irqchip::Machine);
    let mut item = |machine: &mut Machine<'_>, key: u16| {
        machine.pio_write(&mut host, 0, 0x510, Width::Word, key.into());
        let byte = |_| machine.pio_read(&mut host, 0, 0x511, Width::Byte) as u8;
        core::array::from_fn::<u8, 8, _>(byte)
    };
    assert_eq!(&item(&mut machine, 0x15)[..6], b"quiet\0");
    machine.set_command_line(b"a=b c", &[]).unwrap();
    assert_eq!(&item(&mut machine, 0x15), b"a=b c\0\0\0");
    assert_eq!(item(&mut machine, 0x14)[0], 6);
    assert_eq!(item(&mut machine, crate::firmware::keys::BOOT), [0; 8]);
}

#[test]
fn the_gate_that_was_written_last_is_saved() {
    // The keyboard controller closes A20, port 92h opens it; and the other way round.
    for open in [false, true] {
        let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Machine), Recorder::default());
        let keyboard = if open { 0xdd } else { 0xdf };
        machine.pio_write(&mut host, 0, 0x92, Width::Byte, if open { 0 } else { 2 });
        machine.pio_write(&mut host, 0, 0x64, Width::Byte, keyboard);
        machine.pio_write(&mut host, 0, 0x92, Width::Byte, if open { 2 } else { 0 });
        assert_eq!(host.a20, Some(open));
        let mut saved = std::vec![0; STATE_MAX];
        let length = machine.save(&mut saved).unwrap();
        let mut other = super::tests::machine(Board::Pc, Irqchip::Machine);
        host.a20 = None;
        other.load(&mut host, 0, &saved[..length]).unwrap();
        assert_eq!(host.a20, Some(open));
    }
}

#[test]
fn qtest_answers() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Machine), Recorder::default());
    let mut buffer = [0; 256];
    let mut qtest = super::qtest::Qtest::new(&mut buffer);
    let mut clock = 0;
    let mut ask = |line: &str| {
        let mut out = String::new();
        let line = std::format!("{line}\n");
        let taken = qtest.feed(
            &mut machine,
            &mut host,
            &mut clock,
            line.as_bytes(),
            &mut out,
        );
        assert_eq!(taken, line.len());
        out
    };
    assert_eq!(ask("inb 0x3fd"), "OK 0x0060\n");
    assert_eq!(ask("writeq 0x1000 0x1122334455667788"), "OK\n");
    assert_eq!(ask("readl 0x1000"), "OK 0x0000000055667788\n");
    assert_eq!(ask("read 0x1000 3"), "OK 0x887766\n");
    assert_eq!(ask("b64read 0x1000 4"), "OK iHdmVQ==\n");
    assert_eq!(ask("write 0x1000 3 0x0102"), "OK\n");
    assert_eq!(ask("readl 0x1000"), "OK 0x0000000055000201\n");
    assert_eq!(ask("memset 0x1000 2 0xee"), "OK\n");
    assert_eq!(ask("readw 0x1000"), "OK 0x000000000000eeee\n");
    assert_eq!(ask("irq_intercept_in nope"), "FAIL Unknown device\n");
    assert_eq!(ask("irq_intercept_in ioapic"), "OK\n");
    assert_eq!(
        ask("set_irq_in ioapic unnamed-gpio-in 5 1"),
        "IRQ raise 5\nOK\n"
    );
    assert_eq!(
        ask("set_irq_in ioapic unnamed-gpio-in 24 1"),
        "FAIL Invalid number '24'\n"
    );
    assert_eq!(
        ask("irq_intercept_out isa-i8259"),
        "FAIL IRQ intercept already enabled\n"
    );
    assert_eq!(ask("clock_step 100"), "OK 100\n");
    assert_eq!(ask("clock_set 50"), "OK 100\n");
    assert_eq!(ask("endianness"), "OK little\n");
    assert_eq!(ask("outb 1"), "FAIL Missing value\n");
    assert_eq!(
        ask(&"x".repeat(300)),
        "FAIL Line longer than 1048576 bytes\n"
    );
    // Must end: a million timers at most, and then the rest at once.
    assert!(ask("clock_set 0xffffffffffffffff").ends_with("OK 18446744073709551615\n"));
}

fn write_ioapic(machine: &mut Machine<'_>, host: &mut Recorder, register: u8, value: u32) {
    machine.physical_write(host, 0, ioapic::BASE, &[register]);
    machine.physical_write(host, 0, ioapic::BASE + 0x10, &value.to_le_bytes());
}

#[test]
fn the_ioapic_sends_messages() {
    for board in [Board::Pc, Board::Microvm] {
        let (mut machine, mut host) = (machine(board, Irqchip::Split), Recorder::default());
        let level = Msi::new(1, false, 0, 0x31, true);
        write_ioapic(&mut machine, &mut host, 0x19, 1 << 24);
        write_ioapic(&mut machine, &mut host, 0x18, 0x8031);
        assert_eq!(host.routes.last(), Some(&(4, Some(level))));
        let line = IrqLine::new(4);
        machine.set_line(&mut host, 0, line, true);
        assert_eq!(host.messages, [level]);
        machine.end_of_interrupt(&mut host, 0, 0x31);
        assert_eq!(host.messages, [level; 2], "the line is still high");
        machine.set_line(&mut host, 0, line, false);
        // An access across two registers and beyond their page.
        let mut bytes = [0xaa; 8];
        machine.physical_read(&mut host, 0, ioapic::BASE - 4, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0x18, 0, 0, 0]);
        machine.physical_read(&mut host, 0, ioapic::BASE + 0xffc, &mut bytes);
        assert_eq!(bytes, [0; 8]);
        machine.reset(&mut host, 0);
        let last = if machine.has_second_ioapic() { 47 } else { 23 };
        assert_eq!(host.routes.last(), Some(&(last, None)));
        assert_eq!(host.messages.len(), 2);
    }
}

#[test]
fn the_timer_is_at_input_2_and_pulses_count() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Split), Recorder::default());
    write_ioapic(&mut machine, &mut host, 0x14, 0x30);
    // Counter 0 in mode 2: a fall and a rise within one call, every millisecond.
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    let before = host.messages.len();
    for _ in 0..3 {
        let deadline = machine.next_deadline().unwrap();
        machine.advance(&mut host, deadline);
    }
    let message = Msi::new(0, false, 0, 0x30, false);
    assert_eq!(host.messages[before..], [message; 3]);
    // And the PICs see it on input 0.
    for (port, value) in [(0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    let deadline = machine.next_deadline().unwrap();
    machine.advance(&mut host, deadline);
    assert!(host.intr && machine.intr());
    assert_eq!(machine.acknowledge(&mut host, deadline), 8);
    assert!(!host.intr && !machine.intr());
}

#[test]
fn in_kernel_controllers_leave_the_bus_empty() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    write_ioapic(&mut machine, &mut host, 0x18, 0x31);
    machine.set_line(&mut host, 0, IrqLine::new(4), true);
    assert!(host.messages.is_empty() && host.routes.is_empty());
    let mut bytes = [0xaa; 4];
    machine.physical_read(&mut host, 0, ioapic::BASE, &mut bytes);
    assert_eq!(bytes, [0; 4]);
}

/// What the guest reads from the keyboard controller, with the mouse's bytes marked by bit 8.
fn keyboard_bytes(machine: &mut Machine<'_>, host: &mut Recorder, now: u64) -> Vec<u16> {
    let mut bytes = Vec::new();
    loop {
        let status = machine.pio_read(host, now, 0x64, Width::Byte);
        if status & 1 == 0 {
            return bytes;
        }
        let byte = machine.pio_read(host, now, 0x60, Width::Byte) as u16;
        bytes.push(byte | (status as u16 & 0x20) << 3);
    }
}

fn qcodes(names: &[&str]) -> Vec<QKeyCode> {
    let keys = names
        .iter()
        .map(|name| QKeyCode::from_name(name.as_bytes()));
    keys.collect::<Option<_>>().unwrap()
}

const MILLISECOND: u64 = 1_000_000;

#[test]
fn keys_are_typed_in_the_clock_s_rhythm() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Machine), Recorder::default());
    let start = 5 * SECOND;
    machine.advance(&mut host, start);
    let keys = qcodes(&["ctrl", "left"]);
    assert_eq!(
        machine.type_keys(&mut host, start, &keys, Some(20)),
        Ok(true)
    );
    let later = qcodes(&["a"]);
    assert_eq!(
        machine.type_keys(&mut host, start, &later, Some(7)),
        Ok(false)
    );
    // Stopped in the meantime: behind the others, and without pauses.
    let last = qcodes(&["b"]);
    assert_eq!(machine.type_keys(&mut host, start, &last, None), Ok(false));
    let mut seen = Vec::new();
    for step in 0..200 {
        let now = start + step * MILLISECOND;
        if step == 45 {
            // Neither a reset nor a move to another machine changes what is still to be typed.
            machine.reset(&mut host, now);
            let mut state = std::vec![0; STATE_MAX];
            let length = machine.save(&mut state).unwrap();
            machine = super::tests::machine(Board::Pc, Irqchip::Machine);
            machine.load(&mut host, now, &state[..length]).unwrap();
        }
        machine.advance(&mut host, now);
        let bytes = keyboard_bytes(&mut machine, &mut host, now);
        if !bytes.is_empty() {
            seen.push((step, bytes));
        }
    }
    let expected: [(u64, &[u16]); 7] = [
        (0, &[0x14]),
        (20, &[0xe0, 0x6b]),
        (40, &[0xe0, 0xf0, 0x6b]),
        (60, &[0xf0, 0x14]),
        (80, &[0x1c]),
        (87, &[0xf0, 0x1c]),
        (94, &[0x32, 0xf0, 0x32]),
    ];
    let seen: Vec<_> = seen.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    assert_eq!(seen, expected);
    // With nothing before it a key that is typed at a stopped machine is nobody's.
    assert_eq!(
        machine.type_keys(&mut host, 6 * SECOND, &last, None),
        Ok(false)
    );
    machine.advance(&mut host, 7 * SECOND);
    assert!(keyboard_bytes(&mut machine, &mut host, 7 * SECOND).is_empty());
}

#[test]
fn typing_has_a_limit() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Machine), Recorder::default());
    let keys = std::vec![qcodes(&["a"])[0]; TYPED_MAX / 2 - 1];
    assert_eq!(
        machine.type_keys(&mut host, 0, &keys, Some(u32::MAX)),
        Ok(true)
    );
    // One is typed, three wait no longer here.
    assert_eq!(
        machine.type_keys(&mut host, 0, &keys[..1], Some(1)),
        Ok(false)
    );
    for count in [1, 2, keys.len()] {
        let typed = machine.type_keys(&mut host, 0, &keys[..count], None);
        assert_eq!(typed, Err(TypedFull));
    }
    assert_eq!(keyboard_bytes(&mut machine, &mut host, 0), [0x1c]);
    // Without a keyboard nothing waits.
    let mut other = super::tests::machine(Board::Microvm, Irqchip::Machine);
    let deadline = other.next_deadline();
    for _ in 0..3 {
        let typed = other.type_keys(&mut host, 0, &keys, Some(1));
        assert_eq!((typed, other.next_deadline()), (Ok(false), deadline));
    }
}

#[test]
fn mice_interrupt_with_whole_reports() {
    let (mut machine, mut host) = (machine(Board::Pc, Irqchip::Host), Recorder::default());
    for (port, value) in [(0x64, 0xd4), (0x60, 0xf4)] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    assert_eq!(keyboard_bytes(&mut machine, &mut host, 0), [0x1fa]);
    host.gsis.clear();
    let events = [
        InputEvent::Move {
            axis: InputAxis::X,
            by: 3,
        },
        InputEvent::Key {
            key: qcodes(&["a"])[0],
            down: true,
        },
        InputEvent::Button {
            button: InputButton::Left,
            down: true,
        },
    ];
    machine.input(&mut host, 0, &mut events.into_iter());
    assert_eq!(host.gsis, [(1, true)]);
    let bytes = keyboard_bytes(&mut machine, &mut host, 0);
    assert_eq!(bytes, [0x1c, 0x109, 0x103, 0x100]);
    assert_eq!(host.gsis[1..3], [(1, false), (12, true)]);
}

#[test]
fn saved_state_goes_on_as_another_generation() {
    let generation = |guid: &str| {
        let mut machine = machine(Board::Pc, Irqchip::Machine);
        let mut values = PropertyValues::new(&vmgenid::CLASS);
        values.set(vmgenid::GUID, guid).unwrap();
        machine.plug(&values).unwrap();
        assert!(matches!(
            machine.plug(&values),
            Err(DeviceError::OnlyOne("vmgenid"))
        ));
        let memory = std::vec![0; crate::firmware::acpi::memory_size(&[])].leak();
        machine.add_acpi_tables(&u32::from, &[], memory).unwrap();
        machine
    };
    let first = "00112233-4455-6677-8899-aabbccddeeff";
    let second = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87";
    let events = |machine: &mut Machine<'_>, host: &mut Recorder| {
        machine.pio_read(host, 0, acpi_pm::GPE0, Width::Word)
    };
    let bytes = |machine: &Machine<'_>| {
        let mut bytes = [0; 16];
        machine.ram().read(0x3000, &mut bytes).unwrap();
        bytes
    };
    let host = &mut Recorder::default();
    let mut state = std::vec![0; STATE_MAX];
    let mut old = generation(first);
    // Nobody has said where the number is.
    let length = old.save(&mut state).unwrap();
    let mut new = generation(second);
    new.load(host, 0, &state[..length]).unwrap();
    assert_eq!(events(&mut new, host), 0);
    // As firmware tells it.
    let key = u128::from(old.fw_cfg.file_key(vmgenid::ADDRESS_FILE).unwrap());
    let request = (key << 16 | 0x18) << 96 | 8 << 64 | 0x2000;
    old.ram().write(0x1000, &request.to_be_bytes()).unwrap();
    old.ram().write(0x2000, &0x3000u64.to_le_bytes()).unwrap();
    old.pio_write(host, 0, 0x518, Width::Dword, 0x1000u32.swap_bytes());
    let length = old.save(&mut state).unwrap();
    assert_eq!((events(&mut old, host), bytes(&old)), (0, [0; 16]));
    new.load(host, 0, &state[..length]).unwrap();
    assert_eq!(events(&mut new, host), 1 << vmgenid::EVENT);
    assert_eq!(bytes(&new), new.generation().unwrap().in_memory());
    assert_eq!(std::format!("{}", new.generation().unwrap()), second);
    // An address without memory.
    old.ram().write(0x2000, &u64::MAX.to_le_bytes()).unwrap();
    old.ram().write(0x1000, &request.to_be_bytes()).unwrap();
    old.pio_write(host, 0, 0x518, Width::Dword, 0x1000u32.swap_bytes());
    let length = old.save(&mut state).unwrap();
    new.reset(host, 0);
    new.load(host, 0, &state[..length]).unwrap();
    assert_eq!(events(&mut new, host), 0);
}

#[test]
fn a_sleeping_machine_wakes_up_with_its_memory() {
    let mut machine = machine(Board::Pc, Irqchip::Machine);
    let host = &mut Recorder::default();
    let out = |machine: &mut Machine<'_>, host: &mut Recorder, port, width, value| {
        machine.pio_write(host, 0, port, width, value);
    };
    let config = |machine: &mut Machine<'_>, host: &mut Recorder, address, value| {
        out(machine, host, 0xcf8, Width::Dword, address);
        out(machine, host, 0xcfc, Width::Dword, value);
    };
    let place_registers = |machine: &mut Machine<'_>, host: &mut Recorder| {
        config(machine, host, 0x8000_0b40, 0x601);
        config(machine, host, 0x8000_0b80, 1);
    };
    assert!(machine.can_sleep());
    place_registers(&mut machine, host);
    config(&mut machine, host, 0x8000_0058, 0x3333_3300);
    machine.ram().write(0xf_1234, b"shadow").unwrap();
    assert_eq!(machine.alarm_at(0), None);
    // An alarm each second.
    for (index, value) in [(1, 0xff), (3, 0xff), (5, 0xff), (0x0b, 0x22), (0x0f, 5)] {
        out(&mut machine, host, 0x70, Width::Byte, index);
        out(&mut machine, host, 0x71, Width::Byte, value);
    }
    assert_eq!(machine.alarm_at(0), None, "it wakes nobody");
    out(&mut machine, host, 0x602, Width::Word, 0x400);
    assert_eq!(machine.alarm_at(0), Some(SECOND));
    assert_eq!(machine.alarm_at(SECOND), Some(2 * SECOND));
    out(&mut machine, host, 0x604, Width::Word, 0x2400);
    assert_eq!(host.power, [PowerRequest::Suspend]);
    machine.fall_asleep();
    machine.wake(host, 5, acpi_pm::WakeReason::Rtc);
    place_registers(&mut machine, host);
    let mut read = |port, width| machine.pio_read(host, 5, port, width);
    assert_eq!(read(0x600, Width::Dword), 0x8400);
    out(&mut machine, host, 0x70, Width::Byte, 0x0f);
    assert_eq!(machine.pio_read(host, 5, 0x71, Width::Byte), 0xfe);
    let mut shadow = [0; 6];
    machine.physical_read(host, 5, 0xf_1234, &mut shadow);
    assert_eq!(&shadow, b"shadow");
    // A reset is a fresh start.
    machine.reset(host, 6);
    machine.physical_read(host, 6, 0xf_1234, &mut shadow);
    assert_ne!(&shadow, b"shadow");
    let without = machine_with(Board::Microvm, Irqchip::Machine, true);
    assert!(!without.can_sleep());
}
