//! Sessions against what QEMU 7.2 was observed to answer.

mod cases;

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

use cases::CASES;
use serde_json::Value;
use thimble_core::devices::{ConsoleId, GuestEvent, PowerRequest};
use thimble_core::machine::{Config, Host, Machine, RunState};
use thimble_core::memory::ArrayRam;
use thimble_core::qmp::{
    QMP_MESSAGE_MAX, QMP_TOKENS_MAX, SIZE_LIMIT_TEXT, Sink, SinkFull, TOKENS_LIMIT_TEXT,
};
use thimble_monitor::{Event, InMemory, Out, QmpError, SCHEMA, Session, Space, Timestamp};

/// A session in zeroed memory, as hosts place it.
fn session() -> Box<Session> {
    let layout = Layout::new::<Session>();
    // SAFETY: the layout is that of the type, whose fields are all valid when zero.
    unsafe {
        let memory = alloc_zeroed(layout);
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(memory.cast())
    }
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    limit: Option<usize>,
    stuck: bool,
}

impl Sink for Queue {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        if self
            .limit
            .is_some_and(|limit| self.bytes.len() + bytes.len() > limit)
        {
            return Err(SinkFull);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Out for Queue {
    fn pending(&mut self) -> bool {
        self.stuck && !self.bytes.is_empty()
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

/// A machine in memory, which lasts as long as the test process.
fn vm() -> Box<Vm> {
    let ram: &'static ArrayRam<4096> = Box::leak(Box::new(ArrayRam::new()));
    let config = Config {
        rom: &[0; 4096],
        cpus: 2,
        max_cpus: 2,
        ..Config::new(ram, 4096)
    };
    // It is large for a stack.
    let mut vm = Box::new(InMemory::new(Machine::new(config).unwrap(), Deaf));
    vm.cpus = 2;
    vm.kvm.present = true;
    vm
}

type Vm = InMemory<'static, Deaf>;

/// A host that takes everything.
struct Deaf;

impl Host for Deaf {
    fn console_write(&mut self, _console: ConsoleId, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn set_gsi(&mut self, _gsi: u8, _level: bool) {}
    fn set_intr(&mut self, _level: bool) {}
    fn power(&mut self, _request: PowerRequest) {}
    fn memory_remapped(&mut self) {}
    fn set_a20(&mut self, _enabled: bool) {}
    fn guest_event(&mut self, _event: GuestEvent) {}
}

const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}";

struct Client {
    session: Box<Session>,
    vm: Box<Vm>,
    out: Queue,
}

impl Client {
    fn raw() -> Self {
        let mut client = Self {
            session: session(),
            vm: vm(),
            out: Queue::default(),
        };
        client.session.open(&mut client.out).unwrap();
        client.out.bytes.clear();
        client
    }

    fn new() -> Self {
        let mut client = Self::raw();
        assert_eq!(client.lines(HELLO), ["{\"return\": {}}"]);
        client
    }

    fn lines(&mut self, input: &[u8]) -> Vec<String> {
        let used = self.session.feed(input, &mut *self.vm, &mut self.out);
        assert_eq!(used, input.len());
        self.take()
    }

    /// As [`Client::lines`], and what goes on in the background ends at once.
    fn play(&mut self, input: &[u8]) -> Vec<String> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            used += self.session.feed(rest, &mut *self.vm, &mut self.out);
            if self.vm.saving.take().is_some() {
                self.session.complete(Ok(()), &mut *self.vm, &mut self.out);
            }
        }
        self.take()
    }

    fn take(&mut self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut self.out.bytes)).unwrap();
        assert!(text.is_empty() || text.ends_with("\r\n"));
        let lines: Vec<_> = text.split_terminator("\r\n").map(String::from).collect();
        lines
    }

    fn error(&mut self, input: &[u8]) -> String {
        let lines = self.lines(input);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        value["error"]["desc"].as_str().unwrap().into()
    }
}

