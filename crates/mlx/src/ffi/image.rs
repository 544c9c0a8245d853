//! Kernels of ours compiled once for a machine.
//!
//! MLX's CUDA build names a kernel's module by its name and a hash of its whole text, and looks for `MODULE.ptx` (an image) and
//! `MODULE.txt` (names, and what the image calls them) in a folder before it compiles. It writes there what it compiles of its
//! own kernels, but none of others', which each process would compile anew, with all of MLX's headers: two seconds for each.
//! Here NVRTC compiles them without those headers, and the image goes to where MLX looks. Where anything fails MLX compiles.
//!
//! Source: MLX `mlx/backend/cuda/{custom_kernel,jit_module,utils}.cpp` @ 0.32.2; libstdc++ `libsupc++/hash_bytes.cc`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

use super::array::Dtype;
use super::device::MLX_VERSION;
use crate::kernel::Instance;
use crate::own::number;

/// What MLX puts before a kernel's own header.
const HEADER: &str = "\n#include \"mlx/backend/cuda/device/utils.cuh\"\n\n#include <cooperative_groups.h>\n\n";
/// What MLX puts before a kernel's name.
const PREFIX: &str = "custom_kernel_";
/// NVRTC's names, the one that MLX's wheel is linked to first.
const NVRTC: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// A kernel as MLX takes it.
pub(crate) struct Text<'a> {
    name: &'a str,
    header: &'a str,
    body: &'a str,
    inputs: Vec<(&'a str, Dtype)>,
    outputs: Vec<(&'a str, Dtype)>,
    bounds: String,
}

impl<'a> Text<'a> {
    /// Of an instance of this name and [text](crate::kernel::source::for_mlx), whose inputs have these types.
    pub fn new(
        name: &'a str,
        [header, body]: [&'a str; 2],
        instance: &Instance,
        inputs: impl Iterator<Item = Dtype>,
    ) -> Text<'a> {
        let kernel = instance.kernel();
        let inputs = kernel.inputs.iter().map(|(name, _)| *name).zip(inputs).collect();
        let outputs = kernel.outputs.iter().map(|(name, kind)| (*name, number(kind, instance.parameter))).collect();
        Text { name, header, body, inputs, outputs, bounds: instance.bounds() }
    }

    /// The text that MLX would compile.
    fn whole(&self) -> String {
        let inputs = self.inputs.iter().map(|(name, dtype)| format!("    const {}* {name},\n", cuda(*dtype)));
        let outputs: Vec<String> =
            self.outputs.iter().map(|(name, dtype)| format!("    {}* {name}", cuda(*dtype))).collect();
        format!(
            "{HEADER}{}namespace mlx::core::cu {{\n\nnamespace cg = cooperative_groups;\n\n__global__ void {PREFIX}{}(\n{}{}) \
             {{\n{}\n}}\n\n}} // namespace mlx::core::cu\n",
            self.header,
            self.name,
            inputs.collect::<String>(),
            outputs.join(",\n"),
            self.body
        )
    }

    /// The same kernel without MLX.
    fn bare(&self) -> String {
        const TYPES: &str = "typedef signed char int8_t;\ntypedef unsigned char uint8_t;\ntypedef unsigned short uint16_t;\n\
                             typedef int int32_t;\ntypedef unsigned int uint32_t;\n";
        let inputs = self.inputs.iter().map(|(name, dtype)| format!("const {}* {name}", cuda(*dtype)));
        let outputs = self.outputs.iter().map(|(name, dtype)| format!("{}* {name}", cuda(*dtype)));
        let arguments: Vec<String> = inputs.chain(outputs).collect();
        let (name, arguments) = (self.name, arguments.join(", "));
        format!(
            "{TYPES}{}extern \"C\" __global__ void {}{PREFIX}{name}({arguments}) {{\n{}\n}}\n",
            self.header, self.bounds, self.body
        )
    }

    /// What MLX calls the module.
    fn module(&self) -> String {
        format!("{PREFIX}{}_{:x}", self.name, hash(self.whole().as_bytes()))
    }
}

/// What MLX calls a type.
fn cuda(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bool => "bool",
        Dtype::U8 => "uint8_t",
        Dtype::U16 => "uint16_t",
        Dtype::U32 => "uint32_t",
        Dtype::I8 => "int8_t",
        Dtype::I32 => "int32_t",
        Dtype::F16 => "__half",
        Dtype::F32 => "float",
        Dtype::BF16 => "__nv_bfloat16",
    }
}

