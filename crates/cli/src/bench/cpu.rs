//! The CPU that is measured on: the one asked for, or the last that may be used, which is least busy with interrupts as a rule.

use crate::affinity::allowed;
use crate::usage::UsageError;

/// The CPU that workers keep to; none where the system has no means for it.
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
    if allowed.is_empty() {
        return Err(UsageError(format!(
            "this system does not let a process choose its CPU: leave out `--cpu {asked}`"
        )));
    }
    let valid = allowed.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    Err(UsageError(format!("CPU {asked} may not be used; expected one of: {valid}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cpus_that_may_be_used_are_measured_on() {
        let last = measured(None).expect("this process runs on something");
        assert_eq!(check(last), Ok(()));
        let error = check(usize::MAX).unwrap_err().to_string();
        assert!(error.contains(&last.to_string()), "{error}");
        assert_eq!(measured(Some(7)), Some(7));
    }
}
