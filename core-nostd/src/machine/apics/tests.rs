//! Tests of local APICs as part of the machine.

use crate::devices::{ConsoleId, GuestEvent, PowerRequest, Width};
use crate::irq::lapic::{CpuEvent, LocalApic, LocalApicWiring};
use crate::irq::{IrqLine, Msi};
use crate::machine::{Config, Host, Irqchip, Machine};
use crate::memory::ArrayRam;
use std::boxed::Box;
use std::vec::Vec;

#[derive(Default)]
struct Recorder {
    attention: Vec<u16>,
    messages: Vec<Msi>,
}

impl Host for Recorder {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
    fn set_intr(&mut self, _level: bool) {}
    fn msi(&mut self, message: Msi) {
        self.messages.push(message);
    }
    fn attention(&mut self, cpu: u16) {
        self.attention.push(cpu);
    }
    fn power(&mut self, _request: PowerRequest) {}
    fn guest_event(&mut self, _event: GuestEvent) {}
    fn memory_remapped(&mut self) {}
    fn set_a20(&mut self, _enabled: bool) {}
}

fn machine(irqchip: Irqchip) -> (Machine<'static>, Recorder) {
    let wiring = |id| LocalApicWiring {
        id,
        bootstrap: id == 0,
        x2apic: true,
        tsc_deadline: true,
        address_bits: 40,
    };
    let apics: Vec<_> = (0..2).map(|id| LocalApic::new(wiring(id))).collect();
    let machine = Machine::new(Config {
        irqchip,
        cpus: 2,
        max_cpus: 2,
        local_apics: apics.leak(),
        ..Config::new(Box::leak(Box::new(ArrayRam::<0x1_0000>::new())), 0x1_0000)
    });
    (machine.unwrap(), Recorder::default())
}

fn put(machine: &mut Machine<'_>, host: &mut Recorder, now: u64, cpu: u16, at: u64, value: u32) {
    machine.processor_write(host, now, cpu, at, &value.to_le_bytes());
}

fn get(machine: &mut Machine<'_>, host: &mut Recorder, cpu: u16, at: u64) -> u32 {
    let mut bytes = [0; 4];
    machine.processor_read(host, 0, cpu, at, &mut bytes);
    u32::from_le_bytes(bytes)
}

#[test]
fn each_processor_has_a_page_of_its_own() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    assert_eq!(get(&mut machine, &mut host, 0, 0xfee0_0020), 0);
    assert_eq!(get(&mut machine, &mut host, 1, 0xfee0_0020), 1 << 24);
    assert_eq!(
        get(&mut machine, &mut host, 1, 0xfec0_0010),
        0,
        "the I/O APIC"
    );
    let mut bytes = [0; 8];
    machine.physical_read(&mut host, 0, 0xfee0_0030, &mut bytes);
    assert_eq!(bytes, [0; 8], "nobody's");
    machine.processor_read(&mut host, 0, 1, 0xfee0_0030, &mut bytes);
    assert_eq!(bytes, [0x14, 0, 5, 0, 0x14, 0, 5, 0]);
    machine.processor_read(&mut host, 0, 1, 0xfedf_fffc, &mut bytes);
    machine.processor_read(&mut host, 0, 1, 0xfee0_0ffc, &mut bytes);
    machine.processor_write(&mut host, 0, 1, 0xfee0_0ffc, &bytes);
    assert_eq!(machine.set_apic_base(&mut host, 0, 1, 0x8000_0800), Ok(()));
    assert_eq!(get(&mut machine, &mut host, 1, 0x8000_0020), 1 << 24);
    assert_eq!(get(&mut machine, &mut host, 1, 0xfee0_0030), 0);
    assert_eq!(
        (machine.apic_base(1), machine.apic_base(2)),
        (0x8000_0800, 0)
    );
}

