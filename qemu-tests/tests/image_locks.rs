//! Who may have an image at the same time: an emulator holds one, and `qemu-img`, `qemu-io`, QEMU and Thimble ask for it. What they are
//! told doesn't depend on which emulator holds it, nor on which one asks.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use qemu_tests::{Emulator, QmpClient, packages, skip};

/// How long a process may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ways to hold an image.
const HOLDS: [&str; 9] = [
    "-drive file=IMAGE,format=raw,if=virtio",
    "-drive file=IMAGE,format=raw,if=ide,readonly=off,cache=none",
    "-drive file=IMAGE,format=raw,if=virtio,readonly=on",
    "-drive file=IMAGE,format=raw,media=cdrom",
    "-drive file=IMAGE,format=raw,if=virtio,snapshot=on",
    "-drive file=IMAGE,format=raw,if=none,id=x -device ide-hd,drive=x,share-rw=on",
    "-drive file=IMAGE,format=raw,if=virtio,file.locking=off",
    "-blockdev file,filename=IMAGE,node-name=x,locking=on -device virtio-blk-pci,drive=x",
    "-blockdev file,filename=IMAGE,node-name=x",
];

/// What tools ask for.
const TOOLS: [&[&str]; 6] = [
    &["qemu-img", "info", "-f", "raw"],
    &["qemu-img", "info", "-f", "raw", "-U"],
    &["qemu-img", "resize", "-f", "raw"],
    &["qemu-io", "-f", "raw", "-c", "write 0 512"],
    &["qemu-io", "-f", "raw", "-r", "-c", "read 0 512"],
    &["qemu-io", "-f", "raw", "-r", "-U", "-c", "read 0 512"],
];

/// What emulators ask for.
const ASKS: [&str; 4] = [
    "-drive file=IMAGE,format=raw,if=virtio",
    "-drive file=IMAGE,format=raw,if=none,id=y -device virtio-blk-pci,drive=y,share-rw=on",
    "-drive file=IMAGE,format=raw,if=virtio,readonly=on",
    "-drive file=IMAGE,format=raw,if=ide,file.locking=off",
];

/// What a refusal says, without who says it and of which image: the sentence about the lock.
fn reason(said: &str, image: &str) -> String {
    let said = said.replace(image, "IMAGE");
    let lock = said.find("Failed to get").unwrap_or(0);
    let words = said[lock..].split_whitespace().collect::<Vec<_>>();
    // The hint is behind a full stop, or on a line of its own.
    words.join(" ").replace("lock. Is", "lock Is")
}

/// Runs a tool: what it says if it fails.
fn tool(words: &[&str], image: &str) -> Option<String> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(image);
    if words[1] == "resize" {
        command.arg("1M");
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("a tool of QEMU's");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then(|| reason(&said, image))
}

/// Whether an emulator comes to answer commands, which it does when all its drives are there; its greeting is earlier.
fn answers_commands(mut client: QmpClient) -> bool {
    let sent = client.send_raw(b"{'execute': 'qmp_capabilities'} {'execute': 'query-status'}");
    sent.is_ok() && (0..2).all(|_| client.line(PATIENCE).is_ok())
}

/// Starts an emulator with these options: what it says if it ends at once.
fn emulator(emulator: Emulator, options: &str, image: &str) -> Option<String> {
    let options = options.replace("IMAGE", image);
    let launcher = emulator.launcher().args(emulator.passive_args());
    let instance = launcher.args(options.split(' ')).with_qmp().start();
    let (socket, end) = (instance.dir().join("qmp.sock"), Instant::now() + PATIENCE);
    loop {
        if let Some(status) = instance.try_wait() {
            assert_eq!(status.code(), Some(1), "{}", instance.report());
            instance.wait(PATIENCE);
            return Some(reason(&instance.stderr(), image));
        }
        let client = QmpClient::connect(&socket, Duration::from_millis(100));
        if client.is_ok_and(answers_commands) {
            return None;
        }
        assert!(Instant::now() < end, "{}", instance.report());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// All that is asked for, and the answers, while somebody holds the image. QEMU's and Thimble's are the same.
fn answers(image: &str) -> Vec<(String, Option<String>)> {
    let tools = TOOLS.map(|words| (words.join(" "), tool(words, image)));
    let mut all = tools.to_vec();
    for options in ASKS {
        let [qemu, thimble] = Emulator::BOTH.map(|asks| emulator(asks, options, image));
        assert_eq!(qemu, thimble, "{options}");
        all.push((options.to_owned(), qemu));
    }
    all
}

fn image(path: &Path) -> String {
    std::fs::write(path, vec![0; 1 << 20]).expect("an image");
    path.to_str().expect("a plain path").to_owned()
}

fn has_tools() -> bool {
    let tools = ["qemu-img", "qemu-io"].map(|name| packages::program(name, "qemu-utils"));
    packages::qemu().is_some() && tools.iter().all(Option::is_some)
}

#[test]
fn everybody_sees_the_locks_of_both() {
    if !has_tools() {
        return skip("the Debian packages qemu-system-x86 and qemu-utils can't be had");
    }
    for options in HOLDS {
        let [qemu, thimble] = Emulator::BOTH.map(|holder| {
            let launcher = holder.launcher().args(holder.passive_args());
            let image = image(&launcher.dir().join("image"));
            let options = options.replace("IMAGE", &image);
            let held = launcher.args(options.split(' ')).with_qmp().start();
            assert!(answers_commands(held.qmp()), "{}", held.report());
            answers(&image)
        });
        assert!(qemu.iter().any(|(_, answer)| answer.is_none()), "{options}");
        for (theirs, ours) in qemu.iter().zip(&thimble) {
            assert_eq!(theirs, ours, "held with {options}");
        }
    }
}

#[test]
fn the_locks_of_tools_are_seen() {
    if !has_tools() {
        return skip("the Debian packages qemu-system-x86 and qemu-utils can't be had");
    }
    let folder = Emulator::Thimble.launcher();
    let image = image(&folder.dir().join("image"));
    // It lets others write, too; who doesn't can't have what it writes.
    for (options, refused) in [(&["-f", "raw"][..], true), (&["-f", "raw", "-r"], false)] {
        let mut held = Command::new("qemu-io")
            .args(options)
            .arg(&image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io");
        let mut prompt = [0; 1];
        let output = held.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(output, &mut prompt).expect("a prompt");
        let told = answers(&image);
        let is_refused = told[TOOLS.len()].1.is_some();
        assert_eq!(is_refused, refused, "{options:?}: {told:#?}");
        drop(held.stdin.take());
        held.wait().expect("it ends");
    }
    // Nobody holds it.
    assert!(answers(&image).iter().all(|(_, answer)| answer.is_none()));
}
