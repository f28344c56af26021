//! The tables but for AML: their common header, RSDP, RSDT, XSDT, FADT, FACS, MADT, HPET and WAET.
//!
//! Follows ACPI 6.4, sections 5.2.5 to 5.2.12, section 3.2.4 of the HPET's specification, and Microsoft's "Windows ACPI Emulated Devices
//! Table". Fields of the FADT are named as in table 5.9.

use super::aml::Writer;
use super::{Facts, Hardware, Link, Links};
use crate::devices::{acpi_pm, ged, rtc};
use crate::irq::{IrqLine, ioapic, lapic};

/// Bytes of the header that tables share.
pub(super) const HEADER: usize = 36;
/// Where a table's checksum is.
pub const CHECKSUM: usize = 9;

/// Bytes of the RSDP.
pub(super) const RSDP: usize = 36;
/// Where the RSDP has the address of the RSDT, 32 bits.
pub(super) const RSDP_RSDT: usize = 16;
/// Where the RSDP has the address of the XSDT, 64 bits.
pub(super) const RSDP_XSDT: usize = 24;
/// Where the RSDP's checksums are, and how many of its first bytes they are over.
pub(super) const RSDP_SUMS: [(usize, usize); 2] = [(8, 20), (32, RSDP)];

/// Bytes of the FACS, which has no checksum.
const FACS: usize = 64;
/// What the FACS must be aligned to.
pub(super) const FACS_ALIGN: usize = 64;

const OEM: &[u8; 6] = b"THIMBL";
const OEM_TABLE: &[u8; 8] = b"THIMBLE ";
const CREATOR: &[u8; 4] = b"THMB";

/// Fields of the FADT.
mod fadt {
    pub(super) const LENGTH: usize = 276;
    pub(super) const FIRMWARE_CTRL: usize = 36;
    pub(super) const DSDT: usize = 40;
    pub(super) const SCI_INT: usize = 46;
    pub(super) const SMI_CMD: usize = 48;
    pub(super) const ACPI_ENABLE: usize = 52;
    pub(super) const ACPI_DISABLE: usize = 53;
    pub(super) const PM1A_EVT_BLK: usize = 56;
    pub(super) const PM1A_CNT_BLK: usize = 64;
    pub(super) const PM_TMR_BLK: usize = 76;
    pub(super) const GPE0_BLK: usize = 80;
    pub(super) const PM1_EVT_LEN: usize = 88;
    pub(super) const PM1_CNT_LEN: usize = 89;
    pub(super) const PM_TMR_LEN: usize = 91;
    pub(super) const GPE0_BLK_LEN: usize = 92;
    pub(super) const P_LVL2_LAT: usize = 96;
    pub(super) const P_LVL3_LAT: usize = 98;
    pub(super) const CENTURY: usize = 108;
    pub(super) const IAPC_BOOT_ARCH: usize = 109;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REG: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const MINOR_VERSION: usize = 131;
    pub(super) const X_DSDT: usize = 140;
    pub(super) const X_PM1A_EVT_BLK: usize = 148;
    pub(super) const X_PM1A_CNT_BLK: usize = 172;
    pub(super) const X_PM_TMR_BLK: usize = 208;
    pub(super) const X_GPE0_BLK: usize = 220;
    pub(super) const SLEEP_CONTROL_REG: usize = 244;
    pub(super) const SLEEP_STATUS_REG: usize = 256;

    /// Version 6.4.
    pub(super) const REVISION: (u8, u8) = (6, 4);
    /// More than any C2 or C3 state may take: there is none.
    pub(super) const NO_STATE: u16 = 0x0fff;

    pub(super) const BOOT_LEGACY_DEVICES: u16 = 1 << 0;
    pub(super) const BOOT_8042: u16 = 1 << 1;
    pub(super) const BOOT_NO_VGA: u16 = 1 << 2;
    pub(super) const BOOT_NO_CMOS_RTC: u16 = 1 << 5;

    pub(super) const WBINVD: u32 = 1 << 0;
    pub(super) const PROC_C1: u32 = 1 << 2;
    /// There is no fixed power button.
    pub(super) const PWR_BUTTON: u32 = 1 << 4;
    /// There is no fixed sleep button.
    pub(super) const SLP_BUTTON: u32 = 1 << 5;
    /// The real-time clock wakes nobody by a fixed register.
    pub(super) const FIX_RTC: u32 = 1 << 6;
    pub(super) const RESET_REG_SUP: u32 = 1 << 10;
    pub(super) const USE_PLATFORM_CLOCK: u32 = 1 << 15;
    pub(super) const HW_REDUCED_ACPI: u32 = 1 << 20;
}