#[test]
fn a_page_that_was_left_reads_as_ones_and_takes_nothing() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    // Off, then on, then an x2APIC.
    for (base, left) in [
        (0xfee0_0100, true),
        (0xfee0_0900, false),
        (0xfee0_0d00, true),
    ] {
        assert_eq!(machine.set_apic_base(&mut host, 0, 0, base), Ok(()));
        put(&mut machine, &mut host, 0, 0, 0xfee0_0080, 0x20);
        let read = get(&mut machine, &mut host, 0, 0xfee0_0080);
        assert_eq!(read, if left { u32::MAX } else { 0x20 });
        assert_eq!(machine.task_priority(0), if left { 0 } else { 2 });
        machine.set_task_priority(&mut host, 0, 0, 0);
    }
    // Other processors' pages are not touched by it, and neither is what lies around.
    assert_eq!(get(&mut machine, &mut host, 1, 0xfee0_0020), 1 << 24);
    assert_eq!(get(&mut machine, &mut host, 0, 0xfee0_1000), 0);
    // Memory is where it was, whatever page was left there.
    assert_eq!(machine.set_apic_base(&mut host, 0, 0, 0x1100), Ok(()));
    put(&mut machine, &mut host, 0, 0, 0x1080, 5);
    assert_eq!(get(&mut machine, &mut host, 0, 0x1080), 5);
}

#[test]
fn the_8259a_comes_through_lint0_of_the_first() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xef),
    ] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    machine.set_line(&mut host, 0, IrqLine::new(4), true);
    assert_eq!(host.attention, [0]);
    assert!(machine.interrupt_waits(0) && !machine.interrupt_waits(1));
    assert_eq!(machine.take_interrupt(&mut host, 0, 1), None);
    assert_eq!(machine.take_interrupt(&mut host, 0, 0), Some(0x24));
    assert_eq!(machine.take_interrupt(&mut host, 0, 0), None);
}

#[test]
fn the_io_apic_and_devices_reach_local_apics() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    put(&mut machine, &mut host, 0, 1, 0xfee0_00f0, 0x1ff);
    // The 8259A stays silent.
    machine.pio_write(&mut host, 0, 0x21, Width::Byte, 0xff);
    for (select, value) in [(0x1b, 1 << 24), (0x1a, 0x8041)] {
        put(&mut machine, &mut host, 0, 0, 0xfec0_0000, select);
        put(&mut machine, &mut host, 0, 0, 0xfec0_0010, value);
    }
    machine.set_line(&mut host, 0, IrqLine::new(5), true);
    assert_eq!(
        (&host.attention[..], &host.messages[..]),
        (&[1][..], &[][..])
    );
    for _ in 0..2 {
        assert_eq!(machine.take_interrupt(&mut host, 0, 1), Some(0x41));
        assert!(!machine.interrupt_waits(1));
        // Its end: the line is still high.
        put(&mut machine, &mut host, 0, 1, 0xfee0_00b0, 0);
    }
    machine.set_line(&mut host, 0, IrqLine::new(5), false);
    machine.take_interrupt(&mut host, 0, 1);
    put(&mut machine, &mut host, 0, 1, 0xfee0_00b0, 0);
    assert!(!machine.interrupt_waits(1));
    machine.physical_write(&mut host, 0, 0xfee0_1000, &0x55u32.to_le_bytes());
    assert_eq!(machine.take_interrupt(&mut host, 0, 1), Some(0x55));
}

#[test]
fn timers_are_the_machines() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    let idle = machine.next_deadline();
    for cpu in [0, 1] {
        put(&mut machine, &mut host, 0, cpu, 0xfee0_00f0, 0x1ff);
        put(
            &mut machine,
            &mut host,
            0,
            cpu,
            0xfee0_0320,
            0x40 + u32::from(cpu),
        );
        put(&mut machine, &mut host, 0, cpu, 0xfee0_03e0, 11);
    }
    put(&mut machine, &mut host, 100, 1, 0xfee0_0380, 5000);
    assert_eq!(machine.next_deadline(), Some(5100));
    put(&mut machine, &mut host, 100, 0, 0xfee0_0380, 3000);
    assert_eq!(machine.next_deadline(), Some(3100));
    machine.advance(&mut host, 3100);
    assert_eq!(host.attention, [0]);
    assert_eq!(machine.take_interrupt(&mut host, 3100, 0), Some(0x40));
    assert_eq!(machine.next_deadline(), Some(5100));
    machine.advance(&mut host, 6000);
    assert_eq!(host.attention, [0, 1]);
    assert_eq!(machine.next_deadline(), idle);
    put(&mut machine, &mut host, 6000, 1, 0xfee0_0380, 5000);
    machine.reset(&mut host, 6000);
    assert_ne!(machine.next_deadline(), Some(11_000));
    assert!(!machine.interrupt_waits(1));
}

