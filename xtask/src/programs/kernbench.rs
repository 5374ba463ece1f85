//! kernbench: a library's build, executed by the kernel, and the same build's memory history replayed in it; both in instructions, in every mode.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::{Kernel, Target};
use kpkeys_pgtable::Mode;
use kpkeys_replay::History;
use serde::{Deserialize, Serialize};

use super::boot::{Boot, Ended};
use crate::{command, workspace};

/// The same build, recorded on Linux: `kpkeys trace record -o FILE -- make ...`, as `guest/kernbench.sh` has it.
const TRACE: &str = "docs/results/runs/zlib.trace";
const MEMORY_MIB: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(3600);

/// What one mode came to. A microsecond is a thousand instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The machine, and what protects its tables.
    pub target: String,
    pub backend: String,
    pub mode: String,
    /// How many milliseconds later it began: where ticks fall decides how the two jobs take turns.
    #[serde(default)]
    pub round: u32,
    /// Of the build that was executed.
    pub real_us: u64,
    pub user_us: u64,
    pub system_us: u64,
    pub faults: u64,
    /// Of the library that it made.
    pub md5: String,
    /// Of the replay.
    pub replay_ns: u64,
    /// What it was made by.
    pub commit: String,
    pub emulator: String,
}

/// Runs both in every mode, and writes what they come to, a line each; where that is.
pub fn run(kernel: &Kernel, archive: &Path, round: u32) -> Result<PathBuf> {
    let target = kernel.target();
    let file = archive.with_file_name(format!("kernbench-{round}.jsonl"));
    let steps = archive.with_file_name("zlib.steps");
    let trace = fs::read(workspace::root().join(TRACE)).context("the recorded build")?;
    fs::write(&steps, History::read(&trace)?.alone().encode()?)?;
    let made_by = MadeBy::now(target)?;
    let mut lines = String::new();
    for mode in Mode::ALL {
        let figures = figures(kernel, archive, &steps, mode, round, &made_by)?;
        lines += &(serde_json::to_string(&figures)? + "\n");
        println!("{figures:?}");
        // Each takes minutes: what is there is there.
        fs::write(&file, &lines)?;
    }
    println!("{}", file.display());
    Ok(file)
}

/// What figures are made by.
struct MadeBy {
    commit: String,
    emulator: String,
}

impl MadeBy {
    fn now(target: Target) -> Result<Self> {
        let says = |program, arguments: &[&str]| {
            command::output(&mut command::program(program, arguments))
        };
        let commit = says("git", &["rev-parse", "--short", "HEAD"])?.trim().to_owned();
        let version = says(target.program(), &["--version"])?;
        Ok(Self { commit, emulator: version.lines().next().unwrap_or_default().to_owned() })
    }
}

fn figures(
    kernel: &Kernel,
    archive: &Path,
    steps: &Path,
    mode: Mode,
    round: u32,
    made_by: &MadeBy,
) -> Result<Figures> {
    let boot = |archive| Boot {
        memory_mib: MEMORY_MIB,
        limit: LIMIT,
        counts_instructions: true,
        ..Boot::new(kernel, archive, mode)
    };
    let script = format!("sleep 0.{round:03}; sh /work/kernbench.sh");
    let executed = boot(archive).run(&script)?;
    let replayed = boot(steps).boot("replay=1")?;
    if !executed.is_well(0) || !replayed.is_clean {
        bail!("mode {}: {executed:?}, {replayed:?}", mode.name());
    }
    let said = build(&executed).with_context(|| format!("mode {}: {executed:?}", mode.name()))?;
    let ([real_us, user_us, system_us, faults], md5) = said;
    let replay_ns = *replayed.samples_ns.first().context("the replay has no sample")?;
    Ok(Figures {
        target: kernel.target().name().to_owned(),
        backend: executed.backend,
        mode: mode.name().to_owned(),
        round,
        real_us,
        user_us,
        system_us,
        faults,
        md5,
        replay_ns,
        commit: made_by.commit.clone(),
        emulator: made_by.emulator.clone(),
    })
}

/// Of what the build printed: `real N user N system N faults N`, and the sum of the library that it made.
fn build(ended: &Ended) -> Option<([u64; 4], String)> {
    const NAMES: [&str; 4] = ["real", "user", "system", "faults"];
    let line = ended.printed.iter().find(|line| line.starts_with("real "))?;
    let mut words = line.split(' ');
    let mut numbers = [0; 4];
    for (name, number) in NAMES.iter().zip(&mut numbers) {
        (words.next()? == *name).then_some(())?;
        *number = words.next()?.parse().ok()?;
    }
    let sum = ended.printed.iter().find_map(|line| line.strip_suffix("  libz.a"))?;
    Some((numbers, sum.to_owned()))
}

/// The table of kept figures: of each machine what is executed, and what its replay says of it.
pub fn table(lines: &str) -> Result<String> {
    let mut figures: Vec<Figures> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("kept figures")?;
    figures.sort_by(|one, other| other.target.cmp(&one.target));
    let of_targets = figures.chunk_by(|one, other| one.target == other.target);
    of_targets.map(of_machine).collect()
}

