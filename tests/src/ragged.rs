//! Ragged batches on a device, against an oracle of each sequence alone and the CPU backend.

use keysieve::{
    Backend, IndexConfig, IndexParts, Indices, KeyIndex, Keys, Metric, Paging, PqConfig, Queries,
    RaggedConfig, RaggedSelector, SelectConfig, Selection, SequenceConfig,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;

use crate::device::{Device, check_same, fail};
use crate::oracle::{Context, Selected, Shape};
use crate::shapes::{library_augmentation, pq_config, select_config};
use crate::strategies::{Budget, Fill, LoopCase, Random, any_loop_cases};

/// A batch, and a seed from which its sequences come and go.
#[derive(Debug, Clone)]
pub struct RaggedCase {
    /// The largest sequence; of its appends only the number counts.
    pub largest: LoopCase,
    /// Pages: their size, whether codes are in pages.
    pub paging: Option<(usize, bool)>,
    /// Indices beside positions: of 64 bits, slots where there are pages.
    pub indices: Option<(bool, bool)>,
    /// Steps.
    pub steps: usize,
    /// What happens in each.
    pub seed: u64,
}

/// Batches of up to three sequences.
pub fn ragged_cases(budget: Budget) -> impl Strategy<Value = RaggedCase> {
    let sizes = select(vec![16usize, 32, 64, 128, 256]);
    let paging = proptest::option::weighted(0.7, (sizes, proptest::bool::weighted(0.8)));
    let indices = proptest::option::of((any::<bool>(), any::<bool>()));
    (
        any_loop_cases(budget),
        paging,
        indices,
        1..=4usize,
        any::<u64>().no_shrink(),
    )
        .prop_map(|(largest, paging, indices, steps, seed)| RaggedCase {
            largest,
            paging,
            indices,
            steps,
            seed,
        })
}

/// A sequence as the oracle has it, and the pages it was given.
struct Sequence {
    oracle: Context,
    pages: Vec<u32>,
}

/// Runs a case: every step in one call or in two, by turns.
///
/// # Errors
/// The first difference from an oracle or the CPU backend, and what the device answers.
pub fn run(device: &Device, case: &RaggedCase) -> TestCaseResult {
    let world = World::new(case);
    let mut random = Random::new(case.seed);
    let selector = |backend: &Backend| RaggedSelector::new(backend, &world.config).map_err(fail);
    let mut on_device = selector(&device.backend)?;
    let mut on_cpu = selector(&Backend::Cpu)?;
    let mut slots: Vec<Option<Sequence>> = (0..world.config.batch).map(|_| None).collect();
    let mut free: Vec<u32> = (0..world.num_pages as u32).collect();
    for i in (1..free.len()).rev() {
        free.swap(i, random.below(i + 1));
    }

    let per_key = world.config.num_kv_heads * world.config.head_dim;
    let num_rows = case.largest.shape.num_rows();
    for step in 0..case.steps {
        for (slot, held) in slots.iter_mut().enumerate() {
            let what = random.below(8);
            match held {
                None if what < 6 => {
                    let (sequence, index, regions) = world.sequence(&mut random, &mut free)?;
                    for selector in [&mut on_device, &mut on_cpu] {
                        let pages = &sequence.pages;
                        selector
                            .insert(slot, &index, &regions, pages)
                            .map_err(fail)?;
                    }
                    *held = Some(sequence);
                }
                Some(sequence) if what == 0 => {
                    free.append(&mut sequence.pages);
                    *held = None;
                    for selector in [&mut on_device, &mut on_cpu] {
                        selector.remove(slot).map_err(fail)?;
                    }
                }
                Some(Sequence { oracle, .. }) if what == 1 => {
                    let regions = world.regions(&mut random);
                    world.set_regions(&mut oracle.shape, &regions);
                    for selector in [&mut on_device, &mut on_cpu] {
                        selector.configure(slot, &regions).map_err(fail)?;
                    }
                }
                Some(Sequence { oracle, .. }) if what == 2 => {
                    let num_codes = oracle.seq_len - oracle.shape.init_offset;
                    oracle.seq_len -= random.below(num_codes + 1).min(3);
                    for selector in [&mut on_device, &mut on_cpu] {
                        selector.truncate(slot, oracle.seq_len).map_err(fail)?;
                    }
                }
                _ => (),
            }
        }

        // Who has room appends, most of the time; a page more where the next token needs one.
        let mut appends = vec![false; slots.len()];
        for (slot, sequence) in slots.iter_mut().enumerate() {
            let Some(sequence) = sequence else { continue };
            let seq_len = sequence.oracle.seq_len;
            if random.below(4) == 0 || seq_len == world.config.capacity {
                continue;
            }
            if let Some((page_size, _)) = case.paging
                && seq_len == sequence.pages.len() * page_size
            {
                let Some(page) = free.pop() else { continue };
                sequence.pages.push(page);
                for selector in [&mut on_device, &mut on_cpu] {
                    selector.add_pages(slot, &[page]).map_err(fail)?;
                }
            }
            appends[slot] = true;
        }

        let fill = |fill: Fill, len| {
            let seed = fill.seed ^ (step as u64 + 1);
            Fill { seed, ..fill }.floats(len)
        };
        let mut new_keys = fill(case.largest.keys, slots.len() * per_key);
        let step_queries = fill(case.largest.queries, num_rows * world.config.head_dim);
        for (slot, sequence) in slots.iter_mut().enumerate() {
            let of_slot = &mut new_keys[slot * per_key..][..per_key];
            match sequence {
                Some(sequence) if appends[slot] => sequence.oracle.append(of_slot),
                // Nobody looks at it.
                _ => of_slot.fill(f32::NAN),
            }
        }
        let shape = [
            slots.len(),
            world.config.num_kv_heads,
            1,
            world.config.head_dim,
        ];
        let keys = Keys::new(&new_keys, shape).map_err(fail)?;
        let shape = [
            slots.len(),
            world.config.num_qo_heads,
            world.config.num_queries,
            world.config.head_dim,
        ];
        let queries = Queries::new(&step_queries, shape).map_err(fail)?;
        let place = |error| fail(format!("step {step}: {error}"));
        for selector in [&mut on_device, &mut on_cpu] {
            if (step + case.seed as usize).is_multiple_of(2) {
                selector.step(keys, &appends, queries).map_err(fail)?;
            } else {
                selector.append(keys, &appends).map_err(fail)?;
                selector.select(queries).map_err(fail)?;
            }
            let lens = slots
                .iter()
                .map(|slot| slot.as_ref().map_or(0, |slot| slot.oracle.seq_len));
            prop_assert!(selector.seq_lens().eq(lens), "lengths after step {}", step);
        }
        let got = on_device.selection();
        prop_assert!(got == on_cpu.selection(), "step {}: not the CPU's", step);
        let rows = step_queries.chunks(step_queries.len() / slots.len());
        for (slot, (sequence, queries)) in slots.iter().zip(rows).enumerate() {
            match sequence {
                None => check_empty(got, slot),
                Some(sequence) => world.check(got, slot, sequence, queries),
            }
            .map_err(place)?;
        }
    }

    let m = world.config.pq.num_subvectors;
    for (slot, sequence) in slots.iter().enumerate() {
        let Some(Sequence { oracle, .. }) = sequence else {
            continue;
        };
        let index = on_device.to_index(slot).map_err(fail)?;
        prop_assert_eq!(index.seq_len(), oracle.seq_len);
        let used = index.num_codes() * m;
        for head in 0..world.config.num_kv_heads {
            let expected = &oracle.codes[head * oracle.shape.code_capacity * m..][..used];
            let got = &index.to_parts().codes[head * used..][..used];
            check_same("oracle", got, expected)?;
        }
    }
    Ok(())
}

/// What all sequences of a case share.
struct World<'a> {
    case: &'a RaggedCase,
    config: RaggedConfig,
    num_pages: usize,
}

