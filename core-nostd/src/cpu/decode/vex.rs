//! The opcode maps behind a VEX prefix (SDM volume 2, tables for group 17): those of BMI1 and
//! BMI2, which work on general registers. AVX would add rows here, and VEX.L to what an entry may look at.

use super::form::{Entry, Spec::*, op2, op3};
use super::operation::Operation::*;
use Entry::*;

/// Group 17.
static GROUP_17: [Entry; 8] = [
    Undefined,
    op2(Blsr, By, Ey),
    op2(Blsmsk, By, Ey),
    op2(Blsi, By, Ey),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 38 F2.
static ANDN: Entry = Prefix(&[op3(Andn, Gy, By, Ey), Undefined, Undefined, Undefined]);
/// 0F 38 F3.
static BLS: Entry = Prefix(&[Reg(&GROUP_17), Undefined, Undefined, Undefined]);
/// 0F 38 F5.
static BZHI: Entry = Prefix(&[
    op3(Bzhi, Gy, Ey, By),
    Undefined,
    op3(Pext, Gy, By, Ey),
    op3(Pdep, Gy, By, Ey),
]);
/// 0F 38 F6.
static MULX: Entry = Prefix(&[Undefined, Undefined, Undefined, op3(Mulx, Gy, By, Ey)]);
/// 0F 38 F7.
static BEXTR: Entry = Prefix(&[
    op3(Bextr, Gy, Ey, By),
    op3(Shlx, Gy, Ey, By),
    op3(Sarx, Gy, Ey, By),
    op3(Shrx, Gy, Ey, By),
]);
/// 0F 3A F0.
static RORX: Entry = Prefix(&[Undefined, Undefined, Undefined, op3(Rorx, Gy, Ey, Ib)]);

/// The entry of an opcode in the map behind 0F 38.
pub(super) fn map_38(opcode: u8) -> &'static Entry {
    match opcode {
        0xf2 => &ANDN,
        0xf3 => &BLS,
        0xf5 => &BZHI,
        0xf6 => &MULX,
        0xf7 => &BEXTR,
        _ => &Undefined,
    }
}

/// The entry of an opcode in the map behind 0F 3A.
pub(super) fn map_3a(opcode: u8) -> &'static Entry {
    match opcode {
        0xf0 => &RORX,
        _ => &Undefined,
    }
}
