//! Proptest strategies that aim at trouble: sizes around every warp, block and chunk, overlapping
//! regions, ties, NaN, infinities.
//!
//! Sizes are drawn and shrunk by proptest; the arrays that go with them are made from a seed and a
//! [`Palette`], so that a case prints in a few lines and thousands of them are quick.

use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle::{Aggregation, Augmentation, Shape};

/// SplitMix64: a few lines, so that the tests depend on no generator's version.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of that seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// A number in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// What kind of values an array holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Palette {
    /// Uniform in -1..1.
    Usual,
    /// Three values: most are tied.
    FewDistinct,
    /// One value, any of the special ones included.
    AllEqual,
    /// +0.0 and -0.0.
    Zeros,
    /// Floats that differ in their last ten bits only: a radix select's last digit decides.
    Close,
    /// Rising, then the same again.
    Ramp,
    /// Denormals of both signs.
    Denormal,
    /// Finite, and so large that sums overflow.
    Huge,
    /// Usual values with special ones strewn in.
    Strewn,
    /// Special values alone: NaN of both signs and several payloads, infinities, extremes.
    Special,
    /// Any 32 bits.
    AnyBits,
}

/// Palettes without NaN and infinities.
pub const FINITE: &[Palette] = &[
    Palette::Usual,
    Palette::FewDistinct,
    Palette::Zeros,
    Palette::Close,
    Palette::Ramp,
    Palette::Denormal,
    Palette::Huge,
];

/// Every palette.
pub const EVERY: &[Palette] = &[
    Palette::Usual,
    Palette::FewDistinct,
    Palette::AllEqual,
    Palette::Zeros,
    Palette::Close,
    Palette::Ramp,
    Palette::Denormal,
    Palette::Huge,
    Palette::Strewn,
    Palette::Special,
    Palette::AnyBits,
];

/// Bit patterns of [`Palette::Special`]: quiet and signalling NaN of either sign, infinities, zeros,
/// the largest and smallest numbers, one.
pub const SPECIAL_BITS: [u32; 14] = [
    0x7fc0_0000,
    0xffc0_0000,
    0x7f80_0001,
    0xff80_0001,
    0x7fff_ffff,
    0xffff_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x0000_0000,
    0x8000_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x0000_0001,
    0x3f80_0000,
];

/// An array to be: its seed and its palette.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// Seed of the values.
    pub seed: u64,
    /// Kind of the values.
    pub palette: Palette,
}

impl Fill {
    /// Usual values of that seed.
    pub fn usual(seed: u64) -> Self {
        let palette = Palette::Usual;
        Fill { seed, palette }
    }

    /// `len` values.
    pub fn floats(&self, len: usize) -> Vec<f32> {
        let mut random = Random::new(self.seed);
        let special = |random: &mut Random| f32::from_bits(SPECIAL_BITS[random.below(14)]);
        let only = special(&mut random);
        (0..len)
            .map(|i| match self.palette {
                Palette::Usual => random.unit(),
                Palette::FewDistinct => [-1.0, 0.5, 2.0][random.below(3)],
                Palette::AllEqual => only,
                Palette::Zeros => [0.0, -0.0][random.below(2)],
                Palette::Close => f32::from_bits(0x3f80_0000 + random.below(1024) as u32),
                Palette::Ramp => (i % 1000) as f32,
                Palette::Denormal => f32::from_bits(random.bits() as u32 & 0x807f_ffff),
                Palette::Huge => random.unit() * f32::MAX,
                Palette::Strewn if random.below(4) == 0 => special(&mut random),
                Palette::Strewn => random.unit(),
                Palette::Special => special(&mut random),
                Palette::AnyBits => f32::from_bits(random.bits() as u32),
            })
            .collect()
    }

    /// phis and components for the centroids of a shape.
    pub fn augmentation(&self, shape: &Shape) -> Augmentation {
        let num_codebooks = shape.groups() * shape.num_subvectors;
        let phis = self.floats(num_codebooks).into_iter();
        // Among them the least and the largest that there may be.
        let phis = phis.map(|phi| match phi.abs() {
            phi if phi <= f32::MAX => phi,
            phi if phi.is_nan() => 0.0,
            _ => f32::MAX,
        });
        let components = Fill {
            seed: !self.seed,
            ..*self
        };
        Augmentation {
            phis: phis.collect(),
            components: components.floats(num_codebooks * shape.num_centroids()),
        }
    }

