//! Builds the reference kernel and runs it in an emulator. The one place that spawns one.
//!
//! ```no_run
//! use kpkeys_emulator::{Kernel, Line, Machine, Target};
//!
//! # fn main() -> Result<(), kpkeys_emulator::Error> {
//! let kernel = Kernel::build(Target::X86_64)?;
//! let machine = Machine { cpus: 4, command_line: "tests".into(), ..Machine::default() };
//! let run = kernel.run(&machine, &mut |line| match line {
//!     Line::Record(json) => println!("{json}"),
//!     Line::Log(text) => eprintln!("{text}"),
//! })?;
//! println!("{:?} after {:?}", run.outcome, run.duration);
//! # Ok(())
//! # }
//! ```
//!
//! The kernel prints on a serial line: log lines for people, and records, each a line that is
//! one JSON object. How it ended comes back as an [`Outcome`]; an emulator that is missing,
//! dies or does not end in time is an [`Error`] that carries the last lines printed.

mod accel;
mod build;
mod error;
mod exploits;
mod flat;
mod loader;
mod machine;
mod medium;
mod run;
mod slim;
mod source;
mod target;

pub use accel::Accel;
pub use build::{Kernel, Tables, target_dir};
pub use error::{Error, LastLines};
pub use exploits::exploits;
pub use loader::loader;
pub use machine::Machine;
pub use medium::{Firmware, boot_medium};
pub use run::{Line, Outcome, Run};
pub use target::Target;
