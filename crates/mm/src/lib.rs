//! Frames, folios, address spaces, fork and vmalloc on hardened page tables.
