//! How a test says that it left something unchecked: a machine may lack what a check needs, and then a test that passes has shown less
//! than its name says.
//!
//! [`skip!`] prints one line, `skipped: NAME: REASON`, past the test harness, which would keep it to itself; and adds it to the file that
//! [`FILE`] names, from which `cargo xtask test` counts and names them in its summary. The test then returns.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// The environment variable with the file that skips are added to.
pub const FILE: &str = "KPKEYS_SKIPS";

/// Says that the running test leaves something unchecked, and why.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        $crate::report(module_path!(), format_args!($($reason)+))
    };
}

/// What [`skip!`] does. The test harness names the thread of a test after it; a test that has no thread of its own is known by its module.
///
/// # Panics
///
/// If the file that [`FILE`] names cannot be written: what was skipped would go unsaid.
pub fn report(module: &str, reason: fmt::Arguments<'_>) {
    let thread = std::thread::current();
    let line = line(module, thread.name(), &reason.to_string());
    // Not `eprint!`, which the harness catches. Where nobody listens there is nobody to tell.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(file) = std::env::var_os(FILE) {
        add(Path::new(&file), &line)
            .unwrap_or_else(|error| panic!("{FILE}: {}: {error}", file.display()));
    }
}

fn line(module: &str, thread: Option<&str>, reason: &str) -> String {
    let test = thread.filter(|name| *name != "main");
    let name = test.map_or(module.to_owned(), |test| format!("{module}::{test}"));
    let reason: Vec<_> = reason.split_whitespace().collect();
    format!("skipped: {name}: {}\n", reason.join(" "))
}

/// In one write, so that lines of tests that run at once do not mix.
fn add(file: &Path, line: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_with_the_tests_name() {
        assert_eq!(
            line("recording", Some("it_runs"), "no\nstrace"),
            "skipped: recording::it_runs: no strace\n"
        );
        assert_eq!(line("recording", Some("main"), "none"), "skipped: recording: none\n");
        assert_eq!(line("recording", None, "none"), "skipped: recording: none\n");
    }

    #[test]
    fn skips_of_several_tests_are_added_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        add(file.path(), "skipped: a: x\n").unwrap();
        add(file.path(), "skipped: b: y\n").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "skipped: a: x\nskipped: b: y\n");
    }
}
