//! Guests move between accelerators, again and again, and notice nothing.
//!
//! Without a usable /dev/kvm they move between two software CPUs, and the tests say so on stderr.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thimble_core::cpu::Activity;
use thimble_core::machine::CLASSES;
use thimble_host::event_loop::EventLoop;
use thimble_host::kvm;
use thimble_host::options::{self, Parsed};
use thimble_host::startup;
use thimble_host::vm::{MoveError, Vm};
use thimble_monitor::Owner as _;

/// How long a guest runs between two moves.
const TURN: Duration = Duration::from_millis(5);

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A VM that waits to be told to run, and the file of its debug console.
struct Stage {
    event_loop: EventLoop,
    console: PathBuf,
}

fn stage(name: &str, options: &[&str]) -> Stage {
    let dir = std::env::temp_dir();
    let console = dir.join(format!("thimble-moves-{}-{name}", std::process::id()));
    let debugcon = format!("file:{}", console.display());
    let args = [
        "-nodefaults",
        "-display",
        "none",
        "-M",
        "pc",
        "-m",
        "8",
        "-S",
    ];
    let args = args.iter().chain(options).copied();
    let args = args.chain([
        "-global",
        "isa-debugcon.iobase=0x402",
        "-debugcon",
        &debugcon,
    ]);
    let Parsed::Run(options) = options::parse(args.map(OsString::from), CLASSES).unwrap() else {
        panic!("nothing to print was asked for");
    };
    let event_loop = startup::build(options).unwrap_or_else(|error| panic!("{error}"));
    Stage {
        event_loop,
        console,
    }
}

impl Stage {
    fn vm(&mut self) -> &mut Vm {
        &mut self.event_loop.vm
    }

    /// Lets the guest run so long; the status, if it ended the process meanwhile.
    fn run(&mut self, time: Duration) -> Option<i32> {
        let vm = self.vm();
        vm.cont().unwrap();
        let end = Instant::now() + time;
        while Instant::now() < end && vm.exit_status().is_none() {
            std::thread::sleep(Duration::from_micros(200).min(time));
            // The software CPU's thread looks after timers itself.
            if vm.shared().accelerator().kvm().is_some() {
                vm.shared()
                    .call(|machine, bridge, now| machine.advance(bridge, now));
            }
            vm.settle();
        }
        vm.stop().unwrap();
        vm.exit_status()
    }

    /// What it has printed.
    fn printed(&mut self) -> String {
        let shared = self.vm().shared().clone();
        shared.lock().chardevs.flush(1_000_000_000);
        std::fs::read_to_string(&self.console).unwrap()
    }

    /// Brings the guest of another stage here.
    fn take_over(&mut self, from: &mut Stage) -> Result<(), MoveError> {
        let (theirs, ours) = (
            from.vm().shared().lock().machine.ram(),
            self.vm().shared().lock().machine.ram(),
        );
        let mut chunk = vec![0; 1 << 20];
        for gpa in (0..8 << 20).step_by(1 << 20) {
            theirs.read(gpa, &mut chunk).unwrap();
            ours.write(gpa, &chunk).unwrap();
        }
        let snapshot = from.vm().snapshot()?;
        self.vm().restore(&snapshot)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.event_loop.vm.shut_processors();
        let _ = std::fs::remove_file(&self.console);
    }
}

/// The accelerators to move between.
fn pairs() -> Vec<[&'static str; 2]> {
    if kvm::open().is_err() {
        eprintln!("SKIPPED PART: no usable /dev/kvm");
        return vec![["tcg", "tcg"]];
    }
    vec![
        ["kvm,kernel-irqchip=on", "tcg"],
        ["kvm,kernel-irqchip=split", "tcg"],
        ["kvm,kernel-irqchip=off", "tcg"],
    ]
}

/// What both accelerators can show: KVM does not show itself, SSE3 is missing in KVM on some hosts, and the rest is
/// what both have.
const CPU: [&str; 2] = ["-cpu", "qemu64,kvm=off,-x2apic,-pni"];

