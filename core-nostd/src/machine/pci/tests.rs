//! PCI buses in a machine, with a host in memory.

use super::*;
use crate::devices::{GuestEvent, PowerRequest};
use crate::machine::{Board, Config, Irqchip, Place, Plugging, STATE_MAX};
use crate::memory::ArrayRam;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::string::{String, ToString};
use std::vec::Vec;

const RAM: usize = 1 << 20;
static RAMS: [ArrayRam<RAM>; 24] = [const { ArrayRam::new() }; 24];
static NEXT_RAM: AtomicUsize = AtomicUsize::new(0);

/// The ISA bridge's PIRQ routes: INTA# of slot 2 is PIRQB#.
const ISA_BRIDGE: (u8, u8, u8) = (0, 1, 0);

#[derive(Default)]
struct Recorder {
    console: Vec<(u8, u8)>,
    stalled: bool,
    gsis: Vec<(u8, bool)>,
    messages: Vec<Msi>,
    events: Vec<GuestEvent>,
}

impl Host for Recorder {
    fn console_write(&mut self, console: ConsoleId, bytes: &[u8]) -> usize {
        if self.stalled {
            return 0;
        }
        self.console
            .extend(bytes.iter().map(|byte| (console.0, *byte)));
        bytes.len()
    }

    fn set_gsi(&mut self, gsi: u8, level: bool) {
        self.gsis.push((gsi, level));
    }

    fn set_intr(&mut self, _level: bool) {}

    fn msi(&mut self, message: Msi) {
        self.messages.push(message);
    }

    fn power(&mut self, _request: PowerRequest) {}

    fn guest_event(&mut self, event: GuestEvent) {
        self.events.push(event);
    }

    fn memory_remapped(&mut self) {}

    fn set_a20(&mut self, _enabled: bool) {}
}

