//! A case: what memory and registers are before some instructions run; and an outcome: what they are after it.

use std::fmt;

use thimble_core::cpu::decode::CodeSize;
use thimble_core::cpu::{FpuState, Segment, gpr};

use crate::layout;

/// Where instructions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum World {
    /// Ring 3, 64-bit mode.
    User64,
    /// Ring 3, compatibility mode, 32-bit code.
    User32,
    /// Ring 3, compatibility mode, 16-bit code.
    User16,
    /// Ring 0, 64-bit mode.
    Kernel64,
    /// Ring 0, protected mode without paging, 32-bit code.
    Kernel32,
    /// Real mode.
    Real16,
}

impl World {
    pub(crate) const ALL: [Self; 6] = [
        Self::User64,
        Self::User32,
        Self::User16,
        Self::Kernel64,
        Self::Kernel32,
        Self::Real16,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User64 => "user64",
            Self::User32 => "user32",
            Self::User16 => "user16",
            Self::Kernel64 => "kernel64",
            Self::Kernel32 => "kernel32",
            Self::Real16 => "real16",
        }
    }

    pub(crate) fn code_size(self) -> CodeSize {
        match self {
            Self::User64 | Self::Kernel64 => CodeSize::Bits64,
            Self::User32 | Self::Kernel32 => CodeSize::Bits32,
            Self::User16 | Self::Real16 => CodeSize::Bits16,
        }
    }

    /// Ring 3.
    pub(crate) fn user(self) -> bool {
        matches!(self, Self::User64 | Self::User32 | Self::User16)
    }

    /// Long mode, be it compatibility mode.
    pub(crate) fn long(self) -> bool {
        !matches!(self, Self::Kernel32 | Self::Real16)
    }

    /// The segment register after a load of a selector here.
    pub(crate) fn segment(self, selector: u16) -> Segment {
        match self {
            Self::Real16 => Segment::real(selector, u64::from(selector) << 4, 3),
            _ => layout::segment(selector),
        }
    }
}

/// Indices of [`Case::selectors`], as encodings number them.
pub(crate) const ES: usize = 0;
pub(crate) const CS: usize = 1;
pub(crate) const SS: usize = 2;
pub(crate) const DS: usize = 3;
pub(crate) const FS: usize = 4;
pub(crate) const GS: usize = 5;

/// Bytes to be found in the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    /// Offset in the window. What goes past its end is dropped.
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
}

/// What is before some instructions run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) world: World,
    /// The instructions; they lie at CS:RIP.
    pub(crate) code: Vec<u8>,
    /// What else lies in the window.
    pub(crate) patches: Vec<Patch>,
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) selectors: [u16; 6],
    /// Of FS and GS in 64-bit mode.
    pub(crate) bases: [u64; 2],
    /// If they matter.
    pub(crate) vectors: Option<Box<FpuState>>,
}

impl Case {
    /// A segment register with its hidden part.
    pub(crate) fn segment(&self, number: usize) -> Segment {
        let mut segment = self.world.segment(self.selectors[number]);
        if self.world.code_size() == CodeSize::Bits64 && matches!(number, FS | GS) {
            segment.base = self.bases[number - FS];
        }
        segment
    }

    /// The code's linear address.
    pub(crate) fn linear_rip(&self) -> u64 {
        self.rip.wrapping_add(self.segment(CS).base)
    }

    /// Puts code and patches into a window.
    pub(crate) fn apply(&self, window: &mut [u8]) {
        let mut put = |at: u64, bytes: &[u8]| {
            let at = at as usize;
            if let Some(rest) = window.get_mut(at..) {
                let length = bytes.len().min(rest.len());
                rest[..length].copy_from_slice(&bytes[..length]);
            }
        };
        for patch in &self.patches {
            put(patch.at, &patch.bytes);
        }
        put(self.linear_rip().wrapping_sub(layout::WINDOW), &self.code);
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An exception of ring 3 reached its handler. A case that does nothing else ends with the #GP of HLT.
    Exception { vector: u8, error: Option<u32> },
    /// HLT in ring 0, be it that of a handler.
    Halted,
    /// A triple fault.
    Shutdown,
    /// It did not end in time.
    Timeout,
    /// There is no saying: the kernel's emulator doesn't know the instruction.
    Refused,
}

/// What is after it, but for the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// As the handler was told; of [`End::Halted`] as they are.
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) selectors: [u16; 6],
    pub(crate) bases: [u64; 2],
    /// After a page fault.
    pub(crate) cr2: u64,
    /// If they matter.
    pub(crate) vectors: Option<Box<FpuState>>,
}

impl Outcome {
    /// Whether ring 0 or real mode is behind the HLT of a vector's handler.
    pub(crate) fn is_at_handler(&self, world: World, vector: u64) -> bool {
        let system = if world.long() { layout::SYSTEM } else { 0 };
        self.end == End::Halted && self.rip == system + layout::HANDLERS + vector + 1
    }
}

