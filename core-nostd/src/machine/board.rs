//! What each board consists of: devices, their ports, lines and timers, and what firmware is told.

use core::fmt;
use core::mem::MaybeUninit;

use super::a20::A20Gate;
use super::boot::{self, Boot};
use super::flash;
use super::pci::{Buses, TEXT_MAX};
use super::{
    Board, Config, DEBUG_EXIT_MAX, DEBUGCON_MAX, Host, Irqchip, Machine, PARALLEL_MAX, PciSlot,
    Port, PortsFull, RamLayout, SERIAL_MAX,
};
use crate::devices::acpi_pm::{self, AcpiPm, AcpiPmWiring};
use crate::devices::class::{DeviceClass, PropertyValues};
use crate::devices::debug_exit::{self, DebugExit};
use crate::devices::debugcon::{self, Debugcon};
use crate::devices::dma::{self, Dma};
use crate::devices::fdc;
use crate::devices::ged;
use crate::devices::hpet::{self, Hpet, HpetWiring};
use crate::devices::i6300esb;
use crate::devices::i8042::{self, I8042, I8042Wiring};
use crate::devices::ib700::{self, Ib700};
use crate::devices::ide::{self, Ide};
use crate::devices::kernel;
use crate::devices::parallel;
use crate::devices::pc_testdev::{self, PcTestdev};
use crate::devices::pci_serial;
use crate::devices::pci_testdev;
use crate::devices::pflash;
use crate::devices::pit::{self, Pit, PitWiring};
use crate::devices::port92::{self, Port92};
use crate::devices::post::{self, Post};
use crate::devices::pvpanic::{self, Pvpanic};
use crate::devices::rtc::{self, Rtc, RtcBase, RtcWiring};
use crate::devices::serial::{self, Serial, SerialWiring};
use crate::devices::vmgenid;
use crate::devices::{ConsoleId, Context, Effects, PortDevice, Width};
use crate::firmware::boot::brings_tables;
use crate::firmware::boot_order::EntryError;
use crate::firmware::{Content, FwCfg};
use crate::firmware::{FwCfgError, MachineFacts, fw_cfg, keys, vmcoreinfo};
use crate::irq::{IoApic, IrqLine, Lines, LocalApics, Pic, ioapic, lapic, pic};
use crate::memory::{Backing, MapFull, MemoryMap, Region};
use crate::pci::{
    ConfigMechanism1, I440fx, PciFunction, Piix3, Piix4Pm, SlotError, bridge, gpex, i440fx,
    mechanism, piix3, piix4_pm,
};
use crate::time::{TimerId, Timers};

use super::Typing;
use super::config::HIGH_RAM_BASE;
use super::ports::PortMap;
use crate::trace::events as trace;

/// Every class of device that there is.
pub static CLASSES: &[&DeviceClass] = &[
    &debug_exit::CLASS,
    &debugcon::CLASS,
    &dma::CLASS,
    &fdc::CLASS,
    &fdc::drive::CLASS,
    &fw_cfg::CLASS,
    &ged::CLASS,
    &gpex::CLASS,
    &gpex::HOST_CLASS,
    &hpet::CLASS,
    &i440fx::CLASS,
    &mechanism::CLASS,
    &i6300esb::CLASS,
    &i8042::CLASS,
    &ib700::CLASS,
    &ide::CLASS,
    &ide::drive::CD_CLASS,
    &ide::drive::HD_CLASS,
    &ioapic::CLASS,
    &kernel::APIC_CLASS,
    &kernel::IOAPIC_CLASS,
    &kernel::PIC_CLASS,
    &kernel::PIT_CLASS,
    &lapic::CLASS,
    &parallel::CLASS,
    &pc_testdev::CLASS,
    &bridge::CLASS,
    &pci_serial::CLASS,
    &pci_serial::CLASS_2X,
    &pci_serial::CLASS_4X,
    &pci_testdev::CLASS,
    &pflash::CLASS,
    &pic::CLASS,
    &piix3::CLASS,
    &piix4_pm::CLASS,
    &pit::CLASS,
    &pit::PCSPK_CLASS,
    &port92::CLASS,
    &pvpanic::CLASS,
    &pvpanic::PCI_CLASS,
    &rtc::CLASS,
    &serial::CLASS,
    &crate::virtio::block::MMIO_CLASS,
    &crate::virtio::block::PCI_CLASS,
    &crate::virtio::transport::mmio::CLASS,
    &vmcoreinfo::CLASS,
    &vmgenid::CLASS,
];

/// Inputs of the interrupt controllers, by the PC's convention.
pub(super) mod line {
    use crate::irq::IrqLine;

    pub(crate) const PIT: IrqLine = IrqLine::new(0);
    pub(crate) const KEYBOARD: IrqLine = IrqLine::new(1);
    pub(crate) const RTC: IrqLine = IrqLine::new(8);
    /// The system control interrupt.
    pub(crate) const SCI: IrqLine = IrqLine::new(9);
    pub(crate) const MOUSE: IrqLine = IrqLine::new(12);
}

/// Who a timer belongs to.
pub(super) mod timer {
    use crate::time::TimerId;

    pub(super) const PIT: TimerId = TimerId::new(0);
    pub(super) const RTC: TimerId = TimerId::new(1);
    pub(super) const WATCHDOG: TimerId = TimerId::new(2);
    /// The next of all local APICs.
    pub(crate) const LOCAL_APICS: TimerId = TimerId::new(3);
    /// The first serial port's; the others follow.
    pub(super) const SERIAL: u8 = 4;
    pub(super) const ACPI: TimerId = TimerId::new(8);
    pub(super) const HPET: TimerId = TimerId::new(9);
    /// The next key that is typed for someone.
    pub(crate) const TYPING: TimerId = TimerId::new(10);
    /// The first of PCI serial functions' UARTs; the others follow.
    pub(crate) const PCI_UART: u8 = 11;
    /// The first i6300esb's; the others follow.
    pub(crate) const I6300ESB: u8 = PCI_UART + crate::machine::pci::PCI_UARTS_MAX as u8;
    /// The next header that a floppy drive reads.
    pub(crate) const FLOPPY: TimerId =
        TimerId::new(I6300ESB + crate::machine::pci::I6300ESB_MAX as u8);
    const _: () =
        assert!(I6300ESB as usize + crate::machine::pci::I6300ESB_MAX < crate::time::TIMERS_MAX);
}

