//! query-name, -uuid, -target, -version, -machines, -current-machine and -command-line-options: the process tells what its command
//! line says, and what its help says.

use std::process::Command;

use qemu_tests::{Emulator, packages, program_output, thimble_binary};
use serde_json::{Value, json};

use crate::{
    SOON, ask, command_with, compare, compare_answers, emulators, negotiated, passive, refused,
};

fn program(emulator: Emulator) -> Command {
    Command::new(match emulator {
        Emulator::Qemu => packages::qemu().expect("qemu-system-x86_64 is installed"),
        Emulator::Thimble => thimble_binary(),
    })
}

/// What the program prints when called with these options, and that it ends well.
fn printed(emulator: Emulator, options: &[&str]) -> String {
    let output = program_output(program(emulator).args(options), SOON);
    assert!(
        output.status.success(),
        "{emulator:?} {options:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn options_come_back() {
    let commands: Vec<(&str, Value)> = ["query-name", "query-uuid", "query-target"]
        .map(|command| (command, json!({})))
        .into();
    for options in [
        vec![],
        vec!["-name", "plain"],
        vec!["-name", "guest=a \"quoted\" \u{e9},,with a comma"],
        vec!["-name", "guest=x,process=y,debug-threads=on"],
        vec!["-name", "process=only"],
        vec!["-uuid", "550e8400-e29b-41d4-a716-446655440000"],
        vec!["-uuid", "ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEFAB", "-name", ""],
    ] {
        let launch = |emulator| passive(emulator).args(&options);
        compare_answers("commands-identity", launch, &commands);
    }
}

#[test]
fn the_version_is_the_greetings() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let version = ask(&mut client, "query-version");
        assert_eq!(version, client.greeting()["QMP"]["version"]);
        assert_eq!(version["qemu"]["major"], 7);
        assert_eq!(version["qemu"]["minor"], 2);
        if emulator == Emulator::Thimble {
            let package = version["package"].as_str().expect("a text");
            let told = printed(emulator, &["-version"]);
            let number = package.strip_prefix("thimble ").expect("the name");
            assert!(told.contains(number), "{package}: {told}");
        }
    }
}

/// A board as the help has it: name, the board that it is another name of, and what stands in brackets.
fn boards_of_help(emulator: Emulator) -> Vec<(String, Option<String>, bool, bool)> {
    let help = printed(emulator, &["-machine", "help"]);
    let lines = help.lines().skip(1);
    lines
        .map(|line| {
            let (name, about) = line.split_once(' ').expect("a name and a description");
            let alias = about.split_once("(alias of ").map(|(_, rest)| {
                let (name, _) = rest.split_once(')').expect("a bracket");
                name.to_string()
            });
            let is = |word| about.contains(word);
            (name.to_string(), alias, is("(default)"), is("(deprecated)"))
        })
        .collect()
}

#[test]
fn machines_are_those_of_the_help() {
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let list = ask(&mut client, "query-machines");
        let list = list.as_array().expect("a list");
        let help = boards_of_help(emulator);
        let mut names = 0;
        for machine in list {
            let name = machine["name"].as_str().expect("a name");
            let entry = |wanted: &str| {
                let mut entries = help.iter().filter(|(name, ..)| name == wanted);
                let found = entries.next();
                assert!(entries.next().is_none(), "{emulator:?}: {wanted} twice");
                found.unwrap_or_else(|| panic!("{emulator:?}: the help lacks {wanted}"))
            };
            names += 1;
            let mut default = entry(name).2;
            assert_eq!(entry(name).1, None, "{emulator:?} {name}");
            if let Some(alias) = machine.get("alias") {
                let entry = entry(alias.as_str().expect("a name"));
                assert_eq!(entry.1.as_deref(), Some(name), "{emulator:?}");
                default |= entry.2;
                names += 1;
            }
            assert_eq!(
                machine.get("is-default").unwrap_or(&Value::Bool(false)),
                default,
                "{emulator:?} {name}"
            );
            assert_eq!(machine["deprecated"], entry(name).3, "{emulator:?} {name}");
            for member in ["hotpluggable-cpus", "numa-mem-supported"] {
                assert!(machine[member].is_boolean(), "{machine}");
            }
        }
        assert_eq!(names, help.len(), "{emulator:?}: {list:?}");
    }
}

