//! The image is taken apart again, as a guest does it, for many kinds of boards.

use super::*;
use crate::devices::acpi_pm;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

/// More of them than there can be.
static MANY: [&[u8]; LISTED_MAX] = [&USER; LISTED_MAX];
const BASE: u64 = 0x0fff_8000;
/// Bytes of RAM.
const RAM: u64 = 128 << 20;
/// Memory for boards without tables of the user's.
const MEMORY: usize = IMAGE_MAX + SCRIPT_MAX;

/// A board, in owned parts.
#[derive(Clone, Debug)]
struct Sample {
    cpus: u16,
    max_cpus: u16,
    id_shift: u32,
    reduced: bool,
    /// Without 8259s and real-time clock.
    bare: bool,
    gpe0: bool,
    command: bool,
    reset: bool,
    slots: Option<u32>,
    serials: usize,
    generation: Option<GenerationId>,
    numa: Numa<'static>,
    user: &'static [&'static [u8]],
}

const PC: Sample = Sample {
    cpus: 2,
    max_cpus: 4,
    id_shift: 0,
    reduced: false,
    bare: false,
    gpe0: true,
    command: true,
    reset: true,
    slots: Some(0b11),
    serials: 2,
    generation: None,
    numa: Numa {
        memory: &[],
        cpus: &[],
        distances: &[],
        item: &[],
    },
    user: &[],
};

/// Places of virtio devices.
const VIRTIO: [VirtioPlace; 2] = [
    VirtioPlace {
        number: 3,
        address: 0xfeb0_0600,
        irq: 27,
    },
    VirtioPlace {
        number: 23,
        address: 0xfeb0_2e00,
        irq: 47,
    },
];

/// A table of a user's, complete.
const USER: [u8; 40] = {
    let mut bytes = [0; 40];
    (bytes[0], bytes[1], bytes[2], bytes[3]) = (b'T', b'E', b'S', b'T');
    (bytes[4], bytes[9], bytes[39]) = (40, 0x97, 1);
    bytes
};

