//! What the two threads do.

use kpkeys_pgtable::Mode;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scenario {
    /// Both map a page, beside each other: both want to link the tables that are missing.
    Link,
    /// One unmaps a page and frees it and its tables, while the other maps one, which takes what was freed.
    Free,
    /// One stores in a lazy section, with pauses, and gives its CPU away in the middle; the other takes write permission away.
    Lazy,
    /// One makes an address space, maps, unmaps, and ends it; the other maps a page of the kernel's.
    Program,
    /// One frees an area, and has whatever waits flushed; the other unmaps a page and gives it back. Both map anew what is free then.
    Purge,
    /// One unmaps two pages of a program, whose frames are gathered for one flush. Both map anew what is free then.
    Gather,
    /// One moves a page, maps one, and unmaps and frees another; the other looks at all tables to find out what is mapped no more. Where frames
    /// have types.
    Sweep,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 7] = [
        Scenario::Link,
        Scenario::Free,
        Scenario::Lazy,
        Scenario::Program,
        Scenario::Purge,
        Scenario::Gather,
        Scenario::Sweep,
    ];

    /// Whether there is anything of it in a mode.
    pub fn is_for(self, mode: Mode) -> bool {
        self != Scenario::Sweep || mode.checks()
    }
}
