//! System flash: registers and files side by side with QEMU, what command lines are refused, and OVMF, which lives in it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::{
    Comparison, Emulator, Instance, Launcher, ask_both, images, packages, skip, source_dir,
};

/// How long OVMF may take to its shell on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Chips of 64 KiB, read-only, and of 8 KiB.
const CHIPS: [&str; 4] = [
    "-drive",
    "if=pflash,format=raw,file={dir}/code,readonly=on,unit=0",
    "-drive",
    "if=pflash,format=raw,file={dir}/vars,unit=1",
];

fn with_chips(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(emulator.passive_args());
    let code: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    fs::write(launcher.dir().join("code"), code).expect("a file");
    fs::write(launcher.dir().join("vars"), [0x11; 8 << 10]).expect("a file");
    launcher.args(["-M", "pc", "-m", "16"]).args(CHIPS)
}

/// The bytes of a file that are not as they were, shortly.
fn changes(path: &Path) -> String {
    let bytes = fs::read(path).expect("the file");
    let changed = bytes.iter().enumerate().filter(|(_, byte)| **byte != 0x11);
    let shown: Vec<_> = changed
        .clone()
        .take(16)
        .map(|(at, byte)| format!("{at:x}={byte:x}"))
        .collect();
    format!(
        "{} bytes, {} changed: {}",
        bytes.len(),
        changed.count(),
        shown.join(" ")
    )
}

#[test]
fn chips_answer_the_same_and_keep_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let text = fs::read_to_string(source_dir().join("qtest/pflash.lines")).expect("the script");
    let mut comparison = Comparison::new("pflash");
    let parts = text.split("\n## ").skip(1);
    for part in parts {
        let (name, lines) = part.split_once('\n').expect("a name");
        let requests: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = with_chips(emulator).with_qtest().start();
            let mut client = instance.qtest();
            let mut answers = Vec::new();
            for request in &requests {
                let answer = client.request(request);
                answers.push(answer.unwrap_or_else(|error| {
                    panic!("{name}: {request}: {error}\n{}", instance.report())
                }));
            }
            settled(&mut client);
            answers.push(changes(&instance.dir().join("vars")));
            answers
        });
        for (index, request) in requests.iter().chain(&["the file"]).enumerate() {
            comparison.add(&format!("{name}: {request}"), &qemu[index], &thimble[index]);
        }
    }
    comparison.finish();
}

/// What was asked for before has come to the files.
fn settled(client: &mut qemu_tests::QtestClient) {
    assert_eq!(client.request("endianness").expect("alive"), "OK little");
}

/// Chips by the names of their nodes: what they hold, what clients see of them, and where changes go.
#[test]
fn machines_name_the_nodes_of_chips() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let file = "driver=file,node-name";
    for options in [
        format!("-M pc,pflash0=a,pflash1=b -blockdev {file}=a,filename={{dir}}/code,read-only=on -blockdev {file}=b,filename={{dir}}/vars"),
        // As libvirt has it.
        format!(
            "-M pc,pflash0=a,pflash1=b -blockdev {file}=fa,filename={{dir}}/code,auto-read-only=on -blockdev \
             driver=raw,node-name=a,file=fa,read-only=on -blockdev {file}=fb,filename={{dir}}/vars -blockdev \
             driver=raw,node-name=b,file=fb"
        ),
        "-M pc,pflash0=a,pflash1=b -drive if=none,id=a,readonly=on,format=raw,file={dir}/code \
         -drive if=none,id=b,format=raw,file={dir}/vars"
            .to_owned(),
        format!("-M pc,pflash0=a -blockdev {file}=a,filename={{dir}}/code -drive if=pflash,unit=1,format=raw,file={{dir}}/vars,id=v"),
        "-drive if=pflash,format=raw,file={dir}/code,readonly=on -drive if=pflash,format=raw,file={dir}/vars,snapshot=on".to_owned(),
    ] {
        let [qemu, thimble] = ask_both(|emulator| {
            let launcher = emulator.launcher().args(emulator.passive_args());
            let code: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
            fs::write(launcher.dir().join("code"), code).expect("a file");
            fs::write(launcher.dir().join("vars"), [0x11; 8 << 10]).expect("a file");
            let instance = launcher
                .args(options.split_whitespace())
                .with_qtest()
                .with_qmp()
                .start();
            let mut client = instance.qtest();
            let mut answers = Vec::new();
            for request in [
                "readb 0xfffff012",
                "readb 0xfffee012",
                "writeb 0xfffee012 0x40",
                "writeb 0xfffee012 0x01",
                "readb 0xfffee012",
                "writeb 0xffff0012 0x40",
                "writeb 0xffff0012 0x02",
                "readb 0xffff0012",
                "writeb 0xfffee012 0xff",
                "readb 0xfffee012",
            ] {
                answers.push(client.request(request).expect("an answer"));
            }
            settled(&mut client);
            answers.push(changes(&instance.dir().join("vars")));
            let mut qmp = instance.qmp();
            qmp.negotiate();
            let dir = instance.dir().to_str().expect("a plain path").to_owned();
            let mut ask = |command: &str, arguments| {
                let answer = qmp.execute(command, arguments);
                let text = format!("{answer:?}").replace(&dir, "{dir}");
                // Nodes without a name have numbers at random.
                let mut parts = text.split("#block");
                let first = parts.next().unwrap_or_default().to_owned();
                parts.fold(first, |text, part| text + "#" + &part[3..])
            };
            if !options.contains("snapshot") {
                answers.push(ask("query-block", serde_json::json!({})));
            }
            for name in ["a", "b", "v"] {
                let name = serde_json::json!({ "node-name": name });
                answers.push(ask("blockdev-del", name));
            }
            answers
        });
        for (qemu, thimble) in qemu.iter().zip(&thimble) {
            assert_eq!(qemu, thimble, "{options}");
        }
    }
}

