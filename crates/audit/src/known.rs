//! A known list: which sites an image may have, by function, kind and what they write; kept beside the sources.
//!
//! It is a TOML file with a table for each kind, in which a function has its counts:
//!
//! ```toml
//! producer = "clang LLVM (rustc version 1.95.0)"
//!
//! [sites."mov cr3"]
//! "kernel::switch_root" = { memory = 1 }
//! ```
//!
//! Counts go by what the value is: `constant`, `memory`, and so on. A function that another compiler inlines has its sites elsewhere, so
//! the list says which one it is for. [Hidden](Path::Hidden) sites are not in it: most lie in the distance from a call to its target, so they
//! come and go with every link, and with the folder that the sources are in.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::found::Path;
use crate::report::{Report, Site};

/// How many sites there are, by what they write.
type Counts = BTreeMap<String, u64>;
/// By function.
type Functions = BTreeMap<String, Counts>;

/// A known list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The compiler it was written for, as the image's debug information has it.
    pub producer: Option<String>,
    /// By kind, function and what is written.
    #[serde(default)]
    sites: BTreeMap<String, Functions>,
}

/// A file that is no known list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a list of known sites: {0}")]
pub struct KnownError(String);

/// A place where an image and a list differ.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Difference {
    /// The kind.
    pub kind: String,
    /// The function.
    pub function: String,
    /// What is written.
    pub value: String,
    /// How many the image has.
    pub found: u64,
    /// How many the list has.
    pub listed: u64,
}

impl Difference {
    /// Whether the image has sites that are not listed; otherwise the list has some that are not there.
    pub fn is_unknown(&self) -> bool {
        self.found > self.listed
    }
}

impl Known {
    /// Reads a list.
    ///
    /// # Errors
    ///
    /// [`KnownError`] with the line that was not understood.
    pub fn parse(text: &str) -> Result<Self, KnownError> {
        toml::from_str(text).map_err(|error| KnownError(error.to_string()))
    }

    /// The list that an image fits exactly: all of its sites that decoding meets.
    pub fn of(report: &Report) -> Self {
        let mut sites: BTreeMap<String, Functions> = BTreeMap::new();
        for site in report.sites.iter().filter(|site| site.path == Path::Decoded) {
            let functions = sites.entry(site.kind.name().to_owned()).or_default();
            let counts = functions.entry(site.function.clone()).or_default();
            *counts.entry(site.value.name().to_owned()).or_default() += 1;
        }
        Known { producer: report.producer.clone(), sites }
    }

    /// The file, as [`Known::parse`] reads it: one line a function, so that a change is read in a diff.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        if let Some(producer) = &self.producer {
            let _ = writeln!(text, "producer = {}", quoted(producer));
        }
        for (kind, functions) in &self.sites {
            let _ = writeln!(text, "\n[sites.{}]", quoted(kind));
            for (function, counts) in functions {
                let counts: Vec<_> =
                    counts.iter().map(|(value, count)| format!("{value} = {count}")).collect();
                let _ = writeln!(text, "{} = {{ {} }}", quoted(function), counts.join(", "));
            }
        }
        text
    }

    /// Where an image differs from the list. Empty where it fits.
    pub fn compare(&self, report: &Report) -> Vec<Difference> {
        let found = Known::of(report);
        let keys: BTreeSet<_> = found.entries().chain(self.entries()).collect();
        keys.into_iter()
            .map(|(kind, function, value)| Difference {
                found: found.get(kind, function, value),
                listed: self.get(kind, function, value),
                kind: kind.to_owned(),
                function: function.to_owned(),
                value: value.to_owned(),
            })
            .filter(|difference| difference.found != difference.listed)
            .collect()
    }

    fn entries(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.sites.iter().flat_map(|(kind, functions)| {
            functions.iter().flat_map(move |(function, counts)| {
                counts.keys().map(move |value| (kind.as_str(), function.as_str(), value.as_str()))
            })
        })
    }

    fn get(&self, kind: &str, function: &str, value: &str) -> u64 {
        let counts = self.sites.get(kind).and_then(|functions| functions.get(function));
        counts.and_then(|counts| counts.get(value)).copied().unwrap_or(0)
    }
}

impl Difference {
    /// Whether a site is among those it counts.
    pub fn is_about(&self, site: &Site) -> bool {
        site.path == Path::Decoded
            && self.kind == site.kind.name()
            && self.function == site.function
            && self.value == site.value.name()
    }
}

/// A basic string of TOML, with what has to be escaped escaped.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
