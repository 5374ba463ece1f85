//! Explores systems, modes and scenarios, and prints what was found.

use std::process::ExitCode;

use clap::Parser;
use kpkeys_pgtable::Mode;
use kpkeys_protocol::explore::{Exploration, Found, explore};
use kpkeys_protocol::fault::Fault;
use kpkeys_protocol::machine::{PanAlias, Pks, Poe, RootAlias, System};
use kpkeys_protocol::scenario::Scenario;
use kpkeys_protocol::world::THREADS;

const MODES: [Mode; 4] = [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];
/// Explores what threads may do with page tables, on a model of a machine
#[derive(Parser)]
struct Wanted {
    /// Plant this fault in the model's kernel
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    fault: Option<Fault>,
    /// How many CPUs there are; each thread begins on one, and the others are idle
    #[arg(long, value_name = "N", default_value_t = THREADS as u8, value_parser = clap::value_parser!(u8).range(THREADS as i64..=8))]
    cpus: u8,
    /// How many disturbances there may be at most
    #[arg(default_value_t = 1)]
    disturbances: u8,
    /// Only what has all these in its name; `short` stands for everything but programs' address spaces and sweeps, `1/4` for every fourth
    parts: Vec<String>,
}

fn fault(name: &str) -> Result<Fault, String> {
    let found = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
    found.ok_or_else(|| format!("there are {:?}", Fault::ALL))
}

impl Wanted {
    fn has(&self, name: &str) -> bool {
        self.parts.iter().all(|part| match part.as_str() {
            "short" => !name.contains("Program") && !name.contains("Sweep"),
            part => share(part).is_some() || name.contains(part),
        })
    }

    /// Whether the exploration with this number is in the share that is wanted.
    fn shares(&self, number: usize) -> bool {
        let mut shares = self.parts.iter().filter_map(|part| share(part));
        shares.all(|(of, all)| number.checked_rem(all) == Some(of))
    }
}

/// `1/4`: of every four one.
fn share(part: &str) -> Option<(usize, usize)> {
    let (of, all) = part.split_once('/')?;
    Some((of.parse().ok()?, all.parse().ok()?))
}

/// What was found, of everything.
#[derive(Default)]
struct Sum {
    seen: usize,
    explorations: usize,
    states: usize,
    executions: usize,
    broken: usize,
}

fn main() -> ExitCode {
    let (wanted, mut sum) = (Wanted::parse(), Sum::default());
    run::<Pks>(&wanted, &mut sum);
    run::<Poe>(&wanted, &mut sum);
    run::<PanAlias>(&wanted, &mut sum);
    run::<RootAlias>(&wanted, &mut sum);
    let (Sum { explorations, states, executions, broken, .. }, disturbances) =
        (sum, wanted.disturbances);
    println!(
        "{states} states, {executions} executions, at most {disturbances} disturbances each; \
         in {broken} of {explorations} explorations a rule is broken"
    );
    if broken == 0 && explorations > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run<S: System>(wanted: &Wanted, sum: &mut Sum) {
    let all = MODES.into_iter().flat_map(|mode| Scenario::ALL.map(|scenario| (mode, scenario)));
    for (mode, scenario) in all.filter(|(mode, scenario)| scenario.is_for(*mode)) {
        let name = format!("{:<11} {:<11} {:<8}", S::NAME, mode.name(), format!("{scenario:?}"));
        if !wanted.has(&name) {
            continue;
        }
        sum.seen += 1;
        if !wanted.shares(sum.seen) {
            continue;
        }
        let Wanted { fault, cpus, disturbances, .. } = *wanted;
        let cpus = cpus.into();
        let found = explore::<S>(Exploration { scenario, mode, fault, cpus, disturbances });
        let Found { states, executions, steps, took, .. } = found;
        let took = took.as_secs_f64();
        println!(
            "{name} {states:>8} states {executions:>8} executions {steps:>4} steps {took:>6.1} s"
        );
        if let Some((violation, path)) = &found.violation {
            println!("  BROKEN: {:?}: {}\n  by {path:?}", violation.rule, violation.what);
            sum.broken += 1;
        }
        sum.explorations += 1;
        sum.states += states;
        sum.executions += executions;
    }
}
