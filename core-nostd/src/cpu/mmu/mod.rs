//! The memory management unit of the software CPU: linear addresses in, loads and stores out.
//!
//! Source: Intel SDM volume 3, chapter 4 "Paging"; chapters are named where they are followed.
//! [`MmuRegisters::walk`] is the processor's walk through the tables, [`Tlb`] remembers what it
//! found, [`Mmu`] keeps both in step with the control registers and makes checked accesses.
//!
//! The caller has formed the linear address (segmentation, truncation to 32 bits where code is not
//! 64-bit) and has checked that values which go to control registers are allowed. An access that
//! passes the end of a 32-bit address space goes on at its beginning; in compatibility mode, of
//! which nothing here knows, it goes on above 4 GiB.

mod access;
mod physical;
mod tables;
#[cfg(test)]
mod testing;
mod tlb;
mod walk;

pub use access::ACCESS_MAX;
pub use physical::{HostPage, PAGE_BYTES, PhysicalMemory, RamOnly, Word};
pub(in crate::cpu) use tables::{Entry, Format};
#[cfg(test)]
pub(in crate::cpu) use tables::{PAGE_SIZE, PRESENT};
pub use tables::{PagingMode, PagingRegisters};
pub(in crate::cpu) use tlb::layout;
pub use tlb::{HOT_ENTRIES, LARGE_SETS, SMALL_SETS, Tlb};
pub use walk::{
    Access, Fault, FaultKind, MmuRegisters, Mode, Page, PageFaultCode, PageFlags, PagingModel,
    ReservedPointer,
};

use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

/// Bits 11 to 0 of CR3 with CR4.PCIDE: the process-context identifier.
const PCID: u64 = 0xfff;
/// Bit 63 of MOV to CR3's operand with CR4.PCIDE: the context's translations are kept.
const KEEP: u64 = 1 << 63;

/// What INVPCID invalidates (SDM volume 2, INVPCID; the types are its register operand).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invpcid {
    /// Type 0: one address in one context, global translations excepted.
    Address {
        /// Process context, 0 to 4095.
        pcid: u16,
        /// Linear address.
        linear: u64,
    },
    /// Type 1: one context, global translations excepted.
    Context {
        /// Process context, 0 to 4095.
        pcid: u16,
    },
    /// Type 2: all contexts and global translations.
    All,
    /// Type 3: all contexts, global translations excepted.
    AllButGlobal,
}

/// A processor's memory management unit. It is valid when zero, and large: it belongs in mapped
/// memory. [`load`](Self::load) tells it what processor it is in.
#[repr(C)]
pub struct Mmu {
    tlb: Tlb,
    registers: MmuRegisters,
}

/// Where the translations are in [`Mmu`].
pub(in crate::cpu) const TLB_OFFSET: usize = core::mem::offset_of!(Mmu, tlb);
/// Where CR0 and CR4 are.
pub(in crate::cpu) const CR0_OFFSET: usize = core::mem::offset_of!(Mmu, registers.paging.cr0);
pub(in crate::cpu) const CR4_OFFSET: usize = core::mem::offset_of!(Mmu, registers.paging.cr4);

impl Default for Mmu {
    fn default() -> Self {
        Self::new()
    }
}

impl Mmu {
    /// One without paging. Use this to initialise a `static`, and zeroed memory elsewhere.
    pub const fn new() -> Self {
        Self {
            tlb: Tlb::new(),
            registers: MmuRegisters::ZERO,
        }
    }

    /// What decides translations now.
    pub const fn registers(&self) -> &MmuRegisters {
        &self.registers
    }

    /// The translations, to forget some when guest physical memory changes under them.
    pub const fn tlb(&mut self) -> &mut Tlb {
        &mut self.tlb
    }

    /// Takes over the registers of a processor that was reset or loaded, and forgets all
    /// translations. PAE's pointers are read from memory, as they are not saved; those with
    /// reserved bits, which no processor could have loaded, map nothing.
    pub fn load(&mut self, registers: &MmuRegisters, memory: &mut impl PhysicalMemory) {
        self.registers = *registers;
        self.registers.pointers = self.registers.load_pointers(memory).unwrap_or_default();
        self.tlb.forget_all();
    }

    /// The process context of translations: 0 without CR4.PCIDE (SDM section 4.10.1).
    const fn context(&self) -> u16 {
        if self.registers.paging.cr4_flags().contains(Cr4Flags::PCID) {
            (self.registers.paging.cr3 & PCID) as u16
        } else {
            0
        }
    }

    /// Loads PAE's pointers as the new registers say, if they are in use, and takes them over.
    fn change(
        &mut self,
        paging: PagingRegisters,
        memory: &mut impl PhysicalMemory,
    ) -> Result<(), ReservedPointer> {
        let new = MmuRegisters {
            paging,
            ..self.registers
        };
        let pointers = new.load_pointers(memory)?;
        self.registers = MmuRegisters { pointers, ..new };
        Ok(())
    }

