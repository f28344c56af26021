//! Tests of the texts: what QEMU's disassembler was seen to write, what depends on the address, listings, and whatever
//! bytes there may be. `qemu-tests` compares more of them with a running QEMU.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;

use super::super::decode;
use super::*;

fn text(bytes: &[u8], mode: CodeSize, address: u64) -> String {
    let decoded = disassemble(bytes, mode).unwrap();
    assert_eq!(Ok(*decoded.instruction()), decode(bytes, mode));
    decoded.at(address).to_string()
}

fn listed(bytes: &[u8], mode: CodeSize, address: u64) -> (usize, String) {
    let mut to = String::new();
    let length = list(&mut to, address, bytes, mode).unwrap();
    (length, to)
}

#[test]
fn as_observed() {
    let lines = include_str!("observed.list").lines();
    let mut count = 0;
    for line in lines.filter(|line| !line.starts_with('#')) {
        let mut parts = line.splitn(3, ": ");
        let mut part = || parts.next().unwrap();
        let mode = match part() {
            "16" => CodeSize::Bits16,
            "32" => CodeSize::Bits32,
            _ => CodeSize::Bits64,
        };
        let bytes = part().split(' ').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Vec<u8> = bytes.map(Result::unwrap).collect();
        let ours = text(&bytes, mode, 0x10_0000);
        let words: Vec<&str> = ours.split_whitespace().collect();
        assert_eq!(words.join(" "), part(), "{mode:?} {bytes:02x?}");
        count += 1;
    }
    assert!(count > 600, "{count}");
}

#[test]
fn branches_tell_where_they_go() {
    use CodeSize::*;
    for (bytes, mode, address, expected) in [
        (&[0xeb, 0xfe][..], Bits16, 0xf_e05b, "jmp      0xe05b"),
        (&[0xeb, 0xfe], Bits32, 0x1_0000_0005, "jmp      5"),
        (&[0xeb, 0xfe], Bits64, 0x1_0000_0005, "jmp      0x100000005"),
        (&[0x75, 0x80], Bits32, 0, "jne      0xffffff82"),
        (
            &[0xe8, 0, 0, 0, 0],
            Bits64,
            0xffff_ffff_ffff_fffb,
            "callq    0",
        ),
        (&[0xe8, 2, 0], Bits16, 0xfffd, "callw    2"),
        (
            &[0x66, 0xe8, 2, 0, 0, 0],
            Bits16,
            0xfffa,
            "calll    0x10002",
        ),
        (&[0xe2, 0x10], Bits16, 0x10, "loop     0x22"),
        (&[0x67, 0xe3, 0x10], Bits16, 0x10, "jecxz    0x23"),
        // Relative to RIP, which is named.
        (
            &[0x8b, 5, 0x10, 0, 0, 0],
            Bits64,
            0x1000,
            "movl     0x10(%rip), %eax",
        ),
        (
            &[0x67, 0x8b, 5, 0, 0, 0, 0],
            Bits64,
            0,
            "movl     (%eip), %eax",
        ),
    ] {
        assert_eq!(text(bytes, mode, address), expected, "{bytes:02x?}");
    }
}

/// What QEMU's disassembler has wrong or doesn't know: the SDM's names, and what a processor does.
#[test]
fn where_the_manual_is_followed() {
    use CodeSize::*;
    for (bytes, mode, expected) in [
        (&[0x98][..], Bits16, "cbtw"),
        (&[0x99], Bits16, "cwtd"),
        (&[0xf3, 0x90], Bits16, "pause"),
        (&[0x66, 0x0f, 0x58, 0xc1], Bits16, "addpd    %xmm1, %xmm0"),
        (&[0xd0, 0xf0], Bits32, "shlb     $1, %al"),
        (&[0xd1, 0xc0], Bits32, "roll     $1, %eax"),
        (&[0x63, 0xc1], Bits64, "movsxd   %ecx, %eax"),
        (
            &[0x66, 0x48, 0x0f, 0x6e, 0xc0],
            Bits64,
            "movq     %rax, %xmm0",
        ),
        (&[0xf3, 0x0f, 0x09], Bits64, "wbnoinvd"),
        (&[0xf3, 0x0f, 0xc7, 0xf8], Bits64, "rdpid    %rax"),
        (&[0x0f, 0x01, 0xe8], Bits64, "serialize"),
        (&[0x0f, 0xae, 0xe9], Bits64, "lfence"),
        (&[0x0f, 0xb9, 0x00], Bits64, "ud1      (%rax), %eax"),
        (&[0x66, 0x48, 0x50], Bits64, "pushq    %rax"),
        (&[0x66, 0xe9, 0, 0, 0, 0], Bits64, "jmp      6"),
    ] {
        assert_eq!(text(bytes, mode, 0), expected, "{bytes:02x?}");
    }
}

#[test]
fn listings_have_lines_for_long_instructions_and_bytes() {
    let long = [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x90];
    assert_eq!(
        listed(&long, CodeSize::Bits64, 0xffff_ffff_8000_0000),
        (
            10,
            "0xffffffff80000000:  48 b8 01 02 03 04 05 06  movabsq  $0x807060504030201, %rax\n\
             0xffffffff80000008:  07 08\n"
                .to_string()
        )
    );
    assert_eq!(
        listed(&[0x0f, 0x04, 0x90], CodeSize::Bits32, 0x10),
        (
            1,
            "0x00000010:  0f                       .byte    0x0f\n".to_string()
        )
    );
    // 15 prefixes are too many.
    let (length, line) = listed(&[0x66; 16], CodeSize::Bits32, 0);
    assert_eq!(length, 1, "{line}");
    assert_eq!(listed(&[0x66; 15], CodeSize::Bits32, 0).0, 1);
    // More bytes may make one.
    for cut in [&[][..], &[0x66; 14], &long[..9]] {
        assert_eq!(listed(cut, CodeSize::Bits64, 0), (0, String::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is decoded has a text of words that AT&T's syntax knows.
    #[test]
    fn whatever_is_decoded_has_a_text(bytes in any::<[u8; 15]>(), mode in 0..3_usize, address in any::<u64>()) {
        let mode = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64][mode];
        if let Ok(decoded) = disassemble(&bytes, mode) {
            let text = format!("{}", decoded.at(address));
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || " %$(),:*-".contains(c);
            prop_assert!(text.starts_with(|c: char| c.is_ascii_lowercase()), "{}", text);
            prop_assert!(text.chars().all(known), "{}", text);
            prop_assert_eq!(text.trim(), &text);
            prop_assert_eq!(text.matches('(').count(), text.matches(')').count());
        }
    }
}
