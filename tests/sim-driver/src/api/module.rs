//! Modules and functions.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use super::{Handle, driver_functions, put};
use crate::code::{INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND};
use crate::context::{Function, State, new_handle};
use crate::kernels::Image;
use crate::machine;
use crate::work::Until;

/// Shared memory that a block may have unasked.
const SHARED_UNASKED: i32 = 48 << 10;

driver_functions! {
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        // SAFETY: the caller's condition.
        unsafe { load(module, image) }?
    }

    /// Ignores the options.
    fn cuModuleLoadDataEx(
        module: *mut Handle, image: *const c_void, _num_options: c_uint, _options: *mut c_uint,
        _option_values: *mut *mut c_void,
    ) {
        // SAFETY: the caller's condition.
        unsafe { load(module, image) }?
    }

    fn cuModuleUnload(module: Handle) {
        machine::freeing(|state| {
            let module = module as usize;
            state.modules.remove(&module).ok_or(INVALID_HANDLE)?;
            // What was enqueued runs before the module goes.
            let done = state.run(&Until::All);
            state.functions.retain(|_, function| function.module != module);
            done
        })?
    }

    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        if function.is_null() || name.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller passes a C string.
        let name = unsafe { CStr::from_ptr(name) };
        let name = name.to_str().map_err(|_| NOT_FOUND)?;
        let handle = machine::on_current(|state| state.get_function(module as usize, name))?;
        // SAFETY: the caller's condition.
        unsafe { put(function, handle as Handle) }?
    }

    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_uint, function: Handle) {
        let attribute = machine::on_current(|state| {
            let capability = state.chip.compute_capability as i32;
            let function = state.function(function as usize)?;
            Ok(match attribute {
                0 => function.info.max_threads.unwrap_or(1024) as c_int,
                1 => function.info.shared_bytes as c_int,
                2 => 0,
                3 => function.info.local_bytes as c_int,
                // Registers: nothing assigns them here; as many as 1024 threads can have.
                4 => 64,
                5 | 6 => capability,
                7 | 10 => 0,
                8 => function.max_dynamic_shared,
                9 => -1,
                11 => function.info.cluster.unwrap_or(0) as c_int,
                12 | 13 => c_int::from(function.info.cluster.is_some()),
                14 => c_int::from(function.large_clusters),
                _ => return Err(INVALID_VALUE),
            })
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(value, attribute) }?
    }

    fn cuFuncSetAttribute(function: Handle, attribute: c_uint, value: c_int) {
        machine::on_current(|state| {
            let most = state.chip.shared_per_block;
            let function = state.function(function as usize)?;
            match attribute {
                8 if value < 0 || value + function.info.shared_bytes as i32 > most => {
                    return Err(INVALID_VALUE);
                }
                8 => function.max_dynamic_shared = value,
                // The share of the cache that is shared memory: a hint.
                9 if (-1..=100).contains(&value) => {}
                14 => function.large_clusters = value != 0,
                _ => return Err(INVALID_VALUE),
            }
            Ok(())
        })?
    }

    /// A hint, ignored.
    fn cuFuncSetCacheConfig(function: Handle, _config: c_uint) {
        machine::on_current(|state| state.function(function as usize).map(|_| ()))?
    }
}

/// # Safety
/// `image` is a C string or null, `module` null or valid.
unsafe fn load(module: *mut Handle, image: *const c_void) -> crate::code::Answer {
    if image.is_null() || module.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's condition.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    let text = text.to_str().map_err(|_| INVALID_PTX)?;
    let handle = machine::on_current(|state| {
        state.not_while_capturing()?;
        let handle = new_handle();
        let image = Image::load(text, &state.chip)?;
        state.modules.insert(handle, image);
        Ok(handle)
    })?;
    // SAFETY: the caller's condition.
    unsafe { put(module, handle as Handle) }
}

impl State {
    /// The handle of a kernel, the same at every call.
    fn get_function(&mut self, module: usize, name: &str) -> crate::code::Answer<usize> {
        let image = self.modules.get(&module).ok_or(INVALID_HANDLE)?;
        let mut known = self.functions.iter();
        if let Some((&handle, _)) = known.find(|(_, f)| f.module == module && *f.name == *name) {
            return Ok(handle);
        }
        let info = image.kernel(name).ok_or(NOT_FOUND)?;
        let function = Function {
            module,
            image: image.clone(),
            name: name.into(),
            max_dynamic_shared: SHARED_UNASKED - info.shared_bytes as i32,
            info: Arc::new(info),
            large_clusters: false,
        };
        let handle = new_handle();
        self.functions.insert(handle, function);
        Ok(handle)
    }
}
