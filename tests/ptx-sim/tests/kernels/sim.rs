//! The stages of a step as launches of simulated kernels: buffers, grids and shared memory as the
//! CUDA backend has them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use bytemuck::Pod;
use gpu_kernels::aggregate::{Aggregate, CHUNK, LANES, SOFTMAX, SoftmaxMax, SoftmaxSum};
use gpu_kernels::codes::{Advance, Codes};
use gpu_kernels::collectives::SUM_WORDS;
use gpu_kernels::index_list::IndexList;
use gpu_kernels::kernel::{In, KernelArgs, Out};
use gpu_kernels::lut::Lut;
use gpu_kernels::scores::{self, Scores};
use gpu_kernels::select::{
    KEYS_PER_WORD, Plan, SelectSurvivors, SelectSurvivorsClustered, SelectSurvivorsFiltered,
};
use gpu_kernels::step::{SequenceParams, StepShape};
use gpu_kernels::top_k::{self, TopKCount, TopKDigit, TopKGather, TopKHistogram};
use gpu_kernels::weights::{self, Weights};
use keysieve::Augmentation;
use keysieve::stages::Stages;
use ptx_sim::{Arg, Init, Launch, LaunchError, Memory, Module};

/// The committed files.
pub(crate) const FILES: [&str; 2] = ["sm80", "sm90"];

static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static LANE_INSTRUCTIONS: AtomicU64 = AtomicU64::new(0);

/// Launches of all tests so far.
pub(crate) fn num_launches() -> u64 {
    LAUNCHES.load(Ordering::Relaxed)
}

/// Lane-instructions of all tests so far.
pub(crate) fn lane_instructions() -> u64 {
    LANE_INSTRUCTIONS.load(Ordering::Relaxed)
}

/// The text of a file.
pub(crate) fn text(file: &str) -> &'static str {
    match file {
        "sm80" => include_str!("../../../../host/ptx/keysieve_sm80.ptx"),
        _ => include_str!("../../../../host/ptx/keysieve_sm90.ptx"),
    }
}

fn module(file: &str) -> &'static Module {
    static SM80: OnceLock<Module> = OnceLock::new();
    static SM90: OnceLock<Module> = OnceLock::new();
    let cell = if file == "sm80" { &SM80 } else { &SM90 };
    cell.get_or_init(|| Module::parse(text(file)).unwrap_or_else(|error| panic!("{file}: {error}")))
}

/// The stages, on one file and under one schedule.
pub(crate) struct SimStages<'a> {
    module: &'a Module,
    seed: u64,
    memory: Mutex<Memory>,
}

/// What a fused step reads.
pub(crate) struct StepInputs<'a> {
    pub(crate) centroids: &'a [f32],
    pub(crate) queries: &'a [f32],
    /// One a group, or none.
    pub(crate) new_keys: &'a [f32],
    pub(crate) seq_lens: &'a [u32],
    pub(crate) codes: &'a [u8],
}

/// What a fused step writes.
pub(crate) struct StepOutputs {
    pub(crate) seq_lens: Vec<i32>,
    pub(crate) codes: Vec<u8>,
    pub(crate) positions: Vec<i32>,
    pub(crate) lengths: Vec<i32>,
    pub(crate) weights: Vec<f32>,
    pub(crate) listed: Vec<u16>,
    pub(crate) tickets: Vec<u32>,
}

/// The weights of which `listed` tells, `[rows, weights_stride]`; those of the first `init_offset` positions
/// are any.
pub(crate) fn weights_of(shape: &StepShape, listed: &[u16]) -> Vec<f32> {
    let words = (shape.code_capacity / KEYS_PER_WORD) as usize;
    let stride = shape.weights_stride as usize;
    let row = |row: &[u16]| {
        let mut weights = vec![7.0; shape.init_offset.min(shape.weights_stride) as usize];
        let bits = row
            .iter()
            .flat_map(|word| (0..16).map(move |i| word >> i & 1));
        weights.extend(bits.map(f32::from));
        weights.truncate(stride);
        weights
    };
    listed.chunks(words).flat_map(row).collect()
}

type Result<T> = std::result::Result<T, LaunchError>;

impl SimStages<'static> {
    /// No buffers yet.
    pub(crate) fn new(file: &str, seed: u64) -> Self {
        SimStages::of(module(file), seed)
    }
}

