//! Starting the command.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::error::RecordError;

/// Starts the command in the calling thread, with this process's standard streams, and gives its process
/// id. It is not waited for here.
pub(super) fn start(command: &[OsString]) -> Result<u32, RecordError> {
    start_prepared(command, |_| ())
}

/// The same, after `prepare`.
pub(super) fn start_prepared(
    command: &[OsString],
    prepare: impl FnOnce(&mut Command),
) -> Result<u32, RecordError> {
    let (program, arguments) = command.split_first().ok_or(RecordError::NoCommand)?;
    let found = find(program).ok_or_else(|| failure(program, io::ErrorKind::NotFound.into()))?;
    let mut command = Command::new(found);
    prepare(command.arg0(program).args(arguments));
    command.spawn().map(|child| child.id()).map_err(|error| failure(program, error))
}

/// The file that `program` names, sought in PATH as execvp does. It is found here and not by execvp so
/// that there is one execve, and its failure is final.
pub(super) fn find(program: &OsString) -> Option<PathBuf> {
    if program.as_encoded_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let executable = |path: &PathBuf| {
        path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(executable)
}

/// Why `program` did not start.
fn failure(program: &OsString, error: io::Error) -> RecordError {
    let command = program.to_string_lossy().into_owned();
    if error.kind() == io::ErrorKind::NotFound {
        RecordError::NotFound(command)
    } else {
        RecordError::NotStarted { command, error }
    }
}
