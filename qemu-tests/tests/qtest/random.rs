//! Requests at random, the same in each run, to devices whose registers need no time to pass.
//!
//! What is left out is where a manual says otherwise than QEMU does; each generator says what and why.

use super::{assert_same_answers, dice};
use qemu_tests::{packages, skip};

type Dice<'a> = &'a mut dyn FnMut(u64) -> u64;
type Requests = Vec<String>;
type Generator = fn(Dice<'_>) -> Requests;

#[test]
fn registers_at_random() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let devices: [(&str, Generator); 10] = [
        ("-M pc", keyboard_commands),
        ("-M pc", keyboard_controller),
        ("-M pc", interrupt_controllers),
        ("-M pc", io_apic),
        ("-M pc", dma_controllers),
        ("-M pc", power_management),
        ("-M pc", port92),
        ("-M pc -serial null", serial_port),
        ("-M pc -parallel null", parallel_port),
        (
            "-M pc -m 16 -device pci-testdev,addr=2 -device pci-testdev,addr=3",
            memory_windows,
        ),
    ];
    let mut random = dice();
    for (options, requests) in devices {
        let requests = requests(&mut random);
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        assert_same_answers(options, &requests);
    }
}

fn pick<T: Copy>(random: Dice<'_>, from: &[T]) -> T {
    from[random(from.len() as u64) as usize]
}

/// A read or a write of a byte at one of these ports.
fn byte_at(random: Dice<'_>, ports: &[u16]) -> String {
    let port = pick(random, ports);
    match random(2) {
        0 => format!("inb {port:#x}"),
        _ => format!("outb {port:#x} {:#x}", random(256)),
    }
}

fn bytes_at(random: Dice<'_>, ports: &[u16]) -> Requests {
    (0..1000).map(|_| byte_at(random, ports)).collect()
}

/// Commands that pulse lines of the output port, bit 0 among them, which is the processor's reset.
fn is_reset(command: u64) -> bool {
    command & 0xf1 == 0xf0
}

/// Every command of the keyboard controller, and what can be read after it: self test, interface tests, controller RAM, the
/// loops through both output buffers, input and output port.
fn keyboard_commands(_: Dice<'_>) -> Requests {
    const DATA: [u64; 3] = [0xd1, 0xd3, 0x60];
    let mut requests = vec!["irq_intercept_in ioapic".to_owned()];
    for command in (0..256).filter(|command| !is_reset(*command)) {
        requests.push(format!("outb 0x64 {command:#x}"));
        if DATA.contains(&command) {
            requests.push("outb 0x60 0x47".to_owned());
        }
        for port in [0x64, 0x60, 0x64, 0x60, 0x60] {
            requests.push(format!("inb {port:#x}"));
        }
        requests.extend(["outb 0x64 0x60", "outb 0x60 0x47"].map(String::from));
    }
    requests
}

/// The keyboard controller with both devices behind it. Commands that take a byte get it: a controller forgets them with
/// the next one, QEMU's does not. A mouse in wrap mode is left alone, as QEMU's stays so when it is reset. Bits 4 and 5
/// of the output port, which follow the interrupts, are not written.
fn keyboard_controller(random: Dice<'_>) -> Requests {
    const COMMANDS: [u64; 16] = [
        0x20, 0x60, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xad, 0xae, 0xc0, 0xd0, 0xd1, 0xd2, 0xd3, 0xd4,
        0xe0,
    ];
    const BYTES: [u64; 16] = [
        0xf2, 0xf4, 0xf5, 0xf6, 0xed, 0xf0, 0xf3, 0xff, 0xe8, 0xe9, 0xeb, 0xea, 0xe6, 0xe7, 2, 0,
    ];
    let mut requests = vec!["irq_intercept_in ioapic".to_owned()];
    while requests.len() < 2000 {
        let byte = match random(2) {
            0 => random(256),
            _ => pick(random, &BYTES),
        };
        match random(4) {
            0 => requests.push("inb 0x60".to_owned()),
            1 => requests.push("inb 0x64".to_owned()),
            2 => {
                let command = match random(8) {
                    0 => random(256),
                    _ => pick(random, &COMMANDS),
                };
                let byte = match command {
                    0xd1 => byte & !0x30 | 1,
                    0xd4 if byte == 0xee => 0xf4,
                    _ => byte,
                };
                if is_reset(command) {
                    continue;
                }
                requests.push(format!("outb 0x64 {command:#x}"));
                if [0x60, 0xd1, 0xd2, 0xd3, 0xd4].contains(&command) {
                    requests.push(format!("outb 0x60 {byte:#x}"));
                }
            }
            _ => requests.push(format!("outb 0x60 {byte:#x}")),
        }
    }
    requests
}

