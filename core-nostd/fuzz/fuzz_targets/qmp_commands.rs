//! Commands that the schema has, or nearly has, into one to three sessions over one machine, between guest
//! accesses, time, events, slow clients and memory that is being saved in the background.
//!
//! What must hold:
//!
//! - Each message is answered once, with its `id`; those in band in their order.
//! - What does not fit the schema is refused. What is answered, and told by events, fits it.
//! - A session whose client does not read, or whose command goes on in the background, holds up nobody else.
#![no_main]

use std::alloc::{Layout, alloc_zeroed};
use std::cell::RefCell;
use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use thimble_core::devices::{ShutdownCause, Width};
use thimble_core::machine::{Board, Irqchip, RunState};
use thimble_core::qmp::{self, SinkFull};
use thimble_fuzz::reference::Tree;
use thimble_fuzz::schema::{Fit, arguments, conforms, name};
use thimble_fuzz::{Sink, Source, machine, plant};
use thimble_monitor::schema::WatchdogAction;
use thimble_monitor::{
    Event, InMemory, Out, QmpError, RateLimits, SCHEMA, Session, Space, Timestamp,
};

/// Clients at most.
const CLIENTS: usize = 3;

/// Bytes that wait in front of a session at most; a client that has sent so many sends no more.
const INPUT_MAX: usize = 1 << 14;

/// Nanoseconds that one step of time takes at most: ten seconds.
const STEP_MAX: u64 = 10_000_000_000;

type Vm = InMemory<'static, Sink>;

thread_local! {
    static SESSIONS: RefCell<[Box<Session>; CLIENTS]> = RefCell::new(std::array::from_fn(|_| {
        // SAFETY: a session is valid when zero; memory that could not be had is a crash of the fuzzer.
        unsafe { Box::from_raw(alloc_zeroed(Layout::new::<Session>()).cast()) }
    }));
}

/// What a session has written and its client has not read.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
    /// The client reads nothing.
    stalled: bool,
}

impl qmp::Sink for Pipe {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Out for Pipe {
    fn pending(&mut self) -> bool {
        self.stalled && !self.bytes.is_empty()
    }

    fn mark(&self) -> usize {
        self.bytes.len()
    }

    fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    fn put_since(&self, mark: usize) -> &[u8] {
        self.bytes.get(mark..).unwrap_or_default()
    }
}

/// A message that was sent and not answered yet.
#[derive(Debug)]
struct Sent {
    id: u64,
    /// The command, if there is one of that name.
    command: Option<usize>,
    fit: Fit,
}

/// A client and its session.
struct Client<'s> {
    session: &'s mut Session,
    pipe: Pipe,
    /// What the session has not taken yet.
    input: Vec<u8>,
    sent: VecDeque<Sent>,
    next_id: u64,
    /// It has agreed on out-of-band commands.
    oob: bool,
    /// It has sent what is no message, so that its answers can't be told apart.
    confused: bool,
}

