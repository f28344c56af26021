//! Accesses to ports and memory, and a memory map that changes.

use super::*;

fn ports_of_all_widths_and_strings(irqchip: Irqchip) {
    let code = [
        0xb0, 0x42, 0xe6, 0x80, // mov al, 42h; out 80h, al
        0xb8, 0x34, 0x12, 0xe7, 0x80, // mov ax, 1234h; out 80h, ax
        0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0xe7, 0x80, // the same with eax
        0xe4, 0x71, 0xe6, 0x80, // in al, 71h; out 80h, al
        0x31, 0xff, 0x8e, 0xc7, 0xb9, 3, 0, 0xba, 0x55,
        0, // xor di, di; es = 0; cx = 3; dx = 55h
        0xfc, 0xf3, 0x6c, // cld; rep insb
        0x8e, 0xdf, 0x66, 0xa1, 0, 0, 0x66, 0xe7, 0x80, // the bytes read, back out
    ];
    // DS takes DI's value, 3, after the string: read from 0 again through a null DS.
    let mut fixed = code.to_vec();
    let at = code.len() - 9;
    fixed.splice(at..at + 2, [0x31, 0xff, 0x8e, 0xdf]);
    fixed.push(0xf4);
    let Some(guest) = guest(&fixed, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    for (width, data) in [
        (1, vec![0x42]),
        (2, vec![0x34, 0x12]),
        (4, vec![0x78, 0x56, 0x34, 0x12]),
        (1, vec![0x71]),
        (4, vec![0x55, 0x55, 0x55, 0]),
    ] {
        assert_eq!(guest.next(), Event::Out(0, 0x80, width, data));
    }
}

fn mmio_reads_and_writes(irqchip: Irqchip) {
    let code = [
        0xb8, 0x00, 0xb8, 0x8e, 0xd8, // ds = b800h
        0xa0, 0x00, 0x10, 0xe6, 0x80, // al = [1000h]; out 80h, al
        0x66, 0xb8, 4, 3, 2, 1, 0x66, 0xa3, 0x10, 0, // [10h] = 1020304h
        0xb8, 0x00, 0xf0, 0x8e, 0xd8, // ds = f000h: the ROM
        0xc6, 0x06, 0, 0, 0x77, // [0] = 77h
        0xa0, 0, 0, 0xe6, 0x80, 0xf4, // al = [0]; out 80h, al
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.vcpus.resume();
    guest.expect_out(0x80, &[0xb9]);
    assert_eq!(guest.next(), Event::MmioWrite(0xb_8010, vec![4, 3, 2, 1]));
    assert_eq!(guest.next(), Event::MmioWrite(ROM_LOW, vec![0x77]));
    guest.expect_out(0x80, &[0xb8]);
}

fn remap_while_running(irqchip: Irqchip) {
    // Sends the byte at C0000h over and over.
    let code = [
        0xb8, 0x00, 0xc0, 0x8e, 0xd8, // ds = c000h
        0xa0, 0, 0, 0xe6, 0x80, 0xeb, 0xf9, // al = [0]; out 80h, al; again
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.ram.write(0xc_0000, &[0x11]).unwrap();
    guest.vcpus.resume();
    let until = |value: u8| {
        let start = Instant::now();
        loop {
            match guest.next() {
                Event::Out(0, 0x80, 1, data) if data == [value] => return,
                Event::Out(..) => assert!(start.elapsed() < PATIENCE),
                other => panic!("{other:?}"),
            }
        }
    };
    until(0xc0);
    for _ in 0..50 {
        let ram = map_with(Some((Backing::Ram, true)));
        guest.vm.apply_map(&ram).unwrap();
        until(0x11);
        let rom = map_with(Some((Backing::Rom { offset: 0x1000 }, true)));
        guest.vm.apply_map(&rom).unwrap();
        until(0xf4);
        guest.vm.apply_map(&map_with(None)).unwrap();
        until(0xc0);
    }
}

fn read_only_ram(irqchip: Irqchip) {
    // [C0000h] = 99h, and what is there afterwards.
    let code = [
        0xb8, 0x00, 0xc0, 0x8e, 0xd8, 0xc6, 0x06, 0, 0, 0x99, 0xa0, 0, 0, 0xe6, 0x80, 0xf4,
    ];
    let Some(guest) = guest(&code, &[], 1, irqchip) else {
        return;
    };
    guest.ram.write(0xc_0000, &[0x11]).unwrap();
    let map = map_with(Some((Backing::Ram, false)));
    guest.vm.apply_map(&map).unwrap();
    guest.vcpus.resume();
    assert_eq!(guest.next(), Event::MmioWrite(0xc_0000, vec![0x99]));
    guest.expect_out(0x80, &[0x11]);
}

fn bad_maps_are_refused(irqchip: Irqchip) {
    let Some(guest) = guest(&[0xf4], &[], 1, irqchip) else {
        return;
    };
    for (gpa, length, read) in [
        (0x800, 0x1000, Backing::Ram),
        (0, 0x1800, Backing::Ram),
        (0, 2 * RAM_BYTES, Backing::Ram),
        (0, 0x1000, Backing::Rom { offset: 0x10_0000 }),
        (0, 0x1000, Backing::Rom { offset: u64::MAX }),
        (0xffff_ffff_ffff_f000, 0x1000, Backing::Ram),
    ] {
        let mut map = MemoryMap::new();
        let entry = Region {
            gpa,
            length,
            read,
            write_ram: false,
        };
        if map.push(entry).is_ok() {
            assert!(guest.vm.apply_map(&map).is_err(), "{gpa:#x} {length:#x}");
        }
    }
}

#[test]
fn flushed_pages_keep_their_bytes_under_a_running_guest() {
    // 1: inc dword [500h]; jmp 1b
    let code = [0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf9];
    let Some(guest) = guest(&code, &[], 1, Irqchip::Split) else {
        return;
    };
    let counter = || {
        let mut bytes = [0; 4];
        guest.ram.read(0x500, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    };
    guest.vcpus.resume();
    let (start, mut last) = (Instant::now(), 0);
    for _ in 0..200 {
        guest.vm.flush_page(0x500);
        // No RAM is there, or no address.
        guest.vm.flush_page(RAM_BYTES);
        guest.vm.flush_page(u64::MAX);
        while counter() == last && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        assert!(counter() > last, "the guest goes on");
        last = counter();
    }
    guest.vcpus.pause();
    assert!(guest.events.try_recv().is_err(), "nothing but counting");
}

for_all! {
    ports_of_all_widths_and_strings
    mmio_reads_and_writes
    remap_while_running
    read_only_ram
    bad_maps_are_refused
}
