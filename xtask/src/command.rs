//! Runs other programs, always from the root of the checkout.
//!
//! A program's output goes straight to ours, so that nothing it says - `cargo test`'s closing lines
//! above all - is filtered or reordered. The command line is printed first: what a step did can be
//! repeated by hand.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// A `cargo` command: the cargo that started us, quiet in pipes and in CI.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = program(&env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments);
    if in_ci() || !io::stderr().is_terminal() {
        command.env("CARGO_TERM_PROGRESS_WHEN", "never");
    }
    if in_ci() {
        // Nothing is rebuilt in CI: incremental files would only cost time and disk.
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// Any other command.
pub fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(workspace::root());
    // A relative one is relative to where the user is, which the command no longer is.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
        if let Some(folder) = env::var_os(name).and_then(|folder| std::path::absolute(folder).ok())
        {
            command.env(name, folder);
        }
    }
    command
}

/// Prints the command, runs it with our own streams, and fails if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    println!("$ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}`: {status}");
    }
    Ok(())
}

/// Runs the command silently and returns what it printed to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}`: {}: {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// Whether the command can be run at all and says so by its exit status.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where `name` is found on `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether we run in a continuous-integration job.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")))
}

/// The command as one would type it; the environment it is given comes first.
pub fn describe(command: &Command) -> String {
    let name = PathBuf::from(command.get_program());
    let name = name.file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    let quiet = [
        "CARGO_TERM_PROGRESS_WHEN",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
    ];
    let environment = command
        .get_envs()
        .filter(|(key, _)| !quiet.iter().any(|name| key == name))
        .filter_map(|(key, value)| Some((key.to_string_lossy(), value?.to_string_lossy())))
        .map(|(key, value)| format!("{key}={}", quote(&value)));
    let arguments = command.get_args().map(|argument| quote(&argument.to_string_lossy()));
    environment.chain([name]).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_described_as_it_would_be_typed() {
        let mut command = program("/usr/bin/cargo", &["doc", "--no-deps", ""]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(describe(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps ''");
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = run(&mut program("false", &["now"])).unwrap_err().to_string();
        assert_eq!(error, "`false now`: exit status: 1");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut program("no-such-program", &[])).unwrap_err().to_string();
        assert_eq!(error, "cannot start `no-such-program`");
        assert!(find("no-such-program").is_none());
        assert!(!succeeds(&mut program("no-such-program", &[])));
    }
}
