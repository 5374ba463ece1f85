//! `kpkeys compare`: runs against each other, with a verdict as exit code.
//!
//! | module | concept |
//! |---|---|
//! | [`read`] | what can be compared: folders, sample files, tables, published tables |
//! | [`limit`] | how much slower is too much |

mod limit;
mod read;

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kpkeys_stats::conditions::Condition;
use kpkeys_stats::contrast::{Contrast, Question};
use kpkeys_stats::side::Side;
use schemars::JsonSchema;
use serde::Serialize;

use crate::bench::interleave::{self, Pair, Session};
use crate::bench::layouts::{self, Layout};
use crate::render::{self, Screen};
use crate::usage::UsageError;
use limit::Limit;
pub use read::table_of;

const EXAMPLES: &str = "\
Examples:
  kpkeys compare old new                               folders of bench --out
  kpkeys compare results v5-amended                    beside what the series published
  kpkeys compare old new --fail-above 2%               exit 1 if a row or group is slower by more
  kpkeys compare old new --fail-above 'fork*=1%'       only those rows
  kpkeys compare old new --across build                of two builds, although layouts are not covered
  kpkeys compare --run old/kpkeys new/kpkeys -- --rows 'fork*'   two builds that take turns
  kpkeys compare --run ../old . --layouts 3 -- --rows 'fork*'    two checkouts, in several layouts";

/// The options of `kpkeys compare`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folders of `bench --out`, sample files, tables in JSON, or published tables: the first is what the others are compared with. With --run two built programs, or folders with the sources of two
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    sides: Vec<String>,
    /// Measure two builds now, in the same blocks; options of `bench` follow after `--`
    #[arg(long)]
    run: bool,
    /// With --run: build the sources in both folders in so many layouts of their code; a limit is broken by what every layout shows
    #[arg(long, value_name = "N", requires = "run", value_parser = clap::value_parser!(u32).range(i64::from(*layouts::RANGE.start())..=i64::from(*layouts::RANGE.end())))]
    layouts: Option<u32>,
    /// Options of `bench` for --run, such as --rows, --modes, --blocks, --out
    #[arg(last = true, value_name = "BENCH OPTION", requires = "run")]
    bench: Vec<String>,
    /// Exit with 1 if a row, or the rows of a benchmark together, is proven slower by more than so many percent; for some rows only with a pattern before `=`; may be given again
    #[arg(long, value_name = "[GLOB=]PCT")]
    fail_above: Vec<Limit>,
    /// Changes inside plus and minus so many percent count as none
    #[arg(long, value_name = "PCT", default_value = "1%", value_parser = limit::percent)]
    equal: f64,
    /// Draw conclusions although these differ: machine, format, backend, switch-cost, build, effort, rows, gates
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    across: Vec<Condition>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// How a comparison is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns
    Table,
    /// For a pull request
    Markdown,
    /// One JSON object
    Json,
    /// Comma-separated values, one line for each row, mode and measure
    Csv,
    /// Bencher Metric Format: what the last run measured, for trackers that read it
    Bmf,
}

/// Everything that was compared.
#[derive(Serialize, JsonSchema)]
pub struct Report {
    /// Each run against the first, in order; with several layouts, each layout.
    pub comparisons: Vec<Contrast>,
    /// What went over a limit, in words.
    pub failures: Vec<String>,
}

/// Seed of the p-values that are drawn.
const SEED: u64 = 1;

/// Compares, and prints. Returns whether no limit was broken.
///
/// # Errors
///
/// [`UsageError`] for what cannot be compared; otherwise what went wrong on the way.
pub fn run(options: &Options) -> Result<bool> {
    let question =
        Question { equal_pct: options.equal, accepted: options.across.clone(), seed: SEED };
    let comparisons =
        if options.run { measured(options, &question)? } else { kept(options, &question)? };
    let together = options.layouts.is_some();
    let failures = limit::failures(&comparisons, &options.fail_above, together);
    let report = Report { comparisons, failures };
    let out = &mut io::stdout().lock();
    render::write_comparison(out, &report, options.format, Screen::of_stdout())?;
    for failure in &report.failures {
        eprintln!("kpkeys: {failure}");
    }
    Ok(report.failures.is_empty())
}

fn kept(options: &Options, question: &Question) -> Result<Vec<Contrast>> {
    let sides = options.sides.iter().map(|name| read::side(name)).collect::<Result<Vec<Side>>>()?;
    let (first, others) = sides.split_first().ok_or_else(|| UsageError("name two runs".into()))?;
    Ok(others.iter().map(|other| Contrast::of(first, other, question)).collect())
}

fn measured(options: &Options, question: &Question) -> Result<Vec<Contrast>> {
    let [before, after] = options.sides.as_slice() else {
        return Err(UsageError("--run takes two builds".into()).into());
    };
    let pairs = pairs(Path::new(before), Path::new(after), options.layouts)?;
    let mut attempt = 1;
    loop {
        let session = interleave::interleave(&pairs, &options.bench)?;
        let contrasts = contrasts(&pairs, &session, [before, after], question)?;
        // Folders that somebody keeps are not measured twice.
        if attempt == ATTEMPTS || session.is_kept() || contrasts.iter().all(gates_held) {
            return Ok(contrasts);
        }
        attempt += 1;
        eprintln!("kpkeys: the A/A gate failed; measuring once more, {attempt} of {ATTEMPTS}");
    }
}

/// How often two builds are measured at most. The A/A gate of a run fails by chance in one of twenty; if the machine is at fault, it fails again. What
/// is compared is the last measurement alone, and whether a build is its own twin says nothing of the other build.
const ATTEMPTS: u32 = 3;

fn gates_held(contrast: &Contrast) -> bool {
    contrast.differences.iter().all(|difference| difference.condition != Condition::Gates)
}

fn contrasts(
    pairs: &[Pair],
    session: &Session,
    [before, after]: [&String; 2],
    question: &Question,
) -> Result<Vec<Contrast>> {
    let contrast = |(pair, folders): (&Pair, &[PathBuf; 2])| -> Result<Contrast> {
        let read = |folder: &PathBuf, name: &String| {
            let layout = pair.name.as_ref().map_or(String::new(), |layout| format!(", {layout}"));
            read::folder(folder, &format!("{name}{layout}"))
        };
        Ok(Contrast::of(&read(&folders[0], before)?, &read(&folders[1], after)?, question))
    };
    pairs.iter().zip(&session.folders).map(contrast).collect()
}

/// The builds that take turns: two programs, or the sources of two, built once or in several layouts.
fn pairs(before: &Path, after: &Path, layouts: Option<u32>) -> Result<Vec<Pair>> {
    let Some(count) = layouts else {
        return Ok(vec![Pair::of(
            None,
            &built(before, &Layout::as_built())?,
            &built(after, &Layout::as_built())?,
        )?]);
    };
    if let Some(program) = [before, after].into_iter().find(|path| !path.is_dir()) {
        let program = program.display();
        return Err(UsageError(format!(
            "{program} is built already: --layouts needs a folder with the sources"
        ))
        .into());
    }
    let pair = |layout: Layout| {
        Pair::of(Some(layout.name.clone()), &built(before, &layout)?, &built(after, &layout)?)
    };
    layouts::layouts(count)?.into_iter().map(pair).collect()
}

fn built(path: &Path, layout: &Layout) -> Result<PathBuf> {
    if path.is_dir() { layouts::build(path, layout) } else { Ok(path.to_owned()) }
}
