//! Interrupt controllers as `info lapic` and `info pic` show them.
//!
//! Sources: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller"; 82093AA and 8259A datasheets.

use core::fmt::{self, Write as _};

use thimble_core::cpu::LocalApicState;
use thimble_core::irq::ioapic::{IoApicState, entry};
use thimble_core::irq::pic::Chip;
use thimble_core::machine::Controllers;

use super::Text;

/// Delivery modes, in LVT entries and in those of the I/O APIC.
const LVT_MODES: [&str; 8] = ["Fixed", "...", "SMI", "...", "NMI", "INIT", "...", "ExtINT"];
const IOAPIC_MODES: [&str; 8] = [
    "fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT",
];

/// The first register of the redirection table.
const REDIRECTION: u8 = 0x10;

const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;
const PENDING: u32 = 1 << 12;
/// SVR: the APIC is on.
const ENABLED: u32 = 1 << 8;
/// SVR: focus checking is off.
const NO_FOCUS: u32 = 1 << 9;
/// ICR: the destination is logical; the interrupt is asserted.
const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;

const fn choose(set: bool, yes: &'static str, no: &'static str) -> &'static str {
    if set { yes } else { no }
}

/// A name of a field of three bits.
fn named(names: &[&'static str; 8], number: u64) -> &'static str {
    names.get(number as usize & 7).unwrap_or(&"")
}

/// Writes the local APIC of processor `index`.
pub(super) fn local(index: u32, apic: &LocalApicState, text: &mut Text<'_>) -> fmt::Result {
    writeln!(text, "dumping local APIC state for CPU {index:<2}\n")?;
    for (name, value) in [
        ("LVT0", apic.lvt_lint0),
        ("LVT1", apic.lvt_lint1),
        ("LVTPC", apic.lvt_pmc),
        ("LVTERR", apic.lvt_error),
        ("LVTTHMR", apic.lvt_thermal),
        ("LVTT", apic.lvt_timer),
    ] {
        lvt(name, value, text)?;
    }
    // Bits 3, 1 and 0: a power of two, from 2 on and round to 1.
    let divide = apic.timer_divide >> 1 & 4 | apic.timer_divide & 3;
    let (dcr, divisor) = (apic.timer_divide & 0xf, 1_u32 << ((divide + 1) & 7));
    let (initial, current) = (apic.timer_initial, apic.timer_current);
    writeln!(
        text,
        "Timer\t DCR=0x{dcr:x} (divide by {divisor}) initial_count = {initial} current_count = {current}"
    )?;
    let (svr, vector) = (apic.svr, apic.svr & 0xff);
    let enabled = choose(svr & ENABLED != 0, "enabled", "disabled");
    let focus = choose(svr & NO_FOCUS != 0, "on", "off");
    writeln!(
        text,
        "SPIV\t 0x{svr:08x} APIC {enabled}, focus={focus}, spurious vec {vector}"
    )?;
    command(apic, text)?;
    writeln!(text, "ESR\t 0x{:08x}", apic.esr)?;
    vectors("ISR", &apic.isr, &apic.tmr, text)?;
    vectors("IRR", &apic.irr, &apic.tmr, text)?;
    // Fields, but for the priorities.
    let (dfr, ldr) = (apic.dfr >> 28, apic.ldr >> 24);
    write!(
        text,
        "\nAPR 0x{:02x} TPR 0x{:02x} DFR 0x{dfr:02x} LDR 0x{ldr:02x}",
        apic.apr, apic.tpr
    )?;
    if dfr == 0 {
        write!(text, "(cluster {}: id {})", ldr >> 4, ldr & 0xf)?;
    }
    writeln!(text, " PPR 0x{:02x}", apic.ppr)
}

fn lvt(name: &str, value: u32, text: &mut Text<'_>) -> fmt::Result {
    let polarity = choose(value & ACTIVE_LOW != 0, "active-lo", "active-hi");
    let trigger = choose(value & LEVEL != 0, "level", "edge");
    let masked = choose(value & MASKED != 0, "masked", "");
    let pending = choose(value & PENDING != 0, "pending", "");
    let timer = match (name, value >> 17 & 3) {
        ("LVTT", 0) => "one-shot",
        ("LVTT", 1) => "periodic",
        ("LVTT", 2) => "tsc-deadline",
        ("LVTT", _) => "...",
        _ => "",
    };
    let mode = value >> 8 & 7;
    let delivery = named(&LVT_MODES, mode.into());
    write!(
        text,
        "{name}\t 0x{value:08x} {polarity} {trigger:<5} {masked:<6} {pending:<7} {timer:<12} {delivery:<6}"
    )?;
    if mode == 0 {
        write!(text, " (vec {})", value & 0xff)?;
    }
    writeln!(text)
}

fn command(apic: &LocalApicState, text: &mut Text<'_>) -> fmt::Result {
    let [low, high] = apic.icr;
    let logical = low & LOGICAL != 0;
    let kind = choose(logical, "logical", "physical");
    let trigger = choose(low & LEVEL != 0, "level", "edge");
    let level = choose(low & ASSERT != 0, "assert", "de-assert");
    let shorthand = match low >> 18 & 3 {
        0 => "no-shorthand",
        1 => "self",
        2 => "all-self",
        _ => "all",
    };
    writeln!(
        text,
        "ICR\t 0x{low:08x} {kind} {trigger} {level} {shorthand}"
    )?;
    write!(text, "ICR2\t 0x{high:08x}")?;
    if low >> 18 & 3 == 0 {
        let destination = high >> 24;
        match logical {
            true => write!(text, " mask {destination:08b}")?,
            false => write!(text, " cpu {destination} (APIC ID)")?,
        }
    }
    writeln!(text)
}

/// Vectors whose bits are set, and which of them are level-triggered.
fn vectors(name: &str, bits: &[u32; 8], levels: &[u32; 8], text: &mut Text<'_>) -> fmt::Result {
    write!(text, "{name}\t ")?;
    let mut none = true;
    for (word, (bits, levels)) in bits.iter().zip(levels).enumerate() {
        for bit in (0..32).filter(|bit| bits >> bit & 1 != 0) {
            let level = choose(levels >> bit & 1 != 0, "(level)", "");
            write!(text, "{}{level} ", 32 * word + bit)?;
            none = false;
        }
    }
    writeln!(text, "{}", choose(none, "(none)", ""))
}

/// Writes the I/O APIC, both PICs where there are some, and the second I/O APIC, which QEMU calls by the first one's name.
pub(super) fn board(controllers: &Controllers, text: &mut Text<'_>) -> fmt::Result {
    ioapic(&controllers.ioapic, text)?;
    if let Some(pics) = &controllers.pic {
        pic(1, &pics.slave, text)?;
        pic(0, &pics.master, text)?;
    }
    match &controllers.ioapic2 {
        Some(second) => ioapic(second, text),
        None => Ok(()),
    }
}

fn ioapic(state: &IoApicState, text: &mut Text<'_>) -> fmt::Result {
    let (id, select) = (state.id, state.select);
    write!(text, "ioapic0: ver=0x20 id=0x{id:02x} sel=0x{select:02x}")?;
    if let Some(half) = select.checked_sub(REDIRECTION) {
        write!(text, " (redir[{}])", half >> 1)?;
    }
    writeln!(text)?;
    for (pin, value) in state.redirection.iter().enumerate() {
        // Physical ids have four bits.
        let bits = if value & entry::LOGICAL != 0 {
            0xff
        } else {
            0xf
        };
        let (destination, vector) = (value >> entry::DESTINATION & bits, value & entry::VECTOR);
        let mode = named(&IOAPIC_MODES, value >> entry::DELIVERY_MODE);
        let polarity = choose(value & u64::from(ACTIVE_LOW) != 0, "active-lo", "active-hi");
        let trigger = choose(value & entry::LEVEL != 0, "level", "edge");
        let masked = choose(value & entry::MASKED != 0, "masked", "");
        let logical = choose(value & entry::LOGICAL != 0, "logical", "physical");
        writeln!(
            text,
            "  pin {pin:<2} 0x{value:016x} dest={destination:x} vec={vector:<3} {polarity} {trigger:<5} {masked:<6} {mode:<6} {logical}"
        )?;
    }
    let levels = pins(state, |value| value & entry::LEVEL != 0) & state.pins;
    set("IRR", "     ", levels | state.edges, text)?;
    let remote = pins(state, |value| value & entry::REMOTE_IRR != 0);
    set("Remote IRR", "", remote, text)
}

/// The inputs whose entries are like this.
fn pins(state: &IoApicState, like: impl Fn(u64) -> bool) -> u32 {
    let entries = state.redirection.iter().enumerate();
    entries.fold(0, |pins, (pin, value)| {
        pins | u32::from(like(*value)) << pin
    })
}

fn set(name: &str, space: &str, bits: u32, text: &mut Text<'_>) -> fmt::Result {
    write!(text, "  {name}{space}")?;
    if bits == 0 {
        text.write_str(" (none)")?;
    }
    for bit in (0..32).filter(|bit| bits >> bit & 1 != 0) {
        write!(text, " {bit}")?;
    }
    writeln!(text)
}

fn pic(number: u8, chip: &Chip, text: &mut Text<'_>) -> fmt::Result {
    let (irr, imr, isr) = (chip.irr(), chip.imr, chip.isr);
    let (top, base, elcr) = (chip.top, chip.base, chip.elcr);
    let (read_isr, nested) = (u8::from(chip.read_isr), u8::from(chip.special_fully_nested));
    writeln!(
        text,
        "pic{number}: irr={irr:02x} imr={imr:02x} isr={isr:02x} hprio={top} irq_base={base:02x} rr_sel={read_isr} elcr={elcr:02x} fnm={nested}"
    )
}
