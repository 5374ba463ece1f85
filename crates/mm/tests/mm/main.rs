//! Memory management as its callers see it, on hosted machines of both entry formats and in every protection mode.
//!
//! Most tests run on a guarded machine, on which a store to a page table outside a window is SIGSEGV: a test binary that dies by
//! that signal has found one.

mod bad_input;
mod concurrency;
mod contents;
mod failure;
mod flush_order;
mod gates;
mod heap;
mod heap_failure;
mod mappings;
mod space_model;
mod sparse_files;
mod support;
mod vmalloc_heap;
mod vmalloc_model;
mod watched;
