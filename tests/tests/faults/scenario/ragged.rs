//! A ragged batch: its slots on the GPU, beside the same on the CPU; steps by calls of the library, and on a stream
//! of the caller's.

use cust::stream::{Stream, StreamFlags};
use cust::sys;
use keysieve::cuda::Device;
use keysieve::{
    Backend, Error, IndexConfig, Keys, Paging, Queries, RaggedConfig, RaggedSelector, SelectConfig,
    Selection, SequenceConfig,
};
use keysieve_tests::strategies::Fill;

use super::caller::{ok, read};
use super::{FEW, HEAD_DIM, KV_HEADS, Op, PQ, QO_HEADS, SELECT, TOKENS, index};

const BATCH: usize = 2;
const SLOT: usize = 1;
/// The sequence that appends.
const APPENDS: [bool; BATCH] = [false, true];

const CONFIG: RaggedConfig = RaggedConfig {
    batch: BATCH,
    num_kv_heads: KV_HEADS,
    num_qo_heads: QO_HEADS,
    num_queries: 1,
    head_dim: HEAD_DIM,
    capacity: TOKENS + FEW,
    pq: PQ,
    select: SelectConfig {
        indices: Some(IndexConfig {
            wide: true,
            slots: true,
        }),
        ..SELECT
    },
    paging: Some(Paging {
        page_size: 16,
        num_pages: 5,
        codes: true,
    }),
};

/// What is done with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RaggedOp {
    New,
    Insert,
    Configure,
    AddPages,
    /// Keys and queries in one, by the graph.
    Step,
    Append,
    Select,
    ToIndex,
    Truncate,
    Remove,
    /// A stream of the caller's: no call of the library's.
    Stream,
    /// Keys and queries for replays.
    Upload,
    /// A step on the caller's stream.
    Replay,
    /// Whether the device has the lists in the order of that stream: no call of the library's.
    Look,
    /// Brings the lists of the last replay.
    Read,
}

pub(super) const OPS: [Op; 13] = [
    Op::Open,
    Op::Ragged(RaggedOp::New),
    Op::Ragged(RaggedOp::Insert),
    Op::Ragged(RaggedOp::Select),
    Op::Ragged(RaggedOp::AddPages),
    Op::Ragged(RaggedOp::Step),
    Op::Ragged(RaggedOp::Configure),
    Op::Ragged(RaggedOp::Append),
    Op::Ragged(RaggedOp::Step),
    Op::Ragged(RaggedOp::Truncate),
    Op::Ragged(RaggedOp::ToIndex),
    Op::Ragged(RaggedOp::Remove),
    Op::Drop,
];

/// Replays on a stream of the caller's: two behind each other, an append and a select on the library's own stream
/// behind one, and after them one more on the caller's.
pub(super) const ON_STREAM: [Op; 17] = [
    Op::Open,
    Op::Ragged(RaggedOp::New),
    Op::Ragged(RaggedOp::Stream),
    Op::Ragged(RaggedOp::Insert),
    Op::Ragged(RaggedOp::AddPages),
    Op::Ragged(RaggedOp::Upload),
    Op::Ragged(RaggedOp::Replay),
    Op::Ragged(RaggedOp::Look),
    Op::Ragged(RaggedOp::Replay),
    Op::Ragged(RaggedOp::Read),
    Op::Ragged(RaggedOp::Replay),
    Op::Ragged(RaggedOp::Append),
    Op::Ragged(RaggedOp::Select),
    Op::Ragged(RaggedOp::Upload),
    Op::Ragged(RaggedOp::Replay),
    Op::Ragged(RaggedOp::ToIndex),
    Op::Drop,
];

/// What is done with the caller's stream, or behind it.
pub(super) fn is_target_on_stream(op: Op, _call: &str) -> bool {
    use RaggedOp::{Append, Read, Replay, Select, ToIndex, Upload};
    matches!(
        op,
        Op::Ragged(Upload | Replay | Read | Append | Select | ToIndex)
    )
}

pub(super) struct Ragged {
    on_gpu: Option<RaggedSelector>,
    on_cpu: RaggedSelector,
    /// Of the last select, step or read.
    seen: Selection,
    /// How many ops have succeeded: which keys and queries come next.
    done: u64,
    /// Which keys and queries are on the GPU, if replays may work on them.
    uploaded: Option<u64>,
    /// The caller's.
    stream: Option<Stream>,
}

