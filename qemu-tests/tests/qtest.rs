//! Device registers over the qtest protocol: every script in `qtest/` against both emulators.
//!
//! A script's first line is `# args: OPTIONS`, which both emulators get beside what makes them passive. Every other
//! line is a request, unless it is empty or starts with `#`. Answers are compared line by line, together with the
//! interrupt lines that precede them.

use std::fs;
use std::path::PathBuf;

#[path = "qtest/random.rs"]
mod random;

use qemu_tests::{
    Comparison, Emulator, Instance, ask_both, check_list, connection_closed, packages, skip,
    source_dir,
};

/// What stands for an answer when the emulator ends instead.
const EXITS: &str = "<exits>";

fn scripts() -> Vec<PathBuf> {
    let mut scripts: Vec<_> = fs::read_dir(source_dir().join("qtest"))
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "qtest"))
        .collect();
    scripts.sort();
    scripts
}

fn test_name(script: &std::path::Path) -> String {
    let stem = script.file_stem().expect("a file");
    format!("qtest/{}", stem.to_string_lossy())
}

fn start(emulator: Emulator, args: &str) -> Instance {
    emulator
        .launcher()
        .args(emulator.passive_args())
        .args(args.split_whitespace())
        .with_qtest()
        .start()
}

/// The answers to all requests, with interrupt lines in front, until the emulator ends.
fn answers(emulator: Emulator, args: &str, requests: &[&str]) -> Vec<String> {
    let instance = start(emulator, args);
    let mut client = instance.qtest();
    let mut answers = Vec::new();
    for request in requests {
        match client.request(request) {
            Ok(answer) => {
                let mut parts = client.take_interrupts();
                parts.push(answer);
                answers.push(parts.join(" | "));
            }
            Err(error) if connection_closed(&error) => {
                answers.push(EXITS.to_string());
                break;
            }
            Err(error) => panic!("{request}: {error}\n{}", instance.report()),
        }
    }
    answers.resize(requests.len(), "<gone>".to_string());
    answers
}

#[test]
fn scripts_answer_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let scripts = scripts();
    assert!(!scripts.is_empty());
    let mut failures = Vec::new();
    for script in scripts {
        let text = fs::read_to_string(&script).expect("a script");
        let args = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# args:"))
            .unwrap_or_else(|| panic!("{}: the first line is no `# args:`", script.display()));
        let requests: Vec<&str> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        // QEMU built by Debian has no clock verbs; tests/clock.rs has them.
        assert!(
            !requests.iter().any(|line| line.starts_with("clock_")),
            "{}: clock verbs can't be compared",
            script.display()
        );
        let mut comparison = Comparison::new(&test_name(&script));
        let [qemu, thimble] = ask_both(|emulator| answers(emulator, args, &requests));
        for (index, request) in requests.iter().enumerate() {
            comparison.add(request, &qemu[index], &thimble[index]);
        }
        // Other scripts still run: one report has all differences.
        let finished = std::panic::catch_unwind(|| comparison.finish());
        if finished.is_err() {
            failures.push(script.file_name().expect("a file").to_os_string());
        }
    }
    assert!(failures.is_empty(), "differences in {failures:?}");
}

/// The devices of [`configuration_space_at_random`], and where they stand: bus, device, function.
const FUNCTIONS: &str = "-M pc -m 16 -device pci-bridge,chassis_nr=1,id=one,shpc=off \
    -device pci-testdev,bus=one,addr=5,membar=1M -device pci-bridge,chassis_nr=2,id=two,shpc=off,bus=one,addr=3 \
    -device pci-serial,bus=two,addr=1.1,multifunction=on -device pci-serial-2x,bus=two,addr=1,multifunction=on \
    -device i6300esb,addr=9,multifunction=on -device pci-serial-4x,addr=9.1";
const PLACES: [(u32, u32, u32); 9] = [
    (0, 2, 0),
    (1, 5, 0),
    (1, 3, 0),
    (2, 1, 0),
    (2, 1, 1),
    (0, 9, 0),
    (0, 9, 1),
    (0, 0, 0),
    (3, 0, 0),
];