impl Client<'_> {
    fn connect(&mut self) {
        self.pipe = Pipe::default();
        self.input.clear();
        self.sent.clear();
        self.oob = false;
        self.confused = false;
        self.session
            .open(&mut self.pipe)
            .expect("the pipe has no end");
        assert!(self.pipe.bytes.starts_with(b"{\"QMP\": {\"version\": "));
        self.pipe.bytes.clear();
    }

    /// Sends a message made of the fuzzer's bytes.
    fn send(&mut self, source: &mut Source<'_>) {
        if self.input.len() > INPUT_MAX {
            return;
        }
        let shape = source.byte();
        let index = usize::from(source.byte()) % SCHEMA.commands.len();
        let row = &SCHEMA.commands[index];
        let (mut fit, mut command) = (Fit::Right, Some(index));
        let mut name = name(row.name).to_owned();
        if shape == 0xff {
            name.push('x');
            (fit, command) = (Fit::Wrong, None);
        }
        // Out of band more often where it is allowed.
        let oob = self.oob && shape & if row.allow_oob { 1 } else { 0x1f } == 0;
        if oob && !row.allow_oob {
            fit = Fit::Wrong;
        }
        let mut members = vec![format!(
            "\"{}\": \"{name}\"",
            if oob { "exec-oob" } else { "execute" }
        )];
        let mut text = String::new();
        let arguments = arguments(source, row.arguments, &mut text);
        match shape {
            0xfd => {
                fit = Fit::Wrong;
                members.push("\"arguments\": []".into());
            }
            0xfe => {
                fit = Fit::Wrong;
                members.push("\"control\": {}".into());
            }
            _ if text == "{}" && shape & 2 == 0 => fit = fit.max(arguments),
            _ => {
                fit = fit.max(arguments);
                members.push(format!("\"arguments\": {text}"));
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        members.push(match shape >> 2 & 3 {
            0 => format!("\"id\": {id}"),
            1 => format!("\"id\": [null, {id}]"),
            2 => format!("\"id\": \"{id}\""),
            _ => format!("\"id\": {{\"id\": {id}}}"),
        });
        let first = usize::from(shape) % members.len();
        members.rotate_left(first);
        self.input
            .extend(format!("{{{}}}", members.join(", ")).into_bytes());
        self.sent.push_back(Sent { id, command, fit });
    }

    /// Gives the session what waits.
    fn feed(&mut self, vm: &mut Vm, at_once: usize) {
        while !self.input.is_empty() || self.session.lags() {
            let piece = self.input.len().min(at_once);
            let lagged = self.session.lags();
            let taken = self.session.feed(&self.input[..piece], vm, &mut self.pipe);
            assert!(taken <= piece);
            self.input.drain(..taken);
            if taken == 0 && lagged == self.session.lags() {
                // There is a reason to take nothing.
                assert!(self.pipe.pending() || self.session.pending().is_some());
                break;
            }
        }
        assert!(!self.session.broken());
        self.read();
    }

    /// Reads what the session has written.
    fn read(&mut self) {
        if self.pipe.stalled {
            return;
        }
        let bytes = std::mem::take(&mut self.pipe.bytes);
        let lines = bytes.is_ascii() && (bytes.is_empty() || bytes.ends_with(b"\r\n"));
        assert!(lines, "{}", String::from_utf8_lossy(&bytes));
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let Some(Tree::Object(members)) = Tree::read(line) else {
                panic!("no object: {}", String::from_utf8_lossy(line));
            };
            self.line(&members);
        }
    }

    fn line(&mut self, members: &[(String, Tree)]) {
        let get = |name: &str| {
            members
                .iter()
                .find(|member| member.0 == name)
                .map(|member| &member.1)
        };
        let only = |names: &[&str]| {
            assert!(
                members
                    .iter()
                    .all(|(name, _)| names.contains(&name.as_str()))
            )
        };
        if let Some(event) = get("event") {
            only(&["timestamp", "event", "data"]);
            let Tree::Text(event) = event else {
                panic!("{event:?}")
            };
            let row = SCHEMA
                .events
                .iter()
                .find(|row| name(row.name) == event)
                .expect("an event");
            let empty = Tree::Object(Vec::new());
            conforms(get("data").unwrap_or(&empty), row.data);
            return;
        }
        if self.confused {
            return;
        }
        let id = number(get("id").expect("every message has an id"));
        // In band: the oldest. Out of band: any.
        let at = self
            .sent
            .iter()
            .position(|sent| sent.id == id)
            .expect("an answer to what was sent");
        let sent = self.sent.remove(at).expect("it is there");
        let oob = |index: usize| SCHEMA.commands[index].allow_oob;
        assert!(
            at == 0 || (self.oob && sent.command.is_none_or(oob)) || sent.fit == Fit::Wrong,
            "{sent:?}"
        );
        if let Some(result) = get("return") {
            only(&["return", "id"]);
            assert!(sent.fit != Fit::Wrong, "{sent:?} was taken");
            let command = &SCHEMA.commands[sent.command.expect("there is such a command")];
            conforms(result, command.result);
            return;
        }
        only(&["error", "id"]);
        let Some(Tree::Object(error)) = get("error") else {
            panic!("neither return nor error")
        };
        let [(class, Tree::Text(kind)), (desc, Tree::Text(sentence))] = &error[..] else {
            panic!("{error:?}");
        };
        assert!(class == "class" && desc == "desc" && !sentence.is_empty());
        assert_eq!(
            kind == "CommandNotFound",
            sentence_of_no_command(sentence),
            "{sentence}"
        );
    }

    /// Every message is answered, unless something holds it up.
    fn settled(&mut self) {
        if self.session.pending().is_none() && !self.pipe.stalled && !self.confused {
            assert!(
                self.input.is_empty() && self.sent.is_empty(),
                "unanswered: {:?}",
                self.sent
            );
        }
    }
}

