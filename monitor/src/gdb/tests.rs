//! Packets and their answers on a machine in memory. What gdb makes of them is seen in `qemu-tests`; here are edges, bad
//! input, and what the owner is asked.

use std::boxed::Box;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use thimble_core::cpu::debugger::Resume;
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest};
use thimble_core::machine::{Config, Host, Machine};
use thimble_core::memory::{ArrayRam, GuestRam};

use super::*;
use crate::{DebugStop, InMemory};

const RAM: usize = 64 << 10;

struct Deaf;

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

type Out = heapless::Vec<u8, 65536>;

/// A machine of 64 KiB, and a debugger that has connected.
struct Debugged {
    vm: InMemory<'static, Deaf>,
    session: Session,
}

impl Debugged {
    fn new() -> Self {
        let ram: &'static ArrayRam<RAM> = Box::leak(Box::new(ArrayRam::new()));
        ram.write(0x1000, &[1, 2, 3, 4]).unwrap();
        let config = Config {
            rom: &[0xf4; 4096],
            ..Config::new(ram, RAM as u64)
        };
        let vm = InMemory::new(Machine::new(config).unwrap(), Deaf);
        let mut debugged = Self {
            vm,
            session: Session::new(),
        };
        debugged.session.open(&mut debugged.vm);
        debugged
    }

    /// What bytes are answered by.
    fn raw(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Out::new();
        self.session.feed(bytes, &mut self.vm, &mut out).unwrap();
        out.to_vec()
    }

    /// The same with bytes of packets alone.
    fn packets(&mut self, bytes: &[u8]) -> Vec<String> {
        packets(&self.raw(bytes))
    }

    /// What a packet is answered by: nothing, or one packet.
    fn ask(&mut self, packet: &[u8]) -> String {
        let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let framed = [b"$", packet, format!("#{sum:02x}").as_bytes()].concat();
        let mut answers = self.packets(&framed);
        assert!(answers.len() <= 1, "{answers:?}");
        answers.pop().unwrap_or_else(|| "nothing".to_string())
    }

    fn check(&mut self, all: &[(&str, &str)]) {
        for (packet, answer) in all {
            assert_eq!(self.ask(packet.as_bytes()), *answer, "{packet}");
        }
    }

    /// What the debugger is told when the VM may have stopped.
    fn settle(&mut self) -> Vec<String> {
        let mut out = Out::new();
        self.session.settle(&mut self.vm, &mut out).unwrap();
        packets(&out)
    }
}

fn packets(bytes: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(Direction::Answers);
    let mut found = Vec::new();
    for byte in bytes {
        match decoder.push(*byte) {
            Some(Item::Packet) => {
                found.push(String::from_utf8(decoder.packet().to_vec()).unwrap());
            }
            Some(Item::Ack) | None => {}
            other => panic!("{other:?}"),
        }
    }
    found
}

#[test]
fn the_target_is_described_in_pieces() {
    let mut debugged = Debugged::new();
    let mut whole = String::new();
    loop {
        let ask = format!("qXfer:features:read:target.xml:{:x},100", whole.len());
        let answer = debugged.ask(ask.as_bytes());
        whole.push_str(&answer[1..]);
        if answer.starts_with('l') {
            break;
        }
        assert!(answer.starts_with('m') && answer.len() == 0x101);
    }
    let mut text = String::new();
    registers::describe(&mut text).unwrap();
    assert_eq!(whole, text);
    // All that is left fits at the very end, and nothing behind it.
    let ask = |at: usize| format!("qXfer:features:read:target.xml:{at:x},fff");
    assert_eq!(debugged.ask(ask(whole.len() - 9).as_bytes()), "l</target>");
    assert_eq!(debugged.ask(ask(whole.len()).as_bytes()), "l");
    assert_eq!(debugged.ask(ask(usize::MAX).as_bytes()), "l");
    let long = debugged.ask(b"qXfer:features:read:target.xml:0,ffff");
    assert_eq!(long.len(), PACKET_MAX);
}

