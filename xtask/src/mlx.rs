//! `cargo xtask mlx`: MLX for development, in `target/mlx`, from package registries.
//!
//! ```text
//! target/mlx/wheel      MLX itself, the PyPI package of this system unpacked: headers and libmlx
//! target/mlx/fetch      a manifest that makes cargo fetch the crate whose package holds mlx-c's sources
//! target/mlx/libmlxc.so mlx-c compiled against both (libmlxc.dylib on macOS)
//! ```
//!
//! `MLXR_MLX_DIR=target/mlx` makes the program find it. mlx-c 0.7.0 is written for MLX 0.32.2 exactly.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// MLX's version on PyPI.
const MLX_VERSION: &str = "0.32.2";
/// The crate whose package holds mlx-c 0.7.0 in `src/mlx-c`.
const SOURCE_CRATE: [&str; 2] = ["mlx-sys", "0.7.0"];
/// Stands for `<format>` where the compiler's library lacks it.
const FORMAT_SHIM: &str = include_str!("../mlx/format");

/// What differs between systems: PyPI package, compiler, name of the library, flags that link it.
struct System {
    package: &'static str,
    compiler: &'static str,
    library: &'static str,
    link: &'static [&'static str],
}

const LINUX: System = System {
    package: "mlx-cpu",
    compiler: "g++",
    library: "libmlxc.so",
    link: &["-shared", "-Wl,-rpath,$ORIGIN/wheel/mlx/lib"],
};
const MACOS: System = System {
    package: "mlx-metal",
    compiler: "clang++",
    library: "libmlxc.dylib",
    link: &["-dynamiclib", "-install_name", "@rpath/libmlxc.dylib", "-Wl,-rpath,@loader_path/wheel/mlx/lib"],
};

/// Prepares MLX below `root/target`; does nothing where it is there already. `package` replaces the PyPI package.
pub fn run(root: &Path, package: Option<&str>) -> Result<(), String> {
    let system = if cfg!(target_os = "macos") { MACOS } else { LINUX };
    let package = format!("{}=={MLX_VERSION}", package.unwrap_or(system.package));
    let out = root.join("target/mlx");
    let (stamp, library) = (out.join("ready"), out.join(system.library));
    let made_of = format!("{package} {SOURCE_CRATE:?} {FORMAT_SHIM}");
    if library.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == made_of) {
        println!("{} is there", library.display());
        return Ok(());
    }
    for stale in ["wheel", "objects", "fetch", "ready"] {
        remove(&out.join(stale))?;
    }
    let wheel = wheel(&out, &package)?;
    let source = source(&out)?;
    let objects = compile(&out, &system, &[&wheel.join("include"), &source], &source)?;
    let mut link = Command::new(system.compiler);
    link.args(objects).arg("-o").arg(&library).arg("-L").arg(wheel.join("lib")).arg("-lmlx").args(system.link);
    done(&mut link)?;
    write(&stamp, &made_of)?;
    println!("{}: set MLXR_MLX_DIR={}", library.display(), out.display());
    Ok(())
}

/// The unpacked PyPI package: the folder with `include` and `lib`.
fn wheel(out: &Path, package: &str) -> Result<PathBuf, String> {
    let (venv, folder) = (out.join("venv"), out.join("wheel"));
    let python = venv.join("bin/python");
    if !python.is_file() {
        done(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let mut pip = Command::new(&python);
    done(pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&folder).arg(package))?;
    Ok(folder.join("mlx"))
}

/// mlx-c's sources, in the package of the crate that cargo fetches.
fn source(out: &Path) -> Result<PathBuf, String> {
    let [name, version] = SOURCE_CRATE;
    let manifest = out.join("fetch/Cargo.toml");
    let text = format!(
        "[workspace]\n[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
         [dependencies]\n{name} = \"={version}\"\n"
    );
    write(&out.join("fetch/lib.rs"), "")?;
    write(&manifest, &text)?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["vendor", "--quiet", "--versioned-dirs", "--manifest-path"])
        .arg(&manifest)
        .arg(out.join("fetch/vendor"));
    done(cargo.stdout(Stdio::null()))?;
    let source = out.join(format!("fetch/vendor/{name}-{version}/src/mlx-c"));
    if source.is_dir() { Ok(source) } else { Err(format!("{}: the package has no mlx-c any more", source.display())) }
}

/// Object files of all of mlx-c, compiled by as many compilers as there are processors.
fn compile(out: &Path, system: &System, includes: &[&Path], source: &Path) -> Result<Vec<PathBuf>, String> {
    let (objects, shim) = (out.join("objects"), out.join("objects/shim"));
    write(&objects.join("probe.cpp"), "#include <format>\n")?;
    let mut probe = Command::new(system.compiler);
    probe.args(["-std=c++20", "-fsyntax-only"]).arg(objects.join("probe.cpp")).stderr(Stdio::null());
    if !probe.status().map_err(|e| format!("{}: {e}; install a C++20 compiler", system.compiler))?.success() {
        write(&shim.join("format"), FORMAT_SHIM)?;
    }
    let folder = source.join("mlx/c");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "cpp") && p.file_name().is_some_and(|n| n != "object.cpp"));
    let object = |file: &Path| objects.join(file.file_stem().unwrap_or_default()).with_extension("o");
    let one = |file: &Path| {
        let mut compiler = Command::new(system.compiler);
        compiler.args(["-std=c++20", "-O1", "-fPIC", "-include", "format", "-I"]).arg(&shim);
        includes.iter().for_each(|folder| {
            compiler.arg("-I").arg(folder);
        });
        done(compiler.arg("-c").arg(file).arg("-o").arg(object(file)))
    };
    let n_job = thread::available_parallelism().map_or(1, usize::from);
    let share = files.len().div_ceil(n_job).max(1);
    thread::scope(|scope| {
        let jobs: Vec<_> =
            files.chunks(share).map(|files| scope.spawn(move || files.iter().try_for_each(|f| one(f)))).collect();
        jobs.into_iter().try_for_each(|job| job.join().expect("a compile job does not panic"))
    })?;
    Ok(files.iter().map(|f| object(f)).collect())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().expect("a file in a folder");
    let result = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
    result.map_err(|e| format!("{}: {e}", path.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    let result = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", path.display())),
        _ => Ok(()),
    }
}

fn done(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(e) => Err(format!("{program}: {e}; is it installed?")),
    }
}
