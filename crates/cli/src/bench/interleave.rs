//! Several builds of the command, measured in one session.
//!
//! Two runs at two times share neither the machine's mood nor its neighbours. So the workers of two builds all live at the same time
//! and take turns, as the modes of one do: each iteration of one has an iteration of the other milliseconds away. Each build's records
//! are kept in a folder of its own, as of any run, and the headers of both name the session; blocks of the same number belong together.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use kpkeys_stats::record::{Mode, Record, Run};
use kpkeys_stats::table::Table;
use sha2::{Digest, Sha256};

use super::plan::Plan;
use super::program::Program;
use super::results::Results;
use super::run::{Block, Machine, endless_blocks, progress_bar};
use super::{Options, cpu, header, turns};
use crate::noise::Activity;
use crate::reference;
use crate::usage::UsageError;

/// Two builds that take turns.
pub struct Pair {
    /// What the pair is called, where there are several: a layout.
    pub name: Option<String>,
    /// The builds.
    pub programs: [Program; 2],
}

impl Pair {
    /// The builds in these files.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a file that is no build of this command.
    pub fn of(name: Option<String>, before: &Path, after: &Path) -> Result<Pair> {
        Ok(Pair { name, programs: [Program::other(before)?, Program::other(after)?] })
    }
}

/// What was measured: a folder for each build of each pair.
pub struct Session {
    /// In the order of the pairs.
    pub folders: Vec<[PathBuf; 2]>,
    /// Deletes them in the end, if nobody asked to keep them.
    temporary: Option<tempfile::TempDir>,
}

impl Session {
    /// Whether somebody asked to keep the folders.
    pub fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }
}

/// The folders of a pair.
pub const SIDES: [&str; 2] = ["before", "after"];

/// Runs the rows that `written`, options of `kpkeys bench`, name, with every pair in turn, block by block.
///
/// # Errors
///
/// [`UsageError`] for what cannot be asked; otherwise what went wrong on the way.
pub fn interleave(pairs: &[Pair], written: &[String]) -> Result<Session> {
    let options = Options::of("kpkeys compare --run BUILD BUILD --", written)?;
    let mut plan = Plan::new(&options)?;
    let Some(backend) = plan.place.host() else {
        return Err(UsageError("builds take turns on the host alone: leave --on out".into()).into());
    };
    backend.check()?;
    // The host kernel is no build.
    plan.modes.retain(|mode| *mode != Mode::Linux);
    let (root, temporary) = root(options.out.as_deref())?;
    let mut results = Vec::new();
    for pair in pairs {
        let folder = pair.name.as_ref().map_or(root.clone(), |name| root.join(name));
        results.push(open(&plan, pair, &folder)?);
    }
    run(&plan, pairs, &mut results)?;
    let mut folders = Vec::new();
    for both in &results {
        for one in both {
            one.keep_table(&Table::build(&one.recording()?, &reference::graviton3())?)?;
        }
        folders.push(both.each_ref().map(|one| one.folder().to_owned()));
    }
    Ok(Session { folders, temporary })
}

fn root(out: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>)> {
    match out {
        Some(folder) => Ok((folder.to_owned(), None)),
        None => {
            let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
    }
}

/// Opens the folders of a pair. A session that an earlier call began goes on.
fn open(plan: &Plan, pair: &Pair, folder: &Path) -> Result<[Results; 2]> {
    let [before, after] = SIDES.map(|side| folder.join(side));
    let header = |program: &Program, session: &str| -> Result<Run> {
        let machine = Machine::Processes(program.clone());
        let mut header = header::run_header(plan, &machine, program)?;
        if let Some(origin) = &mut header.origin {
            origin.session = Some(session.to_owned());
        }
        Ok(header)
    };
    let [first, second] = &pair.programs;
    let fresh = session_name();
    let before = Results::open(Some(&before), &header(first, &fresh)?)?;
    let name = before.session().unwrap_or(&fresh).to_owned();
    let after = Results::open(Some(&after), &header(second, &name)?)?;
    if after.session().is_some_and(|known| known != name) {
        let folder = folder.display();
        let why = "holds runs of two sessions, whose blocks do not belong together";
        return Err(UsageError(format!("{folder} {why}; choose another --out")).into());
    }
    Ok([before, after])
}

fn session_name() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let drawn = Sha256::digest(format!("{} {}", now.as_nanos(), std::process::id()));
    drawn.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Runs what the folders do not hold yet. A block that only one of two builds has is of no use; another one takes its place.
fn run(plan: &Plan, pairs: &[Pair], results: &mut [[Results; 2]]) -> Result<()> {
    let whole = |block: &Block<'_>| results.iter().flatten().all(|one| one.has(&block.done(plan)));
    let torn = |block: &Block<'_>| {
        !whole(block) && results.iter().flatten().any(|one| one.has_any(block.number))
    };
    let planned = endless_blocks(plan).filter(|block| !torn(block)).take(plan.blocks as usize);
    let all: Vec<Block<'_>> = planned.filter(|block| !whole(block)).collect();
    let steps: usize = all.iter().map(|block| block.steps.len()).sum();
    let progress = progress_bar(steps * pairs.len());
    let cpu = cpu::measured(plan.cpu).unwrap_or(0);
    for block in all {
        for (pair, both) in pairs.iter().zip(&mut *results) {
            let programs = pair.programs.each_ref().map(|program| program.path.as_path());
            let mut records = [Vec::new(), Vec::new()];
            let before = Activity::now(cpu);
            for step in &block.steps {
                let name = step.rows.first().map_or("", |row| row.result_class());
                let pair = pair.name.as_ref().map_or(String::new(), |name| format!("{name}, "));
                progress.set_message(format!("{pair}block {}: {name}", block.number + 1));
                let taken = turns::take(plan, &programs, step, block.number)?;
                for (records, taken) in records.iter_mut().zip(taken) {
                    records.extend(taken);
                }
                progress.inc(1);
            }
            let noise = Activity::now(cpu).since(&before, block.number);
            for (one, mut records) in both.iter_mut().zip(records) {
                records.push(Record::Noise(noise.clone()));
                one.add(records, &block.done(plan))?;
            }
        }
    }
    progress.finish_and_clear();
    Ok(())
}
