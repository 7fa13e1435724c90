//! Whose turn it is: a step's work goes from stream to stream in the order in which it was enqueued.

use std::sync::atomic::{AtomicPtr, Ordering};

use cust::sys;

use super::event::Event;
use crate::error::Result;

/// The stream that has a step's latest work.
#[derive(Debug)]
pub(super) struct Turn {
    stream: AtomicPtr<sys::CUstream_st>,
    event: Event,
}

impl Turn {
    /// Nothing is enqueued yet but on `stream`. The context is current.
    pub(super) fn of(stream: sys::CUstream) -> Result<Self> {
        Ok(Turn {
            stream: AtomicPtr::new(stream),
            event: Event::without_time()?,
        })
    }

    /// Where the step's next work goes.
    pub(super) fn stream(&self) -> sys::CUstream {
        self.stream.load(Ordering::Acquire)
    }

    /// Sends the step's next work to `stream` without an order between it and the work before, and says
    /// where that went: for a capture, which enqueues nothing.
    pub(super) fn lend_to(&self, stream: sys::CUstream) -> sys::CUstream {
        self.stream.swap(stream, Ordering::AcqRel)
    }

    /// Makes later work of `stream` wait for the step's work before it. Between calls with the same
    /// stream nothing is enqueued, and the host never waits.
    pub(super) fn pass_to(&self, stream: sys::CUstream) -> Result<()> {
        let latest = self.stream.load(Ordering::Acquire);
        if latest != stream {
            self.event.record(latest)?;
            self.event.hold(stream)?;
            self.stream.store(stream, Ordering::Release);
        }
        Ok(())
    }
}
