//! The guests that are measured: a few bytes of real-mode code at the end of a 64 KiB ROM. They use no RAM, so that
//! whatever memory an emulator dirties is its own.

/// Bytes of a ROM: the smallest that both emulators take.
pub(super) const SIZE: usize = 0x1_0000;
/// Where the processor starts, as an offset in the ROM.
const RESET: usize = 0xfff0;
/// Where the loop lies.
const LOOP: usize = 0xff00;
/// Writes in one turn of the loop, so that what closes the loop weighs little.
pub(super) const UNROLLED: u32 = 8;
/// Port that tells the one who measures how far the guest is.
pub(super) const MARK_PORT: u16 = 0x402;

/// Writes `!` to port 402h and halts.
pub(super) fn first_write() -> Vec<u8> {
    let mut rom = vec![0xff; SIZE];
    let code = [
        0xba, 0x02, 0x04, // mov dx, 402h
        0xb0, b'!', // mov al, '!'
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    rom[RESET..RESET + code.len()].copy_from_slice(&code);
    rom
}

/// Writes `!` to port [`MARK_PORT`], then to port 80h `turns` times [`UNROLLED`] times, and again, without end.
pub(super) fn exit_loop(turns: u32) -> Vec<u8> {
    let mut rom = vec![0xff; SIZE];
    let mut code = vec![0xba, 0x02, 0x04]; // mov dx, 402h
    let start = code.len();
    code.extend([0xb0, b'!', 0xee]); // mov al, '!'; out dx, al
    code.extend([0x66, 0xb9]); // mov ecx, turns
    code.extend(turns.to_le_bytes());
    let inner = code.len();
    for _ in 0..UNROLLED {
        code.extend([0xe6, 0x80]); // out 80h, al
    }
    code.extend([0x66, 0x49]); // dec ecx
    let back = |from: usize, to: usize| ((from - to) as u8).wrapping_neg();
    code.extend([0x75, back(code.len() + 2, inner)]); // jnz
    code.extend([0xeb, back(code.len() + 2, start)]); // jmp
    rom[LOOP..LOOP + code.len()].copy_from_slice(&code);
    let jump = (LOOP as u16).wrapping_sub(RESET as u16 + 3);
    rom[RESET] = 0xe9; // jmp to the loop
    rom[RESET + 1..RESET + 3].copy_from_slice(&jump.to_le_bytes());
    rom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_land_where_they_should() {
        let rom = exit_loop(7);
        let jump = i16::from_le_bytes([rom[RESET + 1], rom[RESET + 2]]);
        assert_eq!(RESET as i64 + 3 + i64::from(jump), LOOP as i64);
        let inner = LOOP + 12;
        assert_eq!(rom[inner..inner + 2], [0xe6, 0x80]);
        let after = inner + 2 * UNROLLED as usize + 4;
        assert_eq!(rom[after - 2], 0x75);
        assert_eq!(after as i64 + i64::from(rom[after - 1] as i8), inner as i64);
        assert_eq!(rom[after], 0xeb);
        let target = after as i64 + 2 + i64::from(rom[after + 1] as i8);
        assert_eq!(target, LOOP as i64 + 3);
        assert_eq!(rom[LOOP + 3..LOOP + 6], [0xb0, b'!', 0xee]);
    }
}
