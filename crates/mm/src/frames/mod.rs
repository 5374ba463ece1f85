//! Frames of physical memory: who owns them, how often they are mapped, and which are free.

mod buddy;
mod folio;
mod meta;
mod owned;
mod zone;

pub use buddy::Buddy;
pub use folio::{FolioRun, HUGE_ORDER};
pub use meta::{FrameMeta, FrameTable};
pub use owned::OwnedFrame;
pub use zone::MAX_ORDER;
