//! Builds images: the one description of which there are and how an ELF file becomes a ROM.
//!
//! Included as a module by `host-kvm/build.rs` (images that the thimble binary carries) and by xtask (test images, into
//! `target/firmware/NAME.rom`), as a library crate could not be a build script's dependency and a guest program at once.
//! The including crate depends on `object`.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// The ROM ends here in the link, and at 4 GiB in the machine.
const ROM_END: u64 = 0x10_0000;
/// `-bios` files are whole 64 KiB.
pub(crate) const ROM_SIZE: usize = 0x1_0000;

/// An image.
pub(crate) struct Image {
    /// Name of the program in `src/bin` and of the ROM.
    pub(crate) name: &'static str,
    /// True if it is part of the thimble binary.
    pub(crate) embedded: bool,
    /// True if it is a test image: it prints what it observes on port 402h and ends with status 33 through port F4h.
    pub(crate) test: bool,
    /// True if it does more in ring 0 than start-up and the short service calls, so that a host that can't run ring 0 in full skips it.
    pub(crate) ring0: bool,
    /// True if it resets the machine on its way, so that a run must not have `-no-reboot`.
    pub(crate) reboots: bool,
    /// True if it looks closely at the local APIC, so that only the machine's own will do: a kernel that is itself a guest's
    /// may end interrupts as it delivers them.
    pub(crate) local_apic: bool,
    /// Options that a test run adds.
    pub(crate) options: &'static [&'static str],
}

const fn image(name: &'static str) -> Image {
    Image {
        name,
        embedded: false,
        test: true,
        ring0: false,
        reboots: false,
        local_apic: false,
        options: &[],
    }
}

/// All images.
pub(crate) const IMAGES: &[Image] = &[
    Image {
        embedded: true,
        test: false,
        ..image("boot")
    },
    Image {
        embedded: true,
        test: false,
        ..image("demo")
    },
    Image {
        // Its test has the files that it needs.
        test: false,
        ..image("flash")
    },
    image("hello"),
    image("pio_mmio"),
    image("pic_pit"),
    image("ioapic"),
    Image {
        local_apic: true,
        ..image("lapic")
    },
    Image {
        options: &["-rtc", "base=2020-02-29T23:59:58"],
        ..image("rtc")
    },
    image("memory"),
    Image {
        reboots: true,
        ..image("resets")
    },
    image("exceptions"),
    Image {
        options: &["-smp", "2"],
        ..image("smp")
    },
    Image {
        ring0: true,
        ..image("cpu_real")
    },
    Image {
        ring0: true,
        ..image("cpu_protected")
    },
    Image {
        ring0: true,
        options: &["-cpu", "max"],
        ..image("cpu_paging")
    },
    Image {
        ring0: true,
        ..image("cpu_long")
    },
    Image {
        ring0: true,
        ..image("cpu_strict")
    },
    Image {
        // The newest model that QEMU's translator has in full, and SHA where there is any.
        options: &["-cpu", "Westmere,+sha-ni,check=off"],
        ..image("vectors")
    },
    Image {
        ring0: true,
        local_apic: true,
        options: &["-smp", "4"],
        ..image("cpu_apic")
    },
    Image {
        test: false,
        ..image("counted")
    },
    Image {
        test: false,
        ..image("debugged")
    },
    Image {
        test: false,
        ..image("first_write")
    },
    Image {
        test: false,
        ..image("exit_loop")
    },
    Image {
        test: false,
        ..image("speed64")
    },
    Image {
        test: false,
        ..image("speed32")
    },
    Image {
        test: false,
        ..image("speed_ring3")
    },
    Image {
        test: false,
        ..image("disk_speed")
    },
    Image {
        // Its test kills the emulator.
        test: false,
        ..image("records")
    },
    Image {
        test: false,
        ..image("disk_stress")
    },
    Image {
        test: false,
        ..image("idle")
    },
    Image {
        test: false,
        ..image("idle_ticks")
    },
    Image {
        test: false,
        ..image("spin")
    },
    Image {
        test: false,
        ..image("spin_ports")
    },
];

/// An image that `-kernel` loads: an ELF file with a PVH note or a multiboot header. It is built only where it is asked for, and `firmware/build.rs` links it
/// with a script of its own.
pub(crate) struct Kernel {
    /// Name of the program in `src/bin`.
    pub(crate) name: &'static str,
    /// The crate's feature that it needs, if any.
    feature: Option<&'static str>,
}

/// The proof that the core needs neither std nor a heap.
pub(crate) const CORE_PROOF: Kernel = Kernel {
    name: "core_proof",
    feature: Some("core-proof"),
};

/// Uses the device `pc-testdev`. One segment of assembly with a multiboot header.
pub(crate) const TESTDEV: Kernel = Kernel {
    name: "testdev",
    feature: None,
};

/// Prints what a multiboot kernel is told. One segment of assembly.
pub(crate) const TOLD_MULTIBOOT: Kernel = Kernel {
    name: "told_multiboot",
    feature: None,
};

