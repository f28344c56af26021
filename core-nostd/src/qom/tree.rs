//! Objects, what is below them and what they link to, and paths.
//!
//! Paths are QEMU's. The devices of a board lie in `/machine/unattached`, numbered in the order in
//! which QEMU creates them; the numbers of devices that are not modelled stay free, so that a path
//! means the same device under both.

use core::fmt::{self, Write};

use super::types::{self, TypeName};
use super::{BehindDrive, ChardevKind, QomError, Tree};
use crate::devices::block::DriveId;
use crate::devices::class::{DeviceClass, IO_THREAD, PropertyKind};
use crate::devices::pflash::{self, Pflash};
use crate::devices::{dma, fdc, ged, hpet, i8042, ide, kernel, pit, port92, rtc};
use crate::firmware::fw_cfg;
use crate::irq::{ioapic, lapic, pic};
use crate::machine::{self, Board, Irqchip, Place};
use crate::pci::{gpex, i440fx, mechanism, piix3, piix4_pm};
use crate::virtio::block;
use crate::virtio::transport::mmio;

/// Bytes of the path of an object at most.
pub const PATH_MAX: usize = 1024;

/// The path of an object.
pub type Path = heapless::String<PATH_MAX>;

/// From the root to an object at most: `/machine/unattached/device[3]/isa.0` is the deepest.
const DEPTH_MAX: usize = 8;

/// Names that a path is made of at most: links can lead round and round.
const PARTS_MAX: usize = 64;

// The sentence of `QomError::LongPath` names them.
const _: () = assert!(PARTS_MAX == 64 && PATH_MAX == 1024);

/// A short name of an object below another one, or of a link.
pub type Name = heapless::String<96>;

/// An object of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Root,
    Objects,
    /// By position among those that users have made.
    Object(u16),
    Chardevs,
    /// By position.
    Chardev(u16),
    Machine,
    Unattached,
    Peripheral,
    PeripheralAnon,
    SystemBus,
    Qtest,
    Cpu(u16),
    Lapic(u16),
    FwCfg,
    PciHost,
    PciBus,
    /// The bus below a bridge, by the bridge's position in the machine's list.
    BelowBridge(u8),
    IoApic,
    SecondIoApic,
    /// ACPI's event device.
    Ged,
    /// A place for a virtio device in memory.
    Transport(u8),
    /// The bus of such a place.
    VirtioBus(u8),
    HostBridge,
    /// The device that the ISA bus hangs on: PIIX3 on a PC.
    IsaBridge,
    IsaBus,
    /// The IDE controller.
    Ide,
    /// By the channel's number.
    IdeBus(u8),
    /// The floppy disk controller.
    Fdc,
    FloppyBus,
    /// 0: bytes, 1: words.
    Dma(u8),
    /// 0: master, 1: slave.
    Pic(u8),
    Pit,
    Speaker,
    Rtc,
    Hpet,
    I8042,
    Port92,
    /// A chip of the system flash.
    Flash(u8),
    /// The PIIX4's function.
    PowerManagement,
    /// By position in the machine's list.
    Plugged(u8),
    /// The virtio device behind a PCI function, by the function's position in the machine's list.
    Behind(u8),
    /// The bus between both.
    BehindBus(u8),
}

/// The name of the virtio device behind a PCI function.
pub const VIRTIO_BACKEND: &str = "virtio-backend";

/// The name of the bus between both, and its type.
pub(super) const BEHIND_BUS: (&str, &str) = ("virtio-bus", "virtio-pci-bus");

/// Whose property it is that might be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settable {
    /// The object at this position among those that users have made, which decides.
    Object(usize),
    /// The device of this drive, whose medium can be another one.
    Drive(DriveId),
    /// A device of this type, with its id, if it has one. Devices are as they are once they are in use.
    Device(TypeName, Option<Name>),
    /// The machine, of this type, which is built.
    Machine(TypeName),
}

/// What a name stands for in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// An object below.
    Child,
    /// An object elsewhere; the type that the link asks for, or the object's own.
    Link(Option<&'static str>),
}

/// A bus, for counting what is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    System,
    Pci,
    Isa,
    /// By the channel's number.
    Ide(u8),
    /// Of a place for a virtio device in memory.
    Virtio(u8),
    /// Behind a PCI function of virtio's, by its position in the machine's list.
    Behind(u8),
    Floppy,
    /// Below a bridge, by its position in the machine's list.
    Below(u8),
}

