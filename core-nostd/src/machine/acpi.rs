//! What the board tells in ACPI tables.

use super::board::line;
use super::{Board, Machine};
use crate::devices::class::Value;
use crate::devices::{acpi_pm, hpet, i8042, pvpanic, serial, vmgenid};
use crate::firmware::acpi::aml::Term;
use crate::firmware::acpi::{self, Facts, Hardware, IsaDevice, PciFacts, Tables, script};
use crate::firmware::{Content, FwCfgError, fw_cfg, keys};
use crate::irq::{IrqLine, ioapic};
use crate::pci::{BusId, mechanism, piix3};

/// Names of serial ports.
const SERIAL_NAMES: [&str; super::SERIAL_MAX] = ["COM1", "COM2", "COM3", "COM4"];

/// Interrupts that PCI's may be routed to, by the PC's convention.
const LINK_IRQS: [u8; 3] = [5, 10, 11];

/// Window of video memory and of SMRAM.
const VIDEO_MEMORY: (u32, u32) = (0xa_0000, 0xb_ffff);

/// Devices that a board tells of at most.
const DEVICES_MAX: usize = 4 + super::SERIAL_MAX + 1;

/// Why the guest gets no tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// There is no room for them.
    Tables(acpi::Error),
    /// There is no room for their files.
    FwCfg(FwCfgError),
}

impl core::fmt::Display for AcpiError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Tables(error) => error.fmt(f),
            Self::FwCfg(error) => error.fmt(f),
        }
    }
}

impl From<acpi::Error> for AcpiError {
    fn from(error: acpi::Error) -> Self {
        Self::Tables(error)
    }
}

impl From<FwCfgError> for AcpiError {
    fn from(error: FwCfgError) -> Self {
        Self::FwCfg(error)
    }
}

impl<'m> Machine<'m> {
    /// Builds the ACPI tables, once all devices are plugged in and before the guest runs, and gives
    /// them to the firmware; to the boot ROM linked for [`acpi::place`]. Behind the board's own there
    /// are the user's. `memory` has [`acpi::memory_size`] bytes, and `apic_id` tells the APIC ID of each
    /// processor. A board without ACPI gets none.
    ///
    /// # Errors
    /// See [`AcpiError`].
    pub fn add_acpi_tables(
        &mut self,
        apic_id: &dyn Fn(u16) -> u32,
        user: &[&[u8]],
        memory: &'m mut [u8],
    ) -> Result<(), AcpiError> {
        if !self.has_acpi {
            return Ok(());
        }
        let devices = self.isa_devices();
        let below_ioapic = ioapic::BASE as u32 - 1;
        let windows = [
            (VIDEO_MEMORY.0, VIDEO_MEMORY.1, true),
            ((self.layout.low as u32).max(1 << 20), below_ioapic, false),
        ];
        let is_pc = self.board == Board::Pc;
        // Interrupts of devices below bridges come in at the bridges.
        let functions = self.buses.functions.iter();
        let functions = functions.filter(|(_, placed)| placed.bus == BusId::Root);
        let slots = functions.fold(0, |slots, (_, placed)| slots | 1 << (placed.device() & 31));
        // A level-triggered interrupt can't be shared with a device that sends edges.
        let taken = |irq: &u8| devices.iter().any(|device| device.irq == Some(*irq));
        let free = LINK_IRQS.into_iter().filter(|irq| !taken(irq));
        let link_irqs: heapless::Vec<u8, { LINK_IRQS.len() }> = free.collect();
        let virtio: heapless::Vec<_, { super::VIRTIO_BLKS_MAX }> = self.virtio_places().collect();
        let facts = Facts {
            cpus: self.cpus.0,
            max_cpus: self.cpus.1,
            apic_id,
            hardware: match is_pc {
                true => Hardware::Full {
                    sci: line::SCI.number(),
                    base: acpi_pm::BASE,
                    gpe0: Some(acpi_pm::GPE0),
                    command: Some(acpi_pm::APMC),
                },
                false => Hardware::Reduced {
                    irq: line::SCI.number(),
                },
            },
            has_pic: self.has_pic(),
            has_rtc: self.has_rtc(),
            has_second_ioapic: self.has_second_ioapic(),
            virtio: &virtio,
            generation: self.generation,
            sleep: is_pc.then_some(self.sleep),
            reset: is_pc.then_some((piix3::RCR, piix3::RCR_RESET)),
            has_keyboard_controller: is_pc,
            hpet: self.has_hpet().then_some((hpet::CAPABILITIES, hpet::BASE)),
            pci: is_pc.then_some(PciFacts {
                config_ports: (mechanism::CONFADD, 8),
                memory: &windows,
                slots,
                isa_bridge: piix3::ADDRESS,
                link_irqs: &link_irqs,
            }),
            devices: &devices,
            floppies: self.floppy_facts(),
            ram: (self.layout.low, self.layout.high),
            numa: self.numa,
            user,
        };
        let tables = Tables::build(&facts, memory)?;
        drop(devices);
        if self.is_direct_boot {
            let size = acpi::image_size(user);
            if let Some(base) = acpi::place(self.layout.low, size) {
                let image = Content::Lent(tables.link(base));
                self.fw_cfg.add(keys::BOOT_ACPI, image)?;
                if self.generation.is_some() && self.boots_with_tables {
                    let number = acpi::generation_at(size) + vmgenid::GUID_AT;
                    let address = (base + number as u64).to_le_bytes();
                    self.fw_cfg.add_written(vmgenid::ADDRESS_FILE, &address)?;
                }
            }
            return Ok(());
        }
        let files = tables.files()?;
        let sleep = Content::inline(&acpi::sleep_file(&self.sleep));
        if let Some(page) = files.generation {
            self.fw_cfg
                .add_file(vmgenid::PAGE_FILE, Content::Lent(page))?;
            self.fw_cfg
                .add_written(vmgenid::ADDRESS_FILE, &[0; vmgenid::ADDRESS])?;
        }
        for (name, content) in [
            (script::RSDP_FILE, Content::Lent(files.rsdp)),
            (script::TABLES_FILE, Content::Lent(files.tables)),
            (script::SCRIPT_FILE, Content::Lent(files.script)),
            (acpi::SLEEP_FILE, sleep),
        ] {
            self.fw_cfg.add_file(name, content)?;
        }
        Ok(())
    }

