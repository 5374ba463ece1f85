//! The one-write search: in a running kernel one word of ordinary memory is changed; does that break protection?
//!
//! Each trial puts an emulated machine back to a moment, changes a word in which the kernel keeps state, runs on, and looks from outside whether
//! a rule is broken. A trial is a number under a seed: the same kernel, plan and number are the same trial, so that a bypass is a number to run
//! again, a search goes on where it ended, and many machines share one.
//!
//! | file | concept |
//! |---|---|
//! | `stub`, `emulator`, `memory` | the machine from outside |
//! | `image` | symbols |
//! | `format`, `judge` | what tables mean, and which rule they break |
//! | `lab` | moments, and a trial from one |
//! | `choose`, `random` | what is changed to what |
//! | `record` | a line a trial |

mod choose;
mod emulator;
mod format;
mod image;
mod judge;
mod lab;
mod memory;
mod random;
mod record;
mod stub;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kpkeys_emulator::{Kernel, Target};

use lab::{Lab, Outcome, Plan};
use random::Random;
use record::{Book, Header, Trial};

/// Changes one word of a running kernel's memory, many times, and says what came of it
#[derive(Parser)]
struct Arguments {
    /// The machine: qemu-x86_64 or qemu-aarch64
    #[arg(long, default_value = "qemu-x86_64")]
    machine: Target,
    /// The kernel's protection mode
    #[arg(long, default_value = "fused")]
    mode: String,
    /// Which moments and changes are tried
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after so many minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// End after so many trials
    #[arg(long)]
    trials: Option<u64>,
    /// Machines side by side
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Moments of the kernel's work that trials begin at
    #[arg(long, default_value_t = 6)]
    moments: usize,
    /// Accesses to programs' memory that the kernel's work goes on for
    #[arg(long, default_value_t = 20)]
    accesses: usize,
    /// Write a line of JSON a trial, and go on with a file of the same search
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run this one trial again, and say what comes of it
    #[arg(long, value_name = "TRIAL")]
    replay: Option<u64>,
    /// End at the first bypass, and fail if there is none
    #[arg(long)]
    until_bypass: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("search: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether what was looked for is so: no bypass, or one where there must be one.
fn run(arguments: &Arguments) -> Result<bool> {
    let kernel = Kernel::build(arguments.machine)?;
    let plan = Plan {
        target: arguments.machine,
        mode: arguments.mode.clone(),
        seed: arguments.seed,
        moments: arguments.moments.max(1),
        accesses: arguments.accesses.max(1),
    };
    if let Some(number) = arguments.replay {
        let trial = attempt(&mut Lab::open(&plan, &kernel)?, &plan, number)?;
        println!("{trial}");
        return Ok(trial.outcome != "bypass");
    }
    let header = Header::of(&plan, &image::Image::read(kernel.elf())?.fingerprint);
    let book = Mutex::new(Book::open(header, arguments.out.as_deref())?);
    search(arguments, &plan, &kernel, &book)?;
    let book = book.into_inner().ok().context("a worker panicked")?;
    print!("{}", book.summary());
    ensure!(book.tried() > 0, "nothing was tried");
    Ok((book.bypasses() > 0) == arguments.until_bypass)
}

fn search(arguments: &Arguments, plan: &Plan, kernel: &Kernel, book: &Mutex<Book>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let next = AtomicU64::new(0);
    let most = arguments.trials.unwrap_or(u64::MAX);
    let work = || -> Result<()> {
        let mut lab = Lab::open(plan, kernel)?;
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let locked = || book.lock().map_err(|_| anyhow::anyhow!("a worker panicked"));
            if number >= most || arguments.until_bypass && locked()?.bypasses() > 0 {
                break;
            }
            if locked()?.has(number) {
                continue;
            }
            let trial = attempt(&mut lab, plan, number)?;
            if trial.outcome == "bypass" {
                println!("{trial}\n  again: {}", again(plan, number));
            }
            locked()?.add(trial)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?
        })
    })
}

/// The command that runs a trial again.
fn again(plan: &Plan, number: u64) -> String {
    format!(
        "cargo run --manifest-path verify/Cargo.toml -p kpkeys-search -- --machine {} --mode {} --seed {} --moments {} --accesses {} --replay {number}",
        plan.target.name(),
        plan.mode,
        plan.seed,
        plan.moments,
        plan.accesses
    )
}

fn attempt(lab: &mut Lab, plan: &Plan, number: u64) -> Result<Trial> {
    let mut random = Random::new(plan.seed, number);
    let moment = random.below(lab.moments.len());
    let from = &lab.moments[moment];
    let change = choose::choose(
        &mut random,
        &lab.regions,
        &from.words,
        &from.before,
        &from.frames,
        &lab.image,
    );
    let bytes = change.new.to_le_bytes();
    let begun = Instant::now();
    let outcome = lab.attempt(moment, change.at, &bytes[..change.width.into()])?;
    let (outcome, why) = match outcome {
        Outcome::Nothing => ("nothing", String::new()),
        Outcome::Stopped(why) => ("stopped", why),
        Outcome::Crashed(why) => ("crashed", why),
        Outcome::Bypass(why) => ("bypass", why),
    };
    let took_ms = begun.elapsed().as_millis() as u64;
    Ok(Trial { trial: number, moment, change, outcome: outcome.to_owned(), why, took_ms })
}