    /// `len` codes below 2^bits: any, or for palettes of few values the first and last only.
    pub fn codes(&self, len: usize, bits: u32) -> Vec<u8> {
        let mut random = Random::new(self.seed);
        let last = (1usize << bits) - 1;
        (0..len)
            .map(|_| match self.palette {
                Palette::FewDistinct => (random.below(2) * last) as u8,
                Palette::AllEqual => last as u8,
                _ => random.below(last + 1) as u8,
            })
            .collect()
    }
}

/// Arrays of the given palettes, the simplest first when shrunk.
pub fn fills(palettes: &'static [Palette]) -> impl Strategy<Value = Fill> {
    (any::<u64>(), select(palettes)).prop_map(|(seed, palette)| Fill { seed, palette })
}

/// Sizes on either side of a warp, a block, a block's keys, and anything small.
pub fn sizes() -> impl Strategy<Value = usize> {
    const AROUND_WARP: &[usize] = &[0, 1, 2, 31, 32, 33, 63, 64, 65];
    const AROUND_BLOCK: &[usize] = &[
        127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025,
    ];
    const AROUND_CHUNK: &[usize] = &[2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193];
    prop_oneof![
        4 => select(AROUND_WARP),
        4 => 0..70usize,
        3 => select(AROUND_BLOCK),
        2 => select(AROUND_CHUNK),
        1 => 0..9000usize,
    ]
}

/// (m, sub_dim, bits) with m * sub_dim <= 256.
pub fn formats() -> impl Strategy<Value = (usize, usize, u32)> {
    let m = prop_oneof![select(vec![1usize, 2, 4, 8, 16, 32, 64]), 1..=64usize,];
    let sub_dim = prop_oneof![
        select(vec![1usize, 2, 4, 7, 8, 9, 15, 16, 17, 32, 64, 128, 256]),
        1..=256usize,
    ];
    let any = (m, sub_dim, 1..=8u32);
    prop_oneof![
        15 => any.prop_map(|(m, sub_dim, bits)| (m, sub_dim.min(256 / m), bits)),
        // Has a kernel of its own.
        1 => Just((2, 64, 6)),
    ]
}

/// (batch, kv heads, query heads to a kv head, queries), each 1 to 3.
pub fn heads() -> impl Strategy<Value = [usize; 4]> {
    [1..=3usize, 1..=3usize, 1..=3usize, 1..=3usize]
}

/// How `sink` stands to `init_offset`.
#[derive(Debug, Clone, Copy)]
enum Sink {
    Same,
    Shorter(usize),
    Longer(usize),
}

/// How `heavy` stands to the number of candidates.
#[derive(Debug, Clone, Copy)]
enum Heavy {
    One,
    OneLess,
    All,
    OneMore,
    Share(usize),
    Fixed(usize),
}

/// The regions of a context, as drawn.
#[derive(Debug, Clone, Copy)]
struct Regions {
    init_offset: usize,
    sink: usize,
    window: usize,
    heavy: usize,
    seq_len: usize,
    short_context: bool,
    spare: usize,
}

fn regions() -> impl Strategy<Value = Regions> {
    let init_offset = prop_oneof![Just(0usize), select(vec![1usize, 4, 32, 128]), 0..300usize];
    let sink = prop_oneof![
        2 => Just(Sink::Same),
        1 => (1..200usize).prop_map(Sink::Shorter),
        2 => (1..300usize).prop_map(Sink::Longer),
    ];
    let window = prop_oneof![Just(0usize), select(vec![1usize, 32, 128]), 0..400usize];
    let heavy = prop_oneof![
        Just(Heavy::One),
        Just(Heavy::OneLess),
        Just(Heavy::All),
        Just(Heavy::OneMore),
        (1..100usize).prop_map(Heavy::Share),
        select(vec![0usize, 1, 32, 128, 256, 4095, 4096]).prop_map(Heavy::Fixed),
    ];
    // Shares of the whole length, to get contexts that end inside the sink or the window.
    let shortened = prop_oneof![4 => Just(None), 1 => (0..=100usize).prop_map(Some)];
    let short_context = proptest::bool::weighted(0.3);
    let spare = select(vec![0usize, 1, 31, 256]);
    (
        sizes(),
        init_offset,
        sink,
        window,
        heavy,
        shortened,
        short_context,
        spare,
    )
        .prop_map(
            |(candidates, init_offset, sink, window, heavy, shortened, short_context, spare)| {
                let sink = match sink {
                    Sink::Same => init_offset,
                    Sink::Shorter(by) => init_offset.saturating_sub(by),
                    Sink::Longer(by) => init_offset + by,
                };
                let heavy = match heavy {
                    Heavy::One => 1,
                    Heavy::OneLess => candidates.saturating_sub(1),
                    Heavy::All => candidates,
                    Heavy::OneMore => candidates + 1,
                    Heavy::Share(percent) => candidates * percent / 100,
                    Heavy::Fixed(heavy) => heavy,
                };
                let whole = init_offset.max(sink) + candidates + window;
                Regions {
                    init_offset,
                    sink,
                    window,
                    heavy: heavy.min(4096),
                    seq_len: shortened.map_or(whole, |percent| whole * percent / 100),
                    short_context,
                    spare,
                }
            },
        )
}

