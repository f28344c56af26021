//! What the human monitor does with drives: lines side by side, and what `qemu-io` writes to the process' standard output.

use qemu_tests::{Emulator, Instance, Launcher};
use serde_json::json;

use crate::block_nodes::with_images;
use crate::{SOON, answer, ask, command_with, compare, emulators, negotiated, wait_until};

/// Names of nodes that have got none from their user differ by run.
pub(crate) fn without_numbers(text: &str) -> String {
    let mut pieces = text.split("#block");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str("#block");
        plain.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    plain
}

/// Says lines to both emulators.
fn compare_lines(test: &str, launch: impl Fn(Emulator) -> Launcher, lines: &str) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut client = negotiated(&instance);
        let directory = instance.dir().to_str().expect("a plain path").to_owned();
        let said = lines.lines().map(|line| {
            let asked = line.replace("{dir}", &directory);
            let arguments = json!({"command-line": asked});
            let said = answer(&instance, &mut client, "human-monitor-command", &arguments);
            (line.to_owned(), without_numbers(&said))
        });
        answers.push(said.collect());
    }
    compare(test, &answers);
}

fn with_drives(emulator: Emulator) -> Launcher {
    let drive = "if=none,id=d,node-name=r,file.node-name=f,file={dir}/a.img,format=raw";
    let other = "if=none,id=ro,file={dir}/odd.img,format=raw,read-only=on,cache=unsafe,throttling.bps-read=5000,\
                 throttling.bps-read-max=9000,throttling.bps-read-max-length=3";
    let third = "if=none,id=w,file={dir}/b.img,format=raw,cache=directsync,detect-zeroes=on";
    with_images(emulator)
        .args(["-drive", drive, "-drive", "if=none,id=empty"])
        .args(["-drive", other, "-drive", third])
        .args(["-blockdev", "null-co,node-name=nn"])
        .args([
            "-device",
            "ide-cd,id=cd",
            "-device",
            "virtio-blk-pci,drive=w,id=disk",
        ])
}

#[test]
fn lines_about_drives_say_the_same() {
    let lines = "info block
info block -n
info block -v
info block -n -v
info block -v -n nn
info block d
info block -v d
info block empty
info block r
info block -v r
info block nix
info block -x
info block d x
info blockstats
eject nix
eject w
eject d
eject -f empty
eject
eject -x d
info block
change d {dir}/b.img raw
change d {dir}/a.img raw read-only
info block d
change d {dir}/a.img raw read-write
change d {dir}/a.img raw retain
change -f d {dir}/a.img raw
change d -f {dir}/a.img raw
change d {dir}/a.img nix
change d {dir}/a.img raw nix
change d {dir}/nope raw
change d
change nix {dir}/b.img
info block d
block_resize d 4096
block_resize d 4k
block_resize d 1.5M
block_resize d 0x2
info block -v d
block_resize nix 2
block_resize d -1
block_resize d x
block_resize d 2 3
block_resize d
block_set_io_throttle d 0 0 0 0 0 0
block_set_io_throttle d 100 0 0 0 0 7
block_set_io_throttle d 100 10 0 0 0 7
block_set_io_throttle d 1 2 3
block_set_io_throttle nix 100 0 0 0 0 7
block_set_io_throttle cd 100 0 0 0 0 7
block_set_io_throttle /machine/peripheral/disk/virtio-backend 0 0 100 0 5 0
info block
drive_add 0 if=none,id=x,file={dir}/b.img,format=raw,file.locking=off
drive_add 0 if=none,id=x,file={dir}/b.img,format=raw
drive_add 0 if=none,id=y,file={dir}/nope,format=raw
drive_add 0 if=ide,id=y,file={dir}/nope,format=raw
drive_add 0 if=virtio,id=y2,file={dir}/odd.img,format=raw,snapshot=on
drive_add -n 0 node-name=n,driver=null-co
drive_add -n 0 node-name=n,driver=null-co
drive_add -n 0 driver=null-co
drive_add 0 if=none
drive_add 0 nix=none
drive_add 0 if=nix
drive_add
drive_add 0
drive_add pci_addr=auto if=none,id=z
info block
drive_del x
drive_del x
drive_del n
drive_del r
drive_del f
drive_del nn
drive_del nix
drive_del w
info block
drive_del d
drive_del empty
info block
info block -n nn
qemu-io
qemu-io d
qemu-io nix \"read 0 512\"
qemu-io -d nix \"read 0 512\"
qemu-io -d disk \"read 0 512\"
qemu-io -d cd \"help\"
qemu-io ro \"write 0 512\"
qemu-io ro \"\"";
    compare_lines("commands-block-human", with_drives, lines);
}

