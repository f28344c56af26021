//! Tests of the x87.

use super::*;
use crate::cpu::FpuState;
use crate::cpu::gpr::{RAX, RBX};
use crate::cpu::soft::testing::{Guest, filled, media_guest as guest};

const NM: Result<(), Exception> = Err(Exception::DeviceNotAvailable);

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

const MF: Result<(), Exception> = Err(Exception::FloatingPoint);
const INDEFINITE: Number = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
const ES: u16 = 0x8080;

/// A finite number that is not denormal.
fn number(value: f64) -> Number {
    let bits = value.to_bits();
    let sign = (bits >> 63) as u16;
    let (exponent, significand) = match bits << 1 {
        0 => (0, 0),
        _ => (
            (bits >> 52 & 0x7ff) as u16 + (0x3fff - 1023),
            1 << 63 | bits << 11,
        ),
    };
    with(sign << 15 | exponent, significand)
}

fn with(exponent: u16, significand: u64) -> Number {
    let mut number = [0; 10];
    number[..8].copy_from_slice(&significand.to_le_bytes());
    number[8..].copy_from_slice(&exponent.to_le_bytes());
    number
}

/// A guest with these numbers on the stack, whose top is physical register 3.
fn stack(numbers: &[Number]) -> Guest {
    let mut guest = guest();
    guest.change(|state| {
        state.cr0 |= 1 << 5;
        state.fpu.fsw = 3 << 11;
        state.fpu.ftw = ((1u16 << numbers.len()) - 1) as u8;
        state.fpu.ftw = state.fpu.ftw.rotate_left(3);
        state.fpu.st[..numbers.len()].copy_from_slice(numbers);
    });
    guest
}

/// The registers in use from the top on, by what they hold.
fn used(guest: &mut Guest) -> std::vec::Vec<Number> {
    let fpu = guest.state().fpu;
    let used = fpu.ftw.rotate_right((fpu.fsw >> 11 & 7).into());
    assert_eq!(
        (u16::from(used) + 1) & u16::from(used),
        0,
        "one after the other"
    );
    fpu.st[..used.count_ones() as usize].to_vec()
}

/// Executes an instruction with a control word, numbers on the stack and memory at RBX. The answers are
/// the status word without the top, and the stack.
fn run(fcw: u16, numbers: &[Number], memory: &[u8], code: &[u8]) -> (u16, std::vec::Vec<Number>) {
    let mut guest = stack(numbers);
    guest.change(|state| state.fpu.fcw = fcw);
    guest.put(0x3000, memory);
    assert_eq!(guest.attempt(code), Ok(()), "{code:02x?}");
    let status = guest.state().fpu.fsw & !TOP;
    (status, used(&mut guest))
}

#[test]
fn arithmetic_of_all_forms() {
    let (a, b) = (number(6.0), number(1.5));
    // By ModRM.reg: sums, products, and so on of ST(0) and the other, each with ST(0) first.
    let values = [7.5, 9.0, 0.0, 0.0, 4.5, -4.5, 4.0, 0.25].map(number);
    for (reg, value) in (0..8u8)
        .zip(values)
        .filter(|(reg, _)| !matches!(reg, 2 | 3))
    {
        let modrm = |base: u8| base | reg << 3;
        let of = |memory: &[u8], code: [u8; 2]| run(0x37f, &[a, b], memory, &code);
        assert_eq!(of(&[], [0xd8, modrm(0xc1)]), (0, [value, b].to_vec()));
        assert_eq!(of(&[], [0xdc, modrm(0xc1)]), (0, [a, value].to_vec()));
        assert_eq!(of(&[], [0xde, modrm(0xc1)]), (0, [value].to_vec()));
        let memory = 1.5f32.to_le_bytes();
        assert_eq!(of(&memory, [0xd8, modrm(3)]), (0, [value, b].to_vec()));
        let memory = 1.5f64.to_le_bytes();
        assert_eq!(of(&memory, [0xdc, modrm(3)]), (0, [value, b].to_vec()));
    }
    for (reg, value) in [(0, 9.0), (1, 18.0), (4, 3.0), (5, -3.0), (6, 2.0), (7, 0.5)] {
        for escape in [0xda, 0xde] {
            let (_, numbers) = run(0x37f, &[a], &[3, 0, 0, 0], &[escape, 3 | reg << 3]);
            assert_eq!(numbers, [number(value)], "{escape:x} /{reg}");
        }
    }
}

