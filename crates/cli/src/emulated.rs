//! What the calls that run the reference kernel in an emulator share: the machine's options, and one boot of it.

pub mod bench;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::{Accel, Kernel, Line, Machine, Outcome, Run, Tables, Target};
use kpkeys_pgtable::{Keys, Mode};
use serde::Deserialize;

use crate::usage::UsageError;

/// The machine to emulate.
#[derive(clap::Args, Clone, Debug)]
pub struct MachineOptions {
    /// Which machine: qemu-x86_64 or qemu-aarch64
    #[arg(long, default_value = "qemu-x86_64", value_name = "WHERE")]
    on: String,
    /// The format of the kernel's page tables: x86_64-la57, of five levels; aarch64-16k or aarch64-64k, by the size of
    /// pages [default: the machine's usual]
    #[arg(long, value_name = "FORMAT")]
    tables: Option<String>,
    /// How windows are opened: pks or smap (x86-64), pan, ttbr0 or poe (arm64), mock or none [default: the best the CPU model has]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Which keys page tables carry in mode fused: one, or separate, where those of address spaces have one of their own (pks, poe, mock) [default: one]
    #[arg(long, value_name = "KEYS", value_parser = keys)]
    keys: Option<Keys>,
    /// Who executes the kernel: tcg, the emulator; or kvm, this machine's CPU, with the protection that it has
    #[arg(long, default_value = "tcg", value_name = "HOW")]
    accel: Accel,
    /// CPUs
    #[arg(long, default_value_t = 4, value_name = "N")]
    smp: u32,
    /// NUMA nodes that CPUs and memory are dealt out to
    #[arg(long, default_value_t = 1, value_name = "N")]
    nodes: u32,
    /// Memory in MiB [default: 256, or 2048 with pages of 64 KiB]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// The emulator's CPU model
    #[arg(long, default_value = "max", value_name = "MODEL")]
    cpu: String,
    /// Seconds a boot may take before the emulator is stopped
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    time_limit: u64,
}

/// A kernel that was built, and the machine it is to run on.
#[derive(Clone)]
pub struct Emulated {
    kernel: Kernel,
    machine: Machine,
    backend: Option<String>,
    keys: Keys,
}

impl MachineOptions {
    /// The name of the machine, and who executes the kernel if that is not the emulator.
    pub fn on(&self) -> String {
        match self.accel {
            Accel::Tcg => self.on.clone(),
            accel => format!("{} with {accel}", self.on),
        }
    }

    /// Which keys page tables carry in mode `fused`.
    pub fn keys(&self) -> Keys {
        self.keys.unwrap_or_default()
    }

    /// Builds the kernel for the machine.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a machine or backend that does not exist; otherwise what the build failed with.
    pub fn build(&self) -> Result<Emulated> {
        let tables = self.tables()?;
        self.build_by(|target| match tables {
            None => Ok(Kernel::build(target)?),
            Some(tables) if tables.target() == target => Ok(Kernel::build_with(tables)?),
            Some(tables) => Err(not_of(tables, target).into()),
        })
    }

    /// The format of tables that was asked for, if any was.
    fn tables(&self) -> Result<Option<Tables>, UsageError> {
        self.tables.as_deref().map(tables_of).transpose()
    }

    /// Builds the kernel with planted faults, and the exploits, from which it runs programs.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`UsageError`] for tables that there is no such kernel with.
    pub fn build_vulnerable(&self) -> Result<Emulated> {
        if let Some(tables) = self.tables()? {
            let name = tables.name();
            return Err(UsageError(format!("exploits are for the usual tables, not {name}")).into());
        }
        let emulated = self.build_by(|target| Ok(Kernel::build_vulnerable(target)?))?;
        let archive = kpkeys_emulator::exploits(emulated.kernel.target())?;
        Ok(emulated.with_initramfs(&archive))
    }

    fn build_by(&self, build: impl FnOnce(Target) -> Result<Kernel>) -> Result<Emulated> {
        let target: Target = self.on.parse().map_err(|error| UsageError(format!("{error}")))?;
        if let Some(backend) = &self.backend {
            check_backend(target, backend)?;
            check_keys(self.keys(), backend)?;
        }
        // Before the build, which takes longer than finding out that it was for nothing.
        target.find_emulator()?;
        self.accel.check(target)?;
        let machine = Machine {
            memory_mib: self.memory.unwrap_or(self.tables()?.map_or(256, Tables::memory_mib)),
            cpus: self.smp,
            nodes: self.nodes,
            accel: self.accel,
            cpu_model: self.cpu.clone(),
            time_limit: Duration::from_secs(self.time_limit),
            ..Machine::default()
        };
        let (backend, keys) = (self.backend.clone(), self.keys());
        Ok(Emulated { kernel: build(target)?, machine, backend, keys })
    }
}

