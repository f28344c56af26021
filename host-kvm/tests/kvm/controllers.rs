//! The kernel's interrupt controllers and timer, whose state goes to the core and back.

use super::*;

/// What a guest writes to controllers and timer: ports, and doublewords of the I/O APIC.
const PORT_WRITES: &[(u16, u8)] = &[
    (0x20, 0x11),
    (0x21, 0x08),
    (0x21, 0x04),
    (0x21, 0x01),
    (0x21, 0xeb),
    (0xa0, 0x11),
    (0xa1, 0x70),
    (0xa1, 0x02),
    (0xa1, 0x01),
    (0xa1, 0xfb),
    (0x4d0, 0x20),
    (0x4d1, 0x04),
    (0x20, 0xc2), // priorities
    (0x20, 0x0b), // reads ISR
    (0xa0, 0x11), // begins anew
    (0xa1, 0x70),
    (0x43, 0x34), // counter 0: mode 2
    (0x40, 0xa9),
    (0x40, 0x04),
    (0x43, 0x50), // counter 1: mode 0, low byte
    (0x41, 0xc0),
    (0x43, 0xb6), // counter 2: mode 3
    (0x42, 0x34),
    (0x42, 0x12),
    (0x42, 0x55), // half of another count
    (0x61, 0x03),
    (0x43, 0x80), // latches counter 2
    (0x43, 0xe4), // latches the status of counter 1
];
const IOAPIC_WRITES: &[(u8, u32)] = &[
    (0x00, 0x0500_0000),
    (0x18, 0x1_0034),
    (0x1a, 0x1_8031),
    (0x24, 0xa950),
    (0x25, 0x0100_0000),
    (0x3e, 0x41),
];

fn machine(irqchip: thimble_core::machine::Irqchip) -> Box<Machine<'static>> {
    let one = Topology {
        sockets: 1,
        cores: 1,
        threads: 1,
    };
    machine_with(irqchip, 0, one)
}

/// A host to which nothing matters.
struct Nobody;

impl Host for Nobody {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
    fn set_intr(&mut self, _level: bool) {}
    fn power(&mut self, _request: PowerRequest) {}
    fn guest_event(&mut self, _event: GuestEvent) {}
    fn memory_remapped(&mut self) {}
    fn set_a20(&mut self, _enabled: bool) {}
}

fn monotonic() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The kernel's state, as the core keeps it when it comes by.
fn kept(vm: &Vm, now: u64) -> Controllers {
    let at = Instants {
        now,
        monotonic: monotonic(),
    };
    let mut keeper = machine(thimble_core::machine::Irqchip::Host);
    let state = vm.controllers(at).unwrap();
    keeper.set_controllers(&mut Nobody, now, state).unwrap();
    // And once through its saved form.
    let mut bytes = vec![0; STATE_MAX];
    let length = keeper.save(&mut bytes).unwrap();
    let mut keeper = machine(thimble_core::machine::Irqchip::Host);
    keeper.load(&mut Nobody, now, &bytes[..length]).unwrap();
    assert_ne!(keeper.next_deadline(), Some(now), "it drives nothing");
    keeper.controllers()
}

/// Equal but for what depends on the very instant: counter 0's pulses, and phases.
fn assert_same_controllers(kernel: &Controllers, core: &Controllers) {
    let fixed = |state: &Controllers| {
        let mut state = state.clone();
        let pics = state.pic.as_mut().expect("PICs");
        pics.master.pins &= !1;
        pics.master.edges &= !1;
        state.ioapic.pins &= !(1 << 2);
        let pit = state.pit.as_mut().expect("a timer");
        pit.driven = 0;
        pit.refresh = false;
        for counter in &mut pit.counters {
            assert!(counter.start.is_some());
            counter.start = None;
            counter.latched_count = counter.latched_count.map(|_| 0);
            // The kernel loads a count at once.
            counter.null_count = false;
        }
        state
    };
    assert_eq!(fixed(kernel), fixed(core));
}

