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

fn ports_of_all_widths_and_strings(irqchip: Irqchip) {
    let code = [
        0xb0, 0x42, 0xe6, 0x80, // mov al, 42h; out 80h, al
        0xb8, 0x34, 0x12, 0xe7, 0x80, // mov ax, 1234h; out 80h, ax
        0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0xe7, 0x80, // the same with eax
        0xe4, 0x71, 0xe6, 0x80, // in al, 71h; out 80h, al
        0x31, 0xff, 0x8e, 0xc7, 0xb9, 3, 0, 0xba, 0x55,
        0, // xor di, di; es = 0; cx = 3; dx = 55h
        0xfc, 0xf3, 0x6c, // cld; rep insb
        0x8e, 0xdf, 0x66, 0xa1, 0, 0, 0x66, 0xe7, 0x80, // the bytes read, back out
    ];
    // DS takes DI's value, 3, after the string: read from 0 again through a null DS.
    let mut fixed = code.to_vec();
    let at = code.len() - 9;
    fixed.splice(at..at + 2, [0x31, 0xff, 0x8e, 0xdf]);
    fixed.push(0xf4);
    let Some(guest) = guest(&fixed, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    for (width, data) in [
        (1, vec![0x42]),
        (2, vec![0x34, 0x12]),
        (4, vec![0x78, 0x56, 0x34, 0x12]),
        (1, vec![0x71]),
        (4, vec![0x55, 0x55, 0x55, 0]),
    ] {
        assert_eq!(guest.next(), Event::Out(0, 0x80, width, data));
    }
}

fn mmio_reads_and_writes(irqchip: Irqchip) {
    let code = [
        0xb8, 0x00, 0xb8, 0x8e, 0xd8, // ds = b800h
        0xa0, 0x00, 0x10, 0xe6, 0x80, // al = [1000h]; out 80h, al
        0x66, 0xb8, 4, 3, 2, 1, 0x66, 0xa3, 0x10, 0, // [10h] = 1020304h
        0xb8, 0x00, 0xf0, 0x8e, 0xd8, // ds = f000h: the ROM
        0xc6, 0x06, 0, 0, 0x77, // [0] = 77h
        0xa0, 0, 0, 0xe6, 0x80, 0xf4, // al = [0]; out 80h, al
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    guest.expect_out(0x80, &[0xb9]);
    assert_eq!(guest.next(), Event::MmioWrite(0xb_8010, vec![4, 3, 2, 1]));
    assert_eq!(guest.next(), Event::MmioWrite(ROM_LOW, vec![0x77]));
    guest.expect_out(0x80, &[0xb8]);
}

fn pause_and_resume_a_thousand_times(irqchip: Irqchip) {
    for code in [&[0xeb, 0xfe][..], &[0xfa, 0xf4], &COUNT_LOOP] {
        let Some(guest) = guest(code, &[], 2, irqchip) else {
            return;
        };
        let mut longest = Duration::ZERO;
        for turn in 0..1000u32 {
            guest.vcpus.resume();
            // Different instants: before the thread wakes, on its way in, and inside.
            for _ in 0..turn % 50 * 20 {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            guest.vcpus.pause();
            longest = longest.max(start.elapsed());
            assert!(guest.vcpus.is_paused());
            let count = guest.notes.count.load(Ordering::SeqCst);
            if turn % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
                assert_eq!(count, guest.notes.count.load(Ordering::SeqCst));
                assert_eq!(
                    guest.vcpus.state(1).unwrap().activity,
                    Activity::WaitForInit
                );
            }
        }
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    }
}

fn pause_from_many_threads(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 1, irqchip) else {
        return;
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..300 {
                    guest.vcpus.pause();
                    guest.vcpus.resume();
                }
            });
        }
    });
    let count = guest.notes.count.load(Ordering::SeqCst);
    guest.wait_count(count + 100);
}

fn request_under_the_machines_lock(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    guest.wait_count(10);
    let machine = guest.notes.machine.lock().unwrap();
    guest.notes.waiting.store(false, Ordering::SeqCst);
    // The processor now waits for the lock inside its handler, or soon will.
    let count = guest.notes.count.load(Ordering::SeqCst);
    guest.vcpus.request_pause();
    assert_eq!(guest.notes.count.load(Ordering::SeqCst), count);
    drop(machine);
    guest.vcpus.wait_paused();
    assert!(guest.vcpus.is_paused());
    // The access under way was finished: RIP is at the jump or back at the OUT, never half.
    let state = guest.vcpus.state(0).unwrap();
    assert!(state.rip == 0 || state.rip == 2, "{:#x}", state.rip);
}

