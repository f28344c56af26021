//! The arithmetic against the processor that the tests run on: result and every flag.
//!
//! Flags that the manuals leave undefined are compared too where the processor is of the family whose
//! choices the module follows, and left out elsewhere, which is said aloud.

// The oracle is the processor itself.
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
mod compatibility;

use core::arch::asm;
use std::arch::is_x86_feature_detected;
use std::prelude::v1::*;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// A width's two inputs and outputs: the accumulator, CL or a second operand, and DX.
#[derive(Clone, Copy, Debug)]
struct Regs<W, F> {
    a: W,
    c: W,
    d: W,
    flags: F,
}

/// Registers and flags of the processor.
type Host = Regs<u64, u64>;
/// Ours.
type Ours<W> = Regs<W, LazyFlags>;

/// One instruction, by width: the oracle.
type Oracle = fn(u32, Host) -> Host;

macro_rules! run {
    ($instruction:expr, $regs:expr) => {{
        let Host {
            mut a,
            mut c,
            mut d,
            flags,
        } = $regs;
        // Interrupts stay on, as far as a program has a say in it; the direction flag stays clear.
        let mut flags = (flags & STATUS) | 0x202;
        // SAFETY: The instruction names A, C, D and flags only; the stack is as before.
        unsafe {
            asm!(
                "push {flags}",
                "popfq",
                $instruction,
                "pushfq",
                "pop {flags}",
                inout("rax") a,
                inout("rcx") c,
                inout("rdx") d,
                flags = inout(reg) flags,
            );
        }
        Host {
            a,
            c,
            d,
            flags: flags & STATUS,
        }
    }};
}

/// An oracle of one instruction in the widths it has.
macro_rules! oracle {
    ($($width:literal $instruction:expr),+) => {
        (|width: u32, regs: Host| match width {
            $($width => run!($instruction, regs),)+
            _ => unreachable!("no such width"),
        }) as Oracle
    };
}

/// `mnemonic a, c` in all widths.
macro_rules! two {
    ($mnemonic:literal) => {
        oracle!(
            8 concat!($mnemonic, " al, cl"), 16 concat!($mnemonic, " ax, cx"),
            32 concat!($mnemonic, " eax, ecx"), 64 concat!($mnemonic, " rax, rcx")
        )
    };
}

/// `mnemonic a, c` in all widths but 8 bits.
macro_rules! two_wide {
    ($mnemonic:literal) => {
        oracle!(
            16 concat!($mnemonic, " ax, cx"),
            32 concat!($mnemonic, " eax, ecx"), 64 concat!($mnemonic, " rax, rcx")
        )
    };
}

/// An instruction without operands.
macro_rules! bare {
    ($mnemonic:literal) => {
        oracle!(8 $mnemonic, 16 $mnemonic, 32 $mnemonic, 64 $mnemonic)
    };
}

/// `mnemonic a` in all widths.
macro_rules! one {
    ($mnemonic:literal) => {
        oracle!(
            8 concat!($mnemonic, " al"), 16 concat!($mnemonic, " ax"),
            32 concat!($mnemonic, " eax"), 64 concat!($mnemonic, " rax")
        )
    };
}

/// `mnemonic c` in all widths, with D:A implied; for 8 bits AH is taken from D and put there.
macro_rules! implied {
    ($mnemonic:literal) => {
        oracle!(
            8 concat!("mov ah, dl\n", $mnemonic, " cl\nmov dl, ah"), 16 concat!($mnemonic, " cx"),
            32 concat!($mnemonic, " ecx"), 64 concat!($mnemonic, " rcx")
        )
    };
}

/// `mnemonic a, cl` in all widths.
macro_rules! by_cl {
    ($mnemonic:literal) => {
        oracle!(
            8 concat!($mnemonic, " al, cl"), 16 concat!($mnemonic, " ax, cl"),
            32 concat!($mnemonic, " eax, cl"), 64 concat!($mnemonic, " rax, cl")
        )
    };
}

/// `mnemonic a, d, cl` in all widths but 8 bits.
macro_rules! double_by_cl {
    ($mnemonic:literal) => {
        oracle!(
            16 concat!($mnemonic, " ax, dx, cl"),
            32 concat!($mnemonic, " eax, edx, cl"), 64 concat!($mnemonic, " rax, rdx, cl")
        )
    };
}

