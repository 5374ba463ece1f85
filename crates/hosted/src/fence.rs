//! Full fences between a store that is made often and loads that are made seldom.
//!
//! Each side stores, fences, and loads what the other stored: then not both can miss. `membarrier` of Linux makes every running thread of the process
//! execute a full barrier, so that the side that comes often needs none of its own: its store costs about what turning interrupts off does. Other systems have
//! no such call, and there both sides fence. That is correct and slower: windows in mode `fused` cost one more barrier on them.

/// The fence of this host.
#[cfg(target_os = "linux")]
pub(crate) type HostFence = membarrier::Asymmetric;
/// The fence of this host.
#[cfg(not(target_os = "linux"))]
pub(crate) type HostFence = Full;

/// The two sides.
pub(crate) trait Fence {
    /// Before anything is stored.
    fn new() -> Self;
    /// Between store and loads, on the side that comes often.
    fn often(&self);
    /// Between store and loads, on the other. False if the host has no means for it.
    fn seldom(&self) -> bool;
}

/// A full fence on both sides. Also in tests on Linux.
#[cfg(any(test, not(target_os = "linux")))]
#[derive(Debug)]
pub(crate) struct Full;

#[cfg(any(test, not(target_os = "linux")))]
impl Fence for Full {
    fn new() -> Full {
        Full
    }

    #[inline(always)]
    fn often(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn seldom(&self) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        true
    }
}

#[cfg(target_os = "linux")]
mod membarrier {
    use std::sync::atomic::{Ordering, compiler_fence};

    use rustix::thread::{MembarrierCommand, membarrier};

    /// One side for both.
    #[derive(Debug)]
    pub(crate) struct Asymmetric {
        registered: bool,
    }

    impl super::Fence for Asymmetric {
        fn new() -> Asymmetric {
            let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
            Asymmetric { registered }
        }

        #[inline(always)]
        fn often(&self) {
            // The processor may order the store later than what follows; the other side sees to that.
            compiler_fence(Ordering::SeqCst);
        }

        fn seldom(&self) -> bool {
            self.registered && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
        }
    }
}