    /// Devices at fixed ports that a guest can't find by itself.
    fn isa_devices(&self) -> heapless::Vec<IsaDevice<'static>, DEVICES_MAX> {
        let mut devices = heapless::Vec::new();
        let none = (0, 0);
        let mut add = |name, id, uid, ports, irq: Option<IrqLine>, is_hidden| {
            let irq = irq.map(IrqLine::number);
            // There is room for all that a board can have.
            let _ = devices.push(IsaDevice {
                name,
                id,
                uid,
                ports,
                irq,
                is_hidden,
            });
        };
        let fw_cfg = [(fw_cfg::BASE, fw_cfg::PORTS as u8), none];
        add("FWCF", Term::Text("QEMU0002"), None, fw_cfg, None, true);
        let rtc = [(crate::devices::rtc::PORT, 2), none];
        if self.has_rtc() {
            let id = Term::Eisa("PNP0B00");
            add("RTC", id, None, rtc, Some(line::RTC), false);
        }
        if self.board == Board::Pc {
            let keyboard = [(i8042::DATA_PORT, 1), (i8042::COMMAND_PORT, 1)];
            let (key, mouse) = (Some(line::KEYBOARD), Some(line::MOUSE));
            add("KBD", Term::Eisa("PNP0303"), None, keyboard, key, false);
            add("MOU", Term::Eisa("PNP0F13"), None, [none; 2], mouse, false);
        }
        let uint = |value| match value {
            Value::Uint(value) => value,
            _ => 0,
        };
        for plugged in self.plugged() {
            let number = |name| uint(plugged.value(name));
            if plugged.class().name == serial::CLASS.name {
                let index = number("index") as usize;
                let name = SERIAL_NAMES.get(index).copied().unwrap_or("COMX");
                let ports = [(number("iobase") as u16, serial::PORTS as u8), none];
                let irq = IrqLine::new(number("irq") as u8);
                let id = Term::Eisa("PNP0501");
                add(name, id, Some(index as u8 + 1), ports, Some(irq), false);
            } else if plugged.class().name == pvpanic::CLASS.name {
                let ports = [(number("ioport") as u16, 1), none];
                add("PEVT", Term::Text("QEMU0001"), None, ports, None, true);
            }
        }
        devices
    }
}
