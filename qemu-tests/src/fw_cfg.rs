//! Reads fw_cfg over the qtest protocol, as firmware does.

use crate::QtestClient;

/// Bytes of the item with this key.
///
/// # Panics
///
/// If the emulator does not answer.
pub fn item(client: &mut QtestClient, key: u16, length: usize) -> Vec<u8> {
    let selected = client.request(&format!("outw 0x510 {key:#x}"));
    assert_eq!(selected.expect("an answer"), "OK");
    let mut byte = || {
        let answer = client.request("inb 0x511").expect("an answer");
        let digits = answer.strip_prefix("OK 0x").expect("a number");
        u64::from_str_radix(digits, 16).expect("a number") as u8
    };
    (0..length).map(|_| byte()).collect()
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