/// `mnemonic a, d, c` in 32 and 64 bits.
macro_rules! three {
    ($mnemonic:literal) => {
        oracle!(
            32 concat!($mnemonic, " eax, edx, ecx"), 64 concat!($mnemonic, " rax, rdx, rcx")
        )
    };
}

/// `mnemonic a, c` in 32 and 64 bits.
macro_rules! two_widest {
    ($mnemonic:literal) => {
        oracle!(32 concat!($mnemonic, " eax, ecx"), 64 concat!($mnemonic, " rax, rcx"))
    };
}

/// Whether this processor is one that the module's table was measured on; said aloud once if not.
fn undefined_flags_comparable() -> bool {
    /// AMD's family 1Ah, in the form of CPUID: the base family and what is added to it.
    const FAMILY: (u32, u32) = (0xf, 0xb);
    static COMPARABLE: OnceLock<bool> = OnceLock::new();
    *COMPARABLE.get_or_init(|| {
        let leaf = core::arch::x86_64::__cpuid(0);
        let mut vendor = Vec::new();
        for register in [leaf.ebx, leaf.edx, leaf.ecx] {
            vendor.extend(register.to_le_bytes());
        }
        let version = core::arch::x86_64::__cpuid(1).eax;
        let family = ((version >> 8) & 0xf, (version >> 20) & 0xff);
        let comparable = vendor == b"AuthenticAMD" && family == FAMILY;
        if !comparable {
            std::eprintln!("SKIPPED: undefined flags, which processors set as they like");
        }
        comparable
    })
}

/// In a set of undefined flags: the result is undefined as well.
const RESULT: u64 = 1 << 63;

/// An operation, ours and the processor's.
struct Operation<W> {
    name: &'static str,
    oracle: Oracle,
    ours: fn(&mut Ours<W>),
    /// The flags that are undefined, by width and count.
    undefined: fn(u32, u8) -> u64,
    /// Makes an input that would fault into one that does not, if it can.
    legal: fn(Ours<W>) -> Option<Ours<W>>,
}

impl<W: Word> Operation<W> {
    /// Compares with the processor and returns the flags.
    fn check(&self, input: Ours<W>) -> LazyFlags {
        let Some(input) = (self.legal)(input) else {
            return input.flags;
        };
        let host = Host {
            a: input.a.zero_extend(),
            c: input.c.zero_extend(),
            d: input.d.zero_extend(),
            flags: input.flags.status(),
        };
        let expected = (self.oracle)(W::BITS, host);
        let mut got = input;
        (self.ours)(&mut got);
        let undefined = if undefined_flags_comparable() {
            0
        } else {
            (self.undefined)(W::BITS, input.c.zero_extend() as u8)
        };
        let same = undefined & RESULT != 0
            || got.a == W::truncate(expected.a)
                && got.c == W::truncate(expected.c)
                && got.d == W::truncate(expected.d);
        let flags = got.flags.status();
        assert!(
            same && (flags ^ expected.flags) & !undefined == 0,
            "{} of {} bits: {host:x?} gave {got:x?} with flags {flags:#x}, the processor {expected:x?}",
            self.name,
            W::BITS,
        );
        got.flags
    }
}

/// An operation by its name, its oracle, its undefined flags and what we do.
macro_rules! operation {
    ($name:literal, $oracle:expr, $undefined:expr, |$r:ident| $ours:expr) => {
        Operation {
            name: $name,
            oracle: $oracle,
            ours: |$r: &mut Ours<_>| $ours,
            undefined: $undefined,
            legal: Some,
        }
    };
}

/// `f` gives the accumulator and the flags.
macro_rules! set {
    ($r:ident, $value:expr) => {
        ($r.a, $r.flags) = $value
    };
}

impl<W: Word> Ours<W> {
    fn count(&self) -> u8 {
        self.c.zero_extend() as u8
    }
}

fn defined(_: u32, _: u8) -> u64 {
    0
}

fn logic(_: u32, _: u8) -> u64 {
    undefined::LOGIC
}

fn multiply(_: u32, _: u8) -> u64 {
    undefined::MULTIPLY
}

