//! The runner: named steps, one after the other, each timed, with a summary at the end.
//!
//! A step that fails says how to run only that step again. On a contributor's machine the run ends
//! there, since what follows usually fails for the same reason; in CI the other steps still run, so
//! that one job shows everything that is wrong.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One thing to do, under a name that `--only` takes.
pub struct Step {
    /// What the user calls it.
    pub name: &'static str,
    /// What it proves or does, in a few words.
    pub about: &'static str,
    /// Does it.
    pub run: fn() -> Result<Outcome>,
}

/// How a step that did not fail ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// It went through, but something is left for the user to do, which the summary repeats.
    Incomplete(String),
    /// It went through, but left these things unchecked, which the summary counts and names.
    Skipped(Vec<String>),
}

/// What to do after a step that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Leave the remaining steps out.
    Stop,
    /// Run them all.
    GoOn,
}

/// Those of `steps` that are named in `only`, in their own order; all if `only` is empty.
pub fn select(steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>> {
    if let Some(unknown) = only.iter().find(|name| !steps.iter().any(|step| step.name == **name)) {
        let names: Vec<_> = steps.iter().map(|step| step.name).collect();
        bail!("there is no step `{unknown}`; the steps are {}", names.join(", "));
    }
    let wanted = |step: &Step| only.is_empty() || only.iter().any(|name| name == step.name);
    Ok(steps.into_iter().filter(wanted).collect())
}

/// One line a step: its name and what it does.
pub fn list(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let _ = writeln!(text, "{:<12} {}", step.name, step.about);
    }
    text
}

/// Runs the steps and prints the summary; an error if one of them failed.
pub fn run_all(steps: &[Step], after_failure: AfterFailure) -> Result<()> {
    let begun = Instant::now();
    let mut results: Vec<(&Step, Duration, Result<Outcome>)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        println!("\n== {}/{} {}: {}", index + 1, steps.len(), step.name, step.about);
        let step_begun = Instant::now();
        let result = (step.run)();
        let took = step_begun.elapsed();
        report(step, took, &result);
        let failed = result.is_err();
        results.push((step, took, result));
        if failed && after_failure == AfterFailure::Stop {
            break;
        }
    }
    println!("\n{}", summary(&results, steps, begun.elapsed()));
    match results.iter().filter(|(_, _, result)| result.is_err()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} steps failed", steps.len()),
    }
}

fn report(step: &Step, took: Duration, result: &Result<Outcome>) {
    match result {
        Ok(_) => println!("== {}: ok, {}", step.name, seconds(took)),
        Err(error) => {
            println!("== {}: FAILED, {}", step.name, seconds(took));
            println!("{error:#}");
            println!("run only this step again: cargo xtask test --only {}", step.name);
        }
    }
}

fn summary(
    results: &[(&Step, Duration, Result<Outcome>)],
    steps: &[Step],
    took: Duration,
) -> String {
    let mut text = String::from("summary\n");
    for (step, took, result) in results {
        let (word, note) = match result {
            Ok(Outcome::Done) => ("ok", String::new()),
            Ok(Outcome::Incomplete(note)) => ("ok", format!("  {note}")),
            Ok(Outcome::Skipped(skips)) => ("ok", format!("  {} checks skipped", skips.len())),
            Err(_) => ("FAILED", format!("  cargo xtask test --only {}", step.name)),
        };
        let _ = writeln!(text, "  {:<12} {word:<7} {:>8}{note}", step.name, seconds(*took));
        if let Ok(Outcome::Skipped(skips)) = result {
            skips.iter().for_each(|skip| text.push_str(&format!("    {skip}\n")));
        }
    }
    for step in &steps[results.len()..] {
        let _ = writeln!(text, "  {:<12} not run", step.name);
    }
    let _ = write!(text, "  {:<12} {:<7} {:>8}", "total", "", seconds(took));
    text
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &'static str, run: fn() -> Result<Outcome>) -> Step {
        Step { name, about: "does something", run }
    }

    fn three_steps() -> Vec<Step> {
        vec![
            step("first", || Ok(Outcome::Done)),
            step("second", || bail!("broken")),
            step("third", || Ok(Outcome::Incomplete("install qemu".into()))),
        ]
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.name).collect()
    }

    #[test]
    fn only_selects_in_the_order_of_the_list() {
        assert_eq!(names(&select(three_steps(), &[]).unwrap()), ["first", "second", "third"]);
        let only = ["third".to_owned(), "first".to_owned()];
        assert_eq!(names(&select(three_steps(), &only).unwrap()), ["first", "third"]);
    }

    #[test]
    fn an_unknown_step_is_refused_with_the_valid_names() {
        let error = select(three_steps(), &["frist".to_owned()]).err().unwrap().to_string();
        assert_eq!(error, "there is no step `frist`; the steps are first, second, third");
    }

    #[test]
    fn one_failed_step_fails_the_run() {
        let steps = three_steps();
        let error = run_all(&steps, AfterFailure::GoOn).unwrap_err().to_string();
        assert_eq!(error, "1 of 3 steps failed");
        run_all(&steps[2..], AfterFailure::Stop).unwrap();
    }

    #[test]
    fn the_summary_tells_failed_not_run_and_what_is_left_to_do() {
        let steps = three_steps();
        let results: Vec<_> = steps[..2]
            .iter()
            .map(|step| (step, Duration::from_millis(1500), (step.run)()))
            .collect();
        let text = summary(&results, &steps, Duration::from_secs(3));
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "first        ok         1.5 s");
        assert_eq!(lines[2], "second       FAILED     1.5 s  cargo xtask test --only second");
        assert_eq!(lines[3], "third        not run");

        let results = [(&steps[2], Duration::from_secs(1), (steps[2].run)())];
        assert!(summary(&results, &steps[2..], Duration::from_secs(1)).contains("install qemu"));
    }

    #[test]
    fn the_summary_counts_and_names_what_was_skipped() {
        let skips = || {
            let skips = ["a::b: no perf", "c::d: no strace"];
            Ok(Outcome::Skipped(skips.map(str::to_owned).to_vec()))
        };
        let step = step("test", skips);
        let results = [(&step, Duration::from_secs(1), (step.run)())];
        let text = summary(&results, std::slice::from_ref(&step), Duration::from_secs(1));
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines[1], "test         ok         1.0 s  2 checks skipped");
        assert_eq!(lines[2..4], ["a::b: no perf", "c::d: no strace"]);
    }
}
