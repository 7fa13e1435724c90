//! What was measured, as a table and as JSON.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use keysieve::AutoBackend;
use serde_json::{Value, json};

use super::plan::Plan;
use super::shape::Shape;
use super::stats::Stats;
use super::torch::Torch;
use crate::cli::report;

/// A backend's figures. Times are in microseconds.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) step: Stats,
    pub(super) step_meaning: String,
    pub(super) others: Vec<Other>,
    /// PyTorch's, where they were asked for.
    pub(super) torch: Option<Torch>,
    pub(super) stages: Vec<(&'static str, f64)>,
    pub(super) stages_note: String,
    /// Kernel launches and memory operations of a step; 0 on the CPU.
    pub(super) launches: usize,
    pub(super) graph_nodes: Option<usize>,
    /// Bytes that the step reads and writes.
    pub(super) bytes: u64,
    /// Bytes read plus bytes written a second.
    pub(super) copy_bandwidth: f64,
    pub(super) driver_version: Option<(u32, u32)>,
    pub(super) checked: String,
}

/// A time that is taken beside the step's.
#[derive(Debug)]
pub(super) struct Other {
    name: &'static str,
    stats: Stats,
    meaning: &'static str,
}

impl Other {
    pub(super) fn new(name: &'static str, runs: &[f64], meaning: &'static str) -> Self {
        Other {
            name,
            stats: Stats::of(runs),
            meaning,
        }
    }
}

impl Measured {
    /// The part of the time of the median step in which memory that copies as fast as measured would
    /// move `bytes`.
    fn share(&self, bytes: u64) -> f64 {
        bytes as f64 / self.copy_bandwidth / (self.step.median * 1e-6)
    }

    pub(super) fn text(&self, opened: &AutoBackend, plan: &Plan<'_>, seed: u64) -> String {
        let mut text = String::new();
        self.write_text(&mut text, opened, plan, seed)
            .expect("a string takes everything");
        text
    }

    fn write_text(
        &self,
        text: &mut String,
        opened: &AutoBackend,
        plan: &Plan<'_>,
        seed: u64,
    ) -> fmt::Result {
        let shape = plan.shape;
        writeln!(text, "backend     {}", report::backend(opened))?;
        writeln!(text, "shape       {}", in_words(shape))?;
        writeln!(
            text,
            "data        made up from seed {seed}; centroids are sampled keys, not trained"
        )?;
        writeln!(text, "checked     {}\n", self.checked)?;

        writeln!(
            text,
            "time (us)           average    median       min       max       std   {} runs after {}",
            plan.runs, plan.warmup
        )?;
        let step = Other {
            name: "step_us",
            stats: self.step,
            meaning: "",
        };
        for (other, meaning) in [(&step, self.step_meaning.as_str())]
            .into_iter()
            .chain(self.others.iter().map(|other| (other, other.meaning)))
        {
            line(text, other.name, &other.stats, meaning)?;
        }

        if let Some(torch) = &self.torch {
            writeln!(text, "\n{}", torch.in_words())?;
            for row in torch.rows() {
                match row.stats {
                    Ok(stats) => line(text, row.name, &stats, row.meaning)?,
                    Err(why_not) => writeln!(text, "{:20} {why_not}", row.name)?,
                }
            }
        }

        writeln!(text, "\nstages (us)          median     share")?;
        let sum: f64 = self.stages.iter().map(|(_, time)| time).sum();
        for (name, time) in &self.stages {
            writeln!(text, "{name:16} {time:11.2}  {:7.1}%", 100.0 * time / sum)?;
        }
        writeln!(text, "{:16} {sum:11.2}   ({})\n", "sum", self.stages_note)?;

        let minimum = shape.minimum_bytes();
        match self.graph_nodes {
            Some(nodes) => writeln!(
                text,
                "launches         {} ({nodes} nodes in the graph)",
                self.launches
            )?,
            None => writeln!(text, "launches         none: no GPU")?,
        }
        writeln!(
            text,
            "copy bandwidth   {:.1} GB/s, read plus written",
            self.copy_bandwidth / 1e9
        )?;
        for (name, bytes) in [("bytes moved", self.bytes), ("bytes at least", minimum)] {
            writeln!(
                text,
                "{name:16} {:.2} MB, {:.1}% of the copy bandwidth in the median step",
                bytes as f64 / 1e6,
                100.0 * self.share(bytes)
            )?;
        }
        Ok(())
    }

    pub(super) fn json(&self, opened: &AutoBackend, plan: &Plan<'_>, seed: u64) -> Value {
        let minimum = plan.shape.minimum_bytes();
        let stages: serde_json::Map<_, _> = self
            .stages
            .iter()
            .map(|(name, time)| ((*name).to_owned(), json!(time)))
            .collect();
        let mut value = json!({
            "shape": plan.shape,
            "step_us": self.step,
            "step_meaning": self.step_meaning,
            "stages_us": stages,
            "stages_note": self.stages_note,
            "launches": self.launches,
            "graph_nodes": self.graph_nodes,
            "bytes": self.bytes,
            "bytes_minimum": minimum,
            "copy_gb_per_s": self.copy_bandwidth / 1e9,
            "copy_share": self.share(self.bytes),
            "copy_share_minimum": self.share(minimum),
            "checked": true,
            "checked_how": self.checked,
            "warmup": plan.warmup,
            "runs": plan.runs,
            "seed": seed,
            "capacity": plan.capacity,
            "driver_version": self.driver_version.map(|(major, minor)| format!("{major}.{minor}")),
            "version": env!("CARGO_PKG_VERSION"),
            "date": date(SystemTime::now()),
        });
        for other in &self.others {
            value[other.name] = json!(other.stats);
        }
        if let Some(torch) = &self.torch {
            value["torch"] = torch.json();
        }
        for (name, field) in report::backend_json(opened) {
            value[name] = field;
        }
        value
    }
}

fn line(text: &mut String, name: &str, stats: &Stats, meaning: &str) -> fmt::Result {
    let Stats {
        average,
        median,
        min,
        max,
        std,
    } = stats;
    writeln!(
        text,
        "{name:16} {average:10.2}{median:10.2}{min:10.2}{max:10.2}{std:10.2}   {meaning}"
    )
}

fn in_words(shape: &Shape) -> String {
    format!(
        "{}: batch {}, {} query heads on {} key heads, {} tokens x {} components; m {}, bits {}, \
         init_offset {}; sink {} + heavy {} + window {}; {}",
        shape.name,
        shape.batch,
        shape.num_qo_heads,
        shape.num_kv_heads,
        shape.tokens,
        shape.head_dim,
        shape.num_subvectors,
        shape.bits,
        shape.init_offset,
        shape.sink,
        shape.heavy,
        shape.window,
        if shape.weights {
            "dense weights"
        } else {
            "lists only"
        },
    )
}

/// The day in UTC, as `2026-01-31`.
pub(super) fn date(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    // Years that begin in March have their leap day last, in cycles of 400.
    let days = seconds / 86_400 + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{day_of_month:02}",
        cycle * 400 + year + next
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn days_have_their_dates() {
        let date = |days: u64| date(UNIX_EPOCH + Duration::from_secs(days * 86_400 + 3600));
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(58), "1970-02-28");
        assert_eq!(date(59), "1970-03-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_453), "2025-12-31");
        assert_eq!(date(20_454), "2026-01-01");
    }
}
