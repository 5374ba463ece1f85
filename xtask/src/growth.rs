//! `cargo xtask growth`: instructions of one operation by how much there is already, up to the largest sizes, as a table of the book. On
//! request: callgrind takes minutes for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result, bail};
use kpkeys_pgtable::Mode;

use crate::{command, instructions, workspace};

/// How many times the smallest's instructions the largest may take, of what should not depend on how much there is.
const CONSTANT: f64 = 1.5;
/// Operations that search, whose instructions may grow as the logarithm does.
const SEARCH: [&str; 2] = ["vmalloc", "mmap and munmap"];

/// Instructions by size, of an operation in a mode.
type Growth = BTreeMap<(String, String), Vec<(u64, f64)>>;

/// Counts, and writes the table.
pub fn run() -> Result<()> {
    if command::find("valgrind").is_none() {
        bail!("there is no valgrind to count with; `cargo xtask setup` installs it");
    }
    let counts = instructions::count(&[Mode::Off, Mode::FusedLean], &["--largest"])?;
    let table = table(&growth(&counts)?);
    let file = workspace::root().join("docs/results/peers-growth-instructions.md");
    fs::write(&file, &table).with_context(|| format!("cannot write {}", file.display()))?;
    print!("{table}");
    Ok(())
}

/// Names are `WHAT with SIZE, MODE`.
fn growth(counts: &instructions::Counts) -> Result<Growth> {
    let mut growth = Growth::new();
    for (name, &count) in counts {
        let parts = name.rsplit_once(", ").and_then(|(rest, mode)| {
            let (what, size) = rest.rsplit_once(" with ")?;
            Some((what.to_owned(), mode.to_owned(), size.parse().ok()?))
        });
        let (what, mode, size) = parts.with_context(|| format!("no size in `{name}`"))?;
        growth.entry((what, mode)).or_default().push((size, count));
    }
    growth.values_mut().for_each(|sizes| sizes.sort_by_key(|(size, _)| *size));
    Ok(growth)
}

fn table(growth: &Growth) -> String {
    let mut text = String::from(
        "| operation | mode | instructions by how much there is | growth | at most |\n|---|---|---|--:|--:|\n",
    );
    for ((what, mode), sizes) in growth {
        let [(smallest, few), .., (largest, many)] = sizes[..] else { continue };
        let by_size: Vec<String> =
            sizes.iter().map(|(size, count)| format!("{size}: {count:.0}")).collect();
        let most = if SEARCH.contains(&what.as_str()) {
            (largest as f64).log2() / (smallest as f64).log2()
        } else {
            CONSTANT
        };
        let _ = writeln!(
            text,
            "| {what} | {mode} | {} | {:.2}x | {most:.2}x |",
            by_size.join(", "),
            many / few
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_the_smallest_to_the_largest_by_number() {
        let counts = [("frame with 16, off", 10.0), ("frame with 1048576, off", 12.0)]
            .into_iter()
            .chain([("vmalloc with 16, fused", 100.0), ("vmalloc with 256, fused", 150.0)])
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        let table = table(&growth(&counts).unwrap());
        assert!(table.contains("| frame | off | 16: 10, 1048576: 12 | 1.20x | 1.50x |"), "{table}");
        assert!(
            table.contains("| vmalloc | fused | 16: 100, 256: 150 | 1.50x | 2.00x |"),
            "{table}"
        );
    }

    #[test]
    fn a_name_without_a_size_is_an_error() {
        let counts = [("fork, off".to_owned(), 1.0)].into_iter().collect();
        assert!(growth(&counts).is_err());
    }
}