fn divide(_: u32, _: u8) -> u64 {
    undefined::DIVIDE
}

fn scan(_: u32, _: u8) -> u64 {
    undefined::BIT_SCAN
}

fn count_zeros(_: u32, _: u8) -> u64 {
    undefined::COUNT_ZEROS
}

fn bit_test(_: u32, _: u8) -> u64 {
    undefined::BIT_TEST
}

fn bmi(_: u32, _: u8) -> u64 {
    undefined::BMI
}

fn double_shift(width: u32, count: u8) -> u64 {
    match undefined::double_shift(width, count) {
        STATUS => STATUS | RESULT,
        flags => flags,
    }
}

/// Whether D:A by C has a signed quotient that fits, worked out without our code.
fn signed_quotient_fits<W: Word>(r: &Ours<W>) -> bool {
    let high = i128::from(r.d.sign_extend() as i64);
    let dividend = (high << W::BITS) | i128::from(r.a.zero_extend());
    let divisor = i128::from(r.c.sign_extend() as i64);
    let bound = 1i128 << (W::BITS - 1);
    dividend
        .checked_div(divisor)
        .is_some_and(|quotient| (-bound..bound).contains(&quotient))
}

/// Operations of all widths.
fn operations<W: Word>() -> Vec<Operation<W>> {
    std::vec![
        operation!("add", two!("add"), defined, |r| set!(r, add(r.a, r.c))),
        operation!("adc", two!("adc"), defined, |r| set!(
            r,
            adc(r.a, r.c, r.flags)
        )),
        operation!("sub", two!("sub"), defined, |r| set!(r, sub(r.a, r.c))),
        operation!("sbb", two!("sbb"), defined, |r| set!(
            r,
            sbb(r.a, r.c, r.flags)
        )),
        operation!("cmp", two!("cmp"), defined, |r| r.flags = cmp(r.a, r.c)),
        operation!("xadd", two!("xadd"), defined, |r| {
            let old = r.a;
            set!(r, add(r.a, r.c));
            r.c = old;
        }),
        operation!(
            "cmpxchg",
            oracle!(
                8 "cmpxchg cl, dl", 16 "cmpxchg cx, dx",
                32 "cmpxchg ecx, edx", 64 "cmpxchg rcx, rdx"
            ),
            defined,
            |r| {
                r.flags = cmp(r.a, r.c);
                if r.flags.zero() {
                    r.c = r.d;
                } else {
                    r.a = r.c;
                }
            }
        ),
        operation!("and", two!("and"), logic, |r| set!(r, and(r.a, r.c))),
        operation!("or", two!("or"), logic, |r| set!(r, or(r.a, r.c))),
        operation!("xor", two!("xor"), logic, |r| set!(r, xor(r.a, r.c))),
        operation!("test", two!("test"), logic, |r| r.flags = test(r.a, r.c)),
        operation!("inc", one!("inc"), defined, |r| set!(r, inc(r.a, r.flags))),
        operation!("dec", one!("dec"), defined, |r| set!(r, dec(r.a, r.flags))),
        operation!("neg", one!("neg"), defined, |r| set!(r, neg(r.a))),
        operation!("not", one!("not"), defined, |r| r.a = not(r.a)),
        operation!("clc", bare!("clc"), defined, |r| r.flags =
            r.flags.with_carry(false)),
        operation!("stc", bare!("stc"), defined, |r| r.flags =
            r.flags.with_carry(true)),
        operation!("cmc", bare!("cmc"), defined, |r| {
            r.flags = r.flags.with_carry(!r.flags.carry());
        }),
        operation!(
            "sahf",
            oracle!(
                8 "mov ah, cl\nsahf", 16 "mov ah, cl\nsahf\nmov ax, cx",
                32 "mov ah, cl\nsahf\nmov eax, ecx", 64 "mov ah, cl\nsahf\nmov rax, rcx"
            ),
            defined,
            |r| {
                r.flags = r.flags.sahf(r.count());
                if W::BITS > 8 {
                    r.a = r.c;
                }
            }
        ),
        operation!(
            "lahf",
            oracle!(
                8 "lahf\nmov cl, ah", 16 "lahf\nmovzx ecx, ah\nmovzx eax, ah",
                32 "lahf\nmovzx ecx, ah\nmovzx eax, ah", 64 "lahf\nmovzx ecx, ah\nmovzx eax, ah"
            ),
            defined,
            |r| {
                r.c = W::truncate(u64::from(r.flags.lahf()));
                if W::BITS > 8 {
                    r.a = r.c;
                }
            }
        ),
        operation!("shl", by_cl!("shl"), undefined::shift, |r| {
            set!(r, shl(r.a, r.count(), r.flags));
        }),
        operation!("shr", by_cl!("shr"), undefined::shift, |r| {
            set!(r, shr(r.a, r.count(), r.flags));
        }),
        operation!("sar", by_cl!("sar"), undefined::shift_arithmetic, |r| {
            set!(r, sar(r.a, r.count(), r.flags));
        }),
        operation!("rol", by_cl!("rol"), undefined::rotate, |r| {
            set!(r, rol(r.a, r.count(), r.flags));
        }),
        operation!("ror", by_cl!("ror"), undefined::rotate, |r| {
            set!(r, ror(r.a, r.count(), r.flags));
        }),
        operation!("rcl", by_cl!("rcl"), undefined::rotate, |r| {
            set!(r, rcl(r.a, r.count(), r.flags));
        }),
        operation!("rcr", by_cl!("rcr"), undefined::rotate, |r| {
            set!(r, rcr(r.a, r.count(), r.flags));
        }),
        operation!("mul", implied!("mul"), multiply, |r| {
            (r.a, r.d, r.flags) = mul_wide(r.a, r.c, r.flags);
        }),
        operation!("imul", implied!("imul"), multiply, |r| {
            (r.a, r.d, r.flags) = imul_wide(r.a, r.c, r.flags);
        }),
        Operation {
            legal: |mut r| {
                let high = r.d.zero_extend().checked_rem(r.c.zero_extend())?;
                r.d = W::truncate(high);
                Some(r)
            },
            ..operation!("div", implied!("div"), divide, |r| {
                let done = div(r.d, r.a, r.c, r.flags).expect("legal");
                (r.a, r.d, r.flags) = (done.quotient, done.remainder, done.flags);
            })
        },
        Operation {
            legal: |mut r| {
                // Most random dividends are too large: fall back to one that seldom is.
                if !signed_quotient_fits(&r) {
                    r.d = sign_fill(r.a);
                }
                signed_quotient_fits(&r).then_some(r)
            },
            ..operation!("idiv", implied!("idiv"), divide, |r| {
                let done = idiv(r.d, r.a, r.c, r.flags).expect("legal");
                (r.a, r.d, r.flags) = (done.quotient, done.remainder, done.flags);
            })
        },
    ]
}

