//! Whole instructions, and the loop around them.

mod protection;
mod regressions;

use super::Stop;
use super::testing::Guest;
use crate::cpu::gpr::{RAX, RBX, RCX, RDI, RSI, RSP};

#[test]
fn a_loop_in_every_mode() {
    for mut guest in [Guest::new(), Guest::protected(), Guest::long()] {
        // mov cl, 10; add ax, cx; dec cl; jnz -6; then one more add.
        let code = [0xb1, 10, 0x66, 0x01, 0xc8, 0xfe, 0xc9, 0x75, 0xf9, 0x04, 1];
        guest.put(0x1000, &code);
        assert_eq!(guest.run(1 + 30 + 1), Stop::Budget);
        let state = guest.state();
        assert_eq!(state.gpr[RAX] & 0xffff, 55 + 1);
        assert_eq!(state.gpr[RCX], 0);
        assert_eq!(state.rip, 0x100b);
        assert_eq!(guest.cpu.instructions(), 32);
    }
}

#[test]
fn code_that_overwrites_itself() {
    // mov byte [rip+1], 7; mov al, 1: the 1 becomes 7 before it runs, in the same block.
    let code = [0xc6, 0x05, 1, 0, 0, 0, 7, 0xb0, 1];
    let mut guest = Guest::long();
    for _ in 0..3 {
        guest.change(|state| state.rip = 0x1000);
        guest.put(0x1000, &code);
        guest.run(2);
        assert_eq!(guest.state().gpr[RAX], 7);
        guest.change(|state| state.gpr[RAX] = 0);
    }
    // A device that overwrites code is noticed, too.
    guest.change(|state| state.rip = 0x1007);
    guest.run(1);
    guest.put(0x1008, &[9]);
    guest.change(|state| state.rip = 0x1007);
    guest.run(1);
    assert_eq!(guest.state().gpr[RAX], 9);
}

#[test]
fn repeated_strings() {
    let mut guest = Guest::long();
    guest.change(|state| {
        state.gpr[RCX] = 0x3001;
        state.gpr[RSI] = 0x10_0001;
        state.gpr[RDI] = 0x12_0003;
    });
    let pattern: std::vec::Vec<u8> = (0..0x3001u32).map(|n| (n * 7 % 251) as u8).collect();
    guest.put(0x10_0001, &pattern);
    // rep movsb; mov ecx, 1000; rep stosq
    guest.put(0x1000, &[0xf3, 0xa4, 0xb9, 0xe8, 3, 0, 0, 0xf3, 0x48, 0xab]);
    while guest.state().rip != 0x1002 {
        guest.run(1);
    }
    assert_eq!(guest.get::<0x3001>(0x12_0003)[..], pattern[..]);
    assert_eq!(guest.get::<2>(0x12_3004), [0; 2]);
    let state = guest.state();
    assert_eq!(state.gpr[RCX], 0);
    assert_eq!(state.gpr[RDI], 0x12_0003 + 0x3001);
    guest.change(|state| state.gpr[RAX] = 0x1122_3344_5566_7788);
    while guest.state().rip != 0x100a {
        guest.run(1);
    }
    assert_eq!(
        guest.get::<8>(0x12_3004 + 7992),
        0x1122_3344_5566_7788u64.to_le_bytes()
    );
    assert_eq!(guest.get::<1>(0x12_3004 + 8000), [0]);
}

#[test]
fn handlers_that_never_begin_use_the_budget_up() {
    // The handler of #UD is ud2, whose handler is the same; the stack goes round.
    let mut guest = Guest::new();
    guest.put(4 * 6, &0x2000u32.to_le_bytes());
    guest.put(0x2000, &[0x0f, 0x0b]);
    assert_eq!(guest.execute(&[0x0f, 0x0b], 1000), Stop::Budget);
    assert_eq!(guest.cpu.instructions(), 0);
    let state = guest.state();
    assert_eq!(state.rip, 0x2000);
    assert_eq!(state.gpr[RSP], 0x8000 - 1001 * 6);
}

