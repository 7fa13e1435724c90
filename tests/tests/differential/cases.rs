//! What a case is: inputs, and the kernel or step that they go to.

use gpu_kernels::tuple_counts;
use keysieve::cuda::Variant;
use keysieve_tests::device::Device;
use keysieve_tests::oracle::{Aggregation, Shape};
use keysieve_tests::ragged::{self, RaggedCase, ragged_cases};
use keysieve_tests::strategies::{
    Budget, EncodeCase, Fill, LoopCase, Palette, StepCase, any_loop_cases, any_step_cases,
    encode_cases,
};
use keysieve_tests::{checks, steps};
use proptest::prelude::*;

/// A stage whose inputs are a [`StepCase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Lut,
    Scores,
    Aggregate,
    TopK,
    IndexList,
    Weights,
}

/// Inputs and where they go.
#[derive(Debug, Clone)]
pub(crate) enum Case {
    /// One stage alone.
    Stage(Stage, StepCase),
    /// New keys' codes alone.
    Codes(EncodeCase),
    /// Whole steps: `pick` chooses among the variants that fit, or among those by tuples.
    Steps {
        case: LoopCase,
        pick: usize,
        by_graph: bool,
        by_tuples: bool,
    },
    /// Steps of a ragged batch.
    Ragged(RaggedCase),
}

/// Rows times positions: a case shall take some tens of milliseconds.
const ELEMENTS: usize = 1 << 11;

/// One in so many steps of a format that the step by tuples fits has a long row, and is done by that step.
const LONG: usize = 8;
/// Keys that are nearly a tile of it.
const LONG_ROW: usize = gpu_kernels::select_tuples::KEYS_PER_TILE as usize - 64;

/// Cases of any kind; half of them whole steps.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let budget = |components| Budget {
        elements: ELEMENTS,
        components,
    };
    let stages = proptest::sample::select(vec![
        Stage::Lut,
        Stage::Scores,
        Stage::Aggregate,
        Stage::TopK,
        Stage::IndexList,
        Stage::Weights,
    ]);
    prop_oneof![
        5 => (stages, any_step_cases(budget(false)), any_step_cases(budget(true))).prop_map(
            |(stage, plain, with_components)| {
                let mut case = if stage == Stage::Lut { with_components } else { plain };
                few_rows(&mut case.shape, 6);
                case.seq_lens.truncate(case.shape.batch);
                Case::Stage(stage, case)
            }
        ),
        1 => encode_cases(ELEMENTS).prop_map(Case::Codes),
        1 => ragged_cases(budget(true)).prop_map(|mut case| {
            few_rows(&mut case.largest.shape, 3);
            case.steps = case.steps.min(2);
            Case::Ragged(case)
        }),
        4 => (any_loop_cases(budget(true)), any::<usize>(), any::<bool>(), small_format())
            .prop_map(|(mut case, pick, by_graph, small)| {
                few_rows(&mut case.shape, 1 + (pick >> 32) % 2);
                // A window, without which no fused step fits, and often few bits.
                case.shape.window = case.shape.window.max(1);
                let mut by_tuples = false;
                if let Some((m, bits, sub_dim)) = small {
                    case.shape.head_dim =
                        m * sub_dim.unwrap_or_else(|| case.shape.sub_dim().min(16));
                    (case.shape.num_subvectors, case.shape.bits) = (m, bits);
                    // Now and then so many keys that a block of such a step has several tiles.
                    by_tuples = (pick >> 40).is_multiple_of(LONG);
                    if by_tuples {
                        few_rows(&mut case.shape, 1);
                        case.shape.window = case.shape.window.max(tuple_counts::MIN_WINDOW as usize);
                        case.shape.scores_stride = 0;
                        (case.shape.causal, case.shape.aggregation) = Default::default();
                        case.num_codes = LONG_ROW + (pick >> 46) % (3 * LONG_ROW);
                    }
                }
                Case::Steps { case, pick: pick % 840, by_graph, by_tuples }
            }),
    ]
}

/// Takes heads, queries and sequences away until there are no more than `most` rows.
fn few_rows(shape: &mut Shape, most: usize) {
    while shape.num_rows() > most {
        let counts = [
            &mut shape.num_queries,
            &mut shape.group_size,
            &mut shape.num_kv_heads,
            &mut shape.batch,
        ];
        let largest = counts.into_iter().max_by_key(|count| **count);
        if let Some(count) = largest {
            *count -= 1;
        }
    }
}

