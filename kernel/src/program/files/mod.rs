//! What programs read and write: a tree of nodes in memory, and what is open.
//!
//! | module | concept |
//! |---|---|
//! | [`node`] | files, directories, links and devices |
//! | [`data`] | the bytes of files |
//! | [`tree`] | finding nodes by path, and the tree that an initramfs makes |
//! | [`open`] | open files and the descriptors of a process |
//! | [`locks`] | locks on parts of files |
//! | [`pipe`] | pipes |
//! | [`terminal`] | the terminal on the serial line |
//! | [`proc`] | `/proc` |
//! | [`sys`] | `/sys` |
//! | `vulnerable` | `/dev/vulnerable`, the driver with planted faults, where the build says so |

pub mod data;
pub mod locks;
pub mod node;
pub mod open;
pub mod pipe;
pub mod proc;
pub mod sys;
pub mod terminal;
pub mod tree;
#[cfg(feature = "vulnerable")]
pub mod vulnerable;

pub use open::{Descriptors, Object, OpenFile};
