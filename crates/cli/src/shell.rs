//! What goes with a command that is installed: completions for shells, and man pages.
//!
//! Both are made from the definition of the command line, so that they say what the program does.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// Prints what a shell wants in order to complete this command's words.
///
/// # Errors
///
/// What went wrong with the output.
pub fn print_completions(mut command: Command, shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kpkeys", &mut script);
    Ok(io::stdout().lock().write_all(&script)?)
}

/// Writes a page for the command and one for each of its calls, and says where.
///
/// # Errors
///
/// A folder that cannot be made, or a page that cannot be written.
pub fn write_man_pages(command: Command, folder: &Path) -> Result<()> {
    let failed = || format!("cannot write man pages to {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    clap_mangen::generate_to(command, folder).with_context(failed)?;
    eprintln!("man pages are in {0}; try `man {0}/kpkeys.1`", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_call_has_a_man_page_and_none_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let command = crate::Arguments::command();
        write_man_pages(command.clone(), &folder.path().join("man1")).unwrap();
        let page = |name: &str| folder.path().join("man1").join(format!("{name}.1"));
        for call in command.get_subcommands() {
            let page = page(&format!("kpkeys-{}", call.get_name()));
            assert_eq!(page.is_file(), !call.is_hide_set(), "{}", page.display());
        }
        let text = fs::read_to_string(page("kpkeys-trace-record")).unwrap();
        assert!(
            text.contains("kpkeys trace record") || text.contains("kpkeys\\-trace\\-record"),
            "{text}"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write_man_pages(crate::Arguments::command(), file.path()).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