#[test]
fn precision_and_rounding() {
    // fdiv st0, st1: 1/3 with each precision, to nearest and upwards; C1 tells of rounding up.
    for (fcw, significand, c1) in [
        (0x07f, 0xaaaa_ab00_0000_0000, C1),
        (0x27f, 0xaaaa_aaaa_aaaa_a800, 0),
        (0x37f, 0xaaaa_aaaa_aaaa_aaab, C1),
        (0x77f, 0xaaaa_aaaa_aaaa_aaaa, 0),
        (0xa7f, 0xaaaa_aaaa_aaaa_b000, C1),
        (0xf7f, 0xaaaa_aaaa_aaaa_aaaa, 0),
    ] {
        let (status, numbers) = run(fcw, &[number(1.0), number(3.0)], &[], &[0xd8, 0xf1]);
        assert_eq!(numbers[0], with(0x3ffd, significand), "{fcw:x}");
        assert_eq!(status, 0x20 | c1, "{fcw:x}");
    }
    // Constants are rounded, too: fldpi.
    assert_eq!(
        run(0x77f, &[], &[], &[0xd9, 0xeb]).1,
        [with(0x4000, 0xc90f_daa2_2168_c234)]
    );
}

#[test]
fn exceptions_that_are_masked_give_numbers() {
    let (zero, one) = (number(0.0), number(1.0));
    let infinity = with(0x7fff, 1 << 63);
    // fdiv st0, st1
    let divide = |a, b| {
        let (status, numbers) = run(0x37f, &[a, b], &[], &[0xd8, 0xf1]);
        (status & 0x7f, numbers[0])
    };
    assert_eq!(divide(one, zero), (4, infinity));
    assert_eq!(divide(zero, zero), (1, INDEFINITE));
    let tiny = with(1, 1 << 63);
    assert_eq!(divide(tiny, number(3.0)).0, 0x30);
    assert_eq!(divide(with(0x7ffe, 1 << 63), tiny), (0x28, infinity));
    assert_eq!(divide(with(0, 5), one).0, 2);
    // A signalling NaN becomes quiet.
    assert_eq!(
        divide(with(0x7fff, 1 << 63 | 7), one),
        (1, with(0x7fff, 3 << 62 | 7))
    );
}

#[test]
fn exceptions_that_are_not_masked() {
    let (one, zero) = (number(1.0), number(0.0));
    // fdivp st1, st0 with division by zero unmasked: nothing has happened, and the next one tells.
    let mut guest = stack(&[zero, one]);
    guest.change(|state| state.fpu.fcw = 0x37b);
    assert_eq!(guest.attempt(&[0xde, 0xf9]), Ok(()));
    assert_eq!(guest.state().fpu.fsw, 3 << 11 | 4 | ES);
    assert_eq!(used(&mut guest), [zero, one]);
    assert_eq!(guest.attempt(&[0xd9, 0xe8]), MF);
    // fnstsw and fnclex don't wait.
    assert_eq!(guest.attempt(&[0xdf, 0xe0]), Ok(()));
    // Without CR0.NE instructions go on.
    guest.change(|state| state.cr0 &= !(1 << 5));
    assert_eq!(guest.attempt(&[0xd9, 0xe8]), Ok(()));
    assert_eq!(used(&mut guest), [one, zero, one]);
    assert_eq!(guest.state().fpu.fsw, 2 << 11 | 4 | ES);
    guest.change(|state| state.cr0 |= 1 << 5);
    assert_eq!(guest.attempt(&[0xdb, 0xe2]), Ok(()));
    assert_eq!(guest.attempt(&[0xd9, 0xe8]), Ok(()));

    // An overflow in a register is scaled by 2^-24576, and popped.
    let (status, numbers) = run(
        0x377,
        &[with(0x7ffe, 1 << 63), with(0x7ffe, 1 << 63)],
        &[],
        &[0xde, 0xc9],
    );
    assert_eq!(
        (status, &numbers[..]),
        (8 | ES, &[with(0x5ffd, 1 << 63)][..])
    );

    // In memory it stores nothing and pops nothing: fstp dword [rbx]; but a result that is only inexact
    // is stored.
    let mut guest = stack(&[with(0x5000, 1 << 63)]);
    guest.put(0x3000, &[0x55; 8]);
    guest.change(|state| state.fpu.fcw = 0x377);
    assert_eq!(guest.attempt(&[0xd9, 0x1b]), Ok(()));
    assert_eq!(guest.get::<8>(0x3000), [0x55; 8]);
    assert_eq!(used(&mut guest).len(), 1);
    let mut guest = stack(&[with(0x3fff, 1 << 63 | 1)]);
    guest.change(|state| state.fpu.fcw = 0x35f);
    assert_eq!(guest.attempt(&[0xd9, 0x1b]), Ok(()));
    assert_eq!(guest.get::<4>(0x3000), 1f32.to_le_bytes());
    assert_eq!(used(&mut guest), [[0; 10]; 0]);
    assert_eq!(guest.state().fpu.fsw, 4 << 11 | 0x20 | ES);
}

