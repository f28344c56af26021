//! Arithmetic of the x87: that of the processor below.
//!
//! An instruction runs on the host's x87 with the guest's numbers in ST(0) and ST(1) and the guest's
//! control word, so that results, flags and NaNs are exact, and so is what an unmasked exception
//! leaves. The host raises nothing: an exception of the x87 waits for the next instruction that looks
//! for one (SDM volume 1, 8.7), and before that it is read by FNSTSW and forgotten by FNCLEX, neither
//! of which looks. Loads and stores of 80 bits raise nothing but stack faults.
//!
//! Only what every x86-64 processor has is presumed; MMX's EMMS empties the stack.
#![allow(unsafe_code)]

use core::arch::naked_asm;

/// A number of 80 bits, or an operand in memory.
pub(super) type Number = [u8; 10];

/// An instruction, by its place in the table of [`enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(u8);

/// Status word: exceptions, and the stack's fault among them.
const FLAGS: u16 = 0x7f;

/// Instructions of eight by ModRM.reg: FADD, FMUL, FCOM, FCOMP, FSUB, FSUBR, FDIV, FDIVR.
const ARITHMETIC: u8 = 8;

impl Code {
    pub(super) const COMPARE: Self = Self(2);
    pub(super) const COMPARE_UNORDERED: Self = Self(72);
    pub(super) const TEST: Self = Self::d9(0xe4);
    pub(super) const EXAMINE: Self = Self::d9(0xe5);
    pub(super) const LOAD_SINGLE: Self = Self(73);
    pub(super) const LOAD_DOUBLE: Self = Self(74);
    pub(super) const LOAD_INT16: Self = Self(75);
    pub(super) const LOAD_INT32: Self = Self(76);
    pub(super) const LOAD_INT64: Self = Self(77);
    pub(super) const LOAD_DECIMAL: Self = Self(78);
    pub(super) const STORE_SINGLE: Self = Self(79);
    pub(super) const STORE_DOUBLE: Self = Self(80);
    pub(super) const STORE_INT16: Self = Self(81);
    pub(super) const STORE_INT32: Self = Self(82);
    pub(super) const STORE_INT64: Self = Self(83);
    pub(super) const STORE_DECIMAL: Self = Self(84);

    /// Of ST(0) and ST(1), by ModRM.reg of D8h.
    pub(super) const fn registers(reg: u8) -> Self {
        Self(reg % ARITHMETIC)
    }

    /// Of ST(0) and memory, by the opcode's low bits (D8h, DAh, DCh or DEh) and ModRM.reg.
    pub(super) const fn memory(escape: u8, reg: u8) -> Self {
        Self(ARITHMETIC * (1 + (escape >> 1 & 3)) + reg % ARITHMETIC)
    }

    /// D9h with a ModRM byte from E0h on.
    pub(super) const fn d9(modrm: u8) -> Self {
        Self(5 * ARITHMETIC + modrm % 0x20)
    }
}

/// What an instruction leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Results {
    /// ST(0) after it.
    pub(super) top: Number,
    /// ST(1) after it, if there is one.
    pub(super) below: Number,
    /// What a store put into memory.
    pub(super) memory: Number,
    /// Status word, whose top tells of pushes and pops: see [`Results::pushed`].
    pub(super) status: u16,
}

impl Results {
    /// The stack has grown.
    pub(super) const fn pushed(&self) -> bool {
        self.status >> 11 & 7 == 5
    }

    /// The stack has shrunk.
    pub(super) const fn popped(&self) -> bool {
        self.status >> 11 & 7 == 7
    }
}

/// Executes an instruction with a control word. `other` is ST(1), or the operand in memory. Of exceptions
/// that are masked and in `status` before, nothing is told: they may be set or not.
pub(super) fn execute(
    code: Code,
    control: u16,
    status: u16,
    top: Number,
    other: Number,
) -> Results {
    // To forget them costs more than all the rest.
    let told = FLAGS & !(control & status);
    let mut results = Results {
        top,
        below: [0; 10],
        memory: other,
        status: 0,
    };
    // SAFETY: the stack of the x87 is empty as all functions leave it; the pointers are those of ten
    // bytes each; codes are made here and lead into the table.
    results.status = unsafe {
        enter(
            &mut results.top,
            &mut results.memory,
            &mut results.below,
            control.into(),
            code.0.into(),
            told.into(),
        )
    } as u16;
    results
}

/// Loads ST(1) and ST(0), executes an instruction, stores ST(0) and ST(1), and gives the status word.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(
    top: *mut Number,
    memory: *mut Number,
    below: *mut Number,
    control: u32,
    code: u64,
    told: u32,
) -> u32 {
    naked_asm!(
        "push rcx",
        "push rcx",
        "fnstcw [rsp + 8]",
        "fnstsw ax",
        "test eax, r9d",
        "jz 2f",
        "fnclex",
        "2:",
        "emms",
        "fldcw [rsp]",
        "fld tbyte ptr [rsi]",
        "fld tbyte ptr [rdi]",
        "lea rax, [rip + 4f]",
        "lea rax, [rax + 4 * r8]",
        "call rax",
        "fnstsw ax",
        "test al, al",
        "jns 3f",
        "fnclex",
        "3:",
        "fldcw [rsp + 8]",
        "fstp tbyte ptr [rdi]",
        "fstp tbyte ptr [rdx]",
        "emms",
        "add rsp, 16",
        "ret",
        // The table: opcode, ModRM, RET, and a byte that brings it to four.
        "4:",
        ".irp modrm, 0xc1, 0xc9, 0xd1, 0xd9, 0xe1, 0xe9, 0xf1, 0xf9",
        ".byte 0xd8, \\modrm, 0xc3, 0x90",
        ".endr",
        ".irp opcode, 0xd8, 0xda, 0xdc, 0xde",
        ".irp modrm, 0x06, 0x0e, 0x16, 0x1e, 0x26, 0x2e, 0x36, 0x3e",
        ".byte \\opcode, \\modrm, 0xc3, 0x90",
        ".endr",
        ".endr",
        ".irp row, 0xe0, 0xe8, 0xf0, 0xf8",
        ".irp column, 0, 1, 2, 3, 4, 5, 6, 7",
        ".byte 0xd9, \\row + \\column, 0xc3, 0x90",
        ".endr",
        ".endr",
        // FUCOM ST(1); FLD of 32 and 64 bits, FILD of 16, 32 and 64 bits, FBLD; FST of 32 and 64
        // bits, FIST of 16 and 32 bits, FISTP of 64 bits, FBSTP: all with memory at RSI.
        ".irp instruction, 0xe1dd, 0x06d9, 0x06dd, 0x06df, 0x06db, 0x2edf, 0x26df, 0x16d9, 0x16dd, 0x16df, 0x16db, 0x3edf, 0x36df",
        ".word \\instruction",
        ".byte 0xc3, 0x90",
        ".endr",
    )
}
