//! The images that the binary carries: the boot ROM, which is the default firmware, and the demo.
//!
//! An image is stored from its first used byte on. It belongs at the end of a 64 KiB ROM.

/// Finds an embedded image by its file name, for instance `boot.rom`.
pub fn find(name: &str) -> Option<&'static [u8]> {
    match name {
        "boot.rom" => Some(include_bytes!(concat!(env!("OUT_DIR"), "/boot.rom"))),
        "demo.rom" => Some(include_bytes!(concat!(env!("OUT_DIR"), "/demo.rom"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_end_in_a_reset_vector() {
        for name in ["boot.rom", "demo.rom"] {
            let image = find(name).unwrap();
            assert!(
                (0x100..=0x1_0000).contains(&image.len()),
                "{name}: {}",
                image.len()
            );
            assert_eq!(
                image[image.len() - 16],
                0xe9,
                "{name} begins with a near jump"
            );
        }
        assert!(find("boot").is_none());
    }
}
