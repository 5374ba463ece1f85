//! The emulated machines the kernel runs on, and what each needs.

use crate::{Error, Machine};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A 64-bit PC, `qemu-system-x86_64`.
    X86_64,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 1] = [Self::X86_64];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-x86_64",
        }
    }

    /// The emulator's program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
        }
    }

    /// The Debian package that has the program.
    pub const fn debian_package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
        }
    }

    /// The Rust target the kernel is built for.
    pub const fn rust_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-none",
        }
    }

    /// Where the emulator is installed.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`] when the program is not on `PATH`.
    pub fn find_emulator(self) -> Result<PathBuf, Error> {
        self.find_emulator_on(&std::env::var_os("PATH").unwrap_or_default())
    }

    /// Like [`Target::find_emulator`], with a search path of the caller's.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`] when the program is in none of the folders.
    pub fn find_emulator_on(self, search_path: &OsStr) -> Result<PathBuf, Error> {
        std::env::split_paths(search_path)
            .map(|folder| folder.join(self.program()))
            .find(|candidate| candidate.is_file())
            .ok_or(Error::EmulatorMissing { target: self })
    }

    /// The emulator's arguments: software emulation only, no devices but the serial line on
    /// standard output and the exit device, and an end instead of a reboot.
    pub(crate) fn arguments(self, kernel: &Path, machine: &Machine) -> Vec<std::ffi::OsString> {
        let (cpus, memory) = (machine.cpus.to_string(), format!("{}M", machine.memory_mib));
        let mut arguments: Vec<std::ffi::OsString> = vec!["-kernel".into(), kernel.into()];
        let common = [
            ["-append", &machine.command_line],
            ["-cpu", &machine.cpu_model],
            ["-smp", &cpus],
            ["-m", &memory],
            ["-accel", "tcg"],
            ["-display", "none"],
            ["-serial", "stdio"],
            ["-monitor", "none"],
        ];
        arguments.extend(common.concat().into_iter().map(Into::into));
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(Into::into));
        match self {
            Self::X86_64 => arguments.extend(
                ["-M", "pc", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"].map(Into::into),
            ),
        }
        arguments
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|target| target.name() == name);
        known.ok_or_else(|| Error::UnknownTarget { name: name.to_owned() })
    }
}