fn interrupt_controllers(random: Dice<'_>) -> Requests {
    const WORDS: [u64; 8] = [0x11, 0x13, 0x20, 0x60, 0x68, 0x0a, 0x0b, 0x0c];
    let ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
    let one = |_| match random(3) {
        0 => format!(
            "outb {:#x} {:#x}",
            pick(random, &ports),
            pick(random, &WORDS)
        ),
        _ => byte_at(random, &ports),
    };
    (0..2000).map(one).collect()
}

fn io_apic(random: Dice<'_>) -> Requests {
    const OFFSETS: [u64; 10] = [0, 0, 0, 0x10, 0x10, 0x10, 0x40, 4, 0x20, 0x100];
    let one = |_| {
        let (letter, bytes) = pick(random, &[("l", 4), ("l", 4), ("b", 1), ("w", 2), ("q", 8)]);
        let offset = pick(random, &OFFSETS);
        let address = 0xfec0_0000 + offset;
        let value = match (offset, random(2)) {
            (0, _) => random(0x40),
            (_, 0) => random(1 << 17),
            _ => random(1 << 48),
        } & (u64::MAX >> (64 - 8 * bytes));
        match random(2) {
            0 => format!("read{letter} {address:#x}"),
            _ => format!("write{letter} {address:#x} {value:#x}"),
        }
    };
    // The interval timer's line is high from the start; QEMU's controller has not heard of it.
    let mut requests = vec!["outb 0x43 0x30".to_owned()];
    requests.extend((0..2000).map(one));
    requests
}

fn dma_controllers(random: Dice<'_>) -> Requests {
    let ports: Vec<u16> = (0..0x10).chain(0x80..0x90).chain(0xc0..0xe0).collect();
    bytes_at(random, &ports)
}

fn port92(random: Dice<'_>) -> Requests {
    let one = |_| match random(2) {
        0 => "inb 0x92".to_owned(),
        // Bit 0 resets the processor.
        _ => format!("outb 0x92 {:#x}", random(256) & !1),
    };
    (0..200).map(one).collect()
}

/// The PIIX4's registers as wide as they are, with its interrupt; nobody goes to sleep.
fn power_management(random: Dice<'_>) -> Requests {
    const REGISTERS: [(u16, &str, u64); 10] = [
        (0x600, "w", 0xffff),
        (0x600, "l", 0xffff_ffff),
        (0x602, "w", 0xffff),
        (0x604, "w", !0x2000 & 0xffff),
        (0xafe0, "b", 0xff),
        (0xafe1, "b", 0xff),
        (0xafe2, "b", 0xff),
        (0xafe3, "b", 0xff),
        (0xb2, "b", 0xff),
        (0xb3, "b", 0xff),
    ];
    let mut requests: Requests = [
        "outl 0xcf8 0x80000b40",
        "outl 0xcfc 0x601",
        "outl 0xcf8 0x80000b80",
        "outl 0xcfc 1",
        // QEMU's timer says from the start that it has been around.
        "outw 0x600 0xffff",
        "irq_intercept_in ioapic",
    ]
    .map(String::from)
    .into();
    requests.extend((0..1500).map(|_| {
        let (port, letter, bits) = pick(random, &REGISTERS);
        match random(3) {
            0 => format!("in{letter} {port:#x}"),
            1 if port == 0xb2 => format!("outb 0xb2 {:#x}", pick(random, &[0xf0, 0xf1])),
            _ => format!("out{letter} {port:#x} {:#x}", random(1 << 32) & bits),
        }
    }));
    requests
}

