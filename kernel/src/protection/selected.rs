//! A backend that is one of several, selected at boot.
//!
//! A kernel built for one backend would name it as a type and pay for no choice. This one must run all that its
//! architecture has, so the choice is a value: every operation is one predictable branch and then the backend's own inlined
//! code. The choice lies in memory that is read-only once start is over (`protection`).

/// Defines `Choice`, a backend by its name on the command line, and `Selected`, one that is ready.
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

        impl Selected {
            /// Which one it is.
            pub fn choice(&self) -> Choice {
                match self {
                    $(Self::$variant(_) => Choice::$variant,)+
                }
            }
        }

        // SAFETY: every method forwards to a backend that keeps the contract, always inlined. Backends that enforce nothing claim
        // nothing.
        unsafe impl kpkeys::Backend for Selected {
            #[inline(always)]
            fn write_needs_barrier(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.write_needs_barrier(),)+
                }
            }

            #[inline(always)]
            fn has_register(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.has_register(),)+
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
            fn has_window_root(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.has_window_root(),)+
                }
            }

            #[inline(always)]
            fn separates_user_tables(&self) -> bool {
                crate::protection::keys::are_separate()
            }

            #[inline(always)]
            unsafe fn enter_user_tables(&self) {
                match self {
                    // SAFETY: the caller's promise.
                    $(Self::$variant(backend) => unsafe { backend.enter_user_tables() },)+
                }
            }

            #[inline(always)]
            unsafe fn enter<C: kpkeys::Context>(&self) {
                match self {
                    // SAFETY: the caller's promise.
                    $(Self::$variant(backend) => unsafe { backend.enter::<C>() },)+
                }
            }

            #[inline(always)]
            unsafe fn enter_before_barrier<C: kpkeys::Context>(&self) {
                match self {
                    // SAFETY: the caller's promise.
                    $(Self::$variant(backend) => unsafe { backend.enter_before_barrier::<C>() },)+
                }
            }

            #[inline(always)]
            fn is_in<C: kpkeys::Context>(&self) -> bool {
                match self {
                    $(Self::$variant(backend) => backend.is_in::<C>(),)+
                }
            }

            #[inline(always)]
            fn exception_entry(&self) -> kpkeys::Saved {
                match self {
                    $(Self::$variant(backend) => backend.exception_entry(),)+
                }
            }

            #[inline(always)]
            unsafe fn exception_return(&self, saved: kpkeys::Saved) {
                match self {
                    // SAFETY: the caller's promise.
                    $(Self::$variant(backend) => unsafe { backend.exception_return(saved) },)+
                }
            }

            #[inline(always)]
            unsafe fn thread_switch(&self, previous: &mut kpkeys::Saved, next: &mut kpkeys::Saved) {
                match self {
                    // SAFETY: the caller's promise.
                    $(Self::$variant(backend) => unsafe { backend.thread_switch(previous, next) },)+
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
