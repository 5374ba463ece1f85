//! `cargo xtask overhead`: instructions of a page, mapped, changed and unmapped, through each page-table crate and through its adapter. On request: it needs valgrind, and
//! a minute.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

const PACKAGE: &str = "kpkeys-adapter-overhead";
const ADAPTERS: [&str; 5] =
    ["x86_64", "page_table_multiarch", "page-table-generic", "patina_paging", "hyperlight-common"];
const THROUGH: [&str; 3] = ["bare", "hardened", "batch"];
/// Two sizes, whose difference is free of what happens once.
const PAGES: [u64; 2] = [20_480, 40_960];

/// Counts, and prints a table.
pub fn run() -> Result<()> {
    if command::find("valgrind").is_none() {
        bail!("there is no valgrind to count with; `cargo xtask setup` installs it");
    }
    command::run(&mut command::cargo(&["build", "--release", "-p", PACKAGE]))?;
    let compiler = command::output(&mut command::program("rustc", &["--version"]))?;
    let commit = command::output(&mut command::program("git", &["rev-parse", "--short", "HEAD"]));
    let mut table = format!(
        "Instructions a page, mapped, changed and unmapped, without the register's; {}, commit {}\n\n\
         | the crate | bare | a call each | 512 in a window |\n|---|--:|--:|--:|\n",
        compiler.trim(),
        commit.as_deref().map_or("unknown", str::trim),
    );
    for adapter in ADAPTERS {
        let _ = write!(table, "| `{adapter}` |");
        for through in THROUGH {
            let [few, many] = PAGES.map(|pages| instructions(adapter, through, pages));
            let per_page = (many? - few?) as f64 / (PAGES[1] - PAGES[0]) as f64;
            let _ = write!(table, " {per_page:.0} |");
        }
        table.push('\n');
    }
    print!("{table}");
    println!("\n`kpkeys-aarch64-paging` counts ranges by itself:");
    let test = ["test", "--release", "-p", "kpkeys-aarch64-paging", "--test", "overhead"];
    command::run(command::cargo(&test).args(["--", "--ignored", "--nocapture"]))
}

fn instructions(adapter: &str, through: &str, pages: u64) -> Result<u64> {
    let program = workspace::root().join("target/release/overhead");
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = counted.args([adapter, through, &pages.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{adapter} {through} {pages}: {}\n{said}", output.status);
    }
    collected(&said).with_context(|| format!("callgrind counted nothing:\n{said}"))
}

/// What callgrind says at its end: `Collected : N`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().rev().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_what_callgrind_collected() {
        let said = "==1== Events    : Ir\n==1== Collected : 1234567\n==1== \n";
        assert_eq!(collected(said), Some(1_234_567));
        assert_eq!(collected("==1== error\n"), None);
    }
}
