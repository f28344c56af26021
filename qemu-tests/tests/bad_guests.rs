//! Guests that no processor can run on in any useful way, on the software CPU: triple faults, endless exceptions, code and
//! tables where no memory is. Whatever they do, QMP answers and the VM can be stopped, resumed, reset and ended.
//!
//! Each guest is a firmware image, assembled here: it goes to flat 32-bit mode, where all exceptions but those of the
//! case end in a loop, and on with the case. QEMU is no reference for these: it ends with an error when a guest
//! executes what is not memory.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_tests::{Emulator, Instance, packages, skip};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a guest does what it does before it is looked at.
const WHILE: Duration = Duration::from_millis(200);

/// What goes before each case. It prints `.` once it is in protected mode, and a letter from `a` on for an exception.
const BEFORE: &str = r"
    .intel_syntax noprefix
    .code16
    .org 0
    .globl _start
_start:
start:
    cli
    lgdtd cs:[gdt_register - start]
    lidtd cs:[idt_register - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    data32 ljmp 8, protected
    .code32
protected:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x7000
    # A table in RAM, whose gates go to handlers that tell of themselves.
    xor ebx, ebx
fill:
    lea eax, [ebx * 4 + handlers]
    mov [ebx * 8 + 0x2000], ax
    shr eax, 16
    mov [ebx * 8 + 0x2006], ax
    mov word ptr [ebx * 8 + 0x2002], 8
    mov word ptr [ebx * 8 + 0x2004], 0x8e00
    inc ebx
    cmp ebx, 32
    jb fill
    mov dx, 0x402
    mov al, '.'
    out dx, al
    jmp case

    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_register:
    .word 23
    .long gdt
idt_register:
    .word 255
    .long 0x2000
no_idt:
    .word 0
    .long 0
    .balign 4
handlers:
    .rept 32
    .byte 0xb0, 'a' + (. - 1 - handlers) / 4
    jmp told
    .endr
told:
    mov dx, 0x402
    out dx, al
forever:
    jmp forever

case:
";

/// What goes behind it: a large page for each 4 MiB, none of them accessed yet, and the reset vector.
const AFTER: &str = r"
    jmp forever
    .org 0x8000
directory:
    .set page, 0
    .rept 1024
    .long page * 0x400000 + 0x83
    .set page, page + 1
    .endr
    .org 0xfff0
    .code16
    jmp start
    .org 0x10000
";

/// Lets the second processor print `B`: mov dx, 402h; mov al, 'B'; out dx, al; and a loop.
const SECOND_PRINTS: &str =
    "mov dword ptr [0x4000], 0xb00402ba\n mov dword ptr [0x4004], 0xfeebee42\n";

/// INIT and a start-up IPI send it to 4000h.
const START_SECOND: &str = "mov dword ptr [0xfee00310], 0x1000000
    mov dword ptr [0xfee00300], 0x4500
    mov dword ptr [0xfee00300], 0x4604\n";

fn assemble(case: &str, directory: &Path) -> std::path::PathBuf {
    let [source, object, image] =
        ["s", "o", "rom"].map(|kind| directory.join(format!("guest.{kind}")));
    std::fs::write(&source, format!("{BEFORE}{case}{AFTER}")).expect("a file");
    let run = |program: &str, arguments: &[&str], files: [&Path; 2]| {
        let mut command = Command::new(program);
        command.args(arguments).arg("-o").args(files);
        let output = command.output().expect("binutils are installed");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{case}: {text}");
    };
    run("as", &["--32"], [&object, &source]);
    let place = ["-m", "elf_i386", "-Ttext=0xffff0000", "--oformat=binary"];
    run("ld", &place, [&image, &object]);
    let bytes = std::fs::metadata(&image).expect("the image").len();
    assert_eq!(bytes, 0x1_0000, "{case}");
    image
}

/// Starts a guest that is made of a case, with more options.
fn start(case: &str, options: &[&str]) -> Instance {
    let launcher = Emulator::Thimble.launcher();
    let image = assemble(case, launcher.dir());
    launcher
        .args([
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "16",
        ])
        .args(["-bios", image.to_str().expect("a plain path")])
        .args(["-debugcon", "file:{dir}/console"])
        .args(["-global", "isa-debugcon.iobase=0x402"])
        .args(options)
        .with_qmp()
        .start()
}

fn console(instance: &Instance) -> String {
    std::fs::read_to_string(instance.dir().join("console")).unwrap_or_default()
}

/// Lets a guest run, and then uses all that a VM can be told. `printed` is what it says first.
fn survives(name: &str, case: &str, options: &[&str], printed: &str) {
    let instance = start(case, options);
    let mut qmp = instance.qmp();
    qmp.negotiate();
    let mut ask = |command: &str, arguments: Value| {
        qmp.execute(command, arguments)
            .unwrap_or_else(|error| panic!("{name}: {command}: {error:?}\n{}", instance.report()))
    };
    std::thread::sleep(WHILE);
    let begun = std::time::Instant::now();
    while !console(&instance).starts_with(printed) {
        let text = console(&instance);
        assert!(begun.elapsed() < PATIENCE, "{name}: printed {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = |value: Value| value["status"].clone();
    assert_eq!(status(ask("query-status", json!({}))), "running", "{name}");
    ask("stop", json!({}));
    assert_eq!(status(ask("query-status", json!({}))), "paused", "{name}");
    let registers = ask(
        "human-monitor-command",
        json!({"command-line": "info registers"}),
    );
    assert!(
        registers.as_str().is_some_and(|text| text.contains("EIP=")),
        "{name}: {registers}"
    );
    ask("cont", json!({}));
    ask("query-cpus-fast", json!({}));
    ask("system_reset", json!({}));
    qmp.wait_event("RESET", PATIENCE);
    let _ = qmp.execute("quit", json!({}));
    let end = instance.wait(PATIENCE);
    assert!(end.success(), "{name}: {end}: {}", instance.stderr());
}

fn ready() -> bool {
    let found = packages::program("as", "binutils").is_some();
    if !found {
        skip("there is no assembler");
    }
    found
}

/// Shuts down at once.
const TRIPLE_FAULT: &str = "lidt [no_idt]\n int3";

#[test]
fn a_triple_fault_resets_again_and_again() {
    if ready() {
        survives("triple fault", TRIPLE_FAULT, &[], "..");
    }
}

#[test]
fn a_triple_fault_ends_a_vm_that_must_not_reboot() {
    if !ready() {
        return;
    }
    let instance = start(TRIPLE_FAULT, &["-no-reboot"]);
    let end = instance.wait(PATIENCE);
    assert!(end.success(), "{end}: {}", instance.stderr());
    assert_eq!(console(&instance), ".");
}

#[test]
fn exceptions_without_end() {
    if !ready() {
        return;
    }
    // The handler of #UD raises it at its first instruction; the stack runs through all there is.
    let code = "mov dword ptr [0x3000], 0x0b0f0b0f
        mov word ptr [0x2000 + 6 * 8], 0x3000
        mov word ptr [0x2000 + 6 * 8 + 6], 0
        ud2";
    survives("#UD in #UD", code, &[], ".");
    // The other processor has its turns.
    let with_other = format!("{SECOND_PRINTS} {START_SECOND} {code}");
    survives(
        "#UD in #UD, and a neighbour",
        &with_other,
        &["-smp", "2"],
        ".B",
    );
}

#[test]
fn code_where_no_memory_is() {
    if !ready() {
        return;
    }
    survives("local APIC", "mov eax, 0xfee00000\n jmp eax", &[], ".");
    // Nothing answers, and all bits set are an undefined instruction: vector 6.
    survives("PCI hole", "mov eax, 0xe0000000\n jmp eax", &[], ".g");
    survives("behind RAM", "mov eax, 0x2000000\n jmp eax", &[], ".g");
    let across = "mov dword ptr [0x9fffc], 0xb8909090\n mov eax, 0x9fffc\n jmp eax";
    survives("half an instruction in RAM", across, &[], ".g");
}

#[test]
fn page_tables_where_nothing_can_be_stored() {
    if !ready() {
        return;
    }
    let paging = |cr3: &str, more: &str| {
        format!(
            "mov eax, cr4\n or eax, 0x10\n mov cr4, eax\n mov eax, {cr3}\n mov cr3, eax
            mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n {more}"
        )
    };
    // Accessed and dirty flags are lost in ROM, and translations are good all the same.
    let work =
        "mov dword ptr [0x500000], 0x12345678\n mov al, [0x500003]\n add al, 0x48\n out dx, al";
    survives("in ROM", &paging("offset directory", work), &[], ".Z");
    // Not present: exceptions find no handler either.
    survives("in the local APIC", &paging("0xfee00000", ""), &[], ".");
    survives("in the PCI hole", &paging("0xe0000000", ""), &[], ".");
}

#[test]
fn stacks_and_descriptors_in_devices() {
    if !ready() {
        return;
    }
    let stack =
        "mov esp, 0xfee00400\n again: push eax\n call next\n next: pop eax\n pop eax\n jmp again";
    survives("stack in the local APIC", stack, &[], ".");
    survives(
        "stack in ROM",
        "mov esp, 0xffff9000\n push 1\n call next\n next: int3",
        &[],
        ".d",
    );
    let table = "mov dword ptr [0x3000], 0x00ff\n mov dword ptr [0x3002], 0xfee00000\n lidt [0x3000]\n int3";
    survives("IDT in the local APIC", table, &[], "..");
    let table =
        "mov dword ptr [0x3000], 0x00ff\n mov dword ptr [0x3002], 0xe0000000\n lgdt [0x3000]
        mov ax, 16\n mov ds, ax";
    survives("GDT in the PCI hole", table, &[], ".");
}

#[test]
fn code_that_changes_all_the_time() {
    if !ready() {
        return;
    }
    let copy = "mov esi, offset code\n mov edi, 0x3000\n mov ecx, 64\n rep movsb\n mov eax, 0x3000\n jmp eax
        code: inc byte ptr [0x3007]\n mov al, 0\n jmp code";
    survives("its own", copy, &[], ".");
    // The second processor runs a loop in a page that the first one stores to.
    let cross = format!(
        "mov dword ptr [0x4000], 0x00fdeb90\n {START_SECOND}
        flip: xor byte ptr [0x4000], 0xd8\n inc dword ptr [0x4100]\n jmp flip"
    );
    survives("another's", &cross, &["-smp", "2"], ".");
}

#[test]
fn a_processor_that_waits_for_nothing() {
    if ready() {
        survives("HLT without interrupts", "cli\n hlt", &[], ".");
    }
}
