//! Spans as Chrome-trace JSON, which Perfetto and chrome://tracing open.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use keysieve::files;
use serde_json::{Value, json};

/// The process that all spans belong to: one run of the bench.
const PROCESS: u32 = 1;

/// A line of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    /// What the host does.
    Host,
    /// What the GPU does.
    Gpu,
    /// What one thread of the CPU backend does.
    Worker(usize),
}

impl Track {
    fn thread(self) -> usize {
        match self {
            Track::Host => 1,
            Track::Gpu => 2,
            Track::Worker(worker) => 10 + worker,
        }
    }

    fn name(self) -> String {
        match self {
            Track::Host => "host".into(),
            Track::Gpu => "GPU, by events".into(),
            Track::Worker(worker) => format!("CPU worker {worker}, sums over its rows"),
        }
    }
}

/// Records spans; time zero is when it was made.
#[derive(Debug)]
pub(super) struct Trace {
    zero: Instant,
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    track: Track,
    name: &'static str,
    start_us: f64,
    duration_us: f64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Trace {
            zero: Instant::now(),
            spans: Vec::new(),
        }
    }

    /// What the host did from `start` until now.
    pub(super) fn host(&mut self, name: &'static str, start: Instant) {
        let duration_us = start.elapsed().as_secs_f64() * 1e6;
        self.add(Track::Host, name, self.us(start), duration_us);
    }

    /// Does `work` as a span of the host.
    pub(super) fn host_span<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.host(name, start);
        done
    }

    /// A span of any track, in microseconds from [`Trace::us`]'s zero.
    pub(super) fn add(
        &mut self,
        track: Track,
        name: &'static str,
        start_us: f64,
        duration_us: f64,
    ) {
        self.spans.push(Span {
            track,
            name,
            start_us,
            duration_us,
        });
    }

    /// A point in time, in microseconds from zero.
    pub(super) fn us(&self, time: Instant) -> f64 {
        time.saturating_duration_since(self.zero).as_secs_f64() * 1e6
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// `Error::File` naming `--trace`.
    pub(super) fn write(&self, path: &Path, about: Value) -> keysieve::Result<()> {
        let value = self.to_json(about);
        files::write_whole("--trace", path, |writer| {
            serde_json::to_writer(&mut *writer, &value)?;
            writer.write_all(b"\n")
        })
    }

    fn to_json(&self, about: Value) -> Value {
        let mut tracks: Vec<Track> = self.spans.iter().map(|span| span.track).collect();
        tracks.sort();
        tracks.dedup();
        let mut events = vec![json!({
            "ph": "M", "pid": PROCESS, "tid": 0, "name": "process_name",
            "args": { "name": "keysieve bench" },
        })];
        for track in tracks {
            let thread = track.thread();
            events.push(json!({
                "ph": "M", "pid": PROCESS, "tid": thread, "name": "thread_name",
                "args": { "name": track.name() },
            }));
            events.push(json!({
                "ph": "M", "pid": PROCESS, "tid": thread, "name": "thread_sort_index",
                "args": { "sort_index": thread },
            }));
        }
        events.extend(self.spans.iter().map(|span| {
            json!({
                "ph": "X", "pid": PROCESS, "tid": span.track.thread(), "name": span.name,
                "cat": "step", "ts": span.start_us, "dur": span.duration_us,
            })
        }));
        json!({ "traceEvents": events, "displayTimeUnit": "ms", "otherData": about })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_is_a_complete_event_on_a_named_thread() {
        let mut trace = Trace::new();
        trace.host_span("check", || ());
        trace.add(Track::Gpu, "scores", 2.0, 3.5);
        let value = trace.to_json(json!({ "shape": "reference" }));
        let events = value["traceEvents"].as_array().unwrap();
        let named = |thread: &Value| {
            events
                .iter()
                .any(|event| event["name"] == "thread_name" && &event["tid"] == thread)
        };
        let spans: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(spans.len(), 2);
        for span in spans {
            assert!(span["ts"].is_f64() && span["dur"].is_f64() && named(&span["tid"]));
        }
    }
}
