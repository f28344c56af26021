//! Groups of limits: objects of type throttle-group, their limits, the `throttle` driver, and how well limits are held.

use std::time::{Duration, Instant};

use qemu_tests::{Emulator, Launcher};
use serde_json::{Value, json};

use crate::block_nodes::with_images;
use crate::{ask, command_with, compare_answers, emulators, negotiated, with};

fn with_groups(emulator: Emulator) -> Launcher {
    let one = "if=none,id=d,node-name=r,file.node-name=f,file={dir}/a.img,format=raw,throttling.group=g,\
               throttling.bps-read=7";
    let other =
        "if=none,id=d2,node-name=r2,file.node-name=f2,file={dir}/b.img,format=raw,iops_wr=7";
    with_images(emulator)
        .args(["-drive", one, "-drive", other])
        .args([
            "-object",
            r#"{"qom-type": "throttle-group", "id": "early", "limits": {"iops-total": 9, "iops-size": 4096}}"#,
        ])
        .args(["-object", "throttle-group,id=old,x-bps-total=11"])
}

fn add(id: &str, more: Value) -> (&'static str, Value) {
    let arguments = with(json!({"qom-type": "throttle-group", "id": id}), more);
    ("object-add", arguments)
}

fn limits(id: &str) -> (&'static str, Value) {
    let path = format!("/objects/{id}");
    ("qom-get", json!({"path": path, "property": "limits"}))
}

fn set(id: &str, property: &str, value: Value) -> (&'static str, Value) {
    let path = format!("/objects/{id}");
    (
        "qom-set",
        json!({"path": path, "property": property, "value": value}),
    )
}

fn del(id: &str) -> (&'static str, Value) {
    ("object-del", json!({"id": id}))
}

fn drive_limits(drive: &str, iops: i64, group: Option<&str>) -> (&'static str, Value) {
    let mut arguments = json!({"device": drive, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": iops, "iops_rd": 0,
                               "iops_wr": 0});
    if let Some(group) = group {
        arguments["group"] = group.into();
    }
    ("block_set_io_throttle", arguments)
}

fn node(name: &str, group: &str, file: Value) -> (&'static str, Value) {
    let options =
        json!({"driver": "throttle", "node-name": name, "throttle-group": group, "file": file});
    ("blockdev-add", options)
}

#[test]
fn groups_say_the_same() {
    let property = |id: &str, name: &str| {
        let path = format!("/objects/{id}");
        ("qom-get", json!({"path": path, "property": name}))
    };
    compare_answers(
        "commands-throttle-groups",
        with_groups,
        &[
            limits("early"),
            limits("old"),
            add("t0", json!({})),
            add("t1", json!({"limits": {"iops-total": 100}})),
            add("t2", json!({"x-iops-total": 7, "x-bps-read": 8})),
            add(
                "t3",
                json!({"x-iops-total": 7, "limits": {"bps-total": 5, "bps-total-max": 50,
                                                       "bps-total-max-length": 3}}),
            ),
            add("t4", json!({"limits": {"bps-total": 5, "bps-read": 5}})),
            add("t4", json!({"limits": {"bps-total": -5}})),
            add(
                "t4",
                json!({"limits": {"bps-total": 1_000_000_000_000_001_i64}}),
            ),
            add("t4", json!({"x-bps-total": -5})),
            add(
                "t4",
                json!({"limits": {"bps-total": 5, "bps-total-max-length": 0}}),
            ),
            add(
                "t4",
                json!({"limits": {"bps-total-max-length": 5_000_000_000_i64}}),
            ),
            add("t4", json!({"limits": {"iops-size": 5}})),
            add("t4", json!({"limits": {"bps-write-max": 5}})),
            add("t4", json!({"limits": 5})),
            add("t4", json!({"limits": {"nix": 5}})),
            add("t4", json!({"limits": {"bps-total": "5"}})),
            add("t4", json!({"x-nix": 5})),
            add("t1", json!({})),
            add("d2", json!({})),
            add("d", json!({})),
            limits("t0"),
            limits("t1"),
            limits("t2"),
            limits("t3"),
            limits("t4"),
            property("t2", "x-iops-total"),
            property("t2", "x-iops-total-max-length"),
            property("t2", "x-iops-size"),
            property("t2", "x-nix"),
            // What is not named stays as it is.
            set(
                "t1",
                "limits",
                json!({"iops-total": 500, "iops-size": 4096}),
            ),
            set("t1", "limits", json!({"bps-read": 9})),
            limits("t1"),
            set("t1", "limits", json!({"bps-total": 1})),
            set("t1", "limits", json!(5)),
            set("t1", "limits", json!({"nix": 9})),
            set("t1", "limits", json!({"iops-total": "x"})),
            set("t1", "limits", json!({"iops-total": {}})),
            set(
                "t1",
                "limits",
                json!({"iops-total-max-length": 5_000_000_000_i64}),
            ),
            set("t1", "x-iops-total", json!(5)),
            set("t1", "x-nix", json!(5)),
            limits("t1"),
            node("th", "t1", json!({"driver": "null-co", "node-name": "n"})),
            node("th2", "g", json!("r")),
            node("th3", "nix", json!("n")),
            ("query-named-block-nodes", json!({"flat": true})),
            del("t1"),
            del("t0"),
            del("g"),
            ("blockdev-del", json!({"node-name": "th"})),
            del("t1"),
            drive_limits("d", 5, Some("t2")),
            limits("t2"),
            ("query-block", json!({})),
            // Both have the same limits from now on.
            drive_limits("d2", 6, Some("t2")),
            ("query-block", json!({})),
            set("t2", "limits", json!({"iops-total": 8})),
            ("query-block", json!({})),
            del("t2"),
            drive_limits("d", 0, None),
            del("t2"),
            drive_limits("d2", 0, None),
            del("t2"),
            drive_limits("d", 5, Some("t2")),
            add("t2", json!({})),
        ],
    );
}