impl<'a> SimStages<'a> {
    /// The stages of another module.
    pub(crate) fn of(module: &'a Module, seed: u64) -> Self {
        SimStages {
            module,
            seed,
            memory: Mutex::default(),
        }
    }

    fn upload<T: Pod>(&self, data: &[T]) -> u64 {
        let bytes = bytemuck::cast_slice(data);
        self.memory.lock().unwrap().alloc_copy(bytes)
    }

    /// Every row's copy of its sequence's length.
    fn upload_lens(&self, shape: &StepShape, seq_lens: &[u32]) -> u64 {
        let rows = shape.rows_per_batch() as usize;
        let lens = seq_lens
            .iter()
            .flat_map(|&len| std::iter::repeat_n(len, rows));
        self.upload(&lens.collect::<Vec<u32>>())
    }

    /// Sequences of those lengths with the shape's regions.
    fn upload_sequences(&self, shape: &StepShape, seq_lens: &[u32]) -> u64 {
        let words = seq_lens
            .iter()
            .flat_map(|&len| shape.sequence(len).to_words());
        self.upload(&words.collect::<Vec<u32>>())
    }

    /// Nothing may read it before a kernel wrote it.
    fn uninit<T: Pod>(&self, len: usize) -> u64 {
        let bytes = len * size_of::<T>();
        self.memory.lock().unwrap().alloc(bytes, Init::Uninit)
    }

    fn download<T: Pod>(&self, address: u64) -> Vec<T> {
        let memory = self.memory.lock().unwrap();
        assert!(memory.is_written(address), "not every element was written");
        let bytes = memory.bytes(address).unwrap();
        bytes
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }

    fn launch<K: KernelArgs>(&self, grid: (usize, usize), words: u32, args: &K) -> Result<()> {
        self.launch_clusters(grid, 1, words, args)
    }

