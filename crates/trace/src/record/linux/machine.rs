//! What the header of a recording says about the machine.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::calls::Pages;
use super::error::RecordError;
use crate::header::{Arch, Header, Kinds, Method};

/// Linux's default for fault_around_bytes, which only root can read.
const FAULT_AROUND_DEFAULT: u64 = 64 << 10;

/// The running machine.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Processors in use.
    pub cpus: Vec<usize>,
    /// The same as the kernel writes it, such as `0-3`.
    pub cpu_list: String,
    pub pages: Pages,
    pub address_bits: u8,
    arch: Arch,
}

impl Machine {
    /// Looks at the running machine.
    pub(super) fn here() -> Result<Self, RecordError> {
        let arch = Arch::native().ok_or(RecordError::Architecture(std::env::consts::ARCH))?;
        let cpu_list = read("/sys/devices/system/cpu/online");
        let cpu_list = if cpu_list.is_empty() { "0".to_owned() } else { cpu_list };
        let page_size = rustix::param::page_size();
        Ok(Self {
            cpus: parse_cpus(&cpu_list),
            cpu_list,
            pages: Pages { shift: page_size.trailing_zeros() as u8 },
            address_bits: address_bits(arch),
            arch,
        })
    }

    /// The header of a recording that begins now.
    pub(super) fn header(&self, method: Method, kinds: Kinds, command: Vec<Vec<u8>>) -> Header {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Header {
            arch: self.arch,
            page_shift: self.pages.shift,
            address_bits: self.address_bits,
            method,
            kinds,
            started_unix_ns: since_1970.as_nanos() as u64,
            cpus: self.cpus.len() as u32,
            fault_around_bytes: read("/sys/kernel/debug/fault_around_bytes")
                .parse()
                .unwrap_or(FAULT_AROUND_DEFAULT),
            kernel: format!(
                "{} {}",
                read("/proc/sys/kernel/ostype"),
                read("/proc/sys/kernel/osrelease")
            ),
            huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            command,
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The word in brackets, as in `always [madvise] never`.
fn chosen(setting: &str) -> String {
    let word = setting.split(['[', ']']).nth(1);
    word.unwrap_or_default().to_owned()
}

/// Width of user addresses. A program gets addresses above 47 bits on x86-64 only where the processor
/// has five levels of page tables (la57).
fn address_bits(arch: Arch) -> u8 {
    let five_levels = || {
        let cpuinfo = read("/proc/cpuinfo");
        let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
        flags.next().is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "la57"))
    };
    match arch {
        Arch::X86_64 if five_levels() => 56,
        Arch::X86_64 => 47,
        Arch::Aarch64 => 52,
        Arch::Riscv64 => 56,
    }
}

/// Reads a list such as `0-3,8`.
fn parse_cpus(list: &str) -> Vec<usize> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_lists_are_read() {
        assert_eq!(parse_cpus("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_cpus("7"), [7]);
    }

    #[test]
    fn the_chosen_word_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen(""), "");
    }
}
