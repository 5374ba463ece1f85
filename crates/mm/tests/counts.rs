//! The word of a frame, model-checked: every interleaving of two CPUs, those of three with at most three preemptions, and every value that a
//! relaxed load may return.
//!
//! The file under test is the library's own, with `loom`'s atomics in the place of the machine's. What a page holds is a cell that
//! `loom` watches: an access that does not happen before the page is freed, or written in place, is found.
#![allow(dead_code, reason = "not every operation of the word is in a model")]

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/frames/word.rs"]
mod word;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;
use word::{Kind, Word};

/// A page, and how often it was freed.
struct Page {
    word: Word,
    contents: UnsafeCell<u32>,
    freed: AtomicUsize,
}

impl Page {
    /// A folio of one page, mapped this often.
    fn mapped(times: u32) -> Arc<Page> {
        let page = Page {
            word: Word::default(),
            contents: UnsafeCell::new(0),
            freed: AtomicUsize::new(0),
        };
        page.word.become_kind(Kind::Folio(0));
        page.word.refer();
        page.word.touch();
        page.word.map(times);
        Arc::new(page)
    }

    /// A page of a file, which the file keeps.
    fn of_file() -> Arc<Page> {
        let page = Page::mapped(1);
        page.word.become_kind(Kind::Owned);
        page.word.refer();
        page
    }

    /// A program reads it, by a mapping that it has.
    fn read(&self) {
        self.contents.with(|_| ());
    }

    /// Somebody who believes to be alone with it writes it.
    fn write(&self) {
        self.contents.with_mut(|_| ());
    }

    /// A mapping is gone; whoever is told that it was the last frees the page, which its next owner writes.
    fn unmap(&self) {
        self.read();
        if self.word.release(1).unwrap() {
            self.write();
            self.freed.fetch_add(1, Relaxed);
        }
    }

    /// A process that has the page forks.
    fn fork(&self) {
        self.word.share_own(1).expect("there are few references");
    }

    /// A process that has the page, read-only, writes it: in place if nobody else has it, else it copies it and has the copy.
    fn copy_on_write(&self) {
        if self.word.is_exclusive() {
            self.write();
            self.unmap();
        } else {
            self.unmap();
        }
    }

    fn assert_freed_once(&self) {
        assert_eq!(self.freed.load(Relaxed), 1);
    }
}

/// Runs all of these at the same time, in every way there is (of three CPUs, with up to three preemptions); then every mapping must be
/// gone, and the page freed once.
fn check(page: fn() -> Arc<Page>, others: &'static [fn(&Page)], this: fn(&Page)) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = (others.len() > 1).then_some(3);
    model.check(move || {
        let page = page();
        let threads: Vec<_> = others
            .iter()
            .map(|&f| {
                let page = page.clone();
                thread::spawn(move || f(&page))
            })
            .collect();
        this(&page);
        threads.into_iter().for_each(|thread| thread.join().expect("no model panics"));
        page.assert_freed_once();
    });
}

#[test]
fn a_fork_while_another_process_unmaps() {
    check(
        || Page::mapped(2),
        &[Page::unmap],
        |page| {
            page.fork();
            page.unmap();
            page.unmap();
        },
    );
}

#[test]
fn two_processes_fork_while_a_third_unmaps() {
    fn fork_and_exit(page: &Page) {
        page.fork();
        page.unmap();
        page.unmap();
    }
    check(|| Page::mapped(3), &[Page::unmap, fork_and_exit], fork_and_exit);
}

/// The first fork is plain, since the parent is alone; the second may find the child still there, or gone.
#[test]
fn a_second_fork_while_the_first_child_exits() {
    loom::model(|| {
        let page = Page::mapped(1);
        page.fork();
        let child = {
            let page = page.clone();
            thread::spawn(move || page.unmap())
        };
        page.fork();
        page.unmap();
        child.join().expect("no model panics");
        page.unmap();
        page.assert_freed_once();
    });
}

#[test]
fn a_write_while_another_process_unmaps() {
    check(|| Page::mapped(2), &[Page::unmap], Page::copy_on_write);
    check(|| Page::mapped(2), &[Page::copy_on_write], Page::copy_on_write);
    check(
        || Page::mapped(3),
        &[Page::copy_on_write, Page::unmap],
        |page| {
            page.fork();
            page.unmap();
            page.copy_on_write();
        },
    );
}

/// CPUs that have no reference map a page that its file keeps.
#[test]
fn two_processes_map_a_page_of_a_file() {
    fn map_and_unmap(page: &Page) {
        page.word.share(1).expect("there are few references");
        page.read();
        assert_eq!(page.word.release(1), Ok(false), "the file keeps it");
    }
    loom::model(|| {
        let page = Page::of_file();
        let other = {
            let page = page.clone();
            thread::spawn(move || map_and_unmap(&page))
        };
        map_and_unmap(&page);
        other.join().expect("no model panics");
        assert_eq!(page.word.counts(), (1, 0));
        assert!(page.word.let_go());
    });
}

/// An unmap that waits for a window holds a frame; its owner gives it back meanwhile.
#[test]
fn a_frame_is_held_or_gone() {
    loom::model(|| {
        let page = Page::of_file();
        let holder = {
            let page = page.clone();
            thread::spawn(move || page.word.hold().then(|| page.word.let_go()))
        };
        let by_owner = page.word.let_go();
        let by_holder = holder.join().expect("no model panics");
        let times = usize::from(by_owner) + usize::from(by_holder == Some(true));
        assert_eq!(times, 1, "exactly one of them lets go last: {by_owner} {by_holder:?}");
    });
}

/// Somebody notes a write while the page is forked.
#[test]
fn a_touched_page_stays_touched() {
    loom::model(|| {
        let word = Arc::new(Word::default());
        word.become_kind(Kind::Folio(0));
        word.refer();
        word.map(1);
        let toucher = {
            let word = word.clone();
            thread::spawn(move || word.touch())
        };
        word.share_own(1).expect("there are few references");
        toucher.join().expect("no model panics");
        assert!(word.is_touched());
        assert_eq!(word.counts(), (2, 2));
    });
}

/// The page of zeroes is everybody's, and nobody writes its word.
#[test]
fn nothing_is_counted_of_a_page_that_is_kept() {
    loom::model(|| {
        let word = Word::default();
        word.become_kind(Kind::Kept);
        word.share(1).expect("it is not counted");
        assert_eq!(
            (word.counts(), word.release(1), word.is_exclusive()),
            ((0, 0), Ok(false), false)
        );
        assert!(!word.hold());
    });
}

/// That the models can fail: two processes that claim the only mapping there is lose a reference between them.
#[test]
#[should_panic(expected = "a reference was lost")]
fn the_model_finds_a_plain_store_that_is_wrong() {
    loom::model(|| {
        let page = Page::mapped(1);
        let other = {
            let page = page.clone();
            thread::spawn(move || page.fork())
        };
        page.fork();
        other.join().expect("no model panics");
        assert_eq!(page.word.counts(), (3, 3), "a reference was lost");
    });
}

/// That the models can fail: a page that is freed before another process has read it for the last time.
#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_finds_a_page_that_is_used_after_it_was_freed() {
    check(
        || Page::mapped(2),
        &[Page::unmap],
        |page| {
            if page.word.release(1).unwrap() {
                page.write();
                page.freed.fetch_add(1, Relaxed);
            }
            page.read();
        },
    );
}