/// Something that runs cases.
pub(crate) trait Subject {
    fn name(&self) -> &'static str;

    /// Replaces what windows contain before patches.
    fn set_base(&mut self, base: &[u8]);

    fn run(&mut self, case: &Case) -> Outcome;

    /// The window after the last run.
    fn window(&self) -> &[u8];
}

/// Registers where a run ended, with nothing read from memory yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) selectors: [u16; 6],
    pub(crate) bases: [u64; 2],
    pub(crate) cr2: u64,
}

/// Whether a vector pushes an error code (SDM volume 3, table 6-1).
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

impl Raw {
    /// The outcome of a run that ended at a HLT in ring 0 in this memory.
    pub(crate) fn halted(self, world: World, ram: &[u8]) -> Outcome {
        let mut outcome = Outcome {
            end: End::Halted,
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags,
            selectors: self.selectors,
            bases: self.bases,
            cr2: self.cr2,
            vectors: None,
        };
        if !world.user() {
            return outcome;
        }
        // RIP is behind the handler's only byte.
        let vector = self.rip.wrapping_sub(layout::SYSTEM + layout::HANDLERS + 1);
        let stack = self.gpr[gpr::RSP].wrapping_sub(layout::SYSTEM) as usize;
        let words = ram.get(stack..).unwrap_or_default().chunks_exact(8);
        let mut words =
            words.map(|word| word.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b)));
        let mut pop = || words.next().unwrap_or_default();
        let Ok(vector) = u8::try_from(vector) else {
            return outcome;
        };
        let error = has_error_code(vector).then(|| pop() as u32);
        outcome.end = End::Exception { vector, error };
        outcome.rip = pop();
        outcome.selectors[CS] = pop() as u16;
        outcome.rflags = pop();
        outcome.gpr[gpr::RSP] = pop();
        outcome.selectors[SS] = pop() as u16;
        if vector != 14 {
            outcome.cr2 = 0;
        }
        outcome
    }

    /// The outcome of another end.
    pub(crate) fn ended(self, end: End) -> Outcome {
        Outcome {
            end,
            gpr: self.gpr,
            rip: self.rip,
            rflags: self.rflags,
            selectors: self.selectors,
            bases: self.bases,
            cr2: self.cr2,
            vectors: None,
        }
    }
}

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

fn registers(f: &mut fmt::Formatter<'_>, gpr: &[u64; 16]) -> fmt::Result {
    for (i, (name, value)) in GPR_NAMES.iter().zip(gpr).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { " " };
        write!(f, "    {name:>3} {value:016x}{end}")?;
    }
    Ok(())
}

fn rest(
    f: &mut fmt::Formatter<'_>,
    rip: u64,
    rflags: u64,
    selectors: &[u16; 6],
    bases: &[u64; 2],
) -> fmt::Result {
    let [es, cs, ss, ds, fs, gs] = selectors;
    let [fs_base, gs_base] = bases;
    writeln!(
        f,
        "    rip {rip:016x}  rflags {rflags:x}  es {es:x} cs {cs:x} ss {ss:x} ds {ds:x} fs {fs:x} gs {gs:x}  bases {fs_base:x} {gs_base:x}"
    )
}

fn vector_registers(f: &mut fmt::Formatter<'_>, state: &FpuState) -> fmt::Result {
    let FpuState {
        fcw,
        fsw,
        ftw,
        fop,
        fip,
        fdp,
        mxcsr,
        ..
    } = state;
    writeln!(
        f,
        "    fcw {fcw:x} fsw {fsw:x} ftw {ftw:x} fop {fop:x} fip {fip:x} fdp {fdp:x} mxcsr {mxcsr:x}"
    )?;
    for (number, register) in state.st.iter().enumerate() {
        let [low @ .., a, b] = register;
        let end = if number % 4 == 3 { "\n" } else { " " };
        let (high, low) = (u16::from_le_bytes([*a, *b]), u64::from_le_bytes(*low));
        write!(f, "    st{number} {high:04x}:{low:016x}{end}")?;
    }
    for (number, register) in state.xmm.iter().enumerate() {
        let end = if number % 2 == 1 { "\n" } else { " " };
        write!(f, "    xmm{number:<2} {register:032x}{end}")?;
    }
    Ok(())
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {} code {:02x?}", self.world.name(), self.code)?;
        registers(f, &self.gpr)?;
        rest(f, self.rip, self.rflags, &self.selectors, &self.bases)?;
        if let Some(vectors) = &self.vectors {
            vector_registers(f, vectors)?;
        }
        for patch in &self.patches {
            writeln!(
                f,
                "    memory {:05x}: {:02x?}",
                layout::WINDOW + patch.at,
                patch.bytes
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "    {:x?} cr2 {:x}", self.end, self.cr2)?;
        registers(f, &self.gpr)?;
        rest(f, self.rip, self.rflags, &self.selectors, &self.bases)?;
        self.vectors
            .as_ref()
            .map_or(Ok(()), |vectors| vector_registers(f, vectors))
    }
}
