//! The backends this architecture has, one of which is selected at boot.
//!
//! A kernel built for one backend would name it as a type and pay for no choice. This one must run them
//! all, so the choice is a value: every operation is one predictable branch and then the backend's own inlined
//! code. What leaving does is decided by what entering returned, as the contract of [`Backend`] wants, and never by
//! looking at the choice again.

use super::control;
use core::fmt;
use kpkeys::encoding::Pkrs;
use kpkeys::keyed::{self, Keyed};
use kpkeys::mock::TscAux;
use kpkeys::null::Null;
use kpkeys::pks::{InitError, Pks};
use kpkeys::{Access, Backend, Context, Pkey, Saved};
use kpkeys_workloads::attack::site::SavedIn;

/// A backend by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Protection keys for supervisor pages.
    Pks,
    /// An unused register in their place; nothing is enforced.
    Mock,
    /// No register at all.
    None,
}

impl Choice {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pks, Self::Mock, Self::None];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pks => "pks",
            Self::Mock => "mock",
            Self::None => "none",
        }
    }

    /// Whether it switches the CPU's key feature on.
    pub const fn is_of_keys(self) -> bool {
        matches!(self, Self::Pks)
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        if Pks::supported() { Self::Pks } else { Self::None }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// PKS cannot be, for this reason.
    Pks(InitError),
    /// The mock's register, `IA32_TSC_AUX`, does not exist.
    NoTscAux,
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pks(error) => write!(f, "backend pks: {error}"),
            Self::NoTscAux => {
                f.write_str("backend mock: this CPU has no RDTSCP, so no IA32_TSC_AUX")
            }
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<TscAux, Pkrs>;

/// The backend that was selected, ready on every CPU that called [`init`].
#[derive(Clone, Copy, Debug)]
pub enum Selected {
    /// See [`Choice::Pks`].
    Pks(Pks),
    /// See [`Choice::Mock`].
    Mock(Mock),
    /// See [`Choice::None`].
    None(Null),
}

/// What entering a context did, and by which backend.
#[derive(Clone, Copy, Debug)]
pub enum Entered {
    /// See [`Choice::Pks`].
    Pks(Pks, keyed::Entered),
    /// See [`Choice::Mock`].
    Mock(Mock, keyed::Entered),
    /// See [`Choice::None`].
    None,
}

/// Makes the running CPU ready for a backend and verifies it.
///
/// # Errors
///
/// [`Unusable`] says what the CPU lacks.
///
/// # Safety
///
/// Interrupts must be off, and from now on every exception of this CPU must go through `protection`.
pub unsafe fn init(choice: Choice) -> Result<Selected, Unusable> {
    match choice {
        // SAFETY: ring 0; the rest is the caller's promise.
        Choice::Pks => unsafe { Pks::init() }.map(Selected::Pks).map_err(Unusable::Pks),
        Choice::Mock if !control::has_tsc_aux() => Err(Unusable::NoTscAux),
        Choice::Mock => {
            // SAFETY: ring 0, the register exists, and this kernel uses neither RDTSCP nor RDPID.
            let mock = Mock::new(unsafe { TscAux::new() });
            mock.reset();
            Ok(Selected::Mock(mock))
        }
        Choice::None => Ok(Selected::None(Null::new())),
    }
}

impl Selected {
    /// Which one it is.
    pub fn choice(&self) -> Choice {
        match self {
            Self::Pks(_) => Choice::Pks,
            Self::Mock(_) => Choice::Mock,
            Self::None(_) => Choice::None,
        }
    }

    /// Whether hardware refuses stores to keyed pages.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Pks(_))
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Pks(pks) => pks.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// What an attacker would write over a register that a frame or a suspended thread keeps: the value that allows everything.
    pub fn forged(&self, _saved: u64, _in: SavedIn) -> u64 {
        0
    }

    /// What undoes [`forged`](Self::forged) in a later frame of the same code: the first one's value.
    pub fn restored(&self, _saved: u64, original: u64) -> u64 {
        original
    }

    /// Whether the running CPU, outside any window, is as [`init`] left it.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn verify(&self) -> Result<(), Unusable> {
        if self.enforces() {
            // SAFETY: ring 0.
            unsafe { Pks::verify() }.map_err(Unusable::Pks)?;
        }
        match self.page_table_access() {
            None | Some(Access::ReadOnly) => Ok(()),
            Some(_) => Err(Unusable::NotReset),
        }
    }
}

/// Runs the same expression on whichever backend it is.
macro_rules! forward {
    ($selected:expr, $backend:ident => $result:expr) => {
        match $selected {
            Selected::Pks($backend) => $result,
            Selected::Mock($backend) => $result,
            Selected::None($backend) => $result,
        }
    };
}

// SAFETY: every method forwards to a backend that keeps the contract, always inlined; `leave` looks at the `Entered`
// value alone. Mock and none claim no enforcement.
unsafe impl Backend for Selected {
    type Entered = Entered;

    #[inline(always)]
    fn write_needs_barrier(&self) -> bool {
        false
    }

    #[inline(always)]
    fn enter<C: Context>(&self) -> Entered {
        match self {
            Self::Pks(pks) => Entered::Pks(*pks, pks.enter::<C>()),
            Self::Mock(mock) => Entered::Mock(*mock, mock.enter::<C>()),
            Self::None(none) => {
                none.enter::<C>();
                Entered::None
            }
        }
    }

    #[inline(always)]
    fn leave(&self, entered: Entered) {
        match entered {
            Entered::Pks(pks, entered) => pks.leave(entered),
            Entered::Mock(mock, entered) => mock.leave(entered),
            Entered::None => {}
        }
    }

    #[inline(always)]
    fn leave_before_barrier(&self, entered: Entered) {
        // No register of this architecture needs a barrier.
        self.leave(entered);
    }

    #[inline(always)]
    fn switched(entered: Entered) -> bool {
        match entered {
            Entered::Pks(_, entered) => Pks::switched(entered),
            Entered::Mock(_, entered) => Mock::switched(entered),
            Entered::None => false,
        }
    }

    #[inline(always)]
    fn exception_entry(&self) -> Saved {
        forward!(self, backend => backend.exception_entry())
    }

    #[inline(always)]
    fn exception_return(&self, saved: Saved) {
        forward!(self, backend => backend.exception_return(saved));
    }

    #[inline(always)]
    fn thread_switch(&self, previous: &mut Saved, next: &Saved) {
        forward!(self, backend => backend.thread_switch(previous, next));
    }

    #[inline(always)]
    fn initial(&self) -> Saved {
        forward!(self, backend => backend.initial())
    }
}
