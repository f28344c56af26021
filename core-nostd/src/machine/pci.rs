//! The PCI buses of the board: which functions there are, where they stand and answer, where their
//! interrupts go, and how they come and go.
//!
//! Ranges of base address registers are decoded into two tables, one for ports and one for memory,
//! whenever a register changes that rules them, so that an access costs no more than a search. Of
//! ranges that overlap, that of the function later on its bus answers, and of one function's the
//! later register's; ports of PCI functions lie over those of ISA devices, which answer what nobody
//! else does, but not over configuration mechanism 1. RAM, the firmware image and the interrupt
//! controllers answer before any function. A range that finds its table full does not answer.

use super::board::timer;
use super::drives::{Owner, VIRTIO_BLKS_MAX, VirtioDisk};
use super::ports::{Decoder, piece};
use super::{DeviceError, Host, Machine, PciSlot, Port};
use crate::devices::block::DRIVES_MAX;
use crate::devices::class::{self, DeviceClass, PropertyValues, Value};
use crate::devices::i6300esb::{self, I6300Esb};
use crate::devices::pci_serial::{self, PciSerial};
use crate::devices::pci_testdev::{self, PciTestdev};
use crate::devices::pvpanic::{self, PvpanicPci};
use crate::devices::{ConsoleId, Context, Width, serial};
use crate::irq::ioapic;
use crate::irq::{IrqLine, LINES_MAX, MSI_BASE, MSI_END, Msi};
use crate::pci::bridge::{self, Window, swizzle};
use crate::pci::{
    Address, BarKind, BusId, ConfigSpace, FUNCTIONS_MAX, Functions, PciBridge, PciFunction, Placed,
    ROM_BAR, SlotError, Target, config, gpex, mechanism, piix3, reg,
};
use crate::time::TimerId;
use crate::trace::events as trace;
use crate::virtio;

/// PCI-to-PCI bridges that there are at most.
pub const PCI_BRIDGES_MAX: usize = 8;
/// PCI serial functions that there are at most, of all kinds.
pub const PCI_SERIALS_MAX: usize = 8;
/// UARTs of PCI serial functions that there are at most.
pub const PCI_UARTS_MAX: usize = 8;
/// PCI test devices that there are at most.
pub const PCI_TESTDEVS_MAX: usize = 4;
/// i6300esb watchdogs that there are at most.
pub const I6300ESB_MAX: usize = 2;
/// PCI functions for panics that there are at most.
pub(super) const PVPANICS_MAX: usize = 1;

/// The first console of PCI serial functions.
pub(super) const FIRST_CONSOLE: u8 = (super::SERIAL_MAX + super::DEBUGCON_MAX) as u8;

/// The interrupt line of the first function; the others' follow. Those before are inputs of I/O APICs.
pub(super) const FIRST_LINE: u8 = 2 * ioapic::PINS as u8;
const _: () = assert!(FIRST_LINE as usize + FUNCTIONS_MAX <= LINES_MAX);

/// Pieces that the windows of bridges cut one range into at most; further ones do not answer.
const PIECES_MAX: usize = 4;

/// Bytes of a file name or an id in an error.
pub(super) const TEXT_MAX: usize = super::ID_MAX;

/// The name of the bus of the host bridge.
const ROOT_BUS: &str = "pci.0";
/// Interrupts that PCI functions can be routed to at most: those of ISA, or inputs of the first I/O APIC.
const ROUTES_MAX: u8 = ioapic::PINS as u8;

/// An expansion ROM's image, which the host lends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpansionRom<'m> {
    /// The name of its file; empty without one.
    pub name: &'m str,
    /// Its bytes.
    pub bytes: &'m [u8],
}

/// What answers in a range of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// Index of the function.
    pub(super) function: u8,
    pub(super) bar: u8,
    widest: Width,
    /// Of the first byte in the range of the base address register.
    pub(super) offset: u64,
}

/// What answers in a range of ports.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PortClaim {
    pub(super) function: u8,
    pub(super) bar: u8,
    pub(super) offset: u16,
}

/// Devices of one kind by number. They have room that nobody touches before there are any, and keep their numbers when others go.
pub(super) type Pool<T, const N: usize> = heapless::Vec<Option<T>, N>;

/// The buses and the functions that can be plugged in.
pub(super) struct Buses<'m> {
    pub(super) functions: Functions<PciSlot>,
    pub(super) bridges: Pool<PciBridge, PCI_BRIDGES_MAX>,
    pub(super) serials: Pool<PciSerial, PCI_SERIALS_MAX>,
    pub(super) testdevs: Pool<PciTestdev, PCI_TESTDEVS_MAX>,
    pub(super) watchdogs: Pool<I6300Esb, I6300ESB_MAX>,
    pub(super) pvpanics: Pool<PvpanicPci, PVPANICS_MAX>,
    pub(super) disks: Pool<VirtioDisk, VIRTIO_BLKS_MAX>,
    /// The first UART of each serial function, of all.
    first_uart: [u8; PCI_SERIALS_MAX],
    roms: [ExpansionRom<'m>; FUNCTIONS_MAX],
    pub(super) memory: Decoder<u64, Claim>,
    pub(super) ports: heapless::Vec<PortClaim, { super::ports::RANGES_MAX }>,
    /// Interrupts that PCI functions drive high, a bit each.
    pub(super) driven: u32,
}

