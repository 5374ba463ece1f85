//! Errors of the caller: exit code 2, and what would have been right.

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
