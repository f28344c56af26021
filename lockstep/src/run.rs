//! Runs cases of all forms and streams on an oracle and a subject, and tells of the differences.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use thimble_core::cpu::decode::CodeSize;

use crate::case::{Case, Outcome, Subject, World};
use crate::compare::{self, Mask};
use crate::forms::{self, Form, Oracle, Plan};
use crate::generate;
use crate::known::{self, KNOWN};
use crate::process::FRAME_PAGE;
use crate::random::Random;
use crate::stream::Stream;
use crate::{Options, open};

/// Which oracle is asked about which world.
const SETUPS: [(World, Oracle); 7] = [
    (World::User64, Oracle::Process),
    (World::User64, Oracle::Kvm),
    (World::User32, Oracle::Process),
    (World::User16, Oracle::Process),
    (World::Kernel64, Oracle::Emulator),
    (World::Kernel32, Oracle::Emulator),
    (World::Real16, Oracle::Emulator),
];

/// The number of streams among the forms, for random numbers and reports.
const STREAMS: &str = "streams";

/// One more attempt for so many cases that were asked for: an oracle has no outcome for some, branches into the process'
/// own pages for example, which is rare.
const SPARE: u64 = 4;

/// Forms in the list of differences, at most.
const LINES_MAX: usize = 60;

/// What came out of all.
#[derive(Default)]
struct Tally {
    /// Cases compared, by form and code size.
    compared: BTreeMap<(String, u8), u64>,
    /// Forms that weren't run, by reason.
    skipped: BTreeMap<&'static str, BTreeSet<String>>,
    /// By place in [`KNOWN`].
    known: Vec<u64>,
    /// Differences by world and form, and the first of each.
    wrong: BTreeMap<(World, String), u64>,
    shown: u64,
    cases: u64,
}

/// Code size as the number of its bits.
const fn bits(size: CodeSize) -> u8 {
    match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

/// Whether code of this size has the form.
fn has(form: &Form, size: CodeSize) -> bool {
    match size {
        CodeSize::Bits64 => form.shape.in_long,
        _ => form.shape.in_legacy,
    }
}

/// One oracle and the subject, in one world.
struct Pair<'s> {
    world: World,
    kind: Oracle,
    oracle: &'s mut dyn Subject,
    subject: &'s mut dyn Subject,
}

impl Pair<'_> {
    /// Both outcomes, unless the oracle has none, and the difference, if it's there a second time: the kernel below has
    /// been seen to tell zeros for XMM registers, in one of some hundred thousand signals.
    fn run(&mut self, case: &Case, mask: Mask) -> Option<(Outcome, Outcome, Option<String>)> {
        match self.once(case, mask)? {
            (.., Some(_)) if case.vectors.is_some() => self.once(case, mask),
            same => Some(same),
        }
    }

    fn once(&mut self, case: &Case, mask: Mask) -> Option<(Outcome, Outcome, Option<String>)> {
        let expected = self.oracle.run(case);
        if !compare::comparable(&expected) {
            return None;
        }
        let got = self.subject.run(case);
        if self.kind == Oracle::Process && got.cr2 & !0xfff == FRAME_PAGE as u64 {
            // In a process there is a page.
            return None;
        }
        if forms::refused(case, self.kind, &expected, &got) {
            return None;
        }
        let mask = Mask {
            rflags: mask.rflags | forms::lost_flags(self.kind, &expected),
            ..mask
        };
        let difference = compare::difference(
            case,
            mask,
            (&expected, self.oracle.window()),
            (&got, self.subject.window()),
        );
        if difference.is_some() && forms::emulated(self.kind, case, &got) {
            return None;
        }
        Some((expected, got, difference))
    }
}