#[test]
fn registers_are_read_and_set() {
    let mut debugged = Debugged::new();
    let all = debugged.ask(b"g");
    assert_eq!(all.len(), 2 * registers::BYTES);
    debugged.check(&[
        ("p10", "f0ff000000000000"),
        ("P3=7856341200000000", "OK"),
        ("p3", "7856341200000000"),
        // CS, in real mode.
        ("P12=00100000", "OK"),
        ("p42", "E14"),
        ("pffffffffffffffff", "E14"),
        ("p", "E22"),
        ("p1;", "E22"),
        ("P3=00", "E22"),
        ("P3=785634120000000000", "E22"),
        ("P3", "E22"),
        ("P42=00", "E14"),
        ("G00", "E22"),
        // The flags can't be these: VM without protected mode is none's business, but CR0.PG is without PE.
        ("P1b=0000008000000000", "E22"),
    ]);
    assert_eq!(debugged.vm.debugged.state.cs.base, 0x10000);
    assert_eq!(debugged.vm.registers.gpr[2], 0x1234_5678);
    let set = format!("G{all}");
    assert_eq!(debugged.ask(set.as_bytes()), "OK");
    assert_eq!(debugged.ask(b"g"), all);
}

#[test]
fn memory_is_read_and_written() {
    let mut debugged = Debugged::new();
    debugged.check(&[
        ("m1000,4", "01020304"),
        ("m1002,1", "03"),
        ("M1001,2:aabb", "OK"),
        ("m1000,4", "01aabb04"),
        ("X1003,2:xy", "OK"),
        ("m1000,6", "01aabb787900"),
        ("X0,0:", "OK"),
        // The firmware can be read.
        ("mfffffff0,2", "f4f4"),
        ("Mfffffff0,1:00", "E14"),
        // Behind RAM nothing answers; what is before it is not told.
        ("mffff,2", "E14"),
        ("mf0000000,1", "E14"),
        ("mffffffffffffffff,1", "E14"),
        ("M10000,1:00", "E14"),
        ("m0,801", "E22"),
        ("m0,ffffffffffffffff", "E22"),
        ("m10000000000000000,1", "E22"),
        ("m", "E22"),
        ("m0", "E22"),
        ("m0,1;", "E22"),
        ("M0,2:00", "E22"),
        ("M0,1:0g", "E22"),
        ("M0,1", "E22"),
        ("X0,2:x", "E22"),
    ]);
    let long = debugged.ask(b"m0,800");
    assert_eq!(long.len(), PACKET_MAX);
}

#[test]
fn addresses_are_linear_or_physical() {
    let mut debugged = Debugged::new();
    // 4 MiB pages: 1 GiB is the beginning.
    let ram = debugged.vm.machine.ram();
    ram.write(0x2000 + 0x100 * 4, &0x83u32.to_le_bytes())
        .unwrap();
    let paging = &mut debugged.vm.registers.paging;
    (paging.cr0, paging.cr3, paging.cr4) = (0x8000_0001, 0x2000, 0x10);
    debugged.check(&[
        ("m40001000,2", "0102"),
        ("M40001000,1:77", "OK"),
        ("m1000,2", "E14"),
        ("qqemu.PhyMemMode", "0"),
        ("Qqemu.PhyMemMode:1", "OK"),
        ("qqemu.PhyMemMode", "1"),
        ("m1000,2", "7702"),
        ("M1001,1:88", "OK"),
        ("Qqemu.PhyMemMode:0", "OK"),
        ("m40001001,1", "88"),
        ("Qqemu.PhyMemMode:", "E22"),
    ]);
}

#[test]
fn breakpoints_of_all_kinds_come_and_go() {
    let mut debugged = Debugged::new();
    debugged.check(&[
        ("Z0,1000,1", "OK"),
        ("Z0,1000,1", "OK"),
        ("Z1,1000,1", "OK"),
        ("Z2,2000,4", "OK"),
        ("Z3,2000,4", "OK"),
        ("Z4,2000,4;X", "OK"),
        ("Z2,2000,0", "E22"),
        ("Z5,2000,1", ""),
        ("Z0,1000", "E22"),
        ("Z", "E22"),
        ("z0,3000,1", "OK"),
        ("z1,1000,1", "OK"),
        ("z4,2000,4", "OK"),
    ]);
    let breaks = &debugged.vm.debugged.breaks;
    assert_eq!(breaks.breakpoints().len(), 1);
    assert_eq!(breaks.watchpoints().len(), 2);
    assert_eq!(debugged.ask(b"?"), "T05thread:01;");
    assert!(debugged.vm.debugged.breaks.is_empty());
}

