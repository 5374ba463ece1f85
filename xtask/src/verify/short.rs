//! What of all this the checks of each commit have room for: of explorations and planted faults some, which the commit chooses, so that all have their turn. (Kept
//! inputs of the fuzzers are replayed by a test of their crate.)

use anyhow::Result;

use super::{faults, verify};
use crate::command;

/// In how many parts the explorations are cut, of which a commit does one.
const PARTS: u64 = 4;

/// Runs it.
pub fn run() -> Result<()> {
    let number = number_of(&commit());
    let part = format!("{}/{PARTS}", number % PARTS);
    verify(&["run", "-p", "kpkeys-protocol", "--", "1", "short", &part])?;
    faults::run_some(number)
}

/// The commit that is checked; nothing where that is not known.
fn commit() -> String {
    command::output(&mut command::program("git", &["rev-parse", "HEAD"])).unwrap_or_default()
}

/// A number that stands for a commit.
fn number_of(commit: &str) -> u64 {
    commit.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_a_number_and_none_is_one_too() {
        assert_eq!(number_of("fd10e6e4f6c2a7d0\n"), 0xfd10_e6e4);
        assert_eq!(number_of(""), 0);
        assert_eq!(number_of("no commit"), 0);
    }
}
