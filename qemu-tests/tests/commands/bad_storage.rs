//! Storage that shrinks, is full, takes no writes, fails, or differs from what it should be: the answers are the same, and the
//! machine lives.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use qemu_tests::{Emulator, Instance, QmpClient, skip_part};
use serde_json::{Value, json};

use crate::block_nodes::with_images;
use crate::{
    answer, ask, command_with, compare, emulators, events, negotiated, passive, status, wait_until,
};

/// What `qemu-io` shows for a command, without times.
fn storage(instance: &Instance, client: &mut QmpClient, target: &str, command: &str) -> String {
    let seen = instance.stdout().len();
    let tell = |client: &mut QmpClient, command: &str| {
        let line = json!({"command-line": format!("qemu-io {target} \"{command}\"")});
        answer(instance, client, "human-monitor-command", &line)
    };
    let said = tell(client, command);
    tell(client, "read nix 1");
    let mut shown = String::new();
    wait_until("the command shows its end", || {
        shown = String::from_utf8_lossy(&instance.stdout()[seen..]).into_owned();
        shown.ends_with("suffix -- nix\n")
    });
    let lines = shown
        .lines()
        .filter(|line| !line.ends_with("suffix -- nix"));
    let lines = lines.map(|line| line.split(" ops; ").next().unwrap_or_default());
    format!("{said} {}", lines.collect::<Vec<_>>().join("|"))
}

/// A step of a test: a command of `qemu-io` on a target, or what happens to the host's files.
type Step<'s> = (&'s str, &'s str);

/// Goes through the steps with both emulators. `host` does those whose target is `host`.
fn compare_steps(test: &str, options: &[&str], host: &dyn Fn(&Path, &str), steps: &[Step<'_>]) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_images(emulator).args(options).start();
        let mut client = negotiated(&instance);
        let mut said = Vec::new();
        for (target, command) in steps {
            if *target == "host" {
                host(instance.dir(), command);
                continue;
            }
            let text = storage(&instance, &mut client, target, command);
            said.push((format!("{target}: {command}"), text));
        }
        // It hears, and is what it was.
        assert_eq!(status(&mut client), "prelaunch", "{emulator:?}");
        let told = Value::from(events(&mut client)).to_string();
        said.push(("events".to_owned(), told));
        answers.push(said);
    }
    compare(test, &answers);
}

#[test]
fn images_shrink() {
    let drive = "if=none,id=d,file={dir}/a.img,format=raw";
    let shrink = |directory: &Path, length: &str| {
        let file = File::options().write(true).open(directory.join("a.img"));
        let length = length.parse().expect("a number");
        file.and_then(|file| file.set_len(length)).expect("a file");
    };
    compare_steps(
        "commands-bad-shrunk",
        &["-drive", drive],
        &shrink,
        &[
            ("d", "write -P 5 0 1M"),
            ("host", "5000"),
            ("d", "length"),
            ("d", "read -P 5 0 4096"),
            ("d", "read -v 4992 16"),
            ("d", "read -P 0 512k 4k"),
            ("d", "write -P 6 512k 4k"),
            ("d", "read -P 6 512k 4k"),
            ("d", "read -P 0 64k 4k"),
            ("d", "read 1M 4k"),
            ("host", "0"),
            ("d", "read -P 0 0 64k"),
            ("d", "flush"),
        ],
    );
}

#[test]
fn requests_fail_by_rules() {
    let debug = |rules: &str| {
        format!("blkdebug,node-name=b,image.driver=file,image.filename={{dir}}/a.img,{rules}")
    };
    for (name, rules, steps) in [
        (
            "full",
            "inject-error.0.event=write_aio,inject-error.0.errno=28,inject-error.0.iotype=write",
            &[
                ("r", "write 0 4k"),
                ("r", "read -P 0 0 4k"),
                ("r", "write 0 4k"),
            ][..],
        ),
        (
            "once",
            "inject-error.0.event=read_aio,inject-error.0.sector=9,inject-error.0.once=on",
            &[("r", "read 0 4k"), ("r", "read 4k 4k"), ("r", "read 4k 4k")],
        ),
        (
            "flush",
            "inject-error.0.event=flush_to_disk,inject-error.0.iotype=flush,inject-error.0.errno=5",
            &[
                ("r", "write 0 4k"),
                ("r", "write -f 0 4k"),
                ("r", "write -f 0 4k"),
            ],
        ),
        (
            "zeroes",
            "inject-error.0.event=none,inject-error.0.iotype=write-zeroes,inject-error.0.errno=28",
            &[
                ("r", "write -P 3 0 64k"),
                ("r", "write -z 0 4k"),
                ("r", "read -P 3 0 4k"),
                ("r", "write 0 4k"),
            ],
        ),
        (
            "discard",
            "inject-error.0.event=none,inject-error.0.iotype=discard,inject-error.0.errno=5",
            &[("r", "discard 0 64k"), ("r", "read 0 4k")],
        ),
        (
            "states",
            "inject-error.0.event=read_aio,inject-error.0.iotype=read,inject-error.0.state=2,set-state.0.event=write_aio,set-state.0.state=1,\
             set-state.0.new_state=2,set-state.1.event=flush_to_os,set-state.1.state=2,set-state.1.new_state=3",
            &[
                ("r", "read 0 512"),
                ("r", "write 0 512"),
                ("r", "read 0 512"),
                ("r", "flush"),
                ("r", "read 0 512"),
            ],
        ),
        (
            "clean",
            "inject-error.0.event=write_aio,inject-error.0.iotype=write,inject-error.0.state=3,set-state.0.event=flush_to_disk,\
             set-state.0.state=1,set-state.0.new_state=2,set-state.1.event=flush_to_disk,set-state.1.state=2,\
             set-state.1.new_state=3",
            &[
                ("r", "flush"),
                ("r", "write 0 4k"),
                ("r", "flush"),
                ("r", "flush"),
                ("r", "read 0 4k"),
                ("r", "flush"),
                ("r", "write 0 4k"),
                ("r", "flush"),
                ("r", "write 0 4k"),
            ],
        ),
        (
            "units",
            "align=4096,max-transfer=8192,opt-write-zero=8192,max-write-zero=16384,opt-discard=8192,max-discard=16384",
            &[
                ("r", "write -P 1 0 128k"),
                ("r", "write -P 2 1000 30000"),
                ("r", "read -P 1 0 1000"),
                ("r", "read -P 2 1000 30000"),
                ("r", "read -P 1 31000 5000"),
                ("r", "write -z 512 70000"),
                ("r", "read -P 0 512 70000"),
                ("r", "read -P 1 70512 4096"),
                ("r", "discard 512 70000"),
                ("r", "read -P 1 72k 4096"),
            ],
        ),
    ] {
        let rules = debug(rules);
        compare_steps(
            &format!("commands-bad-{name}"),
            &[
                "-blockdev",
                &rules,
                "-blockdev",
                "raw,node-name=r,file=b,discard=unmap",
            ],
            &|_, _| {},
            steps,
        );
    }
}

