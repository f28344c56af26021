//! Lines and their text. What QEMU says to the same lines is compared in `qemu-tests`; here are edges that need other
//! memory, other registers or another sink.

use std::format;
use std::string::{String, ToString};

use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest};
use thimble_core::machine::{Config, Host, Machine};
use thimble_core::memory::{ArrayRam, GuestRam};

use super::table::{ARGUMENTS_MAX, INFO, Kind, Names, sorted};
use super::*;
use crate::InMemory;

const RAM: usize = 64 << 10;

pub(super) struct Deaf;

impl Host for Deaf {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
    fn set_intr(&mut self, _level: bool) {}
    fn power(&mut self, _request: PowerRequest) {}
    fn guest_event(&mut self, _event: GuestEvent) {}
    fn memory_remapped(&mut self) {}
    fn set_a20(&mut self, _enabled: bool) {}
}

/// A machine of 64 KiB with the given bytes at 1000h, and zeros elsewhere.
pub(super) fn machine(bytes: &[u8]) -> InMemory<'static, Deaf> {
    let ram: &'static ArrayRam<RAM> = std::boxed::Box::leak(std::boxed::Box::new(ArrayRam::new()));
    ram.write(0x1000, bytes).unwrap();
    let config = Config {
        rom: &[0; 4096],
        ..Config::new(ram, RAM as u64)
    };
    InMemory::new(Machine::new(config).unwrap(), Deaf)
}

/// What a line writes, with plain line feeds.
fn say(machine: &mut InMemory<'static, Deaf>, line: &str) -> String {
    let mut text = heapless::Vec::<u8, 65536>::new();
    execute(line.as_bytes(), machine, &mut 0, &mut Text::new(&mut text)).unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    text.replace("\r\n", "\n")
}

fn value(expression: &str) -> String {
    let text = say(&mut machine(&[]), &format!("print/x {expression}"));
    text.trim_end().to_string()
}

