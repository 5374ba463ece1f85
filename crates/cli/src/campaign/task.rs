//! One task: some calls of this command, carried out once.
//!
//! # Protocol
//!
//! A task has a number, under which everything of it is kept in the [folder](super::folder). Whoever carries it out holds its lock, works in
//! a folder of its own, and moves that to its place in one step when all calls are done: a result is there whole or not at all, and once. A
//! task that is done, or that somebody else holds, is left alone, so that it may be handed out any number of times. What a killed one left
//! is cleared away by the next.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::usage::UsageError;

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its number.
    pub id: u32,
    /// The machine it is for, by its name in the plan.
    pub machine: String,
    /// What its results are part of.
    pub job: String,
    /// Arguments of this command, call by call.
    pub calls: Vec<Vec<String>>,
}

/// That a task was done: the last file in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Done {
    /// The task.
    pub task: Task,
    /// The host that did it.
    pub host: String,
    /// The exit code of each call. 1 is a finding, not a failure: a gate did not hold.
    pub codes: Vec<i32>,
}

/// What came of carrying out a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done now.
    Done,
    /// It was done before.
    DoneBefore,
    /// Another process is at it.
    Busy,
}

impl Task {
    /// Whether it is a block of an evaluation, whose samples are put together with others.
    pub fn is_block(&self) -> bool {
        self.calls.iter().any(|call| call.first().is_some_and(|name| name == "bench"))
    }
}

/// Refuses a call that this command would refuse.
///
/// # Errors
///
/// [`UsageError`], as it would say.
pub fn check(call: &[String]) -> Result<(), UsageError> {
    let words = ["kpkeys"].into_iter().chain(call.iter().map(String::as_str));
    // Whatever the task adds is no part of the plan.
    let words = words.chain(["--out=results"].into_iter().filter(|_| call[0] == "bench"));
    match crate::Arguments::try_parse_from(words) {
        Ok(arguments) => arguments.check(),
        Err(error) => Err(UsageError(error.to_string().lines().next().unwrap_or("").to_owned())),
    }
}

/// Carries out a task of a campaign.
///
/// # Errors
///
/// A call that failed, or could not be started; the file system. Nothing is kept of the task then.
pub fn carry_out(folder: &Folder, task: &Task) -> Result<Outcome> {
    if folder.is_done(task.id) {
        return Ok(Outcome::DoneBefore);
    }
    let Some(_lock) = folder.lock_task(task.id)? else { return Ok(Outcome::Busy) };
    if folder.is_done(task.id) {
        return Ok(Outcome::DoneBefore);
    }
    let work = folder.work(task.id);
    remove(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let result = calls(folder, task, &work).and_then(|codes| finish(folder, task, &work, codes));
    if result.is_err() {
        // Room for others, if the disk is full. The log has what happened.
        let _ = remove(&work);
    }
    result.map(|()| Outcome::Done)
}

fn remove(work: &Path) -> Result<()> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear {} away", work.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the calls. Returns their exit codes, none of which is a failure.
fn calls(folder: &Folder, task: &Task, work: &Path) -> Result<Vec<i32>> {
    let mut codes = Vec::new();
    for (number, call) in task.calls.iter().enumerate() {
        let printed = work.join(format!("{number}.out"));
        let mut command = Command::new(folder.program());
        command.args(call);
        if task.is_block() {
            command.arg("--out").arg(work.join("results"));
        }
        let status = run(&mut command, &printed)?;
        codes.push(code(status, call, &printed)?);
    }
    Ok(codes)
}

/// Runs a command and writes what it prints. Not by the command itself: one whose output found no room ends as one does whose gate did not
/// hold.
fn run(command: &mut Command, printed: &Path) -> Result<ExitStatus> {
    let cannot_write = || format!("cannot write {}", printed.display());
    let mut file = File::create(printed).with_context(cannot_write)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start this program once more")?;
    let copied = child.stdout.take().map_or(Ok(0), |mut output| io::copy(&mut output, &mut file));
    if copied.is_err() {
        // Whatever else it would do is of no use.
        let _ = child.kill();
    }
    let status = child.wait().context("a process was lost")?;
    copied.with_context(cannot_write)?;
    Ok(status)
}

/// The exit code of a call that did what it was for. A gate that did not hold is such a result; what printed nothing did not get there,
/// and a block has no gate of its own.
fn code(status: ExitStatus, call: &[String], printed: &Path) -> Result<i32> {
    let said_something = || fs::metadata(printed).is_ok_and(|file| file.len() > 0);
    match status.code() {
        Some(0) => Ok(0),
        Some(1) if call[0] != "bench" && said_something() => Ok(1),
        _ => bail!("`kpkeys {}` failed: {status}", call.join(" ")),
    }
}

/// Says that everything is there, and puts it into its place.
fn finish(folder: &Folder, task: &Task, work: &Path, codes: Vec<i32>) -> Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let done = serde_json::to_vec(&Done { task: task.clone(), host, codes })?;
    let path = work.join(super::folder::DONE_FILE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&done)?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))?;
    let place = folder.result(task.id);
    fs::rename(work, &place)
        .with_context(|| format!("cannot move the result to {}", place.display()))
}
