//! Interrupts where the machine models the controllers, or the local APICs, too.

use super::*;

/// Lets vector `vector` lead to F000:`offset`.
fn set_vector(guest: &Guest, vector: u8, offset: u16) {
    let [low, high] = offset.to_le_bytes();
    let entry = [low, high, 0, 0xf0];
    guest.ram.write(4 * u64::from(vector), &entry).unwrap();
}

#[test]
fn external_interrupts_wait_for_their_window() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xb0, 1, 0xe6, 0x80, // out 80h, 1
        0xb9, 0xe8, 3, 0xe2, 0xfe, // a thousand turns
        0xb0, 2, 0xe6, 0x80, // out 80h, 2
        0xfb, 0xf4, 0xeb, 0xfd, // sti; hlt, for ever
    ];
    let handler = [0xb0, 3, 0xe6, 0x80, 0xcf]; // out 80h, 3; iret
    let mut rom = code.to_vec();
    rom.extend(handler);
    let Some(guest) = guest(&rom, &[], 1, Irqchip::Split) else {
        return;
    };
    set_vector(&guest, 0x31, code.len() as u16);
    let raise = |count| {
        *guest.notes.vectors.lock().unwrap() = vec![0x31; count];
        guest.vm.set_intr(true);
    };
    raise(2);
    guest.vcpus.resume();
    // Both wait for STI, and the second for the end of the first.
    for value in [1, 2, 3, 3] {
        guest.expect_out(0x80, &[value]);
    }
    // Now it halts.
    for _ in 0..100 {
        raise(1);
        guest.expect_out(0x80, &[3]);
    }
    // One that has gone before anybody looked is none.
    guest.vm.set_intr(true);
    guest.vm.set_intr(false);
    // LINT0 is the only way in.
    guest.vcpus.pause();
    let mut state = guest.vcpus.state(0).unwrap();
    let masked = 1 << 16;
    state.apic.as_mut().unwrap().lvt_lint0 |= masked;
    guest.vcpus.set_state(0, &state).unwrap();
    raise(1);
    guest.vcpus.resume();
    let silence = guest.events.recv_timeout(Duration::from_millis(50));
    assert!(silence.is_err(), "{silence:?}");
    guest.vcpus.pause();
    let mut state = guest.vcpus.state(0).unwrap();
    state.apic.as_mut().unwrap().lvt_lint0 &= !masked;
    guest.vcpus.set_state(0, &state).unwrap();
    guest.vcpus.resume();
    guest.expect_out(0x80, &[3]);
}

#[test]
fn external_interrupts_survive_pauses() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xfb, 0xeb, 0xfe, // sti; for ever
        0xb0, 3, 0xe6, 0x80, 0xcf, // out 80h, 3; iret
    ];
    let Some(guest) = guest(&code, &[], 1, Irqchip::Split) else {
        return;
    };
    set_vector(&guest, 0x31, 10);
    guest.vcpus.resume();
    let mut on_its_way = 0;
    for turn in 0..1000 {
        *guest.notes.vectors.lock().unwrap() = vec![0x31];
        guest.vm.set_intr(true);
        for _ in 0..turn * 20 {
            std::hint::spin_loop();
        }
        guest.vcpus.pause();
        // Wherever the interrupt is by now, it is with the PIC or part of the state.
        let state = guest.vcpus.state(0).unwrap();
        let told = guest.events.try_recv().is_ok();
        let acknowledged = guest.notes.vectors.lock().unwrap().is_empty();
        let injected = state.events.interrupt.injected;
        if acknowledged && !told {
            on_its_way += 1;
            assert!(
                injected || state.rip >= 10,
                "turn {turn}: lost between PIC and processor"
            );
        }
        guest.vcpus.set_state(0, &state).unwrap();
        guest.vcpus.resume();
        if !told {
            guest.expect_out(0x80, &[3]);
        }
    }
    eprintln!("{on_its_way} interrupts were on their way");
    let more = guest.events.recv_timeout(Duration::from_millis(20));
    assert!(more.is_err(), "{more:?}");
}

#[test]
fn ends_of_level_interrupts_are_told() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xfb, 0xf4, 0xeb, 0xfd, // sti; hlt, for ever
    ];
    let handler = [
        0xb0, 3, 0xe6, 0x80, // out 80h, 3
        0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0,    // the local APIC's EOI = 0
        0xcf, // iret
    ];
    let mut rom = code.to_vec();
    rom.extend(handler);
    let Some(guest) = guest(&rom, &[], 1, Irqchip::Split) else {
        return;
    };
    let mut state = guest.vcpus.state(0).unwrap();
    state.ds.base = 0xfee0_0000;
    state.apic.as_mut().unwrap().svr = 0x1ff;
    guest.vcpus.set_state(0, &state).unwrap();
    let (level, edge) = (
        Msi::new(0, false, 0, 0x40, true),
        Msi::new(0, false, 0, 0x51, false),
    );
    for message in [level, edge] {
        set_vector(&guest, message.vector(), code.len() as u16);
    }
    let mut routes = Routes::default();
    routes.set(5, Some(level));
    routes.set(6, Some(edge));
    routes.flush(&guest.vm).unwrap();
    guest.vcpus.resume();
    for _ in 0..20 {
        guest.vm.signal_msi(level).unwrap();
        guest.expect_out(0x80, &[3]);
        assert_eq!(guest.next(), Event::Ended(0, 0x40));
        guest.vm.signal_msi(edge).unwrap();
        guest.expect_out(0x80, &[3]);
    }
    // Without its route it ends in silence.
    routes.set(5, None);
    routes.flush(&guest.vm).unwrap();
    guest.vm.signal_msi(level).unwrap();
    guest.expect_out(0x80, &[3]);
    let silence = guest.events.recv_timeout(Duration::from_millis(50));
    assert!(silence.is_err(), "{silence:?}");
}