impl Buses<'_> {
    pub(super) const fn new() -> Self {
        Self {
            functions: Functions::new(),
            bridges: Pool::new(),
            serials: Pool::new(),
            testdevs: Pool::new(),
            watchdogs: Pool::new(),
            pvpanics: Pool::new(),
            disks: Pool::new(),
            first_uart: [0; PCI_SERIALS_MAX],
            roms: [ExpansionRom {
                name: "",
                bytes: &[],
            }; FUNCTIONS_MAX],
            memory: Decoder::new(),
            ports: heapless::Vec::new(),
            driven: 0,
        }
    }

    fn bridge(&self, index: u8) -> Option<&PciBridge> {
        self.bridges.get(usize::from(index))?.as_ref()
    }

    /// Where the bridge above a bus stands; `None` above the host bridge's.
    fn above(&self, bus: BusId) -> Option<&Placed<PciSlot>> {
        let BusId::Below(bridge) = bus else {
            return None;
        };
        let mut all = self.functions.iter();
        all.find(|(_, placed)| placed.function == PciSlot::Bridge(bridge))
            .map(|(_, placed)| placed)
    }

    /// The bus that has this number now: the one that the first bridge on the way says it has, or
    /// below the one that passes accesses to it on.
    fn bus_of(&self, number: u8) -> Option<BusId> {
        let mut bus = BusId::Root;
        if number == 0 {
            return Some(bus);
        }
        for _ in 0..=PCI_BRIDGES_MAX {
            let mut next = None;
            for (_, placed) in self.functions.iter() {
                let PciSlot::Bridge(index) = placed.function else {
                    continue;
                };
                let Some(bridge) = self.bridge(index).filter(|_| placed.bus == bus) else {
                    continue;
                };
                if bridge.secondary() == number {
                    return Some(BusId::Below(index));
                }
                if bridge.forwards(number) {
                    next = Some(BusId::Below(index));
                }
            }
            bus = next?;
        }
        None
    }

    /// The number that a bus has now.
    fn number_of(&self, bus: BusId) -> u8 {
        match bus {
            BusId::Root => 0,
            BusId::Below(index) => self.bridge(index).map_or(0, PciBridge::secondary),
        }
    }

    /// In which pin, 0 to 3, of which slot of the root bus a function's interrupt pin, 0 to 3, ends.
    fn root_pin_of(&self, placed: &Placed<PciSlot>, pin: u8) -> (Address, u8) {
        let (mut placed, mut pin) = (placed, pin);
        while let Some(bridge) = self.above(placed.bus) {
            pin = swizzle(placed.device(), pin);
            placed = bridge;
        }
        (Address::at(0, placed.devfn), pin)
    }

    /// What of a range passes all bridges between its bus and the host bridge.
    fn pieces(&self, bus: BusId, is_io: bool, range: Window) -> heapless::Vec<Window, PIECES_MAX> {
        let mut pieces = heapless::Vec::new();
        let _ = pieces.push(range);
        let mut bus = bus;
        while let BusId::Below(index) = bus {
            let (Some(bridge), Some(placed)) = (self.bridge(index), self.above(bus)) else {
                return heapless::Vec::new();
            };
            let windows = match is_io {
                true => [bridge.io_window(), None],
                false => bridge.memory_windows(),
            };
            let mut passed: heapless::Vec<Window, PIECES_MAX> = heapless::Vec::new();
            for (first, last) in windows.into_iter().flatten() {
                for piece in &pieces {
                    let cut = (piece.0.max(first), piece.1.min(last));
                    let known = passed.iter().any(|had| had.0 <= cut.0 && cut.1 <= had.1);
                    if cut.0 <= cut.1 && !known {
                        // See PIECES_MAX.
                        let _ = passed.push(cut);
                    }
                }
            }
            pieces = passed;
            bus = placed.bus;
        }
        pieces
    }

    /// The UART behind a console: its function and its number there.
    fn uart_of(&self, console: ConsoleId) -> Option<(usize, usize)> {
        let uart = console.0.checked_sub(FIRST_CONSOLE)?;
        let mut all = self.serials.iter().enumerate();
        all.find_map(|(index, serial)| {
            let port = usize::from(uart.checked_sub(self.first_uart[index])?);
            (port < serial.as_ref()?.ports()).then_some((index, port))
        })
    }
}

/// The function of a slot, from fields of the machine that no context borrows.
macro_rules! function {
    ($machine:expr, $slot:expr, $get:ident, $($reference:tt)+) => {
        match $slot {
            PciSlot::HostBridge => Some($($reference)+ $machine.i440fx as _),
            PciSlot::Express => function!(@one $machine.microvm.gpex, $($reference)+),
            PciSlot::IsaBridge => Some($($reference)+ $machine.piix3 as _),
            PciSlot::PowerManagement => Some($($reference)+ $machine.piix4_pm as _),
            PciSlot::Ide => Some($($reference)+ $machine.ide as _),
            PciSlot::Bridge(index) => function!(@ $machine.buses.bridges, index, $get, $($reference)+),
            PciSlot::Serial(index) => function!(@ $machine.buses.serials, index, $get, $($reference)+),
            PciSlot::Testdev(index) => function!(@ $machine.buses.testdevs, index, $get, $($reference)+),
            PciSlot::Watchdog(index) => function!(@ $machine.buses.watchdogs, index, $get, $($reference)+),
            PciSlot::Pvpanic(index) => function!(@ $machine.buses.pvpanics, index, $get, $($reference)+),
            PciSlot::VirtioBlk(index) => function!(@disk $machine.buses.disks, index, $get, $($reference)+),
        }
    };
    (@one $device:expr, & mut) => {
        $device.as_mut().map(|device| device as _)
    };
    (@one $device:expr, &) => {
        $device.as_ref().map(|device| device as _)
    };
    (@disk $pool:expr, $index:expr, $get:ident, & mut) => {
        $pool
            .$get(usize::from($index))
            .and_then(|disk| disk.as_mut()?.pci_mut())
            .map(|device| device as _)
    };
    (@disk $pool:expr, $index:expr, $get:ident, &) => {
        $pool
            .$get(usize::from($index))
            .and_then(|disk| disk.as_ref()?.pci())
            .map(|device| device as _)
    };
    (@ $pool:expr, $index:expr, $get:ident, & mut) => {
        $pool.$get(usize::from($index)).and_then(Option::as_mut).map(|device| device as _)
    };
    (@ $pool:expr, $index:expr, $get:ident, &) => {
        $pool.$get(usize::from($index)).and_then(Option::as_ref).map(|device| device as _)
    };
}

/// The same, mutable.
macro_rules! function_mut {
    ($machine:expr, $slot:expr) => {{
        let function: Option<&mut dyn PciFunction> = function!($machine, $slot, get_mut, &mut);
        function
    }};
}

impl<'m> Machine<'m> {
    pub(super) fn pci_function(&self, slot: PciSlot) -> Option<&dyn PciFunction> {
        function!(self, slot, get, &)
    }

    /// A function by its index.
    pub(super) fn pci_function_at(&self, index: usize) -> Option<&dyn PciFunction> {
        self.pci_function(self.buses.functions.get(index)?.function)
    }

