//! Disks in trouble: media that are taken away while requests are under way, and flushes that fail.

use std::time::Instant;

use qemu_tests::{Emulator, Instance, Launcher, QmpClient};
use serde_json::{Value, json};

use crate::block_human::without_numbers;
use crate::block_nodes::with_images;
use crate::disks::booting_sector;
use crate::{
    SOON, answer, ask, command_with, compare, emulators, events, negotiated, status, wait_until,
};

/// A command of the human monitor that says nothing.
fn tell(client: &mut QmpClient, line: &str) {
    let arguments = json!({"command-line": line});
    let said = command_with(client, "human-monitor-command", arguments);
    assert_eq!(said, json!(""), "{line}");
}

/// What became of a drive's reads: those that were done, those that failed, those that made no sense.
fn reads(client: &mut QmpClient) -> Value {
    let stats = ask(client, "query-blockstats")[0]["stats"].clone();
    let names = [
        "rd_operations",
        "failed_rd_operations",
        "invalid_rd_operations",
    ];
    names.iter().map(|name| stats[name].clone()).collect()
}

/// Does something to a CD drive's medium, of which four requests are under way that would take minutes.
fn taken_away(
    launch: impl Fn(Emulator) -> Launcher,
    act: impl Fn(&Instance, &mut QmpClient) -> String,
) {
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = launch(emulator).start();
        let mut client = negotiated(&instance);
        for _ in 0..4 {
            tell(&mut client, "qemu-io c \"aio_read -q 0 4k\"");
        }
        wait_until("the first is done", || reads(&mut client)[0] == 1);
        let began = Instant::now();
        let mut said = vec![("taken away".to_owned(), act(&instance, &mut client))];
        assert!(began.elapsed() < SOON, "{emulator:?}");
        said.push(("reads".to_owned(), reads(&mut client).to_string()));
        let shown = answer(&instance, &mut client, "query-block", &json!({}));
        said.push(("drives".to_owned(), without_numbers(&shown)));
        said.push(("events".to_owned(), json!(events(&mut client)).to_string()));
        said.push(("state".to_owned(), status(&mut client)));
        answers.push(said);
    }
    compare("commands-disk-failures", &answers);
}

fn slow(emulator: Emulator) -> Launcher {
    let drive = "if=none,id=c,file={dir}/a.img,format=raw,throttling.bps-total=32";
    with_images(emulator)
        .args(["-drive", drive])
        .args(["-device", "ide-cd,id=cd,drive=c"])
}

/// The same where a node has the limits.
fn slow_below(emulator: Emulator) -> Launcher {
    let drive = "if=none,id=c,driver=throttle,throttle-group=g,file.driver=raw,file.file.driver=file,\
                 file.file.filename={dir}/a.img,read-only=on,file.node-name=r,node-name=t,file.file.node-name=f";
    with_images(emulator)
        .args([
            "-object",
            r#"{"qom-type": "throttle-group", "id": "g", "limits": {"bps-total": 32}}"#,
        ])
        .args(["-drive", drive])
        .args(["-device", "ide-cd,id=cd,drive=c"])
}

#[test]
fn media_go_while_requests_are_under_way() {
    for launch in [slow, slow_below] {
        for (command, arguments) in [
            ("eject", json!({"id": "cd", "force": true})),
            ("eject", json!({"device": "c"})),
            (
                "human-monitor-command",
                json!({"command-line": "drive_del c"}),
            ),
            (
                "blockdev-change-medium",
                json!({"id": "cd", "filename": "{dir}/b.img", "format": "raw"}),
            ),
        ] {
            taken_away(launch, |instance, client| {
                answer(instance, client, command, &arguments)
            });
        }
    }
}

/// A request that has been stopped is let go by whoever has to wait for it.
#[test]
fn a_stopped_request_does_not_keep_the_medium() {
    let drive = "if=none,id=c,driver=raw,read-only=on,file.driver=blkdebug,file.image.driver=file,\
                 file.image.filename={dir}/a.img";
    let instance = with_images(Emulator::Thimble)
        .args(["-drive", drive, "-device", "ide-cd,id=cd,drive=c"])
        .start();
    let mut client = negotiated(&instance);
    for line in ["break read_aio A", "aio_read 0 512", "wait_break A"] {
        tell(&mut client, &format!("qemu-io c \"{line}\""));
    }
    assert_eq!(reads(&mut client)[0], 0);
    command_with(&mut client, "eject", json!({"id": "cd", "force": true}));
    assert_eq!(reads(&mut client), json!([1, 0, 0]));
    assert!(instance.wait_stdout("read 512/512 bytes", SOON));
    assert_eq!(status(&mut client), "prelaunch");
}

