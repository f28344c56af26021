//! The forms of the decoder's table by name, and those that can't be compared, with the reason.

use std::arch::x86_64::__cpuid_count;

use thimble_core::cpu::decode::{Choice, Encoding, Map, Operation, Packed, Shape, encodings};
use thimble_core::cpu::gpr;

use crate::case::{Case, End, Outcome, World};
use crate::layout::RAM;

/// A row of the decoder's table.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Opcode bytes, choices and operation.
    pub(crate) name: String,
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

/// All forms.
pub(crate) fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    encodings(&mut |encoding, shape| {
        forms.push(Form {
            name: name(encoding, shape),
            encoding: *encoding,
            shape: *shape,
        });
    });
    forms
}

/// As the SDM writes opcodes: `0F BA /4 Bt`. What it doesn't write is mod (`m`, `r`), rm (`rm3`), a mandatory prefix
/// as `66`, `F3`, `F2` or `NP`, REX.B and REX.W, and in which mode (`long`, `legacy`).
fn name(encoding: &Encoding, shape: &Shape) -> String {
    let map = match encoding.map {
        Map::One => "",
        Map::Two => "0F ",
        Map::Three38 => "0F38 ",
        Map::Three3a => "0F3A ",
        Map::Vex38 => "VEX38 ",
        Map::Vex3a => "VEX3A ",
    };
    let mut name = format!("{map}{:02X}", encoding.opcode);
    for choice in encoding.choices() {
        name += &match choice {
            Choice::Reg(number) => format!(" /{number}"),
            Choice::Rm(number) => format!(" rm{number}"),
            Choice::Mod(number) => [" m", " r"][usize::from(number & 1)].to_string(),
            Choice::Prefix(number) => {
                [" NP", " 66", " F3", " F2"][usize::from(number & 3)].to_string()
            }
            Choice::RexB(number) => format!(" B{number}"),
            Choice::RexW(number) => format!(" W{number}"),
            Choice::Long(number) => [" legacy", " long"][usize::from(number & 1)].to_string(),
        };
    }
    format!("{name} {:?}", shape.operation)
}

/// Which instructions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Run,
    /// For this reason not.
    Skip(&'static str),
}

/// Who says what is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oracle {
    /// The processor, in this process.
    Process,
    /// The processor, in a KVM guest.
    Kvm,
    /// KVM where the processor can't run the guest itself: the kernel's emulator of instructions.
    Emulator,
}

impl Oracle {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kvm => "kvm",
            Self::Emulator => "emulator",
        }
    }

    /// What runs its cases.
    pub(crate) fn subject(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Kvm | Self::Emulator => "kvm",
        }
    }
}

/// Whether the oracle is the processor itself.
pub(crate) fn native(oracle: Oracle) -> bool {
    oracle != Oracle::Emulator
}

/// Whether the emulator raised #UD where the subject didn't: it doesn't know the instruction. Of ring 3 it is given
/// instructions that fault.
pub(crate) fn refused(case: &Case, oracle: Oracle, expected: &Outcome, got: &Outcome) -> bool {
    // Without paging a stack outside of RAM takes what is pushed.
    let outside = case.world == World::Kernel32 && got.gpr[gpr::RSP] & 0xffff_ffff >= RAM as u64;
    let undefined = match oracle {
        Oracle::Process => false,
        Oracle::Kvm => expected.end == UNDEFINED_OPCODE,
        Oracle::Emulator if expected.end == End::Shutdown => outside,
        Oracle::Emulator => expected.is_at_handler(case.world, 6),
    };
    undefined && (expected.end, expected.rip) != (got.end, got.rip)
}

/// #UD of ring 3.
const UNDEFINED_OPCODE: End = End::Exception {
    vector: 6,
    error: None,
};

/// Flags that an oracle loses: KVM gives ring 3 no NT, and #AC no RF; its emulator leaves RF on the way to a handler.
pub(crate) fn lost_flags(oracle: Oracle, expected: &Outcome) -> u64 {
    let misaligned = matches!(expected.end, End::Exception { vector: 17, .. });
    match oracle {
        Oracle::Process => 0,
        Oracle::Kvm if misaligned => NT | RF,
        Oracle::Kvm => NT,
        Oracle::Emulator => RF,
    }
}

/// Nested task.
const NT: u64 = 1 << 14;
/// Resume flag.
const RF: u64 = 1 << 16;

