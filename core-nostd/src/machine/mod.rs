//! The boards, address decoding and power states.
//!
//! A [`Machine`] is built from a [`Config`] and owns all devices. The accelerator hands it port
//! and memory accesses, the event loop time and console input; what devices ask for goes to the
//! [`Host`].

/// The context that a device call gets, from fields that no device is part of.
macro_rules! context {
    ($machine:expr, $now:expr) => {
        &mut Context {
            now: $now,
            lines: &mut $machine.lines,
            timers: &mut $machine.timers,
            ram: $machine.ram,
            effects: &mut $machine.effects,
        }
    };
}

/// The I/O APIC at an address, from fields that no context borrows.
macro_rules! ioapic_chip {
    ($machine:expr, $base:expr) => {
        match &mut $machine.microvm.ioapic2 {
            Some(second) if $base == ioapic::SECOND_BASE => second,
            _ => &mut $machine.ioapic,
        }
    };
}

mod a20;
mod acpi;
pub mod actions;
mod apics;
mod board;
mod boot;
mod clock;
mod config;
mod drives;
mod flash;
mod floppy;
mod host;
mod hpet;
mod input;
mod lending;
pub mod listing;
mod microvm;
mod parallel;
mod pci;
mod plugged;
mod ports;
mod power;
pub mod qtest;
mod run_state;
mod state;
mod told;
mod vmgenid;

use a20::A20Gate;
use boot::Boot;
use core::sync::atomic::AtomicU8;

use crate::devices::acpi_pm::{AcpiPm, SleepStates};
use crate::devices::debug_exit::DebugExit;
use crate::devices::debugcon::Debugcon;
use crate::devices::dma::{self, Dma};
use crate::devices::fdc::Fdc;
use crate::devices::hpet::Hpet;
use crate::devices::i8042::I8042;
use crate::devices::ib700::Ib700;
use crate::devices::ide::Ide;
use crate::devices::parallel::Parallel;
use crate::devices::pc_testdev::PcTestdev;
use crate::devices::pflash::{self, Pflash};
use crate::devices::pit::Pit;
use crate::devices::port92::Port92;
use crate::devices::post::Post;
use crate::devices::pvpanic::Pvpanic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::Serial;
use crate::devices::vmgenid::GenerationId;
use crate::devices::{ConsoleId, Context, Effect, Effects, Width};
use crate::firmware::{FwCfg, Numa, Vmcoreinfo, vmcoreinfo};
use crate::irq::ioapic;
use crate::irq::{IoApic, IrqLine, Lines, LocalApics, Pic};
use crate::memory::{Backing, GuestRam, MemoryMap};
use crate::pci::{ConfigMechanism1, I440fx, Piix3, Piix4Pm};
use crate::time::Timers;

use crate::trace::events::{self as trace, Event};
pub use acpi::AcpiError;
pub use board::{BuildError, CLASSES, DeviceError};
pub use boot::OptionRomError;
pub use config::{Board, Config, FlashUnit, HIGH_RAM_BASE, Irqchip, RamLayout};
use drives::Drives;
pub use drives::VIRTIO_BLKS_MAX;
pub use host::Host;
use input::Typing;
pub use input::{TYPED_MAX, TypedFull};
pub use lending::Lent;
use microvm::Microvm;
pub use microvm::{BUS_PREFIX, BUS_TYPE, TRANSPORTS_MAX, VIRTIO_BASE};
use pci::Buses;
pub use pci::{
    Consoles, ExpansionRom, I6300ESB_MAX, PCI_BRIDGES_MAX, PCI_SERIALS_MAX, PCI_TESTDEVS_MAX,
    PCI_UARTS_MAX, PciDevice,
};
pub use plugged::{ID_MAX, PLUGGED_MAX, Place, Plugged, Plugging};
pub use ports::PortsFull;
use ports::{PortMap, piece};
pub use run_state::RunState;
pub use state::{Controllers, STATE_MAX};
pub use told::OnRoot;

