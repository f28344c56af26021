//! Several processors, their state, NMIs, and glances at them.

use super::*;

/// Reaches the local APIC through a flat DS, then INIT and start-up (vector 1) to all others.
const START_OTHERS: [u8; 77] = {
    let mut code = [0x90; 77];
    let part: [u8; 60] = [
        0xfa, // cli
        0x2e, 0x66, 0x0f, 0x01, 0x16, 70, 0, // lgdt cs:[70]
        0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, // cr0 |= PE
        0xba, 8, 0, 0x8e, 0xda, // ds = 8: 4 GiB
        0x24, 0xfe, 0x0f, 0x22, 0xc0, // cr0 &= ~PE
        0x66, 0xbb, 0x00, 0x03, 0xe0, 0xfe, // ebx = fee00300h
        0x66, 0x67, 0xc7, 0x03, 0x00, 0x45, 0x0c, 0x00, // [ebx] = INIT, all but self
        0x66, 0x67, 0xc7, 0x03, 0x01, 0x46, 0x0c, 0x00, // [ebx] = SIPI, vector 1
        0xb0, 1, 0xe6, 0x80, // out 80h, 1
        0xeb, 0xfe, // jmp $
        0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // unused
    ];
    let mut i = 0;
    while i < part.len() {
        code[i] = part[i];
        i += 1;
    }
    // The pseudo descriptor at 70: limit 15, base F0000h + 61 - 8 (the null entry is not read).
    code[70] = 15;
    code[71] = 0;
    code[72] = 53;
    code[73] = 0;
    code[74] = 0x0f;
    code[75] = 0;
    // The descriptor at 61: base 0, limit 4 GiB, data, accessed (the ROM can not note it).
    let descriptor = [0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0];
    let mut i = 0;
    while i < 8 {
        code[61 + i] = descriptor[i];
        i += 1;
    }
    code
};

fn all_processors_start_and_start_again_after_a_reset(irqchip: Irqchip) {
    for cpus in [1, 2, 3, 4] {
        // mov al, 2; out 80h, al; hlt
        let Some(guest) = guest(
            &START_OTHERS,
            &[0xb0, 2, 0xe6, 0x80, 0xfa, 0xf4],
            cpus,
            irqchip,
        ) else {
            return;
        };
        for _ in 0..3 {
            guest.vcpus.resume();
            let mut seen: Vec<u32> = (0..cpus)
                .map(|_| match guest.next() {
                    Event::Out(cpu, 0x80, 1, _) => cpu,
                    other => panic!("{other:?}"),
                })
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..cpus).collect::<Vec<_>>());
            guest.vcpus.pause();
            guest.vm.reset_irqchip().unwrap();
            guest.vcpus.reset().unwrap();
        }
    }
}

fn state_goes_in_and_comes_out(irqchip: Irqchip) {
    let Some(guest) = guest(&[0xeb, 0xfe], &[], 1, irqchip) else {
        return;
    };
    let mut state = guest.vcpus.state(0).unwrap();
    assert_eq!(state.validate(), Ok(()));
    state.gpr = std::array::from_fn(|i| 0x1111 * i as u64);
    state.rip = 0x1234;
    state.cs.selector = 0x100;
    state.cs.base = 0x1000;
    state.fpu.fcw = 0x27f;
    state.fpu.st[3] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    state.fpu.ftw = 0xff;
    state.fpu.xmm[15] = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
    state.fpu.mxcsr = 0x1fa0;
    state.dr[2] = 0x7777;
    state.msrs.lstar = 0xffff_ffff_8000_1234;
    state.msrs.star = 0x0023_0010_0000_0000;
    state.msrs.sysenter_cs = 8;
    state.apic.as_mut().unwrap().svr = 0x1ff;
    state.apic.as_mut().unwrap().lvt_error = 0x1_00fe;
    state.activity = Activity::Halted;
    guest.vcpus.set_state(0, &state).unwrap();
    let mut back = guest.vcpus.state(0).unwrap();
    // These two move on by themselves.
    back.msrs.tsc = state.msrs.tsc;
    back.msrs.other = state.msrs.other.clone();
    back.extended.xstate_bv = state.extended.xstate_bv;
    assert_eq!(back, state);
}

