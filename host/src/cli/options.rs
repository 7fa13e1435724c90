//! Options that several commands share, and the names that errors give them.

use clap::ValueEnum;
use keysieve::config::{MAX_BITS, MAX_HEAVY, MAX_SUBVECTORS, MAX_TOKENS};
use keysieve::cuda::Device;
use keysieve::{AutoBackend, Backend, Error, Metric, PqConfig, SelectConfig, TrainConfig};

/// Lloyd iterations beyond this change nothing: k-means has long converged.
const MAX_ITERATIONS: usize = 10_000;

/// How keys are quantised.
#[derive(Debug, clap::Args)]
pub(super) struct PqArgs {
    /// Sub-vectors a key is cut into, a divisor of head_dim
    #[arg(long, value_name = "M", value_parser = whole(1, MAX_SUBVECTORS),
          default_value_t = PqConfig::default().num_subvectors)]
    subvectors: usize,
    /// Bits of a code: a sub-vector has 2^bits centroids
    #[arg(long, value_name = "BITS", value_parser = whole(1, MAX_BITS as usize),
          default_value_t = PqConfig::default().bits as usize)]
    bits: usize,
    /// Iterations of k-means
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_ITERATIONS),
          default_value_t = TrainConfig::default().iterations)]
    iterations: usize,
    /// Seed of the k-means start
    #[arg(long, value_name = "SEED", value_parser = seed,
          default_value_t = TrainConfig::default().seed)]
    seed: u64,
    /// First quantised position
    #[arg(long, value_name = "POSITION", value_parser = whole(0, MAX_TOKENS),
          default_value_t = PqConfig::default().init_offset)]
    init_offset: usize,
    /// How a sub-vector's nearest centroid is found
    #[arg(long, value_enum, default_value_t = MetricChoice::L2)]
    metric: MetricChoice,
}

/// [`Metric`] as an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MetricChoice {
    /// By Euclidean distance
    L2,
    /// By inner product: Euclidean distance with a component more, which makes all norms equal
    Ip,
}

impl PqArgs {
    pub(super) fn config(&self) -> PqConfig {
        PqConfig {
            num_subvectors: self.subvectors,
            bits: self.bits as u32,
            init_offset: self.init_offset,
            metric: match self.metric {
                MetricChoice::L2 => Metric::L2,
                MetricChoice::Ip => Metric::Ip,
            },
        }
    }

    pub(super) fn training(&self) -> TrainConfig {
        TrainConfig {
            iterations: self.iterations,
            seed: self.seed,
            ..TrainConfig::default()
        }
    }
}

/// What a step lists.
#[derive(Debug, clap::Args)]
pub(super) struct SelectArgs {
    /// First positions, always listed
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_TOKENS),
          default_value_t = SelectConfig::default().sink)]
    sink: usize,
    /// Last positions, always listed
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_TOKENS),
          default_value_t = SelectConfig::default().window)]
    window: usize,
    /// Best-scoring positions between them
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_HEAVY),
          default_value_t = SelectConfig::default().heavy)]
    heavy: usize,
    /// Select in short contexts too, instead of listing every position
    #[arg(long)]
    no_short_context: bool,
}

impl SelectArgs {
    pub(super) fn config(&self) -> SelectConfig {
        SelectConfig {
            sink: self.sink,
            window: self.window,
            heavy: self.heavy,
            short_context: !self.no_short_context,
            weights: false,
            ..SelectConfig::default()
        }
    }
}

/// Where steps run.
#[derive(Debug, clap::Args)]
pub(super) struct BackendArgs {
    /// Where steps run; auto takes the GPU when one answers
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    backend: Choice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Auto,
    Cpu,
    Cuda,
}