/// Operations that have no 8-bit form.
fn wide_operations<W: Word>() -> Vec<Operation<W>> {
    let mut list = std::vec![
        operation!("imul a, c", two_wide!("imul"), multiply, |r| {
            set!(r, imul(r.a, r.c, r.flags));
        }),
        operation!("shld", double_by_cl!("shld"), double_shift, |r| {
            set!(r, shld(r.a, r.d, r.count(), r.flags));
        }),
        operation!("shrd", double_by_cl!("shrd"), double_shift, |r| {
            set!(r, shrd(r.a, r.d, r.count(), r.flags));
        }),
        operation!("bsf", two_wide!("bsf"), scan, |r| {
            let (index, flags) = bsf(r.c);
            (r.a, r.flags) = (index.unwrap_or(r.a), flags);
        }),
        operation!("bsr", two_wide!("bsr"), scan, |r| {
            let (index, flags) = bsr(r.c);
            (r.a, r.flags) = (index.unwrap_or(r.a), flags);
        }),
        operation!("bt", two_wide!("bt"), bit_test, |r| {
            r.flags = bt(r.a, r.c, r.flags);
        }),
        operation!("bts", two_wide!("bts"), bit_test, |r| {
            set!(r, bts(r.a, r.c, r.flags));
        }),
        operation!("btr", two_wide!("btr"), bit_test, |r| {
            set!(r, btr(r.a, r.c, r.flags));
        }),
        operation!("btc", two_wide!("btc"), bit_test, |r| {
            set!(r, btc(r.a, r.c, r.flags));
        }),
        operation!(
            "bswap",
            oracle!(16 ".byte 0x66, 0x0f, 0xc8", 32 "bswap eax", 64 "bswap rax"),
            |width, _| if width == 16 { RESULT } else { 0 },
            |r| r.a = bswap(r.a)
        ),
        operation!(
            "sign fill",
            oracle!(16 "cwd", 32 "cdq", 64 "cqo"),
            defined,
            |r| {
                r.d = sign_fill(r.a);
            }
        ),
        operation!(
            "sign extension",
            oracle!(16 "cbw", 32 "cwde", 64 "cdqe"),
            defined,
            |r| {
                let a = Word::zero_extend(r.a);
                r.a = W::truncate(match W::BITS {
                    16 => u64::from(cbw(a as u8)),
                    32 => u64::from(cwde(a as u16)),
                    _ => cdqe(a as u32),
                });
            }
        ),
    ];
    let mut add = |available: bool, operation: Operation<W>| {
        if available {
            list.push(operation);
        } else {
            std::eprintln!("SKIPPED: {}, which this processor lacks", operation.name);
        }
    };
    add(
        is_x86_feature_detected!("bmi1"),
        operation!("tzcnt", two_wide!("tzcnt"), count_zeros, |r| {
            set!(r, tzcnt(r.c, r.flags));
        }),
    );
    add(
        is_x86_feature_detected!("lzcnt"),
        operation!("lzcnt", two_wide!("lzcnt"), count_zeros, |r| {
            set!(r, lzcnt(r.c, r.flags));
        }),
    );
    add(
        is_x86_feature_detected!("popcnt"),
        operation!("popcnt", two_wide!("popcnt"), defined, |r| set!(
            r,
            popcnt(r.c)
        )),
    );
    add(
        is_x86_feature_detected!("movbe"),
        operation!(
            "movbe",
            oracle!(
                16 "push rcx\nmovbe ax, [rsp]\npop rcx", 32 "push rcx\nmovbe eax, [rsp]\npop rcx",
                64 "push rcx\nmovbe rax, [rsp]\npop rcx"
            ),
            defined,
            |r| r.a = movbe(r.c)
        ),
    );
    list
}

