//! The plan of a campaign: a TOML file, checked before anything runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kpkeys_emulator::Target;
use kpkeys_pgtable::Mode;
use serde::{Deserialize, Serialize};

use super::task::{self, Task};
use crate::bench::plan::Effort;
use crate::emulated::check_backend;
use crate::usage::UsageError;

/// A plan, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the campaign is called; its folder, unless it says another.
    pub name: String,
    /// Where everything is kept, relative to the plan.
    pub folder: Option<PathBuf>,
    /// What tasks may take.
    #[serde(default)]
    pub limits: Limits,
    /// Where tasks run; this machine if there are none.
    #[serde(default, rename = "machine")]
    pub machines: Vec<Machine>,
    /// Evaluations: a task is one block.
    #[serde(default, rename = "bench")]
    pub benches: Vec<Bench>,
    /// Attacks in an emulator: a task is one run of all of them.
    #[serde(default, rename = "attack")]
    pub attacks: Vec<Attack>,
    /// Soaks of the reference kernel: a task is a range of seeds.
    #[serde(default, rename = "soak")]
    pub soaks: Vec<Soak>,
    /// Any other calls of this command: a task is a range of seeds.
    #[serde(default, rename = "call")]
    pub calls: Vec<Call>,
}

/// What tasks may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processes at once where there is no scheduler.
    pub processes: usize,
    /// Minutes a task may take in a scheduler.
    pub minutes: u32,
    /// CPUs a task is given by a scheduler.
    pub cpus: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { processes: 1, minutes: 60, cpus: 1 }
    }
}

/// One kind of machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What it is called in results.
    pub name: String,
    /// The partition of Slurm that has such machines; without one it is this machine.
    pub partition: Option<String>,
    /// Features its nodes must have, as `sbatch --constraint` takes them.
    pub constraint: Option<String>,
}

/// An evaluation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    name: String,
    machines: Option<Vec<String>>,
    on: Option<String>,
    #[serde(default)]
    backends: Vec<String>,
    paging: Option<String>,
    #[serde(default)]
    modes: Vec<String>,
    #[serde(default)]
    parts: bool,
    #[serde(default)]
    rows: Vec<String>,
    #[serde(default)]
    traces: Vec<PathBuf>,
    #[serde(default = "normal")]
    effort: String,
    #[serde(default = "twelve")]
    blocks: u32,
    #[serde(default)]
    seeds: Seeds,
}

fn normal() -> String {
    Effort::Normal.name().to_owned()
}

fn twelve() -> u32 {
    12
}

/// Attacks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    name: String,
    machines: Option<Vec<String>>,
    on: Vec<String>,
    #[serde(default)]
    backends: Vec<String>,
    #[serde(default)]
    modes: Vec<String>,
    #[serde(default = "one")]
    repeats: u32,
}

/// Soaks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Soak {
    name: String,
    machines: Option<Vec<String>>,
    on: Vec<String>,
    #[serde(default)]
    backends: Vec<String>,
    #[serde(default)]
    modes: Vec<String>,
    seconds: u32,
    #[serde(default)]
    seeds: Seeds,
    #[serde(default = "one")]
    seeds_per_task: u32,
}

/// Other calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    name: String,
    machines: Option<Vec<String>>,
    /// `{seed}` stands for a seed.
    arguments: Vec<String>,
    #[serde(default)]
    seeds: Seeds,
    #[serde(default = "one")]
    seeds_per_task: u32,
}

fn one() -> u32 {
    1
}

/// Seeds: a list, or a range from the first to the last.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Seeds {
    List(Vec<u64>),
    Range { from: u64, to: u64 },
}

impl Default for Seeds {
    fn default() -> Self {
        Seeds::List(vec![1])
    }
}

impl Seeds {
    fn all(&self) -> Vec<u64> {
        match self {
            Seeds::List(seeds) => seeds.clone(),
            Seeds::Range { from, to } => (*from..=*to).collect(),
        }
    }
}

