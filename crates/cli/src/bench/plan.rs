//! What was asked for, checked.

use std::path::PathBuf;
use std::time::Duration;

use kpkeys_emulator::Target;
use kpkeys_pgtable::Keys;
use kpkeys_stats::record::Mode;
use kpkeys_workloads::{ALL_ROWS, Row, Span};

use super::backend::HostBackend;
use super::traced::{self, TracedRow};
use super::{Options, cpu};
use crate::emulated::{check_backend, check_keys};
use crate::emulation;
use crate::usage::UsageError;

/// A checked request.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where it runs.
    pub place: Place,
    /// Which keys page tables carry in mode `fused`.
    pub keys: Keys,
    /// Entry format of the tables.
    pub paging: Paging,
    /// Rows, in the order of the table.
    pub rows: Vec<PlannedRow>,
    /// The trace to replay, if not the one that belongs to kernbench.
    pub trace: Option<PathBuf>,
    /// What each block runs: the baseline, its twin, the modes, and the host kernel.
    pub modes: Vec<Mode>,
    /// How many blocks.
    pub blocks: u32,
    /// How much each worker does.
    pub effort: Effort,
    /// Seed of the order inside blocks.
    pub seed: u64,
    /// The CPU to measure on, if one was asked for.
    pub cpu: Option<usize>,
}

/// Where benchmarks run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In processes on this machine, by this backend.
    Host(HostBackend),
    /// In the reference kernel, on this emulated machine, with this backend or the best there is.
    Emulator {
        /// The machine.
        target: Target,
        /// The backend, if one was asked for.
        backend: Option<String>,
    },
}

impl Place {
    const HOST: &'static str = "host";

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Place::Host(_) => Self::HOST,
            Place::Emulator { target, .. } => target.name(),
        }
    }

    /// The backend of a process, if it runs in processes here.
    pub fn host(&self) -> Option<HostBackend> {
        match self {
            Place::Host(backend) => Some(*backend),
            Place::Emulator { .. } => None,
        }
    }

    fn new(options: &Options) -> Result<Place, UsageError> {
        let (name, backend) = (options.on.as_str(), options.backend.clone());
        if name == Self::HOST {
            let named = backend.as_deref().map(HostBackend::from_name).transpose()?;
            return Ok(Place::Host(named.unwrap_or_default()));
        }
        let Some(target) = Target::ALL.into_iter().find(|target| target.name() == name) else {
            let valid = [Self::HOST].into_iter().chain(Target::ALL.map(Target::name));
            return Err(UsageError::unknown("place to run", name, valid));
        };
        if options.paging.as_deref().is_some_and(|paging| paging != target.entry_format()) {
            return Err(UsageError(format!(
                "{name} has page tables of its own format: leave --paging out"
            )));
        }
        if let Some(backend) = &backend {
            check_backend(target, backend)?;
            check_keys(options.keys.unwrap_or_default(), backend)?;
        }
        Ok(Place::Emulator { target, backend })
    }
}

/// A row, and how it is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlannedRow {
    /// A benchmark.
    Workload(Row),
    /// A trace, the reference trace or one that was given.
    Traced {
        /// What the row belongs to.
        benchmark: &'static str,
        /// What it says of the trace.
        row: TracedRow,
    },
}

impl PlannedRow {
    /// What it belongs to.
    pub fn benchmark(&self) -> &'static str {
        match self {
            PlannedRow::Workload(row) => row.benchmark,
            PlannedRow::Traced { benchmark, .. } => benchmark,
        }
    }

    /// Its name in the table.
    pub fn result_class(&self) -> &'static str {
        match self {
            PlannedRow::Workload(row) => row.result_class,
            PlannedRow::Traced { row, .. } => row.result_class(),
        }
    }

    /// Whether there is a time of Linux's to set beside it: its own now, or when it was recorded.
    pub fn linux_did_it(&self) -> bool {
        match self {
            PlannedRow::Workload(row) => cfg!(target_os = "linux") && row.span == Span::Once,
            PlannedRow::Traced { .. } => true,
        }
    }

    /// Whether events are counted for it.
    pub fn has_events(&self) -> bool {
        self.traced().is_none_or(TracedRow::has_events)
    }

    /// The benchmark it is, if it is one.
    pub fn workload(&self) -> Option<&Row> {
        match self {
            PlannedRow::Workload(row) => Some(row),
            PlannedRow::Traced { .. } => None,
        }
    }

    /// What it says of a trace, if it replays one.
    pub fn traced(&self) -> Option<TracedRow> {
        match self {
            PlannedRow::Workload(_) => None,
            PlannedRow::Traced { row, .. } => Some(*row),
        }
    }
}

/// An entry format by its name on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// arm64's, as the series.
    Aarch64,
    /// x86-64's.
    X86_64,
}

/// How much a worker does for each row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// `--quick`.
    Quick,
    /// Neither.
    Normal,
    /// `--full`.
    Full,
}