struct Bench {
    machine: Machine<'static>,
    host: Recorder,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let ram = &RAMS[NEXT_RAM.fetch_add(1, Ordering::Relaxed)];
        Self {
            machine: Machine::new(Config {
                irqchip: Irqchip::Host,
                ..Config::new(ram, RAM as u64)
            })
            .unwrap(),
            host: Recorder::default(),
            now: 0,
        }
    }

    fn plug(&mut self, class: &'static DeviceClass, id: &str, set: &[(&str, &str)]) -> Consoles {
        self.try_plug(class, id, set).unwrap()
    }

    fn try_plug(
        &mut self,
        class: &'static DeviceClass,
        id: &str,
        set: &[(&str, &str)],
    ) -> Result<Consoles, DeviceError> {
        let mut values = PropertyValues::new(class);
        let mut plugging = Plugging {
            place: if id.is_empty() {
                Place::Anonymous
            } else {
                Place::Id(id)
            },
            bus: None,
            rom: ExpansionRom::default(),
        };
        for (name, value) in set {
            match *name {
                "bus" => plugging.bus = Some(value),
                "rom" => {
                    plugging.rom = ExpansionRom {
                        name: "some/where.rom",
                        bytes: b"\x55\xaa\x01rom",
                    };
                }
                name => values.set(name, value).unwrap(),
            }
        }
        self.machine.plug_on(&values, plugging)
    }

    fn out(&mut self, port: u16, width: Width, value: u32) {
        self.machine
            .pio_write(&mut self.host, self.now, port, width, value);
    }

    fn inp(&mut self, port: u16, width: Width) -> u32 {
        self.machine.pio_read(&mut self.host, self.now, port, width)
    }

    fn select(&mut self, at: (u8, u8, u8), register: u8) {
        let (bus, device, function) = (at.0.into(), u32::from(at.1), u32::from(at.2));
        let bus: u32 = bus;
        let address = 1 << 31 | bus << 16 | device << 11 | function << 8;
        self.out(0xcf8, Width::Dword, address | u32::from(register & !3));
    }

    fn config(&mut self, at: (u8, u8, u8), register: u8, width: Width, value: u32) {
        self.select(at, register);
        self.out(0xcfc + u16::from(register & 3), width, value);
    }

    fn read(&mut self, at: (u8, u8, u8), register: u8) -> u32 {
        self.select(at, register);
        self.inp(0xcfc, Width::Dword)
    }

    fn memory(&mut self, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        self.machine
            .physical_read(&mut self.host, self.now, gpa, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn store(&mut self, gpa: u64, bytes: &[u8]) {
        self.machine
            .physical_write(&mut self.host, self.now, gpa, bytes);
    }

    fn gsis(&mut self) -> Vec<(u8, bool)> {
        core::mem::take(&mut self.host.gsis)
    }
}

const SERIAL: (u8, u8, u8) = (0, 2, 0);

/// A serial port at C000h, with PIRQB# routed to 4.
fn serial() -> Bench {
    let mut bench = Bench::new();
    bench.plug(&pci_serial::CLASS, "", &[]);
    bench.config(SERIAL, 0x10, Width::Dword, 0xc000);
    bench.config(SERIAL, 4, Width::Word, 1);
    bench.config(ISA_BRIDGE, 0x60, Width::Dword, 0x8080_0480);
    bench.gsis();
    bench
}

#[test]
fn consoles_of_pci_serial_ports() {
    let mut bench = Bench::new();
    let two = bench.plug(&pci_serial::CLASS_2X, "", &[]);
    let names: Vec<_> = two.iter().map(|(name, id)| (*name, id.0)).collect();
    assert_eq!(names, [("chardev1", 8), ("chardev2", 9)]);
    let one = bench.plug(&pci_serial::CLASS, "", &[]);
    assert_eq!(one.first(), Some(&("chardev", ConsoleId(10))));
    bench.plug(&pci_serial::CLASS_4X, "", &[]);
    assert_eq!(
        bench.try_plug(&pci_serial::CLASS_2X, "", &[]),
        Err(DeviceError::TooMany(PCI_UARTS_MAX)),
        "one is left"
    );
    for (slot, base) in [(2, 0xc000), (3, 0xd000)] {
        bench.config((0, slot, 0), 0x10, Width::Dword, base);
        bench.config((0, slot, 0), 4, Width::Word, 1);
    }
    bench.out(0xc008, Width::Byte, 0x41);
    bench.out(0xd000, Width::Byte, 0x42);
    assert_eq!(bench.host.console, [(9, 0x41), (10, 0x42)]);
    // One that takes nothing holds the transmitter, until it does.
    bench.host.stalled = true;
    bench.out(0xd000, Width::Byte, 0x43);
    assert_eq!(bench.inp(0xd005, Width::Byte), 0);
    bench.host.stalled = false;
    bench
        .machine
        .console_writable(&mut bench.host, 0, ConsoleId(10));
    assert_eq!(bench.inp(0xd005, Width::Byte), 0x60);
    assert_eq!(bench.host.console.last(), Some(&(10, 0x43)));
    // The other way.
    assert_eq!(bench.machine.console_room(ConsoleId(9)), 1);
    assert_eq!(bench.machine.console_room(ConsoleId(15)), 0);
    let taken = bench
        .machine
        .console_receive(&mut bench.host, 0, ConsoleId(9), b"xy");
    assert_eq!(taken, 1);
    assert_eq!(bench.inp(0xc008, Width::Byte), u32::from(b'x'));
}

/// Interrupt 4 is an ISA serial port's as well.
#[test]
fn a_pin_and_an_isa_line_share_an_interrupt() {
    let mut bench = serial();
    bench.plug(&serial::CLASS, "", &[]);
    bench.out(0xc001, Width::Byte, 2);
    assert_eq!(bench.gsis(), [(4, true)]);
    bench.out(0x3f9, Width::Byte, 2);
    assert_eq!(bench.gsis(), []);
    bench.out(0xc001, Width::Byte, 0);
    assert_eq!(bench.gsis(), [], "the ISA device holds it");
    bench.out(0xc001, Width::Byte, 2);
    bench.out(0x3f9, Width::Byte, 0);
    assert_eq!(bench.gsis(), [], "the PCI device holds it");
    // It goes where its route goes.
    bench.config(ISA_BRIDGE, 0x61, Width::Byte, 0x0b);
    assert_eq!(bench.gsis(), [(4, false), (11, true)]);
    bench.config(ISA_BRIDGE, 0x61, Width::Byte, 0x8b);
    assert_eq!(bench.gsis(), [(11, false)]);
    bench.config(ISA_BRIDGE, 0x61, Width::Byte, 0x04);
    bench.config(SERIAL, 4, Width::Word, 0x401);
    assert_eq!(bench.gsis(), [(4, true), (4, false)]);
}

#[test]
fn state_moves_with_its_interrupt() {
    let mut bench = serial();
    bench.out(0xc001, Width::Byte, 2);
    let mut state = std::vec![0; STATE_MAX];
    let length = bench.machine.save(&mut state).unwrap();
    let mut other = Bench::new();
    other.plug(&pci_serial::CLASS, "", &[]);
    let load = |other: &mut Bench| other.machine.load(&mut other.host, 0, &state[..length]);
    load(&mut other).unwrap();
    assert_eq!(other.gsis(), [(4, true)]);
    assert_eq!(other.inp(0xc001, Width::Byte), 2);
    assert_eq!(other.inp(0xc002, Width::Byte), 2);
    assert_eq!(other.gsis(), [(4, false)]);
    // After a reset it is nowhere.
    other.machine.reset(&mut other.host, 0);
    assert_eq!(other.inp(0xc001, Width::Byte), 0xff);
    let mut without = Bench::new();
    assert!(load(&mut without).is_err());
}

#[test]
fn expansion_roms_are_read() {
    let mut bench = Bench::new();
    bench.plug(&pci_testdev::CLASS, "", &[("rom", "")]);
    bench.plug(
        &pci_testdev::CLASS,
        "",
        &[("rom", ""), ("romsize", "65536")],
    );
    for (slot, sized) in [(2, 0xffff_f801), (3, 0xffff_0001)] {
        let at = (0, slot, 0);
        bench.config(at, 0x30, Width::Dword, u32::MAX);
        assert_eq!(bench.read(at, 0x30), sized);
        bench.config(at, 0x30, Width::Dword, 0xfe00_0000);
        bench.config(at, 4, Width::Word, 2);
        assert_eq!(bench.memory(0xfe00_0000), 0, "its own bit is off");
        bench.config(at, 0x30, Width::Dword, 0xfe00_0001);
        assert_eq!(bench.memory(0xfe00_0000), 0x7201_aa55);
        assert_eq!(bench.memory(0xfe00_0004), 0x0000_6d6f, "blank behind it");
        bench.store(0xfe00_0000, &[1, 2, 3]);
        assert_eq!(bench.memory(0xfe00_0000), 0x7201_aa55);
        bench.config(at, 4, Width::Word, 0);
    }
    let size = |set: &[(&str, &str)]| Bench::new().try_plug(&pci_testdev::CLASS, "", set).err();
    assert_eq!(
        size(&[("romsize", "3")]).unwrap().to_string(),
        "ROM size 3 is not a power of two"
    );
    assert_eq!(size(&[("romsize", "65536")]), None, "without a file");
    let large = size(&[("rom", ""), ("romsize", "0x80000000")]);
    assert_eq!(large, Some(DeviceError::Property("romsize")));
    assert_eq!(size(&[("rom", ""), ("rombar", "0")]), None);
    assert_eq!(Bench::new().machine.pci_rom(99), ExpansionRom::default());
}

#[test]
fn firmware_gets_roms_without_a_range() {
    let mut bench = Bench::new();
    let set = [("rom", ""), ("rombar", "0")];
    bench.plug(&pci_testdev::CLASS, "", &set);
    assert_eq!(bench.read((0, 2, 0), 0x30), 0);
    let again = bench.try_plug(&pci_testdev::CLASS, "", &set);
    assert_eq!(again, Err(DeviceError::FwCfgFile("genroms/")));
}

#[test]
fn names_of_buses_and_errors() {
    let mut bench = Bench::new();
    let bridge = |number| [("chassis_nr", number), ("shpc", "off")];
    bench.plug(&bridge::CLASS, "", &bridge("1"));
    bench.plug(&bridge::CLASS, "named", &bridge("2"));
    bench.plug(&bridge::CLASS, "", &bridge("3"));
    for name in ["pci.0", "pci.1", "named", "pci.2"] {
        bench.plug(&pci_testdev::CLASS, "", &[("bus", name)]);
    }
    let mut error = |class, set: &[(&str, &str)]| -> String {
        let error = bench.try_plug(class, "", set).unwrap_err();
        error.to_string()
    };
    let serial = &pci_serial::CLASS;
    for (set, text) in [
        (&[("bus", "pci.3")][..], "Bus 'pci.3' not found"),
        (
            &[("bus", "isa.0")],
            "Device 'pci-serial' can't go on ISA bus",
        ),
        (
            &[("addr", "1")],
            "PCI: slot 1 function 0 not available for pci-serial, in use by PIIX3,id=(null)",
        ),
        (
            &[("addr", "3")],
            "PCI: slot 3 function 0 not available for pci-serial, in use by pci-bridge,id=named",
        ),
        (
            &[("addr", "3.1")],
            "PCI: single function device can't be populated in function 3.1",
        ),
    ] {
        assert_eq!(error(serial, set), text);
    }
    let isa = error(&serial::CLASS, &[("bus", "named")]);
    assert_eq!(isa, "Device 'isa-serial' can't go on PCI bus");
    assert_eq!(
        error(&bridge::CLASS, &[]),
        "Bridge chassis not specified. Each bridge is required to be assigned a unique chassis id \
         > 0."
    );
    let shpc = error(&bridge::CLASS, &[("chassis_nr", "1")]);
    assert!(shpc.contains("shpc"), "{shpc}");
    assert_eq!(
        error(&pci_testdev::CLASS, &[("membar", "3")]),
        "property 'membar' has an impossible value"
    );
    let long = "x".repeat(200);
    assert!(error(serial, &[("bus", &long)]).starts_with("Bus 'xxx"));
    bench.plug(serial, "", &[("addr", "9.1"), ("multifunction", "on")]);
    let single = bench.try_plug(serial, "", &[("addr", "9.0")]).unwrap_err();
    assert_eq!(
        single.to_string(),
        "PCI: 9.0 indicates single function, but 9.1 is already populated."
    );
    let ram = &RAMS[NEXT_RAM.fetch_add(1, Ordering::Relaxed)];
    let microvm = Config {
        board: Board::Microvm,
        ..Config::new(ram, RAM as u64)
    };
    let none = Machine::new(microvm)
        .unwrap()
        .plug(&PropertyValues::new(serial));
    assert_eq!(
        none.unwrap_err().to_string(),
        "No 'PCI' bus found for device 'pci-serial'"
    );
}

#[test]
fn functions_come_and_go() {
    let mut bench = serial();
    bench.plug(
        &bridge::CLASS,
        "bridge",
        &[("chassis_nr", "1"), ("shpc", "off")],
    );
    bench.plug(&pci_serial::CLASS, "there", &[("bus", "bridge")]);
    bench.plug(&i6300esb::CLASS, "dog", &[]);
    let dog = (0, 4, 0);
    bench.config(dog, 0x68, Width::Byte, 2);
    assert!(bench.machine.next_deadline().is_some());
    let mut unplug = |id| bench.machine.unplug(&mut bench.host, 0, id);
    assert_eq!(unplug("nobody"), Err(DeviceError::NotFound));
    assert_eq!(unplug("bridge"), Err(DeviceError::Busy));
    assert_eq!(unplug("there"), Ok(()));
    assert_eq!(unplug("there"), Err(DeviceError::NotFound));
    assert_eq!(unplug("bridge"), Ok(()));
    assert_eq!(unplug("dog"), Ok(()));
    assert_eq!(bench.read((0, 3, 0), 0), u32::MAX);
    assert_eq!(bench.machine.next_deadline(), None);
    assert_eq!(bench.machine.plugged().len(), 1);
    // Its place, its console and its id are free again, and one can be plugged in while guests run.
    let consoles = bench.plug(&pci_serial::CLASS, "there", &[]);
    assert_eq!(consoles.first(), Some(&("chardev", ConsoleId(9))));
    assert_eq!(bench.read((0, 3, 0), 0), 0x0002_1b36);
    // The first one is as it was.
    bench.out(0xc000, Width::Byte, 0x51);
    assert_eq!(bench.host.console, [(8, 0x51)]);
    // One whose line is high takes its interrupt with it.
    bench.plug(&pci_serial::CLASS, "loud", &[("addr", "6")]);
    bench.config((0, 6, 0), 0x10, Width::Dword, 0xd000);
    bench.config((0, 6, 0), 4, Width::Word, 1);
    bench.gsis();
    bench.out(0xd001, Width::Byte, 2);
    assert_eq!(bench.gsis(), [(4, true)]);
    bench.machine.unplug(&mut bench.host, 0, "loud").unwrap();
    assert_eq!(bench.gsis(), [(4, false)]);
    assert_eq!(bench.inp(0xd001, Width::Byte), 0xff);
}

#[test]
fn the_watchdog_is_heard() {
    let mut bench = Bench::new();
    bench.plug(&i6300esb::CLASS, "", &[]);
    bench.plug(&i6300esb::CLASS, "", &[]);
    assert_eq!(
        bench.try_plug(&i6300esb::CLASS, "", &[]),
        Err(DeviceError::TooMany(I6300ESB_MAX))
    );
    let at = (0, 3, 0);
    bench.config(at, 0x10, Width::Dword, 0xfe00_0000);
    bench.config(at, 4, Width::Word, 2);
    for offset in [0, 4] {
        bench.store(0xfe00_000c, &[0x80, 0]);
        bench.store(0xfe00_000c, &[0x86, 0]);
        bench.store(0xfe00_0000 + offset, &[0, 4, 0, 0]);
    }
    bench.config(at, 0x68, Width::Byte, 2);
    for _ in 0..2 {
        assert_eq!(bench.host.events, []);
        bench.now = bench.machine.next_deadline().unwrap();
        bench.machine.advance(&mut bench.host, bench.now);
    }
    assert_eq!(bench.host.events, [GuestEvent::WatchdogExpired]);
    assert_eq!(bench.memory(0xfe00_000c), 0x1200);
}

#[test]
fn messages_reach_local_apics_or_memory() {
    let mut bench = Bench::new();
    let apic = Msi {
        address: 0xfee0_1000,
        data: 0x31,
    };
    let memory = Msi {
        address: 0x8000,
        data: 0x1122_3344,
    };
    let nowhere = Msi {
        address: u64::MAX - 3,
        data: 1,
    };
    for message in [apic, memory, nowhere] {
        bench
            .machine
            .effects
            .push(crate::devices::Effect::Message(message));
        bench.machine.drain(&mut bench.host, 0, None);
    }
    assert_eq!(bench.host.messages, [apic]);
    let mut bytes = [0; 4];
    bench.machine.ram().read(0x8000, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 0x1122_3344);
}

/// Every range of every function at once at one place, and a bridge whose windows cut it in two.
#[test]
fn ranges_that_overlap_have_one_owner() {
    let mut bench = Bench::new();
    bench.plug(&bridge::CLASS, "b", &[("chassis_nr", "1"), ("shpc", "off")]);
    for slot in ["1", "2", "3"] {
        let set = [("bus", "b"), ("addr", slot), ("membar", "4M")];
        bench.plug(&pci_testdev::CLASS, "", &set);
    }
    let above = (0, 2, 0);
    bench.config(above, 0x18, Width::Dword, 0x0001_0100);
    bench.config(above, 0x20, Width::Dword, 0xfe00_fe00);
    bench.config(above, 0x24, Width::Dword, 0xfe21_fe21);
    bench.config(above, 4, Width::Word, 3);
    for slot in 1..4 {
        let at = (1, slot, 0);
        bench.config(at, 0x18, Width::Dword, 0xfe00_0000);
        bench.config(
            at,
            0x10,
            Width::Dword,
            0xfe00_0000 + 0x1000 * u32::from(slot),
        );
        bench.config(at, 4, Width::Word, 2);
        // The first register's range lies under the third's.
        let memory = 0xfe00_0000 + 0x1000 * u64::from(slot);
        bench.store(memory, &[0]);
        assert_eq!(bench.memory(memory + 4), 0);
    }
    let claims = |bench: &Bench, gpa| {
        bench
            .machine
            .buses
            .memory
            .find(gpa)
            .map(|(c, _)| c.function)
    };
    let last = claims(&bench, 0xfe00_0000);
    assert!(last.is_some());
    for (gpa, owner) in [
        (0xfe0f_ffff, last),
        (0xfe10_0000, None),
        (0xfe1f_ffff, None),
        (0xfe20_0000, last),
        (0xfe2f_ffff, last),
        (0xfe30_0000, None),
    ] {
        assert_eq!(claims(&bench, gpa), owner, "{gpa:#x}");
    }
    // The piece behind the hole knows where in the range it is.
    let (claim, _) = bench.machine.buses.memory.find(0xfe20_0000).unwrap();
    assert_eq!(claim.offset, 0x20_0000);
}

/// Whatever a guest writes into configuration space and into ranges, the machine goes on, and its
/// state can be moved.
#[test]
fn a_hostile_guest_does_no_harm() {
    let plug = |bench: &mut Bench| {
        bench.plug(
            &bridge::CLASS,
            "one",
            &[("chassis_nr", "1"), ("shpc", "off")],
        );
        bench.plug(
            &bridge::CLASS,
            "two",
            &[("chassis_nr", "2"), ("shpc", "off"), ("bus", "one")],
        );
        bench.plug(
            &bridge::CLASS,
            "three",
            &[("chassis_nr", "3"), ("shpc", "off"), ("bus", "two")],
        );
        for bus in ["pci.0", "one", "two", "three"] {
            let set = [("bus", bus), ("membar", "64K"), ("rom", "")];
            bench.plug(&pci_testdev::CLASS, "", &set);
            bench.plug(&pci_serial::CLASS_2X, "", &[("bus", bus)]);
        }
        bench.plug(&i6300esb::CLASS, "", &[("bus", "three")]);
    };
    let (mut bench, mut other) = (Bench::new(), Bench::new());
    plug(&mut bench);
    plug(&mut other);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) % below
    };
    let mut buffer = std::vec![0; STATE_MAX];
    let mut seen = 0;
    for step in 0..40_000 {
        let at = (random(8).saturating_sub(3) as u8, random(6) as u8, 0);
        let width = [Width::Byte, Width::Word, Width::Dword][random(3) as usize];
        match random(8) {
            0..4 => {
                let register = match random(4) {
                    0 => random(0x44) as u8,
                    1 => reg::COMMAND,
                    _ => 4 * random(16) as u8,
                };
                let value = match random(4) {
                    0 => u32::MAX,
                    1 => 0xfe00_0000 + random(0x4_0000) as u32,
                    2 => random(0x1_0000) as u32,
                    _ => 0x0707 & random(1 << 16) as u32 | (random(4) << 16) as u32,
                };
                bench.config(at, register, width, value);
            }
            4 => {
                let bytes = random(u64::MAX).to_le_bytes();
                bench.store(0xfe00_0000 + random(0x4_0000), &bytes[..width as usize]);
            }
            5 => {
                let gpa = 0xfe00_0000 + random(0x4_0000);
                bench.memory(gpa);
                seen += usize::from(bench.machine.is_pci_memory(gpa));
            }
            6 => {
                let port = random(0x1_0000) as u16;
                // A reset by the ISA bridge or the like is for the host to do.
                bench.out(port, width, random(1 << 32) as u32);
                bench.inp(port, width);
            }
            _ => {
                bench.now += random(1 << 30);
                bench.machine.advance(&mut bench.host, bench.now);
            }
        }
        bench.host = Recorder::default();
        if step % 1000 == 0 {
            let length = bench.machine.save(&mut buffer).unwrap();
            other.now = bench.now;
            other
                .machine
                .load(&mut other.host, bench.now, &buffer[..length])
                .unwrap();
            let again = std::vec![buffer[..length].to_vec()];
            let length = other.machine.save(&mut buffer).unwrap();
            assert_eq!(buffer[..length], again[0][..], "step {step}");
            bench.machine.reset(&mut bench.host, bench.now);
        }
    }
    assert!(seen > 0, "some range answered");
}
