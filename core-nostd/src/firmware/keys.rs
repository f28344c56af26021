//! Selector keys of the fw_cfg device.
//!
//! The first block and the file directory are in QEMU's fw_cfg specification (docs/specs/fw_cfg);
//! the others are what SeaBIOS and boot ROMs look for. Numbers are little-endian; those marked with
//! a width are items of that size.

/// `QEMU`.
pub const SIGNATURE: u16 = 0x00;
/// u32: [`ID_TRADITIONAL`], [`ID_DMA`].
pub const ID: u16 = 0x01;
/// The machine's UUID, 16 bytes in the order it is written in.
pub const UUID: u16 = 0x02;
/// u64: bytes of RAM.
pub const RAM_SIZE: u16 = 0x03;
/// u16: 1 where the machine has no display.
pub const NOGRAPHIC: u16 = 0x04;
/// u16: processors present at start.
pub const NB_CPUS: u16 = 0x05;
/// u16: a number for the board; 0 for PCs.
pub const MACHINE_ID: u16 = 0x06;
/// u32: guest physical address to load the kernel at.
pub const KERNEL_ADDR: u16 = 0x07;
/// u32: bytes of the kernel.
pub const KERNEL_SIZE: u16 = 0x08;
/// The kernel's command line, on boards that are not PCs.
pub const KERNEL_CMDLINE: u16 = 0x09;
/// u32: guest physical address to load the initial RAM disk at.
pub const INITRD_ADDR: u16 = 0x0a;
/// u32: bytes of the initial RAM disk.
pub const INITRD_SIZE: u16 = 0x0b;
/// u16: the device to boot from, on boards that are not PCs.
pub const BOOT_DEVICE: u16 = 0x0c;
/// u64s: the number of NUMA nodes, the node of each processor, the memory of each node.
pub const NUMA: u16 = 0x0d;
/// u16: 1 where firmware offers a boot menu.
pub const BOOT_MENU: u16 = 0x0e;
/// u16: one more than the highest APIC ID that a processor may get.
pub const MAX_CPUS: u16 = 0x0f;
/// u32: guest physical address to enter the kernel at.
pub const KERNEL_ENTRY: u16 = 0x10;
/// The kernel.
pub const KERNEL_DATA: u16 = 0x11;
/// The initial RAM disk.
pub const INITRD_DATA: u16 = 0x12;
/// u32: guest physical address to load the command line at.
pub const CMDLINE_ADDR: u16 = 0x13;
/// u32: bytes of the command line with its final zero.
pub const CMDLINE_SIZE: u16 = 0x14;
/// The command line, ended by a zero.
pub const CMDLINE_DATA: u16 = 0x15;
/// u32: guest physical address to load the real-mode part of a Linux image at.
pub const SETUP_ADDR: u16 = 0x16;
/// u32: bytes of the real-mode part.
pub const SETUP_SIZE: u16 = 0x17;
/// The real-mode part of a Linux image.
pub const SETUP_DATA: u16 = 0x18;
/// The file directory: a u32 count and 64 bytes a file, big-endian.
pub const FILE_DIR: u16 = 0x19;
/// Key of the first file.
pub const FILE_FIRST: u16 = 0x20;

/// Set in a key to write to the item, in old interfaces. It is ignored.
pub const WRITE_CHANNEL: u16 = 0x4000;
/// Set in keys that mean something on one architecture only.
pub const ARCH_LOCAL: u16 = 0x8000;

/// x86: ACPI tables that the user gave.
pub const ACPI_TABLES: u16 = ARCH_LOCAL;
/// x86: SMBIOS structures that the user gave.
pub const SMBIOS_ENTRIES: u16 = ARCH_LOCAL + 1;
/// x86, u32: 1 where ISA interrupt 0 ends in input 2 of the I/O APIC.
pub const IRQ0_OVERRIDE: u16 = ARCH_LOCAL + 2;
/// x86: a u32 count and reserved ranges. RAM is in the file `etc/e820` alone.
pub const E820_TABLE: u16 = ARCH_LOCAL + 3;
/// x86: where HPETs are.
pub const HPET: u16 = ARCH_LOCAL + 4;

/// x86, our own, far from the others: how the boot ROM starts the kernel, see [`super::boot`].
pub const BOOT: u16 = ARCH_LOCAL + 0x3f00;

/// x86, our own: ACPI tables that the boot ROM puts where [`super::acpi::place`] says.
pub const BOOT_ACPI: u16 = BOOT + 2;

/// In [`ID`]: the selector and data registers are there.
pub const ID_TRADITIONAL: u32 = 1 << 0;
/// In [`ID`]: the DMA register is there.
pub const ID_DMA: u32 = 1 << 1;
