//! The suite's one table, and the same as JSON.

use std::fmt::{self, Write};

use keysieve::cuda::{Footprint, Variant};
use serde_json::{Value, json};

use super::algorithm::Part;
use super::reference::{
    COLD_TARGET, COPIES, ISSUE_TARGET_US, LAUNCHES_TARGET, Reference, WAITED_TARGET_US,
};
use super::rows::Row;
use crate::cli::bench::check;
use crate::cli::bench::plan::REPLAYS;
use crate::cli::bench::torch::Torch;

/// Everything that a run of the suite found. Times are in microseconds.
#[derive(Debug)]
pub(super) struct Suite {
    /// The GPU's name.
    pub(super) device: String,
    /// CUDA version of the driver, (major, minor).
    pub(super) driver_version: (u32, u32),
    /// 10 x major + minor.
    pub(super) compute_capability: u32,
    pub(super) num_multiprocessors: u32,
    /// The host in words.
    pub(super) host: String,
    /// The day in UTC.
    pub(super) date: String,
    /// Bytes read plus bytes written a second.
    pub(super) copy_bandwidth: f64,
    pub(super) seed: u64,
    pub(super) warmup: usize,
    pub(super) runs: usize,
    /// The reference first.
    pub(super) rows: Vec<Row>,
    pub(super) reference: Reference,
    /// Training, prefill, and steps that are not dense.
    pub(super) parts: Vec<Part>,
    /// PyTorch's figures of the reference.
    pub(super) torch: Option<Torch>,
}

/// A figure of the reference shape beside what it is held to.
struct Held {
    name: &'static str,
    unit: &'static str,
    target: f64,
    measured: f64,
    meaning: String,
}