#[test]
fn stack_faults() {
    let one = number(1.0);
    // fld1 onto a full stack
    assert_eq!(run(0x37f, &[one; 8], &[], &[0xd9, 0xe8]).0, 0x41 | C1);
    let (status, numbers) = run(0x37e, &[one; 8], &[], &[0xd9, 0xe8]);
    assert_eq!((status, numbers), (0x41 | C1 | ES, [one; 8].to_vec()));
    // faddp st1, st0 with one number: the result is indefinite
    assert_eq!(
        run(0x37f, &[one], &[], &[0xde, 0xc1]),
        (0x41, [INDEFINITE].to_vec())
    );
    assert_eq!(
        run(0x37e, &[one], &[], &[0xde, 0xc1]),
        (0x41 | ES, [one].to_vec())
    );
    // fistp word [rbx] of nothing stores the integer indefinite
    let mut guest = stack(&[]);
    assert_eq!(guest.attempt(&[0xdf, 0x1b]), Ok(()));
    assert_eq!(guest.get::<2>(0x3000), [0, 0x80]);
    assert_eq!(guest.state().fpu.fsw, 4 << 11 | 0x41);
    // fxch with an empty register
    assert_eq!(
        run(0x37f, &[one], &[], &[0xd9, 0xc9]),
        (0x41, [INDEFINITE, one].to_vec())
    );
    // fptan has no room, and clears C2
    let mut guest = stack(&[one; 8]);
    guest.change(|state| state.fpu.fsw |= C2);
    assert_eq!(guest.attempt(&[0xd9, 0xf2]), Ok(()));
    assert_eq!(guest.state().fpu.fsw, 2 << 11 | 0x41 | C1);
}

#[test]
fn comparisons() {
    let (one, two) = (number(1.0), number(2.0));
    let quiet = with(0x7fff, 3 << 62);
    for (a, b, codes, flags) in [
        (two, one, 0, 0),
        (one, two, C0, 1),
        (one, one, C3, 0x40),
        (one, quiet, C3 | C2 | C0, 0x45),
    ] {
        let invalid = u16::from(b == quiet);
        // fcom st1, fucom st1; fcompp, fucompp
        for (code, pops, invalid) in [
            ([0xd8, 0xd1], false, invalid),
            ([0xdd, 0xe1], false, 0),
            ([0xde, 0xd9], true, invalid),
            ([0xda, 0xe9], true, 0),
        ] {
            let (status, numbers) = run(0x37f, &[a, b], &[], &code);
            assert_eq!(status, codes | invalid, "{code:02x?}");
            assert_eq!(numbers.is_empty(), pops);
        }
        // fcomi, fucomi; all other arithmetic flags are cleared, and the codes stay as they were
        for code in [[0xdb, 0xf1], [0xdb, 0xe9]] {
            let mut guest = stack(&[a, b]);
            guest.change(|state| {
                state.rflags = 0x8d7;
                state.fpu.fsw |= C3 | C1;
            });
            assert_eq!(guest.attempt(&code), Ok(()));
            let state = guest.state();
            assert_eq!(state.rflags, 2 | flags);
            assert_eq!(state.fpu.fsw & 0x4700, C3);
        }
    }
    // An invalid operation that is not masked tells nothing and pops nothing.
    let (status, numbers) = run(0x37e, &[one, quiet], &[], &[0xde, 0xd9]);
    assert_eq!((status, numbers.len()), (1 | ES, 2));
    let mut guest = stack(&[one, quiet]);
    guest.change(|state| {
        state.fpu.fcw = 0x37e;
        state.rflags = 0x8d7;
    });
    assert_eq!(guest.attempt(&[0xdf, 0xf1]), Ok(()));
    assert_eq!(guest.state().rflags, 0x8d7);
    assert_eq!(used(&mut guest).len(), 2);
    // ftst; ficomp word [rbx]
    assert_eq!(run(0x37f, &[number(-1.0)], &[], &[0xd9, 0xe4]).0, C0);
    assert_eq!(
        run(0x37f, &[two], &[2, 0], &[0xde, 0x1b]),
        (C3, [].to_vec())
    );
}

