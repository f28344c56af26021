//! Named processor models: what `-cpu NAME` starts from.
//!
//! Names and feature bits are those that QEMU 7.2 shows for the `pc` board, observed through its
//! `feature-words` and `filtered-features` properties, so that a guest sees the same processor
//! under both. `host` and `max` are made from the accelerator's own bits and are not listed.

use super::features::{FeatureSet, WORDS};

/// A processor model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuModel {
    /// What `-cpu` takes.
    pub name: &'static str,
    /// CPUID leaf 0: EBX, EDX, ECX.
    pub vendor: &'static str,
    /// Family with the extended family added.
    pub family: u32,
    /// Model, 8 bits.
    pub model: u32,
    /// Stepping, 4 bits.
    pub stepping: u32,
    /// Highest basic leaf.
    pub level: u32,
    /// Highest extended leaf; 0: none.
    pub xlevel: u32,
    /// Brand string, up to 47 bytes.
    pub brand: &'static str,
    /// Feature bits.
    pub features: FeatureSet,
}

/// EAX of CPUID leaf 1.
pub const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    let (family, extended) = if family > 15 {
        (15, (family - 15) & 0xff)
    } else {
        (family, 0)
    };
    extended << 20 | (model >> 4 & 15) << 16 | family << 8 | (model & 15) << 4 | (stepping & 15)
}

/// Models that are later versions of others: they have no first one.
const VARIANTS: [&str; 2] = ["Haswell-noTSX", "Broadwell-noTSX"];

/// The model of that name; `NAME-v1` is the same as `NAME`.
pub fn find(name: &str) -> Option<&'static CpuModel> {
    let name = match name.strip_suffix("-v1") {
        Some(name) if !VARIANTS.contains(&name) => name,
        _ => name,
    };
    MODELS.iter().find(|model| model.name == name)
}

#[allow(clippy::too_many_arguments)]
const fn model(
    name: &'static str,
    vendor: &'static str,
    [family, model, stepping]: [u32; 3],
    [level, xlevel]: [u32; 2],
    brand: &'static str,
    features: [u32; WORDS],
) -> CpuModel {
    CpuModel {
        name,
        vendor,
        family,
        model,
        stepping,
        level,
        xlevel,
        brand,
        features,
    }
}

