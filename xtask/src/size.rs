//! What takes the bytes of the binary that is handed out, a crate a line.
//!
//! An unstripped build with the same options tells which symbol lies where; a generic function counts for the crate
//! that wrote it, not for the one that uses it. Beside it stands an empty static Rust program, which shows what the
//! standard library and the C library cost before there is anything to run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use object::elf::SHF_ALLOC;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionFlags};

use crate::{Outcome, build, dist, images};

/// What carries no Rust name: the C library and start-up code.
const C_LIBRARY: &str = "libc";

/// Bytes by what they are for.
type Sizes = BTreeMap<String, u64>;

/// Bytes of the file, or of nothing, that are known to be something.
struct Span {
    start: u64,
    end: u64,
    owner: String,
}

/// Prints the table, largest first.
pub(crate) fn size() -> Outcome {
    let total = length(&dist::thimble()?)?;
    let empty_total = length(&dist::empty()?)?;
    let folder = build::target().join("size");
    let mut cargo = build::cargo_command(&[
        "build",
        "-q",
        "--profile",
        "dist",
        "-p",
        "thimble-host",
        "--locked",
    ]);
    cargo.arg("--target-dir").arg(&folder);
    build::succeed(cargo.env("CARGO_PROFILE_DIST_STRIP", "none"))?;
    let empty = folder.join("empty");
    dist::compile_empty(&empty, "none")?;
    let ours = read(&folder.join("dist/thimble"), &images::embedded()?, total)?;
    let floor = read(&empty, &[], empty_total)?;
    let mut names: Vec<_> = ours.keys().chain(floor.keys()).collect();
    names.sort();
    names.dedup();
    let of = |sizes: &Sizes, name: &str| sizes.get(name).copied().unwrap_or(0);
    names.sort_by_key(|name| std::cmp::Reverse(of(&ours, name)));
    println!(
        "| {:40} | {:>9} | {:>9} | {:>9} |",
        "what", "thimble", "empty", "above"
    );
    println!("|{:-<42}|{:->11}|{:->11}|{:->11}|", "", ":", ":", ":");
    let line = |name: &str, ours: u64, floor: u64| {
        let above = ours as i64 - floor as i64;
        println!("| {name:40} | {ours:9} | {floor:9} | {above:9} |");
    };
    for name in names {
        line(name, of(&ours, name), of(&floor, name));
    }
    line("the whole file", total, empty_total);
    Ok(())
}

fn length(path: &Path) -> Result<u64, String> {
    let data = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(data.len())
}

/// Reads a binary that is `total` bytes long when it is stripped.
fn read(path: &Path, images: &[(String, Vec<u8>)], total: u64) -> Result<Sizes, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut sizes = measure(&bytes, images).map_err(|e| format!("{}: {e}", path.display()))?;
    let rest = total.saturating_sub(sizes.values().sum());
    sizes.insert("(headers and alignment)".to_string(), rest);
    Ok(sizes)
}

/// Sorts the bytes of an ELF file that a stripped one keeps.
fn measure(bytes: &[u8], images: &[(String, Vec<u8>)]) -> Result<Sizes, object::Error> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    let mut sizes = Sizes::new();
    let mut spans: Vec<Span> = file
        .symbols()
        .filter(|symbol| symbol.size() != 0)
        .filter_map(|symbol| {
            Some(Span {
                start: symbol.address(),
                end: symbol.address().checked_add(symbol.size())?,
                owner: owner(symbol.name().ok()?),
            })
        })
        .collect();
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        // Neither what stripping takes away nor what is only made when the program is loaded.
        if sh_flags.0 & SHF_ALLOC.0 == 0 || section.file_range().is_none() {
            continue;
        }
        let data = section.data()?;
        for (name, image) in images {
            if let Some(at) = find(data, image) {
                let start = section.address() + at as u64;
                let end = start + image.len() as u64;
                let owner = format!("(firmware image {name})");
                spans.push(Span { start, end, owner });
            }
        }
        let (start, end) = (section.address(), section.address() + data.len() as u64);
        let mut inside: Vec<_> = spans
            .iter()
            .filter(|span| span.start >= start && span.end <= end)
            .collect();
        inside.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        // Several names of one place count once, for the first.
        let (mut at, mut known) = (start, 0);
        for span in inside {
            let new = span.end.saturating_sub(at.max(span.start));
            at = at.max(span.end);
            known += new;
            if new != 0 {
                *sizes.entry(span.owner.clone()).or_default() += new;
            }
        }
        let name = section.name()?;
        let rest = (end - start).saturating_sub(known);
        if rest != 0 {
            *sizes.entry(format!("({name}, unnamed)")).or_default() += rest;
        }
    }
    Ok(sizes)
}

fn find(data: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let starts = data.iter().enumerate().filter(|(_, byte)| **byte == first);
    starts
        .map(|(at, _)| at)
        .find(|at| data[*at..].starts_with(part))
}

/// The crate of a symbol, by the first path in its name: `<&a::B as c::D>::e` is of `a`.
fn owner(symbol: &str) -> String {
    let Ok(name) = rustc_demangle::try_demangle(symbol) else {
        return C_LIBRARY.to_string();
    };
    let name = format!("{name:#}");
    let mut path = name.split("::").next().unwrap_or_default();
    if let Some(at) = path.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        path = &path[at + 1..];
    }
    match path {
        "" => "(Rust, no crate in the name)".to_string(),
        path => path.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_crates() {
        assert_eq!(owner("memcpy"), C_LIBRARY);
        let method = "_ZN12thimble_host2vm2Vm5reset17he7b3a4ad49e9c638E";
        assert_eq!(owner(method), "thimble_host");
        let v0 = "_RNvNtNtCsfEOYDRpO4Ta_11miniz_oxide7inflate4core10decompress";
        assert_eq!(owner(v0), "miniz_oxide");
        let of_a_trait = "_ZN42_$LT$$RF$T$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE";
        assert_eq!(owner(of_a_trait), "core");
    }

    #[test]
    fn images_are_found() {
        assert_eq!(find(b"xxabxabc", b"abc"), Some(5));
        assert_eq!(find(b"xx", b"abc"), None);
        assert_eq!(find(b"xx", b""), None);
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(measure(b"", &[]).is_err());
        assert!(measure(&[0xff; 256], &[]).is_err());
    }

    #[test]
    fn this_program_is_made_of_crates() {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        let sizes = measure(&bytes, &[]).unwrap();
        assert!(sizes["xtask"] > 1000 && sizes["core"] > 1000, "{sizes:?}");
    }
}
