//! Tables that the command line rules, side by side with QEMU: SMBIOS structures byte by byte, and what is refused.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_tests::fw_cfg::{file, item};
use qemu_tests::{Emulator, Instance, ask_both, packages, program_output, skip, thimble_binary};
use serde_json::json;

/// Emulators that refuse their options are gone by then.
const SOON: Duration = Duration::from_secs(20);

/// SMBIOS structures: options that both emulators take. `{dir}` has the files of [`files`].
const SMBIOS: &[&str] = &[
    "-m 128 -uuid 00112233-4455-6677-8899-aabbccddeeff",
    "-M pc,smbios-entry-point-type=64 -smp 6,sockets=3,cores=2,threads=2,maxcpus=12",
    "-m 40G -object memory-backend-ram,id=m,size=40G,reserve=off -M memory-backend=m",
    "-m 5000K",
    "-smp 20,sockets=20",
    "-smbios type=0",
    "-smbios type=0,vendor=v,version=1.2,date=01/02/2003,release=4.5,uefi=on",
    "-smbios type=0,release=300.400",
    "-smbios type=1,manufacturer=m,product=p,version=v,serial=s,sku=k,family=f",
    "-smbios type=1,uuid=00112233-4455-6677-8899-aabbccddeeff -uuid 99112233-4455-6677-8899-aabbccddeeff",
    "-smbios type=1,serial=a -smbios type=1,sku=b -smbios type=0x1,serial=c,manufacturer=",
    "-smbios type=2,manufacturer=m,product=p,version=v,serial=s,asset=a,location=l",
    "-smbios type=2,serial=",
    "-smbios type=3,manufacturer=m,version=v,serial=s,asset=a,sku=k",
    "-smp 2,sockets=2 -smbios type=4,sock_pfx=S,manufacturer=m,version=v,serial=s,asset=a,part=p,max-speed=1,current-speed=7",
    "-smbios type=4,processor-id=0x123456789a,sock_pfx=",
    "-smbios type=8,internal_reference=i,external_reference=e,connector_type=300,port_type=4 -smbios type=8",
    "-smbios type=11,value=a,,b,path={dir}/text,value=c -smbios type=11,value=d",
    "-smbios type=11,path={dir}/empty",
    "-smbios type=11",
    "-smbios type=17,loc_pfx=L,bank=b,manufacturer=m,serial=s,asset=a,part=p,speed=1600",
    "-smbios type=41,designation=d,kind=ethernet,instance=2,pcidev=x -device pci-testdev,id=x,addr=5",
    "-smbios type=41 -smbios type=41,kind=sas,instance=300",
    "-smbios file={dir}/system -smbios type=2",
    "-smbios file={dir}/system -smbios file={dir}/own -smbios file={dir}/own",
    "-smbios file={dir}/truncated",
    "-smbios file={dir}/own -smbios file={dir}/end -smp 2,sockets=2",
];

/// ACPI tables of the user's: options that both emulators take.
const ACPI: &[&str] = &[
    "-acpitable file={dir}/table",
    "-acpitable file={dir}/long",
    "-acpitable file={dir}/short",
    "-acpitable sig=NEWS,rev=5,oem_id=ABCDEF,oem_table_id=ABCDEFGH,oem_rev=66,asl_compiler_id=WXYZ,asl_compiler_rev=0x77,file={dir}/table",
    "-acpitable sig=NEWSX,oem_id=AB,oem_table_id=ABCDEFGHI,asl_compiler_id=W,data={dir}/text:{dir}/own",
    "-acpitable data={dir}/text",
    "-acpitable {dir}/empty",
    "-acpitable file={dir}/table:{dir}/text -acpitable file={dir}/table -acpitable data={dir}/text",
    "-acpitable sig=DSDT,file={dir}/table",
];

