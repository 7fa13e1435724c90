//! `eval --sweep`: recall and attention mass against the bytes that a key takes.

use std::fmt::Write as _;
use std::io::Write as _;

use keysieve::files::{self, KvFile};
use keysieve::quality::Quality;
use keysieve::{Error, Metric, PqConfig};
use serde_json::{Value, json};

use super::super::{report, select, train};
use super::{Args, heading, plot};

/// Sub-vectors that are tried.
const NUM_SUBVECTORS: [usize; 4] = [2, 4, 8, 16];
/// Bits that are tried.
pub(super) const BITS: [u32; 3] = [4, 6, 8];
/// Metrics that are tried.
pub(super) const METRICS: [Metric; 2] = [Metric::L2, Metric::Ip];

/// The quality of one format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) num_subvectors: usize,
    pub(super) bits: u32,
    pub(super) metric: Metric,
    pub(super) bytes_per_key: f64,
    pub(super) recall: f64,
    pub(super) mass: f64,
    pub(super) mass_exact: f64,
}

impl Point {
    fn json(&self) -> Value {
        json!({
            "num_subvectors": self.num_subvectors,
            "bits": self.bits,
            "metric": self.metric.name(),
            "bytes_per_key": self.bytes_per_key,
            "recall": self.recall,
            "mass": self.mass,
            "mass_exact": self.mass_exact,
        })
    }
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    if let Some(svg) = &args.svg {
        files::check_target("--svg", svg)?;
    }
    let kv = KvFile::read("--kv", &args.kv)?;
    let (keys, queries) = (kv.keys(), kv.queries());
    let fitting = |m: &usize| keys.head_dim.is_multiple_of(*m);
    let formats: Vec<usize> = NUM_SUBVECTORS.into_iter().filter(fitting).collect();
    if formats.is_empty() {
        let expected = format!("a multiple of one of {NUM_SUBVECTORS:?} sub-vectors");
        return Err(Error::invalid("head_dim", keys.head_dim, expected).into());
    }
    let opened = args.backend.open()?;
    let config = args.select.config();

    let mut points = Vec::new();
    for metric in METRICS {
        for &num_subvectors in &formats {
            for bits in BITS {
                let pq = PqConfig {
                    num_subvectors,
                    bits,
                    metric,
                    ..args.pq.config()
                };
                let index = train::index(&pq, &args.pq.training(), keys, keys.tokens, quiet)?;
                let bytes_per_key = index.packed_bytes_per_key();
                let mut selector = select::selector(&opened, index, keys, queries, config)?;
                let selection = selector.select(queries)?;
                let quality = Quality::measure(keys, queries, &pq, &config, selection)?;
                points.push(Point {
                    num_subvectors,
                    bits,
                    metric,
                    bytes_per_key,
                    recall: quality.recall,
                    mass: quality.mass,
                    mass_exact: quality.exact_mass,
                });
            }
        }
    }

    let mut text = heading(args, &kv, &opened);
    text.push_str(&table(&points)?);
    for m in NUM_SUBVECTORS {
        if !formats.contains(&m) {
            let head_dim = keys.head_dim;
            writeln!(
                text,
                "\n{m} sub-vectors do not divide {head_dim} components."
            )?;
        }
    }
    if let Some(svg) = &args.svg {
        let drawing = plot::draw(&points)?;
        files::write_whole("--svg", svg, |writer| writer.write_all(drawing.as_bytes()))?;
    }
    let values = points.iter().map(Point::json).collect();
    report::give(&text, args.json.as_deref(), &Value::Array(values))
}

fn table(points: &[Point]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "   m  bits  metric  bytes/key  recall    mass  exact mass"
    )?;
    for point in points {
        writeln!(
            text,
            "{:4}  {:4}  {:>6}  {:9}  {:6.3}  {:6.3}      {:6.3}",
            point.num_subvectors,
            point.bits,
            point.metric.name(),
            point.bytes_per_key,
            point.recall,
            point.mass,
            point.mass_exact,
        )?;
    }
    Ok(text)
}
