//! `kpkeys report`: runs as one page that needs nothing else, and its pictures by themselves.
//!
//! | module | concept |
//! |---|---|
//! | [`source`] | what a page is made of: tables, blocks, attacks |
//! | [`page`] | the page |
//! | [`tables`] | its tables; every number names the field of the JSON that it is |
//! | [`figures`] | its pictures |
//! | [`canvas`] | axes and marks of a picture, and its colours by day and night |

pub mod canvas;
mod figures;
pub mod page;
mod source;
mod tables;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::bench::write_whole;
use crate::usage::UsageError;
use source::Source;

const EXAMPLES: &str = "\
Examples:
  kpkeys report results -o results.html          one run
  kpkeys report epyc graviton -o machines.html   several, one below the other
  kpkeys report results --svg docs/pictures      the pictures alone

A folder may also hold what `kpkeys attack --format json` printed, as attack*.json.";

/// The options of `kpkeys report`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folders of `bench --out`
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The file to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the pictures, one SVG file each, into this folder instead of a page
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    svg: Option<PathBuf>,
}

/// Writes the page, or the pictures.
///
/// # Errors
///
/// A folder that holds no run, or what the file system says.
pub fn run(options: &Options) -> Result<()> {
    let sources = options.folders.iter().map(|folder| Source::read(folder));
    let sources = sources.collect::<Result<Vec<Source>>>()?;
    if let Some(folder) = &options.svg {
        return pictures(folder, &sources);
    }
    let page = page::page(&sources)?;
    match &options.output {
        Some(file) => write_whole(file, page.as_bytes())
            .with_context(|| format!("cannot write {}", file.display())),
        None if io::stdout().is_terminal() => {
            Err(UsageError("a page is for a browser: name a file with -o".into()).into())
        }
        None => Ok(io::stdout().lock().write_all(page.as_bytes())?),
    }
}

fn pictures(folder: &std::path::Path, sources: &[Source]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for source in sources {
        for figure in figures::all(source) {
            let name = match sources.len() {
                1 => format!("{}.svg", figure.name),
                _ => format!("{}-{}.svg", source.slug(), figure.name),
            };
            let file = folder.join(name);
            write_whole(&file, canvas::by_itself(&figure.svg).as_bytes())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(())
}
