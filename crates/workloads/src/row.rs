//! The rows of the table.

/// One row: a benchmark and its parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The benchmark it belongs to: `fork`, `munmap` or `vmalloc`.
    pub benchmark: &'static str,
    /// Its name in the series' table.
    pub result_class: &'static str,
    /// What is done.
    pub test: Test,
    /// Pages, where the test has a size.
    pub pages: usize,
    /// `h:1`: large folios, or `vmalloc_huge`.
    pub huge: bool,
    /// What is timed.
    pub span: Span,
}

/// What a row does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Test {
    /// One fork of a process with 1 GiB mapped.
    Fork,
    /// One munmap of 1 GiB.
    Munmap,
    /// `vmalloc` of a fixed size, touch, `vfree`.
    FixSize,
    /// The same with a size drawn anew each loop.
    RandomSize,
    /// `vm_map_ram`, touch, `vm_unmap_ram`.
    VmMapRam,
    /// Holes of exactly one area, filled and emptied.
    FullFit,
    /// Allocations behind 15,000 live areas.
    LongBusyList,
    /// Five pages at a large alignment, zeroed.
    FixAlign,
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Span {
    /// All loops of a test together, set-up included.
    Loops {
        /// The number of loops the series published its figures for.
        published: u64,
    },
    /// Exactly one operation.
    Once,
}

const fn process(
    benchmark: &'static str,
    result_class: &'static str,
    test: Test,
    huge: bool,
) -> Row {
    Row { benchmark, result_class, test, pages: crate::process::PAGES, huge, span: Span::Once }
}

const fn vmalloc(result_class: &'static str, test: Test, pages: usize, huge: bool) -> Row {
    let published = if pages <= 16 { 500_000 } else { 100_000 };
    Row { benchmark: "vmalloc", result_class, test, pages, huge, span: Span::Loops { published } }
}

/// All rows: the series' table, then three tests of the same module that it did not publish.
pub const ALL_ROWS: [Row; 17] = [
    process("fork", "fork: h:0", Test::Fork, false),
    process("fork", "fork: h:1", Test::Fork, true),
    process("munmap", "munmap: h:0", Test::Munmap, false),
    process("munmap", "munmap: h:1", Test::Munmap, true),
    vmalloc("fix_size_alloc_test: p:1, h:0", Test::FixSize, 1, false),
    vmalloc("fix_size_alloc_test: p:4, h:0", Test::FixSize, 4, false),
    vmalloc("fix_size_alloc_test: p:16, h:0", Test::FixSize, 16, false),
    vmalloc("fix_size_alloc_test: p:64, h:0", Test::FixSize, 64, false),
    vmalloc("fix_size_alloc_test: p:256, h:0", Test::FixSize, 256, false),
    vmalloc("fix_size_alloc_test: p:16, h:1", Test::FixSize, 16, true),
    vmalloc("fix_size_alloc_test: p:64, h:1", Test::FixSize, 64, true),
    vmalloc("fix_size_alloc_test: p:256, h:1", Test::FixSize, 256, true),
    vmalloc("random_size_alloc_test: p:1, h:0", Test::RandomSize, 1, false),
    vmalloc("vm_map_ram_test: p:1, h:0", Test::VmMapRam, 1, false),
    vmalloc("full_fit_alloc_test: p:1, h:0", Test::FullFit, 1, false),
    vmalloc("long_busy_list_alloc_test: p:1, h:0", Test::LongBusyList, 1, false),
    vmalloc("fix_align_alloc_test: p:1, h:0", Test::FixAlign, 1, false),
];
