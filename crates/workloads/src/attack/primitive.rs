//! How a write gets to its target.

use core::fmt;

use super::site::{Place, Store};
use super::target::{Level, Platform, Region, Target};

/// A way to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Primitive {
    /// A store of one byte.
    Byte,
    /// A store of eight bytes, a whole entry.
    Word,
    /// A string copy over eight entries.
    Bulk,
    /// An atomic read-modify-write.
    ReadModifyWrite,
    /// From an interrupt handler that interrupted an open window.
    Interrupt,
    /// From an NMI handler that interrupted an open window.
    Nmi,
    /// From another CPU while this one has a window open.
    OtherCpu,
    /// From another thread, after the one with the open window was preempted.
    OtherThread,
    /// From a page-fault handler inside an open window.
    PageFault,
    /// From a page-fault handler inside an interrupt handler that interrupted an open window.
    NestedFault,
    /// From the handler of an asynchronous error (arm64: SError) that interrupted an open window.
    AsyncError,
    /// A stray store of the page-table code itself, while its window for tables of an address space is open.
    UserWindow,
    /// The same while its window for the kernel's tables is open.
    KernelWindow,
    /// Through the alias that page tables are stored through, outside of windows.
    Alias,
    /// By a copy to a program whose buffer is said to be at the alias.
    CopyToUser,
    /// From a program in user mode that stores to the alias.
    Program,
    /// Through an alias in the vmalloc area that maps the page writable.
    VmallocAlias,
    /// Through a user mapping that was left over when the page became a table.
    UserAlias,
    /// By asking the page-table code itself to map the page writable.
    MapWritable,
    /// By loading a root that is no page-table page.
    ForgedRoot,
    /// By loading a root that is a table of the kernel's, but no thread's.
    ForeignRoot,
    /// By changing how many spare pages a CPU is said to have, so that one that is in use is handed out again.
    ForgedSpare,
    /// By changing which page a CPU hands out next as a table.
    ForgedEntry,
    /// By changing which block the frame allocator gives next: to the page-table code what is mapped, or as data what is a table.
    ForgedLink,
    /// By changing which frame holds a page of a file, which a program then maps.
    ForgedFile,
    /// By changing whose tables an address space is said to have.
    ForgedSpace,
    /// By asking the page-table code to map a page writable and executable.
    MapExecutable,
    /// By asking it to map a device's registers as memory.
    MapAsMemory,
    /// By asking it to map memory as a device's registers.
    MapAsDevice,
    /// By changing the saved register in an exception frame.
    ForgedFrame,
    /// By changing the saved register of a suspended thread.
    ForgedThread,
}

