//! The one error type of the library.

use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, each with the value that made it go wrong.
///
/// A call that returns an error has changed nothing. Messages are one line each.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, a tensor or an option is not what the call needs.
    #[error("{argument}: got {got}, expected {expected}")]
    Invalid {
        /// The argument's name as the caller wrote it (`bits`, `keys`, `index: codes`).
        argument: String,
        /// What came.
        got: String,
        /// What would have been accepted.
        expected: String,
    },

    /// A key to be trained on or appended is NaN or infinite; the first such component is named.
    #[error(
        "keys: got {value} at [batch {batch}, head {head}, token {token}, component {component}], \
         expected finite numbers"
    )]
    NotFinite {
        /// Batch entry of the first offending component.
        batch: usize,
        /// Key-value head of it.
        head: usize,
        /// Token of it, counted from the first token given.
        token: usize,
        /// Component of the key.
        component: usize,
        /// NaN, inf or -inf, as text (so that errors compare equal).
        value: String,
    },

    /// More tokens were appended than the index has room for.
    #[error(
        "keys: got {additional} more tokens with {seq_len} held, expected at most {capacity} in all"
    )]
    Capacity {
        /// Tokens the index holds.
        seq_len: usize,
        /// Tokens that were to be appended.
        additional: usize,
        /// Tokens it can hold.
        capacity: usize,
    },

    /// A file cannot be read or written.
    #[error("{argument}: got {path}, which cannot be {action}: {reason}", path = path.display())]
    File {
        /// The argument that named the file (`--kv`, `path`).
        argument: String,
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The operating system's or the format's reason.
        reason: String,
    },

    /// The CUDA backend was asked for and cannot work here.
    #[error("backend: got cuda, expected a GPU that answers: {reason}")]
    NoDevice {
        /// Why, in a sentence that says what is missing.
        reason: String,
    },

    /// A call of the CUDA driver failed; the context is still usable.
    #[error("{call}: the CUDA driver answered {name} ({code})")]
    Driver {
        /// The driver's function.
        call: String,
        /// The raw `CUresult`.
        code: u32,
        /// Its name.
        name: String,
    },

    /// The CUDA context died (an illegal address, a hardware fault, ...): every later call on the
    /// same device answers this at once. Only a new process gets a new context.
    #[error("the GPU context is lost: {call} answered {name} ({code})")]
    DeviceLost {
        /// The driver's function that first reported it.
        call: String,
        /// The raw `CUresult`.
        code: u32,
        /// Its name.
        name: String,
    },
}

impl Error {
    /// An [`Error::Invalid`] from anything printable.
    pub fn invalid(
        argument: impl Into<String>,
        got: impl ToString,
        expected: impl ToString,
    ) -> Self {
        Error::Invalid {
            argument: argument.into(),
            got: one_line(got.to_string()),
            expected: one_line(expected.to_string()),
        }
    }

    pub(crate) fn unreadable(argument: &str, path: &Path, reason: impl ToString) -> Self {
        Error::File {
            argument: argument.into(),
            path: path.into(),
            action: "read",
            reason: one_line(reason.to_string()),
        }
    }

    pub(crate) fn unwritable(argument: &str, path: &Path, reason: impl ToString) -> Self {
        Error::File {
            argument: argument.into(),
            path: path.into(),
            action: "written",
            reason: one_line(reason.to_string()),
        }
    }
}

/// The text with its control characters escaped: parts of a file and others' messages may hold any.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let escaped = text.chars().flat_map(|c| {
        let control = c.is_control().then(|| c.escape_default());
        let other = (!c.is_control()).then_some(c);
        control.into_iter().flatten().chain(other)
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line() {
        let path = Path::new("file");
        let error = Error::invalid("metric", "l\n2\u{85}", "l2 or \r");
        assert_eq!(
            error.to_string(),
            "metric: got l\\n2\\u{85}, expected l2 or \\r"
        );
        let error = Error::unreadable("--kv", path, "tensor a\tb\u{e9}");
        assert_eq!(
            error.to_string(),
            "--kv: got file, which cannot be read: tensor a\\tb\u{e9}"
        );
    }
}