/// Formats that the step by tuples fits, for half of the cases; with the components of a sub-vector where a
/// kernel of its own asks for them.
fn small_format() -> impl Strategy<Value = Option<(usize, u32, Option<usize>)>> {
    let (m, bits, head_dim) = gpu_kernels::select_tuples::REFERENCE_FORMAT;
    let reference = (m as usize, bits, Some((head_dim / m) as usize));
    let fitting: Vec<(usize, u32, Option<usize>)> = (1..=64usize)
        .flat_map(|m| (1..=8u32).map(move |bits| (m, bits)))
        .filter(|&(m, bits)| tuple_counts::fits(m as u32, bits))
        .map(|(m, bits)| (m, bits, None))
        .chain([reference; 4])
        .collect();
    proptest::option::of(proptest::sample::select(fitting))
}

/// What a step does that only the kernels of single stages do.
fn features(shape: &Shape) -> String {
    let mut features = String::new();
    if shape.aggregation != Aggregation::PerHead {
        features += &format!(" {:?}", shape.aggregation);
    }
    for (is, name) in [
        (shape.causal && shape.num_queries > 1, " causal"),
        (shape.scores_stride > 0, " scores"),
    ] {
        features += if is { name } else { "" };
    }
    features
}

impl Case {
    /// Runs it; the name of what ran.
    pub(crate) fn run(&self, device: &Device) -> Result<String, TestCaseError> {
        match self.clone() {
            Case::Stage(stage, case) => {
                match stage {
                    Stage::Lut => checks::lut(device, case),
                    Stage::Scores => checks::scores(device, case),
                    Stage::Aggregate => checks::aggregate(device, case),
                    Stage::TopK => checks::top_k(device, case),
                    Stage::IndexList => checks::index_list(device, case),
                    Stage::Weights => checks::weights(device, case),
                }?;
                Ok(format!("stage {stage:?}"))
            }
            Case::Codes(case) => checks::codes(device, case).map(|()| "stage Codes".into()),
            Case::Steps {
                case,
                pick,
                by_graph,
                by_tuples,
            } => {
                let may = |variant: &Variant| !by_tuples || matches!(variant, Variant::Tuples(_));
                let variant = steps::one_variant(device, &case, pick, by_graph, may)?;
                // Its name and its blocks, not the sizes that follow from the case's.
                let shown = format!("{variant:?}");
                let name = shown.split([' ', '(']).next().unwrap_or_default();
                let blocks = shown.split_once("blocks: ").and_then(|(_, rest)| {
                    let num = rest.split(',').next()?;
                    Some(format!(" of {num} blocks"))
                });
                let blocks = blocks.unwrap_or_default();
                let features = features(&case.shape);
                let how = if by_graph { "graph" } else { "launches" };
                Ok(format!("step {name}{blocks}{features}, {how}"))
            }
            Case::Ragged(case) => {
                ragged::run(device, &case)?;
                let pages = match case.paging {
                    Some((_, true)) => ", codes in pages",
                    _ => "",
                };
                let features = features(&case.largest.shape);
                Ok(format!("ragged steps{features}{pages}"))
            }
        }
    }

    /// What is hostile about it; empty for a usual case.
    pub(crate) fn hostilities(&self) -> Vec<&'static str> {
        let (shape, seq_len, fills): (&Shape, usize, Vec<Fill>) = match self {
            Case::Stage(_, case) => {
                let longest = case.seq_lens.iter().copied().max().unwrap_or(0);
                (&case.shape, longest, vec![case.floats, case.codes])
            }
            Case::Codes(case) => {
                let longest = case.seq_lens.iter().copied().max().unwrap_or(0);
                (&case.shape, longest, vec![case.centroids, case.keys])
            }
            Case::Steps { case, .. } | Case::Ragged(RaggedCase { largest: case, .. }) => {
                let fills = vec![case.centroids, case.codes, case.keys, case.queries];
                (&case.shape, case.shape.init_offset + case.num_codes, fills)
            }
        };
        let has = |palettes: &[Palette]| fills.iter().any(|fill| palettes.contains(&fill.palette));
        let first = shape.init_offset.max(shape.sink);
        let n = seq_len.saturating_sub(first + shape.window);
        let near_edge = (5..=13).any(|log| n.abs_diff(1 << log) <= 1);
        let found = [
            (
                "ties",
                has(&[Palette::FewDistinct, Palette::AllEqual, Palette::Zeros]),
            ),
            (
                "NaN, infinities",
                has(&[Palette::Strewn, Palette::Special, Palette::AnyBits]),
            ),
            ("zeros of both signs", has(&[Palette::Zeros])),
            ("denormals", has(&[Palette::Denormal])),
            ("sums that overflow", has(&[Palette::Huge])),
            ("last bits decide", has(&[Palette::Close])),
            ("no candidate or one", n <= 1),
            ("candidates around a warp, block or tile", near_edge),
            ("heavy >= candidates", shape.heavy >= n),
            (
                "overlapping regions",
                shape.sink != shape.init_offset || seq_len < shape.sink + shape.window,
            ),
        ];
        let found = found.into_iter().filter(|(_, is)| *is);
        found.map(|(name, _)| name).collect()
    }
}