/// Ports and interrupts of the serial ports by index, as on every PC.
pub(super) const SERIALS: [(u16, u8); SERIAL_MAX] =
    [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Interrupts of ISA devices.
pub(super) const ISA_IRQS: u64 = 16;

/// Consoles behind those of the serial ports.
const DEBUGCON_CONSOLES: u8 = SERIAL_MAX as u8;

/// Bytes below 1 MiB where the end of the firmware image shows through, without a chipset that
/// rules it.
const ROM_ALIAS: u64 = 0x2_0000;

/// CMOS bytes by which firmware without fw_cfg learns of the machine.
mod cmos {
    /// Bits of equipment: 2 for a coprocessor, 4 for a pointing device.
    pub(super) const EQUIPMENT: (u8, u8) = (0x14, 0x06);
    /// Base memory in KiB, low and high byte.
    pub(super) const BASE_MEMORY: u8 = 0x15;
    /// Memory from 1 MiB on in KiB, at most 65,535; twice, as set up and as found.
    pub(super) const EXTENDED_MEMORY: [u8; 2] = [0x17, 0x30];
    /// Memory from 16 MiB on in units of 64 KiB, at most 65,535.
    pub(super) const MEMORY_ABOVE_16_MIB: u8 = 0x34;
    /// Memory from 4 GiB on in units of 64 KiB, three bytes.
    pub(super) const MEMORY_ABOVE_4_GIB: u8 = 0x5b;
    /// Processors less one.
    pub(super) const PROCESSORS: u8 = 0x5f;
}

/// Why a machine could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// A number in the configuration is out of its range: this one.
    Invalid(&'static str),
    /// A fixed table of the board is full.
    Full(&'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(what) => write!(f, "impossible {what}"),
            Self::Full(what) => write!(f, "no room for {what}"),
        }
    }
}

impl From<PortsFull> for BuildError {
    fn from(_: PortsFull) -> Self {
        Self::Full("I/O ports")
    }
}

impl From<MapFull> for BuildError {
    fn from(_: MapFull) -> Self {
        Self::Full("memory regions")
    }
}

impl From<FwCfgError> for BuildError {
    fn from(_: FwCfgError) -> Self {
        Self::Full("fw_cfg items")
    }
}

impl From<SlotError> for BuildError {
    fn from(_: SlotError) -> Self {
        Self::Full("PCI functions")
    }
}

