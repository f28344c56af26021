//! A hostile guest on a machine of either board with all devices.

use thimble_core::devices::input::{InputAxis, InputButton, InputEvent, QKeyCode};
use thimble_core::devices::{ConsoleId, Width, ged, hpet};
use thimble_core::irq::lapic::Tsc;
use thimble_core::machine::{Board, Irqchip, VIRTIO_BASE};
use thimble_core::virtio::transport::mmio;

use crate::rig::Rig;
use crate::{FLASH_SIZE, Source, drives, local_apics, machine_with, plant};

/// Where the second flash chip is, below the first one.
const FLASH: u64 = (1 << 32) - 2 * FLASH_SIZE as u64;

/// The first serial port's line status register, and its bit that a byte was received.
const LINE_STATUS: u16 = 0x3fd;
/// See [`LINE_STATUS`].
const DATA_READY: u32 = 1;

/// Nanoseconds that one step of time takes at most: ten seconds.
const STEP_MAX: u64 = 10_000_000_000;

/// Where guests of [`run`] like to have PCI devices.
const PCI_MEMORY: u64 = 0xfe00_0000;

/// An access to the configuration space of a function near those that there are.
fn configuration(rig: &mut Rig<'_>, width: Width, source: &mut Source<'_>) {
    let place = source.number(2) as u32;
    let (bus, device, function) = (place & 3, place >> 2 & 7, place >> 5 & 1);
    let register = u32::from(source.byte());
    // Mostly registers of the header.
    let register = if place >> 8 & 3 == 0 {
        register
    } else {
        register & 0x3f
    };
    let address = 1 << 31 | bus << 16 | device << 11 | function << 8 | register & !3;
    rig.output(0xcf8, Width::Dword, address);
    let port = 0xcfc + (register & 3) as u16;
    if place >> 10 & 7 == 0 {
        rig.input(port, width);
        return;
    }
    let value = source.number(width as usize) as u32;
    let value = match place >> 13 {
        0 => u32::MAX,
        1 => PCI_MEMORY as u32 | value & 0x3_ffff,
        2 => 0xc000 | value & 0xfff,
        3 => value & 0x0707,
        _ => value,
    };
    rig.output(port, width, value);
}

/// What someone does at the machine.
fn user(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let operation = source.byte();
    let key = QKeyCode::from_number(source.byte().into());
    if operation & 7 == 0 {
        let pause = (operation & 8 == 0).then_some(source.number(2) as u32);
        let keys = vec![key; usize::from(source.byte())];
        // There may be no room.
        let _ = rig.call(|machine, host, now| machine.type_keys(host, now, &keys, pause));
        return;
    }
    let down = operation & 8 != 0;
    let by = source.number(4) as i32;
    let button = by as u8 as usize % InputButton::ALL.len();
    let event = match operation & 3 {
        0 | 1 => InputEvent::Key { key, down },
        2 => InputEvent::Button {
            button: InputButton::ALL[button],
            down,
        },
        _ => InputEvent::Move {
            axis: InputAxis::ALL[usize::from(down)],
            by,
        },
    };
    let mut events = std::iter::repeat_n(event, (operation >> 4).into());
    rig.call(|machine, host, now| machine.input(host, now, &mut events));
}

/// What a processor does with its local APIC.
fn processor(rig: &mut Rig<'_>, source: &mut Source<'_>) {
    let operation = source.byte();
    let cpu = u16::from(operation & 3);
    let index = 0x800 + u32::from(source.byte());
    let value = source.number(4);
    rig.call(|machine, host, now| match operation >> 2 & 7 {
        0 | 1 => {
            let gpa = 0xfee0_0000 + (u64::from(index & 0xff) << 4);
            machine.processor_write(host, now, cpu, gpa, &(value as u32).to_le_bytes());
        }
        2 => {
            let gpa = machine.apic_base(cpu) & !0xfff | value & 0xfff;
            machine.processor_read(host, now, cpu, gpa, &mut [0; 8]);
        }
        3 => drop(machine.apic_msr_write(host, now, cpu, index, value << 16 | value)),
        4 => drop(machine.apic_msr_read(host, now, cpu, index)),
        5 => {
            machine.take_event(host, now, cpu);
            let waits = machine.interrupt_waits(cpu);
            let taken = machine.take_interrupt(host, now, cpu);
            assert_eq!(waits, taken.is_some());
        }
        6 => {
            let _ = machine.set_apic_base(host, now, cpu, value ^ 0xfee0_0800);
            machine.set_task_priority(host, now, cpu, index as u8);
            machine.pulse_nmi(host, now);
        }
        _ => {
            let tsc = Tsc {
                value: now,
                hz: value,
            };
            machine.set_tsc_deadline(host, now, cpu, value << 8, tsc);
            if let Some(state) = machine.local_apic_state(now, cpu) {
                let base = machine.apic_base(cpu);
                machine
                    .set_local_apic_state(host, now, cpu, &state, base)
                    .expect("its own state");
                assert_eq!(machine.local_apic_state(now, cpu), Some(state));
            }
        }
    });
}