impl Suite {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text)
            .expect("a string takes everything");
        text
    }

    fn write_text(&self, text: &mut String) -> fmt::Result {
        let (major, minor) = self.driver_version;
        writeln!(text, "GPU         {}, CUDA {major}.{minor}", self.device)?;
        writeln!(text, "host        {}", self.host)?;
        writeln!(text, "date        {}", self.date)?;
        writeln!(text, "checked     {}", checked())?;
        writeln!(
            text,
            "copies      {:.1} GB/s, read plus written\n",
            self.copy_bandwidth / 1e9
        )?;
        writeln!(
            text,
            "{:20} {:>12} {:>9} {:>9} {:>6} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9}",
            "shape",
            "variant",
            "target us",
            "us a step",
            "ratio",
            "single us",
            "MB least",
            "share",
            "launches",
            "registers",
            "blocks/SM",
        )?;
        for row in &self.rows {
            let target = row.target_us();
            let number = |of: fn(&Footprint) -> u32| {
                row.footprint
                    .as_ref()
                    .map_or("-".to_owned(), |footprint| of(footprint).to_string())
            };
            writeln!(
                text,
                "{:20} {:>12} {target:>9.1} {:>9.2} {:>6.2} {:>9.2} {:>9.2} {:>6.1}% {:>9} {:>9} {:>9}",
                row.shape.name,
                in_words(row.variant),
                row.measured_us(),
                row.measured_us() / target,
                row.single.median,
                row.shape.minimum_bytes() as f64 / 1e6,
                100.0 * row.share(self.copy_bandwidth),
                row.launches,
                number(|footprint| footprint.registers),
                number(|footprint| footprint.blocks_per_multiprocessor),
            )?;
        }
        writeln!(text)?;
        for held in self.held() {
            writeln!(
                text,
                "{:20} {:>12} {:>9.1} {:>9.2} {:>6.2}   {}",
                held.name,
                held.unit,
                held.target,
                held.measured,
                held.measured / held.target,
                held.meaning,
            )?;
        }
        for part in &self.parts {
            let (target, ratio) = match part.target_us {
                None => ("-".to_owned(), "-".to_owned()),
                Some(target) => (
                    format!("{target:.1}"),
                    format!("{:.2}", part.measured.median / target),
                ),
            };
            writeln!(
                text,
                "{:20} {:>12} {target:>9} {:>9.2} {ratio:>6}   {}",
                part.name, "us", part.measured.median, part.meaning,
            )?;
        }
        if let Some(torch) = &self.torch {
            writeln!(text, "\n{}", torch.in_words())?;
            let of_reference = self.rows[0].measured_us();
            for row in torch.rows() {
                match row.stats {
                    Ok(stats) => writeln!(
                        text,
                        "{:20} {:>12} {:>9} {:>9.2} {:>6}   {}; {:.1} x the reference's us a step",
                        row.name,
                        "us",
                        "-",
                        stats.median,
                        "-",
                        row.meaning,
                        stats.median / of_reference,
                    )?,
                    Err(why_not) => writeln!(text, "{:20} {why_not}", row.name)?,
                }
            }
        }
        writeln!(
            text,
            "\nus a step: GPU time of {REPLAYS} graph replays in a row, divided; single us: of one replay, \
             median of {} after {}; share: of the copy bandwidth, by the bytes at least",
            self.runs, self.warmup
        )
    }

    /// What the reference shape is held to beside its row.
    fn held(&self) -> [Held; 4] {
        let row = &self.rows[0];
        [
            Held {
                name: "cold cache",
                unit: "us",
                target: COLD_TARGET * row.measured_us(),
                measured: self.reference.cold.median,
                meaning: format!(
                    "GPU time a step of the reference, {COPIES} copies of its buffers in rotation; \
                     target {COLD_TARGET} x warm"
                ),
            },
            Held {
                name: "launch and wait",
                unit: "us",
                target: WAITED_TARGET_US,
                measured: self.reference.waited.median,
                meaning: "wall clock: one step of the reference launched and waited for".into(),
            },
            Held {
                name: "issue",
                unit: "us",
                target: ISSUE_TARGET_US,
                measured: row.issue.median,
                meaning: format!("CPU time of a replay of the reference, of {REPLAYS} in a row"),
            },
            Held {
                name: "launches",
                unit: "a step",
                target: LAUNCHES_TARGET as f64,
                measured: row.launches as f64,
                meaning: "nodes of the reference's graph".into(),
            },
        ]
    }

    pub(super) fn json(&self) -> Value {
        let (major, minor) = self.driver_version;
        let held = self.held().map(|held| {
            json!({
                "name": held.name,
                "unit": held.unit,
                "target": held.target,
                "measured": held.measured,
                "ratio": held.measured / held.target,
                "meaning": held.meaning,
            })
        });
        let parts: Vec<_> = self.parts.iter().map(part_json).collect();
        let rows: Vec<_> = self.rows.iter().map(|row| self.row_json(row)).collect();
        json!({
            "machine": {
                "gpu": self.device,
                "compute_capability": self.compute_capability,
                "num_multiprocessors": self.num_multiprocessors,
                "host": self.host,
            },
            "driver_version": format!("{major}.{minor}"),
            "date": self.date,
            "version": env!("CARGO_PKG_VERSION"),
            "checked": true,
            "checked_how": checked(),
            "copy_gb_per_s": self.copy_bandwidth / 1e9,
            "seed": self.seed,
            "warmup": self.warmup,
            "runs": self.runs,
            "replays": REPLAYS,
            "shapes": rows,
            "reference": {
                "held_to": held,
                "cold_us": self.reference.cold,
                "cold_copies": COPIES,
                "replay_wait_us": self.reference.waited,
                "replay_issue_us": self.rows[0].issue,
            },
            "parts": parts,
            "torch": self.torch.as_ref().map(Torch::json),
        })
    }

    fn row_json(&self, row: &Row) -> Value {
        let footprint = row.footprint.map(|footprint| {
            json!({
                "kernel": footprint.kernel,
                "threads": footprint.threads,
                "shared_bytes": footprint.shared_bytes,
                "registers": footprint.registers,
                "blocks_per_multiprocessor": footprint.blocks_per_multiprocessor,
            })
        });
        json!({
            "shape": row.shape,
            "variant": in_words(row.variant),
            "target_us": row.target_us(),
            "measured_us": row.measured_us(),
            "ratio": row.measured_us() / row.target_us(),
            "graph_us": row.in_a_row,
            "step_us": row.single,
            "replay_issue_us": row.issue,
            "bytes_minimum": row.shape.minimum_bytes(),
            "bytes": row.shape.cuda_bytes(row.variant),
            "copy_share_minimum": row.share(self.copy_bandwidth),
            "launches": row.launches,
            "footprint": footprint,
        })
    }
}

fn part_json(part: &Part) -> Value {
    json!({
        "name": part.name,
        "target_us": part.target_us,
        "measured_us": part.measured,
        "meaning": part.meaning,
    })
}

fn checked() -> String {
    format!(
        "{} steps of every shape: codes, lists and weights on the CPU equal those of a plain loop, and \
         those on the GPU, by graph and by launches, equal the CPU's; copies equal the first; \
         prefill's codes and the lists of other steps equal the CPU's, training's error is within 0.1 % of it",
        check::STEPS
    )
}