/// Operations of 32 and 64 bits, as far as the processor has them.
fn widest_operations<W: Word>() -> Vec<Operation<W>> {
    let mut list = Vec::new();
    let mut add = |available: bool, operations: Vec<Operation<W>>| {
        if available {
            list.extend(operations);
        } else {
            for operation in operations {
                std::eprintln!("SKIPPED: {}, which this processor lacks", operation.name);
            }
        }
    };
    add(
        is_x86_feature_detected!("bmi1"),
        std::vec![
            operation!("andn", three!("andn"), bmi, |r| set!(r, andn(r.d, r.c))),
            operation!("bextr", three!("bextr"), |_, _| undefined::BEXTR, |r| {
                set!(r, bextr(r.d, r.c));
            }),
            operation!("blsi", two_widest!("blsi"), bmi, |r| set!(r, blsi(r.c))),
            operation!("blsmsk", two_widest!("blsmsk"), bmi, |r| set!(
                r,
                blsmsk(r.c)
            )),
            operation!("blsr", two_widest!("blsr"), bmi, |r| set!(r, blsr(r.c))),
        ],
    );
    add(
        is_x86_feature_detected!("bmi2"),
        std::vec![
            operation!("bzhi", three!("bzhi"), bmi, |r| set!(r, bzhi(r.d, r.c))),
            // The first operand gets the high half, the second the low one.
            operation!("mulx", three!("mulx"), defined, |r| {
                (r.d, r.a) = mulx(r.d, r.c);
            }),
            operation!("pdep", three!("pdep"), defined, |r| r.a = pdep(r.d, r.c)),
            operation!("pext", three!("pext"), defined, |r| r.a = pext(r.d, r.c)),
            operation!("sarx", three!("sarx"), defined, |r| r.a = sarx(r.d, r.c)),
            operation!("shlx", three!("shlx"), defined, |r| r.a = shlx(r.d, r.c)),
            operation!("shrx", three!("shrx"), defined, |r| r.a = shrx(r.d, r.c)),
            operation!(
                "rorx 1",
                oracle!(32 "rorx eax, ecx, 1", 64 "rorx rax, rcx, 1"),
                defined,
                |r| r.a = rorx(r.c, 1)
            ),
            operation!(
                "rorx 45",
                oracle!(32 "rorx eax, ecx, 45", 64 "rorx rax, rcx, 45"),
                defined,
                |r| r.a = rorx(r.c, 45)
            ),
            operation!(
                "rorx 0",
                oracle!(32 "rorx eax, ecx, 64", 64 "rorx rax, rcx, 64"),
                defined,
                |r| r.a = rorx(r.c, 64)
            ),
        ],
    );
    add(
        is_x86_feature_detected!("adx"),
        std::vec![
            operation!("adcx", two_widest!("adcx"), defined, |r| {
                set!(r, adcx(r.a, r.c, r.flags));
            }),
            operation!("adox", two_widest!("adox"), defined, |r| {
                set!(r, adox(r.a, r.c, r.flags));
            }),
        ],
    );
    list
}