/// Bits of the FIFO control register count with bit 0 only (PC16550D, 8.6.2); QEMU heeds them without it.
fn serial_port(random: Dice<'_>) -> Requests {
    let ports: Vec<u16> = (0x3f8..0x400).collect();
    let mut requests = vec!["irq_intercept_in ioapic".to_owned()];
    let one = |_| {
        let port = pick(random, &ports);
        let below = pick(random, &[2, 256]);
        let value = random(below);
        match (random(2), port) {
            (0, _) => format!("inb {port:#x}"),
            (_, 0x3fa) => format!("outb {port:#x} {:#x}", value | 1),
            _ => format!("outb {port:#x} {value:#x}"),
        }
    };
    requests.extend((0..2000).map(one));
    requests
}

fn parallel_port(random: Dice<'_>) -> Requests {
    let ports: Vec<u16> = (0x378..0x380).collect();
    bytes_at(random, &ports)
}

/// Two functions' memory all over the address space, on each other, on RAM and on what lies below 1 MiB, where PAM lets RAM
/// or the bus answer; half a PAM setting, for which QEMU knows no difference between reads and writes, and places of the
/// firmware, which answers before functions here, are left out.
fn memory_windows(random: Dice<'_>) -> Requests {
    const PLACES: [u32; 13] = [
        0xc_0000,
        0xc_8000,
        0xd_0000,
        0xd_4000,
        0x10_0000,
        0x80_0000,
        0xff_f000,
        0x100_0000,
        0x4000_0000,
        0xfe00_0000,
        0xfec0_0000,
        0xfed0_0000,
        0xfee0_0000,
    ];
    let mut requests = Requests::new();
    let configure = |requests: &mut Requests, device: u32, register: u32, letter, value: u32| {
        let address = 1 << 31 | device << 11 | register & !3;
        requests.push(format!("outl 0xcf8 {address:#x}"));
        let port = 0xcfc + (register & 3);
        requests.push(format!("out{letter} {port:#x} {value:#x}"));
    };
    for device in [2, 3] {
        configure(&mut requests, device, 4, "w", 7);
    }
    for place in &PLACES[..6] {
        requests.push(format!("write {place:#x} 4 0x11223344"));
    }
    for _ in 0..300 {
        let device = 2 + random(2) as u32;
        match random(5) {
            // The ranges from C0000h to DFFFFh.
            0 => {
                let register = 0x5a + random(4) as u32;
                let value = pick(random, &[0, 0x33, 0x03, 0x30]);
                configure(&mut requests, 0, register, "b", value);
            }
            // SMRAM, open or not: nobody is in system management mode.
            1 => {
                let value = pick(random, &[0x02, 0x0a, 0x4a, 0x42]);
                configure(&mut requests, 0, 0x72, "b", value);
            }
            2 => {
                let value = pick(random, &PLACES);
                configure(&mut requests, device, 0x10, "l", value);
            }
            3 => {
                let value = pick(random, &[0, 2, 3, 7]);
                configure(&mut requests, device, 4, "w", value);
            }
            _ => {}
        }
        for _ in 0..4 {
            let address = pick(random, &PLACES) + pick(random, &[0, 0, 4, 12, 16]);
            // Registers of others.
            if [0xfee0_0000, 0xfed0_0000].contains(&(address & !0xff)) {
                continue;
            }
            if random(3) == 0 {
                requests.push(format!("writeb {address:#x} {:#x}", random(3)));
            }
            requests.push(format!("readl {address:#x}"));
        }
    }
    requests
}