#[test]
fn in_kernel_controllers_go_to_the_core_and_back() {
    let mut code = Vec::new();
    for (port, value) in PORT_WRITES {
        let [low, high] = port.to_le_bytes();
        code.extend([0xba, low, high, 0xb0, *value, 0xee]); // out port, value
    }
    for (select, value) in IOAPIC_WRITES {
        for (offset, value) in [(0, u32::from(*select)), (0x10, *value)] {
            code.extend([0x66, 0xc7, 0x06, offset, 0]); // mov dword [offset], value
            code.extend(value.to_le_bytes());
        }
    }
    code.extend([0xe6, 0x80, 0xeb, 0xfe]); // out 80h, al; for ever
    let Some(first) = guest(&code, &[], 1, Irqchip::On) else {
        return;
    };
    let mut state = first.vcpus.state(0).unwrap();
    state.ds.base = 0xfec0_0000;
    state.apic.as_mut().unwrap().svr = 0x1ff;
    state.apic.as_mut().unwrap().ldr = 1 << 24;
    first.vcpus.set_state(0, &state).unwrap();
    first.vcpus.resume();
    assert!(matches!(first.next(), Event::Out(_, 0x80, ..)));
    let mut core = machine(thimble_core::machine::Irqchip::Split);
    let now = 1_000_000_000;
    for (port, value) in PORT_WRITES {
        core.pio_write(&mut Nobody, now, *port, Width::Byte, (*value).into());
    }
    for (select, value) in IOAPIC_WRITES {
        core.physical_write(&mut Nobody, now, 0xfec0_0000, &[*select]);
        core.physical_write(&mut Nobody, now, 0xfec0_0010, &value.to_le_bytes());
    }
    for line in [4, 5, 10, 23] {
        first.vm.set_gsi(line, true).unwrap();
        core.set_line(&mut Nobody, now, IrqLine::new(line as u8), true);
    }
    first.vcpus.pause();
    let kernel = kept(&first.vm, now);
    let entry = kernel.ioapic.redirection[10];
    assert_eq!(entry, 0x0100_0000_0000_e950, "sent, and not ended");
    // Edges that were sent are over: only the machine's lines tell that one is still high.
    let mut expected = core.controllers();
    expected.ioapic.pins &= !(1 << 23);
    assert_same_controllers(&kernel, &expected);

    // Into another one, and out again.
    let Some(second) = guest(&code, &[], 1, Irqchip::On) else {
        return;
    };
    let at = Instants {
        now,
        monotonic: monotonic(),
    };
    second.vm.set_controllers(&core.controllers(), at).unwrap();
    assert_same_controllers(&kept(&second.vm, now), &expected);

    // What the kernel had goes on in the machine's own.
    let mut split = machine(thimble_core::machine::Irqchip::Split);
    split.set_controllers(&mut Nobody, now, kernel).unwrap();
    assert_same_controllers(&split.controllers(), &expected);
    assert!(
        split
            .next_deadline()
            .is_some_and(|next| next <= now + 1_001_000)
    );
}

#[test]
fn a_reset_leaves_all_of_the_pics() {
    let code = [
        0xb0, 0x20, 0xba, 0xd0, 4, 0xee, 0xec, 0xe6, 0x80, // out 4d0h, 20h; in; out 80h
        0xeb, 0xfe,
    ];
    let Some(guest) = guest(&code, &[], 1, Irqchip::On) else {
        return;
    };
    for _ in 0..2 {
        guest.vcpus.resume();
        guest.expect_out(0x80, &[0x20]);
        guest.vcpus.pause();
        guest.vm.reset_irqchip().unwrap();
        guest.vcpus.reset().unwrap();
    }
}

#[test]
fn the_kernels_timer_is_there_or_not() {
    // in al, 40h; out 80h, al; for ever
    let code = [0xe4, 0x40, 0xe6, 0x80, 0xeb, 0xfe];
    for ticks in [Some(LostTicks::Discard), None] {
        let Some(guest) = guest_with_timer(&code, &[], 1, Irqchip::On, ticks) else {
            return;
        };
        guest.vcpus.resume();
        match guest.next() {
            // Nobody in the kernel takes the port: its number is what our handler reads there.
            Event::Out(_, 0x80, _, value) if ticks.is_none() => assert_eq!(value, [0x40]),
            event => assert!(matches!(event, Event::Out(_, 0x80, ..)), "{event:?}"),
        }
        guest.vcpus.pause();
        let at = Instants {
            now: 0,
            monotonic: monotonic(),
        };
        let state = guest.vm.controllers(at).unwrap();
        assert_eq!(state.pit.is_some(), ticks.is_some());
        guest.vm.set_controllers(&state, at).unwrap();
        guest.vm.reset_irqchip().unwrap();
    }
    assert_eq!(LostTicks::parse("discard"), Some(LostTicks::Discard));
    assert_eq!(LostTicks::parse("slew"), None);
}

/// The HPET in legacy replacement mode stands for counter 0, which is then silent; state that is loaded does not change that.
#[test]
fn an_hpet_silences_the_timer() {
    let Some(guest) = guest(&[0xf4], &[], 1, Irqchip::On) else {
        return;
    };
    let legacy = || {
        let flags = guest.vm.fd().get_pit2().unwrap().flags;
        flags & kvm_bindings::KVM_PIT_FLAGS_HPET_LEGACY != 0
    };
    let at = Instants {
        now: 1_000_000,
        monotonic: monotonic(),
    };
    assert!(!legacy());
    guest.vm.mute_pit(true).unwrap();
    assert!(legacy());
    let state = guest.vm.controllers(at).unwrap();
    guest.vm.set_controllers(&state, at).unwrap();
    assert!(legacy());
    guest.vm.mute_pit(true).unwrap();
    guest.vm.mute_pit(false).unwrap();
    assert!(!legacy());
    guest.vm.mute_pit(true).unwrap();
    guest.vm.reset_irqchip().unwrap();
    assert!(!legacy());
}