/// All operations that a width has.
fn all_operations<W: Word>() -> Vec<Operation<W>> {
    let mut list = operations();
    if W::BITS > 8 {
        list.extend(wide_operations());
    }
    if W::BITS > 16 {
        list.extend(widest_operations());
    }
    list
}

/// Flags that an operation may find: every way of keeping them, with the flags of each apart.
fn earlier_flags<W: Word>() -> Vec<LazyFlags> {
    let word = |value: u64| W::truncate(value);
    let lowest = word(1 << (W::BITS - 1));
    let mut list = Vec::new();
    for rflags in [
        0,
        STATUS,
        CF,
        STATUS & !CF,
        OF | SF,
        ZF | AF,
        PF | CF,
        ZF | SF,
    ] {
        list.push(LazyFlags::from_rflags(rflags));
    }
    for (a, b) in [
        (word(1), word(2)),
        (lowest, lowest),
        (word(u64::MAX), word(1)),
        (word(8), word(8)),
        (word(0x7f), lowest),
    ] {
        list.push(add(a, b).1);
        list.push(cmp(a, b));
        list.push(cmp(b, a));
        list.push(and(a, b).1);
        list.push(inc(a, add(a, b).1).1);
    }
    list
}

/// Operands at the edges of a width.
fn corners<W: Word>() -> Vec<W> {
    let high = 1u64 << (W::BITS - 1);
    let half = 1u64 << (W::BITS / 2);
    let mut list = Vec::new();
    for value in [0, 1, 2, 7, 9, 0xf, 0x10, 0x11, 0x1f, 0x21, 0x3f, 0x80, 0xff]
        .into_iter()
        .chain([high, high + 1, high - 1, half, half - 1, half * 3])
        .chain([u64::MAX, u64::MAX - 1, u64::MAX / 3, u64::MAX / 3 * 2])
        // For BEXTR: eight bits from the third on, all from the first on.
        .chain([0x0802, 0x4000, 0x2004])
    {
        let value = W::truncate(value);
        if !list.contains(&value) {
            list.push(value);
        }
    }
    list
}

/// Every pair of corners, with varied D and flags.
fn check_corners<W: Word>() {
    let corners = corners::<W>();
    let earlier = earlier_flags::<W>();
    for operation in all_operations::<W>() {
        let mut turn = 0;
        for &a in &corners {
            for &c in &corners {
                for _ in 0..6 {
                    let d = corners[turn % corners.len()];
                    let flags = earlier[turn % earlier.len()];
                    operation.check(Regs { a, c, d, flags });
                    turn += 1;
                }
            }
        }
    }
}

#[test]
fn corners_are_exact() {
    check_corners::<u8>();
    check_corners::<u16>();
    check_corners::<u32>();
    check_corners::<u64>();
}

#[test]
fn bytes_are_exact() {
    let earlier = earlier_flags::<u8>();
    for operation in all_operations::<u8>() {
        let mut turn = 0;
        for a in 0..=u8::MAX {
            for c in 0..=u8::MAX {
                for _ in 0..2 {
                    let flags = earlier[turn % earlier.len()];
                    let d = (turn as u8).wrapping_mul(37);
                    operation.check(Regs { a, c, d, flags });
                    turn += 1;
                }
            }
        }
    }
}

