//! Tests of trace points: which are on, and what their lines say.

use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use super::testing::traced;
use super::*;
use crate::devices::i8042::{COMMAND, I8042, I8042Wiring};
use crate::devices::input::{InputAxis, InputEvent, QKeyCode};
use crate::devices::serial::{BAUD_BASE, Serial, SerialWiring};
use crate::devices::testing::Bench;
use crate::irq::{IrqLine, Pic};
use crate::state::{load, save};
use crate::time::TimerId;

#[test]
fn names_are_names_and_appear_once() {
    let names: Vec<&str> = Event::all().map(Event::name).collect();
    assert!(names.len() >= 100, "{}", names.len());
    for (index, name) in names.iter().enumerate() {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(plain), "{name}");
        assert!(!names[..index].contains(name), "{name}");
        let event = Event::from_name(name.as_bytes()).unwrap();
        assert_eq!(event as usize, index);
        // What is behind the name is a format that asks for what its function has.
        assert!(!event.row().1.contains("{}{"), "{name}");
    }
    assert_eq!(Event::from_name(b"serial_reads"), None);
    assert_eq!(Event::from_name(b""), None);
}

#[test]
fn patterns() {
    for (pattern, name, means) in [
        ("serial_read", "serial_read", true),
        ("serial_read", "serial_rea", false),
        ("serial_rea", "serial_read", false),
        ("serial_*", "serial_read", true),
        ("*_read", "serial_read", true),
        ("*r*a*", "serial_read", true),
        ("*r*z*", "serial_read", false),
        ("serial_????", "serial_read", true),
        ("serial_???", "serial_read", false),
        ("*", "", true),
        ("**", "x", true),
        ("?", "", false),
        ("", "", true),
        ("", "x", false),
        ("a*b*c", "aXbXbc", true),
        ("*ab", "aab", true),
        ("se[r]ial*", "serial_read", false),
    ] {
        assert_eq!(
            matches(pattern.as_bytes(), name.as_bytes()),
            means,
            "{pattern} {name}"
        );
    }
    // Many stars end soon.
    let stars = format!("{}b", "*a".repeat(40));
    assert!(!matches(stars.as_bytes(), "a".repeat(200).as_bytes()));
}

#[test]
fn lines_have_texts_in_their_places() {
    let lines = traced("*", || {
        events::cpu_in(0x3f8, b'b', 65);
        events::rtc_set_time(-3600);
        events::rtc_set_time(i64::MIN);
        events::apic_mem_readl(0x30, 0x50014);
        events::pci_cfg_read(0, 0, 1, 4, 0x12, b"i440FX");
        events::ib700_expired();
        events::fw_cfg_select(0x19, true, b"a\nb\x1b");
        events::runstate_set(6, 9, b"prelaunch", b"running");
        events::memory_region_ops_read(u64::MAX, 0, 8, b"");
        events::event_loop_wait(-5);
    });
    assert_eq!(
        lines,
        [
            "cpu_in addr 0x3f8(b) value 65",
            "rtc_set_time offset -3600",
            "rtc_set_time offset -9223372036854775808",
            "apic_mem_readl 0x30 = 0x00050014",
            "pci_cfg_read i440FX 00:00.1 @0x4 -> 0x12",
            "ib700_expired ",
            "fw_cfg_select key 0x0019 'a?b?', ret: 1",
            "runstate_set current_run_state 6 (prelaunch) new_state 9 (running)",
            "memory_region_ops_read addr 0xffffffffffffffff value 0x0 size 8 name ''",
            "event_loop_wait timeout -5",
        ]
    );
}

#[test]
fn what_is_off_says_nothing() {
    let lines = traced("serial_read", || {
        events::serial_write(1, 2);
        events::serial_read(1, 2);
    });
    assert_eq!(lines, ["serial_read read addr 0x01 val 0x02"]);
    assert_eq!(
        traced("nothing", || events::serial_read(1, 2)),
        Vec::<String>::new()
    );
}

#[test]
fn long_lines_end_in_dots() {
    let lines = traced("handle_hmp_command", || {
        events::handle_hmp_command(&vec![b'x'; 5000]);
        events::handle_hmp_command(&vec![b'x'; LINE_MAX - "handle_hmp_command cmdline: ".len()]);
    });
    assert_eq!(lines[0].len(), LINE_MAX);
    assert!(lines[0].ends_with("xxx..."), "{}", lines[0]);
    assert_eq!(lines[1].len(), LINE_MAX);
    assert!(lines[1].ends_with("xxxx"), "{}", lines[1]);
}

