//! What can go wrong before and around the kernel.

use crate::{Accel, Target};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why there is no outcome.
#[derive(Debug)]
pub enum Error {
    /// No emulated machine has this name.
    UnknownTarget {
        /// The name.
        name: String,
    },
    /// The emulator is not installed.
    EmulatorMissing {
        /// For which machine.
        target: Target,
    },
    /// The libraries of a Rust target that is built for are not installed.
    RustTargetMissing {
        /// Its name.
        rust_target: &'static str,
    },
    /// The kernel's source was to be written to the user's cache, and there is none.
    NoCache,
    /// `cargo build` of the kernel failed; its messages went to standard error.
    Build {
        /// How it ended.
        status: ExitStatus,
    },
    /// What was built is not an image that the emulator can be given.
    BadImage {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program could not be started or watched, or a file not be read or written.
    Io {
        /// The program or file.
        program: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The kernel cannot be run so here.
    NotAccelerated {
        /// How.
        accel: Accel,
        /// Why not, and what to do.
        reason: String,
    },
    /// KVM is there, and gave up on an instruction of the guest's kernel: it does not let the CPU execute it.
    Emulates {
        /// What was printed last.
        last: LastLines,
    },
    /// The emulator was killed at the time limit.
    TimeLimit {
        /// The limit.
        limit: Duration,
        /// What was printed last.
        last: LastLines,
    },
    /// The emulator ended without the kernel having said how it went.
    Died {
        /// The emulator's status.
        status: ExitStatus,
        /// What was printed last.
        last: LastLines,
    },
}

/// The end of what the kernel printed, and of what the emulator itself said.
#[derive(Clone, Debug, Default)]
pub struct LastLines {
    /// From the serial line.
    pub serial: Vec<String>,
    /// From the emulator's standard error.
    pub emulator: Vec<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTarget { name } => {
                let known = Target::ALL.map(Target::name).join(", ");
                write!(f, "no emulated machine is called `{name}`; known: {known}")
            }
            Self::EmulatorMissing { target } => {
                let advice = Target::install_advice(&[*target]);
                write!(
                    f,
                    "`{}` is not installed; {advice}",
                    target.program()
                )
            }
            Self::RustTargetMissing { rust_target: name } => {
                write!(f, "Rust's target {name} is not installed; `rustup target add {name}` installs it")
            }
            Self::NoCache => f.write_str("there is no folder to build the kernel in; set HOME or XDG_CACHE_HOME to an absolute path"),
            Self::Build { status } => write!(f, "building the kernel failed ({status})"),
            Self::BadImage { file, reason } => {
                write!(f, "{} cannot be made a flat image: {reason}", file.display())
            }
            Self::Io { program, source } => write!(f, "{}: {source}", program.display()),
            Self::NotAccelerated { accel, reason } => write!(f, "not with {accel}: {reason}"),
            Self::Emulates { last } => {
                write!(
                    f,
                    "this machine's KVM emulates the guest's kernel in the place of letting the CPU execute it, and gave up on an instruction, so that neither \
                     what is enforced nor what it costs would be the CPU's; --accel tcg runs it, by the emulator; {last}"
                )
            }
            Self::TimeLimit { limit, last } => {
                write!(
                    f,
                    "the emulator did not end within {} s and was stopped; {last}",
                    limit.as_secs_f32()
                )
            }
            Self::Died { status, last } => {
                write!(
                    f,
                    "the emulator ended ({status}) without the kernel's word, perhaps by a reset; {last}"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for LastLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.serial.as_slice() {
            [] => f.write_str("it printed nothing")?,
            lines => write!(f, "it last printed:\n  {}", lines.join("\n  "))?,
        }
        match self.emulator.as_slice() {
            [] => Ok(()),
            lines => write!(f, "\nthe emulator said:\n  {}", lines.join("\n  ")),
        }
    }
}