impl Sample {
    fn with<R>(&self, use_facts: impl FnOnce(&Facts<'_>) -> R) -> R {
        let names = ["COM1", "COM2", "COM3", "COM4"];
        let devices: Vec<_> = (0..self.serials)
            .map(|index| IsaDevice {
                name: names[index],
                id: Term::Eisa("PNP0501"),
                uid: Some(index as u8),
                ports: [(0x3f8, 8), (0, 0)],
                irq: Some(4),
                is_hidden: index == 1,
            })
            .collect();
        let shift = self.id_shift;
        use_facts(&Facts {
            cpus: self.cpus,
            max_cpus: self.max_cpus,
            apic_id: &|index| u32::from(index) << shift,
            hardware: match self.reduced {
                true => Hardware::Reduced { irq: 9 },
                false => Hardware::Full {
                    sci: 9,
                    base: acpi_pm::BASE,
                    gpe0: self.gpe0.then_some(acpi_pm::GPE0),
                    command: self.command.then_some(acpi_pm::APMC),
                },
            },
            has_pic: !self.bare,
            has_rtc: !self.bare,
            has_second_ioapic: self.reduced,
            virtio: if self.reduced { &VIRTIO } else { &[] },
            reset: self.reset.then_some((0xcf9, 6)),
            has_keyboard_controller: self.command,
            generation: self.generation,
            hpet: self.slots.map(|_| (0x8086_a201, 0xfed0_0000)),
            sleep: self.slots.map(|_| SleepStates::DEFAULT),
            pci: self.slots.map(|slots| PciFacts {
                config_ports: (0xcf8, 8),
                memory: &[(0xa_0000, 0xb_ffff, true), (1 << 27, 0xfebf_ffff, false)],
                slots,
                isa_bridge: Address::new(0, 1, 0),
                link_irqs: &[5, 10, 11],
            }),
            devices: &devices,
            floppies: self.slots.map(|_| {
                let drive = FloppyFacts {
                    kind: 5,
                    cylinder: 79,
                    sector: 48,
                    head: 1,
                };
                [Some(drive), None]
            }),
            ram: (RAM, 0),
            numa: self.numa,
            user: self.user,
        })
    }

    fn build<'m>(&self, memory: &'m mut [u8]) -> Result<Tables<'m>, Error> {
        self.with(|facts| Tables::build(facts, memory))
    }

    fn linked(&self) -> Vec<u8> {
        let mut memory = vec![0xee; MEMORY];
        self.build(&mut memory).unwrap().link(BASE).to_vec()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The table at an address, its checksum looked at.
fn table(image: &[u8], base: u64, address: u64) -> (String, &[u8]) {
    let bytes = &image[(address - base) as usize..];
    let bytes = &bytes[..word(bytes, 4) as usize];
    let name = String::from_utf8(bytes[..4].to_vec()).unwrap();
    if name != "FACS" {
        assert_eq!(sum(bytes), 0, "{name}");
    }
    (name, bytes)
}

/// All tables by name, found from the RSDP at the image's front; both ways must find the same.
fn tables_of(image: &[u8], base: u64) -> BTreeMap<String, &[u8]> {
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((sum(&image[..20]), sum(&image[..36])), (0, 0));
    let (name, rsdt) = table(image, base, word(image, 16).into());
    assert_eq!(name, "RSDT");
    let (name, xsdt) = table(image, base, long(image, 24));
    assert_eq!(name, "XSDT");
    let narrow: Vec<u64> = rsdt[36..].chunks(4).map(|p| word(p, 0).into()).collect();
    let wide: Vec<u64> = xsdt[36..].chunks(8).map(|p| long(p, 0)).collect();
    assert_eq!(narrow, wide);
    let mut found: BTreeMap<_, _> = wide.iter().map(|at| table(image, base, *at)).collect();
    let fadt = found["FACP"];
    assert_eq!(u64::from(word(fadt, 40)), long(fadt, 140));
    assert_eq!(word(fadt, 36) % 64, 0, "the FACS is aligned");
    for at in [36, 40] {
        let (name, bytes) = table(image, base, word(fadt, at).into());
        found.insert(name, bytes);
    }
    found
}

/// Reads a package length: what it counts, and its own bytes.
fn package_length(bytes: &[u8]) -> (usize, usize) {
    let extra = usize::from(bytes[0] >> 6);
    if extra == 0 {
        return (bytes[0].into(), 1);
    }
    let rest = (0..extra).fold(0, |rest, i| rest | usize::from(bytes[1 + i]) << (4 + 8 * i));
    (usize::from(bytes[0] & 0xf) | rest, 1 + extra)
}

/// Names of devices in a list of AML terms, as far down as scopes and devices go. Every package
/// must end within the one around it.
fn devices_in(mut terms: &[u8], names: &mut Vec<String>) {
    while let [first, rest @ ..] = terms {
        let (opcode, body) = match (first, rest) {
            (0x5b, [second, rest @ ..]) => (0x5b00 | u16::from(*second), rest),
            _ => (u16::from(*first), rest),
        };
        let length = match opcode {
            // Names: of an integer, text, buffer or package. Other terms end a list here.
            0x08 => {
                let value = &body[name_length(body)..];
                name_length(body) + value_length(value)
            }
            0x10 | 0x14 | 0x5b81 | 0x5b82 => package_length(body).0,
            0x5b80 => {
                let region = name_length(body) + 1;
                let offset = region + value_length(&body[region..]);
                offset + value_length(&body[offset..])
            }
            // CreateDWordField (name, integer, name)
            0x8a => {
                let at = name_length(body);
                let name = at + value_length(&body[at..]);
                name + name_length(&body[name..])
            }
            _ => panic!("opcode {opcode:#x}"),
        };
        if matches!(opcode, 0x10 | 0x5b82) {
            let (whole, own) = package_length(body);
            let inside = &body[own..whole];
            let name = name_length(inside);
            if opcode == 0x5b82 {
                names.push(String::from_utf8(inside[..4].to_vec()).unwrap());
            }
            devices_in(&inside[name..], names);
        }
        terms = &body[length..];
    }
}

fn name_length(bytes: &[u8]) -> usize {
    let prefix = bytes
        .iter()
        .take_while(|byte| matches!(byte, b'\\' | b'^'))
        .count();
    prefix
        + match bytes[prefix] {
            0x2e => 9,
            0x2f => 2 + 4 * usize::from(bytes[prefix + 1]),
            _ => 4,
        }
}

fn value_length(bytes: &[u8]) -> usize {
    match bytes[0] {
        0x00 | 0x01 => 1,
        0x0a => 2,
        0x0b => 3,
        0x0c => 5,
        0x0d => bytes.iter().position(|byte| *byte == 0).unwrap() + 1,
        0x0e => 9,
        0x11 | 0x12 => 1 + package_length(&bytes[1..]).0,
        other => panic!("value {other:#x}"),
    }
}

fn devices_of(tables: &BTreeMap<String, &[u8]>) -> Vec<String> {
    let mut names = Vec::new();
    devices_in(&tables["DSDT"][36..], &mut names);
    names
}

#[test]
fn a_pc_is_told_of() {
    let image = PC.linked();
    let tables = tables_of(&image, BASE);
    let names: Vec<_> = tables.keys().map(String::as_str).collect();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "FACS", "HPET", "WAET"]);
    assert!(image[FACS_AT as usize..].starts_with(b"FACS"));
    let fadt = tables["FACP"];
    assert_eq!(fadt.len(), 276);
    assert_eq!((fadt[8], fadt[131]), (6, 4));
    assert_eq!((fadt[46], word(fadt, 48)), (9, 0xb2));
    assert_eq!(fadt[52..54], [0xf1, 0xf0]);
    let blocks = [56, 64, 76, 80].map(|at| word(fadt, at));
    assert_eq!(blocks, [0x600, 0x604, 0x608, 0xafe0]);
    assert_eq!([fadt[88], fadt[89], fadt[91], fadt[92]], [4, 2, 4, 4]);
    for (at, address) in [(148, 0x600), (172, 0x604), (208, 0x608), (220, 0xafe0)] {
        assert_eq!((fadt[at], long(fadt, at + 4)), (1, address));
    }
    assert_eq!((long(fadt, 120), fadt[128]), (0xcf9, 6));
    assert_eq!(word(fadt, 112), 0x8425);
    let devices = devices_of(&tables);
    assert_eq!(
        devices,
        [
            "C000", "C001", "PCI0", "ISA_", "FDC0", "FLPA", "COM1", "COM2", "MBRD", "LNKA", "LNKB",
            "LNKC", "LNKD", "HPET"
        ]
    );
}