/// All models.
pub static MODELS: [CpuModel; 40] = [
    model(
        "486",
        "GenuineIntel",
        [4, 8, 0],
        [0x1, 0x0],
        "",
        [
            0x9, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "pentium",
        "GenuineIntel",
        [5, 4, 3],
        [0x1, 0x0],
        "",
        [
            0x8003bd, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "pentium2",
        "GenuineIntel",
        [6, 5, 2],
        [0x2, 0x0],
        "",
        [
            0x183fbfd, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "pentium3",
        "GenuineIntel",
        [6, 7, 3],
        [0x3, 0x0],
        "",
        [
            0x383fbfd, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "athlon",
        "AuthenticAMD",
        [6, 2, 3],
        [0x2, 0x80000008],
        "QEMU Virtual CPU version 2.5+",
        [
            0x783fbfd, 0x0, 0x0, 0x0, 0x0, 0x0, 0xc1c3f3fd, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "phenom",
        "AuthenticAMD",
        [16, 2, 3],
        [0x5, 0x8000001a],
        "AMD Phenom(tm) 9550 Quad-Core Processor",
        [
            0x78bfbfd, 0x802009, 0x0, 0x0, 0x0, 0x0, 0xefd3fbfd, 0x65, 0x0, 0x0, 0x1, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "coreduo",
        "GenuineIntel",
        [6, 14, 8],
        [0xa, 0x80000008],
        "Genuine Intel(R) CPU           T2600  @ 2.16GHz",
        [
            0xfc9fbfd, 0x9, 0x0, 0x0, 0x0, 0x0, 0x100000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "core2duo",
        "GenuineIntel",
        [6, 15, 11],
        [0xa, 0x80000008],
        "Intel(R) Core(TM)2 Duo CPU     T7700  @ 2.40GHz",
        [
            0xfcbfbfd, 0x2209, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "n270",
        "GenuineIntel",
        [6, 28, 2],
        [0xa, 0x80000008],
        "Intel(R) Atom(TM) CPU N270   @ 1.60GHz",
        [
            0xfc9fbfd, 0x400209, 0x0, 0x0, 0x0, 0x0, 0x100000, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "kvm32",
        "GenuineIntel",
        [15, 6, 1],
        [0x5, 0x80000008],
        "Common 32-bit KVM processor",
        [
            0x78bfbfd, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "kvm64",
        "GenuineIntel",
        [15, 6, 1],
        [0xd, 0x80000008],
        "Common KVM processor",
        [
            0x78bfbfd, 0x2001, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "qemu32",
        "GenuineIntel",
        [6, 6, 3],
        [0x4, 0x80000004],
        "QEMU Virtual CPU version 2.5+",
        [
            0x781abfd, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "qemu64",
        "AuthenticAMD",
        [15, 107, 1],
        [0xd, 0x8000000a],
        "QEMU Virtual CPU version 2.5+",
        [
            0x78bfbfd, 0x2001, 0x0, 0x0, 0x0, 0x0, 0x2193fbfd, 0x5, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Conroe",
        "GenuineIntel",
        [6, 15, 3],
        [0xa, 0x80000008],
        "Intel Celeron_4x0 (Conroe/Merom Class Core 2)",
        [
            0x78bfbfd, 0x201, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Penryn",
        "GenuineIntel",
        [6, 23, 3],
        [0xa, 0x80000008],
        "Intel Core 2 Duo P9xxx (Penryn Class Core 2)",
        [
            0x78bfbfd, 0x82201, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Nehalem",
        "GenuineIntel",
        [6, 26, 3],
        [0xb, 0x80000008],
        "Intel Core i7 9xx (Nehalem Class Core i7)",
        [
            0x78bfbfd, 0x982201, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Westmere",
        "GenuineIntel",
        [6, 44, 1],
        [0xb, 0x80000008],
        "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
        [
            0x78bfbfd, 0x2982203, 0x0, 0x0, 0x0, 0x0, 0x20100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x0, 0x4,
        ],
    ),
    model(
        "SandyBridge",
        "GenuineIntel",
        [6, 42, 1],
        [0xd, 0x80000008],
        "Intel Xeon E312xx (Sandy Bridge)",
        [
            0x78bfbfd, 0x17b82203, 0x0, 0x0, 0x0, 0x0, 0x28100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x1,
            0x4,
        ],
    ),
    model(
        "IvyBridge",
        "GenuineIntel",
        [6, 58, 9],
        [0xd, 0x80000008],
        "Intel Xeon E3-12xx v2 (Ivy Bridge)",
        [
            0x78bfbfd, 0x77b82203, 0x281, 0x0, 0x0, 0x0, 0x28100800, 0x1, 0x0, 0x0, 0x0, 0x0, 0x1,
            0x4,
        ],
    ),
    model(
        "Haswell",
        "GenuineIntel",
        [6, 60, 4],
        [0xd, 0x80000008],
        "Intel Core Processor (Haswell)",
        [
            0x78bfbfd, 0x77fa3203, 0xfb9, 0x0, 0x0, 0x0, 0x28100800, 0x21, 0x0, 0x0, 0x0, 0x0, 0x1,
            0x4,
        ],
    ),
    model(
        "Haswell-noTSX",
        "GenuineIntel",
        [6, 60, 1],
        [0xd, 0x80000008],
        "Intel Core Processor (Haswell, no TSX)",
        [
            0x78bfbfd, 0x77fa3203, 0x7a9, 0x0, 0x0, 0x0, 0x28100800, 0x21, 0x0, 0x0, 0x0, 0x0, 0x1,
            0x4,
        ],
    ),
    model(
        "Broadwell",
        "GenuineIntel",
        [6, 61, 2],
        [0xd, 0x80000008],
        "Intel Core Processor (Broadwell)",
        [
            0x78bfbfd, 0x77fa3203, 0x1c0fb9, 0x0, 0x0, 0x0, 0x28100800, 0x121, 0x0, 0x0, 0x0, 0x0,
            0x1, 0x4,
        ],
    ),
    model(
        "Broadwell-noTSX",
        "GenuineIntel",
        [6, 61, 2],
        [0xd, 0x80000008],
        "Intel Core Processor (Broadwell, no TSX)",
        [
            0x78bfbfd, 0x77fa3203, 0x1c07a9, 0x0, 0x0, 0x0, 0x28100800, 0x121, 0x0, 0x0, 0x0, 0x0,
            0x1, 0x4,
        ],
    ),
    model(
        "Skylake-Client",
        "GenuineIntel",
        [6, 94, 3],
        [0xd, 0x80000008],
        "Intel Core Processor (Skylake)",
        [
            0x78bfbfd, 0x77fa3203, 0x1c0fb9, 0x0, 0x0, 0x0, 0x28100800, 0x121, 0x0, 0x0, 0x0, 0x0,
            0x7, 0x4,
        ],
    ),
    model(
        "Skylake-Server",
        "GenuineIntel",
        [6, 85, 4],
        [0xd, 0x80000008],
        "Intel Xeon Processor (Skylake)",
        [
            0x78bfbfd, 0x77fa3203, 0xd19f0fb9, 0x8, 0x0, 0x0, 0x2c100800, 0x121, 0x0, 0x0, 0x0,
            0x0, 0x7, 0x4,
        ],
    ),
    model(
        "Cascadelake-Server",
        "GenuineIntel",
        [6, 85, 6],
        [0xd, 0x80000008],
        "Intel Xeon Processor (Cascadelake)",
        [
            0x78bfbfd, 0x77fa3203, 0xd19f0fb9, 0x808, 0x84000000, 0x0, 0x2c100800, 0x121, 0x0, 0x0,
            0x0, 0x0, 0x7, 0x4,
        ],
    ),
    model(
        "Cooperlake",
        "GenuineIntel",
        [6, 85, 10],
        [0xd, 0x80000008],
        "Intel Xeon Processor (Cooperlake)",
        [
            0x78bfbfd, 0x77fa3203, 0xd19f0fb9, 0x808, 0xac000000, 0x20, 0x2c100800, 0x121, 0x0,
            0x0, 0x0, 0x0, 0x7, 0x4,
        ],
    ),
    model(
        "Icelake-Server",
        "GenuineIntel",
        [6, 134, 0],
        [0xd, 0x80000008],
        "Intel Xeon Processor (Icelake)",
        [
            0x78bfbfd, 0x77fa3203, 0xd19f0fb9, 0x15f4e, 0x84000000, 0x0, 0x2c100800, 0x121, 0x0,
            0x200, 0x0, 0x0, 0x7, 0x4,
        ],
    ),
    model(
        "Snowridge",
        "GenuineIntel",
        [6, 134, 1],
        [0x1b, 0x80000008],
        "Intel Atom Processor (SnowRidge)",
        [
            0x78bfbfd, 0x47f8220b, 0x21944281, 0x1a000104, 0xe4000000, 0x0, 0x2c100800, 0x101, 0x0,
            0x0, 0x0, 0x0, 0x7, 0x4,
        ],
    ),
    model(
        "Denverton",
        "GenuineIntel",
        [6, 95, 1],
        [0x15, 0x80000008],
        "Intel Atom Processor (Denverton)",
        [
            0x78bfbfd, 0x47f8220b, 0x20944281, 0x0, 0xa4000000, 0x0, 0x2c100800, 0x101, 0x0, 0x0,
            0x0, 0x0, 0x7, 0x4,
        ],
    ),
    model(
        "KnightsMill",
        "GenuineIntel",
        [6, 133, 0],
        [0xd, 0x80000008],
        "Intel Xeon Phi Processor (Knights Mill)",
        [
            0xf8bfbfd, 0x77f83203, 0x1c0d03a9, 0x4000, 0xc, 0x0, 0x2c100800, 0x121, 0x0, 0x0, 0x0,
            0x0, 0x1, 0x4,
        ],
    ),
    model(
        "Opteron_G1",
        "AuthenticAMD",
        [15, 6, 1],
        [0x5, 0x80000008],
        "AMD Opteron 240 (Gen 1 Class Opteron)",
        [
            0x78bfbfd, 0x1, 0x0, 0x0, 0x0, 0x0, 0x2193fbfd, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Opteron_G2",
        "AuthenticAMD",
        [15, 6, 1],
        [0x5, 0x8000000a],
        "AMD Opteron 22xx (Gen 2 Class Opteron)",
        [
            0x78bfbfd, 0x2001, 0x0, 0x0, 0x0, 0x0, 0x2193fbfd, 0x5, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Opteron_G3",
        "AuthenticAMD",
        [16, 2, 3],
        [0x5, 0x8000000a],
        "AMD Opteron 23xx (Gen 3 Class Opteron)",
        [
            0x78bfbfd, 0x802009, 0x0, 0x0, 0x0, 0x0, 0x2993fbfd, 0xe5, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0,
        ],
    ),
    model(
        "Opteron_G4",
        "AuthenticAMD",
        [21, 1, 2],
        [0xd, 0x8000001a],
        "AMD Opteron 62xx class CPU",
        [
            0x78bfbfd, 0x16982203, 0x0, 0x0, 0x0, 0x0, 0x2d93fbfd, 0x109e5, 0x0, 0x0, 0x9, 0x0,
            0x0, 0x0,
        ],
    ),
    model(
        "Opteron_G5",
        "AuthenticAMD",
        [21, 2, 0],
        [0xd, 0x8000001a],
        "AMD Opteron 63xx class CPU",
        [
            0x78bfbfd, 0x36983203, 0x0, 0x0, 0x0, 0x0, 0x2d93fbfd, 0x2109e5, 0x0, 0x0, 0x9, 0x0,
            0x0, 0x0,
        ],
    ),
    model(
        "EPYC",
        "AuthenticAMD",
        [23, 1, 2],
        [0xd, 0x8000001e],
        "AMD EPYC Processor",
        [
            0x78bfbfd, 0x76d8320b, 0x209c01a9, 0x0, 0x0, 0x0, 0x2fd3fbfd, 0x4003f5, 0x0, 0x0, 0x9,
            0x0, 0x7, 0x4,
        ],
    ),
    model(
        "EPYC-Rome",
        "AuthenticAMD",
        [23, 49, 0],
        [0xd, 0x8000001e],
        "AMD EPYC-Rome Processor",
        [
            0x78bfbfd, 0x76d8320b, 0x219c01a9, 0x400004, 0x0, 0x0, 0x2fd3fbfd, 0xc003f5, 0x0,
            0x9205, 0x9, 0x0, 0xf, 0x4,
        ],
    ),
    model(
        "EPYC-Milan",
        "AuthenticAMD",
        [25, 1, 1],
        [0xd, 0x8000001e],
        "AMD EPYC-Milan Processor",
        [
            0x78bfbfd, 0x76da320b, 0x219c07a9, 0x40000c, 0x10, 0x0, 0x2fd3fbfd, 0xc003f5, 0x0,
            0x100d205, 0x10000009, 0x0, 0xf, 0x4,
        ],
    ),
    model(
        "Dhyana",
        "HygonGenuine",
        [24, 0, 1],
        [0xd, 0x8000001e],
        "Hygon Dhyana Processor",
        [
            0x78bfbfd, 0x74d83209, 0x9c01a9, 0x0, 0x0, 0x0, 0x2e500800, 0x4003f5, 0x0, 0x1000, 0x9,
            0x0, 0x7, 0x4,
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::features::{LEAF_1_EDX, name};

    #[test]
    fn every_model_is_sane() {
        for model in &MODELS {
            assert_eq!(model.vendor.len(), 12, "{}", model.name);
            assert!(model.brand.len() < 48 && model.level >= 1);
            assert_ne!(
                model.features[LEAF_1_EDX] & 1,
                0,
                "{} has an FPU",
                model.name
            );
            assert!(core::ptr::eq(find(model.name).unwrap(), model));
        }
        assert_eq!(find("qemu64-v1").unwrap().name, "qemu64");
        assert!(find("host").is_none() && find("qemu64-v9").is_none());
        assert_eq!(name(LEAF_1_EDX, 0), "fpu");
    }

    #[test]
    fn signatures() {
        assert_eq!(signature(15, 107, 1), 0x0006_0fb1);
        assert_eq!(signature(25, 1, 1), 0x00a0_0f11);
    }
}
