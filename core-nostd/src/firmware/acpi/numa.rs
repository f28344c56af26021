//! SRAT and SLIT: which processors and which memory belong to which node, and how far nodes are from
//! each other.
//!
//! Follows ACPI 6.4, sections 5.2.16 and 5.2.17.

use super::aml::Writer;
use super::tables::table;
use super::{Facts, Links};
use crate::machine::HIGH_RAM_BASE;

/// The SRAT's version.
const SRAT_REVISION: u8 = 1;
/// Entries of the SRAT.
const LOCAL_APIC: u8 = 0;
const MEMORY: u8 = 1;
const X2APIC: u8 = 2;
/// The first id that a local APIC's entry has no room for.
const X2APIC_IDS: u32 = 255;
const ENABLED: u32 = 1;

/// RAM that guests are told of: there is none between.
const HOLE: (u64, u64) = (0xa_0000, 0x10_0000);

/// Adds the SRAT.
pub(super) fn srat(w: &mut Writer<'_>, links: &mut Links, facts: &Facts<'_>) -> usize {
    table(w, links, b"SRAT", SRAT_REVISION, |w| {
        w.raw(&1u32.to_le_bytes());
        w.raw(&[0; 8]);
        for (number, node) in (0..).zip(facts.numa.cpus) {
            processor(w, (facts.apic_id)(number), *node);
        }
        // Offsets in RAM, and what is added to give an address.
        let (low, high) = facts.ram;
        let places = [
            (0, HOLE.0.min(low), 0),
            (HOLE.1.min(low), low, 0),
            (low, low.saturating_add(high), HIGH_RAM_BASE - low),
        ];
        let (mut start, mut entries) = (0u64, 0);
        for (node, bytes) in (0..).zip(facts.numa.memory) {
            let end = start.saturating_add(*bytes);
            for (first, last, add) in places {
                let (first, last) = (first.max(start), last.min(end));
                if first < last {
                    memory(w, node, first + add, last - first, ENABLED);
                    entries += 1;
                }
            }
            start = end;
        }
        // As many as QEMU has, for guests that count them: those left over say nothing.
        for _ in entries..facts.numa.memory.len() + 2 {
            memory(w, 0, 0, 0, 0);
        }
    })
}

fn processor(w: &mut Writer<'_>, id: u32, node: u8) {
    if id < X2APIC_IDS {
        w.raw(&[LOCAL_APIC, 16, node, id as u8]);
        w.raw(&ENABLED.to_le_bytes());
        w.raw(&[0; 8]);
    } else {
        w.raw(&[X2APIC, 24, 0, 0, node, 0, 0, 0]);
        w.raw(&id.to_le_bytes());
        w.raw(&ENABLED.to_le_bytes());
        w.raw(&[0; 8]);
    }
}

fn memory(w: &mut Writer<'_>, node: u32, address: u64, length: u64, flags: u32) {
    w.raw(&[MEMORY, 40]);
    w.raw(&node.to_le_bytes());
    w.raw(&[0; 2]);
    w.raw(&address.to_le_bytes());
    w.raw(&length.to_le_bytes());
    w.raw(&[0; 4]);
    w.raw(&flags.to_le_bytes());
    w.raw(&[0; 8]);
}

/// Adds the SLIT.
pub(super) fn slit(w: &mut Writer<'_>, links: &mut Links, facts: &Facts<'_>) -> usize {
    table(w, links, b"SLIT", 1, |w| {
        w.raw(&(facts.numa.memory.len() as u64).to_le_bytes());
        w.raw(facts.numa.distances);
    })
}
