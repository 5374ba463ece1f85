//! What is said when something went wrong. Errors of the caller: exit code 2, and what would have been right.

/// Something asked for that does not exist or cannot be done. The message says what is valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// An unknown name where one of `valid` was expected.
    pub fn unknown<'a>(what: &str, name: &str, valid: impl IntoIterator<Item = &'a str>) -> Self {
        let valid: Vec<&str> = valid.into_iter().collect();
        UsageError(format!("unknown {what} `{name}`; expected one of: {}", valid.join(", ")))
    }
}

/// An error and its causes in one line. A cause that the message above it already quotes is not said again: some errors of libraries
/// print their cause, others leave that to whoever prints the chain.
pub fn told_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        match (told.is_empty(), told.contains(&cause)) {
            (true, _) => cause,
            (false, true) => told,
            (false, false) => format!("{told}: {cause}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write: {0}")]
    struct Quoting(#[source] std::fmt::Error);

    #[test]
    fn a_cause_is_told_once() {
        let quoting = Err::<(), _>(Quoting(std::fmt::Error)).context("no table").unwrap_err();
        assert_eq!(format!("{quoting:#}").matches("formatting").count(), 2, "what it is for");
        assert_eq!(told_once(&quoting), format!("no table: cannot write: {}", std::fmt::Error));
        let plain = Err::<(), _>(std::fmt::Error).context("no table").unwrap_err();
        assert_eq!(told_once(&plain), format!("no table: {}", std::fmt::Error));
    }
}
