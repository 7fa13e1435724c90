//! A ragged batch: its slots on the GPU, beside the same on the CPU.

use keysieve::cuda::Device;
use keysieve::{
    Backend, Error, IndexConfig, Keys, Paging, Queries, RaggedConfig, RaggedSelector, SelectConfig,
    SequenceConfig,
};
use keysieve_tests::strategies::Fill;

use super::{FEW, HEAD_DIM, KV_HEADS, Op, PQ, QO_HEADS, SELECT, TOKENS, index};

const BATCH: usize = 2;
const SLOT: usize = 1;

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

pub(super) struct Ragged {
    on_gpu: Option<RaggedSelector>,
    on_cpu: RaggedSelector,
    /// How many ops have succeeded: which keys and queries come next.
    done: u64,
}

impl Ragged {
    pub(super) fn new() -> Self {
        Ragged {
            on_gpu: None,
            on_cpu: RaggedSelector::new(&Backend::Cpu, &CONFIG).expect("the CPU has no driver"),
            done: 0,
        }
    }

    pub(super) fn take(&mut self) -> Option<RaggedSelector> {
        self.on_gpu.take()
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
        if op == RaggedOp::ToIndex {
            return match on_gpu.to_index(SLOT) {
                Ok(index) if Ok(&index) != self.on_cpu.to_index(SLOT).as_ref() => {
                    Err("to_index: not the CPU's index".into())
                }
                brought => Ok(brought.map(drop)),
            };
        }
        let result = call(on_gpu, op, done);
        if result.is_ok() {
            call(&mut self.on_cpu, op, done).expect("the CPU has no driver");
            self.done += 1;
        }
        Ok(result)
    }

    /// Whether all that can be seen without a call of the driver is as the CPU has it.
    pub(super) fn check_unchanged(&self) -> Result<(), String> {
        let Some(on_gpu) = &self.on_gpu else {
            return Ok(());
        };
        if !on_gpu.seq_lens().eq(self.on_cpu.seq_lens()) {
            return Err("ragged: seq_lens are not the CPU's".into());
        }
        if on_gpu.selection() != self.on_cpu.selection() {
            return Err("ragged: the selection is not that of the last select or step".into());
        }
        Ok(())
    }
}

fn call(selector: &mut RaggedSelector, op: RaggedOp, done: u64) -> Result<(), Error> {
    let fill = |seed, heads| Fill::usual(seed + done).floats(BATCH * heads * HEAD_DIM);
    let (keys, queries) = (fill(3000, KV_HEADS), fill(4000, QO_HEADS));
    let keys = Keys::new(&keys, [BATCH, KV_HEADS, 1, HEAD_DIM])?;
    let queries = Queries::new(&queries, [BATCH, QO_HEADS, 1, HEAD_DIM])?;
    let mut appends = [false; BATCH];
    appends[SLOT] = true;
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
        RaggedOp::Step => selector.step(keys, &appends, queries).map(drop),
        RaggedOp::Append => selector.append(keys, &appends),
        RaggedOp::Select => selector.select(queries).map(drop),
        RaggedOp::Truncate => selector.truncate(SLOT, TOKENS),
        RaggedOp::Remove => selector.remove(SLOT),
        RaggedOp::New | RaggedOp::ToIndex => unreachable!("done by the caller"),
    }
}
