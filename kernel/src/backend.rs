//! A backend that is one of several, selected at boot.
//!
//! A kernel built for one backend would name it as a type and pay for no choice. This one must run all that its
//! architecture has, so the choice is a value: every operation is one predictable branch and then the backend's own inlined
//! code. What leaving does is decided by what entering returned, as the contract of [`Backend`](kpkeys::Backend) wants, and never by
//! looking at the choice again.

/// Defines `Choice`, a backend by its name on the command line; `Selected`, one that is ready; and `Entered`, what entering a context by
/// one of them did.
macro_rules! backends {
    ($($(#[$doc:meta])* $variant:ident($backend:ty) = $name:literal,)+) => {
        /// A backend by its name on the command line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Choice {
            $($(#[$doc])* $variant,)+
        }

        impl Choice {
            /// All of them, the best first.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The one with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|choice| choice.name() == name)
            }
        }

        /// The backend that was selected, ready on every CPU that called [`init`].
        #[derive(Clone, Copy, Debug)]
        pub enum Selected {
            $($(#[$doc])* $variant($backend),)+
        }

        /// What entering a context did, and by which backend.
        #[derive(Clone, Copy, Debug)]
        pub enum Entered {
            $($(#[$doc])* $variant($backend, <$backend as kpkeys::Backend>::Entered),)+
        }

        impl Selected {
            /// Which one it is.
            pub fn choice(&self) -> Choice {
                match self {
                    $(Self::$variant(_) => Choice::$variant,)+
                }
            }
        }

        // SAFETY: every method forwards to a backend that keeps the contract, always inlined; what leaves looks at the
        // `Entered` value alone. Backends that enforce nothing claim nothing.
        unsafe impl kpkeys::Backend for Selected {
            type Entered = Entered;

            #[inline(always)]
            fn write_needs_barrier(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.write_needs_barrier(),)+
                }
            }

            #[inline(always)]
            fn windows_are_cheap(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.windows_are_cheap(),)+
                }
            }

            #[inline(always)]
            fn scheme(&self) -> kpkeys::Scheme {
                match self {
                    $(Self::$variant(backend) => backend.scheme(),)+
                }
            }

            #[inline(always)]
            fn enter<C: kpkeys::Context>(&self) -> Entered {
                match self {
                    $(Self::$variant(backend) => Entered::$variant(*backend, backend.enter::<C>()),)+
                }
            }

            #[inline(always)]
            fn leave(&self, entered: Entered) {
                match entered {
                    $(Entered::$variant(backend, entered) => backend.leave(entered),)+
                }
            }

            #[inline(always)]
            fn leave_before_barrier(&self, entered: Entered) {
                match entered {
                    $(Entered::$variant(backend, entered) => backend.leave_before_barrier(entered),)+
                }
            }

            #[inline(always)]
            fn switched(entered: Entered) -> bool {
                match entered {
                    $(Entered::$variant(_, entered) => <$backend as kpkeys::Backend>::switched(entered),)+
                }
            }

            #[inline(always)]
            fn exception_entry(&self) -> kpkeys::Saved {
                match self {
                    $(Self::$variant(backend) => backend.exception_entry(),)+
                }
            }

            #[inline(always)]
            fn exception_return(&self, saved: kpkeys::Saved) {
                match self {
                    $(Self::$variant(backend) => backend.exception_return(saved),)+
                }
            }

            #[inline(always)]
            fn thread_switch(&self, previous: &mut kpkeys::Saved, next: &kpkeys::Saved) {
                match self {
                    $(Self::$variant(backend) => backend.thread_switch(previous, next),)+
                }
            }

            #[inline(always)]
            fn initial(&self) -> kpkeys::Saved {
                match self {
                    $(Self::$variant(backend) => backend.initial(),)+
                }
            }
        }
    };
}

pub(crate) use backends;
