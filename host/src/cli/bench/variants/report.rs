//! The variants' times, as a table and as JSON.

use std::fmt::{self, Write};

use keysieve::cuda::heuristics::Way;
use serde_json::{Value, json};

use super::super::check;
use super::super::shape::Shape;
use super::{COMPARED_CODES, Measured, REPEATS};

/// All figures of one run.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) device: String,
    pub(super) driver_version: (u32, u32),
    pub(super) compute_capability: u32,
    pub(super) num_multiprocessors: u32,
    pub(super) date: String,
    pub(super) seed: u64,
    pub(super) warmup: usize,
    pub(super) runs: usize,
    pub(super) shapes: Vec<Measured>,
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text)
            .expect("a string takes everything");
        text
    }

    fn write_text(&self, text: &mut String) -> fmt::Result {
        let (major, minor) = self.driver_version;
        writeln!(text, "GPU         {}, CUDA {major}.{minor}", self.device)?;
        writeln!(text, "date        {}", self.date)?;
        writeln!(text, "checked     {}\n", checked())?;
        if let [only] = self.shapes.as_slice() {
            writeln!(text, "{:22} {:>9}", "variant", "us")?;
            for (i, timed) in only.variants.iter().enumerate() {
                let chosen = if i == only.chosen { "  chosen" } else { "" };
                writeln!(
                    text,
                    "{:22} {:>9.2}{chosen}",
                    in_words(&timed.way),
                    timed.us
                )?;
            }
        } else {
            writeln!(
                text,
                "{:44} {:>8}   {:22} {:>9}   {:22} {:>9} {:>6}",
                "shape", "variants", "chosen", "us", "best", "us", "ratio",
            )?;
            for measured in &self.shapes {
                let (chosen, best) = (measured.chosen(), measured.best());
                writeln!(
                    text,
                    "{:44} {:>8}   {:22} {:>9.2}   {:22} {:>9.2} {:>6.2}",
                    of_shape(&measured.shape),
                    measured.variants.len(),
                    in_words(&chosen.way),
                    chosen.us,
                    in_words(&best.way),
                    best.us,
                    chosen.us / best.us,
                )?;
            }
        }
        writeln!(
            text,
            "\nus: GPU time of {} graph replays in a row, divided, after {}; median of {REPEATS}",
            self.runs, self.warmup
        )
    }

    pub(super) fn json(&self) -> Value {
        let (major, minor) = self.driver_version;
        let shapes: Vec<_> = self.shapes.iter().map(shape_json).collect();
        json!({
            "machine": {
                "gpu": self.device,
                "compute_capability": self.compute_capability,
                "num_multiprocessors": self.num_multiprocessors,
            },
            "driver_version": format!("{major}.{minor}"),
            "date": self.date,
            "version": env!("CARGO_PKG_VERSION"),
            "checked": true,
            "checked_how": checked(),
            "seed": self.seed,
            "warmup": self.warmup,
            "runs": self.runs,
            "repeats": REPEATS,
            "shapes": shapes,
        })
    }
}

fn shape_json(measured: &Measured) -> Value {
    json!({
        "shape": measured.shape,
        "load": measured.load,
        "variants": measured.variants,
        "chosen_us": measured.chosen().us,
        "best_us": measured.best().us,
    })
}

fn checked() -> String {
    format!(
        "{} steps of every variant: lists and weights equal the CPU's, which equal those of a plain loop; of \
         contexts of up to {} MiB of codes those of new keys too",
        check::STEPS,
        COMPARED_CODES >> 20,
    )
}

/// The kernel and the blocks of a row.
fn in_words(way: &Way) -> String {
    match way.num_blocks {
        1 => way.kernel.name().to_owned(),
        blocks => format!("{} {blocks}", way.kernel.name()),
    }
}

/// What tells shapes of the grid apart.
fn of_shape(shape: &Shape) -> String {
    format!(
        "{}x{}/{} {} x{} m{} b{} heavy {}{}",
        shape.batch,
        shape.num_qo_heads,
        shape.num_kv_heads,
        shape.tokens,
        shape.head_dim,
        shape.num_subvectors,
        shape.bits,
        shape.heavy,
        if shape.weights { " weights" } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use keysieve::cuda::heuristics::{Kernel, Load};

    use super::super::super::shape::REFERENCE;
    use super::super::Timed;
    use super::*;

    fn measured(us: [f64; 2]) -> Measured {
        let timed = |kernel, num_blocks, us| Timed {
            way: Way {
                kernel,
                num_blocks,
                keys_per_block: 8192,
                rows_at_once: 0,
            },
            us,
        };
        Measured {
            shape: REFERENCE,
            load: Load {
                rows: 32,
                keys: 32_208,
                num_subvectors: 2,
                components: 8192,
                heavy: 128,
                has_weights: true,
            },
            chosen: 0,
            variants: vec![
                timed(Kernel::TuplesReference, 4, us[0]),
                timed(Kernel::Staged, 1, us[1]),
            ],
        }
    }

    #[test]
    fn a_shape_of_many_has_a_line() {
        let report = Report {
            device: "a GPU".into(),
            driver_version: (13, 0),
            compute_capability: 90,
            num_multiprocessors: 132,
            date: "2026-01-31".into(),
            seed: 0,
            warmup: 10,
            runs: 50,
            shapes: vec![measured([10.0, 8.0]), measured([7.0, 50.0])],
        };
        let text = report.text();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("1x32/32 32000 x128 m2 b6 heavy 128 weights"))
            .map(|line| line.split_whitespace().skip(8).collect())
            .collect();
        let expected = [
            "2 tuples_reference 4 10.00 staged 8.00 1.25",
            "2 tuples_reference 4 7.00 tuples_reference 4 7.00 1.00",
        ];
        assert_eq!(
            lines,
            expected.map(|line| line.split(' ').collect::<Vec<_>>())
        );
        let json = report.json();
        assert_eq!(json["shapes"][0]["variants"][1]["kernel"], "staged");
        assert_eq!(json["shapes"][0]["variants"][0]["keys_per_block"], 8192);
        assert_eq!(json["shapes"][0]["best_us"], 8.0);
        assert_eq!(json["machine"]["num_multiprocessors"], 132);
    }
}
