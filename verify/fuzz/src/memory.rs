//! Operations of `kpkeys-mm` against the plain models of its tests: address spaces, what processes read, kernel mappings.
//!
//! The first byte says which machine and mode. Then bytes are read some at a time, the same number for each operation, so that one that is put in or taken out leaves
//! the others what they are.

use kpkeys_mm::OnFork;

use crate::machine::on_machine;
use crate::{contents, space_model, vmalloc_model};

/// Operations of one input: after each of them all is compared.
const MOST: usize = 64;

/// Mappings, faults and forks: which page is where, and what may be done with it.
pub fn spaces(bytes: &[u8]) {
    run(bytes, |machine, operations| {
        let operations = operations.map(space_operation);
        on_machine!(machine, space_model::PAGES, |kernel| space_model::carry_out(
            &kernel, operations
        ));
    });
}

/// Moves, files and what a child gets: what each process reads.
pub fn contents(bytes: &[u8]) {
    run(bytes, |machine, operations| {
        let operations = operations.map(contents_operation);
        on_machine!(machine, contents::PAGES, |kernel| contents::carry_out(&kernel, operations));
    });
}

/// `vmalloc` and `vm_map_ram`.
pub fn areas(bytes: &[u8]) {
    run(bytes, |machine, operations| {
        let operations = operations.map(area_operation);
        on_machine!(machine, vmalloc_model::PAGES, |kernel| vmalloc_model::carry_out(
            &kernel, operations
        ));
    });
}

fn run<const N: usize>(bytes: &[u8], on: impl FnOnce(u8, &mut dyn Iterator<Item = [u8; N]>)) {
    let Some((&machine, operations)) = bytes.split_first() else { return };
    let (operations, _) = operations.as_chunks();
    on(machine, &mut operations.iter().copied().take(MOST));
}

fn space_operation([what, low, high, len, with]: [u8; 5]) -> (usize, space_model::Operation) {
    use space_model::{EDGE, Operation, REGION};
    let page = usize::from(u16::from_le_bytes([low, high])) % REGION;
    let few = usize::from(len) % 24 + 1;
    let pages = if with & 0x80 == 0 { few } else { usize::from(len) * 5 + 1 };
    let (first, pages, write) = (page, pages.min(REGION - page), with & 1 == 0);
    let operation = match what & 15 {
        0 | 1 => Operation::Mmap { first, pages, write, huge: false },
        2 => {
            let first = first % EDGE;
            let pages = REGION - first - 8;
            Operation::Mmap { first, pages, write: true, huge: with & 2 != 0 }
        }
        3 => Operation::Munmap { first, pages },
        4 if with & 2 == 0 => Operation::Mprotect { first, pages, write },
        4 => Operation::Withhold { first, pages, withhold: write },
        5 | 6 => Operation::Populate { first, pages },
        7 => Operation::Discard { first, pages },
        8 | 9 => Operation::Fault { page, write },
        10..=12 => Operation::Store { page, value: u64::from(len) << 8 | u64::from(with) },
        13 | 14 => Operation::Fork,
        _ => Operation::Exit,
    };
    ((what >> 4).into(), operation)
}

fn contents_operation([what, at, len, to, with]: [u8; 5]) -> (usize, contents::Operation) {
    use contents::{FILE_PAGES, Operation, REGION, Span};
    let span = |at: u8, len: u8| {
        let first = usize::from(at) % REGION;
        Span { first, pages: (usize::from(len) % 11 + 1).min(REGION - first) }
    };
    let (page, from, flag) = (usize::from(at) % REGION, span(at, len), with & 1 == 0);
    let operation = match what & 15 {
        0 => Operation::Mmap { span: from, write: flag, file: None },
        1 => {
            let file = Some((usize::from(to) % FILE_PAGES, with & 2 == 0));
            Operation::Mmap { span: from, write: flag, file }
        }
        2 => Operation::Munmap(from),
        3 => Operation::Protect(from, flag),
        4..=6 => Operation::Write { page, value: u64::from(len) << 8 | u64::from(to) },
        7 => Operation::Read(page),
        8 => Operation::Populate(from),
        9 => Operation::Discard(from),
        10 => Operation::MarkUnused(from),
        11 | 12 => Operation::Move { from, to: span(to, with >> 1), keeps_old: flag },
        13 => {
            let on_fork = [OnFork::Copy, OnFork::Skip, OnFork::Wipe];
            Operation::OnFork(from, on_fork[usize::from(with) % 3])
        }
        14 => Operation::Fork,
        _ => Operation::Exit,
    };
    ((what >> 4).into(), operation)
}

fn area_operation([what, low, high]: [u8; 3]) -> vmalloc_model::Operation {
    use vmalloc_model::{Operation, RAM_FRAMES};
    let number = usize::from(u16::from_le_bytes([low, high]));
    let pages = number % if what & 0x80 == 0 { 24 } else { 1100 } + 1;
    match what & 15 {
        0 | 1 => Operation::Vmalloc { pages },
        2 => Operation::VmallocHuge { pages },
        3 => Operation::VmallocAligned { pages: pages % 40 + 1, align_log2: u32::from(high) % 24 },
        4..=6 => Operation::VmMapRam { pages: number % RAM_FRAMES + 1 },
        7..=11 => Operation::Free { which: number },
        12 | 13 => Operation::FreeWrongly { which: number },
        14 => Operation::Purge,
        _ => Operation::Shrink,
    }
}