    fn pci_target(&self, target: Target) -> Option<(usize, Placed<PciSlot>)> {
        let bus = self.buses.bus_of(target.address.bus)?;
        let (index, placed) = self.buses.functions.find(bus, target.address.devfn())?;
        Some((index, *placed))
    }

    /// A function's name in trace events, as QEMU names it.
    fn pci_name(&self, slot: PciSlot) -> &'static str {
        let PciSlot::Serial(index) = slot else {
            return slot.name();
        };
        let serial = self.buses.serials.get(usize::from(index));
        match serial.and_then(Option::as_ref).map(PciSerial::ports) {
            Some(2) => "pci-serial-2x",
            Some(4) => "pci-serial-4x",
            _ => slot.name(),
        }
    }

    /// CONFDATA.
    pub(super) fn pci_read(&self, offset: u16, width: Width) -> u32 {
        match self.pci.target(offset) {
            Some(target) => self.config_read(target, width),
            None => u32::MAX,
        }
    }

    /// Reads configuration space in memory.
    pub(super) fn ecam_read(&self, offset: u64, width: Width) -> u32 {
        let (address, register) = gpex::decode(offset);
        match register {
            Some(register) => self.config_read(Target { address, register }, width),
            None => u32::MAX,
        }
    }

    fn config_read(&self, target: Target, width: Width) -> u32 {
        let (at, register) = (target.address, target.register);
        let found = self.pci_target(target).map(|(_, placed)| placed.function);
        let Some(function) = found.and_then(|slot| self.pci_function(slot)) else {
            trace::guest_error_pci_cfg(at.bus, at.device(), at.function());
            return u32::MAX;
        };
        let value = function.config_read(register, width);
        let name = found.map_or("", |slot| self.pci_name(slot)).as_bytes();
        trace::pci_cfg_read(
            at.bus,
            at.device(),
            at.function(),
            register.into(),
            value,
            name,
        );
        value
    }

    /// CONFDATA.
    pub(super) fn pci_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        offset: u16,
        width: Width,
        value: u32,
    ) {
        if let Some(target) = self.pci.target(offset) {
            self.config_write(host, now, target, width, value);
        }
    }

    /// Writes configuration space in memory.
    pub(super) fn ecam_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        offset: u64,
        width: Width,
        value: u32,
    ) {
        let (address, register) = gpex::decode(offset);
        if let Some(register) = register {
            let target = Target { address, register };
            self.config_write(host, now, target, width, value);
        }
    }

    fn config_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        target: Target,
        width: Width,
        value: u32,
    ) {
        let at = target.address;
        let Some((index, placed)) = self.pci_target(target) else {
            trace::guest_error_pci_cfg(at.bus, at.device(), at.function());
            return;
        };
        let (register, name) = (
            target.register.into(),
            self.pci_name(placed.function).as_bytes(),
        );
        trace::pci_cfg_write(at.bus, at.device(), at.function(), register, value, name);
        let below = match placed.function {
            PciSlot::Bridge(below) => Some(below),
            _ => None,
        };
        let was_resetting = below.is_some_and(|below| self.is_resetting(below));
        let Some(function) = function_mut!(self, placed.function) else {
            return;
        };
        function.config_write(context!(self, now), target.register, width, value);
        if placed.function == PciSlot::IsaBridge {
            self.route_pirqs(host);
        }
        if let Some(below) = below
            && !was_resetting
            && self.is_resetting(below)
        {
            self.reset_below(now, below);
        }
        let scratch = [reg::CACHE_LINE_SIZE, reg::INTERRUPT_LINE];
        let is_header = (reg::COMMAND..0x40).contains(&(target.register | 3));
        if is_header && !scratch.contains(&(target.register & !3)) {
            self.decode_pci();
        }
        self.settle_function(host, now, index);
    }

    fn is_resetting(&self, bridge: u8) -> bool {
        self.buses
            .bridge(bridge)
            .is_some_and(PciBridge::is_resetting)
    }

    /// Resets all functions below a bridge.
    fn reset_below(&mut self, now: u64, bridge: u8) {
        for index in 0..FUNCTIONS_MAX {
            let Some(placed) = self.buses.functions.get(index).copied() else {
                continue;
            };
            let mut bus = placed.bus;
            while bus != BusId::Below(bridge)
                && let Some(above) = self.buses.above(bus)
            {
                bus = above.bus;
            }
            if bus == BusId::Below(bridge) {
                self.reset_function(now, index, placed.function);
            }
        }
        self.decode_pci();
    }

    fn reset_function(&mut self, now: u64, index: usize, slot: PciSlot) {
        if let Some(function) = function_mut!(self, slot) {
            function.reset(context!(self, now));
            self.drive_intx(index);
        }
    }

    /// Resets all functions, at power-on.
    pub(super) fn reset_pci(&mut self, now: u64) {
        for index in 0..FUNCTIONS_MAX {
            if let Some(placed) = self.buses.functions.get(index).copied() {
                self.reset_function(now, index, placed.function);
            }
        }
        self.decode_pci();
    }

    /// Lets lines and decoding follow functions whose state was loaded.
    pub(super) fn settle_pci<H: Host>(&mut self, host: &mut H) {
        for index in 0..FUNCTIONS_MAX {
            self.drive_intx(index);
        }
        self.decode_pci();
        self.route_pirqs(host);
    }

    /// A function's interrupt line follows its state.
    fn drive_intx(&mut self, index: usize) {
        if let Some(function) = self.pci_function_at(index) {
            let level = function.config().intx();
            self.lines
                .set(IrqLine::new(FIRST_LINE + index as u8), level);
        }
    }

    /// What follows an access to a function: its interrupt line, and messages that waited.
    fn settle_function<H: Host>(&mut self, host: &mut H, now: u64, index: usize) {
        self.drive_intx(index);
        self.drain(host, now, None);
        while let Some(placed) = self.buses.functions.get(index).copied()
            && let Some(function) = function_mut!(self, placed.function)
            && function.send_pending(context!(self, now))
        {
            self.drain(host, now, None);
        }
        self.drain(host, now, None);
        if let Some(placed) = self.buses.functions.get(index).copied() {
            self.pump_slot(host, now, placed.function);
        }
    }

    /// Interrupts that PCI functions ask for by their pins, as the ISA bridge routes them, or as they are wired without one.
    fn wanted_irqs(&self) -> u32 {
        let mut wanted = 0;
        for (index, placed) in self.buses.functions.iter() {
            if !self.lines.level(IrqLine::new(FIRST_LINE + index as u8)) {
                continue;
            }
            let pin = self
                .pci_function(placed.function)
                .and_then(|function| function.config().byte(reg::INTERRUPT_PIN).checked_sub(1));
            let Some(pin) = pin else { continue };
            let (slot, pin) = self.buses.root_pin_of(placed, pin);
            let irq = match self.express_irq() {
                Some(first) => Some(first + gpex::interrupt_of(slot.device(), pin)),
                None => self.piix3.pirq_route(piix3::pirq_of(slot, pin)),
            };
            if let Some(irq) = irq.filter(|irq| *irq < ROUTES_MAX) {
                wanted |= 1 << irq;
            }
        }
        wanted
    }

    /// Lets interrupts follow the functions' lines and the ISA bridge's routes. An interrupt that
    /// an ISA device holds high stays so.
    pub(super) fn route_pirqs<H: Host>(&mut self, host: &mut H) {
        let wanted = self.wanted_irqs();
        let changed = wanted ^ core::mem::replace(&mut self.buses.driven, wanted);
        for irq in 0..ROUTES_MAX {
            if changed >> irq & 1 != 0 && !self.lines.level(IrqLine::new(irq)) {
                self.drive_gsi(host, IrqLine::new(irq), wanted >> irq & 1 != 0);
            }
        }
    }

    /// Whether PCI functions hold an interrupt high.
    pub(super) fn is_driven(&self, number: u8) -> bool {
        number < ROUTES_MAX && self.buses.driven >> number & 1 != 0
    }

    /// A function sends a message: an interrupt, or a write to RAM where its address is no local
    /// APIC's.
    pub(super) fn pci_message<H: Host>(&mut self, host: &mut H, message: Msi) {
        if !(MSI_BASE..MSI_END).contains(&message.address) {
            let _ = self.ram.write(message.address, &message.data.to_le_bytes());
        } else if self.apics.is_empty() {
            host.msi(message);
        } else {
            self.apics.send_msi(message);
        }
    }

    /// Lays out the ranges of all functions anew.
    pub(super) fn decode_pci(&mut self) {
        self.buses.memory = Decoder::new();
        self.buses.ports.clear();
        self.decoded.clone_from(&self.ports);
        let functions = self.buses.functions.iter();
        let mut functions: heapless::Vec<(u8, u8), FUNCTIONS_MAX> = functions
            .map(|(index, placed)| (placed.devfn, index as u8))
            .collect();
        functions.sort_unstable();
        for (_, index) in functions {
            let index = usize::from(index);
            if let Some(placed) = self.buses.functions.get(index).copied() {
                self.decode_function(index, placed);
            }
        }
        if !self.buses.ports.is_empty() {
            // The host bridge takes its own before they are on the bus.
            let fits = self.decoded.add(mechanism::CONFADD, 4, Port::PciAddress);
            let fits = fits.and(self.decoded.add(mechanism::CONFDATA, 4, Port::PciData));
            if fits.is_err() {
                self.decoded.clone_from(&self.ports);
            }
        }
    }

    fn decode_function(&mut self, index: usize, placed: Placed<PciSlot>) {
        for bar in 0..=ROM_BAR {
            let function = self.pci_function(placed.function);
            let Some((function, (base, size))) =
                function.and_then(|function| Some((function, function.config().bar(bar)?)))
            else {
                continue;
            };
            let kind = function.config().bar_kind(bar);
            let is_io = matches!(kind, Some((BarKind::Io, _)));
            let widest = function.widest(bar);
            let range = self.in_windows(is_io, (base, base + (size - 1)));
            let pieces = range.map(|range| self.buses.pieces(placed.bus, is_io, range));
            for (first, last) in pieces.into_iter().flatten() {
                let offset = first - base;
                // What finds no room does not answer.
                if is_io {
                    let claim = PortClaim {
                        function: index as u8,
                        bar: bar as u8,
                        offset: offset as u16,
                    };
                    let port = Port::Function {
                        claim: self.buses.ports.len() as u8,
                        widest,
                    };
                    let length = (last - first + 1) as u16;
                    if self.buses.ports.push(claim).is_ok() {
                        let _ = self.decoded.add(first as u16, length, port);
                    }
                } else {
                    let claim = Claim {
                        function: index as u8,
                        bar: bar as u8,
                        widest,
                        offset,
                    };
                    let _ = self.buses.memory.add(first, last - first + 1, claim);
                }
            }
        }
    }

    /// What of a range the host bridge passes on.
    fn in_windows(&self, is_io: bool, (first, last): Window) -> Option<Window> {
        if self.microvm.gpex.is_none() {
            return Some((first, last));
        }
        // Both are larger than any range, and ranges are aligned to their sizes: none lies in both.
        let mut windows = gpex::WINDOWS.iter().filter(|_| !is_io);
        windows.find_map(|window| {
            let cut = (first.max(window.0), last.min(window.1));
            (cut.0 <= cut.1).then_some(cut)
        })
    }

    /// Reads a port in a function's range.
    pub(super) fn function_port_read(
        &mut self,
        now: u64,
        claim: u8,
        offset: u16,
        width: Width,
    ) -> u32 {
        let claim = self.buses.ports.get(usize::from(claim)).copied();
        let (
            PortClaim {
                function,
                bar,
                offset: first,
            },
            true,
        ) = (claim.unwrap_or_default(), claim.is_some())
        else {
            return u32::MAX;
        };
        let placed = self.buses.functions.get(usize::from(function)).copied();
        let device = placed.and_then(|placed| function_mut!(self, placed.function));
        let Some(device) = device else {
            return u32::MAX;
        };
        let at = u64::from(first.wrapping_add(offset));
        let value = device.bar_read(context!(self, now), bar.into(), at, width);
        self.drive_intx(function.into());
        value as u32
    }

    /// Writes a port in a function's range.
    pub(super) fn function_port_write(
        &mut self,
        now: u64,
        claim: u8,
        offset: u16,
        width: Width,
        value: u32,
    ) {
        let Some(PortClaim {
            function,
            bar,
            offset: first,
        }) = self.buses.ports.get(usize::from(claim)).copied()
        else {
            return;
        };
        let placed = self.buses.functions.get(usize::from(function)).copied();
        if let Some(device) = placed.and_then(|placed| function_mut!(self, placed.function)) {
            let at = u64::from(first.wrapping_add(offset));
            device.bar_write(context!(self, now), bar.into(), at, width, value.into());
            self.drive_intx(function.into());
        }
    }

    /// What a function that was reached by its ports has to send.
    pub(super) fn transmit_function<H: Host>(&mut self, host: &mut H, now: u64, claim: u8) {
        let claim = self.buses.ports.get(usize::from(claim)).copied();
        let function = claim.and_then(|claim| self.buses.functions.get(claim.function.into()));
        match function.map(|placed| placed.function) {
            Some(PciSlot::Serial(index)) => self.transmit_serial(host, now, index.into()),
            Some(slot) => self.pump_slot(host, now, slot),
            None => {}
        }
    }

    /// Offers the host what a serial function has to send.
    fn transmit_serial<H: Host>(&mut self, host: &mut H, now: u64, index: usize) {
        let Some(serial) = self.buses.serials.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let first = FIRST_CONSOLE + self.buses.first_uart[index];
        for port in 0..serial.ports() {
            let bytes = serial.transmitted(port);
            if !bytes.is_empty() {
                let console = ConsoleId(first + port as u8);
                let taken = host.console_write(console, bytes).min(bytes.len());
                serial.sent(context!(self, now), port, taken);
            }
        }
        self.drive_slot(PciSlot::Serial(index as u8));
    }

    /// The interrupt line of the function of a slot follows its state.
    pub(super) fn drive_slot(&mut self, slot: PciSlot) {
        let of_slot =
            |(index, placed): (usize, &Placed<PciSlot>)| (placed.function == slot).then_some(index);
        let index = self.buses.functions.iter().find_map(of_slot);
        if let Some(index) = index {
            self.drive_intx(index);
        }
    }

    /// What a console of a serial function takes at once.
    pub(super) fn pci_console_room(&self, console: ConsoleId) -> usize {
        let uart = self.buses.uart_of(console);
        uart.and_then(|(index, port)| Some(self.buses.serials[index].as_ref()?.receive_room(port)))
            .unwrap_or(0)
    }

    /// Bytes arrive from a console of a serial function.
    pub(super) fn pci_console_receive<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        console: ConsoleId,
        bytes: &[u8],
    ) -> usize {
        let Some((index, port)) = self.buses.uart_of(console) else {
            return 0;
        };
        let Some(serial) = &mut self.buses.serials[index] else {
            return 0;
        };
        let taken = serial.receive(context!(self, now), port, bytes);
        self.pci_console_writable(host, now, console);
        taken
    }

    /// A console of a serial function takes bytes again.
    pub(super) fn pci_console_writable<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        console: ConsoleId,
    ) {
        if let Some((index, _)) = self.buses.uart_of(console) {
            self.transmit_serial(host, now, index);
            self.drain(host, now, None);
        }
    }

    /// A timer of a function has fired.
    pub(super) fn fire_pci(&mut self, now: u64, id: TimerId) {
        let slot = id.slot();
        if let Some(watchdog) = slot.checked_sub(timer::I6300ESB) {
            if let Some(Some(device)) = self.buses.watchdogs.get_mut(usize::from(watchdog)) {
                device.timer(context!(self, now), id);
            }
            return;
        }
        let Some(uart) = slot.checked_sub(timer::PCI_UART) else {
            return;
        };
        if let Some((index, _)) = self.buses.uart_of(ConsoleId(FIRST_CONSOLE + uart))
            && let Some(serial) = &mut self.buses.serials[index]
        {
            serial.timer(context!(self, now), id);
            self.drive_slot(PciSlot::Serial(index as u8));
        }
    }

    /// Visits ranges of memory that functions answer in: first and last address, the offset in the
    /// range of the base address register, and the name of the function.
    pub(super) fn visit_pci_memory(&self, visit: &mut dyn FnMut(u64, u64, u64, &'static str)) {
        self.buses.memory.visit(&mut |first, last, into, claim| {
            let placed = self.buses.functions.get(claim.function.into());
            let name = placed.map_or("", |placed| placed.function.name());
            visit(first, last, claim.offset.wrapping_add(into), name);
        });
    }

    /// The name of the function that answers at ports, and the offset of the first of them in the
    /// range of the base address register.
    pub(super) fn port_claim(&self, claim: u8) -> (&'static str, u64) {
        let claim = self.buses.ports.get(usize::from(claim));
        let claim = claim.copied().unwrap_or_default();
        let placed = self.buses.functions.get(claim.function.into());
        let name = placed.map_or("", |placed| placed.function.name());
        (name, claim.offset.into())
    }

    /// Whether a function answers at an address.
    pub(super) fn is_pci_memory(&self, gpa: u64) -> bool {
        self.buses.memory.find(gpa).is_some()
    }

    /// Reads memory where functions may answer; what they do not answer stays as it is.
    pub(super) fn pci_memory_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        mut gpa: u64,
        mut to: &mut [u8],
    ) {
        while !to.is_empty() && !self.buses.memory.is_empty() {
            let (claim, length) = self.pci_memory_at(gpa, to.len());
            let (part, rest) = to.split_at_mut(length);
            if let Some((claim, offset, width)) = claim {
                self.function_read(host, now, claim, offset, width, part);
            }
            to = rest;
            gpa = gpa.wrapping_add(length as u64);
        }
    }

    /// Writes memory where functions may answer.
    pub(super) fn pci_memory_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        mut gpa: u64,
        mut from: &[u8],
    ) {
        while !from.is_empty() && !self.buses.memory.is_empty() {
            let (claim, length) = self.pci_memory_at(gpa, from.len());
            let (part, rest) = from.split_at(length);
            if let Some((claim, offset, width)) = claim {
                self.function_write(host, now, claim, offset, width, part);
            }
            from = rest;
            gpa = gpa.wrapping_add(length as u64);
        }
    }

    /// What answers at an address, at which offset and width, and for how many bytes, at least 1 and at most
    /// `length`.
    fn pci_memory_at(&self, gpa: u64, length: usize) -> (Option<(Claim, u64, Width)>, usize) {
        let left = self.buses.memory.end(gpa).map_or(length, |end| {
            usize::try_from(end - gpa).map_or(length, |left| left.min(length))
        });
        let Some((claim, offset)) = self.buses.memory.find(gpa) else {
            return (None, left);
        };
        let offset = claim.offset.wrapping_add(offset);
        if usize::from(claim.bar) == ROM_BAR {
            return (Some((claim, offset, Width::Byte)), left);
        }
        let width = piece(offset, left, claim.widest);
        (Some((claim, offset, width)), width as usize)
    }

    fn function_read<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        claim: Claim,
        offset: u64,
        width: Width,
        to: &mut [u8],
    ) {
        let index = usize::from(claim.function);
        if usize::from(claim.bar) == ROM_BAR {
            let image = self.buses.roms.get(index).map_or(&[][..], |rom| rom.bytes);
            let from = usize::try_from(offset).ok().and_then(|at| image.get(at..));
            let from = from.unwrap_or_default();
            let length = from.len().min(to.len());
            // Behind the image the ROM is blank.
            to.fill(0);
            to[..length].copy_from_slice(&from[..length]);
            return;
        }
        let placed = self.buses.functions.get(index).copied();
        let Some(device) = placed.and_then(|placed| function_mut!(self, placed.function)) else {
            return;
        };
        let value = device.bar_read(context!(self, now), claim.bar.into(), offset, width);
        let bytes = value.to_le_bytes();
        to.copy_from_slice(&bytes[..to.len().min(bytes.len())]);
        self.settle_function(host, now, index);
    }

    fn function_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        claim: Claim,
        offset: u64,
        width: Width,
        from: &[u8],
    ) {
        let index = usize::from(claim.function);
        let placed = self.buses.functions.get(index).copied();
        let device = placed.and_then(|placed| function_mut!(self, placed.function));
        let Some(device) = device.filter(|_| usize::from(claim.bar) != ROM_BAR) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..from.len()].copy_from_slice(from);
        let value = u64::from_le_bytes(bytes);
        device.bar_write(context!(self, now), claim.bar.into(), offset, width, value);
        self.settle_function(host, now, index);
    }
}

