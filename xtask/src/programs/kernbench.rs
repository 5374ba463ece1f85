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
/// What is executed.
const SCRIPT: &str = "sh /work/kernbench.sh";
const MEMORY_MIB: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(3600);

/// What one mode came to. A microsecond is a thousand instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The machine, and what protects its tables.
    pub target: String,
    pub backend: String,
    pub mode: String,
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
pub fn run(kernel: &Kernel, archive: &Path) -> Result<PathBuf> {
    let target = kernel.target();
    let file = archive.with_file_name("kernbench.jsonl");
    let steps = archive.with_file_name("zlib.steps");
    let trace = fs::read(workspace::root().join(TRACE)).context("the recorded build")?;
    fs::write(&steps, History::read(&trace)?.alone().encode()?)?;
    let mut lines = String::new();
    for mode in Mode::ALL {
        let figures = figures(kernel, target, archive, &steps, mode)?;
        lines += &(serde_json::to_string(&figures)? + "\n");
        println!("{figures:?}");
        // Each takes minutes: what is there is there.
        fs::write(&file, &lines)?;
    }
    println!("{}", file.display());
    Ok(file)
}

fn figures(
    kernel: &Kernel,
    target: Target,
    archive: &Path,
    steps: &Path,
    mode: Mode,
) -> Result<Figures> {
    let boot = |archive| Boot {
        memory_mib: MEMORY_MIB,
        limit: LIMIT,
        counts_instructions: true,
        ..Boot::new(kernel, archive, mode)
    };
    let executed = boot(archive).run(SCRIPT)?;
    let replayed = boot(steps).boot("replay=1")?;
    if !executed.is_well(0) || !replayed.is_clean {
        bail!("mode {}: {executed:?}, {replayed:?}", mode.name());
    }
    let said = build(&executed).with_context(|| format!("mode {}: {executed:?}", mode.name()))?;
    let ([real_us, user_us, system_us, faults], md5) = said;
    let replay_ns = *replayed.samples_ns.first().context("the replay has no sample")?;
    let emulator = command::output(&mut command::program(target.program(), &["--version"]))?;
    let commit = command::output(&mut command::program("git", &["rev-parse", "--short", "HEAD"]))?;
    Ok(Figures {
        target: target.name().to_owned(),
        backend: executed.backend,
        mode: mode.name().to_owned(),
        real_us,
        user_us,
        system_us,
        faults,
        md5,
        replay_ns,
        commit: commit.trim().to_owned(),
        emulator: emulator.lines().next().unwrap_or_default().to_owned(),
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
    let figures: Vec<Figures> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("kept figures")?;
    let mut text = String::new();
    for of_target in figures.chunk_by(|one, other| one.target == other.target) {
        let off = of_target.iter().find(|figures| figures.mode == Mode::Off.name());
        let off = off.context("there are no figures of mode off")?;
        if of_target.iter().any(|figures| figures.md5 != off.md5 || figures.faults != off.faults) {
            bail!("{}: the modes did not build the same", off.target);
        }
        text += &of_machine(off, of_target);
    }
    Ok(text)
}

fn of_machine(off: &Figures, all: &[Figures]) -> String {
    let mut text = format!(
        "`{}`, `{}`, {} page faults; commit {}, {}\n\n\
         | millions of instructions | real | user | system | system, to `off` | replay | replay, to `off` | more system | more replay |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        off.target, off.backend, off.faults, off.commit, off.emulator
    );
    for figures in all {
        let more_system = figures.system_us as f64 - off.system_us as f64;
        let more_replay = figures.replay_ns as f64 - off.replay_ns as f64;
        text += &format!(
            "| {} | {:.1} | {:.1} | {:.1} | {} | {:.1} | {} | {:+.1} | {:+.1} |\n",
            figures.mode,
            figures.real_us as f64 / 1e3,
            figures.user_us as f64 / 1e3,
            figures.system_us as f64 / 1e3,
            percent(figures.system_us as f64 / off.system_us as f64),
            figures.replay_ns as f64 / 1e6,
            percent(figures.replay_ns as f64 / off.replay_ns as f64),
            more_system / 1e3,
            more_replay / 1e6,
        );
    }
    text + "\n"
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

    #[test]
    fn modes_are_set_against_off() {
        let table =
            table(&(line("off", 400_000, 200_000_000) + &line("fused", 408_000, 209_000_000)));
        let table = table.unwrap();
        assert!(
            table.contains(
                "| fused | 2000.0 | 1000.0 | 408.0 | +2.00 % | 209.0 | +4.50 % | +8.0 | +9.0 |"
            ),
            "{table}"
        );
    }

    #[test]
    fn modes_that_built_something_else_are_refused() {
        let other = line("fused", 1, 1).replace("\"faults\":7", "\"faults\":8");
        assert!(table(&(line("off", 1, 1) + &other)).is_err());
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
