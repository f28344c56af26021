//! What `-d` asks for: a log of what the processors do, on standard error or in the file that `-D` names.
//!
//! [`Items`] are what there is to log, [`Sink`] is where it goes. An accelerator asks [`Sink::wants`] before it makes the
//! effort to say something; most of the items need the software CPU, because KVM runs instructions unseen. Texts hold
//! what QEMU's log of the same item tells, in lines of the same kind.
//!
//! Trace lines go to the same place. A log that can't be written does not stop the VM: it ends, with one line that says so.
//!
//! Items of QEMU that are not in `ITEMS` have no meaning here: there is no intermediate code, no user mode, no plug-in.

pub mod filter;
pub mod output;

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bitflags::bitflags;
use thimble_core::cpu::decode::{CodeSize, list};
use thimble_core::cpu::soft::{Cause, Delivery, Watch};
use thimble_core::cpu::{Registers, gpr};

use crate::files;
use crate::registers;
use filter::Filter;
use output::{LAST_WORDS, Output};

bitflags! {
    /// What to log.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Items: u8 {
        /// `in_asm`: the instructions of each block, when it is decoded.
        const IN_ASM = 1 << 0;
        /// `int`: interrupts and exceptions.
        const INT = 1 << 1;
        /// `exec`: each block that is entered.
        const EXEC = 1 << 2;
        /// `cpu`: the registers before each block.
        const CPU = 1 << 3;
        /// `cpu_reset`: the processors' state before resets.
        const CPU_RESET = 1 << 4;
        /// What only the software CPU can tell.
        const SOFTWARE = Self::IN_ASM.bits() | Self::INT.bits() | Self::EXEC.bits() | Self::CPU.bits();
    }
}

/// What an item of `-d` switches.
#[derive(Clone, Copy)]
enum Switch {
    Item(Items),
    /// Trace events, by a pattern.
    Events(&'static str),
}

/// The items of `-d`: name, what it switches, and help.
static ITEMS: [(&str, Switch, &str); 7] = [
    (
        "in_asm",
        Switch::Item(Items::IN_ASM),
        "guest code when it is decoded (software CPU)",
    ),
    (
        "int",
        Switch::Item(Items::INT),
        "interrupts and exceptions (software CPU)",
    ),
    (
        "exec",
        Switch::Item(Items::EXEC),
        "each block of code that is entered (software CPU)",
    ),
    (
        "cpu",
        Switch::Item(Items::CPU),
        "registers before each block (software CPU)",
    ),
    (
        "cpu_reset",
        Switch::Item(Items::CPU_RESET),
        "processors before they are reset",
    ),
    (
        "unimp",
        Switch::Events("unimp_*"),
        "what the guest asks devices for that they don't do",
    ),
    (
        "guest_errors",
        Switch::Events("guest_error_*"),
        "what the guest does wrong, such as to use registers that don't exist",
    ),
];

/// What `-d` or the human monitor's `log` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Items.
    pub items: Items,
    /// Patterns of trace events.
    pub events: Vec<String>,
}

impl Wanted {
    /// Patterns of the trace events that items stand for.
    pub fn own_events() -> impl Iterator<Item = &'static str> {
        ITEMS.iter().filter_map(|(_, switch, _)| match switch {
            Switch::Item(_) => None,
            Switch::Events(pattern) => Some(*pattern),
        })
    }

    /// Takes the items of a list with commas; `all` is all of them, and `trace:PATTERN` are trace events.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn add<'t>(&mut self, text: &'t str) -> Result<(), &'t str> {
        for name in text.split(',') {
            if let Some(pattern) = name.strip_prefix("trace:") {
                self.events.push(pattern.to_owned());
                continue;
            }
            let mut found = false;
            for (known, switch, _) in ITEMS {
                if known == name || name == "all" {
                    found = true;
                    match switch {
                        Switch::Item(item) => self.items |= item,
                        Switch::Events(pattern) => self.events.push(pattern.to_owned()),
                    }
                }
            }
            if !found {
                return Err(name);
            }
        }
        Ok(())
    }
}

impl Items {
    /// Shows what there is, a line each.
    pub fn texts(visit: &mut dyn FnMut(&str)) {
        for (name, _, doc) in ITEMS {
            visit(&format!("{name:<15} {doc}\n"));
        }
        visit("trace:PATTERN   trace events ('-trace help' lists them)\n");
    }