/// Reads and writes of all widths, of all registers but those of the watchdog that have tests of their own.
#[test]
fn configuration_space_at_random() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut random = dice();
    let mut requests = Vec::new();
    for _ in 0..1500 {
        let (bus, device, function) = PLACES[random(PLACES.len() as u64) as usize];
        let (letter, bytes) = [("b", 1), ("w", 2), ("l", 4)][random(3) as usize];
        let register = random(256) as u32 & !(bytes - 1);
        if device == 9 && function == 0 && (0x60..0x6c).contains(&register) {
            continue;
        }
        let address = 1 << 31 | bus << 16 | device << 11 | function << 8 | register & !3;
        requests.push(format!("outl 0xcf8 {address:#x}"));
        let port = 0xcfc + (register & 3);
        if random(5) > 1 {
            let value = match random(4) {
                0 => 0,
                1 => u64::from(u32::MAX),
                _ => random(1 << 32),
            };
            let value = value & (u64::MAX >> (64 - 8 * bytes));
            requests.push(format!("out{letter} {port:#x} {value:#x}"));
        }
        requests.push(format!("in{letter} {port:#x}"));
    }
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    assert_same_answers(FUNCTIONS, &requests);
}

fn assert_same_answers(options: &str, requests: &[&str]) {
    let [qemu, thimble] = ask_both(|emulator| answers(emulator, options, requests));
    for (index, (qemu, thimble)) in qemu.iter().zip(&thimble).enumerate() {
        let before = &requests[index.saturating_sub(10)..=index];
        assert_eq!(qemu, thimble, "request {index}, the last of {before:?}");
    }
}

/// Numbers that are the same in each run.
fn dice() -> impl FnMut(u64) -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    }
}

/// The HPET's registers by accesses of all widths, aligned or not, while it runs and while it stands; with the interval timer and the
/// real-time clock beside it, and all interrupt lines.
#[test]
fn hpet_at_random() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut random = dice();
    // The interval timer's line falls before anybody listens.
    let mut requests: Vec<String> = ["outb 0x43 0x30", "irq_intercept_in ioapic"]
        .map(String::from)
        .into();
    for _ in 0..1500 {
        let register = match random(8) {
            0 => 0x10,
            1 => 0x20,
            2 => 0xf0,
            3 => random(0x400),
            _ => 0x100 + random(3) * 0x20 + random(3) * 8,
        };
        // What lies behind the last comparator, of which QEMU has one too many.
        if (0x160..0x180).contains(&register) || (0x154..0x160).contains(&register) {
            continue;
        }
        let address = 0xfed0_0000_u64 + register + [0, 0, 0, 4, 1, 2][random(6) as usize];
        let (letter, bytes) =
            [("b", 1), ("w", 2), ("l", 4), ("l", 4), ("q", 8)][random(5) as usize];
        if address + bytes > 0xfed0_0160 && address < 0xfed0_0180 {
            continue;
        }
        if random(4) > 0 {
            let value = match random(4) {
                0 => 0,
                1 => u64::MAX,
                2 => random(16),
                _ => random(1 << 40) << random(25),
            } & (u64::MAX >> (64 - 8 * bytes));
            // QEMU counts in nanoseconds, of which there are fewer than ticks.
            let is_counter = (0xe8..0x100).contains(&register);
            let value = if is_counter {
                value & 0x07ff_ffff
            } else {
                value
            };
            // QEMU lets down whatever line a comparator's route has when messages are switched on.
            let touches = |at: u64| address <= at + 1 && address + bytes > at + 1;
            let is_config = (0..3).any(|timer| touches(0xfed0_0100 + timer * 0x20));
            if !is_config || letter != "l" || value & 0x4000 == 0 {
                let value = if is_config {
                    value & !0x4000_0000_4000
                } else {
                    value
                };
                requests.push(format!("write{letter} {address:#x} {value:#x}"));
            }
        }
        requests.push(format!("read{letter} {address:#x}"));
    }
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    assert_same_answers("-M pc", &requests);
}

