//! Kernel files of every format, with a command line and modules: whatever a file says, it is refused, or the boot ROM's table has
//! transfers that stay in RAM, out of the boot ROM's own memory, apart from each other, and within the file.
//!
//! Input: MiB of RAM, bytes of initial RAM disk in units of 64 KiB, length of the command line, that line, and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thimble_core::firmware::acpi;
use thimble_core::firmware::boot::{INFO_OFFSET, Module, Request, TABLE_MAX};
use thimble_core::firmware::keys;
use thimble_core::firmware::loader::{self, HIGH_START, LOW_END, Protocol};
use thimble_fuzz::plant;

/// Where the table's transfers begin, and the bytes of one.
const TRANSFERS: usize = 32;
const TRANSFER: usize = 16;
/// fw_cfg's DMA control.
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;

fuzz_target!(|bytes: &[u8]| {
    let [ram, initrd, line, rest @ ..] = bytes else {
        return;
    };
    let (append, file) = rest.split_at(usize::from(*line).min(rest.len()));
    let low_ram = u64::from(*ram).max(1) << 20;
    let modules_size = u32::from(*initrd) << 16;
    let modules = [Module {
        offset: 0,
        size: modules_size,
        text: append,
    }];
    let Ok(plan) = loader::plan(file, low_ram) else {
        return;
    };
    let request = Request {
        path: b"kernel",
        append,
        modules: if modules_size == 0 { &[] } else { &modules },
        modules_size,
        low_ram,
        high_ram: 0,
        acpi: [0, acpi::IMAGE_MAX, acpi::IMAGE_MAX + 0x1_1000][usize::from(*initrd) % 3],
    };
    let mut table = vec![0xee; TABLE_MAX];
    let Ok(length) = request.prepare(&plan, &mut table) else {
        return;
    };
    // Linux that isn't where it would rather be is no seed.
    plant(plan.protocol == Protocol::Linux && plan.entry != 0x100_0000 && plan.entry > 0x20_0000);
    check(
        &table[..length],
        file.len() as u64,
        u64::from(modules_size),
        low_ram,
        plan.linux.map(|header| (header.address.into(), header.end)),
    );
});

/// Goes through a table as the boot ROM does; `unpacked` is what a kernel has for itself.
fn check(table: &[u8], file: u64, initrd: u64, low_ram: u64, unpacked: Option<(u64, u64)>) {
    let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
    let (count, entry) = (word(0) as usize, u64::from(word(4)));
    assert!(TRANSFERS + count * TRANSFER <= INFO_OFFSET);
    let mut filled: Vec<(u64, u64)> = Vec::new();
    let mut source = (0, 0);
    for index in 0..count {
        let at = TRANSFERS + index * TRANSFER;
        let transfer = u128::from_be_bytes(table[at..at + TRANSFER].try_into().unwrap());
        let (control, length) = ((transfer >> 96) as u32, u64::from((transfer >> 64) as u32));
        if control & SELECT != 0 {
            source = ((control >> 16) as u16, 0);
        }
        if control & SKIP != 0 {
            source.1 += length;
        }
        if control & READ == 0 {
            continue;
        }
        let (start, end) = (transfer as u64, transfer as u64 + length);
        let low = end <= LOW_END.min(low_ram);
        assert!(
            low || start >= HIGH_START && end <= low_ram,
            "{start:#x}-{end:#x}"
        );
        let apart = |other: &(u64, u64)| end <= other.0 || other.1 <= start;
        assert!(
            filled.iter().all(apart),
            "{start:#x}-{end:#x} is taken: {filled:x?}"
        );
        if source.0 != keys::KERNEL_DATA {
            assert!(
                unpacked.iter().all(apart),
                "{start:#x}-{end:#x} is the kernel's"
            );
        }
        filled.push((start, end));
        let most = match source.0 {
            keys::KERNEL_DATA => file,
            keys::INITRD_DATA => initrd,
            keys::BOOT_ACPI => acpi::IMAGE_MAX as u64 + 0x1_1000,
            keys::BOOT => table.len() as u64,
            // Zeros.
            _ => u64::MAX,
        };
        source.1 += length;
        assert!(source.1 <= most, "{source:x?}");
    }
    let inside = |range: &(u64, u64)| range.0 <= entry && entry < range.1;
    assert!(filled.iter().any(inside), "entry {entry:#x}: {filled:x?}");
}