fn parsed(lines: &[impl AsRef<str>]) -> Vec<Value> {
    let parse = |line: &_| serde_json::from_str(AsRef::as_ref(line)).unwrap();
    lines.iter().map(parse).collect()
}

#[test]
fn answers_as_observed() {
    let mut client = Client::new();
    let mut wrong = 0;
    for (input, expected) in CASES {
        let lines = client.play(input);
        if parsed(&lines) != parsed(expected) {
            wrong += 1;
            println!(
                "{}\n  got  {lines:?}\n  want {expected:?}",
                input.escape_ascii()
            );
        }
        client.play(b"\xff\n");
    }
    assert_eq!(wrong, 0, "of {}", CASES.len());
    assert!(CASES.len() > 300);
}

#[test]
fn splitting_changes_nothing() {
    let mut client = Client::new();
    for (input, _) in CASES {
        client.play(b"\xff\n");
        let whole = client.play(input);
        for at in 0..input.len() {
            client.play(b"\xff\n");
            let mut parts = client.play(&input[..at]);
            parts.extend(client.play(&input[at..]));
            assert_eq!(parts, whole, "{} at {at}", input.escape_ascii());
        }
        client.play(b"\xff\n");
        let bytes: Vec<_> = input.iter().flat_map(|&b| client.play(&[b])).collect();
        assert_eq!(bytes, whole, "{}", input.escape_ascii());
    }
}

#[test]
fn greets_and_negotiates() {
    let mut client = Client::raw();
    client.session.open(&mut client.out).unwrap();
    let greeting = parsed(&client.take());
    assert_eq!(
        greeting[0]["QMP"]["capabilities"],
        serde_json::json!(["oob"])
    );
    assert_eq!(greeting[0]["QMP"]["version"]["qemu"]["major"], 7);
    let package = &greeting[0]["QMP"]["version"]["package"];
    assert!(package.as_str().unwrap().starts_with("thimble "));
    let before = "Expecting capabilities negotiation with 'qmp_capabilities'";
    assert_eq!(client.error(b"{\"execute\":\"query-status\"}"), before);
    assert_eq!(client.error(b"{\"execute\":\"nope\"}"), before);
    assert_eq!(
        client.error(b"{\"exec-oob\":\"qmp_capabilities\"}"),
        "QMP input member 'exec-oob' is unexpected"
    );
    assert_eq!(
        client.error(b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"x\"]}}"),
        "Parameter 'null' does not accept value 'x'"
    );
    let enable = b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}";
    assert_eq!(client.lines(enable), ["{\"return\": {}}"]);
    assert_eq!(
        client.error(HELLO),
        "Capabilities negotiation is already complete, command ignored"
    );
    assert_eq!(
        client.error(b"{\"exec-oob\":\"query-status\"}"),
        "The command query-status does not support OOB"
    );
    assert_eq!(
        client.error(b"{\"exec-oob\":\"nope\"}"),
        "The command nope has not been found"
    );
    assert_eq!(
        client.error(b"{\"execute\":\"stop\",\"exec-oob\":\"stop\"}"),
        "QMP input member 'execute' clashes with 'exec-oob'"
    );
    // A new connection starts over.
    client.session.open(&mut client.out).unwrap();
    client.take();
    assert_eq!(client.error(b"{\"execute\":\"query-status\"}"), before);
}

