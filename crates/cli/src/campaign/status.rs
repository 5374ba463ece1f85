//! Where a campaign stands: what is done, by its folder; what is waiting or running, by the scheduler's own record and by locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::folder::{Campaign, Folder};
use super::{local, slurm};
use crate::usage::told_once;

/// The tasks of a campaign, each in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The campaign's name.
    pub name: String,
    /// How many tasks are planned.
    pub planned: usize,
    /// Results are there.
    pub done: BTreeSet<u32>,
    /// On a node, or here.
    pub running: BTreeSet<u32>,
    /// In the queue.
    pub waiting: BTreeSet<u32>,
    /// Begun and not done, and nobody is at it.
    pub failed: Vec<Failed>,
    /// Never begun, and not in any queue.
    pub missing: BTreeSet<u32>,
    /// Why the scheduler could not be asked, if so: what waits or runs there is among `failed` and `missing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_scheduler: Option<String>,
}

/// A task that was begun and did not get to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The task.
    pub task: u32,
    /// The job it is of.
    pub job: String,
    /// The machine it is for.
    pub machine: String,
    /// What it printed.
    pub log: PathBuf,
    /// The last line of that.
    pub said: String,
}

impl Status {
    /// Looks.
    ///
    /// # Errors
    ///
    /// The folder cannot be read. That the scheduler cannot be asked is none: what is known is told.
    pub fn of(folder: &Folder, campaign: &Campaign) -> Result<Status> {
        let by_scheduler = campaign.machines.iter().any(|machine| machine.partition.is_some());
        let (queued, no_scheduler) = match by_scheduler.then(|| slurm::queued(folder)).transpose() {
            Ok(queued) => (queued.unwrap_or_default(), None),
            Err(error) => (BTreeMap::new(), Some(told_once(&error))),
        };
        // After the queue: what left it meanwhile is done by now, or failed.
        let held = folder.held()?;
        let done = folder.done()?;
        let logs = folder.logs_by_task(|log| {
            local::task_of_log(log).or_else(|| slurm::task_of_log(folder, log))
        })?;
        let mut status = Status {
            name: campaign.name.clone(),
            planned: campaign.tasks.len(),
            done: BTreeSet::new(),
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            failed: Vec::new(),
            missing: BTreeSet::new(),
            no_scheduler,
        };
        for task in &campaign.tasks {
            let state = queued.get(&task.id);
            if done.contains(&task.id) {
                status.done.insert(task.id);
            } else if state == Some(&slurm::State::Running) || held.contains(&task.id) {
                status.running.insert(task.id);
            } else if state.is_some() {
                status.waiting.insert(task.id);
            } else if let Some(log) = logs.get(&task.id).and_then(|logs| logs.last()) {
                let (job, machine) = (task.job.clone(), task.machine.clone());
                let (log, said) = (log.clone(), last_line(log));
                status.failed.push(Failed { task: task.id, job, machine, log, said });
            } else {
                status.missing.insert(task.id);
            }
        }
        Ok(status)
    }

    /// The tasks that nobody is at and nobody will be.
    pub fn left(&self) -> BTreeSet<u32> {
        self.failed.iter().map(|failed| failed.task).chain(self.missing.iter().copied()).collect()
    }

    /// Whether nothing is left to wait for or to do.
    pub fn is_complete(&self) -> bool {
        self.done.len() == self.planned
    }

    /// Prints it for people.
    ///
    /// # Errors
    ///
    /// What `out` fails with.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Status { name, planned, done, running, waiting, failed, missing, .. } = self;
        writeln!(
            out,
            "{name}: {} of {planned} tasks done, {} running, {} waiting, {} failed, {} not begun",
            done.len(),
            running.len(),
            waiting.len(),
            failed.len(),
            missing.len()
        )?;
        for failed in failed {
            writeln!(
                out,
                "  task {} ({} on {}): {}",
                failed.task, failed.job, failed.machine, failed.said
            )?;
            writeln!(out, "    {}", failed.log.display())?;
        }
        if let Some(why) = &self.no_scheduler {
            writeln!(
                out,
                "the scheduler could not be asked, what waits or runs there counts as not begun or failed: {why}"
            )?;
        } else if !self.left().is_empty() {
            writeln!(out, "`kpkeys campaign submit` hands out again what failed or was not begun")?;
        }
        Ok(())
    }
}

/// The last line with something in it, if the log can be read.
fn last_line(log: &Path) -> String {
    const ENOUGH: u64 = 4096;
    let tail = File::open(log).and_then(|mut file| {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(ENOUGH)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    });
    let tail = tail.unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(
        || "said nothing: it was stopped from outside, or had no room for its log".to_owned(),
        |line| line.trim().to_owned(),
    )
}
