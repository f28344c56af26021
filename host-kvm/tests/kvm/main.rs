//! The KVM layer by itself: tiny real-mode guests, written as bytes, and a handler that notes
//! what they do. Without a usable /dev/kvm each test says so on stderr and passes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use thimble_core::cpu::{Activity, LocalApicState, gpr};
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest, Width};
use thimble_core::irq::lapic::{CpuEvent, LocalApicWiring};
use thimble_core::irq::{IrqLine, LocalApic, Msi};
use thimble_core::machine::{Config, Controllers, Host, Machine, STATE_MAX};
use thimble_core::memory::{Backing, GuestRam, MemoryMap, Region};
use thimble_core::state::StateError;
use thimble_host::cpuid::{CpuSpec, CpuidTable, Topology};
use thimble_host::kvm::{
    ExitHandler, Instant as Instants, Irqchip, LostTicks, Routes, VcpuStop, Vcpus, Vm, offer, open,
    x2apic_outside,
};
use thimble_host::memory::{Ram, Rom};

/// Declares the tests that are the same whoever models the interrupt controllers.
macro_rules! for_all {
    ($($name:ident)*) => {
        mod in_kernel {
            $(#[test] fn $name() { super::$name(super::Irqchip::On) })*
        }
        mod split {
            $(#[test] fn $name() { super::$name(super::Irqchip::Split) })*
        }
        mod off {
            $(#[test] fn $name() { super::$name(super::Irqchip::Off) })*
        }
    };
}

mod controllers;
mod interrupts;
mod memory;
mod processors;
mod running;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
const RAM_BYTES: u64 = 1 << 20;
/// The ROM ends below 4 GiB and is seen below 1 MiB as well.
const ROM_BYTES: usize = 0x1_0000;
const ROM_LOW: u64 = 0xf_0000;
const ROM_HIGH: u64 = 0xffff_0000;

/// What a guest did.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Out(u32, u16, u8, Vec<u8>),
    MmioWrite(u64, Vec<u8>),
    Stopped(u32, VcpuStop),
    Halted(u32),
    Ended(u32, u8),
}

/// Notes all exits; port 10h is counted only, and takes the lock that `machine` stands for.
struct Notes {
    events: Mutex<Sender<Event>>,
    count: AtomicU64,
    machine: Mutex<()>,
    waiting: AtomicBool,
    /// Vectors of external interrupts; INTR falls with the last.
    vectors: Mutex<Vec<u8>>,
    /// Has the local APICs, with [`Irqchip::Off`].
    apics: Mutex<Box<Machine<'static>>>,
    vm: Arc<Vm>,
}

/// The page of the local APICs.
const APIC: u64 = 0xfee0_0000;

impl Notes {
    fn machine<R>(&self, call: impl FnOnce(&mut Machine<'static>, &mut Attention<'_>) -> R) -> R {
        let machine = &mut self.apics.lock().unwrap();
        call(machine, &mut Attention(&self.vm))
    }

    fn is_apic(&self, gpa: u64) -> bool {
        self.vm.irqchip() == Irqchip::Off && gpa >> 12 == APIC >> 12
    }

    fn push(&self, event: Event) {
        let _ = self.events.lock().unwrap().send(event);
    }
}

impl ExitHandler for Notes {
    fn pio_in(&self, _cpu: u32, port: u16, _width: u8, data: &mut [u8]) {
        data.fill(port as u8);
    }

    fn pio_out(&self, cpu: u32, port: u16, width: u8, data: &[u8]) {
        if port == 0x10 {
            self.waiting.store(true, Ordering::SeqCst);
            let _machine = self.machine.lock().unwrap();
            self.count.fetch_add(1, Ordering::SeqCst);
        } else {
            self.push(Event::Out(cpu, port, width, data.to_vec()));
        }
    }

    fn mmio_read(&self, cpu: u32, gpa: u64, data: &mut [u8]) {
        if self.is_apic(gpa) {
            return self.machine(|machine, host| {
                machine.processor_read(host, 0, cpu as u16, gpa, data);
            });
        }
        data.fill((gpa >> 12) as u8);
    }

    fn mmio_write(&self, cpu: u32, gpa: u64, data: &[u8]) {
        if self.is_apic(gpa) {
            return self.machine(|machine, host| {
                machine.processor_write(host, 0, cpu as u16, gpa, data);
            });
        }
        self.push(Event::MmioWrite(gpa, data.to_vec()));
    }

    fn take_event(&self, cpu: u32) -> Option<CpuEvent> {
        self.machine(|machine, host| machine.take_event(host, 0, cpu as u16))
    }

    fn interrupt_waits(&self, cpu: u32) -> bool {
        self.machine(|machine, _| machine.interrupt_waits(cpu as u16))
    }

    fn task_priority(&self, cpu: u32) -> u8 {
        self.machine(|machine, _| machine.task_priority(cpu as u16))
    }

    fn set_task_priority(&self, cpu: u32, class: u8) {
        self.machine(|machine, host| machine.set_task_priority(host, 0, cpu as u16, class));
    }

    fn set_apic_base(&self, cpu: u32, base: u64) {
        self.machine(|machine, host| machine.set_apic_base(host, 0, cpu as u16, base))
            .unwrap();
    }

    fn msr_read(&self, cpu: u32, index: u32) -> Option<u64> {
        self.machine(|machine, host| machine.apic_msr_read(host, 0, cpu as u16, index).ok())
    }

    fn msr_write(&self, cpu: u32, index: u32, value: u64) -> bool {
        self.machine(|machine, host| {
            let written = machine.apic_msr_write(host, 0, cpu as u16, index, value);
            written.is_ok()
        })
    }

    fn apic_state(&self, cpu: u32) -> Option<LocalApicState> {
        self.machine(|machine, _| machine.local_apic_state(0, cpu as u16))
    }

    fn set_apic_state(
        &self,
        cpu: u32,
        state: &LocalApicState,
        base: u64,
    ) -> Result<(), StateError> {
        self.machine(|machine, host| machine.set_local_apic_state(host, 0, cpu as u16, state, base))
    }

    fn pulse_nmi(&self) -> u32 {
        self.machine(|machine, host| machine.pulse_nmi(host, 0))
    }

    fn acknowledge(&self, cpu: u32) -> Option<u8> {
        if self.vm.irqchip() == Irqchip::Off {
            return self.machine(|machine, host| machine.take_interrupt(host, 0, cpu as u16));
        }
        let mut vectors = self.vectors.lock().unwrap();
        let vector = vectors.pop();
        self.vm.set_intr(!vectors.is_empty());
        vector
    }

    fn end_of_interrupt(&self, cpu: u32, vector: u8) {
        self.push(Event::Ended(cpu, vector));
    }

    fn halted(&self, cpu: u32) {
        self.push(Event::Halted(cpu));
    }

    fn stopped(&self, cpu: u32, stop: VcpuStop) {
        self.push(Event::Stopped(cpu, stop));
    }
}

struct Guest {
    vcpus: Vcpus,
    vm: Arc<Vm>,
    ram: Arc<Ram>,
    notes: Arc<Notes>,
    events: Receiver<Event>,
}

fn region(gpa: u64, length: u64, read: Backing, write_ram: bool) -> Region {
    Region {
        gpa,
        length,
        read,
        write_ram,
    }
}

/// RAM up to A0000h, a hole, one page at C0000h as given, and the ROM twice.
fn map_with(page: Option<(Backing, bool)>) -> MemoryMap {
    let mut map = MemoryMap::new();
    let rom = Backing::Rom { offset: 0 };
    map.push(region(0, 0xa_0000, Backing::Ram, true)).unwrap();
    if let Some((read, write_ram)) = page {
        map.push(region(0xc_0000, 0x1000, read, write_ram)).unwrap();
    }
    let length = ROM_BYTES as u64;
    map.push(region(ROM_LOW, length, rom, false)).unwrap();
    map.push(region(ROM_HIGH, length, rom, false)).unwrap();
    map
}

/// A paused machine whose first processor will run `code` at F000:0000, and the ones that it
/// starts `start` at 0000:1000 (vector 1).
fn guest(code: &[u8], start: &[u8], cpus: u32, irqchip: Irqchip) -> Option<Guest> {
    guest_with_timer(code, start, cpus, irqchip, Some(LostTicks::Delay))
}

/// The same, with a choice of what the kernel's timer does, or none.
fn guest_with_timer(
    code: &[u8],
    start: &[u8],
    cpus: u32,
    irqchip: Irqchip,
    ticks: Option<LostTicks>,
) -> Option<Guest> {
    let kvm = match open() {
        Ok(kvm) => kvm,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    let mut image = vec![0xf4; ROM_BYTES];
    image[..code.len()].copy_from_slice(code);
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    let ram = Arc::new(Ram::new(&[(0, RAM_BYTES)]).unwrap());
    ram.write(0x1000, start).unwrap();
    let rom = Arc::new(Rom::new(&image).unwrap());
    let spec = CpuSpec::parse("qemu64").unwrap();
    // With four, APIC ids have a gap: 0, 1, 2, 4.
    let cores = if cpus == 4 { 3 } else { 1 };
    let topology = Topology {
        sockets: cpus.div_ceil(cores),
        cores,
        threads: 1,
    };
    let (cpuid, _) = CpuidTable::new(offer(&kvm, irqchip).unwrap(), &spec, topology).unwrap();
    let map = map_with(None);
    let vm = Vm::with_timer(kvm, irqchip, ticks, Arc::clone(&ram), Some(rom), &map).unwrap();
    let vm = Arc::new(vm);
    let (sender, events) = channel();
    let notes = Arc::new(Notes {
        events: Mutex::new(sender),
        count: AtomicU64::new(0),
        machine: Mutex::new(()),
        waiting: AtomicBool::new(false),
        vectors: Mutex::new(Vec::new()),
        apics: Mutex::new(machine_with(
            thimble_core::machine::Irqchip::Machine,
            match irqchip {
                Irqchip::Off => cpus,
                _ => 0,
            },
            topology,
        )),
        vm: Arc::clone(&vm),
    });
    let vcpus = Vcpus::new(Arc::clone(&vm), cpus, &cpuid, Arc::clone(&notes)).unwrap();
    Some(Guest {
        vcpus,
        vm,
        ram,
        notes,
        events,
    })
}

impl Guest {
    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            self.vcpus.pause();
            let dump = self.vcpus.dump(0).unwrap();
            panic!("the guest stands still:\n{dump}")
        })
    }

    fn expect_out(&self, port: u16, data: &[u8]) {
        match self.next() {
            Event::Out(_, at, _, bytes) => assert_eq!((at, &bytes[..]), (port, data)),
            other => panic!("{other:?}"),
        }
    }

    fn wait_count(&self, at_least: u64) {
        let start = Instant::now();
        while self.notes.count.load(Ordering::SeqCst) < at_least {
            assert!(start.elapsed() < PATIENCE, "the guest stands still");
            std::thread::yield_now();
        }
    }
}

