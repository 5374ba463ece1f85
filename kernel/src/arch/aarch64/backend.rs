//! The backends this architecture has, one of which is selected at boot.
//!
//! A kernel built for one backend would name it as a type and pay for no choice. This one must run them
//! all, so the choice is a value: every operation is one predictable branch and then the backend's own inlined
//! code. What leaving does is decided by what entering returned, as the contract of [`Backend`] wants, and never by
//! looking at the choice again.

use super::{control, indirection};
use core::fmt;
use kpkeys::encoding::Por;
use kpkeys::keyed::{self, Keyed};
use kpkeys::mock::ContextIdr;
use kpkeys::null::Null;
use kpkeys::poe::{InitError, Poe};
use kpkeys::{Access, Backend, Context, Pkey, Saved};

/// A backend by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Permission overlays.
    Poe,
    /// An unused register in their place; nothing is enforced.
    Mock,
    /// No register at all.
    None,
}

impl Choice {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Poe, Self::Mock, Self::None];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Poe => "poe",
            Self::Mock => "mock",
            Self::None => "none",
        }
    }

    /// Whether it switches the CPU's key feature on.
    pub const fn is_of_keys(self) -> bool {
        matches!(self, Self::Poe)
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }

    /// The best that the running CPU has.
    pub fn best() -> Self {
        if control::supported().contains(control::Features::POE) { Self::Poe } else { Self::None }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// POE cannot be, for this reason.
    Poe(InitError),
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poe(error) => write!(f, "backend poe: {error}"),
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<ContextIdr, Por>;

/// The register value, of all backends here, that allows everything: what an attacker would write to a saved one.
pub const ALL_ALLOWED: u64 = 0x7777_7777;

/// The backend that was selected, ready on every CPU that called [`init`].
#[derive(Clone, Copy, Debug)]
pub enum Selected {
    /// See [`Choice::Poe`].
    Poe(Poe),
    /// See [`Choice::Mock`].
    Mock(Mock),
    /// See [`Choice::None`].
    None(Null),
}

/// What entering a context did, and by which backend.
#[derive(Clone, Copy, Debug)]
pub enum Entered {
    /// See [`Choice::Poe`].
    Poe(Poe, keyed::Entered),
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
        Choice::Poe if !control::supported().contains(control::Features::POE) => {
            Err(Unusable::Poe(InitError::NotSupported))
        }
        Choice::Poe => {
            // SAFETY: EL1, on a CPU with both features, on the early tables; the rest is the caller's promise.
            let poe = unsafe {
                indirection::enable();
                Poe::init()
            };
            poe.map(Selected::Poe).map_err(Unusable::Poe)
        }
        Choice::Mock => {
            // SAFETY: EL1, and this kernel does not use the register otherwise.
            let mock = Mock::new(unsafe { ContextIdr::new() });
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
            Self::Poe(_) => Choice::Poe,
            Self::Mock(_) => Choice::Mock,
            Self::None(_) => Choice::None,
        }
    }

    /// Whether hardware refuses stores to keyed pages.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Poe(_))
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Poe(poe) => poe.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// Whether the running CPU, outside any window, is as [`init`] left it.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn verify(&self) -> Result<(), Unusable> {
        if self.enforces() {
            // SAFETY: EL1, on a CPU that has overlays.
            unsafe { Poe::verify() }.map_err(Unusable::Poe)?;
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
            Selected::Poe($backend) => $result,
            Selected::Mock($backend) => $result,
            Selected::None($backend) => $result,
        }
    };
}

// SAFETY: every method forwards to a backend that keeps the contract, always inlined; `leave` looks at the `Entered`
// value alone. Mock and none claim no enforcement.
unsafe impl Backend for Selected {
    type Entered = Entered;

    const WRITE_NEEDS_BARRIER: bool = true;

    #[inline(always)]
    fn enter<C: Context>(&self) -> Entered {
        match self {
            Self::Poe(poe) => Entered::Poe(*poe, poe.enter::<C>()),
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
            Entered::Poe(poe, entered) => poe.leave(entered),
            Entered::Mock(mock, entered) => mock.leave(entered),
            Entered::None => {}
        }
    }

    #[inline(always)]
    fn leave_before_barrier(&self, entered: Entered) {
        match entered {
            Entered::Poe(poe, entered) => poe.leave_before_barrier(entered),
            Entered::Mock(mock, entered) => mock.leave_before_barrier(entered),
            Entered::None => {}
        }
    }

    #[inline(always)]
    fn switched(entered: Entered) -> bool {
        match entered {
            Entered::Poe(_, entered) => Poe::switched(entered),
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