#[test]
fn events_and_nmis() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    put(&mut machine, &mut host, 0, 0, 0xfee0_0300, 0xc_4500);
    put(&mut machine, &mut host, 0, 0, 0xfee0_0300, 0xc_4608);
    assert_eq!(host.attention, [1, 1]);
    assert_eq!(machine.take_event(&mut host, 0, 1), Some(CpuEvent::Init));
    assert_eq!(
        machine.take_event(&mut host, 0, 1),
        Some(CpuEvent::Startup(8))
    );
    put(&mut machine, &mut host, 0, 0, 0xfee0_00f0, 0x1ff);
    put(&mut machine, &mut host, 0, 0, 0xfee0_0360, 0x400);
    assert_eq!(machine.pulse_nmi(&mut host, 0), 1);
    assert_eq!(machine.take_event(&mut host, 0, 0), Some(CpuEvent::Nmi));
    assert_eq!(machine.take_event(&mut host, 0, 1), None);
}

#[test]
fn states_are_set_and_lose_nothing_of_intr() {
    let (mut machine, mut host) = machine(Irqchip::Machine);
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0xef),
    ] {
        machine.pio_write(&mut host, 0, port, Width::Byte, value);
    }
    let (state, base) = (
        machine.local_apic_state(0, 0).unwrap(),
        machine.apic_base(0),
    );
    machine.set_line(&mut host, 0, IrqLine::new(4), true);
    host.attention.clear();
    machine
        .set_local_apic_state(&mut host, 0, 0, &state, base)
        .unwrap();
    assert_eq!(host.attention, [0]);
    assert_eq!(machine.take_interrupt(&mut host, 0, 0), Some(0x24));
    let absent = machine.set_local_apic_state(&mut host, 0, 2, &state, base);
    assert!(absent.is_err());
}

#[test]
fn hosts_with_their_own_get_messages() {
    let (mut machine, mut host) = machine(Irqchip::Split);
    assert_eq!(machine.local_apics(), 0);
    machine.physical_write(&mut host, 0, 0xfee0_1000, &0x55u32.to_le_bytes());
    for (select, value) in [(0x1b, 1 << 24), (0x1a, 0x41)] {
        put(&mut machine, &mut host, 0, 0, 0xfec0_0000, select);
        put(&mut machine, &mut host, 0, 0, 0xfec0_0010, value);
    }
    machine.set_line(&mut host, 0, IrqLine::new(5), true);
    assert_eq!(host.messages, [Msi::new(1, false, 0, 0x41, false)]);
    assert!(host.attention.is_empty());
}

#[test]
fn local_apics_tell_of_what_they_do() {
    use crate::trace::testing::traced;
    let (mut machine, mut host) = machine(Irqchip::Machine);
    let lines = traced("*apic*", || {
        assert_eq!(machine.apic_base(1), 0xfee0_0800);
        machine.set_apic_base(&mut host, 0, 1, 0xfee0_0800).unwrap();
        put(&mut machine, &mut host, 0, 0, 0xfee0_00f0, 0x1ff);
        assert_eq!(get(&mut machine, &mut host, 0, 0xfee0_00f0), 0x1ff);
        // To itself.
        put(&mut machine, &mut host, 0, 0, 0xfee0_0300, 0x0004_0041);
        assert_eq!(machine.take_interrupt(&mut host, 0, 0), Some(0x41));
        // To nobody.
        put(&mut machine, &mut host, 0, 0, 0xfee0_0310, 7 << 24);
        put(&mut machine, &mut host, 0, 0, 0xfee0_0300, 0x0000_4042);
        // LINT1.
        put(&mut machine, &mut host, 0, 0, 0xfee0_0360, 0x400);
        machine.pulse_nmi(&mut host, 0);
    });
    let expected = [
        "cpu_get_apic_base 0x00000000fee00800",
        "cpu_set_apic_base 0x00000000fee00800",
        "apic_mem_writel 0xf0 = 0x000001ff",
        "apic_mem_readl 0xf0 = 0x000001ff",
        "apic_mem_writel 0x300 = 0x00040041",
        "apic_deliver_irq dest 4294967295 dest_mode 0 delivery_mode 0 vector 65 trigger_mode 0",
        "apic_acknowledge cpu 0 vector 65",
        "apic_mem_writel 0x310 = 0x07000000",
        "apic_mem_writel 0x300 = 0x00004042",
        "apic_deliver_irq dest 7 dest_mode 0 delivery_mode 0 vector 66 trigger_mode 0",
        "guest_error_apic_destination dest 7",
        "apic_mem_writel 0x360 = 0x00000400",
        "apic_local_deliver vector 4 delivery mode 4",
    ];
    assert_eq!(lines, expected);
}
