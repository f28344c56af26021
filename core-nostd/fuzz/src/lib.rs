//! The chassis that fuzz targets drive: a whole machine with every device, and a host in memory
//! that checks what the machine tells it.

pub mod drives;
pub mod floppy;
pub mod json;
pub mod options;
pub mod reference;
pub mod schema;
pub mod soft_cpu;
pub mod virtqueue;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use thimble_core::devices::block::{DriveId, Request};
use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::input::{InputAxis, InputButton, InputEvent, QKeyCode};
use thimble_core::devices::{
    ConsoleId, GuestEvent, PowerRequest, Width, debug_exit, debugcon, fdc, ged, hpet, i6300esb,
    ib700, parallel, pc_testdev, pci_serial, pci_testdev, pflash, pvpanic, serial,
};
use thimble_core::irq::LocalApic;
use thimble_core::irq::lapic::{LocalApicWiring, Tsc};
use thimble_core::machine::{
    Board, Config, ExpansionRom, FlashUnit, Host, Irqchip, Machine, Place, Plugging, STATE_MAX,
    VIRTIO_BASE,
};
use thimble_core::memory::{ArrayRam, GuestRam};
use thimble_core::pci::{bridge, gpex};
use thimble_core::qmp;
use thimble_core::virtio::transport::mmio;
use thimble_monitor::Out;

/// Panics where `reached` tells that input got deep into the module, if the feature `planted` is
/// on: `cargo xtask fuzz TARGET --self-test` expects the fuzzer to find it.
pub fn plant(reached: bool) {
    assert!(!(cfg!(feature = "planted") && reached), "the planted panic");
}

/// Bytes of guest RAM.
const RAM: usize = 2 << 20;
/// The firmware image.
static ROM: [u8; 0x2_0000] = [0xf4; 0x2_0000];
/// Nanoseconds that one step of time takes at most: ten seconds.
const STEP_MAX: u64 = 10_000_000_000;

/// The first serial port's line status register, and its bit that a byte was received.
const LINE_STATUS: u16 = 0x3fd;
/// See [`LINE_STATUS`].
const DATA_READY: u32 = 1;

/// A host that keeps nothing, and takes console bytes as it is told.
#[derive(Default)]
pub struct Sink {
    /// Whether consoles take bytes.
    pub stalled: bool,
    /// What the guest asked for last.
    pub power: Option<PowerRequest>,
    /// Requests of disks.
    pub disks: drives::Disks,
    levels: u64,
}

impl Host for Sink {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        assert!(!bytes.is_empty());
        if self.stalled { 0 } else { bytes.len() }
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        let bit = 1u64.checked_shl(gsi.into()).expect("a line of the board");
        self.levels = if level {
            self.levels | bit
        } else {
            self.levels & !bit
        };
    }

    fn set_intr(&mut self, _level: bool) {}

    fn power(&mut self, request: PowerRequest) {
        self.power = Some(request);
    }

    fn guest_event(&mut self, _event: GuestEvent) {}

    fn block(&mut self, request: Request<'_>) {
        self.disks.take(request);
    }

    fn block_cancel(&mut self, drive: DriveId) {
        self.disks.cancel(drive);
    }

    fn memory_remapped(&mut self) {}

    fn set_a20(&mut self, _enabled: bool) {}
}

/// Output without end.
#[derive(Debug, Default)]
pub struct Output(pub Vec<u8>);

impl qmp::Sink for Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), qmp::SinkFull> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl Out for Output {
    fn pending(&mut self) -> bool {
        false
    }

    fn mark(&self) -> usize {
        self.0.len()
    }

    fn truncate(&mut self, mark: usize) {
        self.0.truncate(mark);
    }

    fn put_since(&self, mark: usize) -> &[u8] {
        self.0.get(mark..).unwrap_or_default()
    }
}

