//! The state of one processor: what both accelerators run, save and load.
//!
//! Names are those of the AMD64 Architecture Programmer's Manual and the Intel SDM. The struct is
//! plain data of a fixed size and is its own saved form; values loaded from outside are checked
//! by [`CpuState::validate`]. Power-on values follow Intel SDM volume 3, table "IA-32 and
//! Intel 64 Processor States Following Power-up, Reset, or INIT", except for the x87 control
//! word: 37Fh, as firmware finds it under QEMU.
//!
//! Not kept: nested virtualisation, SMM's saved area, AMX tiles.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::{ApicBaseFlags, EferFlags};
use x86_64::registers::mxcsr::MxCsr;
use x86_64::registers::rflags::RFlags;
use x86_64::registers::xcontrol::XCr0Flags;

use super::msr::Msrs;
use crate::devices::Context;
use crate::state::{SavedState, StateError};

/// Bytes of the XSAVE area (standard format) behind the legacy region and the header that are
/// kept: 4096 in all, which is everything but AMX.
pub const XSAVE_EXTENDED_BYTES: usize = 4096 - 576;

/// Indices of [`CpuState::gpr`], in the order of instruction encoding.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8; R9 to R15 follow.
    pub const R8: usize = 8;
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Segment {
    /// Linear address of the first byte.
    pub base: u64,
    /// Offset of the last byte, granularity applied.
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Descriptor type, 4 bits.
    pub kind: u8,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// S: a code or data segment, not a system one.
    pub code_or_data: bool,
    /// P.
    pub present: bool,
    /// AVL.
    pub available: bool,
    /// L: 64-bit code.
    pub long: bool,
    /// D/B: 32-bit.
    pub big: bool,
    /// G: the limit counted pages.
    pub granular: bool,
    /// Holds a null selector: every use faults.
    pub unusable: bool,
}

impl Segment {
    /// A 64 KiB real-mode segment.
    pub const fn real(selector: u16, base: u64, kind: u8) -> Self {
        Self {
            base,
            limit: 0xffff,
            selector,
            kind,
            dpl: 0,
            code_or_data: true,
            present: true,
            available: false,
            long: false,
            big: false,
            granular: false,
            unusable: false,
        }
    }