    /// The text of `-d help`.
    pub fn help() -> String {
        let mut text = String::from("Log items (comma separated):\n");
        Self::texts(&mut |line| text.push_str(line));
        text
    }

    /// The names of these items, with commas.
    pub fn names(self) -> String {
        let named = |(name, switch, _): &(&'static str, Switch, &str)| match switch {
            Switch::Item(item) => self.contains(*item).then_some(*name),
            Switch::Events(_) => None,
        };
        let names: Vec<&str> = ITEMS.iter().filter_map(named).collect();
        names.join(",")
    }
}

/// The name of a log's file: one `%d` in what `-D` gives stands for the process number. `None` if there is another `%`.
pub fn file_name(template: &str, process: u32) -> Option<String> {
    let Some((before, rest)) = template.split_once('%') else {
        return Some(template.to_owned());
    };
    let after = rest
        .strip_prefix('d')
        .filter(|after| !after.contains('%'))?;
    Some(format!("{before}{process}{after}"))
}

/// The process' one output, once there is something to write or a file is named for it.
static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// The process' output: the file that was named, or standard error.
pub fn output() -> &'static Arc<Output> {
    OUTPUT.get_or_init(|| match standard_error() {
        Ok(file) => Output::new(Box::new(file)),
        // There is nowhere to say it.
        Err(_) => Output::new(Box::new(io::sink())),
    })
}

fn standard_error() -> io::Result<File> {
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 0)?.into())
}

/// Lets log and traces go to a file, which is created, from now on.
///
/// # Errors
/// If it can't be created.
pub fn open_file(path: &str) -> io::Result<()> {
    let file = Box::new(files::create(Path::new(path))?);
    match OUTPUT.get() {
        Some(output) => output.redirect(file),
        None => drop(OUTPUT.set(Output::new(file))),
    }
    Ok(())
}

/// Writes what waits, when the process ends.
pub fn finish() {
    if let Some(output) = OUTPUT.get() {
        output.flush(LAST_WORDS);
    }
}

/// A log, shared by the threads that have something to tell.
pub struct Sink {
    items: AtomicU8,
    filter: Filter,
    interrupts: AtomicU64,
    /// `None`: the process' output.
    output: Option<Arc<Output>>,
}

impl Sink {
    /// A log of these items, and of what the filter lets pass of them, on the process' output.
    pub fn new(items: Items, filter: Filter) -> Self {
        Self {
            items: AtomicU8::new(items.bits()),
            filter,
            interrupts: AtomicU64::new(0),
            output: None,
        }
    }

    /// Whether one of these items is logged.
    pub fn wants(&self, items: Items) -> bool {
        Items::from_bits_retain(self.items.load(Ordering::Relaxed)).intersects(items)
    }

    /// Logs these items, and no others, from now on.
    pub fn set_items(&self, items: Items) {
        self.items.store(items.bits(), Ordering::Relaxed);
    }

    /// What a processor is to tell of for these items.
    pub fn watch(&self) -> Watch {
        let mut watch = Watch::empty();
        watch.set(Watch::DECODED, self.wants(Items::IN_ASM));
        watch.set(Watch::ENTERED, self.wants(Items::EXEC | Items::CPU));
        watch.set(Watch::DELIVERED, self.wants(Items::INT));
        watch
    }

    fn put(&self, text: &str) {
        self.output.as_ref().unwrap_or_else(|| output()).put(text);
    }

    /// Logs a processor's state before a reset: [`Items::CPU_RESET`].
    pub fn reset(&self, cpu: u32, state: &str) {
        if self.wants(Items::CPU_RESET) {
            self.put(&format!("CPU Reset (CPU {cpu})\n{state}\n"));
        }
    }