#[test]
fn events_come_before_replies() {
    let mut client = Client::new();
    let mut count = 0;
    let mut line = |rest: &str| {
        count += 1;
        format!("{{\"timestamp\": {{\"seconds\": {count}, \"microseconds\": 0}}, {rest}}}")
    };
    let done = String::from("{\"return\": {}}");
    let resume = line("\"event\": \"RESUME\"");
    assert_eq!(client.lines(b"{'execute':'cont'}"), [resume, done.clone()]);
    assert_eq!(client.lines(b"{'execute':'cont'}"), ["{\"return\": {}}"]);
    let stop = line("\"event\": \"STOP\"");
    assert_eq!(client.lines(b"{'execute':'stop'}"), [stop, done.clone()]);
    let reset = line(
        "\"event\": \"RESET\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-system-reset\"}",
    );
    assert_eq!(
        client.lines(b"{'execute':'system_reset'}"),
        [reset, done.clone()]
    );
    let shutdown = line(
        "\"event\": \"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}",
    );
    let quit = [shutdown, "{\"return\": {}, \"id\": 7}".into()];
    assert_eq!(client.lines(b"{'execute':'quit','id':7}"), quit);
    assert_eq!(client.vm.done, Vm::QUIT);
    #[cfg(feature = "sabotage")]
    {
        use std::sync::atomic::Ordering;
        use thimble_monitor::SABOTAGED;

        // `quit` is executed in no other test of this process.
        client.vm.done = 0;
        SABOTAGED.store(SCHEMA.command(b"quit").unwrap(), Ordering::Relaxed);
        assert_eq!(client.lines(b"{'execute':'quit'}"), ["{\"return\": {}}"]);
        assert_eq!(client.vm.done, 0);
        SABOTAGED.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(client.lines(b"{'execute':'quit'}").len(), 2);
    }
}

#[test]
fn queries_tell_the_owners_state() {
    let mut client = Client::new();
    let status = |client: &mut Client| {
        parsed(&client.lines(b"{'execute':'query-status'}"))[0]["return"].clone()
    };
    for (state, running) in [
        (RunState::Prelaunch, false),
        (RunState::Running, true),
        (RunState::InternalError, false),
    ] {
        client.vm.run_state = state;
        let expected = serde_json::json!({
            "running": running, "singlestep": false, "status": state.name()
        });
        assert_eq!(status(&mut client), expected);
    }
    assert_eq!(
        client.error(b"{'execute':'cont'}"),
        "Resetting the Virtual Machine is required"
    );
    client.vm.name = Some("t\u{e4}\"");
    let name = parsed(&client.lines(b"{'execute':'query-name'}"));
    assert_eq!(name[0]["return"]["name"], "t\u{e4}\"");
    let commands = parsed(&client.lines(b"{'execute':'query-commands'}"));
    assert_eq!(
        commands[0]["return"].as_array().unwrap().len(),
        SCHEMA.commands.len()
    );
}

/// Ends what goes on in the background, and returns what the client is told.
fn end(client: &mut Client, result: Result<(), QmpError>) -> Vec<String> {
    let (job, _) = client.vm.saving.take().unwrap();
    assert_eq!(client.session.pending(), Some(job));
    client
        .session
        .complete(result, &mut *client.vm, &mut client.out);
    client.take()
}

const PMEMSAVE: &[u8] =
    b"{'execute':'pmemsave','arguments':{'val':-1,'size':2,'filename':'\\u00e4'},'id':[7]}";

#[test]
fn memory_is_saved_in_the_background() {
    let mut client = Client::new();
    assert_eq!(client.lines(PMEMSAVE), [""; 0]);
    let (_, saved) = client.vm.saving.clone().unwrap();
    assert_eq!((saved.space, saved.address), (Space::Physical, u64::MAX));
    assert_eq!((saved.size, &*saved.filename), (2, "\u{e4}".as_bytes()));
    // Nothing else is looked at meanwhile; events are told.
    let query = b"{'execute':'query-name','id':8}";
    let used = client.session.feed(query, &mut *client.vm, &mut client.out);
    assert_eq!(used, 0);
    let time = Timestamp::default();
    let told = client.session.event(&Event::Stop, time, &mut client.out);
    assert_eq!((told, client.take().len()), (Ok(()), 1));
    assert_eq!(end(&mut client, Ok(())), ["{\"return\": {}, \"id\": [7]}"]);
    assert_eq!(client.lines(query), ["{\"return\": {}, \"id\": 8}"]);
    client.lines(PMEMSAVE);
    let error = QmpError::generic(format_args!("Could not open 'x'"));
    let answer = parsed(&end(&mut client, Err(error)));
    assert_eq!(answer[0]["error"]["desc"], "Could not open 'x'");
    assert_eq!(answer[0]["id"][0], 7);
    let input = b"{'execute':'pmemsave','arguments':{'val':0,'size':-2,'filename':'a'}}";
    assert!(client.error(input).contains("'size'"));
    assert!(client.vm.saving.is_none());
}

