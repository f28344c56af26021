//! What a machine is built from.

use core::sync::atomic::AtomicU8;

use crate::devices::acpi_pm::SleepStates;
use crate::devices::fdc::drive;
use crate::devices::pflash;
use crate::firmware::{BootSettings, Numa};
use crate::irq::LocalApic;
#[cfg(doc)]
use crate::irq::lapic::CPUS_MAX;
use crate::memory::GuestRam;

/// The board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// A PC with the i440FX and PIIX3 chipset.
    Pc,
    /// A PC without PCI: for guests that are told what there is.
    Microvm,
    /// No devices, no memory, no processors: for asking the process what it can do.
    None,
}

impl Board {
    /// The name of the machine type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Microvm => "microvm",
            Self::None => "none",
        }
    }
}

/// Who models the interrupt controllers and the interval timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// The machine itself, with the local APICs for which the host lends memory: the software CPU,
    /// and `kernel-irqchip=off`. It tells by [`super::Host::attention`] which processor is to look.
    Machine,
    /// The machine, but for the local APICs, which are the host's (`kernel-irqchip=split`): it is
    /// told of messages to them by [`super::Host::msi`], and of the PICs' output by
    /// [`super::Host::set_intr`].
    Split,
    /// The host (`kernel-irqchip=on`): it is told of interrupt lines by [`super::Host::set_gsi`].
    Host,
}

impl Irqchip {
    /// Whether the PICs, the interval timer and the I/O APIC are the machine's.
    pub const fn in_machine(self) -> bool {
        matches!(self, Self::Machine | Self::Split)
    }
}

/// First address above the 32-bit space.
pub const HIGH_RAM_BASE: u64 = 1 << 32;

/// RAM below 4 GiB where more than that does not fit: the rest is for PCI and the firmware.
const LOW_RAM_SPLIT: u64 = 0xc000_0000;

/// RAM that the PC board keeps below 4 GiB as long as all of it fits there.
const LOW_RAM_MAX_PC: u64 = 0xe000_0000;

/// Where RAM lies in guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamLayout {
    /// Bytes from address 0 on.
    pub low: u64,
    /// Bytes from [`HIGH_RAM_BASE`] on.
    pub high: u64,
}

impl RamLayout {
    /// The layout of `size` bytes of RAM.
    pub const fn new(board: Board, size: u64) -> Self {
        let all_low = match board {
            Board::Pc => LOW_RAM_MAX_PC,
            Board::Microvm | Board::None => LOW_RAM_SPLIT,
        };
        if size < all_low {
            return Self { low: size, high: 0 };
        }
        Self {
            low: LOW_RAM_SPLIT,
            high: size - LOW_RAM_SPLIT,
        }
    }
}

/// A flash chip.
#[derive(Clone, Copy, Debug)]
pub struct FlashUnit<'m> {
    /// Its contents, whole sectors.
    pub cells: &'m [AtomicU8],
    /// Whether the guest can't change them.
    pub read_only: bool,
}

