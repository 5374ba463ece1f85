//! `cargo xtask programs`: programs of the distribution, unmodified, on the reference kernel.
//!
//! Run on request, since it fetches packages ([`crate::debian`]) and boots many times. The archives it makes stay in the target directory, for
//! `kpkeys run --rootfs`.
//!
//! | module | concept |
//! |---|---|
//! | [`boot`] | one command on one machine: what it prints, and how it ends |
//! | [`kernbench`] | a build executed and replayed, counted in instructions |
//! | [`busybox`] | scripts for a static busybox, in every mode |
//! | [`suite`] | busybox's own test-suite |
//! | [`root`] | an archive of real programs: compilers, make, Python, stress-ng, musl |
//! | [`real`] | what is done with these |
//! | [`short`] | what the gate runs of all this |
//! | [`session`] | a shell for a person, and a picture of one |

mod boot;
mod busybox;
pub mod kernbench;
mod real;
mod root;
mod session;
pub mod short;
mod suite;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kpkeys_emulator::{Kernel, Target};
use kpkeys_pgtable::Mode;
use real::Real;

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Scripts for a static busybox, in every mode (fetches 2 MB)
    Busybox,
    /// busybox's own test-suite (fetches 5 MB; 15 minutes or more)
    Suite,
    /// A shell on this terminal, with all programs (on x86-64 if no machine is named); only where it is named
    Shell,
    /// Types a session at the shell and draws it, for README and book; only where it is named
    Picture,
    /// Only write the archive of all other programs (fetches 75 MB a machine)
    Archive,
    /// C programs that ask for memory and threads as real ones do, and for more than there is; compiled there, with glibc and musl
    C,
    /// A Python script with threads, processes and mmap, compared with the same on this host
    Python,
    /// configure and make -j2 of zlib
    Build,
    /// stress-ng's stressors of memory and processes, with verification
    Stress,
    /// The series' fork and munmap as a program, counted in instructions, in every mode
    Series,
    /// The build of a library, executed and replayed, counted in instructions, in every mode (a quarter of an hour a machine)
    Kernbench,
}

impl Part {
    /// What is run where nothing is named.
    const ALL: [Self; 7] = [
        Self::Busybox,
        Self::Suite,
        Self::C,
        Self::Python,
        Self::Build,
        Self::Stress,
        Self::Series,
    ];
}

#[derive(Args)]
pub struct Arguments {
    /// What to run; everything that checks itself if nothing is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// On this machine only
    #[arg(long, value_name = "TARGET")]
    on: Option<Target>,
    /// In these modes, where there is not one run in every mode
    #[arg(long, alias = "mode", default_value = "fused", value_delimiter = ',', value_parser = mode)]
    modes: Vec<Mode>,
    /// How long each stressor runs
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u32,
    /// Of kernbench: which run of each mode it is, each of which begins a millisecond later
    #[arg(long, default_value_t = 0)]
    round: u32,
}

fn mode(name: &str) -> Result<Mode, String> {
    let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    found.ok_or_else(|| format!("one of {}", Mode::ALL.map(Mode::name).join(", ")))
}

/// Debian's name of a machine.
fn architecture(target: Target) -> &'static str {
    match target {
        Target::X86_64 => "amd64",
        Target::Aarch64 => "arm64",
    }
}

/// Runs what is asked for.
pub fn run(arguments: &Arguments) -> Result<()> {
    let parts = if arguments.parts.is_empty() { &Part::ALL[..] } else { &arguments.parts };
    let first_only = parts.contains(&Part::Shell);
    let targets =
        Target::ALL.into_iter().filter(|target| arguments.on.is_none_or(|on| on == *target));
    for target in targets.take(if first_only { 1 } else { usize::MAX }) {
        let house = House { kernel: Kernel::build(target)?, archive: OnceCell::new() };
        for part in parts {
            house.run(*part, arguments)?;
        }
    }
    Ok(())
}

/// Where programs run.
struct House {
    kernel: Kernel,
    archive: OnceCell<PathBuf>,
}

impl House {
    fn run(&self, part: Part, arguments: &Arguments) -> Result<()> {
        let (kernel, modes) = (&self.kernel, &arguments.modes);
        match part {
            Part::Busybox => busybox::run(kernel),
            Part::Suite => modes.iter().try_for_each(|mode| suite::run(kernel, *mode)),
            Part::Archive => self.archive().map(drop),
            Part::Series => real::series(kernel, self.archive()?),
            Part::Kernbench => kernbench::run(kernel, self.archive()?, arguments.round).map(drop),
            Part::C => self.in_modes(modes, Real::c_programs),
            Part::Python => self.in_modes(modes, Real::python),
            Part::Build => self.in_modes(modes, Real::build),
            Part::Stress => {
                let archive = root::small_archive(kernel.target())?;
                let of = |mode| Real { kernel, archive: &archive, mode };
                modes.iter().try_for_each(|mode| of(*mode).stress(arguments.seconds))
            }
            Part::Shell => self.in_modes(modes, session::shell),
            Part::Picture => self.in_modes(modes, session::record),
        }
    }

    fn in_modes<'a>(&'a self, modes: &[Mode], run: impl Fn(&Real<'a>) -> Result<()>) -> Result<()> {
        let (kernel, archive) = (&self.kernel, self.archive()?);
        modes.iter().try_for_each(|mode| run(&Real { kernel, archive, mode: *mode }))
    }

    /// The archive of all programs, made when it is first asked for.
    fn archive(&self) -> Result<&Path> {
        if self.archive.get().is_none() {
            // Nobody else sets it.
            let _ = self.archive.set(root::archive(self.kernel.target())?);
        }
        Ok(self.archive.get().context("the archive was just made")?)
    }
}
