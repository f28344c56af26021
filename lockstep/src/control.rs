//! Control registers of the worlds.

use crate::case::World;
use crate::layout;

/// Control registers of a world, for all that run it.
pub(crate) struct Control {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
}

/// PE, MP, ET, NE, WP, AM, PG.
const CR0_PAGING: u64 = 0x8005_0033;
/// PE, MP, ET, NE.
const CR0_PROTECTED: u64 = 0x33;
/// MP, ET, NE.
const CR0_REAL: u64 = 0x32;
/// OSFXSR, OSXMMEXCPT.
const CR4_SSE: u64 = 0x600;
/// PAE, UMIP, FSGSBASE, OSXSAVE.
const CR4_LONG: u64 = CR4_SSE | 1 << 5 | 1 << 11 | 1 << 16 | 1 << 18;
/// SCE, LME, LMA, NXE.
const EFER_LONG: u64 = 0xd01;

pub(crate) fn control(world: World) -> Control {
    match world {
        World::Real16 => Control {
            cr0: CR0_REAL,
            cr3: 0,
            cr4: CR4_SSE,
            efer: 0,
        },
        World::Kernel32 => Control {
            cr0: CR0_PROTECTED,
            cr3: 0,
            cr4: CR4_SSE,
            efer: 0,
        },
        _ => Control {
            cr0: CR0_PAGING,
            cr3: layout::PML4,
            cr4: CR4_LONG,
            efer: EFER_LONG,
        },
    }
}