impl Ragged {
    pub(super) fn new() -> Self {
        let on_cpu = RaggedSelector::new(&Backend::Cpu, &CONFIG).expect("the CPU has no driver");
        Ragged {
            on_gpu: None,
            seen: on_cpu.selection().clone(),
            on_cpu,
            done: 0,
            uploaded: None,
            stream: None,
        }
    }

    /// What lives on the GPU, the stream last.
    pub(super) fn take(&mut self) -> (Option<RaggedSelector>, Option<Stream>) {
        (self.on_gpu.take(), self.stream.take())
    }

    pub(super) fn is_made(&self) -> bool {
        self.on_gpu.is_some()
    }

    pub(super) fn has_sequence(&self) -> bool {
        self.is_made() && self.on_cpu.seq_lens().nth(SLOT) > Some(0)
    }

    /// What calls the driver, and can be called now.
    pub(super) fn possible(&self) -> Vec<RaggedOp> {
        let mut ops = Vec::new();
        if self.is_made() {
            ops.extend([RaggedOp::New, RaggedOp::Select]);
            match self.has_sequence() {
                true => ops.extend([RaggedOp::Step, RaggedOp::Append, RaggedOp::ToIndex]),
                false => ops.push(RaggedOp::Insert),
            }
            if self.stream.is_some() && self.has_sequence() {
                ops.extend([RaggedOp::Upload, RaggedOp::Replay, RaggedOp::Read]);
            }
        }
        ops
    }

    /// Does it on the GPU and, if that succeeds, on the CPU.
    pub(super) fn run(
        &mut self,
        device: &Device,
        op: RaggedOp,
    ) -> Result<Result<(), Error>, String> {
        let done = self.done;
        if op == RaggedOp::New {
            let made = RaggedSelector::new(&Backend::Cuda(device.clone()), &CONFIG);
            return Ok(made.map(|made| self.on_gpu = Some(made)));
        }
        let on_gpu = self.on_gpu.as_mut().expect("made before");
        match op {
            RaggedOp::ToIndex => {
                return match on_gpu.to_index(SLOT) {
                    Ok(index) if Ok(&index) != self.on_cpu.to_index(SLOT).as_ref() => {
                        Err("to_index: not the CPU's index".into())
                    }
                    brought => Ok(brought.map(drop)),
                };
            }
            RaggedOp::Stream => {
                let made = Stream::new(StreamFlags::NON_BLOCKING, None);
                self.stream = Some(made.map_err(|error| error.to_string())?);
                return Ok(Ok(()));
            }
            RaggedOp::Upload => return Ok(self.upload()),
            RaggedOp::Replay => return Ok(self.replay()),
            RaggedOp::Look => return self.look().map(Ok),
            RaggedOp::Read => {
                let brought = on_gpu.read().map(drop);
                if brought.is_ok() {
                    self.seen = self.on_cpu.selection().clone();
                }
                return Ok(brought);
            }
            // They take the place of what was uploaded.
            RaggedOp::Step | RaggedOp::Append | RaggedOp::Select => self.uploaded = None,
            _ => {}
        }
        let result = call(on_gpu, op, done);
        if result.is_ok() {
            call(&mut self.on_cpu, op, done).expect("the CPU has no driver");
            self.done += 1;
            if matches!(op, RaggedOp::Step | RaggedOp::Select) {
                self.seen = self.on_cpu.selection().clone();
            }
        }
        Ok(result)
    }

    fn upload(&mut self) -> Result<(), Error> {
        self.uploaded = None;
        let on_gpu = self.on_gpu.as_mut().expect("made before");
        let step = on_gpu.cuda_step().expect("a step on a GPU");
        let inputs = Inputs::new(self.done);
        step.upload(inputs.keys()?, &APPENDS, inputs.queries()?)?;
        self.uploaded = Some(self.done);
        self.done += 1;
        Ok(())
    }

