//! Tables that the command line rules, side by side with QEMU: SMBIOS structures byte by byte, and what is refused.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use qemu_tests::fw_cfg::file;
use qemu_tests::{Emulator, ask_both, packages, program_output, skip, thimble_binary};

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
];

/// Makes the files that options name.
fn files(dir: &Path) {
    let structure = |number: u8, length: u8, rest: &[u8]| {
        let mut bytes = vec![number, length, 0, 1];
        bytes.resize(length.into(), 0);
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
    ] {
        std::fs::write(dir.join(name), bytes).expect("a file");
    }
}

/// Files of fw_cfg under these options, where both emulators have processors of the same model.
fn told(emulator: Emulator, options: &str, names: &[&str]) -> Vec<Option<Vec<u8>>> {
    let launcher = emulator
        .launcher()
        .args(["-accel", "tcg", "-S", "-nodefaults", "-display", "none"])
        .args(["-M", "pc"]);
    files(launcher.dir());
    let instance = launcher.args(options.split(' ')).with_qtest().start();
    let mut client = instance.qtest();
    names.iter().map(|name| file(&mut client, name)).collect()
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
    let line = text.lines().last().unwrap_or_default();
    let (_, line) = line.split_once(": ").unwrap_or_default();
    let options: Vec<&str> = options.split(' ').collect();
    let named = options.chunks(2).map(|pair| pair.join(" ") + ": ");
    let reason = named.filter_map(|named| line.strip_prefix(&named)).next();
    let reason = reason.or_else(|| line.strip_prefix("-smbios: "));
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