impl Primitive {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Primitive; 31] = [
        Primitive::Byte,
        Primitive::Word,
        Primitive::Bulk,
        Primitive::ReadModifyWrite,
        Primitive::Interrupt,
        Primitive::Nmi,
        Primitive::OtherCpu,
        Primitive::OtherThread,
        Primitive::PageFault,
        Primitive::NestedFault,
        Primitive::AsyncError,
        Primitive::UserWindow,
        Primitive::KernelWindow,
        Primitive::Alias,
        Primitive::CopyToUser,
        Primitive::Program,
        Primitive::VmallocAlias,
        Primitive::UserAlias,
        Primitive::MapWritable,
        Primitive::ForgedRoot,
        Primitive::ForeignRoot,
        Primitive::ForgedSpare,
        Primitive::ForgedEntry,
        Primitive::ForgedLink,
        Primitive::ForgedFile,
        Primitive::ForgedSpace,
        Primitive::MapExecutable,
        Primitive::MapAsMemory,
        Primitive::MapAsDevice,
        Primitive::ForgedFrame,
        Primitive::ForgedThread,
    ];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Primitive::Byte => "store-1",
            Primitive::Word => "store-8",
            Primitive::Bulk => "store-bulk",
            Primitive::ReadModifyWrite => "read-modify-write",
            Primitive::Interrupt => "interrupt-in-window",
            Primitive::Nmi => "nmi-in-window",
            Primitive::OtherCpu => "other-cpu-in-window",
            Primitive::OtherThread => "other-thread-in-window",
            Primitive::PageFault => "page-fault-in-window",
            Primitive::NestedFault => "nested-fault-in-window",
            Primitive::AsyncError => "async-error-in-window",
            Primitive::UserWindow => "user-window",
            Primitive::KernelWindow => "kernel-window",
            Primitive::Alias => "alias",
            Primitive::CopyToUser => "copy-to-user",
            Primitive::Program => "program",
            Primitive::VmallocAlias => "vmalloc-alias",
            Primitive::UserAlias => "user-alias",
            Primitive::MapWritable => "map-writable",
            Primitive::ForgedRoot => "forged-root",
            Primitive::ForeignRoot => "foreign-root",
            Primitive::ForgedSpare => "forged-spare",
            Primitive::ForgedEntry => "forged-entry",
            Primitive::ForgedLink => "forged-link",
            Primitive::ForgedFile => "forged-file",
            Primitive::ForgedSpace => "forged-space",
            Primitive::MapExecutable => "map-executable",
            Primitive::MapAsMemory => "map-as-memory",
            Primitive::MapAsDevice => "map-as-device",
            Primitive::ForgedFrame => "forged-frame",
            Primitive::ForgedThread => "forged-thread",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Primitive> {
        Self::ALL.into_iter().find(|primitive| primitive.name() == name)
    }

    /// What kind of store the attack ends in.
    pub const fn store(self) -> Store {
        match self {
            Primitive::Byte => Store::Byte,
            Primitive::Bulk => Store::Bulk,
            Primitive::ReadModifyWrite => Store::ReadModifyWrite,
            _ => Store::Word,
        }
    }

    /// Where the store is executed while a window is open, for the primitives that are about that.
    pub const fn place(self) -> Option<Place> {
        match self {
            Primitive::Interrupt => Some(Place::Interrupt),
            Primitive::Nmi => Some(Place::Nmi),
            Primitive::OtherCpu => Some(Place::OtherCpu),
            Primitive::OtherThread => Some(Place::OtherThread),
            Primitive::PageFault => Some(Place::PageFault),
            Primitive::NestedFault => Some(Place::NestedFault),
            Primitive::AsyncError => Some(Place::AsyncError),
            _ => None,
        }
    }

    /// Whether it is about the alias that page tables are stored through, so that there is no such attack where keys protect them.
    ///
    /// In mode `off` there is no alias yet. The attack then goes the way that comes closest, and must succeed: by the linear map, or by
    /// a mapping of the page in user space.
    pub const fn needs_alias(self) -> bool {
        matches!(self, Self::Alias | Self::CopyToUser | Self::Program)
    }

    /// Whether it is a store, wherever it is made from; the others have the kernel itself do what it should not.
    pub const fn is_store(self) -> bool {
        self.is_plain_store()
            || self.place().is_some()
            || self.is_from_window()
            || self.needs_alias()
    }

    /// Whether it is a store of the page-table code itself, in a window for other tables than the target.
    pub const fn is_from_window(self) -> bool {
        matches!(self, Self::UserWindow | Self::KernelWindow)
    }

    /// Whether the pair makes sense: roots alone can be forged, and ordinary data needs no tricks to be written.
    pub fn applies_to(self, target: Target) -> bool {
        use Target::{
            DataBecomeTable, Device, Early, KernelData, KernelPage, KernelText, UserPage,
        };
        const USER_ROOT: Target = Target::Table(Region::User, Level::Root);
        const KERNEL_ROOT: Target = Target::Table(Region::LinearMap, Level::Root);
        match (self, target) {
            (Primitive::UserWindow, target) => match target {
                Target::Table(region, level) => region != Region::User || level == Level::Root,
                target => matches!(target, Early | Target::Static),
            },
            (Primitive::KernelWindow, target) => match target {
                Target::Table(region, level) => region == Region::User && level != Level::Root,
                target => target == DataBecomeTable,
            },
            (Primitive::ForgedRoot, target) => target.is_root(),
            (Primitive::ForeignRoot, target) => matches!(target, Early | KERNEL_ROOT),
            (Primitive::ForgedSpare, target) => target == DataBecomeTable,
            (Primitive::ForgedEntry, target) => matches!(target, UserPage | KernelPage),
            (Primitive::ForgedLink, target) => {
                matches!(target, UserPage | KernelPage | DataBecomeTable)
            }
            (Primitive::ForgedFile, target) => matches!(target, Early | KernelData | KernelText),
            (Primitive::ForgedSpace, target) => target == USER_ROOT,
            (Primitive::MapAsMemory, target) => target == Device,
            (Primitive::MapExecutable | Primitive::MapAsDevice, target) => target == KernelPage,
            (Primitive::UserAlias, KernelData) => true,
            (
                Primitive::UserAlias | Primitive::VmallocAlias | Primitive::MapWritable,
                KernelText,
            ) => true,
            (_, UserPage | KernelPage | KernelData | KernelText | Device) => false,
            // What lies beside it must not be written back.
            (
                primitive,
                Target::ProtectionFlag
                | Target::LinearMapRoot
                | Target::Platform(Platform::FlushAnswer),
            ) => primitive == Primitive::Byte,
            (primitive, Target::TableBecomeData | Target::Platform(_)) => {
                primitive.is_plain_store()
            }
            _ => true,
        }
    }

    /// Whether it is just a store, by the address the linear map gives the page.
    pub const fn is_plain_store(self) -> bool {
        matches!(self, Self::Byte | Self::Word | Self::Bulk | Self::ReadModifyWrite)
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
