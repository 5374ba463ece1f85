//! Paired-block statistics for the kpkeys evaluation.