#[test]
fn operators_bind_in_three_levels() {
    for (expression, expected) in [
        ("1+2&3", "0x3"),
        ("7&3+1", "0x4"),
        ("2*3&6", "0x6"),
        ("1|6^2*3", "0x1"),
        ("10-3-2", "0x5"),
        ("100/7%4", "0x2"),
        ("(1+2)*3", "0x9"),
        (" ( 1 + 2 ) * 3 ", "0x9"),
        ("-7/2", "0xfffffffffffffffd"),
        ("-7%4", "0xfffffffffffffffd"),
        ("--5", "0x5"),
        ("~-1", "0"),
        ("-~1", "0x2"),
        ("~~-~5", "0x6"),
        ("- +~ 5", "0x6"),
        ("'a'+1", "0x62"),
        ("'''", "0x27"),
        ("010", "0x8"),
        ("0X1F", "0x1f"),
        // What the processor would trap at.
        ("0x8000000000000000/-1", "0x8000000000000000"),
        ("0x8000000000000000%-1", "0"),
        ("0xffffffffffffffff+1", "0"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn errors_of_expressions() {
    for (expression, expected) in [
        ("", "unexpected end of expression"),
        ("1+", "unexpected end of expression"),
        ("abc", "invalid char 'a' in expression"),
        ("é", "invalid char '\u{fffd}' in expression"),
        ("1/(2-2)", "division by zero"),
        ("1%0", "division by zero"),
        ("(1", "')' expected"),
        ("18446744073709551616", "number too large"),
        ("'", "character constant expected"),
        ("'ab'", "missing terminating ' character"),
        ("$", "unknown register"),
        ("$r08", "unknown register"),
        ("$r16", "unknown register"),
        ("$r+8", "unknown register"),
        ("$cs.foo", "unknown register"),
    ] {
        let expected = format!("{expected}\nTry \"help p\" for more information\n");
        assert_eq!(say(&mut machine(&[]), &format!("p {expression}")), expected);
    }
    for rest in ["08", "0x", "1 2", "3)"] {
        let expected = "print|p: extraneous characters at the end of line\n\
                        Try \"help p\" for more information\n";
        assert_eq!(say(&mut machine(&[]), &format!("p {rest}")), expected);
    }
}

#[test]
fn nesting_has_an_end() {
    let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(value(&nested(64)), "0x1");
    let refused = value(&nested(65));
    assert!(
        refused.starts_with("parentheses are nested more than 64 deep\n"),
        "{refused}"
    );
    // Signs are none.
    assert_eq!(value(&format!("{}1", "-".repeat(100_000))), "0x1");
    assert_eq!(value(&format!("{}1", "1+".repeat(100_000))), "0x186a1");
}

#[test]
fn registers_have_names() {
    let mut machine = machine(&[]);
    for (at, register) in (1..).zip(&mut machine.registers.gpr) {
        *register = 0x11 * at;
    }
    machine.registers.segments[4].base = 0xffff_8000_0000_0000;
    machine.registers.segments[5].limit = 0xffff_ffff;
    for (name, expected) in [
        ("eax", "0x11"),
        ("rax", "0x11"),
        ("ecx", "0x22"),
        ("edx", "0x33"),
        ("ebx", "0x44"),
        ("sp", "0x55"),
        ("rsp", "0x55"),
        ("fp", "0x66"),
        ("ebp", "0x66"),
        ("esi", "0x77"),
        ("rdi", "0x88"),
        ("r8", "0x99"),
        ("r9", "0xaa"),
        ("r10", "0xbb"),
        ("r15", "0x110"),
        ("eip", "0xfff0"),
        ("rip", "0xfff0"),
        ("pc", "0xfffffff0"),
        ("eflags", "0x2"),
        ("cs", "0xf000"),
        ("cs.base", "0xffff0000"),
        ("cs.limit", "0xffff"),
        ("fs.base", "0xffff800000000000"),
        ("gs.limit", "0xffffffff"),
    ] {
        let text = say(&mut machine, &format!("p/x ${name}"));
        assert_eq!(text.trim_end(), expected, "{name}");
    }
    assert_eq!(say(&mut machine, "p/x $eax + $ecx*2\n").trim_end(), "0x55");
}

#[test]
fn formats_last() {
    let mut machine = machine(&[0xff, 0x80, 1, 0x27, b'A', b'\n', 0, 0]);
    for (line, expected) in [
        ("x 0x1000", "0000000000001000: 0x270180ff\n"),
        ("x/2xb 0x1000", "0000000000001000: 0xff 0x80\n"),
        ("x 0x1000", "0000000000001000: 0xff\n"),
        ("x/2d 0x1000", "0000000000001000: 255 128\n"),
        ("xp/h 0x1000", "0000000000001000: 33023\n"),
        ("x/2o 0x1000", "0000000000001000: 0100377 023401\n"),
        ("x/ob 0x1006", "0000000000001006:   0\n"),
        ("x/1dg 0x1000", "0000000000001000:       11274943561983\n"),
        (
            "x/6cb 0x1000",
            "0000000000001000: '\\xff' '\\x80' '\\x01' '\\'' 'A' '\\n'\n",
        ),
        // As many bytes as items of that size would have.
        (
            "x/cg 0x1000",
            "0000000000001000: '\\xff' '\\x80' '\\x01' '\\'' 'A' '\\n' '\\x00' '\\x00'\n",
        ),
        ("p 300", "'\\x12c'\n"),
        ("p/i 5", "5\n"),
        (
            "x 0x1001",
            "0x00001001:  80 01 27                 addb     $0x27, (%bx, %di)\n",
        ),
        // The size of before the instructions.
        ("x/x 0x1000", "0000000000001000: 0x00000a41270180ff\n"),
        ("x/0x 0x1000", ""),
        ("x/ 0x1000", "0000000000001000: 0x00000a41270180ff\n"),
    ] {
        assert_eq!(say(&mut machine, line), expected, "{line}");
    }
    // What fails at the address is noted, what fails in the format is not.
    say(&mut machine, "x/db zz");
    assert_eq!(say(&mut machine, "x 0x1000"), "0000000000001000: 255\n");
    let refused = say(&mut machine, "x/wq 0x1000");
    assert_eq!(
        refused,
        "invalid char in format: 'q'\nTry \"help x\" for more information\n"
    );
    assert_eq!(say(&mut machine, "x 0x1000"), "0000000000001000: 255\n");
}

#[test]
fn memory_ends() {
    let mut machine = machine(&[]);
    assert_eq!(
        say(&mut machine, "x/6xw 0xfff0"),
        "000000000000fff0: 0x00000000 0x00000000 0x00000000 0x00000000\n\
         0000000000010000: Cannot access memory\n"
    );
    // A whole line is read or nothing.
    assert_eq!(
        say(&mut machine, "xp/4xb 0xfffe"),
        "000000000000fffe: Cannot access memory\n"
    );
    // Instructions go as far as there are bytes.
    assert_eq!(
        say(&mut machine, "x/4i 0xfffb"),
        "0x0000fffb:  00 00                    addb     %al, (%bx, %si)\n\
         0x0000fffd:  00 00                    addb     %al, (%bx, %si)\n\
         0x0000ffff: unable to read memory\n"
    );
    assert_eq!(
        say(&mut machine, "x/i -1"),
        "0xffffffffffffffff: unable to read memory\n"
    );
    assert_eq!(
        say(&mut machine, "xp/8xg -8"),
        "fffffffffffffff8: Cannot access memory\n"
    );
}

#[test]
fn code_is_shown_as_it_is_run() {
    // REX.W or DEC, a long constant, and what is no instruction.
    let code = [
        0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 0x88, 0x0f, 0x04, 0xf3, 0xa4,
    ];
    let mut machine = machine(&code);
    assert_eq!(
        say(&mut machine, "x/2i 0x1000"),
        "0x00001000:  48                       decw     %ax\n\
         0x00001001:  b8 01 02                 movw     $0x201, %ax\n"
    );
    machine.registers.segments[1].big = true;
    assert_eq!(
        say(&mut machine, "x/2i 0x1000"),
        "0x00001000:  48                       decl     %eax\n\
         0x00001001:  b8 01 02 03 04           movl     $0x4030201, %eax\n"
    );
    machine.registers.segments[1].long = true;
    machine.registers.paging.cr0 = 1 << 31 | 1;
    machine.registers.paging.cr4 = 1 << 5;
    machine.registers.paging.efer = 1 << 8 | 1 << 10;
    assert_eq!(
        say(&mut machine, "xp/4i 0x1000"),
        "0x00001000:  48 b8 01 02 03 04 05 06  movabsq  $0x8807060504030201, %rax\n\
         0x00001008:  07 88\n\
         0x0000100a:  0f                       .byte    0x0f\n\
         0x0000100b:  04 f3                    addb     $0xf3, %al\n\
         0x0000100d:  a4                       movsb    (%rsi), (%rdi)\n"
    );
    // Nothing is mapped.
    assert_eq!(
        say(&mut machine, "x/4i 0x1000"),
        "0x00001000: unable to read memory\n"
    );
}

#[test]
fn linear_addresses_are_translated() {
    // A page directory with one page table; the table maps its second page to 1000h, and the third to nothing.
    let mut machine = machine(b"ABCD");
    let ram = machine.machine.ram();
    ram.write(0x2000, &0x3001_u32.to_le_bytes()).unwrap();
    ram.write(0x3004, &0x1001_u32.to_le_bytes()).unwrap();
    ram.write(0x3000, &0x4001_u32.to_le_bytes()).unwrap();
    ram.write(0x4ffe, b"yz").unwrap();
    machine.registers.paging.cr0 = 1 << 31 | 1;
    machine.registers.paging.cr3 = 0x2000;
    assert_eq!(
        say(&mut machine, "x/6cb 0xffe"),
        "0000000000000ffe: 'y' 'z' 'A' 'B' 'C' 'D'\n"
    );
    assert_eq!(
        say(&mut machine, "x/4cb 0x1ffe"),
        "0000000000001ffe: Cannot access memory\n"
    );
    assert_eq!(
        say(&mut machine, "xp/2cb 0xffe"),
        "0000000000000ffe: '\\x00' '\\x00'\n"
    );
}

#[test]
fn help_tells_what_there_is() {
    let mut machine = machine(&[]);
    let all = say(&mut machine, "help");
    assert_eq!(all, say(&mut machine, " ?  "));
    let info = say(&mut machine, "help info");
    assert_eq!(info, say(&mut machine, "info "));
    for (menu, before, all) in [(COMMANDS, "", all), (INFO, "info ", info)] {
        let lines: std::vec::Vec<&str> = all.lines().filter(|line| line.contains(" -- ")).collect();
        assert_eq!(lines.len(), sorted(menu).count());
        assert!(lines.is_sorted(), "{all}");
        for command in menu.iter().copied().flatten() {
            for name in command.names.split('|').filter(|name| *name != "info") {
                let one = say(&mut machine, &format!("help {before}{name} and more"));
                assert!(
                    all.contains(&one) && one.starts_with(&format!("{before}{}", command.names)),
                    "{one}"
                );
                assert_eq!(say(&mut machine, &format!("? {before}\"{name}\"")), one);
            }
        }
    }
    assert_eq!(
        say(&mut machine, "help info foo bar"),
        "unknown command: 'info foo'\n"
    );
    assert_eq!(
        say(&mut machine, "help foo bar"),
        "unknown command: 'foo'\n"
    );
    assert_eq!(
        say(&mut machine, "help \"x"),
        "unterminated string literal\nTry \"help help\" for more information\n"
    );
}

#[test]
fn what_is_no_command() {
    let mut machine = machine(&[]);
    assert_eq!(say(&mut machine, ""), "");
    assert_eq!(say(&mut machine, " \t"), "");
    assert_eq!(say(&mut machine, "xx/i 0"), "unknown command: 'xx'\n");
    assert_eq!(say(&mut machine, "X 0"), "unknown command: 'X'\n");
    assert_eq!(say(&mut machine, "/x 0"), "unknown command: ''\n");
    assert_eq!(say(&mut machine, "help/x"), "unknown command: '/x'\n");
}

#[test]
fn a_full_sink_is_told() {
    let mut machine = machine(&[]);
    let mut text = heapless::Vec::<u8, 1000>::new();
    let line = b"x/18446744073709551615xb 0";
    let full = execute(line, &mut machine, &mut 0, &mut Text::new(&mut text));
    assert_eq!(full, Err(SinkFull));
    assert!(text.len() > 900);
}

/// What the parser and completion rely on.
#[test]
fn rows_are_sound() {
    for command in [COMMANDS, INFO]
        .iter()
        .flat_map(|menu| menu.iter().copied().flatten())
    {
        let name = command.names;
        let arguments = command.arguments;
        assert!(arguments.len() <= ARGUMENTS_MAX, "{name}");
        assert!(
            !command.help.is_empty() && !command.help.ends_with('\n'),
            "{name}"
        );
        // Behind what may be missing, all may; a flag is where its dash is.
        let values = arguments
            .iter()
            .filter(|argument| !matches!(argument.kind, Kind::Flag(_)));
        assert!(
            values
                .clone()
                .is_sorted_by_key(|argument| argument.optional),
            "{name}"
        );
        for argument in arguments {
            let words = matches!(argument.kind, Kind::Text | Kind::Rest);
            match argument.names {
                Names::Any => {}
                Names::Switch => assert_eq!(argument.kind, Kind::Switch, "{name}"),
                Names::Files => assert_eq!(argument.kind, Kind::File, "{name}"),
                Names::Drives => assert_eq!(argument.kind, Kind::Drive, "{name}"),
                Names::Commands | Names::Keys | Names::TraceEvents | Names::Words(_) => {
                    assert!(words, "{name}")
                }
            }
        }
        let others = [COMMANDS, INFO]
            .into_iter()
            .filter(|menu| {
                menu.iter()
                    .copied()
                    .flatten()
                    .any(|other| core::ptr::eq(other, command))
            })
            .flat_map(|menu| menu.iter().copied().flatten())
            .filter(|other| name.split('|').any(|name| other.is(name.as_bytes())));
        assert_eq!(others.count(), 1, "{name} is there twice");
    }
}

#[test]
fn arguments_are_what_rows_say() {
    let mut machine = machine(b"");
    for (line, expected) in [
        ("memsave", "unexpected end of expression"),
        ("memsave 0 1", "memsave: string expected"),
        ("memsave 0 1 \"ab", "memsave: string expected"),
        ("memsave 0 1 \"a\\qb\"", "memsave: string expected"),
        (
            "memsave 0 1 a b",
            "memsave: extraneous characters at the end of line",
        ),
        (
            "memsave 0 (-1) a",
            "'memsave' has failed: integer is for 32-bit values",
        ),
        (
            "memsave 0 0x100000000 a",
            "'memsave' has failed: integer is for 32-bit values",
        ),
        (
            "cpu 99999999999",
            "'cpu' has failed: integer is for 32-bit values",
        ),
        (
            "stop now",
            "stop|s: extraneous characters at the end of line",
        ),
        ("quit/x", "quit|q: extraneous characters at the end of line"),
        (
            "info  status x",
            "status: extraneous characters at the end of line",
        ),
    ] {
        let name = match line.split_once(' ') {
            Some(("info", _)) => "info  status",
            _ => line.split([' ', '/']).next().unwrap(),
        };
        let expected = format!("{expected}\nTry \"help {name}\" for more information\n");
        assert_eq!(say(&mut machine, line), expected, "{line}");
    }
    assert_eq!(machine.done, 0);
    assert_eq!(machine.saving, None);
}

#[test]
fn strings_are_unquoted() {
    for (text, name) in [
        ("plain\"quote", &b"plain\"quote"[..]),
        ("\"with space\"", b"with space"),
        (r#""a\\\"\'\n\rb""#, b"a\\\"'\n\rb"),
        ("back\\slash", b"back\\slash"),
    ] {
        let mut machine = machine(b"");
        let mut text_of = heapless::Vec::<u8, 100>::new();
        let line = format!("pmemsave 0x1000 2 {text}");
        let done = execute(
            line.as_bytes(),
            &mut machine,
            &mut 0,
            &mut Text::new(&mut text_of),
        );
        let (job, saved) = machine.saving.expect("a job");
        assert_eq!(done, Ok(Outcome::Pending(job)));
        assert_eq!((saved.address, saved.size), (0x1000, 2));
        assert_eq!(saved.filename, name);
        assert!(text_of.is_empty());
    }
    let long = "\\n".repeat(STRING_MAX + 1);
    let refused = say(&mut machine(b""), &format!("pmemsave 0 1 \"{long}\""));
    assert!(refused.starts_with("pmemsave: string expected\n"));
}

#[test]
fn what_waits_for_the_machine() {
    let mut machine = machine(b"");
    machine.preconfig = true;
    assert_eq!(
        say(&mut machine, "stop"),
        "Command 'stop' not available until machine initialization has completed.\n"
    );
    assert_eq!(say(&mut machine, "help stop"), "unknown command: 'stop'\n");
    assert!(!say(&mut machine, "help").contains("stop"));
    assert_eq!(
        say(&mut machine, "info status"),
        "VM status: paused (prelaunch)\n"
    );
    assert_eq!(say(&mut machine, "exit_preconfig"), "");
    assert_eq!(
        say(&mut machine, "exit_preconfig"),
        "Error: The command is permitted only before machine initialization\n"
    );
    assert!(say(&mut machine, "help").contains("stop"));
}

/// A machine in 64-bit mode whose root table is at 2000h.
fn long_mode() -> InMemory<'static, Deaf> {
    let mut machine = machine(&[]);
    machine.registers.paging.cr0 = 1 << 31 | 1;
    machine.registers.paging.cr3 = 0x2000;
    machine.registers.paging.cr4 = 1 << 5;
    machine.registers.paging.efer = 1 << 8 | 1 << 10;
    machine
}

fn put(machine: &InMemory<'static, Deaf>, table: u64, index: u64, entry: u64) {
    let ram = machine.machine.ram();
    ram.write(table + 8 * index, &entry.to_le_bytes()).unwrap();
}

#[test]
fn pages_are_listed_and_joined() {
    let mut machine = long_mode();
    put(&machine, 0x2000, 0, 0x3007);
    put(&machine, 0x2000, 511, 0x3003);
    put(&machine, 0x3000, 0, 0x4067);
    put(&machine, 0x4000, 0, 0x5007);
    put(&machine, 0x4000, 1, 0x0020_01e7);
    put(&machine, 0x5000, 510, 1 << 63 | 0x6085);
    put(&machine, 0x5000, 511, 0x7107);
    assert_eq!(
        say(&mut machine, "info tlb"),
        "00000000001fe000: 0000000000006000 X------U-\n\
         00000000001ff000: 0000000000007000 -G-----UW\n\
         0000000000200000: 0000000000200000 -GPDA--UW\n\
         ffffff80001fe000: 0000000000006000 X------U-\n\
         ffffff80001ff000: 0000000000007000 -G-----UW\n\
         ffffff8000200000: 0000000000200000 -GPDA--UW\n"
    );
    assert_eq!(
        say(&mut machine, "info mem"),
        "00000000001fe000-00000000001ff000 0000000000001000 ur-\n\
         00000000001ff000-0000000000400000 0000000000201000 urw\n\
         ffffff80001fe000-ffffff80001ff000 0000000000001000 -r-\n\
         ffffff80001ff000-ffffff8000400000 0000000000201000 -rw\n"
    );
    assert_eq!(say(&mut machine, "gva2gpa 0x1ff123"), "gpa: 0x7123\n");
    assert_eq!(say(&mut machine, "gva2gpa 0x1fd123"), "Unmapped\n");
}

/// What a hostile guest may have: a table that names itself everywhere, and so maps itself at all addresses.
#[test]
fn listings_of_endless_tables_end() {
    let mut machine = long_mode();
    for index in 0..512 {
        put(&machine, 0x2000, index, 0x2007);
    }
    let mut text = std::vec::Vec::new();
    struct Endless<'v>(&'v mut std::vec::Vec<u8>);
    impl Sink for Endless<'_> {
        fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    let mut sink = Endless(&mut text);
    let done = execute(b"info tlb", &mut machine, &mut 0, &mut Text::new(&mut sink));
    assert_eq!(done, Ok(Outcome::Done));
    assert!(
        text.len() < crate::MONITOR_OUT_MAX * 7 / 8,
        "{}",
        text.len()
    );
    assert!(text.ends_with(b"there is more than 65536 lines have room for\r\n"));
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 65537);
    // All of the same rights, as far as it was looked at.
    let joined = say(&mut machine, "info mem");
    assert_eq!(
        joined.lines().nth(1),
        Some("there are more than 8192 page tables"),
        "{joined}"
    );
    // And without a single page at the end.
    for index in 0..512 {
        put(&machine, 0x2000, index, 0x3007);
        put(&machine, 0x3000, index, 0x4007);
        put(&machine, 0x4000, index, 0x5007);
    }
    let nothing = say(&mut machine, "info mem");
    assert_eq!(nothing, "there are more than 8192 page tables\n");
}

#[test]
fn ports_are_read_and_written() {
    let mut machine = machine(&[]);
    for (line, text) in [
        ("o/b 0x70 0x30", ""),
        ("o/b 0x71 0x15a", ""),
        ("i/b 0x71", "portb[0x0071] = 0x5a\n"),
        ("i/h 0x10070", "portw[0x0070] = 0x5aff\n"),
        ("i/g 0x71", "portb[0x0071] = 0x000000000000005a\n"),
        ("i/w 0x7ff0", "portl[0x7ff0] = 0xffffffff\n"),
        ("o/h 0x70 0xa531", ""),
        ("i/b 0x71", "portb[0x0071] = 0xa5\n"),
    ] {
        assert_eq!(say(&mut machine, line), text, "{line}");
    }
}

#[test]
fn sums_are_bounded() {
    let mut machine = machine(&[1, 2, 3, 0xff]);
    // As `sum` of BSD has it.
    assert_eq!(say(&mut machine, "sum 0x1000 4"), "08449\n");
    assert_eq!(say(&mut machine, "sum 0x10000 100000"), "00000\n");
    assert_eq!(
        say(&mut machine, "sum 0 0x4000001"),
        "Error: 'size' is larger than the limit (67108864 bytes)\n"
    );
}

#[test]
fn the_host_has_its_addresses() {
    let mut machine = machine(&[]);
    let pointer = machine.machine.ram().block(0x1234).unwrap().pointer;
    assert_eq!(
        say(&mut machine, "gpa2hva 0x1234"),
        format!(
            "Host virtual address for 0x1234 (pc.ram) is {:#x}\n",
            pointer.addr()
        )
    );
    assert!(say(&mut machine, "gpa2hpa 0").starts_with("Error: There is no host"));
}

#[test]
fn a_processor_is_chosen_for_the_lines_that_follow() {
    let mut machine = machine(&[]);
    machine.cpus = 3;
    let mut cpu = 0;
    let mut say = |line: &str| {
        let mut text = heapless::Vec::<u8, 4096>::new();
        execute(
            line.as_bytes(),
            &mut machine,
            &mut cpu,
            &mut Text::new(&mut text),
        )
        .unwrap();
        String::from_utf8(text.to_vec()).unwrap()
    };
    assert_eq!(say("cpu 2"), "");
    assert!(say("info cpus").contains("\r\n* CPU #2: thread_id="));
    assert_eq!(say("cpu 3"), "invalid CPU index\r\n");
    assert!(say("info registers").starts_with("\r\nCPU#2\r\n"));
    assert!(say("info registers 1").starts_with("\r\nCPU#1\r\n"));
    assert_eq!(say("info registers -a").matches("CPU#").count(), 3);
    assert_eq!(say("info registers 3"), "CPU#3 not available\r\n");
    assert_eq!(
        say("info registers (-1)"),
        "'registers' has failed: integer is for 32-bit values\r\nTry \"help info registers\" for more information\r\n"
    );
}

/// 64-bit registers, descriptors of all kinds, and registers of the x87 by their numbers.
#[test]
fn registers_are_shown_in_the_width_of_the_code() {
    use thimble_core::cpu::{Activity, CpuState};
    let mut state = CpuState::power_on(0, true, 0x123);
    state.cr0 = 1 << 31 | 1;
    state.efer = 1 << 8 | 1 << 10;
    state.gpr[15] = u64::MAX;
    state.rflags = 0xc02;
    state.cs.long = true;
    state.cs.granular = true;
    state.cs.limit = u32::MAX;
    state.ds.kind = 7;
    state.ds.dpl = 3;
    state.ldtr.present = false;
    state.activity = Activity::Halted;
    state.events.shadow = 1;
    state.fpu.fsw = 6 << 11;
    state.fpu.st[0] = [1, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
    state.fpu.xmm[15] = 0x11 << 64 | 0x22;
    let mut text = heapless::Vec::<u8, 8192>::new();
    registers::show(&state, false, &mut Text::new(&mut text)).unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for line in [
        "R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=ffffffffffffffff",
        "RIP=000000000000fff0 RFL=00000c02 [DO-----] CPL=0 II=1 A20=0 SMM=0 HLT=1",
        "CS =f000 00000000ffff0000 ffffffff 00af9b00 DPL=0 CS64 [-RA]",
        "DS =0000 0000000000000000 0000ffff 0000f700 DPL=3 DS   [EWA]",
        "LDT=0000 0000000000000000 0000ffff 00000200",
        "TR =0000 0000000000000000 0000ffff 00008b00 DPL=0 TSS64-busy",
        "FCW=037f FSW=3000 [ST=6] FTW=00 MXCSR=00001f80",
        "FPR6=8000000000000001 3fff FPR7=0000000000000000 0000",
        "XMM14=0000000000000000 0000000000000000 XMM15=0000000000000011 0000000000000022",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}:\n{text}");
    }
}

/// What a QMP client reads: events, then the text of the line that caused them; errors of what went on in the background.
#[test]
fn by_qmp_events_come_before_short_texts() {
    use crate::{QmpError, Session};
    let mut machine = machine(&[]);
    machine.run_state = thimble_core::machine::RunState::Running;
    let mut session = std::boxed::Box::new(Session::new());
    let mut out = heapless::Vec::<u8, 65536>::new();
    session.open(&mut out).unwrap();
    out.clear();
    let mut send = |session: &mut Session, machine: &mut InMemory<'static, Deaf>, line: &str| {
        let command = format!(
            "{{'execute': 'human-monitor-command', 'arguments': {{'command-line': '{line}'}}}}"
        );
        out.clear();
        assert_eq!(
            session.feed(command.as_bytes(), machine, &mut out),
            command.len()
        );
        if let Some((_, saved)) = machine.saving.take() {
            assert!(out.is_empty());
            let result = match saved.size {
                1 => Err(QmpError::generic(format_args!("no room"))),
                _ => Ok(()),
            };
            session.complete(result, machine, &mut out);
        }
        String::from_utf8(out.to_vec()).unwrap()
    };
    let mut negotiated = heapless::Vec::<u8, 1000>::new();
    session.feed(
        b"{'execute': 'qmp_capabilities'}",
        &mut machine,
        &mut negotiated,
    );
    let mut say = |line: &str| send(&mut session, &mut machine, line);
    let stopped = say("stop");
    assert!(
        stopped.ends_with("\"event\": \"STOP\"}\r\n{\"return\": \"\"}\r\n"),
        "{stopped}"
    );
    assert_eq!(say("p 7"), "{\"return\": \"0x7\\r\\n\"}\r\n");
    assert_eq!(say("memsave 0 2 a"), "{\"return\": \"\"}\r\n");
    let refused = "{\"return\": \"Error: no room\\r\\n\"}\r\n";
    assert_eq!(say("memsave 0 1 a"), refused);
    let long = say("x/400xb 0");
    assert!(
        long.starts_with("{\"return\": \"0000000000000000: 0x00"),
        "{long}"
    );
    assert_eq!(long.matches("\\r\\n").count(), 50);
}
