//! The shared arithmetic, function by function, against rules written again: by the tests' oracle where it
//! has one. Nothing but this crate is compiled, so that `cargo mutants` can ask it about every change.

use gpu_kernels::codebook::{
    Nearest, accumulate, affinities, augmented_component, beyond_mean, half_norm, phi, squared_norm,
};
use gpu_kernels::float::fma;
use gpu_kernels::lut::{LANES, partial_sums, table_entry};
use gpu_kernels::order::{order_key, rank, rank_of_key, rank_position, score_of_key};
use gpu_kernels::scores::score;
use gpu_kernels::step::StepShape;
use gpu_kernels::table::KERNELS;
use gpu_kernels::top_k::{self, Cut, NUM_BINS, NUM_DIGITS, block_range, digit_bins, digit_shift};
use gpu_kernels::tuple_counts;
use gpu_kernels::weights::entries_below;

#[path = "../../tests/src/oracle.rs"]
#[allow(dead_code, unreachable_pub, reason = "the module is another crate's")]
mod oracle;

use oracle::Shape;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Often a special value, now and then an earlier one.
    fn score(&mut self, earlier: &[f32]) -> f32 {
        const SPECIAL: [f32; 10] = [
            f32::NAN,
            -f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN,
            1e-45,
            -1e-45,
        ];
        match self.below(4) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            1 if !earlier.is_empty() => earlier[self.below(earlier.len())],
            2 => f32::from_bits(self.bits() as u32),
            _ => self.unit(),
        }
    }

    fn scores(&mut self, len: usize) -> Vec<f32> {
        let mut scores = Vec::new();
        for _ in 0..len {
            scores.push(self.score(&scores));
        }
        scores
    }

    fn units(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }
}

#[track_caller]
fn same(got: f32, expected: f32) {
    let equal = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
    assert!(equal, "got {got:?}, expected {expected:?}");
}

#[test]
fn fma_rounds_once() {
    // (1 + 2^-12)^2 - 1 keeps its last bit only when the product is not rounded.
    let x = 1.0 + 2f32.powi(-12);
    assert_eq!(fma(x, x, -1.0), 2f32.powi(-11) + 2f32.powi(-24));
    assert_eq!(fma(3.0, 5.0, 7.0), 22.0);
}

#[test]
fn ranks_follow_score_and_position() {
    let mut random = Random(1);
    for _ in 0..100_000 {
        let a = random.score(&[]);
        let b = random.score(&[a]);
        let [p, q] = [0, 1].map(|_| [0, 1, 77, u32::MAX][random.below(4)]);
        let expected = oracle::order((a, p as usize), (b, q as usize));
        assert_eq!(rank(b, q).cmp(&rank(a, p)), expected, "{a:?} {p} {b:?} {q}");
        assert_eq!(rank_position(rank(a, p)), p);
        assert_eq!(rank_of_key(order_key(a), p), rank(a, p));
        same(score_of_key(order_key(a)), if a == 0.0 { 0.0 } else { a });
    }
}

#[test]
fn affinities_and_the_nearest_are_the_oracles() {
    let mut random = Random(2);
    for sub_dim in (1..20).chain([64, 128, 256]) {
        for special in [false, true] {
            let mut values = |len| match special {
                true => random.scores(len),
                false => random.units(len),
            };
            let x = values(sub_dim);
            let centroids: Vec<Vec<f32>> = (0..5).map(|_| values(sub_dim)).collect();
            for c in &centroids {
                same(half_norm(c), oracle::half_norm(c));
            }
            let norms: Vec<f32> = centroids.iter().map(|c| half_norm(c)).collect();
            let got = affinities::<5>(
                sub_dim,
                |i| norms[i],
                |i| x[i],
                |i, lane| centroids[lane][i],
            );
            // The same, in two parts.
            let mut parts = [0.0; 5];
            for (part, norm) in parts.iter_mut().zip(&norms) {
                *part = -norm;
            }
            let first = sub_dim / 3;
            accumulate(&mut parts, first, |i| x[i], |i, lane| centroids[lane][i]);
            let rest = sub_dim - first;
            accumulate(
                &mut parts,
                rest,
                |i| x[first + i],
                |i, lane| centroids[lane][first + i],
            );
            let mut nearest = Nearest::NONE;
            for (lane, c) in centroids.iter().enumerate() {
                same(got[lane], oracle::affinity(&x, c));
                same(parts[lane], got[lane]);
                let one = Nearest::new(got[lane], lane as u32);
                assert_eq!(Nearest::from_bits(one.to_bits()), one);
                assert_eq!(one.index(), lane as u32);
                assert!(one > Nearest::NONE);
                nearest = nearest.better(one);
                assert_eq!(one.better(nearest), nearest);
            }
            let expected = oracle::nearest(&x, centroids.iter().map(Vec::as_slice));
            assert_eq!(nearest.index(), u32::from(expected));
        }
    }
}

