//! The chassis that fuzz targets drive: a whole machine with every device, and a host in memory
//! that checks what the machine tells it.

pub mod drives;
pub mod floppy;
pub mod json;
pub mod options;
pub mod reference;
pub mod rig;
pub mod schema;
pub mod soft_cpu;
pub mod storm;
pub mod virtqueue;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use thimble_core::devices::block::{DriveId, Request};
use thimble_core::devices::class::PropertyValues;
use thimble_core::devices::{
    ConsoleId, GuestEvent, PowerRequest, debug_exit, debugcon, fdc, i6300esb, ib700, parallel,
    pc_testdev, pci_serial, pci_testdev, pflash, pvpanic, serial,
};
use thimble_core::irq::LocalApic;
use thimble_core::irq::lapic::LocalApicWiring;
use thimble_core::machine::{
    Board, Config, ExpansionRom, FlashUnit, Host, Irqchip, Machine, Place, Plugging,
};
use thimble_core::memory::{ArrayRam, Block, GuestRam};
use thimble_core::pci::bridge;
use thimble_core::qmp;
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

/// Bytes of a page of [`Ram`].
const PAGE: usize = 1 << 12;

/// Guest RAM that knows which of its pages were written to.
struct Ram {
    bytes: ArrayRam<RAM>,
    written: [AtomicBool; RAM / PAGE],
}

// SAFETY: that of `ArrayRam`.
unsafe impl GuestRam for Ram {
    fn block(&self, gpa: u64) -> Option<Block> {
        self.bytes.block(gpa)
    }

    fn written(&self, gpa: u64, length: usize) {
        let pages = gpa as usize / PAGE..(gpa as usize + length).div_ceil(PAGE);
        for page in &self.written[pages] {
            page.store(true, Ordering::Relaxed);
        }
    }
}

impl Ram {
    /// Fills what was written with zeros.
    fn clear(&self) {
        for (gpa, written) in (0..).step_by(PAGE).zip(&self.written) {
            if written.swap(false, Ordering::Relaxed) {
                let block = self.block(gpa).expect("it is RAM");
                // SAFETY: a page of a valid block, and a fuzzer has one thread.
                unsafe { block.pointer.write_bytes(0, PAGE) };
            }
        }
    }
}

/// Guest RAM, which all machines share.
fn ram() -> &'static Ram {
    static RAM_BYTES: Ram = Ram {
        bytes: ArrayRam::new(),
        written: [const { AtomicBool::new(false) }; RAM / PAGE],
    };
    &RAM_BYTES
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

/// A machine with every device.
pub fn machine(board: Board, irqchip: Irqchip) -> Machine<'static> {
    machine_with(board, irqchip, &mut [])
}

/// A machine with every device, and with these local APICs. Its memory is empty: there is one such machine at a time.
pub fn machine_with(board: Board, irqchip: Irqchip, local_apics: &mut [LocalApic]) -> Machine<'_> {
    ram().clear();
    clear(testdev_memory());
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
    ram().clear();
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

/// Fills cells with zeros, of which there are too many to do so one by one.
fn clear(cells: &[AtomicU8]) {
    // SAFETY: they may change behind references, and a fuzzer has one thread.
    unsafe {
        cells
            .as_ptr()
            .cast_mut()
            .cast::<u8>()
            .write_bytes(0, cells.len())
    };
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
        plug_pci(&mut machine);
    }
    machine
}

/// Plugs in PCI devices of all kinds: some on bus 0, and some below two bridges.
fn plug_pci(machine: &mut Machine<'_>) {
    for (class, id, bus, addr) in [
        (&bridge::CLASS, "one", "pci.0", "2"),
        (&bridge::CLASS, "two", "one", "1"),
        (&pci_serial::CLASS, "serial", "pci.0", "3.0"),
        (&pci_serial::CLASS_4X, "serials", "pci.0", "3.1"),
        (&pci_serial::CLASS_2X, "below", "two", "5"),
        (&pci_testdev::CLASS, "test", "one", "4"),
        (&pci_testdev::CLASS, "same", "pci.0", "4"),
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

/// Chips for a machine, fresh ones: what a run does to them must not be seen by the next one.
fn flash(board: Board) -> [Option<FlashUnit<'static>>; pflash::UNITS_MAX] {
    static CELLS: [AtomicU8; 2 * FLASH_SIZE] = [const { AtomicU8::new(0) }; 2 * FLASH_SIZE];
    static CONTENTS: OnceLock<Vec<u8>> = OnceLock::new();
    let contents = CONTENTS.get_or_init(|| (0..CELLS.len()).map(|at| (at >> 4) as u8).collect());
    // SAFETY: as many bytes as there are cells, which may change behind references, and a fuzzer has one thread.
    unsafe {
        let cells = CELLS.as_ptr().cast_mut().cast::<u8>();
        cells.copy_from_nonoverlapping(contents.as_ptr(), CELLS.len());
    }
    let (second, first) = CELLS.split_at(FLASH_SIZE);
    let unit = |cells, read_only| (board == Board::Pc).then_some(FlashUnit { cells, read_only });
    [unit(first, true), unit(second, false)]
}