#[test]
fn memory_is_saved_by_the_chosen_processor() {
    let mut client = Client::new();
    let memsave = |more: &str| {
        format!("{{'execute':'memsave','arguments':{{'val':1,'size':2,'filename':'f'{more}}}}}")
            .into_bytes()
    };
    for (command, more, cpu) in [
        ("", "", 0),
        ("", ",'cpu-index':1", 1),
        ("", ",'cpu':1", 1),
        ("", ",'cpu':1,'cpu-index':1", 1),
        ("{'execute':'cpu','arguments':{'index':1}}", "", 1),
        ("", ",'cpu-index':0", 0),
    ] {
        client.lines(command.as_bytes());
        client.lines(&memsave(more));
        let (_, saved) = client.vm.saving.clone().unwrap();
        assert_eq!(saved.space, Space::Linear { cpu });
        end(&mut client, Ok(()));
    }
    for (more, error) in [
        (
            ",'cpu-index':2",
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            ",'cpu-index':-1",
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (",'cpu':2", "Parameter 'cpu' expects a CPU number"),
        (
            ",'cpu':1,'cpu-index':0",
            "Parameters 'cpu-index' and 'cpu' name different CPUs",
        ),
    ] {
        assert_eq!(client.error(&memsave(more)), error);
    }
    let error = client.error(b"{'execute':'cpu','arguments':{'index':2}}");
    assert_eq!(error, "Parameter 'index' expects a CPU number");
    let cpus = parsed(&client.lines(b"{'execute':'query-cpus'}"));
    assert_eq!(cpus[0]["return"][0]["current"], false);
    assert_eq!(cpus[0]["return"][1]["current"], true);
    // A new connection begins with the first.
    client.session.open(&mut client.out).unwrap();
    client.take();
    client.lines(HELLO);
    let cpus = parsed(&client.lines(b"{'execute':'query-cpus'}"));
    assert_eq!(cpus[0]["return"][0]["current"], true);
}

const HELLO_OOB: &[u8] = b"{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}";

#[test]
fn out_of_band_commands_overtake() {
    let mut client = Client::raw();
    client.lines(HELLO_OOB);
    let ids = |lines: Vec<String>| -> Vec<Value> {
        parsed(&lines)
            .iter()
            .map(|line| line["id"].clone())
            .collect()
    };
    assert_eq!(client.lines(PMEMSAVE), [""; 0]);
    // Seven wait, errors too, and keep their order.
    for id in 1..=5 {
        let input = format!("{{'execute':'query-name','id':{id}}}");
        assert_eq!(client.lines(input.as_bytes()), [""; 0]);
    }
    assert_eq!(client.lines(b"{'execute':'query-name','id':6,}"), [""; 0]);
    assert_eq!(client.lines(b"{'execute':'nope','id':7}"), [""; 0]);
    let yank = b"{'exec-oob':'query-yank','id':'first'}";
    assert_eq!(ids(client.lines(yank)), ["first"]);
    assert_eq!(
        ids(client.lines(b"{'exec-oob':'stop','id':'bad'}")),
        ["bad"]
    );
    assert_eq!(client.lines(PMEMSAVE), [""; 0]);
    // The queue is full now.
    assert_eq!(
        client.session.feed(yank, &mut *client.vm, &mut client.out),
        0
    );
    let lines = end(&mut client, Ok(()));
    assert_eq!(lines.len(), 8);
    assert!(lines[6].contains("JSON parse error"), "{lines:?}");
    assert_eq!(
        ids(lines),
        [
            serde_json::json!([7]),
            1.into(),
            2.into(),
            3.into(),
            4.into(),
            5.into(),
            Value::Null,
            7.into()
        ]
    );
    // The last one that waited goes on in turn.
    assert_eq!(ids(client.lines(yank)), ["first"]);
    assert_eq!(ids(end(&mut client, Ok(()))), [serde_json::json!([7])]);
    assert_eq!(ids(client.lines(b"{'execute':'query-name','id':9}")), [9]);
}

/// What waits and what comes share the parser's memory; a message that does not fit beside others waits, however it is cut.
#[test]
fn messages_that_wait_may_be_long() {
    for cut in [1, 1000, 50_000, 69_999] {
        let mut client = Client::raw();
        client.lines(HELLO_OOB);
        client.lines(PMEMSAVE);
        let long = |id: u8, length: usize| {
            let id = "x".repeat(length) + &id.to_string();
            format!("{{'execute':'query-name','id':'{id}'}}").into_bytes()
        };
        assert_eq!(client.lines(&long(1, 70_000)), [""; 0]);
        let input = long(2, 70_000);
        let mut taken = 0;
        for part in [cut, input.len()] {
            let end = taken
                + client
                    .session
                    .feed(&input[taken..part], &mut *client.vm, &mut client.out);
            assert_eq!(
                client
                    .session
                    .feed(&input[end..part], &mut *client.vm, &mut client.out),
                0
            );
            taken = end;
            if taken < part {
                break;
            }
        }
        assert!((50_000..70_000).contains(&taken), "{taken}");
        assert_eq!(end(&mut client, Ok(())).len(), 2);
        let lines = client.lines(&input[taken..]);
        assert!(lines[0].ends_with("x2\"}"), "{}", lines.len());
        assert_eq!(client.lines(b"{'execute':'query-name','id':9}").len(), 1);
        // Many tokens likewise.
        client.lines(PMEMSAVE);
        let list = |n: usize| {
            let list = "1,".repeat(n);
            format!("{{'execute':'query-name','id':[{list}1]}}").into_bytes()
        };
        assert_eq!(client.lines(&list(3000)), [""; 0]);
        let input = list(3000);
        let taken = client
            .session
            .feed(&input, &mut *client.vm, &mut client.out);
        assert!(taken < input.len());
        assert_eq!(end(&mut client, Ok(())).len(), 2);
        assert_eq!(client.lines(&input[taken..]).len(), 1);
    }
}

#[test]
fn preconfig_allows_few_commands() {
    let mut client = Client::new();
    client.vm.preconfig = true;
    assert_eq!(
        client.error(b"{'execute':'stop','arguments':{'z':1}}"),
        "The command 'stop' is permitted only after machine initialization has completed"
    );
    assert_eq!(
        client.lines(b"{'execute':'query-name'}"),
        ["{\"return\": {}}"]
    );
}

#[test]
fn limits_are_answered_once() {
    let query = b"{'execute':'query-name'}";
    let long_string = [b"{'id':'".as_slice(), &[b'a'; QMP_MESSAGE_MAX + 9], b"'}"].concat();
    let bare_string = [b"'".as_slice(), &[b'a'; QMP_MESSAGE_MAX + 9], b"'"].concat();
    let list = [b"[".as_slice(), &b"1,".repeat(QMP_TOKENS_MAX), b"[[1]]]"].concat();
    for (input, text) in [
        (long_string, SIZE_LIMIT_TEXT),
        (bare_string, SIZE_LIMIT_TEXT),
        (list, TOKENS_LIMIT_TEXT),
    ] {
        let mut client = Client::new();
        assert_eq!(client.error(&input), text);
        assert_eq!(client.lines(query), ["{\"return\": {}}"]);
        let split = input.len() - 3;
        assert_eq!(client.error(&input[..split]), text);
        assert_eq!(client.lines(&input[split..]), [""; 0]);
        assert_eq!(client.lines(query), ["{\"return\": {}}"]);
        // 0xFF ends the skipping.
        assert_eq!(client.error(&input[..split]), text);
        client.lines(b"\xff\n");
        assert_eq!(client.lines(query), ["{\"return\": {}}"]);
    }
    // The exact limits.
    let mut client = Client::new();
    let object = "QMP input must be a JSON object";
    let fits = [b"'".as_slice(), &[b'a'; QMP_MESSAGE_MAX - 2], b"'"].concat();
    assert_eq!(client.error(&fits), object);
    let over = [b"'".as_slice(), &[b'a'; QMP_MESSAGE_MAX - 1], b"'"].concat();
    assert_eq!(client.error(&over), SIZE_LIMIT_TEXT);
    // A list of n numbers has 2 n + 1 tokens.
    let elements = |n: usize| [b"[1".as_slice(), &b",1".repeat(n - 1), b"]"].concat();
    assert_eq!(client.error(&elements((QMP_TOKENS_MAX - 2) / 2)), object);
    assert_eq!(
        client.error(&elements(QMP_TOKENS_MAX / 2)),
        TOKENS_LIMIT_TEXT
    );
    let nested = |depth| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert_eq!(client.error(&nested(1024)), object);
    assert_eq!(
        client.error(&b"[".repeat(1025)),
        "JSON nesting depth limit exceeded"
    );
    assert_eq!(
        client.error(b"1e999 "),
        "JSON parse error, number 1e999 out of range"
    );
}

#[test]
fn output_is_bounded() {
    let mut client = Client::new();
    client.out.stuck = true;
    let two = b"{'execute':'query-name'}{'execute':'query-name'}";
    let used = client.session.feed(two, &mut *client.vm, &mut client.out);
    assert_eq!(used, two.len() / 2);
    assert_eq!(
        client
            .session
            .feed(&two[used..], &mut *client.vm, &mut client.out),
        0
    );
    client.take();
    assert_eq!(
        client
            .session
            .feed(&two[used..], &mut *client.vm, &mut client.out),
        used
    );
    assert_eq!(client.take(), ["{\"return\": {}}"]);
    client.out.stuck = false;
    client.out.limit = Some(150);
    assert!(
        client
            .error(b"{'execute':'query-commands'}")
            .contains("4194304")
    );
    client.out.limit = Some(50);
    let time = Timestamp::default();
    let told = client.session.event(&Event::Stop, time, &mut client.out);
    assert_eq!(told, Err(SinkFull));
    assert!(client.session.broken());
    assert!(client.out.bytes.is_empty());
}

#[test]
fn long_values_are_written_up_to_a_limit() {
    let mut client = Client::new();
    let query = b"{'execute':'query-name'}";
    let name = "\u{e4}".repeat(8000);
    client.vm.name = Some(name.clone().leak());
    let reply = parsed(&client.lines(query));
    assert_eq!(reply[0]["return"]["name"], name);
    client.vm.name = Some("x".repeat(16 * 1024).leak());
    assert_eq!(
        client.error(query),
        "A value in the reply is larger than the limit (16384 bytes)"
    );
}

#[test]
fn events_wait_for_negotiation() {
    let mut client = Client::raw();
    let time = Timestamp::default();
    client
        .session
        .event(&Event::Stop, time, &mut client.out)
        .unwrap();
    assert!(client.take().is_empty());
    client.lines(HELLO);
    client
        .session
        .event(&Event::Powerdown, time, &mut client.out)
        .unwrap();
    assert_eq!(parsed(&client.take())[0]["event"], "POWERDOWN");
}
