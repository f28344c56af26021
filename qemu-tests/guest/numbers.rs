//! What a processor computes in a program of Rust's standard library, as bit patterns and sums: the same file runs on the host and in
//! guests, and the outputs are compared.
//!
//! Nothing here depends on addresses, time or the processor's extensions. Inputs are a fixed pseudo-random sequence.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::mpsc;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// FNV-1a, which any wrong bit changes.
fn mix(sum: u64, value: u64) -> u64 {
    let bytes = value.to_le_bytes();
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn floats(random: &mut Random) {
    let (mut sum, mut total) = (0, 0.0f64);
    for _ in 0..20_000 {
        let (a, b) = (f64::from_bits(random.next()), f64::from_bits(random.next()));
        for value in [
            a + b,
            a - b,
            a * b,
            a / b,
            a % b,
            a.sqrt(),
            a.floor(),
            b.trunc(),
            a.round(),
            a.min(b),
            f64::from(a as f32),
            f64::from(a as f32 * b as f32),
        ] {
            sum = mix(sum, value.to_bits());
        }
        for value in [a as i64, i64::from(b as i32), a as u64 as i64, i64::from(a as u8), i64::from(a < b)] {
            sum = mix(sum, value as u64);
        }
        let ordinary = (random.next() >> 11) as f64 / 9.0e12;
        total += ordinary.sqrt().mul_add(0.5, 1.0 / (1.0 + ordinary));
        sum = mix(sum, total.to_bits());
        sum = mix(sum, (random.next() as i64 as f64).to_bits());
        sum = mix(sum, (random.next() as f32).to_bits().into());
    }
    println!("floats {sum:016x} {total} {total:e}");
}

fn text(random: &mut Random) {
    let mut sum = 0;
    for _ in 0..3_000 {
        let value = f64::from_bits(random.next());
        let text = format!("{value:?} {value:.9e}");
        sum = text.bytes().fold(sum, |sum, byte| mix(sum, byte.into()));
        let back: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(-1.0);
        assert!(value.is_nan() || value.to_bits() == back.to_bits(), "{value:?} {back:?}");
    }
    let words: String = (0..5_000).map(|_| char::from(b'a' + (random.next() % 26) as u8)).collect();
    let found: Vec<usize> = words.match_indices("ab").map(|(at, _)| at).collect();
    let upper = words.to_uppercase().chars().rev().collect::<String>();
    sum = upper.bytes().fold(sum, |sum, byte| mix(sum, byte.into()));
    println!("text {sum:016x} {}", found.len());
}

fn integers(random: &mut Random) {
    let mut sum = 0;
    for _ in 0..20_000 {
        let (a, b) = (random.next(), random.next() | 1);
        let wide = u128::from(a) * u128::from(b) / u128::from(random.next() >> 20 | 1);
        for value in [
            wide as u64,
            (wide >> 64) as u64,
            a / b,
            a % b,
            a.rotate_left((b & 63) as u32),
            a.count_ones().into(),
            a.leading_zeros().into(),
            b.swap_bytes(),
            (a as i64).wrapping_rem(b as i64) as u64,
            a.saturating_mul(b >> 50),
            a.abs_diff(b),
            a.isqrt(),
        ] {
            sum = mix(sum, value);
        }
    }
    println!("integers {sum:016x}");
}

fn collections(random: &mut Random) {
    let mut values: Vec<u64> = (0..20_000).map(|_| random.next() % 50_000).collect();
    let mut counts: HashMap<u64, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    let mut tree = BTreeMap::new();
    for value in &values {
        *counts.entry(*value).or_default() += 1;
        tree.insert(value.swap_bytes(), *value);
    }
    values.sort_unstable();
    let sum = values.iter().fold(0, |sum, value| mix(sum, *value));
    let sum = tree.values().fold(sum, |sum, value| mix(sum, *value));
    let most = counts.values().max();
    println!("collections {sum:016x} {} {} {most:?}", counts.len(), tree.len());
}

/// Four threads, each with numbers of its own in its registers.
fn threads() {
    let (sender, results) = mpsc::channel();
    for thread in 0..4u64 {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut random = Random(0x1234_5678_9abc_def1 + thread);
            let mut total = 0.0f64;
            for step in 0..60_000 {
                total = total * 0.999 + (random.next() >> 40) as f64 / f64::from(step + 1);
            }
            // The main thread has gone by then only if it is lost.
            let _ = sender.send((thread, total.to_bits()));
        });
    }
    drop(sender);
    let mut results: Vec<(u64, u64)> = results.iter().collect();
    results.sort_unstable();
    println!("threads {results:x?}");
}

fn main() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    floats(&mut random);
    text(&mut random);
    integers(&mut random);
    collections(&mut random);
    threads();
}
