//! Replies against the references of QMP: each example of each text, for the commands that Thimble lists.
//!
//! `qmp/examples.list` has what five texts from QEMU 0.15 to 5.1 say, in facts. An example's request is executed as it is, but for
//! files, which are made in the test's own directory, and for the few that a machine like this can't answer (see [`instead`]). The reply has
//! to have every member of the example's, of the same JSON type, unless a text calls it optional; and none that no text has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;

use qemu_tests::reference::{self, Command, mismatches, names};
use qemu_tests::{Emulator, Instance, Launcher, QmpClient, source_dir};
use serde_json::{Value, json};

/// All facts.
fn texts() -> Vec<Command> {
    let path = source_dir().join("qmp/examples.list");
    let text = std::fs::read_to_string(path).expect("the list");
    reference::read(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// A machine of two processors that doesn't run, in a state in which the command may be given.
fn start(command: &str) -> Instance {
    let launcher = Emulator::Thimble.launcher();
    let launcher = launcher
        .args(Emulator::Thimble.passive_args())
        .args(["-M", "pc", "-m", "16", "-smp", "2", "-name", "guest"])
        .with_qmp();
    match command {
        "x-exit-preconfig" => launcher.args(["--preconfig"]),
        command if OF_DRIVES.contains(&command) => with_drives(launcher),
        _ => launcher,
    }
    .start()
}

/// The drives that the texts speak of.
fn with_drives(launcher: Launcher) -> Launcher {
    for name in ["file", "cd", "test.raw", "test.qcow2"] {
        let file = File::create(launcher.dir().join(name)).expect("a file");
        file.set_len(1 << 20).expect("room");
    }
    launcher
        .args(["-drive", "if=none,id=scratch,file={dir}/file,format=raw"])
        .args(["-drive", "if=none,id=virtio0,driver=null-co"])
        .args([
            "-drive",
            "if=none,id=ide1-cd0,file={dir}/cd,format=raw,read-only=on",
        ])
        .args(["-device", "ide-cd,drive=ide1-cd0,id=ide0-1-0"])
        .args(["-blockdev", "null-co,node-name=mydev"])
        .args(["-blockdev", "null-co,node-name=node0"])
}

/// What is asked for in place of an example's request: options and capabilities that Thimble lacks become some that it has.
fn instead(instance: &Instance, request: &Value) -> Value {
    let mut request = request.clone();
    match request["execute"].as_str() {
        Some("query-command-line-options") => request["arguments"]["option"] = json!("rtc"),
        Some("migrate-set-capabilities") => {
            request["arguments"] =
                json!({"capabilities": [{"capability": "events", "state": true}]});
        }
        // Its text calls this one optional by mistake: there, too, it must be given.
        Some("dump-guest-memory") => request["arguments"]["paging"] = json!(false),
        // Its text says that this is a flag, and shows a string.
        Some("trace-event-set-state") => request["arguments"]["enable"] = json!(true),
        Some("blockdev-add") => {
            // There is no such format, and a node has to have a name since 2.9.
            request["arguments"]["driver"] = json!("raw");
            let arguments = request["arguments"].as_object_mut().expect("members");
            arguments.remove("backing");
            arguments
                .entry("node-name")
                .and_modify(|name| *name = json!("new"))
                .or_insert(json!("new"));
            let file = request["arguments"]["file"]["filename"].as_str();
            let file = file.and_then(|file| file.rsplit('/').next());
            let file = instance.dir().join(file.expect("a name"));
            request["arguments"]["file"]["filename"] = json!(file.to_str());
            if request["arguments"]["cache"].is_object() {
                // The test's own directory may be in memory.
                request["arguments"]["cache"] = json!({"direct": false});
            }
        }
        // The text of 1.6 shows numbers as strings.
        Some("block_set_io_throttle") => {
            for (_, value) in request["arguments"].as_object_mut().expect("members") {
                let number = value.as_str().and_then(|text| text.parse::<i64>().ok());
                if let Some(number) = number {
                    *value = json!(number);
                }
            }
        }
        // What the text calls a drive is a device; there is no floppy drive.
        Some("x-blockdev-remove-medium") => {
            request["arguments"] = json!({"id": request["arguments"]["device"]});
        }
        Some("blockdev-change-medium") => request["arguments"]["id"] = json!("ide0-1-0"),
        Some("change") => {
            request["arguments"]["target"] = json!(instance.dir().join("file").to_str());
        }
        _ => {}
    }
    if let Some(file) = request.pointer_mut("/arguments/filename") {
        *file = json!(instance.dir().join("file").to_str());
    }
    request
}

/// Passes the descriptors before that an example's command acts on, and gives back its request, with their numbers.
fn with_descriptors(client: &mut QmpClient, fd: &File, request: &Value) -> Value {
    let mut request = request.clone();
    let mut pass = |command: &str, arguments: Value| {
        let passed = client.execute_with(command, &arguments, &[fd.as_fd()]);
        passed.unwrap_or_else(|error| panic!("{command}: {error}"))
    };
    match request["execute"].as_str() {
        Some("dump-guest-memory") => {
            pass("getfd", json!({"fdname": "dump"}));
        }
        Some("closefd") => {
            pass("getfd", request["arguments"].clone());
        }
        Some("remove-fd") => {
            let added = pass(
                "add-fd",
                json!({"fdset-id": request["arguments"]["fdset-id"]}),
            );
            request["arguments"]["fd"] = added["fd"].clone();
        }
        Some("query-fdsets") => {
            pass("add-fd", json!({"opaque": "rdonly:/path/to/file"}));
        }
        _ => {}
    }
    request
}

/// Executes a request as it is, and returns the reply whether good or bad. No client is negotiated where the command is just that.
fn execute(instance: &Instance, request: &Value) -> Value {
    let mut client = instance.qmp();
    if request["execute"] != "qmp_capabilities" {
        client.negotiate();
    }
    prepare(&mut client, request["execute"].as_str().unwrap_or_default());
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.expect("a device");
    let request = &with_descriptors(&mut client, &null, request);
    let bytes = request.to_string();
    let sent = match request["execute"].as_str() {
        Some("getfd" | "add-fd") => client.send_with(bytes.as_bytes(), &[null.as_fd()]),
        _ => client.send_raw(bytes.as_bytes()),
    };
    sent.expect("a connection");
    loop {
        let message = client
            .message(std::time::Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{request}: {error}\n{}", instance.report()));
        if message.get("event").is_none() {
            return message;
        }
    }
}

/// Members of a command's reply that its text tells of in passing.
const IN_PROSE: [(&str, &str); 1] = [("trace-event-get-state", "vcpu")];

/// Commands whose examples act on drives: of a machine that has those that the texts speak of.
const OF_DRIVES: [&str; 13] = [
    "block-set-write-threshold",
    "block_resize",
    "block_set_io_throttle",
    "blockdev-add",
    "blockdev-change-medium",
    "blockdev-close-tray",
    "blockdev-del",
    "blockdev-open-tray",
    "change",
    "eject",
    "x-blockdev-del",
    "x-blockdev-insert-medium",
    "x-blockdev-remove-medium",
];

/// Whether an example is of what no machine of today can do, in the words of the newest text: passwords of images, and
/// of displays that are not there.
fn is_elsewhere(request: &Value) -> bool {
    request["execute"] == "block_passwd" || request["arguments"]["device"] == "vnc"
}

/// Does what must have been done before an example's command.
fn prepare(client: &mut QmpClient, command: &str) {
    let steps: &[(&str, Value)] = match command {
        "x-blockdev-remove-medium" => &[("blockdev-open-tray", json!({"id": "ide0-1-0"}))],
        "x-blockdev-insert-medium" => &[("eject", json!({"id": "ide0-1-0"}))],
        _ => &[],
    };
    for (command, arguments) in steps {
        let done = client.execute(command, arguments.clone());
        assert_eq!(done, Ok(json!({})), "{command}");
    }
}

/// What Thimble lists, and the names of each command's arguments in its schema.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let instance = start("");
    let schema = execute(&instance, &json!({"execute": "query-qmp-schema"}));
    let entities = schema["return"].as_array().expect("a list");
    let of_name = |name: &Value| {
        let entity = entities.iter().find(|entity| entity["name"] == *name);
        entity.unwrap_or_else(|| panic!("the type {name} is missing"))
    };
    let commands = execute(&instance, &json!({"execute": "query-commands"}));
    let commands = commands["return"].as_array().expect("a list").iter();
    commands
        .map(|command| {
            let whole = of_name(&of_name(&command["name"])["arg-type"]);
            // A union's are those of all its branches.
            let branches = whole["variants"].as_array().into_iter().flatten();
            let branches = branches.map(|branch| of_name(&branch["type"]));
            let arguments = branches
                .chain([whole])
                .flat_map(|one| one["members"].as_array().expect("members"))
                .map(|one| one["name"].as_str().expect("a name").to_string());
            let name = command["name"].as_str().expect("a name");
            (name.to_string(), arguments.collect())
        })
        .collect()
}

#[test]
fn replies_are_what_the_references_show() {
    let texts = texts();
    let listed = listed();
    let mut wrong = Vec::new();
    let mut missing = BTreeMap::new();
    let (mut checked, mut elsewhere) = (0, 0);
    for text in &texts {
        let name = text.name.as_str();
        if !listed.contains_key(name) {
            *missing.entry(name).or_insert(0) += text.examples.len();
            continue;
        }
        // What any text says of the command's reply.
        let same = || texts.iter().filter(|other| other.name == name);
        let optional = |member: &str| same().any(|text| text.members.get(member) == Some(&true));
        let known: BTreeSet<&str> = same()
            .flat_map(|text| {
                let shown = text.examples.iter().flat_map(|(_, reply)| names(reply));
                text.members.keys().map(String::as_str).chain(shown)
            })
            .collect();
        for (request, shape) in &text.examples {
            if is_elsewhere(request) {
                elsewhere += 1;
                continue;
            }
            let instance = start(name);
            let asked = instead(&instance, request);
            let reply = execute(&instance, &asked);
            checked += 1;
            let mut say = |what: &str| wrong.push(format!("{} {asked}: {what}", text.source));
            if name == "system_wakeup" {
                // Only a guest that sleeps can be woken, since QEMU 4.0.
                if reply["error"]["class"] != "GenericError" {
                    say(&format!("{reply} though nobody sleeps"));
                }
                continue;
            }
            for mismatch in mismatches(&reply, shape, &optional) {
                say(&format!("{mismatch}: {reply}"));
            }
            if reply.get("return").is_none() {
                say(&format!("fails: {reply}"));
                continue;
            }
            for extra in names(&reply["return"]) {
                if !known.contains(extra) && !IN_PROSE.contains(&(name, extra)) {
                    say(&format!("no text knows the member {extra}: {reply}"));
                }
            }
            if let Some(size) = asked["arguments"]["size"].as_u64() {
                let length = std::fs::metadata(instance.dir().join("file"));
                let length = length.map(|file| file.len()).unwrap_or_default();
                if length != size {
                    say(&format!("the file has {length} bytes"));
                }
            }
        }
    }
    let examples: usize = missing.values().sum();
    println!(
        "{checked} examples were checked; {elsewhere} are of passwords; {examples} are of {} commands that Thimble doesn't list: {:?}",
        missing.len(),
        missing.keys().collect::<Vec<_>>()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 50, "only {checked} examples were checked");
}

/// Parts of an argument that a text lists beside the arguments.
const PARTS: [(&str, &str); 1] = [("send-key", "key")];

/// An argument that any text has is one of the command, by its old name as by its new one.
#[test]
fn arguments_of_the_references_are_known() {
    let listed = listed();
    let mut wrong = Vec::new();
    for text in texts() {
        let Some(arguments) = listed.get(&text.name) else {
            continue;
        };
        for name in text
            .arguments
            .keys()
            .filter(|name| !arguments.contains(*name))
            .filter(|name| !PARTS.contains(&(&text.name, name)))
        {
            wrong.push(format!(
                "{}: {} has the argument {name}",
                text.source, text.name
            ));
        }
        for (request, _) in &text.examples {
            for name in request["arguments"]
                .as_object()
                .into_iter()
                .flat_map(|object| object.keys())
            {
                // Those of formats that are not there.
                let format = request.pointer("/arguments/driver");
                if !arguments.contains(name) && format.is_none_or(|format| format != "qcow2") {
                    wrong.push(format!(
                        "{}: {} is asked with {name}",
                        text.source, text.name
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
