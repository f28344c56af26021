//! Tests of one local APIC, and of several with messages between them.

use super::register::*;
use super::*;
use crate::irq::Msi;
use proptest::prelude::*;
use std::vec::Vec;

const EN: u64 = apic_base::EN;
const EXTD: u64 = apic_base::EXTD;

fn wiring(id: u8) -> LocalApicWiring {
    LocalApicWiring {
        id,
        bootstrap: id == 0,
        x2apic: true,
        tsc_deadline: true,
        address_bits: 40,
    }
}

/// As firmware leaves it: enabled, spurious vector FFh.
fn enabled(id: u8) -> LocalApic {
    let mut apic = LocalApic::new(wiring(id));
    put(&mut apic, SVR, 0x1ff);
    apic
}

fn enabled_x2apic(id: u8) -> LocalApic {
    let mut apic = enabled(id);
    apic.set_base(BASE | EN | EXTD).unwrap();
    apic
}

fn put_at(apic: &mut LocalApic, now: u64, number: u8, value: u32) -> Option<Outgoing> {
    apic.mmio_write(now, u64::from(number) << 4, Width::Dword, value)
}

fn put(apic: &mut LocalApic, number: u8, value: u32) -> Option<Outgoing> {
    put_at(apic, 0, number, value)
}

fn get_at(apic: &mut LocalApic, now: u64, number: u8) -> u32 {
    apic.mmio_read(now, u64::from(number) << 4, Width::Dword)
}

fn get(apic: &mut LocalApic, number: u8) -> u32 {
    get_at(apic, 0, number)
}

fn fixed(vector: u8, level: bool) -> Message {
    Message {
        destination: Destination::All,
        mode: DeliveryMode::Fixed,
        vector,
        level,
    }
}

#[test]
fn registers_after_power_on() {
    let mut apic = LocalApic::new(wiring(3));
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(get(&mut apic, ID), 3 << 24);
    assert_eq!(get(&mut apic, VERSION), 0x5_0014);
    assert_eq!(get(&mut apic, DFR), u32::MAX);
    assert_eq!(get(&mut apic, SVR), 0xff);
    for entry in LVT_TIMER..=LVT_ERROR {
        assert_eq!(get(&mut apic, entry), 0x1_0000);
    }
    for zero in [
        TPR,
        PPR,
        LDR,
        ISR,
        TMR,
        IRR,
        ESR,
        ICR_LOW,
        ICR_HIGH,
        TIMER_CURRENT,
    ] {
        assert_eq!(get(&mut apic, zero), 0);
    }
    let mut first = LocalApic::new(wiring(0));
    assert_eq!(first.base(), 0xfee0_0900);
    assert_eq!(get(&mut first, LVT_LINT0), 0x700, "open for the 8259A");
    assert_eq!(first.state(0), LocalApicState::power_on(0, true));
}

#[test]
fn only_doublewords_count() {
    let mut apic = enabled(0);
    for width in [Width::Byte, Width::Word] {
        apic.mmio_write(0, 0x80, width, 0x50);
        assert_eq!(apic.mmio_read(0, 0xf0, width), 0);
    }
    assert_eq!(get(&mut apic, TPR), 0);
    assert_eq!(apic.mmio_read(0, 0xf4, Width::Dword), 0x1ff);
}

#[test]
fn reserved_bits_are_not_stored() {
    let mut apic = enabled(0);
    for (number, stored) in [
        (TPR, 0xff),
        (LDR, 0xff00_0000),
        (SVR, 0x1ff),
        (ICR_HIGH, 0xff00_0000),
        (LVT_TIMER, 0x7_00ff),
        (LVT_THERMAL, 0x1_07ff),
        (LVT_PMC, 0x1_07ff),
        (LVT_LINT0, 0x1_a7ff),
        (LVT_LINT1, 0x1_a7ff),
        (LVT_ERROR, 0x1_00ff),
        (TIMER_DIVIDE, 0xb),
    ] {
        put(&mut apic, number, u32::MAX);
        assert_eq!(get(&mut apic, number), stored, "register {number:#x}");
    }
    put(&mut apic, DFR, 0);
    assert_eq!(get(&mut apic, DFR), 0x0fff_ffff);
    for read_only in [VERSION, PPR, ISR, TMR, IRR, TIMER_CURRENT] {
        let before = get(&mut apic, read_only);
        put(&mut apic, read_only, u32::MAX);
        assert_eq!(get(&mut apic, read_only), before);
    }
}