/// Runs everything that the options ask for.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let forms = forms::all();
    let mut subject = open(&options.subject)?;
    let mut oracles: BTreeMap<&str, Box<dyn Subject>> = BTreeMap::new();
    let mut tally = Tally {
        known: vec![0; KNOWN.len()],
        ..Tally::default()
    };
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut seed = options.seed;
    loop {
        for (world, kind) in SETUPS {
            let other_world = options.world.is_some_and(|wanted| wanted != world);
            let other_oracle = options
                .oracle
                .as_ref()
                .is_some_and(|wanted| wanted != kind.name());
            if other_world || other_oracle {
                continue;
            }
            if missing.contains(&kind.subject()) {
                continue;
            }
            let oracle = match oracles.entry(kind.subject()) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(place) => match open(kind.subject()) {
                    Ok(oracle) => place.insert(oracle),
                    Err(reason) => {
                        println!("SKIPPED: lockstep against {}: {reason}", kind.subject());
                        missing.insert(kind.subject());
                        continue;
                    }
                },
            };
            let mut pair = Pair {
                world,
                kind,
                oracle: &mut **oracle,
                subject: &mut *subject,
            };
            setup(options, seed, &forms, &mut pair, &mut tally);
        }
        if Instant::now() >= end {
            break;
        }
        seed += 1;
    }
    report(options, &forms, &tally, &missing)
}

/// Runs all forms and streams of one world with one oracle.
fn setup(options: &Options, seed: u64, forms: &[Form], pair: &mut Pair<'_>, tally: &mut Tally) {
    let (world, kind) = (pair.world, pair.kind);
    let base = generate::base(&mut Random::new(&[seed]));
    pair.oracle.set_base(&base);
    pair.subject.set_base(&base);
    let (start, before) = (Instant::now(), tally.cases);
    let wrong_before: u64 = tally.wrong.values().sum();
    let wanted = |name: &str| {
        let form = options.form.as_deref();
        form.is_none_or(|text| name.contains(text))
    };
    for (index, form) in (1..).zip(forms) {
        if !has(form, world.code_size()) || !wanted(&form.name) {
            continue;
        }
        if let Plan::Skip(reason) = forms::plan(form, world, kind) {
            let names = tally.skipped.entry(reason).or_default();
            names.insert(forms::family(form.shape.operation));
            continue;
        }
        let mut compared = 0;
        for number in 0..options.cases + options.cases.div_ceil(SPARE) {
            if compared == options.cases {
                break;
            }
            if options.case.is_some_and(|wanted| wanted != number) {
                continue;
            }
            let mut random = Random::new(&[seed, world as u64, index, number]);
            let Some(mut made) = generate::case(form, world, &mut random) else {
                continue;
            };
            forms::adapt(kind, &mut made.case);
            let mask = compare::undefined(&made.instruction, &made.case);
            let Some((expected, got, difference)) = pair.run(&made.case, mask) else {
                continue;
            };
            compared += 1;
            tally.cases += 1;
            let size = bits(world.code_size());
            *tally.compared.entry((form.name.clone(), size)).or_default() += 1;
            if options.case.is_some() {
                println!(
                    "{}\n{}  oracle:\n{expected}  subject:\n{got}",
                    form.name, made.case
                );
            }
            let Some(difference) = difference else {
                continue;
            };
            if let Some(place) = known::known(&made.instruction, &made.case, &expected, kind) {
                tally.known[place] += 1;
                continue;
            }
            let count = tally.wrong.entry((world, form.name.clone())).or_default();
            *count += 1;
            // One of each, and not too many.
            if *count == 1 && tally.shown < options.show {
                tally.shown += 1;
                println!(
                    "{} {}: {difference}\n  {:?}\n{}  {}:\n{expected}  {}:\n{got}  again: --seed {seed} --world {} --oracle {} --form '{}' --case {number}\n",
                    world.name(),
                    form.name,
                    made.instruction,
                    made.case,
                    kind.name(),
                    pair.subject.name(),
                    world.name(),
                    kind.name(),
                    form.name,
                );
            }
        }
    }
    if wanted(STREAMS) && forms::native(kind) {
        streams(options, seed, forms, pair, tally);
    }
    let seconds = start.elapsed().as_secs_f64();
    let cases = tally.cases - before;
    let wrong: u64 = tally.wrong.values().sum::<u64>() - wrong_before;
    println!(
        "{} against {}: {cases} cases, {:.0} a second, {wrong} differ",
        world.name(),
        kind.name(),
        cases as f64 / seconds.max(1e-9),
    );
}

