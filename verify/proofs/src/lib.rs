//! The arithmetic of entries, registers and ranges, proved for all values from the compiled code.
//!
//! A property is a function of four words that calls what kernels call, and must return true. It is compiled as everything else is, and then read back,
//! instruction by instruction, as terms over 64-bit words that the solver Z3 reasons about: every path that some value takes is followed to its end, and
//! there the solver is asked for a value that makes the function return false, or that reaches a panic. If there is none, the property is proved: for these very
//! instructions, whatever the compiler made of the source.
//!
//! | module | concept |
//! |---|---|
//! | [`properties`] | what is proved |
//! | [`prove`] | paths, and questions to the solver |
//! | [`execute`] | what an instruction does |
//! | [`state`] | what it acts on |
//!
//! What has to be believed: Z3, the decoder `iced-x86`, and [`execute`]. An instruction that is not known there ends a proof without a result. A
//! value that refutes a property is run, so a wrong refutation shows; tests run the same code with known values both ways.

#[cfg(target_arch = "x86_64")]
pub mod execute;
pub mod properties;
#[cfg(target_arch = "x86_64")]
pub mod prove;
#[cfg(target_arch = "x86_64")]
pub mod state;