/// What only the stages one after the other do: (causal, aggregation, scores).
fn features() -> impl Strategy<Value = (bool, Aggregation, bool)> {
    const AGGREGATIONS: &[Aggregation] = &[
        Aggregation::PerHead,
        Aggregation::Softmax,
        Aggregation::Max,
        Aggregation::Mean,
    ];
    (any::<bool>(), select(AGGREGATIONS), any::<bool>())
}

/// A step's sizes, the length of each sequence, and a seed for whatever else a stage needs.
#[derive(Debug, Clone)]
pub struct StepCase {
    /// Sizes.
    pub shape: Shape,
    /// Lengths `[batch]`; they fit the capacity, the lists and the weights of the shape.
    pub seq_lens: Vec<usize>,
    /// A stage's floats.
    pub floats: Fill,
    /// A stage's codes.
    pub codes: Fill,
}

/// What a [`step_cases`] case may cost.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Rows times positions, or rows times table entries.
    pub elements: usize,
    /// Whether sub-vectors have more than one component.
    pub components: bool,
}

/// Steps with floats of any kind.
pub fn step_cases(budget: Budget) -> impl Strategy<Value = StepCase> {
    any_step_cases(budget).prop_map(|mut case| {
        (case.shape.causal, case.shape.aggregation) = Default::default();
        case
    })
}

/// Steps that may be causal, or aggregate the scores of several heads.
pub fn any_step_cases(budget: Budget) -> impl Strategy<Value = StepCase> {
    let shares = [0..=100usize, 0..=100usize];
    (
        heads(),
        formats(),
        regions(),
        shares,
        fills(EVERY),
        fills(EVERY),
        features(),
    )
        .prop_map(
            move |(heads, format, regions, shares, floats, codes, features)| {
                let mut shape = shape(heads, format, regions, budget);
                (shape.causal, shape.aggregation, _) = features;
                let mut seq_lens = vec![regions.seq_len];
                seq_lens.extend(shares.map(|percent| regions.seq_len * percent / 100));
                seq_lens.truncate(shape.batch);
                // The longest need not come first.
                seq_lens.reverse();
                StepCase {
                    shape,
                    seq_lens,
                    floats,
                    codes,
                }
            },
        )
}

/// The shape of those parts, with as many heads and queries as the budget allows.
fn shape(
    mut heads: [usize; 4],
    (m, sub_dim, bits): (usize, usize, u32),
    regions: Regions,
    budget: Budget,
) -> Shape {
    let sub_dim = if budget.components { sub_dim } else { 1 };
    let code_capacity = regions.seq_len.saturating_sub(regions.init_offset) + regions.spare;
    let capacity = regions.init_offset + code_capacity;
    let listed = regions.sink + regions.window + regions.heavy;
    let table = (m * sub_dim) << bits;
    let row = capacity.max(listed).max(table);
    while heads.iter().product::<usize>() * row > budget.elements {
        match heads.iter_mut().rev().find(|count| **count > 1) {
            Some(count) => *count -= 1,
            None => break,
        }
    }
    let [batch, num_kv_heads, group_size, num_queries] = heads;
    let mut shape = Shape {
        batch,
        num_kv_heads,
        group_size,
        num_queries,
        head_dim: m * sub_dim,
        num_subvectors: m,
        bits,
        init_offset: regions.init_offset,
        code_capacity,
        sink: regions.sink,
        window: regions.window,
        heavy: regions.heavy,
        short_context: regions.short_context,
        list_stride: 0,
        weights_stride: capacity,
        ..Shape::default()
    };
    shape.list_stride = listed.max(shape.short_context_limit().min(capacity)).max(1);
    shape
}

/// Keys to encode into an index at some length.
#[derive(Debug, Clone)]
pub struct EncodeCase {
    /// Sizes.
    pub shape: Shape,
    /// Lengths `[batch]` before; some keys may fall before `init_offset`, some past the capacity.
    pub seq_lens: Vec<usize>,
    /// Keys of each group.
    pub new_tokens: usize,
    /// The centroids.
    pub centroids: Fill,
    /// The keys.
    pub keys: Fill,
    /// Takes the keys from the centroids' values, for exact and tied distances.
    pub keys_are_centroids: bool,
    /// phis and components, with the metric `ip`.
    pub augmentation: Option<Fill>,
}

