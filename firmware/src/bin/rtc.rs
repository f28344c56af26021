//! The MC146818 clock and CMOS: run with `-rtc base=2020-02-29T23:59:58`, so that a leap day ends while it looks.
#![no_std]
#![no_main]

use thimble_firmware::io::{cmos, set_cmos};
use thimble_firmware::{power, say};

thimble_firmware::image!(main);

const B_SET: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const A_UIP: u8 = 0x80;
/// Status reads before a wait is given up.
const PATIENCE: u32 = 100_000_000;

/// Waits for the update to end, then reads second, minute, hour, weekday, day, month, year, century.
fn time() -> [u8; 8] {
    loop {
        while cmos(0x0a) & A_UIP != 0 {}
        let first = registers();
        if first == registers() {
            return first;
        }
    }
}

fn registers() -> [u8; 8] {
    [0, 2, 4, 6, 7, 8, 9, 0x32].map(cmos)
}

fn next_second() -> bool {
    let now = time()[0];
    (0..PATIENCE).any(|_| cmos(0) != now)
}

fn main() -> ! {
    say!("time {:02x?}", time());
    say!(
        "status a {:02x} b {:02x} d {:02x}",
        cmos(0x0a) & !A_UIP,
        cmos(0x0b),
        cmos(0x0d)
    );
    for _ in 0..3 {
        say!("next second comes {}", next_second());
        say!("time {:02x?}", time());
    }
    cmos(0x0c);
    say!("cause after read {:02x}", cmos(0x0c) & 0xc0);
    let update = (0..PATIENCE).any(|_| cmos(0x0c) & 0x10 != 0);
    say!("update-ended flag comes {update}");

    let b = cmos(0x0b);
    set_cmos(0x0b, b | B_SET);
    for (register, value) in [
        (0, 0x58),
        (2, 0x59),
        (4, 0x23),
        (7, 0x31),
        (8, 0x12),
        (9, 0x99),
        (0x32, 0x19),
    ] {
        set_cmos(register, value);
    }
    say!("set {:02x?}", registers());
    set_cmos(0x0b, b);
    while time()[0] >= 0x58 && next_second() {}
    let mut end = time();
    end[3] = 0;
    say!("after the century {end:02x?}");

    set_cmos(0x0b, b | B_SET);
    set_cmos(0x0b, b | B_SET | B_BINARY);
    for (register, value) in [
        (0, 30),
        (2, 45),
        (4, 13),
        (7, 15),
        (8, 10),
        (9, 24),
        (0x32, 20),
    ] {
        set_cmos(register, value);
    }
    set_cmos(0x0b, b | B_BINARY);
    let binary = time();
    say!(
        "binary minute {} hour {} day {} month {} year {}",
        binary[1],
        binary[2],
        binary[4],
        binary[5],
        binary[6]
    );
    set_cmos(0x0b, b | B_SET | B_BINARY);
    for mode in [0x00, 0x02] {
        set_cmos(0x0b, B_SET | B_BINARY | mode);
        set_cmos(4, if mode == 0 { 0x81 } else { 13 });
        say!("hours mode {mode:02x} register {:02x}", cmos(4));
    }
    set_cmos(0x0b, b);

    for register in [0x10, 0x14, 0x15, 0x16, 0x17, 0x18, 0x30, 0x31, 0x34, 0x35] {
        say!("cmos {register:02x} {:02x}", cmos(register));
    }
    set_cmos(0x7f, 0xa5);
    set_cmos(0x0d, 0x00);
    say!(
        "cmos 7f {:02x}, d after write {:02x}",
        cmos(0x7f),
        cmos(0x0d)
    );
    power::end(power::DONE)
}
