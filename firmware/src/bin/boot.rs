//! The boot ROM: starts the kernel that `-kernel`, `-initrd` and `-append` name, from fw_cfg.
//!
//! Protocols: PVH (Xen's `start_info.h`) and multiboot 1. Without a kernel, or with one that can't be started, it says so in a sentence and halts.
//! Memory: its own below 20000h, start information from 90000h to A0000h, kernels in what `loader` allows.
#![no_std]
#![no_main]

use core::fmt;

use thimble_firmware::fw_cfg::{self, FwCfg, MemoryMap, RAM};
use thimble_firmware::loader::{self, Error, File, Plan, Protocol};
use thimble_firmware::{io, power, say, trap};

thimble_firmware::image!(main);

const INFO: u64 = 0x9_0000;
const MODULE: u64 = 0x9_0100;
const MEMORY: u64 = 0x9_0200;
const NAME: u64 = 0x9_0800;
const CMDLINE: u64 = 0x9_1000;
/// Command lines are at most this long, with their zero byte.
const CMDLINE_MAX: u32 = 0xf000;

/// An item of fw_cfg: its key and size.
#[derive(Clone, Copy)]
struct Item {
    key: u16,
    size: u32,
}

/// The item under a pair of keys, or else the named file, by which this ROM can be given a kernel on a machine that uses the keys in another way.
fn item(device: FwCfg, size: u16, key: u16, name: &str) -> Item {
    match (device.u32(size), device.file(name)) {
        (0, Some((key, size))) => Item { key, size },
        (size, _) => Item { key, size },
    }
}

struct Kernel {
    device: FwCfg,
    item: Item,
}

impl File for Kernel {
    fn size(&self) -> u32 {
        self.item.size
    }
    fn read(&self, offset: u32, into: &mut [u8]) -> bool {
        self.device.read(self.item.key, offset, into)
    }
}

fn main() -> ! {
    let Some(device) = FwCfg::find() else {
        halt("no kernel: there is no fw_cfg device to get one from")
    };
    let kernel = item(
        device,
        fw_cfg::KERNEL_SIZE,
        fw_cfg::KERNEL_DATA,
        "opt/thimble/kernel",
    );
    if kernel.size == 0 {
        halt("no kernel: give one with -kernel, or other firmware with -bios");
    }
    let memory = device.memory();
    let ram_end = memory.low_end();
    let kernel = Kernel {
        device,
        item: kernel,
    };
    let plan = loader::plan(&kernel, ram_end).unwrap_or_else(|error| halt(error));
    load(&kernel, &plan).unwrap_or_else(|error| halt(error));

    let Item {
        key: initrd_key,
        size: initrd_size,
    } = item(
        device,
        fw_cfg::INITRD_SIZE,
        fw_cfg::INITRD_DATA,
        "opt/thimble/initrd",
    );
    let initrd = match initrd_size {
        0 => 0,
        _ => plan
            .place_initrd(initrd_size, ram_end)
            .unwrap_or_else(|error| halt(error)),
    };
    // SAFETY: place_initrd gives RAM behind the kernel.
    if initrd_size > 0 && !unsafe { device.read_to(initrd_key, 0, initrd, initrd_size) } {
        halt("fw_cfg failed while the initrd was read");
    }
    let Item {
        key: cmdline_key,
        size: cmdline_size,
    } = item(
        device,
        fw_cfg::CMDLINE_SIZE,
        fw_cfg::CMDLINE_DATA,
        "opt/thimble/cmdline",
    );
    if cmdline_size >= CMDLINE_MAX {
        halt("the command line is too long");
    }
    // SAFETY: the start information's range is nobody else's.
    unsafe {
        if cmdline_size > 0 && !device.read_to(cmdline_key, 0, CMDLINE, cmdline_size) {
            halt("fw_cfg failed while the command line was read");
        }
        io::write(CMDLINE + u64::from(cmdline_size), 0u8);
        clear(INFO, 0x1000);
    }
    let memory = memory.for_kernel();
    let (eax, ebx) = match plan.protocol {
        Protocol::Pvh => (0, pvh_info(&memory, initrd, initrd_size)),
        Protocol::Multiboot => (
            0x2bad_b002,
            multiboot_info(&memory, ram_end, initrd, initrd_size),
        ),
    };
    // SAFETY: the plan's entry is in a segment that was loaded.
    unsafe { trap::enter_kernel(plan.entry, eax, ebx) }
}

fn load(kernel: &Kernel, plan: &Plan) -> Result<(), Error> {
    for segment in plan.segments() {
        let (size, end) = (u64::from(segment.file_size), segment.end());
        // SAFETY: the plan's segments are in RAM that is nobody else's.
        unsafe {
            if size > 0
                && !kernel.device.read_to(
                    kernel.item.key,
                    segment.offset,
                    segment.address,
                    segment.file_size,
                )
            {
                return Err(Error::Device);
            }
            clear(segment.address + size, end - segment.address - size);
        }
    }
    Ok(())
}

/// # Safety
/// The range is RAM that nothing uses.
unsafe fn clear(address: u64, count: u64) {
    // SAFETY: the caller's word.
    unsafe { (address as usize as *mut u8).write_bytes(0, count as usize) }
}

fn put<T: Copy>(address: u64, value: T) {
    // SAFETY: called with addresses of the start information only.
    unsafe { io::write(address, value) }
}

/// `hvm_start_info`, version 1, with its module list and memory map.
fn pvh_info(memory: &MemoryMap, initrd: u64, initrd_size: u32) -> u32 {
    put(INFO, 0x336e_c578u32);
    put(INFO + 4, 1u32);
    if initrd_size > 0 {
        put(INFO + 12, 1u32);
        put(INFO + 16, MODULE);
        put(MODULE, initrd);
        put(MODULE + 8, u64::from(initrd_size));
    }
    put(INFO + 24, CMDLINE);
    put(INFO + 40, MEMORY);
    put(INFO + 48, memory.ranges().len() as u32);
    for (at, range) in (MEMORY..).step_by(24).zip(memory.ranges()) {
        put(at, range.start);
        put(at + 8, range.length);
        put(at + 16, range.kind);
    }
    INFO as u32
}

/// The multiboot information: memory, command line, modules, memory map, loader name.
fn multiboot_info(memory: &MemoryMap, ram_end: u64, initrd: u64, initrd_size: u32) -> u32 {
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    put(INFO, FLAGS);
    put(INFO + 4, 640u32);
    put(INFO + 8, (ram_end.saturating_sub(0x10_0000) >> 10) as u32);
    put(INFO + 16, CMDLINE as u32);
    if initrd_size > 0 {
        put(INFO + 20, 1u32);
        put(INFO + 24, MODULE as u32);
        put(MODULE, initrd as u32);
        put(MODULE + 4, initrd as u32 + initrd_size);
        put(MODULE + 8, NAME as u32);
    }
    put(INFO + 44, memory.ranges().len() as u32 * 24);
    put(INFO + 48, MEMORY as u32);
    for (at, range) in (MEMORY..).step_by(24).zip(memory.ranges()) {
        put(at, 20u32);
        put(at + 4, range.start);
        put(at + 12, range.length);
        put(at + 20, if range.kind == RAM { 1u32 } else { range.kind });
    }
    put(INFO + 64, NAME as u32);
    put(NAME, *b"thimble\0");
    INFO as u32
}

fn halt(reason: impl fmt::Display) -> ! {
    say!("Thimble boot ROM: {reason}");
    power::stop()
}
