//! Page tables that only an open window can change: entry formats, stores, lazy MMU, PTP allocators.