/// NUMA nodes: options that both take, with 128 MiB of RAM in backends `a` and `b` of 96 and 32 MiB.
const NUMA: &[&str] = &[
    "-smp 4 -numa node,memdev=a -numa node,memdev=b",
    "-smp 4,sockets=2 -numa node,memdev=a -numa node,memdev=b",
    "-smp 4 -numa node,memdev=a,cpus=0 -numa node,memdev=b,cpus=1-2,cpus=3 -numa dist,src=0,dst=1,val=15",
    "-smp 2,maxcpus=4 -numa node,nodeid=1,memdev=a,cpus=1 -numa node,nodeid=0,memdev=b,cpus=0 -numa node,cpus=2-3",
    "-smp 6,sockets=2,cores=3 -numa node,memdev=a -numa node,memdev=b -numa cpu,node-id=1,socket-id=1 -numa cpu,node-id=0,socket-id=0",
    "-smp 2 -numa node,memdev=a -numa node,memdev=b -numa dist,src=0,dst=1,val=20 -numa dist,src=1,dst=0,val=0x21",
];

/// Options that both refuse in the same words.
const REFUSED: &[&str] = &[
    "-smbios foo=1",
    "-smbios type=abc",
    "-smbios type=300",
    "-smbios type=5",
    "-smbios type=0,foo=1",
    "-smbios type=1,vendor=x",
    "-smbios type=0,release=4",
    "-smbios type=0,uefi=maybe",
    "-smbios type=1,uuid=xx",
    "-smbios type=4,max-speed=70000",
    "-smbios type=4,current-speed=65536",
    "-smbios type=11,path={dir}/zero",
    "-smbios type=11,path={dir}/missing",
    "-smbios type=41,kind=foo",
    "-smbios type=41,designation=d,pcidev=x",
    "-smbios file={dir}/missing",
    "-smbios file={dir}/text",
    "-smbios file={dir}",
    "-smbios file={dir}/own,type=1",
    "-smbios file={dir}/system -smbios type=1,serial=a",
    "-smbios type=1,serial=a -smbios file={dir}/system",
    "-smbios file={dir}/processor -smp 2,sockets=2",
    "-smbios file={dir}/large",
    "-acpitable sig=A",
    "-acpitable data={dir}/text,file={dir}/text",
    "-acpitable data=",
    "-acpitable file=::",
    "-acpitable foo=1,file={dir}/table",
    "-acpitable rev=300,data={dir}/text",
    "-acpitable rev=x,data={dir}/text",
    "-acpitable oem_rev=4294967296,data={dir}/text",
    "-acpitable file={dir}/missing",
    "-acpitable file={dir}",
    "-acpitable file={dir}/text",
    "-acpitable file={dir}/large",
    "-numa foo",
    "-numa nodeid=1",
    "-numa node,foo=1",
    "-numa node,memdev=x",
    "-numa node,mem=64M",
    "-numa node,mem=64M,memdev=x",
    "-numa node,cpus=5",
    "-numa node,cpus=0-5",
    "-numa node,cpus=x",
    "-smp 2 -numa node,cpus=1-0",
    "-numa node,nodeid=128",
    "-numa node,nodeid=70000",
    "-numa node,nodeid=0 -numa node,nodeid=0",
    "-numa node,nodeid=1 -numa node",
    "-numa node,initiator=0",
    "-numa hmat-lb,initiator=0,target=0,hierarchy=memory,data-type=access-latency,latency=5",
    "-numa node,nodeid=1",
    "-numa node",
    "-smp 2 -numa node,cpus=0-1 -numa node,cpus=1",
    "-numa node -numa dist,src=0",
    "-numa node -numa dist,src=0,dst=1,val=15",
    "-numa node -numa dist,src=0,dst=0,val=15",
    "-numa node -numa dist,src=0,dst=0,val=9",
    "-numa node -numa dist,src=0,dst=0,val=256",
    "-numa node -numa dist,src=0,dst=200,val=10",
    "-numa cpu,node-id=0,socket-id=0",
    "-numa node -numa cpu,socket-id=0",
    "-numa node -numa cpu,node-id=0,socket-id=5",
    "-numa node -numa cpu,node-id=0,die-id=0",
];