impl BackendArgs {
    /// The backend chosen, and why it is not the GPU when `auto` found none.
    pub(super) fn open(&self) -> keysieve::Result<AutoBackend> {
        let backend = match self.backend {
            Choice::Auto => return Ok(Backend::auto()),
            Choice::Cpu => Backend::Cpu,
            Choice::Cuda => Backend::cuda()?,
        };
        Ok(AutoBackend {
            backend,
            why_not_cuda: None,
        })
    }

    /// The GPU, for what nothing else can do.
    pub(super) fn open_gpu(&self) -> keysieve::Result<Device> {
        if self.backend == Choice::Cpu {
            return Err(Error::invalid("--backend", "cpu", "cuda"));
        }
        match Backend::cuda()? {
            Backend::Cuda(device) => Ok(device),
            Backend::Cpu => unreachable!("the CUDA backend is a GPU's"),
        }
    }
}

/// `config` with sink and window cut to a context of at most `tokens`: no list changes, and buffers
/// do not grow with what a user typed.
pub(super) fn cut_to(config: SelectConfig, tokens: usize) -> SelectConfig {
    SelectConfig {
        sink: config.sink.min(tokens),
        window: config.window.min(tokens),
        ..config
    }
}

/// Parses a whole number from `low` to `high`.
pub(super) fn whole(
    low: usize,
    high: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from {low} to {high}")),
    }
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("expected a whole number from 0 to {}", u64::MAX))
}

/// Gives an error about a file the name of the option that named the file.
pub(super) fn named<T>(result: keysieve::Result<T>, option: &str) -> keysieve::Result<T> {
    result.map_err(|error| match error {
        Error::File {
            path,
            action,
            reason,
            ..
        } => Error::File {
            argument: option.into(),
            path,
            action,
            reason,
        },
        other => other,
    })
}

/// An error's message with the library's arguments called by the options they came from.
pub(super) fn in_options(error: &anyhow::Error) -> String {
    let message = format!("{error:#}");
    let argument = match error.downcast_ref::<Error>() {
        Some(Error::Invalid { argument, .. }) => argument.as_str(),
        Some(Error::NotFinite { .. } | Error::Capacity { .. }) => "keys",
        Some(Error::NoDevice { .. }) => "backend",
        _ => return message,
    };
    let (name, rest) = argument.split_once(':').unwrap_or((argument, ""));
    let option = match name {
        "num_subvectors" => "--subvectors",
        "bits" => "--bits",
        "init_offset" => "--init-offset",
        "sink" => "--sink",
        "window" => "--window",
        "heavy" => "--heavy",
        "sink + heavy + window" => "--sink, --heavy, --window",
        "weights" => "--weights",
        "backend" => "--backend",
        "index" => "--index",
        "keys" | "queries" | "head_dim" => return format!("--kv: {message}"),
        _ => return message,
    };
    let tail = &message[argument.len()..];
    match rest {
        "" => format!("{option}{tail}"),
        rest => format!("{option}:{rest}{tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_options() {
        let said = |error: Error| in_options(&error.into());
        let invalid = |argument: &str| said(Error::invalid(argument, 1, 2));
        assert_eq!(invalid("num_subvectors"), "--subvectors: got 1, expected 2");
        assert_eq!(invalid("--kv: keys"), "--kv: keys: got 1, expected 2");
        assert_eq!(
            invalid("keys: batch"),
            "--kv: keys: batch: got 1, expected 2"
        );
        assert_eq!(invalid("index: codes"), "--index: codes: got 1, expected 2");
        let no_device = Error::NoDevice {
            reason: "no driver".into(),
        };
        assert_eq!(
            said(no_device),
            "--backend: got cuda, expected a GPU that answers: no driver"
        );
    }

    #[test]
    fn whole_numbers_have_bounds() {
        let parse = whole(1, 8);
        assert_eq!(parse("8"), Ok(8));
        for text in ["0", "9", "-1", "1.5", "", "99999999999999999999999"] {
            let message = parse(text).unwrap_err();
            assert_eq!(message, "expected a whole number from 1 to 8");
        }
    }
}