    fn launch_clusters<K: KernelArgs>(
        &self,
        grid: (usize, usize),
        cluster: u32,
        words: u32,
        args: &K,
    ) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let sizes = self.module.kernel(K::INFO.name).unwrap().param_sizes;
        args.with_pointers(|pointers| {
            assert_eq!(pointers.len(), sizes.len());
            let args: Vec<Arg<'_>> = pointers
                .iter()
                .zip(&sizes)
                .map(|(&pointer, &size)| {
                    // SAFETY: the pointer is to an argument of the type that the kernel's parameter
                    // has: the list and the entry point are one declaration. It outlives the call.
                    Arg::Bytes(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size) })
                })
                .collect();
            let launch = Launch {
                grid: [grid.0 as u32, grid.1 as u32, 1],
                block: [K::INFO.threads, 1, 1],
                cluster,
                shared_bytes: words * 4,
                args: &args,
                seed: self.seed,
                ..Launch::default()
            };
            let mut memory = self.memory.lock().unwrap();
            let stats = ptx_sim::launch(self.module, K::INFO.name, &launch, &mut memory)?;
            LAUNCHES.fetch_add(1, Ordering::Relaxed);
            LANE_INSTRUCTIONS.fetch_add(stats.lane_instructions, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Lengths `[rows]` after `new_tokens` more, and of as many sequences, which take at most `most`.
    pub(crate) fn advance(
        &self,
        lens: &[u32],
        new_tokens: u32,
        most: u32,
    ) -> Result<(Vec<i32>, Vec<u32>)> {
        let seq_lens = self.upload(lens);
        let words = lens.iter().flat_map(|&seq_len| {
            let sequence = SequenceParams {
                seq_len,
                new_tokens: most,
                ..SequenceParams::default()
            };
            sequence.to_words()
        });
        let sequences = self.upload(&words.collect::<Vec<u32>>());
        let args = Advance {
            seq_lens: Out::from_address(seq_lens),
            sequences: Out::from_address(sequences),
            new_tokens,
            rows: lens.len() as u32,
            batch: lens.len() as u32,
        };
        self.launch((lens.len().div_ceil(256), 1), 0, &args)?;
        let words: Vec<u32> = self.download(sequences);
        let sequences = words.chunks(SequenceParams::WORDS).map(|words| words[0]);
        Ok((self.download(seq_lens), sequences.collect()))
    }

    /// A whole step by `plan`, behind one that left the weights that `listed` tells of.
    pub(crate) fn select_survivors(
        &self,
        shape: &StepShape,
        plan: Plan,
        inputs: &StepInputs<'_>,
        listed: &[u16],
    ) -> Result<StepOutputs> {
        let rows = inputs.seq_lens.len() * shape.rows_per_batch() as usize;
        let half_norms: Vec<f32> = inputs
            .centroids
            .chunks_exact(shape.sub_dim() as usize)
            .map(gpu_kernels::codebook::half_norm)
            .collect();
        let seq_lens = self.upload_lens(shape, inputs.seq_lens);
        let codes = self.upload(inputs.codes);
        let positions = self.uninit::<i32>(rows * shape.list_stride as usize);
        let lengths = self.uninit::<i32>(rows);
        let listed_before = listed;
        let listed = self.upload(listed_before);
        let weights = self.upload(&weights_of(shape, listed_before));
        let exchange = rows * (plan.num_blocks * plan.exchange_capacity) as usize;
        let exchange = self.upload(&vec![u64::MAX; exchange]);
        let tickets = self.upload(&vec![0u32; rows * (1 + plan.num_blocks as usize)]);
        let blocks = rows * plan.num_blocks as usize;
        macro_rules! launch_kernel {
            ($Args:ident) => {{
                let args = $Args {
                    centroids: In::from_address(self.upload(inputs.centroids)),
                    half_norms: In::from_address(self.upload(&half_norms)),
                    new_keys: In::from_address(self.upload(inputs.new_keys)),
                    queries: In::from_address(self.upload(inputs.queries)),
                    seq_lens: Out::from_address(seq_lens),
                    codes: Out::from_address(codes),
                    exchange: Out::from_address(exchange),
                    tickets: Out::from_address(tickets),
                    positions: Out::from_address(positions),
                    lengths: Out::from_address(lengths),
                    listed: Out::from_address(listed),
                    weights: Out::from_address(weights),
                    new_tokens: u32::from(!inputs.new_keys.is_empty()),
                    plan,
                    shape: *shape,
                };
                let cluster = if plan.is_clustered() {
                    plan.num_blocks
                } else {
                    1
                };
                self.launch_clusters((blocks, 1), cluster, plan.shared_words(), &args)?;
            }};
        }
        if plan.is_clustered() {
            launch_kernel!(SelectSurvivorsClustered);
        } else if plan.has_filter() {
            launch_kernel!(SelectSurvivorsFiltered);
        } else {
            launch_kernel!(SelectSurvivors);
        }
        Ok(StepOutputs {
            seq_lens: self.download(seq_lens),
            codes: self.download(codes),
            positions: self.download(positions),
            lengths: self.download(lengths),
            weights: self.download(weights),
            listed: self.download(listed),
            tickets: self.download(tickets),
        })
    }

    /// [`Stages::scores`], with the violation as an error.
    pub(crate) fn run_scores(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        tables: &[f32],
        codes: &[u8],
    ) -> Result<Vec<f32>> {
        let rows = seq_lens.len() * shape.rows_per_batch() as usize;
        let scores = self.upload(&vec![0.0f32; rows * shape.code_capacity as usize]);
        let args = Scores {
            tables: In::from_address(self.upload(tables)),
            codes: In::from_address(self.upload(codes)),
            sequences: In::from_address(self.upload_sequences(shape, seq_lens)),
            page_table: In::from_address(0),
            scores: Out::from_address(scores),
            shape: *shape,
        };
        let blocks = shape.code_capacity.div_ceil(scores::KEYS_PER_BLOCK) as usize;
        self.launch((rows, blocks), shape.table_len(), &args)?;
        Ok(self.download(scores))
    }

    /// [`Stages::aggregate`], with the violation as an error.
    pub(crate) fn run_aggregate(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        scores: &[f32],
    ) -> Result<Vec<f32>> {
        let rows = seq_lens.len() * shape.rows_per_batch() as usize;
        let lists = seq_lens.len() * shape.of_lists().rows_per_batch() as usize;
        let chunks = shape.code_capacity.div_ceil(CHUNK) as usize;
        let aggregates = self.upload(&vec![0.0f32; lists * shape.code_capacity as usize]);
        let scores = In::from_address(self.upload(scores));
        let sequences = In::from_address(self.upload_sequences(shape, seq_lens));
        let maxima = self.uninit::<u32>(rows * chunks);
        let sums = self.uninit::<f32>(rows * chunks);
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let shape = *shape;
        if shape.aggregation == SOFTMAX {
            let args = SoftmaxMax {
                scores,
                sequences,
                maxima: Out::from_address(maxima),
                shape,
            };
            self.launch((rows, chunks), SUM_WORDS, &args)?;
            let args = SoftmaxSum {
                scores,
                sequences,
                maxima: In::from_address(maxima),
                sums: Out::from_address(sums),
                scale,
                shape,
            };
            self.launch((rows, chunks), SUM_WORDS + LANES as u32, &args)?;
        }
        let args = Aggregate {
            scores,
            sequences,
            maxima: In::from_address(maxima),
            sums: In::from_address(sums),
            aggregates: Out::from_address(aggregates),
            scale,
            shape,
        };
        let words = SUM_WORDS + LANES as u32 + 2 * (shape.num_qo_heads / shape.num_kv_heads);
        self.launch((lists, chunks), words, &args)?;
        Ok(self.download(aggregates))
    }

    /// [`Stages::weights`], with the violation as an error.
    pub(crate) fn run_weights(
        &self,
        shape: &StepShape,
        positions: &[i32],
        lengths: &[i32],
    ) -> Result<Vec<f32>> {
        let weights = self.uninit::<f32>(lengths.len() * shape.weights_stride as usize);
        if shape.weights_stride == 0 {
            return Ok(Vec::new());
        }
        // Any length: weights are written where a sequence is.
        let batch = lengths.len() / shape.rows_per_batch() as usize;
        let args = Weights {
            positions: In::from_address(self.upload(positions)),
            lengths: In::from_address(self.upload(lengths)),
            sequences: In::from_address(self.upload_sequences(shape, &vec![1; batch])),
            weights: Out::from_address(weights),
            shape: *shape,
        };
        let blocks = shape.weights_stride.div_ceil(weights::POSITIONS_PER_BLOCK);
        self.launch((lengths.len(), blocks as usize), 0, &args)?;
        Ok(self.download(weights))
    }

    /// [`Stages::top_k`], with the violation as an error.
    pub(crate) fn run_top_k(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        scores: &[f32],
    ) -> Result<Vec<i32>> {
        let rows = seq_lens.len() * shape.rows_per_batch() as usize;
        let blocks = shape.code_capacity.div_ceil(top_k::KEYS_PER_BLOCK) as usize;
        let by_block = (rows, blocks);
        let heavy_positions = self.upload(&vec![-1i32; rows * shape.heavy as usize]);
        if shape.heavy == 0 || shape.code_capacity == 0 {
            return Ok(self.download(heavy_positions));
        }
        let scores = In::from_address(self.upload(scores));
        let sequences = In::from_address(self.upload_sequences(shape, seq_lens));
        let histograms = self.upload(&vec![0u32; rows * top_k::NUM_BINS as usize]);
        let cuts = self.uninit::<u32>(rows * top_k::CUT_WORDS as usize);
        let counts = self.uninit::<u32>(rows * blocks);
        let shape = *shape;
        for digit in 0..top_k::NUM_DIGITS {
            let args = TopKHistogram {
                scores,
                sequences,
                cuts: In::from_address(cuts),
                histograms: Out::from_address(histograms),
                digit,
                shape,
            };
            self.launch(by_block, top_k::NUM_BINS, &args)?;
            let args = TopKDigit {
                sequences,
                histograms: Out::from_address(histograms),
                cuts: Out::from_address(cuts),
                digit,
                shape,
            };
            self.launch((rows, 1), SUM_WORDS + top_k::CUT_WORDS, &args)?;
        }
        let args = TopKCount {
            scores,
            sequences,
            cuts: In::from_address(cuts),
            counts: Out::from_address(counts),
            shape,
        };
        self.launch(by_block, SUM_WORDS, &args)?;
        let args = TopKGather {
            scores,
            sequences,
            cuts: In::from_address(cuts),
            counts: In::from_address(counts),
            heavy_positions: Out::from_address(heavy_positions),
            shape,
        };
        self.launch(by_block, SUM_WORDS, &args)?;
        Ok(self.download(heavy_positions))
    }
}

/// The trait's error has no violation; a test prints it and fails.
fn unwrap<T>(result: Result<T>) -> keysieve::Result<T> {
    Ok(result.unwrap_or_else(|error| panic!("{error}")))
}

impl Stages for SimStages<'_> {
    fn codes(
        &self,
        shape: &StepShape,
        centroids: &[f32],
        augmentation: Option<&Augmentation>,
        seq_lens: &[u32],
        new_keys: &[f32],
        codes: &[u8],
    ) -> keysieve::Result<Vec<u8>> {
        let groups = seq_lens.len() * shape.num_kv_heads as usize;
        let new_tokens = new_keys.len() / (groups * shape.head_dim as usize);
        let components = augmentation.map(|added| &added.components[..]);
        let half_norms: Vec<f32> = centroids
            .chunks_exact(shape.sub_dim() as usize)
            .enumerate()
            .map(|(i, centroid)| {
                let mut longer = centroid.to_vec();
                longer.extend(components.map(|components| components[i]));
                gpu_kernels::codebook::half_norm(&longer)
            })
            .collect();
        let codes = self.upload(codes);
        let args = Codes {
            centroids: In::from_address(self.upload(centroids)),
            half_norms: In::from_address(self.upload(&half_norms)),
            phis: In::from_address(self.upload(augmentation.map_or(&[], |added| &added.phis))),
            components: In::from_address(self.upload(components.unwrap_or_default())),
            is_augmented: augmentation.is_some().into(),
            new_keys: In::from_address(self.upload(new_keys)),
            sequences: In::from_address(self.upload_sequences(shape, seq_lens)),
            page_table: In::from_address(0),
            codes: Out::from_address(codes),
            first_token: 0,
            new_tokens: new_tokens as u32,
            shape: *shape,
        };
        let tasks = new_tokens * shape.num_subvectors as usize;
        unwrap(self.launch((groups, tasks.div_ceil(8)), 0, &args))?;
        Ok(self.download(codes))
    }