/// The tables of a format.
fn tables_of(name: &str) -> Result<Tables, UsageError> {
    let known = Tables::ALL.into_iter();
    let unknown =
        || UsageError::unknown("format of page tables", name, Tables::ALL.map(Tables::name));
    known.into_iter().find(|tables| tables.name() == name).ok_or_else(unknown)
}

fn not_of(tables: Tables, target: Target) -> UsageError {
    let (name, of, on) = (tables.name(), tables.target().name(), target.name());
    UsageError(format!("page tables of format {name} are {of}'s, not {on}'s"))
}

/// Refuses a backend that the target's kernel does not have.
///
/// # Errors
///
/// [`UsageError`] with those it has.
pub fn check_backend(target: Target, backend: &str) -> Result<(), UsageError> {
    let known = target.backends();
    if known.contains(&backend) {
        return Ok(());
    }
    let what = format!("backend on {}", target.name());
    Err(UsageError::unknown(&what, backend, known.iter().copied()))
}

/// Backends that have keys to spare.
const WITH_KEYS: [&str; 4] = ["pks", "poe", "pku", "mock"];

/// Refuses keys that a backend does not have.
///
/// # Errors
///
/// [`UsageError`] with the backends that have them.
pub fn check_keys(keys: Keys, backend: &str) -> Result<(), UsageError> {
    if keys == Keys::One || WITH_KEYS.contains(&backend) {
        return Ok(());
    }
    Err(UsageError(format!(
        "--keys separate needs a backend with keys to spare ({}); backend {backend} has one class of protected pages",
        WITH_KEYS.join(", ")
    )))
}

/// The keys with this name, for the command line.
///
/// # Errors
///
/// The names there are.
pub fn keys(name: &str) -> Result<Keys, String> {
    let known = Keys::ALL.map(Keys::name).join(", ");
    Keys::from_name(name).ok_or_else(|| format!("expected one of: {known}"))
}

/// What came of a boot that came to its end.
pub struct Boot {
    /// Whether everything the kernel was asked for was done and held.
    pub held: bool,
    /// Whether the kernel panicked.
    pub panicked: bool,
    /// The backend the kernel said it protects its tables by.
    pub backend: Option<String>,
    /// Whether that is none at all although nobody asked for none: the CPU model has nothing to protect them by.
    pub unprotected: bool,
}

/// The name of the backend that protects nothing.
const NO_BACKEND: &str = "none";
/// What is said where protection was expected and there was none.
pub const UNPROTECTED: &str = "the CPU model has nothing to protect page tables by, and the kernel ran without; \
                               choose another --cpu, or ask for --backend none or mock";

/// The one record that every boot of every call looks at.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Reported {
    Protection {
        backend: String,
    },
    #[serde(other)]
    Other,
}

impl Emulated {
    /// A machine that runs the rows of the table.
    ///
    /// # Errors
    ///
    /// As [`MachineOptions::build`].
    pub fn for_bench(target: Target, backend: Option<&str>, keys: Keys) -> Result<Emulated> {
        let machine = MachineOptions {
            on: target.name().to_owned(),
            tables: None,
            backend: backend.map(str::to_owned),
            keys: Some(keys),
            smp: bench::CPUS,
            nodes: 1,
            accel: Accel::Tcg,
            memory: Some(bench::MEMORY_MIB),
            cpu: "max".to_owned(),
            time_limit: 600,
        };
        machine.build()
    }

    /// The same machine with an archive of files to run programs from.
    pub fn with_initramfs(&self, archive: &Path) -> Emulated {
        let machine = Machine { initramfs: Some(archive.to_owned()), ..self.machine.clone() };
        Emulated { machine, ..self.clone() }
    }

    /// Boots the kernel with the caller's terminal as its serial line; returns whether what it was asked for was done and held.
    ///
    /// # Errors
    ///
    /// The kernel did not start, or panicked.
    pub fn boot_attached(&self, words: &str) -> Result<bool> {
        if self.machine.accel != Accel::Tcg {
            // Where it gives up, the emulator waits for ever: found out by a boot that is watched.
            self.backend()?;
        }
        let command_line = self.command_line(words);
        let machine = Machine { command_line, ..self.machine.clone() };
        match self.kernel.run_attached(&machine)? {
            Outcome::Success => Ok(true),
            Outcome::Failed => Ok(false),
            other => bail!("the kernel ended with {other:?}; what it said is above"),
        }
    }

