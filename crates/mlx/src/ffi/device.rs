//! The library, the device that computes, evaluation, reading.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytemuck::Pod;
use libloading::Library;
use mlxr_compute::{Bytes, Error};

use super::api::{Api, RawArray, RawDevice, RawStream, RawVector};
use super::array::{Array, Dtype};
use super::image::Compiler;
use crate::NAME;
use crate::kernel::source::Platform;

/// The version of MLX that mlx-c 0.7.0 is written for.
pub const MLX_VERSION: &str = "0.32.2";
/// Memory that MLX keeps for later arrays, at most. A step's own arrays are a few hundred MiB at most.
const CACHE_BYTES: usize = 2 << 30;

/// Why MLX cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No library in any of the places.
    #[error(
        "MLX is not installed: no {library} in {places}; see docs/macos.md, or use --backend cpu",
        places = .places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Absent {
        /// Its file name.
        library: &'static str,
        /// The folders.
        places: Vec<PathBuf>,
    },
    /// It does not load.
    #[error("{path}: cannot be loaded: {message}")]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's word.
        message: String,
    },
    /// It lacks a function.
    #[error("{path}: has no function `{function}`: this program needs mlx-c 0.7.0 (MLX {MLX_VERSION})")]
    Function {
        /// The file.
        path: PathBuf,
        /// Its name.
        function: &'static str,
    },
    /// It is another version.
    #[error(
        "{path}: is built with MLX {found}, this program needs mlx-c 0.7.0 with MLX {MLX_VERSION}; install that \
         version, or point MLXR_MLX_DIR at it"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
    },
    /// It has no device.
    #[error("{path}: MLX finds no device: {message}")]
    Device {
        /// The file.
        path: PathBuf,
        /// MLX's word.
        message: String,
    },
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The processor: MLX's Linux build, for development.
    Cpu,
    /// The GPU.
    Gpu,
}

thread_local! {
    /// What MLX last complained of on this thread: its handler is one for the whole process, but is called by the
    /// thread whose call failed, before that call returns.
    static COMPLAINT: RefCell<Option<String>> = const { RefCell::new(None) };
}

unsafe extern "C" fn complain(message: *const c_char, _: *mut c_void) {
    // SAFETY: mlx-c passes a C string that lives until this returns.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    COMPLAINT.with_borrow_mut(|complaint| *complaint = Some(text));
}

/// MLX looks up a stream's encoder in a map of the whole process when it evaluates, without a lock, and adds to that map
/// when a stream is made: written by whoever makes or frees a stream, read by whoever evaluates.
static STREAMS: RwLock<()> = RwLock::new(());

fn evaluating() -> RwLockReadGuard<'static, ()> {
    STREAMS.read().unwrap_or_else(PoisonError::into_inner)
}

fn changing_streams() -> RwLockWriteGuard<'static, ()> {
    STREAMS.write().unwrap_or_else(PoisonError::into_inner)
}

/// A device of MLX with a stream of its own.
pub struct Device {
    pub(super) api: Arc<Api>,
    pub(super) stream: RawStream,
    kind: Kind,
    limit: usize,
    /// Of a CUDA device, major and minor.
    capability: [usize; 2],
    failed: RefCell<Option<String>>,
    /// Numbers that were asked for, by their bits: a GPU first reads an array from the host at the cost of a fault.
    scalars: RefCell<HashMap<u32, Array>>,
}

/// Most numbers that are kept.
const MAX_SCALARS: usize = 1024;

// SAFETY: the stream is made by `mlx_stream_new_thread_unsafe`, which any thread may use while no other does; `Device`
// is not `Sync`, so no two do.
unsafe impl Send for Device {}