#[test]
fn interrupts_nest_by_class() {
    let mut apic = enabled(0);
    apic.accept(&fixed(0x41, false));
    apic.accept(&fixed(0x52, false));
    assert_eq!(get(&mut apic, IRR + 2), 0x0004_0002);
    assert_eq!(apic.acknowledge(), Some(0x52));
    assert_eq!(get(&mut apic, ISR + 2), 0x0004_0000);
    assert_eq!(get(&mut apic, PPR), 0x50);
    // Of the same class and above within it: waits.
    apic.accept(&fixed(0x5f, false));
    assert_eq!(apic.interrupt(), None);
    apic.accept(&fixed(0x60, false));
    assert_eq!(apic.acknowledge(), Some(0x60));
    assert_eq!(put(&mut apic, EOI, 0), None);
    assert_eq!(apic.interrupt(), None);
    put(&mut apic, EOI, 0);
    assert_eq!(apic.acknowledge(), Some(0x5f));
    put(&mut apic, EOI, 0);
    put(&mut apic, TPR, 0x45);
    assert_eq!(apic.interrupt(), None, "class 4 is masked");
    assert_eq!(get(&mut apic, PPR), 0x45);
    assert_eq!(apic.task_priority(), 4);
    apic.set_task_priority(3);
    assert_eq!((get(&mut apic, TPR), apic.interrupt()), (0x30, Some(0x41)));
    assert_eq!(apic.acknowledge(), Some(0x41));
    put(&mut apic, EOI, 0);
    assert_eq!(put(&mut apic, EOI, 0), None, "nothing in service");
    assert_eq!(apic.state(0).isr, [0; 8]);
}

#[test]
fn levels_tell_of_their_end() {
    let mut apic = enabled(0);
    apic.accept(&fixed(0x33, true));
    assert_eq!(get(&mut apic, TMR + 1), 1 << 19);
    assert_eq!(apic.acknowledge(), Some(0x33));
    let told = Some(Outgoing::EndOfInterrupt(0x33));
    assert_eq!(put(&mut apic, EOI, 0), told);
    apic.accept(&fixed(0x33, false));
    assert_eq!(get(&mut apic, TMR + 1), 0);
    apic.acknowledge();
    assert_eq!(put(&mut apic, EOI, 0), None);
}

#[test]
fn disabled_it_takes_no_vectors_but_events() {
    let mut apic = enabled(1);
    apic.accept(&fixed(0x41, false));
    put(&mut apic, SVR, 0xff);
    assert_eq!(apic.interrupt(), Some(0x41), "what was requested is held");
    apic.accept(&fixed(0x51, false));
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.interrupt(), None);
    put(&mut apic, LVT_LINT1, 0x400);
    assert_eq!(get(&mut apic, LVT_LINT1), 0x1_0400, "stays masked");
    let event = |mode, vector| Message {
        mode,
        ..fixed(vector, false)
    };
    apic.accept(&event(DeliveryMode::Nmi, 2));
    assert_eq!(apic.take_event(), Some(CpuEvent::Nmi));
    apic.accept(&event(DeliveryMode::Startup, 0x99));
    apic.accept(&event(DeliveryMode::Init, 0));
    apic.accept(&event(DeliveryMode::Startup, 0x12));
    assert_eq!(apic.take_event(), Some(CpuEvent::Init));
    assert_eq!(apic.take_event(), Some(CpuEvent::Startup(0x12)));
    assert_eq!(apic.take_event(), None);
    for nothing in [
        DeliveryMode::Smi,
        DeliveryMode::RemoteRead,
        DeliveryMode::ExtInt,
    ] {
        apic.accept(&event(nothing, 0x44));
        assert!(!apic.needs_attention());
    }
}

#[test]
fn init_keeps_the_id_and_the_base() {
    let mut apic = enabled(1);
    apic.set_base(0xfee1_0000 | EN).unwrap();
    put(&mut apic, ID, 7 << 24);
    put(&mut apic, TPR, 0x20);
    apic.accept(&fixed(0x41, false));
    let init = Message {
        mode: DeliveryMode::Init,
        ..fixed(0, false)
    };
    apic.accept(&init);
    assert_eq!(apic.take_event(), Some(CpuEvent::Init));
    assert_eq!(apic.id(), 7);
    assert_eq!(apic.page(), Some(0xfee1_0000));
    let expected = LocalApicState {
        id: 7 << 24,
        ..LocalApicState::power_on(1, false)
    };
    assert_eq!(apic.state(0), expected);

    let mut apic = enabled_x2apic(0x25);
    apic.accept(&init);
    apic.take_event();
    assert_eq!(apic.msr_read(0, 0x802), Ok(0x25));
    assert_eq!(apic.msr_read(0, 0x80d), Ok(0x0002_0020));
}