    /// LDTR or TR after reset; `kind` is the descriptor type.
    const fn system(kind: u8) -> Self {
        Self {
            code_or_data: false,
            ..Self::real(0, 0, kind)
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// x87, MMX and SSE state as FXSAVE knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct FpuState {
    /// Control word.
    pub fcw: u16,
    /// Status word.
    pub fsw: u16,
    /// Abridged tag word: a set bit is a register in use, by physical number.
    pub ftw: u8,
    /// Last opcode, 11 bits.
    pub fop: u16,
    /// Last instruction pointer; of code outside of 64-bit mode CS is in bits 47..32.
    pub fip: u64,
    /// Last data pointer, with its segment in the same way.
    pub fdp: u64,
    /// ST0 to ST7, 80 bits each, little-endian; MMX registers are their low 64 bits.
    pub st: [[u8; 10]; 8],
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// MXCSR.
    pub mxcsr: u32,
}

impl Default for FpuState {
    fn default() -> Self {
        Self {
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            fop: 0,
            fip: 0,
            fdp: 0,
            st: [[0; 10]; 8],
            xmm: [0; 16],
            mxcsr: MxCsr::default().bits(),
        }
    }
}

/// Fixed bytes that are written as one byte string: serde has arrays up to 32 elements only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bytes<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for BytesVisitor<N> {
            type Value = Bytes<N>;

            fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{N} bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes<N>, E> {
                match bytes.try_into() {
                    Ok(bytes) => Ok(Bytes(bytes)),
                    Err(_) => Err(E::invalid_length(bytes.len(), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes<N>, A::Error> {
                let mut bytes = [0; N];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = seq
                        .next_element()?
                        .ok_or_else(|| A::Error::invalid_length(i, &self))?;
                }
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// XSAVE state beyond FXSAVE's: AVX, AVX-512, protection keys and so on, in XSAVE's standard
/// format with the offsets of the processor that wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct ExtendedState {
    /// XSTATE_BV: the components that are not in their initial state.
    pub xstate_bv: u64,
    /// Bytes 576 and up of the area.
    pub area: Bytes<XSAVE_EXTENDED_BYTES>,
}

/// An exception that waits for delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct PendingException {
    /// Its delivery has begun.
    pub injected: bool,
    /// It was raised and has not been looked at yet.
    pub pending: bool,
    /// The vector, 0 to 31.
    pub vector: u8,
    /// Pushed on the handler's stack.
    pub error_code: Option<u32>,
    /// What goes to CR2 or DR6 on delivery.
    pub payload: Option<u64>,
}

/// An interrupt whose delivery has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct PendingInterrupt {
    /// There is one.
    pub injected: bool,
    /// Its vector.
    pub vector: u8,
    /// It comes from an INT instruction.
    pub soft: bool,
}

/// What is on its way into the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Events {
    /// Exception.
    pub exception: PendingException,
    /// Interrupt.
    pub interrupt: PendingInterrupt,
    /// Delivery of an NMI has begun.
    pub nmi_injected: bool,
    /// NMIs that wait.
    pub nmi_pending: bool,
    /// Inside an NMI handler: more are held back until IRET.
    pub nmi_masked: bool,
    /// Interrupts are held back for one instruction after STI (bit 1) or MOV SS (bit 0).
    pub shadow: u8,
    /// Vector of the last start-up IPI.
    pub sipi_vector: u8,
    /// A triple fault waits to be reported.
    pub triple_fault: bool,
}

impl Events {
    /// The delivery of an event has begun, or an exception waits to be looked at.
    pub const fn under_way(&self) -> bool {
        self.exception.injected
            || self.exception.pending
            || self.interrupt.injected
            || self.nmi_injected
    }
}

/// What the processor does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Runs instructions.
    #[default]
    Running,
    /// Waits for INIT: an application processor after reset.
    WaitForInit,
    /// INIT came; waits for a start-up IPI.
    WaitForSipi,
    /// HLT: waits for an interrupt.
    Halted,
    /// A start-up IPI came and has not been acted on.
    SipiReceived,
}

/// Registers of the local APIC by their names in the SDM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct LocalApicState {
    /// ID register, as the current mode (xAPIC or x2APIC) shows it.
    pub id: u32,
    /// Version register.
    pub version: u32,
    /// Task priority.
    pub tpr: u32,
    /// Arbitration priority.
    pub apr: u32,
    /// Processor priority.
    pub ppr: u32,
    /// Logical destination.
    pub ldr: u32,
    /// Destination format.
    pub dfr: u32,
    /// Spurious interrupt vector.
    pub svr: u32,
    /// In service.
    pub isr: [u32; 8],
    /// Trigger mode.
    pub tmr: [u32; 8],
    /// Requested.
    pub irr: [u32; 8],
    /// Error status.
    pub esr: u32,
    /// Interrupt command, low and high half.
    pub icr: [u32; 2],
    /// LVT: CMCI.
    pub lvt_cmci: u32,
    /// LVT: timer.
    pub lvt_timer: u32,
    /// LVT: thermal sensor.
    pub lvt_thermal: u32,
    /// LVT: performance counters.
    pub lvt_pmc: u32,
    /// LVT: LINT0 pin.
    pub lvt_lint0: u32,
    /// LVT: LINT1 pin.
    pub lvt_lint1: u32,
    /// LVT: error.
    pub lvt_error: u32,
    /// Timer: initial count.
    pub timer_initial: u32,
    /// Timer: current count.
    pub timer_current: u32,
    /// Timer: divide configuration.
    pub timer_divide: u32,
}