/// Every 16-bit value by every count.
#[test]
fn shifts_of_16_bits_are_exact() {
    let earlier = earlier_flags::<u16>();
    let shifts = [
        "shl", "shr", "sar", "rol", "ror", "rcl", "rcr", "shld", "shrd",
    ];
    let mut turn = 0;
    for operation in all_operations::<u16>() {
        if !shifts.contains(&operation.name) {
            continue;
        }
        for a in (0..=u16::MAX).step_by(7) {
            for c in 0..34 {
                let flags = earlier[turn % earlier.len()];
                let d = a.wrapping_mul(40503);
                operation.check(Regs { a, c, d, flags });
                turn += 1;
            }
        }
    }
}

/// A division is refused exactly if its quotient does not fit.
fn check_refusals<W: Word>(operands: &[W], dividends: &[(W, W)]) {
    for &(d, a) in dividends {
        for &c in operands {
            let flags = LazyFlags::default();
            let dividend = (u128::from(d.zero_extend()) << W::BITS) | u128::from(a.zero_extend());
            let fits = dividend
                .checked_div(u128::from(c.zero_extend()))
                .is_some_and(|quotient| quotient >> W::BITS == 0);
            assert_eq!(div(d, a, c, flags).is_ok(), fits, "{d:?}:{a:?} / {c:?}");
            let fits = signed_quotient_fits(&Regs { a, c, d, flags });
            assert_eq!(idiv(d, a, c, flags).is_ok(), fits, "{d:?}:{a:?} / {c:?}");
        }
    }
}

#[test]
fn divisions_that_do_not_fit_are_refused() {
    fn with_corners<W: Word>() {
        let corners = corners::<W>();
        let mut dividends = Vec::new();
        for &high in &corners {
            dividends.extend(corners.iter().map(|&low| (high, low)));
        }
        check_refusals(&corners, &dividends);
    }
    with_corners::<u16>();
    with_corners::<u32>();
    with_corners::<u64>();
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    for high in (0..=u8::MAX).step_by(3) {
        let dividends: Vec<_> = bytes.iter().map(|&low| (high, low)).collect();
        check_refusals(&bytes, &dividends);
    }
}

/// Every operation in turn, each with the flags that the one before left, as lazy as they are.
fn check_sequence<W: Word>(steps: &[(usize, u64, u64, u64)]) {
    let operations = all_operations::<W>();
    let mut flags = LazyFlags::default();
    for &(index, a, c, d) in steps {
        let input = Regs {
            a: W::truncate(a),
            c: W::truncate(c),
            d: W::truncate(d),
            flags,
        };
        flags = operations[index % operations.len()].check(input);
        check_conditions(flags);
    }
}

/// Each condition as the manual puts it, from all flags.
fn check_conditions(lazy: LazyFlags) {
    let flags = lazy.status();
    let set = |flag| flags & flag != 0;
    let expected = [
        set(OF),
        set(CF),
        set(ZF),
        set(CF) || set(ZF),
        set(SF),
        set(PF),
        set(SF) != set(OF),
        set(ZF) || set(SF) != set(OF),
    ];
    for (pair, expected) in expected.into_iter().enumerate() {
        let opcode = 0x70 + 2 * pair as u8;
        assert_eq!(
            lazy.holds(Condition::from_opcode(opcode)),
            expected,
            "{lazy:x?}"
        );
        assert_eq!(
            lazy.holds(Condition::from_opcode(opcode + 1)),
            !expected,
            "{lazy:x?}"
        );
    }
}

/// Numbers of all magnitudes.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64, any::<bool>()).prop_map(|(value, shift, invert)| {
        let value = value >> shift;
        if invert { !value } else { value }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn sequences_are_exact(
        steps in prop::collection::vec((any::<usize>(), number(), number(), number()), 1..200)
    ) {
        check_sequence::<u8>(&steps);
        check_sequence::<u16>(&steps);
        check_sequence::<u32>(&steps);
        check_sequence::<u64>(&steps);
    }
}

