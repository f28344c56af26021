//! Prints the name of every QMP command that Thimble lists, one a line, for `cargo xtask sabotage`.

use qemu_tests::Emulator;
use serde_json::json;

fn main() {
    let instance = Emulator::Thimble
        .launcher()
        .args(Emulator::Thimble.passive_args())
        .with_qmp()
        .start();
    let mut client = instance.qmp();
    client.negotiate();
    let list = client.execute("query-commands", json!({})).expect("a list");
    for command in list.as_array().into_iter().flatten() {
        println!("{}", command["name"].as_str().unwrap_or_default());
    }
}