#[test]
fn images_differ_from_what_they_should_be() {
    let verify = "driver=blkverify,node-name=v,test.driver=file,test.filename={dir}/a.img,raw.driver=file,\
                  raw.filename={dir}/c.img";
    let spoil = |directory: &Path, _: &str| {
        use std::os::unix::fs::FileExt as _;
        let file = File::options().write(true).open(directory.join("a.img"));
        file.and_then(|file| file.write_all_at(b"x", 5000))
            .expect("a file");
    };
    for emulator in emulators() {
        let launcher = with_images(emulator);
        let copy = launcher.dir().join("c.img");
        std::fs::copy(launcher.dir().join("a.img"), copy).expect("a file");
        let instance = launcher.args(["-blockdev", verify]).start();
        let mut client = negotiated(&instance);
        let mut tell = |command: &str| storage(&instance, &mut client, "v", command);
        assert!(tell("write -P 7 0 64k").contains("wrote 65536/65536"));
        assert!(tell("read -P 7 0 64k").contains("read 65536/65536"));
        spoil(instance.dir(), "");
        assert!(tell("read 0 4k").contains("read 4096/4096"));
        match emulator {
            // It ends at once.
            Emulator::Qemu => {}
            Emulator::Thimble => {
                assert!(tell("read 4k 4k").contains("read failed: Input/output error"));
                let place = "contents differ at offset 5000";
                wait_until("it is told where", || instance.stderr().contains(place));
                assert!(tell("read 8k 4k").contains("read 4096/4096"));
            }
        }
    }
}

/// A file system of 256 KiB, as long as it lives.
struct Small(PathBuf);

impl Small {
    fn new(directory: &Path) -> Option<Self> {
        let place = directory.join("small");
        std::fs::create_dir(&place).expect("a directory");
        let place = Self(place);
        place.mount("size=256k").then_some(place)
    }

    fn mount(&self, options: &str) -> bool {
        let mut command = Command::new("mount");
        let command = command.args(["-t", "tmpfs", "-o", options, "none"]);
        command.arg(&self.0).status().is_ok_and(|end| end.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whoever still has it open keeps it till the end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn file_systems_fill_up_and_take_no_writes() {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let launcher = passive(emulator);
        let Some(small) = Small::new(launcher.dir()) else {
            return skip_part("no file system can be mounted");
        };
        let image = File::create(small.0.join("i.img")).expect("a file");
        image.set_len(1 << 20).expect("room");
        drop(image);
        let drive = "if=none,id=d,file={dir}/small/i.img,format=raw";
        let instance = launcher.args(["-drive", drive]).start();
        let mut client = negotiated(&instance);
        let mut said = Vec::new();
        for command in [
            "write -P 1 0 64k",
            "write -P 2 256k 512k",
            "read -P 1 0 64k",
            "write -P 3 900k 4k",
            "flush",
        ] {
            let text = storage(&instance, &mut client, "d", command);
            said.push((command.to_owned(), text));
        }
        assert!(small.mount("remount,size=2m"));
        for command in ["write -P 2 256k 512k", "read -P 2 256k 512k"] {
            let text = storage(&instance, &mut client, "d", command);
            said.push((format!("with room: {command}"), text));
        }
        let eject = json!({"device": "d"});
        command_with(&mut client, "eject", eject);
        assert!(small.mount("remount,ro"));
        let mut file = json!({"driver": "file", "node-name": "f", "filename": "{dir}/small/i.img"});
        for (name, value) in [
            ("read-only", false),
            ("auto-read-only", true),
            ("read-only", true),
        ] {
            file[name] = value.into();
            let text = answer(&instance, &mut client, "blockdev-add", &file);
            said.push((format!("{name} {value}"), text));
            let del = json!({"node-name": "f"});
            let text = answer(&instance, &mut client, "blockdev-del", &del);
            said.push(("blockdev-del".to_owned(), text));
        }
        let change = json!({"device": "d", "filename": "{dir}/small/i.img", "format": "raw"});
        let text = answer(&instance, &mut client, "blockdev-change-medium", &change);
        said.push(("blockdev-change-medium".to_owned(), text));
        assert_eq!(ask(&mut client, "query-status")["running"], false);
        answers.push(said);
    }
    compare("commands-bad-full", &answers);
}