fn a_reset_processor_is_as_a_new_one(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 2, irqchip) else {
        return;
    };
    for cpu in 0..2 {
        let new = guest.vcpus.state(cpu).unwrap();
        guest.vcpus.resume();
        let count = guest.notes.count.load(Ordering::SeqCst);
        guest.wait_count(count + 5);
        guest.vcpus.pause();
        guest.vm.reset_irqchip().unwrap();
        guest.vcpus.reset().unwrap();
        let reset = guest.vcpus.state(cpu).unwrap();
        assert_eq!((reset.cs, reset.ss, reset.tr), (new.cs, new.ss, new.tr));
        assert_eq!((reset.rip, reset.rflags), (new.rip, new.rflags));
        assert_eq!(
            (reset.cr0, reset.cr4, reset.efer),
            (new.cr0, new.cr4, new.efer)
        );
        assert_eq!((reset.apic, reset.apic_base), (new.apic, new.apic_base));
        assert_eq!((reset.activity, reset.events), (new.activity, new.events));
        assert_eq!(
            (reset.dr6, reset.dr7, reset.xcr0),
            (new.dr6, new.dr7, new.xcr0)
        );
        assert_eq!(reset.msrs.pat, new.msrs.pat);
    }
}

#[test]
fn without_interrupt_controllers_hlt_is_reported() {
    let Some(guest) = guest(&[0xf4], &[], 1, Irqchip::None) else {
        return;
    };
    guest.vcpus.resume();
    assert_eq!(guest.next(), Event::Halted(0));
    guest.vcpus.pause();
    guest.vcpus.reset().unwrap();
    guest.vcpus.resume();
    assert_eq!(guest.next(), Event::Halted(0));
}

/// At F000:0000: sets vector 2 to F000:0040, says that it is ready, and does what `idle` says.
/// The handler says so at port 81h.
fn nmi_code(idle: &[u8]) -> Vec<u8> {
    let mut code = vec![
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, // cli; ds = ss = 0
        0xbc, 0x00, 0x80, // sp = 8000h
        0xc7, 0x06, 8, 0, 0x40, 0, 0xc7, 0x06, 10, 0, 0x00, 0xf0, // [8] = f000:0040
        0xe6, 0x80, // out 80h, al
    ];
    code.extend_from_slice(idle);
    code.resize(0x40, 0x90);
    code.extend_from_slice(&[0xb0, 0x4e, 0xe6, 0x81, 0xcf]); // out 81h, 4eh; iret
    code
}

/// Where `idle` is in [`nmi_code`].
const IDLE: u64 = ROM_LOW + 24;

fn an_nmi_comes_through_lint1(irqchip: Irqchip) {
    const NMI: u32 = 0x400;
    // jmp $, and hlt; jmp to it.
    for idle in [&[0xeb, 0xfe][..], &[0xf4, 0xeb, 0xfd]] {
        for (lint1, enabled, taken) in [
            (NMI, true, true),
            (NMI | 0x8000, true, true),
            (0x1_0000 | NMI, true, false),
            (0x31, true, false),
            (0x700, true, false),
            (0x1_0000, false, false),
        ] {
            let Some(guest) = guest(&nmi_code(idle), &[], 2, irqchip) else {
                return;
            };
            let mut state = guest.vcpus.state(0).unwrap();
            let apic = state.apic.as_mut().unwrap();
            apic.lvt_lint1 = lint1;
            apic.svr = 0xff | u32::from(enabled) << 8;
            guest.vcpus.set_state(0, &state).unwrap();
            guest.vcpus.resume();
            guest.expect_out(0x80, &[0]);
            // Three in a row: each is taken once the one before is done with.
            for _ in 0..3 {
                assert_eq!(guest.vcpus.inject_nmi().unwrap(), u32::from(taken));
                if taken {
                    guest.expect_out(0x81, &[0x4e]);
                } else {
                    assert!(
                        guest.events.recv_timeout(Duration::from_millis(5)).is_err(),
                        "{lint1:#x}"
                    );
                }
            }
        }
    }
}