/// A PCI function, as management sees it.
#[derive(Clone, Copy, Debug)]
pub struct PciDevice<'a> {
    /// Where it stands, with the number that its bus has now.
    pub address: Address,
    /// Its id; empty without one.
    pub id: &'a str,
    /// Its registers.
    pub config: &'a ConfigSpace,
    /// A bridge, and the bus below it.
    pub bridge: Option<(&'a PciBridge, BusId)>,
}

/// Where a function is to be plugged in, and as what.
struct Spot {
    bus: BusId,
    devfn: u8,
    multifunction: bool,
}

/// The consoles of a device, each with the name of the property that says what is behind it.
pub type Consoles = heapless::Vec<(&'static str, ConsoleId), { pci_serial::PORTS_MAX }>;

impl<'m> Machine<'m> {
    /// Puts one of the board's own functions on bus 0.
    pub(super) fn add_board_function(
        &mut self,
        address: Address,
        function: PciSlot,
    ) -> Result<(), SlotError> {
        let function = Placed {
            bus: BusId::Root,
            devfn: address.devfn(),
            multifunction: self
                .pci_function(function)
                .is_some_and(|function| function.config().is_multifunction()),
            function,
        };
        self.buses.functions.insert(function).map(drop)
    }

    /// The bus of this name: that of the host bridge, or of a bridge, which has its id or, without
    /// one, a number behind all others.
    pub(super) fn find_pci_bus(&self, name: &str) -> Option<BusId> {
        if !self.has_pci() {
            return None;
        }
        if name == self.root_bus() {
            return Some(BusId::Root);
        }
        let mut found = None;
        for (position, plugged) in self.plugged.iter().enumerate() {
            if let Some(bus) = self.bus_below(plugged.function())
                && found.is_none()
                && self.bus_name(position) == name
            {
                found = Some(bus);
            }
        }
        found
    }

    /// Whether there is a PCI bus.
    pub fn has_pci(&self) -> bool {
        self.board == super::Board::Pc || self.has_express()
    }

    /// The name of the bus of the host bridge, if there is one.
    pub fn root_bus(&self) -> &'static str {
        match self.has_express() {
            true => gpex::BUS,
            false => ROOT_BUS,
        }
    }

    /// The bus below a function, if it is a bridge.
    pub(super) fn bus_below(&self, function: Option<usize>) -> Option<BusId> {
        match self.buses.functions.get(function?)?.function {
            PciSlot::Bridge(index) => Some(BusId::Below(index)),
            _ => None,
        }
    }

    /// Whether a device, by its position in [`Machine::plugged`], is a bridge.
    pub(crate) fn is_bridge(&self, position: usize) -> bool {
        let plugged = self.plugged.get(position);
        plugged.is_some_and(|plugged| self.bus_below(plugged.function()).is_some())
    }

    /// The bridge above a PCI device, both by their positions in [`Machine::plugged`].
    pub(crate) fn plugged_above(&self, position: usize) -> Option<usize> {
        let function = self.plugged.get(position)?.function()?;
        let bus = self.buses.functions.get(function)?.bus;
        let bridges = self.plugged.iter();
        let mut bridges = bridges.map(|bridge| self.bus_below(bridge.function()));
        bridges.position(|below| below == Some(bus))
    }

    /// The name of the bus below a bridge, by its position in [`Machine::plugged`].
    pub(crate) fn bus_name(&self, position: usize) -> heapless::String<TEXT_MAX> {
        let mut name = heapless::String::new();
        let is_bridge = |plugged: &&super::Plugged| self.bus_below(plugged.function()).is_some();
        match self.plugged.get(position).map(super::Plugged::place) {
            Some(super::Place::Id(id)) => {
                let _ = name.push_str(id);
            }
            _ => {
                let before = self.plugged.iter().take(position).filter(is_bridge);
                let nameless = before.filter(|other| !matches!(other.place(), super::Place::Id(_)));
                // Numbers count buses of one type, of which the root bus may be.
                let number = nameless.count() + usize::from(!self.has_express());
                // It fits.
                let _ = core::fmt::write(&mut name, format_args!("pci.{number}"));
            }
        }
        name
    }

    /// Where a device of these properties goes.
    fn spot(
        &self,
        class: &'static DeviceClass,
        values: &PropertyValues,
        bus: BusId,
    ) -> Result<Spot, DeviceError> {
        let multifunction = values.is_on(class::PCI_MULTIFUNCTION);
        let devfn = match values.get(class::PCI_ADDR) {
            Value::Int(devfn @ 0..=255) => *devfn as u8,
            _ => {
                let free = self.buses.functions.free_slot(bus);
                free.map_err(|_| DeviceError::NoSlot(class.name))?
            }
        };
        let (device, function) = (devfn >> 3, devfn & 7);
        let functions = &self.buses.functions;
        functions
            .check(bus, devfn, multifunction)
            .map_err(|error| match error {
                SlotError::Taken(index) => {
                    let (holder, id) = self.holder(index);
                    DeviceError::SlotTaken {
                        device,
                        function,
                        class: class.name,
                        holder,
                        id,
                    }
                }
                SlotError::SingleFunction => DeviceError::SingleFunction { device, function },
                SlotError::NotSingle(other) => DeviceError::NotSingle { device, other },
                SlotError::Full => DeviceError::NoSlot(class.name),
                SlotError::TooMany => DeviceError::TooMany(FUNCTIONS_MAX),
            })?;
        Ok(Spot {
            bus,
            devfn,
            multifunction,
        })
    }

    /// The class and the id of the device that a function is.
    fn holder(&self, index: usize) -> (&'static str, heapless::String<TEXT_MAX>) {
        let plugged = self.plugged.iter();
        let mut plugged = plugged.filter(|plugged| plugged.function() == Some(index));
        if let Some(plugged) = plugged.next() {
            let id = match plugged.place() {
                super::Place::Id(id) => id,
                _ => "",
            };
            return (plugged.class().name, id.try_into().unwrap_or_default());
        }
        let function = self.buses.functions.get(index);
        let name = match function.map(|placed| placed.function) {
            Some(PciSlot::HostBridge) => crate::pci::i440fx::CLASS.name,
            Some(PciSlot::Express) => gpex::CLASS.name,
            Some(PciSlot::IsaBridge) => piix3::CLASS.name,
            Some(PciSlot::Ide) => crate::devices::ide::CLASS.name,
            _ => crate::pci::piix4_pm::CLASS.name,
        };
        (name, heapless::String::new())
    }

    /// Makes a PCI device part of the machine: the index of its function, and its consoles.
    pub(super) fn add_pci_device(
        &mut self,
        values: &PropertyValues,
        bus: BusId,
        rom: ExpansionRom<'m>,
    ) -> Result<(usize, Consoles), DeviceError> {
        let class = values.class();
        let spot = self.spot(class, values, bus)?;
        let rom_size = rom_size(values, rom)?;
        let uint = |name| values.uint(name).unwrap_or(0);
        let mut consoles = Consoles::new();
        let slot = match class.name {
            name if name == bridge::CLASS.name => {
                let chassis = uint("chassis_nr") as u8;
                if chassis == 0 {
                    return Err(DeviceError::Chassis);
                }
                if values.is_on("shpc") {
                    return Err(DeviceError::NotModelled(
                        "without shpc=off the hot-plug controller",
                    ));
                }
                let index = place(&mut self.buses.bridges, PciBridge::new(chassis))?;
                PciSlot::Bridge(index)
            }
            name if name == pci_testdev::CLASS.name => {
                let device = PciTestdev::new(uint("membar"));
                let device = device.ok_or(DeviceError::Property("membar"))?;
                PciSlot::Testdev(place(&mut self.buses.testdevs, device)?)
            }
            name if name == i6300esb::CLASS.name => {
                let number = vacant(&self.buses.watchdogs).unwrap_or(0);
                let timer = TimerId::new(timer::I6300ESB + number as u8);
                PciSlot::Watchdog(place(&mut self.buses.watchdogs, I6300Esb::new(timer))?)
            }
            name if name == pvpanic::PCI_CLASS.name => {
                let device = PvpanicPci::new(uint("events") as u8);
                PciSlot::Pvpanic(place(&mut self.buses.pvpanics, device)?)
            }
            name if name == virtio::block::PCI_CLASS.name => {
                let drive = self.drives.vacant();
                let drive = drive.ok_or(DeviceError::TooMany(DRIVES_MAX))?;
                let disk = virtio::block::pci(values, self.cpus.1, drive);
                let disk = disk.map_err(DeviceError::Property)?;
                let index = place(&mut self.buses.disks, VirtioDisk::Pci(disk))?;
                self.drives.set_owner(drive, Some(Owner::VirtioBlk(index)));
                PciSlot::VirtioBlk(index)
            }
            _ => self.add_pci_serial(values, &mut consoles)?,
        };
        if let Some(function) = function_mut!(self, slot) {
            let config = function.config_mut();
            config.set_multifunction(spot.multifunction);
            if rom_size != 0 {
                let fits = config.set_rom(rom_size);
                debug_assert!(fits, "its size was checked");
            }
        }
        let placed = Placed {
            bus: spot.bus,
            devfn: spot.devfn,
            multifunction: spot.multifunction,
            function: slot,
        };
        // The place was checked.
        let index = self.buses.functions.insert(placed);
        let index = index.map_err(|_| DeviceError::TooMany(FUNCTIONS_MAX))?;
        self.buses.roms[index] = rom;
        if uint(class::PCI_ROMBAR) == 0 && !rom.bytes.is_empty() {
            self.add_option_rom(rom.name, rom.bytes, -1)
                .map_err(|_| DeviceError::FwCfgFile("genroms/"))?;
        }
        self.decode_pci();
        Ok((index, consoles))
    }

    fn add_pci_serial(
        &mut self,
        values: &PropertyValues,
        consoles: &mut Consoles,
    ) -> Result<PciSlot, DeviceError> {
        let class = values.class();
        let ports = pci_serial::ports_of(class);
        if ports == 0 {
            return Err(DeviceError::NotPluggable);
        }
        let too_many = DeviceError::TooMany(PCI_UARTS_MAX);
        let taken = self.taken_uarts();
        let mut first = 0..=(PCI_UARTS_MAX - ports) as u8;
        let wanted = (1_u32 << ports) - 1;
        let first = first.find(|first| taken & wanted << first == 0);
        let first = first.ok_or(too_many.clone())?;
        let timers: heapless::Vec<TimerId, { pci_serial::PORTS_MAX }> = (0..ports as u8)
            .map(|port| TimerId::new(timer::PCI_UART + first + port))
            .collect();
        let baud_base = values.uint("baudbase");
        let baud_base = baud_base.unwrap_or(serial::BAUD_BASE.into()) as u32;
        let prog_if = values.uint("prog_if").unwrap_or(0) as u8;
        let device = PciSerial::new(&timers, baud_base, prog_if);
        let index = place(&mut self.buses.serials, device).map_err(|_| too_many)?;
        self.buses.first_uart[usize::from(index)] = first;
        let lines = class
            .properties
            .iter()
            .filter(|property| property.kind == class::PropertyKind::Chardev);
        for (port, property) in (first..).zip(lines.take(ports)) {
            // There is room for all of them.
            let _ = consoles.push((property.name, ConsoleId(FIRST_CONSOLE + port)));
        }
        Ok(PciSlot::Serial(index))
    }

    /// A bit for each UART that belongs to a function.
    fn taken_uarts(&self) -> u32 {
        let serials = self.buses.serials.iter().zip(self.buses.first_uart);
        serials.fold(0, |taken, (serial, first)| {
            let ports = serial.as_ref().map_or(0, PciSerial::ports);
            taken | ((1 << ports) - 1) << first
        })
    }

    /// Takes a PCI device out of the running machine, as a hot-plug controller does once the guest
    /// has let go of it. Its consoles are free then; the host forgets what was behind them.
    ///
    /// # Errors
    /// [`DeviceError::NotFound`] if no PCI device has the id, [`DeviceError::Busy`] for a bridge with
    /// functions below it.
    pub fn unplug<H: Host>(&mut self, host: &mut H, now: u64, id: &str) -> Result<(), DeviceError> {
        let position = self.plugged.iter().position(|plugged| {
            plugged.place() == super::Place::Id(id) && plugged.function().is_some()
        });
        let position = position.ok_or(DeviceError::NotFound)?;
        let index = self.plugged[position].function();
        let index = index.ok_or(DeviceError::NotFound)?;
        if let Some(below) = self.bus_below(Some(index))
            && self
                .buses
                .functions
                .iter()
                .any(|(_, other)| other.bus == below)
        {
            return Err(DeviceError::Busy);
        }
        let Some(placed) = self.buses.functions.get(index).copied() else {
            return Err(DeviceError::NotFound);
        };
        // Its timers and its line are at rest then.
        self.reset_function(now, index, placed.function);
        self.drain(host, now, None);
        self.forget_drives(host, now, index);
        self.forget_boot_entry(position);
        self.buses.functions.remove(index);
        self.buses.roms[index] = ExpansionRom::default();
        match placed.function {
            PciSlot::Bridge(slot) => self.buses.bridges[usize::from(slot)] = None,
            PciSlot::Serial(slot) => self.buses.serials[usize::from(slot)] = None,
            PciSlot::Testdev(slot) => self.buses.testdevs[usize::from(slot)] = None,
            PciSlot::Watchdog(slot) => self.buses.watchdogs[usize::from(slot)] = None,
            PciSlot::Pvpanic(slot) => self.buses.pvpanics[usize::from(slot)] = None,
            PciSlot::VirtioBlk(slot) => self.buses.disks[usize::from(slot)] = None,
            PciSlot::HostBridge
            | PciSlot::Express
            | PciSlot::IsaBridge
            | PciSlot::PowerManagement
            | PciSlot::Ide => {}
        }
        self.plugged.remove(position);
        self.decode_pci();
        Ok(())
    }

    /// Visits the functions of a bus by device and function number.
    pub fn visit_pci(&self, bus: BusId, visit: &mut dyn FnMut(&PciDevice<'_>)) {
        let mut from = 0;
        while let Some((index, placed)) = self.buses.functions.next_on(bus, from) {
            from = u16::from(placed.devfn) + 1;
            let Some(function) = self.pci_function(placed.function) else {
                continue;
            };
            let plugged = self.plugged.iter();
            let mut plugged = plugged.filter(|plugged| plugged.function() == Some(index));
            let bridge = match placed.function {
                PciSlot::Bridge(below) => {
                    let bridge = self.buses.bridge(below);
                    bridge.map(|bridge| (bridge, BusId::Below(below)))
                }
                _ => None,
            };
            visit(&PciDevice {
                address: Address::at(self.buses.number_of(bus), placed.devfn),
                id: match plugged.next().map(super::Plugged::place) {
                    Some(super::Place::Id(id)) => id,
                    _ => "",
                },
                config: function.config(),
                bridge,
            });
        }
    }

    /// The ROM of the function of this index.
    pub(crate) fn pci_rom(&self, index: usize) -> ExpansionRom<'m> {
        self.buses.roms.get(index).copied().unwrap_or_default()
    }
}