/// Serial ports that a board has at most.
pub const SERIAL_MAX: usize = 4;
/// Parallel ports that a board has at most.
pub const PARALLEL_MAX: usize = 3;
/// Debug consoles that a board has at most.
pub const DEBUGCON_MAX: usize = 4;
/// Debug exit ports that a board has at most.
pub const DEBUG_EXIT_MAX: usize = 4;

/// What answers at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    MasterPic,
    SlavePic,
    Elcr,
    Pit,
    /// Port 61h: the speaker, and the gate of the PIT's counter 2.
    PortB,
    Rtc,
    KeyboardData,
    KeyboardCommand,
    Port92,
    Post,
    /// The DMA controllers, from this port on.
    Dma(u8),
    PciAddress,
    PciData,
    FwCfg,
    Serial(u8),
    Parallel(u8),
    Debugcon(u8),
    DebugExit(u8),
    Watchdog,
    Pvpanic,
    Testdev,
    TestdevLines,
    /// ACPI's fixed hardware.
    Pm,
    /// General-purpose events.
    Gpe0,
    /// The command port of ACPI, and its data.
    Apmc,
    /// An IDE channel's command block.
    Ide(u8),
    /// An IDE channel's alternate status and device control.
    IdeControl(u8),
    /// The floppy disk controller, from this offset of its registers on.
    Floppy(u8),
    /// A PCI function.
    Function {
        /// Index of what says which, and where in it.
        claim: u8,
        /// The widest access that it takes whole.
        widest: Width,
    },
}

impl Port {
    /// What QEMU calls such registers, in trace events and for a monitor.
    fn name(self) -> &'static str {
        match self {
            Self::MasterPic | Self::SlavePic => "pic",
            Self::Elcr => "elcr",
            Self::Pit => "pit",
            Self::PortB => "pcspk",
            Self::Rtc => "rtc",
            Self::KeyboardData => "i8042-data",
            Self::KeyboardCommand => "i8042-cmd",
            Self::Port92 => "port92",
            Self::Post => "ioport80",
            Self::Dma(base) => dma::range_name(base),
            Self::PciAddress => "pci-conf-idx",
            Self::PciData => "pci-conf-data",
            Self::FwCfg => "fwcfg",
            Self::Serial(_) => "serial",
            Self::Parallel(_) => "parallel",
            Self::Debugcon(_) => "isa-debugcon",
            Self::DebugExit(_) => "isa-debug-exit",
            Self::Watchdog => "ib700",
            Self::Pvpanic => "pvpanic",
            Self::Testdev | Self::TestdevLines => "pc-testdev",
            Self::Pm => "acpi-pm",
            Self::Gpe0 => "acpi-gpe0",
            Self::Apmc => "apm-io",
            Self::Ide(_) | Self::IdeControl(_) => "ide",
            Self::Floppy(_) => "fdc",
            Self::Function { .. } => "pci-bar",
        }
    }
}

/// The I/O APIC's name in trace events.
const IOAPIC: &[u8] = b"ioapic";

fn tell_read(device: Port, address: u64, value: u64, width: Width) {
    if Event::memory_region_ops_read.is_on() {
        let name = device.name().as_bytes();
        trace::memory_region_ops_read(address, value, width.bytes(), name);
    }
}

fn tell_write(device: Port, address: u64, value: u64, width: Width) {
    if Event::memory_region_ops_write.is_on() {
        let name = device.name().as_bytes();
        trace::memory_region_ops_write(address, value, width.bytes(), name);
    }
}

/// How assemblers mark an access's width.
const fn letter(width: Width) -> u8 {
    match width {
        Width::Byte => b'b',
        Width::Word => b'w',
        _ => b'l',
    }
}

/// What stands at an address of the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PciSlot {
    HostBridge,
    IsaBridge,
    PowerManagement,
    Ide,
    /// By index in its pool, as all that follow.
    Bridge(u8),
    Serial(u8),
    Testdev(u8),
    Watchdog(u8),
    Pvpanic(u8),
    VirtioBlk(u8),
}

