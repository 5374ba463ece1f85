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
//! | [`root`] | an archive of real programs: compilers, make, Python, stress-ng, musl |
//! | [`real`] | what is done with these |

mod boot;
mod busybox;
pub mod kernbench;
mod real;
mod root;

use anyhow::Result;
use clap::{Args, ValueEnum};
use kpkeys_emulator::{Kernel, Target};
use kpkeys_pgtable::Mode;

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Scripts for a static busybox, in every mode (fetches 2 MB)
    Busybox,
    /// Only write the archive of all other programs (fetches 75 MB a machine, for all that follow)
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

#[derive(Args)]
pub struct Arguments {
    /// What to run; everything if nothing is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// On this machine only
    #[arg(long, value_name = "TARGET")]
    on: Option<Target>,
    /// In this mode, where there is one run and not one in every mode
    #[arg(long, default_value = "fused", value_parser = mode)]
    mode: Mode,
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
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    for target in Target::ALL {
        if arguments.on.is_some_and(|only| only != target) {
            continue;
        }
        let kernel = Kernel::build(target)?;
        if wants(Part::Busybox) {
            busybox::run(&kernel, target)?;
        }
        let parts = [
            Part::Archive,
            Part::C,
            Part::Python,
            Part::Build,
            Part::Stress,
            Part::Series,
            Part::Kernbench,
        ];
        if !parts.into_iter().any(wants) {
            continue;
        }
        let archive = root::archive(target)?;
        let real = real::Real { kernel: &kernel, archive: &archive, mode: arguments.mode };
        if wants(Part::C) {
            real.c_programs()?;
        }
        if wants(Part::Python) {
            real.python()?;
        }
        if wants(Part::Build) {
            real.build()?;
        }
        if wants(Part::Stress) {
            real.stress(arguments.seconds)?;
        }
        if wants(Part::Series) {
            real.series()?;
        }
        if wants(Part::Kernbench) {
            kernbench::run(&kernel, &archive, arguments.round)?;
        }
    }
    Ok(())
}
