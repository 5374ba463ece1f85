//! Explores systems, modes and scenarios, and prints what was found.
//!
//! `kpkeys-protocol [DISTURBANCES] [PART]...`: at most that many disturbances (1), of what has all these parts in its name, or of everything but programs'
//! address spaces if the one part is `short`.

use std::process::ExitCode;

use kpkeys_pgtable::Mode;
use kpkeys_protocol::explore::{Exploration, Found, explore};
use kpkeys_protocol::machine::{PanAlias, Pks, Poe, System};
use kpkeys_protocol::scenario::Scenario;

const MODES: [Mode; 4] = [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];

/// What is to be explored.
struct Wanted {
    disturbances: u8,
    parts: Vec<String>,
}

impl Wanted {
    fn has(&self, name: &str) -> bool {
        match self.parts.as_slice() {
            [only] if only == "short" => !name.contains("Program"),
            parts => parts.iter().all(|part| name.contains(part)),
        }
    }
}

/// What was found, of everything.
#[derive(Default)]
struct Sum {
    explorations: usize,
    states: usize,
    executions: usize,
    broken: usize,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let disturbances = match words.next().map(|word| word.parse()) {
        None => 1,
        Some(Ok(disturbances)) => disturbances,
        Some(Err(error)) => {
            eprintln!("the first argument is how many disturbances there may be at most: {error}");
            return ExitCode::from(2);
        }
    };
    let (wanted, mut sum) = (Wanted { disturbances, parts: words.collect() }, Sum::default());
    run::<Pks>(&wanted, &mut sum);
    run::<Poe>(&wanted, &mut sum);
    run::<PanAlias>(&wanted, &mut sum);
    let Sum { explorations, states, executions, broken } = sum;
    println!(
        "{states} states, {executions} executions, at most {disturbances} disturbances each; \
         in {broken} of {explorations} explorations a rule is broken"
    );
    if broken == 0 && explorations > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run<S: System>(wanted: &Wanted, sum: &mut Sum) {
    let all = MODES.into_iter().flat_map(|mode| Scenario::ALL.map(|scenario| (mode, scenario)));
    for (mode, scenario) in all {
        let name = format!("{:<11} {:<11} {:<8}", S::NAME, mode.name(), format!("{scenario:?}"));
        if !wanted.has(&name) {
            continue;
        }
        let disturbances = wanted.disturbances;
        let found = explore::<S>(Exploration { scenario, mode, fault: None, disturbances });
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