/// The real-time clock's registers in all forms of time, with all that its control registers can say, and its interrupt line.
#[test]
fn rtc_at_random() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut random = dice();
    for (form, options) in [
        (0x02, "-M pc -rtc base=2020-02-29T23:59:58,clock=vm"),
        (0x06, "-M pc -rtc base=1999-12-31T11:59:59,clock=vm"),
        (0x00, "-M pc -rtc base=2001-01-01T12:00:00,clock=vm"),
        (0x04, "-M microvm -rtc base=2038-01-19T00:14:07,clock=vm"),
    ] {
        let mut requests = vec!["irq_intercept_in ioapic".to_string()];
        requests.extend(["outb 0x70 0xb".to_string(), format!("outb 0x71 {form:#x}")]);
        for _ in 0..500 {
            let index = match random(3) {
                // What a board says of itself in other bytes is not the clock's.
                0 => [0x32, 0x37, 0x7d, 0x7e, 0x7f][random(5) as usize],
                1 => 0x0a + random(4),
                _ => random(14),
            };
            // Values that the clock can show, since what others come to is for nobody to say.
            let (least, most) = match index {
                0x00 | 0x02 => (0, 59),
                0x04 if form & 2 == 0 => (1, 12),
                0x04 => (0, 23),
                0x06 => (1, 7),
                0x07 => (1, 28),
                0x08 => (1, 12),
                0x09 => (0, 99),
                // QEMU counts the half seconds before 1970 the wrong way.
                0x32 | 0x37 => (20, 21),
                _ => (0, 255),
            };
            let mut value = least + random(most - least + 1);
            match index {
                // Dividers that the part does not have are no way to stop it.
                0x0a => {
                    value = [0, 0x10, 0x20, 0x20, 0x60, 0x70][random(6) as usize] | value & 0x8f
                }
                0x0b => value = value & 0xf8 | form,
                0..0x0a | 0x32 | 0x37 if most < 255 && form & 4 == 0 => {
                    value = ((value / 10) << 4) | (value % 10);
                }
                _ => {}
            }
            if index == 4 && form & 2 == 0 {
                value |= random(2) << 7;
            }
            requests.push("outb 0x70 0".to_string());
            requests.push("inb 0x71".to_string());
            requests.push(format!("outb 0x70 {:#x}", index | random(2) << 7));
            if random(3) > 0 {
                requests.push(format!("outb 0x71 {value:#x}"));
            }
            requests.push("inb 0x71".to_string());
        }
        let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
        assert_same_answers(options, &requests);
    }
}

#[test]
fn malformed_lines_get_an_answer() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let text = fs::read_to_string(source_dir().join("qtest/malformed.lines")).expect("the lines");
    let thimble = start(Emulator::Thimble, "");
    let mut client = thimble.qtest();
    let mut comparison = Comparison::new("qtest-lines");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let request = line.replace("\\t", "\t").replace("\\r", "\r");
        let qemu = answers(Emulator::Qemu, "", &[&request]).remove(0);
        let answer = client
            .request(&request)
            .unwrap_or_else(|error| panic!("{line}: {error}\n{}", thimble.report()));
        comparison.add(line, &qemu, &answer);
    }
    assert_eq!(client.request("endianness").expect("alive"), "OK little");
    comparison.finish();
}