/// Sends a message to the machine's own local APICs, as a device does.
fn send(guest: &Guest, message: Msi) {
    guest.notes.machine(|machine, host| {
        machine.physical_write(host, 0, message.address, &message.data.to_le_bytes());
    });
}

/// Lets the first processor reach its local APIC by DS, and switches that on.
fn enable_apic(guest: &Guest) {
    let mut state = guest.vcpus.state(0).unwrap();
    state.ds.base = APIC;
    state.apic.as_mut().unwrap().svr = 0x1ff;
    guest.vcpus.set_state(0, &state).unwrap();
}

fn wait_halted(guest: &Guest, cpu: u32) {
    let start = Instant::now();
    while !guest.vcpus.glance(cpu).unwrap().halted {
        assert!(start.elapsed() < PATIENCE, "processor {cpu} runs on");
    }
}

/// out 80h, 3; the local APIC's EOI = 0; iret.
const HANDLER: [u8; 14] = [
    0xb0, 3, 0xe6, 0x80, 0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0, 0xcf,
];

/// `code`, and behind it [`HANDLER`] for vector 40h.
fn guest_with_handler(code: &[u8], irqchip: Irqchip) -> Option<Guest> {
    let mut rom = code.to_vec();
    rom.extend(HANDLER);
    let guest = guest(&rom, &[], 1, irqchip)?;
    set_vector(&guest, 0x40, code.len() as u16);
    enable_apic(&guest);
    Some(guest)
}

#[test]
fn interrupts_of_the_machines_local_apics() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xb0, 1, 0xe6, 0x80, // out 80h, 1
        0xb9, 0xe8, 3, 0xe2, 0xfe, // a thousand turns
        0xb0, 2, 0xe6, 0x80, // out 80h, 2
        0xfb, 0xf4, 0xeb, 0xfd, // sti; hlt, for ever
    ];
    let Some(guest) = guest_with_handler(&code, Irqchip::Off) else {
        return;
    };
    let message = Msi::new(0, false, 0, 0x40, false);
    send(&guest, message);
    guest.vcpus.resume();
    // It waits for STI.
    for value in [1, 2, 3] {
        guest.expect_out(0x80, &[value]);
    }
    for _ in 0..300 {
        send(&guest, message);
        guest.expect_out(0x80, &[3]);
    }
    // The task priority holds it back.
    wait_halted(&guest, 0);
    guest.vcpus.pause();
    let mut state = guest.vcpus.state(0).unwrap();
    assert_eq!((state.activity, state.cr8), (Activity::Halted, 0));
    state.apic.as_mut().unwrap().tpr = 0x45;
    guest.vcpus.set_state(0, &state).unwrap();
    send(&guest, message);
    guest.vcpus.resume();
    let silence = guest.events.recv_timeout(Duration::from_millis(50));
    assert!(silence.is_err(), "{silence:?}");
    guest.vcpus.pause();
    let mut state = guest.vcpus.state(0).unwrap();
    assert_eq!((state.activity, state.cr8), (Activity::Halted, 4));
    state.apic.as_mut().unwrap().tpr = 0x30;
    guest.vcpus.set_state(0, &state).unwrap();
    guest.vcpus.resume();
    guest.expect_out(0x80, &[3]);
}

#[test]
fn interrupts_of_the_machines_local_apics_survive_pauses() {
    let looping = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xfb, 0xeb, 0xfe, // sti; for ever
    ];
    let halting = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xfb, 0xf4, 0xeb, 0xfd, // sti; hlt, for ever
    ];
    for code in [&looping[..], &halting] {
        let Some(guest) = guest_with_handler(code, Irqchip::Off) else {
            return;
        };
        guest.vcpus.resume();
        for turn in 0..1000 {
            send(&guest, Msi::new(0, false, 0, 0x40, false));
            for _ in 0..turn * 20 {
                std::hint::spin_loop();
            }
            guest.vcpus.pause();
            let state = guest.vcpus.state(0).unwrap();
            guest.vcpus.set_state(0, &state).unwrap();
            guest.vcpus.resume();
            guest.expect_out(0x80, &[3]);
        }
        let more = guest.events.recv_timeout(Duration::from_millis(20));
        assert!(more.is_err(), "{more:?}");
    }
}

