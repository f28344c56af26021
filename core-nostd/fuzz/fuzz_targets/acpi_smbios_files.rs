//! Files that become ACPI tables and SMBIOS structures, and the options that name fields of them. What comes of them has the
//! sums and lengths that firmware looks at. No panic, and no hang.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| thimble_fuzz::options::tables(bytes));