#[test]
fn lines_are_not_there_before_the_machine() {
    let launch = |emulator| with_images(emulator).args(["--preconfig"]);
    let lines = "info block\neject d\nqemu-io d \"read 0 512\"\ndrive_add 0 if=none,id=x";
    compare_lines("commands-block-human-preconfig", launch, lines);
}

/// What `reopen` changes, of a node and of those that were made with it.
#[test]
fn nodes_are_used_otherwise() {
    let launch = |emulator| {
        let drive = "if=none,id=d,file={dir}/a.img,format=raw,node-name=r,file.node-name=f";
        let own = "if=none,id=own,file={dir}/odd.img,format=raw,node-name=o,file.node-name=of,file.cache.direct=off,\
                   file.read-only=off";
        let copies = "if=none,id=copies,file={dir}/odd.img,format=raw,copy-on-read=on";
        with_images(emulator)
            .args(["-drive", drive, "-drive", own, "-drive", copies])
            .args(["-blockdev", "file,node-name=bf,filename={dir}/b.img"])
            .args(["-blockdev", "raw,node-name=b,file=bf"])
            .args([
                "-drive",
                "if=none,id=hd,file={dir}/b.img,format=raw,node-name=h",
            ])
            .args(["-device", "ide-hd,drive=hd"])
    };
    // Who writes is not to be in the way, and nothing changes where it is.
    let refused = [
        "qemu-io d \"write 0 512\"",
        "qemu-io d \"reopen -o read-only=on,cache.direct=on\"",
        "info block -v r",
        "info block -v f",
    ];
    let mut lines = Vec::from(refused.map(str::to_owned));
    for (target, nodes, options) in [
        (
            "d",
            ["r", "f"],
            &[
                "",
                "-r",
                "-w",
                "-r -w",
                "-r",
                "",
                "-w",
                "-c none",
                "-c unsafe",
                "-c writethrough",
                "",
                "-c writeback",
                "-c nix",
                "-r -o read-only=on",
                "-o read-only=on",
                "-o read-only=off",
                "-o read-only=maybe",
                "-o cache.direct=on",
                "-c none -o cache.direct=on",
                "-o cache.no-flush=on",
                "-o detect-zeroes=on",
                "-o detect-zeroes=unmap",
                "-o discard=unmap,detect-zeroes=unmap",
                "-o discard=ignore",
                "-o discard=nix",
                "-o auto-read-only=on",
                "-o cache.direct=off -o cache.no-flush=off",
                "-o nix=5",
                "-o driver=file",
                "-o node-name=x",
                "-o force-share=on",
            ][..],
        ),
        ("own", ["o", "of"], &["-c unsafe", "-c none", "-r", "-w"]),
        ("copies", ["r", "f"], &["-r", "-w"]),
        (
            "b",
            ["b", "bf"],
            &["-r", "-w", "-c none", "-o detect-zeroes=on"],
        ),
        (
            "hd",
            ["h", "f"],
            &["-c writethrough", "-c none", "-r", "-w"],
        ),
    ] {
        for options in options {
            lines.push(format!("qemu-io {target} \"reopen {options}\""));
            lines.extend(nodes.map(|node| format!("info block -v {node}")));
            lines.push("info block".to_owned());
        }
    }
    compare_lines("commands-block-reopened", launch, &lines.join("\n"));
}

/// QEMU ends.
#[test]
fn commands_that_end_the_process_are_refused() {
    let instance = with_drives(Emulator::Thimble).start();
    let mut client = negotiated(&instance);
    for command in ["abort", "sigraise 9"] {
        let line = json!({"command-line": format!("qemu-io d \"{command}\"")});
        let said = answer(&instance, &mut client, "human-monitor-command", &line);
        let name = command.split(' ').next().unwrap_or_default();
        assert!(said.contains(&format!("{name} ends the process")), "{said}");
    }
    ask(&mut client, "query-status");
}