/// As QEMU 7.2's of `-M pc -smp 2,maxcpus=4`, but for the header.
#[test]
fn interrupts_are_those_of_a_pc() {
    let image = PC.linked();
    let madt = tables_of(&image, BASE)["APIC"];
    let expected = [
        0, 0, 0xe0, 0xfe, 1, 0, 0, 0, // local APICs, two 8259
        0, 8, 0, 0, 1, 0, 0, 0, 0, 8, 1, 1, 1, 0, 0, 0, // there
        0, 8, 2, 2, 0, 0, 0, 0, 0, 8, 3, 3, 0, 0, 0, 0, // not there
        1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0, // I/O APIC
        2, 10, 0, 0, 2, 0, 0, 0, 0, 0, // the timer
        2, 10, 0, 5, 5, 0, 0, 0, 0xd, 0, 2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0, // level
        2, 10, 0, 10, 10, 0, 0, 0, 0xd, 0, 2, 10, 0, 11, 11, 0, 0, 0, 0xd, 0, // level
        4, 6, 0xff, 0, 0, 1, // NMI
    ];
    assert_eq!(madt[36..], expected);
}

#[test]
fn a_board_without_pci_is_told_of() {
    let board = Sample {
        reduced: true,
        reset: false,
        slots: None,
        serials: 1,
        command: false,
        ..PC
    };
    let image = board.linked();
    let tables = tables_of(&image, BASE);
    let names: Vec<_> = tables.keys().map(String::as_str).collect();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "FACS"]);
    let fadt = tables["FACP"];
    assert_eq!(
        fadt[46..108],
        [&[0; 50][..], &[0xff, 0xf, 0xff, 0xf], &[0; 8]].concat()
    );
    assert_eq!(word(fadt, 112), 0x10_0475);
    // The reset register and its value; sleep control and status: bytes of memory.
    for (at, address) in [(116, 0xfea0_0202), (244, 0xfea0_0200), (256, 0xfea0_0201)] {
        assert_eq!(fadt[at..at + 4], [0, 8, 0, 1]);
        assert_eq!(long(fadt, at + 4), address);
    }
    assert_eq!(fadt[128], 0x42);
    let devices = devices_of(&tables);
    assert_eq!(
        devices,
        ["C000", "C001", "COM1", "GED_", "PWRB", "VR03", "VR23"]
    );
    let madt = tables["APIC"];
    let chips = [
        1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0, 1, 12, 1, 0, 0, 0, 0xc1, 0xfe, 24, 0, 0, 0,
    ];
    assert!(madt.windows(chips.len()).any(|bytes| bytes == chips));
    // As QEMU 7.2's, with the same device.
    let resources = [
        0x86, 9, 0, 1, 0, 6, 0xb0, 0xfe, 0, 2, 0, 0, 0x89, 6, 0, 1, 1, 27, 0, 0, 0,
    ];
    let dsdt = tables["DSDT"];
    assert!(
        dsdt.windows(resources.len())
            .any(|bytes| bytes == resources)
    );
    // The century's place in CMOS, what there is, and in the MADT that there are two 8259.
    assert_eq!((fadt[108], fadt[109], madt[40]), (0x32, 0b101, 1));
    let bare = Sample {
        bare: true,
        ..board
    };
    let image = bare.linked();
    let tables = tables_of(&image, BASE);
    let (fadt, madt) = (tables["FACP"], tables["APIC"]);
    assert_eq!((fadt[108], fadt[109], madt[40]), (0, 0b10_0101, 0));
}

