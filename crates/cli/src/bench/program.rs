//! The program whose workers are timed: this one, or another build of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::header::COMMIT;
use crate::usage::UsageError;

/// A build of the command.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// The commit it was built from, where that is known.
    pub commit: Option<String>,
}

impl Program {
    /// This one.
    ///
    /// # Errors
    ///
    /// The system does not say where its file is.
    pub fn this() -> Result<Program> {
        let path = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Program { path, commit: COMMIT.map(str::to_owned) })
    }

    /// Another build, which is asked what it is.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a file that is no build of this command.
    pub fn other(path: &Path) -> Result<Program> {
        let path = std::path::absolute(path).context("there is no current folder")?;
        let shown = path.display();
        let said = Command::new(&path)
            .arg("--version")
            .output()
            .map_err(|error| UsageError(format!("{shown} cannot be run: {error}")))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let Some(version) = said.trim().strip_prefix("kpkeys ") else {
            let expected = "expected the file of a built `kpkeys`";
            return Err(UsageError(format!("{shown} is no build of kpkeys; {expected}")).into());
        };
        let commit = version.split_once("(commit ").and_then(|(_, rest)| rest.strip_suffix(')'));
        let commit = commit.map(str::to_owned);
        Ok(Program { path, commit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_no_build_is_refused() {
        let refused = |path: &str| Program::other(Path::new(path)).unwrap_err().to_string();
        assert!(refused("/bin/true").contains("is no build of kpkeys"));
        assert!(refused("/nowhere/kpkeys").contains("cannot be run"));
    }
}
