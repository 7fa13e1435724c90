//! Capture, and graphs.

use std::ffi::{c_char, c_uint, c_ulonglong};
use std::thread;

use super::{Handle, driver_functions, put};
use crate::code::{
    Answer, INVALID_HANDLE, INVALID_VALUE, STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_UNMATCHED,
    STREAM_CAPTURE_UNSUPPORTED, STREAM_CAPTURE_WRONG_THREAD,
};
use crate::context::{Capture, Graph, State, new_handle};
use crate::machine;
use crate::work::Op;

driver_functions! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) {
        machine::on_current(|state| {
            let handle = stream as usize;
            let id = new_handle();
            let stream = state.stream(handle)?;
            if handle <= 2 {
                return Err(STREAM_CAPTURE_UNSUPPORTED);
            }
            if mode > 2 || stream.capture.is_some() {
                return Err(INVALID_VALUE);
            }
            stream.capture = Some(id);
            let thread = thread::current().id();
            let capture = Capture { origin: handle, mode, thread, ops: Vec::new(), broken: false };
            state.captures.insert(id, capture);
            Ok(())
        })?
    }

    fn cuStreamEndCapture(stream: Handle, graph: *mut Handle) {
        let ended = machine::on_current(|state| state.end_capture(stream as usize));
        if !graph.is_null() {
            let handle = ended.unwrap_or(0) as Handle;
            // SAFETY: the caller's condition.
            unsafe { put(graph, handle) }?;
        }
        ended?;
    }

    fn cuStreamIsCapturing(stream: Handle, status: *mut c_uint) {
        let found = machine::on_current(|state| {
            let capture = state.stream(stream as usize)?.capture;
            let capture = capture.and_then(|id| state.captures.get(&id));
            Ok(capture.map_or(0, |capture| if capture.broken { 2 } else { 1 }))
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(status, found) }?
    }

    fn cuGraphCreate(graph: *mut Handle, flags: c_uint) {
        if graph.is_null() || flags != 0 {
            return Err(INVALID_VALUE);
        }
        let handle = machine::on_current(|state| Ok(state.add_graph(Vec::new())))?;
        // SAFETY: the caller's condition.
        unsafe { put(graph, handle as Handle) }?
    }

    fn cuGraphDestroy(graph: Handle) {
        machine::freeing(|state| {
            let graph = state.graphs.remove(&(graph as usize));
            graph.map(|_| ()).ok_or(INVALID_HANDLE)
        })?
    }

    fn cuGraphGetNodes(graph: Handle, nodes: *mut Handle, num_nodes: *mut usize) {
        if num_nodes.is_null() {
            return Err(INVALID_VALUE);
        }
        let found = machine::on_current(|state| Ok(state.graph(graph)?.nodes.clone()))?;
        // SAFETY: the caller made room for as many nodes as `num_nodes` says, or for none.
        unsafe {
            if nodes.is_null() {
                return put(num_nodes, found.len());
            }
            let room = num_nodes.read();
            for i in 0..room {
                nodes.add(i).write(found.get(i).copied().unwrap_or(0) as Handle);
            }
            put(num_nodes, found.len().min(room))?;
        }
    }

    fn cuGraphNodeGetType(node: Handle, kind: *mut c_uint) {
        let found = machine::on_current(|state| {
            let mut all = state.graphs.values();
            let found = all.find_map(|graph| {
                let at = graph.nodes.iter().position(|&n| n == node as usize)?;
                graph.ops.get(at)
            });
            Ok(match found.ok_or(INVALID_HANDLE)? {
                Op::Kernel(_) => 0,
                Op::Upload { .. } | Op::UploadFrom { .. } | Op::Download { .. } | Op::Copy { .. } => 1,
                Op::Fill { .. } => 2,
                Op::Wait(_) => 6,
                Op::Record(_) => 7,
                Op::Free(_) => 11,
            })
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(kind, found) }?
    }

    fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, _flags: c_ulonglong) {
        // SAFETY: the caller's condition.
        unsafe { instantiate(exec, graph) }?
    }

    fn cuGraphInstantiate_v2(
        exec: *mut Handle, graph: Handle, _error_node: *mut Handle, _log: *mut c_char,
        _log_bytes: usize,
    ) {
        // SAFETY: the caller's condition.
        unsafe { instantiate(exec, graph) }?
    }

    fn cuGraphExecDestroy(exec: Handle) {
        machine::freeing(|state| {
            let exec = state.graph_execs.remove(&(exec as usize));
            exec.map(|_| ()).ok_or(INVALID_HANDLE)
        })?
    }

    fn cuGraphUpload(exec: Handle, stream: Handle) {
        machine::on_current(|state| {
            state.stream(stream as usize)?;
            let exec = state.graph_execs.get(&(exec as usize));
            exec.map(|_| ()).ok_or(INVALID_HANDLE)
        })?
    }

    fn cuGraphLaunch(exec: Handle, stream: Handle) {
        machine::on_current(|state| {
            let exec = state.graph_execs.get(&(exec as usize));
            let ops = exec.ok_or(INVALID_HANDLE)?.clone();
            for op in ops.iter() {
                state.enqueue(stream as usize, op.clone())?;
            }
            Ok(())
        })?
    }
}

/// # Safety
/// `exec` is null or valid.
unsafe fn instantiate(exec: *mut Handle, graph: Handle) -> Answer {
    if exec.is_null() {
        return Err(INVALID_VALUE);
    }
    let handle = machine::on_current(|state| {
        let ops = state.graph(graph)?.ops.clone();
        let handle = new_handle();
        state.graph_execs.insert(handle, ops);
        Ok(handle)
    })?;
    // SAFETY: the caller's condition.
    unsafe { put(exec, handle as Handle) }
}

impl State {
    fn graph(&self, graph: Handle) -> Answer<&Graph> {
        self.graphs.get(&(graph as usize)).ok_or(INVALID_HANDLE)
    }

    fn add_graph(&mut self, ops: Vec<Op>) -> usize {
        let nodes = ops.iter().map(|_| new_handle()).collect();
        let handle = new_handle();
        let ops = ops.into();
        self.graphs.insert(handle, Graph { ops, nodes });
        handle
    }

    /// The graph that a stream captured.
    fn end_capture(&mut self, stream: usize) -> Answer<usize> {
        let id = self.stream(stream)?.capture.ok_or(INVALID_VALUE)?;
        let capture = self.captures.get(&id).ok_or(INVALID_HANDLE)?;
        if capture.origin != stream {
            return Err(STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != 2 && capture.thread != thread::current().id() {
            return Err(STREAM_CAPTURE_WRONG_THREAD);
        }
        let capture = self.captures.remove(&id).ok_or(INVALID_HANDLE)?;
        for stream in self.streams.values_mut() {
            stream.capture.take_if(|capture| *capture == id);
        }
        for event in self.events.values_mut() {
            event.capture.take_if(|capture| *capture == id);
        }
        if capture.broken {
            return Err(STREAM_CAPTURE_INVALIDATED);
        }
        Ok(self.add_graph(capture.ops))
    }
}
