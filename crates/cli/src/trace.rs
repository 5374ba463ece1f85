//! `kpkeys trace`: records a command's memory history, and says what is in a recording.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use kpkeys_trace::record::{self, Choice, Options, Report};
use kpkeys_trace::{Damage, Gap, Header, Kinds, Outcome, RunTimes, Summary, TraceReader, Trailer};
use serde_json::json;

/// What to do with a trace.
#[derive(Debug, Subcommand)]
pub enum Call {
    /// Run a command and record what it and every process it starts do to their memory.
    Record(RecordArgs),
    /// Say what is in a trace.
    Info(InfoArgs),
}

/// Arguments of `trace record`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kpkeys trace record -o make.trace -- make -j2\n  kpkeys trace record --method ptrace --compare -- python3 -c 'print(1)'"
)]
pub struct RecordArgs {
    /// The file to write.
    #[arg(short, long, default_value = "kpkeys.trace")]
    output: PathBuf,
    /// How to observe the command.
    #[arg(long, value_enum, default_value_t = MethodArg::Auto)]
    method: MethodArg,
    /// Go on after the command itself has ended, until the last process it left behind has, too.
    #[arg(long)]
    until_last: bool,
    /// Run the command a second time without recording, to see what recording costs.
    #[arg(long)]
    compare: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Names of [`Choice`] on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodArg {
    /// perf if it is allowed, else ptrace.
    Auto,
    /// perf events: sees everything, needs root or CAP_PERFMON.
    Perf,
    /// ptrace: needs no privilege, sees less.
    Ptrace,
}

/// Arguments of `trace info`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kpkeys trace info make.trace\n  kpkeys trace info make.trace --format json"
)]
pub struct InfoArgs {
    /// The trace.
    file: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = InfoFormat::Table)]
    format: InfoFormat,
    /// Use what comes before the damage in a damaged trace.
    #[arg(long)]
    partial: bool,
}

/// How `trace info` prints.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum InfoFormat {
    Table,
    Json,
}

/// Runs `kpkeys trace ...`.
///
/// # Errors
/// A trace that cannot be written or read.
pub fn run(command: Call) -> Result<ExitCode> {
    match command {
        Call::Record(args) => record_command(args),
        Call::Info(args) => info(&args),
    }
}

fn record_command(args: RecordArgs) -> Result<ExitCode> {
    let options = Options {
        command: args.command,
        choice: match args.method {
            MethodArg::Auto => Choice::Auto,
            MethodArg::Perf => Choice::Perf,
            MethodArg::Ptrace => Choice::Ptrace,
        },
        until_last: args.until_last,
        compare: args.compare,
    };
    let out = Output::open(&args.output)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    match record::record(&options, out) {
        Ok(report) => {
            print_report(&report, &args.output);
            Ok(exit_code(report.trailer.outcome))
        }
        Err(error) => {
            eprintln!("kpkeys trace record: {error}");
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

/// The file to write. It is opened before the command runs, since nobody wants to learn afterwards that
/// it cannot be, and emptied only when there is something to write: a recording that could not begin
/// leaves an older one as it was.
struct Output<'a> {
    path: &'a Path,
    file: File,
    is_new: bool,
    written: bool,
}

impl<'a> Output<'a> {
    fn open(path: &'a Path) -> io::Result<Self> {
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        Ok(Self { path, file, is_new, written: false })
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.written, true) && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if self.is_new && !self.written {
            // An empty file that stays behind does no harm.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn print_report(report: &Report, path: &Path) {
    let trailer = &report.trailer;
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    for caveat in trailer.caveats() {
        eprintln!("warning: {caveat}");
    }
    eprintln!(
        "{}: {} events by {}, {} bytes; the command {}",
        path.display(),
        trailer.events,
        report.method.name(),
        report.bytes,
        outcome_text(trailer.outcome)
    );
    eprintln!("recorded: {}", recorded_text(trailer));
    if let Some(unrecorded) = &trailer.unrecorded {
        eprintln!("without:  {}", times_text(unrecorded));
    }
}

fn times_text(times: &RunTimes) -> String {
    let seconds = |ns: u64| ns as f64 / 1e9;
    format!(
        "real {:.3} s, user {:.3} s, system {:.3} s",
        seconds(times.real_ns),
        seconds(times.user_ns),
        seconds(times.system_ns)
    )
}

/// Times of the recorded run. CPU time is the kernel's word about a command that has ended.
fn recorded_text(trailer: &Trailer) -> String {
    match trailer.outcome {
        Outcome::Running => {
            let real_s = trailer.recorded.real_ns as f64 / 1e9;
            format!("real {real_s:.3} s, user and system {NOT_RECORDED}")
        }
        _ => times_text(&trailer.recorded),
    }
}

fn outcome_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exited(code) => format!("exited with {code}"),
        Outcome::Signalled(signal) => format!("was killed by signal {signal}"),
        Outcome::Running => "was still running".to_owned(),
    }
}

/// The command's own exit code; 128 and the signal's number if one killed it, as shells do.
fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exited(code) => ExitCode::from(code),
        Outcome::Signalled(signal) => ExitCode::from(128u8.saturating_add(signal)),
        Outcome::Running => ExitCode::SUCCESS,
    }
}