/// Takes values from the fuzzer's bytes; zeros when they are used up.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// Whether bytes are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// The next bytes as a number.
    pub fn number(&mut self, bytes: usize) -> u64 {
        let (now, later) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = later;
        now.iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

fn ram() -> &'static ArrayRam<RAM> {
    static ARRAY: ArrayRam<RAM> = ArrayRam::new();
    &ARRAY
}

/// Local APICs for a machine, one for each processor.
pub fn local_apics() -> [LocalApic; 2] {
    [0, 1].map(|id| {
        LocalApic::new(LocalApicWiring {
            id,
            bootstrap: id == 0,
            x2apic: true,
            tsc_deadline: true,
            address_bits: 40,
        })
    })
}

/// Empties guest RAM, which all machines share: for who runs the same twice.
pub fn clear_ram() {
    let block = ram().block(0).expect("it is RAM");
    // SAFETY: the block's bytes are the array's, and a fuzzer has one thread.
    unsafe { block.pointer.write_bytes(0, block.length.min(RAM)) };
}

/// A machine with every device.
pub fn machine(board: Board, irqchip: Irqchip) -> Machine<'static> {
    machine_with(board, irqchip, &mut [])
}

/// A machine with every device, and with these local APICs.
pub fn machine_with(board: Board, irqchip: Irqchip, local_apics: &mut [LocalApic]) -> Machine<'_> {
    let memory = Memory {
        ram: ram(),
        ram_size: RAM,
        rom: &ROM,
        flash: flash(board),
    };
    machine_around(board, irqchip, memory, local_apics, true)
}

/// The same without what is much to clear before each run: flash chips, and `pc-testdev`'s memory.
pub fn machine_without_memories(
    board: Board,
    irqchip: Irqchip,
    local_apics: &mut [LocalApic],
) -> Machine<'_> {
    let memory = Memory {
        ram: ram(),
        ram_size: RAM,
        rom: &ROM,
        flash: [const { None }; pflash::UNITS_MAX],
    };
    machine_around(board, irqchip, memory, local_apics, false)
}

/// What a machine is lent.
#[derive(Clone, Copy)]
struct Memory<'m> {
    ram: &'m dyn GuestRam,
    /// Bytes of RAM.
    ram_size: usize,
    rom: &'m [u8],
    flash: [Option<FlashUnit<'m>>; pflash::UNITS_MAX],
}

/// What the device `pc-testdev` keeps its bytes in.
fn testdev_memory() -> &'static [AtomicU8] {
    static TESTDEV: OnceLock<Vec<AtomicU8>> = OnceLock::new();
    TESTDEV.get_or_init(|| (0..pc_testdev::MEMORY).map(|_| AtomicU8::new(0)).collect())
}

/// A machine around memory of its own, with every device; `pc-testdev`, whose memory is much to clear, only if asked for.
fn machine_around<'m>(
    board: Board,
    irqchip: Irqchip,
    memory: Memory<'m>,
    local_apics: &'m mut [LocalApic],
    testdev: bool,
) -> Machine<'m> {
    static KERNEL: OnceLock<Vec<u8>> = OnceLock::new();
    let config = Config {
        board,
        irqchip,
        pcie: true,
        rom: memory.rom,
        flash: memory.flash,
        max_cpus: 2,
        local_apics,
        rtc_base: 1_600_000_000,
        uuid: [7; 16],
        graphics: true,
        kernel: KERNEL.get_or_init(|| (0..=255).collect()),
        initrd: b"initrd",
        cmdline: b"quiet",
        testdev_memory: testdev_memory(),
        ..Config::new(memory.ram, memory.ram_size as u64)
    };
    let mut machine = Machine::new(config).expect("the board fits its tables");
    let classes = [
        &serial::CLASS,
        &serial::CLASS,
        &debugcon::CLASS,
        &debug_exit::CLASS,
        &parallel::CLASS,
        &ib700::CLASS,
        &pvpanic::CLASS,
    ];
    let testdev = testdev.then_some(&pc_testdev::CLASS);
    for class in classes.into_iter().chain(testdev) {
        machine
            .plug(&PropertyValues::new(class))
            .expect("there is room for these");
    }
    if board == Board::Pc {
        machine
            .plug(&PropertyValues::new(&fdc::drive::CLASS))
            .expect("there is room for a floppy drive");
    }
    plug_pci(&mut machine);
    machine
}

