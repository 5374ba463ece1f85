//! Slurm, by its own commands: `sbatch`, `squeue`, `sinfo`, `scontrol`.
//!
//! Tasks go in as job arrays. The name of an array says which campaign it is of and which task its first index stands for, and the name of a
//! log has both: so the scheduler's own record says which task is where, and nothing about jobs is kept here that could be out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::folder::{Campaign, Folder};
use super::plan::Machine;
use crate::usage::UsageError;

/// What the scheduler does about a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It waits for a node.
    Waiting,
    /// It is on one.
    Running,
}

/// The tasks of a campaign that are in the queue.
///
/// # Errors
///
/// The scheduler is not there, or does not answer.
pub fn queued(folder: &Folder) -> Result<BTreeMap<u32, State>> {
    let lines = answer("squeue", &["--noheader", "--array", "--format=%j|%K|%T"])?;
    let prefix = prefix(folder);
    let task = |line: &str| {
        let mut fields = line.trim().split('|');
        let (name, index, state) = (fields.next()?, fields.next()?, fields.next()?);
        let state = if state == "PENDING" { State::Waiting } else { State::Running };
        Some((task_of(&prefix, name, index)?, state))
    };
    Ok(lines.lines().filter_map(task).collect())
}

/// Which task a log is of, by its name.
pub fn task_of_log(folder: &Folder, log: &str) -> Option<u32> {
    let mut parts = log.strip_suffix(".log")?.split('.');
    task_of(&prefix(folder), parts.next()?, parts.next()?)
}

fn prefix(folder: &Folder) -> String {
    format!("kpkeys-{}-", folder.digest())
}

fn task_of(prefix: &str, name: &str, index: &str) -> Option<u32> {
    let offset: u32 = name.strip_prefix(prefix)?.parse().ok()?;
    offset.checked_add(index.parse().ok()?)
}

/// Refuses machines that the scheduler does not have.
///
/// # Errors
///
/// [`UsageError`] with the partitions there are; the scheduler is not there.
pub fn check(machines: &[&Machine]) -> Result<()> {
    let there = answer("sinfo", &["--noheader", "--format=%R"])?;
    let there: BTreeSet<&str> = there.lines().map(str::trim).collect();
    let wanted = machines.iter().filter_map(|machine| machine.partition.as_deref());
    match wanted.into_iter().find(|partition| !there.contains(partition)) {
        Some(unknown) => Err(UsageError::unknown("partition", unknown, there).into()),
        None => Ok(()),
    }
}

/// Hands tasks to the scheduler. Returns how many arrays they went in as.
///
/// # Errors
///
/// The scheduler refuses. What it took before stays, and is not handed out again by the next call.
pub fn submit(
    folder: &Folder,
    campaign: &Campaign,
    machine: &Machine,
    tasks: &BTreeSet<u32>,
) -> Result<usize> {
    let size = array_size()?;
    let mut arrays: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for task in tasks {
        arrays.entry(task - task % size).or_default().push(task % size);
    }
    for (offset, indexes) in &arrays {
        submit_array(folder, campaign, machine, *offset, indexes)?;
    }
    Ok(arrays.len())
}

/// How many indexes an array may have.
fn array_size() -> Result<u32> {
    let config = answer("scontrol", &["show", "config"])?;
    let line = config.lines().find(|line| line.trim_start().starts_with("MaxArraySize"));
    let size = line.and_then(|line| line.split('=').nth(1)?.trim().parse().ok());
    match size {
        Some(size) if size > 0 => Ok(size),
        _ => bail!("Slurm does not say its MaxArraySize, or allows no arrays"),
    }
}

fn submit_array(
    folder: &Folder,
    campaign: &Campaign,
    machine: &Machine,
    offset: u32,
    indexes: &[u32],
) -> Result<()> {
    let limits = &campaign.limits;
    let log = folder.logs().join("%x.%a.%A.log");
    let mut command = Command::new("sbatch");
    command.arg("--parsable").arg(format!("--job-name={}{offset}", prefix(folder)));
    command.arg(format!("--array={}", ranges(indexes)));
    command.arg(format!("--output={}", log.display())).arg("--open-mode=append");
    command.arg(format!("--time={}", limits.minutes));
    command.arg(format!("--cpus-per-task={}", limits.cpus));
    command.args(machine.partition.iter().map(|name| format!("--partition={name}")));
    command.args(machine.constraint.iter().map(|wanted| format!("--constraint={wanted}")));
    let script = format!(
        "#!/bin/sh\nexec {} campaign task {} \"$(({offset} + SLURM_ARRAY_TASK_ID))\"\n",
        quoted(&folder.program().display().to_string()),
        quoted(&folder.path().display().to_string()),
    );
    given(&mut command, &script).with_context(|| {
        format!("tasks for `{}` were not all submitted; the same call goes on", machine.name)
    })?;
    Ok(())
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Sorted numbers as `sbatch` takes them: `0-3,7`.
fn ranges(sorted: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

fn answer(program: &str, arguments: &[&str]) -> Result<String> {
    given(Command::new(program).args(arguments), "")
}

/// Runs a command of the scheduler with this input.
fn given(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => anyhow::Error::new(UsageError(format!(
                "there is no `{name}`: Slurm is not installed here; `--local` runs the plan on this machine"
            ))),
            _ => anyhow::Error::new(error).context(format!("cannot start `{name}`")),
        })?;
    // If it does not want to read, it says why.
    let _ = child.stdin.as_ref().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("`{name}` was lost"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed: {}", said.trim().replace('\n', "; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_named_by_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges(&[5]), "5");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn a_job_says_which_task_it_is() {
        let prefix = "kpkeys-0a1b2c3d-";
        assert_eq!(task_of(prefix, "kpkeys-0a1b2c3d-1000", "17"), Some(1017));
        assert_eq!(task_of(prefix, "kpkeys-ffffffff-1000", "17"), None);
        assert_eq!(task_of(prefix, "kpkeys-0a1b2c3d-1000", "N/A"), None);
    }

    #[test]
    fn paths_are_words_of_a_shell() {
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
