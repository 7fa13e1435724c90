//! The simulated libcuda of `tests/sim-driver`, opened in libcuda's place.

use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;

use libloading::Library;

/// Kinds of what a program makes and must free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// Times that a primary context was retained.
    Context = 0,
    /// Modules.
    Module = 1,
    /// Streams.
    Stream = 2,
    /// Events.
    Event = 3,
    /// Graphs.
    Graph = 4,
    /// Instantiated graphs.
    GraphExec = 5,
    /// Device allocations.
    Allocation = 6,
    /// Page-locked host allocations.
    HostAllocation = 7,
}

/// Every kind.
pub const KINDS: [Kind; 8] = [
    Kind::Context,
    Kind::Module,
    Kind::Stream,
    Kind::Event,
    Kind::Graph,
    Kind::GraphExec,
    Kind::Allocation,
    Kind::HostAllocation,
];

/// What a kernel of a loaded PTX file did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRuns {
    /// The file's target, as 10 x major + minor.
    pub target: u32,
    /// The kernel.
    pub name: String,
    /// Launches.
    pub launches: u64,
    /// Instructions, each counted once for every lane that executed it.
    pub lane_instructions: u64,
    /// Instructions of the kernel.
    pub num_instructions: usize,
    /// Lines of the file whose instructions were never executed.
    pub unexecuted: Vec<u32>,
}

/// The variable that names the library to open in libcuda's place.
pub const PATH_VARIABLE: &str = "KEYSIEVE_LIBCUDA";

/// The variable that lists the simulated GPUs; `90,80` without it.
pub(crate) const DEVICES_VARIABLE: &str = "KEYSIEVE_SIM_DEVICES";

/// The library's functions for tests. What they do is told in its module `control`.
#[derive(Debug)]
pub struct SimDriver {
    library: Library,
}

impl SimDriver {
    /// Where cargo has built the library: beside the running test.
    ///
    /// # Panics
    /// If it is not there.
    pub fn path() -> PathBuf {
        let test = env::current_exe().expect("the test has a path");
        let name = libloading::library_filename("keysieve_sim_driver");
        let path = test.with_file_name(name);
        assert!(path.exists(), "{} is missing", path.display());
        path
    }