/// Plugs in PCI devices of all kinds: some on bus 0, and some below two bridges.
fn plug_pci(machine: &mut Machine<'_>) {
    let root = machine.root_bus();
    for (class, id, bus, addr) in [
        (&bridge::CLASS, "one", root, "2"),
        (&bridge::CLASS, "two", "one", "1"),
        (&pci_serial::CLASS, "serial", root, "3.0"),
        (&pci_serial::CLASS_4X, "serials", root, "3.1"),
        (&pci_serial::CLASS_2X, "below", "two", "5"),
        (&pci_testdev::CLASS, "test", "one", "4"),
        (&pci_testdev::CLASS, "same", root, "4"),
        (&i6300esb::CLASS, "watchdog", "two", "6"),
        (&pvpanic::PCI_CLASS, "alarm", "two", "7"),
    ] {
        let mut values = PropertyValues::new(class);
        values.set("addr", addr).expect("an address");
        values.set("multifunction", "on").expect("a flag");
        // Classes without them take no notice.
        let _ = values.set("chassis_nr", "1");
        let _ = values.set("shpc", "off");
        let _ = values.set("membar", "64K");
        let plugging = Plugging {
            place: Place::Id(id),
            bus: Some(bus),
            rom: ExpansionRom {
                name: "rom",
                bytes: &[0x55, 0xaa, 1],
            },
        };
        machine.plug_on(&values, plugging).expect("there is room");
    }
}

/// Bytes of a flash chip.
const FLASH_SIZE: usize = 2 * pflash::SECTOR;

/// Where the second flash chip is, below the first one.
const FLASH: u64 = (1 << 32) - 2 * FLASH_SIZE as u64;

/// Chips for a machine, fresh ones: what a run does to them must not be seen by the next one.
fn flash(board: Board) -> [Option<FlashUnit<'static>>; pflash::UNITS_MAX] {
    static CELLS: [AtomicU8; 2 * FLASH_SIZE] = [const { AtomicU8::new(0) }; 2 * FLASH_SIZE];
    for (at, cell) in CELLS.iter().enumerate() {
        cell.store((at >> 4) as u8, Ordering::Relaxed);
    }
    let (second, first) = CELLS.split_at(FLASH_SIZE);
    let unit = |cells, read_only| (board == Board::Pc).then_some(FlashUnit { cells, read_only });
    [unit(first, true), unit(second, false)]
}

/// Where guests of [`storm`] like to have PCI devices.
const PCI_MEMORY: u64 = 0xfe00_0000;

/// An access to the configuration space of a function near those that there are.
fn configuration(
    machine: &mut Machine<'_>,
    host: &mut Sink,
    now: u64,
    width: Width,
    source: &mut Source<'_>,
) {
    let place = source.number(2) as u32;
    let (bus, device, function) = (place & 3, place >> 2 & 7, place >> 5 & 1);
    let register = u32::from(source.byte());
    // Mostly registers of the header.
    let register = if place >> 8 & 3 == 0 {
        register
    } else {
        register & 0x3f
    };
    let address = 1 << 31 | bus << 16 | device << 11 | function << 8 | register & !3;
    machine.pio_write(host, now, 0xcf8, Width::Dword, address);
    let port = 0xcfc + (register & 3) as u16;
    if place >> 10 & 7 == 0 {
        machine.pio_read(host, now, port, width);
        return;
    }
    let value = source.number(width as usize) as u32;
    let value = match place >> 13 {
        0 => u32::MAX,
        1 => PCI_MEMORY as u32 | value & 0x3_ffff,
        2 => 0xc000 | value & 0xfff,
        3 => value & 0x0707,
        _ => value,
    };
    machine.pio_write(host, now, port, width, value);
}