#[test]
fn classes_of_numbers() {
    for (number, codes) in [
        (with(0x3fff, 1), 0),
        (with(0x7fff, 3 << 62), C0),
        (with(0x3fff, 1 << 63), C2),
        (with(0x7fff, 1 << 63), C2 | C0),
        (with(0, 0), C3),
        (with(0, 1), C3 | C2),
        (with(0x8000, 0), C3 | C1),
    ] {
        assert_eq!(run(0x37f, &[number], &[], &[0xd9, 0xe5]).0, codes);
    }
    let mut guest = stack(&[]);
    guest.change(|state| state.fpu.st[0][9] = 0x80);
    assert_eq!(guest.attempt(&[0xd9, 0xe5]), Ok(()));
    assert_eq!(guest.state().fpu.fsw, 3 << 11 | C3 | C1 | C0);
}

#[test]
fn loads_and_stores() {
    let value = number(-12345.0);
    let decimal = [0x45, 0x23, 1, 0, 0, 0, 0, 0, 0, 0x80];
    let integer = (-12345i64).to_le_bytes();
    // What loads, and what stores and pops, of each format at RBX.
    for (load, store, bytes) in [
        ([0xd9, 0x03], [0xd9, 0x1b], &(-12345f32).to_le_bytes()[..]),
        ([0xdd, 0x03], [0xdd, 0x1b], &(-12345f64).to_le_bytes()),
        ([0xdb, 0x2b], [0xdb, 0x3b], &value),
        ([0xdf, 0x03], [0xdf, 0x1b], &integer[..2]),
        ([0xdb, 0x03], [0xdb, 0x1b], &integer[..4]),
        ([0xdf, 0x2b], [0xdf, 0x3b], &integer),
        ([0xdf, 0x23], [0xdf, 0x33], &decimal),
    ] {
        assert_eq!(run(0x37f, &[], bytes, &load), (0, [value].to_vec()));
        let mut guest = stack(&[value]);
        guest.put(0x3000, &[0x55; 12]);
        assert_eq!(guest.attempt(&store), Ok(()));
        let stored = guest.get::<12>(0x3000);
        assert_eq!(stored[..bytes.len()], *bytes, "{store:02x?}");
        assert_eq!(stored[bytes.len()..], [0x55; 12][bytes.len()..]);
        assert_eq!(used(&mut guest), [[0; 10]; 0]);
    }
    // fisttp word [rbx] cuts whatever the control word says
    let mut guest = stack(&[number(2.75)]);
    assert_eq!(guest.attempt(&[0xdf, 0x0b]), Ok(()));
    assert_eq!(guest.get::<2>(0x3000), [2, 0]);
    assert_eq!(guest.state().fpu.fsw, 4 << 11 | 0x20);
    // fld st1; fstp st2; fcmovbe st0, st1
    let (one, two, three) = (number(1.0), number(2.0), number(3.0));
    assert_eq!(
        run(0x37f, &[one, two], &[], &[0xd9, 0xc1]).1,
        [two, one, two]
    );
    assert_eq!(
        run(0x37f, &[one, two, three], &[], &[0xdd, 0xda]).1,
        [two, one]
    );
    for (flags, moved) in [(1u64, two), (0x40, two), (0, one)] {
        let mut guest = stack(&[one, two]);
        guest.change(|state| state.rflags = 2 | flags);
        assert_eq!(guest.attempt(&[0xda, 0xd1]), Ok(()));
        assert_eq!(used(&mut guest)[0], moved);
        assert_eq!(guest.attempt(&[0xdb, 0xd1]), Ok(()));
        assert_eq!(used(&mut guest)[0], two);
    }
}