    /// Makes it the driver of this process, and opens it.
    ///
    /// # Safety
    /// Nothing reads the environment meanwhile: to be called before there are other threads.
    pub unsafe fn install() -> Self {
        let path = SimDriver::path();
        // SAFETY: the caller's condition.
        unsafe { env::set_var(PATH_VARIABLE, &path) };
        if env::var_os(DEVICES_VARIABLE).is_none() {
            // SAFETY: as above.
            unsafe { env::set_var(DEVICES_VARIABLE, SimDriver::enough_devices()) };
        }
        SimDriver::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A list of simulated GPUs with one of each kind for every core.
    pub(crate) fn enough_devices() -> String {
        let pairs = std::thread::available_parallelism().map_or(1, usize::from);
        vec!["90,80"; pairs].join(",")
    }

    /// The compute capabilities of the simulated GPUs, as 10 x major + minor, by ordinal.
    pub fn devices() -> Vec<String> {
        let list = env::var(DEVICES_VARIABLE).unwrap_or_else(|_| "90,80".into());
        list.split(',').map(|name| name.trim().to_owned()).collect()
    }

    /// The library that is the driver of this process, if that is a simulated one.
    pub fn installed() -> Option<Self> {
        SimDriver::open(&PathBuf::from(env::var_os(PATH_VARIABLE)?)).ok()
    }

    fn open(path: &PathBuf) -> Result<Self, libloading::Error> {
        // SAFETY: the library has no initialisers.
        let library = unsafe { Library::new(path) }?;
        let driver = SimDriver { library };
        // Another driver has no such function.
        driver.find::<extern "C" fn() -> u64>(c"sim_driver_num_calls")?;
        Ok(driver)
    }

    fn find<F: Copy>(&self, name: &CStr) -> Result<F, libloading::Error> {
        // SAFETY: the types below are those of the library's `control`.
        unsafe { self.library.get::<F>(name) }.map(|function| *function)
    }

    fn function<F: Copy>(&self, name: &CStr) -> F {
        self.find(name).expect("the library is this workspace's")
    }

    /// Makes call number `n` from now, from 1, answer `code` once; with `stays`, every later one too.
    pub fn fail_call(&self, n: u64, code: u32, stays: bool) {
        let fail: extern "C" fn(u64, c_int, c_int) = self.function(c"sim_driver_fail_call");
        fail(n, code as c_int, c_int::from(stays));
    }

    /// Calls that a fault was answered to.
    pub fn num_faults(&self) -> u64 {
        self.count(c"sim_driver_num_faults")
    }

    /// Begins to count and write down calls.
    pub fn restart_calls(&self) {
        let restart: extern "C" fn() = self.function(c"sim_driver_restart_calls");
        restart();
    }

    /// Calls so far.
    pub fn num_calls(&self) -> u64 {
        self.count(c"sim_driver_num_calls")
    }

    /// The functions called since [`SimDriver::restart_calls`].
    pub fn call_names(&self) -> Vec<String> {
        let name: extern "C" fn(u64) -> *const c_char = self.function(c"sim_driver_call_name");
        let names = (0..).map(|i| name(i)).take_while(|name| !name.is_null());
        // SAFETY: names are C strings of the library, which is never closed before this is done.
        let texts = names.map(|name| unsafe { CStr::from_ptr(name) });
        texts
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// How many of that kind are alive.
    pub fn live(&self, kind: Kind) -> u64 {
        let live: extern "C" fn(c_int) -> u64 = self.function(c"sim_driver_live");
        live(kind as c_int)
    }

    /// How many of that kind died with their context, not freed before.
    pub fn orphans(&self, kind: Kind) -> u64 {
        let orphans: extern "C" fn(c_int) -> u64 = self.function(c"sim_driver_orphans");
        orphans(kind as c_int)
    }

    /// Chooses the schedules of a GPU from its next launch on.
    pub fn set_seed(&self, device: u32, seed: u64) {
        let set: extern "C" fn(c_int, u64) = self.function(c"sim_driver_set_seed");
        set(device as c_int, seed);
    }

    /// Whether a violation loses its context; otherwise it is answered once, with
    /// `CUDA_ERROR_UNKNOWN`.
    pub fn violations_stay(&self, stay: bool) {
        let set: extern "C" fn(c_int) = self.function(c"sim_driver_violations_stay");
        set(c_int::from(stay));
    }

    /// Violations so far.
    pub fn num_violations(&self) -> u64 {
        self.count(c"sim_driver_num_violations")
    }

    /// The reports of violations since the last call.
    pub fn take_report(&self) -> String {
        self.text(c"sim_driver_take_report")
    }

    /// What the kernels of all files that were loaded did so far.
    pub fn kernels(&self) -> Vec<KernelRuns> {
        let text = self.text(c"sim_driver_kernels");
        let kernels = text.lines().map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().unwrap_or_default();
            let number = |word: &str| word.parse().expect("a number");
            let (target, name) = (number(next()) as u32, next().to_owned());
            let [launches, lane_instructions, num_instructions] = [(); 3].map(|()| number(next()));
            number(next());
            KernelRuns {
                target,
                name,
                launches,
                lane_instructions,
                num_instructions: num_instructions as usize,
                unexecuted: words.map(|word| number(word) as u32).collect(),
            }
        });
        kernels.collect()
    }

    fn count(&self, name: &CStr) -> u64 {
        let count: extern "C" fn() -> u64 = self.function(name);
        count()
    }

    fn text(&self, name: &CStr) -> String {
        let take: unsafe extern "C" fn(*mut u8, usize) -> usize = self.function(name);
        let mut text = vec![0; 1 << 16];
        loop {
            // SAFETY: there is room for as many bytes as is said.
            let len = unsafe { take(text.as_mut_ptr(), text.len()) };
            if len <= text.len() {
                text.truncate(len);
                return String::from_utf8(text).expect("reports are text");
            }
            text.resize(len, 0);
        }
    }
}