/// A reset takes chips back to their contents, and a stopped machine's state has the mode that they are in.
#[test]
fn resets_and_listings_are_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let mut comparison = Comparison::new("pflash resets");
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = with_chips(emulator).with_qtest().with_qmp().start();
        let mut client = instance.qtest();
        let mut qmp = instance.qmp();
        qmp.negotiate();
        let mut answers = Vec::new();
        for request in ["writeb 0xfffee000 0x40", "readb 0xfffee000"] {
            answers.push(client.request(request).expect("an answer"));
        }
        qmp.execute("system_reset", serde_json::json!({}))
            .expect("a reset");
        qmp.wait_event("RESET", Duration::from_secs(20));
        for request in [
            "readb 0xfffee000",
            "writeb 0xfffee000 0x70",
            "readb 0xfffee000",
        ] {
            answers.push(client.request(request).expect("an answer"));
        }
        let line = serde_json::json!({ "command-line": "info mtree -f" });
        let text = qmp.execute("human-monitor-command", line).expect("a text");
        let text = text.as_str().expect("a text").to_owned();
        let mut names = text.lines().filter(|line| line.contains("system.flash"));
        let first = |line: Option<&str>| line.map(|line| line.trim().to_owned());
        answers.push(format!("{:?}", (first(names.next()), first(names.next()))));
        answers
    });
    for (index, answers) in qemu.iter().zip(&thimble).enumerate() {
        comparison.add(&format!("answer {index}"), answers.0, answers.1);
    }
    comparison.finish();
}

