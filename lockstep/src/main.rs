//! `cargo xtask lockstep`: runs the same instructions on the processor and on the software CPU, and compares the whole
//! state after each.
//!
//! A [`case`] is memory and registers before an instruction or a stream of them. Oracles are the processor in ring 3,
//! once in a KVM guest and once in this process, and for ring 0 and real mode whatever KVM does here, which is the
//! kernel's emulator where the processor can't. The subject is the software CPU. Differences that are the manual's,
//! not ours, are in [`known`].

mod alarm;
mod assemble;
mod case;
mod compare;
mod control;
mod forms;
mod generate;
mod known;
mod kvm;
mod lanes;
mod layout;
mod media;
mod process;
mod random;
mod run;
mod soft;
mod stream;
mod x87;

use std::process::ExitCode;

use case::{Subject, World};

const USAGE: &str = "\
usage: cargo xtask lockstep [OPTIONS]
  --seed N        where random numbers start (1)
  --cases N       cases of each form in each world (200)
  --streams N     streams in each world (ten times as many as cases)
  --minutes N     goes on with the next seeds for so long (0)
  --form TEXT     only forms whose name has this in it, or: streams
  --world NAME    only user64, user32, user16, kernel64, kernel32 or real16
  --oracle NAME   only process, kvm or emulator
  --subject NAME  soft, or translated: by blocks of host code; kvm or process, to compare oracles (soft)
  --case N        only the case of this number, with all that is known of it
  --show N        differences in full, at most (10)";

/// What the command line says.
struct Options {
    seed: u64,
    cases: u64,
    streams: Option<u64>,
    minutes: u64,
    form: Option<String>,
    world: Option<World>,
    oracle: Option<String>,
    subject: String,
    case: Option<u64>,
    show: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seed: 1,
        cases: 200,
        streams: None,
        minutes: 0,
        form: None,
        world: None,
        oracle: None,
        subject: "soft".to_string(),
        case: None,
        show: 10,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--help" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        let value = arguments.next().ok_or_else(|| USAGE.to_string())?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{name}: '{value}' is no number"))
        };
        match name.as_str() {
            "--seed" => options.seed = number()?,
            "--cases" => options.cases = number()?,
            "--streams" => options.streams = Some(number()?),
            "--minutes" => options.minutes = number()?,
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

/// Makes what runs cases ready.
fn open(name: &str) -> Result<Box<dyn Subject>, String> {
    Ok(match name {
        "soft" => Box::new(soft::Soft::new()),
        "translated" => Box::new(soft::Soft::translating()),
        "kvm" => Box::new(kvm::Guest::new()?),
        "process" => Box::new(process::Process::new()?),
        _ => return Err(format!("there is no subject '{name}'")),
    })
}

fn main() -> ExitCode {
    let outcome = options().and_then(|options| {
        alarm::start()?;
        run::run(&options)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}