impl<'a> World<'a> {
    fn new(case: &'a RaggedCase) -> Self {
        let LoopCase {
            shape,
            weights,
            augmentation,
            ..
        } = &case.largest;
        let capacity = (shape.init_offset + shape.code_capacity).max(1);
        let num_pages = case.paging.map_or(0, |(page_size, _)| {
            // Enough for all but the last sequence's growth.
            shape.batch * capacity.div_ceil(page_size)
        });
        World {
            case,
            num_pages,
            config: RaggedConfig {
                batch: shape.batch,
                num_kv_heads: shape.num_kv_heads,
                num_qo_heads: shape.num_qo_heads(),
                num_queries: shape.num_queries,
                head_dim: shape.head_dim,
                capacity,
                pq: PqConfig {
                    metric: match augmentation {
                        None => Metric::L2,
                        Some(_) => Metric::Ip,
                    },
                    ..pq_config(shape)
                },
                select: SelectConfig {
                    indices: case.indices.map(|(wide, slots)| IndexConfig {
                        wide,
                        slots: slots && case.paging.is_some(),
                    }),
                    ..select_config(shape, *weights)
                },
                paging: case.paging.map(|(page_size, codes)| Paging {
                    page_size,
                    num_pages,
                    codes,
                }),
            },
        }
    }