#[test]
fn functions() {
    let (one, two, half) = (number(1.0), number(2.0), number(0.5));
    let of = |numbers: &[Number], modrm: u8| run(0x37f, numbers, &[], &[0xd9, modrm]).1;
    assert_eq!(of(&[number(-2.0)], 0xe0), [two]);
    assert_eq!(of(&[number(-2.0)], 0xe1), [two]);
    assert_eq!(of(&[one], 0xf0), [one]);
    assert_eq!(of(&[number(8.0), two], 0xf1), [number(6.0)]);
    assert_eq!(of(&[one, one], 0xf9), [one]);
    assert_eq!(of(&[number(0.0)], 0xf2), [one, number(0.0)]);
    assert_eq!(of(&[one, number(0.0)], 0xf3), [number(0.0)]);
    assert_eq!(of(&[number(12.0)], 0xf4), [number(1.5), number(3.0)]);
    assert_eq!(of(&[number(0.25)], 0xfa), [half]);
    assert_eq!(of(&[number(0.0)], 0xfb), [one, number(0.0)]);
    assert_eq!(of(&[number(2.5)], 0xfc), [two]);
    assert_eq!(of(&[number(1.5), two], 0xfd), [number(6.0), two]);
    assert_eq!(of(&[number(0.0)], 0xfe), [number(0.0)]);
    assert_eq!(of(&[number(0.0)], 0xff), [one]);
    // fprem: 17 = 3 * 5 + 2, the quotient's bits in C0, C3, C1; fprem1: 17 = 3 * 6 - 1
    let (status, numbers) = run(0x37f, &[number(17.0), number(3.0)], &[], &[0xd9, 0xf8]);
    assert_eq!((status, numbers[0]), (C0 | C1, two));
    let (status, numbers) = run(0x37f, &[number(17.0), number(3.0)], &[], &[0xd9, 0xf5]);
    assert_eq!((status, numbers[0]), (C0 | C3, number(-1.0)));
    // Arguments that are too large: C2, and nothing else happens.
    for modrm in [0xf2, 0xfb, 0xfe, 0xff] {
        let large = with(0x403e, 1 << 63);
        let (status, numbers) = run(0x37f, &[large], &[], &[0xd9, modrm]);
        assert_eq!((status & C2, &numbers[..]), (C2, &[large][..]), "{modrm:x}");
    }
}

#[test]
fn remainders_without_a_quotient_leave_its_bits() {
    // fprem of a NaN, and of a zero divisor
    for (numbers, invalid) in [
        ([with(0x7fff, 3 << 62), number(1.0)], 0),
        ([number(1.0), number(0.0)], 1),
    ] {
        for fcw in [0x37f, 0x37e] {
            let mut guest = stack(&numbers);
            guest.change(|state| {
                state.fpu.fsw |= C3 | C2 | C0;
                state.fpu.fcw = fcw;
            });
            assert_eq!(guest.attempt(&[0xd9, 0xf8]), Ok(()));
            assert_eq!(
                guest.state().fpu.fsw & 0x7fff & !TOP & !0x80,
                C3 | C0 | invalid
            );
        }
    }
}

#[test]
fn what_frees_registers_clears_c1() {
    let one = number(1.0);
    // ffree st1, ffreep st0, fincstp, fdecstp, fchs
    for (code, used, top) in [
        ([0xdd, 0xc1], 0b0000_1000, 3),
        ([0xdf, 0xc0], 0b0001_0000, 4),
        ([0xd9, 0xf7], 0b0001_1000, 4),
        ([0xd9, 0xf6], 0b0001_1000, 2),
        ([0xd9, 0xe0], 0b0001_1000, 3),
    ] {
        let mut guest = stack(&[one, one]);
        guest.change(|state| state.fpu.fsw |= C3 | C1);
        assert_eq!(guest.attempt(&code), Ok(()));
        let fpu = guest.state().fpu;
        assert_eq!((fpu.fsw, fpu.ftw), (top << 11 | C3, used), "{code:02x?}");
    }
    // fstpnce st1 of nothing: no exception, nothing is stored
    let mut guest = stack(&[]);
    assert_eq!(guest.attempt(&[0xd9, 0xd9]), Ok(()));
    let fpu = guest.state().fpu;
    assert_eq!((fpu.fsw, fpu.ftw), (4 << 11, 0));
}

