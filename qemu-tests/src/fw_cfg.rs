//! Reads fw_cfg over the qtest protocol, as firmware does.

use crate::QtestClient;

/// Items of so many bytes are read by DMA: a request for each byte takes seconds.
const LARGE: usize = 4096;
/// Where a DMA request is put in RAM, and the item's bytes behind it.
const REQUEST: usize = 1 << 20;
/// Bytes of a request.
const REQUEST_LENGTH: usize = 16;

/// Bytes of the item with this key. RAM above 1 MiB is overwritten if there are many.
///
/// # Panics
///
/// If the emulator does not answer.
pub fn item(client: &mut QtestClient, key: u16, length: usize) -> Vec<u8> {
    if length >= LARGE {
        return by_dma(client, key, length);
    }
    let selected = client.request(&format!("outw 0x510 {key:#x}"));
    assert_eq!(selected.expect("an answer"), "OK");
    let mut byte = || {
        let answer = client.request("inb 0x511").expect("an answer");
        let digits = answer.strip_prefix("OK 0x").expect("a number");
        u64::from_str_radix(digits, 16).expect("a number") as u8
    };
    (0..length).map(|_| byte()).collect()
}

fn by_dma(client: &mut QtestClient, key: u16, length: usize) -> Vec<u8> {
    const SELECT: u32 = 1 << 3;
    const READ: u32 = 1 << 1;
    let mut ask = |request: &str| {
        let answer = client.request(request).expect("an answer");
        let rest = answer.strip_prefix("OK").expect("success");
        rest.trim_start().to_string()
    };
    let control = u32::from(key) << 16 | SELECT | READ;
    let data = REQUEST + REQUEST_LENGTH;
    ask(&format!(
        "write {REQUEST:#x} {REQUEST_LENGTH} 0x{control:08x}{length:08x}{data:016x}"
    ));
    // The address register is big-endian, and its lower half starts the transfer.
    ask("outl 0x514 0");
    ask(&format!("outl 0x518 {:#x}", (REQUEST as u32).swap_bytes()));
    assert_eq!(ask(&format!("read {REQUEST:#x} 4")), "0x00000000");
    let bytes = ask(&format!("read {data:#x} {length}"));
    let digits = bytes.as_bytes()[2..].chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(|pair| byte(pair).expect("digits")).collect()
}

/// A file, if there is one of this name.
///
/// # Panics
///
/// As above.
pub fn file(client: &mut QtestClient, name: &str) -> Option<Vec<u8>> {
    const DIRECTORY: u16 = 0x19;
    let count = item(client, DIRECTORY, 4)[3];
    let directory = item(client, DIRECTORY, 4 + 64 * usize::from(count));
    let entry = directory[4..]
        .chunks(64)
        .find(|entry| entry[8..].starts_with(name.as_bytes()) && entry[8 + name.len()] == 0)?;
    let size = u32::from_be_bytes(entry[..4].try_into().expect("4 bytes"));
    let key = u16::from_be_bytes(entry[4..6].try_into().expect("2 bytes"));
    Some(item(client, key, size as usize))
}
