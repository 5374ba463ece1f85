//! The CPU that is measured on: the one asked for, or the last that may be used, which is least busy with interrupts as a rule.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::usage::UsageError;

/// CPUs this process may use; none where the system does not say.
fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(allowed) => (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect(),
        Err(_) => Vec::new(),
    }
}

/// The CPU that workers keep to.
pub fn measured(asked: Option<usize>) -> Option<usize> {
    asked.or_else(|| allowed().last().copied())
}

/// Refuses a CPU that may not be used.
///
/// # Errors
///
/// [`UsageError`] with those that may.
pub fn check(asked: usize) -> Result<(), UsageError> {
    let allowed = allowed();
    if allowed.contains(&asked) {
        return Ok(());
    }
    let valid = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    Err(UsageError(format!("CPU {asked} may not be used; expected one of: {valid}")))
}

/// Keeps this process on it. Without the right to, it goes on.
pub fn stay_on(cpu: usize) {
    if cpu < CpuSet::MAX_CPU {
        let mut one = CpuSet::new();
        one.set(cpu);
        let _ = sched_setaffinity(None, &one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cpus_that_may_be_used_are_measured_on() {
        let last = measured(None).expect("this process runs on something");
        assert_eq!(check(last), Ok(()));
        let error = check(CpuSet::MAX_CPU).unwrap_err().to_string();
        assert!(error.contains(&last.to_string()), "{error}");
        assert_eq!(measured(Some(7)), Some(7));
    }
}