/// Entries of the MADT (ACPI 6.4, section 5.2.12).
mod madt {
    pub(super) const REVISION: u8 = 5;
    /// There are two 8259.
    pub(super) const PCAT_COMPAT: u32 = 1;
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const SOURCE_OVERRIDE: u8 = 2;
    pub(super) const LOCAL_APIC_NMI: u8 = 4;
    pub(super) const X2APIC: u8 = 9;
    pub(super) const X2APIC_NMI: u8 = 10;
    /// The processor can be used. Without this and the flag that it may come online later, it can't.
    pub(super) const ENABLED: u32 = 1;
    /// The first id that a local APIC's entry has no room for.
    pub(super) const X2APIC_IDS: u32 = 255;
    /// Polarity and trigger mode as the bus has them.
    pub(super) const CONFORMING: u16 = 0;
    pub(super) const LEVEL_ACTIVE_HIGH: u16 = 0xd;
    pub(super) const LINT1: u8 = 1;
}

/// Adds a table: its header, then what the body writes. Gives where it begins.
pub(super) fn table(
    w: &mut Writer<'_>,
    links: &mut Links,
    signature: &[u8; 4],
    revision: u8,
    body: impl FnOnce(&mut Writer<'_>),
) -> usize {
    let start = w.used();
    w.raw(signature);
    w.raw(&[0; 4]);
    w.raw(&[revision, 0]);
    w.raw(OEM);
    w.raw(OEM_TABLE);
    w.raw(&1u32.to_le_bytes());
    w.raw(CREATOR);
    w.raw(&1u32.to_le_bytes());
    body(w);
    let length = w.used() - start;
    w.set(start + 4, &(length as u32).to_le_bytes());
    links.add(Link::Checksum { start, length });
    start
}

/// Adds the FACS and gives where it begins.
pub(super) fn facs(w: &mut Writer<'_>) -> usize {
    w.align(FACS_ALIGN);
    let start = w.used();
    let mut bytes = [0; FACS];
    bytes[..4].copy_from_slice(b"FACS");
    bytes[4] = FACS as u8;
    // The version.
    bytes[32] = 2;
    w.raw(&bytes);
    start
}

/// Adds the FADT, which links DSDT and FACS.
pub(super) fn fadt(
    w: &mut Writer<'_>,
    links: &mut Links,
    facts: &Facts<'_>,
    dsdt: usize,
    facs: usize,
) -> usize {
    let (revision, minor) = fadt::REVISION;
    let start = table(w, links, b"FACP", revision, |w| {
        let mut bytes = [0; fadt::LENGTH];
        let mut put = |at: usize, value: &[u8]| {
            if let Some(field) = bytes.get_mut(at..at + value.len()) {
                field.copy_from_slice(value);
            }
        };
        let mut flags = fadt::WBINVD | fadt::PROC_C1 | fadt::SLP_BUTTON;
        match facts.hardware {
            Hardware::Full {
                sci,
                base,
                gpe0,
                command,
            } => {
                flags |= fadt::USE_PLATFORM_CLOCK;
                put(fadt::SCI_INT, &u16::from(sci).to_le_bytes());
                if let Some(port) = command {
                    put(fadt::SMI_CMD, &u32::from(port).to_le_bytes());
                    put(fadt::ACPI_ENABLE, &[acpi_pm::ACPI_ENABLE]);
                    put(fadt::ACPI_DISABLE, &[acpi_pm::ACPI_DISABLE]);
                }
                for (block, first) in BLOCKS
                    .iter()
                    .zip([Some(base), Some(base), Some(base), gpe0])
                {
                    let Some(first) = first else { continue };
                    // Twice: as a 32-bit port, and as an address with its access size.
                    let port = first + block.offset;
                    put(block.at, &u32::from(port).to_le_bytes());
                    put(block.length_at, &[block.ports as u8]);
                    let address = Gas::port(port, block.ports, block.access);
                    put(block.x_at, &address.bytes());
                }
            }
            Hardware::Reduced { .. } => {
                flags |= fadt::PWR_BUTTON | fadt::HW_REDUCED_ACPI | fadt::RESET_REG_SUP;
                for (at, offset) in [
                    (fadt::SLEEP_CONTROL_REG, ged::SLEEP_CONTROL),
                    (fadt::SLEEP_STATUS_REG, ged::SLEEP_STATUS),
                    (fadt::RESET_REG, ged::RESET),
                ] {
                    put(at, &Gas::byte(ged::REGISTERS + offset).bytes());
                }
                put(fadt::RESET_VALUE, &[ged::RESET_VALUE]);
            }
        }
        put(fadt::P_LVL2_LAT, &fadt::NO_STATE.to_le_bytes());
        put(fadt::P_LVL3_LAT, &fadt::NO_STATE.to_le_bytes());
        let mut boot = fadt::BOOT_LEGACY_DEVICES | fadt::BOOT_NO_VGA;
        match facts.has_rtc {
            true => put(fadt::CENTURY, &[rtc::CENTURY as u8]),
            false => boot |= fadt::BOOT_NO_CMOS_RTC,
        }
        if facts.has_keyboard_controller {
            boot |= fadt::BOOT_8042;
        }
        put(fadt::IAPC_BOOT_ARCH, &boot.to_le_bytes());
        if !facts.sleep.is_some_and(|states| states.s3) {
            flags |= fadt::FIX_RTC;
        }
        if let Some((port, value)) = facts.reset {
            flags |= fadt::RESET_REG_SUP;
            put(fadt::RESET_REG, &Gas::port(port, 1, BYTE).bytes());
            put(fadt::RESET_VALUE, &[value]);
        }
        put(fadt::FLAGS, &flags.to_le_bytes());
        put(fadt::MINOR_VERSION, &[minor]);
        w.raw(&bytes[HEADER..]);
    });
    for (at, size, target) in [
        (fadt::FIRMWARE_CTRL, 4, facs),
        (fadt::DSDT, 4, dsdt),
        (fadt::X_DSDT, 8, dsdt),
    ] {
        let at = start + at;
        links.add(Link::Pointer { at, size, target });
    }
    start
}

/// A block of ports in the FADT.
struct Block {
    at: usize,
    length_at: usize,
    x_at: usize,
    /// From the first port of its hardware on.
    offset: u16,
    ports: u16,
    access: u8,
}

/// Access sizes of a generic address structure.
const BYTE: u8 = 1;
const WORD: u8 = 2;
const DWORD: u8 = 3;

/// Blocks of the fixed hardware, and the general-purpose events.
const BLOCKS: [Block; 4] = [
    Block {
        at: fadt::PM1A_EVT_BLK,
        length_at: fadt::PM1_EVT_LEN,
        x_at: fadt::X_PM1A_EVT_BLK,
        offset: acpi_pm::EVENT,
        ports: acpi_pm::EVENT_PORTS,
        access: WORD,
    },
    Block {
        at: fadt::PM1A_CNT_BLK,
        length_at: fadt::PM1_CNT_LEN,
        x_at: fadt::X_PM1A_CNT_BLK,
        offset: acpi_pm::CONTROL,
        ports: acpi_pm::CONTROL_PORTS,
        access: WORD,
    },
    Block {
        at: fadt::PM_TMR_BLK,
        length_at: fadt::PM_TMR_LEN,
        x_at: fadt::X_PM_TMR_BLK,
        offset: acpi_pm::TIMER,
        ports: acpi_pm::TIMER_PORTS,
        access: DWORD,
    },
    Block {
        at: fadt::GPE0_BLK,
        length_at: fadt::GPE0_BLK_LEN,
        x_at: fadt::X_GPE0_BLK,
        offset: 0,
        ports: acpi_pm::GPE0_PORTS,
        access: BYTE,
    },
];

/// A generic address structure (ACPI 6.4, section 5.2.3.2).
struct Gas {
    space: u8,
    bits: u8,
    access: u8,
    address: u64,
}

impl Gas {
    const fn port(port: u16, ports: u16, access: u8) -> Self {
        Self {
            space: 1,
            bits: 8 * ports as u8,
            access,
            address: port as u64,
        }
    }

    /// A byte of memory.
    const fn byte(address: u64) -> Self {
        Self {
            space: 0,
            bits: 8,
            access: BYTE,
            address,
        }
    }

    fn bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&[self.space, self.bits, 0, self.access]);
        bytes[4..].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }
}