impl LocalApicState {
    /// LVT mask bit.
    pub const LVT_MASKED: u32 = 1 << 16;

    /// After power-on. The first processor's LINT0 takes the 8259's interrupts at once, which
    /// is what firmware without APIC code (and every emulator's) counts on.
    pub const fn power_on(apic_id: u8, bootstrap: bool) -> Self {
        Self {
            id: (apic_id as u32) << 24,
            version: 0x0005_0014,
            tpr: 0,
            apr: 0,
            ppr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            icr: [0; 2],
            // The version register counts six entries: this one is not among them.
            lvt_cmci: 0,
            lvt_timer: Self::LVT_MASKED,
            lvt_thermal: Self::LVT_MASKED,
            lvt_pmc: Self::LVT_MASKED,
            lvt_lint0: if bootstrap { 0x700 } else { Self::LVT_MASKED },
            lvt_lint1: Self::LVT_MASKED,
            lvt_error: Self::LVT_MASKED,
            timer_initial: 0,
            timer_current: 0,
            timer_divide: 0,
        }
    }
}

/// The whole state of one processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct CpuState {
    /// General registers by [`gpr`]'s indices.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; see [`RFlags`].
    pub rflags: u64,
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// CR0; see [`Cr0Flags`].
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4; see [`Cr4Flags`].
    pub cr4: u64,
    /// CR8: the task priority's class.
    pub cr8: u64,
    /// EFER; see [`EferFlags`].
    pub efer: u64,
    /// IA32_APIC_BASE; see [`ApicBaseFlags`].
    pub apic_base: u64,
    /// XCR0; see [`XCr0Flags`].
    pub xcr0: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// x87, MMX, SSE.
    pub fpu: FpuState,
    /// AVX and later.
    pub extended: ExtendedState,
    /// Model-specific registers.
    pub msrs: Msrs,
    /// What is on its way in.
    pub events: Events,
    /// What it does.
    pub activity: Activity,
    /// Local APIC; `None` on a processor without one.
    pub apic: Option<LocalApicState>,
}

