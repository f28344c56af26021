//! memsave and pmemsave: what lies in the file afterwards, and that none is left where the command failed.

use std::time::Duration;

use qemu_tests::{Emulator, packages};
use rustix::process::{Resource, Rlimit};
use serde_json::{Value, json};

use crate::{
    NEVER, SOON, answer, ask, command_with, compare, connect, content, emulators, negotiated,
    out_of_band, passive, physical, refused, roms, status, wait_console, with_rom,
    with_rom_of_any_mode,
};

/// The reset vector, 16 bytes below 4 GiB.
const RESET_VECTOR: i64 = 0xffff_fff0;

#[test]
fn the_reset_vector_is_the_roms() {
    for emulator in emulators() {
        let rom = roms::counter();
        let instance = with_rom(emulator, &rom).args(["-S"]).start();
        let mut client = negotiated(&instance);
        for (command, address, length) in [
            ("pmemsave", RESET_VECTOR, 16),
            ("memsave", RESET_VECTOR, 16),
            ("pmemsave", 0xf_fff1, 15),
            ("memsave", 0xf_fff1, 15),
            ("pmemsave", 0xf_0000, 0x1_0000),
            ("memsave", 0xf_0000, 0x1_0000),
            ("pmemsave", 0xf_fffe, 1),
            ("pmemsave", 0xf_fffe, 0),
            ("memsave", 0xf_fffe, 0),
        ] {
            let file = instance.dir().join("saved");
            let arguments = json!({"val": address, "size": length, "filename": file.to_str()});
            assert_eq!(command_with(&mut client, command, arguments), json!({}));
            let start = (address & 0xffff) as usize;
            let expected = &rom[start..start + length];
            let saved = std::fs::read(&file).expect("the file");
            assert!(saved == expected, "{emulator:?}: {command} {address:#x}");
        }
    }
}

#[test]
fn what_a_guest_wrote_is_saved() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::pattern()).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "W");
        let pattern: Vec<u8> = (0x1000u16..0x9000)
            .step_by(2)
            .flat_map(|offset| (offset ^ 0xa55a).to_le_bytes())
            .collect();
        let file = instance.dir().join("saved");
        for command in ["pmemsave", "memsave"] {
            for (address, size) in [(0x1000, 0x8000), (0x1003, 4093), (0x8fff, 1), (0x2fff, 2)] {
                // What was in the file before is gone, however long it was.
                std::fs::write(&file, vec![0xee; 100_000]).expect("a file");
                let arguments = json!({"val": address, "size": size, "filename": file.to_str()});
                assert_eq!(command_with(&mut client, command, arguments), json!({}));
                let start = address - 0x1000;
                let saved = std::fs::read(&file).expect("the file");
                assert!(
                    saved == pattern[start..start + size],
                    "{emulator:?}: {command} {address:#x} {size}"
                );
            }
        }
        assert_eq!(status(&mut client), "running");
    }
}

/// What there is beyond RAM, and at its edges.
#[test]
fn the_whole_address_space_reads_the_same() {
    const RAM: i64 = 16 << 20;
    let ranges = [
        ("low memory", 0, 0xa_0000),
        ("high memory", 0x10_0000, (15 << 20) as usize),
        ("the end of RAM", RAM - 1, 2),
        ("behind RAM", RAM, 0x1000),
        ("in the hole", 0xd000_0000, 0x100),
        ("across 4 GiB", 0xffff_fff0, 0x20),
        ("behind everything", 1 << 40, 0x100),
        ("the last bytes", -16, 16),
    ];
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::counter()).args(["-S"]).start();
        let mut client = negotiated(&instance);
        let read = ranges.iter().map(|(name, address, size)| {
            let bytes = physical(&instance, &mut client, *address, *size);
            let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let start: Vec<u8> = bytes.into_iter().take(32).collect();
            ((*name).to_string(), format!("{start:02x?} {sum:016x}"))
        });
        answers.push(read.collect());
    }
    compare("commands-ranges", &answers);
}

/// What `memsave` stores, or its error.
fn virtual_memory(
    instance: &qemu_tests::Instance,
    client: &mut qemu_tests::QmpClient,
    address: i64,
    size: usize,
    cpu: Option<i64>,
) -> String {
    let file = instance.dir().join("virtual");
    let mut arguments = json!({"val": address, "size": size, "filename": file.to_str()});
    if let Some(cpu) = cpu {
        arguments["cpu-index"] = json!(cpu);
    }
    let reply = client.execute("memsave", arguments);
    let saved = content(&file);
    drop(std::fs::remove_file(&file));
    match reply {
        Ok(value) => {
            assert_eq!(value, json!({}));
            let saved = saved.expect("the file");
            assert_eq!(saved.len(), size);
            saved.escape_ascii().to_string()
        }
        Err(error) => {
            // QEMU leaves what it had written until then.
            if instance.emulator() == Emulator::Thimble {
                assert_eq!(saved, None, "a file is left after {error}");
            }
            error.to_string()
        }
    }
}

