//! All that a program does with a GPU, from opening it to letting go of it, beside the CPU's answers.

mod caller;
mod format;
mod lists;
mod mirror;
mod ragged;
mod training;

use std::sync::OnceLock;
use std::thread;

use keysieve::cuda::{CudaStages, Device, StepGraph, Variant};
use keysieve::stages::Stages;
use keysieve::{
    Aggregation, Backend, Error, KeyIndex, Keys, Queries, SelectConfig, Selector, TrainConfig,
};
use keysieve_tests::device::step_shape;
use keysieve_tests::oracle::Shape;
use keysieve_tests::strategies::Fill;

use self::caller::Caller;
use self::format::{HEAD_DIM, PQ, head_dim, is_wide, pq};
use self::mirror::Mirror;
use self::ragged::Ragged;
pub(crate) use self::{
    caller::CallerOp, format::set_wide, lists::SCENARIOS, ragged::RaggedOp, training::prepare,
};

const KV_HEADS: usize = 2;
const QO_HEADS: usize = 2;
const TOKENS: usize = 40;
/// Room for the appends of [`WHOLE`].
const FEW: usize = 20;
/// More keys than are encoded by one launch.
const MANY: usize = 1100;

const SELECT: SelectConfig = SelectConfig {
    sink: 3,
    window: 4,
    heavy: 6,
    short_context: false,
    weights: true,
    causal: false,
    aggregation: Aggregation::PerHead,
    scores: false,
    indices: None,
};

/// A step of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Open,
    /// One stage alone, on buffers of its own.
    Stage,
    New,
    SetVariant,
    /// Another variant, or the same where there is no other.
    SetOther,
    Select,
    /// So many keys.
    Append(usize),
    Upload,
    Enqueue,
    Capture,
    /// Brings the variant of the graph's capture back.
    Replay,
    Read,
    Synchronize,
    ToIndex,
    Rewind,
    /// The drift of all keys with codes.
    Drift,
    /// On arrays and a stream of the caller's.
    Caller(CallerOp),
    /// In a batch whose sequences come and go.
    Ragged(RaggedOp),
    /// Training on the GPU.
    Train,
    /// Everything, on a thread that has no current context.
    Drop,
}

/// The GPU's objects, and the same on the CPU.
pub(crate) struct World {
    ordinal: u32,
    /// That of every step but those after [`Op::SetOther`].
    variant: Variant,
    spare: usize,
    device: Option<Device>,
    selector: Option<Selector>,
    graph: Option<StepGraph>,
    /// Whether the GPU has what an enqueue or a replay works on.
    uploaded: bool,
    caller: Option<Caller>,
    ragged: Ragged,
    mirror: Mirror,
}

/// A few keys and queries, others for other `seed`s.
fn keys_data(seed: usize, tokens: usize) -> Vec<f32> {
    Fill::usual(1000 + seed as u64).floats(KV_HEADS * tokens * head_dim())
}

fn queries_data(seed: usize) -> Vec<f32> {
    Fill::usual(2000 + seed as u64).floats(QO_HEADS * head_dim())
}

fn keys(data: &[f32], tokens: usize) -> Keys<'_> {
    Keys::new(data, [1, KV_HEADS, tokens, head_dim()]).expect("the shape is right")
}

fn queries(data: &[f32]) -> Queries<'_> {
    Queries::new(data, [1, QO_HEADS, 1, head_dim()]).expect("the shape is right")
}

/// The index that every scenario begins with, trained once, with room for `spare` more tokens.
pub(crate) fn index(spare: usize) -> KeyIndex {
    static INDEX: [OnceLock<KeyIndex>; 2] = [OnceLock::new(), OnceLock::new()];
    let train = || {
        let data = Fill::usual(1).floats(KV_HEADS * TOKENS * head_dim());
        let training = TrainConfig {
            iterations: 3,
            seed: 0,
            ..TrainConfig::default()
        };
        KeyIndex::train(&pq(), &training, keys(&data, TOKENS), TOKENS).expect("ordinary keys")
    };
    let mut index = INDEX[usize::from(is_wide())].get_or_init(train).clone();
    index.reserve(TOKENS + spare).expect("not too many");
    index
}

fn selector(backend: &Backend, spare: usize) -> Result<Selector, Error> {
    Selector::new(backend, index(spare), SELECT, QO_HEADS, 1)
}

/// The variants of the scenario's steps on GPU `ordinal`.
pub(crate) fn variants(ordinal: u32) -> Vec<Variant> {
    let backend = Backend::Cuda(Device::open(ordinal).expect("the GPU is simulated"));
    let mut selector = selector(&backend, FEW).expect("nothing fails yet");
    selector.cuda_step().expect("a step on a GPU").variants()
}

