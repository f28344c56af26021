//! What can't start says why: exit status 1, one line on standard error that names the option and the reason, and
//! nothing left behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use qemu_tests::{Emulator, Launcher, packages, program_output, skip, skip_part, thimble_binary};
use rustix::process::test_kill_process_group;

const SOON: Duration = Duration::from_secs(20);

/// One bad command line: what is given, and what the message must contain beside the name of the last option.
struct Case {
    args: &'static [&'static str],
    reason: &'static str,
}

const fn case(args: &'static [&'static str], reason: &'static str) -> Case {
    Case { args, reason }
}

/// Files that cases name; see [`files`].
const CASES: &[Case] = &[
    case(&["-audiodev", "none"], "Parameter 'id' is missing"),
    case(
        &["-audiodev", "alsa,id=a"],
        "Parameter 'driver' does not accept value 'alsa'",
    ),
    case(
        &["-audiodev", "none,id=a,timer-period=x"],
        "Parameter 'timer-period' expects integer",
    ),
    case(
        &["-audiodev", "none,id=a,timer-period=4294967296"],
        "Parameter 'timer-period' expects uint32_t",
    ),
    case(
        &["-audiodev", "none,id=a,zip=1"],
        "Parameter 'zip' is unexpected",
    ),
    case(
        &["-audiodev", "{\"driver\":\"none\""],
        "JSON parse error, premature EOI",
    ),
    case(
        &["-audiodev", "{\"driver\":\"none\",\"id\":1}"],
        "Invalid parameter type for 'id', expected: string",
    ),
    case(&["-object", "iothread"], "Parameter 'id' is missing"),
    case(&["-object", "id=a"], "Parameter 'qom-type' is missing"),
    case(
        &["-object", "nix,id=a"],
        "Parameter 'qom-type' does not accept value 'nix'",
    ),
    case(
        &["-object", "nix,help"],
        "Parameter 'qom-type' does not accept value 'nix'",
    ),
    case(&["-object", "iothread,id=1"], "expects an identifier"),
    case(
        &["-object", "iothread,id=a,poll-max-ns=-1"],
        "must be in range",
    ),
    case(
        &["-object", "iothread,id=a", "-object", "iothread,id=a"],
        "duplicate",
    ),
    case(&["-object", "{\"qom-type\":\"iothread\""], "premature EOI"),
    case(&["-object", "secret,id=a"], "must be provided"),
    case(
        &["-object", "secret,id=a,file={dir}/missing"],
        "No such file",
    ),
    case(
        &[
            "-object",
            "memory-backend-file,id=a,size=1M,mem-path={dir}/odd",
        ],
        "does not match 'size' option 0x100000",
    ),
    case(
        &["-object", "memory-backend-ram,id=a,size=1M,policy=bind"],
        "host-nodes must be set",
    ),
    case(
        &["-machine", "pc,memory-backend=nix"],
        "Memory backend 'nix' not found",
    ),
    case(
        &[
            "-m",
            "64",
            "-object",
            "memory-backend-ram,id=a,size=32M",
            "-machine",
            "memory-backend=a",
        ],
        "Machine memory size does not match the size of the memory backend",
    ),
    case(
        &[
            "-object",
            "memory-backend-file,id=a,size=4k,readonly=on,mem-path={dir}/odd",
            "-machine",
            "memory-backend=a",
        ],
        "can't be written",
    ),
    case(&["-mem-path", "{dir}/missing/file"], "No such file"),
    case(&["-mem-path", "{dir}/odd"], "backing store size"),
    case(&["-mem-path", "/dev/null"], "unable to map"),
    case(&["-bios", "{dir}/missing"], "No such file"),
    case(&["-bios", "{dir}"], "not a regular file"),
    case(&["-bios", "/dev/zero"], "not a regular file"),
    case(&["-bios", "{dir}/fifo"], "not a regular file"),
    case(&["-bios", "{dir}/empty"], "0 bytes long"),
    case(&["-bios", "{dir}/odd"], "65535 bytes long"),
    case(&["-bios", "{dir}/huge"], "at most"),
    case(&["-bios", ""], ""),
    case(&["-bios"], "requires an argument"),
    case(&["-kernel", "{dir}/missing"], "No such file"),
    case(&["-kernel", "{dir}"], "not a regular file"),
    case(&["-kernel", "{dir}/empty"], "truncated"),
    case(&["-kernel", "{dir}/odd"], "neither a Linux bzImage"),
    case(&["-kernel", "{dir}/huge"], "at most"),
    case(
        &["-kernel", "{dir}/elf", "-initrd", "{dir}/missing"],
        "No such file",
    ),
    case(
        &["-kernel", "{dir}/elf", "-initrd", "{dir}"],
        "not a regular file",
    ),
    case(
        &["-kernel", "{dir}/elf", "-initrd", "{dir}/large"],
        "does not fit",
    ),
    case(
        &["-kernel", "{dir}/elf", "-initrd", "{dir}/huge"],
        "at most",
    ),
    case(&["-initrd", "{dir}/odd"], "only allowed with -kernel"),
    case(&["-append", "x"], "only allowed with -kernel"),
    case(&["-kernel", "{dir}/elf-cut"], "truncated"),
    case(&["-kernel", "{dir}/elf-32"], "ELF header"),
    case(&["-kernel", "{dir}/elf-arm"], "ELF header"),
    case(&["-kernel", "{dir}/elf-no-note"], "neither a PVH note"),
    case(&["-kernel", "{dir}/elf-overlap"], "overlap"),
    case(&["-kernel", "{dir}/elf-past-ram"], "outside usable RAM"),
    case(&["-kernel", "{dir}/elf-wrap"], "impossible size"),
    case(&["-kernel", "{dir}/elf-larger-in-file"], "impossible size"),
    case(&["-kernel", "{dir}/elf-past-file"], "truncated"),
    case(&["-kernel", "{dir}/elf-entry"], "entry point"),
    case(&["-kernel", "{dir}/elf-headers-past-file"], "truncated"),
    case(&["-kernel", "{dir}/multiboot-wrap"], "contradict"),
    case(
        &["-kernel", "{dir}/multiboot-past-ram"],
        "outside usable RAM",
    ),
    case(&["-kernel", "{dir}/multiboot-past-file"], "truncated"),
    case(&["-kernel", "{dir}/multiboot-entry"], "entry point"),
    case(&["-kernel", "{dir}/multiboot-flags"], "flags"),
    case(&["-nosuchoption"], "invalid option"),
    case(&["-drive", "if=scsi,file=x"], "not available"),
    case(&["-drive", "file=x,aio=nix"], "invalid aio option"),
    case(&["disk.img"], "disk images"),
    case(&["-device", "nosuch"], "not a valid device model"),
    case(&["-device", "isa-serial,nosuch=1"], "not found"),
    case(&["-device", "isa-debug-exit,iobase=zz"], "iobase"),
    case(&["-device", "isa-debug-exit,iobase=0x10000"], "iobase"),
    case(&["-device", "isa-debugcon,chardev=nosuch"], "not found"),
    case(&["-device", "isa-debugcon"], "empty char device"),
    case(&["-device", ""], ""),
    case(&["-device", "i440FX"], "not pluggable"),
    case(&["-global", "nonsense"], "Invalid parameter"),
    case(&["-global", "isa-debugcon.nosuch=1"], "not found"),
    case(&["-global", "mc146818rtc.iobase=0x72"], "fixed"),
    case(&["-M", "nosuch"], "unsupported machine type"),
    case(&["-M", "pc,nosuch=on"], "Invalid parameter"),
    case(&["-accel", "nosuch"], "invalid accelerator"),
    case(&["-accel", "tcg,thread=multi"], "processors take turns"),
    case(&["-accel", "tcg,tb-size=64"], "fixed size"),
    case(&["-accel", "tcg,one-insn-per-tb=on"], "one-insn-per-tb"),
    case(
        &["-accel", "tcg,kernel-irqchip=on"],
        "Property 'tcg-accel.kernel-irqchip' not found",
    ),
    case(
        &["-accel", "tcg", "-cpu", "host"],
        "CPU model 'host' requires KVM",
    ),
    case(
        &["-accel", "tcg", "-cpu", "qemu64,+avx2,enforce"],
        "TCG doesn't support requested features",
    ),
    case(&["-accel", "kvm", "-M", "pc,accel=kvm"], "together"),
    case(&["-m", "0x"], ""),
    case(&["-m", "0xffffffffffffffffffff"], ""),
    case(&["-m", "12q"], ""),
    case(&["-m", "99999999999999999999"], ""),
    case(&["-m", "1048576G"], ""),
    case(&["-smp", "0"], "greater than zero"),
    case(&["-smp", "4,sockets=3"], "Invalid CPU topology"),
    case(&["-smp", "4,maxcpus=2"], "maxcpus"),
    case(&["-smp", "100000"], "255"),
    case(&["-smp", "x"], ""),
    case(&["-cpu", "nosuch"], "nosuch"),
    case(&["-cpu", "qemu64,+nosuch"], "nosuch"),
    case(&["-cpu", ""], ""),
    case(&["-rtc", "base=2020-13-01"], "invalid datetime"),
    case(&["-rtc", "clock=nosuch"], "clock"),
    case(&["-uuid", "1234"], "UUID"),
    case(&["-uuid", "12345678-9abc-def0-1234-56789abcdefg"], "UUID"),
    case(&["-chardev", "nosuch,id=a"], "nosuch"),
    case(&["-chardev", "null"], "id"),
    case(
        &["-chardev", "null,id=a", "-chardev", "null,id=a"],
        "Duplicate ID",
    ),
    case(
        &["-chardev", "file,id=a,path={dir}/no/such"],
        "No such file",
    ),
    case(
        &[
            "-chardev",
            "socket,id=a,path={dir}/busy.sock,server=on,wait=off",
        ],
        "Address already in use",
    ),
    case(
        &[
            "-chardev",
            "socket,id=a,path={dir}/no/such,server=on,wait=off",
        ],
        "No such file",
    ),
    case(
        &[
            "-chardev",
            "socket,id=a,path={dir}/{long},server=on,wait=off",
        ],
        "",
    ),
    case(
        &["-chardev", "socket,id=a,path={dir}/odd,server=on,wait=off"],
        "Address already in use",
    ),
    case(
        &[
            "-chardev",
            "socket,id=a,host=256.256.256.256,port=1,server=on,wait=off",
        ],
        "",
    ),
    case(
        &[
            "-chardev",
            "socket,id=a,host=127.0.0.1,port=99999,server=on,wait=off",
        ],
        "99999",
    ),
    case(&["-mon", "chardev=nosuch,mode=control"], "not found"),
    case(&["-monitor", "nosuch"], "nosuch"),
    case(&["-mon", "nosuch"], "not found"),
    case(&["-qmp", "nosuch:"], "nosuch"),
    case(&["-serial", "chardev:nosuch"], "not found"),
    case(&["-pidfile", "{dir}/no/such"], "No such file"),
    case(&["-pidfile", "{dir}"], "directory"),
    case(&["-display", "sdl"], "display"),
    case(&["-echr", "999"], "0 to 255"),
    case(&["-name", "nosuch=1"], "nosuch"),
    case(&["-action", "reboot=nosuch"], "reset, shutdown"),
    case(&["-action", "reboot=reset,panic=debug"], "exit-failure"),
    case(&["-action", "nosuch=reset"], "Invalid parameter"),
    case(&["-action", "pause"], "Invalid parameter"),
    case(&["-action"], "requires an argument"),
    case(&["-watchdog-action", "nosuch"], "inject-nmi"),
    case(&["-watchdog-action", ""], "expects one of"),
    case(&["-watchdog", "ib700"], "not available"),
    case(&["-device", "ib700,iobase=0x441"], "not found"),
    case(&["-device", "pvpanic,ioport=0x10000"], "ioport"),
    case(&["-device", "pvpanic,events=256"], "events"),
    case(
        &["-device", "pvpanic", "-device", "pvpanic,ioport=0x600"],
        "duplicate fw_cfg file name: etc/pvpanic-port",
    ),
    case(&["-device", "ib700", "-device", "ib700"], "at most 1"),
    case(&["-M", "none", "-device", "ib700"], "No 'ISA' bus"),
    case(&["-M", "none", "-device", "pvpanic"], "No 'ISA' bus"),
    case(&["-msg", "nosuch=on"], "nosuch"),
    case(&["-overcommit", "mem-lock=maybe"], "'on' or 'off'"),
    case(&["-d", "nosuch"], "nosuch"),
    case(&["-d", "cpu_reset", "-D", "{dir}/no/such"], "No such file"),
];

