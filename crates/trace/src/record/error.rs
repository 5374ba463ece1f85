//! Why a command could not be recorded.

use std::io;

use crate::error::TraceError;

/// Why a command could not be recorded, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// No command was given.
    #[error("there is no command to record")]
    NoCommand,
    /// There is no such program.
    #[error("the command `{0}` was not found")]
    NotFound(String),
    /// The program could not be started.
    #[error("the command `{command}` could not be started: {error}")]
    NotStarted {
        /// Its name.
        command: String,
        /// Why.
        error: io::Error,
    },
    /// perf events are not allowed or not there.
    #[error("perf events cannot record here: {reason}. {remedy}")]
    NoPerf {
        /// What failed.
        reason: String,
        /// Which setting or capability would help.
        remedy: String,
    },
    /// ptrace is not allowed.
    #[error("ptrace cannot record here: {reason}. {remedy}")]
    NoPtrace {
        /// What failed.
        reason: String,
        /// Which setting or capability would help.
        remedy: String,
    },
    /// The command's program would not get its privilege.
    #[error(
        "`{command}` is {privilege}, and ptrace would take that privilege from it: it was not started. \
         Record as root (or with CAP_SYS_PTRACE), or by perf (--method perf)"
    )]
    Privileged {
        /// Its name.
        command: String,
        /// Where the privilege comes from.
        privilege: &'static str,
    },
    /// The trace could not be written.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Something the recorder needs from the system failed.
    #[error("the recorder could not {what}: {error}")]
    System {
        /// What it wanted.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// Not an architecture a trace can be recorded on.
    #[error("traces cannot be recorded on {0}")]
    Architecture(&'static str),
    /// Not an operating system that has a recorder.
    #[error(
        "there is no recorder for {0}: record on Linux, on real hardware or in a virtual machine; the trace can be read and replayed here"
    )]
    NoRecorder(&'static str),
}

impl RecordError {
    /// The exit code a shell would give: 127 for a command that was not found, 126 for one that could not
    /// be started, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotStarted { .. } | Self::Privileged { .. } => 126,
            _ => 1,
        }
    }
}
