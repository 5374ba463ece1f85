//! A stopped task of a ptrace recording, as /proc shows it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::calls::Pages;
use super::raw::RawMapping;
use crate::event::PageRange;

/// Set in an entry of /proc/PID/pagemap when the page is present (admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;

/// Most pages of one mapping that are looked at: a new program's mappings are smaller.
const LOOKED_AT: u64 = 1 << 20;

/// The process of a task.
pub(super) fn process_of(tid: u32) -> Option<u32> {
    number_in_status(tid, "Tgid:")
}

/// The process that made a task.
pub(super) fn parent_of(tid: u32) -> Option<u32> {
    let process = process_of(tid)?;
    if process == tid { number_in_status(tid, "PPid:") } else { Some(process) }
}

fn number_in_status(tid: u32, name: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// True while process `pid` can still do something: it is there, and no zombie.
pub(super) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// The program's name.
pub(super) fn name_of(pid: u32) -> Vec<u8> {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.strip_suffix(b"\n").unwrap_or(&name).to_vec()
}

/// Its mappings, but for the page that is the kernel's.
pub(super) fn mappings_of(pid: u32) -> Vec<RawMapping> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter_map(parse_mapping).collect()
}

/// Reads a line such as `7ffd8000-7ffda000 rw-p 00000000 00:00 0    [stack]`.
fn parse_mapping(line: &str) -> Option<RawMapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let access = words.next()?;
    let inode = words.nth(2)?;
    let name = words.next().unwrap_or_default();
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let bit = |letter, bit| if access.contains(letter) { bit } else { 0 };
    (name != "[vsyscall]").then(|| RawMapping {
        start,
        length: end.saturating_sub(start),
        protection: bit('r', 1) | bit('w', 2) | bit('x', 4),
        flags: bit('s', libc::MAP_SHARED as u32),
        anonymous: inode == "0",
        stack: name == "[stack]",
    })
}

/// The pages of `mappings` that are present.
pub(super) fn present_in(pid: u32, mappings: &[RawMapping], pages: Pages) -> Vec<PageRange> {
    let Ok(pagemap) = File::open(format!("/proc/{pid}/pagemap")) else { return Vec::new() };
    let mut present = Vec::new();
    for mapping in mappings {
        let range = pages.range(mapping.start, mapping.length);
        let mut entries = vec![0; (range.count.min(LOOKED_AT) * 8) as usize];
        let read = pagemap.read_at(&mut entries, range.first * 8).unwrap_or(0);
        present.extend(runs(&entries[..read], range.first));
    }
    present
}

/// The runs of present pages in `entries`, whose first is about page `first`.
fn runs(entries: &[u8], first: u64) -> Vec<PageRange> {
    let mut runs: Vec<PageRange> = Vec::new();
    for (page, entry) in (first..).zip(entries.chunks_exact(8)) {
        let entry = u64::from_ne_bytes(std::array::from_fn(|index| entry[index]));
        if entry & PRESENT == 0 {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end() == page => run.count += 1,
            _ => runs.push(PageRange { first: page, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read() {
        let stack = parse_mapping("7ffd8000-7ffda000 rw-p 00000000 00:00 0    [stack]");
        let stack = stack.expect("a mapping");
        assert_eq!((stack.start, stack.length), (0x7ffd_8000, 0x2000));
        assert_eq!((stack.protection, stack.anonymous, stack.stack), (3, true, true));
        assert_eq!(parse_mapping("nonsense"), None);
    }

    #[test]
    fn present_pages_are_joined_to_runs() {
        let entries: Vec<u8> = [PRESENT, PRESENT | 5, 0, PRESENT]
            .iter()
            .flat_map(|entry| entry.to_ne_bytes())
            .collect();
        let expected = [PageRange { first: 7, count: 2 }, PageRange { first: 10, count: 1 }];
        assert_eq!(runs(&entries, 7), expected);
    }
}