    /// Uploads again what a select after a failed call took the place of.
    fn replay(&mut self) -> Result<(), Error> {
        if self.uploaded.is_none() {
            self.upload()?;
        }
        let on_gpu = self.on_gpu.as_mut().expect("made before");
        let step = on_gpu.cuda_step().expect("a step on a GPU");
        let stream = self.stream.as_ref().expect("made before").as_inner();
        // SAFETY: the stream is the device's, and outlives the step's last call; the inputs are uploaded, in the
        // order of the step's own stream, which the replay comes behind.
        unsafe { step.replay_on(&APPENDS, stream) }?;
        let inputs = Inputs::new(self.uploaded.expect("just now"));
        let stepped = self
            .on_cpu
            .step(inputs.keys()?, &APPENDS, inputs.queries()?);
        stepped.expect("the CPU has no driver");
        Ok(())
    }

    fn look(&mut self) -> Result<(), String> {
        let on_gpu = self.on_gpu.as_mut().expect("made before");
        let stream = self.stream.as_ref().expect("made before").as_inner();
        // SAFETY: the stream is alive.
        ok(unsafe { sys::cuStreamSynchronize(stream) })?;
        let buffers = on_gpu
            .cuda_step()
            .expect("a step on a GPU")
            .device_buffers();
        let is_there = |address, expected: &[i32]| {
            let words = read(address, expected.len());
            words.iter().eq(expected
                .iter()
                .map(|&p| p as u32)
                .collect::<Vec<_>>()
                .iter())
        };
        let expected = self.on_cpu.selection();
        if is_there(buffers.positions, expected.padded_positions())
            && is_there(buffers.lengths, expected.lengths())
        {
            return Ok(());
        }
        Err("the device does not have the lists in the order of the caller's stream".into())
    }

    /// Whether all that can be seen without a call of the driver is as the CPU has it.
    pub(super) fn check_unchanged(&self) -> Result<(), String> {
        let Some(on_gpu) = &self.on_gpu else {
            return Ok(());
        };
        if !on_gpu.seq_lens().eq(self.on_cpu.seq_lens()) {
            return Err("ragged: seq_lens are not the CPU's".into());
        }
        if *on_gpu.selection() != self.seen {
            return Err(
                "ragged: the selection is not that of the last select, step or read".into(),
            );
        }
        Ok(())
    }
}

/// A key and queries for each slot, others for other seeds.
struct Inputs {
    keys: Vec<f32>,
    queries: Vec<f32>,
}

impl Inputs {
    fn new(seed: u64) -> Self {
        let fill = |from, heads| Fill::usual(from + seed).floats(BATCH * heads * HEAD_DIM);
        Inputs {
            keys: fill(3000, KV_HEADS),
            queries: fill(4000, QO_HEADS),
        }
    }

    fn keys(&self) -> Result<Keys<'_>, Error> {
        Keys::new(&self.keys, [BATCH, KV_HEADS, 1, HEAD_DIM])
    }

    fn queries(&self) -> Result<Queries<'_>, Error> {
        Queries::new(&self.queries, [BATCH, QO_HEADS, 1, HEAD_DIM])
    }
}

fn call(selector: &mut RaggedSelector, op: RaggedOp, done: u64) -> Result<(), Error> {
    let inputs = Inputs::new(done);
    let (keys, queries) = (inputs.keys()?, inputs.queries()?);
    let regions = SequenceConfig::from(&SELECT);
    match op {
        RaggedOp::Insert => selector.insert(SLOT, &index(0), &regions, &[4, 1, 2]),
        RaggedOp::Configure => selector.configure(
            SLOT,
            &SequenceConfig {
                heavy: 4,
                ..regions
            },
        ),
        RaggedOp::AddPages => selector.add_pages(SLOT, &[0]),
        RaggedOp::Step => selector.step(keys, &APPENDS, queries).map(drop),
        RaggedOp::Append => selector.append(keys, &APPENDS),
        RaggedOp::Select => selector.select(queries).map(drop),
        RaggedOp::Truncate => selector.truncate(SLOT, TOKENS),
        RaggedOp::Remove => selector.remove(SLOT),
        RaggedOp::New
        | RaggedOp::ToIndex
        | RaggedOp::Stream
        | RaggedOp::Upload
        | RaggedOp::Replay
        | RaggedOp::Look
        | RaggedOp::Read => unreachable!("done by the caller"),
    }
}