#[test]
fn operands_that_fault_change_nothing() {
    let one = number(1.0);
    // The last bytes of memory: fadd qword, fld tbyte, fstp qword, fstp tbyte, fistp qword with its exception
    // unmasked, fnsave, frstor, all at [rbx].
    for (code, write) in [
        ([0xdc, 0x03], 0),
        ([0xdb, 0x2b], 0),
        ([0xdd, 0x1b], 2),
        ([0xdb, 0x3b], 2),
        ([0xdf, 0x3b], 2),
        ([0xdd, 0x33], 2),
        ([0xdd, 0x23], 0),
    ] {
        let mut guest = stack(&[one, one]);
        guest.put(0x1f_fffc, &[0x55; 4]);
        guest.change(|state| {
            state.gpr[RBX] = 0x1f_fffc;
            state.fpu.fip = 0x1234;
            if code[0] == 0xdf {
                state.fpu.fcw = 0x37e;
                state.fpu.st[0] = INDEFINITE;
            }
        });
        let before = guest.state().fpu;
        let fault = Err(Exception::PageFault(write));
        assert_eq!(guest.attempt(&code), fault, "{code:02x?}");
        assert_eq!(guest.state().fpu, before);
        assert_eq!(guest.get::<4>(0x1f_fffc), [0x55; 4]);
    }
}

#[test]
fn numbers_of_80_bits_are_aligned_as_64() {
    let mut guest = stack(&[]).user();
    guest.change(|state| {
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
    });
    for (at, result) in [(0x3008, Ok(())), (0x3004, Err(Exception::AlignmentCheck))] {
        assert_eq!(guest.attempt_with(&[(RBX, at)], &[0xdb, 0x2b]), result);
    }
}

#[test]
fn the_last_instruction_is_noted() {
    let mut guest = stack(&[number(1.0)]);
    // fadd dword [rbx]; fchs; fnstsw ax is none of them
    assert_eq!(guest.attempt(&[0xd8, 0x03]), Ok(()));
    let last = |guest: &mut Guest| {
        let fpu = guest.state().fpu;
        (fpu.fop, fpu.fip, fpu.fdp)
    };
    assert_eq!(last(&mut guest), (0x003, 0x1000, 0x3000));
    assert_eq!(guest.attempt(&[0xd9, 0xe0]), Ok(()));
    assert_eq!(last(&mut guest), (0x1e0, 0x1000, 0x3000));
    assert_eq!(guest.attempt(&[0xdf, 0xe0]), Ok(()));
    assert_eq!(last(&mut guest), (0x1e0, 0x1000, 0x3000));
}

/// The x87 of a guest whose last instruction was FADD dword [EBX] at 8:1000h with EBX = 3000h.
fn environment(mut guest: Guest) -> Guest {
    guest.change(|state| {
        state.gpr[RBX] = 0x3000;
        state.fpu.ftw = 0b1100_1001;
        state.fpu.fsw = 3 << 11 | 0x20;
        state.fpu.fcw = 0x340;
        // From the top on: physical registers 3, 6, 7 and 0.
        state.fpu.st[0] = number(2.0);
        state.fpu.st[3] = number(0.0);
        state.fpu.st[4] = with(0x7fff, 1 << 63);
        state.fpu.st[5] = number(1.0);
        state.fpu.fcw = 0x37f;
    });
    assert_eq!(guest.attempt(&[0xd8, 0x03]), Ok(()));
    guest.change(|state| state.fpu.fcw = 0x340);
    guest.put(0x3000, &[0xaa; 128]);
    guest
}

