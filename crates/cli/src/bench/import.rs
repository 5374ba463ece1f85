//! What a machine said on its serial line, as a run: the records of the reference kernel, boot by boot.
//!
//! A boot is of the mode and the block that its label says, `MODE/BLOCK`, as `kpkeys image --bench` writes them; without a label it is of the
//! mode that the kernel says, and of the first block that has none of it yet. A boot that did not come to a good end is left out.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kpkeys_stats::record::{Done, FORMAT, Machine, Mode, Record, Run, Unit};
use kpkeys_workloads::ALL_ROWS;
use serde::Deserialize;

use crate::emulated::bench::Measured;

/// Where such a run was: on no machine of ours.
const ON: &str = "machine";

/// What the kernel says of a boot, and of what it measured in it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Reported {
    Boot {
        ram_kib: u64,
        cpus: u32,
        label: Option<String>,
    },
    Protection {
        backend: String,
        mode: String,
    },
    End {
        outcome: String,
    },
    #[serde(untagged)]
    Measured(Measured),
    #[serde(untagged)]
    Other(serde::de::IgnoredAny),
}

/// One boot.
#[derive(Default)]
struct Boot {
    kernel: String,
    arch: String,
    ram_kib: u64,
    cpus: u32,
    label: Option<String>,
    backend: String,
    mode: String,
    measured: Vec<Measured>,
    ended_well: bool,
}

/// A run, and how many boots were left out of it.
pub struct Imported {
    /// The header.
    pub run: Run,
    /// What was measured.
    pub records: Vec<Record>,
    /// What it makes whole.
    pub done: Vec<Done>,
    /// Boots that measured something and did not come to a good end.
    pub left_out: usize,
}

/// Reads what was captured.
///
/// # Errors
///
/// A file that cannot be read, in which nothing was measured, or that is of several machines.
pub fn read(file: &Path, seed: u64) -> Result<Imported> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    imported(&String::from_utf8_lossy(&bytes), seed)
        .with_context(|| format!("{} is no record of a run", file.display()))
}

fn imported(text: &str, seed: u64) -> Result<Imported> {
    let mut boots = boots(text);
    boots.retain(|boot| !boot.measured.is_empty());
    let all = boots.len();
    boots.retain(|boot| boot.ended_well);
    let left_out = all - boots.len();
    let Some(first) = boots.first() else {
        bail!("no boot in it measured anything and came to a good end");
    };
    if let Some(other) = boots.iter().find(|boot| boot.machine() != first.machine()) {
        bail!(
            "it is of several machines: {} and {}; give each a file of its own",
            first.machine(),
            other.machine()
        );
    }
    let mut places = BTreeSet::new();
    let mut records = Vec::new();
    for boot in &boots {
        let (mode, block) = boot.place(&places)?;
        for measured in &boot.measured {
            let name = measured.row();
            let row = ALL_ROWS.iter().find(|row| row.result_class == name);
            let row = row.with_context(|| format!("there is no row `{name}` in this version"))?;
            records.push(measured.record(row, mode, block, Unit::Ns));
        }
        if boot.measured.iter().any(Measured::is_timed) {
            places.insert((mode.name(), block));
        }
    }
    let blocks = places.iter().map(|(_, block)| block + 1).max().unwrap_or(0);
    if !places.iter().any(|(mode, _)| *mode == Mode::Off.name()) {
        bail!("no boot in it timed mode off, with which the others are compared");
    }
    let done =
        places.iter().filter_map(|&(mode, block)| Some(Done { mode: mode_named(mode)?, block }));
    let done = done.collect();
    Ok(Imported { run: first.header(seed, blocks), records, done, left_out })
}

fn boots(text: &str) -> Vec<Boot> {
    let (mut boots, mut kernel) = (Vec::<Boot>::new(), (String::new(), String::new()));
    for line in text.lines() {
        // Terminals and firmware leave bytes of their own before what the kernel says.
        let said = line.find("{\"type\":").map(|at| line[at..].trim_end());
        let Some(json) = said else {
            let named =
                line.split_once("kpkeys kernel ").and_then(|(_, rest)| rest.split_once(" on "));
            kernel = named.map_or(kernel, |(version, arch)| (version.into(), arch.trim().into()));
            continue;
        };
        match (serde_json::from_str(json), boots.last_mut()) {
            (Ok(Reported::Boot { ram_kib, cpus, label }), _) => {
                let (kernel, arch) = kernel.clone();
                boots.push(Boot { kernel, arch, ram_kib, cpus, label, ..Boot::default() });
            }
            (Ok(Reported::Protection { backend, mode }), Some(boot)) => {
                (boot.backend, boot.mode) = (backend, mode);
            }
            (Ok(Reported::Measured(measured)), Some(boot)) => boot.measured.push(measured),
            (Ok(Reported::End { outcome }), Some(boot)) => boot.ended_well = outcome == "success",
            _ => {}
        }
    }
    boots
}

