//! Ports and physical memory. Every address below 4 GiB is mapped to itself.

use core::arch::asm;

macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $register:tt, $size:literal) => {
        #[doc = concat!("Reads ", $size, " from a port.")]
        pub fn $read(port: u16) -> $type {
            let value;
            // SAFETY: port I/O does not touch this program's memory.
            unsafe { asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port, options(nostack, preserves_flags)) };
            value
        }
        #[doc = concat!("Writes ", $size, " to a port.")]
        pub fn $write(port: u16, value: $type) {
            // SAFETY: as above; DMA goes only to buffers that the caller lends to the device.
            unsafe { asm!(concat!("out dx, ", $register), in($register) value, in("dx") port, options(nostack, preserves_flags)) };
        }
    };
}
port!(inb, outb, u8, "al", "a byte");
port!(inw, outw, u16, "ax", "two bytes");
port!(inl, outl, u32, "eax", "four bytes");

/// Fills `buffer` from one port, a byte at a time.
pub fn insb(port: u16, buffer: &mut [u8]) {
    // SAFETY: writes exactly `buffer`.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rdi") buffer.as_mut_ptr() => _, inout("rcx") buffer.len() => _, options(nostack, preserves_flags));
    }
}

/// Writes `bytes` to one port, a byte at a time.
pub fn outsb(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly `bytes`.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, options(nostack, preserves_flags));
    }
}

/// Reads physical memory.
///
/// # Safety
/// `address` is below 4 GiB and no Rust object that is in use lies there.
pub unsafe fn read<T: Copy>(address: u64) -> T {
    // SAFETY: the identity map; the caller's word for the rest.
    unsafe { (address as usize as *const T).read_volatile() }
}

/// Writes physical memory.
///
/// # Safety
/// As for [`read`].
pub unsafe fn write<T: Copy>(address: u64, value: T) {
    // SAFETY: as for `read`.
    unsafe { (address as usize as *mut T).write_volatile(value) }
}

/// Reads a CMOS register (MC146818: index 70h, data 71h), with NMI left on.
pub fn cmos(register: u8) -> u8 {
    outb(0x70, register & 0x7f);
    inb(0x71)
}

/// Writes a CMOS register.
pub fn set_cmos(register: u8, value: u8) {
    outb(0x70, register & 0x7f);
    outb(0x71, value);
}

/// Writes a PCI configuration byte of bus 0 (mechanism 1).
pub fn set_pci(device: u8, function: u8, register: u8, value: u8) {
    select_pci(device, function, register);
    outb(0xcfc + u16::from(register & 3), value);
}

/// Reads a PCI configuration byte of bus 0 (mechanism 1).
pub fn pci(device: u8, function: u8, register: u8) -> u8 {
    select_pci(device, function, register);
    inb(0xcfc + u16::from(register & 3))
}

fn select_pci(device: u8, function: u8, register: u8) {
    outl(
        0xcf8,
        0x8000_0000
            | u32::from(device) << 11
            | u32::from(function) << 8
            | u32::from(register & 0xfc),
    );
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear, so every ring may read it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
