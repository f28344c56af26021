//! Thimble against QEMU: both emulators in turn in one run, medians and ratios, as a Markdown table.
//!
//! Absolute times say more about the machine than about the emulators; the ratios are what counts.

mod bare;
mod devices;
mod disks;
mod dumps;
mod emulator;
mod flood;
mod linux;
mod measures;
mod parser;
mod phases;
mod roms;
mod software;
mod throttling;
mod wire;

use std::path::{Path, PathBuf};

use crate::{Outcome, build, dist};
use emulator::Emulator;

/// Runs of each emulator unless `--runs` says otherwise.
const RUNS: usize = 30;

/// The cheapest command.
const QUERY_STATUS: &str = "{\"execute\":\"query-status\"}";

/// What the command line asks for.
struct Options<'a> {
    runs: usize,
    only: Option<&'a str>,
    binary: Option<&'a str>,
}

/// What a measure needs.
struct Bench {
    runs: usize,
    thimble: Emulator,
    qemu: Emulator,
    /// The only place that files are made in.
    folder: PathBuf,
}

/// A line of the table.
struct Row {
    measure: String,
    thimble: String,
    qemu: String,
    /// Thimble's part of QEMU's, where both have one.
    ratio: Option<f64>,
    /// What is to be reached, and whether it is.
    target: Option<(&'static str, bool)>,
}

type Measure = fn(&Bench) -> Result<Vec<Row>, String>;

/// All measures by the name that `--only` takes.
const MEASURES: [(&str, Measure); 24] = [
    ("start", measures::start),
    ("boot", measures::boot),
    ("qmp", measures::round_trip),
    ("memory", measures::memory),
    ("devices", devices::memory),
    ("size", measures::size),
    ("exit", measures::exit),
    ("process", measures::process),
    ("rates", wire::rates),
    ("argument", wire::argument),
    ("flood", flood::memory),
    ("parser", parser::throughput),
    ("software-speed", software::speed),
    ("software-ring3", software::ring3),
    ("software-memory", software::memory),
    ("software-idle", software::idle),
    ("software-spin", software::spinning),
    ("software-boot", software::boot),
    ("seabios", devices::seabios),
    ("linux", linux::boot),
    ("dumps", dumps::dumps),
    ("disks", disks::reads),
    ("disks-linux", disks::linux_reads),
    ("throttling", throttling::limits),
];

/// Runs the measures and prints the table. A target that is missed is shown, and no failure.
pub(crate) fn bench(args: &[&str]) -> Outcome {
    let options = parse(args)?;
    // An unoptimised yardstick would flatter whoever is held against it.
    if cfg!(debug_assertions) {
        let mut all = vec!["run", "-q", "--release", "-p", "xtask", "--", "bench"];
        all.extend(args);
        return build::cargo(&all);
    }
    let thimble = match options.binary {
        Some(path) => PathBuf::from(path),
        None => dist::thimble()?,
    };
    let qemu = build::find_program("qemu-system-x86_64")
        .ok_or("there is no qemu-system-x86_64: install Debian's package qemu-system-x86")?;
    let folder = build::target().join("bench");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let bench = Bench {
        runs: options.runs,
        thimble: Emulator {
            name: "Thimble",
            program: thimble,
        },
        qemu: Emulator {
            name: "QEMU",
            program: qemu,
        },
        folder,
    };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    for (name, measure) in MEASURES {
        if options.only.is_none_or(|only| only == name) {
            // The others are worth having all the same.
            match measure(&bench) {
                Ok(more) => rows.extend(more),
                Err(error) => failed.push(format!("{name}: {error}")),
            }
        }
    }
    println!();
    print_table(&rows, options.runs);
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n")),
    }
}

fn parse<'a>(args: &[&'a str]) -> Result<Options<'a>, String> {
    let mut options = Options {
        runs: RUNS,
        only: None,
        binary: None,
    };
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let value = *args
            .next()
            .ok_or_else(|| format!("bench {option}: an option with a value is expected"))?;
        match *option {
            "--runs" => {
                options.runs = value
                    .parse()
                    .ok()
                    .filter(|runs| (1..=10_000).contains(runs))
                    .ok_or_else(|| format!("--runs: '{value}' is not from 1 to 10000"))?;
            }
            "--only" if MEASURES.iter().any(|(name, _)| *name == value) => {
                options.only = Some(value);
            }
            "--only" => {
                let names = MEASURES.map(|(name, _)| name).join(", ");
                return Err(format!("--only: '{value}' is none of {names}"));
            }
            "--binary" if Path::new(value).is_file() => options.binary = Some(value),
            "--binary" => return Err(format!("--binary: there is no file '{value}'")),
            _ => return Err(format!("bench: unknown option '{option}'")),
        }
    }
    Ok(options)
}