#[test]
fn errors_wait_for_a_write() {
    let mut apic = enabled(0);
    put(&mut apic, LVT_ERROR, 0x61);
    apic.accept(&fixed(0x0f, false));
    assert_eq!(apic.acknowledge(), Some(0x61));
    put(&mut apic, EOI, 0);
    apic.accept(&fixed(0x03, false));
    assert_eq!(apic.interrupt(), None, "no new error");
    assert_eq!(get(&mut apic, ESR), 0);
    put(&mut apic, ESR, 0);
    assert_eq!(get(&mut apic, ESR), 0x40);
    put(&mut apic, ESR, 0);
    assert_eq!(get(&mut apic, ESR), 0);
    assert_eq!(put(&mut apic, ICR_LOW, 0x0f), None);
    assert_eq!(get(&mut apic, 0x2e), 0);
    put(&mut apic, 0x3a, 0);
    assert_eq!(apic.state(0).esr, 0xa0, "saved before they are latched");
    put(&mut apic, ESR, 0);
    assert_eq!(get(&mut apic, ESR), 0xa0);
    assert_eq!(apic.acknowledge(), Some(0x61));
    put(&mut apic, EOI, 0);
    // An error's vector that is an error: no end of it.
    put(&mut apic, LVT_ERROR, 0x05);
    apic.accept(&fixed(0x0f, false));
    assert!(!apic.needs_attention());
}

#[test]
fn lint0_is_the_8259a() {
    let mut apic = LocalApic::new(wiring(0));
    assert!(apic.accepts_external());
    apic.set_lint0(true);
    assert!(apic.external_interrupt() && apic.needs_attention());
    assert_eq!(apic.interrupt(), None);
    put(&mut apic, SVR, 0x1ff);
    put(&mut apic, LVT_LINT0, 0x1_0700);
    assert!(!apic.external_interrupt());
    put(&mut apic, LVT_LINT0, 0x0700);
    assert!(apic.external_interrupt());
    apic.set_lint0(false);
    assert!(!apic.external_interrupt());

    // Edges of a vector of its own.
    put(&mut apic, LVT_LINT0, 0x35);
    apic.set_lint0(true);
    apic.set_lint0(true);
    assert_eq!(apic.acknowledge(), Some(0x35));
    put(&mut apic, EOI, 0);
    assert_eq!(apic.interrupt(), None);
    // Levels: again after the end, as long as it is high.
    put(&mut apic, LVT_LINT0, 0x8036);
    assert_eq!(apic.acknowledge(), Some(0x36));
    assert_eq!(get(&mut apic, LVT_LINT0), 0xc036);
    put(&mut apic, EOI, 0);
    assert_eq!(apic.acknowledge(), Some(0x36));
    apic.set_lint0(false);
    put(&mut apic, EOI, 0);
    assert_eq!(apic.interrupt(), None);
    assert_eq!(get(&mut apic, LVT_LINT0), 0x8036);
}

#[test]
fn lint1_is_the_nmi() {
    let mut apic = enabled(0);
    assert!(!apic.pulse_lint1());
    put(&mut apic, LVT_LINT1, 0x400);
    assert!(apic.pulse_lint1());
    assert_eq!(apic.take_event(), Some(CpuEvent::Nmi));
    put(&mut apic, LVT_LINT1, 0x44);
    assert!(!apic.pulse_lint1());
    assert_eq!(apic.acknowledge(), Some(0x44));
    apic.set_base(BASE).unwrap();
    assert!(apic.pulse_lint1(), "off, it is the processor's pin");
    assert_eq!(apic.take_event(), Some(CpuEvent::Nmi));
    assert!(apic.accepts_external());
}