fn mode_named(name: &str) -> Option<Mode> {
    [Mode::Off, Mode::Aa].into_iter().chain(Mode::PROTECTING).find(|mode| mode.name() == name)
}

impl Boot {
    /// Its mode and its block, which has none of that mode yet if the label does not say which it is.
    fn place(&self, taken: &BTreeSet<(&'static str, u32)>) -> Result<(Mode, u32)> {
        let unknown = |mode: &str| format!("there is no mode `{mode}` in this version");
        if let Some((mode, block)) = self.label.as_deref().and_then(|label| label.split_once('/')) {
            let place = (mode_named(mode).with_context(|| unknown(mode))?, block.parse()?);
            return Ok(place);
        }
        let mode = mode_named(&self.mode).with_context(|| unknown(&self.mode))?;
        let free = (0..).find(|&block| !taken.contains(&(mode.name(), block)));
        Ok((mode, free.unwrap_or_default()))
    }

    /// What boots of one run have in common.
    fn machine(&self) -> String {
        let Boot { kernel, arch, ram_kib, cpus, backend, .. } = self;
        format!("{arch} with {cpus} CPUs and {ram_kib} KiB, kernel {kernel}, backend {backend}")
    }

    fn header(&self, seed: u64, blocks: u32) -> Run {
        Run {
            format: FORMAT,
            machine: Machine {
                cpu: self.arch.clone(),
                cpus: self.cpus,
                arch: self.arch.clone(),
                os: format!("kpkeys kernel {}", self.kernel),
                extra: [("ram_kib".to_owned(), self.ram_kib.into())].into_iter().collect(),
            },
            on: ON.into(),
            backend: self.backend.clone(),
            paging: self.arch.clone(),
            switch_ns: None,
            seed,
            blocks,
            quick: false,
            build: format!("kernel {}, imported", self.kernel),
            keys: None,
            origin: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = "fork: h:0";

    fn boot(label: &str, mode: &str, ns: u64, end: &str) -> String {
        format!(
            "BdsDxe: starting\r\n\u{1b}[2J[    0.000] kpkeys kernel 0.1.0 on x86_64\r\n\
             {{\"type\":\"boot\",\"ram_kib\":1000,\"cpus\":4,\"boot_ms\":9{label}}}\r\n\
             {{\"type\":\"protection\",\"backend\":\"pks\",\"mode\":\"{mode}\",\"enforced\":true,\"ptps\":1,\"spare\":0,\"up_ms\":9}}\r\n\
             {{\"type\":\"sample\",\"row\":\"{ROW}\",\"iteration\":0,\"ns\":{ns},\"operations\":1}}\r\n{end}"
        )
    }

    const GOOD: &str = "{\"type\":\"end\",\"outcome\":\"success\"}\r\n";

    fn values(imported: &Imported) -> Vec<(Mode, u32, f64)> {
        let samples = imported.records.iter().filter_map(|record| match record {
            Record::Sample(sample) => Some((sample.mode, sample.block, sample.value)),
            _ => None,
        });
        samples.collect()
    }

    #[test]
    fn labels_say_which_boot_is_the_twin() {
        let aa = ",\"label\":\"aa/0\"";
        let text =
            boot(aa, "off", 7, GOOD) + &boot("", "off", 8, GOOD) + &boot("", "fused", 9, GOOD);
        let imported = imported(&text, 1).unwrap();
        let expected = [(Mode::Aa, 0, 7.0), (Mode::Off, 0, 8.0), (Mode::Fused, 0, 9.0)];
        assert_eq!(values(&imported), expected);
        assert_eq!((imported.run.blocks, imported.run.backend.as_str()), (1, "pks"));
        assert_eq!(imported.done.len(), 3);
    }

    #[test]
    fn boots_of_one_mode_are_blocks_and_bad_ones_are_left_out() {
        let failed = "{\"type\":\"end\",\"outcome\":\"failed\"}\n";
        let text = boot("", "off", 1, GOOD)
            + &boot("", "off", 2, failed)
            + &boot("", "off", 3, GOOD)
            + &boot("", "off", 4, "");
        let imported = imported(&text, 1).unwrap();
        assert_eq!(values(&imported), [(Mode::Off, 0, 1.0), (Mode::Off, 1, 3.0)]);
        assert_eq!((imported.left_out, imported.run.blocks), (2, 2));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let refused = |text: &str, why: &str| {
            let error = imported(text, 1).err().expect("refused").to_string();
            assert!(error.contains(why), "{error}");
        };
        refused("nothing", "came to a good end");
        refused(&boot("", "fused", 1, GOOD), "mode off");
        refused(&boot(",\"label\":\"fast/0\"", "off", 1, GOOD), "no mode `fast`");
        let other = boot("", "off", 1, GOOD).replace("\"cpus\":4", "\"cpus\":2");
        refused(&(boot("", "off", 1, GOOD) + &other), "several machines");
        refused(&boot("", "off", 1, GOOD).replace(ROW, "frok"), "no row `frok`");
    }
}
