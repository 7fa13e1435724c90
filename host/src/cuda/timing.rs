//! GPU time by events, and what the device's memory can do: for measurements.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cust::memory::{DeviceBuffer, mem_get_info};
use cust::sys;

use super::device::Device;
use super::error::OrDriverError;
use super::event::Event;
use super::graph::StepGraph;
use super::step::Step;
use super::stream::Stream;
use crate::error::Result;

/// The longest that a [`Gate`] holds the stream: work that does not fit behind it would wait for ever.
const GATE_LIMIT: Duration = Duration::from_millis(200);

/// A pair of events around work of a step's stream.
#[derive(Debug)]
pub struct Stopwatch {
    start: Event,
    end: Event,
    // Last: the events go before their context.
    device: Device,
}

impl Stopwatch {
    /// # Errors
    /// What the driver answers.
    pub fn new(device: &Device) -> Result<Self> {
        device.enter()?;
        Ok(Stopwatch {
            start: Event::new()?,
            end: Event::new()?,
            device: device.clone(),
        })
    }

    /// GPU time in microseconds from the first to the last thing that `work` enqueues, with the
    /// gaps in which the GPU waited for the host to enqueue the next.
    ///
    /// # Errors
    /// That of `work`, or what the driver answers.
    pub fn time(&self, step: &mut Step, work: impl FnOnce(&mut Step) -> Result<()>) -> Result<f64> {
        self.device.enter()?;
        self.start.record(step.stream().as_inner())?;
        work(step)?;
        self.end.record(step.stream().as_inner())?;
        self.end.synchronize()?;
        self.end.us_since(&self.start)
    }

    /// As [`Stopwatch::time`], but the GPU begins when everything is enqueued, so that the host's
    /// pace is not measured. `work` is a few dozen launches at most: more do not fit into the queue.
    ///
    /// # Errors
    /// As [`Stopwatch::time`].
    pub fn time_queued(
        &self,
        step: &mut Step,
        work: impl FnOnce(&mut Step) -> Result<()>,
    ) -> Result<f64> {
        self.device.enter()?;
        let gate = Gate::close(step.stream())?;
        self.start.record(step.stream().as_inner())?;
        work(step)?;
        self.end.record(step.stream().as_inner())?;
        drop(gate);
        self.end.synchronize()?;
        self.end.us_since(&self.start)
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}

/// GPU time of a replay in microseconds, where steps take turns on one stream, each replaying its graph
/// once a round: with more buffers than the L2 cache holds, no step finds its own there. A round comes
/// before those that are timed.
///
/// # Errors
/// As `Step::replay`.
///
/// # Panics
/// Without steps or rounds.
pub fn in_rotation(
    device: &Device,
    steps: &mut [(&mut Step, &StepGraph)],
    rounds: usize,
) -> Result<f64> {
    assert!(!steps.is_empty() && rounds > 0);
    device.enter()?;
    let stream = Stream::new()?;
    let (start, end) = (Event::new()?, Event::new()?);
    let work = steps_in_rotation(steps, rounds, stream.as_inner(), &start, &end);
    // Steps let go of the stream before it goes, also when one of them failed.
    for (step, _) in steps.iter() {
        step.synchronize()?;
    }
    work?;
    Ok(end.us_since(&start)? / (rounds * steps.len()) as f64)
}

fn steps_in_rotation(
    steps: &mut [(&mut Step, &StepGraph)],
    rounds: usize,
    stream: sys::CUstream,
    start: &Event,
    end: &Event,
) -> Result<()> {
    for round in 0..=rounds {
        if round == 1 {
            start.record(stream)?;
        }
        for (step, graph) in steps.iter_mut() {
            // SAFETY: the stream is the device's, and outlives the caller's wait for every step.
            unsafe { step.replay_on(graph, stream)? };
        }
    }
    end.record(stream)?;
    end.synchronize()
}

/// GPU time of one stage of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageSpan {
    /// The stage, as `Step::enqueue` calls it.
    pub name: &'static str,
    /// Microseconds from the clock's origin to the stage's begin.
    pub start_us: f64,
    /// Microseconds to the next stage's begin, or to the end of the step.
    pub duration_us: f64,
}