/// Encodings with centroids and keys of any kind.
pub fn encode_cases(work: usize) -> impl Strategy<Value = EncodeCase> {
    let new_tokens = prop_oneof![0..=3usize, select(vec![8usize, 31, 32, 33, 100])];
    let positions = (0..40usize, [0..80usize, 0..80usize, 0..80usize], 0..80usize);
    let fills = (
        fills(EVERY),
        fills(EVERY),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.3, fills(EVERY)),
    );
    (heads(), formats(), new_tokens, positions, fills).prop_map(
        move |(heads, format, new_tokens, positions, fills)| {
            let (m, sub_dim, bits) = format;
            let (init_offset, seq_lens, code_capacity) = positions;
            let (centroids, keys, keys_are_centroids, augmentation) = fills;
            let [batch, mut num_kv_heads, ..] = heads;
            let group_work = |tokens: usize| ((m * sub_dim) << bits) * tokens.max(1);
            while num_kv_heads > 1 && batch * num_kv_heads * group_work(new_tokens) > work {
                num_kv_heads -= 1;
            }
            let allowed = work / (batch * num_kv_heads * group_work(1));
            let regions = Regions {
                init_offset,
                sink: init_offset,
                window: 0,
                heavy: 0,
                seq_len: init_offset + code_capacity,
                short_context: false,
                spare: 0,
            };
            let budget = Budget {
                elements: usize::MAX,
                components: true,
            };
            EncodeCase {
                shape: shape(
                    [batch, num_kv_heads, heads[2], heads[3]],
                    format,
                    regions,
                    budget,
                ),
                seq_lens: seq_lens[..batch].to_vec(),
                new_tokens: new_tokens.min(allowed.max(1)),
                centroids,
                keys,
                keys_are_centroids,
                augmentation,
            }
        },
    )
}

/// A whole decode loop: an index, tokens appended in several calls, a step after each.
#[derive(Debug, Clone)]
pub struct LoopCase {
    /// Sizes, with room for every token.
    pub shape: Shape,
    /// Codes of each group before the first append.
    pub num_codes: usize,
    /// Tokens of each append.
    pub appends: Vec<usize>,
    /// Whether dense weights are asked for.
    pub weights: bool,
    /// The centroids, finite or not.
    pub centroids: Fill,
    /// phis and components, with the metric `ip`.
    pub augmentation: Option<Fill>,
    /// The first codes.
    pub codes: Fill,
    /// Appended keys, finite: the library refuses others.
    pub keys: Fill,
    /// Queries of all steps.
    pub queries: Fill,
}

/// Decode loops.
pub fn loop_cases(budget: Budget) -> impl Strategy<Value = LoopCase> {
    any_loop_cases(budget).prop_map(|mut case| {
        let shape = &mut case.shape;
        (shape.causal, shape.aggregation) = Default::default();
        shape.scores_stride = 0;
        case
    })
}

/// Decode loops, a third of them with what a fused step does not know.
pub fn any_loop_cases(budget: Budget) -> impl Strategy<Value = LoopCase> {
    let appends = prop::collection::vec(
        prop_oneof![4 => 1..=3usize, 1 => select(vec![0usize, 31, 32, 33])],
        0..4,
    );
    let fills = (
        prop_oneof![3 => fills(FINITE), 1 => fills(EVERY)],
        proptest::option::weighted(0.3, fills(FINITE)),
        fills(EVERY),
        fills(FINITE),
        fills(EVERY),
    );
    let features = prop_oneof![
        2 => Just((false, Aggregation::PerHead, false)),
        1 => features(),
    ];
    let config = (any::<bool>(), features);
    (heads(), formats(), regions(), appends, config, fills).prop_map(
        move |(heads, format, mut regions, appends, config, fills)| {
            let (weights, (causal, aggregation, scores)) = config;
            let (centroids, augmentation, codes, keys, queries) = fills;
            let num_codes = regions.seq_len.saturating_sub(regions.init_offset);
            regions.spare += appends.iter().sum::<usize>();
            regions.seq_len = regions.init_offset + num_codes;
            let mut shape = shape(heads, format, regions, budget);
            (shape.causal, shape.aggregation) = (causal, aggregation);
            shape.scores_stride = if scores { shape.heavy } else { 0 };
            LoopCase {
                shape,
                num_codes,
                appends,
                weights,
                centroids,
                augmentation,
                codes,
                keys,
                queries,
            }
        },
    )
}