impl World {
    pub(crate) fn new(ordinal: u32, variant: Variant, ops: &[Op]) -> Self {
        let spare = if ops.contains(&Op::Append(MANY)) {
            MANY + FEW
        } else {
            FEW
        };
        let selector = selector(&Backend::Cpu, spare).expect("the CPU has no driver");
        let nothing = selector.selection().clone();
        World {
            ordinal,
            variant,
            spare,
            device: None,
            selector: None,
            graph: None,
            uploaded: false,
            caller: None,
            ragged: Ragged::new(),
            mirror: Mirror {
                selector,
                grown: 0,
                listed: nothing.clone(),
                seen: nothing,
                variant: None,
            },
        }
    }

    fn device(&self) -> &Device {
        self.device.as_ref().expect("opened before")
    }

    fn selector(&mut self) -> &mut Selector {
        self.selector.as_mut().expect("made before")
    }

    /// Does one step. Its answers are compared with the CPU's: the outer error says how they differ.
    pub(crate) fn run(&mut self, op: Op) -> Result<Result<(), Error>, String> {
        let on_gpu = self.run_on_gpu(op)?;
        if on_gpu.is_ok() {
            self.mirror_op(op);
            self.check_unchanged()?;
        }
        Ok(on_gpu)
    }

    fn run_on_gpu(&mut self, op: Op) -> Result<Result<(), Error>, String> {
        let grown = self.mirror.grown;
        let queries_data = queries_data(grown);
        let queries = queries(&queries_data);
        Ok(match op {
            Op::Open => Device::open(self.ordinal).map(|device| self.device = Some(device)),
            Op::Stage => return self.one_stage(),
            Op::New => selector(&Backend::Cuda(self.device().clone()), self.spare)
                .map(|selector| self.selector = Some(selector)),
            Op::SetVariant => {
                let variant = self.variant;
                self.step().set_variant(variant)
            }
            Op::SetOther => {
                let other = self.other_variant();
                self.step().set_variant(other)
            }
            Op::Select => {
                self.uploaded = false;
                self.selector().select(queries).map(drop)
            }
            Op::Append(tokens) => {
                self.uploaded = false;
                let data = keys_data(grown, tokens);
                self.selector().append(keys(&data, tokens))
            }
            Op::Upload => self.upload(),
            Op::Enqueue => self
                .upload_if_gone()
                .and_then(|()| self.step().enqueue(&mut |_| Ok(()))),
            Op::Capture => self.step().capture().map(|graph| self.graph = Some(graph)),
            Op::Replay => self.upload_if_gone().and_then(|()| {
                let graph = self.graph.as_ref().expect("captured before");
                let selector = self.selector.as_mut().expect("made before");
                selector.cuda_step().expect("a GPU's").replay(graph)
            }),
            Op::Read => self.selector().read().map(drop),
            Op::Synchronize => self.step().synchronize(),
            Op::ToIndex => match self.selector().to_index() {
                Ok(index) if Ok(&index) != self.mirror.selector.to_index().as_ref() => {
                    return Err("to_index: not the CPU's index".into());
                }
                brought => brought.map(drop),
            },
            Op::Rewind => self.step().rewind(1),
            Op::Drift => {
                let tokens = TOKENS - pq().init_offset;
                let data = keys_data(0, tokens);
                let keys = keys(&data, tokens);
                // The CPU's only where it is needed: how long a call takes is measured.
                let on_gpu = self.selector().drift(keys, pq().init_offset);
                if on_gpu.is_ok() && on_gpu != self.mirror.selector.drift(keys, pq().init_offset) {
                    return Err(format!("drift {on_gpu:?}, not the CPU's"));
                }
                on_gpu.map(drop)
            }
            Op::Caller(op) => return self.run_caller(op),
            Op::Ragged(op) => {
                let device = self.device.as_ref().expect("opened before");
                return self.ragged.run(device, op);
            }
            Op::Train => return training::run(self.device()),
            Op::Drop => {
                let all = (self.graph.take(), self.selector.take(), self.ragged.take());
                let all = (all, self.caller.take(), self.device.take());
                let dropped = thread::spawn(move || drop(all)).join();
                return dropped.map(Ok).map_err(|_| "a drop panics".into());
            }
        })
    }

    fn step(&mut self) -> &mut keysieve::cuda::step::Step {
        self.selector().cuda_step().expect("a step on a GPU")
    }

    fn other_variant(&mut self) -> Variant {
        let variants = self.step().variants();
        let other = variants.into_iter().find(|v| *v != self.variant);
        other.unwrap_or(self.variant)
    }

    fn upload(&mut self) -> Result<(), Error> {
        let grown = self.mirror.grown;
        let (keys_data, queries_data) = (keys_data(grown, 1), queries_data(grown + 1));
        self.uploaded = false;
        self.step()
            .upload(keys(&keys_data, 1), queries(&queries_data))?;
        self.uploaded = true;
        Ok(())
    }

    /// Uploads again what a select after a failed call took the place of.
    fn upload_if_gone(&mut self) -> Result<(), Error> {
        if self.uploaded { Ok(()) } else { self.upload() }
    }