/// The values of an ELF64 file's fields that cases spoil.
struct Elf {
    machine: u16,
    entry: u32,
    headers_at: u64,
    /// Address, offset, bytes in the file, bytes in memory.
    segments: Vec<[u64; 4]>,
    note: bool,
}

impl Default for Elf {
    fn default() -> Self {
        Self {
            machine: 62,
            entry: 0x10_0000,
            headers_at: 64,
            segments: vec![[0x10_0000, 0x1000, 0x100, 0x1000]],
            note: true,
        }
    }
}

impl Elf {
    /// The file: header, program headers, the PVH note at 800h, code at 1000h.
    fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; 0x1100];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &2_u16.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(24, &u64::from(self.entry).to_le_bytes());
        put(32, &self.headers_at.to_le_bytes());
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        let count = self.segments.len() as u16 + u16::from(self.note);
        put(56, &count.to_le_bytes());
        let mut at = 64;
        let mut header = |kind: u32, [address, offset, in_file, in_memory]: [u64; 4]| {
            put(at, &kind.to_le_bytes());
            put(at + 4, &7_u32.to_le_bytes());
            for (field, value) in [
                (8, offset),
                (16, address),
                (24, address),
                (32, in_file),
                (40, in_memory),
                (48, 4),
            ] {
                put(at + field, &value.to_le_bytes());
            }
            at += 56;
        };
        for segment in &self.segments {
            header(1, *segment);
        }
        if self.note {
            header(4, [0, 0x800, 20, 20]);
            put(0x800, &4_u32.to_le_bytes());
            put(0x804, &4_u32.to_le_bytes());
            put(0x808, &18_u32.to_le_bytes());
            put(0x80c, b"Xen\0");
            put(0x810, &self.entry.to_le_bytes());
        }
        // A kernel that would run: it halts.
        put(0x1000, &[0xf4; 0x100]);
        file
    }
}