/// `out dx, al` in a loop, to the port that is counted.
const COUNT_LOOP: [u8; 4] = [0xe6, 0x10, 0xeb, 0xfc];

/// A machine with so many local APICs.
fn machine_with(
    irqchip: thimble_core::machine::Irqchip,
    apics: u32,
    topology: Topology,
) -> Box<Machine<'static>> {
    let apic = |index| {
        LocalApic::new(LocalApicWiring {
            id: topology.apic_id(index) as u8,
            bootstrap: index == 0,
            x2apic: true,
            address_bits: 52,
            tsc_deadline: false,
        })
    };
    let ram: &'static Ram = Box::leak(Box::new(Ram::new(&[(0, RAM_BYTES)]).unwrap()));
    Box::new(
        Machine::new(Config {
            irqchip,
            local_apics: (0..apics).map(apic).collect::<Vec<_>>().leak(),
            ..Config::new(ram, RAM_BYTES)
        })
        .unwrap(),
    )
}

/// A host that lets processors look at their local APICs, and to which nothing else matters.
struct Attention<'a>(&'a Vm);

impl Host for Attention<'_> {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
    fn set_intr(&mut self, _level: bool) {}
    fn attention(&mut self, cpu: u16) {
        self.0.attention(cpu.into());
    }
    fn power(&mut self, _request: PowerRequest) {}
    fn guest_event(&mut self, _event: GuestEvent) {}
    fn memory_remapped(&mut self) {}
    fn set_a20(&mut self, _enabled: bool) {}
}