#[test]
fn environments_of_four_formats() {
    // 3: 2.0, valid; 6: zero; 7: infinity; 0: valid.
    let tags = 0b1001_1111_0011_1100u16;
    let words = |guest: &Guest, wide: bool| -> std::vec::Vec<u32> {
        let bytes = guest.get::<32>(0x3000);
        let width = if wide { 4 } else { 2 };
        bytes[..7 * width]
            .chunks(width)
            .map(|word| word.iter().rev().fold(0, |all, b| all << 8 | u32::from(*b)))
            .collect()
    };
    let low = |words: &[u32]| {
        words
            .iter()
            .map(|word| word & 0xffff)
            .collect::<std::vec::Vec<_>>()
    };
    let control = [0x340, 3 << 11 | 0x20, u32::from(tags)];
    // Protected mode, 32 bits, then 16 bits: fnstenv [ebx]
    let mut guest = environment(Guest::protected());
    assert_eq!(guest.attempt(&[0xd9, 0x33]), Ok(()));
    let wide = words(&guest, true);
    assert_eq!(low(&wide[..3]), control);
    assert_eq!(wide[3..6], [0x1000, 0x0003_0008, 0x3000]);
    assert_eq!(wide[6] & 0xffff, 0x10);
    assert_eq!(guest.get::<4>(0x3000 + 28), [0xaa; 4]);
    // All exceptions are masked now.
    assert_eq!(guest.state().fpu.fcw, 0x37f);
    let mut guest = environment(Guest::protected());
    assert_eq!(guest.attempt(&[0x66, 0xd9, 0x33]), Ok(()));
    let narrow = words(&guest, false);
    assert_eq!(narrow[..3], control);
    assert_eq!(narrow[3..], [0x1000, 8, 0x3000, 0x10]);
    // In 64-bit mode selectors don't count.
    let mut guest = environment(Guest::long());
    assert_eq!(guest.attempt(&[0xd9, 0x33]), Ok(()));
    assert_eq!(words(&guest, true)[3..6], [0x1000, 0x0003_0000, 0x3000]);
    // Real mode: linear addresses, fnstenv [bx] of 16 and 32 bits
    for (code, wide) in [(&[0xd9, 0x37][..], false), (&[0x66, 0xd9, 0x37], true)] {
        let mut guest = Guest::new();
        guest.change(|state| {
            state.cs = crate::cpu::Segment::real(0x1234, 0x0, 0xb);
            state.gpr[RBX] = 0x3000;
            state.fpu.ftw = 1;
        });
        // fadd dword [bx]
        assert_eq!(guest.attempt(&[0xd8, 0x07]), Ok(()));
        assert_eq!(guest.attempt(code), Ok(()));
        let words = words(&guest, wide);
        assert_eq!(words[3] & 0xffff, 0x3340);
        assert_eq!(words[4], 0x1007);
        assert_eq!(words[5] & 0xffff, 0x3000);
        assert_eq!(words[6], 0);
        // And back.
        let before = guest.state().fpu;
        guest.change(|state| state.fpu = FpuState::default());
        let mut load = code.to_vec();
        *load.last_mut().unwrap() = 0x27;
        assert_eq!(guest.attempt(&load), Ok(()));
        let after = guest.state().fpu;
        assert_eq!((after.fop, after.fip, after.fdp), (7, 0x1_3340, 0x3000));
        assert_eq!(after.ftw, before.ftw);
    }
}

#[test]
fn states_are_saved_and_restored() {
    for (fnsave, frstor, length) in [
        (&[0xdd, 0x33][..], &[0xdd, 0x23][..], 108),
        (&[0x66, 0xdd, 0x33], &[0x66, 0xdd, 0x23], 94),
    ] {
        let mut guest = environment(Guest::protected());
        let before = guest.state().fpu;
        assert_eq!(guest.attempt(fnsave), Ok(()));
        let area = guest.get::<112>(0x3000);
        assert_eq!(area[length..], [0xaa; 112][length..]);
        assert_eq!(area[length - 80..length - 70], number(2.0));
        let fpu = guest.state().fpu;
        assert_eq!((fpu.fcw, fpu.fsw, fpu.ftw, fpu.fip), (0x37f, 0, 0, 0));
        guest.change(|state| state.fpu = FpuState::default());
        assert_eq!(guest.attempt(frstor), Ok(()));
        let after = guest.state().fpu;
        let fop = if length == 108 { before.fop } else { 0 };
        assert_eq!(
            after,
            FpuState {
                fop,
                fsw: after.fsw,
                ..before
            }
        );
        // Imprecise results are not masked: that is pending at once.
        assert_eq!(after.fsw, 3 << 11 | 0x20 | ES);
        assert_eq!(guest.attempt(&[0x9b]), Ok(()), "without CR0.NE");
    }
}

#[test]
fn mmx_registers_are_those_of_the_x87() {
    let mut guest = stack(&[number(1.0), number(2.0)]);
    // movq rax, mm4: the second from the top is physical register 4
    assert_eq!(guest.attempt(&[0x48, 0x0f, 0x7e, 0xe0]), Ok(()));
    let state = guest.state();
    assert_eq!(state.gpr[RAX], 1 << 63);
    assert_eq!((state.fpu.fsw, state.fpu.ftw), (0, 0xff));
    assert_eq!(state.fpu.st[3..5], [number(1.0), number(2.0)]);
    // emms
    assert_eq!(guest.attempt(&[0x0f, 0x77]), Ok(()));
    assert_eq!(guest.state().fpu.ftw, 0);
}