/// Takes from a case what makes a hypervisor emulate ring 3, too.
pub(crate) fn adapt(oracle: Oracle, case: &mut Case) {
    if oracle == Oracle::Kvm {
        case.rflags &= !NT;
        let stack = &mut case.gpr[gpr::RSP];
        *stack = ((*stack as i64) << 17 >> 17) as u64;
    }
}

/// Whether an instruction of ring 3 faulted in a way that makes a hypervisor emulate it, and tell another fault.
pub(crate) fn emulated(oracle: Oracle, case: &Case, got: &Outcome) -> bool {
    let faulted = matches!(
        got.end,
        End::Exception {
            vector: 12 | 13 | 17,
            ..
        }
    );
    oracle == Oracle::Kvm && faulted && got.rip == case.rip
}

/// CPUID.7.0:EDX: SERIALIZE.
const SERIALIZE: u32 = 1 << 14;

/// Whether the registers of x87, MMX and SSE matter.
pub(crate) fn has_vectors(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::Fpu(_) | Operation::Wait | Operation::Sse(_) | Operation::Packed(_)
    )
}

/// Whether lengths of strings are in registers.
pub(crate) fn compares_text(name: Packed) -> bool {
    matches!(name, Packed::Pcmpestri | Packed::Pcmpestrm)
}

/// What is to be done about a form.
pub(crate) fn plan(form: &Form, world: World, oracle: Oracle) -> Plan {
    use Operation::*;
    let tables = "KVM only: its tables are not the guest's in ring 3";
    match form.shape.operation {
        // POP FS, POP GS.
        Pop if oracle == Oracle::Kvm && form.encoding.map == Map::Two => Plan::Skip(tables),
        operation if has_vectors(operation) && oracle != Oracle::Process => {
            Plan::Skip("x87, MMX and SSE against the process only")
        }
        Fxsave | Fxrstor | Xsave | Xsavec | Xsaveopt | Xrstor => {
            Plan::Skip("images that tell what the processor is")
        }
        Rdtsc | Rdtscp | Rdpmc => Plan::Skip("tells the time"),
        Rdrand | Rdseed => Plan::Skip("random"),
        Cpuid | Xgetbv | Rdpid | Rdpkru | Wrpkru => {
            Plan::Skip("tells what the processor and its kernel are")
        }
        Syscall | Sysenter if world.user() => Plan::Skip("enters the kernel under the case"),
        Sgdt | Sidt | Sldt | Str | Smsw if world.user() => {
            Plan::Skip("a kernel under the case answers in its stead (UMIP)")
        }
        Xsaves | Xrstors if !world.user() => Plan::Skip("images that tell what the processor is"),
        Serialize if __cpuid_count(7, 0).edx & SERIALIZE == 0 => {
            Plan::Skip("a feature that the processor below does not have")
        }
        Int1 => Plan::Skip("a hypervisor under the case takes it for a fault"),
        Monitor | Mwait if world.user() => {
            Plan::Skip("#UD or #GP as the kernel under the case says")
        }
        // A hypervisor below decides about these, and gets some of them wrong.
        CallFar | JmpFar | Retf | Iret | Int | Lar | Lsl | Verr | Verw | MovSegment | Lds | Les
        | Lfs | Lgs | Lss | Invpcid
            if oracle == Oracle::Kvm =>
        {
            Plan::Skip(tables)
        }
        Int | Into | Iret | CallFar | JmpFar | Retf
            if oracle == Oracle::Emulator && world != World::Real16 =>
        {
            Plan::Skip("ring 0 only: the kernel's emulator has it in real mode only")
        }
        Monitor | Mwait | Rdmsr | Wrmsr | MovControl | MovDebug | Lgdt | Lidt | Lldt | Ltr
        | Lmsw | Syscall | Sysret | Sysenter | Sysexit | Clts | Swapgs | Xsetbv | Invlpg
        | Invpcid | Wbinvd | Wbnoinvd | Invd | Rsm | Str | Sldt
            if !world.user() =>
        {
            Plan::Skip("ring 0 only: sets the system up, for directed tests")
        }
        _ => Plan::Run,
    }
}

/// An operation's name, or that of its family where that has many.
pub(crate) fn family(operation: Operation) -> String {
    match operation {
        Operation::Fpu(_) => "x87".to_string(),
        Operation::Sse(_) | Operation::Packed(_) => "MMX and SSE".to_string(),
        operation => format!("{operation:?}"),
    }
}
