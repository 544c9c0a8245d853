//! Sizes of memory: as people write them, and what this machine has left.

use std::fs;
use std::path::Path;

/// Memory for keys and values where nothing is known of the machine.
const UNKNOWN_BYTES: u64 = 2 << 30;
/// Keys and values get at least this, however full the machine is.
pub const LEAST_BYTES: u64 = 64 << 20;

/// `4GiB`, `512M`, `1.5 GB` or a number of bytes. `K`, `M`, `G` and `T` are powers of 1024, with or without `iB`; `KB`,
/// `MB`, `GB` and `TB` are powers of 1000.
///
/// # Errors
/// If the text is no such size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write bytes, or a number with a unit such as 512MiB or 4GiB");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_uppercase();
    let power = match unit.chars().next() {
        None | Some('B') => 0,
        Some(letter) => 1 + "KMGT".find(letter).ok_or_else(wrong)? as i32,
    };
    let base = match unit.get(1..).unwrap_or("") {
        "" | "IB" => 1024f64,
        "B" if power > 0 => 1000f64,
        _ => return Err(wrong()),
    };
    let bytes = number * base.powi(power);
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Memory for keys and values: half of what all else leaves.
pub fn arena_of(left_bytes: Option<u64>) -> u64 {
    left_bytes.map_or(UNKNOWN_BYTES, |bytes| (bytes / 2).max(LEAST_BYTES))
}

/// Memory that all models of a server may take together: nine tenths of what is left, as much as it likes where nothing is
/// known.
pub fn budget_bytes() -> u64 {
    available().map_or(u64::MAX, |bytes| bytes / 10 * 9)
}

/// Bytes that this process may still take: of the machine, or of the group that it is confined to.
pub fn available() -> Option<u64> {
    let machine = if cfg!(target_os = "macos") { macos() } else { linux(Path::new("/proc/meminfo")) };
    let group = group(Path::new("/sys/fs/cgroup"));
    [machine, group].into_iter().flatten().min()
}

fn linux(meminfo: &Path) -> Option<u64> {
    let text = fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// A control group's limit, less what it uses.
fn group(folder: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    // Cached files count as used, and make room when memory is asked for.
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let file = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(file)))
}

/// macOS gives memory of idle programs and files to whoever asks: two thirds of it all is what GPUs may take.
fn macos() -> Option<u64> {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    let bytes: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(bytes / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let rows = [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("1000B", Some(1000)),
            ("2K", Some(2048)),
            ("1.5 GiB", Some(3 << 29)),
            ("4g", Some(4 << 30)),
            ("3MB", Some(3_000_000)),
            ("", None),
            ("GiB", None),
            ("-1G", None),
            ("1X", None),
            ("1Gb/s", None),
            ("99999999999T", None),
        ];
        for (text, want) in rows {
            assert_eq!(parse_size(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn what_the_system_says_is_understood() {
        let folder = std::env::temp_dir().join(format!("mlxr-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
        write("meminfo", "MemTotal:       24000000 kB\nMemAvailable:   2000 kB\n");
        assert_eq!(linux(&folder.join("meminfo")), Some(2000 << 10));
        assert_eq!(group(&folder), None);
        write("memory.current", "5000\n");
        write("memory.max", "max\n");
        assert_eq!(group(&folder), None);
        write("memory.max", "9000\n");
        write("memory.stat", "anon 1\ninactive_file 1000\n");
        assert_eq!(group(&folder), Some(5000));
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
