//! What a trace does not say, in words. Everything made from a trace carries these along: what was not
//! recorded must not be taken for zero.

use crate::header::{Header, Kinds, Outcome, Trailer};

impl Header {
    /// What the recorder could not see, one sentence each.
    pub fn caveats(&self) -> Vec<String> {
        let has = |kinds| self.kinds.contains(kinds);
        let faults = has(Kinds::FAULTS);
        let sentences = [
            (!has(Kinds::CALLS), "memory calls were not recorded"),
            (!faults, "page faults were not recorded"),
            (
                faults && !has(Kinds::KERNEL_FAULTS),
                "page faults that the kernel takes on user memory were not recorded",
            ),
            (
                faults && !has(Kinds::FAULT_WRITES),
                "whether a page fault was a write was not recorded: a replay takes it for one wherever \
                 writing is allowed",
            ),
            (
                !has(Kinds::DURATIONS),
                "durations were not recorded: what memory management took of system time is not known",
            ),
            (
                has(Kinds::DURATIONS) && !has(Kinds::CPU_DURATIONS),
                "durations are elapsed time: what a task waited in a call or fault is in them",
            ),
            (
                has(Kinds::TASKS) && !has(Kinds::EXEC_PAGES),
                "the pages that an execve made present were not recorded",
            ),
        ];
        let true_ones = sentences.into_iter().filter(|&(is_true, _)| is_true);
        true_ones.map(|(_, sentence)| sentence.to_owned()).collect()
    }
}

impl Trailer {
    /// What escaped the recorder in this run, one sentence each.
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats: Vec<String> = self.gaps.iter().map(ToString::to_string).collect();
        if self.lost > 0 {
            caveats.push(format!("{} events were lost: the recorder did not keep up", self.lost));
        }
        if self.foreign_calls > 0 {
            caveats.push(format!(
                "calls of 32-bit programs were not recorded, of which {} were seen",
                self.foreign_calls
            ));
        }
        if self.outcome == Outcome::Running {
            caveats.push(
                "the command was still running when the recording ended: its CPU time is not known"
                    .to_owned(),
            );
        }
        caveats
    }
}
