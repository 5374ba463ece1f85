//! What is promised, and whether it was kept.

use core::fmt;

use kpkeys::Scheme;
use kpkeys_pgtable::{Keys, Mode};

use super::primitive::Primitive;
use super::site::Fault;
use super::target::{Platform, Target};

/// What is protected, and by what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection {
    /// The protection mode.
    pub mode: Mode,
    /// Whether the backend makes hardware refuse stores.
    pub enforced: bool,
    /// What makes a page one that the backend protects.
    pub scheme: Scheme,
    /// Whether page-table pages come from the keyed pool.
    pub pool: bool,
    /// Which keys page tables carry.
    pub keys: Keys,
}

/// What the documentation promises of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Promise {
    /// It faults.
    Blocked,
    /// It succeeds: the page is data, or a window is open that is for it too.
    Succeeds,
    /// Nothing: it is reported as it is.
    None,
}

/// What came of an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A fault stopped it.
    Faulted(Fault),
    /// An interface refused what it was asked for.
    Refused,
    /// It wrote.
    Succeeded,
}

/// How an outcome breaks what must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// It was promised to be blocked and was not.
    NotBlocked,
    /// Something stopped it that is not the protection under test.
    OtherFault,
    /// It must succeed without protection, or protects nothing when it is on.
    BlockedWithoutProtection,
    /// The page is data again, or a window is open that is for it too, and it cannot be written.
    Unwritable,
}

/// What is promised of an attack.
pub fn of(target: Target, primitive: Primitive, protection: Protection) -> Promise {
    let Protection { mode, enforced, scheme, pool, keys } = protection;
    if primitive.is_from_window() {
        let is_apart = keys == Keys::Separate && mode == Mode::Fused;
        return if is_apart && enforced { Promise::Blocked } else { Promise::Succeeds };
    }
    let is_table = match target {
        Target::Table(..)
        | Target::Early
        | Target::Static
        | Target::DataBecomeTable
        | Target::UserPage
        | Target::KernelPage
        | Target::KernelData
        | Target::KernelText
        | Target::Device
        | Target::Platform(
            Platform::ExceptionTable
            | Platform::TaskState
            | Platform::InterruptController
            | Platform::StartCode,
        ) => true,
        Target::GivenBack => pool,
        Target::TableBecomeData => return Promise::Succeeds,
        Target::ProtectionFlag
        | Target::LinearMapRoot
        | Target::Platform(Platform::FlushAnswer) => mode.checks(),
    };
    let is_checked = mode.checks()
        && matches!(
            primitive,
            Primitive::VmallocAlias
                | Primitive::UserAlias
                | Primitive::MapWritable
                | Primitive::ForgedRoot
                | Primitive::ForeignRoot
                | Primitive::ForgedSpare
                | Primitive::ForgedEntry
                | Primitive::ForgedLink
                | Primitive::ForgedFile
                | Primitive::MapExecutable
                | Primitive::MapAsMemory
                | Primitive::MapAsDevice
        );
    // Gates restore no open window from ordinary memory.
    let is_saved_register = matches!(primitive, Primitive::ForgedFrame | Primitive::ForgedThread);
    let is_covered = primitive.is_plain_store()
        || mode == Mode::Fused && is_saved_register
        || primitive.place().is_some()
        || primitive.needs_alias() && scheme == Scheme::Alias;
    if mode.protects() && enforced && is_table && (is_covered || is_checked) {
        Promise::Blocked
    } else {
        Promise::None
    }
}

/// Holds an attack against what must be true of it.
///
/// # Errors
///
/// How it is not.
pub fn check(target: Target, promise: Promise, outcome: Outcome, mode: Mode) -> Result<(), Broken> {
    match (promise, outcome) {
        (_, Outcome::Faulted(_) | Outcome::Refused) if !mode.protects() => {
            Err(Broken::BlockedWithoutProtection)
        }
        (Promise::Blocked, Outcome::Succeeded) => Err(Broken::NotBlocked),
        // What protects the platform, and what has settled, is not always the key: some of it is read-only, or not mapped at all.
        (Promise::Blocked, Outcome::Faulted(fault))
            if !fault.by_protection
                && !matches!(target, Target::Platform(_) | Target::LinearMapRoot) =>
        {
            Err(Broken::OtherFault)
        }
        (Promise::Succeeds, Outcome::Faulted(_) | Outcome::Refused) => Err(Broken::Unwritable),
        _ => Ok(()),
    }
}

impl Promise {
    /// All of them.
    pub const ALL: [Promise; 3] = [Promise::Blocked, Promise::Succeeds, Promise::None];

    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Promise::Blocked => "blocked",
            Promise::Succeeds => "succeeds",
            Promise::None => "none",
        }
    }
}

impl Outcome {
    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Faulted(_) | Outcome::Refused => "blocked",
            Outcome::Succeeded => "succeeded",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Broken::NotBlocked => "was promised to be blocked and succeeded",
            Broken::OtherFault => "was stopped by something else than the protection under test",
            Broken::BlockedWithoutProtection => {
                "was blocked with protection off, so that blocking it proves nothing"
            }
            Broken::Unwritable => {
                "was blocked, though the page is data again, or a window is open that is for it too"
            }
        })
    }
}
