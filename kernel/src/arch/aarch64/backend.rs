//! The backends this architecture has, one of which is selected at boot.
//!
//! A kernel built for one backend would name it as a type and pay for no choice. This one must run them
//! all, so the choice is a value: every operation is one predictable branch and then the backend's own inlined
//! code. What leaving does is decided by what entering returned, as the contract of [`Backend`] wants, and never by
//! looking at the choice again.

use super::control::{self, Features};
use super::indirection;
use core::fmt;
use kpkeys::encoding::Por;
use kpkeys::keyed::{self, Keyed};
use kpkeys::mock::ContextIdr;
use kpkeys::null::Null;
use kpkeys::pan::{self, PAN, Pan};
use kpkeys::poe::{self, Poe};
use kpkeys::{Access, Backend, Context, Pkey, Saved, Scheme};
use kpkeys_workloads::attack::site::SavedIn;

/// A backend by its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Permission overlays.
    Poe,
    /// PSTATE.PAN, and an alias that it blocks.
    Pan,
    /// An unused register in the place of the overlays'; nothing is enforced.
    Mock,
    /// No register at all.
    None,
}

impl Choice {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Poe, Self::Pan, Self::Mock, Self::None];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Poe => "poe",
            Self::Pan => "pan",
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
        let supported = control::supported();
        if supported.contains(Features::POE) {
            Self::Poe
        } else if supported.contains(Features::PAN | Features::E0PD) {
            Self::Pan
        } else {
            Self::None
        }
    }
}

/// Why a backend cannot be used on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// POE cannot be, for this reason.
    Poe(poe::InitError),
    /// PAN cannot be, for this reason.
    Pan(pan::InitError),
    /// The register does not say what it should outside windows.
    NotReset,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poe(error) => write!(f, "backend poe: {error}"),
            Self::Pan(error) => write!(f, "backend pan: {error}"),
            Self::NotReset => {
                f.write_str("the protection register allows writing page tables outside windows")
            }
        }
    }
}

type Mock = Keyed<ContextIdr, Por>;

/// The value of `POR_EL1`, and of the mock, that allows everything.
const ALL_ALLOWED: u64 = 0x7777_7777;

/// The backend that was selected, ready on every CPU that called [`init`].
#[derive(Clone, Copy, Debug)]
pub enum Selected {
    /// See [`Choice::Poe`].
    Poe(Poe),
    /// See [`Choice::Pan`].
    Pan(Pan),
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
    /// See [`Choice::Pan`].
    Pan(Pan, pan::Entered),
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
        Choice::Poe if !control::supported().contains(Features::POE) => {
            Err(Unusable::Poe(poe::InitError::NotSupported))
        }
        Choice::Poe => {
            // SAFETY: EL1, on a CPU with both features, on the early tables; the rest is the caller's promise.
            let poe = unsafe {
                indirection::enable();
                Poe::init()
            };
            poe.map(Selected::Poe).map_err(Unusable::Poe)
        }
        // SAFETY: EL1; user memory is reached by LDTR and STTR alone. The rest is the caller's promise.
        Choice::Pan => unsafe { Pan::init() }.map(Selected::Pan).map_err(Unusable::Pan),
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
            Self::Pan(_) => Choice::Pan,
            Self::Mock(_) => Choice::Mock,
            Self::None(_) => Choice::None,
        }
    }

    /// Whether hardware refuses stores to page tables.
    pub fn enforces(&self) -> bool {
        matches!(self, Self::Poe(_) | Self::Pan(_))
    }

    /// What the running CPU's register allows to page tables now; `None` where there is no register.
    pub fn page_table_access(&self) -> Option<Access> {
        match self {
            Self::Poe(poe) => poe.access(Pkey::PAGE_TABLES),
            Self::Pan(pan) => pan.access(Pkey::PAGE_TABLES),
            Self::Mock(mock) => mock.access(Pkey::PAGE_TABLES),
            Self::None(_) => None,
        }
    }

    /// What an attacker would write over a register that a frame or a suspended thread keeps, so that everything is allowed. With `pan` a
    /// frame keeps PAN in its SPSR, set where the window is closed, and a thread keeps the opposite.
    pub fn forged(&self, saved: u64, kept_in: SavedIn) -> u64 {
        match (self, kept_in) {
            (Self::Pan(_), SavedIn::Frame) => saved & !PAN,
            (Self::Pan(_), SavedIn::Thread) => PAN,
            _ => ALL_ALLOWED,
        }
    }

    /// What undoes [`forged`](Self::forged) in a later frame of the same code, given that frame's value and the first one's: the rest of an SPSR
    /// is the later frame's.
    pub fn restored(&self, saved: u64, original: u64) -> u64 {
        match self {
            Self::Pan(_) => saved & !PAN | original & PAN,
            _ => original,
        }
    }

    /// Whether the running CPU, outside any window, is as [`init`] left it.
    ///
    /// # Errors
    ///
    /// What is not.
    pub fn verify(&self) -> Result<(), Unusable> {
        // SAFETY: EL1, on a CPU that has the feature.
        unsafe {
            match self {
                Self::Poe(_) => Poe::verify().map_err(Unusable::Poe)?,
                Self::Pan(pan) => pan.verify().map_err(Unusable::Pan)?,
                Self::Mock(_) | Self::None(_) => {}
            }
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
            Selected::Pan($backend) => $result,
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
        forward!(self, backend => backend.write_needs_barrier())
    }

    #[inline(always)]
    fn scheme(&self) -> Scheme {
        forward!(self, backend => backend.scheme())
    }

    #[inline(always)]
    fn enter<C: Context>(&self) -> Entered {
        match self {
            Self::Poe(poe) => Entered::Poe(*poe, poe.enter::<C>()),
            Self::Pan(pan) => Entered::Pan(*pan, pan.enter::<C>()),
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
            Entered::Pan(pan, entered) => pan.leave(entered),
            Entered::Mock(mock, entered) => mock.leave(entered),
            Entered::None => {}
        }
    }

    #[inline(always)]
    fn leave_before_barrier(&self, entered: Entered) {
        match entered {
            Entered::Poe(poe, entered) => poe.leave_before_barrier(entered),
            Entered::Pan(pan, entered) => pan.leave_before_barrier(entered),
            Entered::Mock(mock, entered) => mock.leave_before_barrier(entered),
            Entered::None => {}
        }
    }

    #[inline(always)]
    fn switched(entered: Entered) -> bool {
        match entered {
            Entered::Poe(_, entered) => Poe::switched(entered),
            Entered::Pan(_, entered) => Pan::<pan::PstatePan>::switched(entered),
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
