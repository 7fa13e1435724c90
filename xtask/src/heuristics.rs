//! `heuristics`: fits the costs by which a variant of the step is chosen to measurements of all variants.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use self::model::{Costs, Kernel, Load, Way};
use crate::least_squares;
use crate::workspace;

// The library's own: what is fitted is what it computes. It is public there.
#[allow(unreachable_pub)]
#[path = "../../host/src/cuda/heuristics/model.rs"]
mod model;

/// What `keysieve bench --tune --json` wrote.
const MEASUREMENTS: &str = "docs/results/h200-variants.json";
/// What is made of it.
const TABLE: &str = "host/src/cuda/heuristics/table.rs";

/// What the chosen variant of a measured shape may take, in times of its best one.
const WORST_CHOICE: f64 = 1.15;

/// Fits, each of which looks harder at what was chosen wrongly by the one before.
const ROUNDS: usize = 40;

#[derive(Deserialize)]
struct Measurements {
    machine: Machine,
    driver_version: String,
    date: String,
    shapes: Vec<Measured>,
}

#[derive(Deserialize)]
struct Machine {
    gpu: String,
    num_multiprocessors: u32,
}

/// A shape's variants.
#[derive(Deserialize)]
struct Measured {
    load: Load,
    variants: Vec<Timed>,
}

#[derive(Deserialize)]
struct Timed {
    #[serde(flatten)]
    way: Way,
    us: f64,
}

/// What a table chooses for a shape.
struct Choice<'a> {
    load: &'a Load,
    chosen: &'a Timed,
    best: &'a Timed,
}

impl Choice<'_> {
    /// In times of the best variant's.
    fn ratio(&self) -> f64 {
        self.chosen.us / self.best.us
    }
}

/// Writes the table, or with `check` fails where the committed one is not what would be written; in both
/// cases fails where it chooses badly.
pub(crate) fn run(check: bool) -> Result<()> {
    let measurements = Measurements::read()?;
    let table = measurements.fit();
    let text = measurements.render(&table);
    let path = workspace::root().join(TABLE);
    if !check {
        fs::write(&path, &text).with_context(|| format!("cannot write {TABLE}"))?;
    } else if fs::read_to_string(&path).with_context(|| format!("cannot read {TABLE}"))? != text {
        bail!("{TABLE} is not what {MEASUREMENTS} gives: run `cargo xtask heuristics`");
    }
    print!("{}", measurements.describe(&table));
    let worst = measurements.worst(&table);
    ensure!(
        worst <= WORST_CHOICE,
        "a chosen variant takes {worst:.2} times as long as the best one, at most {WORST_CHOICE} is allowed"
    );
    Ok(())
}

