//! `kpkeys campaign`: a plan of many runs, carried out by Slurm or here, and put together.
//!
//! There is no scheduler of ours: Slurm has one, and without it a campaign is a list that processes work through. What a task does is an
//! ordinary call of this command.
//!
//! | module | concept |
//! |---|---|
//! | [`mod@plan`] | the TOML file, checked before anything runs |
//! | [`task`] | one task: carried out once, whole or not at all |
//! | [`folder`] | where everything is kept |
//! | [`slurm`] | the scheduler, by its own commands |
//! | [`local`] | processes with a limit |
//! | [`status`] | where it stands |
//! | [`collect`] | results, put together machine by machine |

mod collect;
mod folder;
mod local;
mod plan;
mod slurm;
mod status;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::usage::UsageError;
use folder::{Campaign, Folder};
use plan::{Machine, Plan};
use status::Status;

const EXAMPLES: &str = "\
Examples:
  kpkeys campaign plan fleet.toml              what would run
  kpkeys campaign submit fleet.toml            hand it to Slurm, or run it here if the plan names no partition
  kpkeys campaign submit fleet.toml --local    run all of it here
  kpkeys campaign status fleet.toml            where it stands
  kpkeys campaign collect fleet.toml           tables of what is done; --resubmit hands out the rest again";

/// The calls of `kpkeys campaign`.
#[derive(clap::Subcommand, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub enum Call {
    /// Check a plan and say what it comes to
    #[command(after_help = EXAMPLES)]
    Plan {
        /// The plan
        plan: PathBuf,
        /// List the tasks with their calls
        #[arg(long)]
        tasks: bool,
    },
    /// Hand out every task that is not done, not waiting and not running; may be called at any time
    #[command(after_help = EXAMPLES)]
    Submit {
        /// The plan
        plan: PathBuf,
        /// Run all of it on this machine, whatever partitions it names
        #[arg(long)]
        local: bool,
    },
    /// Say where a campaign stands, with the logs of what failed
    #[command(after_help = EXAMPLES)]
    Status {
        /// The plan
        plan: PathBuf,
        /// How to print it
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Put the results together, machine by machine
    #[command(after_help = EXAMPLES)]
    Collect {
        /// The plan
        plan: PathBuf,
        /// Hand out again what is missing
        #[arg(long)]
        resubmit: bool,
        /// The tasks ran here: hand out again here
        #[arg(long, requires = "resubmit")]
        local: bool,
    },
    #[command(hide = true)]
    Task { folder: PathBuf, task: u32 },
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// To read
    Text,
    /// One JSON object
    Json,
}

/// Makes a call. Returns whether everything that was to be there is.
///
/// # Errors
///
/// [`UsageError`] for a bad plan or folder; what the file system or the scheduler says.
pub fn run(call: &Call) -> Result<bool> {
    match call {
        Call::Plan { plan, tasks } => show(&Plan::read(plan)?, *tasks).map(|()| true),
        Call::Submit { plan, local } => submit(&Plan::read(plan)?, *local),
        Call::Status { plan, format } => {
            let (folder, campaign) = begun(&Plan::read(plan)?)?;
            let status = Status::of(&folder, &campaign)?;
            match format {
                Format::Text => status.write(&mut io::stdout().lock())?,
                Format::Json => writeln!(io::stdout(), "{}", serde_json::to_string(&status)?)?,
            }
            Ok(status.failed.is_empty() && status.no_scheduler.is_none())
        }
        Call::Collect { plan, resubmit, local } => {
            let plan = Plan::read(plan)?;
            let (folder, campaign) = begun(&plan)?;
            let status = Status::of(&folder, &campaign)?;
            let held = collect::run(&folder, &campaign, &status)?;
            let complete = status.is_complete();
            if *resubmit && !complete {
                submit(&plan, *local)?;
            }
            Ok(held && complete)
        }
        Call::Task { folder, task } => carry_out(&Folder::at(folder), *task).map(|()| true),
    }
}

fn begun(plan: &Plan) -> Result<(Folder, Campaign)> {
    let folder = Folder::at(plan.folder());
    let campaign = folder.campaign()?;
    Ok((folder, campaign))
}

fn carry_out(folder: &Folder, task: u32) -> Result<()> {
    let campaign = folder.campaign()?;
    let Some(task) = campaign.tasks.get(task as usize) else {
        return Err(UsageError(format!("there is no task {task}")).into());
    };
    let outcome = match task::carry_out(folder, task)? {
        task::Outcome::Done => "is done",
        task::Outcome::DoneBefore => "was done before",
        task::Outcome::Busy => "is being carried out by another process",
    };
    // For people. What is done is done where there is no room to say so.
    let _ = writeln!(io::stdout(), "task {} {outcome}", task.id);
    Ok(())
}

/// Prints what a plan comes to.
fn show(plan: &Plan, each: bool) -> Result<()> {
    let tasks = plan.tasks();
    let mut by_job: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for task in &tasks {
        *by_job.entry((&task.machine, &task.job)).or_default() += 1;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {} tasks, in {}", plan.name, tasks.len(), plan.folder().display())?;
    for ((machine, job), count) in by_job {
        writeln!(out, "  {count} of {job} on {machine}")?;
    }
    for task in tasks.iter().filter(|_| each) {
        for call in &task.calls {
            writeln!(out, "task {} on {}: kpkeys {}", task.id, task.machine, call.join(" "))?;
        }
    }
    Ok(())
}

/// Hands out what nobody is at. Returns whether all is done, which it can be only where tasks ran here.
fn submit(plan: &Plan, all_here: bool) -> Result<bool> {
    let scheduled: Vec<&Machine> =
        plan.machines.iter().filter(|machine| !all_here && machine.partition.is_some()).collect();
    // Before the folder is made: a plan for machines that are not there begins nothing.
    if !scheduled.is_empty() {
        slurm::check(&scheduled)?;
    }
    let (folder, campaign) = Folder::begin(plan)?;
    let status = Status::of(&folder, &campaign)?;
    if let Some(why) = status.no_scheduler.as_ref().filter(|_| !scheduled.is_empty()) {
        anyhow::bail!("{why}; nothing was handed out, since it may be in the queue already");
    }
    let left = status.left();
    let of = |machine: &Machine| -> BTreeSet<u32> {
        let of_it = campaign.tasks.iter().filter(|task| task.machine == machine.name);
        of_it.map(|task| task.id).filter(|task| left.contains(task)).collect()
    };
    for machine in scheduled.iter().filter(|machine| !of(machine).is_empty()) {
        let tasks = of(machine);
        let arrays = slurm::submit(&folder, &campaign, machine, &tasks)?;
        eprintln!(
            "kpkeys: {} tasks for {} submitted, in {arrays} arrays",
            tasks.len(),
            machine.name
        );
    }
    let here: BTreeSet<u32> =
        plan.machines.iter().filter(|machine| !scheduled.contains(machine)).flat_map(of).collect();
    if !here.is_empty() {
        local::run(&folder, &here, campaign.limits.processes)?;
    }
    let status = Status::of(&folder, &campaign)?;
    status.write(&mut io::stderr().lock())?;
    Ok(status.failed.is_empty())
}
