//! Explores every system, mode and scenario, and prints what was found. With an argument, that many disturbances instead of one.

use std::process::ExitCode;

use kpkeys_pgtable::Mode;
use kpkeys_protocol::explore::{Exploration, Found, explore};
use kpkeys_protocol::machine::{PanAlias, Pks, Poe, System};
use kpkeys_protocol::scenario::Scenario;

const MODES: [Mode; 4] = [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];

fn main() -> ExitCode {
    let disturbances = match std::env::args().nth(1).map(|word| word.parse()) {
        None => 1,
        Some(Ok(disturbances)) => disturbances,
        Some(Err(error)) => {
            eprintln!("the argument is how many disturbances there may be at most: {error}");
            return ExitCode::from(2);
        }
    };
    let found = [run::<Pks>(disturbances), run::<Poe>(disturbances), run::<PanAlias>(disturbances)];
    let (states, executions, broken) =
        found.iter().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    println!(
        "{states} states, {executions} executions, at most {disturbances} disturbances each, {broken} rules broken"
    );
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run<S: System>(disturbances: u8) -> (usize, usize, usize) {
    let mut sum = (0, 0, 0);
    for mode in MODES {
        for scenario in Scenario::ALL {
            let found = explore::<S>(Exploration { scenario, mode, fault: None, disturbances });
            let Found { states, executions, steps, took, .. } = found;
            println!(
                "{:<11} {:<11} {:<8} {states:>8} states {executions:>8} executions {steps:>4} steps {:>6.1} s",
                S::NAME,
                mode.name(),
                format!("{scenario:?}"),
                took.as_secs_f64(),
            );
            if let Some((violation, path)) = &found.violation {
                println!("  BROKEN: {:?}: {}\n  by {path:?}", violation.rule, violation.what);
            }
            sum = (
                sum.0 + states,
                sum.1 + executions,
                sum.2 + usize::from(found.violation.is_some()),
            );
        }
    }
    sum
}