#[test]
fn running_and_stopping() {
    let mut debugged = Debugged::new();
    debugged.vm.cpus = 2;
    let supported = debugged.ask(b"qSupported:multiprocess+;swbreak+");
    assert!(supported.starts_with("PacketSize=1000;"));
    for (packet, resumed) in [
        ("c", Resume::Run),
        ("c1000", Resume::Run),
        ("C05", Resume::Run),
        ("s", Resume::StepOverInterrupts),
        ("S05;1000", Resume::StepOverInterrupts),
        ("vCont;c", Resume::Run),
        ("vCont;s:p1.1;c", Resume::StepOverInterrupts),
        ("vCont;s:p1.2", Resume::Stay),
        ("vCont;S05:p1.2;C05:p1.1", Resume::Run),
        ("vCont;c:p1.2;s:p1.-1", Resume::StepOverInterrupts),
        ("vCont;c:p1", Resume::Run),
        ("vCont;s:0", Resume::StepOverInterrupts),
    ] {
        assert_eq!(debugged.ask(packet.as_bytes()), "nothing", "{packet}");
        assert_eq!(debugged.vm.run_state, RunState::Running);
        assert_eq!(debugged.vm.debugged.resumed, resumed, "{packet}");
        assert!(debugged.settle().is_empty());
        assert_eq!(debugged.packets(&[gdb::INTERRUPT]), ["T02thread:p01.01;"]);
        assert_eq!(debugged.vm.run_state, RunState::Paused);
        assert!(debugged.settle().is_empty());
    }
    assert_eq!(debugged.vm.debugged.state.rip, 0x1000);
    debugged.check(&[
        ("vCont", ""),
        ("vCont;", "E22"),
        ("vCont;t", "E22"),
        ("vCont;c;x", "E22"),
        ("vCont;s:3", "E22"),
        ("vCont;s:p2.1", "E22"),
        ("vCont;c:", "E22"),
        ("vCont;C", "E22"),
        ("C", "E22"),
        ("c1000x", "E22"),
        ("S05:1", "E22"),
    ]);
    assert_eq!(debugged.vm.run_state, RunState::Paused);
    // What needs a reset can't run, and says why it stands still.
    debugged.vm.run_state = RunState::Shutdown;
    assert_eq!(debugged.ask(b"c"), "T03thread:p01.01;");
    debugged.vm.run_state = RunState::InternalError;
    assert_eq!(debugged.ask(b"s"), "T06thread:p01.01;");
}

#[test]
fn stops_say_why() {
    let mut debugged = Debugged::new();
    debugged.vm.cpus = 2;
    let at = |hardware| {
        Hit::Breakpoint(Breakpoint {
            address: 0x1000,
            hardware,
        })
    };
    let watch = |kind| Hit::Watchpoint(kind, 0xffff_8000_0000_1234);
    for (hit, plain, told) in [
        (Hit::Step, "", ""),
        (at(false), "", "swbreak:;"),
        (at(true), "", "hwbreak:;"),
        (watch(WatchKind::Write), "watch:ffff800000001234;", ""),
        (watch(WatchKind::Read), "rwatch:ffff800000001234;", ""),
        (watch(WatchKind::Access), "awatch:ffff800000001234;", ""),
    ] {
        for knows in [false, true] {
            debugged.session.open(&mut debugged.vm);
            if knows {
                debugged.ask(b"qSupported:swbreak+");
            }
            debugged.ask(b"c");
            debugged.vm.run_state = RunState::Debug;
            debugged.vm.debugged.stop = Some(DebugStop { cpu: 1, hit });
            debugged.vm.registers.rip = 0x1000;
            let more = if knows { told } else { "" };
            assert_eq!(debugged.settle(), [format!("T05thread:02;{plain}{more}")]);
            // It is who is meant from now on.
            assert_eq!(debugged.ask(b"qC"), "QC02");
        }
    }
    // Behind a segment: it is at 10h for gdb.
    debugged.ask(b"c");
    debugged.vm.run_state = RunState::Debug;
    let hit = at(false);
    debugged.vm.debugged.stop = Some(DebugStop { cpu: 1, hit });
    debugged.vm.registers.rip = 0x10;
    assert_eq!(debugged.settle(), ["T05thread:02;"]);
    for (state, signal) in [
        (RunState::Paused, 2),
        (RunState::Watchdog, 14),
        (RunState::GuestPanicked, 6),
        (RunState::Prelaunch, 5),
    ] {
        debugged.ask(b"c");
        debugged.vm.run_state = state;
        assert_eq!(debugged.settle(), [format!("T{signal:02x}thread:02;")]);
    }
    debugged.ask(b"c");
    let mut out = Out::new();
    debugged.session.exit(35, &mut out).unwrap();
    assert_eq!(packets(&out), ["W23"]);
}