/// More than any scheduler of ours takes, and a slip of the pen.
const MOST_TASKS: usize = 1_000_000;

impl Plan {
    /// Reads a plan and checks it.
    ///
    /// # Errors
    ///
    /// [`UsageError`] that names the file and what is wrong in it.
    pub fn read(file: &Path) -> Result<Plan> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            UsageError(format!("cannot read the plan {}: {error}", file.display()))
        })?;
        let mut plan: Plan = toml::from_str(&text)
            .map_err(|error| UsageError(format!("{}: {error}", file.display())))?;
        if plan.machines.is_empty() {
            let here = "here".to_owned();
            plan.machines.push(Machine { name: here, partition: None, constraint: None });
        }
        let beside = file.parent().unwrap_or(Path::new("."));
        plan.resolve(beside)?;
        plan.check().map_err(|error| UsageError(format!("{}: {error}", file.display())))?;
        Ok(plan)
    }

    /// Where everything is kept.
    pub fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new(&self.name))
    }

    /// The tasks, numbered.
    pub fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for machine in &self.machines {
            let on = |wanted: &Option<Vec<String>>| {
                wanted.as_ref().is_none_or(|names| names.contains(&machine.name))
            };
            let benches =
                self.benches.iter().filter(|job| on(&job.machines)).flat_map(Bench::tasks);
            let attacks =
                self.attacks.iter().filter(|job| on(&job.machines)).flat_map(Attack::tasks);
            let soaks = self.soaks.iter().filter(|job| on(&job.machines)).flat_map(Soak::tasks);
            let calls = self.calls.iter().filter(|job| on(&job.machines)).flat_map(Call::tasks);
            for (job, calls) in benches.chain(attacks).chain(soaks).chain(calls) {
                let id = tasks.len() as u32;
                tasks.push(Task { id, machine: machine.name.clone(), job, calls });
            }
        }
        tasks
    }

    /// Makes paths independent of where a task runs.
    fn resolve(&mut self, beside: &Path) -> Result<()> {
        let folder = std::path::absolute(beside.join(self.folder()))
            .context("cannot find the campaign's folder")?;
        self.folder = Some(folder);
        for trace in self.benches.iter_mut().flat_map(|bench| &mut bench.traces) {
            let path = beside.join(&*trace);
            *trace = path.canonicalize().map_err(|error| {
                UsageError(format!("cannot read the trace {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), UsageError> {
        self.check_names()?;
        let of = |job: &str, error: UsageError| UsageError(format!("`{job}`: {error}"));
        for bench in &self.benches {
            bench.check().map_err(|error| of(&bench.name, error))?;
        }
        for job in &self.attacks {
            check_emulated(&job.on, &job.backends, &job.modes)
                .map_err(|error| of(&job.name, error))?;
        }
        for job in &self.soaks {
            check_emulated(&job.on, &job.backends, &job.modes)
                .map_err(|error| of(&job.name, error))?;
        }
        for job in &self.calls {
            let first = job.tasks().next();
            let calls = first.into_iter().flat_map(|(_, calls)| calls);
            calls
                .take(1)
                .try_for_each(|call| task::check(&call))
                .map_err(|error| of(&job.name, error))?;
        }
        if self.limits.processes == 0 || self.limits.minutes == 0 || self.limits.cpus == 0 {
            return Err(UsageError("[limits] need at least 1 of each".into()));
        }
        match self.tasks().len() {
            0 => Err(UsageError(
                "nothing to do: expected a [[bench]], [[attack]], [[soak]] or [[call]]".into(),
            )),
            tasks if tasks > MOST_TASKS => {
                Err(UsageError(format!("{tasks} tasks are more than {MOST_TASKS}")))
            }
            _ => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), UsageError> {
        let machines: Vec<&str> =
            self.machines.iter().map(|machine| machine.name.as_str()).collect();
        let jobs = self.jobs();
        let names: Vec<&str> = jobs.iter().map(|(name, _)| *name).collect();
        let all = [self.name.as_str()].into_iter().chain(machines.clone()).chain(names.clone());
        if let Some(bad) = all.into_iter().find(|name| !is_file_name(name)) {
            return Err(UsageError(format!(
                "`{bad}` names files: expected letters, digits, `-`, `_` and `.`"
            )));
        }
        for list in [machines.clone(), names] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = list.into_iter().find(|name| !seen.insert(*name)) {
                return Err(UsageError(format!(
                    "`{twice}` is there twice; expected names of their own"
                )));
            }
        }
        for wanted in jobs.iter().filter_map(|(_, machines)| machines.as_ref()).flatten() {
            if !machines.contains(&wanted.as_str()) {
                return Err(UsageError::unknown("machine", wanted, machines));
            }
        }
        Ok(())
    }

    /// Names of jobs, and the machines they are for.
    fn jobs(&self) -> Vec<(&str, &Option<Vec<String>>)> {
        let benches = self.benches.iter().map(|job| (job.name.as_str(), &job.machines));
        let attacks = self.attacks.iter().map(|job| (job.name.as_str(), &job.machines));
        let soaks = self.soaks.iter().map(|job| (job.name.as_str(), &job.machines));
        let calls = self.calls.iter().map(|job| (job.name.as_str(), &job.machines));
        benches.chain(attacks).chain(soaks).chain(calls).collect()
    }
}

fn is_file_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(fits)
}

/// A job's name and the calls of one task of it.
type Calls = (String, Vec<Vec<String>>);

impl Bench {
    fn check(&self) -> Result<(), UsageError> {
        Effort::from_name(&self.effort)?;
        if self.blocks == 0 {
            return Err(UsageError("blocks: expected at least 1".into()));
        }
        // Everything that `kpkeys bench` refuses is refused now, and not by a thousand tasks.
        let first_blocks = self.tasks().step_by(self.blocks as usize);
        first_blocks.flat_map(|(_, calls)| calls).try_for_each(|call| task::check(&call))
    }

    fn tasks(&self) -> impl Iterator<Item = Calls> {
        let backends = or_none(&self.backends);
        let traces = or_none(&self.traces);
        let variants = backends
            .flat_map(move |backend| traces.clone().map(move |trace| (backend.clone(), trace)));
        variants.flat_map(move |(backend, trace)| {
            let backend = backend.clone();
            self.seeds.all().into_iter().flat_map(move |seed| {
                let call = self.call(backend.as_deref(), trace.as_deref(), seed);
                let job = self.variant(backend.as_deref(), trace.as_deref(), seed);
                (0..self.blocks).map(move |block| {
                    let mut call = call.clone();
                    call.extend(["--only-block".to_owned(), block.to_string()]);
                    (job.clone(), vec![call])
                })
            })
        })
    }

    /// The name of what is put together: blocks of one backend, trace and seed.
    fn variant(&self, backend: Option<&str>, trace: Option<&Path>, seed: u64) -> String {
        let mut name = self.name.clone();
        if let Some(backend) = backend.filter(|_| self.backends.len() > 1) {
            name += &format!(".{backend}");
        }
        if let Some(trace) = trace.filter(|_| self.traces.len() > 1) {
            let number = self.traces.iter().position(|known| known == trace).unwrap_or(0);
            name += &format!(".trace{number}");
        }
        if self.seeds.all().len() > 1 {
            name += &format!(".seed{seed}");
        }
        name
    }

    fn call(&self, backend: Option<&str>, trace: Option<&Path>, seed: u64) -> Vec<String> {
        let mut call = vec!["bench".to_owned()];
        let mut add = |name: &str, value: &str| call.push(format!("--{name}={value}"));
        if let Some(on) = &self.on {
            add("on", on);
        }
        if let Some(backend) = backend {
            add("backend", backend);
        }
        if let Some(paging) = &self.paging {
            add("paging", paging);
        }
        if !self.modes.is_empty() {
            add("modes", &self.modes.join(","));
        }
        self.rows.iter().for_each(|row| add("rows", row));
        if let Some(trace) = trace {
            add("trace", &trace.display().to_string());
        }
        add("blocks", &self.blocks.to_string());
        add("seed", &seed.to_string());
        if self.parts {
            call.push("--parts".into());
        }
        if self.effort != Effort::Normal.name() {
            call.push(format!("--{}", self.effort));
        }
        call
    }
}

impl Attack {
    fn tasks(&self) -> impl Iterator<Item = Calls> {
        emulated(&self.on, &self.backends).flat_map(move |machine| {
            let mut call = vec!["attack".to_owned(), "--format=json".to_owned()];
            call.extend(machine);
            if !self.modes.is_empty() {
                call.push(format!("--modes={}", self.modes.join(",")));
            }
            (0..self.repeats).map(move |_| (self.name.clone(), vec![call.clone()]))
        })
    }
}

impl Soak {
    fn tasks(&self) -> impl Iterator<Item = Calls> {
        emulated(&self.on, &self.backends).flat_map(move |machine| {
            or_none(&self.modes).flat_map(move |mode| {
                let machine = machine.clone();
                let call = move |seed| {
                    let mut call = vec!["run".to_owned(), "--records".to_owned()];
                    call.extend(machine.clone());
                    call.push(format!("--time-limit={}", 120 + 20 * self.seconds));
                    call.extend(mode.iter().map(|mode| format!("--mode={mode}")));
                    call.extend([format!("soak={}", self.seconds), format!("seed={seed}")]);
                    call
                };
                by_seeds(&self.name, &self.seeds, self.seeds_per_task, call)
            })
        })
    }
}

impl Call {
    fn tasks(&self) -> impl Iterator<Item = Calls> {
        let call = |seed: u64| {
            let with_seed = |word: &String| word.replace("{seed}", &seed.to_string());
            self.arguments.iter().map(with_seed).collect()
        };
        by_seeds(&self.name, &self.seeds, self.seeds_per_task, call).into_iter()
    }
}

/// Tasks of some seeds each.
fn by_seeds(
    job: &str,
    seeds: &Seeds,
    per_task: u32,
    call: impl Fn(u64) -> Vec<String>,
) -> Vec<Calls> {
    let seeds = seeds.all();
    let task = |seeds: &[u64]| (job.to_owned(), seeds.iter().map(|&seed| call(seed)).collect());
    seeds.chunks(per_task.max(1) as usize).map(task).collect()
}

/// Options for each emulated machine and backend.
fn emulated(on: &[String], backends: &[String]) -> impl Iterator<Item = Vec<String>> {
    on.iter().flat_map(move |on| {
        or_none(backends).map(move |backend| {
            let backend = backend.map(|backend| format!("--backend={backend}"));
            [format!("--on={on}")].into_iter().chain(backend).collect()
        })
    })
}

/// Machines, backends and modes that the reference kernel has.
fn check_emulated(on: &[String], backends: &[String], modes: &[String]) -> Result<(), UsageError> {
    for name in on {
        let target: Target = name.parse().map_err(|error| UsageError(format!("{error}")))?;
        backends.iter().try_for_each(|backend| check_backend(target, backend))?;
    }
    match modes.iter().find(|name| Mode::from_name(name).is_none()) {
        Some(unknown) => Err(UsageError::unknown("mode", unknown, Mode::ALL.map(Mode::name))),
        None => Ok(()),
    }
}

/// Each of a list; or nothing, once.
fn or_none<T: Clone>(list: &[T]) -> impl Iterator<Item = Option<T>> + Clone {
    let none = list.is_empty().then_some(None);
    list.iter().cloned().map(Some).collect::<Vec<_>>().into_iter().chain(none)
}