impl CpuState {
    /// All segment registers with their names, in the order in which dumps show them.
    pub const fn named_segments(&self) -> [(&'static str, &Segment); 8] {
        [
            ("ES", &self.es),
            ("CS", &self.cs),
            ("SS", &self.ss),
            ("DS", &self.ds),
            ("FS", &self.fs),
            ("GS", &self.gs),
            ("LDT", &self.ldtr),
            ("TR", &self.tr),
        ]
    }

    /// After power-on or a reset of the machine. `signature` is EAX of CPUID leaf 1, which RDX
    /// shows; `bootstrap` tells the first processor from those that wait for their start.
    pub fn power_on(apic_id: u8, bootstrap: bool, signature: u32) -> Self {
        let mut gpr = [0; 16];
        gpr[gpr::RDX] = u64::from(signature);
        let data = Segment::real(0, 0, 3);
        let table = DescriptorTable {
            base: 0,
            limit: 0xffff,
        };
        let mut apic_base = ApicBaseFlags::LAPIC_ENABLE.bits() | 0xfee0_0000;
        if bootstrap {
            apic_base |= ApicBaseFlags::BSP.bits();
        }
        Self {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            es: data,
            cs: Segment::real(0xf000, 0xffff_0000, 0xb),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ldtr: Segment::system(2),
            tr: Segment::system(0xb),
            gdtr: table,
            idtr: table,
            cr0: (Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH | Cr0Flags::EXTENSION_TYPE)
                .bits(),
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            apic_base,
            xcr0: XCr0Flags::X87.bits(),
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            fpu: FpuState::default(),
            extended: ExtendedState::default(),
            msrs: Msrs::power_on(),
            events: Events::default(),
            activity: if bootstrap {
                Activity::Running
            } else {
                Activity::WaitForInit
            },
            apic: Some(LocalApicState::power_on(apic_id, bootstrap)),
        }
    }

    /// After INIT (Intel SDM volume 3, the table of states after power-up, reset and INIT): as after
    /// power-on, but for the caches' bits in CR0, x87, SSE and XCR0, the MSRs and APIC_BASE. The
    /// bootstrap processor starts over, others wait for their start. The local APIC is reset by
    /// whoever models it.
    pub fn init(&mut self, signature: u32) {
        let kept = Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH;
        let bootstrap = self.apic_base & ApicBaseFlags::BSP.bits() != 0;
        let new = Self::power_on(0, bootstrap, signature);
        *self = Self {
            cr0: new.cr0 & !kept.bits() | self.cr0 & kept.bits(),
            apic_base: self.apic_base,
            xcr0: self.xcr0,
            fpu: self.fpu,
            extended: self.extended.clone(),
            msrs: self.msrs.clone(),
            apic: self.apic,
            activity: match bootstrap {
                true => Activity::Running,
                false => Activity::WaitForSipi,
            },
            ..new
        };
    }

    /// Starts a processor that waits for it, in real mode at the beginning of a page below 1 MiB:
    /// what a start-up IPI does.
    pub fn start_up(&mut self, page: u8) {
        self.cs = Segment::real(u16::from(page) << 8, u64::from(page) << 12, 0xb);
        self.rip = 0;
        self.activity = Activity::Running;
    }

    /// Refuses what no processor can be in. What one processor model lacks and another has is
    /// the accelerator's to refuse.
    pub fn validate(&self) -> Result<(), StateError> {
        let check = |good: bool, name| {
            if good {
                Ok(())
            } else {
                Err(StateError::Invalid(name))
            }
        };
        let segments = [
            &self.es, &self.cs, &self.ss, &self.ds, &self.fs, &self.gs, &self.ldtr, &self.tr,
        ];
        check(segments.iter().all(|s| s.kind < 16 && s.dpl < 4), "segment")?;
        let rflags = self.rflags;
        let cr0 = Cr0Flags::from_bits_retain(self.cr0);
        let cr4 = Cr4Flags::from_bits_retain(self.cr4);
        let efer = EferFlags::from_bits_retain(self.efer);
        let paging = cr0.contains(Cr0Flags::PAGING);
        let lma = efer.contains(EferFlags::LONG_MODE_ACTIVE);
        check(
            rflags & 2 != 0 && rflags & !(RFlags::all().bits() | 2) == 0,
            "rflags",
        )?;
        check(
            self.cr0 >> 32 == 0
                && (!paging || cr0.contains(Cr0Flags::PROTECTED_MODE_ENABLE))
                && (!cr0.contains(Cr0Flags::NOT_WRITE_THROUGH)
                    || cr0.contains(Cr0Flags::CACHE_DISABLE)),
            "cr0",
        )?;
        check(
            lma == (paging && efer.contains(EferFlags::LONG_MODE_ENABLE)),
            "efer",
        )?;
        check(
            !lma || cr4.contains(Cr4Flags::PHYSICAL_ADDRESS_EXTENSION),
            "cr4",
        )?;
        check(self.cr8 < 16, "cr8")?;
        check(lma || self.rip >> 32 == 0, "rip")?;
        check(self.dr6 >> 32 == 0, "dr6")?;
        check(self.dr7 >> 32 == 0, "dr7")?;
        check(self.xcr0 & 1 != 0, "xcr0")?;
        check(self.fpu.mxcsr >> 16 == 0, "mxcsr")?;
        check(self.fpu.fop < 0x800, "fop")?;
        check(self.events.shadow < 4, "shadow")?;
        check(self.events.exception.vector < 32, "exception")?;
        Ok(())
    }
}

impl Default for CpuState {
    fn default() -> Self {
        Self::power_on(0, true, 0)
    }
}

impl SavedState for CpuState {
    const NAME: &'static str = "cpu";
    const VERSION: u16 = 1;
    type Saved = Self;

