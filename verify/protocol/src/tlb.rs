//! What a CPU may have cached: the worst that an architecture allows.
//!
//! A CPU may walk any address at any time. So each TLB is taken to hold every translation, and every way through tables, that was there at any
//! point since it was flushed last. This needs no choice of when a CPU walks, and whatever a real TLB can do wrong, this one does.
//!
//! What the bits of an entry mean is written down here once more, as the manuals have it, and not taken from the code under test.

use std::collections::BTreeSet;

use kpkeys_pgtable::{Flush, Format, PageRange};

use crate::frames::table_words;

/// What an entry is to a table walker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing.
    Nothing,
    /// The next table.
    Table(u64),
    /// A leaf: where, and whether stores pass when page tables are closed.
    Leaf {
        /// The first frame.
        frame: u64,
        /// Whether a store through it passes while page tables are closed.
        writable: bool,
    },
}

/// How a machine's walker reads an entry at a level, 0 being the last.
pub type Decode = fn(u8, u64) -> Decoded;

/// Part of the way from an address to its frame, or all of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cached {
    /// The root it starts from.
    pub root: u64,
    /// First address.
    pub va: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The table or frame that it leads to.
    pub frame: u64,
    /// What that is: the level of a table, or `None` for a leaf.
    pub table: Option<u8>,
    /// Of a leaf, whether a store passes while page tables are closed.
    pub writable: bool,
}

/// What the tables say now, and what each CPU holds of what they said before.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tlbs {
    /// All there is in the tables.
    pub now: BTreeSet<Cached>,
    /// What is not there any more, by CPU.
    pub stale: Vec<BTreeSet<Cached>>,
}

/// Everything that tables translate.
pub fn walk(decode: Decode, kernel: u64, user: &[u64]) -> BTreeSet<Cached> {
    let mut found = BTreeSet::new();
    descend(decode, kernel, kernel, 3, 256..512, 0, &mut found);
    for &root in user {
        descend(decode, root, root, 3, 0..256, 0, &mut found);
    }
    found
}

fn descend(
    decode: Decode,
    root: u64,
    table: u64,
    level: u8,
    entries: std::ops::Range<usize>,
    va: u64,
    found: &mut BTreeSet<Cached>,
) {
    let bytes = 1 << (12 + 9 * u32::from(level));
    found.insert(Cached {
        root,
        va,
        bytes: bytes * 512,
        frame: table,
        table: Some(level),
        writable: false,
    });
    let words = table_words(table);
    for index in entries.filter(|&index| words[index] != 0) {
        let high = if level == 3 && index >= 256 { 0xffff_0000_0000_0000 } else { 0 };
        let va = va | high | (index as u64 * bytes);
        match decode(level, words[index]) {
            Decoded::Nothing => (),
            Decoded::Table(lower) => descend(decode, root, lower, level - 1, 0..512, va, found),
            Decoded::Leaf { frame, writable } => {
                found.insert(Cached { root, va, bytes, frame, table: None, writable });
            }
        }
    }
}

impl Tlbs {
    /// CPUs that hold nothing but what is there.
    pub fn new(now: BTreeSet<Cached>, cpus: usize) -> Tlbs {
        Tlbs { now, stale: vec![BTreeSet::new(); cpus] }
    }

    /// What is new in the tables, and what a CPU still holds of the same address, or for the same frame.
    pub fn anew<'t>(
        &'t self,
        now: &'t BTreeSet<Cached>,
    ) -> impl Iterator<Item = (&'t Cached, usize, &'t Cached)> {
        let leaves = now.difference(&self.now).filter(|new| new.table.is_none());
        let held = self
            .stale
            .iter()
            .enumerate()
            .flat_map(|(cpu, held)| held.iter().map(move |old| (cpu, old)));
        let held = held.filter(|(_, old)| old.table.is_none());
        leaves.flat_map(move |new| {
            let alike = move |old: &Cached| {
                (old.root, old.va) == (new.root, new.va) || old.frame == new.frame
            };
            held.clone().filter(move |(_, old)| alike(old)).map(move |(cpu, old)| (new, cpu, old))
        })
    }

    /// The tables are like this by now; every CPU may still hold what they were.
    pub fn tables_are(&mut self, now: BTreeSet<Cached>) {
        if now == self.now {
            return;
        }
        for stale in &mut self.stale {
            stale.extend(self.now.difference(&now));
            stale.retain(|cached| !now.contains(cached));
        }
        self.now = now;
    }

    /// One CPU is flushed.
    pub fn flush<F: Format>(&mut self, cpu: usize, flush: Flush<F>) {
        self.stale[cpu].retain(|cached| !covers(flush, cached));
    }
}

fn covers<F: Format>(flush: Flush<F>, cached: &Cached) -> bool {
    let is_kernel = cached.va >> 63 == 1;
    let overlaps = |range: PageRange<F>| {
        let last = range.start().0 + (range.pages() as u64 * 4096 - 1);
        range.start().0 <= cached.va + (cached.bytes - 1) && cached.va <= last
    };
    match flush {
        Flush::Kernel(range) => is_kernel && overlaps(range),
        Flush::AllKernel => is_kernel,
        Flush::User(root, range) => !is_kernel && cached.root == root.0 && overlaps(range),
        Flush::AddressSpace(root) => !is_kernel && cached.root == root.0,
        Flush::All => true,
    }
}
