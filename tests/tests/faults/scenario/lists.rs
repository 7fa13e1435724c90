//! The scenarios.

use super::{MANY, Op, caller, ragged, training};

/// Ops, and which of their calls are to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) ops: &'static [Op],
    /// By op and function.
    pub(crate) is_target: fn(Op, &str) -> bool,
}

/// By their numbers in a job.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        ops: &WHOLE,
        is_target: |_, _| true,
    },
    // Of the others only what is new in them: all else has had its faults.
    Scenario {
        ops: &LONG_APPEND,
        is_target: |op, _| matches!(op, Op::Append(_)),
    },
    Scenario {
        ops: &caller::OPS,
        is_target: caller::is_target,
    },
    Scenario {
        ops: &ragged::OPS,
        is_target: |op, _| matches!(op, Op::Ragged(_)),
    },
    Scenario {
        ops: &training::OPS,
        is_target: |op, _| op == Op::Train,
    },
    Scenario {
        ops: &ragged::ON_STREAM,
        is_target: ragged::is_target_on_stream,
    },
];

/// Every kind of call, the steps in each way.
const WHOLE: [Op; 22] = [
    Op::Open,
    Op::Stage,
    Op::New,
    Op::SetVariant,
    Op::Append(3),
    Op::Select,
    Op::Upload,
    Op::Enqueue,
    Op::Read,
    Op::Capture,
    Op::Upload,
    Op::Replay,
    Op::Read,
    Op::ToIndex,
    Op::Rewind,
    Op::SetOther,
    Op::Upload,
    Op::Replay,
    Op::Synchronize,
    Op::Read,
    Op::Select,
    Op::Drop,
];

/// An append in several launches.
const LONG_APPEND: [Op; 6] = [
    Op::Open,
    Op::New,
    Op::SetVariant,
    Op::Append(MANY),
    Op::Select,
    Op::Drop,
];
