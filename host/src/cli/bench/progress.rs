//! What a person sees while they wait.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr, when that is a terminal and nobody asked for quiet.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        // indicatif draws nothing when stderr is no terminal.
        let bar = match quiet {
            true => ProgressBar::hidden(),
            false => ProgressBar::new(0),
        };
        let style = ProgressStyle::with_template("{msg:16} {wide_bar} {pos}/{len}");
        Progress(bar.with_style(style.expect("the template is right")))
    }

    /// Begins a phase of `len` parts.
    pub(super) fn phase(&self, name: &'static str, len: usize) {
        self.0.set_message(name);
        self.0.set_position(0);
        self.0.set_length(len as u64);
    }

    pub(super) fn advance(&self, parts: usize) {
        self.0.inc(parts as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