/// Drives a machine of either board through whatever the bytes say: accesses of all widths to all ports and
/// memory, time, console input, resets, and saved state of its own and of nobody's.
pub fn run(bytes: &[u8]) {
    let mut source = Source(bytes);
    let kind = source.byte();
    let irqchip = if kind & 1 == 0 {
        Irqchip::Machine
    } else {
        Irqchip::Host
    };
    let board = if kind & 2 == 0 {
        Board::Pc
    } else {
        Board::Microvm
    };
    let mut apics = local_apics();
    let mut rig = Rig::new(machine_with(board, irqchip, &mut apics));
    drives::plug(&mut rig, board);
    while !source.is_empty() {
        let operation = source.byte();
        let width =
            [Width::Byte, Width::Word, Width::Dword, Width::Byte][usize::from(operation >> 6)];
        match operation & 0x0f {
            0..=4 if operation & 0x30 == 0x30 => {
                configuration(&mut rig, width, &mut source);
            }
            0..=4 => {
                let port = source.number(2) as u16 & 0x0fff;
                let value = source.number(width as usize) as u32;
                rig.output(port, width, value);
            }
            5..=7 => {
                let port = source.number(2) as u16;
                let value = rig.input(port, width);
                // A serial port in loopback has received what it sent.
                plant(port == LINE_STATUS && width == Width::Byte && value & DATA_READY != 0);
            }
            8 | 9 if operation & 0x30 == 0x30 => {
                let offset = source.number(3);
                let gpa = match offset >> 21 {
                    _ if board == Board::Microvm && offset >> 23 == 0 => {
                        ged::EVENTS + offset % 0x400
                    }
                    _ if board == Board::Microvm => VIRTIO_BASE + offset % (26 * mmio::LENGTH),
                    5 => FLASH + offset % (FLASH_SIZE as u64),
                    6 | 7 => hpet::BASE + offset % hpet::LENGTH,
                    _ => PCI_MEMORY + offset % 0x4_0000,
                };
                let bytes = &mut source.number(8).to_le_bytes()[..width as usize];
                match operation & 1 {
                    0 => rig.write(gpa, bytes),
                    _ => rig.read(gpa, bytes),
                }
            }
            8 => {
                let gpa = source.number(4) ^ (source.number(1) << 32);
                let value = source.number(8).to_le_bytes();
                rig.write(gpa, &value[..width as usize]);
            }
            9 => {
                let gpa = source.number(4) ^ (source.number(1) << 32);
                rig.read(gpa, &mut [0; 8][..width as usize]);
            }
            10 => {
                rig.now = rig.now.saturating_add(source.number(5) % STEP_MAX);
                rig.call(|machine, host, now| machine.advance(host, now));
            }
            11 => {
                if let Some(deadline) = rig.machine().next_deadline() {
                    rig.now = rig.now.max(deadline);
                    rig.call(|machine, host, now| machine.advance(host, now));
                }
            }
            12 if operation & 0x30 == 0x30 => {
                user(&mut rig, &mut source);
            }
            12 => {
                let text = source.number(8).to_le_bytes();
                let console = ConsoleId(source.byte());
                let taken = rig
                    .call(|machine, host, now| machine.console_receive(host, now, console, &text));
                assert!(taken <= text.len());
            }
            13 if operation & 0x30 == 0x30 => {
                drives::act(&mut rig, &mut source);
            }
            13 => {
                rig.host.stalled = source.byte() & 1 != 0;
                for console in (0..16).map(ConsoleId) {
                    rig.call(|machine, host, now| machine.console_writable(host, now, console));
                }
            }
            14 => rig.move_away(&mut source),
            _ if operation & 0x30 != 0 => processor(&mut rig, &mut source),
            _ => rig.reset(),
        }
    }
}
