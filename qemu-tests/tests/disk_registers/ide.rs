//! IDE disks: all commands, by the data port and by the bus master.

use qemu_tests::{packages, skip};

use super::{Script, dice, image};

/// A disk and a drive without a medium on the first channel's two places; the other channel has none.
const ARGS: &str = "-M pc -m 16 -drive if=none,id=d,file={dir}/disk.img,format=raw,discard=unmap -device ide-hd,drive=d,bus=ide.0,unit=0";

pub(super) const SECOND: u16 = 0x170;
const FIRST: u16 = 0x1f0;
/// Where the bus masters' registers are.
pub(super) const MASTER: u16 = 0xc000;
/// A table of regions, and where they are.
pub(super) const TABLE: u32 = 0x1_0000;
pub(super) const DATA: u64 = 0x2_0000;
/// The last region of a table.
pub(super) const LAST: u32 = 1 << 31;

const IMAGE: usize = 256 << 10;
const SECTORS: u64 = IMAGE as u64 / 512;

pub(super) fn bring_up(script: &mut Script) {
    script.configure(9, 0x20, u32::from(MASTER));
    script.configure(9, 0x04, 5);
    script.ask("irq_intercept_in ioapic");
}

/// Waits until the drive is not busy.
pub(super) fn settle(script: &mut Script, base: u16) {
    script.until(format!("inb {:#x}", base + 0x206), |status| {
        status & 0x80 == 0
    });
}

/// Waits until the bus master has nothing to do, or the drive has told of the end.
pub(super) fn settle_dma(script: &mut Script, base: u16) {
    let master = if base == FIRST { MASTER } else { MASTER + 8 };
    script.until(format!("inb {:#x}", master + 2), |status| {
        status & 1 == 0 || status & 4 != 0
    });
    settle(script, base);
}

/// All registers, the status last.
pub(super) fn registers(script: &mut Script, base: u16) {
    for register in 1..8 {
        script.inb(base + register);
    }
}

/// What a command is made of: feature, count, address (28 bits), device, code.
#[derive(Clone, Copy)]
struct Command {
    feature: u8,
    count: u8,
    address: u32,
    device: u8,
    code: u8,
}

fn command(code: u8, address: u32, count: u8) -> Command {
    Command {
        feature: 0,
        count,
        address,
        device: 0xe0,
        code,
    }
}

fn send(script: &mut Script, base: u16, command: Command) {
    let [low, middle, high, top] = command.address.to_le_bytes();
    let device = command.device | top & 0xf;
    for (register, value) in (1..).zip([
        command.feature,
        command.count,
        low,
        middle,
        high,
        device,
        command.code,
    ]) {
        script.outb(base + register, value);
    }
    settle(script, base);
}

/// A command with an address of 48 bits, and a count of 16.
fn send_48(script: &mut Script, base: u16, code: u8, address: u64, count: u16) {
    let [low, middle, high, a, b, c, ..] = address.to_le_bytes();
    let [count_low, count_high] = count.to_le_bytes();
    script.outb(base + 6, 0xe0);
    for (register, value) in [
        (2, count_high),
        (3, a),
        (4, b),
        (5, c),
        (2, count_low),
        (3, low),
        (4, middle),
        (5, high),
        (7, code),
    ] {
        script.outb(base + register, value);
    }
    settle(script, base);
}

/// Reads so many sectors by the data port, in blocks of `each`.
fn take(script: &mut Script, base: u16, sectors: u32, each: u32) {
    let mut left = sectors;
    while left != 0 {
        let now = left.min(each);
        for _ in 0..128 * now {
            script.inl(base);
        }
        settle(script, base);
        left -= now;
    }
    registers(script, base);
}

/// Writes so many sectors.
fn give(script: &mut Script, base: u16, sectors: u32, each: u32, with: u32) {
    let mut left = sectors;
    while left != 0 {
        let now = left.min(each);
        for word in 0..128 * now {
            script.outl(base, (word * 0x0101) ^ with ^ (left << 24));
        }
        settle(script, base);
        left -= now;
    }
    registers(script, base);
}

/// Resets both drives of a channel.
fn reset(script: &mut Script, base: u16) {
    script.outb(base + 0x206, 4);
    settle(script, base);
    script.outb(base + 0x206, 0);
    settle(script, base);
}