impl Device {
    /// Opens the library and takes the GPU, or where there is none the processor.
    ///
    /// # Errors
    /// If it does not load, is another version, or has no device.
    pub fn open(path: &Path) -> Result<Device, OpenError> {
        let owned = || path.to_owned();
        // SAFETY: the library's initializers are MLX's; whoever names the folder vouches for the file in it.
        let library =
            unsafe { Library::new(path) }.map_err(|e| OpenError::Load { path: owned(), message: e.to_string() })?;
        // MLX has threads and destructors of its own: it stays for the life of the process.
        let library = ManuallyDrop::new(library);
        // SAFETY: the file is mlx-c, or lacks these names; its version is checked before any other call.
        let api = unsafe { Api::find(&library) }.map_err(|function| OpenError::Function { path: owned(), function })?;
        let found = version(&api);
        if found != MLX_VERSION {
            return Err(OpenError::Version { path: owned(), found });
        }
        let api = Arc::new(api);
        let _alone = changing_streams();
        // SAFETY: the signatures are those of mlx-c 0.7.0, and the pointers are valid for the calls.
        unsafe {
            (api.mlx_set_error_handler)(Some(complain), ptr::null_mut(), None);
            allow_many_graphs(&api);
            // First of all: this makes MLX's allocator and with it the pool of CUDA events. Streams own events, so a pool
            // that were made by the first stream would be destroyed before it when the process exits, and the stream
            // would then write into freed memory (mlx/backend/cuda/event.cu @ 0.32.2).
            let mut before = 0;
            (api.mlx_set_cache_limit)(&mut before, CACHE_BYTES);
            let mut n_gpu = 0;
            let gpu = (api.mlx_device_count)(&mut n_gpu, 1) == 0 && n_gpu > 0;
            let kind = if gpu { Kind::Gpu } else { Kind::Cpu };
            let device = (api.mlx_device_new_type)(c_int::from(gpu), 0);
            (api.mlx_set_default_device)(device);
            let stream = (api.mlx_stream_new_thread_unsafe)(device);
            let limit = memory_limit(&api, device);
            let capability =
                [c"compute_capability_major", c"compute_capability_minor"].map(|key| info(&api, device, key));
            (api.mlx_device_free)(device);
            if stream.0.is_null() {
                return Err(OpenError::Device { path: owned(), message: complaint() });
            }
            let (failed, scalars) = (RefCell::new(None), RefCell::default());
            let device = Device { api, stream, kind, limit, capability, failed, scalars };
            device.ends_without_destructors();
            Ok(device)
        }
    }

    /// On CUDA, that the process ends before MLX destroys what it has made until now.
    fn ends_without_destructors(&self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if self.platform() == Some(Platform::Cuda) {
            super::ending::without_destructors();
        }
    }

    /// What computes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What compiles kernels for this GPU, where MLX's platform is CUDA.
    ///
    /// # Errors
    /// If NVRTC or CUDA's headers are not to be found, in words.
    pub(crate) fn compiler(&self) -> Result<Compiler, String> {
        Compiler::new(self.capability)
    }

    /// Of what MLX's attention should see multiples of queries and keys. MLX's CUDA build plans a graph of cuDNN's for each
    /// shape, which takes far longer than to compute it; Metal's kernels take any shape. The processor's are padded so that
    /// every test has it.
    pub(crate) fn attention_granule(&self) -> usize {
        match self.platform() {
            Some(Platform::Cuda) => 256,
            Some(Platform::Metal) => 1,
            _ => 16,
        }
    }

    /// Bytes that MLX's arrays may take together (of a GPU, what its driver recommends), and bytes that they take.
    pub fn memory(&self) -> (usize, usize) {
        let mut active = 0;
        // SAFETY: a valid pointer; a failure leaves it as it is.
        unsafe { (self.api.mlx_get_active_memory)(&mut active) };
        (self.limit, active)
    }

    /// That `bytes` more fit into memory.
    ///
    /// # Errors
    /// If they do not; `what` they are for.
    pub fn reserve(&self, what: &'static str, bytes: u64) -> Result<(), Error> {
        let (limit, active) = self.memory();
        if bytes > limit.saturating_sub(active) as u64 { Err(Error::Memory { what, bytes }) } else { Ok(()) }
    }

    /// Notes the result of a call.
    pub(super) fn note(&self, code: c_int) {
        if code != 0 {
            let text = complaint();
            self.failed.borrow_mut().get_or_insert(text);
        }
    }

