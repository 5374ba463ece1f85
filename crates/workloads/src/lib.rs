//! The benchmarks of the kpkeys evaluation, written once for every machine.