fn ready() -> bool {
    let found = packages::qemu().is_some();
    if !found {
        skip("qemu-system-x86 is missing");
    }
    found
}

#[test]
fn sectors_by_the_data_port() {
    if !ready() {
        return;
    }
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    s.part("power-on");
    registers(s, FIRST);
    registers(s, SECOND);
    s.part("identify");
    send(s, FIRST, command(0xec, 0, 0));
    take(s, FIRST, 1, 1);
    s.part("read");
    for code in [0x20, 0x21] {
        send(s, FIRST, command(code, 3, 1));
        take(s, FIRST, 1, 1);
    }
    send(s, FIRST, command(0x20, 5, 3));
    take(s, FIRST, 3, 1);
    s.part("read by cylinder");
    send(
        s,
        FIRST,
        Command {
            device: 0xa0,
            ..command(0x20, 0x00_0002, 2)
        },
    );
    take(s, FIRST, 2, 1);
    s.part("read by cylinder, sector 0");
    send(
        s,
        FIRST,
        Command {
            device: 0xa0,
            ..command(0x20, 0, 1)
        },
    );
    registers(s, FIRST);
    s.part("read multiple");
    for (most, count) in [(4, 6), (16, 17), (1, 2), (0, 1), (3, 1), (32, 1)] {
        send(s, FIRST, command(0xc6, 0, most));
        registers(s, FIRST);
        send(s, FIRST, command(0xc4, 8, count));
        if most.is_power_of_two() && most <= 16 {
            take(s, FIRST, count.into(), most.into());
        } else {
            registers(s, FIRST);
        }
        reset(s, FIRST);
    }
    s.part("read 48");
    send_48(s, FIRST, 0x24, 9, 2);
    take(s, FIRST, 2, 1);
    send(s, FIRST, command(0xc6, 0, 8));
    send_48(s, FIRST, 0x29, 1, 9);
    take(s, FIRST, 9, 8);
    s.part("write");
    for (code, sector) in [(0x30, 20), (0x31, 24), (0x3c, 28)] {
        send(s, FIRST, command(code, sector, 2));
        give(s, FIRST, 2, 1, 0x1100_0000);
    }
    send(s, FIRST, command(0xc5, 32, 11));
    give(s, FIRST, 11, 8, 0x2200_0000);
    s.part("write 48");
    send_48(s, FIRST, 0x34, 60, 2);
    give(s, FIRST, 2, 1, 0x3300_0000);
    send_48(s, FIRST, 0x39, 64, 9);
    give(s, FIRST, 9, 8, 0x4400_0000);
    s.part("behind the end");
    let last = SECTORS as u32 - 1;
    for (code, address, count) in [
        (0x20, last, 1),
        (0x20, last + 1, 1),
        (0x20, 0xfff_ffff, 0),
        (0xc4, last, 2),
    ] {
        send(s, FIRST, command(code, address, count));
        registers(s, FIRST);
        reset(s, FIRST);
    }
    send(s, FIRST, command(0x20, last, 2));
    take(s, FIRST, 1, 1);
    reset(s, FIRST);
    send(s, FIRST, command(0x30, last, 2));
    give(s, FIRST, 1, 1, 0x5500_0000);
    give(s, FIRST, 1, 1, 0x6600_0000);
    reset(s, FIRST);
    send_48(s, FIRST, 0x24, 1 << 40, 1);
    registers(s, FIRST);
    s.part("while data move");
    send(s, FIRST, command(0x20, 3, 1));
    for register in 1..7 {
        s.outb(FIRST + register, 0x5a);
    }
    s.outb(FIRST + 7, 0xec);
    registers(s, FIRST);
    for width in ["inb", "inw", "inl"] {
        s.ask(format!("{width} {FIRST:#x}"));
    }
    reset(s, FIRST);
    registers(s, FIRST);
    s.part("widths");
    for request in ["inw 0x1f1", "inw 0x1f6", "inw 0x1f7"] {
        s.ask(request);
    }
    for request in ["outw 0x1f2 0x1234", "outw 0x1f0 0x1"] {
        s.ask(request);
    }
    registers(s, FIRST);
    script.compare("disk-registers/ide");
}

