//! Starting the command.

use std::ffi::OsString;
use std::io;
use std::process::Command;

use super::error::RecordError;

/// Starts the command in the calling thread, with this process's standard streams, and gives its process
/// id. It is not waited for here.
pub(super) fn start(command: &[OsString]) -> Result<u32, RecordError> {
    let (program, arguments) = command.split_first().ok_or(RecordError::NoCommand)?;
    let child = Command::new(program).args(arguments).spawn();
    child.map(|child| child.id()).map_err(|error| failure(program, error))
}

/// Why `program` did not start.
pub(super) fn failure(program: &OsString, error: io::Error) -> RecordError {
    let command = program.to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound {
        RecordError::NotFound(command)
    } else {
        RecordError::NotStarted { command, error }
    }
}
