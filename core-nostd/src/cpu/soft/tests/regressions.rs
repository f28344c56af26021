//! What `cargo xtask lockstep` found to differ from the processor, a test each.

use crate::cpu::gpr::{RAX, RBP, RBX, RCX, RDI, RSI, RSP};
use crate::cpu::soft::Exception;
use crate::cpu::soft::testing::Guest;

#[test]
fn cmpxchg_leaves_a_register_that_differs_whole() {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.gpr[RAX] = 0xffff_ffff_ffff_ffcd;
        state.gpr[RBP] = 0x8c8b_98f0_ffff_ffff;
        state.gpr[RBX] = 1;
    });
    // cmpxchg ebp, ebx
    guest.execute(&[0x0f, 0xb1, 0xdd], 1);
    let state = guest.state();
    assert_eq!(state.gpr[RBP], 0x8c8b_98f0_ffff_ffff);
    assert_eq!(state.gpr[RAX], 0xffff_ffff);
    // With EAX equal it is written, and zero-extended.
    guest.change(|state| state.rip = 0x1000);
    guest.execute(&[0x0f, 0xb1, 0xdd], 1);
    assert_eq!(guest.state().gpr[RBP], 1);
}

#[test]
fn enter_copies_all_of_esp_from_a_16_bit_stack() {
    let mut guest = Guest::protected();
    guest.change(|state| {
        state.ss.big = false;
        state.gpr[RSP] = 0x7ace_8b80;
    });
    // enter 16, 0
    guest.execute(&[0xc8, 16, 0, 0], 1);
    let state = guest.state();
    assert_eq!(state.gpr[RBP], 0x7ace_8b7c);
    assert_eq!(state.gpr[RSP], 0x7ace_8b6c);
    // The display has it, too.
    guest.change(|state| {
        state.rip = 0x1000;
        state.gpr[RSP] = 0x7ace_8b80;
    });
    guest.execute(&[0xc8, 16, 0, 1], 1);
    assert_eq!(guest.get(0x8b78), 0x7ace_8b7cu32.to_le_bytes());
}

#[test]
fn pushes_of_fs_and_gs_are_zero_extended_to_64_bits() {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.gpr[RSP] = 0x8000;
        state.fs.selector = 0x1234;
    });
    guest.put(0x7ff0, &[0xff; 16]);
    // push fs
    guest.execute(&[0x0f, 0xa0], 1);
    assert_eq!(guest.get(0x7ff8), 0x1234u64.to_le_bytes());
}

#[test]
fn pushes_of_selectors_store_a_word_into_a_slot_of_32_bits() {
    let mut guest = Guest::protected();
    guest.change(|state| state.gpr[RSP] = 0x8000);
    guest.put(0x7ff0, &[0xff; 16]);
    // push cs
    guest.execute(&[0x0e], 1);
    let state = guest.state();
    assert_eq!(state.gpr[RSP], 0x7ffc);
    assert_eq!(guest.get(0x7ffc), [8, 0, 0xff, 0xff]);
}

#[test]
fn what_is_not_canonical_is_not_misaligned() {
    let mut guest = Guest::long();
    guest.change(|state| {
        // CR0.AM, EFLAGS.AC, CPL 3.
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
        for segment in [&mut state.cs, &mut state.ss, &mut state.ds] {
            segment.dpl = 3;
            segment.selector |= 3;
        }
        state.gpr[RCX] = 0x8000_0000_0001;
    });
    // mov eax, [rcx]
    guest.execute(&[0x8b, 0x01], 1);
    assert_eq!(guest.cpu.raised(), Some(Exception::GP0));
    guest.change(|state| {
        state.events = Default::default();
        state.rip = 0x1000;
        state.gpr[RCX] = 0x1001;
    });
    guest.execute(&[0x8b, 0x01], 1);
    assert_eq!(guest.cpu.raised(), Some(Exception::AlignmentCheck));
}

#[test]
fn what_ends_beyond_canonical_addresses_is_not_misaligned() {
    let mut guest = Guest::long().user();
    guest.change(|state| {
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
        state.gpr[RCX] = 0x7fff_ffff_ffff;
    });
    // mov eax, [rcx]
    assert_eq!(guest.attempt(&[0x8b, 0x01]), Err(Exception::GP0));
}

#[test]
fn far_returns_heed_alignment() {
    let mut guest = Guest::long().user();
    guest.change(|state| {
        state.cr0 |= 1 << 18;
        state.rflags |= 1 << 18;
        state.gpr[RSP] = 0x7ffe;
    });
    // retf, and iretq
    for code in [&[0xcb][..], &[0x48, 0xcf]] {
        assert_eq!(guest.attempt(code), Err(Exception::AlignmentCheck));
    }
}

#[test]
fn arpl_that_changes_nothing_stores_nothing() {
    let mut guest = Guest::protected();
    guest.change(|state| {
        // Data that can't be written to.
        state.ds.kind = 1;
        state.gpr[RCX] = 0x3000;
        state.gpr[RAX] = 1;
    });
    guest.put(0x3000, &[3, 0]);
    // arpl [ecx], ax
    assert_eq!(guest.attempt(&[0x63, 0x01]), Ok(()));
    assert_eq!(guest.state().rflags & 1 << 6, 0);
    guest.put(0x3000, &[0, 0]);
    guest.change(|state| state.rip = 0x1000);
    assert_eq!(guest.attempt(&[0x63, 0x01]), Err(Exception::GP0));
}

#[test]
fn a_repeated_comparison_that_faults_leaves_no_flags_behind() {
    let mut guest = Guest::long();
    // The second of these bytes is the last that is mapped.
    guest.change(|state| {
        state.gpr[RDI] = 0x1f_fffe;
        state.gpr[RSI] = 0x3000;
        state.gpr[RCX] = 5;
        state.rflags = 3;
    });
    // repe cmpsb
    let raised = guest.attempt(&[0xf3, 0xa6]);
    assert!(matches!(raised, Err(Exception::PageFault(_))), "{raised:?}");
    let state = guest.state();
    assert_eq!(state.gpr[RCX], 3);
    assert_eq!(state.rflags & 0x8d5, 1);
}