#[test]
fn augmented_components_are_the_oracles() {
    assert_eq!(phi(2.5), 2.5);
    assert_eq!(phi(f32::INFINITY), f32::MAX);
    assert_eq!(augmented_component(25.0, 9.0), 4.0);
    // Longer than phi, not comparable, and nothing at all.
    for (phi, norm) in [
        (4.0, 4.5),
        (4.0, f32::INFINITY),
        (4.0, f32::NAN),
        (4.0, 4.0),
    ] {
        assert_eq!(augmented_component(phi, norm).to_bits(), 0, "{phi} {norm}");
    }
    let mut random = Random(8);
    for _ in 0..5000 {
        let x: Vec<f32> = (0..1 + random.below(20))
            .map(|_| random.score(&[]))
            .collect();
        let norm = squared_norm(x.len(), |i| x[i]);
        let phi = random.score(&[norm]).abs();
        let expected = oracle::augmented(&x, phi);
        same(augmented_component(phi, norm), expected[x.len()]);
    }
}

#[test]
fn table_entries_and_scores_are_the_oracles() {
    let mut random = Random(3);
    for sub_dim in (1..=40).chain([63, 64, 65, 255, 256]) {
        for special in [false, true] {
            let mut values = |len| match special {
                true => random.scores(len),
                false => random.units(len),
            };
            let (q, c) = (values(sub_dim), values(sub_dim));
            same(
                table_entry(sub_dim, |i| q[i], |i| c[i]),
                oracle::table_entry(&q, &c),
            );
            // Two threads share an entry, or eight do.
            let [low, high] =
                [0, 4].map(|first| partial_sums::<4>(first, sub_dim, |i| q[i], |i| c[i]));
            let all = partial_sums::<LANES>(0, sub_dim, |i| q[i], |i| c[i]);
            for lane in 0..LANES {
                let [one] = partial_sums::<1>(lane, sub_dim, |i| q[i], |i| c[i]);
                same(one, all[lane]);
                same([low, high][lane / 4][lane % 4], all[lane]);
                let own = (lane..sub_dim).step_by(LANES);
                same(all[lane], own.fold(0.0, |sum, i| q[i].mul_add(c[i], sum)));
            }
            let sum = q[1..].iter().fold(q[0], |sum, x| sum + x);
            same(score(sub_dim, |i| q[i]), sum);
        }
    }
}

fn step_shape(shape: &Shape) -> StepShape {
    StepShape {
        num_kv_heads: shape.num_kv_heads as u32,
        num_qo_heads: shape.num_qo_heads() as u32,
        num_queries: shape.num_queries as u32,
        head_dim: shape.head_dim as u32,
        num_subvectors: shape.num_subvectors as u32,
        bits: shape.bits,
        init_offset: shape.init_offset as u32,
        code_capacity: shape.code_capacity as u32,
        sink: shape.sink as u32,
        window: shape.window as u32,
        heavy: shape.heavy as u32,
        short_context_limit: shape.short_context_limit() as u32,
        list_stride: shape.list_stride as u32,
        weights_stride: shape.weights_stride as u32,
        causal: u32::from(shape.causal),
        aggregation: shape.aggregation as u32,
        scores_stride: shape.scores_stride as u32,
        ..StepShape::default()
    }
}

fn any_shape(random: &mut Random) -> (Shape, usize) {
    let mut small = |bound| random.below(bound);
    let (m, sub_dim) = (1 + small(5), 1 + small(5));
    let seq_len = small(60);
    let init_offset = small(30);
    let shape = Shape {
        batch: 1 + small(3),
        num_kv_heads: 1 + small(3),
        group_size: 1 + small(3),
        num_queries: 1 + small(3),
        head_dim: m * sub_dim,
        num_subvectors: m,
        bits: 1 + small(8) as u32,
        init_offset,
        code_capacity: seq_len.saturating_sub(init_offset) + small(5),
        sink: small(30),
        window: small(30),
        heavy: small(20),
        short_context: small(4) == 0,
        list_stride: 100,
        weights_stride: 0,
        ..Shape::default()
    };
    (shape, seq_len)
}