/// Runs a guest to its end on two stages in turn; what it printed on both, and its status.
fn moved(name: &str, accels: [&str; 2], options: &[&str], turn: Duration) -> (String, i32, u32) {
    let mut index = 0;
    let mut stages = accels.map(|accel| {
        index += 1;
        let name = format!("{name}-{index}");
        let options = CPU.iter().chain(options).copied();
        let options: Vec<&str> = options.chain(["-accel", accel]).collect();
        stage(&name, &options)
    });
    let deadline = Instant::now() + PATIENCE;
    let mut printed = ["".to_owned(), "".to_owned()];
    let (mut all, mut moves) = (String::new(), 0);
    loop {
        let [first, second] = &mut stages;
        let (here, there) = if moves % 2 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let status = here.run(turn);
        let text = here.printed();
        let known = &mut printed[moves as usize % 2];
        all.push_str(&text[known.len()..]);
        *known = text;
        if let Some(status) = status {
            return (all, status, moves);
        }
        assert!(
            Instant::now() < deadline,
            "{accels:?} after {moves} moves: {all}"
        );
        there
            .take_over(here)
            .unwrap_or_else(|error| panic!("{accels:?}: {error}"));
        moves += 1;
    }
}

/// Goes to 64-bit mode and prints 32 digits, each of which is made of all before; after each it waits for
/// the timer's next interrupt. Then it ends with status 33.
const DIGITS: &[u8] = &[
    0xea, 0x05, 0x00, 0x00, 0xf0, // jmp 0xf000:0x5
    0xfa, // cli
    0x66, 0x31, 0xc0, // xor eax,eax
    0x8e, 0xd8, // mov ds,ax
    0x8e, 0xc0, // mov es,ax
    0xfc, // cld
    0x66, 0xbf, 0x00, 0x10, 0x00, 0x00, // mov edi,0x1000
    0x66, 0xb9, 0x00, 0x0c, 0x00, 0x00, // mov ecx,0xc00
    0x66, 0xf3, 0xab, // rep stos DWORD PTR es:[di],eax
    0x66, 0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, 0x00, 0x00, // mov DWORD PTR ds:0x1000,0x2003
    0x66, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0x00, 0x00, // mov DWORD PTR ds:0x2000,0x3003
    0x66, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x00, 0x00, // mov DWORD PTR ds:0x3000,0x83
    0x66, 0xc7, 0x06, 0x00, 0x42, 0x53, 0x01, 0x08, 0x00, // mov DWORD PTR ds:0x4200,0x80153
    0x66, 0xc7, 0x06, 0x04, 0x42, 0x00, 0x8e, 0x0f, 0x00, // mov DWORD PTR ds:0x4204,0xf8e00
    0x66, 0xc7, 0x06, 0x08, 0x42, 0x00, 0x00, 0x00, 0x00, // mov DWORD PTR ds:0x4208,0x0
    0x66, 0xc7, 0x06, 0x0c, 0x42, 0x00, 0x00, 0x00, 0x00, // mov DWORD PTR ds:0x420c,0x0
    0xb0, 0x11, // mov al,0x11
    0xe6, 0x20, // out 0x20,al
    0xe6, 0xa0, // out 0xa0,al
    0xb0, 0x20, // mov al,0x20
    0xe6, 0x21, // out 0x21,al
    0xb0, 0x28, // mov al,0x28
    0xe6, 0xa1, // out 0xa1,al
    0xb0, 0x04, // mov al,0x4
    0xe6, 0x21, // out 0x21,al
    0xb0, 0x02, // mov al,0x2
    0xe6, 0xa1, // out 0xa1,al
    0xb0, 0x01, // mov al,0x1
    0xe6, 0x21, // out 0x21,al
    0xe6, 0xa1, // out 0xa1,al
    0xb0, 0xfe, // mov al,0xfe
    0xe6, 0x21, // out 0x21,al
    0xb0, 0xff, // mov al,0xff
    0xe6, 0xa1, // out 0xa1,al
    0xb0, 0x34, // mov al,0x34
    0xe6, 0x43, // out 0x43,al
    0xb0, 0xa9, // mov al,0xa9
    0xe6, 0x40, // out 0x40,al
    0xb0, 0x04, // mov al,0x4
    0xe6, 0x40, // out 0x40,al
    0x2e, 0x0f, 0x01, 0x16, 0x78, 0x01, // lgdtw cs:0x178
    0x2e, 0x0f, 0x01, 0x1e, 0x7e, 0x01, // lidtw cs:0x17e
    0x66, 0xb8, 0x20, 0x02, 0x00, 0x00, // mov eax,0x220
    0x0f, 0x22, 0xe0, // mov cr4,eax
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, // mov eax,0x1000
    0x0f, 0x22, 0xd8, // mov cr3,eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx,0xc0000080
    0x0f, 0x32, // rdmsr
    0x80, 0xcc, 0x01, // or ah,0x1
    0x0f, 0x30, // wrmsr
    0x0f, 0x20, 0xc0, // mov eax,cr0
    0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, // or eax,0x80000001
    0x0f, 0x22, 0xc0, // mov cr0,eax
    0x66, 0xea, 0xcb, 0x00, 0x0f, 0x00, 0x08, 0x00, // jmp 0x8:0xf00cb
    // 64-bit code.
    0xb8, 0x10, 0x00, 0x00, 0x00, // mov eax,0x10
    0x8e, 0xd0, // mov ss,eax
    0x8e, 0xd8, // mov ds,eax
    0x8e, 0xc0, // mov es,eax
    0x48, 0xc7, 0xc4, 0x00, 0x80, 0x00, 0x00, // mov rsp,0x8000
    0x48, 0xbb, 0x15, 0x7c, 0x4a, 0x7f, 0xb9, 0x79, 0x37,
    0x9e, // movabs rbx,0x9e3779b97f4a7c15
    0x41, 0xb8, 0x01, 0x00, 0x00, 0x00, // mov r8d,0x1
    0x0f, 0x28, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00, // movaps xmm0,XMMWORD PTR ds:0x7000
    0x41, 0xbf, 0x20, 0x00, 0x00, 0x00, // mov r15d,0x20
    0xb9, 0x90, 0x01, 0x00, 0x00, // mov ecx,0x190
    0x4c, 0x0f, 0xaf, 0xc3, // imul r8,rbx
    0x49, 0xc1, 0xc0, 0x11, // rol r8,0x11
    0x0f, 0x29, 0x04, 0x25, 0x10, 0x70, 0x00, 0x00, // movaps XMMWORD PTR ds:0x7010,xmm0
    0x4c, 0x33, 0x04, 0x25, 0x10, 0x70, 0x00, 0x00, // xor r8,QWORD PTR ds:0x7010
    0x4c, 0x89, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00, // mov QWORD PTR ds:0x7000,r8
    0x0f, 0x28, 0x04, 0x25, 0x00, 0x70, 0x00, 0x00, // movaps xmm0,XMMWORD PTR ds:0x7000
    0x4d, 0x11, 0xc1, // adc r9,r8
    0x41, 0x51, // push r9
    0x41, 0x5a, // pop r10
    0xe2, 0xcf, // loop 0x100
    0x4c, 0x89, 0xd0, // mov rax,r10
    0x48, 0xc1, 0xe8, 0x3c, // shr rax,0x3c
    0x04, 0x30, // add al,0x30
    0x3c, 0x39, // cmp al,0x39
    0x76, 0x02, // jbe 0x140
    0x04, 0x27, // add al,0x27
    0x66, 0xba, 0x02, 0x04, // mov dx,0x402
    0xee, // out dx,al
    0xfb, // sti
    0xf4, // hlt
    0xfa, // cli
    0x49, 0xff, 0xcf, // dec r15
    0x75, 0xae, // jne 0xfb
    0xb0, 0x10, // mov al,0x10
    0xe6, 0xf4, // out 0xf4,al
    0xeb, 0xfe, // jmp 0x151
    // The timer.
    0x50, // push rax
    0xb0, 0x20, // mov al,0x20
    0xe6, 0x20, // out 0x20,al
    0x58, // pop rax
    0x48, 0xcf, // iretq
    0x0f, 0x1f, 0x44, 0x00, 0x00, // nop DWORD PTR [rax+rax*1+0x0]
    // Descriptors: none, code, data.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9b, 0x20, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, // GDTR and IDTR.
    0x17, 0x00, 0x60, 0x01, 0x0f, 0x00, 0x0f, 0x02, 0x00, 0x40, 0x00, 0x00,
];
/// What it prints.
const PRINTED: &str = "4fd96d28d934833606fb7b7001091641";