    /// MOV to CR3. Bit 63 is not kept (SDM section 4.10.4.1).
    ///
    /// # Errors
    /// #GP(0) for PAE's pointers; nothing has changed.
    pub fn write_cr3(
        &mut self,
        value: u64,
        memory: &mut impl PhysicalMemory,
    ) -> Result<(), ReservedPointer> {
        let with_contexts = self.registers.paging.cr4_flags().contains(Cr4Flags::PCID);
        let mut cr3 = value;
        if with_contexts {
            cr3 &= !KEEP;
        }
        let paging = PagingRegisters {
            cr3,
            ..self.registers.paging
        };
        self.change(paging, memory)?;
        if !with_contexts {
            self.tlb.forget_local();
        } else if value & KEEP == 0 {
            self.tlb.forget_context(self.context());
        } else {
            self.tlb.cool_local();
        }
        Ok(())
    }

    /// MOV to CR0, with EFER as it is after it (a processor sets and clears EFER.LMA when CR0.PG
    /// changes).
    ///
    /// # Errors
    /// #GP(0) for PAE's pointers; nothing has changed.
    pub fn write_cr0(
        &mut self,
        cr0: u64,
        efer: u64,
        memory: &mut impl PhysicalMemory,
    ) -> Result<(), ReservedPointer> {
        let old = self.registers.paging;
        let changed = Cr0Flags::from_bits_retain(old.cr0 ^ cr0);
        let paging = PagingRegisters { cr0, efer, ..old };
        // SDM section 4.4.1.
        if changed
            .intersects(Cr0Flags::PAGING | Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH)
        {
            self.change(paging, memory)?;
        } else {
            self.registers.paging = paging;
        }
        if changed.contains(Cr0Flags::PAGING) || old.efer != efer {
            self.tlb.forget_all();
        } else if changed.contains(Cr0Flags::WRITE_PROTECT) {
            self.tlb.cool();
        }
        Ok(())
    }

    /// MOV to CR4. More is forgotten than SDM section 4.10.4.1 asks for where bits change that
    /// systems set once.
    ///
    /// # Errors
    /// #GP(0) for PAE's pointers; nothing has changed.
    pub fn write_cr4(
        &mut self,
        cr4: u64,
        memory: &mut impl PhysicalMemory,
    ) -> Result<(), ReservedPointer> {
        let old = self.registers.paging;
        let changed = Cr4Flags::from_bits_retain(old.cr4 ^ cr4);
        let paging = PagingRegisters { cr4, ..old };
        // SDM section 4.4.1.
        if changed.intersects(
            Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
                | Cr4Flags::PAGE_GLOBAL
                | Cr4Flags::PAGE_SIZE_EXTENSION
                | Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ) {
            self.change(paging, memory)?;
        } else {
            self.registers.paging = paging;
        }
        if changed.intersects(
            Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
                | Cr4Flags::PAGE_GLOBAL
                | Cr4Flags::PAGE_SIZE_EXTENSION
                | Cr4Flags::L5_PAGING
                | Cr4Flags::PCID
                | Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ) {
            self.tlb.forget_all();
        } else if changed.intersects(
            Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION
                | Cr4Flags::PROTECTION_KEY_USER
                | Cr4Flags::PROTECTION_KEY_SUPERVISOR,
        ) {
            self.tlb.cool();
        }
        Ok(())
    }

    /// WRMSR to EFER.
    pub fn write_efer(&mut self, efer: u64) {
        let changed = EferFlags::from_bits_retain(self.registers.paging.efer ^ efer);
        self.registers.paging.efer = efer;
        if changed.intersects(EferFlags::NO_EXECUTE_ENABLE | EferFlags::LONG_MODE_ACTIVE) {
            self.tlb.forget_all();
        }
    }

    /// Protection keys of user-mode addresses: WRPKRU, XRSTOR.
    pub fn write_pkru(&mut self, pkru: u32) {
        if self.registers.pkru != pkru {
            self.registers.pkru = pkru;
            self.tlb.cool();
        }
    }

    /// Protection keys of supervisor-mode addresses: WRMSR to IA32_PKRS.
    pub fn write_pkrs(&mut self, pkrs: u32) {
        if self.registers.pkrs != pkrs {
            self.registers.pkrs = pkrs;
            self.tlb.cool();
        }
    }

    /// Lets bit 20 of physical addresses through, or forces it to 0.
    pub fn set_a20(&mut self, enabled: bool) {
        if self.registers.a20_masked == enabled {
            self.registers.a20_masked = !enabled;
            self.tlb.forget_all();
        }
    }

    /// INVLPG: the page around an address, in the current context, and global translations.
    pub fn invlpg(&mut self, linear: u64) {
        self.tlb.forget_page(linear, self.context(), true);
    }

    /// INVPCID.
    pub fn invpcid(&mut self, what: Invpcid) {
        match what {
            Invpcid::Address { pcid, linear } => self.tlb.forget_page(linear, pcid, false),
            Invpcid::Context { pcid } => self.tlb.forget_context(pcid),
            Invpcid::All => self.tlb.forget_all(),
            Invpcid::AllButGlobal => self.tlb.forget_local(),
        }
    }
}