/// Prints what a PVH kernel is told. One segment of assembly.
pub(crate) const TOLD_PVH: Kernel = Kernel {
    name: "told_pvh",
    feature: None,
};

/// All kernels.
pub(crate) const KERNELS: [&Kernel; 4] = [&CORE_PROOF, &TESTDEV, &TOLD_MULTIBOOT, &TOLD_PVH];

/// Builds the option ROM with cargo, and returns its bytes with the checksums filled in.
///
/// # Errors
/// As for [`build`].
pub(crate) fn build_option_rom(workspace: &Path, target_dir: &Path) -> Result<Vec<u8>, String> {
    /// Bytes of a unit of its length.
    const UNIT: usize = 512;
    /// Where the offset of the Plug and Play header is.
    const PNP: usize = 0x1a;
    /// Bytes of that header, and where its checksum is.
    const PNP_HEADER: (usize, usize) = (32, 9);
    let sum = |bytes: &[u8]| {
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        sum.wrapping_neg()
    };
    let mut rom = build("option_rom", workspace, target_dir)?;
    rom.truncate(UNIT * usize::from(rom[2]));
    let pnp = usize::from(u16::from_le_bytes([rom[PNP], rom[PNP + 1]]));
    let header = rom.get_mut(pnp..pnp + PNP_HEADER.0);
    let header = header.ok_or("the option ROM's header lies outside")?;
    header[PNP_HEADER.1] = sum(header);
    let last = rom.len() - 1;
    rom[last] = sum(&rom);
    Ok(rom)
}

/// Builds one image with cargo and returns its used bytes, which belong at the end of the ROM.
///
/// # Errors
/// A sentence; the compiler's own messages go to stderr.
pub(crate) fn build(name: &str, workspace: &Path, target_dir: &Path) -> Result<Vec<u8>, String> {
    let path = link(name, &[], workspace, target_dir)?;
    let elf =
        std::fs::read(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    flatten(&elf).map_err(|error| format!("{}: {error}", path.display()))
}

/// Builds a kernel with cargo and returns the path of its file.
///
/// # Errors
/// As for [`build`].
pub(crate) fn build_kernel(
    kernel: &Kernel,
    workspace: &Path,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let features = kernel.feature.map(|feature| ["--features", feature]);
    let features = features.as_ref().map_or(&[][..], |features| features);
    link(kernel.name, features, workspace, target_dir)
}

/// Builds a program for bare metal, and returns the path of its ELF file.
fn link(
    name: &str,
    features: &[&str],
    workspace: &Path,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace);
    // An outer cargo's choices (clippy as the compiler, coverage flags) are not the image's.
    for (key, _) in std::env::vars_os() {
        let text = key.to_string_lossy();
        let outer = [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
            "RUSTDOCFLAGS",
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
        ];
        let settings = text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_FEATURE_");
        if outer.contains(&&*text)
            || settings
            || text.starts_with("CARGO_ENCODED_")
            || text.starts_with("CARGO_MAKEFLAGS")
            || text == "MAKEFLAGS"
        {
            cargo.env_remove(&key);
        }
    }
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let status = cargo
        .args([
            "rustc",
            "--quiet",
            "--locked",
            "-p",
            "thimble-firmware",
            "--profile",
            "firmware",
            "--target",
            TARGET,
        ])
        .args(features)
        .args(["--bin", name, "--target-dir"])
        .arg(target_dir)
        .args([
            "--",
            "-C",
            "relocation-model=static",
            "-C",
            "no-redzone=yes",
        ])
        .status()
        .map_err(|error| format!("can't run cargo: {error}"))?;
    if !status.success() {
        return Err(format!("cargo can't build the image {name}"));
    }
    Ok(target_dir.join(TARGET).join("firmware").join(name))
}

/// Turns an image's ELF file into the bytes of its ROM, from the first used byte to the end.
///
/// # Errors
/// A file that is not such an image.
pub(crate) fn flatten(elf: &[u8]) -> Result<Vec<u8>, String> {
    let header =
        FileHeader64::<object::Endianness>::parse(elf).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let mut rom = vec![0; ROM_SIZE];
    let mut first = ROM_SIZE;
    for segment in header
        .program_headers(endian, elf)
        .map_err(|error| error.to_string())?
    {
        let data = segment
            .data(endian, elf)
            .map_err(|()| "a segment lies outside the file".to_string())?;
        if segment.p_type(endian) != PT_LOAD || data.is_empty() {
            continue;
        }
        let address = segment.p_paddr(endian);
        let start = address
            .checked_sub(ROM_END - ROM_SIZE as u64)
            .ok_or("a segment lies below the ROM")? as usize;
        let room = rom
            .get_mut(start..start + data.len())
            .ok_or("a segment lies behind the ROM")?;
        room.copy_from_slice(data);
        first = first.min(start);
    }
    rom.drain(..first);
    Ok(rom)
}

/// Fills an image up to a whole ROM.
pub(crate) fn pad(used: &[u8]) -> Vec<u8> {
    let mut rom = vec![0; ROM_SIZE.saturating_sub(used.len())];
    rom.extend_from_slice(used);
    rom
}
