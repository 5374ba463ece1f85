//! Audits of images made here, byte by byte, so that what is in them is known.

mod aarch64;
mod known;
mod refused;
mod support;
mod x86_64;
