//! Explores systems, modes and scenarios, and prints what was found.
//!
//! `kpkeys-protocol [--fault FAULT] [DISTURBANCES] [PART]...`: at most that many disturbances (1), of what has all these parts in its name, where `short` stands for everything but
//! programs' address spaces and sweeps, and `1/4` for every fourth; with a fault planted in the kernel, if one is named.

use std::process::ExitCode;

use kpkeys_pgtable::Mode;
use kpkeys_protocol::explore::{Exploration, Found, explore};
use kpkeys_protocol::fault::Fault;
use kpkeys_protocol::machine::{PanAlias, Pks, Poe, System};
use kpkeys_protocol::scenario::Scenario;

const MODES: [Mode; 4] = [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];

/// What is to be explored.
struct Wanted {
    fault: Option<Fault>,
    disturbances: u8,
    parts: Vec<String>,
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
    let mut words = std::env::args().skip(1).peekable();
    let mut fault = None;
    if words.next_if(|word| word == "--fault").is_some() {
        let name = words.next().unwrap_or_default();
        fault = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
        if fault.is_none() {
            eprintln!("there is no fault `{name}`; there are {:?}", Fault::ALL);
            return ExitCode::from(2);
        }
    }
    let disturbances = match words.next().map(|word| word.parse()) {
        None => 1,
        Some(Ok(disturbances)) => disturbances,
        Some(Err(error)) => {
            eprintln!("the first argument is how many disturbances there may be at most: {error}");
            return ExitCode::from(2);
        }
    };
    let (wanted, mut sum) =
        (Wanted { fault, disturbances, parts: words.collect() }, Sum::default());
    run::<Pks>(&wanted, &mut sum);
    run::<Poe>(&wanted, &mut sum);
    run::<PanAlias>(&wanted, &mut sum);
    let Sum { explorations, states, executions, broken, .. } = sum;
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
        let Wanted { fault, disturbances, .. } = *wanted;
        let found = explore::<S>(Exploration { scenario, mode, fault, disturbances });
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