#[test]
fn a_packet_stops_what_runs() {
    let mut debugged = Debugged::new();
    debugged.ask(b"c");
    assert_eq!(debugged.ask(b"m1000,1"), "01");
    assert_eq!(debugged.vm.run_state, RunState::Paused);
    assert!(debugged.settle().is_empty());
    // So does a new debugger.
    debugged.ask(b"c");
    debugged.session.open(&mut debugged.vm);
    assert_eq!(debugged.vm.run_state, RunState::Paused);
}

#[test]
fn who_leaves_takes_breakpoints_along() {
    let mut debugged = Debugged::new();
    debugged.check(&[("Z0,1000,1", "OK"), ("D;2", "E22"), ("D;1", "OK")]);
    assert_eq!(debugged.vm.run_state, RunState::Running);
    assert!(debugged.vm.debugged.breaks.is_empty());
    // Its packet has stopped the guest again.
    debugged.check(&[("Z2,1000,1", "OK")]);
    debugged.session.close(&mut debugged.vm);
    assert!(debugged.vm.debugged.breaks.is_empty());
    assert_eq!(debugged.vm.run_state, RunState::Paused);
    assert!(!debugged.vm.debugged.killed);
    debugged.session.open(&mut debugged.vm);
    debugged.check(&[("vKill;2", "E22"), ("vKill;1", "OK"), ("k", "nothing")]);
    assert!(debugged.vm.debugged.killed);
}

#[test]
fn threads_are_processors() {
    let mut debugged = Debugged::new();
    debugged.vm.cpus = 300;
    let mut threads = Vec::new();
    let mut ask: &[u8] = b"qfThreadInfo";
    loop {
        let answer = debugged.ask(ask);
        match answer.strip_prefix('m') {
            Some(list) => threads.extend(list.split(',').map(str::to_string)),
            None => break,
        }
        ask = b"qsThreadInfo";
    }
    assert_eq!(threads.len(), 300);
    assert_eq!((threads[0].as_str(), threads[299].as_str()), ("01", "12c"));
    debugged.check(&[
        ("Hg12c", "OK"),
        ("qC", "QC12c"),
        ("Hg12d", "E22"),
        ("Hgp1.2", "OK"),
        ("qC", "QC02"),
        ("Hg-1", "OK"),
        ("qC", "QC02"),
        ("Hg0", "OK"),
        ("qC", "QC01"),
        ("Hc-1", "OK"),
        ("Hc3", "OK"),
        ("H", "E22"),
        ("Hg", "E22"),
        ("Hx1", "E22"),
        ("Hg1x", "E22"),
        ("Hgp2.1", "E22"),
        ("Hg10000000000000000", "E22"),
        ("T1", "OK"),
        ("T12d", "E22"),
        ("T0", "E22"),
        ("qThreadExtraInfo,2", "4350552331205b68616c746564205d"),
        ("qThreadExtraInfo,999", "E22"),
        ("qThreadExtraInfo,", "E22"),
        ("qAttached", "1"),
    ]);
}

#[test]
fn steps_have_their_ways() {
    let mut debugged = Debugged::new();
    debugged.check(&[
        ("qqemu.Supported", "sstepbits;sstep;PhyMemMode"),
        ("qqemu.sstepbits", "ENABLE=1,NOIRQ=2,NOTIMER=4"),
        ("qqemu.sstep", "0x7"),
        ("Qqemu.sstep=5", "OK"),
        ("qqemu.sstep", "0x5"),
        ("Qqemu.sstep=8", "E22"),
        ("Qqemu.sstep=6", "E22"),
        ("Qqemu.sstep=", "E22"),
        ("s", "nothing"),
    ]);
    assert_eq!(debugged.vm.debugged.resumed, Resume::Step);
}

