//! The end of a process that used MLX's CUDA build.
//!
//! MLX destroys what it keeps for the process's life, graphs above all, when the process exits; of CUDA's driver, which shuts down then
//! too, that asks what it no longer does, and a process that has done all its work ends in `terminate called after throwing` and
//! SIGABRT (MLX 0.32.2, 8 of 57 runs of `mlx-run logits` on an H200). The system takes back memory and GPU without it.

use std::ffi::{c_int, c_void};
use std::ptr;

unsafe extern "C" {
    fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    fn fflush(stream: *mut c_void) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Has the process end, when it exits, with its status and before any destructor that is registered until now. To be called again
/// when more may be: what was registered last runs first.
pub(super) fn without_destructors() {
    // SAFETY: glibc's function, with a handler that lives as long as the program. If there is no room for one more, the
    // destructors run.
    unsafe { on_exit(end, ptr::null_mut()) };
}

extern "C" fn end(status: c_int, _: *mut c_void) {
    // SAFETY: of a null pointer it writes all of C's streams out; Rust's are by the time a process exits.
    unsafe {
        fflush(ptr::null_mut());
        _exit(status)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, exit};

    use super::*;

    unsafe extern "C" {
        fn atexit(handler: extern "C" fn()) -> c_int;
    }

    extern "C" fn destructor() {
        std::process::abort();
    }

    /// What runs in a process of its own: the variable says whether the end is told.
    const VARIABLE: &str = "MLXR_TEST_ENDING";

    #[test]
    fn a_process_ends_with_its_status_before_destructors_run() {
        if let Ok(told) = std::env::var(VARIABLE) {
            // SAFETY: C's function, with a handler that lives as long as the program.
            unsafe { atexit(destructor) };
            if told == "yes" {
                without_destructors();
            }
            exit(7);
        }
        let name = "ffi::ending::tests::a_process_ends_with_its_status_before_destructors_run";
        let status = |told: &str| {
            let program = std::env::current_exe().expect("this program");
            let mut child = Command::new(program);
            child.args(["--exact", name]).env(VARIABLE, told).output().expect("it runs").status
        };
        assert_eq!(status("yes").code(), Some(7));
        assert_eq!(status("no").code(), None, "the destructor aborts");
    }
}
