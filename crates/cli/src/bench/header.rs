//! The header of a recording: what is run, on what, by which program.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::{Timestamp, Unit};
use kpkeys_pgtable::Keys;
use kpkeys_stats::record::{FORMAT, Origin, Run};
use sha2::{Digest, Sha256};

use super::machine::machine;
use super::plan::{Effort, Plan, PlannedRow};
use super::program::Program;
use super::run::Machine;

/// The header of a run of this plan on this machine, here and now. Measures what a switch costs.
///
/// # Errors
///
/// A file that decides what runs cannot be read, or the emulated machine does not say what protects it.
pub fn run_header(plan: &Plan, runner: &Machine, program: &Program) -> Result<Run> {
    Ok(Run {
        format: FORMAT,
        machine: machine(plan.cpu, plan.place.host()),
        on: plan.place.name().into(),
        backend: runner.backend(plan)?,
        keys: (plan.keys != Keys::default()).then(|| plan.keys.name().to_owned()),
        paging: plan.paging.name().into(),
        // In an emulator a switch's cost is the emulator's.
        switch_ns: plan.place.host().map(|backend| backend.switch_ns(plan.paging)).transpose()?,
        seed: plan.seed,
        blocks: plan.blocks,
        quick: plan.effort == Effort::Quick,
        build: format!(
            "{} {}, {} effort{}",
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "debug" } else { "release" },
            plan.effort.name(),
            plan.trace
                .as_ref()
                .map_or(String::new(), |trace| format!(", trace {}", trace.display()))
        ),
        origin: Some(origin(plan, runner, program)?),
    })
}

/// The commit this program was built from, where that is known.
pub const COMMIT: Option<&str> = option_env!("KPKEYS_COMMIT");

fn origin(plan: &Plan, runner: &Machine, program: &Program) -> Result<Origin> {
    let mut inputs = BTreeMap::new();
    if let Some(kernel) = runner.kernel() {
        inputs.insert("kernel".to_owned(), hash_of(kernel)?);
    }
    if let Some(trace) = &plan.trace {
        inputs.insert("trace".to_owned(), hash_of(trace)?);
    }
    Ok(Origin {
        commit: program.commit.clone(),
        build_hash: hash_of(&program.path)?,
        inputs,
        started: now(),
        rows: plan.rows.iter().map(PlannedRow::result_class).map(str::to_owned).collect(),
        modes: plan.modes.clone(),
        session: None,
    })
}

/// The time in UTC, to the second, as RFC 3339 has it.
fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

fn hash_of(path: &Path) -> Result<String> {
    let file = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hash = hash_of(file.path()).unwrap();
        assert_eq!(hash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn the_time_is_in_utc_to_the_second() {
        let now = now();
        assert!(now.len() == 20 && now.ends_with('Z'), "{now}");
    }
}
