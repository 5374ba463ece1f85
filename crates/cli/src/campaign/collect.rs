//! Results of a campaign, put together.
//!
//! Blocks of one evaluation are one run if everything that ties a run to what made it is the same, the machine to its microcode included, and
//! if the plan says the machine is one kind. Otherwise they are several runs, which stand side by side and are never pooled. A block enters
//! once: it is the result of one task, and a task has one result.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kpkeys_stats::record::{Record, Recording, Run, Writer};
use kpkeys_stats::table::Table;
use serde::Serialize;

use super::folder::{Campaign, DONE_FILE, Folder};
use super::status::Status;
use super::task::{Done, Task};
use crate::bench::{self, SAMPLES_FILE};
use crate::reference;
use crate::render::{self, Format, Screen};

const COLLECTED: &str = "collected";

/// Puts together what is done, and says what is missing. Returns whether every gate and check held. What was collected before is replaced
/// when everything is there.
///
/// # Errors
///
/// A result that cannot be read, or room for what is made of them; what was collected before stays as it is then.
pub fn run(folder: &Folder, campaign: &Campaign, status: &Status) -> Result<bool> {
    let done: Vec<&Task> =
        campaign.tasks.iter().filter(|task| status.done.contains(&task.id)).collect();
    let new = folder.path().join("collected.new");
    let made = clear(&new).and_then(|()| make(folder, &done, &new));
    if made.is_err() {
        let _ = clear(&new);
    }
    let report = made?;
    let (place, old) = (folder.path().join(COLLECTED), folder.path().join("collected.old"));
    clear(&old)?;
    if place.exists() {
        fs::rename(&place, &old).with_context(|| format!("cannot move {}", place.display()))?;
    }
    fs::rename(&new, &place).with_context(|| format!("cannot move to {}", place.display()))?;
    clear(&old)?;
    report.write(&place)?;
    status.write(&mut io::stderr().lock())?;
    Ok(report.held())
}

fn clear(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot clear {} away", path.display()))
        }
        _ => Ok(()),
    }
}

fn make(folder: &Folder, done: &[&Task], into: &Path) -> Result<Report> {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut calls: BTreeMap<(String, String), Calls> = BTreeMap::new();
    for task in done {
        let result = read_done(folder, task)?;
        if task.is_block() {
            let samples = folder.result(task.id).join("results").join(SAMPLES_FILE);
            let recording = Recording::read(&samples)?;
            let run = comparable(recording.run())?;
            let same = |kind: &&mut Kind| kind.is(task) && kind.comparable == run;
            match kinds.iter_mut().find(same) {
                Some(kind) => kind.recordings.push(recording),
                None => kinds.push(Kind::new(task, run, recording)),
            }
        } else {
            calls.entry((task.job.clone(), task.machine.clone())).or_default().add(folder, result);
        }
    }
    name(&mut kinds);
    share_counts(&mut kinds);
    let mut tables = Vec::new();
    for kind in &kinds {
        let place = into.join(&kind.job).join(&kind.name);
        tables
            .push(kind.keep(&place).with_context(|| format!("cannot write {}", place.display()))?);
    }
    for ((job, machine), calls) in &calls {
        let place = into.join(job);
        fs::create_dir_all(&place)
            .and_then(|()| {
                fs::write(place.join(format!("{machine}.json")), serde_json::to_vec_pretty(calls)?)
            })
            .with_context(|| format!("cannot write to {}", place.display()))?;
    }
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    Ok(Report { kinds: kinds.into_iter().zip(tables).collect(), calls })
}

fn read_done(folder: &Folder, task: &Task) -> Result<Done> {
    let path = folder.result(task.id).join(DONE_FILE);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let done: Done = serde_json::from_slice(&text)
        .with_context(|| format!("{} does not say what was done", path.display()))?;
    if done.task != *task {
        bail!("{} is of another task; the folder was changed by hand", path.display());
    }
    Ok(done)
}

/// What must be the same of runs whose blocks are one run: all but when they were begun, and what a switch took then.
fn comparable(run: &Run) -> Result<String> {
    let mut run = run.clone();
    run.switch_ns = None;
    run.origin.iter_mut().for_each(|origin| origin.started.clear());
    Ok(serde_json::to_string(&run)?)
}

/// Blocks that are one run.
struct Kind {
    job: String,
    machine: String,
    /// The machine's name, with a number if there are several kinds of it.
    name: String,
    comparable: String,
    recordings: Vec<Recording>,
    /// Counts from blocks of the same job elsewhere.
    counts: Vec<Record>,
}

impl Kind {
    fn new(task: &Task, comparable: String, recording: Recording) -> Kind {
        Kind {
            job: task.job.clone(),
            machine: task.machine.clone(),
            name: task.machine.clone(),
            comparable,
            recordings: vec![recording],
            counts: Vec::new(),
        }
    }

    fn is(&self, task: &Task) -> bool {
        (&self.job, &self.machine) == (&task.job, &task.machine)
    }