/// The runs of one mode on one machine.
struct Runs<'a>(Vec<&'a Figures>);

impl<'a> Runs<'a> {
    fn of(all: &'a [Figures], mode: Mode) -> Self {
        Self(all.iter().filter(|figures| figures.mode == mode.name()).collect())
    }

    /// In millions of instructions.
    fn mean(&self, of: impl Fn(&Figures) -> u64, per_million: f64) -> f64 {
        let sum: u64 = self.0.iter().map(|figures| of(figures)).sum();
        sum as f64 / self.0.len() as f64 / per_million
    }

    fn system(&self) -> f64 {
        self.mean(|figures| figures.system_us, 1e3)
    }

    fn replay(&self) -> f64 {
        self.mean(|figures| figures.replay_ns, 1e6)
    }

    /// Of system time, over the runs.
    fn range(&self) -> String {
        let all = self.0.iter().map(|figures| figures.system_us as f64 / 1e3);
        let least = all.clone().fold(f64::INFINITY, f64::min);
        format!("{least:.1} to {:.1}", all.fold(0.0, f64::max))
    }
}

fn of_machine(all: &[Figures]) -> Result<String> {
    let first = all.first().context("no figures")?;
    if all.iter().any(|figures| figures.md5 != first.md5) {
        bail!("{}: the modes did not build the same", first.target);
    }
    let off = Runs::of(all, Mode::Off);
    let mut text = format!(
        "`{}`, `{}`, {} a mode, {} page faults; commit {}, {}\n\n\
         | millions of instructions | real | user | system | of the runs | to `off` | | replay | to `off` | |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        first.target,
        first.backend,
        if off.0.len() == 1 { "one run".to_owned() } else { format!("{} runs", off.0.len()) },
        first.faults,
        first.commit,
        first.emulator
    );
    for mode in Mode::ALL {
        let runs = Runs::of(all, mode);
        if runs.0.is_empty() || runs.0.len() != off.0.len() {
            bail!("{}: mode {} was not run as often as off", first.target, mode.name());
        }
        text += &format!(
            "| {} | {:.1} | {:.1} | {:.1} | {} | {:+.1} | {} | {:.1} | {:+.1} | {} |\n",
            mode.name(),
            runs.mean(|figures| figures.real_us, 1e3),
            runs.mean(|figures| figures.user_us, 1e3),
            runs.system(),
            runs.range(),
            runs.system() - off.system(),
            percent(runs.system() / off.system()),
            runs.replay(),
            runs.replay() - off.replay(),
            percent(runs.replay() / off.replay()),
        );
    }
    Ok(text + "\n")
}

fn percent(ratio: f64) -> String {
    format!("{:+.2} %", (ratio - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(mode: &str, system_us: u64, replay_ns: u64) -> String {
        let figures = Figures {
            target: "qemu-x86_64".into(),
            backend: "pks".into(),
            mode: mode.into(),
            round: 0,
            real_us: 2_000_000,
            user_us: 1_000_000,
            system_us,
            faults: 7,
            md5: "0".into(),
            replay_ns,
            commit: "abc".into(),
            emulator: "QEMU".into(),
        };
        serde_json::to_string(&figures).unwrap() + "\n"
    }

    /// Every mode, `fused` with these figures.
    fn lines(system_us: u64, replay_ns: u64) -> String {
        let of = |mode: Mode| match mode {
            Mode::Fused => line("fused", system_us, replay_ns),
            mode => line(mode.name(), 400_000, 200_000_000),
        };
        Mode::ALL.map(of).concat()
    }

    #[test]
    fn modes_are_set_against_off() {
        let table = table(&(lines(407_000, 209_000_000) + &lines(409_000, 209_000_000))).unwrap();
        let fused = "| fused | 2000.0 | 1000.0 | 408.0 | 407.0 to 409.0 | +8.0 | +2.00 % | 209.0 | +9.0 | +4.50 % |";
        assert!(table.contains(fused) && table.contains("2 runs a mode"), "{table}");
    }

    #[test]
    fn modes_that_built_something_else_or_were_not_run_are_refused() {
        let good = lines(1, 1);
        assert!(table(&good).is_ok());
        assert!(table(&good.replacen("\"md5\":\"0\"", "\"md5\":\"1\"", 1)).is_err());
        assert!(table(&(line("off", 1, 1) + &good)).is_err());
        assert!(table(&line("fused", 1, 1)).is_err());
    }

    #[test]
    fn what_the_build_says_is_read() {
        let ended = |printed: &[&str]| Ended {
            printed: printed.iter().map(|line| (*line).to_owned()).collect(),
            status: Some(0),
            outcome: kpkeys_emulator::Outcome::Success,
            is_clean: true,
            attacks: 0,
            backend: "pks".into(),
            samples_ns: Vec::new(),
        };
        let said = build(&ended(&["x", "real 9 user 5 system 3 faults 2", "ab  libz.a"]));
        assert_eq!(said, Some(([9, 5, 3, 2], "ab".to_owned())));
        assert_eq!(build(&ended(&["real 9 user 5", "ab  libz.a"])), None);
    }
}
