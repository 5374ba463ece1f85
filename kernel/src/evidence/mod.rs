//! What the kernel does to prove itself: tests, attacks, the soak, benchmarks, and how it reports them. Nothing outside this room and
//! `main` needs it.

pub mod attack;
pub mod attacker;
pub mod bench;
pub mod counter;
pub mod last;
pub mod probe;
pub mod replay;
pub mod report;
pub mod soak;
pub mod tests;