/// As many processors as the list says, and not one more.
#[test]
fn a_machine_takes_as_many_processors_as_listed() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let list = ask(&mut client, "query-machines");
    for machine in list.as_array().expect("a list") {
        let name = machine["name"].as_str().expect("a name");
        let most = machine["cpu-max"].as_u64().expect("a number");
        assert!(most > 0);
        let run = |count: u64| {
            let instance = Emulator::Thimble
                .launcher()
                .args(Emulator::Thimble.passive_args())
                .args(["-M", name, "-smp", &count.to_string()])
                .with_qmp()
                .start();
            let sockets = instance.dir().join("qmp.sock");
            crate::wait_until("it starts or ends", || {
                sockets.exists() || instance.try_wait().is_some()
            });
            let ended = instance.try_wait().map(|status| status.code());
            (ended, instance.stderr())
        };
        let (ended, text) = run(most);
        assert_eq!(ended, None, "{name} with {most}: {text}");
        let (ended, text) = run(most + 1);
        assert_eq!(
            ended,
            Some(Some(1)),
            "{name} with {most} and one more: {text}"
        );
    }
}

/// The machines that both have are described in the same words.
#[test]
fn known_machines_are_described_alike() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let list = ask(&mut client, "query-machines");
        let machines = list.as_array().expect("a list").iter();
        let mut asked = Vec::new();
        for name in ["pc-i440fx-7.2", "microvm", "none"] {
            let machine = machines.clone().find(|machine| machine["name"] == name);
            let machine = machine.unwrap_or_else(|| panic!("{emulator:?}: {name} is missing"));
            for (member, value) in machine.as_object().expect("an object") {
                // What these tell is what the program can do.
                if ["cpu-max", "hotpluggable-cpus", "default-ram-id"].contains(&member.as_str()) {
                    continue;
                }
                asked.push((format!("{name} {member}"), value.to_string()));
            }
        }
        answers.push(asked);
    }
    // A member that only one of them has is compared with nothing.
    if let [qemu, thimble] = answers.as_mut_slice() {
        fill(qemu, thimble);
        fill(thimble, qemu);
        qemu.sort();
        thimble.sort();
    }
    compare("commands-machines", &answers);
}

/// Adds what only `other` has.
pub(crate) fn fill(list: &mut Vec<(String, String)>, other: &[(String, String)]) {
    for (input, _) in other {
        if !list.iter().any(|(name, _)| name == input) {
            list.push((input.clone(), "absent".to_string()));
        }
    }
}

/// How the list calls an option that the help calls otherwise.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("boot-opts", "boot"),
    ("smp-opts", "smp"),
    ("memory", "m"),
    ("acpi", "acpitable"),
];

/// The options that the help names.
fn options_of_help(emulator: Emulator) -> Vec<String> {
    let help = printed(emulator, &["-help"]);
    let mut names = Vec::new();
    for line in help.lines().filter(|line| line.starts_with('-')) {
        for word in line.split([' ', '|', ',']) {
            if let Some(name) = word.strip_prefix('-') {
                names.push(name.trim_start_matches('-').to_string());
            }
        }
    }
    names
}