/// A boot sector that writes a sector of the first IDE disk, asks the disk twice to flush, and prints the status and the error register of both times.
fn flushing() -> Vec<u8> {
    let code = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xc0, // mov es, ax
        0xbb, 0x00, 0x7c, // mov bx, 7c00h
        0xb8, 0x01, 0x03, // mov ax, 0301h: write a sector
        0xb9, 0x02, 0x00, // mov cx, 2
        0xb6, 0x00, // mov dh, 0
        0xcd, 0x13, // int 13h
        0xfa, // cli
        0xb9, 0x02, 0x00, // mov cx, 2
        0xba, 0xf6, 0x01, // again: mov dx, 1f6h
        0xb0, 0xe0, // mov al, e0h: the first drive
        0xee, // out dx, al
        0x42, // inc dx
        0xb0, 0xe7, // mov al, e7h: FLUSH CACHE
        0xee, // out dx, al
        0xec, // wait: in al, dx
        0xa8, 0x80, // test al, 80h
        0x75, 0xfb, // jnz wait
        0xe6, 0xe9, // out e9h, al
        0xba, 0xf1, 0x01, // mov dx, 1f1h
        0xec, // in al, dx
        0x0c, 0x30, // or al, '0'
        0xe6, 0xe9, // out e9h, al
        0xe2, 0xe5, // loop again
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    qemu_tests::media::boot_sector(&code)
}

/// Starts that guest on an image whose first flush fails, and tells what the client hears until the guest is done.
fn flush(test: &str, policy: &str, heard: impl Fn(&mut QmpClient) -> Value) {
    let rules = "blkdebug,node-name=bd,image.driver=file,image.filename={dir}/boot.img,\
                 inject-error.0.event=flush_to_disk,inject-error.0.iotype=flush,inject-error.0.once=on";
    let mut answers = Vec::new();
    for emulator in emulators() {
        let device = format!("ide-hd,drive=r,id=hd,bus=ide.0,{policy}");
        let options = [
            "-blockdev",
            rules,
            "-blockdev",
            "raw,node-name=r,file=bd",
            "-device",
            &device,
        ];
        let instance = booting_sector(emulator, &flushing(), &options).start();
        let mut client = negotiated(&instance);
        let before = heard(&mut client);
        wait_until("the guest is done", || crate::console(&instance).len() == 4);
        let stats = ask(&mut client, "query-blockstats")[0]["stats"].clone();
        let drives = answer(&instance, &mut client, "query-block", &json!({}));
        answers.push(vec![
            ("heard".to_owned(), before.to_string()),
            ("guest".to_owned(), crate::console(&instance)),
            ("events".to_owned(), json!(events(&mut client)).to_string()),
            (
                "failed".to_owned(),
                stats["failed_flush_operations"].to_string(),
            ),
            ("done".to_owned(), stats["flush_operations"].to_string()),
            ("drives".to_owned(), drives),
        ]);
    }
    compare(test, &answers);
}

#[test]
fn a_flush_that_fails_is_told_to_the_guest() {
    flush("commands-disk-failures-flush", "werror=report", |_| {
        json!(null)
    });
    flush("commands-disk-failures-flush-auto", "werror=auto", |_| {
        json!(null)
    });
    flush(
        "commands-disk-failures-flush-ignored",
        "werror=ignore",
        |_| json!(null),
    );
}

#[test]
fn a_flush_that_fails_stops_the_machine_and_is_done_again() {
    flush(
        "commands-disk-failures-flush-stop",
        "werror=stop",
        |client| {
            wait_until("the error stops the machine", || {
                status(client) == "io-error"
            });
            let told = json!([events(client), ask(client, "query-block")[0]["io-status"]]);
            command_with(client, "cont", json!({}));
            told
        },
    );
}

/// The client's own flush fails, once.
#[test]
fn a_flush_of_a_command_fails() {
    let drive = "if=none,id=d,driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={dir}/a.img,\
                 file.inject-error.0.event=flush_to_disk,file.inject-error.0.iotype=flush,file.inject-error.0.once=on";
    let mut answers = Vec::new();
    for emulator in emulators() {
        let instance = with_images(emulator).args(["-drive", drive]).start();
        let mut client = negotiated(&instance);
        // What has not been written to is not flushed.
        tell(&mut client, "qemu-io d \"flush\"");
        tell(&mut client, "qemu-io d \"write 0 512\"");
        for _ in 0..2 {
            tell(&mut client, "qemu-io d \"flush\"");
        }
        tell(&mut client, "qemu-io d \"write -f 512 512\"");
        assert!(instance.wait_stdout("wrote 512/512 bytes at offset 512", SOON));
        let out = String::from_utf8_lossy(&instance.stdout()).into_owned();
        let lines = out.lines().filter(|line| !line.contains("ops/sec"));
        let lines: Vec<&str> = lines.collect();
        let told = json!(events(&mut client));
        answers.push(vec![("flush".to_owned(), format!("{lines:?} {told}"))]);
    }
    compare("commands-disk-failures-own", &answers);
}