/// Commands of `qemu-io`, each with what QEMU writes for it, but for times.
const COMMANDS: &str = "read 0 4k
read -v 0 40
read -P 0 0 64k
write 0 4k
read -P 0xcd 0 4k
write -P 0x55 512 1k
read -P 0x55 512 1k
read -P 0x56 512 1k
read -P 85 -s 512 -l 1k 0 2k
read -P 85 -s 511 -l 1k 0 2k
read -q 0 4k
read -p 0 4k
write -z 0 4k
write -zu 0 4k
write -f 4k 4k
write -z -f 0 4k
write 1M 4k
read 1M 4k
read 1M 0
read 2M 4k
read 0 2M
read 1 5
write -P 7 1 5
read -v 0 16
write -P7 0 513
read -P 7 0 513
read x 1
read 0 x
read 0 7EB
read -P 300 0 512
read -P x 0 512
write -z -P 5 0 512
write -u 0 512
aio_write -u 0 512
aio_write -z 0 512 512
readv 0 512 1024
writev -P 3 0 512 1024
readv -v -P 3 0 16 16
discard 0 64k
discard 0 2M
flush
length
info
truncate 2M
length
truncate 1536
length
   read   0   512  
aio_read 0 1k
aio_flush
aio_write -P 9 0 1k
aio_flush
aio_read -P 9 -v 0 32
aio_flush
aio_read 2M 4k
aio_flush
aio_read -q 0 512
aio_flush
write -s {dir}/source 0 30
read -v 0 32
write -s {dir}/nope 0 512
write -s {dir}/empty 0 512
write -s {dir}/source -P 5 0 512
write -n 0 512
write -zn 0 512
write -b -z 0 512
write -b 0 512
write -c 0 512
write -b -c 0 512
read -b 0 512
read -b -P 5 0 512
truncate -m metadata 2M
truncate -m nix 2M
truncate -m off 2M
length";

/// What a command writes last, so that one knows that all is there.
const MARK: &str = "extraneous/unrecognized suffix -- nix\n";

