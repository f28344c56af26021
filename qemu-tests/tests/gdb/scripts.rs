//! gdb's scripts, and what it prints of both emulators.

use std::time::Duration;

use qemu_tests::{Emulator, packages, skip, skip_part};
use rustix::process::{Pid, Signal, kill_process};

use super::{PATIENCE, launcher, printed, run_script, start_gdb};

/// Whether gdb and QEMU can be had; says so if not.
fn ready() -> bool {
    if packages::qemu().is_none() {
        skip("qemu-system-x86 is missing");
        return false;
    }
    if packages::gdb().is_none() {
        skip("gdb is missing");
        return false;
    }
    true
}

/// What a script prints with either emulator, apart from lines that `varies` is true for.
fn both(accel: &str, options: &[&str], script: &str, varies: fn(&str) -> bool) -> Vec<String> {
    let [qemu, thimble] = Emulator::BOTH.map(|emulator| {
        let mut lines = run_script(emulator, accel, options, script);
        lines.retain(|line| !varies(line));
        lines
    });
    assert_eq!(thimble, qemu, "{accel} {options:?}");
    thimble
}

/// What QEMU tells otherwise of the x87 than the manual of gdb's protocol: registers by their physical numbers, and zeros
/// for the tag word and for where the last instruction was.
fn x87(line: &str) -> bool {
    ["st", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"]
        .iter()
        .any(|name| line.starts_with(name))
}

#[test]
fn registers_of_every_mode() {
    if !ready() {
        return;
    }
    let script = "
break in_real
continue
info registers rip cs eflags cr0
stepi
info registers rbx rip
stepi
x/2hx &word
break in_protected
continue
info registers rax rbx rip cs ss eflags cr0 cr3
set $rbx = 0x99887766
stepi
stepi
info registers rbx
break in_long
continue
info registers rip cs cr0 cr3 cr4 efer
break registers_set
continue
info registers
p $st0
info registers fctrl fstat
p/x $mxcsr
p $xmm0
p $xmm3
p $xmm15
set $xmm3.v2_int64 = {5, -1}
p $xmm3
set $r15 = -2
set $fs_base = 0x123456789
set $k_gs_base = 0x1234
set $eflags = 0x8c7
info registers r15 fs_base k_gs_base eflags
set $mxcsr = 0x1f00
p/x $mxcsr
";
    // st0 differs, and QEMU's description has no vector registers.
    let lines = both("tcg", &[], script, |line| {
        x87(line)
            || ["$1 ", "xmm", "mxcsr  "]
                .iter()
                .any(|name| line.starts_with(name))
    });
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(has("rbx            0x12345678"), "{lines:#?}");
    assert!(has("rbx            0x11112222"), "{lines:#?}");
    assert!(has("rbx            0x1122334455667788"), "{lines:#?}");
    assert!(has("cr8            0x4"), "{lines:#?}");
    assert!(has("[ LMA LME SCE ]"), "{lines:#?}");
    let own = run_script(
        Emulator::Thimble,
        "tcg",
        &[],
        "hbreak registers_set\ncontinue\ninfo registers st0 st1 st2 ftag\n",
    );
    assert!(
        own.iter()
            .any(|line| line.contains("3.1415926535897932385 ")
                || line.contains("3.14159265358979323851 "))
    );
    assert!(
        own.iter()
            .any(|line| line.starts_with("ftag           0xfff "))
    );
}

#[test]
fn breakpoints_and_watchpoints() {
    if !ready() {
        return;
    }
    let script = "
hbreak in_long
continue
x/i $rip
watch *(int*)&word
continue
info registers rip
delete
rwatch *(int*)&word
continue
info registers rip
delete
awatch *(char*)&block
continue
info registers rip rcx
delete
watch *(long*)&behind
continue
info registers rip
x/2gx &block
delete
break bump
info breakpoints
";
    both("tcg", &[], script, |_| false);
    let script = "
break bump
continue
backtrace 1
continue
p *(long*)&bumps
finish
info registers rip rsi
delete
tbreak behind_loop
continue
p *(long*)&bumps
p/x *(char*)&bump@4
p *(int*)&word = 5
p *(int*)&word
monitor info status
x/gx 0xf0000000
";
    let lines = both("tcg", &[], script, |_| false);
    assert!(lines.iter().any(|line| line.contains("paused (debug)")));
    // The breakpoint is not in memory, or not for who reads it.
    assert!(
        !lines.iter().any(|line| line.contains("0xcc")),
        "{lines:#?}"
    );
}

#[test]
fn steps() {
    if !ready() {
        return;
    }
    let script = "
break behind_block
continue
stepi
stepi
stepi
info registers rip rdx
break at_ud2
continue
stepi
info registers rip cs
stepi
stepi
info registers rip
break behind_ud2
continue
info registers rip
break counting
continue
stepi
stepi
stepi
stepi
stepi
info registers rip rax
p *(long*)&counter
stepi 200
p *(long*)&counter
p/x $eflags
break word_changed
monitor system_reset
info registers rip
continue
p *(int*)&word
stepi
stepi
stepi
stepi
info registers rip rcx
stepi
info registers rip rcx rdi
";
    // In the middle of a repeated instruction RF is set here, as on a processor.
    both("tcg", &[], script, |_| false);
}

#[test]
fn processors_are_threads() {
    if !ready() {
        return;
    }
    let script = "
break counting
continue
info threads
thread 2
info registers rip cs
set scheduler-locking on
stepi
info registers rip
set $rax = 77
thread 1
p $rax != 77
stepi
stepi
thread apply all p $cs
set scheduler-locking off
delete
break *0x18c000
set *(short*)0x80000 = 0x9090
set *(short*)0x80002 = 0xfceb
break *0x80002
continue
info threads
p $rip
";
    let lines = both("tcg", &["-smp", "2"], script, |line| {
        // Where the first one is by then is chance.
        line.contains("in counting ()") || line.contains("Breakpoint 1,")
    });
    assert!(lines.iter().any(|line| line.contains("CPU#1 [running]")));
}

#[test]
fn kvm_has_hardware_breakpoints_and_steps() {
    if !ready() {
        return;
    }
    if !packages::kvm_usable() {
        return skip("/dev/kvm can't be used");
    }
    let script = "
hbreak in_real
continue
info registers rip rbx eflags
stepi
info registers rip rbx eflags
stepi
stepi
stepi
info registers rip rcx
delete
hbreak in_protected
continue
info registers rip cs cr0 eflags
stepi
stepi
info registers rip rbx
p/x *(int*)&word
delete
hbreak in_long
continue
stepi
stepi
stepi
info registers rip cs cr4 efer
monitor info status
rwatch *(int*)&word
";
    let lines = both("kvm", &[], script, |line| {
        // Each says so in its own words, and QEMU what the host lacks.
        line.contains("warning:") || line.contains("Could not insert")
    });
    assert!(lines.iter().any(|line| line.contains("0x12345678")));
    for irqchip in ["split", "off"] {
        let accel = format!("kvm,kernel-irqchip={irqchip}");
        let own = run_script(Emulator::Thimble, &accel, &[], script);
        let stops = |lines: &[String]| {
            let at = lines.iter().filter(|line| line.starts_with("0x0000"));
            at.cloned().collect::<Vec<_>>()
        };
        assert_eq!(stops(&own), stops(&lines), "{irqchip}");
    }
}

/// Software breakpoints by KVM are instructions in memory, which this host may not be able to run; it can be seen that
/// they are gone when the guest stands still.
#[test]
fn kvm_gives_memory_back() {
    if !ready() {
        return;
    }
    if !packages::kvm_usable() {
        return skip("/dev/kvm can't be used");
    }
    let script = "
hbreak in_real
continue
p/x *(char*)&in_protected@4
break protected_stored
hbreak in_protected
continue
p/x *(char*)&protected_stored@4
monitor xp/4xb &protected_stored
";
    let lines = run_script(Emulator::Thimble, "kvm", &[], script);
    assert!(
        lines.iter().any(|line| line.contains("in_protected ()")),
        "{lines:#?}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("0xcc")),
        "{lines:#?}"
    );
}

#[test]
fn ctrl_c_interrupts() {
    if !ready() {
        return;
    }
    for accel in ["tcg", "kvm"] {
        if accel == "kvm" && !packages::kvm_usable() {
            skip_part("/dev/kvm can't be used");
            continue;
        }
        let instance = launcher(Emulator::Thimble, accel).start();
        let mut client = instance.qmp();
        client.negotiate();
        // jmp to itself.
        let script = "
hbreak in_real
continue
delete
set *(short*)0x80000 = 0xfeeb
set $cs = 0x8000
set $rip = 0
continue
info registers rip cs
monitor info status
kill
";
        let gdb = start_gdb(&instance, script);
        for _ in 0..2 {
            client.wait_event("RESUME", PATIENCE);
        }
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&gdb), Signal::INT).expect("gdb runs");
        let lines = printed(gdb);
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        assert!(has("received signal SIGINT"), "{lines:#?}");
        assert!(has("VM status: paused"), "{lines:#?}");
        assert!(has("cs             0x8000"), "{lines:#?}");
        // The debugger has killed it.
        assert_eq!(
            instance.wait(PATIENCE).code(),
            Some(0),
            "{}",
            instance.report()
        );
    }
}

#[test]
fn a_guest_that_ends_is_told() {
    if !ready() {
        return;
    }
    // 10h to the port of isa-debug-exit.
    let script = "
break in_real
continue
set $eax = 0x10
set *(int*)0x80000 = 0x9090f4e6
set $cs = 0x8000
set $rip = 0
continue
";
    // QEMU closes the connection there.
    let lines = run_script(Emulator::Thimble, "tcg", &[], script);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("exited with code 041")),
        "{lines:#?}"
    );
}
