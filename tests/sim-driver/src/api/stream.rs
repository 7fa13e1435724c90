//! Streams and events.

use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::time::Duration;

use super::{Handle, driver_functions, put};
use crate::code::{
    INVALID_HANDLE, INVALID_VALUE, NOT_READY, STREAM_CAPTURE_INVALIDATED,
    STREAM_CAPTURE_UNSUPPORTED,
};
use crate::context::{Event, State, new_handle};
use crate::machine;
use crate::work::{Op, Stream, Ticket, Until};

driver_functions! {
    fn cuStreamCreate(stream: *mut Handle, flags: c_uint) {
        // SAFETY: the caller's condition.
        unsafe { create(stream, flags, 0) }?
    }

    fn cuStreamCreateWithPriority(stream: *mut Handle, flags: c_uint, priority: c_int) {
        // SAFETY: the caller's condition.
        unsafe { create(stream, flags, priority) }?
    }

    /// Does first what waits in the stream.
    fn cuStreamDestroy_v2(stream: Handle) {
        machine::freeing(|state| {
            let handle = stream as usize;
            if handle <= 2 {
                return Err(INVALID_HANDLE);
            }
            state.stream(handle)?;
            let done = state.run(&Until::Stream(handle));
            let stream = state.streams.remove(&handle);
            if let Some(capture) = stream.and_then(|stream| stream.capture)
                && let Some(capture) = state.captures.get_mut(&capture)
            {
                capture.broken = true;
            }
            done
        })?
    }

    fn cuStreamGetFlags(stream: Handle, flags: *mut c_uint) {
        let found = machine::on_current(|state| Ok(state.stream(stream as usize)?.flags))?;
        // SAFETY: the caller's condition.
        unsafe { put(flags, found) }?
    }

    fn cuStreamGetPriority(stream: Handle, priority: *mut c_int) {
        let found = machine::on_current(|state| Ok(state.stream(stream as usize)?.priority))?;
        // SAFETY: the caller's condition.
        unsafe { put(priority, found) }?
    }

    fn cuStreamQuery(stream: Handle) {
        machine::on_current(|state| {
            state.not_of_a_capture(stream as usize)?;
            if state.stream(stream as usize)?.is_idle() {
                return Ok(());
            }
            // A program that asks until the answer is yes must get it.
            state.run(&Until::Stream(stream as usize))?;
            Err(NOT_READY)
        })?
    }

    fn cuStreamSynchronize(stream: Handle) {
        machine::on_current(|state| {
            let stream = stream as usize;
            state.not_of_a_capture(stream)?;
            if stream <= 2 {
                state.run(&Until::Blocking)?;
            }
            state.run(&Until::Stream(stream))
        })?
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) {
        machine::on_current(|state| {
            let stream = stream as usize;
            let event = state.event(event as usize)?;
            let (ticket, capture) = (event.ticket.clone(), event.capture);
            if let Some(capture) = capture {
                // The stream joins the capture.
                match state.stream(stream)?.capture.replace(capture) {
                    Some(other) if other != capture => return Err(STREAM_CAPTURE_INVALIDATED),
                    _ => return Ok(()),
                }
            }
            match ticket {
                Some(ticket) => state.enqueue(stream, Op::Wait(ticket)),
                None => Ok(()),
            }
        })?
    }

    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        if event.is_null() {
            return Err(INVALID_VALUE);
        }
        let handle = machine::on_current(|state| {
            let handle = new_handle();
            state.events.insert(handle, Event::default());
            Ok(handle)
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(event, handle as Handle) }?
    }

    fn cuEventDestroy_v2(event: Handle) {
        machine::freeing(|state| {
            let event = state.events.remove(&(event as usize));
            event.map(|_| ()).ok_or(INVALID_HANDLE)
        })?
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        machine::on_current(|state| {
            let capture = state.stream(stream as usize)?.capture;
            let ticket = Arc::new(Ticket::new());
            let recorded = state.event(event as usize)?;
            recorded.capture = capture;
            if capture.is_some() {
                // It orders the capture's streams, which are kept in order anyway.
                recorded.ticket = None;
                return Ok(());
            }
            recorded.ticket = Some(ticket.clone());
            state.enqueue(stream as usize, Op::Record(ticket))
        })?
    }

    fn cuEventQuery(event: Handle) {
        machine::on_current(|state| {
            let Some(ticket) = state.recorded(event)? else { return Ok(()) };
            if ticket.get().is_some() {
                return Ok(());
            }
            state.run(&Until::Ticket(ticket))?;
            Err(NOT_READY)
        })?
    }

    fn cuEventSynchronize(event: Handle) {
        machine::on_current(|state| match state.recorded(event)? {
            Some(ticket) => state.run(&Until::Ticket(ticket)),
            None => Ok(()),
        })?
    }

    /// Times are those of the simulation.
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) {
        let elapsed = machine::on_current(|state| {
            let mut time = |event| {
                let ticket = state.recorded(event)?.ok_or(INVALID_HANDLE)?;
                ticket.get().copied().ok_or(NOT_READY)
            };
            let (start, end) = (time(start)?, time(end)?);
            Ok(end.saturating_duration_since(start))
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(milliseconds, elapsed.max(Duration::from_nanos(500)).as_secs_f32() * 1e3) }?
    }
}

/// # Safety
/// `stream` is null or valid.
unsafe fn create(stream: *mut Handle, flags: c_uint, priority: c_int) -> crate::code::Answer {
    if stream.is_null() || flags > 1 {
        return Err(INVALID_VALUE);
    }
    let handle = machine::on_current(|state| {
        let handle = new_handle();
        let priority = priority.clamp(-5, 0);
        state.streams.insert(handle, Stream::new(flags, priority));
        Ok(handle)
    })?;
    // SAFETY: the caller's condition.
    unsafe { put(stream, handle as Handle) }
}

impl State {
    /// Fails for a stream that captures, and breaks the capture.
    fn not_of_a_capture(&mut self, stream: usize) -> crate::code::Answer {
        let Some(capture) = self.stream(stream)?.capture else {
            return Ok(());
        };
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.broken = true;
        }
        Err(STREAM_CAPTURE_UNSUPPORTED)
    }

    fn recorded(&mut self, event: Handle) -> crate::code::Answer<Option<Arc<Ticket>>> {
        let event = self.event(event as usize)?;
        if event.capture.is_some() {
            return Err(STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(event.ticket.clone())
    }
}