fn info(args: &InfoArgs) -> Result<ExitCode> {
    let shown = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("cannot read {shown}"))?;
    let on_damage = if args.partial { Damage::Tolerate } else { Damage::Refuse };
    let read = TraceReader::new(BufReader::new(file), on_damage)
        .and_then(|mut reader| Summary::of(&mut reader).map(|summary| (reader, summary)));
    let (reader, summary) = read.with_context(|| shown.to_string())?;
    match args.format {
        InfoFormat::Json => println!("{}", info_json(&reader, &summary)),
        InfoFormat::Table => print_info(&reader, &summary),
    }
    if let Some(damage) = reader.damage() {
        eprintln!("note: only the part before the damage was used: {damage}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What stands in the place of what a recording lacks.
const NOT_RECORDED: &str = "not recorded";

/// What is not in a trace, one sentence each.
fn caveats<R: io::Read>(reader: &TraceReader<R>) -> Vec<String> {
    let of_trailer = reader.trailer().map(Trailer::caveats).unwrap_or_default();
    reader.header().caveats().into_iter().chain(of_trailer).collect()
}

/// Time spent on freeing address spaces, if it was recorded.
fn teardown_ns(header: &Header, trailer: &Trailer) -> Option<u64> {
    let recorded = header.kinds.contains(Kinds::TEARDOWN) || trailer.teardown_ns > 0;
    recorded.then_some(trailer.teardown_ns)
}

fn info_json<R: io::Read>(reader: &TraceReader<R>, summary: &Summary) -> serde_json::Value {
    let header = reader.header();
    json!({
        "version": kpkeys_trace::VERSION,
        "command": command_words(header),
        "arch": header.arch.name(),
        "page_size": 1u64 << header.page_shift,
        "kernel": header.kernel,
        "cpus": header.cpus,
        "huge_pages": header.huge_pages,
        "fault_around_bytes": header.fault_around_bytes,
        "method": header.method.name(),
        "recorded_kinds": kind_names(header),
        "started_unix_ns": header.started_unix_ns,
        "summary": summary,
        "bytes_per_event": summary.bytes_per_event(),
        "end": reader.trailer().map(|trailer| end_json(header, trailer)),
        "caveats": caveats(reader),
        "damage": reader.damage().map(ToString::to_string),
    })
}

fn end_json(header: &Header, trailer: &Trailer) -> serde_json::Value {
    let times = |times: &RunTimes| json!({ "real_ns": times.real_ns, "user_ns": times.user_ns, "system_ns": times.system_ns });
    let (exit_code, signal) = match trailer.outcome {
        Outcome::Exited(code) => (Some(code), None),
        Outcome::Signalled(signal) => (None, Some(signal)),
        Outcome::Running => (None, None),
    };
    let mut recorded = times(&trailer.recorded);
    if trailer.outcome == Outcome::Running {
        recorded["user_ns"] = serde_json::Value::Null;
        recorded["system_ns"] = serde_json::Value::Null;
    }
    let gap = |gap: &Gap| json!({ "cause": format!("{:?}", gap.cause).to_lowercase(), "processes": gap.count, "names": gap.names });
    json!({
        "exit_code": exit_code,
        "signal": signal,
        "lost": trailer.lost,
        "late": trailer.late,
        "failed_calls": trailer.failed_calls,
        "foreign_calls": trailer.foreign_calls,
        "teardown_ns": teardown_ns(header, trailer),
        "unseen": trailer.gaps.iter().map(gap).collect::<Vec<_>>(),
        "recorded": recorded,
        "unrecorded": trailer.unrecorded.as_ref().map(times),
    })
}

fn command_words(header: &Header) -> Vec<String> {
    header.command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn kind_names(header: &Header) -> Vec<String> {
    header.kinds.iter_names().map(|(name, _)| name.to_lowercase()).collect()
}

fn print_info<R: io::Read>(reader: &TraceReader<R>, summary: &Summary) {
    let header = reader.header();
    let mut table = Table::new();
    table.load_preset(if io::stdout().is_terminal() {
        presets::UTF8_HORIZONTAL_ONLY
    } else {
        presets::NOTHING
    });
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("command", command_words(header).join(" "));
    row("machine", format!("{}, {} CPUs, {}", header.arch.name(), header.cpus, header.kernel));
    row("recorded by", format!("{}: {}", header.method.name(), kind_names(header).join(", ")));
    if let Some(trailer) = reader.trailer() {
        row("the command", outcome_text(trailer.outcome));
        row("times", recorded_text(trailer));
        if let Some(unrecorded) = &trailer.unrecorded {
            row("times without recording", times_text(unrecorded));
        }
        row("failed calls", trailer.failed_calls.to_string());
    }
    row("size", format!("{} bytes, {:.2} per event", summary.bytes, summary.bytes_per_event()));
    row("events", summary.events.to_string());
    row("lost events", summary.lost.to_string());
    row("time span", format!("{:.3} s", summary.span_ns as f64 / 1e9));
    for (name, count) in count_rows(summary) {
        row(name, count.map_or(NOT_RECORDED.to_owned(), |count| count.to_string()));
    }
    row("cost", cost_text(summary).unwrap_or(NOT_RECORDED.to_owned()));
    if let Some(trailer) = reader.trailer() {
        let ms = |ns| format!("{:.1} ms", ns as f64 / 1e6);
        let teardown = teardown_ns(header, trailer);
        row("freeing memory at exit", teardown.map_or(NOT_RECORDED.to_owned(), ms));
    }
    if let Some(column) = table.column_mut(0) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    println!("{table}");
    for caveat in caveats(reader) {
        println!("note: {caveat}");
    }
}

/// Counts by name; `None` for what was not recorded.
fn count_rows(summary: &Summary) -> Vec<(&'static str, Option<u64>)> {
    let counts = &summary.counts;
    let touched = counts.faults.map(|_| summary.peak_touched_pages);
    let all =
        |counts: Vec<(&'static str, u64)>| counts.into_iter().map(|(name, n)| (name, Some(n)));
    let of_tasks = all(vec![
        ("processes", counts.processes),
        ("threads besides", counts.threads),
        ("forks that copy", counts.forks),
        ("forks that share", counts.vforks),
        ("execs", counts.execs),
        ("exits", counts.exits),
        ("mmap", counts.mmaps),
        ("mappings by exec", counts.exec_mappings),
        ("munmap", counts.munmaps),
        ("mremap", counts.mremaps),
        ("mprotect", counts.mprotects),
        ("brk", counts.brks),
        ("madvise", counts.madvises),
    ]);
    let of_faults = [
        ("page faults", counts.faults),
        ("  writes", counts.write_faults),
        ("  on present pages", counts.protection_faults),
        ("  by the kernel", counts.kernel_faults),
    ];
    let peaks = [
        ("peak address spaces", Some(summary.peak_spaces)),
        ("peak mapped pages", Some(summary.peak_mapped_pages)),
        ("peak touched pages", touched),
    ];
    of_tasks.chain(of_faults).chain(peaks).collect()
}

/// What the recorder measured; `None` if it measured nothing.
fn cost_text(summary: &Summary) -> Option<String> {
    let costs = &summary.costs;
    let ms = |ns: Option<u64>| ns.map(|ns| ns as f64 / 1e6);
    Some(format!(
        "faults {:.1} ms (and {} slow ones {:.1} ms), memory calls {:.1} ms, fork {:.1} ms, exec {:.1} ms",
        ms(costs.fault_ns)?,
        costs.slow_faults?,
        ms(costs.slow_fault_ns)?,
        ms(costs.call_ns)?,
        ms(costs.fork_ns)?,
        ms(costs.exec_ns)?
    ))
}