#[test]
fn high_ids_take_wide_entries() {
    let board = Sample {
        cpus: 3,
        max_cpus: 3,
        id_shift: 8,
        ..PC
    };
    let image = board.linked();
    let madt = tables_of(&image, BASE)["APIC"];
    assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        madt[52..68],
        [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    );
    let nmi = [10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
    assert!(madt.ends_with(&nmi));
}

/// What firmware does: works through the script, with the files wherever it likes.
fn load(files: &Files<'_>) -> (Vec<u8>, u64) {
    // Both in one piece of memory, the RSDP in front.
    let base = 0x7_1234_0000 & 0xffff_0000;
    let mut memory = vec![0; TABLES_AT + files.tables.len()];
    memory[..files.rsdp.len()].copy_from_slice(files.rsdp);
    memory[TABLES_AT..].copy_from_slice(files.tables);
    let name = |bytes: &[u8]| {
        let text = bytes.split(|byte| *byte == 0).next().unwrap();
        String::from_utf8(text.to_vec()).unwrap()
    };
    let place = |file: &str| match file {
        "etc/acpi/rsdp" => 0,
        "etc/acpi/tables" => TABLES_AT,
        other => panic!("{other}"),
    };
    let mut allocated = Vec::new();
    let mut summed = false;
    for command in files.script.chunks(128) {
        assert_eq!(command.len(), 128);
        let file = name(&command[4..60]);
        match word(command, 0) {
            1 => {
                let (align, zone) = (word(command, 60), command[64]);
                allocated.push((file, align, zone));
            }
            2 => {
                assert!(!summed || file == "etc/acpi/rsdp", "sums come last");
                let target = base + place(&name(&command[60..116])) as u64;
                let at = place(&file) + word(command, 116) as usize;
                let size = usize::from(command[120]);
                let field = &mut memory[at..at + size];
                let mut value = [0; 8];
                value[..size].copy_from_slice(field);
                let value = u64::from_le_bytes(value) + target;
                field.copy_from_slice(&value.to_le_bytes()[..size]);
            }
            3 => {
                summed = true;
                let start = place(&file) + word(command, 64) as usize;
                let at = place(&file) + word(command, 60) as usize;
                let sum = sum(&memory[start..start + word(command, 68) as usize]);
                memory[at] = memory[at].wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    assert_eq!(
        allocated,
        [
            ("etc/acpi/tables".to_string(), 64, 1),
            ("etc/acpi/rsdp".to_string(), 16, 2)
        ]
    );
    (memory, base)
}

#[test]
fn the_script_links_as_the_machine_does() {
    let mut memory = vec![0xee; MEMORY];
    let files = PC.build(&mut memory).unwrap().files().unwrap();
    let (loaded, base) = load(&files);
    let mut memory = vec![0x11; MEMORY];
    let linked = PC.build(&mut memory).unwrap().link(base);
    assert_eq!(loaded, linked);
    tables_of(&loaded, base);
}

/// As QEMU 7.2's of `-m 128 -smp 4` with nodes of 64 MiB each, the first one with one processor.
const TWO_NODES: Numa<'_> = Numa {
    memory: &[64 << 20, 64 << 20],
    cpus: &[0, 1, 1, 1],
    distances: &[10, 15, 15, 10],
    item: &[],
};

#[test]
fn nodes_are_told_of() {
    let board = Sample {
        numa: TWO_NODES,
        ..PC
    };
    let image = board.linked();
    let tables = tables_of(&image, BASE);
    let srat = tables["SRAT"];
    assert_eq!((srat[8], srat.len()), (1, 272));
    assert_eq!(srat[36..48], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let processor = |node, id| [0, 16, node, id, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let expected = [(0, 0), (1, 1), (1, 2), (1, 3)].map(|(node, id)| processor(node, id));
    assert_eq!(srat[48..112], *expected.as_flattened());
    let memory: Vec<_> = srat[112..]
        .chunks(40)
        .map(|entry| {
            assert_eq!(entry[..2], [1, 40]);
            (
                word(entry, 2),
                long(entry, 8),
                long(entry, 16),
                word(entry, 28),
            )
        })
        .collect();
    let (mib, low) = (1 << 20, 0xa_0000);
    let expected = [
        (0, 0, low, 1),
        (0, mib, 63 * mib, 1),
        (1, 64 * mib, 64 * mib, 1),
        (0, 0, 0, 0),
    ];
    assert_eq!(memory, expected);
    let slit = tables["SLIT"];
    assert_eq!(slit[36..], [2, 0, 0, 0, 0, 0, 0, 0, 10, 15, 15, 10]);
    // Name (_PXM, Zero) or (_PXM, One), for each processor.
    let dsdt = tables["DSDT"].windows(6);
    let near = dsdt.filter(|window| window.starts_with(b"\x08_PXM"));
    let nodes: Vec<u8> = near.map(|window| window[5]).collect();
    let processors = usize::from(board.cpus);
    assert_eq!(nodes, [0, 1, 1, 1][..processors]);
}

/// Memory of a node on both sides of the hole below 4 GiB, and ids that are too large for a byte.
#[test]
fn nodes_are_cut_where_memory_is() {
    let numa = Numa {
        memory: &[1 << 30, 4 << 30],
        cpus: &[0, 1],
        ..Numa::default()
    };
    let board = Sample {
        cpus: 2,
        max_cpus: 2,
        id_shift: 8,
        ..PC
    };
    let mut memory = vec![0; MEMORY];
    let tables = board.with(|facts| {
        let facts = Facts {
            ram: (3 << 30, 2 << 30),
            numa,
            ..*facts
        };
        Tables::build(&facts, &mut memory).map(|tables| tables.link(BASE).to_vec())
    });
    let image = tables.unwrap();
    let srat = tables_of(&image, BASE)["SRAT"];
    assert_eq!(srat[64..72], [2, 24, 0, 0, 1, 0, 0, 0]);
    assert_eq!(word(srat, 72), 256);
    let memory = srat[88..].chunks(40);
    let memory: Vec<_> = memory
        .map(|entry| (entry[2], long(entry, 8), long(entry, 16)))
        .collect();
    let gib = 1 << 30;
    let expected = [
        (0, 0, 0xa_0000),
        (0, 0x10_0000, gib - 0x10_0000),
        (1, gib, 2 * gib),
        (1, 4 * gib, 2 * gib),
    ];
    assert_eq!(memory, expected);
}

#[test]
fn tables_of_the_user_are_listed_as_they_are() {
    let board = Sample {
        user: MANY.split_at(USER_MAX).0,
        ..PC
    };
    let mut memory = vec![0xee; memory_size(board.user)];
    let image = board.build(&mut memory).unwrap().link(BASE);
    assert_eq!(tables_of(image, BASE)["TEST"], USER);
    let rsdt = table(image, BASE, word(image, 16).into()).1;
    assert_eq!(rsdt.len(), 36 + 4 * (4 + USER_MAX));
    let board = Sample { user: &MANY, ..PC };
    let mut memory = vec![0xee; memory_size(board.user)];
    assert_eq!(board.build(&mut memory).unwrap_err(), Error::Full(4));
}

#[test]
fn too_many_processors_are_refused() {
    let board = Sample {
        cpus: 4000,
        max_cpus: 4000,
        ..PC
    };
    let mut memory = vec![0; MEMORY];
    let error = board.build(&mut memory).unwrap_err();
    assert_eq!(error, Error::Full(4000));
    assert_eq!(
        error.to_string(),
        "the ACPI tables of 4000 processors need more than 32 KiB"
    );
    let mut memory = vec![0; MEMORY - 1];
    assert!(PC.build(&mut memory[..IMAGE_MAX - 1]).is_err());
    let most = Sample {
        cpus: 255,
        max_cpus: 255,
        serials: 4,
        slots: Some(u32::MAX),
        ..PC
    };
    let mut memory = vec![0; MEMORY];
    assert!(
        most.build(&mut memory).is_ok(),
        "what machines can have fits"
    );
}

#[test]
fn the_image_lies_at_the_end_of_ram() {
    let place = |ram| place(ram, IMAGE_MAX);
    assert_eq!(place((2 << 20) - 1), None);
    assert_eq!(place(2 << 20), Some((2 << 20) - 0x8000));
    assert_eq!(place((64 << 20) + 0x123), Some((64 << 20) - 0x8000));
    // As long as half of the RAM that there is at least stays for the guest.
    assert_eq!(super::place(4 << 20, 3 << 20), Some(1 << 20));
    for size in [3 << 20 | 1, 5 << 20, usize::MAX] {
        assert_eq!(super::place(4 << 20, size), None);
    }
}

proptest! {
    #[test]
    fn boards_are_told_of_or_refused(
        cpus in 1u16..600,
        more in 0u16..600,
        id_shift in 0u32..3,
        flags: [bool; 4],
        slots: u32,
        serials in 0usize..=4,
        short in 0usize..3,
    ) {
        let board = Sample {
            cpus,
            max_cpus: cpus + more,
            id_shift,
            reduced: false,
            bare: flags[1],
            gpe0: flags[0],
            command: flags[1],
            reset: flags[2],
            slots: flags[3].then_some(slots),
            serials,
            generation: None,
            numa: if flags[3] { TWO_NODES } else { Numa::default() },
            user: if flags[2] { &[&USER, &USER] } else { &[] },
        };
        let size = memory_size(board.user);
        let mut memory = vec![0xee; size - short];
        match board.build(&mut memory) {
            Err(error) => {
                prop_assert_eq!(error, Error::Full(cpus + more));
                prop_assert!(cpus + more > 255);
            }
            Ok(tables) => {
                let image = tables.link(BASE);
                prop_assert!(image.len() <= image_size(board.user));
                let tables = tables_of(image, BASE);
                let names = devices_of(&tables);
                let processors = names.iter().filter(|name| name.starts_with('C') && *name < &"C999".to_string());
                prop_assert_eq!(processors.count(), usize::from(cpus));
            }
        }
    }
}

#[test]
fn a_generation_is_found_in_its_page() {
    let id = GenerationId(core::array::from_fn(|index| index as u8));
    let sample = Sample {
        generation: Some(id),
        ..PC
    };
    let image = sample.linked();
    assert_eq!(image.len(), IMAGE_MAX);
    let page = &image[generation_at(image.len())..];
    assert_eq!(page[40..56], id.in_memory());
    let tables = tables_of(&image, BASE);
    let ssdt = tables["SSDT"];
    let address = BASE as u32 + (generation_at(image.len()) + 40) as u32;
    let package = [&b"ADDR\x12\x08\x02\x0c"[..], &address.to_le_bytes(), &[0]].concat();
    assert!(ssdt.windows(package.len()).any(|bytes| bytes == package));
    assert!(ssdt.windows(4).any(|bytes| bytes == b"_E05"));
    // By firmware.
    sample.with(|facts| {
        let mut memory = vec![0xee; MEMORY];
        let files = Tables::build(facts, &mut memory).unwrap().files().unwrap();
        let page = files.generation.expect("a page");
        assert_eq!(page.len(), 4096);
        assert_eq!(
            (&page[..40], &page[40..56]),
            (&[0; 40][..], &id.in_memory()[..])
        );
        let commands: Vec<_> = files.script.chunks(128).collect();
        let of = |number: u32| {
            let first = move |command: &&&[u8]| command[..4] == number.to_le_bytes();
            let named = commands.iter().filter(first);
            named.filter(|command| command.windows(7).any(|name| name == b"vmgenid"))
        };
        assert_eq!((of(1).count(), of(2).count(), of(4).count()), (1, 1, 1));
        let told = of(4).next().expect("an address");
        assert!(told[4..].starts_with(b"etc/vmgenid_addr\0"));
        assert!(told[60..].starts_with(b"etc/vmgenid_guid\0"));
        assert_eq!(told[116..125], [0, 0, 0, 0, 40, 0, 0, 0, 8]);
    });
    let without = Sample { ..PC };
    without.with(|facts| {
        let mut memory = vec![0; MEMORY];
        let files = Tables::build(facts, &mut memory).unwrap().files().unwrap();
        assert!(files.generation.is_none());
    });
}