/// Makes the files that options name.
fn files(dir: &Path) {
    let structure = |number: u8, length: u8, rest: &[u8]| {
        let mut bytes = vec![number, length, 0, 1];
        bytes.resize(length.into(), 0);
        bytes.extend_from_slice(rest);
        bytes
    };
    // A table that says that it has so many bytes; its checksum is wrong.
    let table = |length: u8, rest: &[u8]| {
        let mut bytes = b"TEST\0\0\0\0\x03\xfaMYOEM MYTABLE \x07\0\0\0MYCC\x09\0\0\0".to_vec();
        bytes[4] = length;
        bytes.extend_from_slice(rest);
        bytes
    };
    for (name, bytes) in [
        ("empty", vec![]),
        ("text", b"abc".to_vec()),
        ("zero", b"a\0b".to_vec()),
        ("system", structure(1, 27, b"abc\0\0")),
        ("processor", structure(4, 42, b"\0\0")),
        ("own", structure(130, 6, b"hello\0you\0\0")),
        ("end", structure(127, 4, b"\0\0")),
        ("truncated", structure(130, 6, b"hello")),
        ("large", vec![200; 70_000]),
        ("table", table(40, b"abcd")),
        ("long", table(40, b"abcdzz")),
        ("short", table(40, b"ab")),
    ] {
        std::fs::write(dir.join(name), bytes).expect("a file");
    }
}

/// An emulator with these options, both with processors of the same model.
fn started(emulator: Emulator, options: &str) -> Instance {
    let launcher = emulator
        .launcher()
        .args(["-accel", "tcg", "-S", "-nodefaults", "-display", "none"])
        .args(["-M", "pc"]);
    files(launcher.dir());
    launcher
        .args(options.split(' '))
        .with_qtest()
        .with_qmp()
        .start()
}

/// Files of fw_cfg under these options.
fn told(emulator: Emulator, options: &str, names: &[&str]) -> Vec<Option<Vec<u8>>> {
    let instance = started(emulator, options);
    let mut client = instance.qtest();
    names.iter().map(|name| file(&mut client, name)).collect()
}

/// The tables of a file, in order.
fn acpi_tables(bytes: &[u8]) -> Vec<&[u8]> {
    let mut tables = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= 36) {
        if rest[0] == 0 {
            at += 1;
            continue;
        }
        let length = u32::from_le_bytes(rest[4..8].try_into().expect("4 bytes")) as usize;
        tables.push(&rest[..length]);
        at += length;
    }
    tables
}

/// Tables of the user's follow the board's, and are there in the old form, too.
#[test]
fn acpi_tables_of_the_user_are_those_of_qemu() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in ACPI {
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = started(emulator, options);
            let mut client = instance.qtest();
            let old = item(&mut client, 0x8000, 256);
            let bytes = file(&mut client, "etc/acpi/tables").expect("tables");
            let tables = acpi_tables(&bytes);
            let is = |name: &'static str| move |table: &&[u8]| table.starts_with(name.as_bytes());
            let waet = tables
                .iter()
                .position(|table| is("WAET")(table))
                .expect("a WAET");
            let users = tables[waet + 1..]
                .iter()
                .take_while(|table| !is("RSDT")(table));
            let users: Vec<Vec<u8>> = users.map(|table| table.to_vec()).collect();
            let rsdt = tables
                .iter()
                .find(|table| is("RSDT")(table))
                .expect("an RSDT");
            (old, users, rsdt.len())
        });
        assert!(!qemu.1.is_empty(), "{options}");
        assert_eq!(thimble, qemu, "{options}");
    }
    let [qemu, thimble] = ask_both(|emulator| {
        let instance = started(emulator, "-no-acpi -acpitable file={dir}/table");
        item(&mut instance.qtest(), 0x8000, 64)
    });
    assert_eq!(thimble, qemu);
}