#[test]
fn conditions_follow_from_flags() {
    for rflags in 0..=0xfff {
        let lazy = LazyFlags::from_rflags(rflags);
        assert_eq!(lazy.status(), rflags & STATUS);
        check_conditions(lazy);
    }
    for a in 0..=u8::MAX {
        for c in 0..=u8::MAX {
            check_conditions(cmp(a, c));
            check_conditions(add(a, c).1);
            check_conditions(and(a, c).1);
        }
    }
}

#[test]
fn conditions_are_the_processors() {
    macro_rules! condition {
        ($($suffix:literal),+) => {
            [$(run_condition(|regs| run!(concat!("mov eax, 0\nset", $suffix, " al"), regs))),+]
        };
    }
    /// The condition for every combination of flags.
    fn run_condition(oracle: fn(Host) -> Host) -> Vec<bool> {
        let (a, c, d) = (0, 0, 0);
        (0..=0xfff)
            .map(|flags| oracle(Host { a, c, d, flags }).a != 0)
            .collect()
    }
    let expected = condition!(
        "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"
    );
    for (condition, expected) in Condition::ALL.into_iter().zip(expected) {
        assert_eq!(condition, Condition::from_opcode(condition as u8 | 0x70));
        for (rflags, expected) in expected.into_iter().enumerate() {
            let lazy = LazyFlags::from_rflags(rflags as u64);
            assert_eq!(
                lazy.holds(condition),
                expected,
                "{condition:?} of {rflags:#x}"
            );
        }
    }
}

#[test]
fn only_status_flags_come_and_go() {
    let lazy = LazyFlags::from_rflags(u64::MAX);
    assert_eq!(lazy.status(), STATUS);
    assert_eq!(lazy.to_rflags(0x202), 0x202 | STATUS);
    assert_eq!(LazyFlags::default().to_rflags(u64::MAX), !STATUS);
    assert_eq!(size_of::<LazyFlags>(), 32);
    for lazy in earlier_flags::<u32>() {
        for zero in [false, true] {
            let expected = (lazy.status() & !ZF) | if zero { ZF } else { 0 };
            assert_eq!(lazy.with_zero(zero).status(), expected);
        }
    }
}

#[test]
fn checksums_are_the_processors() {
    if !is_x86_feature_detected!("sse4.2") {
        std::eprintln!("SKIPPED: crc32, which this processor lacks");
        return;
    }
    let oracle = oracle!(
        8 "crc32 eax, cl", 16 "crc32 eax, cx", 32 "crc32 eax, ecx", 64 "crc32 rax, rcx"
    );
    fn check<W: Word>(oracle: Oracle, crc: u32, data: u64) {
        let host = Host {
            a: u64::from(crc),
            c: data,
            d: 0,
            flags: STATUS,
        };
        let expected = oracle(W::BITS, host);
        assert_eq!(u64::from(crc32(crc, W::truncate(data))), expected.a);
        assert_eq!(expected.flags, STATUS);
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..10_000 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let crc = (state >> 32) as u32;
        let data = state ^ (state >> 29);
        check::<u8>(oracle, crc, data);
        check::<u16>(oracle, crc, data);
        check::<u32>(oracle, crc, data);
        check::<u64>(oracle, crc, data);
    }
}

/// The processor's own reach: BT of memory with an index around the operand.
#[test]
fn bits_are_found_where_the_processor_finds_them() {
    let mut memory = [0u64; 64];
    macro_rules! set_bit {
        ($size:literal, $register:literal, $word:ty, $index:expr) => {{
            let index: $word = $index;
            memory.fill(0);
            let middle = &raw mut memory[32];
            // SAFETY: The indices stay within 2,048 bits around the middle of the 4,096.
            unsafe {
                asm!(
                    concat!("bts ", $size, " ptr [{middle}], {index:", $register, "}"),
                    middle = in(reg) middle,
                    index = in(reg) index,
                );
            }
            let displacement = bit_displacement(index);
            let place = 32 * 64 + displacement * 8 + i64::from(index as u8 % <$word>::BITS as u8);
            let (word, bit) = ((place / 64) as usize, place % 64);
            assert_eq!(memory[word], 1 << bit, "index {index:#x}");
        }};
    }
    for index in -2048i64..2048 {
        set_bit!("word", "x", u16, index as u16);
        set_bit!("dword", "e", u32, index as u32);
        set_bit!("qword", "r", u64, index as u64);
    }
}
