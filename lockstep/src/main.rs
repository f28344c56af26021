//! Runs the same instructions on the processor and on the software CPU, and compares the whole state after each.

mod alarm;
mod assemble;
mod case;
mod compare;
mod control;
mod forms;
mod generate;
mod kvm;
mod known;
mod layout;
mod process;
mod random;
mod soft;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use case::{Subject, World};
use forms::Plan;
use random::Random;

const USAGE: &str = "\
usage: lockstep [OPTIONS]
  --seed N        where random numbers start (1)
  --cases N       cases of each form in each world (200)
  --form TEXT     only forms whose name has this in it
  --world NAME    only this one: user64, user32, user16, kernel64, kernel32, real16
  --oracle NAME   kvm or process
  --subject NAME  soft, kvm or process
  --case N        only the case of this number, with all that is known of it
  --all           x87, MMX and SSE, too
  --show N        differences in full, at most";

/// What the command line says.
struct Options {
    seed: u64,
    cases: u64,
    form: Option<String>,
    world: Option<World>,
    oracle: Option<String>,
    subject: String,
    case: Option<u64>,
    all: bool,
    show: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seed: 1,
        cases: 200,
        form: None,
        world: None,
        oracle: None,
        subject: "soft".to_string(),
        case: None,
        all: false,
        show: 10,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--all" {
            options.all = true;
            continue;
        }
        let value = arguments.next().ok_or_else(|| USAGE.to_string())?;
        let number = || value.parse().map_err(|_| format!("{name}: '{value}' is no number"));
        match name.as_str() {
            "--seed" => options.seed = number()?,
            "--cases" => options.cases = number()?,
            "--case" => options.case = Some(number()?),
            "--show" => options.show = number()?,
            "--form" => options.form = Some(value),
            "--oracle" => options.oracle = Some(value),
            "--subject" => options.subject = value,
            "--world" => {
                let world = World::ALL.into_iter().find(|world| world.name() == value);
                options.world = Some(world.ok_or_else(|| USAGE.to_string())?);
            }
            _ => return Err(USAGE.to_string()),
        }
    }
    Ok(options)
}

fn subject(name: &str) -> Result<Box<dyn Subject>, String> {
    Ok(match name {
        "soft" => Box::new(soft::Soft::new()),
        "kvm" => Box::new(kvm::Guest::new()?),
        "process" => Box::new(process::Process::new()?),
        _ => return Err(format!("there is no subject '{name}'")),
    })
}

fn run() -> Result<(), String> {
    let options = options()?;
    let forms = forms::all();
    alarm::start()?;
    let mut guest = subject(&options.subject)?;
    let mut failures = 0;
    for world in World::ALL {
        if options.world.is_some_and(|wanted| wanted != world) {
            continue;
        }
        let oracle = options.oracle.as_deref().unwrap_or(if world.user() { "process" } else { "kvm" });
        let mut oracle = subject(oracle)?;
        let base = generate::base(&mut Random::new(&[options.seed]));
        oracle.set_base(&base);
        guest.set_base(&base);
        let (start, mut runs, mut times) = (Instant::now(), 0u64, (0.0, 0.0));
        let mut differences = [0u64; known::KNOWN.len()];
        let mut wrong: BTreeMap<String, u64> = BTreeMap::new();
        for (index, form) in forms.iter().enumerate() {
            let shape = &form.shape;
            let there = match world.code_size() {
                thimble_core::cpu::decode::CodeSize::Bits64 => shape.in_long,
                _ => shape.in_legacy,
            };
            if !there || options.form.as_ref().is_some_and(|text| !form.name.contains(text.as_str())) {
                continue;
            }
            if let Plan::Skip(_) = forms::plan(shape.operation, world, options.all) {
                continue;
            }
            let mut compared = 0;
            for number in 0..options.cases {
                if options.case.is_some_and(|wanted| wanted != number) {
                    continue;
                }
                let mut random = Random::new(&[options.seed, world as u64, index as u64, number]);
                let Some(made) = generate::case(form, world, &mut random) else {
                    continue;
                };
                if options.case.is_some() {
                    println!("{}: {:?}\n{}", form.name, made.instruction, made.case);
                }
                let t = Instant::now();
                let expected = oracle.run(&made.case);
                times.0 += t.elapsed().as_secs_f64();
                if options.case.is_some() {
                    println!("{}:\n{expected}", oracle.name());
                }
                if !compare::comparable(&expected) {
                    continue;
                }
                if let Some(place) = known::known(&made.instruction, &made.case, &expected) {
                    differences[place] += 1;
                    compared += 1;
                    continue;
                }
                let t = Instant::now();
                let got = guest.run(&made.case);
                times.1 += t.elapsed().as_secs_f64();
                if options.case.is_some() {
                    println!("{}:\n{got}", guest.name());
                }
                runs += 1;
                compared += 1;
                let mask = compare::undefined(&made.instruction, &made.case);
                if let Some(difference) = compare::difference(
                    &made.case,
                    mask,
                    (&expected, oracle.window()),
                    (&got, guest.window()),
                ) {
                    failures += 1;
                    *wrong.entry(form.name.clone()).or_default() += 1;
                    if failures <= options.show {
                        println!(
                            "{} {} case {number}: {difference}\n  {:02x?} {:?}\n{}  {}:\n{expected}  {}:\n{got}",
                            world.name(), form.name, made.case.code, made.instruction, made.case, oracle.name(), guest.name(),
                        );
                    }
                }
            }
            if compared < options.cases && options.case.is_none() {
                println!("{} {}: {compared} runs", world.name(), form.name);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        for (name, count) in &wrong {
            println!("  {count:5} {} {name}", world.name());
        }
        println!("{}: {runs} runs in {seconds:.1} s; {:.1} us {:.1} us", world.name(), times.0 / runs as f64 * 1e6, times.1 / runs as f64 * 1e6);
    }
    match failures {
        0 => Ok(()),
        _ => Err(format!("{failures} cases differ")),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}