/// The variant and the blocks of a row.
fn in_words(variant: Variant) -> String {
    match variant {
        Variant::Staged => "staged".into(),
        Variant::Survivors(plan) if plan.is_clustered() => {
            format!("clustered {}", plan.num_blocks)
        }
        Variant::Survivors(plan) => format!("survivors {}", plan.num_blocks),
        Variant::Tuples(blocks) => format!("tuples {}", blocks.num_blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::shape::SHAPES;
    use crate::cli::bench::stats::Stats;

    /// Every shape in three times its target.
    fn suite() -> Suite {
        let rows = SHAPES.map(|shape| Row {
            in_a_row: Stats::of(&[3.0 * shape.target_us().unwrap()]),
            shape,
            variant: Variant::Staged,
            issue: Stats::of(&[1.5]),
            single: Stats::of(&[99.0]),
            launches: 2,
            footprint: Some(Footprint {
                kernel: "a_kernel",
                threads: 512,
                shared_bytes: 1024,
                registers: 77,
                blocks_per_multiprocessor: 3,
            }),
        });
        Suite {
            device: "a GPU".into(),
            driver_version: (12, 8),
            compute_capability: 90,
            num_multiprocessors: 132,
            host: "a host".into(),
            date: "2026-01-31".into(),
            copy_bandwidth: 4e12,
            seed: 0,
            warmup: 10,
            runs: 50,
            rows: rows.into(),
            reference: Reference {
                cold: Stats::of(&[45.0]),
                waited: Stats::of(&[24.0]),
            },
            parts: vec![Part {
                name: "train-m2-b6".into(),
                measured: Stats::of(&[9e3]),
                target_us: Some(6e3),
                meaning: "a part",
            }],
            torch: Some(torch()),
        }
    }

    /// As a GPU's that captured no top-k.
    fn torch() -> Torch {
        let times = |median: f64| json!(Stats::of(&[median]));
        let found = json!({
            "torch": "2.11", "cuda": "13.0", "device": "a GPU", "checked_rows": 4,
            "wall_us": times(380.0), "eager_us": times(370.0), "graph_us": times(150.0),
            "topk_why_not": "no graph",
        });
        serde_json::from_value(found).unwrap()
    }

    #[test]
    fn torch_stands_beside_the_reference() {
        let suite = suite();
        let text = suite.text();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        let graph = line("eager_torch_graph_us");
        assert!(graph.contains(" 150.00 "), "{graph}");
        assert!(
            graph.ends_with("; 10.0 x the reference's us a step"),
            "{graph}"
        );
        assert!(line("torch_topk_us").ends_with("no graph"));
        let torch = &suite.json()["torch"];
        assert_eq!(torch["torch"], "2.11");
        assert_eq!(torch["eager_torch_wall_us"]["median"], 380.0);
        assert_eq!(torch["torch_topk_us"]["why_not"], "no graph");
        let without = Suite {
            torch: None,
            ..suite
        };
        assert!(!without.text().contains("PyTorch") && without.json()["torch"].is_null());
    }

    #[test]
    fn every_shape_has_a_line_with_its_target() {
        let text = suite().text();
        for (name, target) in [
            ("reference", "5.0"),
            ("tokens-131072", "10.0"),
            ("tokens-524288", "32.0"),
            ("tokens-524288-lists", "14.0"),
            ("subvectors-8", "9.0"),
            ("subvectors-16", "45.0"),
            ("grouped-heads", "16.0"),
            ("batch-64", "16.0"),
        ] {
            let named = |line: &&str| line.split_whitespace().next() == Some(name);
            let line = text.lines().find(named).unwrap();
            let line: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(line[2], target, "{name}");
            assert_eq!((line[4], line[5]), ("3.00", "99.00"), "{name}");
            assert_eq!(line[8..], ["2", "77", "3"], "{name}");
        }
    }

    #[test]
    fn the_reference_is_held_to_more() {
        let held = suite().held();
        let figures = held.map(|held| (held.name, held.target, held.measured));
        let expected = [
            ("cold cache", 22.5, 45.0),
            ("launch and wait", 12.0, 24.0),
            ("issue", 3.0, 1.5),
            ("launches", 1.0, 2.0),
        ];
        assert_eq!(figures, expected);
    }

    #[test]
    fn json_has_what_the_table_has() {
        let suite = suite();
        let value = suite.json();
        assert_eq!(value["shapes"].as_array().unwrap().len(), SHAPES.len());
        for (row, shape) in value["shapes"].as_array().unwrap().iter().zip(&SHAPES) {
            assert_eq!(row["shape"]["name"], shape.name);
            assert_eq!(row["target_us"].as_f64(), shape.target_us());
            assert_eq!(row["ratio"], 3.0);
            let share = shape.minimum_bytes() as f64 / 4e6 / row["measured_us"].as_f64().unwrap();
            let got = row["copy_share_minimum"].as_f64().unwrap();
            assert!((got - share).abs() <= 1e-12 * share, "{got} for {share}");
            assert_eq!(row["footprint"]["registers"], 77);
        }
        assert_eq!(value["reference"]["held_to"].as_array().unwrap().len(), 4);
        assert_eq!(value["parts"][0]["measured_us"]["median"], 9e3);
        assert!(suite.text().contains("9000.00   1.50   a part"));
        assert_eq!(value["machine"]["gpu"], "a GPU");
        assert_eq!(value["date"], "2026-01-31");
        assert_eq!(value["driver_version"], "12.8");
    }
}