fn sentence_of_no_command(sentence: &str) -> bool {
    sentence.ends_with(" has not been found")
        || sentence.starts_with("Expecting capabilities negotiation")
        || sentence.starts_with("Capabilities negotiation is already complete")
}

/// The number in an id.
fn number(id: &Tree) -> u64 {
    match id {
        Tree::Int(number) => *number as u64,
        Tree::Text(text) => text.parse().expect("a number"),
        Tree::List(list) => number(list.last().expect("two elements")),
        Tree::Object(members) => number(&members[0].1),
        _ => panic!("{id:?}"),
    }
}

/// Something that happens to the guest.
fn event(choice: u8) -> Event {
    let guest = choice & 0x80 != 0;
    match choice % 6 {
        0 => Event::Stop,
        1 => Event::Resume,
        2 => Event::Reset {
            guest,
            reason: ShutdownCause::GuestReset,
        },
        3 => Event::Powerdown,
        4 => Event::Watchdog {
            action: WatchdogAction::ALL[usize::from(choice >> 4) % WatchdogAction::ALL.len()],
        },
        _ => Event::Shutdown {
            guest,
            reason: ShutdownCause::GuestShutdown,
        },
    }
}

/// What the guest does.
fn access(source: &mut Source<'_>, vm: &mut Vm, now: u64) {
    let operation = source.byte();
    let width = [Width::Byte, Width::Word, Width::Dword, Width::Byte][usize::from(operation >> 6)];
    let InMemory { machine, host, .. } = vm;
    match operation & 3 {
        0 => {
            let port = source.number(2) as u16;
            machine.pio_write(host, now, port, width, source.number(width as usize) as u32);
        }
        1 => {
            machine.pio_read(host, now, source.number(2) as u16, width);
        }
        2 => {
            let value = source.number(8).to_le_bytes();
            machine.physical_write(host, now, source.number(4), &value[..width as usize]);
        }
        _ => machine.physical_read(host, now, source.number(4), &mut [0; 8][..width as usize]),
    }
}