/// A multiboot file of 4 KiB: flags, then the addresses of the header, of load, load end, bss end, and the entry.
fn multiboot(flags: u32, addresses: [u32; 5]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    let mut file = Vec::new();
    for word in [magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags)]
        .iter()
        .chain(&addresses)
    {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.resize(4096, 0xf4);
    file
}

/// Makes the files that the cases name.
fn files(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("a file");
    let sparse = |name: &str, size: u64| {
        let file = std::fs::File::create(dir.join(name)).expect("a file");
        file.set_len(size).expect("a sparse file");
    };
    write("empty", b"");
    write("odd", &[0; 65535]);
    sparse("huge", 1 << 33);
    sparse("large", 127 << 20);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("a FIFO");
    let elf = Elf::default().bytes();
    write("elf", &elf);
    write("elf-cut", &elf[..60]);
    let mut class_32 = elf.clone();
    class_32[4] = 1;
    write("elf-32", &class_32);
    let spoilt = |name: &str, elf: Elf| write(name, &elf.bytes());
    let standard = Elf::default;
    spoilt(
        "elf-arm",
        Elf {
            machine: 183,
            ..standard()
        },
    );
    spoilt(
        "elf-no-note",
        Elf {
            note: false,
            ..standard()
        },
    );
    let one = |segment: [u64; 4]| Elf {
        segments: vec![segment],
        ..standard()
    };
    spoilt("elf-past-ram", one([0x10_0000, 0x1000, 0x100, 1 << 40]));
    spoilt("elf-wrap", one([u64::MAX - 0xfff, 0x1000, 0x100, 0x2000]));
    spoilt("elf-larger-in-file", one([0x10_0000, 0x1000, 0x100, 0x80]));
    spoilt("elf-past-file", one([0x10_0000, 0x1000, 0x1000, 0x1000]));
    let overlapping = vec![
        [0x10_0000, 0x1000, 0x100, 0x1000],
        [0x10_0fff, 0x1000, 0x100, 0x1000],
    ];
    spoilt(
        "elf-overlap",
        Elf {
            segments: overlapping,
            ..standard()
        },
    );
    spoilt(
        "elf-entry",
        Elf {
            entry: 0x20_0000,
            ..standard()
        },
    );
    spoilt(
        "elf-headers-past-file",
        Elf {
            headers_at: u64::MAX - 8,
            ..standard()
        },
    );
    const M: u32 = 0x10_0000;
    let addresses = 1 << 16;
    write(
        "multiboot-wrap",
        &multiboot(addresses, [M, M + 64, 0, 0, M]),
    );
    write(
        "multiboot-past-ram",
        &multiboot(addresses, [M, M, 0, 0xffff_f000, M]),
    );
    write(
        "multiboot-past-file",
        &multiboot(addresses, [M, M, M + 8192, 0, M]),
    );
    write(
        "multiboot-entry",
        &multiboot(addresses, [M, M, 0, 0, M - 4]),
    );
    write(
        "multiboot-flags",
        &multiboot(addresses | 8, [M, M, 0, 0, M]),
    );
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Runs what can't start and returns its message; the rest is checked here.
fn refused(launcher: Launcher) -> Result<String, String> {
    let dir = launcher.dir().to_path_buf();
    let before = names(&dir);
    let instance = launcher.start();
    let deadline = Instant::now() + Duration::from_secs(3);
    while instance.try_wait().is_none() {
        if Instant::now() > deadline {
            return Err(format!("runs: {}", instance.report()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let status = instance.wait(SOON);
    let report = instance.report();
    if status.code() != Some(1) {
        return Err(format!("{status}, not 1: {report}"));
    }
    let stderr = instance.stderr();
    if stderr.lines().count() != 1 || !stderr.starts_with("thimble: ") || !stderr.ends_with('\n') {
        return Err(format!("not one line: {report}"));
    }
    if !instance.stdout().is_empty() {
        return Err(format!("standard output: {report}"));
    }
    let after = names(&dir);
    if after != before {
        return Err(format!(
            "left behind: {after:?}, before {before:?}: {report}"
        ));
    }
    if test_kill_process_group(instance.pid()).is_ok() {
        return Err(format!("a process is left: {report}"));
    }
    Ok(stderr)
}

/// Whether a message names the option, or is a sentence of QEMU's that names the file alone: test suites look for these.
fn says(line: &str, option: &str) -> bool {
    const SENTENCES: [&str; 3] = [
        "could not open kernel file",
        "error reading initrd",
        "Failed to open file",
    ];
    line.contains(option) || SENTENCES.iter().any(|sentence| line.contains(sentence))
}

fn thimble() -> Launcher {
    let launcher = Emulator::Thimble.launcher();
    launcher.args(["-nodefaults", "-display", "none"])
}

#[test]
fn bad_input_is_refused_in_one_line() {
    if !packages::kvm_usable() {
        // Nearly all of these would be refused for that reason.
        return skip("/dev/kvm can't be used");
    }
    let long = "x".repeat(120);
    let mut failures = Vec::new();
    for Case { args, reason } in CASES {
        let launcher = thimble()
            .args(["-pidfile", "{dir}/pid"])
            .with_qmp()
            .args(args.iter().map(|arg| arg.replace("{long}", &long)));
        files(launcher.dir());
        let _busy = UnixListener::bind(launcher.dir().join("busy.sock")).expect("a socket");
        // The last option is the one at fault.
        let named = args.iter().rfind(|arg| arg.starts_with('-'));
        let named = named.unwrap_or(&args[0]);
        match refused(launcher) {
            Ok(line) if says(&line, named) && line.contains(reason) => {}
            Ok(line) => failures.push(format!("{args:?}: wants {reason:?}, got {line}")),
            Err(error) => failures.push(format!("{args:?}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_good_kernel_is_not_refused() {
    if !packages::kvm_usable() {
        return skip("/dev/kvm can't be used");
    }
    // The file that the bad ones are made of: with it the same checks must pass.
    let launcher = thimble();
    files(launcher.dir());
    let instance = launcher
        .args(["-S", "-kernel", "{dir}/elf"])
        .with_qmp()
        .start();
    let mut client = instance.qmp();
    client.negotiate();
    let reply = client.execute("quit", serde_json::json!({}));
    assert!(reply.is_ok(), "{}", instance.report());
    assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
}

#[test]
fn unreadable_files_are_refused() {
    let dir = std::env::temp_dir().join(format!("thimble-unreadable-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("rom");
    std::fs::write(&file, [0xf4; 65536]).expect("a file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o000)).expect("a file");
    // Root reads everything, so somebody else has to try; whose /dev/kvm may be closed, too, hence qtest.
    let mut command = match rustix::process::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--clear-groups"]);
            command.arg(thimble_binary());
            command
        }
        false => Command::new(thimble_binary()),
    };
    command.args([
        "-accel",
        "qtest",
        "-nodefaults",
        "-display",
        "none",
        "-bios",
    ]);
    let output = program_output(command.arg(&file), SOON);
    drop(std::fs::remove_dir_all(&dir));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(127) || text.contains("setpriv") {
        return skip("setpriv can't run the binary as another user");
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("-bios") && text.contains("Permission denied"),
        "{text}"
    );
}

#[test]
fn a_stale_socket_is_replaced() {
    let launcher = Emulator::Thimble.launcher();
    let path = launcher.dir().join("qmp.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "a listener leaves its file");
    let instance = launcher
        .args(Emulator::Thimble.passive_args())
        .with_qmp()
        .start();
    let deadline = Instant::now() + SOON;
    // Connecting to the stale one fails, so the first connection is to the new one.
    let mut client = instance.qmp();
    assert!(Instant::now() < deadline);
    client.negotiate();
    assert!(client.execute("quit", serde_json::json!({})).is_ok());
    assert_eq!(instance.wait(SOON).code(), Some(0), "{}", instance.report());
    assert!(!path.exists(), "the socket's file is removed");
}

/// Runs Thimble where a shell command has changed what is in `/dev`; `None` where that isn't allowed.
fn without_kvm(prepare: &str) -> Option<(Option<i32>, String)> {
    let script = format!("{prepare} && exec \"$0\" -nodefaults -display none -accel kvm");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .arg(thimble_binary());
    let output = program_output(&mut command, SOON);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (text.starts_with("thimble: ")).then(|| (output.status.code(), text))
}

/// Without an accelerator that was asked for, guests run on the software CPU where there is no KVM.
#[test]
fn the_software_cpu_stands_in_for_kvm() {
    if !Path::new("/usr/bin/unshare").exists() {
        return skip("unshare is missing");
    }
    for options in ["", "-accel kvm -accel tcg", "-M pc,accel=kvm:tcg"] {
        let prepare = "mount -t tmpfs none /dev";
        // A guest that ends by itself: there is a kernel's boot ROM, and nothing to boot.
        let script = format!(
            "{prepare} && exec timeout -s INT 5 \"$0\" -nodefaults -display none -bios demo.rom -serial stdio \
             -no-reboot {options}"
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(thimble_binary());
        let output = program_output(&mut command, SOON);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if !errors.starts_with("thimble: ") {
            return skip(&format!("not allowed here: {prepare}"));
        }
        assert!(errors.contains("there is no /dev/kvm"), "{errors}");
        assert!(errors.contains(": using the software CPU\n"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Bye."), "{options}: {text}");
        assert_eq!(output.status.code(), Some(0), "{options}: {errors}");
    }
}

#[test]
fn an_unusable_kvm_is_named() {
    if !Path::new("/usr/bin/unshare").exists() {
        return skip("unshare is missing");
    }
    for (prepare, reason) in [
        ("mount --bind /dev/null /dev/kvm", ""),
        ("mount -t tmpfs none /dev", "there is no /dev/kvm"),
    ] {
        let Some((status, text)) = without_kvm(prepare) else {
            skip_part(&format!("not allowed here: {prepare}"));
            continue;
        };
        assert_eq!(status, Some(1), "{prepare}: {text}");
        assert_eq!(text.lines().count(), 1, "{prepare}: {text}");
        assert!(
            text.contains("/dev/kvm") || text.contains("-accel kvm"),
            "{prepare}: {text}"
        );
        assert!(text.contains(reason), "{prepare}: {text}");
    }
}
