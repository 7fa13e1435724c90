//! `keysieve doctor`: what works here, and what is missing for the rest.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use keysieve::{
    Backend, Error, IndexParts, KeyIndex, PqConfig, Queries, SelectConfig, Selector, cuda,
};
use serde_json::{Value, json};

use super::report;

/// Say which backends work here, and what is missing for the others
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write the findings as JSON too; `-` prints JSON instead of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Succeeds when the CPU backend works: everything runs on it.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    report::check_json(args.json.as_deref())?;
    let mut text = format!("keysieve {}\n\n", env!("CARGO_PKG_VERSION"));

    let cpu = check_cpu();
    let device = Backend::Cpu.device_name();
    match &cpu {
        Ok(()) => writeln!(
            text,
            "cpu   works: {device}; a small selection is what a plain loop gives"
        )?,
        Err(error) => writeln!(text, "cpu   does not work: {error}")?,
    }

    let cuda = cuda::doctor::doctor();
    match &cuda {
        Ok(found) => {
            writeln!(text, "cuda  works: {}", found.device)?;
            writeln!(
                text,
                "      driver      CUDA {}",
                dotted(found.driver_version)
            )?;
            writeln!(
                text,
                "      capability  {}, {} multiprocessors",
                dotted(halves(found.compute_capability)),
                found.num_multiprocessors
            )?;
            writeln!(text, "      kernels     {}", found.ptx_file.name)?;
            writeln!(
                text,
                "      self-test   the table kernel gives the CPU's answer, bit for bit"
            )?;
        }
        Err(error) => {
            writeln!(text, "cuda  {}", what_is_missing(error))?;
            writeln!(
                text,
                "      Without it everything runs on the CPU and gives the same lists."
            )?;
        }
    }

    report::give(&text, args.json.as_deref(), &as_json(&cpu, &device, &cuda))?;
    Ok(match cpu {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn as_json(
    cpu: &keysieve::Result<()>,
    device: &str,
    cuda: &keysieve::Result<cuda::doctor::Report>,
) -> Value {
    let mut value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": {
            "works": cpu.is_ok(),
            "device": device,
            "error": cpu.as_ref().err().map(ToString::to_string),
        },
    });
    value["cuda"] = match cuda {
        Ok(found) => json!({
            "works": true,
            "device": found.device,
            "driver": dotted(found.driver_version),
            "compute_capability": dotted(halves(found.compute_capability)),
            "num_multiprocessors": found.num_multiprocessors,
            "ptx_file": found.ptx_file.name,
            "error": null,
        }),
        Err(error) => json!({ "works": false, "error": error.to_string() }),
    };
    value
}

fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// A compute capability as (major, minor).
fn halves(compute_capability: u32) -> (u32, u32) {
    (compute_capability / 10, compute_capability % 10)
}

/// One sentence on why the GPU cannot be used.
fn what_is_missing(error: &Error) -> String {
    match error {
        Error::NoDevice { reason } => format!("is not there: {reason}"),
        Error::Invalid { .. } => {
            format!("gives wrong answers and must not be used: {error}")
        }
        other => format!("does not run: {other}"),
    }
}

/// Selects among keys whose scores are small whole numbers, which any order of additions gives
/// exactly, and compares with sorting all of them.
fn check_cpu() -> keysieve::Result<()> {
    const TOKENS: usize = 200;
    let pq = PqConfig {
        num_subvectors: 2,
        bits: 3,
        init_offset: 3,
        ..PqConfig::default()
    };
    let select = SelectConfig {
        sink: 5,
        window: 7,
        heavy: 11,
        short_context: false,
        weights: false,
        ..SelectConfig::default()
    };
    let codes: Vec<u8> = (0..2 * (TOKENS - pq.init_offset))
        .map(|i| (i * i % 29 % 8) as u8)
        .collect();
    let centroids: Vec<f32> = (0..2 * 8).map(|i| (i * 5 % 7) as f32 - 3.0).collect();
    let query = [2.0f32, -3.0];

    let score = |position: usize| {
        let codes = &codes[2 * (position - pq.init_offset)..];
        query[0] * centroids[usize::from(codes[0])]
            + query[1] * centroids[8 + usize::from(codes[1])]
    };
    let mut heavy: Vec<usize> = (select.sink..TOKENS - select.window).collect();
    heavy.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    heavy.truncate(select.heavy);
    heavy.extend(0..select.sink);
    heavy.extend(TOKENS - select.window..TOKENS);
    heavy.sort_unstable();
    let expected: Vec<i32> = heavy.iter().map(|&position| position as i32).collect();

    let parts = IndexParts {
        config: pq,
        batch: 1,
        num_kv_heads: 1,
        head_dim: 2,
        num_codes: TOKENS - pq.init_offset,
        centroids: centroids.clone(),
        augmentation: None,
        codes: codes.clone(),
    };
    let index = KeyIndex::from_parts(parts, TOKENS)?;
    let mut selector = Selector::new(&Backend::Cpu, index, select, 1, 1)?;
    let selection = selector.select(Queries::new(&query, [1, 1, 1, 2])?)?;
    let got = selection.positions(0, 0, 0);
    if got == expected {
        return Ok(());
    }
    Err(Error::invalid(
        "self-test: positions",
        format!("{got:?}"),
        format!("{expected:?}"),
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cpu_gives_what_a_plain_loop_gives() {
        super::check_cpu().unwrap();
    }
}