#[test]
fn init_stops_a_processor_in_the_middle_of_anything() {
    // The first halts. The second: in al, 71h; out 80h, al; jmp back.
    let start = [0xe4, 0x71, 0xe6, 0x80, 0xeb, 0xfa];
    let Some(guest) = guest(&[0xfa, 0xf4], &start, 2, Irqchip::Off) else {
        return;
    };
    guest.vcpus.resume();
    let command = |value: u32| {
        guest.notes.machine(|machine, host| {
            machine.apic_write(host, 0, 0, 0x300, Width::Dword, value);
        });
    };
    for turn in 0..300 {
        command(0xc_4500);
        command(0xc_4601);
        for _ in 0..2 {
            match guest.next() {
                Event::Out(1, 0x80, 1, data) => assert_eq!(data, [0x71]),
                other => panic!("{other:?}"),
            }
        }
        for _ in 0..turn * 20 {
            std::hint::spin_loop();
        }
    }
    // INIT alone stops it for good; a start-up IPI that finds it paused is not lost.
    command(0xc_4500);
    wait_halted(&guest, 1);
    while guest.events.try_recv().is_ok() {}
    guest.vcpus.pause();
    assert_eq!(
        guest.vcpus.state(1).unwrap().activity,
        Activity::WaitForSipi
    );
    command(0xc_4601);
    let state = guest.vcpus.state(1).unwrap();
    assert_eq!((state.activity, state.cs.base), (Activity::Running, 0x1000));
    guest.vcpus.set_state(1, &state).unwrap();
    guest.vcpus.resume();
    guest.expect_out(0x80, &[0x71]);
}

#[test]
fn x2apic_mode_without_the_kernels_local_apics() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, // IA32_APIC_BASE
        0x80, 0xcc, 0x04, 0x0f, 0x30, // EXTD
        0x66, 0xb9, 0x0f, 8, 0, 0, 0x66, 0x31, 0xd2, // SVR
        0x66, 0xb8, 0xff, 1, 0, 0, 0x0f, 0x30, // = 1ffh
        0x66, 0x0f, 0x32, 0x66, 0xe7, 0x80, // out 80h, what it reads
        0x66, 0xb9, 0x3f, 8, 0, 0, // SELF IPI
        0x66, 0xb8, 0x40, 0, 0, 0, 0x0f, 0x30, // = 40h
        0xfb, 0xf4, 0xfa, // sti; hlt; cli
        0x66, 0xb9, 0x02, 8, 0, 0, 0x0f, 0x30, // the id can't be written
        0xf4,
    ];
    let handlers = [
        0xb0, 3, 0xe6, 0x80, 0xcf, // 40h: out 80h, 3; iret
        0xb0, 13, 0xe6, 0x80, 0xfa, 0xf4, // #GP: out 80h, 13; hlt
    ];
    let mut rom = code.to_vec();
    rom.extend(handlers);
    let Some(guest) = guest(&rom, &[], 1, Irqchip::Off) else {
        return;
    };
    if !x2apic_outside(guest.vm.kvm()) {
        eprintln!("SKIPPED: the kernel keeps accesses to MSRs to itself");
        return;
    }
    set_vector(&guest, 0x40, code.len() as u16);
    set_vector(&guest, 13, code.len() as u16 + 5);
    guest.vcpus.resume();
    guest.expect_out(0x80, &[0xff, 1, 0, 0]);
    guest.expect_out(0x80, &[3]);
    guest.expect_out(0x80, &[13]);
    guest.vcpus.pause();
    let state = guest.vcpus.state(0).unwrap();
    assert_eq!(state.apic_base & 0xfff, 0xd00);
    assert_eq!(state.apic.unwrap().isr[2], 1);
}

#[test]
fn local_apics_move_into_the_kernel_and_out() {
    let code = [
        0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0, 0x70, // ss:sp = 0:7000h
        0xb0, 1, 0xe6, 0x80, // out 80h, 1
        0xfb, 0xf4, 0xeb, 0xfd, // sti; hlt, for ever
    ];
    let mut pairs = vec![
        (Irqchip::Off, Irqchip::Split),
        (Irqchip::Split, Irqchip::Off),
    ];
    pairs.push((Irqchip::Off, Irqchip::On));
    for (from, to) in pairs {
        let Some(first) = guest_with_handler(&code, from) else {
            return;
        };
        first.vcpus.resume();
        first.expect_out(0x80, &[1]);
        wait_halted(&first, 0);
        first.vcpus.pause();
        let mut state = first.vcpus.state(0).unwrap();
        assert_eq!(state.activity, Activity::Halted);
        // Vector 40h waits.
        state.apic.as_mut().unwrap().irr[2] = 1;
        first.vcpus.set_state(0, &state).unwrap();
        let state = first.vcpus.state(0).unwrap();
        assert_eq!(state.apic.unwrap().irr[2], 1);
        let Some(second) = guest_with_handler(&code, to) else {
            return;
        };
        second.vcpus.set_state(0, &state).unwrap();
        second.vcpus.resume();
        second.expect_out(0x80, &[3]);
        let more = second.events.recv_timeout(Duration::from_millis(20));
        assert!(more.is_err(), "{more:?}");
    }
}
