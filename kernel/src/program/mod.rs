//! Programs: user code in address spaces, with its page faults handled by the memory manager.
//!
//! There are two kinds. [`small`] ones are a few instructions that tests and attacks run. All others are Linux's: unmodified binaries from
//! an initramfs, by Linux's system calls, as far as these exist here.
//!
//! | module | concept |
//! |---|---|
//! | [`calls`] | the system calls: one table, one file a family |
//! | [`process`] | processes: their memory, files, signals, parents and children |
//! | [`task`] | threads of processes, and what they do about exceptions |
//! | [`mod@load`] | running an ELF file |
//! | [`memory`] | the memory of a process, and the kernel's only way to it |
//! | [`signals`] | signals |
//! | [`clock`] | the date |
//! | [`alarms`] | alarms |
//! | [`usage`] | the time that threads and processes take |
//! | [`files`] | the tree of files, pipes, the terminal |
//! | [`command`] | running what the command line asks for |

pub mod alarms;
pub mod calls;
pub mod clock;
pub mod command;
pub mod errno;
pub mod files;
pub mod load;
pub mod memory;
pub mod process;
pub mod random;
pub mod signals;
pub mod small;
pub mod task;
pub mod usage;

pub use small::{End, Mistake, Running, Space, end, fault, load, run};
pub use task::{Event, Flow, Task};
