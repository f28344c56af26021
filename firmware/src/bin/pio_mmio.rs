//! What unmapped ports and addresses give, in all widths, and what string I/O does.
#![no_std]
#![no_main]

use thimble_firmware::{console, io, power, say};

thimble_firmware::image!(main);

/// Ports that no standard device claims.
const PORTS: [u16; 4] = [0x0330, 0x1234, 0x7000, 0xfffc];
/// Addresses between RAM and the I/O APIC.
const ADDRESSES: [u64; 4] = [0x1000_0000, 0x7fff_fff8, 0xd000_0000, 0xfe00_0000];

fn main() -> ! {
    for port in PORTS {
        say!(
            "port {port:04x} in {:02x} {:04x} {:08x}",
            io::inb(port),
            io::inw(port),
            io::inl(port)
        );
        io::outb(port, 0x12);
        io::outw(port, 0x1234);
        io::outl(port, 0x1234_5678);
        say!(
            "port {port:04x} after out {:02x} {:04x} {:08x}",
            io::inb(port),
            io::inw(port),
            io::inl(port)
        );
        let mut bytes = [0; 5];
        io::insb(port, &mut bytes);
        say!("port {port:04x} rep insb {bytes:02x?}");
    }
    io::outsb(console::DEBUG_PORT, b"rep outsb to the debug port\n");
    for address in ADDRESSES {
        // SAFETY: nothing of this program is there.
        let values = || unsafe {
            (
                io::read::<u8>(address),
                io::read::<u16>(address),
                io::read::<u32>(address),
                io::read::<u64>(address),
            )
        };
        let (byte, word, double, quad) = values();
        say!("memory {address:08x} {byte:02x} {word:04x} {double:08x} {quad:016x}");
        // SAFETY: as above.
        unsafe {
            io::write(address, 0x12u8);
            io::write(address, 0x1234u16);
            io::write(address, 0x1234_5678u32);
            io::write(address, 0x1234_5678_9abc_def0u64);
            let odd: u32 = io::read::<[u8; 4]>(address + 1)
                .iter()
                .fold(0, |all, byte| all << 8 | u32::from(*byte));
            say!("memory {address:08x} odd {odd:08x}");
        }
        let (byte, word, double, quad) = values();
        say!("memory {address:08x} after write {byte:02x} {word:04x} {double:08x} {quad:016x}");
    }
    // What follows a width at a device register: the index and data ports of the CMOS read as one word.
    io::outb(0x70, 0x0f);
    say!("port 0070 in 16 {:04x}", io::inw(0x70));
    say!("port 0080 in {:02x}", io::inb(0x80));
    io::outb(0x80, 0x5a);
    say!("port 0080 after out 5a {:02x}", io::inb(0x80));
    power::end(power::DONE)
}