/// Every code of a command, on a disk and where none is.
#[test]
fn every_command() {
    if !ready() {
        return;
    }
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    for (name, base, device) in [
        ("disk", FIRST, 0xe0),
        ("nobody beside it", FIRST, 0xf0),
        ("nobody", SECOND, 0xe0),
    ] {
        for code in 0..=255 {
            // A reset of a sleeping drive, and what moves data: all begin alike.
            s.part(format!("{name}, {code:#x}"));
            send(
                s,
                base,
                Command {
                    device,
                    feature: 0x11,
                    ..command(code, 0x00_0102, 1)
                },
            );
            registers(s, base);
            s.inb(base + 0x206);
            reset(s, base);
        }
        registers(s, base);
    }
    script.compare("disk-registers/ide-commands");
}

#[test]
fn settings_and_self_tests() {
    if !ready() {
        return;
    }
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    // Before the first of these QEMU's disks forget which transfer mode was chosen.
    send(s, FIRST, command(0xec, 0, 0));
    take(s, FIRST, 1, 1);
    for feature in 0..=255 {
        s.part(format!("set features {feature:#x}"));
        send(
            s,
            FIRST,
            Command {
                feature,
                ..command(0xef, 0, 0x42)
            },
        );
        registers(s, FIRST);
    }
    for mode in (0..=255).step_by(3) {
        s.part(format!("transfer mode {mode:#x}"));
        send(
            s,
            FIRST,
            Command {
                feature: 3,
                ..command(0xef, 0, mode)
            },
        );
        registers(s, FIRST);
        if mode % 4 == 0 {
            send(s, FIRST, command(0xec, 0, 0));
            take(s, FIRST, 1, 1);
        }
    }
    for (feature, low) in
        (0xd0..=0xdb).flat_map(|feature| [0, 1, 2, 6, 0xf1].map(|low| (feature, low)))
    {
        // Off would hide all that follows.
        if feature == 0xd9 {
            continue;
        }
        s.part(format!("SMART {feature:#x}, {low:#x}"));
        send(
            s,
            FIRST,
            Command {
                feature,
                ..command(0xb0, 0xc2_4f00 | low, 1)
            },
        );
        s.inb(FIRST + 0x206);
        for _ in 0..128 {
            s.inl(FIRST);
        }
        registers(s, FIRST);
    }
    s.part("SMART, without its signature");
    send(
        s,
        FIRST,
        Command {
            feature: 0xd0,
            ..command(0xb0, 0xc2_4e00, 1)
        },
    );
    registers(s, FIRST);
    s.part("SMART, off");
    for feature in [0xd9, 0xd0, 0xda, 0xd8, 0xda] {
        send(
            s,
            FIRST,
            Command {
                feature,
                ..command(0xb0, 0xc2_4f00, 1)
            },
        );
        registers(s, FIRST);
    }
    s.part("geometry");
    for (device, count) in [(0xa3, 17), (0xaf, 63), (0xa0, 1), (0xa0, 0)] {
        send(
            s,
            FIRST,
            Command {
                device,
                ..command(0x91, 0, count)
            },
        );
        registers(s, FIRST);
        if count != 0 {
            send(
                s,
                FIRST,
                Command {
                    device: 0xa0,
                    ..command(0x20, 0x00_0101, 2)
                },
            );
            s.inl(FIRST);
            registers(s, FIRST);
            reset(s, FIRST);
        }
    }
    s.part("no interrupts");
    s.outb(FIRST + 0x206, 2);
    send(s, FIRST, command(0x10, 0, 0));
    registers(s, FIRST);
    s.outb(FIRST + 0x206, 0x80);
    registers(s, FIRST);
    s.outb(FIRST + 0x206, 0);
    registers(s, FIRST);
    s.part("reset");
    for value in [4, 4, 6, 0, 0x84, 0] {
        s.outb(FIRST + 0x206, value);
        settle(s, FIRST);
        registers(s, FIRST);
    }
    s.part("the machine's reset");
    s.outb(0xcf9, 0x06);
    registers(s, FIRST);
    script.compare("disk-registers/ide-settings");
}