    /// The kernel's words, and the backend before them: behind a command's `--` everything is the command's.
    fn command_line(&self, words: &str) -> String {
        match &self.backend {
            Some(backend) => format!("backend={backend} {words}"),
            None => words.to_owned(),
        }
    }

    /// The file of the kernel it boots.
    pub fn kernel_file(&self) -> &Path {
        self.kernel.image()
    }

    /// The same machine with this backend.
    pub fn with_backend(&self, backend: &str) -> Emulated {
        Emulated { backend: Some(backend.to_owned()), ..self.clone() }
    }

    /// The same machine with one CPU and a clock that counts the instructions it executes.
    pub fn counting_instructions(&self) -> Emulated {
        let machine = Machine { cpus: 1, clock_by_instructions: true, ..self.machine.clone() };
        Emulated { machine, ..self.clone() }
    }

    /// The kernel's words for a mode, and for the keys that it is to have there.
    pub fn words_of(&self, mode: &str) -> String {
        match self.keys {
            Keys::Separate if mode == Mode::Fused.name() => {
                format!("mode={mode} keys={}", self.keys.name())
            }
            _ => format!("mode={mode}"),
        }
    }

    /// Boots the kernel and returns the backend it selects: the one asked for, or the best it finds.
    ///
    /// # Errors
    ///
    /// As [`Emulated::boot`]; the kernel says why a backend cannot be used.
    pub fn backend(&self) -> Result<String> {
        let boot = self.boot("", &mut |_| ())?;
        if boot.unprotected {
            bail!("{UNPROTECTED}");
        }
        boot.backend.context("the kernel did not say what protects it")
    }

    /// Boots the kernel with `words` on its command line and hands on each line it prints.
    ///
    /// # Errors
    ///
    /// The kernel did not start, panicked, or did not end in time; with what it printed last.
    pub fn boot(&self, words: &str, on_line: &mut dyn FnMut(Line<'_>)) -> Result<Boot> {
        let (boot, run) = self.boot_to_any_end(words, on_line)?;
        if boot.panicked {
            bail!("the kernel panicked: {}", run.last);
        }
        Ok(boot)
    }

    /// [`boot`](Self::boot) for whom a panic is an answer as well.
    ///
    /// # Errors
    ///
    /// The kernel did not start, or did not end in time.
    pub fn boot_to_any_end(
        &self,
        words: &str,
        on_line: &mut dyn FnMut(Line<'_>),
    ) -> Result<(Boot, Run)> {
        let command_line = self.command_line(words);
        let machine = Machine { command_line, ..self.machine.clone() };
        let mut protected_by = None;
        let run = self
            .kernel
            .run(&machine, &mut |line| {
                if let Line::Record(json) = line
                    && let Ok(Reported::Protection { backend }) = serde_json::from_str(json)
                {
                    protected_by = Some(backend);
                }
                on_line(line);
            })
            .with_context(|| format!("the kernel, booted with `{}`", machine.command_line))?;
        if run.outcome == Outcome::Refused {
            bail!("the kernel did not start: {}", run.last);
        }
        let unprotected = self.backend.is_none() && protected_by.as_deref() == Some(NO_BACKEND);
        let boot = Boot {
            held: run.outcome == Outcome::Success,
            panicked: run.outcome == Outcome::Panicked,
            backend: protected_by,
            unprotected,
        };
        Ok((boot, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_keys_are_refused_where_there_is_one_class_of_pages() {
        for backend in ["smap", "pan", "ttbr0", "none"] {
            let error = check_keys(Keys::Separate, backend).unwrap_err().to_string();
            assert!(error.contains("pks, poe, pku, mock") && error.contains(backend), "{error}");
            assert_eq!(check_keys(Keys::One, backend), Ok(()));
        }
        for backend in WITH_KEYS {
            assert_eq!(check_keys(Keys::Separate, backend), Ok(()));
        }
    }

    #[test]
    fn keys_are_named() {
        for known in Keys::ALL {
            assert_eq!(keys(known.name()), Ok(known));
        }
        assert_eq!(keys("two"), Err("expected one of: one, separate".to_owned()));
    }
}