impl Bench {
    /// Both emulators, in the order of this run, which changes so that neither profits from being second.
    fn both(&self, run: usize) -> [&Emulator; 2] {
        match run % 2 {
            0 => [&self.thimble, &self.qemu],
            _ => [&self.qemu, &self.thimble],
        }
    }

    /// Prints what is measured and with which command lines.
    fn announce(&self, what: &str, options: &[&str]) {
        println!("{what}:");
        for emulator in [&self.thimble, &self.qemu] {
            println!("  {}", emulator.command_line(options).join(" "));
        }
    }

    /// Measures both emulators in turn, `runs` times.
    fn alternate<T>(
        &self,
        runs: usize,
        mut measure: impl FnMut(&Emulator) -> Result<T, String>,
    ) -> Result<Pair<Vec<T>>, String> {
        let mut all = Pair {
            thimble: Vec::with_capacity(runs),
            qemu: Vec::with_capacity(runs),
        };
        for run in 0..runs {
            for emulator in self.both(run) {
                let result =
                    measure(emulator).map_err(|error| format!("{}: {error}", emulator.name))?;
                if std::ptr::eq(emulator, &self.thimble) {
                    all.thimble.push(result);
                } else {
                    all.qemu.push(result);
                }
            }
        }
        Ok(all)
    }

    /// Writes a ROM into the folder and returns its path.
    fn rom(&self, name: &str, bytes: &[u8]) -> Result<String, String> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// The same of both.
struct Pair<T> {
    thimble: T,
    qemu: T,
}

impl Pair<Vec<f64>> {
    fn medians(mut self) -> Pair<f64> {
        Pair {
            thimble: median(&mut self.thimble),
            qemu: median(&mut self.qemu),
        }
    }
}

impl<T> Pair<Vec<T>> {
    /// One figure of each result.
    fn map(&self, pick: fn(&T) -> f64) -> Pair<Vec<f64>> {
        Pair {
            thimble: self.thimble.iter().map(pick).collect(),
            qemu: self.qemu.iter().map(pick).collect(),
        }
    }
}

impl Pair<f64> {
    fn ratio(&self) -> f64 {
        self.thimble / self.qemu
    }
}

/// The middle value; NaN of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Nanoseconds in a fitting unit.
fn time(ns: f64) -> String {
    match ns.abs() {
        small if small < 1e3 => format!("{ns:.0} ns"),
        small if small < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

/// Bytes in a fitting unit.
fn bytes(count: f64) -> String {
    match count {
        small if small < 1e6 => format!("{:.0} KB", count / 1e3),
        _ => format!("{:.2} MB", count / 1e6),
    }
}

/// A line of the table from both figures.
fn row(
    measure: &str,
    values: &Pair<f64>,
    show: impl Fn(f64) -> String,
    target: Option<(&'static str, bool)>,
) -> Row {
    Row {
        measure: measure.to_string(),
        thimble: show(values.thimble),
        qemu: show(values.qemu),
        ratio: Some(values.ratio()),
        target,
    }
}

fn print_table(rows: &[Row], runs: usize) {
    println!("Medians of {runs} interleaved runs:\n");
    println!("| measure | Thimble | QEMU 7.2 | ratio | target |");
    println!("|---|---|---|---|---|");
    for row in rows {
        let ratio = match row.ratio {
            Some(ratio) if ratio > 0.0 && ratio < 1.0 => format!("1/{:.1}", 1.0 / ratio),
            Some(ratio) if ratio.is_finite() && ratio >= 1.0 => format!("{ratio:.1}"),
            _ => String::new(),
        };
        let target = match row.target {
            Some((text, true)) => format!("{text}: met"),
            Some((text, false)) => format!("{text}: **missed**"),
            None => String::new(),
        };
        let Row {
            measure,
            thimble,
            qemu,
            ..
        } = row;
        println!("| {measure} | {thimble} | {qemu} | {ratio} | {target} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn options_are_checked() {
        assert_eq!(parse(&["--runs", "3"]).unwrap().runs, 3);
        assert_eq!(parse(&["--only", "exit"]).unwrap().only, Some("exit"));
        for bad in [
            &["--runs"][..],
            &["--runs", "0"],
            &["--only", "nothing"],
            &["--speed", "3"],
            &["--binary", "/"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn units_fit() {
        assert_eq!(time(99.4), "99 ns");
        assert_eq!(time(-250.0), "-250 ns");
        assert_eq!(time(1_500.0), "1.5 µs");
        assert_eq!(time(2_340_000.0), "2.34 ms");
        assert_eq!(bytes(123_456.0), "123 KB");
        assert_eq!(bytes(1_557_400.0), "1.56 MB");
    }
}