/// Begins a transfer by the bus master, from the table, and waits for it.
fn dma(script: &mut Script, to_memory: bool) {
    script.outb(MASTER + 2, 0x66);
    script.outl(MASTER + 4, TABLE);
    script.outb(MASTER, 1 | u8::from(to_memory) << 3);
    settle_dma(script, FIRST);
    registers(script, FIRST);
    script.inb(MASTER + 2);
    script.outb(MASTER, 0);
    script.inb(MASTER + 2);
    script.outb(MASTER + 2, 6);
    script.inb(MASTER + 2);
}

fn table(script: &mut Script, regions: &[(u32, u32)]) {
    let bytes: Vec<u8> = regions
        .iter()
        .flat_map(|(address, control)| [address.to_le_bytes(), control.to_le_bytes()].concat())
        .collect();
    script.write(TABLE.into(), &bytes);
}

#[test]
fn sectors_by_the_bus_master() {
    if !ready() {
        return;
    }
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    let data = DATA as u32;
    let tables: &[(&str, &[(u32, u32)])] = &[
        ("one region", &[(data, LAST | 2048)]),
        ("a longer one", &[(data, LAST | 4096)]),
        ("64 KiB", &[(data, LAST)]),
        ("a shorter one", &[(data, LAST | 512)]),
        ("two", &[(data + 0x1000, 512), (data, LAST | 1536)]),
        (
            "pieces of sectors",
            &[(data, 100), (data + 4, 412), (data + 0x800, LAST | 1536)],
        ),
        ("odd ones", &[(data + 1, 101), (data + 0x801, LAST | 2048)]),
        (
            "more behind the end",
            &[(data, LAST | 2048), (data + 0x4000, LAST | 512)],
        ),
        ("reserved bits", &[(data, LAST | 0x7fff_0800)]),
    ];
    for (name, regions) in tables {
        for code in [0xc8, 0x25] {
            s.part(format!("read {code:#x}, {name}"));
            s.fill(DATA, 0x6000, 0xee);
            table(s, regions);
            match code {
                0xc8 => send(s, FIRST, command(code, 40, 4)),
                _ => send_48(s, FIRST, code, 41, 4),
            }
            registers(s, FIRST);
            dma(s, true);
            s.read(DATA, 0x2800);
            reset(s, FIRST);
        }
        s.part(format!("write, {name}"));
        s.fill(DATA, 0x6000, 0x77);
        table(s, regions);
        send(s, FIRST, command(0xca, 80, 4));
        dma(s, false);
        reset(s, FIRST);
    }
    s.part("written");
    send(s, FIRST, command(0xc4, 80, 4));
    take(s, FIRST, 4, 16);
    s.part("the other direction");
    table(s, &[(data, LAST | 512)]);
    s.fill(DATA, 512, 0x12);
    send(s, FIRST, command(0xc8, 7, 1));
    dma(s, false);
    s.read(DATA, 512);
    s.part("started before the command");
    table(s, &[(data, LAST | 512)]);
    s.fill(DATA, 512, 0x12);
    s.outb(MASTER + 2, 6);
    s.outl(MASTER + 4, TABLE);
    s.outb(MASTER, 9);
    s.inb(MASTER + 2);
    send(s, FIRST, command(0xc8, 7, 1));
    settle_dma(s, FIRST);
    registers(s, FIRST);
    s.inb(MASTER + 2);
    s.read(DATA, 512);
    s.outb(MASTER, 0);
    s.part("behind the end");
    for (code, address) in [(0xc8, SECTORS as u32), (0xca, SECTORS as u32 - 1)] {
        table(s, &[(data, LAST | 1024)]);
        send(s, FIRST, command(code, address, 2));
        registers(s, FIRST);
        dma(s, true);
    }
    s.part("stopped before the drive has begun");
    send(s, FIRST, command(0xc8, 7, 1));
    s.outb(MASTER, 0);
    s.inb(MASTER + 2);
    registers(s, FIRST);
    reset(s, FIRST);
    registers(s, FIRST);
    s.part("registers");
    for (width, letter) in [(1, "b"), (2, "w"), (4, "l")] {
        for register in (0..16).step_by(width) {
            s.ask(format!("in{letter} {:#x}", MASTER + register));
            if register % 8 != 0 {
                s.ask(format!(
                    "out{letter} {:#x} {:#x}",
                    MASTER + register,
                    0x5a_u8
                ));
                s.ask(format!("in{letter} {:#x}", MASTER + register));
            }
        }
    }
    script.compare("disk-registers/ide-dma");
}