/// Events between the stages of a step.
#[derive(Debug)]
pub struct StageClock {
    origin: Event,
    origin_time: Instant,
    events: Vec<Event>,
    device: Device,
}

impl StageClock {
    /// The largest number of stages of a step, with room to spare.
    const MAX_STAGES: usize = 15;

    /// A clock whose origin is now, with the device idle.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn new(step: &Step) -> Result<Self> {
        let device = step.device().clone();
        step.synchronize()?;
        let origin = Event::new()?;
        let origin_time = Instant::now();
        origin.record(step.stream().as_inner())?;
        origin.synchronize()?;
        Ok(StageClock {
            origin,
            origin_time,
            events: (0..=Self::MAX_STAGES)
                .map(|_| Event::new())
                .collect::<Result<_>>()?,
            device,
        })
    }

    /// The host's time at the origin, to within the microseconds that a record takes.
    pub fn origin_time(&self) -> Instant {
        self.origin_time
    }

    /// Enqueues one step without a graph, waits, and gives the stages' times. All launches are
    /// enqueued before the first begins; each span still contains its event, about a microsecond.
    ///
    /// # Errors
    /// As `Step::enqueue`.
    ///
    /// # Panics
    /// If a step has more than `MAX_STAGES` stages.
    pub fn enqueue(&self, step: &mut Step) -> Result<Vec<StageSpan>> {
        self.device.enter()?;
        let gate = Gate::close(step.stream())?;
        let stream = step.stream().as_inner();
        let mut names = Vec::with_capacity(self.events.len());
        step.enqueue(&mut |name| {
            self.events[names.len()].record(stream)?;
            names.push(name);
            Ok(())
        })?;
        self.events[names.len()].record(stream)?;
        drop(gate);
        step.synchronize()?;

        let mut starts = Vec::with_capacity(names.len() + 1);
        for event in &self.events[..=names.len()] {
            starts.push(event.us_since(&self.origin)?);
        }
        let spans = names.iter().enumerate().map(|(i, &name)| StageSpan {
            name,
            start_us: starts[i],
            duration_us: starts[i + 1] - starts[i],
        });
        Ok(spans.collect())
    }
}

impl Drop for StageClock {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}

/// Holds a stream back until it is dropped, at most for [`GATE_LIMIT`].
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn close(stream: &Stream) -> Result<Self> {
        let open = Arc::new(AtomicBool::new(false));
        let gate = Gate(open.clone());
        let wait = move || {
            let begun = Instant::now();
            while !open.load(Ordering::Acquire) && begun.elapsed() < GATE_LIMIT {
                std::hint::spin_loop();
            }
        };
        stream.call(wait)?;
        Ok(gate)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Copies `bytes` within the device's memory `runs` times; the median rate of bytes read plus bytes
/// written, in bytes a second.
///
/// # Errors
/// What the driver answers, also when `2 * bytes` cannot be allocated.
pub fn copy_bandwidth(device: &Device, bytes: usize, runs: usize) -> Result<f64> {
    device.enter()?;
    let stream = Stream::new()?;
    // SAFETY: nothing reads the bytes for their values.
    let buffer = || unsafe { DeviceBuffer::<u8>::uninitialized(bytes) }.or_driver_error();
    let (from, to) = (buffer()?, buffer()?);
    let (start, end) = (Event::new()?, Event::new()?);
    let mut rates = Vec::with_capacity(runs);
    // One more: the first copy touches the memory.
    for run in 0..=runs {
        start.record(stream.as_inner())?;
        // SAFETY: both buffers have so many bytes, and live until the end is waited for.
        unsafe {
            sys::cuMemcpyDtoDAsync_v2(
                to.as_device_ptr().as_raw(),
                from.as_device_ptr().as_raw(),
                bytes,
                stream.as_inner(),
            )
        }
        .or_driver_error()?;
        end.record(stream.as_inner())?;
        end.synchronize()?;
        if run > 0 {
            rates.push(2.0 * bytes as f64 / (end.us_since(&start)? * 1e-6));
        }
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

/// Free memory of the device, in bytes.
///
/// # Errors
/// What the driver answers.
pub fn free_memory(device: &Device) -> Result<usize> {
    device.enter()?;
    let (free, _total) = mem_get_info().or_driver_error()?;
    Ok(free)
}
