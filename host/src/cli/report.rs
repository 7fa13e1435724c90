//! What is printed, and how.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use keysieve::quality::Quality;
use keysieve::{AutoBackend, files};
use serde_json::Value;

/// Columns of a wrapped list.
const WIDTH: usize = 80;

/// Prints results on stdout.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    written.and_then(|()| stdout.flush()).context("stdout")
}

/// Says something on stderr that is no result, unless it is to be quiet.
pub(super) fn note(quiet: bool, text: &str) {
    if !quiet {
        // Nobody may be there to read it.
        let _ = writeln!(io::stderr(), "keysieve: {}", one_line(text));
    }
}

/// Says why nothing was done, in one line on stderr.
pub(super) fn error(text: &str) {
    let _ = writeln!(io::stderr(), "error: {}", one_line(text));
}

/// The text with every control character escaped: what a file or a caller put into it stays text.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// Gives a result: the text on stdout, and the JSON to the file that was asked for; when that is
/// `-`, the JSON on stdout instead of the text.
pub(super) fn give(text: &str, json: Option<&Path>, value: &Value) -> anyhow::Result<()> {
    let pretty = || format!("{value:#}\n");
    match json {
        Some(path) if path == Path::new("-") => print(&pretty())?,
        Some(path) => {
            files::write_whole("--json", path, |writer| {
                writer.write_all(pretty().as_bytes())
            })?;
            print(text)?;
        }
        None => print(text)?,
    }
    Ok(())
}

/// Refuses a `--json` file that cannot be written, before the work is done.
pub(super) fn check_json(json: Option<&Path>) -> keysieve::Result<()> {
    match json {
        Some(path) if path != Path::new("-") => files::check_target("--json", path).map(drop),
        _ => Ok(()),
    }
}

/// The backend in words, with the reason when it is not the GPU.
pub(super) fn backend(opened: &AutoBackend) -> String {
    let (name, device) = (opened.backend.name(), opened.backend.device_name());
    match &opened.why_not_cuda {
        None => format!("{name} ({device})"),
        Some(error) => {
            let why = match error {
                keysieve::Error::NoDevice { reason } => reason.clone(),
                other => other.to_string(),
            };
            format!("{name} ({device}), not the GPU: {}", one_line(&why))
        }
    }
}

/// The same as JSON fields.
pub(super) fn backend_json(opened: &AutoBackend) -> [(&'static str, Value); 3] {
    let why_not = opened.why_not_cuda.as_ref().map(ToString::to_string);
    [
        ("backend", opened.backend.name().into()),
        ("device", opened.backend.device_name().into()),
        ("why_not_cuda", why_not.into()),
    ]
}

/// A quality as JSON; what is not a number is null.
pub(super) fn quality_json(quality: &Quality) -> Value {
    let (low, high) = quality.head_recall_range();
    serde_json::json!({
        "recall": quality.recall,
        "recall_min": low,
        "recall_max": high,
        "head_recalls": quality.head_recalls,
        "chance_recall": quality.chance_recall,
        "mass": quality.mass,
        "exact_mass": quality.exact_mass,
        "mass_ratio": quality.mass_ratio,
        "fixed_mass": quality.fixed_mass,
    })
}

/// Numbers, wrapped, every line behind `indent` spaces.
pub(super) fn wrapped(numbers: &[i32], indent: usize) -> String {
    let mut text = String::new();
    let mut column = indent;
    for (i, number) in numbers.iter().enumerate() {
        let word = number.to_string();
        if i > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if i > 0 {
            text.push(' ');
            column += 1;
        }
        column += word.len();
        text.push_str(&word);
    }
    text
}

/// A run of positions: `0-127`, `5`, `none`.
pub(super) fn range(positions: &[i32]) -> String {
    match positions {
        [] => "none".into(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    }
}

/// A duration in the unit that suits it.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_readable() {
        assert_eq!(range(&[]), "none");
        assert_eq!(range(&[5]), "5");
        assert_eq!(range(&[0, 1, 2]), "0-2");
        let numbers: Vec<i32> = (1000..1040).collect();
        let text = wrapped(&numbers, 10);
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        assert!(
            text.lines()
                .skip(1)
                .all(|line| line.starts_with("          1"))
        );
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(wrapped(&[], 10), "");
    }

    #[test]
    fn a_message_is_one_line_without_escapes() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(one_line("Schlüssel"), "Schlüssel");
    }
}