/// What someone does at the machine.
fn user(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let operation = source.byte();
    let key = QKeyCode::from_number(source.byte().into());
    if operation & 7 == 0 {
        let pause = (operation & 8 == 0).then_some(source.number(2) as u32);
        let keys = vec![key; usize::from(source.byte())];
        // There may be no room.
        let _ = machine.type_keys(host, now, &keys, pause);
        return;
    }
    let down = operation & 8 != 0;
    let by = source.number(4) as i32;
    let button = by as u8 as usize % InputButton::ALL.len();
    let event = match operation & 3 {
        0 | 1 => InputEvent::Key { key, down },
        2 => InputEvent::Button {
            button: InputButton::ALL[button],
            down,
        },
        _ => InputEvent::Move {
            axis: InputAxis::ALL[usize::from(down)],
            by,
        },
    };
    machine.input(
        host,
        now,
        &mut std::iter::repeat_n(event, (operation >> 4).into()),
    );
}

/// What a processor does with its local APIC.
fn processor(machine: &mut Machine<'_>, host: &mut Sink, now: u64, source: &mut Source<'_>) {
    let operation = source.byte();
    let cpu = u16::from(operation & 3);
    let index = 0x800 + u32::from(source.byte());
    let value = source.number(4);
    match operation >> 2 & 7 {
        0 | 1 => {
            let gpa = 0xfee0_0000 + (u64::from(index & 0xff) << 4);
            machine.processor_write(host, now, cpu, gpa, &(value as u32).to_le_bytes());
        }
        2 => {
            let gpa = machine.apic_base(cpu) & !0xfff | value & 0xfff;
            machine.processor_read(host, now, cpu, gpa, &mut [0; 8]);
        }
        3 => drop(machine.apic_msr_write(host, now, cpu, index, value << 16 | value)),
        4 => drop(machine.apic_msr_read(host, now, cpu, index)),
        5 => {
            machine.take_event(host, now, cpu);
            let waits = machine.interrupt_waits(cpu);
            let taken = machine.take_interrupt(host, now, cpu);
            assert_eq!(waits, taken.is_some());
        }
        6 => {
            let _ = machine.set_apic_base(host, now, cpu, value ^ 0xfee0_0800);
            machine.set_task_priority(host, now, cpu, index as u8);
            machine.pulse_nmi(host, now);
        }
        _ => {
            let tsc = Tsc {
                value: now,
                hz: value,
            };
            machine.set_tsc_deadline(host, now, cpu, value << 8, tsc);
            if let Some(state) = machine.local_apic_state(now, cpu) {
                let base = machine.apic_base(cpu);
                machine
                    .set_local_apic_state(host, now, cpu, &state, base)
                    .expect("its own state");
                assert_eq!(machine.local_apic_state(now, cpu), Some(state));
            }
        }
    }
}

