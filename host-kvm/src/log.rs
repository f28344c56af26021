//! What `-d` asks for: a log of what the processors do, on standard error or in the file that `-D` names.
//!
//! [`Items`] are what there is to log, [`Sink`] is where it goes. An accelerator asks [`Sink::wants`] before it makes the
//! effort to say something; most of the items need the software CPU, because KVM runs instructions unseen. Texts hold
//! what QEMU's log of the same item tells, in lines of the same kind.
//!
//! The log is written in large pieces, and after each of resets and interrupts. A log that can't be written does not
//! stop the VM: it ends, with one line that says so.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitflags::bitflags;
use thimble_core::cpu::decode::{CodeSize, list};
use thimble_core::cpu::soft::{Cause, Delivery, Watch};
use thimble_core::cpu::{Registers, gpr};

use crate::files;
use crate::messages::report;
use crate::registers;

/// Bytes that wait to be written, at most and a piece.
const WAITING_MAX: usize = 32 << 10;

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

/// The items of `-d`: name, what it is, and help.
static ITEMS: [(&str, Items, &str); 5] = [
    (
        "in_asm",
        Items::IN_ASM,
        "guest code when it is decoded (software CPU)",
    ),
    (
        "int",
        Items::INT,
        "interrupts and exceptions (software CPU)",
    ),
    (
        "exec",
        Items::EXEC,
        "each block of code that is entered (software CPU)",
    ),
    (
        "cpu",
        Items::CPU,
        "registers before each block (software CPU)",
    ),
    (
        "cpu_reset",
        Items::CPU_RESET,
        "processors before they are reset",
    ),
];