    fn save(&self) -> Self {
        self.clone()
    }

    fn load(&mut self, saved: Self, _cx: &mut Context<'_>) -> Result<(), StateError> {
        saved.validate()?;
        *self = saved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::Bench;
    use crate::state::{load, save};

    #[test]
    fn round_trips_and_refuses() {
        let mut state = CpuState::power_on(3, false, 0x600f12);
        state.fpu.xmm[5] = 0x1234_5678_9abc_def0_1122_3344_5566_7788;
        state.extended.area.0[XSAVE_EXTENDED_BYTES - 1] = 9;
        state.msrs.set(0xc000_0082, 0xffff_ffff_8000_0000);
        state.msrs.set(0x1234, 5);
        let mut buffer = std::vec![0; 0x8000];
        let length = save(&state, &mut buffer).unwrap();
        let mut bench = Bench::new();
        let mut other = CpuState::default();
        load(&mut other, &buffer[..length], &mut bench.context()).unwrap();
        assert_eq!(state, other);
        for cut in [0, 1, 20, length / 2, length - 1] {
            assert!(load(&mut other, &buffer[..cut], &mut bench.context()).is_err());
        }
        assert_eq!(state, other);

        state.cr0 |= Cr0Flags::PAGING.bits();
        let length = save(&state, &mut buffer).unwrap();
        assert_eq!(
            load(&mut other, &buffer[..length], &mut bench.context()).err(),
            Some(StateError::Invalid("cr0"))
        );
    }

    #[test]
    fn init_keeps_what_the_manual_says() {
        let mut state = CpuState::power_on(1, false, 0);
        state.gpr = [9; 16];
        state.cr0 = 0x31;
        state.msrs.tsc = 77;
        state.fpu.fcw = 0x27f;
        state.events.nmi_masked = true;
        state.activity = Activity::Running;
        state.init(0x600f12);
        assert_eq!(state.validate(), Ok(()));
        assert_eq!((state.cr0, state.rip), (0x10, 0xfff0));
        assert_eq!((state.msrs.tsc, state.fpu.fcw), (77, 0x27f));
        assert_eq!((state.gpr[gpr::RDX], state.gpr[gpr::RAX]), (0x600f12, 0));
        assert_eq!(state.events, Events::default());
        assert_eq!(state.activity, Activity::WaitForSipi);
        state.start_up(0x9f);
        assert_eq!((state.cs.selector, state.cs.base), (0x9f00, 0x9_f000));
        assert_eq!((state.rip, state.activity), (0, Activity::Running));
        state.apic_base |= ApicBaseFlags::BSP.bits();
        state.init(0);
        assert_eq!(
            (state.cs.selector, state.activity),
            (0xf000, Activity::Running)
        );
    }

    #[test]
    fn power_on_is_valid() {
        for bootstrap in [false, true] {
            assert_eq!(CpuState::power_on(0, bootstrap, 0).validate(), Ok(()));
        }
    }

    #[test]
    fn invalid_states_are_named() {
        type Change = fn(&mut CpuState);
        let cases: [(&str, Change); 8] = [
            ("segment", |s| s.ss.dpl = 4),
            ("rflags", |s| s.rflags = 0),
            ("efer", |s| s.efer = 1 << 10),
            ("cr8", |s| s.cr8 = 16),
            ("rip", |s| s.rip = 1 << 40),
            ("mxcsr", |s| s.fpu.mxcsr = 1 << 20),
            ("xcr0", |s| s.xcr0 = 0),
            ("exception", |s| s.events.exception.vector = 32),
        ];
        for (name, change) in cases {
            let mut state = CpuState::default();
            change(&mut state);
            assert_eq!(state.validate(), Err(StateError::Invalid(name)));
        }
    }
}