/// Drives a machine of either board through whatever the bytes say: accesses of all widths to all ports and
/// memory, time, console input, resets, and saved state of its own and of nobody's.
pub fn storm(bytes: &[u8]) {
    let mut source = Source(bytes);
    let kind = source.byte();
    let irqchip = if kind & 1 == 0 {
        Irqchip::Machine
    } else {
        Irqchip::Host
    };
    let board = if kind & 2 == 0 {
        Board::Pc
    } else {
        Board::Microvm
    };
    let mut apics = local_apics();
    let mut machine = machine_with(board, irqchip, &mut apics);
    let mut host = Sink::default();
    let mut now = 0u64;
    drives::plug(&mut machine, board, &mut host, now);
    let mut state = vec![0; STATE_MAX];
    while !source.is_empty() {
        let operation = source.byte();
        let width =
            [Width::Byte, Width::Word, Width::Dword, Width::Byte][usize::from(operation >> 6)];
        match operation & 0x0f {
            0..=4 if operation & 0x30 == 0x30 => {
                configuration(&mut machine, &mut host, now, width, &mut source);
            }
            0..=4 => {
                let port = source.number(2) as u16 & 0x0fff;
                let value = source.number(width as usize) as u32;
                machine.pio_write(&mut host, now, port, width, value);
            }
            5..=7 => {
                let port = source.number(2) as u16;
                let value = machine.pio_read(&mut host, now, port, width);
                // A serial port in loopback has received what it sent.
                plant(port == LINE_STATUS && width == Width::Byte && value & DATA_READY != 0);
            }
            8 | 9 if operation & 0x30 == 0x30 => {
                let offset = source.number(3);
                let gpa = match offset >> 21 {
                    _ if board == Board::Microvm && offset >> 23 == 0 => {
                        ged::EVENTS + offset % 0x400
                    }
                    // Slots 0 to 7 of four buses, and what stands in the windows.
                    4 if board == Board::Microvm => {
                        gpex::ECAM + (offset & 3) * (1 << 20) + (offset >> 2) % (8 << 15)
                    }
                    5 if board == Board::Microvm => {
                        gpex::WINDOWS[(offset & 1) as usize].0 + offset % 0x4_0000
                    }
                    _ if board == Board::Microvm => VIRTIO_BASE + offset % (26 * mmio::LENGTH),
                    5 => FLASH + offset % (FLASH_SIZE as u64),
                    6 | 7 => hpet::BASE + offset % hpet::LENGTH,
                    _ => PCI_MEMORY + offset % 0x4_0000,
                };
                let bytes = &mut source.number(8).to_le_bytes()[..width as usize];
                match operation & 1 {
                    0 => machine.physical_write(&mut host, now, gpa, bytes),
                    _ => machine.physical_read(&mut host, now, gpa, bytes),
                }
            }
            8 => {
                let gpa = source.number(4) ^ (source.number(1) << 32);
                let value = source.number(8).to_le_bytes();
                machine.physical_write(&mut host, now, gpa, &value[..width as usize]);
            }
            9 => {
                let gpa = source.number(4) ^ (source.number(1) << 32);
                machine.physical_read(&mut host, now, gpa, &mut [0; 8][..width as usize]);
            }
            10 => {
                now = now.saturating_add(source.number(5) % STEP_MAX);
                machine.advance(&mut host, now);
            }
            11 => {
                if let Some(deadline) = machine.next_deadline() {
                    now = now.max(deadline);
                    machine.advance(&mut host, now);
                }
            }
            12 if operation & 0x30 == 0x30 => {
                user(&mut machine, &mut host, now, &mut source);
            }
            12 => {
                let text = source.number(8).to_le_bytes();
                let console = ConsoleId(source.byte());
                let taken = machine.console_receive(&mut host, now, console, &text);
                assert!(taken <= text.len());
            }
            13 if operation & 0x30 == 0x30 => {
                drives::act(&mut machine, &mut host, now, &mut source);
            }
            13 => {
                host.stalled = source.byte() & 1 != 0;
                for console in 0..16 {
                    machine.console_writable(&mut host, now, ConsoleId(console));
                }
            }
            14 => {
                let length = machine.save(&mut state).expect("the state fits");
                let at = source.number(2) as usize;
                // Mostly its own state, sometimes with one wrong byte.
                if let Some(byte) = state[..length].get_mut(at) {
                    *byte ^= source.byte();
                }
                if machine.load(&mut host, now, &state[..length]).is_err() {
                    machine.reset(&mut host, now);
                }
                machine.resume_drives(&mut host, now);
            }
            _ if operation & 0x30 != 0 => processor(&mut machine, &mut host, now, &mut source),
            _ => machine.reset(&mut host, now),
        }
    }
}