#[test]
fn modes_change_as_the_manual_allows() {
    let mut apic = enabled(5);
    for bad in [
        BASE | EXTD,
        BASE | EN | 1,
        BASE | EN | 1 << 9,
        BASE | EN | 1 << 40,
    ] {
        assert_eq!(apic.set_base(bad), Err(Fault), "{bad:#x}");
    }
    put(&mut apic, TPR, 0x30);
    put(&mut apic, LDR, 0xff00_0000);
    put(&mut apic, ICR_HIGH, 0xff00_0000);
    assert_eq!(apic.msr_read(0, 0x808), Err(Fault), "not in this mode");
    apic.set_base(BASE | EN | EXTD).unwrap();
    assert_eq!(apic.page(), None);
    assert_eq!(apic.msr_read(0, 0x808), Ok(0x30), "kept");
    assert_eq!(apic.msr_read(0, 0x802), Ok(5));
    assert_eq!(apic.msr_read(0, 0x80d), Ok(0x20));
    assert_eq!(apic.msr_read(0, 0x830), Ok(0));
    assert_eq!(apic.set_base(BASE | EN), Err(Fault));
    apic.set_base(BASE).unwrap();
    assert_eq!(apic.msr_read(0, 0x802), Err(Fault));
    assert_eq!(apic.set_base(BASE | EN | EXTD), Err(Fault));
    apic.set_base(0x1_0000_0000 | EN).unwrap();
    assert_eq!(apic.page(), Some(0x1_0000_0000));
    assert_eq!(apic.state(0), LocalApicState::power_on(5, false));

    let mut without = LocalApic::new(LocalApicWiring {
        x2apic: false,
        ..wiring(0)
    });
    assert_eq!(without.set_base(BASE | EN | EXTD), Err(Fault));
}

#[test]
fn off_it_hears_nothing() {
    let mut apic = enabled(0);
    apic.accept(&fixed(0x41, false));
    apic.set_base(BASE).unwrap();
    assert_eq!(apic.interrupt(), None);
    apic.accept(&fixed(0x41, false));
    apic.set_base(BASE | EN).unwrap();
    assert_eq!(apic.state(0).irr, [0; 8]);
}

#[test]
fn x2apic_registers_fault_for_what_is_reserved() {
    let mut apic = enabled_x2apic(0);
    let readable: Vec<u32> = (0x800..0x900)
        .filter(|index| apic.msr_read(0, *index).is_ok())
        .collect();
    let mut expected = std::vec![0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f];
    expected.extend(0x810..0x829);
    expected.push(0x830);
    expected.extend(0x832..0x83a);
    expected.push(0x83e);
    assert_eq!(readable, expected);
    let writable: Vec<u32> = (0x800..0x900)
        .filter(|index| apic.clone().msr_write(0, *index, 0).is_ok())
        .collect();
    let mut expected = std::vec![0x808, 0x80b, 0x80f, 0x828, 0x830];
    expected.extend(0x832..0x839);
    expected.extend([0x83e, 0x83f]);
    assert_eq!(writable, expected);
    for (index, bad) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 0x1000),
        (0x830, 0x10_0000),
        (0x832, 0x100),
        (0x835, 0x800),
        (0x837, 0x100),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert_eq!(apic.msr_write(0, index, bad), Err(Fault), "{index:#x}");
    }
    let read_only = LVT_LINT0 as u32 + 0x800;
    assert_eq!(apic.msr_write(0, read_only, 0x5031), Ok(None));
    assert_eq!(apic.msr_read(0, read_only), Ok(0x31));
}

#[test]
fn x2apic_commands() {
    let mut apic = enabled_x2apic(1);
    let sent = apic.msr_write(0, 0x830, 0x1_2345_0000_0041).unwrap();
    let Some(Outgoing::Message(message)) = sent else {
        panic!("{sent:?}")
    };
    assert_eq!(message.destination, Destination::Physical(0x1_2345));
    assert_eq!(apic.msr_read(0, 0x830), Ok(0x1_2345_0000_0041));
    let Some(Outgoing::Message(message)) = apic.msr_write(0, 0x83f, 0x42).unwrap() else {
        panic!("no message");
    };
    assert_eq!(message.destination, Destination::Sender);
    assert_eq!((message.mode, message.vector), (DeliveryMode::Fixed, 0x42));
}

