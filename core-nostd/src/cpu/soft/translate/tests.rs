use super::super::testing::Guest;
use super::CodeMemory;
use crate::cpu::decode::CodeSize;
use crate::cpu::gpr::{RAX, RBX, RSI, RSP};
use crate::cpu::soft::{Stop, fast, micro};
use proptest::prelude::*;
use std::vec::Vec;

const LENGTH: usize = 1 << 20;
/// Ten times as many take a second each where the compiler optimises.
const CASES: u32 = if cfg!(debug_assertions) { 400 } else { 4000 };

std::thread_local! {
    static MEMORY: CodeMemory = map();
}

/// Memory that can be written and executed: one for each thread, whose tests come one
/// after the other. It is never unmapped.
fn memory() -> CodeMemory {
    MEMORY.with(|memory| *memory)
}

fn map() -> CodeMemory {
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, which nobody else has.
    unsafe {
        let memory = libc::mmap(core::ptr::null_mut(), LENGTH, rights, flags, -1, 0);
        assert_ne!(memory, libc::MAP_FAILED);
        CodeMemory::new(memory.cast(), memory.cast(), LENGTH)
    }
}

/// Numbers that follow from a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// A register's value: most point to memory.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.below(256),
            2 => u64::MAX - self.below(256),
            3 | 4 => 0x1000 + self.below(64),
            _ => 0x1_0000 + self.below(0x4000),
        }
    }

    /// Register and memory operand, with the register field as given.
    fn operand(&mut self, code: &mut Vec<u8>, field: Option<u8>) {
        let field = field.unwrap_or(self.byte() & 7);
        let mode = self.of(&[0u8, 1, 1, 2, 3, 3, 3]);
        let base = self.byte() & 7;
        code.push(mode << 6 | field << 3 | base);
        if mode == 3 {
            return;
        }
        let mut long = mode == 2 || mode == 0 && base == 5;
        if base == 4 {
            let sib = self.byte();
            code.push(sib);
            long |= mode == 0 && sib & 7 == 5;
        }
        if long {
            let displacement = self.below(0x4000) as u32;
            let displacement = self.of(&[displacement, displacement, displacement.wrapping_neg()]);
            code.extend(displacement.to_le_bytes());
        } else if mode == 1 {
            code.push(self.byte());
        }
    }

    /// Bytes of an immediate operand.
    fn immediate(&mut self, code: &mut Vec<u8>, bytes: usize) {
        let value = match self.below(3) {
            0 => self.next(),
            _ => self.below(256) as i8 as u64,
        };
        code.extend(&value.to_le_bytes()[..bytes]);
    }

    /// An instruction on XMM registers: any that there is, most on few registers.
    fn media(&mut self, code: &mut Vec<u8>, long: bool) {
        let prefix = self.of(&[0u8, 0x66, 0x66, 0xf3, 0xf2]);
        if prefix != 0 {
            code.push(prefix);
        }
        if long && self.below(3) == 0 {
            code.push(0x40 | self.byte() & 15);
        }
        let opcode = match self.below(8) {
            0 => self.of(&[0x10u8, 0x11, 0x12, 0x13, 0x16, 0x17, 0x28, 0x29]),
            1 => self.of(&[0x2a, 0x2c, 0x2d, 0x2e, 0x2f, 0x5a, 0x5b, 0xe6]),
            2 => self.of(&[0x51, 0x58, 0x59, 0x5c, 0x5d, 0x5e, 0x5f, 0xc2]),
            3 => self.of(&[0x6e, 0x7e, 0x6f, 0x7f, 0xd6, 0xd7, 0x70, 0xe7]),
            4 => self.of(&[0x71, 0x72, 0x73]),
            _ => self.of(&[0x54, 0x57, 0x60, 0x6c, 0x14, 0xd4, 0xef, 0xfe]) ^ self.byte() & 3,
        };
        code.extend([0x0f, opcode]);
        self.operand(code, None);
        if matches!(opcode, 0x70..=0x73 | 0xc2) {
            code.push(self.byte() & 0x1f);
        }
    }

    /// A number as registers have it: small integers, ordinary floating-point ones, anything.
    fn double(&mut self) -> u64 {
        let number = (self.below(2000) as f64 - 1000.0) / 8.0;
        match self.below(6) {
            0 => self.next(),
            1 => self.below(300),
            2 => f64::MAX.to_bits(),
            3 => (number as f32).to_bits().into(),
            _ => number.to_bits(),
        }
    }

    /// An instruction.
    fn instruction(&mut self, code: &mut Vec<u8>, long: bool) {
        let start = code.len();
        let mut size = 4;
        if self.below(6) == 0 {
            code.push(0x66);
            size = 2;
        }
        if self.below(24) == 0 {
            code.push(self.of(&[0x67, 0xf0, 0x64, 0x65, 0x2e, 0xf3]));
        }
        if long && self.below(2) == 0 {
            code.push(0x40 | self.byte() & 15);
        }
        let wide = code.last().is_some_and(|last| last & 0xf8 == 0x48) && long;
        let four = if size == 2 && !wide { 2 } else { 4 };
        match self.below(40) {
            34.. => {
                // What is a prefix there is none any more.
                code.truncate(start);
                self.media(code, long);
            }
            0..=6 => {
                let opcode = self.byte() & 0x38 | self.of(&[0, 1, 2, 3]);
                code.push(opcode);
                self.operand(code, None);
            }
            7 | 8 => {
                let opcode = self.of(&[0x80u8, 0x81, 0x83]);
                code.push(opcode);
                self.operand(code, None);
                self.immediate(code, if opcode == 0x81 { four } else { 1 });
            }
            9..=13 => {
                code.push(self.of(&[0x84, 0x85, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x87]));
                self.operand(code, None);
            }
            14 => {
                let opcode = self.of(&[0xc6u8, 0xc7]);
                code.push(opcode);
                self.operand(code, Some(0));
                self.immediate(code, if opcode == 0xc7 { four } else { 1 });
            }
            15 => {
                let register = self.byte() & 7;
                code.push(0xb8 | register);
                let value = self.value();
                code.extend(&value.to_le_bytes()[..if wide { 8 } else { four }]);
            }
            16 | 17 => {
                code.push(self.of(&[0x50, 0x58]) | self.byte() & 7);
            }
            18 | 19 => {
                code.push(self.of(&[0xfe, 0xff]));
                let field = self.byte() & 1;
                self.operand(code, Some(field));
            }
            20 => {
                let opcode = self.of(&[0xf6u8, 0xf7]);
                code.push(opcode);
                let field = self.of(&[0u8, 2, 3, 4, 5, 6]);
                self.operand(code, Some(field));
                if field == 0 {
                    self.immediate(code, if opcode == 0xf7 { four } else { 1 });
                }
            }
            21..=23 => {
                let opcode = self.of(&[0xc0u8, 0xc1, 0xd0, 0xd1, 0xd2, 0xd3]);
                code.push(opcode);
                let field = self.of(&[0u8, 1, 4, 5, 7, 4, 5, 7, 2, 3]);
                self.operand(code, Some(field));
                if opcode < 0xd0 {
                    code.push(self.byte() & 0x3f);
                }
            }
            24 => {
                let opcode = self.of(&[0x69u8, 0x6b]);
                code.push(opcode);
                self.operand(code, None);
                self.immediate(code, if opcode == 0x69 { four } else { 1 });
            }
            25..=28 => {
                let opcode = match self.below(4) {
                    0 => 0x40 | self.byte() & 15,
                    1 => 0x90 | self.byte() & 15,
                    2 => self.of(&[0xb6, 0xb7, 0xbe, 0xbf]),
                    _ => self.of(&[0xaf, 0xa3, 0xb1, 0xc1, 0xbc, 0xab, 0xb3, 0xa5]),
                };
                code.extend([0x0f, opcode]);
                self.operand(code, None);
            }
            29 => {
                code.push(0x63);
                self.operand(code, None);
            }
            30 => {
                // Over an instruction or none, or into the middle of one.
                code.push(0x70 | self.byte() & 15);
                code.push(self.below(4) as u8);
            }
            31 => {
                code.push(self.of(&[
                    0x90, 0x98, 0x99, 0x9c, 0xf8, 0xf9, 0xf5, 0x9e, 0x9f, 0xfc, 0xfd, 0xaa, 0xa4,
                    0xc3, 0x9d,
                ]));
            }
            32 => {
                // A call of what follows, or to wherever.
                match self.below(2) {
                    0 => code.extend([0xe8, 0, 0, 0, 0]),
                    _ => {
                        code.push(0xff);
                        let field = self.of(&[2u8, 4]);
                        self.operand(code, Some(field));
                    }
                }
            }
            _ => {
                code.extend([0x0f, 0xc8 | self.byte() & 7]);
            }
        }
    }
}