fn half_and_half() -> String {
    format!("{}{}", "A".repeat(16), "B".repeat(16))
}

/// Whether this guest runs at all with what guests run with here: some KVM runs long mode and real mode only.
pub(crate) fn runs_here(rom: &[u8]) -> bool {
    if packages::qemu().is_none() || packages::accelerator() == "tcg" {
        return packages::accelerator() == "tcg";
    }
    let instance = Emulator::Qemu.launcher();
    std::fs::write(instance.dir().join("guest.rom"), rom).expect("a file");
    let instance = instance
        .args([
            "-accel",
            packages::accelerator(),
            "-no-reboot",
            "-nodefaults",
        ])
        .args(["-display", "none", "-M", "pc", "-m", "16"])
        .args(["-bios", "{dir}/guest.rom", "-debugcon", "stdio"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .start();
    instance.wait_stdout("P", SOON)
}

/// What is mapped, and is read, and what is not, and is refused.
fn check_mappings(rom: &[u8], across: &[i64], large: i64, unmapped: &[(i64, usize)]) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_rom_of_any_mode(emulator, rom).start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        for address in across {
            // Two pages that are neighbours here and lie apart in the guest's memory.
            let saved = virtual_memory(&instance, &mut client, *address, 32, None);
            assert_eq!(saved, half_and_half(), "{emulator:?} {address:#x}");
        }
        let saved = virtual_memory(&instance, &mut client, large, 16, Some(0));
        assert_eq!(saved, "A".repeat(16), "{emulator:?} {large:#x}");
        let asked = unmapped.iter().map(|(address, size)| {
            let answer = virtual_memory(&instance, &mut client, *address, *size, None);
            (format!("{address:#x} {size}"), answer)
        });
        answers.push(asked.collect::<Vec<_>>());
        assert_eq!(status(&mut client), "running");
    }
    for (address, answer) in answers.iter().flatten() {
        let start = "GenericError: Invalid addr 0x";
        assert!(answer.starts_with(start), "{address}: {answer}");
    }
    compare("commands-unmapped", &answers);
}

#[test]
fn virtual_addresses_go_through_32_bit_page_tables() {
    check_mappings(
        &roms::paging_32(),
        &[0x40_0ff0],
        0x82_0000,
        &[(0x40_1ff0, 32), (0x40_2000, 1), (0xc0_0000, 16), (-16, 16)],
    );
}

#[test]
fn virtual_addresses_go_through_64_bit_page_tables() {
    const HALF: i64 = -0x8000_0000_0000;
    check_mappings(
        &roms::paging_64(),
        &[0x20_0ff0, HALF + 0x20_0ff0],
        HALF + 0x2_0000,
        &[
            (0x20_1ff0, 32),
            (0x20_2000, 1),
            (0x40_0000, 16),
            (HALF + 0x20_1ff0, 17),
            (0x7fff_ffff_f000, 16),
            (-16, 16),
        ],
    );
}

/// Between the halves there are no addresses. QEMU looks at the low 48 bits of them only.
#[test]
fn addresses_that_are_not_canonical_are_refused() {
    let instance = with_rom(Emulator::Thimble, &roms::paging_64()).start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "P");
    for address in [0x8000_0000_0000, i64::MIN, -0x8000_0000_0001] {
        let answer = virtual_memory(&instance, &mut client, address, 16, None);
        let start = "GenericError: Invalid addr 0x";
        assert!(answer.starts_with(start), "{address:#x}: {answer}");
    }
}

#[test]
fn virtual_addresses_are_those_of_the_chosen_processor() {
    for emulator in emulators() {
        let instance = with_rom(emulator, &roms::paging_64())
            .args(["-smp", "2"])
            .start();
        let mut client = negotiated(&instance);
        wait_console(&instance, "P");
        let mut read = |cpu| virtual_memory(&instance, &mut client, 0x20_0ff0, 32, cpu);
        assert_eq!(read(None), half_and_half());
        assert_eq!(read(Some(0)), half_and_half());
        // The second one waits for its start-up: paging is off, and nobody has written there.
        assert_eq!(read(Some(1)), r"\x00".repeat(32));
        let expected = "GenericError: Parameter 'cpu-index' expects a CPU number";
        for cpu in [2, -1, 255, 1 << 40, i64::MIN, i64::MAX] {
            // QEMU looks at the lowest 32 bits only.
            if emulator == Emulator::Thimble || i32::try_from(cpu).is_ok() {
                assert_eq!(read(Some(cpu)), expected, "{emulator:?} {cpu}");
            }
        }
    }
}