    /// Logs a block's instructions when they are decoded: [`Items::IN_ASM`]. `address` is the linear address of its first
    /// byte, and `bytes` are all of it.
    pub fn decoded(&self, address: u64, bytes: &[u8], code: CodeSize) {
        if !self.wants(Items::IN_ASM) || !self.filter.passes(address) {
            return;
        }
        let mut text = "----------------\nIN: \n".to_owned();
        let mut at = 0;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let address = address.wrapping_add(at as u64);
            match list(&mut text, address, rest, code) {
                // Writing to a string does not fail; and a block's last instruction is whole.
                Err(_) | Ok(0) => break,
                Ok(length) => at += length,
            }
        }
        text.push('\n');
        self.put(&text);
    }

    /// Logs that a processor enters the block at a linear address: [`Items::EXEC`], and [`Items::CPU`] with its
    /// registers.
    pub fn entered(&self, cpu: u32, address: u64, registers: &Registers) {
        if !self.filter.passes(address) {
            return;
        }
        if self.wants(Items::EXEC) {
            self.put(&format!("Trace {cpu}: [{address:016x}]\n"));
        }
        if self.wants(Items::CPU) {
            self.put(&text_of(registers));
        }
    }

    /// Logs an interrupt or exception, with the registers that it finds: [`Items::INT`].
    pub fn delivered(&self, cpu: u32, delivery: &Delivery, registers: &Registers) {
        if !self.wants(Items::INT) {
            return;
        }
        let Delivery {
            cause,
            vector,
            error_code,
            cr2,
        } = delivery;
        let mut text = String::new();
        if *cause == Cause::Hardware {
            // Writing to a string does not fail, here and below.
            let _ = writeln!(text, "CPU {cpu}: servicing hardware INT={vector:#04x}");
        }
        let count = self.interrupts.fetch_add(1, Ordering::Relaxed);
        let [_, cs, ss, ..] = &registers.segments;
        let software = u8::from(*cause == Cause::Software);
        let error = error_code.unwrap_or(0);
        let _ = write!(
            text,
            "{count:6}: CPU {cpu} v={vector:02x} e={error:04x} i={software} cpl={} IP={:04x}:{:016x} pc={:016x} \
             SP={:04x}:{:016x} ",
            ss.dpl,
            cs.selector,
            registers.rip,
            registers.pc(),
            ss.selector,
            registers.gpr[gpr::RSP],
        );
        let _ = match vector {
            // The page fault, whose address is worth more than RAX.
            14 => writeln!(text, "CR2={cr2:016x}"),
            _ => writeln!(text, "RAX={:016x}", registers.gpr[gpr::RAX]),
        };
        text.push_str(&text_of(registers));
        self.put(&text);
    }
}