fn digits(name: &str) -> (PathBuf, [String; 4]) {
    rom(name, DIGITS)
}

/// A ROM that begins with this code, and the options to run it.
fn rom(name: &str, code: &[u8]) -> (PathBuf, [String; 4]) {
    let mut rom = vec![0xf4; 0x1_0000];
    rom[..code.len()].copy_from_slice(code);
    // jmp to the front
    rom[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    let path =
        std::env::temp_dir().join(format!("thimble-moves-{}-{name}.rom", std::process::id()));
    std::fs::write(&path, rom).unwrap();
    let options = [
        "-bios".to_owned(),
        path.display().to_string(),
        "-device".to_owned(),
        "isa-debug-exit,iobase=0xf4,iosize=1".to_owned(),
    ];
    (path, options)
}

#[test]
fn a_guest_moves_on_and_on() {
    let (rom, options) = digits("moves");
    let options = options.each_ref().map(String::as_str);
    for pair in pairs() {
        for accels in [pair, [pair[1], pair[0]]] {
            let (printed, status, moves) = moved("digits", accels, &options, TURN);
            assert_eq!((printed.as_str(), status), (PRINTED, 33), "{accels:?}");
            eprintln!("{accels:?}: {moves} moves");
            assert!(moves > 3, "{accels:?}: {moves}");
        }
    }
    let _ = std::fs::remove_file(rom);
}

/// Real-mode code that prints its time stamp counter and a random number 400 times, 30 bits of each, and halts until the
/// timer's next interrupt each other time.
const MOMENTS: &[u8] = &[
    0xea, 0x05, 0x00, 0x00, 0xf0, // jmp 0xf000:0x5
    0xfa, // cli
    0x31, 0xc0, // xor ax,ax
    0x8e, 0xd8, // mov ds,ax
    0x8e, 0xd0, // mov ss,ax
    0xbc, 0x00, 0x70, // mov sp,0x7000
    0xc7, 0x06, 0x80, 0x00, 0x76, 0x00, // mov WORD PTR ds:0x80,0x76
    0xc7, 0x06, 0x82, 0x00, 0x00, 0xf0, // mov WORD PTR ds:0x82,0xf000
    0xb0, 0x11, // mov al,0x11
    0xe6, 0x20, // out 0x20,al
    0xb0, 0x20, // mov al,0x20
    0xe6, 0x21, // out 0x21,al
    0xb0, 0x04, // mov al,0x4
    0xe6, 0x21, // out 0x21,al
    0xb0, 0x01, // mov al,0x1
    0xe6, 0x21, // out 0x21,al
    0xb0, 0xfe, // mov al,0xfe
    0xe6, 0x21, // out 0x21,al
    0xb0, 0x34, // mov al,0x34
    0xe6, 0x43, // out 0x43,al
    0xb0, 0xa9, // mov al,0xa9
    0xe6, 0x40, // out 0x40,al
    0xb0, 0x04, // mov al,0x4
    0xe6, 0x40, // out 0x40,al
    0xbd, 0x90, 0x01, // mov bp,0x190
    0xfb, // sti
    0xb9, 0xd0, 0x07, // mov cx,0x7d0
    0xe2, 0xfe, // loop 42
    0x0f, 0x31, // rdtsc
    0xe8, 0x17, 0x00, // call 60
    0x66, 0x0f, 0xc7, 0xf0, // rdrand eax
    0xe8, 0x10, 0x00, // call 60
    0xf7, 0xc5, 0x01, 0x00, // test bp,0x1
    0x74, 0x01, // je 57
    0xf4, // hlt
    0x4d, // dec bp
    0x75, 0xe4, // jne 3e
    0xb0, 0x10, // mov al,0x10
    0xe6, 0xf4, // out 0xf4,al
    0xeb, 0xfe, // jmp 5e
    0xba, 0x02, 0x04, // mov dx,0x402
    0xb9, 0x05, 0x00, // mov cx,0x5
    0x66, 0x50, // push eax
    0x24, 0x3f, // and al,0x3f
    0x04, 0x30, // add al,0x30
    0xee, // out dx,al
    0x66, 0x58, // pop eax
    0x66, 0xc1, 0xe8, 0x06, // shr eax,0x6
    0xe2, 0xf1, // loop 66
    0xc3, // ret
    0x50, // push ax
    0xb0, 0x20, // mov al,0x20
    0xe6, 0x20, // out 0x20,al
    0x58, // pop ax
    0xcf, // iret
];

/// A guest whose time goes by instructions does the same whether it is moved or not, and whether it is held at times.
#[test]
fn counted_time_moves_along() {
    let (rom, options) = rom("counted", MOMENTS);
    let options = options.each_ref().map(String::as_str);
    for icount in ["4", "2,sleep=off"] {
        let cpu = ["-cpu", "qemu64,+rdrand", "-icount", icount, "-seed", "7"];
        let options: Vec<&str> = options.iter().chain(&cpu).copied().collect();
        let whole = moved("whole", ["tcg", "tcg"], &options, PATIENCE);
        assert_eq!((whole.0.len(), whole.1, whole.2), (400 * 10, 33, 0));
        let (printed, status, moves) = moved("parts", ["tcg", "tcg"], &options, TURN);
        eprintln!("{icount}: {moves} moves");
        assert!(moves > 0);
        assert_eq!((printed, status), (whole.0, 33), "{icount}");
    }
    let _ = std::fs::remove_file(rom);
}

#[test]
fn a_missing_feature_is_named() {
    let cpu = |cpu| ["-accel", "tcg", "-cpu", cpu];
    let mut more = stage("more", &cpu("qemu64,+popcnt"));
    let mut less = stage("less", &cpu("qemu64"));
    let error = less.take_over(&mut more).unwrap_err().to_string();
    assert!(error.contains("CPUID.01H:ECX.popcnt [bit 23]"), "{error}");
    more.take_over(&mut less).unwrap();
}

/// INIT and a start-up IPI that wait in a local APIC when the guest stops.
#[test]
fn what_waits_to_be_looked_at_moves_along() {
    let mut two = stage("waits", &["-accel", "tcg", "-smp", "2"]);
    two.vm().shared().call(|machine, bridge, now| {
        for command in [0xc_4500_u32, 0xc_4608] {
            machine.processor_write(bridge, now, 0, 0xfee0_0300, &command.to_le_bytes());
        }
    });
    for _ in 0..2 {
        let snapshot = two.vm().snapshot().unwrap();
        let second = snapshot.processors().nth(1).unwrap();
        assert_eq!(second.activity, Activity::Running);
        assert_eq!((second.cs.selector, second.rip), (0x800, 0));
    }
}

#[test]
fn what_can_not_be_is_refused() {
    let mut one = stage("one", &["-accel", "tcg"]);
    let mut two = stage("two", &["-accel", "tcg", "-smp", "2"]);
    let error = two.take_over(&mut one).unwrap_err();
    assert!(
        matches!(error, MoveError::Processors { saved: 1, here: 2 }),
        "{error}"
    );
    one.vm().cont().unwrap();
    assert!(matches!(one.vm().snapshot(), Err(MoveError::Running)));
    one.vm().stop().unwrap();
    assert!(one.vm().snapshot().is_ok());
}

#[test]
fn state_stays_what_it_is() {
    let (rom, options) = digits("same");
    let options = options.each_ref().map(String::as_str);
    let options: Vec<&str> = options.into_iter().chain(["-accel", "tcg"]).collect();
    let mut guest = stage("same", &options);
    assert_eq!(guest.run(TURN), None);
    let before = guest.vm().snapshot().unwrap();
    guest.vm().restore(&before).unwrap();
    assert_eq!(guest.vm().snapshot().unwrap(), before);
    let _ = std::fs::remove_file(rom);
}