/// The default of `cpu-index` is what the command `cpu` has set; QEMU has had no such command since 3.0.
#[test]
fn cpu_chooses_the_default_processor() {
    let instance = with_rom(Emulator::Thimble, &roms::paging_64())
        .args(["-smp", "2", "-qmp", "unix:{dir}/other,server=on,wait=off"])
        .start();
    let mut client = negotiated(&instance);
    wait_console(&instance, "P");
    let zeros = r"\x00".repeat(32);
    let choose = |client: &mut qemu_tests::QmpClient, index: i64| {
        assert_eq!(
            command_with(client, "cpu", json!({"index": index})),
            json!({})
        );
    };
    let read = |client: &mut qemu_tests::QmpClient, cpu| {
        virtual_memory(&instance, client, 0x20_0ff0, 32, cpu)
    };
    choose(&mut client, 1);
    assert_eq!(read(&mut client, None), zeros);
    assert_eq!(read(&mut client, Some(0)), half_and_half());
    // The argument's older name.
    for (cpu, expected) in [(0, half_and_half()), (1, zeros.clone())] {
        let file = instance.dir().join("old");
        let arguments =
            json!({"val": 0x20_0ff0, "size": 32, "filename": file.to_str(), "cpu": cpu});
        command_with(&mut client, "memsave", arguments);
        let saved = std::fs::read(&file).expect("the file");
        assert_eq!(saved.escape_ascii().to_string(), expected);
    }
    for index in [2, -1, i64::MAX] {
        assert_eq!(
            refused(&mut client, "cpu", json!({"index": index})),
            "GenericError: Parameter 'index' expects a CPU number"
        );
    }
    assert_eq!(
        read(&mut client, None),
        zeros,
        "a refused choice changes nothing"
    );
    // Each monitor has its own.
    let mut other = connect(&instance, "other");
    other.negotiate();
    assert_eq!(read(&mut other, None), half_and_half());
    choose(&mut client, 0);
    assert_eq!(read(&mut client, None), half_and_half());
}

#[test]
fn files_that_cannot_be_written_are_refused() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        std::fs::write(instance.dir().join("file"), b"").expect("a file");
        let mut client = negotiated(&instance);
        let mut asked = Vec::new();
        for command in ["pmemsave", "memsave"] {
            for name in [
                "/dev/full",
                "{dir}/no/such",
                "{dir}/file/below",
                "{dir}",
                "",
                "/proc/version",
                "/dev/fdset/1",
                "/dev/fdset/2",
            ] {
                let arguments = json!({"val": 0, "size": 1 << 20, "filename": name});
                let text = answer(&instance, &mut client, command, &arguments);
                assert!(
                    text.starts_with("GenericError: "),
                    "{emulator:?} {name}: {text}"
                );
                asked.push((format!("{command} {name}"), text));
            }
        }
        assert!(std::path::Path::new("/dev/full").exists());
        assert_eq!(status(&mut client), "prelaunch");
        answers.push(asked);
    }
    compare("commands-files", &answers);
}

/// QEMU answers success for what is still in its buffer when the file is closed.
#[test]
fn a_full_device_is_noticed_however_little_is_written() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    for command in ["pmemsave", "memsave"] {
        for size in [1, 16, 4096] {
            let arguments = json!({"val": 0, "size": size, "filename": "/dev/full"});
            let text = refused(&mut client, command, arguments);
            assert_eq!(text, "GenericError: An IO error has occurred");
        }
    }
    assert!(std::path::Path::new("/dev/full").exists());
}

/// A limit of the process on the size of files: the write fails in the middle, and the signal that may come with it is harmless.
#[test]
fn a_file_that_grows_too_large_is_removed() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    ask(&mut client, "query-status");
    let limit = Rlimit {
        current: Some(1 << 20),
        maximum: Some(1 << 20),
    };
    rustix::process::prlimit(Some(instance.pid()), Resource::Fsize, limit).expect("a child");
    let file = instance.dir().join("saved");
    for command in ["pmemsave", "memsave"] {
        let arguments = json!({"val": 0, "size": 4 << 20, "filename": file.to_str()});
        let text = refused(&mut client, command, arguments);
        assert_eq!(text, "GenericError: An IO error has occurred");
        assert_eq!(content(&file), None);
    }
    assert_eq!(physical(&instance, &mut client, 0, 1 << 20).len(), 1 << 20);
}

/// Sizes below zero end QEMU; here they are an error.
#[test]
fn negative_sizes_are_refused() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let file = instance.dir().join("saved");
    for command in ["pmemsave", "memsave"] {
        for size in [-1, i64::MIN] {
            let arguments = json!({"val": 0, "size": size, "filename": file.to_str()});
            let text = refused(&mut client, command, arguments);
            assert!(text.contains("size"), "{text}");
            assert_eq!(content(&file), None);
        }
    }
    assert_eq!(status(&mut client), "prelaunch");
}