fn an_nmi_waits_for_a_paused_processor(irqchip: Irqchip) {
    let Some(guest) = guest(&nmi_code(&[0xeb, 0xfe]), &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    guest.expect_out(0x80, &[0]);
    guest.vcpus.pause();
    let mut state = guest.vcpus.state(0).unwrap();
    // Switched off as a whole, the local APIC leaves its pins to the processor.
    state.apic_base &= !(1 << 11);
    guest.vcpus.set_state(0, &state).unwrap();
    assert_eq!(guest.vcpus.inject_nmi().unwrap(), 1);
    let waits = guest.vcpus.state(0).unwrap().events;
    assert!(waits.nmi_pending || waits.nmi_injected);
    guest.vcpus.resume();
    guest.expect_out(0x81, &[0x4e]);
}

fn a_glance_at_running_processors(irqchip: Irqchip) {
    // jmp $, and hlt with the interrupts off.
    for (idle, halted, at) in [(&[0xeb, 0xfe][..], false, IDLE), (&[0xf4], true, IDLE + 1)] {
        let Some(guest) = guest(&nmi_code(idle), &[], 2, irqchip) else {
            return;
        };
        let first = guest.vcpus.glance(0).unwrap();
        assert_eq!((first.halted, first.pc), (false, 0xffff_fff0));
        guest.vcpus.resume();
        guest.expect_out(0x80, &[0]);
        let start = Instant::now();
        loop {
            let seen = guest.vcpus.glance(0).unwrap();
            if (seen.halted, seen.pc) == (halted, at) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{seen:x?}");
        }
        // One that was never started.
        assert!(guest.vcpus.glance(1).unwrap().halted);
        assert!(guest.vcpus.glance(2).is_err());
        let paging = guest.vcpus.paging(0).unwrap();
        assert_eq!(paging.mode(), thimble_core::cpu::PagingMode::Off);
        assert!(guest.vcpus.paging(2).is_err());
        guest.vcpus.pause();
        assert_eq!(guest.vcpus.glance(0).unwrap().pc, at);
        assert_eq!(guest.vcpus.paging(0).unwrap(), paging);
    }
}

#[test]
fn a_halt_without_interrupt_controllers_is_seen() {
    let Some(guest) = guest(&[0xf4], &[], 1, Irqchip::None) else {
        return;
    };
    assert!(!guest.vcpus.glance(0).unwrap().halted);
    guest.vcpus.resume();
    assert_eq!(guest.next(), Event::Halted(0));
    assert!(guest.vcpus.glance(0).unwrap().halted);
    guest.vcpus.pause();
    guest.vcpus.reset().unwrap();
    assert!(!guest.vcpus.glance(0).unwrap().halted);
}

fn glances_disturb_nobody_and_lose_nothing(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 2, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    let mut count = 0;
    for _ in 0..500 {
        let seen = guest.vcpus.glance(0).unwrap();
        // The write under way is finished first: never within an instruction.
        assert!(
            [0xffff_fff0, ROM_LOW, ROM_LOW + 2].contains(&seen.pc) && !seen.halted,
            "{seen:x?}"
        );
        assert!(!guest.vcpus.is_paused());
        count += 1;
        guest.wait_count(count);
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let vcpus = &guest.vcpus;
            scope.spawn(move || {
                for _ in 0..200 {
                    match thread {
                        0 => {
                            vcpus.pause();
                            vcpus.resume();
                        }
                        1 => drop(vcpus.glance(1).unwrap()),
                        _ => drop(vcpus.glance(0).unwrap()),
                    }
                }
            });
        }
    });
    let count = guest.notes.count.load(Ordering::SeqCst);
    guest.wait_count(count + 100);
}

for_all! {
    all_processors_start_and_start_again_after_a_reset
    state_goes_in_and_comes_out
    a_reset_processor_is_as_a_new_one
    an_nmi_comes_through_lint1
    an_nmi_waits_for_a_paused_processor
    a_glance_at_running_processors
    glances_disturb_nobody_and_lose_nothing
}