    /// Writes the samples of all blocks as one run, with its table.
    fn keep(&self, place: &Path) -> Result<Table> {
        fs::create_dir_all(place)?;
        let samples = place.join(SAMPLES_FILE);
        let mut writer = Writer::create(&samples, &self.run())?;
        for recording in &self.recordings {
            writer.write_all(recording.records())?;
        }
        writer.write_all(&self.counts)?;
        drop(writer);
        let table = Table::build(&Recording::read(&samples)?, &reference::graviton3())?;
        bench::keep_table(place, &table)?;
        Ok(table)
    }

    /// The header of them all: that of any, with the mean of what a switch took and the moment when the first was begun.
    fn run(&self) -> Run {
        let runs = || self.recordings.iter().map(Recording::run);
        let mut run = self.recordings[0].run().clone();
        let switches: Vec<f64> = runs().filter_map(|run| run.switch_ns).collect();
        run.switch_ns =
            (!switches.is_empty()).then(|| switches.iter().sum::<f64>() / switches.len() as f64);
        let begun = runs().filter_map(|run| Some(run.origin.as_ref()?.started.clone())).min();
        if let (Some(origin), Some(begun)) = (&mut run.origin, begun) {
            origin.started = begun;
        }
        run
    }

    fn own_counts(&self) -> Vec<Record> {
        let records = self.recordings.iter().flat_map(Recording::records);
        records.filter(|record| matches!(record, Record::Counts(_))).cloned().collect()
    }
}

/// Numbers the kinds of one machine.
fn name(kinds: &mut [Kind]) {
    for index in 0..kinds.len() {
        let same = |other: &Kind| {
            (&other.job, &other.machine) == (&kinds[index].job, &kinds[index].machine)
        };
        let before = kinds[..index].iter().filter(|other| same(other)).count();
        if before > 0 {
            kinds[index].name = format!("{}.{}", kinds[index].machine, before + 1);
        }
    }
}

/// Events are counted once for a job, with its first block, and do not depend on the machine.
fn share_counts(kinds: &mut [Kind]) {
    for index in 0..kinds.len() {
        if kinds[index].own_counts().is_empty() {
            let of_job = kinds.iter().filter(|other| other.job == kinds[index].job);
            let counts = of_job.map(Kind::own_counts).find(|counts| !counts.is_empty());
            kinds[index].counts = counts.unwrap_or_default();
        }
    }
}

/// What came of calls that measure nothing.
#[derive(Default, Serialize)]
struct Calls {
    tasks: usize,
    calls: usize,
    /// What those printed whose gates or checks did not hold.
    did_not_hold: Vec<PathBuf>,
    hosts: BTreeMap<String, usize>,
}

impl Calls {
    fn add(&mut self, folder: &Folder, done: Done) {
        self.tasks += 1;
        self.calls += done.codes.len();
        *self.hosts.entry(done.host).or_default() += 1;
        for (number, _) in done.codes.iter().enumerate().filter(|(_, code)| **code != 0) {
            self.did_not_hold.push(folder.result(done.task.id).join(format!("{number}.out")));
        }
    }
}

struct Report {
    kinds: Vec<(Kind, Table)>,
    calls: BTreeMap<(String, String), Calls>,
}

impl Report {
    fn held(&self) -> bool {
        self.kinds.iter().all(|(_, table)| table.gates_hold())
            && self.calls.values().all(|calls| calls.did_not_hold.is_empty())
    }

    /// A table for each kind of machine, and those of one job side by side.
    fn write(&self, place: &Path) -> Result<()> {
        let mut out = io::stdout().lock();
        for (kind, table) in &self.kinds {
            let blocks = format!("{} of {} blocks", table.blocks, kind.recordings[0].run().blocks);
            let folder = place.join(&kind.job).join(&kind.name);
            writeln!(
                out,
                "{} on {} ({}), {blocks}: {}\n",
                kind.job,
                kind.name,
                table.machine.cpu,
                folder.display()
            )?;
            render::write_results(&mut out, table, Format::Table, false, Screen::of_stdout())?;
            writeln!(out)?;
        }
        for job in self.jobs_on_several() {
            let kinds = self.kinds.iter().filter(|(kind, _)| kind.job == job);
            let kinds: Vec<(&str, &Table)> =
                kinds.map(|(kind, table)| (kind.name.as_str(), table)).collect();
            writeln!(out, "{job}, machine by machine:\n")?;
            render::write_machines(&mut out, &kinds, Format::Table, Screen::of_stdout())?;
            let mut page = Vec::new();
            render::write_machines(&mut page, &kinds, Format::Markdown, Screen::FULL)?;
            let path = place.join(job).join("machines.md");
            fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        for ((job, machine), calls) in &self.calls {
            let held = calls.calls - calls.did_not_hold.len();
            writeln!(out, "{job} on {machine}: {held} of {} calls held", calls.calls)?;
            calls.did_not_hold.iter().try_for_each(|path| writeln!(out, "  {}", path.display()))?;
        }
        Ok(())
    }

    fn jobs_on_several(&self) -> Vec<&str> {
        let mut jobs: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, _) in &self.kinds {
            *jobs.entry(&kind.job).or_default() += 1;
        }
        jobs.into_iter().filter(|(_, kinds)| *kinds > 1).map(|(job, _)| job).collect()
    }
}