#[test]
fn nothing_below_the_board_none_is_saved() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let launcher = emulator.launcher().args(emulator.passive_args());
        let instance = launcher.args(["-M", "none"]).with_qmp().start();
        let mut client = negotiated(&instance);
        let file = instance.dir().join("saved");
        let mut asked = Vec::new();
        for command in ["pmemsave", "memsave"] {
            let arguments = json!({"val": 0, "size": 16, "filename": "{dir}/saved"});
            let text = answer(&instance, &mut client, command, &arguments);
            asked.push((command.to_string(), format!("{text} {:?}", content(&file))));
            drop(std::fs::remove_file(&file));
        }
        answers.push(asked);
    }
    compare("commands-none", &answers);
}

/// A pipe without a reader keeps the one who opens it waiting. The VM, the other monitors and the process's end don't wait.
#[test]
fn a_pipe_without_a_reader_stops_nobody_else() {
    let instance = passive(Emulator::Thimble)
        .args(["-qmp", "unix:{dir}/other,server=on,wait=off"])
        .start();
    let pipe = instance.dir().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("a pipe");
    let mut client = negotiated(&instance);
    let arguments = json!({"val": 0, "size": 16, "filename": pipe.to_str()});
    let id = client.send_command("pmemsave", &arguments);
    assert!(client.message(NEVER).is_err(), "it waits");
    let mut other = connect(&instance, "other");
    other.negotiate();
    assert_eq!(ask(&mut other, "system_reset"), json!({}));
    other.wait_event("RESET", SOON);
    // With a reader it goes on, and what was asked for arrives.
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::read(pipe).expect("a pipe"))
    };
    loop {
        let message = client.message(SOON).expect("a reply");
        if message.get("event").is_none() {
            assert_eq!(message, json!({"return": {}, "id": id}));
            break;
        }
    }
    assert_eq!(reader.join().expect("a reader"), [0; 16]);
    // The end of the process waits for nobody either.
    client.send_command("pmemsave", &arguments);
    assert!(client.message(NEVER).is_err(), "it waits");
    assert_eq!(ask(&mut other, "quit"), json!({}));
    assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    assert!(pipe.exists(), "what was not made here is not removed");
}

/// A size that no disk has: the process's end stops the command, and its file goes.
#[test]
fn an_endless_save_ends_with_the_process() {
    let instance = passive(Emulator::Thimble)
        .args(["-qmp", "unix:{dir}/other,server=on,wait=off"])
        .start();
    let limit = Rlimit {
        current: Some(1 << 30),
        maximum: Some(1 << 30),
    };
    // In case that it doesn't: the disk stays usable.
    rustix::process::prlimit(Some(instance.pid()), Resource::Fsize, limit).expect("a child");
    let mut client = negotiated(&instance);
    client.send_command(
        "pmemsave",
        &json!({"val": 0, "size": i64::MAX, "filename": "/dev/null"}),
    );
    assert!(client.message(NEVER).is_err(), "it writes");
    let mut other = connect(&instance, "other");
    other.negotiate();
    assert_eq!(ask(&mut other, "quit"), json!({}));
    assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
}

/// In one session the next command waits; what is out of band does not.
#[test]
fn out_of_band_overtakes_a_long_save() {
    const SIZE: usize = 200 << 20;
    for emulator in emulators() {
        let instance = emulator
            .launcher()
            .args(emulator.passive_args())
            .args(["-M", "pc", "-m", "256"])
            .with_qmp()
            .start();
        let mut client = out_of_band(&instance);
        let file = instance.dir().join("saved");
        let long = json!({
            "execute": "pmemsave", "id": "long",
            "arguments": {"val": 0x10_0000, "size": SIZE, "filename": file.to_str()},
        });
        let requests = format!(
            "{long}\n{}\n{}\n",
            json!({"execute": "query-name", "id": "behind it"}),
            json!({"exec-oob": "query-yank", "id": "out of band"}),
        );
        client.send_raw(requests.as_bytes()).expect("a connection");
        let mut replies = Vec::new();
        for _ in 0..3 {
            let reply = client.message(SOON).expect("a reply");
            assert!(reply.get("return").is_some(), "{emulator:?}: {reply}");
            replies.push(reply["id"].clone());
        }
        let expected: Vec<Value> = ["out of band", "long", "behind it"].map(Value::from).into();
        assert_eq!(replies, expected, "{emulator:?}");
        let length = std::fs::metadata(&file).expect("the file").len();
        assert_eq!(length, SIZE as u64);
        assert!(client.message(Duration::from_millis(50)).is_err());
    }
}