/// Ends the job in the background, whoever waits for it.
fn finish(clients: &mut [Client<'_>], vm: &mut Vm, failed: bool) {
    let Some((job, saved)) = vm.saving.take() else {
        return;
    };
    plant(matches!(saved.space, Space::Linear { cpu: 1.. }) && saved.size > 1);
    let waits = |client: &&mut Client<'_>| client.session.pending() == Some(job);
    // A client that has left is not told.
    let Some(client) = clients.iter_mut().find(waits) else {
        return;
    };
    let result = match failed {
        true => Err(QmpError::generic(format_args!("No space left on device"))),
        false => Ok(()),
    };
    client.session.complete(result, vm, &mut client.pipe);
    client.feed(vm, usize::MAX);
}

fn tell(clients: &mut [Client<'_>], told: Option<(Event, Timestamp)>) {
    let Some((event, time)) = told else { return };
    for client in clients {
        client
            .session
            .event(&event, time, &mut client.pipe)
            .expect("the pipe has no end");
        client.read();
    }
}

fn run(source: &mut Source<'_>, sessions: &mut [Box<Session>; CLIENTS]) {
    let setting = source.byte();
    let irqchip = if setting & 0x20 == 0 {
        Irqchip::Machine
    } else {
        Irqchip::Host
    };
    let mut vm = InMemory::new(machine(Board::Pc, irqchip), Sink::default());
    vm.preconfig = setting & 0x40 != 0;
    vm.cpus = 2;
    vm.name = (setting & 0x80 != 0).then_some("caf\u{e9}");
    let count = usize::from(setting & 3).clamp(1, CLIENTS);
    let mut clients: Vec<_> = sessions
        .iter_mut()
        .take(count)
        .map(|session| Client {
            session,
            pipe: Pipe::default(),
            input: Vec::new(),
            sent: VecDeque::new(),
            next_id: 0,
            oob: false,
            confused: false,
        })
        .collect();
    for client in &mut clients {
        client.connect();
        client.negotiate(&mut vm, setting >> 2);
    }
    let mut limits = RateLimits::default();
    let mut now = 0_u64;
    while !source.is_empty() {
        let operation = source.byte();
        let client = &mut clients[usize::from(operation >> 4) % count];
        match operation & 0xf {
            0..=6 => {
                client.send(source);
                client.feed(&mut vm, usize::MAX);
            }
            7 => {
                // Several in one packet, or one in many.
                for _ in 0..source.byte() % 12 {
                    client.send(source);
                }
                client.feed(&mut vm, usize::from(source.byte() % 60) + 1);
            }
            8 | 9 => access(source, &mut vm, now),
            10 => {
                now = now.saturating_add(source.number(5) % STEP_MAX);
                vm.machine.advance(&mut vm.host, now);
                while let Some(told) = limits.expired(now) {
                    tell(&mut clients, Some(told));
                }
            }
            11 => finish(&mut clients, &mut vm, operation & 0x10 != 0),
            12 => {
                client.pipe.stalled = !client.pipe.stalled;
                client.read();
                client.feed(&mut vm, usize::MAX);
            }
            13 => {
                let time = Timestamp {
                    seconds: 7,
                    microseconds: 999_999,
                };
                let told = limits.admit(event(source.byte()), time, now);
                tell(&mut clients, told);
            }
            14 => {
                client.connect();
                client.negotiate(&mut vm, source.byte());
            }
            _ => {
                vm.run_state = [
                    RunState::InternalError,
                    RunState::Shutdown,
                    RunState::Running,
                ][usize::from(operation >> 4) % 3];
                client.confused = true;
                let count = source.byte() % 8;
                client.input.extend((0..count).map(|_| source.byte()));
                client.feed(&mut vm, usize::MAX);
            }
        }
        clients.iter_mut().for_each(Client::settled);
    }
    // In the end all clients read, and all is answered.
    while vm.saving.is_some() {
        finish(&mut clients, &mut vm, false);
        for client in &mut clients {
            client.pipe.stalled = false;
            client.read();
            client.feed(&mut vm, usize::MAX);
        }
    }
    for client in &mut clients {
        client.pipe.stalled = false;
        client.read();
        client.feed(&mut vm, usize::MAX);
    }
}

impl Client<'_> {
    /// Negotiates, mostly.
    fn negotiate(&mut self, vm: &mut Vm, how: u8) {
        if how & 2 != 0 {
            return;
        }
        self.oob = how & 1 != 0;
        let enable: &[u8] = if self.oob { b"'oob'" } else { b"" };
        let parts = [
            b"{'execute': 'qmp_capabilities', 'arguments': {'enable': [",
            enable,
            b"]}}",
        ]
        .concat();
        assert_eq!(self.session.feed(&parts, vm, &mut self.pipe), parts.len());
        assert_eq!(self.pipe.bytes, b"{\"return\": {}}\r\n");
        self.pipe.bytes.clear();
    }
}

fuzz_target!(|bytes: &[u8]| {
    SESSIONS.with_borrow_mut(|sessions| run(&mut Source(bytes), sessions));
});