impl PciSlot {
    /// The function's name in trace events, as QEMU names it.
    fn name(self) -> &'static str {
        match self {
            Self::HostBridge => "i440FX",
            Self::IsaBridge => "PIIX3",
            Self::PowerManagement => "PIIX4_PM",
            Self::Ide => "piix3-ide",
            Self::Bridge(_) => "pci-bridge",
            Self::Serial(_) => "pci-serial",
            Self::Testdev(_) => "pci-testdev",
            Self::Watchdog(_) => "i6300esb",
            Self::Pvpanic(_) => "pvpanic-pci",
            Self::VirtioBlk(_) => "virtio-blk-pci",
        }
    }
}

/// A board with its devices.
pub struct Machine<'m> {
    board: Board,
    irqchip: Irqchip,
    /// Whether there is an interval timer.
    has_pit: bool,
    /// Whether there are 8259s.
    has_pic: bool,
    /// Whether there is a real-time clock.
    has_rtc: bool,
    /// Whether there is ACPI's hardware.
    has_acpi: bool,
    /// The sleeping states that guests are told of.
    sleep: SleepStates,
    /// Whether the boot ROM starts a kernel, which sets up no devices.
    is_direct_boot: bool,
    /// Whether it brings ACPI tables, too.
    boots_with_tables: bool,
    /// Processors at power-on, and at most.
    cpus: (u16, u16),
    numa: Numa<'m>,
    layout: RamLayout,
    ram: &'m dyn GuestRam,
    rom: &'m [u8],
    flash: [Option<Pflash<'m>>; pflash::UNITS_MAX],

    /// Ports of the board and of ISA devices.
    ports: PortMap<Port>,
    /// All ports: those of PCI functions, too, as the guest has placed them.
    decoded: PortMap<Port>,
    map: MemoryMap,
    lines: Lines,
    timers: Timers,
    effects: Effects,
    /// How often each line has risen.
    raised: [u64; 2 * ioapic::PINS],
    /// Levels that inputs of the interrupt controllers were last driven to, a bit each.
    driven: u32,
    /// Level of the PIC's INTR output, as the host was last told.
    intr: bool,

    pic: Pic,
    ioapic: IoApic,
    apics: LocalApics<'m>,
    pit: Pit,
    rtc: Rtc,
    hpet: Option<Hpet>,
    i8042: I8042,
    typing: Typing,
    port92: Port92,
    a20: A20Gate,
    post: Post,
    boot: Boot,
    dma: Dma,
    fw_cfg: FwCfg<'m>,
    pci: ConfigMechanism1,
    buses: Buses<'m>,
    drives: Drives,
    i440fx: I440fx,
    piix3: Piix3,
    piix4_pm: Piix4Pm,
    ide: Ide,
    fdc: Fdc,
    acpi_pm: AcpiPm,
    microvm: Microvm,
    serials: [Option<Serial>; SERIAL_MAX],
    parallels: [Option<Parallel>; PARALLEL_MAX],
    debugcons: heapless::Vec<Debugcon, DEBUGCON_MAX>,
    debug_exits: heapless::Vec<DebugExit, DEBUG_EXIT_MAX>,
    watchdog: Option<Ib700>,
    pvpanic: Option<Pvpanic>,
    generation: Option<GenerationId>,
    testdev: Option<PcTestdev<'m>>,
    testdev_memory: &'m [AtomicU8],
    plugged: heapless::Vec<Plugged, PLUGGED_MAX>,
}

