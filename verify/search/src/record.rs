//! What was tried: a header and a line of JSON a trial.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::choose::Change;
use crate::lab::Plan;

/// What all trials of a file have in common.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    machine: String,
    mode: String,
    seed: u64,
    moments: usize,
    accesses: usize,
    kernel: String,
}

impl Header {
    /// That of a plan, for one build of the kernel.
    pub fn of(plan: &Plan, kernel: &str) -> Header {
        Header {
            machine: plan.target.name().to_owned(),
            mode: plan.mode.clone(),
            seed: plan.seed,
            moments: plan.moments,
            accesses: plan.accesses,
            kernel: kernel.to_owned(),
        }
    }
}

/// One trial.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Its number under the seed.
    pub trial: u64,
    /// The moment that it began at.
    pub moment: usize,
    /// What was changed.
    #[serde(flatten)]
    pub change: Change,
    /// What came of it: `nothing`, `stopped`, `crashed` or `bypass`.
    pub outcome: String,
    /// In words.
    pub why: String,
    /// Milliseconds.
    pub took_ms: u64,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { trial, moment, change, outcome, why, .. } = self;
        let Change { at, width, old, new, of, is } = change;
        write!(
            f,
            "trial {trial}, moment {moment}: {width} bytes at {at:#x}, {of}: {old:#x} to {new:#x} ({is}): {outcome}: {why}"
        )
    }
}

/// All trials.
pub struct Book {
    header: Header,
    file: Option<File>,
    done: BTreeSet<u64>,
    trials: Vec<Trial>,
}

impl Book {
    /// A book, kept in a file if one is named; what is in that already counts.
    pub fn open(header: Header, path: Option<&Path>) -> Result<Book> {
        let mut book = Book { header, file: None, done: BTreeSet::new(), trials: Vec::new() };
        let Some(path) = path else { return Ok(book) };
        let name = path.display();
        let text = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let known: usize = match lines.next() {
            None => 0,
            Some(line) => {
                let found: Header = serde_json::from_str(line)
                    .with_context(|| format!("{name} does not begin as a search's file does"))?;
                ensure!(
                    found == book.header,
                    "{name} is of another search: {found:?}, and this is {:?}",
                    book.header
                );
                for line in lines.clone() {
                    let trial: Trial =
                        serde_json::from_str(line).with_context(|| format!("{name}: {line}"))?;
                    book.done.insert(trial.trial);
                    book.trials.push(trial);
                }
                line.len() + lines.map(str::len).sum::<usize>()
            }
        };
        let file = File::options().create(true).append(true).open(path);
        let mut file = file.with_context(|| format!("cannot write {name}"))?;
        // A line that was cut off is tried again.
        file.set_len(known as u64)?;
        if known == 0 {
            writeln!(file, "{}", serde_json::to_string(&book.header)?)?;
        }
        book.file = Some(file);
        Ok(book)
    }

    /// Whether a trial was made.
    pub fn has(&self, number: u64) -> bool {
        self.done.contains(&number)
    }

    /// Adds a trial.
    pub fn add(&mut self, trial: Trial) -> Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{}", serde_json::to_string(&trial)?)?;
        }
        self.done.insert(trial.trial);
        self.trials.push(trial);
        Ok(())
    }

    /// How many there are.
    pub fn tried(&self) -> usize {
        self.trials.len()
    }

    /// How many broke a rule.
    pub fn bypasses(&self) -> usize {
        self.trials.iter().filter(|trial| trial.outcome == "bypass").count()
    }

    /// How many had which outcome, and for which reasons, the most frequent first.
    pub fn summary(&self) -> String {
        let (mut outcomes, mut reasons) = (BTreeMap::new(), BTreeMap::new());
        let mut words = BTreeSet::new();
        for trial in &self.trials {
            *outcomes.entry(trial.outcome.as_str()).or_insert(0) += 1;
            *reasons.entry((trial.outcome.as_str(), alike(&trial.why))).or_insert(0) += 1;
            words.insert((trial.moment, trial.change.at));
        }
        let Header { machine, mode, seed, .. } = &self.header;
        let mut text = format!(
            "{machine}, {mode}, seed {seed}: {} trials, {} words\n",
            self.tried(),
            words.len()
        );
        for (outcome, count) in outcomes {
            let _ = writeln!(text, "  {outcome:<8} {count:>7}");
        }
        let mut reasons: Vec<_> =
            reasons.into_iter().filter(|((_, why), _)| !why.is_empty()).collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for ((outcome, why), count) in reasons.into_iter().take(20) {
            let _ = writeln!(text, "  {count:>7}  {outcome}: {why}");
        }
        text
    }
}

/// A reason without its numbers, and no longer than a line.
fn alike(why: &str) -> String {
    let words = why.split(' ').map(|word| {
        if word.chars().any(|c| c.is_ascii_digit()) && !word.contains(".rs:") { "#" } else { word }
    });
    words.collect::<Vec<_>>().join(" ").chars().take(140).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seed: u64) -> Header {
        Header {
            machine: "m".into(),
            mode: "fused".into(),
            seed,
            moments: 1,
            accesses: 1,
            kernel: "k".into(),
        }
    }

    fn trial(number: u64, outcome: &str) -> Trial {
        let change = Change { at: 8, width: 8, old: 1, new: 2, of: "heap".into(), is: "1".into() };
        Trial {
            trial: number,
            moment: 0,
            change,
            outcome: outcome.into(),
            why: "0x10 is 3".into(),
            took_ms: 1,
        }
    }

    #[test]
    fn a_search_goes_on_where_its_file_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trials");
        let mut book = Book::open(header(1), Some(&path)).unwrap();
        book.add(trial(0, "nothing")).unwrap();
        book.add(trial(1, "bypass")).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut book = Book::open(header(1), Some(&path)).unwrap();
        assert!(book.has(0) && !book.has(1), "a line that was cut off is tried again");
        book.add(trial(1, "bypass")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
        let error = Book::open(header(2), Some(&path)).err().unwrap().to_string();
        assert!(error.contains("is of another search"), "{error}");
        assert_eq!((book.tried(), book.bypasses()), (2, 1));
        assert!(book.summary().contains("1  bypass: # is #"), "{}", book.summary());
    }
}