/// What a machine is built from. The host lends memory and files for the machine's lifetime.
pub struct Config<'m> {
    /// The board.
    pub board: Board,
    /// Who models interrupt controllers.
    pub irqchip: Irqchip,
    /// Whether there is an interval timer, an 8254 (`-machine pit=`). Without it there is no port 61h
    /// either.
    pub pit: bool,
    /// Whether there are both 8259 interrupt controllers (`-machine pic=`), where controllers are the machine's.
    pub pic: bool,
    /// Whether there is a real-time clock with its CMOS memory (`-machine rtc=`). A PC needs one.
    pub rtc: bool,
    /// Whether there is ACPI: its hardware, and tables once [`super::Machine::add_acpi_tables`] is called.
    pub acpi: bool,
    /// Whether microvm with ACPI has a second I/O APIC, where the controllers are the machine's (`-machine ioapic2=`).
    pub ioapic2: bool,
    /// Whether microvm with ACPI has a PCI Express host bridge (`-machine pcie=`).
    pub pcie: bool,
    /// Whether virtio devices in memory have the registers before 1.0 (`-global virtio-mmio.force-legacy=`).
    pub virtio_mmio_legacy: bool,
    /// Whether the host's kernel takes notifications of these devices (`-global virtio-mmio.ioeventfd=`).
    pub virtio_mmio_ioeventfd: bool,
    /// Whether a PC has an HPET (`-machine hpet=`).
    pub hpet: bool,
    /// Whether the HPET's comparators offer to interrupt by message (`-global hpet.msi=`).
    pub hpet_msi: bool,
    /// The kind of floppy drives whose kind neither the user nor a medium tells (`-global isa-fdc.fallback=`).
    pub floppy_fallback: drive::Kind,
    /// The sleeping states of the PC board, with ACPI.
    pub sleep: SleepStates,
    /// Guest RAM: [`Config::ram_size`] bytes laid out as [`RamLayout::new`] says.
    pub ram: &'m dyn GuestRam,
    /// Bytes of guest RAM.
    pub ram_size: u64,
    /// The firmware image, whose end lies at 4 GiB. A multiple of 4 KiB, at most 16 MiB. With [`Config::flash`]: a copy of
    /// what is seen of it below 1 MiB, at most 128 KiB.
    pub rom: &'m [u8],
    /// Flash chips in the place of the image, on [`Board::Pc`]: the end of the first one lies at 4 GiB, the other one's
    /// where the first begins.
    pub flash: [Option<FlashUnit<'m>>; pflash::UNITS_MAX],
    /// Processors at power-on, at least 1 except on [`Board::None`].
    pub cpus: u16,
    /// Processors that there may be later, at least `cpus`.
    pub max_cpus: u16,
    /// Memory for the local APICs with [`Irqchip::Machine`]: one for each processor, at most
    /// [`CPUS_MAX`]. A machine that no processor runs, such as a device test, needs none.
    pub local_apics: &'m mut [LocalApic],
    /// Time of day when the virtual clock reads 0, in seconds since 1970-01-01 00:00 UTC.
    pub rtc_base: i64,
    /// Whether the real-time clock repeats periodic interrupts that the guest has lost (`-rtc driftfix=slew`).
    pub rtc_slews: bool,
    /// The machine's UUID, in the byte order of its text form.
    pub uuid: [u8; 16],
    /// NUMA nodes.
    pub numa: Numa<'m>,
    /// Whether firmware may expect a graphical console.
    pub graphics: bool,
    /// What firmware is told about booting.
    pub boot_settings: BootSettings<'m>,
    /// A kernel for the firmware to start.
    pub kernel: &'m [u8],
    /// An initial RAM disk for it, or multiboot modules, each at a multiple of 4 KiB.
    pub initrd: &'m [u8],
    /// Its command line, without a final NUL.
    pub cmdline: &'m [u8],
    /// How the boot ROM starts the kernel: what [`crate::firmware::boot::Request::prepare`] has
    /// written. Empty where other firmware is to do it.
    pub boot: &'m [u8],
    /// Memory for the device `pc-testdev`, [`crate::devices::pc_testdev::MEMORY`] bytes; empty where
    /// it will not be plugged in.
    pub testdev_memory: &'m [AtomicU8],
}

impl<'m> Config<'m> {
    /// A PC of one processor with this RAM, `ram_size` bytes of it, and nothing to start.
    pub const fn new(ram: &'m dyn GuestRam, ram_size: u64) -> Self {
        Self {
            board: Board::Pc,
            irqchip: Irqchip::Machine,
            pit: true,
            pic: true,
            rtc: true,
            acpi: true,
            ioapic2: true,
            pcie: false,
            virtio_mmio_legacy: true,
            virtio_mmio_ioeventfd: false,
            hpet: true,
            hpet_msi: false,
            floppy_fallback: drive::Kind::Inch3Extra,
            sleep: SleepStates::DEFAULT,
            ram,
            ram_size,
            rom: &[],
            flash: [None; pflash::UNITS_MAX],
            cpus: 1,
            max_cpus: 1,
            local_apics: &mut [],
            rtc_base: 0,
            rtc_slews: false,
            uuid: [0; 16],
            numa: Numa {
                memory: &[],
                cpus: &[],
                distances: &[],
                item: &[],
            },
            graphics: false,
            boot_settings: BootSettings::DEFAULT,
            kernel: &[],
            initrd: &[],
            cmdline: &[],
            boot: &[],
            testdev_memory: &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_around_the_hole() {
        let pc = |size| RamLayout::new(Board::Pc, size);
        assert_eq!(
            pc(1 << 20),
            RamLayout {
                low: 1 << 20,
                high: 0
            }
        );
        assert_eq!(
            pc(0xdfff_f000),
            RamLayout {
                low: 0xdfff_f000,
                high: 0
            }
        );
        assert_eq!(
            pc(1 << 32),
            RamLayout {
                low: 0xc000_0000,
                high: 0x4000_0000
            }
        );
        let microvm = RamLayout::new(Board::Microvm, 0xc000_0000);
        assert_eq!(
            microvm,
            RamLayout {
                low: 0xc000_0000,
                high: 0
            }
        );
    }
}
