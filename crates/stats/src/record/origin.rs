//! What made a run: which program, when, and what it was asked for.
//!
//! Runs recorded before there was an origin have none. They are read as before, and not gone on with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Mode;

/// What ties a run to what made it. Two runs may share a sample file only if all of it but the date is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The commit the program was built from, where that is known; ends in `-dirty` if its sources had been changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// SHA-256 of the program's file, in hexadecimal.
    pub build_hash: String,
    /// SHA-256 of further files that decide what runs, by what they are: the reference kernel, a trace.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub inputs: std::collections::BTreeMap<String, String>,
    /// When it was begun: UTC, as RFC 3339 has it.
    pub started: String,
    /// The rows, in the order of the table.
    pub rows: Vec<String>,
    /// What each block runs, the baseline, its twin and the host kernel included.
    pub modes: Vec<Mode>,
    /// Names the session in which several builds took turns in the same blocks; runs of one session are paired block by block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// Digits by which a hash is named where people read.
const SHORT: usize = 12;

impl Origin {
    /// Which program it was, in a few words.
    #[must_use]
    pub fn program(&self) -> String {
        let commit = self.commit.as_deref().map_or("commit not known".to_owned(), |commit| {
            let (hash, mark) = commit.split_at(commit.find('-').unwrap_or(commit.len()));
            format!("commit {}{mark}", short(hash))
        });
        format!("{commit}, build {}", short(&self.build_hash))
    }
}

fn short(hash: &str) -> &str {
    hash.get(..SHORT).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_short_hashes_and_its_changes_are_marked() {
        let origin = Origin {
            commit: Some("0123456789abcdef0123-dirty".into()),
            build_hash: "fedcba9876543210".into(),
            inputs: [].into(),
            started: "2026-01-02T03:04:05Z".into(),
            rows: vec![],
            modes: vec![],
            session: None,
        };
        assert_eq!(origin.program(), "commit 0123456789ab-dirty, build fedcba987654");
        let unknown = Origin { commit: None, build_hash: "é".into(), ..origin };
        assert_eq!(unknown.program(), "commit not known, build é");
    }
}
