//! Prints every event of a trace, one a line: `cargo run -p kpkeys-trace --example dump FILE`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write, stdout};

use kpkeys_trace::{Damage, TraceReader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: dump FILE")?;
    let mut reader = TraceReader::new(BufReader::new(File::open(path)?), Damage::Refuse)?;
    let mut out = BufWriter::new(stdout().lock());
    writeln!(out, "{:?}", reader.header())?;
    while let Some(entry) = reader.next_entry()? {
        writeln!(out, "{:>12} {:>4} {:x?}", entry.time_ns, entry.task.0, entry.event)?;
    }
    writeln!(out, "{:?}", reader.trailer())?;
    Ok(())
}