/// Why a device could not be plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The board has no bus of the type, named second, that devices of the class need.
    NoBus(&'static str, &'static str),
    /// There is no bus of this name, or of one that begins like this.
    BusNotFound(heapless::String<TEXT_MAX>),
    /// Devices of the class don't fit a bus of this type.
    WrongBus(&'static str, &'static str),
    /// The bus of this name has its device.
    BusFull(heapless::String<TEXT_MAX>),
    /// Another function stands at the place.
    SlotTaken {
        /// Device number.
        device: u8,
        /// Function number.
        function: u8,
        /// Class of the newcomer.
        class: &'static str,
        /// Class of who stands there.
        holder: &'static str,
        /// Its id; empty without one.
        id: heapless::String<TEXT_MAX>,
    },
    /// Function 0 of the device says that it is the only one.
    SingleFunction {
        /// Device number.
        device: u8,
        /// Function number of the newcomer.
        function: u8,
    },
    /// The newcomer is function 0, says that it is the only one, and another one is there.
    NotSingle {
        /// Device number.
        device: u8,
        /// Function number of the other one.
        other: u8,
    },
    /// No device number of the bus is free for this class.
    NoSlot(&'static str),
    /// A bridge needs the number of a chassis.
    Chassis,
    /// The size of an expansion ROM is none.
    RomSize(u64),
    /// This is not modelled.
    NotModelled(&'static str),
    /// No device has the id, or it can't be taken out.
    NotFound,
    /// There are devices below it.
    Busy,
    /// The drive of this number of its channel is there already.
    UnitTaken(u8),
    /// A channel has no drive of this number.
    NoUnit(u64),
    /// The floppy drive of this number is there already.
    FloppyTaken(u8),
    /// There is no floppy drive of this number.
    NoFloppyUnit(u64),
    /// Floppy disks have sectors of 512 bytes.
    FloppyBlocks,
    /// There are as many parallel ports as there can be, or the index is none of theirs.
    ParallelMax,
    /// All parallel ports of this index are taken.
    ParallelTaken(u64),
    /// There are as many of this kind as there can be.
    TooMany(usize),
    /// The property, named, has a value that the device can not have.
    Property(&'static str),
    /// All serial ports of this index are taken.
    IndexTaken(u64),
    /// A fixed table of the board is full.
    Ports(PortsFull),
    /// It tells firmware of itself in a file of fw_cfg, named, which exists already or has no room.
    FwCfgFile(&'static str),
    /// There can be one device of this class, and there is.
    OnlyOne(&'static str),
    /// Devices of this class belong to boards.
    NotPluggable,
    /// Another device has the id.
    IdTaken,
    /// The host lends no memory for it.
    NoMemory,
    /// The id is longer than [`super::ID_MAX`] bytes.
    IdLong,
    /// It has no place among what firmware boots from.
    Boot(EntryError),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBus(class, bus) => write!(f, "No '{bus}' bus found for device '{class}'"),
            Self::BusNotFound(name) => write!(f, "Bus '{name}' not found"),
            Self::BusFull(name) => write!(f, "Bus '{name}' is full"),
            Self::WrongBus(class, bus) => write!(f, "Device '{class}' can't go on {bus} bus"),
            Self::SlotTaken {
                device,
                function,
                class,
                holder,
                id,
            } => {
                let id = if id.is_empty() { "(null)" } else { id };
                write!(
                    f,
                    "PCI: slot {device} function {function} not available for {class}, "
                )?;
                write!(f, "in use by {holder},id={id}")
            }
            Self::SingleFunction { device, function } => {
                f.write_str("PCI: single function device can't be populated in function ")?;
                write!(f, "{device:x}.{function:x}")
            }
            Self::NotSingle { device, other } => {
                write!(f, "PCI: {device:x}.0 indicates single function, but ")?;
                write!(f, "{device:x}.{other:x} is already populated.")
            }
            Self::NoSlot(class) => {
                write!(
                    f,
                    "PCI: no slot/function available for {class}, all in use or reserved"
                )
            }
            Self::Chassis => f.write_str(
                "Bridge chassis not specified. Each bridge is required to be assigned a unique \
                 chassis id > 0.",
            ),
            Self::RomSize(size) => write!(f, "ROM size {size} is not a power of two"),
            Self::NotModelled(what) => write!(f, "{what} is not modelled"),
            Self::NotFound => f.write_str("there is no such device that could be taken out"),
            Self::Busy => f.write_str("there are devices below it"),
            Self::UnitTaken(unit) => write!(f, "IDE unit {unit} is in use"),
            Self::NoUnit(unit) => {
                write!(f, "Can't create IDE unit {unit}, bus supports only 2 units")
            }
            Self::FloppyTaken(unit) => write!(f, "Floppy unit {unit} is in use"),
            Self::NoFloppyUnit(unit) => {
                write!(
                    f,
                    "Can't create floppy unit {unit}, bus supports only 2 units"
                )
            }
            Self::FloppyBlocks => {
                f.write_str("Physical and logical block size must be 512 for floppy")
            }
            Self::TooMany(most) => write!(f, "at most {most} of them are possible"),
            Self::Property(name) => write!(f, "property '{name}' has an impossible value"),
            Self::IndexTaken(index) => write!(f, "serial port {index} exists already"),
            Self::ParallelMax => write!(
                f,
                "Max. supported number of parallel ports is {PARALLEL_MAX}."
            ),
            Self::ParallelTaken(index) => write!(f, "parallel port {index} exists already"),
            Self::Ports(full) => write!(f, "{full}"),
            Self::FwCfgFile(name) => write!(f, "duplicate fw_cfg file name: {name}"),
            Self::OnlyOne(name) => write!(f, "at most one {name} device is permitted"),
            Self::NotPluggable => f.write_str("it is part of the board, not pluggable"),
            Self::NoMemory => f.write_str("there is no memory for it"),
            Self::IdTaken => f.write_str("another device has this id"),
            Self::Boot(error) => error.fmt(f),
            Self::IdLong => write!(f, "the id is longer than {} bytes", super::ID_MAX),
        }
    }
}

impl Port {
    /// The widest access that the device takes whole.
    pub(super) const fn widest(self) -> Width {
        match self {
            Self::FwCfg => FwCfg::WIDEST,
            Self::Post => Post::WIDEST,
            Self::PciAddress | Self::PciData | Self::Ide(_) => Width::Dword,
            Self::DebugExit(_) => DebugExit::WIDEST,
            Self::Pvpanic => Pvpanic::WIDEST,
            Self::Pm => AcpiPm::WIDEST,
            Self::Testdev => PcTestdev::WIDEST,
            Self::Function { widest, .. } => widest,
            _ => Width::Byte,
        }
    }
}

impl<'m> Machine<'m> {
    /// Builds a board and puts it into its state after power-on.
    ///
    /// # Errors
    /// What of the configuration no board can have, or what there is no room for.
    pub fn new(mut config: Config<'m>) -> Result<Self, BuildError> {
        let mut machine = Self::bare(&mut config);
        machine.connect(&config)?;
        Ok(machine)
    }

    /// The same where the machine is to stay: it is large, and each move through the stack costs pages that have to be made.
    ///
    /// # Errors
    /// As of [`Machine::new`].
    pub fn new_in<'p>(
        place: &'p mut MaybeUninit<Self>,
        mut config: Config<'m>,
    ) -> Result<&'p mut Self, BuildError> {
        let machine = place.write(Self::bare(&mut config));
        machine.connect(&config)?;
        Ok(machine)
    }

    /// The parts of a board, not yet connected.
    #[inline(always)]
    fn bare(config: &mut Config<'m>) -> Self {
        let local_apics = core::mem::take(&mut config.local_apics);
        let pit = PitWiring {
            irq: line::PIT,
            timer: timer::PIT,
        };
        let rtc = RtcWiring {
            irq: line::RTC,
            timer: timer::RTC,
        };
        let hpet = HpetWiring {
            timer: timer::HPET,
            legacy: [line::PIT, line::RTC],
        };
        let i8042 = I8042Wiring {
            keyboard_irq: line::KEYBOARD,
            mouse_irq: line::MOUSE,
        };
        let acpi_pm = AcpiPmWiring {
            sci: line::SCI,
            timer: timer::ACPI,
            has_command: true,
            s4_type: Some(config.sleep.s4_type),
        };
        // Without firmware that knows PCI the ports are there from the start.
        let is_direct_boot = !config.boot.is_empty();
        let pm_base = is_direct_boot.then_some(acpi_pm::BASE);
        Self {
            board: config.board,
            irqchip: config.irqchip,
            has_pit: config.pit,
            has_pic: config.pic || !config.irqchip.in_machine(),
            has_rtc: config.board != Board::None && config.rtc,
            has_acpi: config.acpi && config.board != Board::None,
            sleep: config.sleep,
            is_direct_boot,
            boots_with_tables: brings_tables(config.boot),
            cpus: (config.cpus, config.max_cpus),
            numa: config.numa,
            layout: RamLayout::new(config.board, config.ram_size),
            ram: config.ram,
            rom: config.rom,
            flash: [const { None }; _],
            ports: PortMap::new(),
            decoded: PortMap::new(),
            map: MemoryMap::new(),
            lines: Lines::new(),
            timers: Timers::new(),
            effects: Effects::new(),
            raised: [0; 2 * ioapic::PINS],
            driven: 0,
            intr: false,
            pic: Pic::new(),
            ioapic: IoApic::new(),
            apics: LocalApics::new(match (config.board, config.irqchip) {
                (Board::Pc | Board::Microvm, Irqchip::Machine) => local_apics,
                _ => &mut [],
            }),
            pit: Pit::new(pit),
            rtc: Rtc::new(
                rtc,
                RtcBase {
                    seconds: config.rtc_base,
                },
                config.rtc_slews,
            ),
            hpet: (config.board == Board::Pc && config.hpet)
                .then(|| Hpet::new(hpet, config.hpet_msi)),
            i8042: I8042::new(i8042),
            typing: Typing::default(),
            port92: Port92::new(),
            a20: A20Gate::new(),
            post: Post::new(),
            boot: Boot::new(&config.boot_settings),
            dma: Dma::new(),
            fw_cfg: FwCfg::new(true),
            pci: ConfigMechanism1::new(),
            buses: Buses::new(),
            drives: super::drives::Drives::new(),
            i440fx: I440fx::new(config.ram_size),
            piix3: Piix3::new(),
            piix4_pm: Piix4Pm::new(pm_base),
            ide: Ide::new(),
            fdc: super::floppy::controller(config.floppy_fallback),
            acpi_pm: AcpiPm::new(acpi_pm),
            microvm: super::microvm::Microvm::new(config),
            serials: [const { None }; SERIAL_MAX],
            parallels: [const { None }; PARALLEL_MAX],
            debugcons: heapless::Vec::new(),
            debug_exits: heapless::Vec::new(),
            watchdog: None,
            pvpanic: None,
            generation: None,
            testdev: None,
            testdev_memory: config.testdev_memory,
            plugged: heapless::Vec::new(),
        }
    }

    /// Connects the parts of a board, and puts it into its state after power-on.
    fn connect(&mut self, config: &Config<'m>) -> Result<(), BuildError> {
        let rom = config.rom.len() as u64;
        if !rom.is_multiple_of(0x1000) || rom > 16 << 20 {
            return Err(BuildError::Invalid("length of the firmware image"));
        }
        self.flash = flash::chips(config)?;
        if self.is_direct_boot {
            self.ide.enable_channels();
        }
        self.map_ports()?;
        if self.board == Board::Pc {
            self.add_board_function(i440fx::ADDRESS, PciSlot::HostBridge)?;
            self.add_board_function(piix3::ADDRESS, PciSlot::IsaBridge)?;
            self.add_board_function(ide::ADDRESS, PciSlot::Ide)?;
            if self.has_acpi {
                let function = PciSlot::PowerManagement;
                self.add_board_function(piix4_pm::ADDRESS, function)?;
            }
        }
        if self.has_express() {
            self.add_board_function(gpex::ADDRESS, PciSlot::Express)?;
        }
        self.describe(config)?;
        self.map = self.build_map()?;
        self.power_on(0);
        // The levels that lines have from the start are no changes: nobody is to hear of them with the first access.
        while self.lines.take_change().is_some() {}
        self.hand_in_lines();
        Ok(())
    }

    fn map_ports(&mut self) -> Result<(), PortsFull> {
        if self.board == Board::None {
            return Ok(());
        }
        let ports = &mut self.ports;
        if self.irqchip.in_machine() {
            if self.has_pic {
                ports.add(0x20, 2, Port::MasterPic)?;
                ports.add(0xa0, 2, Port::SlavePic)?;
                ports.add(0x4d0, 2, Port::Elcr)?;
            }
            if self.has_pit {
                ports.add(0x40, 4, Port::Pit)?;
                ports.add(0x61, 1, Port::PortB)?;
            }
        }
        if self.has_rtc {
            ports.add(rtc::PORT, 2, Port::Rtc)?;
        }
        ports.add(post::PORT, 1, Port::Post)?;
        ports.add(fw_cfg::BASE, fw_cfg::PORTS, Port::FwCfg)?;
        if self.board == Board::Pc {
            ports.add(i8042::DATA_PORT, 1, Port::KeyboardData)?;
            ports.add(i8042::COMMAND_PORT, 1, Port::KeyboardCommand)?;
            ports.add(port92::PORT, 1, Port::Port92)?;
            for channel in 0..ide::CHANNELS {
                let number = channel as u8;
                let (command, control) = (ide::COMMAND[channel], ide::CONTROL[channel]);
                ports.add(command, ide::COMMAND_PORTS, Port::Ide(number))?;
                ports.add(control, 1, Port::IdeControl(number))?;
            }
            for (base, length) in fdc::PORTS {
                let offset = (base - fdc::BASE) as u8;
                ports.add(base, length, Port::Floppy(offset))?;
            }
            for (base, length) in dma::PORTS {
                ports.add(base.into(), length, Port::Dma(base))?;
            }
            ports.add(mechanism::CONFADD, 4, Port::PciAddress)?;
            ports.add(mechanism::CONFDATA, 4, Port::PciData)?;
            if self.has_acpi {
                ports.add(acpi_pm::GPE0, acpi_pm::GPE0_PORTS, Port::Gpe0)?;
                ports.add(acpi_pm::APMC, acpi_pm::APMC_PORTS, Port::Apmc)?;
            }
        }
        Ok(())
    }

    /// Tells firmware what there is, through fw_cfg and CMOS.
    fn describe(&mut self, config: &Config<'m>) -> Result<(), FwCfgError> {
        let (low_ram, high_ram) = (self.layout.low, self.layout.high);
        let fw_cfg = &mut self.fw_cfg;
        fw_cfg.add_machine(&MachineFacts {
            uuid: config.uuid,
            low_ram,
            high_ram,
            cpus: config.cpus,
            apic_ids: config.max_cpus,
            nographic: !config.graphics,
            boot_menu: config.boot_settings.menu,
            numa: config.numa.item,
        })?;
        boot::describe(fw_cfg, &config.boot_settings)?;
        if !config.kernel.is_empty() {
            fw_cfg.add_u32(keys::KERNEL_SIZE, config.kernel.len() as u32)?;
            fw_cfg.add(keys::KERNEL_DATA, Content::Lent(config.kernel))?;
            fw_cfg.add_u32(keys::INITRD_SIZE, config.initrd.len() as u32)?;
            fw_cfg.add(keys::INITRD_DATA, Content::Lent(config.initrd))?;
            // Behind the end items read as zeros, so that the final NUL is there.
            fw_cfg.add_u32(keys::CMDLINE_SIZE, config.cmdline.len() as u32 + 1)?;
            fw_cfg.add(keys::CMDLINE_DATA, Content::Lent(config.cmdline))?;
        }
        if config.board == Board::Pc {
            fw_cfg.add(keys::HPET, hpet_item(self.hpet.is_some()))?;
        }
        if !config.boot.is_empty() {
            fw_cfg.add(keys::BOOT, Content::Lent(config.boot))?;
        }
        self.describe_in_cmos(low_ram, high_ram, config.cpus);
        self.describe_boot_order(&config.boot_settings);
        Ok(())
    }

    fn describe_in_cmos(&mut self, low: u64, high: u64, cpus: u16) {
        let above = |base: u64, unit: u64| (low.saturating_sub(base) / unit).min(0xffff) as u16;
        let rtc = &mut self.rtc;
        let mut word = |at: u8, value: u16| {
            let [first, second] = value.to_le_bytes();
            rtc.set_cmos(at, first);
            rtc.set_cmos(at + 1, second);
        };
        word(cmos::BASE_MEMORY, (low / 1024).min(640) as u16);
        for at in cmos::EXTENDED_MEMORY {
            word(at, above(1 << 20, 1024));
        }
        word(cmos::MEMORY_ABOVE_16_MIB, above(16 << 20, 64 << 10));
        let high = (high / (64 << 10)).min(0xff_ffff) as u32;
        word(cmos::MEMORY_ABOVE_4_GIB, high as u16);
        rtc.set_cmos(cmos::MEMORY_ABOVE_4_GIB + 2, (high >> 16) as u8);
        rtc.set_cmos(cmos::EQUIPMENT.0, cmos::EQUIPMENT.1);
        rtc.set_cmos(cmos::PROCESSORS, (cpus.max(1) - 1) as u8);
    }

    fn build_map(&self) -> Result<MemoryMap, MapFull> {
        let (low, high, rom) = (self.layout.low, self.layout.high, self.rom.len() as u64);
        match self.board {
            Board::Pc => {
                let shadow = self.i440fx.shadow();
                Ok(i440fx::memory_map(low, high, &self.firmware(), &shadow))
            }
            Board::Microvm => microvm_map(low, high, rom),
            Board::None => Ok(MemoryMap::new()),
        }
    }

    /// Follows a change of the registers that rule the memory map.
    pub(super) fn remap(&mut self) {
        // Every setting of the registers fits: the bridge's tests try them all.
        if let Ok(map) = self.build_map() {
            trace::memory_region_transaction_commit(map.regions().len());
            self.map = map;
        }
    }

    /// Makes a device part of the board: what [`Machine::plug_at`] does, but for the record.
    pub(super) fn add_device(
        &mut self,
        values: &PropertyValues,
    ) -> Result<Option<ConsoleId>, DeviceError> {
        let class = values.class();
        if !class.user_creatable {
            return Err(DeviceError::NotPluggable);
        }
        if self.board == Board::None {
            return Err(DeviceError::NoBus(
                class.name,
                class.bus.unwrap_or("System"),
            ));
        }
        match class.name {
            name if name == serial::CLASS.name => self.plug_serial(values).map(Some),
            name if name == parallel::CLASS.name => self.plug_parallel(values).map(Some),
            name if name == debugcon::CLASS.name => self.plug_debugcon(values).map(Some),
            name if name == debug_exit::CLASS.name => self.plug_debug_exit(values).map(|()| None),
            name if name == ib700::CLASS.name => self.plug_watchdog().map(|()| None),
            name if name == pvpanic::CLASS.name => self.plug_pvpanic(values).map(|()| None),
            name if name == pc_testdev::CLASS.name => self.plug_testdev().map(|()| None),
            name if name == vmgenid::CLASS.name => self.plug_vmgenid(values).map(|()| None),
            name if name == vmcoreinfo::CLASS.name => self.plug_vmcoreinfo().map(|()| None),
            _ => Err(DeviceError::NotPluggable),
        }
    }

    fn plug_serial(&mut self, values: &PropertyValues) -> Result<ConsoleId, DeviceError> {
        let index = match values.uint("index") {
            Some(index) if index < SERIAL_MAX as u64 => {
                if self.serials[index as usize].is_some() {
                    return Err(DeviceError::IndexTaken(index));
                }
                index as usize
            }
            // All ones: the next free one.
            Some(index) if index != u64::from(u32::MAX) => {
                return Err(DeviceError::Property("index"));
            }
            _ => {
                let free = self.serials.iter().position(Option::is_none);
                free.ok_or(DeviceError::TooMany(SERIAL_MAX))?
            }
        };
        let (port, irq) = SERIALS[index];
        let port = port_of(values, port)?;
        let irq = match values.uint("irq") {
            None => irq,
            Some(number) if number == u64::from(u32::MAX) => irq,
            Some(number) if number < ISA_IRQS => number as u8,
            Some(_) => return Err(DeviceError::Property("irq")),
        };
        let index = index as u8;
        self.ports
            .add(port, serial::PORTS, Port::Serial(index))
            .map_err(DeviceError::Ports)?;
        let receive_timeout = TimerId::new(timer::SERIAL + index);
        let wiring = SerialWiring {
            irq: Some(IrqLine::new(irq)),
            receive_timeout,
        };
        self.serials[usize::from(index)] = Some(Serial::new(wiring, serial::BAUD_BASE));
        Ok(ConsoleId(index))
    }

    fn plug_debugcon(&mut self, values: &PropertyValues) -> Result<ConsoleId, DeviceError> {
        let port = port_of(values, debugcon::IOBASE)?;
        let index = self.debugcons.len() as u8;
        let console = ConsoleId(DEBUGCON_CONSOLES + index);
        let readback = values.uint("readback").unwrap_or(debugcon::READBACK.into());
        self.debugcons
            .push(Debugcon::new(console, readback as u32))
            .map_err(|_| DeviceError::TooMany(DEBUGCON_MAX))?;
        self.ports
            .add(port, 1, Port::Debugcon(index))
            .map_err(DeviceError::Ports)?;
        Ok(console)
    }

    fn plug_debug_exit(&mut self, values: &PropertyValues) -> Result<(), DeviceError> {
        let port = port_of(values, debug_exit::IOBASE)?;
        let ports = values.uint("iosize").unwrap_or(debug_exit::IOSIZE.into());
        let ports = u16::try_from(ports).ok().filter(|ports| *ports > 0);
        let ports = ports.ok_or(DeviceError::Property("iosize"))?;
        let index = self.debug_exits.len() as u8;
        self.debug_exits
            .push(DebugExit)
            .map_err(|_| DeviceError::TooMany(DEBUG_EXIT_MAX))?;
        self.ports
            .add(port, ports, Port::DebugExit(index))
            .map_err(DeviceError::Ports)
    }

    fn plug_watchdog(&mut self) -> Result<(), DeviceError> {
        if self.watchdog.is_some() {
            // Its ports can't be moved.
            return Err(DeviceError::TooMany(1));
        }
        self.ports
            .add(ib700::BASE, ib700::PORTS, Port::Watchdog)
            .map_err(DeviceError::Ports)?;
        self.watchdog = Some(Ib700::new(timer::WATCHDOG));
        Ok(())
    }

    fn plug_pvpanic(&mut self, values: &PropertyValues) -> Result<(), DeviceError> {
        // Both have defaults and are checked against their types.
        let port = values.uint("ioport").unwrap_or(pvpanic::IOPORT.into()) as u16;
        let events = values.uint("events").unwrap_or(pvpanic::EVENTS.into()) as u8;
        let file = Content::inline(&port.to_le_bytes());
        self.fw_cfg
            .add_file(pvpanic::FW_CFG_FILE, file)
            .map_err(|_| DeviceError::FwCfgFile(pvpanic::FW_CFG_FILE))?;
        self.ports
            .add(port, 1, Port::Pvpanic)
            .map_err(DeviceError::Ports)?;
        self.pvpanic = Some(Pvpanic::new(events));
        Ok(())
    }

    fn plug_vmcoreinfo(&mut self) -> Result<(), DeviceError> {
        if self.fw_cfg.file_key(vmcoreinfo::FW_CFG_FILE).is_some() {
            return Err(DeviceError::OnlyOne(vmcoreinfo::CLASS.name));
        }
        self.fw_cfg
            .add_written(vmcoreinfo::FW_CFG_FILE, &vmcoreinfo::INITIAL)
            .map_err(|_| DeviceError::FwCfgFile(vmcoreinfo::FW_CFG_FILE))
    }

    fn plug_testdev(&mut self) -> Result<(), DeviceError> {
        if self.testdev.is_some() {
            // Its ports can't be moved.
            return Err(DeviceError::TooMany(1));
        }
        if self.testdev_memory.len() != pc_testdev::MEMORY {
            return Err(DeviceError::NoMemory);
        }
        let lines = (pc_testdev::LINES_BASE, pc_testdev::LINES);
        self.ports
            .add(pc_testdev::BASE, pc_testdev::PORTS, Port::Testdev)
            .and_then(|()| self.ports.add(lines.0, lines.1, Port::TestdevLines))
            .map_err(DeviceError::Ports)?;
        self.testdev = Some(PcTestdev::new(self.testdev_memory));
        Ok(())
    }

    /// Resets every device. The host resets processors and in-kernel controllers itself.
    pub fn reset<H: Host>(&mut self, host: &mut H, now: u64) {
        trace::machine_reset(now);
        self.reset_boot_order();
        self.power_on(now);
        host.memory_remapped();
        self.drain(host, now, None);
        // Again, since the PIT's output has come by.
        self.pic.reset(context!(self, now));
        self.drain(host, now, None);
        self.hand_in_lines();
        // They have dropped what they had under way.
        self.resume_drives(host, now);
    }

    /// Lets the I/O APIC see lines that were high before it was reset: nobody tells of them again.
    fn hand_in_lines(&mut self) {
        // Every entry is masked: no message comes of it.
        for pin in 0..ioapic::PINS as u8 {
            let line = IrqLine::new(pin);
            if self.irqchip.in_machine() && self.lines.level(line) {
                self.ioapic.set_irq(ioapic::pin_of(line), true);
            }
        }
    }

    fn power_on(&mut self, now: u64) {
        self.reset_hpet(now);
        // Lines fall with their drivers, or rise as the PIT's; then the PICs are reset, and forget what they have seen.
        if self.irqchip.in_machine() && self.board != Board::None && self.has_pit {
            self.pit.reset(context!(self, now));
        }
        self.rtc.reset(context!(self, now));
        self.i8042.reset(context!(self, now));
        if self.is_direct_boot {
            self.i8042.set_up();
        }
        self.port92.reset(context!(self, now));
        self.a20 = A20Gate::new();
        self.post.reset(context!(self, now));
        self.dma.reset(context!(self, now));
        self.fdc.reset(context!(self, now));
        self.fw_cfg.reset(context!(self, now));
        self.pci.reset(context!(self, now));
        self.i440fx.reset(context!(self, now));
        for chip in self.flash.iter_mut().flatten() {
            chip.reset(context!(self, now));
        }
        self.piix3.reset(context!(self, now));
        self.piix4_pm.reset(context!(self, now));
        self.acpi_pm.reset(context!(self, now));
        for serial in self.serials.iter_mut().flatten() {
            serial.reset(context!(self, now));
        }
        for parallel in self.parallels.iter_mut().flatten() {
            parallel.reset(context!(self, now));
        }
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.reset(context!(self, now));
        }
        if let Some(testdev) = &mut self.testdev {
            testdev.reset(context!(self, now));
        }
        self.reset_pci(now);
        self.reset_microvm(now);
        self.remap();
        self.pic.reset(context!(self, now));
        self.ioapic.reset(context!(self, now));
        self.apics.reset();
        self.arm_apics();
        // What the resets themselves asked for is done.
        while self.effects.take().is_some() {}
    }

    /// Lets a timer's owner know that it fired, and returns who that was.
    pub(super) fn fire(&mut self, id: TimerId, now: u64) -> Option<Port> {
        match id {
            timer::PIT => {
                self.pit.timer(context!(self, now), id);
                Some(Port::Pit)
            }
            timer::RTC => {
                self.rtc.timer(context!(self, now), id);
                Some(Port::Rtc)
            }
            timer::HPET => {
                self.hpet.as_mut()?.timer(context!(self, now), id);
                None
            }
            timer::WATCHDOG => {
                self.watchdog.as_mut()?.timer(context!(self, now), id);
                Some(Port::Watchdog)
            }
            timer::ACPI => {
                self.acpi_pm.timer(context!(self, now), id);
                Some(Port::Pm)
            }
            timer::LOCAL_APICS => {
                self.apics.advance(now);
                self.arm_apics();
                None
            }
            timer::TYPING => {
                self.typing_timer(now);
                None
            }
            timer::FLOPPY => {
                self.fdc.timer(context!(self, now), id);
                Some(Port::Floppy(0))
            }
            _ if id.slot() >= timer::PCI_UART => {
                self.fire_pci(now, id);
                None
            }
            _ => {
                let index = id.slot().checked_sub(timer::SERIAL)?;
                let serial = self.serials.get_mut(usize::from(index))?.as_mut()?;
                serial.timer(context!(self, now), id);
                Some(Port::Serial(index))
            }
        }
    }

    /// The device at a port, and which of its registers this is. ACPI's fixed hardware, which the
    /// guest places on a PC, answers where nothing else does.
    pub(super) fn port_at(&self, port: u16) -> Option<(Port, u16)> {
        self.decoded.find(port).or_else(|| {
            let offset = port.checked_sub(self.acpi_base()?)?;
            (offset < acpi_pm::PORTS).then_some((Port::Pm, offset))
        })
    }

    /// First port of ACPI's fixed hardware, where it answers.
    fn acpi_base(&self) -> Option<u16> {
        match self.board {
            _ if !self.has_acpi => None,
            Board::Pc => self.piix4_pm.base(),
            _ => None,
        }
    }

    pub(super) fn port_read(&mut self, now: u64, port: Port, offset: u16, width: Width) -> u32 {
        let cx = context!(self, now);
        match port {
            Port::MasterPic => self.pic.pio_read(cx, pic::MASTER_OFFSET + offset, width),
            Port::SlavePic => self.pic.pio_read(cx, pic::SLAVE_OFFSET + offset, width),
            Port::Elcr => self.pic.pio_read(cx, pic::ELCR_OFFSET + offset, width),
            Port::Pit => self.pit.pio_read(cx, offset, width),
            Port::PortB => self.pit.pio_read(cx, pit::PORT_B_OFFSET, width),
            Port::Rtc => self.rtc.pio_read(cx, offset, width),
            Port::KeyboardData => self.i8042.pio_read(cx, offset, width),
            Port::KeyboardCommand => self.i8042.pio_read(cx, i8042::COMMAND, width),
            Port::Port92 => self.port92.pio_read(cx, offset, width),
            Port::Post => self.post.pio_read(cx, offset, width),
            Port::Dma(base) => self.dma.pio_read(cx, u16::from(base) + offset, width),
            Port::FwCfg => self.fw_cfg.pio_read(cx, offset, width),
            Port::PciAddress => self.pci_address_read(now, offset, width),
            Port::PciData => self.pci_read(offset, width),
            Port::Function { claim, .. } => self.function_port_read(now, claim, offset, width),
            Port::Serial(index) => match &mut self.serials[usize::from(index)] {
                Some(serial) => serial.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::Parallel(index) => match &mut self.parallels[usize::from(index)] {
                Some(parallel) => parallel.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::Debugcon(index) => match self.debugcons.get_mut(usize::from(index)) {
                Some(debugcon) => debugcon.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::DebugExit(index) => match self.debug_exits.get_mut(usize::from(index)) {
                Some(exit) => exit.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::Watchdog => match &mut self.watchdog {
                Some(watchdog) => watchdog.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::Pvpanic => match &mut self.pvpanic {
                Some(pvpanic) => pvpanic.pio_read(cx, offset, width),
                None => u32::MAX,
            },
            Port::Testdev | Port::TestdevLines => match &mut self.testdev {
                Some(testdev) => testdev.pio_read(cx, testdev_offset(port, offset), width),
                None => u32::MAX,
            },
            Port::Ide(channel) => self.ide.channel(channel).read(cx, offset, width),
            Port::IdeControl(channel) => self.ide.channel(channel).control_read().into(),
            Port::Floppy(base) => self.fdc.pio_read(cx, u16::from(base) + offset, width),
            Port::Pm => self.acpi_pm.pio_read(cx, offset, width),
            Port::Gpe0 => self
                .acpi_pm
                .pio_read(cx, acpi_pm::GPE0_OFFSET + offset, width),
            Port::Apmc => self
                .acpi_pm
                .pio_read(cx, acpi_pm::APMC_OFFSET + offset, width),
        }
    }

    pub(super) fn port_write<H: Host>(
        &mut self,
        host: &mut H,
        now: u64,
        port: Port,
        offset: u16,
        width: Width,
        value: u32,
    ) {
        let cx = context!(self, now);
        match port {
            Port::MasterPic => self
                .pic
                .pio_write(cx, pic::MASTER_OFFSET + offset, width, value),
            Port::SlavePic => self
                .pic
                .pio_write(cx, pic::SLAVE_OFFSET + offset, width, value),
            Port::Elcr => self
                .pic
                .pio_write(cx, pic::ELCR_OFFSET + offset, width, value),
            Port::Pit => self.pit.pio_write(cx, offset, width, value),
            Port::PortB => self.pit.pio_write(cx, pit::PORT_B_OFFSET, width, value),
            Port::Rtc => self.rtc.pio_write(cx, offset, width, value),
            Port::KeyboardData => self.i8042.pio_write(cx, offset, width, value),
            Port::KeyboardCommand => self.i8042.pio_write(cx, i8042::COMMAND, width, value),
            Port::Port92 => self.port92.pio_write(cx, offset, width, value),
            Port::Post => self.post.pio_write(cx, offset, width, value),
            Port::Dma(base) => {
                self.dma
                    .pio_write(cx, u16::from(base) + offset, width, value);
            }
            Port::FwCfg => self.fw_cfg.pio_write(cx, offset, width, value),
            Port::PciAddress => self.pci_address_write(now, offset, width, value),
            Port::PciData => self.pci_write(host, now, offset, width, value),
            Port::Function { claim, .. } => {
                self.function_port_write(now, claim, offset, width, value);
            }
            Port::Serial(index) => {
                if let Some(serial) = &mut self.serials[usize::from(index)] {
                    serial.pio_write(cx, offset, width, value);
                }
            }
            Port::Parallel(index) => {
                if let Some(parallel) = &mut self.parallels[usize::from(index)] {
                    parallel.pio_write(cx, offset, width, value);
                }
            }
            Port::Debugcon(index) => {
                if let Some(debugcon) = self.debugcons.get_mut(usize::from(index)) {
                    debugcon.pio_write(cx, offset, width, value);
                }
            }
            Port::DebugExit(index) => {
                if let Some(exit) = self.debug_exits.get_mut(usize::from(index)) {
                    exit.pio_write(cx, offset, width, value);
                }
            }
            Port::Watchdog => {
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.pio_write(cx, offset, width, value);
                }
            }
            Port::Pvpanic => {
                if let Some(pvpanic) = &mut self.pvpanic {
                    pvpanic.pio_write(cx, offset, width, value);
                }
            }
            Port::Testdev | Port::TestdevLines => {
                if let Some(testdev) = &mut self.testdev {
                    testdev.pio_write(cx, testdev_offset(port, offset), width, value);
                }
            }
            Port::Ide(channel) => self.ide.channel(channel).write(cx, offset, width, value),
            Port::IdeControl(channel) => {
                self.ide.channel(channel).control_write(cx, value as u8);
            }
            Port::Floppy(base) => {
                self.fdc
                    .pio_write(cx, u16::from(base) + offset, width, value);
            }
            Port::Pm => self.acpi_pm.pio_write(cx, offset, width, value),
            Port::Gpe0 => self
                .acpi_pm
                .pio_write(cx, acpi_pm::GPE0_OFFSET + offset, width, value),
            Port::Apmc => self
                .acpi_pm
                .pio_write(cx, acpi_pm::APMC_OFFSET + offset, width, value),
        }
    }

    /// CONFADD, but for bytes at CF9h: the reset control register lies there.
    fn pci_address_read(&mut self, now: u64, offset: u16, width: Width) -> u32 {
        match (mechanism::CONFADD + offset, width) {
            (piix3::RCR, Width::Byte) => self.piix3.pio_read(context!(self, now), 0, width),
            _ => self.pci.address_read(width),
        }
    }

    fn pci_address_write(&mut self, now: u64, offset: u16, width: Width, value: u32) {
        match (mechanism::CONFADD + offset, width) {
            (piix3::RCR, Width::Byte) => {
                self.piix3.pio_write(context!(self, now), 0, width, value);
            }
            _ => self.pci.address_write(offset, width, value),
        }
    }
}

/// What fw_cfg tells of HPETs: their number, and for each of up to eight its identification, its address, the ticks between two
/// interrupts at least, and how its page may be used. A number of 255 says that nobody knows of any.
const fn hpet_item(is_there: bool) -> Content<'static> {
    const LENGTH: usize = 1 + 8 * 15;
    static NONE: [u8; LENGTH] = {
        let mut item = [0; LENGTH];
        item[0] = 0xff;
        item
    };
    static ONE: [u8; LENGTH] = {
        let mut item = [0; LENGTH];
        item[0] = 1;
        let (id, address) = (hpet::CAPABILITIES.to_le_bytes(), hpet::BASE.to_le_bytes());
        let mut at = 0;
        while at < 8 {
            if at < 4 {
                item[1 + at] = id[at];
            }
            item[5 + at] = address[at];
            at += 1;
        }
        item
    };
    Content::Lent(if is_there { &ONE } else { &NONE })
}

/// Which of `pc-testdev`'s registers a port is.
const fn testdev_offset(port: Port, offset: u16) -> u16 {
    match port {
        Port::TestdevLines => pc_testdev::LINES_OFFSET + offset,
        _ => offset,
    }
}

/// The property `iobase` of an ISA device; all ones, and none, stand for `default`.
pub(super) fn port_of(values: &PropertyValues, default: u16) -> Result<u16, DeviceError> {
    match values.uint("iobase") {
        None => Ok(default),
        Some(port) if port == u64::from(u32::MAX) => Ok(default),
        Some(port) => port.try_into().map_err(|_| DeviceError::Property("iobase")),
    }
}

/// RAM, with the last 128 KiB of the firmware image over it below 1 MiB, and the image below
/// 4 GiB.
fn microvm_map(low: u64, high: u64, rom: u64) -> Result<MemoryMap, MapFull> {
    const MIB: u64 = 1 << 20;
    let alias = rom.min(ROM_ALIAS);
    let ram = |gpa: u64, end: u64| Region {
        gpa,
        length: end.saturating_sub(gpa),
        read: Backing::Ram,
        write_ram: true,
    };
    let image = |gpa: u64, length: u64| Region {
        gpa,
        length,
        read: Backing::Rom {
            offset: rom - length,
        },
        write_ram: false,
    };
    let mut map = MemoryMap::new();
    map.push(ram(0, low.min(MIB - alias)))?;
    map.push(image(MIB - alias, alias))?;
    map.push(ram(MIB, low))?;
    map.push(image(HIGH_RAM_BASE - rom, rom))?;
    map.push(ram(HIGH_RAM_BASE, HIGH_RAM_BASE + high))?;
    Ok(map)
}
