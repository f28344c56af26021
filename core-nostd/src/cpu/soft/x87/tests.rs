//! Tests of the x87.

use super::*;
use crate::cpu::FpuState;
use crate::cpu::gpr::{RAX, RBX};
use crate::cpu::soft::testing::Guest;

const NM: Result<(), Exception> = Err(Exception::DeviceNotAvailable);

/// In 64-bit mode with RBX = 3000h, CR4.OSFXSR and CR4.OSXSAVE.
fn guest() -> Guest {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.cr4 |= 1 << 9 | 1 << 18;
        state.gpr[RBX] = 0x3000;
        state.xcr0 = 0x203;
    });
    guest
}

fn filled() -> FpuState {
    let mut fpu = FpuState {
        fcw: 0x27f,
        fsw: 5 << 11,
        ftw: 0x81,
        fop: 0x123,
        fip: 0xffff_8000_1111_2222,
        fdp: 0x7fff_3333_4444,
        mxcsr: 0x1fa0,
        ..FpuState::default()
    };
    for number in 0..16u8 {
        fpu.xmm[usize::from(number)] = u128::MAX / 255 * u128::from(number + 1);
        fpu.st[usize::from(number % 8)] = [number | 0x40; 10];
    }
    fpu
}

#[test]
fn control_words() {
    let mut guest = guest();
    // fldcw [rbx]; fnstcw [rbx]
    for (word, kept) in [(0, 0x40), (0xffff, 0x1f7f), (0x37f, 0x37f)] {
        guest.put(0x3000, &u16::to_le_bytes(word));
        assert_eq!(guest.attempt(&[0xd9, 0x2b]), Ok(()));
        assert_eq!(guest.attempt(&[0xd9, 0x3b]), Ok(()));
        assert_eq!(guest.get::<2>(0x3000), u16::to_le_bytes(kept));
    }
    // An exception that is unmasked becomes pending, and FNINIT and FNCLEX forget it.
    guest.change(|state| {
        state.fpu.fsw = 0x3804;
        state.cr0 |= 1 << 5;
    });
    guest.put(0x3000, &[0x7b, 3]);
    assert_eq!(guest.attempt(&[0xd9, 0x2b]), Ok(()));
    assert_eq!(guest.state().fpu.fsw, 0xb884);
    let mf = Err(Exception::FloatingPoint);
    assert_eq!(guest.attempt(&[0x9b]), mf);
    assert_eq!(guest.attempt(&[0xd9, 0xd0]), mf);
    assert_eq!(guest.attempt(&[0xd9, 0x2b]), mf);
    assert_eq!(guest.attempt(&[0x0f, 0xef, 0xc0]), mf);
    // fnstsw ax; fnclex; fninit
    assert_eq!(guest.attempt(&[0xdf, 0xe0]), Ok(()));
    assert_eq!(guest.state().gpr[RAX] & 0xffff, 0xb884);
    assert_eq!(guest.attempt(&[0xdb, 0xe2]), Ok(()));
    assert_eq!(guest.state().fpu.fsw, 0x3800);
    guest.change(|state| state.fpu = filled());
    assert_eq!(guest.attempt(&[0xdb, 0xe3]), Ok(()));
    let fpu = guest.state().fpu;
    assert_eq!((fpu.fcw, fpu.fsw, fpu.ftw, fpu.fip), (0x37f, 0, 0, 0));
    // Physical register 5 was the top.
    assert_eq!(fpu.st[5], filled().st[0]);
    // With CR0.EM or TS there is none.
    for bit in [2, 3] {
        guest.change(|state| state.cr0 = state.cr0 & !0xc | 1 << bit);
        assert_eq!(guest.attempt(&[0xdb, 0xe3]), NM);
        assert_eq!(guest.attempt(&[0x0f, 0xae, 0x03]), NM);
    }
}
