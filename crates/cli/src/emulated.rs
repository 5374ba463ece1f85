//! What the calls that run the reference kernel in an emulator share: the machine's options, and one boot of it.

#[cfg_attr(not(test), allow(dead_code, reason = "for `kpkeys bench --on`"))]
pub mod bench;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::{Kernel, Line, Machine, Outcome, Target};

use crate::usage::UsageError;

/// Backends the kernels know.
const BACKENDS: [&str; 3] = ["pks", "mock", "none"];

/// The machine to emulate.
#[derive(clap::Args, Clone, Debug)]
pub struct MachineOptions {
    /// Which machine: qemu-x86_64
    #[arg(long, default_value = "qemu-x86_64", value_name = "WHERE")]
    on: String,
    /// How windows are opened: pks, mock or none [default: the best the CPU model has]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// CPUs
    #[arg(long, default_value_t = 4, value_name = "N")]
    smp: u32,
    /// Memory in MiB
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    memory: u32,
    /// The emulator's CPU model
    #[arg(long, default_value = "max", value_name = "MODEL")]
    cpu: String,
    /// Seconds a boot may take before the emulator is stopped
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    time_limit: u64,
}

/// A kernel that was built, and the machine it is to run on.
pub struct Emulated {
    kernel: Kernel,
    machine: Machine,
    backend: Option<String>,
}

impl MachineOptions {
    /// The name of the machine.
    pub fn on(&self) -> &str {
        &self.on
    }

    /// Builds the kernel for the machine.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a machine or backend that does not exist; otherwise what the build failed with.
    pub fn build(&self) -> Result<Emulated> {
        let target: Target = self.on.parse().map_err(|error| UsageError(format!("{error}")))?;
        if let Some(backend) = &self.backend
            && !BACKENDS.contains(&backend.as_str())
        {
            return Err(UsageError::unknown("backend", backend, BACKENDS).into());
        }
        // Before the build, which takes longer than finding out that it was for nothing.
        target.find_emulator()?;
        let machine = Machine {
            memory_mib: self.memory,
            cpus: self.smp,
            cpu_model: self.cpu.clone(),
            command_line: String::new(),
            time_limit: Duration::from_secs(self.time_limit),
        };
        Ok(Emulated { kernel: Kernel::build(target)?, machine, backend: self.backend.clone() })
    }
}

impl Emulated {
    /// A machine that runs the rows of the table.
    ///
    /// # Errors
    ///
    /// As [`MachineOptions::build`].
    #[cfg_attr(not(test), allow(dead_code, reason = "for `kpkeys bench --on`"))]
    pub fn for_bench(on: &str, backend: Option<&str>) -> Result<Emulated> {
        let machine = MachineOptions {
            on: on.to_owned(),
            backend: backend.map(str::to_owned),
            smp: bench::CPUS,
            memory: bench::MEMORY_MIB,
            cpu: "max".to_owned(),
            time_limit: 600,
        };
        machine.build()
    }

    /// Boots the kernel with `words` on its command line and hands on each line it prints. Returns whether everything it was asked for
    /// was done and held.
    ///
    /// # Errors
    ///
    /// The kernel did not start, panicked, or did not end in time; with what it printed last.
    pub fn boot(&self, words: &str, on_line: &mut dyn FnMut(Line<'_>)) -> Result<bool> {
        let mut command_line = words.to_owned();
        if let Some(backend) = &self.backend {
            command_line += &format!(" backend={backend}");
        }
        let machine = Machine { command_line, ..self.machine.clone() };
        let run = self
            .kernel
            .run(&machine, on_line)
            .with_context(|| format!("the kernel, booted with `{}`", machine.command_line))?;
        match run.outcome {
            Outcome::Success => Ok(true),
            Outcome::Failed => Ok(false),
            Outcome::Panicked => bail!("the kernel panicked: {}", run.last),
            Outcome::Refused => bail!("the kernel did not start: {}", run.last),
        }
    }
}
