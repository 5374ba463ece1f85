//! Attacks on page tables, written once for every kernel.
//!
//! An attack is a [`Target`] (which page-table page, or what is about to be or has just been one) and a [`Primitive`] (how the write
//! gets there). Every attack writes back what it read, so that one that succeeds does no harm; what it does to the tables is told by the
//! [`Outcome`]. [`run`] runs the whole matrix.
//!
//! | module | concept |
//! |---|---|
//! | [`target`] | what is attacked |
//! | [`primitive`] | how |
//! | [`promise`] | what is promised of each pair in each mode, and whether it was kept |
//! | [`site`] | what an attack needs that only the kernel below has: faults caught, interrupts, other CPUs |
//! | [`prepare`] | getting hold of the targets |
//! | [`execute`] | running one pair |
//! | `forged` | those that change what allocators, files and address spaces remember |
//!
//! What the windows are is up to the mode under attack: an attack from within one runs inside a real operation on page tables, while that
//! operation's own window is open. That it *is* open is checked first, by a store of the operation itself that must succeed;
//! otherwise a blocked attack would prove nothing.

pub mod execute;
mod forged;
pub mod prepare;
pub mod primitive;
pub mod promise;
pub mod site;
pub mod target;

pub use primitive::Primitive;
pub use promise::{Broken, Outcome, Promise, Protection};
pub use site::{Aim, Fault, Site, Store};
pub use target::{Level, Platform, Region, Target};

use alloc::string::String;
use core::fmt;

use kpkeys::Scheme;
use kpkeys_mm::{Error, Kernel};
use kpkeys_pgtable::{Format, Machine, Mode};

/// How one attack went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attack {
    /// What was attacked.
    pub target: Target,
    /// How.
    pub primitive: Primitive,
    /// What came of it.
    pub outcome: Outcome,
    /// What was promised.
    pub promise: Promise,
}

/// Why an attack could not be made. It says nothing about protection, and fails the run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The memory manager refused something that is no attack.
    Memory(Error),
    /// A target could not be had.
    NoTarget(&'static str),
    /// The window that was to be attacked was not open: its own store was refused.
    WindowClosed(Fault),
    /// The kernel could not run the attack where it was to run.
    Site(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Memory(error)
    }
}

impl From<kpkeys_pgtable::Error> for Failure {
    fn from(error: kpkeys_pgtable::Error) -> Self {
        Failure::Memory(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Memory(error) => write!(f, "preparing the attack: {error}"),
            Failure::NoTarget(what) => write!(f, "no target: {what}"),
            Failure::WindowClosed(fault) => {
                write!(
                    f,
                    "the window to attack was not open: its own store failed with code {:#x}",
                    fault.code
                )
            }
            Failure::Site(reason) => f.write_str(reason),
        }
    }
}

/// Runs every attack that this kernel can be attacked by, and passes each as it is done.
///
/// # Errors
///
/// [`Failure`] of the first attack that could not be made.
pub fn run<M: Machine, S: Site<M>>(
    kernel: &Kernel<M>,
    site: &S,
    protection: Protection,
    mut done: impl FnMut(Attack),
) -> Result<(), Failure> {
    let prepared = prepare::Prepared::new(kernel, site)?;
    for target in Target::all() {
        for primitive in Primitive::ALL.into_iter().filter(|primitive| primitive.applies_to(target))
        {
            let has_place = primitive.place().is_none_or(|place| site.has(place));
            let has_alias = !primitive.needs_alias() || protection.scheme == Scheme::Alias;
            let is_there = match target {
                Target::Platform(platform) => site.platform(platform).is_some(),
                Target::Device => site.device().is_some(),
                _ => true,
            };
            if !has_place
                || !has_alias
                || !is_there
                || !can_be_made::<M>(primitive, target, protection)
            {
                continue;
            }
            let outcome = execute::attack(kernel, site, &prepared, target, primitive)?;
            let promise = promise::of(target, primitive, protection);
            done(Attack { target, primitive, outcome, promise });
        }
    }
    prepared.finish()
}

/// Whether an attack says something here.
fn can_be_made<M: Machine>(primitive: Primitive, target: Target, protection: Protection) -> bool {
    match (primitive, target) {
        // Where one root has both halves, the kernel's own is what it runs on anyway.
        (Primitive::ForeignRoot, Target::Table(..)) => !M::Format::USER_ROOT_HAS_KERNEL_HALF,
        // A page without an alias cannot be emptied through it: the kernel stops.
        (Primitive::ForgedEntry, _) => {
            protection.scheme == Scheme::Keys || protection.mode != Mode::FusedLean
        }
        _ => true,
    }
}