    fn regions(&self, random: &mut Random) -> SequenceConfig {
        let mut up_to = |most: usize| match random.below(3) {
            0 => most,
            _ => random.below(most + 1),
        };
        SequenceConfig {
            sink: up_to(self.config.select.sink),
            window: up_to(self.config.select.window),
            heavy: up_to(self.config.select.heavy),
        }
    }

    fn set_regions(&self, shape: &mut Shape, regions: &SequenceConfig) {
        (shape.sink, shape.window, shape.heavy) = (regions.sink, regions.window, regions.heavy);
        let limit = shape.short_context_limit().min(self.config.capacity);
        let listed = shape.sink + shape.window + shape.heavy;
        shape.list_stride = listed.max(limit).max(1);
        let scores = self.case.largest.shape.scores_stride > 0;
        shape.scores_stride = if scores { shape.heavy } else { 0 };
    }

    /// A new sequence, with an index for the library.
    fn sequence(
        &self,
        random: &mut Random,
        free: &mut Vec<u32>,
    ) -> Result<(Sequence, KeyIndex, SequenceConfig), TestCaseError> {
        let regions = self.regions(random);
        let most = &self.case.largest;
        let init_offset = match random.below(2) {
            0 => most.shape.init_offset,
            _ => random.below(most.shape.init_offset + 1),
        };
        let mut shape = Shape {
            batch: 1,
            init_offset,
            code_capacity: self.config.capacity - init_offset,
            weights_stride: self.config.capacity,
            ..most.shape
        };
        self.set_regions(&mut shape, &regions);
        let mut num_codes = match random.below(3) {
            0 => most.num_codes.min(shape.code_capacity),
            _ => random.below(most.num_codes.min(shape.code_capacity) + 1),
        };
        let mut pages = Vec::new();
        let mut init_offset = init_offset;
        if let Some((page_size, _)) = self.case.paging {
            let have = free.len() * page_size;
            // Pages may have run out.
            init_offset = init_offset.min(have);
            shape.init_offset = init_offset;
            shape.code_capacity = self.config.capacity - init_offset;
            self.set_regions(&mut shape, &regions);
            num_codes = num_codes.min(have - init_offset);
            let needed = (init_offset + num_codes).div_ceil(page_size);
            pages = free.split_off(free.len() - needed);
        }
        let seed = random.bits();
        let with = |fill: Fill| Fill {
            seed: fill.seed ^ seed,
            ..fill
        };
        let m = shape.num_subvectors;
        let codes = with(most.codes).codes(shape.groups() * num_codes * m, shape.bits);
        let mut padded = vec![0; shape.groups() * shape.code_capacity * m];
        for group in 0..shape.groups() {
            let used = num_codes * m;
            padded[group * shape.code_capacity * m..][..used]
                .copy_from_slice(&codes[group * used..][..used]);
        }
        let centroids = with(most.centroids).floats(shape.centroids_len());
        let augmentation = most
            .augmentation
            .map(|fill| with(fill).augmentation(&shape));
        let parts = IndexParts {
            config: PqConfig {
                init_offset,
                ..self.config.pq
            },
            batch: 1,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            num_codes,
            centroids: centroids.clone(),
            augmentation: augmentation.clone().map(library_augmentation),
            codes,
        };
        let spare = random.below(3);
        let index = KeyIndex::from_parts(parts, init_offset + num_codes + spare).map_err(fail)?;
        let oracle = Context {
            shape,
            centroids,
            augmentation,
            codes: padded,
            seq_len: init_offset + num_codes,
        };
        Ok((Sequence { oracle, pages }, index, regions))
    }