#[test]
fn nodes_are_told_as_by_qemu() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    for options in NUMA {
        let options = format!(
            "-m 128 -object memory-backend-ram,id=a,size=96M -object memory-backend-ram,id=b,size=32M {options}"
        );
        let [qemu, thimble] = ask_both(|emulator| {
            let instance = started(emulator, &options);
            let mut client = instance.qtest();
            let nodes = item(&mut client, 0xd, 128);
            let bytes = file(&mut client, "etc/acpi/tables").expect("tables");
            let tables = acpi_tables(&bytes).into_iter();
            let told = tables.filter(|table| [&b"SRAT"[..], b"SLIT"].contains(&&table[..4]));
            // But for the header, which says who made them.
            let told: Vec<_> = told
                .map(|table| (table[..9].to_vec(), table[36..].to_vec()))
                .collect();
            let mut qmp = instance.qmp();
            qmp.negotiate();
            let shown = json!({"command-line": "info numa"});
            let shown = qmp.execute("human-monitor-command", shown);
            let mut cpus = qmp
                .execute("query-cpus-fast", json!({}))
                .expect("processors");
            let places = cpus.as_array_mut().expect("a list");
            let places: Vec<_> = places.iter_mut().map(|cpu| cpu["props"].take()).collect();
            (nodes, told, shown, places)
        });
        assert!(!qemu.1.is_empty(), "{options}");
        assert_eq!(thimble, qemu, "{options}");
    }
}

#[test]
fn smbios_structures_are_those_of_qemu() {
    if packages::qemu().is_none() {
        return skip("qemu-system-x86 is missing");
    }
    let names = ["etc/smbios/smbios-anchor", "etc/smbios/smbios-tables"];
    for options in SMBIOS {
        let [qemu, thimble] = ask_both(|emulator| told(emulator, options, &names));
        assert!(qemu.iter().all(Option::is_some), "{options}");
        assert_eq!(thimble, qemu, "{options}");
    }
    for emulator in [Emulator::Qemu, Emulator::Thimble] {
        let none = told(emulator, "-M microvm", &names);
        assert_eq!(none, [None, None], "{emulator:?}");
    }
}

/// What an emulator says when it refuses options, without its name and the options it names.
fn refusal(program: &Path, options: &str, dir: &Path) -> String {
    let options = options.replace("{dir}", dir.to_str().expect("a plain path"));
    let mut command = Command::new(program);
    command
        .args(["-accel", "tcg", "-S", "-nodefaults", "-display", "none"])
        .args(["-M", "pc"])
        .args(options.split(' '));
    let output = program_output(&mut command, SOON);
    assert!(!output.status.success(), "{options}");
    let text = String::from_utf8_lossy(&output.stderr);
    // QEMU may have a hint behind it.
    let mut lines = text.lines().filter(|line| !line.contains("warning:"));
    let line = lines.next().unwrap_or_default();
    let (_, line) = line.split_once(": ").unwrap_or_default();
    let options: Vec<&str> = options.split(' ').collect();
    let named = options.chunks(2).map(|pair| pair.join(" ") + ": ");
    let reason = named.filter_map(|named| line.strip_prefix(&named)).next();
    let bare = ["-smbios: ", "-numa: "].iter();
    let mut bare = bare.filter_map(|named| line.strip_prefix(named));
    let reason = reason.or_else(|| bare.next());
    reason.unwrap_or(line).to_owned()
}

#[test]
fn the_same_tables_are_refused() {
    let Some(qemu) = packages::qemu() else {
        return skip("qemu-system-x86 is missing");
    };
    let dir = std::env::temp_dir().join(format!("thimble-tables-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    files(&dir);
    for options in REFUSED {
        let expected = refusal(&qemu, options, &dir);
        assert!(!expected.is_empty(), "{options}");
        assert_eq!(
            refusal(&thimble_binary(), options, &dir),
            expected,
            "{options}"
        );
    }
    std::fs::remove_dir_all(&dir).expect("a directory");
}