    fn lut(
        &self,
        shape: &StepShape,
        centroids: &[f32],
        queries: &[f32],
    ) -> keysieve::Result<Vec<f32>> {
        let rows = queries.len() / shape.head_dim as usize;
        let batch = rows / shape.rows_per_batch() as usize;
        let tables = self.uninit::<f32>(rows * shape.table_len() as usize);
        let args = Lut {
            centroids: In::from_address(self.upload(centroids)),
            queries: In::from_address(self.upload(queries)),
            sequences: In::from_address(self.upload_sequences(shape, &vec![1; batch])),
            tables: Out::from_address(tables),
            shape: *shape,
        };
        let grid = (rows, shape.table_len().div_ceil(256) as usize);
        unwrap(self.launch(grid, 0, &args))?;
        Ok(self.download(tables))
    }

    fn scores(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        tables: &[f32],
        codes: &[u8],
    ) -> keysieve::Result<Vec<f32>> {
        unwrap(self.run_scores(shape, seq_lens, tables, codes))
    }

    fn aggregate(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        scores: &[f32],
    ) -> keysieve::Result<Vec<f32>> {
        unwrap(self.run_aggregate(shape, seq_lens, scores))
    }

    fn top_k(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        scores: &[f32],
    ) -> keysieve::Result<Vec<i32>> {
        unwrap(self.run_top_k(shape, seq_lens, scores))
    }

    fn index_list(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        heavy_positions: &[i32],
    ) -> keysieve::Result<(Vec<i32>, Vec<i32>)> {
        let rows = seq_lens.len() * shape.rows_per_batch() as usize;
        let positions = self.uninit::<i32>(rows * shape.list_stride as usize);
        let lengths = self.uninit::<i32>(rows);
        let args = IndexList {
            heavy_positions: In::from_address(self.upload(heavy_positions)),
            sequences: In::from_address(self.upload_sequences(shape, seq_lens)),
            positions: Out::from_address(positions),
            lengths: Out::from_address(lengths),
            shape: *shape,
        };
        unwrap(self.launch((rows, 1), 0, &args))?;
        Ok((self.download(positions), self.download(lengths)))
    }

    fn weights(
        &self,
        shape: &StepShape,
        positions: &[i32],
        lengths: &[i32],
    ) -> keysieve::Result<Vec<f32>> {
        unwrap(self.run_weights(shape, positions, lengths))
    }
}