/// Adds the MADT: who takes interrupts, and how they come.
pub(super) fn madt(w: &mut Writer<'_>, links: &mut Links, facts: &Facts<'_>) -> usize {
    table(w, links, b"APIC", madt::REVISION, |w| {
        w.raw(&(lapic::BASE as u32).to_le_bytes());
        let flags = if facts.has_pic { madt::PCAT_COMPAT } else { 0 };
        w.raw(&flags.to_le_bytes());
        let mut wide = false;
        for number in 0..facts.max_cpus.max(facts.cpus) {
            let id = (facts.apic_id)(number);
            let flags = match number < facts.cpus {
                true => madt::ENABLED,
                // Nothing can bring it online.
                false => 0,
            };
            if id < madt::X2APIC_IDS && number < madt::X2APIC_IDS as u16 {
                w.raw(&[madt::LOCAL_APIC, 8, number as u8, id as u8]);
                w.raw(&flags.to_le_bytes());
            } else {
                wide = true;
                w.raw(&[madt::X2APIC, 16, 0, 0]);
                w.raw(&id.to_le_bytes());
                w.raw(&flags.to_le_bytes());
                w.raw(&u32::from(number).to_le_bytes());
            }
        }
        let chips = 1 + u32::from(facts.has_second_ioapic);
        for (id, base) in (0..chips).zip([ioapic::BASE, ioapic::SECOND_BASE]) {
            w.raw(&[madt::IO_APIC, 12, id as u8, 0]);
            w.raw(&(base as u32).to_le_bytes());
            w.raw(&(id * ioapic::PINS as u32).to_le_bytes());
        }
        for irq in 0..16 {
            let pin = ioapic::pin_of(IrqLine::new(irq));
            let level = Some(irq) == facts.hardware.sci() || facts.level_irqs().contains(&irq);
            if pin == irq && !level {
                continue;
            }
            let flags = match level {
                true => madt::LEVEL_ACTIVE_HIGH,
                false => madt::CONFORMING,
            };
            w.raw(&[madt::SOURCE_OVERRIDE, 10, 0, irq]);
            w.raw(&u32::from(pin).to_le_bytes());
            w.raw(&flags.to_le_bytes());
        }
        // Of all processors.
        w.raw(&[madt::LOCAL_APIC_NMI, 6, 0xff, 0, 0, madt::LINT1]);
        if wide {
            w.raw(&[madt::X2APIC_NMI, 12, 0, 0, 0xff, 0xff, 0xff, 0xff]);
            w.raw(&[madt::LINT1, 0, 0, 0]);
        }
    })
}