/// The number that the next device of a pool gets, if there is room.
fn vacant<T, const N: usize>(pool: &Pool<T, N>) -> Option<usize> {
    let gone = pool.iter().position(Option::is_none);
    gone.or((!pool.is_full()).then_some(pool.len()))
}

/// Puts a device into its pool.
pub(super) fn place<T, const N: usize>(
    pool: &mut Pool<T, N>,
    device: T,
) -> Result<u8, DeviceError> {
    let index = vacant(pool).ok_or(DeviceError::TooMany(N))?;
    match pool.get_mut(index) {
        Some(entry) => *entry = Some(device),
        // There is room.
        None => drop(pool.push(Some(device))),
    }
    Ok(index as u8)
}

/// Bytes of the range of a device's expansion ROM; 0 where it has none.
fn rom_size(values: &PropertyValues, rom: ExpansionRom<'_>) -> Result<u32, DeviceError> {
    let unset = u64::from(u32::MAX);
    let given = values
        .uint(class::PCI_ROMSIZE)
        .filter(|size| *size != unset);
    if let Some(size) = given
        && !size.is_power_of_two()
    {
        return Err(DeviceError::RomSize(size));
    }
    if rom.bytes.is_empty() || values.uint(class::PCI_ROMBAR) == Some(0) {
        return Ok(0);
    }
    let least = (rom.bytes.len() as u64).next_power_of_two();
    let size = given.unwrap_or(least).max(config::ROM_MIN.into());
    match u32::try_from(size) {
        Ok(size) if size <= config::ROM_MAX && u64::from(size) >= least => Ok(size),
        _ => Err(DeviceError::Property(class::PCI_ROMSIZE)),
    }
}

#[cfg(test)]
mod tests;
