//! `kpkeys audit`: every instruction of an image that can write a protection register or what protection depends on.
//!
//! What is found is printed, site by site. With a list of known sites only what differs from it is, and differing is exit code 1; a file
//! that cannot be audited is exit code 2.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use kpkeys_audit::{Difference, Known, Report, Site};
use serde::Serialize;

use crate::usage::UsageError;

/// The options of `kpkeys audit`.
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  kpkeys audit vmlinux\n  kpkeys audit kernel.elf --known known.toml --format json"
)]
pub struct Options {
    /// A linked image for x86-64 or arm64: an ELF kernel or program, or a PE/COFF image as UEFI loads
    image: PathBuf,
    /// The list of sites it may have; any other, and any that is missing, is a failure
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Write the list of the sites it has
    #[arg(long, value_name = "FILE", conflicts_with = "known")]
    write_known: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Format {
    /// A line a site, and how many there are of each kind
    Table,
    /// One object
    Json,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output<'a> {
    image: &'a Path,
    #[serde(flatten)]
    report: &'a Report,
    /// Whether the image fits the list; null without one.
    known: Option<bool>,
    differences: &'a [Difference],
    /// Addresses of sites of which there are more than the list has.
    unknown_sites: Vec<String>,
}

/// Audits; whether the image fits the list, if there is one.
///
/// # Errors
///
/// [`UsageError`] for a file that cannot be read or audited, and for a list that is none.
pub fn run(options: &Options) -> Result<bool> {
    let known = options.known.as_deref().map(read_known).transpose()?;
    let report = audit(&options.image)?;
    let differences = known.as_ref().map(|known| known.compare(&report));
    if let Some(file) = &options.write_known {
        let text = Known::of(&report).to_toml();
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let image = &options.image;
    match options.format {
        Format::Json => {
            let fits = differences.as_ref().map(Vec::is_empty);
            let differences = differences.as_deref().unwrap_or_default();
            let unknown = report.sites.iter().filter(|site| is_unknown(site, differences));
            let unknown_sites = unknown.map(|site| format!("{:#x}", site.address)).collect();
            let output = Output { image, report: &report, known: fits, differences, unknown_sites };
            serde_json::to_writer(&mut out, &output)?;
            writeln!(out)?;
        }
        Format::Table => write_table(&mut out, image, &report, differences.as_deref())?,
    }
    out.flush()?;
    if let Some(known) = known.filter(|known| known.producer != report.producer) {
        let name = |producer: Option<String>| producer.unwrap_or_else(|| "no name".to_owned());
        let (listed, found) = (name(known.producer), name(report.producer));
        eprintln!("kpkeys: the list is for another compiler: {listed}; the image is by {found}");
    }
    Ok(differences.is_none_or(|differences| differences.is_empty()))
}

fn read_known(file: &Path) -> Result<Known, UsageError> {
    let refused = |reason: String| UsageError(format!("{}: {reason}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    Known::parse(&text).map_err(|error| refused(error.to_string()))
}

fn audit(file: &Path) -> Result<Report, UsageError> {
    let refused = |reason: String| UsageError(format!("{}: {reason}", file.display()));
    let bytes = fs::read(file).map_err(|error| refused(error.to_string()))?;
    kpkeys_audit::audit(&bytes).map_err(|error| refused(error.to_string()))
}

/// Whether a site is one of those of which there are more than the list has.
fn is_unknown(site: &Site, differences: &[Difference]) -> bool {
    differences.iter().any(|difference| difference.is_unknown() && difference.is_about(site))
}

fn write_table(
    out: &mut impl Write,
    image: &Path,
    report: &Report,
    differences: Option<&[Difference]>,
) -> io::Result<()> {
    let wanted = |site: &&Site| differences.is_none_or(|all| is_unknown(site, all));
    for site in report.sites.iter().filter(wanted) {
        writeln!(out, "{}", line(site))?;
    }
    write_summary(out, image, report)?;
    match differences {
        None => Ok(()),
        Some([]) => writeln!(out, "\nevery site is known, and none is missing"),
        Some(differences) => write_differences(out, differences),
    }
}

/// A site: address, kind, register, value, function and source line.
fn line(site: &Site) -> String {
    let kind = match site.msr_name() {
        Some(msr) => format!("{} {msr}", site.kind.name()),
        None => site.kind.name().to_owned(),
    };
    let value = match site.value {
        kpkeys_audit::Value::Constant(value) => format!("{value:#x}"),
        value => value.name().to_owned(),
    };
    let value = if site.path == kpkeys_audit::Path::Hidden { "hidden".to_owned() } else { value };
    let function = match (site.function.as_str(), site.offset) {
        ("", _) => "?".to_owned(),
        (function, offset) => format!("{function}+{offset:#x}"),
    };
    let source = site.line().map(|line| format!("  {line}")).unwrap_or_default();
    format!("{:#018x}  {kind:<26} {value:<12} {function}{source}", site.address)
}

/// How many there are of each kind, by what they write.
fn write_summary(out: &mut impl Write, image: &Path, report: &Report) -> io::Result<()> {
    let mut kinds: BTreeMap<_, Vec<&Site>> = BTreeMap::new();
    for site in &report.sites {
        kinds.entry(site.kind).or_default().push(site);
    }
    let architecture = match report.architecture {
        kpkeys_audit::Architecture::X86_64 => "x86-64",
        kpkeys_audit::Architecture::Aarch64 => "arm64",
    };
    let (format, text, functions) = (report.format, report.text_bytes, report.functions);
    writeln!(
        out,
        "\n{}: {format}, {architecture}, {text} bytes of code, {functions} named functions\n",
        image.display()
    )?;
    const VALUES: [&str; 6] = ["fixed", "constant", "address", "register", "unknown", "memory"];
    let heads = VALUES.iter().chain(&["hidden", "all"]);
    let heads: String = heads.map(|head| format!("{head:>10}")).collect();
    writeln!(out, "{:<22}{heads}", "kind")?;
    for (kind, sites) in kinds {
        let hidden = |site: &&&Site| site.path == kpkeys_audit::Path::Hidden;
        let decoded = |value: &str| {
            sites.iter().filter(|site| !hidden(site) && site.value.name() == value).count()
        };
        let counts = VALUES.iter().map(|value| decoded(value));
        let counts = counts.chain([sites.iter().filter(hidden).count(), sites.len()]);
        let counts: String = counts
            .map(|count| match count {
                0 => format!("{:>10}", "-"),
                count => format!("{count:>10}"),
            })
            .collect();
        writeln!(out, "{:<22}{counts}  {}", kind.name(), kind.writes())?;
    }
    if report.hidden_one_byte > 0 {
        let count = report.hidden_one_byte;
        writeln!(out, "hidden one-byte POPF and IRET, not listed: {count}")?;
    }
    Ok(())
}

fn write_differences(out: &mut impl Write, differences: &[Difference]) -> io::Result<()> {
    writeln!(out, "\ndifferent from the list of known sites:")?;
    for difference in differences {
        let Difference { kind, function, value, found, listed } = difference;
        let word = if difference.is_unknown() { "unknown" } else { "missing" };
        let function = if function.is_empty() { "?" } else { function };
        writeln!(out, "{word}  {kind} {value}: {found} found, {listed} listed, in {function}")?;
    }
    Ok(())
}