    /// The first error since the last call of this, if there was any.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Result<(), Error> {
        match self.failed.borrow_mut().take() {
            Some(message) => Err(Error::Device { backend: NAME, message }),
            None => Ok(()),
        }
    }

    /// The array that `call` puts into its argument.
    pub(super) fn array(&self, call: impl FnOnce(*mut RawArray) -> c_int) -> Array {
        // SAFETY: makes an empty array.
        let mut raw = unsafe { (self.api.mlx_array_new)() };
        self.note(call(&mut raw));
        Array { raw, api: self.api.clone() }
    }

    /// An array of these numbers, copied.
    pub fn from_slice<T: Pod>(&self, numbers: &[T], shape: &[usize], dtype: Dtype) -> Array {
        assert_eq!(size_of_val(numbers), shape.iter().product::<usize>() * dtype.size(), "from_slice: {shape:?}");
        let dims = ints(shape);
        // SAFETY: the numbers fill the shape, and MLX copies them.
        let raw = unsafe {
            let data = numbers.as_ptr().cast::<c_void>();
            (self.api.mlx_array_new_data)(data, dims.as_ptr(), dims.len() as c_int, dtype as c_int)
        };
        self.note(c_int::from(raw.0.is_null()));
        Array { raw, api: self.api.clone() }
    }

    /// Overwrites the first numbers of an array of [`Device::from_slice`].
    ///
    /// The caller knows that nothing has begun to compute with it since it was made.
    pub(crate) fn overwrite<T: Pod>(&self, array: &Array, numbers: &[T]) {
        // SAFETY: an array of numbers from the host has them where the host reaches them (on CUDA in memory that both share),
        // `nbytes` bytes that live as long as it does. Nothing reads them now: what does is not evaluated yet.
        unsafe {
            let (to, n) = ((self.api.mlx_array_data_uint8)(array.raw), (self.api.mlx_array_nbytes)(array.raw));
            assert!(size_of_val(numbers) <= n && !to.is_null(), "overwrite: {} numbers in {n} bytes", numbers.len());
            ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), to.cast_mut(), size_of_val(numbers));
        }
    }

    /// An array of mapped bytes, which it keeps mapped; copied where they are not aligned to `dtype`.
    ///
    /// The caller keeps the array: one that only a graph holds may be overwritten by what is computed from it.
    pub fn from_bytes(&self, bytes: &Bytes, shape: &[usize], dtype: Dtype) -> Array {
        if !bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            return self.from_slice(bytes, shape, dtype);
        }
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size(), "from_bytes: {shape:?}");
        let dims = ints(shape);
        let owner = Box::into_raw(Box::new(bytes.clone())).cast::<c_void>();
        let data = bytes.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: the bytes fill the shape and live as long as `owner`, which `release` drops with the last use. MLX
        // writes only into arrays that nobody holds, and the caller holds this one.
        let raw = unsafe {
            let n = dims.len() as c_int;
            (self.api.mlx_array_new_data_managed_payload)(data, dims.as_ptr(), n, dtype as c_int, owner, release)
        };
        self.note(c_int::from(raw.0.is_null()));
        Array { raw, api: self.api.clone() }
    }

    /// A number without dimensions.
    pub fn scalar(&self, x: f32) -> Array {
        let mut scalars = self.scalars.borrow_mut();
        if scalars.len() >= MAX_SCALARS {
            scalars.clear();
        }
        // SAFETY: makes an array of one number.
        let make = || Array { raw: unsafe { (self.api.mlx_array_new_float32)(x) }, api: self.api.clone() };
        scalars.entry(x.to_bits()).or_insert_with(make).clone()
    }

    /// Calls `f` with the arrays as a vector.
    pub(super) fn vector<R>(&self, arrays: &[&Array], f: impl FnOnce(RawVector) -> R) -> R {
        let raw: Vec<RawArray> = arrays.iter().map(|a| a.raw).collect();
        // SAFETY: as many arrays as the length says; the vector holds them by count and is freed after its use.
        unsafe {
            let vector = (self.api.mlx_vector_array_new_data)(raw.as_ptr(), raw.len());
            let result = f(vector);
            (self.api.mlx_vector_array_free)(vector);
            result
        }
    }

    /// Computes the arrays and waits for them.
    ///
    /// # Errors
    /// The first error of the graph, or the device's.
    pub fn eval(&self, arrays: &[&Array]) -> Result<(), Error> {
        let _streams = evaluating();
        // SAFETY: a vector of arrays.
        self.note(self.vector(arrays, |vector| unsafe { (self.api.mlx_eval)(vector) }));
        self.check()
    }

    /// Computes an array and waits for it; an error is that of the next evaluation.
    pub(crate) fn settle(&self, array: &Array) {
        let _streams = evaluating();
        // SAFETY: a vector of arrays.
        self.note(self.vector(&[array], |vector| unsafe { (self.api.mlx_eval)(vector) }));
    }

    /// Starts to compute the arrays.
    ///
    /// # Errors
    /// The first error of the graph.
    pub fn start(&self, arrays: &[&Array]) -> Result<(), Error> {
        let _streams = evaluating();
        // SAFETY: a vector of arrays.
        self.note(self.vector(arrays, |vector| unsafe { (self.api.mlx_async_eval)(vector) }));
        self.check()
    }

    /// An array in the device's own memory. MLX's CUDA build keeps what comes from the host in memory that host and GPU
    /// share page by page.
    ///
    /// # Errors
    /// As [`Device::eval`].
    pub fn resident(&self, array: &Array) -> Result<Array, Error> {
        let resident = match self.platform() {
            Some(Platform::Cuda) => self.add(array, &self.zeros(&[], array.dtype())),
            _ => array.clone(),
        };
        self.eval(&[&resident])?;
        Ok(resident)
    }

    /// An array that stands for one that could not be made: evaluation returns `message`.
    pub(crate) fn failed_array(&self, message: &str) -> Array {
        self.failed.borrow_mut().get_or_insert_with(|| message.to_owned());
        self.array(|_| 0)
    }

    /// Calls `f` with the bytes of an array, row after row.
    ///
    /// # Errors
    /// As [`Device::eval`].
    pub fn read<R>(&self, array: &Array, f: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        self.read_made(&self.contiguous(array), f)
    }

    /// [`Device::read`] of an array whose rows follow each other, as those that kernels of ours make.
    ///
    /// # Errors
    /// As [`Device::eval`].
    pub(crate) fn read_made<R>(&self, array: &Array, f: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        self.eval(&[array])?;
        // SAFETY: the array is evaluated and contiguous, so its data are `nbytes` bytes, which live as long as it does.
        let bytes = unsafe {
            let (data, n) = ((self.api.mlx_array_data_uint8)(array.raw), (self.api.mlx_array_nbytes)(array.raw));
            if n == 0 { &[] } else { std::slice::from_raw_parts(data, n) }
        };
        Ok(f(bytes))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.scalars.get_mut().clear();
        let _alone = changing_streams();
        // SAFETY: made by this library, and freed once. Nothing of the stream runs on into the process's end.
        unsafe {
            (self.api.mlx_synchronize)(self.stream);
            (self.api.mlx_stream_free)(self.stream);
        }
        self.ends_without_destructors();
    }
}

unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `from_bytes`, and passed here once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// Dimensions as mlx-c takes them.
pub(super) fn ints(shape: &[usize]) -> Vec<c_int> {
    shape.iter().map(|&d| c_int::try_from(d).expect("a dimension of an array that fits memory")).collect()
}

/// Lets MLX's CUDA build plan as many graphs as it meets shapes. Its caches (of attention's graphs, of launches') else fail
/// each further step once they have missed twice as often as they have places, which a server does in time.
///
/// # Safety
/// As [`Device::open`]: before the library computes anything.
unsafe fn allow_many_graphs(api: &Api) {
    const CHECK: &str = "MLX_ENABLE_CACHE_THRASHING_CHECK";
    let mut cuda = false;
    // SAFETY: a valid pointer.
    unsafe { (api.mlx_cuda_is_available)(&mut cuda) };
    if cuda && std::env::var_os(CHECK).is_none() {
        // SAFETY: nothing else in this program sets variables, and the C library frees no array of variables when the first
        // one is added, so that a reader on another thread finds the old array or the new one.
        unsafe { std::env::set_var(CHECK, "0") };
    }
}

/// What the GPU's driver recommends to use at most; where it says nothing, MLX's own limit.
///
/// # Safety
/// The device must be of this library.
unsafe fn memory_limit(api: &Api, device: RawDevice) -> usize {
    // SAFETY: the caller's; a failure leaves the number as it is and its complaint is dropped.
    let (recommended, mut limit) = unsafe { (info(api, device, c"max_recommended_working_set_size"), usize::MAX) };
    // SAFETY: a valid pointer.
    unsafe { (api.mlx_get_memory_limit)(&mut limit) };
    COMPLAINT.with_borrow_mut(Option::take);
    if recommended > 0 { recommended } else { limit }
}

/// A number that MLX knows of a device; 0 where it does not.
///
/// # Safety
/// The device must be of this library.
unsafe fn info(api: &Api, device: RawDevice, key: &CStr) -> usize {
    let mut number = 0;
    // SAFETY: valid pointers, and the device is the caller's; a failure leaves the number as it is.
    unsafe {
        let mut info = (api.mlx_device_info_new)();
        (api.mlx_device_info_get)(&mut info, device);
        (api.mlx_device_info_get_size)(&mut number, info, key.as_ptr());
        (api.mlx_device_info_free)(info);
    }
    COMPLAINT.with_borrow_mut(Option::take);
    number
}

fn complaint() -> String {
    COMPLAINT.with_borrow_mut(Option::take).unwrap_or_else(|| "an operation failed without a word".to_owned())
}

fn version(api: &Api) -> String {
    // SAFETY: the string is made, filled, read and freed by the same library.
    unsafe {
        let mut string = (api.mlx_string_new)();
        (api.mlx_version)(&mut string);
        let data = (api.mlx_string_data)(string);
        let text = if data.is_null() { String::new() } else { CStr::from_ptr(data).to_string_lossy().into_owned() };
        (api.mlx_string_free)(string);
        text
    }
}