#[test]
fn the_monitor_prints_before_it_answers() {
    let mut debugged = Debugged::new();
    let line = |text: &str| {
        let mut packet = b"qRcmd,".to_vec();
        for byte in text.as_bytes() {
            packet.extend(format!("{byte:02x}").as_bytes());
        }
        let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        [b"$", &packet[..], format!("#{sum:02x}").as_bytes()].concat()
    };
    let answers = debugged.packets(&line("print 1+2"));
    assert_eq!(answers, ["O3078330d0a", "OK"]);
    // A long text comes in several packets.
    let answers = debugged.packets(&line("help"));
    assert!(answers.len() > 3);
    let (last, text) = answers.split_last().unwrap();
    assert_eq!(last, "OK");
    assert!(
        text.iter()
            .all(|text| text.starts_with('O') && text.len() <= 1025)
    );
    debugged.check(&[("qRcmd,7", "E01"), ("qRcmd,zz", "E01"), ("qRcmd,", "OK")]);
    // It acts on the machine.
    debugged.packets(&line("cont"));
    assert_eq!(debugged.vm.run_state, RunState::Running);
}

#[test]
fn a_command_in_the_background_is_answered_at_its_end() {
    let mut debugged = Debugged::new();
    let mut packet = b"qRcmd,".to_vec();
    for byte in b"pmemsave 0 16 x" {
        packet.extend(format!("{byte:02x}").as_bytes());
    }
    assert_eq!(debugged.ask(&packet), "nothing");
    let (job, _) = debugged.vm.saving.take().unwrap();
    assert_eq!(debugged.session.pending(), Some(job));
    let mut out = Out::new();
    let result = Err(QmpError::generic(format_args!("disk is full")));
    debugged.session.complete(&result, &mut out).unwrap();
    assert_eq!(packets(&out)[1], "OK");
    assert!(packets(&out)[0].starts_with("O4572726f723a20"));
    assert_eq!(debugged.session.pending(), None);
}

#[test]
fn bad_packets_are_asked_for_again() {
    let mut debugged = Debugged::new();
    assert_eq!(debugged.raw(b"$qC#00"), b"-");
    assert_eq!(debugged.raw(b"$qC#b4"), b"+$QC01#f5");
    // The last answer again.
    assert_eq!(debugged.raw(b"-"), b"$QC01#f5");
    assert_eq!(debugged.raw(b"$q$qC#b4"), b"+$QC01#f5");
    // Too long: the sum of 5000 a is 88h.
    let huge = [b"$", &[b'a'; 5000][..], b"#88"].concat();
    assert_eq!(debugged.raw(&huge), b"+$E22#a9");
    assert_eq!(debugged.raw(b"$QStartNoAckMode#b0"), b"+$OK#9a");
    assert_eq!(debugged.raw(b"$qC#b4"), b"$QC01#f5");
    assert_eq!(debugged.raw(b"$qC#00"), b"$QC01#f5");
    // The next debugger begins anew.
    debugged.session.open(&mut debugged.vm);
    assert_eq!(debugged.raw(b"$!#21"), b"+$#00");
}

#[test]
fn what_is_not_known_is_empty() {
    let mut debugged = Debugged::new();
    for packet in [
        "",
        "!",
        "R00",
        "bs",
        "bc",
        "vRun",
        "vAttach;1",
        "vMustReplyEmpty",
        "vFile:open",
        "qCRC:0,1",
        "qOffsets",
        "qSymbol::",
        "Qfoo",
        "tfoo",
        "i",
        "r",
        "A",
    ] {
        assert_eq!(debugged.ask(packet.as_bytes()), "", "{packet}");
    }
    debugged.check(&[
        ("qXfer:features:read:i386-64bit.xml:0,10", "E00"),
        ("qXfer:features:read:target.xml:0", "E22"),
        ("qXfer:memory-map:read::0,10", ""),
    ]);
}

#[test]
fn a_full_sink_ends_the_session() {
    let mut debugged = Debugged::new();
    let mut out = heapless::Vec::<u8, 8>::new();
    let fed = debugged.session.feed(b"$g#67", &mut debugged.vm, &mut out);
    assert_eq!(fed, Err(SinkFull));
}
