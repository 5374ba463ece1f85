//! What is attacked.

use core::fmt;

use kpkeys_pgtable::Format;

/// A page that is, was or will be a page-table page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// The table of a level that translates an address of a region.
    Table(Region, Level),
    /// The root of the tables the kernel was started on.
    Early,
    /// Tables that are part of the kernel image.
    Static,
    /// A page-table page that was given back: in the pool, where there is one.
    GivenBack,
    /// A page that was data and became a page-table page.
    DataBecomeTable,
    /// A page that was a page-table page and became data. It must be writable again.
    TableBecomeData,
    /// A page that a program can write, and that is to become a page-table page.
    UserPage,
    /// The same of a page that the kernel has mapped besides the linear map.
    KernelPage,
    /// A page of the kernel's variables.
    KernelData,
    /// A page of the kernel's code.
    KernelText,
    /// A page of a device's registers.
    Device,
    /// What the page-table code remembers: whether protection is on.
    ProtectionFlag,
    /// What the page-table code remembers: where the linear map's tables start.
    LinearMapRoot,
    /// No page-table page, but what could be turned against them.
    Platform(Platform),
}

/// A structure of the machine that decides what the kernel executes, or where the CPU itself writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Platform {
    /// A gate for exceptions (x86-64: the IDT).
    ExceptionTable,
    /// The stacks that exceptions arrive on (x86-64: the interrupt stack table in the TSS).
    TaskState,
    /// The registers of the interrupt controller, which can start CPUs.
    InterruptController,
    /// Where the code is that other CPUs start with (x86-64: below 1 MiB).
    StartCode,
    /// What CPUs have answered who waits for their flushes.
    FlushAnswer,
}

/// A part of the address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Region {
    /// The kernel's mapping of all memory.
    LinearMap,
    /// Kernel mappings of frames that need not be contiguous.
    Vmalloc,
    /// The kernel's code and data.
    Image,
    /// A process.
    User,
}

/// A level of the tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Entries that map pages.
    Pte,
    /// The level above.
    Pmd,
    /// The level above that.
    Pud,
    /// The root.
    Root,
}

impl Target {
    /// All targets, tables first.
    pub fn all() -> impl Iterator<Item = Target> {
        use Target::{
            DataBecomeTable, Device, Early, GivenBack, KernelData, KernelPage, KernelText,
            LinearMapRoot, ProtectionFlag, Static, TableBecomeData, UserPage,
        };
        let platform = Platform::ALL.into_iter().map(Target::Platform);
        let tables = Region::ALL.into_iter().flat_map(|region| {
            Level::ALL.into_iter().map(move |level| Target::Table(region, level))
        });
        let others = [Early, Static, GivenBack, DataBecomeTable, TableBecomeData];
        let remembered = [ProtectionFlag, LinearMapRoot];
        // Last, since they use up what the pool has given back.
        let beliefs = [UserPage, KernelPage, KernelData, KernelText, Device];
        tables.chain(others).chain(remembered).chain(platform).chain(beliefs)
    }

    /// The target whose [`Display`](fmt::Display) this is.
    pub fn from_name(name: &str) -> Option<Target> {
        Target::all().find(|target| alloc::format!("{target}") == name)
    }

    /// Whether it is the root of tables in use.
    pub fn is_root(self) -> bool {
        matches!(self, Target::Table(_, Level::Root))
    }
}

impl Platform {
    /// All of them.
    pub const ALL: [Platform; 5] = [
        Platform::ExceptionTable,
        Platform::TaskState,
        Platform::InterruptController,
        Platform::StartCode,
        Platform::FlushAnswer,
    ];
}

impl Region {
    /// All regions.
    pub const ALL: [Region; 4] = [Region::LinearMap, Region::Vmalloc, Region::Image, Region::User];
}

impl Level {
    /// All levels, from the pages up.
    pub const ALL: [Level; 4] = [Level::Pte, Level::Pmd, Level::Pud, Level::Root];

    /// The same in the words of the page-table library.
    pub(super) fn of_tables<F: Format>(self) -> kpkeys_pgtable::Level {
        match self {
            Level::Pte => kpkeys_pgtable::Level::Pte,
            Level::Pmd => kpkeys_pgtable::Level::Pmd,
            Level::Pud => kpkeys_pgtable::Level::Pud,
            Level::Root => F::ROOT,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Target::Table(region, level) => {
                let region = match region {
                    Region::LinearMap => "linear-map",
                    Region::Vmalloc => "vmalloc",
                    Region::Image => "image",
                    Region::User => "user",
                };
                let level = match level {
                    Level::Pte => "pte",
                    Level::Pmd => "pmd",
                    Level::Pud => "pud",
                    Level::Root => "root",
                };
                return f.pad(&alloc::format!("{region}-{level}"));
            }
            Target::Early => "early-table",
            Target::Static => "static-table",
            Target::GivenBack => "table-given-back",
            Target::DataBecomeTable => "data-become-table",
            Target::TableBecomeData => "table-become-data",
            Target::UserPage => "user-page",
            Target::KernelPage => "kernel-page",
            Target::KernelData => "kernel-data",
            Target::KernelText => "kernel-text",
            Target::Device => "device",
            Target::ProtectionFlag => "protection-flag",
            Target::LinearMapRoot => "linear-map-place",
            Target::Platform(Platform::ExceptionTable) => "exception-table",
            Target::Platform(Platform::TaskState) => "task-state",
            Target::Platform(Platform::InterruptController) => "interrupt-controller",
            Target::Platform(Platform::StartCode) => "start-code",
            Target::Platform(Platform::FlushAnswer) => "flush-answer",
        };
        f.pad(name)
    }
}