impl Measurements {
    fn read() -> Result<Self> {
        let path = workspace::root().join(MEASUREMENTS);
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read {MEASUREMENTS}, which `keysieve bench --tune --json` writes on a GPU"
            )
        })?;
        let measurements: Self =
            serde_json::from_str(&text).with_context(|| format!("cannot parse {MEASUREMENTS}"))?;
        measurements.check()?;
        Ok(measurements)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.shapes.is_empty(), "{MEASUREMENTS} has no shapes");
        for measured in &self.shapes {
            let load = &measured.load;
            ensure!(!measured.variants.is_empty(), "{load:?} has no variants");
            let is_time = |timed: &Timed| timed.us.is_finite() && timed.us > 0.0;
            ensure!(
                measured.variants.iter().all(is_time),
                "{load:?} has a time that is none"
            );
        }
        Ok(())
    }

    /// The table whose choices are best, of those that [`ROUNDS`] fits give. Each weighs a measurement by how
    /// near it is to its shape's best one, as only those matter to a choice, and more from round to round
    /// where the choice was another.
    fn fit(&self) -> Vec<Costs> {
        let mut weights: Vec<Vec<f64>> = self
            .shapes
            .iter()
            .map(|measured| {
                let best = measured.best().us;
                let variants = measured.variants.iter();
                variants.map(|timed| (best / timed.us).powi(2)).collect()
            })
            .collect();
        let mut best: Option<(f64, Vec<Costs>)> = None;
        for _ in 0..ROUNDS {
            let table = self.fit_weighted(&weights);
            let mut loss = 0.0;
            for (measured, weights) in self.shapes.iter().zip(&mut weights) {
                let choice = self.choice(measured, &table);
                // Large losses first.
                loss += (choice.ratio() - 1.0).powi(4);
                if choice.ratio() > 1.02 {
                    for (timed, weight) in measured.variants.iter().zip(weights) {
                        let is_of_choice =
                            timed.way == choice.chosen.way || timed.way == choice.best.way;
                        *weight *= if is_of_choice { 1.5 } else { 1.0 };
                    }
                }
            }
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, table));
            }
        }
        best.expect("there are rounds").1
    }

    /// Costs of every kernel that was measured: where it differs by them, first for each number of
    /// sub-vectors that was.
    fn fit_weighted(&self, weights: &[Vec<f64>]) -> Vec<Costs> {
        let mut table = Vec::new();
        for kernel in Kernel::ALL {
            let mut numbers = BTreeSet::new();
            if kernel.differs_by_subvectors() {
                numbers.extend(self.shapes.iter().map(|shape| shape.load.num_subvectors));
            }
            for only in numbers.into_iter().map(Some).chain([None]) {
                let mut rows = Vec::new();
                for (measured, weights) in self.shapes.iter().zip(weights) {
                    if only.is_some_and(|only| only != measured.load.num_subvectors) {
                        continue;
                    }
                    let timed = measured.variants.iter().zip(weights);
                    for (timed, weight) in timed.filter(|(timed, _)| timed.way.kernel == kernel) {
                        rows.push(self.equation(&measured.load, timed, *weight));
                    }
                }
                // Fewer say nothing.
                if rows.first().is_none_or(|(row, _)| rows.len() < row.len()) {
                    continue;
                }
                let us = least_squares::non_negative(&rows);
                table.push(Costs {
                    kernel,
                    num_subvectors: only,
                    us: us.into_iter().map(rounded).collect::<Vec<_>>().into(),
                });
            }
        }
        table
    }

    /// Terms that are to add up to 1: the errors that count are relative ones.
    fn equation(&self, load: &Load, timed: &Timed, weight: f64) -> (Vec<f64>, f64) {
        let terms = timed.way.terms(load, self.machine.num_multiprocessors);
        let factor = weight.sqrt();
        let row = terms.iter().map(|(_, amount)| factor * amount / timed.us);
        (row.collect(), factor)
    }

    /// As the library chooses.
    fn choice<'a>(&self, measured: &'a Measured, table: &[Costs]) -> Choice<'a> {
        let load = &measured.load;
        let chosen = measured
            .variants
            .iter()
            .min_by(|a, b| self.us(load, a, table).total_cmp(&self.us(load, b, table)));
        Choice {
            load,
            chosen: chosen.expect("it was checked that there are some"),
            best: measured.best(),
        }
    }

    fn us(&self, load: &Load, timed: &Timed, table: &[Costs]) -> f64 {
        let multiprocessors = self.machine.num_multiprocessors;
        timed.way.microseconds(load, multiprocessors, table)
    }

    fn worst(&self, table: &[Costs]) -> f64 {
        let shapes = self.shapes.iter();
        let ratios = shapes.map(|measured| self.choice(measured, table).ratio());
        ratios.fold(1.0, f64::max)
    }

    /// How well the costs fit, and the shapes whose choice loses most.
    fn describe(&self, table: &[Costs]) -> String {
        let mut rows = vec![
            [
                "kernel",
                "m",
                "measured",
                "median error %",
                "worst %",
                "worst near best %",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for costs in table {
            let mut errors = Vec::new();
            let mut worst_near_best: f64 = 0.0;
            for measured in &self.shapes {
                let load = &measured.load;
                let only = costs.num_subvectors;
                if only.is_some_and(|only| only != load.num_subvectors) {
                    continue;
                }
                let of_kernel = |timed: &&Timed| timed.way.kernel == costs.kernel;
                for timed in measured.variants.iter().filter(of_kernel) {
                    let multiprocessors = self.machine.num_multiprocessors;
                    let us =
                        timed
                            .way
                            .microseconds(load, multiprocessors, std::slice::from_ref(costs));
                    let error = 100.0 * (us / timed.us - 1.0).abs();
                    errors.push(error);
                    if timed.us <= 1.5 * measured.best().us {
                        worst_near_best = worst_near_best.max(error);
                    }
                }
            }
            errors.sort_by(f64::total_cmp);
            rows.push(vec![
                costs.kernel.name().into(),
                costs.num_subvectors.map_or("any".into(), |m| m.to_string()),
                errors.len().to_string(),
                format!("{:.1}", errors[errors.len() / 2]),
                format!("{:.1}", errors[errors.len() - 1]),
                format!("{worst_near_best:.1}"),
            ]);
        }
        let mut choices: Vec<_> = self
            .shapes
            .iter()
            .map(|measured| self.choice(measured, table))
            .collect();
        choices.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
        let mean = choices.iter().map(Choice::ratio).sum::<f64>() / choices.len() as f64;
        let mut text = workspace::table(&rows);
        let _ = writeln!(
            text,
            "\n{} shapes; the chosen variant takes {mean:.3} times as long as the best one on average; the worst:",
            choices.len()
        );
        let mut rows = vec![
            [
                "ratio", "rows", "keys", "m", "heavy", "weights", "chosen", "us", "best", "us",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for choice in choices.iter().take(10) {
            let load = choice.load;
            rows.push(vec![
                format!("{:.3}", choice.ratio()),
                load.rows.to_string(),
                load.keys.to_string(),
                load.num_subvectors.to_string(),
                load.heavy.to_string(),
                load.has_weights.to_string(),
                in_words(&choice.chosen.way),
                format!("{:.2}", choice.chosen.us),
                in_words(&choice.best.way),
                format!("{:.2}", choice.best.us),
            ]);
        }
        text + &workspace::table(&rows)
    }

    /// The table as the library compiles it.
    fn render(&self, table: &[Costs]) -> String {
        let mut text = format!(
            "//! What one of each of a step's terms takes, fitted to {MEASUREMENTS}:\n\
             //! {}, CUDA {}, {}.\n\
             //! Written by `cargo xtask heuristics`, never by hand.\n\
             \n\
             use std::borrow::Cow;\n\
             \n\
             use super::model::{{Costs, Kernel}};\n\
             \n\
             #[rustfmt::skip]\n\
             pub(super) static COSTS: [Costs; {}] = [\n",
            self.machine.gpu,
            self.driver_version,
            self.date,
            table.len(),
        );
        for costs in table {
            let names = self.names(costs.kernel);
            let _ = writeln!(text, "    Costs {{");
            let _ = writeln!(text, "        kernel: Kernel::{:?},", costs.kernel);
            let _ = writeln!(text, "        num_subvectors: {:?},", costs.num_subvectors);
            let _ = writeln!(text, "        us: Cow::Borrowed(&[");
            for (name, us) in names.iter().zip(costs.us.iter()) {
                let _ = writeln!(text, "            {us:?}, // {name}");
            }
            let _ = writeln!(text, "        ]),\n    }},");
        }
        text + "];\n"
    }

    fn names(&self, kernel: Kernel) -> Vec<&'static str> {
        let way = Way {
            kernel,
            num_blocks: 1,
            keys_per_block: 1,
            rows_at_once: 1,
        };
        let terms = way.terms(&self.shapes[0].load, 1);
        terms.into_iter().map(|(name, _)| name).collect()
    }
}

impl Measured {
    fn best(&self) -> &Timed {
        let variants = self.variants.iter();
        let best = variants.min_by(|a, b| a.us.total_cmp(&b.us));
        best.expect("it was checked that there are some")
    }
}

/// To four digits: what the table says is what is computed with.
fn rounded(us: f64) -> f64 {
    format!("{us:.3e}").parse().expect("it was a number")
}

fn in_words(way: &Way) -> String {
    format!("{} x{}", way.kernel.name(), way.num_blocks)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    const MULTIPROCESSORS: u32 = 100;

    /// Costs to be found again.
    fn made_up_table() -> Vec<Costs> {
        let costs = |kernel, num_subvectors, us: &'static [f64]| Costs {
            kernel,
            num_subvectors,
            us: Cow::Borrowed(us),
        };
        let survivors: &[f64] = &[2.0, 4.0, 0.05, 0.0, 0.08, 0.01, 1.0, 1.5, 0.2, 0.0];
        let of_two: &[f64] = &[2.0, 4.0, 0.05, 0.2, 0.0, 0.01, 1.0, 1.5, 0.2, 0.0];
        vec![
            costs(Kernel::Staged, None, &[30.0, 9.0, 0.1, 0.4, 0.1, 0.05, 0.0]),
            costs(Kernel::Survivors, Some(2), of_two),
            costs(Kernel::Survivors, Some(16), survivors),
            costs(Kernel::Survivors, None, survivors),
            costs(
                Kernel::Tuples,
                None,
                &[4.0, 0.1, 1.0, 0.05, 2.0, 0.1, 0.01, 0.02, 0.3, 0.2, 0.03],
            ),
        ]
    }

    /// Every variant of some shapes, with the times that the made-up table gives, `noise` beside.
    fn measurements(noise: f64) -> Measurements {
        let mut shapes = Vec::new();
        let mut turn = 0u32;
        for num_subvectors in [2, 16] {
            for (rows, keys) in [
                (1, 100_000),
                (8, 9000),
                (32, 33_000),
                (150, 20_000),
                (512, 5000),
            ] {
                for (heavy, bits, has_weights) in [(128, 4, true), (1024, 8, false), (300, 6, true)]
                {
                    let load = Load {
                        rows,
                        keys,
                        num_subvectors,
                        components: 128 << bits,
                        heavy,
                        has_weights,
                    };
                    let mut ways = vec![(Kernel::Staged, 1, keys)];
                    for blocks in [1, 2, 4, 8, 16] {
                        ways.push((Kernel::Survivors, blocks, keys.div_ceil(blocks)));
                        if num_subvectors == 2 {
                            ways.push((Kernel::Tuples, blocks, keys.div_ceil(blocks)));
                        }
                    }
                    let timed = |(kernel, num_blocks, keys_per_block)| {
                        let way = Way {
                            kernel,
                            num_blocks,
                            keys_per_block,
                            rows_at_once: 0,
                        };
                        let us = way.microseconds(&load, MULTIPROCESSORS, &made_up_table());
                        turn = (turn + 7) % 11;
                        let us = us * (1.0 + noise * (f64::from(turn) / 5.0 - 1.0));
                        Timed { way, us }
                    };
                    shapes.push(Measured {
                        load,
                        variants: ways.into_iter().map(timed).collect(),
                    });
                }
            }
        }
        Measurements {
            machine: Machine {
                gpu: "a GPU".into(),
                num_multiprocessors: MULTIPROCESSORS,
            },
            driver_version: "13.0".into(),
            date: "2026-01-31".into(),
            shapes,
        }
    }

    #[test]
    fn times_that_have_such_costs_are_found_again() {
        let measurements = measurements(0.0);
        let table = measurements.fit();
        let of: Vec<_> = table
            .iter()
            .map(|row| (row.kernel, row.num_subvectors))
            .collect();
        let expected = made_up_table();
        let expected: Vec<_> = expected
            .iter()
            .map(|row| (row.kernel, row.num_subvectors))
            .collect();
        assert_eq!(of, expected);
        for measured in &measurements.shapes {
            for timed in &measured.variants {
                let us = measurements.us(&measured.load, timed, &table);
                // Of four digits, and in the fallback row of two kinds of times.
                assert!((us / timed.us - 1.0).abs() < 0.01, "{:?}: {us}", timed.way);
            }
        }
        assert_eq!(measurements.worst(&table), 1.0);
    }

    #[test]
    fn noise_costs_little_and_bad_costs_are_seen() {
        let measurements = measurements(0.05);
        let table = measurements.fit();
        assert!(measurements.worst(&table) < WORST_CHOICE);
        assert!(measurements.describe(&table).contains("30 shapes"));
        let mut bad = table;
        for costs in &mut bad {
            if costs.kernel == Kernel::Staged {
                costs.us = vec![0.0; costs.us.len()].into();
            }
        }
        assert!(measurements.worst(&bad) > WORST_CHOICE);
    }

    #[test]
    fn what_is_written_has_every_cost_with_its_name() {
        let measurements = measurements(0.0);
        let table = measurements.fit();
        let text = measurements.render(&table);
        assert!(text.contains("a GPU, CUDA 13.0, 2026-01-31"));
        assert!(text.contains(&format!("[Costs; {}]", table.len())));
        assert!(text.contains("num_subvectors: Some(16),"));
        assert_eq!(text.matches("// launch\n").count(), 4);
        let numbers = text.lines().filter(|line| line.contains(", // "));
        let numbers: Vec<f64> = numbers
            .map(|line| line.split(',').next().unwrap().trim().parse().unwrap())
            .collect();
        let expected: Vec<f64> = table.iter().flat_map(|costs| costs.us.to_vec()).collect();
        assert_eq!(numbers, expected);
    }

    #[test]
    fn the_committed_table_is_made_of_the_committed_measurements() {
        run(true).unwrap();
    }

    #[test]
    fn names_are_those_of_the_files() {
        for kernel in Kernel::ALL {
            let name = serde_json::to_value(kernel).unwrap();
            assert_eq!(name, kernel.name());
        }
    }
}
