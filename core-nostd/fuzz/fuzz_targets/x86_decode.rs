//! The instruction decoder on arbitrary bytes, in the mode that the first tells: it never panics, agrees with iced-x86 on
//! every instruction in turn, and asks for more bytes as long as one isn't complete. Each has a line in a listing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::cpu::decode::{
    Base, CodeSize, DecodeError, Instruction, LENGTH_MAX, Memory, Operand, Operation, Register,
    RegisterClass, SegmentRegister, Size, decode, list,
};
use thimble_fuzz::plant;

// The same comparison as in the decoder's tests.
#[path = "../../src/cpu/decode/oracle.rs"]
mod oracle;

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, mut code)) = bytes.split_first() else {
        return;
    };
    let mode = match mode % 3 {
        0 => CodeSize::Bits16,
        1 => CodeSize::Bits32,
        _ => CodeSize::Bits64,
    };
    while !code.is_empty() {
        for verdict in [oracle::compare(code, mode), oracle::cut(code, mode)] {
            if let Err(difference) = verdict {
                panic!("{difference}");
            }
        }
        let mut text = String::new();
        let listed = list(&mut text, code.len() as u64, code, mode).expect("a string has room");
        // What is no instruction is passed over by a byte.
        let length = match decode(code, mode) {
            Ok(instruction) => {
                // Behind a VEX prefix, and not among the seeds.
                use Operation::*;
                plant(matches!(
                    instruction.operation(),
                    Andn | Bextr | Blsi | Bzhi | Pdep | Pext | Sarx | Shlx | Shrx
                ));
                usize::from(instruction.length())
            }
            Err(_) => 1,
        };
        match decode(code, mode) {
            Err(DecodeError::NeedMore) => assert_eq!((listed, text.len()), (0, 0)),
            _ => assert_eq!((listed, text.ends_with('\n')), (length, true)),
        }
        code = &code[length..];
    }
});