impl Items {
    /// The items of a list with commas; `all` is all of them.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn parse(text: &str) -> Result<Self, &str> {
        text.split(',').try_fold(Self::empty(), |items, name| {
            if name == "all" {
                return Ok(Self::all());
            }
            let (_, item, _) = ITEMS
                .iter()
                .find(|(known, ..)| *known == name)
                .ok_or(name)?;
            Ok(items | *item)
        })
    }

    /// The text of `-d help`.
    pub fn help() -> String {
        let mut text = String::from("Log items (comma separated):\n");
        for (name, _, doc) in ITEMS {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<15} {doc}");
        }
        text
    }

    /// The names of these items, with commas.
    pub fn names(self) -> String {
        let named = ITEMS.iter().filter(|(_, item, _)| self.contains(*item));
        let names: Vec<&str> = named.map(|(name, ..)| *name).collect();
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

/// A log, shared by the threads that have something to tell.
pub struct Sink {
    items: Items,
    output: Mutex<Output>,
}

struct Output {
    /// `None` once a write has failed.
    to: Option<Box<dyn io::Write + Send>>,
    waiting: String,
    interrupts: u64,
}

impl Sink {
    /// A log into a file that is created, or to standard error.
    ///
    /// # Errors
    /// If the file can't be created, or standard error not be had.
    pub fn open(items: Items, path: Option<&str>) -> io::Result<Self> {
        let file = match path {
            Some(path) => files::create(Path::new(path))?,
            None => File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 0)?).into(),
        };
        Ok(Self::new(items, Box::new(file)))
    }

    /// A log to wherever `to` leads.
    pub fn new(items: Items, to: Box<dyn io::Write + Send>) -> Self {
        let output = Output {
            to: Some(to),
            waiting: String::new(),
            interrupts: 0,
        };
        Self {
            items,
            output: Mutex::new(output),
        }
    }

    /// Whether one of these items is logged.
    pub fn wants(&self, items: Items) -> bool {
        self.items.intersects(items)
    }

    /// What a processor is to tell of for these items.
    pub fn watch(&self) -> Watch {
        let mut watch = Watch::empty();
        watch.set(Watch::DECODED, self.wants(Items::IN_ASM));
        watch.set(Watch::ENTERED, self.wants(Items::EXEC | Items::CPU));
        watch.set(Watch::DELIVERED, self.wants(Items::INT));
        watch
    }

    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a processor's state before a reset: [`Items::CPU_RESET`].
    pub fn reset(&self, cpu: u32, state: &str) {
        if self.wants(Items::CPU_RESET) {
            let mut output = self.lock();
            output.put(format_args!("CPU Reset (CPU {cpu})\n{state}\n"));
            output.flush();
        }
    }

    /// Logs a block's instructions when they are decoded: [`Items::IN_ASM`]. `address` is the linear address of its first
    /// byte, and `bytes` are all of it.
    pub fn decoded(&self, address: u64, bytes: &[u8], code: CodeSize) {
        if !self.wants(Items::IN_ASM) {
            return;
        }
        let mut output = self.lock();
        output.put(format_args!("----------------\nIN: \n"));
        let mut at = 0;
        while let Some(rest @ [_, ..]) = bytes.get(at..) {
            let address = address.wrapping_add(at as u64);
            match list(&mut output.waiting, address, rest, code) {
                // Writing to a string does not fail; and a block's last instruction is whole.
                Err(_) | Ok(0) => break,
                Ok(length) => at += length,
            }
        }
        output.put(format_args!("\n"));
    }

    /// Logs that a processor enters the block at a linear address: [`Items::EXEC`], and [`Items::CPU`] with its
    /// registers.
    pub fn entered(&self, cpu: u32, address: u64, registers: &Registers) {
        if self.wants(Items::EXEC) {
            self.lock()
                .put(format_args!("Trace {cpu}: [{address:016x}]\n"));
        }
        if self.wants(Items::CPU) {
            let text = text_of(registers);
            self.lock().put(format_args!("{text}"));
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
        let mut output = self.lock();
        if *cause == Cause::Hardware {
            output.put(format_args!(
                "CPU {cpu}: servicing hardware INT={vector:#04x}\n"
            ));
        }
        let count = output.interrupts;
        output.interrupts += 1;
        let [_, cs, ss, ..] = &registers.segments;
        let software = u8::from(*cause == Cause::Software);
        let error = error_code.unwrap_or(0);
        output.put(format_args!(
            "{count:6}: CPU {cpu} v={vector:02x} e={error:04x} i={software} cpl={} IP={:04x}:{:016x} pc={:016x} \
             SP={:04x}:{:016x} ",
            ss.dpl,
            cs.selector,
            registers.rip,
            registers.pc(),
            ss.selector,
            registers.gpr[gpr::RSP],
        ));
        match vector {
            // The page fault, whose address is worth more than RAX.
            14 => output.put(format_args!("CR2={cr2:016x}\n")),
            _ => output.put(format_args!("RAX={:016x}\n", registers.gpr[gpr::RAX])),
        }
        let text = text_of(registers);
        output.put(format_args!("{text}"));
        output.flush();
    }

    /// Writes what waits: when a processor has nothing more to do.
    pub fn flush(&self) {
        self.lock().flush();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Output {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.waiting.write_fmt(text);
        if self.waiting.len() >= WAITING_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(to) = &mut self.to
            && let Err(error) = to.write_all(self.waiting.as_bytes())
        {
            self.to = None;
            report(format_args!(
                "the log ends, as it can't be written: {error}"
            ));
        }
        self.waiting.clear();
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
    use std::sync::Arc;

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

    struct Broken;

    impl io::Write for Broken {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(items: Items, tell: impl FnOnce(&Sink)) -> String {
        let memory = Memory::default();
        let sink = Sink::new(items, Box::new(memory.clone()));
        tell(&sink);
        drop(sink);
        memory.text()
    }

    fn registers() -> Registers {
        let mut registers = Registers::from(&CpuState::power_on(0, true, 0x600));
        registers.gpr[gpr::RSP] = 0x7c00;
        registers.rflags |= 1 << 6 | 1;
        registers
    }

    #[test]
    fn items_have_names() {
        assert_eq!(Items::parse("in_asm,exec"), Ok(Items::IN_ASM | Items::EXEC));
        assert_eq!(Items::parse("all"), Ok(Items::all()));
        assert_eq!(Items::parse("int,op"), Err("op"));
        assert_eq!(Items::parse(""), Err(""));
        assert_eq!(Items::parse("int,"), Err(""));
        for (name, item, _) in ITEMS {
            assert_eq!(Items::parse(name), Ok(item));
            assert_eq!(item.names(), name);
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
    fn a_full_disk_ends_the_log() {
        let sink = Sink::new(Items::all(), Box::new(Broken));
        for _ in 0..10_000 {
            sink.decoded(0, &[0x90; 64], CodeSize::Bits32);
        }
        let output = sink.lock();
        assert!(output.to.is_none());
        assert!(output.waiting.capacity() < 4 * WAITING_MAX);
    }

    #[test]
    fn resets_are_written_at_once_and_blocks_in_pieces() {
        let memory = Memory::default();
        let sink = Sink::new(Items::all(), Box::new(memory.clone()));
        sink.decoded(0, &[0x90], CodeSize::Bits32);
        assert_eq!(memory.text(), "");
        sink.reset(0, "");
        assert!(memory.text().ends_with("CPU Reset (CPU 0)\n\n"));
        let before = memory.text().len();
        for _ in 0..1000 {
            sink.decoded(0, &[0x90; 64], CodeSize::Bits32);
        }
        assert!(memory.text().len() > before + WAITING_MAX);
    }
}