fn an_access_is_complete_before_parking(irqchip: Irqchip) {
    // in al, 71h; out 10h, al; jmp: AL must hold what was read wherever RIP is past the IN.
    let code = [0xb0, 0, 0xe4, 0x71, 0xe6, 0x10, 0xeb, 0xf8];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    for _ in 0..300 {
        guest.vcpus.resume();
        std::thread::yield_now();
        guest.vcpus.pause();
        let state = guest.vcpus.state(0).unwrap();
        let al = state.gpr[gpr::RAX] & 0xff;
        match (state.cs.selector, state.rip) {
            (0xf000, 4 | 6) => assert_eq!(al, 0x71),
            (0xf000, 2) => assert_eq!(al, 0),
            _ => {}
        }
    }
}

fn triple_fault_stops_and_reset_runs_again(irqchip: Irqchip) {
    // In protected mode, because a kernel that emulates real mode refuses UD2 and INT there.
    let code = [
        0xe6, 0x80, // out 80h, al
        0xeb, 6, 0, 0, 0, 0, 0, 0, // over an empty table at 4
        0x2e, 0x0f, 0x01, 0x1e, 4, 0, // lidt cs:[4]
        0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, // cr0 |= PE
        0xb8, 0xf8, 0xff, 0x8e, 0xd8, // ds = fff8h: beyond the GDT
        0xe6, 0x81, 0xf4,
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    for _ in 0..20 {
        guest.expect_out(0x80, &[0]);
        assert_eq!(guest.next(), Event::Stopped(0, VcpuStop::TripleFault));
        guest.vcpus.pause();
        guest.vcpus.resume();
        // It stays where it is until it is reset.
        assert!(guest.events.recv_timeout(Duration::from_millis(2)).is_err());
        guest.vcpus.pause();
        guest.vm.reset_irqchip().unwrap();
        guest.vcpus.reset().unwrap();
        guest.vcpus.resume();
    }
}

fn what_the_kernel_can_not_run_is_dumped(irqchip: Irqchip) {
    // A jump to where nothing is mapped: code can not be fetched through the bus.
    let code = [0xb8, 0x34, 0x12, 0xea, 0, 0, 0, 0xb0];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    match guest.next() {
        Event::Stopped(0, VcpuStop::InternalError { suberror, dump }) => {
            assert_eq!(suberror, 1, "{dump}");
            for part in ["RAX=0000000000001234", "CS =b000", "CR0=", "Code="] {
                assert!(dump.contains(part), "no {part} in\n{dump}");
            }
        }
        other => panic!("{other:?}"),
    }
    guest.vcpus.pause();
    guest.vcpus.reset().unwrap();
    guest.vcpus.resume();
    assert!(matches!(guest.next(), Event::Stopped(0, _)));
}

fn remap_while_running(irqchip: Irqchip) {
    // Sends the byte at C0000h over and over.
    let code = [
        0xb8, 0x00, 0xc0, 0x8e, 0xd8, // ds = c000h
        0xa0, 0, 0, 0xe6, 0x80, 0xeb, 0xf9, // al = [0]; out 80h, al; again
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.ram.write(0xc_0000, &[0x11]).unwrap();
    guest.vcpus.resume();
    let until = |value: u8| {
        let start = Instant::now();
        loop {
            match guest.next() {
                Event::Out(0, 0x80, 1, data) if data == [value] => return,
                Event::Out(..) => assert!(start.elapsed() < PATIENCE),
                other => panic!("{other:?}"),
            }
        }
    };
    until(0xc0);
    for _ in 0..50 {
        let ram = map_with(Some((Backing::Ram, true)));
        guest.vm.apply_map(&ram).unwrap();
        until(0x11);
        let rom = map_with(Some((Backing::Rom { offset: 0x1000 }, true)));
        guest.vm.apply_map(&rom).unwrap();
        until(0xf4);
        guest.vm.apply_map(&map_with(None)).unwrap();
        until(0xc0);
    }
}

fn read_only_ram(irqchip: Irqchip) {
    // [C0000h] = 99h, and what is there afterwards.
    let code = [
        0xb8, 0x00, 0xc0, 0x8e, 0xd8, 0xc6, 0x06, 0, 0, 0x99, 0xa0, 0, 0, 0xe6, 0x80, 0xf4,
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.ram.write(0xc_0000, &[0x11]).unwrap();
    let map = map_with(Some((Backing::Ram, false)));
    guest.vm.apply_map(&map).unwrap();
    guest.vcpus.resume();
    assert_eq!(guest.next(), Event::MmioWrite(0xc_0000, vec![0x99]));
    guest.expect_out(0x80, &[0x11]);
}

fn bad_maps_are_refused(irqchip: Irqchip) {
    let Some(guest) = guest(&[0xf4], &[], 1, irqchip) else {
        return;
    };
    for (gpa, length, read) in [
        (0x800, 0x1000, Backing::Ram),
        (0, 0x1800, Backing::Ram),
        (0, 2 * RAM_BYTES, Backing::Ram),
        (0, 0x1000, Backing::Rom { offset: 0x10_0000 }),
        (0, 0x1000, Backing::Rom { offset: u64::MAX }),
        (0xffff_ffff_ffff_f000, 0x1000, Backing::Ram),
    ] {
        let mut map = MemoryMap::new();
        let entry = Region {
            gpa,
            length,
            read,
            write_ram: false,
        };
        if map.push(entry).is_ok() {
            assert!(guest.vm.apply_map(&map).is_err(), "{gpa:#x} {length:#x}");
        }
    }
}

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

fn threads_end_from_every_state(irqchip: Irqchip) {
    for code in [&[0xeb, 0xfe][..], &[0xfa, 0xf4], &COUNT_LOOP, &[0x0f, 0x0b]] {
        for run in [false, true] {
            let Some(mut guest) = guest(code, &[], 3, irqchip) else {
                return;
            };
            if run {
                guest.vcpus.resume();
            }
            let start = Instant::now();
            guest.vcpus.shutdown();
            assert!(start.elapsed() < Duration::from_secs(2));
        }
    }
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

fn threads_have_the_kernels_numbers(irqchip: Irqchip) {
    let Some(guest) = guest(&COUNT_LOOP, &[], 3, irqchip) else {
        return;
    };
    for cpu in 0..3 {
        let id = guest.vcpus.thread_id(cpu).unwrap();
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
        assert_eq!(name, format!("CPU {cpu}/KVM\n"));
    }
    assert!(guest.vcpus.thread_id(3).is_err());
}

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
        state.pic.master.pins &= !1;
        state.pic.master.edges &= !1;
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

for_all! {
    ports_of_all_widths_and_strings
    mmio_reads_and_writes
    pause_and_resume_a_thousand_times
    pause_from_many_threads
    request_under_the_machines_lock
    an_access_is_complete_before_parking
    triple_fault_stops_and_reset_runs_again
    what_the_kernel_can_not_run_is_dumped
    remap_while_running
    read_only_ram
    bad_maps_are_refused
    all_processors_start_and_start_again_after_a_reset
    state_goes_in_and_comes_out
    a_reset_processor_is_as_a_new_one
    threads_end_from_every_state
    an_nmi_comes_through_lint1
    an_nmi_waits_for_a_paused_processor
    a_glance_at_running_processors
    glances_disturb_nobody_and_lose_nothing
    threads_have_the_kernels_numbers
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

#[test]
fn flushed_pages_keep_their_bytes_under_a_running_guest() {
    // 1: inc dword [500h]; jmp 1b
    let code = [0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf9];
    let Some(guest) = guest(&code, &[], 1, Irqchip::Split) else {
        return;
    };
    let counter = || {
        let mut bytes = [0; 4];
        guest.ram.read(0x500, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    };
    guest.vcpus.resume();
    let (start, mut last) = (Instant::now(), 0);
    for _ in 0..200 {
        guest.vm.flush_page(0x500);
        // No RAM is there, or no address.
        guest.vm.flush_page(RAM_BYTES);
        guest.vm.flush_page(u64::MAX);
        while counter() == last && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        assert!(counter() > last, "the guest goes on");
        last = counter();
    }
    guest.vcpus.pause();
    assert!(guest.events.try_recv().is_err(), "nothing but counting");
}