#[test]
fn listed_options_are_those_of_the_help() {
    let mut lists = Vec::new();
    for emulator in emulators() {
        let instance = passive(emulator).start();
        let mut client = negotiated(&instance);
        let list = ask(&mut client, "query-command-line-options");
        let list = list.as_array().expect("a list").clone();
        let help = options_of_help(emulator);
        let mut names = Vec::new();
        for entry in &list {
            let name = entry["option"].as_str().expect("a name");
            let shown = OTHER_NAMES.iter().find(|(listed, _)| *listed == name);
            let shown = shown.map_or(name, |(_, shown)| shown);
            // QEMU lists one option without a name.
            assert!(
                help.iter().any(|option| option == shown) || name.is_empty(),
                "{emulator:?}: the help lacks -{shown}"
            );
            // By name there is the same.
            let alone = command_with(
                &mut client,
                "query-command-line-options",
                json!({"option": name}),
            );
            assert_eq!(alone, json!([entry]), "{emulator:?}");
            let mut parameters = Vec::new();
            for parameter in entry["parameters"].as_array().expect("a list") {
                let kind = parameter["type"].as_str().expect("a type");
                assert!(["string", "boolean", "number", "size"].contains(&kind));
                let parameter = parameter["name"].as_str().expect("a name");
                parameters.push(format!("{parameter}: {kind}"));
            }
            parameters.sort();
            names.push((name.to_string(), parameters));
        }
        assert_eq!(
            refused(
                &mut client,
                "query-command-line-options",
                json!({"option": "nosuch"})
            ),
            "GenericError: invalid option name: nosuch"
        );
        lists.push((names, help));
    }
    let [(qemu, _), (thimble, help)] = lists.as_slice() else {
        return;
    };
    // An option that both have is in both lists, and a parameter that both have is of one type.
    let mut compared = [Vec::new(), Vec::new()];
    for (name, known) in qemu.iter().filter(|(name, _)| !name.is_empty()) {
        let shown = OTHER_NAMES.iter().find(|(listed, _)| listed == name);
        let shown = shown.map_or(name.as_str(), |(_, shown)| shown);
        let ours = thimble.iter().find(|(listed, _)| listed == name);
        compared[0].push((format!("-{shown}"), "listed as in the help".to_string()));
        let helped = help.iter().any(|option| option == shown);
        let text = match (helped, ours.is_some()) {
            (true, false) => "in the help, not listed",
            (false, true) => "listed, not in the help",
            _ => "listed as in the help",
        };
        compared[1].push((format!("-{shown}"), text.to_string()));
        for parameter in ours.map_or(&[][..], |(_, parameters)| parameters) {
            let name = |text: &str| text.split(": ").next().map(String::from);
            if let Some(theirs) = known.iter().find(|theirs| name(theirs) == name(parameter)) {
                let input = format!("-{shown} {}", name(parameter).expect("a name"));
                compared[0].push((input.clone(), theirs.clone()));
                compared[1].push((input, parameter.clone()));
            }
        }
    }
    compare("commands-options", &compared);
}

/// What the list calls a parameter is taken by the option, and what it doesn't is refused by name.
#[test]
fn listed_parameters_are_the_ones_that_are_taken() {
    let instance = passive(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    let list = ask(&mut client, "query-command-line-options");
    let mut tried = 0;
    for entry in list.as_array().expect("a list") {
        let name = entry["option"].as_str().expect("a name");
        let shown = OTHER_NAMES.iter().find(|(listed, _)| *listed == name);
        let shown = shown.map_or(name, |(_, shown)| shown);
        let parameters = entry["parameters"].as_array().expect("a list");
        if parameters.is_empty() {
            continue;
        }
        tried += 1;
        let output = program_output(
            program(Emulator::Thimble)
                .args(["-nodefaults", "-display", "none", "-S", "-accel", "qtest"])
                .args([format!("-{shown}"), "no-such-parameter=1".to_string()]),
            SOON,
        );
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "-{shown}: {text}");
        assert!(text.contains("no-such-parameter"), "-{shown}: {text}");
        for parameter in parameters {
            let parameter = parameter["name"].as_str().expect("a name");
            let output = program_output(
                program(Emulator::Thimble)
                    // Where a value is a file's name, it is made here.
                    .current_dir(instance.dir())
                    .args(["-nodefaults", "-display", "none", "-S", "-accel", "qtest"])
                    .args([format!("-{shown}"), format!("{parameter}=\u{1}")])
                    .args(["-bios", "/nonexistent/firmware"]),
                SOON,
            );
            // The value is nonsense, and the firmware isn't there; what must not be said is that there is no such parameter.
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !text.contains(&format!("Invalid parameter '{parameter}'")),
                "-{shown} {parameter}: {text}"
            );
        }
    }
    assert!(tried > 3, "{list}");
}