#[test]
fn a_shape_counts_as_the_oracle_does() {
    let mut random = Random(4);
    for _ in 0..5000 {
        let (shape, _) = any_shape(&mut random);
        let step = step_shape(&shape);
        assert_eq!(step.sub_dim() as usize, shape.sub_dim());
        assert_eq!(step.num_centroids() as usize, shape.num_centroids());
        let table_len = shape.num_subvectors * shape.num_centroids();
        assert_eq!(step.table_len() as usize, table_len);
        let rows = shape.rows();
        assert_eq!(step.rows_per_batch() as usize * shape.batch, rows.len());
        assert_eq!(step.rows_per_group() as usize * shape.groups(), rows.len());
        for (row, &(batch, group)) in rows.iter().enumerate() {
            assert_eq!(step.batch_of_row(row as u32) as usize, batch);
            assert_eq!(step.group_of_row(row as u32) as usize, group);
        }
    }
}

#[test]
fn regions_and_lists_are_the_oracles() {
    let mut random = Random(5);
    for _ in 0..20_000 {
        let (shape, seq_len) = any_shape(&mut random);
        let shape = Shape {
            batch: 1,
            num_kv_heads: 1,
            group_size: 1,
            ..shape
        };
        let regions = step_shape(&shape).regions(seq_len as u32);
        let candidates: Vec<usize> = (0..seq_len)
            .filter(|&p| shape.is_candidate(p, seq_len))
            .collect();
        assert_eq!(regions.num_candidates() as usize, candidates.len());
        let found = regions.candidates_start..regions.candidates_end;
        assert!(found.map(|p| p as usize).eq(candidates.iter().copied()));
        let heavy_k = regions.heavy_k(shape.heavy as u32);
        assert_eq!(heavy_k as usize, shape.heavy_k(seq_len));

        // Any of the candidates may be the heavy ones.
        let mut chosen = candidates;
        while chosen.len() > heavy_k as usize {
            chosen.remove(random.below(chosen.len()));
        }
        let mut heavy: Vec<i32> = chosen.iter().map(|&p| p as i32).collect();
        let list_len = regions.list_len(heavy_k);
        let list: Vec<i32> = (0..list_len)
            .map(|i| regions.list_entry(i, heavy_k, |i| heavy[i as usize]))
            .collect();
        heavy.resize(shape.heavy, -1);
        let rows = shape.num_queries;
        let (lists, lengths) = oracle::index_list(&shape, &[seq_len], &heavy.repeat(rows));
        assert_eq!(lengths[0] as u32, list_len);
        assert_eq!(lists[..list_len as usize], list);
    }
}

#[test]
fn three_digits_find_the_cut() {
    let shifts = [0, 1, 2].map(digit_shift);
    let bins = [0, 1, 2].map(digit_bins);
    assert_eq!((NUM_DIGITS, bins.iter().max()), (3, Some(&NUM_BINS)));
    // The digits are all of the key's bits, each once.
    assert_eq!(shifts[2], 0);
    assert_eq!(bins[2], 1 << shifts[1]);
    assert_eq!(bins[1], 1 << (shifts[0] - shifts[1]));
    assert_eq!(u64::from(bins[0]) << shifts[0], 1 << 32);

    let mut random = Random(6);
    for len in [1, 2, 3, 10, 100, 1000].repeat(20) {
        let keys: Vec<u32> = random.scores(len).into_iter().map(order_key).collect();
        let k = 1 + random.below(len) as u32;
        let mut cut = Cut { key: 0, ties: k };
        for digit in 0..NUM_DIGITS {
            let shift = digit_shift(digit);
            let mut histogram = vec![0; digit_bins(digit) as usize];
            for &key in keys.iter().filter(|&&key| cut.agrees_before(digit, key)) {
                histogram[(key >> shift & (digit_bins(digit) - 1)) as usize] += 1;
            }
            let mut bin = histogram.len() - 1;
            while histogram[bin] < cut.ties {
                cut.ties -= histogram[bin];
                bin -= 1;
            }
            cut.key |= (bin as u32) << shift;
        }
        let mut sorted = keys.clone();
        sorted.sort_by(|a, b| b.cmp(a));
        assert_eq!(cut.key, sorted[k as usize - 1]);
        let above = sorted.iter().filter(|&&key| key > cut.key).count() as u32;
        assert_eq!(cut.ties, k - above);
        let packed: u32 = keys.iter().map(|&key| cut.packed_count(key)).sum();
        let equal = sorted.iter().filter(|&&key| key == cut.key).count() as u32;
        assert_eq!((packed >> 16, packed & 0xffff), (above, equal));
    }
}

