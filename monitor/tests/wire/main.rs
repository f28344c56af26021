//! Sessions against what QEMU 7.2 was observed to answer.

mod cases;

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

use cases::CASES;
use serde_json::Value;
use thimble_core::machine::RunState;
use thimble_core::qmp::{
    QMP_MESSAGE_MAX, QMP_TOKENS_MAX, SIZE_LIMIT_TEXT, Sink, SinkFull, TOKENS_LIMIT_TEXT,
};
use thimble_monitor::{
    COMMANDS, Event, KvmInfo, Out, Owner, QmpError, Session, ShutdownCause, Timestamp,
};

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
}

struct Vm {
    state: RunState,
    name: Option<&'static str>,
    preconfig: bool,
    saved: Vec<(u64, u64, Vec<u8>)>,
    fail: Option<&'static str>,
    events: Vec<Event>,
    calls: Vec<&'static str>,
}

impl Vm {
    fn new() -> Self {
        Self {
            state: RunState::Prelaunch,
            name: None,
            preconfig: false,
            saved: Vec::new(),
            fail: None,
            events: Vec::new(),
            calls: Vec::new(),
        }
    }
}

impl Owner for Vm {
    fn run_state(&self) -> RunState {
        self.state
    }

    fn stop(&mut self) -> Result<(), QmpError> {
        self.calls.push("stop");
        if self.state == RunState::Running {
            self.state = RunState::Paused;
            self.events.push(Event::Stop);
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), QmpError> {
        self.calls.push("cont");
        if self.state != RunState::Running {
            self.state = RunState::Running;
            self.events.push(Event::Resume);
        }
        Ok(())
    }

    fn system_reset(&mut self) -> Result<(), QmpError> {
        self.calls.push("system_reset");
        self.events
            .push(Event::Reset(ShutdownCause::HostQmpSystemReset));
        Ok(())
    }

    fn quit(&mut self) {
        self.calls.push("quit");
        self.events
            .push(Event::Shutdown(ShutdownCause::HostQmpQuit));
    }

    fn pmemsave(&mut self, address: u64, size: u64, filename: &[u8]) -> Result<(), QmpError> {
        self.saved.push((address, size, filename.to_vec()));
        match self.fail {
            Some(text) => Err(QmpError::generic(format_args!("{text}"))),
            None => Ok(()),
        }
    }

    fn name(&self) -> Option<&str> {
        self.name
    }

    fn uuid(&self) -> [u8; 16] {
        [0; 16]
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: false,
            present: true,
        }
    }

    fn preconfig(&self) -> bool {
        self.preconfig
    }

    fn take_event(&mut self) -> Option<(Event, Timestamp)> {
        let time = Timestamp {
            seconds: 7,
            microseconds: 8,
        };
        (!self.events.is_empty()).then(|| (self.events.remove(0), time))
    }
}

const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\"}";

struct Client {
    session: Box<Session>,
    vm: Vm,
    out: Queue,
}

impl Client {
    fn raw() -> Self {
        let mut client = Self {
            session: session(),
            vm: Vm::new(),
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
        let used = self.session.feed(input, &mut self.vm, &mut self.out);
        assert_eq!(used, input.len());
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
        let lines = client.lines(input);
        if parsed(&lines) != parsed(expected) {
            wrong += 1;
            println!(
                "{}\n  got  {lines:?}\n  want {expected:?}",
                input.escape_ascii()
            );
        }
        client.lines(b"\xff\n");
    }
    assert_eq!(wrong, 0, "of {}", CASES.len());
    assert!(CASES.len() > 300);
}

#[test]
fn splitting_changes_nothing() {
    let mut client = Client::new();
    for (input, _) in CASES {
        client.lines(b"\xff\n");
        let whole = client.lines(input);
        for at in 0..input.len() {
            client.lines(b"\xff\n");
            let mut parts = client.lines(&input[..at]);
            parts.extend(client.lines(&input[at..]));
            assert_eq!(parts, whole, "{} at {at}", input.escape_ascii());
        }
        client.lines(b"\xff\n");
        let bytes: Vec<_> = input.iter().flat_map(|&b| client.lines(&[b])).collect();
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
    let stamp = "\"timestamp\": {\"seconds\": 7, \"microseconds\": 8}";
    let line = |rest: &str| format!("{{{stamp}, {rest}}}");
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
    assert_eq!(
        client.vm.calls,
        ["cont", "cont", "stop", "system_reset", "quit"]
    );
    #[cfg(feature = "sabotage")]
    {
        use std::sync::atomic::Ordering;
        use thimble_monitor::{SABOTAGED, command_index};

        // `quit` is executed in no other test of this process.
        SABOTAGED.store(command_index("quit").unwrap(), Ordering::Relaxed);
        assert_eq!(client.lines(b"{'execute':'quit'}"), ["{\"return\": {}}"]);
        assert_eq!(client.vm.calls.len(), 5);
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
        client.vm.state = state;
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
        COMMANDS.len()
    );
}

#[test]
fn pmemsave_passes_its_arguments_and_errors() {
    let mut client = Client::new();
    client.vm.fail = Some("Could not open 'x'");
    let input = b"{'execute':'pmemsave','arguments':{'val':-1,'size':2,'filename':'\\u00e4'}}";
    assert_eq!(client.error(input), "Could not open 'x'");
    assert_eq!(client.vm.saved, [(u64::MAX, 2, "\u{e4}".into())]);
    let input = b"{'execute':'pmemsave','arguments':{'val':0,'size':-2,'filename':'a'}}";
    assert!(client.error(input).contains("'size'"));
    assert_eq!(client.vm.saved.len(), 1);
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
    let used = client.session.feed(two, &mut client.vm, &mut client.out);
    assert_eq!(used, two.len() / 2);
    assert_eq!(
        client
            .session
            .feed(&two[used..], &mut client.vm, &mut client.out),
        0
    );
    client.take();
    assert_eq!(
        client
            .session
            .feed(&two[used..], &mut client.vm, &mut client.out),
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