/// Runs the same in the interpreter and in translations, and compares all that can be seen.
fn compare(seed: u64, long: bool) {
    let mut numbers = Numbers(seed);
    let make = || {
        if long {
            Guest::long()
        } else {
            Guest::protected()
        }
    };
    let mut guests = [make(), make()];
    guests[1].lend(memory().after(numbers.below(3) as u32));
    let mut code = Vec::new();
    for _ in 0..numbers.below(24) + 1 {
        numbers.instruction(&mut code, long);
    }
    // Back, by a counter that is changed by nobody else if it is lucky.
    let start = numbers.of(&[0x1000u64, 0x1000, 0x1ff0]);
    if numbers.below(2) == 0 {
        code.push(0xeb);
    } else {
        code.push(0x70 | numbers.byte() & 15);
    }
    code.push((code.len() as u8 + 1).wrapping_neg());
    // Behind it: back by 32 bits, or it ends there.
    if numbers.below(2) == 0 {
        code.push(0xe9);
        let back = (code.len() as u32 + 4).wrapping_neg();
        code.extend(back.to_le_bytes());
    } else {
        code.push(0xf4);
    }
    let values: Vec<u64> = (0..16).map(|_| numbers.value()).collect();
    let flags = numbers.next() & 0x8d5 | 2;
    let xmm: [u128; 16] =
        core::array::from_fn(|_| u128::from(numbers.double()) | u128::from(numbers.double()) << 64);
    let control = numbers.of(&[0x1f80, 0x1f80, 0x1fa0, 0xffc0, 0x5f81, 0x1e80, 0x9fc0]);
    let (cr0, cr4) = numbers.of(&[(0, 3 << 9), (0, 3 << 9), (0, 3 << 9), (8, 3 << 9), (0, 0)]);
    let filling: Vec<u8> = (0..0x6000).map(|_| numbers.byte()).collect();
    for guest in &mut guests {
        guest.put(0x1_0000, &filling);
        guest.put(start, &code);
        guest.change(|state| {
            state.gpr.copy_from_slice(&values);
            state.gpr[RSP] = 0x1_2000;
            state.gpr[RSI] = 0x1_1000;
            if !long {
                for register in &mut state.gpr {
                    *register &= 0xffff_ffff;
                }
            }
            state.rip = start;
            state.rflags = flags;
            state.fpu.xmm = xmm;
            state.fpu.mxcsr = control;
            state.cr0 |= cr0;
            state.cr4 |= cr4;
            state.fs.base = 0x1_0000;
            state.gs.base = 0x1_3ffd;
        });
    }
    for _ in 0..8 {
        let budget = match numbers.below(3) {
            0 => 1 + numbers.below(5),
            _ => numbers.below(300),
        };
        let stops = guests.each_mut().map(|guest| guest.run(budget));
        assert_eq!(stops[0], stops[1], "{code:02x?}");
        let [one, two] = &mut guests;
        assert_eq!(
            one.cpu.instructions(),
            two.cpu.instructions(),
            "{code:02x?}"
        );
        assert_eq!(one.cpu.raised(), two.cpu.raised(), "{code:02x?}");
        assert_eq!(one.state(), two.state(), "{code:02x?}");
        if stops[0] != Stop::Budget {
            break;
        }
    }
    let [one, two] = &guests;
    for page in [0x1000, 0x2000]
        .into_iter()
        .chain((0x1_0000..0x1_6000).step_by(4096))
    {
        let [one, two] = [one, two].map(|guest| guest.get::<4096>(page));
        assert!(one == two, "{page:#x}: {code:02x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn translations_of_64_bit_code_do_what_the_interpreter_does(seed in any::<u64>()) {
        compare(seed, true);
    }

    #[test]
    fn translations_of_32_bit_code_do_what_the_interpreter_does(seed in any::<u64>()) {
        compare(seed, false);
    }
}

/// The state after an instruction and HLT.
fn after(code: &[u8], translated: bool) -> (crate::cpu::CpuState, Stop, [u8; 64]) {
    let mut numbers = Numbers(1);
    let mut guest = Guest::long();
    if translated {
        guest.lend(memory().after(0));
    }
    let bytes: Vec<u8> = (0..64).map(|_| numbers.byte()).collect();
    guest.put(0x3000, &bytes);
    guest.put(0x1000, code);
    guest.put(0x1000 + code.len() as u64, &[0xf4]);
    guest.change(|state| {
        state.cr4 |= 3 << 9;
        state.rip = 0x1000;
        (state.gpr[RAX], state.gpr[RBX]) = (numbers.next(), 0x3010);
        for register in &mut state.fpu.xmm {
            *register = u128::from(numbers.next()) << 64 | u128::from(numbers.next());
        }
        state.fpu.xmm[2] = u128::from(1.7f64.to_bits());
        state.fpu.xmm[3] = u128::from((-2.9f64).to_bits());
    });
    let stop = guest.run(10);
    (guest.state(), stop, guest.get(0x3000))
}

#[test]
fn each_instruction_on_xmm_registers_is_its_own_translation() {
    let mut tried = 0;
    for opcode in 0x10..=0xffu8 {
        for prefix in [&[][..], &[0x66], &[0xf3], &[0xf2]] {
            for rex in [None, Some(0x48)] {
                // XMM2 or an operation, with XMM3 or memory at RBX.
                for modrm in [0xd3, 0x13, 0x5b, 0xe3, 0xf3, 0xdb, 0xfb] {
                    let mut code = prefix.to_vec();
                    code.extend(rex);
                    code.extend([0x0f, opcode, modrm, 0x0c, 0x0c, 0x0c, 0x0c]);
                    let Ok(i) = crate::cpu::decode::decode(&code, CodeSize::Bits64) else {
                        continue;
                    };
                    code.truncate(i.length().into());
                    if micro::translate(&i, CodeSize::Bits64, 0)
                        .is_none_or(|micro| micro.handler != fast::MEDIA)
                    {
                        continue;
                    }
                    tried += 1;
                    assert_eq!(after(&code, true), after(&code, false), "{code:02x?} {i:?}");
                }
            }
        }
    }
    assert!(tried > 1000, "{tried}");
}