/// General registers, flags, segments and control registers.
fn text_of(registers: &Registers) -> String {
    const SEGMENTS: [&str; 6] = ["ES", "CS", "SS", "DS", "FS", "GS"];
    let mut text = String::new();
    registers::general(registers, &mut text);
    for (name, segment) in SEGMENTS.iter().zip(&registers.segments) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name} ={:04x} {:016x} {:08x} DPL={}",
            segment.selector, segment.base, segment.limit, segment.dpl
        );
    }
    let paging = &registers.paging;
    let _ = writeln!(
        text,
        "CR0={:08x} CR3={:016x} CR4={:08x} EFER={:016x}",
        paging.cr0, paging.cr3, paging.cr4, paging.efer
    );
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use thimble_core::cpu::CpuState;

    use super::*;

    /// A file in memory.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(items: Items, tell: impl FnOnce(&Sink)) -> String {
        let memory = Memory::default();
        let output = Output::new(Box::new(memory.clone()));
        let mut sink = Sink::new(items, Filter::default());
        sink.output = Some(output.clone());
        tell(&sink);
        output.flush(std::time::Duration::from_secs(10));
        memory.text()
    }

    fn registers() -> Registers {
        let mut registers = Registers::from(&CpuState::power_on(0, true, 0x600));
        registers.gpr[gpr::RSP] = 0x7c00;
        registers.rflags |= 1 << 6 | 1;
        registers
    }

    fn wanted(text: &str) -> Result<Wanted, &str> {
        let mut wanted = Wanted::default();
        wanted.add(text)?;
        Ok(wanted)
    }

    #[test]
    fn items_have_names() {
        let both = Items::IN_ASM | Items::EXEC;
        assert_eq!(wanted("in_asm,exec").unwrap().items, both);
        let all = wanted("all").unwrap();
        assert_eq!(all.items, Items::all());
        assert_eq!(all.events, ["unimp_*", "guest_error_*"]);
        let mixed = wanted("trace:pic_*,int,guest_errors").unwrap();
        assert_eq!(mixed.items, Items::INT);
        assert_eq!(mixed.events, ["pic_*", "guest_error_*"]);
        assert_eq!(wanted("int,op"), Err("op"));
        assert_eq!(wanted(""), Err(""));
        assert_eq!(wanted("int,"), Err(""));
        for (name, switch, _) in ITEMS {
            let wanted = wanted(name).unwrap();
            match switch {
                Switch::Item(item) => {
                    assert_eq!((wanted.items, item.names()), (item, name.to_owned()))
                }
                Switch::Events(pattern) => assert_eq!(wanted.events, [pattern]),
            }
            assert!(Items::help().contains(name));
        }
    }

    #[test]
    fn files_may_be_named_by_the_process() {
        let name = |template| file_name(template, 77);
        assert_eq!(name("/tmp/a.log").as_deref(), Some("/tmp/a.log"));
        assert_eq!(name("a%d.log").as_deref(), Some("a77.log"));
        for template in ["%", "%s", "%%", "%d%d", "a%d%"] {
            assert_eq!(name(template), None, "{template}");
        }
    }

    #[test]
    fn blocks_are_listed() {
        // mov $1, %ax; an undefined opcode of one byte; jmp to itself.
        let text = logged(Items::IN_ASM, |sink| {
            sink.decoded(
                0xffff_fff0,
                &[0xb8, 1, 0, 0xff, 0xff, 0xeb, 0xfe],
                CodeSize::Bits16,
            );
            sink.entered(0, 0, &registers());
            sink.delivered(0, &PAGE_FAULT, &registers());
        });
        assert_eq!(
            text,
            "----------------\nIN: \n\
             0xfffffff0:  b8 01 00                 movw     $1, %ax\n\
             0xfffffff3:  ff                       .byte    0xff\n\
             0xfffffff4:  ff                       .byte    0xff\n\
             0xfffffff5:  eb fe                    jmp      0xfff5\n\n"
        );
    }

    #[test]
    fn blocks_are_entered() {
        let text = logged(Items::EXEC | Items::CPU, |sink| {
            sink.entered(3, 0xf_e05b, &registers());
        });
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "Trace 3: [00000000000fe05b]");
        assert!(rest.contains("RDX=0000000000000600"), "{rest}");
        assert!(
            rest.contains("RIP=000000000000fff0 RFL=00000043 [---Z--C] CPL=0"),
            "{rest}"
        );
        assert!(
            rest.contains("CS =f000 00000000ffff0000 0000ffff DPL=0"),
            "{rest}"
        );
    }

    const PAGE_FAULT: Delivery = Delivery {
        cause: Cause::Exception,
        vector: 14,
        error_code: Some(2),
        cr2: 0x1234,
    };

    #[test]
    fn interrupts_are_told() {
        let text = logged(Items::INT, |sink| {
            sink.delivered(1, &PAGE_FAULT, &registers());
            let hardware = Delivery {
                cause: Cause::Hardware,
                vector: 8,
                error_code: None,
                cr2: 0,
            };
            sink.delivered(0, &hardware, &registers());
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "     0: CPU 1 v=0e e=0002 i=0 cpl=0 IP=f000:000000000000fff0 pc=00000000fffffff0 \
             SP=0000:0000000000007c00 CR2=0000000000001234"
        );
        assert!(
            lines.contains(&"CPU 0: servicing hardware INT=0x08"),
            "{text}"
        );
        assert!(text.contains("     1: CPU 0 v=08 e=0000 i=0 "), "{text}");
        assert!(text.contains(" RAX="), "{text}");
    }

    #[test]
    fn only_what_was_asked_for() {
        let text = logged(Items::CPU_RESET, |sink| {
            sink.decoded(0, &[0x90], CodeSize::Bits32);
            sink.delivered(0, &PAGE_FAULT, &registers());
            sink.entered(0, 0, &registers());
            sink.reset(2, "its state\n");
        });
        assert_eq!(text, "CPU Reset (CPU 2)\nits state\n\n");
    }

    #[test]
    fn a_filter_holds_back_blocks_but_no_interrupts() {
        let memory = Memory::default();
        let output = Output::new(Box::new(memory.clone()));
        let mut filter = Filter::default();
        filter.add("0x1000..0x1fff").unwrap();
        let mut sink = Sink::new(Items::all(), filter);
        sink.output = Some(output.clone());
        for address in [0xfff, 0x1000, 0x2000] {
            sink.decoded(address, &[0x90], CodeSize::Bits32);
            sink.entered(0, address, &registers());
        }
        sink.delivered(0, &PAGE_FAULT, &registers());
        sink.set_items(Items::empty());
        sink.entered(0, 0x1001, &registers());
        output.flush(std::time::Duration::from_secs(10));
        let text = memory.text();
        let traces: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("Trace"))
            .collect();
        assert_eq!(traces, ["Trace 0: [0000000000001000]"]);
        assert_eq!(text.matches("IN:").count(), 1);
        assert_eq!(text.matches("v=0e").count(), 1);
    }
}
