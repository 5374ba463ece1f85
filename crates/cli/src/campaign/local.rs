//! A campaign without a scheduler: the same tasks, so many at a time, here.
//!
//! Each process has a CPU of its own as long as there are as many: what measures keeps to the last CPU it may use, and all would be on one.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::folder::Folder;
use crate::affinity;

/// Which task a log is of, by its name.
pub fn task_of_log(log: &str) -> Option<u32> {
    log.strip_suffix(".log")?.strip_prefix("local.")?.split('.').next()?.parse().ok()
}

/// Carries out tasks, in their order, `processes` at a time. One that fails leaves its log, and the others go on.
///
/// # Errors
///
/// Somebody else is at it; a process cannot be started.
pub fn run(folder: &Folder, tasks: &BTreeSet<u32>, processes: usize) -> Result<()> {
    let Some(_lock) = folder.lock_local()? else {
        bail!("another process carries out this campaign here; let it end");
    };
    let progress = progress_bar(tasks.len());
    let left = Mutex::new(tasks.iter().copied());
    let next = || left.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    // The last one first: it is the one least busy with interrupts as a rule. From before processes look how many they have, which is part of what they record.
    let cpus: Vec<usize> = affinity::allowed().into_iter().rev().collect();
    thread::scope(|scope| {
        let progress = &progress;
        let next = &next;
        let slots = (0..processes.min(tasks.len())).map(|slot| {
            let cpu = cpus.get(slot % cpus.len().max(1)).copied();
            scope.spawn(move || -> Result<()> {
                cpu.into_iter().for_each(affinity::keep_to);
                while let Some(task) = next() {
                    progress.set_message(format!("task {task}"));
                    carry_out(folder, task)?;
                    progress.inc(1);
                }
                Ok(())
            })
        });
        let slots: Vec<_> = slots.collect();
        slots.into_iter().try_for_each(|slot| match slot.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread was lost"),
        })
    })?;
    progress.finish_and_clear();
    Ok(())
}

fn carry_out(folder: &Folder, task: u32) -> Result<()> {
    let log = folder.logs().join(format!("local.{task}.log"));
    let open = OpenOptions::new().create(true).append(true).open(&log);
    let log_file = open.with_context(|| format!("cannot write {}", log.display()))?;
    let errors = log_file.try_clone().context("cannot open a log twice")?;
    let status = Command::new(folder.program())
        .args(["campaign", "task"])
        .arg(folder.path())
        .arg(task.to_string())
        .stdin(Stdio::null())
        .stdout(log_file)
        .stderr(errors)
        .status();
    // What came of it is in the folder, or in the log.
    status.context("cannot start this program once more").map(drop)
}

fn progress_bar(tasks: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(tasks as u64), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:20} {pos}/{len}  {elapsed} of {duration}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
