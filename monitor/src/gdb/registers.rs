//! A processor's registers as gdb numbers and lays them out, and the target description that says so.
//!
//! Source: "Debugging with GDB", appendix "Target Descriptions", "i386 Features"; numbers, names and widths are those that
//! QEMU's x86-64 has, so that tools that know these by heart find them. Values are little-endian. Outside of 64-bit code
//! general registers and RIP have 32 bits, and R8 to R15 are zero and can't be set, as with QEMU.
//!
//! Setting a segment register of protected mode is refused: a selector alone does not say what the segment is.

use core::fmt::{self, Write};

use thimble_core::cpu::decode::CodeSize;
use thimble_core::cpu::gpr::{R8, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use thimble_core::cpu::{CpuState, Registers, Segment};

/// How many registers there are.
pub(super) const COUNT: usize = 66;

/// Bytes of all registers.
pub(super) const BYTES: usize = 608;

/// Bytes of the widest register.
pub(super) const WIDEST: usize = 16;

/// Where general registers are in [`CpuState::gpr`].
const GENERAL: [usize; 16] = [
    RAX,
    RBX,
    RCX,
    RDX,
    RSI,
    RDI,
    RBP,
    RSP,
    R8,
    R8 + 1,
    R8 + 2,
    R8 + 3,
    R8 + 4,
    R8 + 5,
    R8 + 6,
    R8 + 7,
];

/// Registers that are alike, and follow each other.
struct Group {
    /// The first one's number.
    first: u8,
    /// Apart by blanks.
    names: &'static str,
    bits: u8,
    kind: &'static str,
    /// What else the description says of each.
    more: &'static str,
}

const fn group(first: u8, names: &'static str, bits: u8, kind: &'static str) -> Group {
    Group {
        first,
        names,
        bits,
        kind,
        more: "",
    }
}

/// Registers that gdb knows under a common name.
struct Feature {
    name: &'static str,
    /// Types that are described before the registers.
    types: &'static str,
    /// Registers of bits, each with the bits that have names: `NAME:FIRST` or `NAME:FIRST-LAST`.
    flags: &'static [(&'static str, u8, &'static str)],
    groups: &'static [Group],
}

/// All registers; RFLAGS, CR0 and so on as the Intel SDM names their bits.
static FEATURES: [Feature; 4] = [
    Feature {
        name: "org.gnu.gdb.i386.core",
        types: "",
        flags: &[(
            "eflags",
            4,
            "ID:21 VIP:20 VIF:19 AC:18 VM:17 RF:16 NT:14 IOPL:12-13 OF:11 DF:10 IF:9 TF:8 SF:7 ZF:6 AF:4 PF:2 CF:0",
        )],
        groups: &[
            group(0, "rax rbx rcx rdx rsi rdi", 64, "int64"),
            group(6, "rbp rsp", 64, "data_ptr"),
            group(8, "r8 r9 r10 r11 r12 r13 r14 r15", 64, "int64"),
            group(16, "rip", 64, "code_ptr"),
            group(17, "eflags", 32, "eflags"),
            group(18, "cs ss ds es fs gs", 32, "int32"),
            group(33, "st0 st1 st2 st3 st4 st5 st6 st7", 80, "i387_ext"),
            Group {
                more: " group=\"float\"",
                ..group(
                    41,
                    "fctrl fstat ftag fiseg fioff foseg fooff fop",
                    32,
                    "int",
                )
            },
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.segments",
        types: "",
        flags: &[],
        groups: &[group(24, "fs_base gs_base", 64, "int64")],
    },
    Feature {
        name: "thimble.system",
        types: "",
        flags: &[
            (
                "cr0",
                8,
                "PG:31 CD:30 NW:29 AM:18 WP:16 NE:5 ET:4 TS:3 EM:2 MP:1 PE:0",
            ),
            ("cr3", 8, "PDBR:12-63 PCID:0-11"),
            (
                "cr4",
                8,
                "PKE:22 SMAP:21 SMEP:20 OSXSAVE:18 PCIDE:17 FSGSBASE:16 SMXE:14 VMXE:13 LA57:12 UMIP:11 OSXMMEXCPT:10 OSFXSR:9 PCE:8 PGE:7 MCE:6 PAE:5 PSE:4 DE:3 TSD:2 PVI:1 VME:0",
            ),
            ("efer", 8, "NXE:11 LMA:10 LME:8 SCE:0"),
        ],
        groups: &[
            group(26, "k_gs_base", 64, "int64"),
            group(27, "cr0", 64, "cr0"),
            group(28, "cr2", 64, "int64"),
            group(29, "cr3", 64, "cr3"),
            group(30, "cr4", 64, "cr4"),
            group(31, "cr8", 64, "int64"),
            group(32, "efer", 64, "efer"),
        ],
    },
    Feature {
        name: "org.gnu.gdb.i386.sse",
        types: "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>\
            <vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
            <vector id=\"v16i8\" type=\"int8\" count=\"16\"/>\
            <vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
            <vector id=\"v4i32\" type=\"int32\" count=\"4\"/>\
            <vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
            <union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>\
            <field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>\
            <field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>\
            <field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>",
        flags: &[(
            "mxcsr",
            4,
            "IE:0 DE:1 ZE:2 OE:3 UE:4 PE:5 DAZ:6 IM:7 DM:8 ZM:9 OM:10 UM:11 PM:12 FZ:15",
        )],
        groups: &[
            group(
                49,
                "xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7 xmm8 xmm9 xmm10 xmm11 xmm12 xmm13 xmm14 \
                 xmm15",
                128,
                "vec128",
            ),
            Group {
                more: " group=\"vector\"",
                ..group(65, "mxcsr", 32, "mxcsr")
            },
        ],
    },
];

/// Writes the target description.
///
/// # Errors
/// Whatever `text` says.
pub(super) fn describe(text: &mut dyn Write) -> fmt::Result {
    text.write_str(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target>\
         <architecture>i386:x86-64</architecture>",
    )?;
    for feature in &FEATURES {
        write!(text, "<feature name=\"{}\">{}", feature.name, feature.types)?;
        for (id, size, fields) in feature.flags {
            write!(text, "<flags id=\"{id}\" size=\"{size}\">")?;
            for field in fields.split(' ') {
                let (name, bits) = field.split_once(':').unwrap_or((field, ""));
                let (start, end) = bits.split_once('-').unwrap_or((bits, bits));
                write!(
                    text,
                    "<field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>"
                )?;
            }
            text.write_str("</flags>")?;
        }
        for group in feature.groups {
            let Group {
                bits, kind, more, ..
            } = group;
            for (name, number) in group.names.split(' ').zip(group.first..) {
                write!(
                    text,
                    "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\" regnum=\"{number}\"{more}/>"
                )?;
            }
        }
        text.write_str("</feature>")?;
    }
    text.write_str("</target>")
}

/// Bytes of a register, if there is one of this number.
pub(super) const fn size(number: usize) -> Option<usize> {
    Some(match number {
        0..=16 | 24..=32 => 8,
        17..=23 | 41..=48 | 65 => 4,
        33..=40 => 10,
        49..=64 => 16,
        _ => return None,
    })
}

/// Tag of an x87 register that is in use (Intel SDM volume 1, 8.1.7): valid, zero or special.
fn tag(register: &[u8; 10]) -> u32 {
    let [significand @ .., low, high] = *register;
    let (significand, exponent) = (
        u64::from_le_bytes(significand),
        u16::from_le_bytes([low, high]) & 0x7fff,
    );
    match (exponent, significand) {
        (0, 0) => 1,
        (1..0x7fff, _) if significand >> 63 == 1 => 0,
        _ => 2,
    }
}

/// Where the top of the x87's stack is.
const fn top(fsw: u16) -> usize {
    (fsw >> 11 & 7) as usize
}

/// The value of a register; `None` if there is none of this number.
pub(super) fn get(state: &CpuState, number: usize) -> Option<u128> {
    let long = Registers::from(state).code_size() == CodeSize::Bits64;
    let mask = if long { u64::MAX } else { u32::MAX.into() };
    let fpu = &state.fpu;
    let value: u64 = match number {
        8..=15 if !long => 0,
        0..=15 => state.gpr[GENERAL[number]] & mask,
        16 => state.rip & mask,
        17 => state.rflags,
        18..=23 => segment(state, number).selector.into(),
        24 => state.fs.base,
        25 => state.gs.base,
        26 => state.msrs.kernel_gs_base,
        27 => state.cr0,
        28 => state.cr2,
        29 => state.cr3,
        30 => state.cr4,
        31 => state.cr8,
        32 => state.efer,
        33..=40 => {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&fpu.st[number - 33]);
            return Some(u128::from_le_bytes(bytes));
        }
        41 => fpu.fcw.into(),
        42 => fpu.fsw.into(),
        43 => (0..8)
            .map(|physical| {
                let register = &fpu.st[(physical + 8 - top(fpu.fsw)) % 8];
                let tag = match fpu.ftw >> physical & 1 {
                    0 => 3,
                    _ => tag(register),
                };
                tag << (2 * physical)
            })
            .sum::<u32>()
            .into(),
        44 => fpu.fip >> 32 & 0xffff,
        45 => fpu.fip & 0xffff_ffff,
        46 => fpu.fdp >> 32 & 0xffff,
        47 => fpu.fdp & 0xffff_ffff,
        48 => fpu.fop.into(),
        49..=64 => return Some(fpu.xmm[number - 49]),
        65 => fpu.mxcsr.into(),
        _ => return None,
    };
    Some(value.into())
}

fn segment(state: &CpuState, number: usize) -> &Segment {
    match number {
        18 => &state.cs,
        19 => &state.ss,
        20 => &state.ds,
        21 => &state.es,
        22 => &state.fs,
        _ => &state.gs,
    }
}

/// Bits of RFLAGS that a debugger may change: all that have a meaning, but not the one that is always set.
const FLAGS: u64 = 0x3f_7fd5;

/// Sets a register; false if it can't be.
pub(super) fn set(state: &mut CpuState, number: usize, value: u128) -> bool {
    if get(state, number) == Some(value) {
        return true;
    }
    let long = Registers::from(&*state).code_size() == CodeSize::Bits64;
    let mask = if long { u64::MAX } else { u32::MAX.into() };
    let low = value as u64;
    let fpu = &mut state.fpu;
    match number {
        8..=15 if !long => return false,
        0..=15 => state.gpr[GENERAL[number]] = low & mask,
        16 => state.rip = low & mask,
        17 => state.rflags = state.rflags & !FLAGS | low & FLAGS,
        18..=23 => return set_segment(state, number, low as u16),
        24 => state.fs.base = low,
        25 => state.gs.base = low,
        26 => state.msrs.kernel_gs_base = low,
        27 => state.cr0 = low,
        28 => state.cr2 = low,
        29 => state.cr3 = low,
        30 => state.cr4 = low,
        31 => state.cr8 = low,
        32 => state.efer = low,
        33..=40 => fpu.st[number - 33].copy_from_slice(&value.to_le_bytes()[..10]),
        41 => fpu.fcw = low as u16,
        42 => fpu.fsw = low as u16,
        43 => {
            let used = |physical: u8| u8::from(low >> (2 * physical) & 3 != 3) << physical;
            fpu.ftw = (0..8).map(used).sum();
        }
        44 => fpu.fip = fpu.fip & 0xffff_ffff | (low & 0xffff) << 32,
        45 => fpu.fip = fpu.fip & !0xffff_ffff | low & 0xffff_ffff,
        46 => fpu.fdp = fpu.fdp & 0xffff_ffff | (low & 0xffff) << 32,
        47 => fpu.fdp = fpu.fdp & !0xffff_ffff | low & 0xffff_ffff,
        48 => fpu.fop = low as u16 & 0x7ff,
        49..=64 => fpu.xmm[number - 49] = value,
        65 => fpu.mxcsr = low as u32 & 0xffff,
        _ => return false,
    }
    true
}

/// Loads a segment register as in real or virtual-8086 mode; false in protected mode.
fn set_segment(state: &mut CpuState, number: usize, selector: u16) -> bool {
    const VM: u64 = 1 << 17;
    let protected = state.cr0 & 1 != 0;
    if protected && state.rflags & VM == 0 {
        return false;
    }
    let kind = segment(state, number).kind;
    let place = match number {
        18 => &mut state.cs,
        19 => &mut state.ss,
        20 => &mut state.ds,
        21 => &mut state.es,
        22 => &mut state.fs,
        _ => &mut state.gs,
    };
    // Limits stay, as they do when real mode loads a register.
    let (limit, dpl) = (place.limit, place.dpl);
    *place = Segment {
        limit,
        dpl,
        ..Segment::real(selector, u64::from(selector) << 4, kind)
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;
    use std::vec::Vec;

    #[test]
    fn the_description_names_every_register_once() {
        let mut text = String::new();
        describe(&mut text).unwrap();
        let mut found: Vec<(usize, usize)> = text
            .split("<reg ")
            .skip(1)
            .map(|reg| {
                let value = |name: &str| {
                    let at = reg.find(name).unwrap() + name.len();
                    reg[at..].split('"').next().unwrap().parse().unwrap()
                };
                (value("regnum=\""), value("bitsize=\""))
            })
            .collect();
        found.sort_unstable();
        let all = (0..COUNT).map(|number| (number, size(number).unwrap() * 8));
        assert!(found.into_iter().eq(all));
        assert_eq!(size(COUNT), None);
        let bytes: usize = (0..COUNT).filter_map(size).sum();
        assert_eq!(bytes, BYTES);
    }

    #[test]
    fn what_is_set_reads_back() {
        let mut state = CpuState::power_on(0, true, 0);
        for number in 0..COUNT {
            let bytes = size(number).unwrap();
            let value = match number {
                8..=15 => continue,
                // Not these bits.
                17 => 0x3f_7fd7,
                18..=23 | 41 | 42 | 44 | 46 | 65 => 0x1234,
                43 => 0xfffe,
                48 => 0x234,
                27 | 30 | 32 => continue,
                0..=16 => 0x8765_4321,
                _ => 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00 >> (128 - 8 * bytes),
            };
            assert!(set(&mut state, number, value), "{number}");
            let found = get(&state, number).unwrap();
            match number {
                // Special or not is said by the register.
                43 => assert_eq!((found | 2) & 0xffff, 0xfffe),
                _ => assert_eq!(found, value, "{number}"),
            }
        }
        assert_eq!(state.ss.base, 0x12340);
        assert!(!set(&mut state, 8, 1));
        assert!(!set(&mut state, COUNT, 0));
        assert_eq!(get(&state, COUNT), None);
        state.cr0 |= 1;
        state.rflags &= !(1 << 17);
        assert!(!set(&mut state, 18, 8));
        assert!(set(&mut state, 18, 0x1234));
    }

    #[test]
    fn general_registers_are_in_gdbs_order_and_as_wide_as_code() {
        let mut state = CpuState::power_on(0, true, 0);
        for (number, value) in state.gpr.iter_mut().zip(0x1_0000_0000..) {
            *number = value;
        }
        let order = |state: &CpuState| {
            let mut all = [0; 16];
            for (number, value) in all.iter_mut().enumerate() {
                *value = get(state, number).unwrap();
            }
            all
        };
        assert_eq!(
            order(&state),
            [0, 3, 1, 2, 6, 7, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        state.cs.long = true;
        (state.cr0, state.cr4, state.efer) = (1 << 31 | 1, 1 << 5, 1 << 8 | 1 << 10);
        assert_eq!(order(&state)[7..9], [0x1_0000_0004, 0x1_0000_0008]);
        state.rip = u64::MAX;
        assert_eq!(get(&state, 16), Some(u64::MAX.into()));
    }

    #[test]
    fn tags_tell_registers_apart() {
        let mut state = CpuState::power_on(0, true, 0);
        let one = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
        // Two registers in use, the top at 6: one, and zero.
        (state.fpu.fsw, state.fpu.ftw) = (6 << 11, 0b1100_0000);
        state.fpu.st[0] = one;
        state.fpu.st[1] = [0; 10];
        assert_eq!(get(&state, 43), Some(0b01_00_11_11_11_11_11_11));
        state.fpu.st[0][9] = 0x7f;
        state.fpu.st[0][8] = 0xff;
        assert_eq!(get(&state, 43), Some(0b01_10_11_11_11_11_11_11));
    }
}