/// `std::hash<std::string>` of libstdc++ on 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |x: u64| x ^ (x >> 47);
    let mut hash = 0xc70f_6907 ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        hash = (hash ^ mix(word.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

/// The folder that MLX looks into.
fn folder() -> PathBuf {
    let named = std::env::var_os("MLX_PTX_CACHE_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| std::env::temp_dir().join("mlx").join(MLX_VERSION).join("ptx"))
}

type Program = *mut c_void;

/// NVRTC's functions. Source: CUDA 13, `nvrtc.h`.
struct Nvrtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    image_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    image: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

/// Compiles kernels for one GPU.
pub(crate) struct Compiler {
    nvrtc: Nvrtc,
    /// `sm_90a`.
    architecture: String,
    /// Folders of CUDA's headers.
    includes: Vec<PathBuf>,
    folder: PathBuf,
}

impl Compiler {
    /// For a GPU of this compute capability.
    ///
    /// # Errors
    /// If NVRTC or CUDA's headers are not to be found, in words.
    pub fn new([major, minor]: [usize; 2]) -> Result<Compiler, String> {
        // SAFETY: the initializers are NVIDIA's; MLX's library, which is linked to the same file, has run them.
        let library = NVRTC.iter().find_map(|name| unsafe { Library::new(name) }.ok()).ok_or("there is no libnvrtc")?;
        // SAFETY: NVRTC's functions have had these signatures since CUDA 11.1. The library stays for the process's life.
        let nvrtc = unsafe { Nvrtc::find(std::mem::ManuallyDrop::new(library)) }.map_err(|e| e.to_string())?;
        let architecture = format!("sm_{major}{minor}{}", if major >= 9 { "a" } else { "" });
        let includes: Vec<PathBuf> =
            headers().into_iter().filter(|folder| folder.join("cuda_fp16.h").is_file()).collect();
        if includes.is_empty() {
            return Err("there is no cuda_fp16.h: set CUDA_HOME".to_owned());
        }
        Ok(Compiler { nvrtc, architecture, includes, folder: folder() })
    }

    /// Sees to it that MLX finds the kernel's image.
    ///
    /// # Errors
    /// If it does not compile or cannot be written, in words.
    pub fn provide(&self, text: &Text<'_>) -> Result<(), String> {
        let module = text.module();
        let image = self.folder.join(format!("{module}.ptx"));
        if image.is_file() {
            return Ok(());
        }
        let bytes = self.image(&text.bare(), text.name)?;
        let names = format!("mlx::core::cu::{PREFIX}{0}\t{PREFIX}{0}\n", text.name);
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| write(&image.with_extension("txt"), names.as_bytes()))
            // MLX takes the image for a sign that both are there.
            .and_then(|()| write(&image, &bytes));
        written.map_err(|error| format!("{}: {error}", image.display()))
    }

    fn image(&self, text: &str, name: &str) -> Result<Vec<u8>, String> {
        let mut options = vec![format!("--gpu-architecture={}", self.architecture), "--std=c++17".to_owned()];
        options.extend(self.includes.iter().map(|folder| format!("--include-path={}", folder.display())));
        let c_string = |text: &str| CString::new(text).map_err(|e| e.to_string());
        let (text, file) = (c_string(text)?, c_string(&format!("{name}.cu"))?);
        let options: Vec<CString> = options.iter().map(|o| c_string(o)).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let n = &self.nvrtc;
        // SAFETY: C strings that outlive the calls, as many options as their number says, buffers of the sizes that NVRTC
        // asks for; the program is destroyed once.
        unsafe {
            let mut program = ptr::null_mut();
            if (n.create)(&mut program, text.as_ptr(), file.as_ptr(), 0, ptr::null(), ptr::null()) != 0 {
                return Err("NVRTC makes no program".to_owned());
            }
            let compiled = (n.compile)(program, pointers.len() as c_int, pointers.as_ptr()) == 0;
            let (size, get) = if compiled { (n.image_size, n.image) } else { (n.log_size, n.log) };
            let mut n_byte = 0;
            let mut bytes = Vec::new();
            if size(program, &mut n_byte) == 0 {
                bytes.resize(n_byte, 0u8);
                if get(program, bytes.as_mut_ptr().cast()) != 0 {
                    bytes.clear();
                }
            }
            (n.destroy)(&mut program);
            match compiled && !bytes.is_empty() {
                true => Ok(bytes),
                false => Err(format!("{name} does not compile: {}", String::from_utf8_lossy(&bytes))),
            }
        }
    }
}

impl Nvrtc {
    /// # Safety
    /// The library must be NVRTC, and stay.
    unsafe fn find(library: std::mem::ManuallyDrop<Library>) -> Result<Nvrtc, libloading::Error> {
        // SAFETY: the caller says that it is NVRTC, whose functions have these signatures.
        unsafe {
            Ok(Nvrtc {
                create: *library.get(b"nvrtcCreateProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                image_size: *library.get(b"nvrtcGetCUBINSize\0")?,
                image: *library.get(b"nvrtcGetCUBIN\0")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0")?,
                log: *library.get(b"nvrtcGetProgramLog\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
            })
        }
    }
}

/// Where CUDA's headers may be: where MLX looks, and beside NVRTC.
fn headers() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let loaded =
        maps.lines().find_map(|line| Some(line[line.find('/')?..].to_owned()).filter(|p| p.contains("libnvrtc")));
    let beside = loaded.iter().filter_map(|path| Path::new(path).parent()?.parent().map(Path::to_owned));
    let roots = named.chain(beside).chain([PathBuf::from("/usr/local/cuda")]);
    roots.map(|root| root.join("include")).collect()
}

/// Writes a file such that no one sees a part of it.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::source::{self, Platform};
    use crate::kernel::{KERNELS, cases};

    /// Needs no GPU.
    #[test]
    fn nvrtc_compiles_every_kernel() {
        let compiler = match Compiler::new([9, 0]) {
            Ok(compiler) => compiler,
            Err(why) => {
                return eprintln!("SKIPPED: install CUDA's NVRTC and headers to compile our kernels by it: {why}");
            }
        };
        let cases = cases::all(1);
        for kernel in &KERNELS {
            let case = cases.iter().find(|case| case.launch.instance.kernel().name == kernel.name);
            let instance = &case.expect("a case of every kernel").launch.instance;
            let [header, body] = source::for_mlx(Platform::Cuda, instance);
            let inputs = kernel.inputs.iter().map(|(_, kind)| number(kind, instance.parameter));
            let name = instance.name();
            let text = Text::new(&name, [&header, &body], instance, inputs);
            let image = compiler.image(&text.bare(), &name).unwrap_or_else(|why| panic!("{why}"));
            assert!(image.starts_with(b"\x7fELF"), "{name}: {} bytes are no image", image.len());
        }
    }

    /// From a program of libstdc++ 12 on x86-64.
    #[test]
    fn texts_hash_as_in_libstdcxx() {
        for (text, want) in [
            ("", 0x553e_9390_1e46_2a6e),
            ("a", 0x454d_dee4_88c1_ed6b),
            ("12345678", 0x8c5b_90a3_3a04_dca5),
            ("__global__ void kernel() {}", 0x9973_5bf4_fc32_b943),
        ] {
            assert_eq!(hash(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn a_kernel_has_mlxs_text_and_module() {
        let (inputs, outputs) =
            (vec![("x", Dtype::F32), ("w", Dtype::U32)], vec![("y", Dtype::F16), ("z", Dtype::I32)]);
        let text =
            Text { name: "k_1", header: "#define A\n", body: "y[0] = x[0];", inputs, outputs, bounds: String::new() };
        let want = "\n#include \"mlx/backend/cuda/device/utils.cuh\"\n\n#include <cooperative_groups.h>\n\n#define A\n\
                    namespace mlx::core::cu {\n\nnamespace cg = cooperative_groups;\n\n__global__ void custom_kernel_k_1(\n    \
                    const float* x,\n    const uint32_t* w,\n    __half* y,\n    int32_t* z) {\ny[0] = x[0];\n}\n\n} // \
                    namespace mlx::core::cu\n";
        assert_eq!(text.whole(), want);
        assert!(
            text.module().starts_with("custom_kernel_k_1_") && text.bare().contains("extern \"C\" __global__ void")
        );
    }
}