/// What a drive has read and written in one look: requests, bytes, and when.
fn done(client: &mut qemu_tests::QmpClient) -> Vec<(f64, Instant)> {
    let stats = ask(client, "query-blockstats");
    let now = Instant::now();
    let drives = stats.as_array().expect("a list").iter();
    let requests = |drive: &Value| {
        let stats = &drive["stats"];
        ["rd_operations", "wr_operations"]
            .map(|name| stats[name].as_f64().expect("a number"))
            .iter()
            .sum::<f64>()
    };
    drives.map(|drive| (requests(drive), now)).collect()
}

/// Two drives of one group, with more to do than they may: together they are as fast as the group, and each half as
/// fast; and a change while they wait holds at once.
#[test]
fn limits_are_shared_and_change_under_load() {
    for emulator in emulators() {
        let drive = |id: &str| format!("if=none,id={id},driver=null-co,size=1M,iops=100,group=g");
        let instance = with_images(emulator)
            .args(["-drive", &drive("a"), "-drive", &drive("b")])
            .start();
        let mut client = negotiated(&instance);
        for _ in 0..400 {
            for drive in ["a", "b"] {
                let line = format!("qemu-io {drive} \"aio_read -q 0 512\"");
                let arguments = json!({"command-line": line});
                command_with(&mut client, "human-monitor-command", arguments);
            }
        }
        let rates = |client: &mut _, time: Duration| {
            let before = done(client);
            std::thread::sleep(time);
            let after = done(client);
            let pairs = before.into_iter().zip(after);
            let rate = |((a, from), (b, to)): ((f64, Instant), (f64, Instant))| {
                (b - a) / (to - from).as_secs_f64()
            };
            pairs.map(rate).collect::<Vec<f64>>()
        };
        let each = rates(&mut client, Duration::from_secs(2));
        // On a busy machine QEMU is not exact.
        let near = |rate: f64, wanted: f64| {
            let part = match emulator {
                Emulator::Qemu => 0.5,
                Emulator::Thimble => 0.05,
            };
            (rate - wanted).abs() <= wanted * part
        };
        for rate in &each {
            assert!(near(*rate, 50.0), "{emulator:?} {each:?}");
        }
        let (command, arguments) = drive_limits("a", 300, None);
        command_with(&mut client, command, arguments);
        // A bucket that begins empty holds a tenth of a second's worth.
        std::thread::sleep(Duration::from_millis(200));
        let each = rates(&mut client, Duration::from_millis(1000));
        let all: f64 = each.iter().sum();
        assert!(near(all, 300.0), "{emulator:?} {each:?}");
        // Without limits all that waits is done.
        let (command, arguments) = drive_limits("a", 0, None);
        command_with(&mut client, command, arguments);
        let (command, arguments) = drive_limits("b", 0, None);
        command_with(&mut client, command, arguments);
        let arguments = json!({"command-line": "qemu-io b \"aio_flush\""});
        command_with(&mut client, "human-monitor-command", arguments);
        let all = done(&mut client);
        assert_eq!((all[0].0, all[1].0), (400.0, 400.0), "{emulator:?}");
    }
}