/// Adds the HPET's table: what it is and where. Its period, and what its page may be used for, are not said.
pub(super) fn hpet(w: &mut Writer<'_>, links: &mut Links, id: u32, base: u64) -> usize {
    table(w, links, b"HPET", 1, |w| {
        w.raw(&id.to_le_bytes());
        // An address in memory, of any width.
        w.raw(&[0; 4]);
        w.raw(&base.to_le_bytes());
        let (number, least_ticks, protection) = (0, [0; 2], 0);
        w.raw(&[number]);
        w.raw(&least_ticks);
        w.raw(&[protection]);
    })
}

/// Adds the WAET: one read of the timer is enough; the real-time clock wants its interrupts
/// acknowledged.
pub(super) fn waet(w: &mut Writer<'_>, links: &mut Links) -> usize {
    const ACPI_PM_TIMER_GOOD: u32 = 1 << 1;
    table(w, links, b"WAET", 1, |w| {
        w.raw(&ACPI_PM_TIMER_GOOD.to_le_bytes());
    })
}

/// Adds a list of tables, with addresses of 4 or 8 bytes: the RSDT or the XSDT.
pub(super) fn root(
    w: &mut Writer<'_>,
    links: &mut Links,
    signature: &[u8; 4],
    size: u8,
    tables: &[usize],
) -> usize {
    let start = table(w, links, signature, 1, |w| {
        for _ in tables {
            w.raw([0; 8].get(..size.into()).unwrap_or(&[]));
        }
    });
    for (index, target) in tables.iter().enumerate() {
        let at = start + HEADER + index * usize::from(size);
        let target = *target;
        links.add(Link::Pointer { at, size, target });
    }
    start
}

/// The RSDP without addresses and checksums.
pub(super) fn rsdp() -> [u8; RSDP] {
    let mut bytes = [0; RSDP];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(OEM);
    // Revision and length.
    bytes[15] = 2;
    bytes[20] = RSDP as u8;
    bytes
}

/// Sets the byte at `at` so that all bytes sum up to zero.
pub fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}