/// A device of the board, in the order of creation.
#[derive(Clone, Copy, Debug)]
struct BoardDevice {
    /// N of `device[N]`.
    number: usize,
    /// Nothing where QEMU has a device that is not modelled.
    node: Option<Node>,
    bus: Option<Bus>,
}

impl Tree<'_> {
    /// The board as far as it is there: before it is built it has no devices.
    fn board(&self) -> Board {
        match self.outside.built() {
            true => self.machine.board(),
            false => Board::None,
        }
    }

    /// The chips of the system flash.
    pub(super) fn flash_chips(&self) -> impl Iterator<Item = &Pflash<'_>> {
        let built = self.board() != Board::None;
        self.machine.flash().filter(move |_| built)
    }

    /// Whether the local APICs are the kernel's.
    fn kernel_apics(&self) -> bool {
        self.machine.irqchip() != Irqchip::Machine && self.board() != Board::None
    }

    /// Whether the local APICs are the machine's.
    fn own_apics(&self) -> bool {
        self.machine.local_apics() > 0 && self.board() != Board::None
    }

    /// Whether the other interrupt controllers and the interval timer are.
    pub(super) fn in_kernel(&self) -> bool {
        self.machine.irqchip() == Irqchip::Host && self.board() != Board::None
    }

    /// The class of a device; `None` for a processor and for what is not a device.
    pub(super) fn class(&self, node: Node) -> Option<&'static DeviceClass> {
        let in_kernel = self.in_kernel();
        Some(match node {
            Node::Lapic(_) if self.own_apics() => &lapic::CLASS,
            Node::Lapic(_) => &kernel::APIC_CLASS,
            Node::FwCfg => &fw_cfg::CLASS,
            Node::PciHost if self.machine.has_express() => &gpex::HOST_CLASS,
            Node::PciHost => &mechanism::CLASS,
            Node::IoApic if in_kernel => &kernel::IOAPIC_CLASS,
            Node::IoApic | Node::SecondIoApic => &ioapic::CLASS,
            Node::Ged => &ged::CLASS,
            Node::Transport(_) => &mmio::CLASS,
            Node::HostBridge if self.machine.has_express() => &gpex::CLASS,
            Node::HostBridge => &i440fx::CLASS,
            Node::IsaBridge if self.board() == Board::Pc => &piix3::CLASS,
            Node::Pic(_) if in_kernel => &kernel::PIC_CLASS,
            Node::Pic(_) => &pic::CLASS,
            Node::Dma(_) => &dma::CLASS,
            Node::Pit if in_kernel => &kernel::PIT_CLASS,
            Node::Pit => &pit::CLASS,
            Node::Speaker => &pit::PCSPK_CLASS,
            Node::Rtc => &rtc::CLASS,
            Node::Hpet => &hpet::CLASS,
            Node::I8042 => &i8042::CLASS,
            Node::Port92 => &port92::CLASS,
            Node::Flash(_) => &pflash::CLASS,
            Node::PowerManagement => &piix4_pm::CLASS,
            Node::Ide => &ide::CLASS,
            Node::Fdc => &fdc::CLASS,
            Node::Plugged(index) => {
                return Some(self.machine.plugged().get(usize::from(index))?.class());
            }
            Node::Behind(_) => &block::MMIO_CLASS,
            _ => return None,
        })
    }

    /// The name of an object's type.
    pub(super) fn type_name(&self, node: Node) -> TypeName {
        let plain = match node {
            Node::Chardev(index) => self
                .chardev(index)
                .map_or("container", ChardevKind::type_name),
            Node::Object(position) => self.object_type(position).unwrap_or("container"),
            Node::Cpu(_) => {
                return types::cpu_type(&self.outside.processor().name);
            }
            Node::Machine => match self.machine.board() {
                Board::Pc => "pc-i440fx-7.2-machine",
                Board::Microvm => "microvm-machine",
                Board::None => "none-machine",
            },
            Node::SystemBus => "System",
            Node::PciBus if self.machine.has_express() => "PCIE",
            Node::PciBus | Node::BelowBridge(_) => "PCI",
            Node::IsaBus => "ISA",
            Node::IdeBus(_) => "IDE",
            Node::VirtioBus(_) => machine::BUS_TYPE,
            Node::BehindBus(_) => BEHIND_BUS.1,
            Node::FloppyBus => "floppy-bus",
            Node::Qtest => "qtest",
            Node::IsaBridge if self.board() == Board::Microvm => "isabus-bridge",
            _ => self.class(node).map_or("container", |class| class.name),
        };
        let mut name = TypeName::new();
        // All of them fit.
        let _ = name.push_str(plain);
        name
    }

    fn object_type(&self, wanted: u16) -> Option<&'static str> {
        let (mut position, mut found) = (0, None);
        self.outside.objects(&mut |object| {
            if position == usize::from(wanted) {
                found = Some(object.type_name);
            }
            position += 1;
        });
        found
    }

    /// What guest RAM is made of.
    pub(super) fn memory_backend(&self) -> Option<Node> {
        let position = self.outside.memory_backend()?;
        u16::try_from(position).ok().map(Node::Object)
    }

    pub(super) fn chardev(&self, wanted: u16) -> Option<ChardevKind> {
        let (mut index, mut found) = (0, None);
        self.outside.chardevs(&mut |chardev| {
            if index == usize::from(wanted) {
                found = Some(chardev.kind);
            }
            index += 1;
        });
        found
    }

    /// Visits the devices of the board, with gaps where QEMU has what is not modelled.
    fn board_devices(&self, visit: &mut dyn FnMut(BoardDevice)) {
        if self.board() == Board::None {
            return;
        }
        let mut number = 0;
        let machine = self.machine;
        let mut next = |node: Option<Node>, bus: Option<Bus>| {
            let is_there = match node {
                Some(Node::Pit | Node::Speaker) => machine.has_pit(),
                Some(Node::Hpet) => machine.has_hpet(),
                Some(Node::Pic(_)) => machine.has_pic(),
                Some(Node::Rtc) => machine.has_rtc(),
                _ => true,
            };
            if !is_there {
                return;
            }
            visit(BoardDevice { number, node, bus });
            number += 1;
        };
        let cpus = self.outside.settings().cpus.min(u32::from(u16::MAX)) as u16;
        for index in 0..cpus.max(1) {
            next(Some(Node::Cpu(index)), None);
            if index == 0 {
                // What speeds up task priority for old guests.
                next(None, Some(Bus::System));
            }
        }
        let isa = |node| (Some(node), Some(Bus::Isa));
        let gap = |bus| (None, Some(bus));
        let devices: &[(Option<Node>, Option<Bus>)] = match self.board() {
            Board::Pc => &[
                (Some(Node::HostBridge), Some(Bus::Pci)),
                (Some(Node::IsaBridge), Some(Bus::Pci)),
                isa(Node::Dma(0)),
                isa(Node::Dma(1)),
                isa(Node::Pic(0)),
                isa(Node::Pic(1)),
                (Some(Node::Hpet), Some(Bus::System)),
                isa(Node::Rtc),
                isa(Node::Pit),
                isa(Node::Speaker),
            ],
            _ => &[(Some(Node::IsaBridge), Some(Bus::System))],
        };
        if self.board() == Board::Pc && self.in_kernel() {
            // The paravirtual clock.
            next(None, Some(Bus::System));
        }
        for (node, bus) in devices {
            next(*node, *bus);
        }
        if self.board() == Board::Microvm {
            self.microvm_devices(&mut |node| next(node, Some(Bus::System)));
            for node in [Node::Pic(0), Node::Pic(1), Node::Pit, Node::Rtc] {
                next(Some(node), Some(Bus::Isa));
            }
        }
        let plugged = self.machine.plugged().iter().enumerate();
        let boards = plugged.filter(|(_, plugged)| plugged.place() == Place::Board);
        for (index, _) in boards.clone().filter(|(_, p)| p.class().bus == Some("ISA")) {
            next(Some(Node::Plugged(index as u8)), Some(Bus::Isa));
        }
        if self.board() == Board::Pc {
            next(Some(Node::Fdc), Some(Bus::Isa));
            for (index, _) in boards.clone() {
                if self.machine.floppy_unit(index).is_some() {
                    next(Some(Node::Plugged(index as u8)), Some(Bus::Floppy));
                }
            }
            // Behind the keyboard controller there are two of VMware's ports.
            for (node, bus) in [
                isa(Node::I8042),
                gap(Bus::Isa),
                gap(Bus::Isa),
                isa(Node::Port92),
                (Some(Node::Ide), Some(Bus::Pci)),
            ] {
                next(node, bus);
            }
            for (index, _) in boards {
                if let Some(channel) = self.machine.ide_channel(index) {
                    next(Some(Node::Plugged(index as u8)), Some(Bus::Ide(channel)));
                }
            }
            if self.machine.has_acpi() {
                next(Some(Node::PowerManagement), Some(Bus::Pci));
            }
        }
    }

    /// Visits what microvm has on the system's bus behind the first I/O APIC, with gaps where QEMU has what is not modelled.
    fn microvm_devices(&self, visit: &mut dyn FnMut(Option<Node>)) {
        let second = self.machine.has_second_ioapic();
        if second {
            visit(Some(Node::SecondIoApic));
        }
        if self.in_kernel() {
            // The paravirtual clock.
            visit(None);
        }
        for place in 0..self.machine.virtio_transports() {
            visit(Some(Node::Transport(place)));
        }
        if self.machine.has_event_device() {
            visit(Some(Node::Ged));
        }
        if self.machine.has_express() {
            visit(Some(Node::PciHost));
        }
    }

    /// Visits the devices on a bus, with their positions on it.
    pub(super) fn on_bus(&self, bus: Bus, visit: &mut dyn FnMut(usize, Node)) {
        match (bus, self.board()) {
            (_, Board::None) => {}
            (Bus::Below(bridge), _) => {
                let plugged = (0..self.machine.plugged().len() as u8).map(Node::Plugged);
                let below = plugged.filter(|device| self.bridge_above(*device) == Some(bridge));
                for (position, device) in below.enumerate() {
                    visit(position, device);
                }
            }
            (Bus::Ide(channel), _) => {
                let plugged = 0..self.machine.plugged().len() as u8;
                let drives = plugged
                    .filter(|index| self.machine.ide_channel((*index).into()) == Some(channel));
                for (position, index) in drives.enumerate() {
                    visit(position, Node::Plugged(index));
                }
            }
            (Bus::Virtio(place), _) => {
                let plugged = 0..self.machine.plugged().len() as u8;
                let is_it = |index: &u8| self.virtio_place(*index) == Some(place);
                for index in plugged.filter(is_it) {
                    visit(0, Node::Plugged(index));
                }
            }
            (Bus::Behind(index), _) => visit(0, Node::Behind(index)),
            (Bus::Floppy, _) => {
                let plugged = 0..self.machine.plugged().len() as u8;
                let drives =
                    plugged.filter(|index| self.machine.floppy_unit((*index).into()).is_some());
                for (position, index) in drives.enumerate() {
                    visit(position, Node::Plugged(index));
                }
            }
            (Bus::System, board) => {
                let kernel = usize::from(self.kernel_apics());
                let mut chips = 0;
                for chip in self.flash_chips() {
                    // Behind two paravirtual devices, or one.
                    visit(1 + kernel + chips, Node::Flash(chip.unit()));
                    chips += 1;
                }
                let (first, devices): (usize, &[(usize, Node)]) = match board {
                    Board::Pc => (
                        1 + kernel + chips,
                        &[
                            (0, Node::FwCfg),
                            (1, Node::PciHost),
                            (2, Node::IoApic),
                            (3, Node::Hpet),
                        ],
                    ),
                    _ => (
                        0,
                        &[(0, Node::FwCfg), (2, Node::IsaBridge), (3, Node::IoApic)],
                    ),
                };
                let has_hpet = self.machine.has_hpet();
                let devices = devices.iter();
                for (position, node) in devices.filter(|(_, n)| has_hpet || *n != Node::Hpet) {
                    visit(first + position, *node);
                }
                if board == Board::Microvm {
                    // Behind the four of the list, one of them not modelled.
                    let mut position = 4;
                    self.microvm_devices(&mut |node| {
                        if let Some(node) = node {
                            visit(position, node);
                        }
                        position += 1;
                    });
                }
            }
            (bus, _) => {
                let mut position = 0;
                if bus == Bus::Pci && self.machine.has_express() && self.board() != Board::None {
                    // It is the host bridge's own.
                    visit(position, Node::HostBridge);
                    position += 1;
                }
                self.board_devices(&mut |device| {
                    if device.bus == Some(bus) {
                        if let Some(node) = device.node {
                            visit(position, node);
                        }
                        position += 1;
                    }
                });
                let wanted = match bus {
                    Bus::Isa => "ISA",
                    _ => "PCI",
                };
                for index in 0..self.machine.plugged().len() as u8 {
                    let node = Node::Plugged(index);
                    let plugged = &self.machine.plugged()[usize::from(index)];
                    if plugged.class().bus == Some(wanted)
                        && plugged.place() != Place::Board
                        && self.bridge_above(node).is_none()
                    {
                        visit(position, node);
                        position += 1;
                    }
                }
            }
        }
    }

    /// The place of a virtio device in memory, by its position in the machine's list.
    fn virtio_place(&self, index: u8) -> Option<u8> {
        let drive = self.machine.plugged().get(usize::from(index))?.drive()?;
        self.machine.virtio_place_of(drive)
    }

    /// Whether a device is a PCI function with a virtio device behind it.
    pub(super) fn is_virtio_function(&self, index: u8) -> bool {
        let plugged = self.machine.plugged().get(usize::from(index));
        plugged.is_some_and(|plugged| plugged.class().name == block::PCI_NAME)
    }

    /// Whose property this one of a device is: some of a virtio function's are those of what is behind it.
    pub(super) fn owner(&self, node: Node, property: &str) -> Node {
        match node {
            Node::Plugged(index) if self.is_virtio_function(index) => {
                let mut shared = block::PROPERTIES.iter();
                match shared.any(|shared| shared.name == property) {
                    true => Node::Behind(index),
                    false => node,
                }
            }
            _ => node,
        }
    }

    /// A device's drive.
    fn drive(&self, node: Node) -> Option<DriveId> {
        match node {
            Node::Plugged(index) | Node::Behind(index) => {
                self.machine.plugged().get(usize::from(index))?.drive()
            }
            Node::Flash(unit) => Some(Pflash::drive(unit)),
            _ => None,
        }
    }

    /// The drive that a property names, of a device that could have another medium in it.
    pub(super) fn drive_of_property(&self, node: Node, property: &str) -> Option<DriveId> {
        let mut properties = self.class(node)?.all_properties();
        let is_it = properties.any(|own| own.name == property && own.kind == PropertyKind::Drive);
        // What is in a flash chip is in memory.
        self.drive(node)
            .filter(|_| is_it && !matches!(node, Node::Flash(_)))
    }

    /// What is behind a device with a drive.
    fn behind(&self, node: Node, take: &mut dyn FnMut(BehindDrive<'_>)) {
        if let Some(drive) = self.drive(node) {
            self.outside.drive(drive, take);
        }
    }

    /// The name of a device's drive, or of the node in it; empty for neither.
    pub(super) fn drive_name(&self, node: Node, take: &mut dyn FnMut(&str)) {
        let mut is_there = false;
        self.behind(node, &mut |behind| {
            is_there = true;
            take(behind.name);
        });
        if !is_there {
            take("");
        }
    }

    /// The thread that serves a device.
    pub(super) fn thread(&self, node: Node) -> Option<Node> {
        let mut thread = None;
        self.behind(node, &mut |behind| thread = behind.thread);
        u16::try_from(thread?).ok().map(Node::Object)
    }

    /// Whether it could come and go with the machine running: QEMU says so of all PCI devices that the
    /// user adds, save on an express bus.
    pub(super) fn is_pluggable(&self, node: Node) -> bool {
        let has_plug = matches!(node, Node::Plugged(_)) && !self.machine.has_express();
        has_plug && self.class(node).is_some_and(|c| c.bus == Some("PCI"))
    }

    /// The bridge, by its position in the machine's list, that a PCI device is below.
    fn bridge_above(&self, node: Node) -> Option<u8> {
        let Node::Plugged(index) = node else {
            return None;
        };
        self.machine
            .plugged_above(index.into())
            .map(|above| above as u8)
    }

    /// The bus that a device is on.
    pub(super) fn parent_bus(&self, node: Node) -> Option<Node> {
        match node {
            Node::FwCfg
            | Node::PciHost
            | Node::IoApic
            | Node::SecondIoApic
            | Node::Ged
            | Node::Transport(_)
            | Node::Hpet
            | Node::Flash(_) => Some(Node::SystemBus),
            Node::IsaBridge if self.board() == Board::Microvm => Some(Node::SystemBus),
            Node::HostBridge | Node::IsaBridge | Node::PowerManagement | Node::Ide => {
                Some(Node::PciBus)
            }
            Node::Dma(_)
            | Node::Pic(_)
            | Node::Pit
            | Node::Speaker
            | Node::Rtc
            | Node::I8042
            | Node::Port92
            | Node::Fdc => Some(Node::IsaBus),
            Node::Plugged(_) => match self.class(node)?.bus {
                Some("ISA") => Some(Node::IsaBus),
                Some("IDE") => {
                    let Node::Plugged(index) = node else {
                        return None;
                    };
                    self.machine.ide_channel(index.into()).map(Node::IdeBus)
                }
                Some("virtio-bus") => {
                    let Node::Plugged(index) = node else {
                        return None;
                    };
                    self.virtio_place(index).map(Node::VirtioBus)
                }
                Some("floppy-bus") => Some(Node::FloppyBus),
                Some("PCI") => {
                    let above = self.bridge_above(node);
                    Some(above.map_or(Node::PciBus, Node::BelowBridge))
                }
                _ => None,
            },
            Node::Behind(index) => Some(Node::BehindBus(index)),
            _ => None,
        }
    }

    /// Visits the objects right below one.
    pub(super) fn children(&self, node: Node, visit: &mut dyn FnMut(&str, Node)) {
        let board = self.board();
        match node {
            Node::Root => {
                visit("chardevs", Node::Chardevs);
                visit("machine", Node::Machine);
                let mut any = board != Board::None;
                self.outside.objects(&mut |_| any = true);
                if any {
                    visit("objects", Node::Objects);
                }
            }
            Node::Objects => {
                let mut position: u16 = 0;
                self.outside.objects(&mut |object| {
                    visit(object.id, Node::Object(position));
                    position = position.saturating_add(1);
                });
            }
            Node::Chardevs => {
                let mut index: u16 = 0;
                self.outside.chardevs(&mut |chardev| {
                    visit(chardev.id, Node::Chardev(index));
                    index = index.saturating_add(1);
                });
            }
            Node::Machine => {
                if board != Board::None {
                    visit("fw_cfg", Node::FwCfg);
                }
                if board == Board::Pc {
                    visit("i440fx", Node::PciHost);
                }
                if board == Board::Microvm {
                    visit("ioapic", Node::IoApic);
                }
                visit("peripheral", Node::Peripheral);
                visit("peripheral-anon", Node::PeripheralAnon);
                if self.outside.qtest().is_some() {
                    visit("qtest", Node::Qtest);
                }
                for chip in self.flash_chips() {
                    visit(chip.name(), Node::Flash(chip.unit()));
                }
                visit("unattached", Node::Unattached);
            }
            Node::Unattached => {
                self.board_devices(&mut |device| {
                    if let Some(node) = device.node {
                        visit(&numbered("device", device.number), node);
                    }
                });
                visit("sysbus", Node::SystemBus);
            }
            Node::Peripheral | Node::PeripheralAnon if board != Board::None => {
                let mut number = 0;
                for (index, plugged) in self.machine.plugged().iter().enumerate() {
                    let child = Node::Plugged(index as u8);
                    match plugged.place() {
                        Place::Id(id) if node == Node::Peripheral => visit(id, child),
                        Place::Anonymous if node == Node::PeripheralAnon => {
                            visit(&numbered("device", number), child);
                            number += 1;
                        }
                        _ => {}
                    }
                }
            }
            Node::PciHost => {
                match board {
                    Board::Pc => visit("ioapic", Node::IoApic),
                    _ => visit("gpex_root", Node::HostBridge),
                }
                visit(self.machine.root_bus(), Node::PciBus);
            }
            Node::IsaBridge => visit("isa.0", Node::IsaBus),
            Node::Transport(place) => visit(&virtio_bus(place), Node::VirtioBus(place)),
            Node::Ide => {
                for (channel, name) in ide::BUSES.into_iter().enumerate() {
                    visit(name, Node::IdeBus(channel as u8));
                }
            }
            Node::Fdc => visit(fdc::BUS, Node::FloppyBus),
            Node::Plugged(index) if self.machine.is_bridge(index.into()) => {
                visit(
                    &self.machine.bus_name(index.into()),
                    Node::BelowBridge(index),
                );
            }
            Node::Plugged(index) if self.is_virtio_function(index) => {
                visit(VIRTIO_BACKEND, Node::Behind(index));
                visit(BEHIND_BUS.0, Node::BehindBus(index));
            }
            Node::Cpu(index) if self.kernel_apics() || self.own_apics() => {
                visit("lapic", Node::Lapic(index));
            }
            _ => {}
        }
    }

    /// Visits what an object names: the objects right below it and those it links to.
    pub(super) fn edges(&self, node: Node, visit: &mut dyn FnMut(&str, Edge, Node)) {
        self.children(node, &mut |name, child| visit(name, Edge::Child, child));
        let bus = match node {
            Node::SystemBus => Some(Bus::System),
            Node::PciBus => Some(Bus::Pci),
            Node::IsaBus => Some(Bus::Isa),
            Node::IdeBus(channel) => Some(Bus::Ide(channel)),
            Node::VirtioBus(place) => Some(Bus::Virtio(place)),
            Node::FloppyBus => Some(Bus::Floppy),
            Node::BelowBridge(bridge) => Some(Bus::Below(bridge)),
            Node::BehindBus(index) => Some(Bus::Behind(index)),
            _ => None,
        };
        if let Some(bus) = bus {
            self.on_bus(bus, &mut |position, device| {
                visit(&numbered("child", position), Edge::Link(None), device);
            });
        }
        if let Some(bus) = self.parent_bus(node) {
            visit("parent_bus", Edge::Link(Some("bus")), bus);
        }
        if let Some(thread) = self.thread(node) {
            let wanted = Edge::Link(Some(IO_THREAD));
            visit(IO_THREAD, wanted, thread);
        }
        if let Some(backend) = self.memory_backend().filter(|_| node == Node::Machine) {
            let wanted = Edge::Link(Some("memory-backend"));
            visit(types::MEMORY_BACKEND, wanted, backend);
        }
        if node == Node::Machine && self.board() == Board::Pc {
            visit("rtc_state", Edge::Link(Some("isa-device")), Node::Rtc);
        }
    }

    /// The object that `name` stands for in another one.
    fn step(&self, node: Node, name: &str) -> Option<Node> {
        let mut found = None;
        self.edges(node, &mut |edge, _, to| {
            if edge == name {
                found = Some(to);
            }
        });
        found
    }

    /// Follows a path from an object on; empty parts stand for the object itself.
    fn walk<'p>(&self, from: Node, path: &'p str) -> Result<Node, QomError<'p>> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let mut node = from;
        for (index, part) in parts.enumerate() {
            if index == PARTS_MAX {
                return Err(QomError::LongPath);
            }
            node = self.step(node, part).ok_or(QomError::NoObject(path))?;
        }
        Ok(node)
    }

    /// The object of a path: from the root on, or without a slash in front from wherever it leads
    /// to exactly one.
    pub(super) fn find<'p>(&self, path: &'p str) -> Result<Node, QomError<'p>> {
        if path.starts_with('/') {
            return self.walk(Node::Root, path);
        }
        let mut result = Err(QomError::NoObject(path));
        self.each(Node::Root, DEPTH_MAX, &mut |node| {
            result = match &result {
                Err(QomError::NoObject(_)) => self.walk(node, path),
                Ok(_) if self.walk(node, path).is_ok() => Err(QomError::Ambiguous(path)),
                _ => return,
            };
        });
        result
    }

    /// Visits an object and all below it, at most `depth` deep.
    pub(super) fn each(&self, node: Node, depth: usize, visit: &mut dyn FnMut(Node)) {
        visit(node);
        if let Some(depth) = depth.checked_sub(1) {
            self.children(node, &mut |_, child| self.each(child, depth, visit));
        }
    }

    fn parent(&self, node: Node) -> Option<Node> {
        let board = self.board();
        Some(match node {
            Node::Root => return None,
            Node::Objects | Node::Chardevs | Node::Machine => Node::Root,
            Node::Chardev(_) => Node::Chardevs,
            Node::Object(_) => Node::Objects,
            Node::Unattached
            | Node::Peripheral
            | Node::PeripheralAnon
            | Node::Qtest
            | Node::FwCfg
            | Node::Flash(_) => Node::Machine,
            Node::PciHost if board == Board::Pc => Node::Machine,
            Node::PciHost => Node::Unattached,
            Node::HostBridge if board != Board::Pc => Node::PciHost,
            Node::PciBus => Node::PciHost,
            Node::IoApic if board == Board::Pc => Node::PciHost,
            Node::IoApic => Node::Machine,
            Node::Lapic(index) => Node::Cpu(index),
            Node::IsaBus => Node::IsaBridge,
            Node::IdeBus(_) => Node::Ide,
            Node::VirtioBus(place) => Node::Transport(place),
            Node::FloppyBus => Node::Fdc,
            Node::BelowBridge(index) | Node::Behind(index) | Node::BehindBus(index) => {
                Node::Plugged(index)
            }
            Node::Plugged(index) => {
                let plugged = self.machine.plugged().get(usize::from(index))?;
                match plugged.place() {
                    Place::Board => Node::Unattached,
                    Place::Anonymous => Node::PeripheralAnon,
                    Place::Id(_) => Node::Peripheral,
                }
            }
            Node::SystemBus
            | Node::Cpu(_)
            | Node::HostBridge
            | Node::IsaBridge
            | Node::Dma(_)
            | Node::Pic(_)
            | Node::Pit
            | Node::Speaker
            | Node::Rtc
            | Node::Hpet
            | Node::I8042
            | Node::Port92
            | Node::PowerManagement
            | Node::SecondIoApic
            | Node::Ged
            | Node::Transport(_)
            | Node::Ide
            | Node::Fdc => Node::Unattached,
        })
    }

    /// Writes the path of an object.
    pub(super) fn write_path(&self, node: Node, out: &mut dyn Write) -> fmt::Result {
        let mut line: heapless::Vec<Node, DEPTH_MAX> = heapless::Vec::new();
        let mut next = Some(node);
        while let Some(this) = next {
            line.push(this).map_err(|_| fmt::Error)?;
            next = self.parent(this);
        }
        if line.len() == 1 {
            return out.write_char('/');
        }
        for pair in line.windows(2).rev() {
            let (mut written, child, parent) = (Ok(()), pair[0], pair[1]);
            self.children(parent, &mut |name, other| {
                if other == child && written.is_ok() {
                    written = write!(out, "/{name}");
                }
            });
            written?;
        }
        Ok(())
    }

    /// The path of an object.
    pub(super) fn path(&self, node: Node) -> Result<Path, QomError<'static>> {
        let mut path = Path::new();
        self.write_path(node, &mut path)
            .map_err(|_| QomError::LongPath)?;
        Ok(path)
    }

    /// Writes the path of a processor, `qom-path` of `query-cpus-fast`; `index` is below the number
    /// of processors.
    ///
    /// # Errors
    /// The writer's.
    pub fn cpu_path(&self, index: u16, out: &mut dyn Write) -> fmt::Result {
        self.write_path(Node::Cpu(index), out)
    }

    /// Writes the path of the real-time clock, `qom-path` of `RTC_CHANGE`; nothing on a board
    /// without one.
    ///
    /// # Errors
    /// The writer's.
    pub fn rtc_path(&self, out: &mut dyn Write) -> fmt::Result {
        match self.machine.has_rtc() {
            true => self.write_path(Node::Rtc, out),
            false => Ok(()),
        }
    }

    /// Writes the path of a device that was plugged in, `qdev` of `query-block`; `index` is below the number of such devices. That
    /// of a virtio function is the path of what is behind it.
    ///
    /// # Errors
    /// The writer's.
    pub fn plugged_path(&self, index: usize, out: &mut dyn Write) -> fmt::Result {
        match u8::try_from(index) {
            Ok(index) if self.is_virtio_function(index) => {
                self.write_path(Node::Behind(index), out)
            }
            Ok(index) => self.write_path(Node::Plugged(index), out),
            Err(_) => Err(fmt::Error),
        }
    }
}

/// The name of the bus of a place for a virtio device in memory.
pub(super) fn virtio_bus(place: u8) -> Name {
    let mut name = Name::new();
    // A word and a number fit.
    let _ = write!(name, "{}{place}", machine::BUS_PREFIX);
    name
}

fn numbered(what: &str, number: usize) -> Name {
    let mut name = Name::new();
    // A word and a number fit.
    let _ = write!(name, "{what}[{number}]");
    name
}