impl Paging {
    const ALL: [Paging; 2] = [Paging::Aarch64, Paging::X86_64];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Paging::Aarch64 => "aarch64",
            Paging::X86_64 => "x86_64",
        }
    }

    /// The format with this name.
    pub fn from_name(name: &str) -> Result<Paging, UsageError> {
        let unknown = || UsageError::unknown("entry format", name, Self::ALL.map(Paging::name));
        Self::ALL.into_iter().find(|paging| paging.name() == name).ok_or_else(unknown)
    }
}

impl Effort {
    const ALL: [Effort; 3] = [Effort::Quick, Effort::Normal, Effort::Full];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Effort::Quick => "quick",
            Effort::Normal => "normal",
            Effort::Full => "full",
        }
    }

    /// The effort with this name.
    pub fn from_name(name: &str) -> Result<Effort, UsageError> {
        let unknown = || UsageError::unknown("effort", name, Self::ALL.map(Effort::name));
        Self::ALL.into_iter().find(|effort| effort.name() == name).ok_or_else(unknown)
    }

    /// How many iterations of a row are timed in a block: at least the first, and up to the second while there is time.
    pub fn turns(self) -> (u32, u32) {
        match self {
            Effort::Quick => (3, 9),
            Effort::Normal | Effort::Full => (5, 25),
        }
    }

    /// How long a block goes on timing a row after the least number of turns.
    pub fn budget(self) -> Duration {
        match self {
            Effort::Quick => Duration::from_millis(300),
            Effort::Normal => Duration::from_millis(1200),
            Effort::Full => Duration::MAX,
        }
    }

    /// What the published number of loops is divided by.
    pub fn scale(self) -> u64 {
        match self {
            Effort::Quick => 80,
            Effort::Normal => 40,
            Effort::Full => 1,
        }
    }

    /// How many blocks, if nothing else is said.
    pub fn blocks(self) -> u32 {
        match self {
            Effort::Quick => 4,
            Effort::Normal => 12,
            Effort::Full => 24,
        }
    }
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// [`UsageError`] with the names that are valid.
    pub fn new(options: &Options) -> anyhow::Result<Plan> {
        let place = Place::new(options)?;
        let paging = match &place {
            Place::Host(_) => Paging::from_name(options.paging.as_deref().unwrap_or("aarch64"))?,
            Place::Emulator { target, .. } => Paging::from_name(target.entry_format())?,
        };
        let effort = match (options.quick, options.full) {
            (true, _) => Effort::Quick,
            (_, true) => Effort::Full,
            _ => Effort::Normal,
        };
        let on_host = place.host().is_some();
        let blocks = options.blocks.unwrap_or(if on_host { effort.blocks() } else { 1 });
        match options.cpu {
            Some(_) if !on_host => {
                return Err(UsageError("--cpu is for the host: leave it out".into()).into());
            }
            Some(cpu) => cpu::check(cpu)?,
            None => {}
        }
        if blocks == 0 {
            return Err(UsageError("--blocks needs at least 1".into()).into());
        }
        let valid = match &options.trace {
            Some(_) if !on_host => {
                return Err(UsageError("--trace is replayed on the host alone".into()).into());
            }
            Some(file) => of_trace(traced::TRACE, traced::rows_of(&traced::read(Some(file))?)),
            None if on_host => published(),
            None => published().into_iter().filter(|row| row.traced().is_none()).collect(),
        };
        let rows = choose(&valid, &options.rows)?;
        let beside = on_host && rows.iter().any(PlannedRow::linux_did_it);
        let linux = beside.then_some(Mode::Linux);
        let protecting = modes(&options.modes, options.parts)?;
        if !on_host {
            refuse_parts(&protecting)?;
        }
        let of_series = paging == Paging::Aarch64 && place.host() != Some(HostBackend::Pku);
        if !of_series && refuse_parts(&protecting).is_err() {
            return Err(UsageError(PARTS_ON_ARM.into()).into());
        }
        let modes = [Mode::Off, Mode::Aa].into_iter().chain(protecting).chain(linux).collect();
        Ok(Plan {
            place,
            keys: options.keys.unwrap_or_default(),
            paging,
            trace: options.trace.clone(),
            rows,
            modes,
            blocks,
            effort,
            seed: options.seed,
            cpu: options.cpu,
        })
    }
}

impl Plan {
    /// What is to be known of the machine and of the backend, and what the trace lacks that some of the rows replay.
    ///
    /// # Errors
    ///
    /// [`UsageError`] if it can no longer be read.
    pub fn caveats(&self) -> anyhow::Result<Vec<String>> {
        let machine = self
            .place
            .host()
            .map_or([None, None], |backend| [emulation::caveat(), backend.caveat()]);
        let mut caveats: Vec<String> = machine.into_iter().flatten().collect();
        if let Some(row) = self.rows.iter().find(|row| row.traced().is_some()) {
            let of_trace = traced::caveats(&traced::read(self.trace.as_deref())?);
            let benchmark = row.benchmark();
            caveats.extend(of_trace.into_iter().map(|caveat| format!("{benchmark}: {caveat}")));
        }
        Ok(caveats)
    }
}