#[test]
fn one_shot_timer() {
    let mut apic = enabled(0);
    put(&mut apic, LVT_TIMER, 0x40);
    put_at(&mut apic, 1000, TIMER_INITIAL, 500);
    // Divided by two after power-on.
    assert_eq!(apic.next_deadline(), Some(2000));
    assert_eq!(get_at(&mut apic, 1001, TIMER_CURRENT), 500);
    assert_eq!(get_at(&mut apic, 1999, TIMER_CURRENT), 1);
    assert!(!apic.advance(1999));
    assert!(apic.advance(2000));
    assert_eq!(get_at(&mut apic, 2000, TIMER_CURRENT), 0);
    assert_eq!(get_at(&mut apic, 2000, TIMER_INITIAL), 500);
    assert_eq!(
        (apic.acknowledge(), apic.next_deadline()),
        (Some(0x40), None)
    );
    put(&mut apic, EOI, 0);
    // A count of 0 stops it.
    put_at(&mut apic, 3000, TIMER_INITIAL, 500);
    put_at(&mut apic, 3100, TIMER_INITIAL, 0);
    assert_eq!(apic.next_deadline(), None);
    // What ends while it is masked does not interrupt later.
    put_at(&mut apic, 4000, LVT_TIMER, 0x1_0040);
    put_at(&mut apic, 4000, TIMER_INITIAL, 500);
    assert_eq!(apic.next_deadline(), None);
    put_at(&mut apic, 6000, LVT_TIMER, 0x40);
    assert_eq!((apic.next_deadline(), apic.interrupt()), (None, None));
}

#[test]
fn dividers() {
    for (divide, by) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut apic = enabled(0);
        put(&mut apic, LVT_TIMER, 0x40);
        put(&mut apic, TIMER_DIVIDE, divide);
        put(&mut apic, TIMER_INITIAL, 1000);
        assert_eq!(apic.next_deadline(), Some(1000 * by));
        assert_eq!(get_at(&mut apic, 250 * by, TIMER_CURRENT), 750);
        // In the middle of it: the count goes on from where it is.
        put_at(&mut apic, 250 * by, TIMER_DIVIDE, 11);
        assert_eq!(apic.next_deadline(), Some(250 * by + 750));
    }
}

#[test]
fn periodic_timer() {
    let mut apic = enabled(0);
    put(&mut apic, TIMER_DIVIDE, 11);
    put(&mut apic, LVT_TIMER, 0x2_0040);
    put(&mut apic, TIMER_INITIAL, 100_000);
    assert!(apic.advance(100_000));
    assert_eq!(apic.next_deadline(), Some(200_000));
    assert_eq!(get_at(&mut apic, 130_000, TIMER_CURRENT), 70_000);
    // Late by two and a half periods: one interrupt, and back in step.
    assert!(apic.advance(450_000));
    assert_eq!(apic.next_deadline(), Some(500_000));
    assert_eq!(get_at(&mut apic, 450_000, TIMER_CURRENT), 50_000);
    // Into one-shot mode: the last period is counted to its end.
    put_at(&mut apic, 450_000, LVT_TIMER, 0x40);
    assert_eq!(apic.next_deadline(), Some(500_000));
    assert!(apic.advance(500_000));
    assert_eq!(apic.next_deadline(), None);
    // Too short for the host.
    put_at(&mut apic, 500_000, LVT_TIMER, 0x2_0040);
    put_at(&mut apic, 500_000, TIMER_INITIAL, 3);
    assert_eq!(apic.next_deadline(), Some(500_000 + PERIOD_MIN));
    assert_eq!(get_at(&mut apic, 500_007, TIMER_CURRENT), 2);
}

#[test]
fn deadline_timer() {
    let mut apic = enabled(0);
    let tsc = |value| Tsc {
        value,
        hz: 2_000_000_000,
    };
    apic.set_tsc_deadline(0, 5000, tsc(1000));
    assert_eq!(apic.tsc_deadline(0), 0, "not in this mode");
    put(&mut apic, LVT_TIMER, 0x4_0040);
    put(&mut apic, TIMER_INITIAL, 77);
    assert_eq!(get(&mut apic, TIMER_INITIAL), 0, "has no effect");
    apic.set_tsc_deadline(100, 5001, tsc(1000));
    assert_eq!(apic.next_deadline(), Some(100 + 2001));
    assert_eq!(apic.tsc_deadline(2100), 5001);
    assert!(apic.advance(2101));
    assert_eq!(
        (apic.tsc_deadline(2101), apic.acknowledge()),
        (0, Some(0x40))
    );
    put(&mut apic, EOI, 0);
    // In the past: at once.
    apic.set_tsc_deadline(3000, 5, tsc(1000));
    assert_eq!(
        (apic.tsc_deadline(3000), apic.acknowledge()),
        (0, Some(0x40))
    );
    put(&mut apic, EOI, 0);
    apic.set_tsc_deadline(3000, u64::MAX, tsc(0));
    apic.set_tsc_deadline(3000, 0, tsc(0));
    assert_eq!(apic.next_deadline(), None);
    apic.set_tsc_deadline(3000, 9000, tsc(0));
    put_at(&mut apic, 3000, LVT_TIMER, 0x40);
    put_at(&mut apic, 3000, LVT_TIMER, 0x4_0040);
    assert_eq!(apic.tsc_deadline(3000), 0, "another mode disarms it");
}

