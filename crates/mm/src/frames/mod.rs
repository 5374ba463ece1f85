//! Frames of physical memory: who owns them, how often they are mapped, and which are free.

mod buddy;
mod cpu_list;
mod folio;
mod free_lists;
mod meta;
mod owned;
#[cfg(test)]
mod tests;
mod waiting;
mod word;
mod zone;

/// The atomics of [`word`].
mod sync {
    pub(super) use core::sync::atomic::{AtomicU64, Ordering};
}

pub use buddy::Buddy;
pub use folio::{FolioRun, HUGE_ORDER};
pub use free_lists::MAX_ORDER;
pub use meta::{FrameMeta, FrameTable};
pub(crate) use owned::FrameSlot;
pub use owned::OwnedFrame;
pub(crate) use waiting::WaitingFrames;