#[test]
fn hostile_bytes_leave_the_server_alive() {
    let thimble = start(Emulator::Thimble, "");
    let mut client = thimble.qtest();
    // Ask by lines of bytes that are no text, of length beyond any buffer, and in pieces.
    let long = "x".repeat(1 << 20);
    client
        .send_raw(b"\xff\xfe\x00\x01\n")
        .expect("a connection");
    assert!(client.line(SOON).expect("an answer").starts_with("FAIL"));
    client.send_raw(long.as_bytes()).expect("a connection");
    client.send_raw(b"\n").expect("a connection");
    assert!(client.line(SOON).expect("an answer").starts_with("FAIL"));
    for piece in ["end", "ian", "ness", "\nendian", "ness\n"] {
        client.send_raw(piece.as_bytes()).expect("a connection");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(client.line(SOON).expect("an answer"), "OK little");
    assert_eq!(client.line(SOON).expect("an answer"), "OK little");
    // An empty line, and sizes that no memory has.
    assert!(client.request("").expect("alive").starts_with("FAIL"));
    for request in [
        "read 0 0xffffffffffffffff",
        "b64read 0 0xffffffffffffffff",
        "memset 0 0xffffffffffffffff 0",
        "write 0 0xffffffffffffffff 0x00",
        "b64write 0 0xffffffffffffffff AA==",
    ] {
        let answer = client.request(request).expect("alive");
        assert!(answer.starts_with("FAIL"), "{request}: {answer}");
    }
    assert_eq!(client.request("endianness").expect("alive"), "OK little");
}

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

#[test]
fn the_clock_moves_only_by_request() {
    let thimble = start(Emulator::Thimble, "");
    let mut client = thimble.qtest();
    let mut ask = |request: &str| client.request(request).expect("an answer");
    assert_eq!(ask("clock_step 1000"), "OK 1000");
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(ask("clock_step 1"), "OK 1001");
    assert_eq!(ask("clock_set 5000"), "OK 5000");
    // Back in time is no way to go: the clock stays.
    assert_eq!(ask("clock_set 4000"), "OK 5000");
    assert!(ask("clock_step zz").starts_with("FAIL"));
    assert!(ask("clock_set").starts_with("FAIL"));
    // Without a number the clock goes to the next deadline: of channel 0 in mode 2, one period of 1193 ticks.
    assert_eq!(ask("outb 0x43 0x34"), "OK");
    assert_eq!(ask("outb 0x40 0xa9"), "OK");
    assert_eq!(ask("outb 0x40 0x04"), "OK");
    let before = 5000_u64;
    let after: u64 = ask("clock_step")
        .strip_prefix("OK ")
        .and_then(|number| number.parse().ok())
        .expect("the new time");
    assert!(after > before && after <= before + 1_000_000, "{after} ns");
}

#[test]
fn interrupts_are_reported_once_intercepted() {
    let thimble = start(Emulator::Thimble, "-serial null");
    let mut client = thimble.qtest();
    let mut ask = |request: &str| {
        let answer = client.request(request).expect("an answer");
        (answer, client.take_interrupts())
    };
    let plain = |answer: &str| (answer.to_string(), Vec::new());
    assert_eq!(ask("irq_intercept_in ioapic"), plain("OK"));
    // The UART's transmitter is empty: enabling that interrupt, with OUT2 on, raises IRQ 4.
    assert_eq!(ask("outb 0x3fc 0x08"), plain("OK"));
    assert_eq!(
        ask("outb 0x3f9 0x02"),
        ("OK".to_string(), vec!["IRQ raise 4".to_string()])
    );
    assert_eq!(
        ask("outb 0x3f9 0x00"),
        ("OK".to_string(), vec!["IRQ lower 4".to_string()])
    );
}

#[test]
fn sigterm_ends_with_status_zero() {
    let thimble = start(Emulator::Thimble, "");
    let mut client = thimble.qtest();
    assert_eq!(client.request("endianness").expect("alive"), "OK little");
    thimble.signal(rustix::process::Signal::TERM);
    assert_eq!(thimble.wait(SOON).code(), Some(0));
    assert!(!thimble.dir().join("qtest.sock").exists());
}

#[test]
fn the_list_names_known_tests_only() {
    let mut tests: Vec<String> = scripts().iter().map(|script| test_name(script)).collect();
    tests.extend(["qtest-lines", "qmp-bytes", "qmp-session", "commands-schema"].map(String::from));
    tests.extend(["qom-paths", "qom-tree", "qom-types", "commands-human-32"].map(String::from));
    tests.extend(["qom-pci", "commands-pci-errors", "commands-pci-rom"].map(String::from));
    tests.extend(qemu_tests::images::all().map(|image| image.test_name()));
    check_list(&tests);
}