/// The rows of the evaluation: the series' table, and more tests of the same module.
pub fn published() -> Vec<PlannedRow> {
    let kernbench = of_trace(traced::KERNBENCH, TracedRow::KERNBENCH.into());
    kernbench.into_iter().chain(ALL_ROWS.map(PlannedRow::Workload)).collect()
}

/// Rows of a trace.
pub fn of_trace(benchmark: &'static str, rows: Vec<TracedRow>) -> Vec<PlannedRow> {
    rows.into_iter().map(|row| PlannedRow::Traced { benchmark, row }).collect()
}

/// The rows that some pattern names, or all.
pub fn choose(valid: &[PlannedRow], patterns: &[String]) -> Result<Vec<PlannedRow>, UsageError> {
    if let Some(none) =
        patterns.iter().find(|pattern| !valid.iter().any(|row| matches(pattern, row)))
    {
        let valid: Vec<_> = valid.iter().map(PlannedRow::result_class).collect();
        return Err(UsageError(format!(
            "no row matches `{none}`; the rows are:\n  {}",
            valid.join("\n  ")
        )));
    }
    let wanted = |row: &&PlannedRow| {
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, row))
    };
    Ok(valid.iter().filter(wanted).copied().collect())
}

/// Whether a pattern names a row: by its name, or by its benchmark.
fn matches(pattern: &str, row: &PlannedRow) -> bool {
    let pattern = wildmatch::WildMatch::new(pattern);
    pattern.matches(row.result_class()) || pattern.matches(row.benchmark())
}

/// The protecting modes that are named, or all; `off` may be named and is left out. With `parts`, also those they are taken apart into.
pub fn modes(names: &[String], parts: bool) -> Result<Vec<Mode>, UsageError> {
    let known = Mode::PROTECTING.into_iter().chain(Mode::PARTS);
    let valid: Vec<&str> = known.clone().map(Mode::name).collect();
    if let Some(unknown) =
        names.iter().find(|name| *name != "off" && !valid.contains(&name.as_str()))
    {
        return Err(UsageError::unknown("mode", unknown, ["off"].into_iter().chain(valid)));
    }
    let named = |mode: &Mode| names.iter().any(|name| name == mode.name());
    // Of the modes that are named, or all of them.
    let asked = |mode: &Mode| match mode.whole() {
        None => names.is_empty() || named(mode),
        Some(whole) => named(mode) || parts && (names.is_empty() || named(&whole)),
    };
    Ok(known.filter(asked).collect())
}

/// Each part is one more instance of everything. One format and one backend are enough to say where points go.
pub const PARTS_ON_ARM: &str = "parts of modes are measured by the mock on tables of arm64's format, as the series was: leave --paging and --backend out";

/// Refuses parts of modes where a kernel is to run: they are there to be measured, and protect nothing.
pub fn refuse_parts(modes: &[Mode]) -> Result<(), UsageError> {
    match modes.iter().find(|mode| mode.whole().is_some()) {
        Some(part) => Err(UsageError(format!(
            "`{part}` is a part of a mode, which protects nothing: parts are measured by `kpkeys bench` on the host alone"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_rows_by_name_or_benchmark() {
        let all = published();
        let chosen = |pattern: &str| choose(&all, &[pattern.to_owned()]).unwrap().len();
        assert_eq!(chosen("kernbench"), 3);
        assert_eq!(chosen("fork"), 2);
        assert_eq!(chosen("*h:1"), 5);
        assert_eq!(chosen("fix_size_alloc_test: p:?, h:0"), 2);
        assert_eq!(choose(&all, &[]).unwrap(), all);
    }

    #[test]
    fn a_pattern_for_nothing_lists_the_rows() {
        let error = choose(&published(), &["frok".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`frok`") && error.contains("fork: h:1"), "{error}");
    }

    #[test]
    fn an_unknown_mode_lists_the_modes() {
        let error = modes(&["fast".to_owned()], false).unwrap_err().to_string();
        let expected =
            "unknown mode `fast`; expected one of: off, unbatched, batched, fused-lean, fused";
        assert!(error.starts_with(expected) && error.contains("batched:pool"), "{error}");
    }

    #[test]
    fn parts_are_run_where_they_are_asked_for() {
        assert_eq!(modes(&[], false).unwrap(), Mode::PROTECTING);
        assert_eq!(modes(&[], true).unwrap().len(), Mode::PROTECTING.len() + Mode::PARTS.len());
        let named = ["batched:keys", "off"].map(str::to_owned);
        assert_eq!(modes(&named, false).unwrap(), [Mode::BatchedKeys]);
        let apart = [Mode::Unbatched, Mode::UnbatchedSwitches];
        assert_eq!(modes(&["unbatched".to_owned()], true).unwrap(), apart);
    }
}
