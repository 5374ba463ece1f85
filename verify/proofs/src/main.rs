//! Proves every property, or those whose names contain the argument, and prints what it took.

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    use kpkeys_proofs::properties::ALL;
    use kpkeys_proofs::prove::{Verdict, prove};
    use std::time::Instant;

    let wanted = std::env::args().nth(1).unwrap_or_default();
    let properties: Vec<_> = ALL.iter().filter(|one| one.name.contains(&wanted)).collect();
    let mut failed = 0;
    for property in &properties {
        let begun = Instant::now();
        let verdict = prove(property);
        let took = begun.elapsed().as_secs_f64();
        match &verdict {
            Verdict::Proved { paths, instructions, questions } => println!(
                "{:<30} proved  {paths:>5} paths {instructions:>6} instructions {questions:>6} questions {took:>6.1} s",
                property.name,
            ),
            Verdict::Refuted(values) => {
                println!("{:<30} REFUTED by {values:#x?}: {}", property.name, property.says)
            }
            Verdict::Unknown(why) => println!("{:<30} UNKNOWN: {why}", property.name),
        }
        failed += usize::from(!matches!(verdict, Verdict::Proved { .. }));
    }
    println!(
        "{} of {} properties proved for all values",
        properties.len() - failed,
        properties.len()
    );
    if failed == 0 && !properties.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    eprintln!("the proofs read the instructions of an x86-64 host");
    ExitCode::FAILURE
}