#[test]
fn bad_chips_are_refused_in_the_same_words() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let cases: &[(&[&str], &str)] = &[
        (
            &["if=pflash,format=raw,file={dir}/empty"],
            "pflash0 has invalid size 0",
        ),
        (
            &["if=pflash,format=raw,file={dir}/odd"],
            "pflash0 has invalid size 5120",
        ),
        (
            &["if=pflash,format=raw,file={dir}/large"],
            "combined size of system firmware exceeds 8388608 bytes",
        ),
        (
            &["if=pflash,format=raw,file={dir}/code,unit=1"],
            "pflash1 requires pflash0",
        ),
        (
            &["if=pflash,format=raw,file={dir}/code,unit=2"],
            "machine type does not support if=pflash,bus=0,unit=2",
        ),
        (
            &[
                "if=pflash,format=raw,file={dir}/code,unit=0",
                "if=pflash,format=raw,file={dir}/code,unit=0",
            ],
            "drive with bus=0, unit=0 (index=-1) exists",
        ),
        (
            &[
                "if=pflash,format=raw,file={dir}/code,id=x",
                "if=pflash,format=raw,file={dir}/code,id=x",
            ],
            "Duplicate ID 'x' for drive",
        ),
        (
            &["if=pflash,format=raw,file={dir}/none"],
            "/none': No such file or directory",
        ),
        (&["if=pflash,format=raw,file=/dev"], "regular file"),
        (
            &["if=pflash,format=raw"],
            "A block device must be specified for \"file\"",
        ),
        (
            &["if=bogus,format=raw,file={dir}/code"],
            "unsupported bus type 'bogus'",
        ),
        (
            &["if=pflash,format=raw,file={dir}/code,unit=x"],
            "Parameter 'unit' expects a number",
        ),
    ];
    let node = "-blockdev driver=file,node-name=a,filename={dir}/code";
    for (options, reason) in [
        (
            "-M pc,pflash0=x",
            "Property 'cfi.pflash01.drive' can't find value 'x'",
        ),
        ("-M pc,pflash1=a", "pflash1 requires pflash0"),
        (
            "-M microvm,pflash0=a",
            "Property 'microvm-machine.pflash0' not found",
        ),
        (
            "-M none,pflash1=a",
            "Property 'none-machine.pflash1' not found",
        ),
        (
            "-M pc,pflash0=a -drive if=pflash,format=raw,file={dir}/odd",
            "-drive if=pflash,format=raw,file={dir}/odd: clashes with -machine",
        ),
        (
            "-M pc,pflash0=a -device ide-hd,drive=a",
            "Permission conflict on node 'a'",
        ),
        (
            "-M pc,pflash0=e -drive if=none,id=e",
            "can't get size of block device e: No medium found",
        ),
        (
            "-M pc,pflash0=o -blockdev driver=file,node-name=o,filename={dir}/odd",
            "has invalid size 5120",
        ),
    ] {
        for emulator in Emulator::BOTH {
            let launcher = with_chips_missing(emulator);
            let dir = launcher.dir().to_str().expect("a plain path").to_owned();
            let all = format!("{node} {options}");
            let instance = launcher.args(all.split_whitespace()).start();
            assert_eq!(
                instance.wait(Duration::from_secs(20)).code(),
                Some(1),
                "{options}"
            );
            let text = instance.stderr().replace(&dir, "{dir}");
            assert!(text.contains(reason), "{options}: {text}");
        }
    }
    for emulator in Emulator::BOTH {
        for (drives, reason) in cases {
            let mut launcher = with_chips_missing(emulator);
            for drive in *drives {
                launcher = launcher.args(["-drive", drive]);
            }
            let instance = launcher.start();
            let status = instance.wait(Duration::from_secs(20));
            let text = instance.stderr();
            assert_eq!(status.code(), Some(1), "{}", instance.report());
            assert!(text.contains(reason), "{drives:?}: {text}");
        }
    }
    for emulator in Emulator::BOTH {
        let microvm = with_chips_missing(emulator)
            .args(["-M", "microvm"])
            .args(["-drive", "if=pflash,format=raw,file={dir}/code"])
            .start();
        assert_eq!(microvm.wait(Duration::from_secs(20)).code(), Some(1));
        let reason = "machine type does not support if=pflash,bus=0,unit=0";
        assert!(microvm.stderr().contains(reason), "{}", microvm.report());
    }
}

/// Without chips, but with files for some.
fn with_chips_missing(emulator: Emulator) -> Launcher {
    let launcher = emulator.launcher().args(emulator.passive_args());
    let file = |name: &str, length: usize| {
        fs::write(launcher.dir().join(name), vec![0; length]).expect("a file");
    };
    file("code", 64 << 10);
    file("empty", 0);
    file("odd", 5120);
    file("large", (8 << 20) + 4096);
    launcher
}

/// A guest that runs from one chip and changes the other one.
#[test]
fn guests_see_the_same() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let rom = fs::read(images::rom("flash")).expect("the image");
    let run = |emulator: Emulator, accel: &str| {
        let launcher = emulator.launcher().args(["-accel", accel, "-nodefaults"]);
        fs::write(launcher.dir().join("code"), &rom).expect("a file");
        fs::write(launcher.dir().join("vars"), [0x11; 8 << 10]).expect("a file");
        let instance = launcher
            .args(["-M", "pc", "-m", "64", "-display", "none", "-no-reboot"])
            .args(["-debugcon", "file:{dir}/console"])
            .args(["-global", "isa-debugcon.iobase=0x402"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(CHIPS)
            .start();
        let status = instance.wait(Duration::from_secs(40));
        assert_eq!(status.code(), Some(33), "{}", instance.report());
        let console = fs::read_to_string(instance.dir().join("console")).expect("the console");
        let mut lines: Vec<String> = console.lines().map(String::from).collect();
        lines.push(changes(&instance.dir().join("vars")));
        lines
    };
    let qemu = run(Emulator::Qemu, "tcg");
    assert!(qemu.len() > 12, "{qemu:?}");
    for accel in packages::accelerators() {
        assert_eq!(run(Emulator::Thimble, accel), qemu, "{accel}");
    }
}

/// What another process has locked is not touched.
#[test]
fn a_file_in_use_is_refused() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let other = Emulator::Qemu.launcher();
    let image = other.dir().join("image");
    fs::write(&image, [0; 64 << 10]).expect("a file");
    let drive = format!("if=virtio,format=raw,file={}", image.display());
    let other = other
        .args(Emulator::Qemu.passive_args())
        .args(["-M", "pc", "-drive", &drive])
        .with_qmp()
        .start();
    other.qmp().negotiate();
    let thimble = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .args([
            "-drive",
            &format!("if=pflash,format=raw,file={}", image.display()),
        ])
        .start();
    assert_eq!(thimble.wait(Duration::from_secs(20)).code(), Some(1));
    let reason = "Failed to get \"write\" lock";
    assert!(thimble.stderr().contains(reason), "{}", thimble.report());
}