#[test]
fn repeated_strings_outside_of_ram_are_many_steps() {
    // rep stosb to where nothing is: no more than so many stores before others have a turn.
    let mut guest = Guest::long();
    guest.put(0x1f_1008, &0xc000_0087u64.to_le_bytes());
    guest.change(|state| {
        state.gpr[RCX] = 1 << 30;
        state.gpr[RDI] = 1 << 30;
    });
    assert_eq!(guest.execute(&[0xf3, 0xaa], 4), Stop::Budget);
    let stored = (1 << 30) - guest.state().gpr[RCX];
    assert!((4..=1024).contains(&stored), "{stored}");
}

#[test]
fn counted_time_is_exact_wherever_blocks_begin() {
    // mov cx, 3; inc ax; out 80h, al; nop; ud2; out 80h, al; loop to the inc; out 80h, al; hlt
    let code = [
        0xb9, 3, 0, 0x40, 0xe6, 0x80, 0x90, 0x0f, 0x0b, 0xe6, 0x80, 0xe2, 0xf6, 0xe6, 0x80, 0xf4,
    ];
    // The handler of #UD passes it over: mov bp, sp; add word [bp], 2; iret.
    let handler = [0x89, 0xe5, 0x83, 0x46, 0, 2, 0xcf];
    let mut expected = std::vec::Vec::new();
    for turn in 0..3 {
        // A turn is nine: five instructions, ud2 as what it raises, and its handler's three.
        expected.extend([1 + turn * 9 + 1, 1 + turn * 9 + 7]);
    }
    expected.push(1 + 3 * 9);
    for budget in [1, 2, 3, 5, 100] {
        let mut guest = Guest::new();
        guest.put(4 * 6, &0x2000u32.to_le_bytes());
        guest.put(0x2000, &handler);
        guest.put(0x1000, &code);
        while guest.run_counted(budget) != Stop::Idle {}
        assert_eq!(guest.board.times, expected, "{budget}");
    }
}

#[test]
fn calls_and_stack_frames() {
    let mut guest = Guest::long();
    // call +5; (5 bytes skipped) push rax; enter 16, 0; leave; pop rbx; ret
    let code = [
        0xe8, 5, 0, 0, 0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x50, 0xc8, 16, 0, 0, 0xc9, 0x5b, 0xc3,
    ];
    guest.change(|state| state.gpr[RAX] = 0x1234);
    guest.put(0x1000, &code);
    guest.run(6);
    let state = guest.state();
    assert_eq!(
        (state.rip, state.gpr[RBX], state.gpr[RSP]),
        (0x1005, 0x1234, 0x8000)
    );
}

#[test]
fn registers_that_are_not_there_are_told_of() {
    use crate::trace::testing::traced;
    let lines = traced("guest_error_*msr", || {
        // rdmsr; wrmsr
        for instruction in [[0x0f, 0x32], [0x0f, 0x30]] {
            let mut guest = Guest::protected();
            guest.change(|state| {
                state.gpr[RCX] = 0x1234_5678;
                state.gpr[RAX] = 1;
            });
            guest.execute(&instruction, 1);
        }
    });
    assert_eq!(
        lines,
        [
            "guest_error_rdmsr index 0x12345678",
            "guest_error_wrmsr index 0x12345678 value 0x1",
        ]
    );
}

#[test]
fn decoded_code_is_told_of() {
    use crate::trace::testing::traced;
    let mut guest = Guest::long();
    // mov al, 1; jmp to itself
    guest.put(0x1000, &[0xb0, 1, 0xeb, 0xfc]);
    let lines = traced("t*", || {
        guest.run(2);
        guest.put(0x1001, &[2]);
        guest.run(2);
    });
    let expected = [
        "translate_block gpa:0x1000, bytes:4",
        "tb_invalidate_page gpa:0x1000",
        "translate_block gpa:0x1000, bytes:4",
    ];
    assert_eq!(lines, expected);
}