    fn one_stage(&self) -> Result<Result<(), Error>, String> {
        let shape = step_shape(&Shape {
            batch: 1,
            num_kv_heads: KV_HEADS,
            group_size: QO_HEADS / KV_HEADS,
            num_queries: 1,
            head_dim: head_dim(),
            num_subvectors: pq().num_subvectors,
            bits: pq().bits,
            init_offset: 0,
            code_capacity: 0,
            sink: 0,
            window: 0,
            heavy: 0,
            short_context: false,
            list_stride: 1,
            weights_stride: 0,
            ..Shape::default()
        });
        let parts = index(0).to_parts();
        let queries = queries_data(0);
        let stages = match CudaStages::new(self.device()) {
            Ok(stages) => stages,
            Err(error) => return Ok(Err(error)),
        };
        let expected = keysieve::cpu::CpuStages.lut(&shape, &parts.centroids, &queries);
        match stages.lut(&shape, &parts.centroids, &queries) {
            Ok(tables) if Ok(&tables) != expected.as_ref() => Err("lut: not the CPU's".into()),
            done => Ok(done.map(drop)),
        }
    }

    /// The same on the CPU.
    fn mirror_op(&mut self, op: Op) {
        match op {
            Op::New => self.mirror.variant = Some(self.step().variant()),
            Op::SetVariant | Op::Replay => self.mirror.variant = Some(self.variant),
            Op::SetOther => self.mirror.variant = Some(self.other_variant()),
            _ => {}
        }
        let mirror = &mut self.mirror;
        match op {
            Op::Select => {
                mirror.select();
                mirror.seen = mirror.listed.clone();
            }
            Op::Append(tokens) => mirror.append(tokens),
            Op::Enqueue | Op::Replay => {
                mirror.append(1);
                mirror.select();
            }
            Op::Read => mirror.seen = mirror.listed.clone(),
            Op::Rewind => mirror.rewind(),
            Op::Caller(op) => mirror.caller_op(op),
            _ => {}
        }
    }

    /// Whether all that can be seen without a call of the driver is as the CPU has it.
    pub(crate) fn check_unchanged(&mut self) -> Result<(), String> {
        self.ragged.check_unchanged()?;
        let mirror = &self.mirror;
        let Some(selector) = &mut self.selector else {
            return Ok(());
        };
        let (got, expected) = (selector.seq_len(), mirror.selector.seq_len());
        if got != expected {
            return Err(format!("seq_len {got}, on the CPU {expected}"));
        }
        if *selector.selection() != mirror.seen {
            return Err("the selection is not that of the last select or read".into());
        }
        let variant = selector.cuda_step().map(|step| step.variant());
        if variant != mirror.variant {
            return Err(format!("{variant:?}, before {:?}", mirror.variant));
        }
        Ok(())
    }

    /// Whether a select now gives the CPU's lists.
    pub(crate) fn check_usable(&mut self) -> Result<(), String> {
        let mut selects = Vec::new();
        if self.selector.is_some() {
            selects.push(Op::Select);
        }
        if self.ragged.is_made() {
            selects.push(Op::Ragged(RaggedOp::Select));
        }
        for select in selects {
            let selected = self.run(select)?;
            selected.map_err(|error| format!("a select after the failed call: {error}"))?;
        }
        Ok(())
    }

    /// What shows at the end that codes are right, and the end.
    pub(crate) fn last(&self) -> Vec<Op> {
        let mut last = Vec::new();
        if self.selector.is_some() {
            last.push(Op::ToIndex);
        }
        if self.ragged.has_sequence() {
            last.push(Op::Ragged(RaggedOp::ToIndex));
        }
        last.push(Op::Drop);
        last
    }

    /// The ops that can be done now, all but the last.
    pub(crate) fn possible(&self) -> Vec<Op> {
        let mut ops = vec![Op::Open];
        if self.device.is_some() {
            ops.extend([Op::Stage, Op::New]);
        }
        if self.selector.is_some() {
            ops.extend([Op::Select, Op::Append(1), Op::Upload, Op::Enqueue, Op::Read]);
            ops.extend([Op::Capture, Op::Synchronize, Op::ToIndex, Op::Rewind]);
            ops.extend([Op::SetOther, Op::SetVariant, Op::Drift]);
        }
        if self.caller.as_ref().is_some_and(Caller::has_arrays) {
            ops.extend(caller::POSSIBLE.map(Op::Caller));
        }
        ops.extend(self.ragged.possible().into_iter().map(Op::Ragged));
        if self.graph.is_some() {
            ops.push(Op::Replay);
        }
        ops
    }

    /// The error of an op that is to fail.
    pub(crate) fn error_of(&mut self, op: Op) -> Result<Error, String> {
        match self.run_on_gpu(op)? {
            Err(error) => Ok(error),
            Ok(()) => Err(format!("{op:?} succeeds on a GPU that no longer answers")),
        }
    }
}