/// What was written behind `seen` bytes up to the mark, without rates.
fn written(instance: &Instance, seen: &mut usize) -> String {
    let mut new = String::new();
    wait_until("the mark is written", || {
        let all = instance.stdout();
        new = String::from_utf8_lossy(&all[*seen..]).into_owned();
        new.ends_with(MARK)
    });
    *seen += new.len();
    let lines = new.lines().filter(|line| !line.ends_with(MARK.trim_end()));
    let lines = lines.map(|line| match line.split_once(" ops; ") {
        Some((start, rest)) => {
            assert!(rest.ends_with(" ops/sec)"), "{line}");
            format!("{start} ops")
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("|")
}

/// Gives commands to both emulators, each line the drive or node and the command.
fn compare_commands(test: &str, launch: impl Fn(Emulator) -> Launcher, lines: &[(&str, &str)]) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut client = negotiated(&instance);
        let directory = instance.dir().to_str().expect("a plain path").to_owned();
        let (mut seen, mut said) = (0, Vec::new());
        for (target, command) in lines {
            let mut tell = |target: &str, command: &str| {
                let line = format!("qemu-io {target} \"{command}\"");
                let arguments = json!({"command-line": line});
                command_with(&mut client, "human-monitor-command", arguments)
            };
            let text = tell(target, &command.replace("{dir}", &directory));
            // What goes on in the background is written by the time that it has been waited for.
            let starts = ["aio_read", "aio_write", "resume", "remove_break"];
            let shown = match starts.iter().any(|start| command.starts_with(start)) {
                true => String::new(),
                false => {
                    tell("d", "read nix 1");
                    written(&instance, &mut seen)
                }
            };
            let input = match *target {
                "d" => (*command).to_owned(),
                target => format!("{target}: {command}"),
            };
            said.push((input, format!("{text} {shown}")));
        }
        answers.push(said);
    }
    compare(test, &answers);
}

#[test]
fn storage_commands_write_the_same() {
    let drive = "if=none,id=d,file={dir}/a.img,format=raw,discard=unmap";
    let launch = |emulator| {
        let launcher = with_images(emulator).args(["-drive", drive]);
        std::fs::write(launcher.dir().join("source"), "0123456789\n").expect("a file");
        std::fs::write(launcher.dir().join("empty"), "").expect("a file");
        launcher
    };
    let lines: Vec<(&str, &str)> = COMMANDS.lines().map(|line| ("d", line)).collect();
    compare_commands("commands-storage", launch, &lines);
}

/// What is where, in images of several kinds.
#[test]
fn storage_commands_tell_what_is_where() {
    let launch = |emulator| {
        let overlay = "if=none,id=s,file={dir}/b.img,format=raw,snapshot=on";
        let filter = "throttle,node-name=t,throttle-group=g,file=n";
        with_images(emulator)
            .args(["-object", "throttle-group,id=g"])
            .args(["-drive", "if=none,id=d,file={dir}/a.img,format=raw"])
            .args(["-drive", overlay, "-drive", "if=none,id=e"])
            .args(["-blockdev", "null-co,node-name=n,size=1048576"])
            .args(["-blockdev", "null-co,node-name=z,size=4096,read-zeroes=on"])
            .args(["-blockdev", filter])
            .args(["-blockdev", "raw,node-name=o,file=n,offset=4096"])
    };
    let lines = [
        ("d", "map"),
        ("d", "map 5"),
        ("d", "alloc"),
        ("d", "alloc 0"),
        ("d", "alloc 0 1M"),
        ("d", "alloc 0 2M"),
        ("d", "alloc 511 512"),
        ("d", "alloc 2M"),
        ("d", "alloc 0 x"),
        ("d", "alloc -x"),
        ("s", "map"),
        ("s", "write 0 512"),
        ("s", "write 128k 64k"),
        ("s", "map"),
        ("s", "alloc 0 1M"),
        ("s", "alloc 64k"),
        ("s", "alloc 64k 512"),
        ("s", "read -P 0 512 1k"),
        ("s", "write -P 3 190k 10k"),
        ("s", "map"),
        ("n", "map"),
        ("n", "alloc 0 4k"),
        ("n", "write -zn 0 512"),
        ("z", "map"),
        ("t", "map"),
        ("o", "map"),
        ("e", "map"),
        ("d", "sleep"),
        ("d", "sleep x"),
        ("d", "sleep -5"),
        ("d", "sleep 0x1"),
    ];
    compare_commands("commands-storage-map", launch, &lines);
}

/// Requests that stop at a step of their work.
#[test]
fn storage_commands_stop_requests() {
    let launch = |emulator| {
        let drive = "if=none,id=d,driver=raw,file.driver=blkdebug,file.image.driver=file,\
                     file.image.filename={dir}/a.img,file.node-name=b,file.image.node-name=f";
        with_images(emulator).args(["-drive", drive])
    };
    let lines = [
        ("d", "break read_aio A"),
        ("d", "aio_read 0 512"),
        ("d", "wait_break A"),
        // One stops, and others go on.
        ("d", "read 512 512"),
        ("d", "resume A"),
        ("d", "aio_flush"),
        ("d", "resume A"),
        ("d", "remove_break A"),
        ("d", "break nix A"),
        ("d", "break read_aio"),
        ("d", "break write_aio W"),
        ("d", "remove_break W"),
        ("d", "write 0 512"),
        ("d", "break write_aio W"),
        ("d", "break write_aio V"),
        ("d", "aio_write -P 5 0 512"),
        ("d", "wait_break W"),
        ("d", "wait_break V"),
        ("d", "read -P 0xcd 0 512"),
        ("d", "remove_break W"),
        ("d", "read -P 0xcd 0 512"),
        ("d", "resume V"),
        ("d", "aio_flush"),
        ("d", "read -P 5 0 512"),
        ("d", "break flush_to_disk F"),
        ("d", "remove_break F"),
        ("f", "break read_aio P"),
        ("f", "remove_break P"),
        ("f", "resume P"),
    ];
    compare_commands("commands-storage-breaks", launch, &lines);
}

#[test]
fn storage_commands_of_their_own_are_counted_and_waited_for() {
    for emulator in emulators() {
        let instance = with_images(emulator)
            .args([
                "-drive",
                "if=none,id=d,driver=null-co,size=1M,latency-ns=50000000",
            ])
            .start();
        let mut client = negotiated(&instance);
        let mut tell = |line: &str| {
            let line = format!("qemu-io d \"{line}\"");
            let arguments = json!({"command-line": line});
            assert_eq!(
                command_with(&mut client, "human-monitor-command", arguments),
                json!("")
            );
        };
        for _ in 0..4 {
            tell("aio_read 0 4k");
        }
        tell("aio_write 0 8k");
        tell("aio_read 4M 4k");
        tell("aio_write -i 0 4k");
        tell("aio_flush");
        let stats = ask(&mut client, "query-blockstats")[0]["stats"].clone();
        for (name, value) in [
            ("rd_operations", 4),
            ("rd_bytes", 4 * 4096),
            ("failed_rd_operations", 1),
            ("wr_operations", 1),
            ("wr_bytes", 8192),
            ("invalid_wr_operations", 1),
            ("flush_operations", 1),
        ] {
            assert_eq!(stats[name], value, "{emulator:?} {name}: {stats}");
        }
        let took = stats["rd_total_time_ns"].as_u64().expect("a number");
        assert!(took >= 4 * 50_000_000, "{stats}");
        assert!(instance.wait_stdout("readv failed", SOON));
    }
}