#[test]
fn blocks_share_out_the_candidates() {
    let gather = KERNELS.iter().find(|kernel| kernel.name == "top_k_gather");
    let threads = gather.expect("the kernel is in the table").threads;
    assert_eq!(top_k::KEYS_PER_BLOCK, threads * top_k::KEYS_PER_THREAD);
    let mut random = Random(7);
    for _ in 0..2000 {
        let (mut shape, mut seq_len) = any_shape(&mut random);
        let more = random.below(20_000);
        shape.code_capacity += more;
        seq_len += more;
        if random.below(4) == 0 {
            shape.code_capacity = random.below(shape.code_capacity + 1);
        }
        let step = step_shape(&shape);
        let start = shape.init_offset.max(shape.sink) - shape.init_offset;
        let end = (seq_len as i64 - shape.window as i64 - shape.init_offset as i64)
            .max(start as i64)
            .min(shape.code_capacity as i64);
        let candidates: Vec<i64> = (start as i64..end).collect();
        let mut shared: Vec<i64> = Vec::new();
        for block in 0..8 {
            let (first, end) = block_range(&step, &step.regions(seq_len as u32), block);
            assert!(end.saturating_sub(first) <= top_k::KEYS_PER_BLOCK);
            shared.extend(i64::from(first)..i64::from(end));
        }
        assert!(end < 7 * i64::from(top_k::KEYS_PER_BLOCK));
        assert_eq!(shared, candidates);
        let (first, last) = tuple_counts::candidates(&step, seq_len as u32);
        assert!((i64::from(first)..i64::from(last)).eq(candidates));
    }
}

#[test]
fn tuples_hold_their_codes() {
    let mut random = Random(8);
    for m in 1..=16u32 {
        for bits in 1..=8 {
            assert_eq!(tuple_counts::fits(m, bits), bits >= 3 && m * bits <= 12);
            if m * bits > tuple_counts::MAX_TUPLE_BITS {
                continue;
            }
            let codes: Vec<u32> = (0..m).map(|_| random.below(1 << bits) as u32).collect();
            let tuple = tuple_counts::tuple(m, bits, |j| codes[j as usize]);
            let digits = codes.iter().rev();
            assert_eq!(tuple, digits.fold(0, |sum, code| (sum << bits) + code));
            assert!(tuple < tuple_counts::NUM_TUPLES);
            for (j, &code) in codes.iter().enumerate() {
                assert_eq!(tuple_counts::code_of_tuple(tuple, j as u32, bits), code);
            }
        }
    }
}

#[test]
fn entries_below_a_bound_are_counted() {
    let mut random = Random(9);
    for len in 0..40usize {
        let mut list: Vec<i32> = (0..200).collect();
        while list.len() > len {
            list.remove(random.below(list.len()));
        }
        for bound in 0..=200 {
            let expected = list.iter().filter(|&&p| p < bound).count() as u32;
            let looked_at = std::cell::Cell::new(0);
            let got = entries_below(bound as u32, len as u32, |i| {
                looked_at.set(looked_at.get() + 1);
                list[i as usize]
            });
            assert_eq!(got, expected);
            // By halves: no more looks than the length has bits.
            assert!(looked_at.get() <= usize::BITS - len.leading_zeros());
        }
    }
}

#[test]
fn centroids_go_beyond_means_while_numbers_do() {
    assert_eq!(beyond_mean(3.0, 1.0, 0.5), 4.0);
    assert_eq!(beyond_mean(-3.0, 1.0, 0.25), -4.0);
    assert_eq!(beyond_mean(3.0, 3.0, 0.75), 3.0);
    assert_eq!(beyond_mean(3.0, 1.0, 0.0), 3.0);
    // Where the way or the place is no number.
    assert_eq!(beyond_mean(f32::MAX, f32::MIN, 0.5), f32::MAX);
    assert_eq!(beyond_mean(f32::MAX, f32::MIN, 0.0), f32::MAX);
    assert_eq!(beyond_mean(f32::MIN, 0.0, 0.5), f32::MIN);
}