    /// Whether the lists of a slot are those of its oracle.
    fn check(
        &self,
        got: &Selection,
        slot: usize,
        sequence: &Sequence,
        queries: &[f32],
    ) -> TestCaseResult {
        let Sequence { oracle, pages } = sequence;
        let expected: Selected = oracle.select(queries);
        let seq_len = oracle.seq_len;
        prop_assert_eq!(got.seq_len_of(slot), seq_len);
        let shape = &oracle.shape.lists();
        let stride = got.list_stride();
        for row in 0..shape.num_rows() {
            let (head, query) = (row / shape.num_queries, row % shape.num_queries);
            let len = expected.lengths[row] as usize;
            let list = &expected.positions[row * shape.list_stride..][..len];
            check_same("oracle", got.positions(slot, head, query), list)?;
            let at = (slot * shape.num_rows() + row) * stride;
            let padding = &got.padded_positions()[at + len..at + stride];
            prop_assert!(padding.iter().all(|&p| p == -1));
            let index_of = |p: i32| match self.case.paging {
                Some((size, _)) if self.config.select.indices.is_some_and(|i| i.slots) => {
                    pages[p as usize / size] as usize * size + p as usize % size
                }
                _ => p as usize,
            };
            let indices: Option<Vec<i64>> = got.indices().map(|indices| match indices {
                Indices::I32(indices) => {
                    indices[at..][..stride].iter().map(|&i| i.into()).collect()
                }
                Indices::I64(indices) => indices[at..][..stride].to_vec(),
            });
            prop_assert_eq!(indices.is_some(), self.config.select.indices.is_some());
            if let Some(indices) = indices {
                let listed = list.iter().map(|&p| index_of(p) as i64);
                let padding = std::iter::repeat_n(-1, stride - len);
                prop_assert!(indices.into_iter().eq(listed.chain(padding)));
            }
            if let Some(dense) = got.weights(slot, head, query) {
                let row_weights = &expected.weights[row * shape.weights_stride..][..seq_len];
                check_same("oracle", dense, row_weights)?;
            }
            let heavy = got.heavy(slot, head, query);
            prop_assert_eq!(heavy.is_some(), self.case.largest.shape.scores_stride > 0);
            if let Some((positions, scores)) = heavy {
                let heavy_k = shape.heavy_k(shape.visible(row, seq_len));
                let at = row * shape.heavy..row * shape.heavy + heavy_k;
                check_same("oracle", positions, &expected.heavy[at.clone()])?;
                check_same("oracle", scores, &expected.heavy_scores[at])?;
            }
        }
        Ok(())
    }
}

/// Whether a slot has empty lists.
fn check_empty(got: &Selection, slot: usize) -> TestCaseResult {
    let [batch, heads, queries] = got.shape();
    prop_assert_eq!(got.seq_len_of(slot), 0);
    for (head, query) in (0..heads).flat_map(|head| (0..queries).map(move |query| (head, query))) {
        prop_assert!(got.positions(slot, head, query).is_empty());
    }
    let of_slot = got.padded_positions().len() / batch;
    let list = slot * of_slot..(slot + 1) * of_slot;
    prop_assert!(
        got.padded_positions()[list.clone()]
            .iter()
            .all(|&p| p == -1)
    );
    match got.indices() {
        None => (),
        Some(Indices::I32(indices)) => prop_assert!(indices[list].iter().all(|&i| i == -1)),
        Some(Indices::I64(indices)) => prop_assert!(indices[list].iter().all(|&i| i == -1)),
    }
    Ok(())
}