#[test]
fn events_of_processors_are_switched_one_by_one() {
    let (event, other) = (Event::guest_cpu_reset, Event::guest_cpu_enter);
    let lines = traced("nothing", || {
        event.set_for(3, true);
        event.set_for(254, true);
        assert!(event.is_on() && event.is_on_for(3) && !event.is_on_for(4));
        assert!(!other.is_on() && !other.is_on_for(3));
        for cpu in [0, 3, 4, 254] {
            events::guest_cpu_reset(cpu);
            events::guest_cpu_enter(cpu);
        }
        event.set_for(3, false);
        assert!(event.is_on());
        event.set_for(254, false);
        assert!(!event.is_on());
        event.set(true);
        assert!(event.is_on_for(17));
        event.set(false);
        assert!(!event.is_on_for(17));
        // There are no such processors, and no such switch.
        event.set_for(u32::MAX, true);
        assert!(!event.is_on() && !event.is_on_for(u32::MAX));
        Event::serial_read.set_for(0, true);
        assert!(!Event::serial_read.is_on() && !Event::serial_read.is_vcpu());
    });
    assert_eq!(lines, ["guest_cpu_reset cpu=3", "guest_cpu_reset cpu=254"]);
}

/// What only the host can cause, or a processor: the rest is told of by tests of the whole process.
#[test]
fn the_host_s_side_of_devices_is_told_of() {
    let mut bench = Bench::new();
    let mut port = Serial::new(
        SerialWiring {
            irq: Some(IrqLine::new(4)),
            receive_timeout: TimerId::new(0),
        },
        BAUD_BASE,
    );
    let lines = traced("*serial*", || {
        assert_eq!(port.receive(&mut bench.context(), b"ab"), 1);
    });
    assert_eq!(
        lines,
        [
            "serial_receive bytes 2 taken 1",
            "serial_update_irq iir 0x01"
        ]
    );

    let mut keyboard = I8042::new(I8042Wiring {
        keyboard_irq: IrqLine::new(1),
        mouse_irq: IrqLine::new(12),
    });
    bench.out(&mut keyboard, COMMAND, 0xd4);
    bench.out(&mut keyboard, 0, 0xf4);
    let lines = traced("ps2_*", || {
        let key = QKeyCode::from_name(b"left").unwrap();
        let (down, axis, by) = (true, InputAxis::Y, 5);
        keyboard.input(&mut bench.context(), InputEvent::Key { key, down });
        keyboard.input(&mut bench.context(), InputEvent::Move { axis, by });
        keyboard.sync(&mut bench.context());
        keyboard.reset(&mut bench.context());
    });
    assert_eq!(
        lines,
        [
            "ps2_keyboard_event qcode 99 down 1 modifiers 0x0 set 2 xlate 0",
            "ps2_put_keycode keycode 0xe0",
            "ps2_put_keycode keycode 0x6b",
            "ps2_mouse_event dx 0 dy -5 dz 0 buttons 0x0",
            "ps2_kbd_reset ",
            "ps2_mouse_reset ",
        ]
    );

    let mut pic = Pic::new();
    let lines = traced("pic_*", || {
        pic.set_irq(9, true);
        assert_eq!(pic.acknowledge(), 1);
    });
    assert_eq!(
        lines,
        [
            "pic_set_irq master 0 irq 1 level 1",
            "pic_update_irq master 0 imr 0 irr 2 padd 0",
            "pic_set_irq master 1 irq 2 level 1",
            "pic_update_irq master 1 imr 0 irr 4 padd 0",
            "pic_interrupt irq 9 intno 1",
        ]
    );
}

#[test]
fn saved_sections_are_told_of() {
    let mut bench = Bench::new();
    let mut pic = Pic::new();
    let lines = traced("vmstate_*", || {
        let mut buffer = [0; 1024];
        let length = save(&pic, &mut buffer).unwrap();
        load(&mut pic, &buffer[..length], &mut bench.context()).unwrap();
    });
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].starts_with("vmstate_save isa-i8259, version "),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("vmstate_load isa-i8259, version "),
        "{lines:?}"
    );
}
