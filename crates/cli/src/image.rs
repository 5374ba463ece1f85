//! `kpkeys image`: the reference kernel as something a real machine boots.
//!
//! | module | concept |
//! |---|---|
//! | [`disk`] | files as a disk with one partition that UEFI firmware reads |
//! | [`lines`] | the command lines of a run that measures |

mod disk;
mod lines;

use std::path::PathBuf;

use anyhow::{Context, Result};
use kpkeys_emulator::{Kernel, Target};
use kpkeys_handover::medium::SETTINGS;

use crate::bench::plan::Effort;
use crate::bench::write_whole;
use crate::usage::UsageError;
use disk::File;

const EXAMPLES: &str = "\
Examples:
  kpkeys image --out kpkeys.img                            both kinds of machine; what to run is asked there
  kpkeys image --out kpkeys.img --run attack               every attack, as soon as the machine is on
  kpkeys image --out kpkeys.img --run tests --run soak=600 one after the other, with a restart between them
  kpkeys image --out kpkeys.img --bench --quick            the evaluation, for kpkeys bench --import
  kpkeys image --out arm.img --arch aarch64 --run 'attack backend=pan'";

/// The options of `kpkeys image`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The file to write: a disk, for a stick or for a cloud's image
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Which kind of machine it is for: x86_64, aarch64 or both
    #[arg(long, default_value = BOTH, value_name = "ARCH")]
    arch: String,
    /// The kernel's command line, as behind `kpkeys run`; given again, it is run next, after a restart [default: ask on the machine]
    #[arg(long, value_name = "WORDS")]
    run: Vec<String>,
    /// Measure: every row in every mode, each in a boot of its own, for `kpkeys bench --import`
    #[arg(long, conflicts_with = "run")]
    bench: bool,
    /// With --bench: four blocks and short rows, 29 boots; twelve blocks are 77
    #[arg(long, requires = "bench")]
    quick: bool,
    /// With --bench: seed of the order of modes in each block
    #[arg(long, requires = "bench", default_value_t = 1, value_name = "N")]
    seed: u64,
}

const BOTH: &str = "both";

/// Builds loaders and kernels and writes the disk.
///
/// # Errors
///
/// [`UsageError`] for what cannot be asked; otherwise what the builds failed with.
pub fn run(options: &Options) -> Result<()> {
    let targets = targets(&options.arch)?;
    let settings = settings(&options.lines())?;
    let mut files = vec![File { path: SETTINGS, contents: settings.into_bytes() }];
    for target in targets {
        files.extend(files_for(target)?);
    }
    let disk = disk::write(&files)?;
    write_whole(&options.out, &disk)
        .with_context(|| format!("cannot write {}", options.out.display()))?;
    let (file, mib) = (options.out.display(), disk.len() >> 20);
    eprintln!("kpkeys: {file}: {mib} MiB; write it to a whole stick, not to a partition of one");
    Ok(())
}

impl Options {
    fn lines(&self) -> Vec<String> {
        let effort = if self.quick { Effort::Quick } else { Effort::Normal };
        if self.bench { lines::of_run(effort, self.seed) } else { self.run.clone() }
    }
}

/// The loader and the kernel of one kind of machine.
fn files_for(target: Target) -> Result<[File; 2]> {
    let machine = target.machine();
    let loader = kpkeys_emulator::loader(target)?;
    let loader =
        std::fs::read(&loader).with_context(|| format!("cannot read {}", loader.display()))?;
    let kernel = Kernel::build(target)?.for_loader()?;
    Ok([
        File { path: machine.loader(), contents: loader },
        File { path: machine.kernel(), contents: kernel },
    ])
}

fn targets(arch: &str) -> Result<Vec<Target>, UsageError> {
    let named = |target: &Target| arch == BOTH || target.machine().name() == arch;
    let targets: Vec<Target> = Target::ALL.into_iter().filter(named).collect();
    if targets.is_empty() {
        let names = Target::ALL.map(|target| target.machine().name());
        return Err(UsageError::unknown("arch", arch, names.into_iter().chain([BOTH])));
    }
    Ok(targets)
}

/// The text of the settings: each command line on a line of its own.
fn settings(lines: &[String]) -> Result<String, UsageError> {
    let mut text = String::from(
        "# What the kernel is started with: each line is one start, and the machine restarts between them.\n\
         # A line that begins with x86_64: or aarch64: is for such machines alone. No line, or `ask`: a menu.\n",
    );
    for line in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.contains(['\n', '\r', '\0']) {
            return Err(UsageError(format!(
                "--run takes the words of one command line, not {line:?}"
            )));
        }
        text += line;
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kpkeys_handover::medium::Machine;
    use kpkeys_handover::settings::Settings;

    #[test]
    fn settings_are_read_as_they_were_asked_for() {
        let read = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            Settings::parse(&settings(&lines).unwrap(), Machine::X86_64)
        };
        assert_eq!(read(&[]), Settings::Ask);
        let lines = ["attack backend=smap", " tests "];
        assert_eq!(
            read(&lines),
            Settings::Lines(vec!["attack backend=smap".into(), "tests".into()])
        );
    }

    #[test]
    fn what_would_be_no_line_or_two_is_refused() {
        for bad in ["", " ", "# attack", "attack\ntests"] {
            assert!(settings(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds_of_machines_go_by_name() {
        assert_eq!(targets("aarch64").unwrap(), [Target::Aarch64]);
        assert_eq!(targets("both").unwrap(), Target::ALL);
        let error = targets("arm64").unwrap_err().to_string();
        assert_eq!(error, "unknown arch `arm64`; expected one of: x86_64, aarch64, both");
    }
}