#[test]
fn a_count_at_its_end_goes_on_once_it_is_periodic() {
    let mut all = [enabled(0)];
    let mut apics = LocalApics::new(&mut all);
    let mut write = |now, number: u64, value| {
        apics.mmio_write(now, 0, number << 4, Width::Dword, value);
        apics.get(0).unwrap().state(now)
    };
    assert_eq!(write(0, 0x38, 1).timer_current, 1);
    assert_eq!(write(10, 0x3e, 0).timer_current, 0);
    let state = write(10, 0x32, 1 << 17 | 1 << 16);
    assert_eq!(state.timer_current, 1);
    let mut other = LocalApic::new(wiring(0));
    other.set_state(10, &state, BASE | EN).unwrap();
    assert_eq!(other.state(10), state);
}

#[test]
fn state_goes_out_and_in() {
    let mut apic = enabled(1);
    apic.accept(&fixed(0x41, true));
    apic.accept(&fixed(0x71, false));
    apic.acknowledge();
    put(&mut apic, TIMER_DIVIDE, 11);
    put(&mut apic, LVT_TIMER, 0x2_0040);
    put(&mut apic, TIMER_INITIAL, 1_000_000);
    let state = apic.state(300_000);
    assert_eq!((state.timer_current, state.ppr), (700_000, 0x70));
    let mut other = LocalApic::new(wiring(1));
    other.set_state(5_000_000, &state, apic.base()).unwrap();
    assert_eq!(other.state(5_000_000), state);
    assert_eq!(other.next_deadline(), Some(5_700_000));
    assert!(other.advance(5_700_000));
    assert_eq!(other.next_deadline(), Some(6_700_000));
    for bad in [BASE | EXTD, BASE | EN | 1] {
        let refused = other.set_state(0, &state, bad);
        assert_eq!(refused, Err(StateError::Invalid("apic_base")));
    }

    let mut apic = enabled_x2apic(1);
    let tsc = Tsc {
        value: 0,
        hz: 1_000_000_000,
    };
    apic.msr_write(0, 0x832, 0x4_0040).unwrap();
    apic.set_tsc_deadline(0, 700, tsc);
    let state = apic.state(0);
    other.set_state(0, &state, apic.base()).unwrap();
    let deadline = apic.tsc_deadline(0);
    other.set_tsc_deadline(0, deadline, tsc);
    assert_eq!(other.state(0), state);
    assert_eq!(other.next_deadline(), Some(700));
}

fn three(apics: &mut [LocalApic; 3]) -> LocalApics<'_> {
    LocalApics::new(apics)
}

fn requested(apics: &LocalApics<'_>) -> Vec<Option<u8>> {
    (0..apics.len())
        .map(|cpu| apics.get(cpu).unwrap().interrupt())
        .collect()
}

fn attention(apics: &mut LocalApics<'_>) -> Vec<usize> {
    core::iter::from_fn(|| apics.take_attention()).collect()
}