#[test]
fn trims() {
    if !ready() {
        return;
    }
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    let ranges: &[(&str, &[(u64, u64)])] = &[
        ("one", &[(8, 8)]),
        ("none", &[(0, 0)]),
        ("several", &[(16, 8), (0, 0), (32, 16)]),
        ("behind the end", &[(SECTORS - 1, 2)]),
        ("all", &[(64, SECTORS - 64)]),
    ];
    for (name, ranges) in ranges {
        s.part(format!("trim, {name}"));
        let mut page: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, sectors)| (sectors << 48 | sector).to_le_bytes())
            .collect();
        page.resize(512, 0);
        s.write(DATA, &page);
        table(s, &[(DATA as u32, LAST | 512)]);
        send(
            s,
            FIRST,
            Command {
                feature: 1,
                ..command(0x06, 0, 1)
            },
        );
        registers(s, FIRST);
        dma(s, false);
        reset(s, FIRST);
    }
    s.part("not a trim");
    send(s, FIRST, command(0x06, 0, 1));
    registers(s, FIRST);
    s.part("flushes");
    for code in [0xe7, 0xea] {
        send(s, FIRST, command(code, 0, 0));
        registers(s, FIRST);
    }
    script.compare("disk-registers/ide-trim");
}

/// Registers of the channel, its commands and the bus master's, in whatever order comes.
#[test]
fn a_storm() {
    if !ready() {
        return;
    }
    let mut random = dice(0x1234_5678_9abc_def1);
    let mut script = Script::new(ARGS, image(IMAGE));
    let s = &mut script;
    bring_up(s);
    table(s, &[(DATA as u32, 700), (DATA as u32 + 0x800, LAST | 1348)]);
    s.outl(MASTER + 4, TABLE);
    for _ in 0..700 {
        match random(12) {
            0..4 => {
                let register = 1 + random(6) as u16;
                let value = match register {
                    2 => random(6) as u8,
                    3 => random(200) as u8,
                    6 => 0xe0 ^ ((random(8) as u8 & 1) << 4),
                    _ if random(3) != 0 => 0,
                    _ => random(4) as u8,
                };
                s.outb(FIRST + register, value);
            }
            4..7 => {
                let codes = [
                    0x20, 0x24, 0x30, 0x34, 0xc4, 0xc5, 0xc6, 0xef, 0x29, 0x39, 0x40, 0x42, 0x70,
                    0x90, 0xe5, 0xe7, 0xf8, 0x27, 0xa1, 0xb0,
                ];
                s.outb(FIRST + 7, codes[random(codes.len() as u64) as usize]);
                settle(s, FIRST);
            }
            7..9 => {
                for _ in 0..random(200) {
                    match random(8) {
                        0 => s.outw(FIRST, random(0xffff) as u16),
                        1..3 => s.outl(FIRST, random(0xffff_ffff) as u32),
                        _ => s.inl(FIRST),
                    }
                    settle(s, FIRST);
                }
            }
            9 => {
                // A transfer of the bus master from begin to end.
                reset(s, FIRST);
                s.outb(FIRST + 6, 0xe0);
                s.outb(FIRST + 2, 1 + random(4) as u8);
                for register in 3..6 {
                    s.outb(
                        FIRST + register,
                        if register == 3 { random(90) as u8 } else { 0 },
                    );
                }
                let is_write = random(2) == 0;
                s.outb(FIRST + 7, if is_write { 0xca } else { 0xc8 });
                s.outb(MASTER + 2, 6);
                s.outb(MASTER, 1 | u8::from(!is_write) << 3);
                settle_dma(s, FIRST);
                s.inb(MASTER + 2);
                s.outb(MASTER, 0);
                s.outb(MASTER + 2, 6);
            }
            10 => reset(s, FIRST),
            _ => s.outb(FIRST + 0x206, [0, 2, 0x80][random(3) as usize]),
        }
        settle(s, FIRST);
        registers(s, FIRST);
    }
    script.compare_in_order();
}