/// Runs streams, and looks for the first instruction that differs where one does.
fn streams(options: &Options, seed: u64, forms: &[Form], pair: &mut Pair<'_>, tally: &mut Tally) {
    let world = pair.world;
    for number in 0..options.streams.unwrap_or(10 * options.cases) {
        if options.case.is_some_and(|wanted| wanted != number) {
            continue;
        }
        let mut random = Random::new(&[seed, world as u64, 0, number]);
        let stream = Stream::new(forms, world, pair.kind, &mut random);
        let whole = stream.case(stream.len());
        let Some((_, _, difference)) = pair.run(&whole, Mask::default()) else {
            continue;
        };
        tally.cases += 1;
        if options.case.is_some() {
            println!("{stream}");
        }
        if difference.is_none() {
            continue;
        }
        let count = tally.wrong.entry((world, STREAMS.to_string())).or_default();
        *count += 1;
        if tally.shown >= options.show {
            continue;
        }
        tally.shown += 1;
        for length in 1..=stream.len() {
            let case = stream.case(length);
            let Some((expected, got, Some(difference))) = pair.run(&case, Mask::default()) else {
                continue;
            };
            println!(
                "{} stream, instruction {length}: {difference}\n{stream}{case}  {}:\n{expected}  {}:\n{got}  again: --seed {seed} --world {} --oracle {} --form {STREAMS} --case {number}\n",
                world.name(),
                pair.kind.name(),
                pair.subject.name(),
                world.name(),
                pair.kind.name(),
            );
            break;
        }
    }
}

/// Prints what was and what wasn't, and says whether it was enough.
fn report(
    options: &Options,
    forms: &[Form],
    tally: &Tally,
    missing: &BTreeSet<&str>,
) -> Result<(), String> {
    println!("\nNot compared:");
    for (reason, names) in &tally.skipped {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        println!("  {reason}: {}", names.join(" "));
    }
    println!("\nKnown differences:");
    for (known, count) in KNOWN.iter().zip(&tally.known) {
        println!("  {count:6} {} (SDM {})", known.what, known.section);
    }
    let partial = options.form.is_some()
        || options.world.is_some()
        || options.oracle.is_some()
        || options.case.is_some();
    let mut failures = Vec::new();
    if !partial {
        let few = too_few(options, forms, tally, missing);
        if !few.is_empty() {
            println!("\nForms that were run less than {} times:", options.cases);
            for line in &few {
                println!("  {line}");
            }
            failures.push(format!("{} forms were not run often enough", few.len()));
        }
        let stale = KNOWN
            .iter()
            .zip(&tally.known)
            .filter(|(_, count)| **count == 0);
        // Some take a few seeds.
        for (known, _) in stale {
            println!("never seen this time: {}", known.what);
        }
    }
    let wrong: u64 = tally.wrong.values().sum();
    if wrong > 0 {
        println!("\nDifferences:");
        for ((world, name), count) in tally.wrong.iter().take(LINES_MAX) {
            println!("  {count:6} {} {name}", world.name());
        }
        if tally.wrong.len() > LINES_MAX {
            println!("  and {} other forms", tally.wrong.len() - LINES_MAX);
        }
        failures.push(format!("{wrong} of {} cases differ", tally.cases));
    }
    match failures.is_empty() {
        true => {
            println!("\n{} cases, no difference", tally.cases);
            Ok(())
        }
        false => Err(failures.join("\n")),
    }
}

/// Forms with fewer comparisons in a code size than were asked for, if there is an oracle for them.
fn too_few(
    options: &Options,
    forms: &[Form],
    tally: &Tally,
    missing: &BTreeSet<&str>,
) -> Vec<String> {
    let mut few = Vec::new();
    for size in [CodeSize::Bits64, CodeSize::Bits32, CodeSize::Bits16] {
        for form in forms.iter().filter(|form| has(form, size)) {
            let planned = SETUPS.iter().any(|(world, kind)| {
                let plan = forms::plan(form, *world, *kind);
                let there = forms::native(*kind) && !missing.contains(kind.subject());
                world.code_size() == size && there && plan == Plan::Run
            });
            let compared = tally.compared.get(&(form.name.clone(), bits(size)));
            let compared = compared.copied().unwrap_or(0);
            if planned && compared < options.cases {
                few.push(format!("{compared:4} {} bits {}", bits(size), form.name));
            }
        }
    }
    few
}