#[test]
fn commands_reach_whom_they_name() {
    const V: Option<u8> = Some(0x41);
    for (high, low, expected) in [
        (0x0100_0000, 0x41, [None, V, None]),
        (0xff00_0000, 0x41, [V, V, V]),
        (0x0900_0000, 0x41, [None; 3]),
        (0x0600_0000, 0x841, [None, V, V]),
        (0, 0x4_0041, [V, None, None]),
        (0, 0x8_0041, [V, V, V]),
        (0, 0xc_0041, [None, V, V]),
        // Lowest priority: the second and third are idle, the first is not.
        (0xff00_0000, 0x141, [None, V, None]),
        (0x0400_0000, 0x941, [None, None, V]),
    ] {
        let mut all = [enabled(0), enabled(1), enabled(2)];
        for (cpu, apic) in all.iter_mut().enumerate() {
            put(apic, LDR, 1 << (24 + cpu));
        }
        put(&mut all[0], TPR, 0x20);
        let mut apics = three(&mut all);
        apics.mmio_write(0, 0, 0x310, Width::Dword, high);
        apics.mmio_write(0, 0, 0x300, Width::Dword, low);
        assert_eq!(requested(&apics), expected, "{high:#x} {low:#x}");
        let told: Vec<usize> = (0..3).filter(|cpu| expected[*cpu].is_some()).collect();
        assert_eq!(attention(&mut apics), told);
        assert!(attention(&mut apics).is_empty());
    }
}

#[test]
fn logical_clusters() {
    for (set, expected) in [
        (0x12, [None, Some(0x41), None]),
        (0x23, [None, None, Some(0x41)]),
        (0xf1, [Some(0x41), None, Some(0x41)]),
        (0x30, [None; 3]),
    ] {
        let mut all = [enabled(0), enabled(1), enabled(2)];
        for (apic, ldr) in all.iter_mut().zip([0x11, 0x12, 0x21]) {
            put(apic, DFR, 0);
            put(apic, LDR, ldr << 24);
        }
        let mut apics = three(&mut all);
        apics.send_msi(Msi::new(set, true, 0, 0x41, false));
        assert_eq!(requested(&apics), expected, "{set:#x}");
    }
    let mut all = [
        enabled_x2apic(0x00),
        enabled_x2apic(0x21),
        enabled_x2apic(0x22),
    ];
    let mut apics = three(&mut all);
    let to_cluster_2 = 0x0002_0006 << 32 | 0x841;
    apics.msr_write(0, 0, 0x830, to_cluster_2).unwrap();
    assert_eq!(requested(&apics), [None, Some(0x41), Some(0x41)]);
}

#[test]
fn processors_start_by_init_and_startup() {
    let mut all = [
        enabled(0),
        LocalApic::new(wiring(1)),
        LocalApic::new(wiring(2)),
    ];
    let mut apics = three(&mut all);
    for low in [0xc_4500, 0xc_8500, 0xc_4609, 0xc_4609] {
        apics.mmio_write(0, 0, 0x300, Width::Dword, low);
    }
    assert_eq!(attention(&mut apics), [1, 2]);
    for cpu in [1, 2] {
        assert_eq!(apics.take_event(cpu), Some(CpuEvent::Init));
        assert_eq!(apics.take_event(cpu), Some(CpuEvent::Startup(9)));
        assert_eq!(apics.take_event(cpu), None);
    }
    assert_eq!(apics.take_event(0), None);
    assert_eq!(apics.take_event(3), None, "nobody");
}

proptest! {
    /// Whatever is written and read, saved state is one that loads, and time only goes on.
    #[test]
    fn no_write_breaks_it(
        accesses in proptest::collection::vec((any::<u8>(), any::<u32>(), 0u64..1 << 34, any::<bool>()), 0..80),
        x2apic: bool,
    ) {
        let mut all = [LocalApic::new(wiring(0)), enabled(1), enabled(2)];
        let mut apics = LocalApics::new(&mut all);
        if x2apic {
            apics.set_base(0, BASE | EN | EXTD).unwrap();
        }
        let mut now = 0;
        for (number, value, step, write) in accesses {
            now += step;
            let offset = u64::from(number) << 4;
            if write {
                apics.mmio_write(now, 0, offset, Width::Dword, value);
                let _ = apics.msr_write(now, 0, 0x800 + u32::from(number), value.into());
            } else {
                apics.mmio_read(now, 0, offset, Width::Dword);
                let _ = apics.msr_read(now, 0, 0x800 + u32::from(number));
            }
            apics.advance(now);
            prop_assert!(apics.next_deadline().is_none_or(|next| next > now));
            apics.set_intr(value & 1 != 0);
            apics.acknowledge(0);
            apics.take_event(0);
            let (state, base) = (apics.get(0).unwrap().state(now), apics.get(0).unwrap().base());
            let mut other = LocalApic::new(wiring(0));
            other.set_state(now, &state, base).unwrap();
            prop_assert_eq!(other.state(now), state);
        }
    }
}