/// The terminal of a guest.
struct Terminal {
    socket: UnixStream,
    seen: Vec<u8>,
}

impl Terminal {
    fn connect(instance: &Instance) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match UnixStream::connect(instance.dir().join("serial")) {
                Ok(socket) => break socket,
                Err(error) => assert!(Instant::now() < deadline, "{error}: {}", instance.report()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let wait = Some(Duration::from_millis(100));
        socket.set_read_timeout(wait).expect("a socket");
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// Reads until a text has come, and forgets what was before its end.
    fn until(&mut self, text: &str, instance: &Instance) {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        loop {
            let mut windows = self.seen.windows(text.len());
            if let Some(at) = windows.position(|window| window == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return;
            }
            let seen = String::from_utf8_lossy(&self.seen);
            assert!(
                Instant::now() < deadline,
                "{text}: {seen}\n{}",
                instance.report()
            );
            if let Ok(count) = self.socket.read(&mut buffer) {
                assert!(count > 0, "{text}: {seen}\n{}", instance.report());
                self.seen.extend(&buffer[..count]);
            }
        }
    }

    /// Types a line as fast as the shell echoes it, and waits for what it says.
    fn command(&mut self, line: &str, answer: &str, instance: &Instance) {
        self.socket.write_all(line.as_bytes()).expect("typing");
        self.socket.write_all(b"\r").expect("typing");
        self.until(answer, instance);
    }

    /// Waits for the shell, whose countdown a key ends.
    fn shell(&mut self, instance: &Instance) {
        self.until("seconds to skip", instance);
        self.socket.write_all(b"\x1b").expect("typing");
        self.until("Shell> ", instance);
    }
}

fn ovmf(args: &[&str]) -> Instance {
    Emulator::Thimble
        .launcher()
        .args(["-M", "pc", "-accel", "tcg", "-m", "256", "-nodefaults"])
        .args([
            "-display",
            "none",
            "-serial",
            "unix:{dir}/serial,server=on,wait=off",
        ])
        .args(args)
        .lifetime(2 * PATIENCE)
        .start()
}

/// The whole of it: the shell on the serial console, keys, a variable that is there after a reset and in the next run.
#[test]
fn ovmf_keeps_its_variables_in_flash() {
    let code = packages::file("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf");
    let vars = packages::file("/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf");
    let (Some(code), Some(vars)) = (code, vars) else {
        return skip("the Debian package ovmf is missing");
    };
    let copy = std::env::temp_dir().join(format!("thimble-vars-{}", std::process::id()));
    fs::copy(&vars, &copy).expect("a copy");
    let code = format!("if=pflash,format=raw,readonly=on,file={}", code.display());
    let copied = format!("if=pflash,format=raw,file={}", copy.display());
    let start = || ovmf(&["-drive", &code, "-drive", &copied]);

    let instance = start();
    let mut terminal = Terminal::connect(&instance);
    terminal.shell(&instance);
    terminal.command("map", "No mapping found", &instance);
    terminal.until("Shell> ", &instance);
    terminal.command("set colour blue", "Shell> ", &instance);
    terminal.command("reset", "seconds to skip", &instance);
    drop(instance);
    assert_ne!(
        fs::read(&copy).expect("the file"),
        fs::read(&vars).expect("the file")
    );

    let instance = start();
    let mut terminal = Terminal::connect(&instance);
    terminal.shell(&instance);
    // Between name and value there are colours.
    terminal.command("set colour", "blue", &instance);
    let _ = fs::remove_file(&copy);
}

/// Code and variables in one image, as ROM: variables last as long as the run.
#[test]
fn ovmf_runs_from_rom() {
    let Some(image) = packages::file("/usr/share/ovmf/OVMF.fd", "ovmf") else {
        return skip("the Debian package ovmf is missing");
    };
    let instance = ovmf(&["-bios", image.to_str().expect("a plain path")]);
    let mut terminal = Terminal::connect(&instance);
    terminal.shell(&instance);
    terminal.command("ver", "UEFI Interactive Shell", &instance);
}