impl<'m> Machine<'m> {
    /// Guest RAM, whatever is mapped over it.
    pub fn ram(&self) -> &'m dyn GuestRam {
        self.ram
    }

    /// A processor reads a port. What no device answers reads as ones.
    pub fn pio_read<H: Host>(&mut self, host: &mut H, now: u64, port: u16, width: Width) -> u32 {
        let (mut value, mut done) = (0, 0);
        while done < width as usize {
            let port = port.wrapping_add(done as u16);
            let (part, bits) = match self.port_at(port) {
                Some((device, offset)) => {
                    let part = piece(offset.into(), width as usize - done, device.widest());
                    let bits = self.port_read(now, device, offset, part);
                    self.drain(host, now, Some(device));
                    tell_read(device, port.into(), bits.into(), part);
                    (part, bits)
                }
                None => {
                    trace::guest_error_port_read(port, 1);
                    (Width::Byte, 0xff)
                }
            };
            value |= (bits & part.ones() as u32) << (8 * done);
            done += part as usize;
        }
        trace::cpu_in(port, letter(width), value);
        value
    }

    /// A processor writes a port. What no device takes is lost.
    pub fn pio_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        port: u16,
        width: Width,
        value: u32,
    ) {
        trace::cpu_out(port, letter(width), value & width.ones() as u32);
        let mut done = 0;
        while done < width as usize {
            let port = port.wrapping_add(done as u16);
            let mut part = Width::Byte;
            if let Some((device, offset)) = self.port_at(port) {
                part = piece(offset.into(), width as usize - done, device.widest());
                let bits = value >> (8 * done) & part.ones() as u32;
                tell_write(device, port.into(), bits.into(), part);
                self.port_write(host, now, device, offset, part, bits);
                self.drain(host, now, Some(device));
            } else {
                trace::guest_error_port_write(port, 1, value >> (8 * done) & 0xff);
            }
            done += part as usize;
        }
    }

    /// A processor or a test reads physical memory, whatever answers there. What nothing answers
    /// reads as zeros.
    pub fn physical_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        mut gpa: u64,
        mut to: &mut [u8],
    ) {
        while !to.is_empty() {
            let (backing, length) = self.backing_at(gpa, to.len());
            let (part, rest) = to.split_at_mut(length);
            part.fill(0);
            match backing {
                Backing::Ram => {
                    let _ = self.ram.read(gpa, part);
                }
                Backing::Rom { offset } => self.read_rom(offset, part),
                Backing::Bus => self.bus_read(host, now, gpa, part),
            }
            to = rest;
            gpa = gpa.wrapping_add(length as u64);
        }
    }

    /// A processor or a test writes physical memory. What nothing takes is lost.
    pub fn physical_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        mut gpa: u64,
        mut from: &[u8],
    ) {
        while !from.is_empty() {
            let region = self.map.find(gpa);
            let (backing, length) = self.backing_at(gpa, from.len());
            let (part, rest) = from.split_at(length);
            if region.is_some_and(|region| region.write_ram) {
                let _ = self.ram.write(gpa, part);
            } else if backing == Backing::Bus || self.is_flash(gpa) {
                self.bus_write(host, now, gpa, part);
            }
            from = rest;
            gpa = gpa.wrapping_add(length as u64);
        }
    }

    /// What answers reads at `gpa`, and for how many bytes, at least 1 and at most `length`.
    fn backing_at(&self, gpa: u64, length: usize) -> (Backing, usize) {
        let (backing, end) = match self.map.find(gpa) {
            Some(region) => {
                let into = gpa - region.gpa;
                let backing = match region.read {
                    Backing::Rom { offset } => Backing::Rom {
                        offset: offset + into,
                    },
                    other => other,
                };
                (backing, region.length - into)
            }
            None => {
                let next = self.map.regions().iter().find(|region| region.gpa > gpa);
                // Behind the last address comes the first one.
                let last = (u64::MAX - gpa).saturating_add(1);
                (Backing::Bus, next.map_or(last, |next| next.gpa - gpa))
            }
        };
        let end = end.min(self.flash_border(gpa));
        (
            backing,
            usize::try_from(end).unwrap_or(usize::MAX).min(length),
        )
    }

    /// Reads where no memory answers: registers of devices, and zeros.
    fn bus_read<H: Host>(&mut self, host: &mut H, now: u64, gpa: u64, to: &mut [u8]) {
        if self.is_flash(gpa) {
            return self.flash_read(gpa, to);
        }
        if let Some(testdev) = &self.testdev {
            testdev.mmio_read(gpa, to);
        }
        if self.hpet_read(host, now, gpa, to) {
            return;
        }
        let answered = self.microvm_read(host, now, gpa, to);
        let Some((base, offset, mut done)) = self.ioapic_at(gpa, to.len()) else {
            if !answered && self.testdev.is_none() && !self.is_pci_memory(gpa) {
                trace::guest_error_memory_read(gpa, to.len());
            }
            return self.pci_memory_read(host, now, gpa, to);
        };
        let end = to.len().min((ioapic::LENGTH - offset) as usize + done);
        let mut offset = offset;
        while done < end {
            let width = piece(offset, end - done, Width::Dword);
            let chip = ioapic_chip!(self, base);
            let value = chip.mmio_read(context!(self, now), offset, width);
            trace::memory_region_ops_read(base + offset, value, width.bytes(), IOAPIC);
            let next = done + width as usize;
            to[done..next].copy_from_slice(&value.to_le_bytes()[..width as usize]);
            self.drain(host, now, None);
            offset += width as u64;
            done = next;
        }
    }

    /// Writes where no memory answers.
    fn bus_write<H: Host>(&mut self, host: &mut H, now: u64, gpa: u64, from: &[u8]) {
        if self.is_flash(gpa) {
            return self.flash_write(host, now, gpa, from);
        }
        if self.write_message(host, now, gpa, from) {
            return;
        }
        if let Some(testdev) = &mut self.testdev {
            testdev.mmio_write(gpa, from);
        }
        if self.hpet_write(host, now, gpa, from) {
            return;
        }
        let answered = self.microvm_write(host, now, gpa, from);
        let Some((base, offset, mut done)) = self.ioapic_at(gpa, from.len()) else {
            if !answered && self.testdev.is_none() && !self.is_pci_memory(gpa) {
                trace::guest_error_memory_write(gpa, from.len());
            }
            return self.pci_memory_write(host, now, gpa, from);
        };
        let end = from.len().min((ioapic::LENGTH - offset) as usize + done);
        let mut offset = offset;
        while done < end {
            let width = piece(offset, end - done, Width::Dword);
            let next = done + width as usize;
            let mut bytes = [0; 8];
            bytes[..width as usize].copy_from_slice(&from[done..next]);
            let value = u64::from_le_bytes(bytes);
            trace::memory_region_ops_write(base + offset, value, width.bytes(), IOAPIC);
            let chip = ioapic_chip!(self, base);
            chip.mmio_write(context!(self, now), offset, width, value);
            self.drain(host, now, None);
            offset += width as u64;
            done = next;
        }
    }

    /// Where an access of `length` bytes first meets an I/O APIC: its first address, the offset of the register, and
    /// the bytes before it.
    fn ioapic_at(&self, gpa: u64, length: usize) -> Option<(u64, u64, usize)> {
        if !self.irqchip.in_machine() || self.board == Board::None {
            return None;
        }
        let second = self.has_second_ioapic().then_some(ioapic::SECOND_BASE);
        let mut bases = [ioapic::BASE].into_iter().chain(second);
        bases.find_map(|base| match gpa.checked_sub(base) {
            Some(offset) => (offset < ioapic::LENGTH).then_some((base, offset, 0)),
            None => {
                let before = usize::try_from(base - gpa).ok()?;
                (before < length).then_some((base, 0, before))
            }
        })
    }

    /// Which board it is.
    pub fn board(&self) -> Board {
        self.board
    }

    /// The memory map as it is now.
    pub fn memory_map(&self) -> &MemoryMap {
        &self.map
    }

    /// What the guest tells of itself for dumps, if it has where to do so.
    pub fn vmcoreinfo(&self) -> Option<Vmcoreinfo> {
        let bytes = self.fw_cfg.written(vmcoreinfo::FW_CFG_FILE)?;
        bytes.try_into().ok().map(Vmcoreinfo)
    }

    /// When [`Machine::advance`] must be called next, on the virtual clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Lets the timers fire whose deadline is at or before `now`.
    pub fn advance<H: Host>(&mut self, host: &mut H, now: u64) {
        // A timer that arms itself in the past again waits for the next call.
        for _ in 0..crate::time::TIMERS_MAX {
            let Some(timer) = self.timers.take_expired(now) else {
                return;
            };
            trace::timer_expired(timer.slot(), now);
            let device = self.fire(timer, now);
            self.drain(host, now, device);
        }
    }

    /// Drives an interrupt line from outside: device tests.
    pub fn set_line<H: Host>(&mut self, host: &mut H, now: u64, line: IrqLine, level: bool) {
        self.lines.set(line, level);
        self.drain(host, now, None);
    }

    /// How many bytes [`Machine::console_receive`] takes at once.
    pub fn console_room(&self, console: ConsoleId) -> usize {
        match self.serial_at(console) {
            Some(serial) => serial.receive_room(),
            None => self.pci_console_room(console),
        }
    }

    /// Bytes arrive from a console; returns how many were taken.
    pub fn console_receive<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        console: ConsoleId,
        bytes: &[u8],
    ) -> usize {
        let Some(serial) = self
            .serials
            .get_mut(usize::from(console.0))
            .and_then(Option::as_mut)
        else {
            return self.pci_console_receive(host, now, console, bytes);
        };
        let taken = serial.receive(context!(self, now), bytes);
        self.drain(host, now, Some(Port::Serial(console.0)));
        taken
    }

    /// A console's line was held in a break.
    pub fn console_break<H: Host>(&mut self, host: &mut H, now: u64, console: ConsoleId) {
        let index = usize::from(console.0);
        if let Some(serial) = self.serials.get_mut(index).and_then(Option::as_mut) {
            serial.receive_break(context!(self, now));
            self.drain(host, now, Some(Port::Serial(console.0)));
        }
    }

    /// A console that took less than it was offered can take bytes again.
    pub fn console_writable<H: Host>(&mut self, host: &mut H, now: u64, console: ConsoleId) {
        let device = match self.parallel_of(console) {
            Some(index) => Port::Parallel(index),
            None => Port::Serial(console.0),
        };
        self.drain(host, now, Some(device));
        self.pci_console_writable(host, now, console);
    }

    fn serial_at(&self, console: ConsoleId) -> Option<&Serial> {
        self.serials.get(usize::from(console.0))?.as_ref()
    }

    /// Passes on what a call to `device` has caused, to the machine's own parts and to the host.
    fn drain<H: Host>(&mut self, host: &mut H, now: u64, device: Option<Port>) {
        match device {
            Some(Port::Serial(index)) => self.transmit(host, now, index),
            Some(Port::Parallel(index)) => self.transmit_parallel(host, index),
            Some(Port::Function { claim, .. }) => self.transmit_function(host, now, claim),
            Some(Port::Ide(_) | Port::IdeControl(_)) => {
                return self.pump_slot(host, now, PciSlot::Ide);
            }
            // What a driver writes to the DMA controller may let it go on.
            Some(Port::Floppy(_) | Port::Dma(_)) => return self.pump_floppies(host, now),
            _ => {}
        }
        while let Some(effect) = self.effects.take() {
            match effect {
                Effect::Console(console, byte) => {
                    // Without flow control there is nobody to offer it to again.
                    if host.console_write(console, &[byte]) == 0 {
                        host.console_lost(console);
                    }
                }
                Effect::Power(request) => host.power(request),
                Effect::Guest(event) => host.guest_event(event),
                Effect::A20(enabled) => {
                    trace::a20_set(enabled);
                    self.a20.open = enabled;
                    host.set_a20(enabled);
                }
                Effect::RemapMemory => {
                    self.remap();
                    host.memory_remapped();
                }
                Effect::FlushPage(gpa) => host.flush_page(gpa.into()),
                Effect::Message(message) => self.pci_message(host, message),
                Effect::FlashChanged {
                    unit,
                    offset,
                    length,
                } => self.flash_changed(host, unit, offset, length),
                Effect::Tray { drive, open } => host.tray_moved(drive, open),
            }
        }
        while let Some(change) = self.lines.take_change() {
            let number = change.line.number();
            if number >= pci::FIRST_LINE && self.board == Board::Pc {
                self.route_pirqs(host);
            } else if !self.is_driven(number) {
                self.drive_gsi(host, change.line, change.level);
            }
        }
        if !self.irqchip.in_machine() {
            return;
        }
        self.send_messages(host);
        let intr = self.pic.intr();
        if intr != self.intr {
            self.intr = intr;
            trace::x86_pic_interrupt(0, intr);
            host.set_intr(intr);
            self.apics.set_intr(intr);
        }
        while let Some(cpu) = self.apics.take_attention() {
            host.attention(cpu as u16);
        }
    }

    /// Drives an input of the interrupt controllers.
    fn drive_gsi<H: Host>(&mut self, host: &mut H, line: IrqLine, level: bool) {
        let number = line.number();
        let bit = 1_u32.checked_shl(number.into()).unwrap_or(0);
        self.driven = self.driven & !bit | if level { bit } else { 0 };
        if let (true, Some(raised)) = (level, self.raised.get_mut(usize::from(number))) {
            *raised = raised.wrapping_add(1);
        }
        trace::x86_gsi_interrupt(number, level);
        host.set_gsi(number, level);
        if self.irqchip.in_machine() {
            if number < 16 && self.has_pic {
                self.pic.set_irq(number, level);
            }
            match (
                number.checked_sub(ioapic::PINS as u8),
                &mut self.microvm.ioapic2,
            ) {
                (Some(pin), Some(ioapic)) => ioapic.set_irq(pin, level),
                _ => self.ioapic.set_irq(ioapic::pin_of(line), level),
            }
            // Now, not after all changes: a pulse is two changes of one line.
            self.send_messages(host);
        }
    }

    /// Lets the host know of the I/O APIC's new routes, then of its interrupts, unless the local
    /// APICs are the machine's own.
    fn send_messages<H: Host>(&mut self, host: &mut H) {
        let second = self
            .microvm
            .ioapic2
            .as_mut()
            .map(|chip| (ioapic::PINS as u8, chip));
        for (first, ioapic) in [(0, &mut self.ioapic)].into_iter().chain(second) {
            if !self.apics.is_empty() {
                while ioapic.take_rerouted().is_some() {}
                while let Some(message) = ioapic.take_message() {
                    self.apics.send_msi(message);
                }
                continue;
            }
            while let Some((pin, message)) = ioapic.take_rerouted() {
                host.route_changed(first + pin, message);
            }
            while let Some(message) = ioapic.take_message() {
                host.msi(message);
            }
        }
    }

    /// The processor acknowledges an external interrupt while the machine's own INTR output is
    /// high ([`Host::set_intr`]): the vector, of a spurious interrupt where it fell meanwhile.
    pub fn acknowledge<H: Host>(&mut self, host: &mut H, now: u64) -> u8 {
        let vector = self.pic.acknowledge();
        self.drain(host, now, None);
        vector
    }

    /// A processor has ended the level-triggered interrupt of this vector.
    fn end_in_ioapics(&mut self, vector: u8) {
        self.ioapic.end_of_interrupt(vector);
        if let Some(second) = &mut self.microvm.ioapic2 {
            second.end_of_interrupt(vector);
        }
    }

    /// Level of the machine's own INTR output, as the host was last told.
    pub fn intr(&self) -> bool {
        self.intr
    }

    /// A local APIC outside the machine tells of the end of a level-triggered interrupt.
    pub fn end_of_interrupt<H: Host>(&mut self, host: &mut H, now: u64, vector: u8) {
        self.end_in_ioapics(vector);
        self.drain(host, now, None);
    }

    /// Offers the host what a serial port has to send.
    fn transmit<H: Host>(&mut self, host: &mut H, now: u64, index: u8) {
        let Some(serial) = self
            .serials
            .get_mut(usize::from(index))
            .and_then(Option::as_mut)
        else {
            return;
        };
        let bytes = serial.transmitted();
        if bytes.is_empty() {
            return;
        }
        let taken = host.console_write(ConsoleId(index), bytes).min(bytes.len());
        serial.sent(context!(self, now), taken);
    }
}

#[cfg(test)]
mod tests;
