//! The folder of pages. No file is changed in place: each is written aside and renamed.
//!
//! ```text
//! FOLDER/written                       "day bytes": what was written on that day since 1970
//! FOLDER/<maker>/<hh>/<hash>-<depth>.page
//! FOLDER/<maker>/<hh>/<hash>.<process>.part            while it is written
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::file::Maker;
use super::index::Key;
use crate::prefix::PrefixHash;

const DAY_S: u64 = 24 * 60 * 60;
/// Parts of files that are older than this were left by a process that was killed.
const STALE: Duration = Duration::from_secs(600);
/// Bytes between two notes of what was written today.
const NOTE_BYTES: u64 = 16 << 20;

/// Bytes written on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Today {
    pub day: u64,
    pub bytes: u64,
}

impl Today {
    /// Begins anew if the day is over.
    pub fn turn(&mut self, now_s: u64) {
        if self.day != now_s / DAY_S {
            *self = Today { day: now_s / DAY_S, bytes: 0 };
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Makes the folder if it does not exist.
    pub fn new(folder: &Path) -> io::Result<Files> {
        fs::create_dir_all(folder)?;
        Ok(Files { folder: folder.to_owned() })
    }

    /// Tells of every file that is named as a page: its key, bytes, depth and second of its last change. Other files are
    /// left alone, but for parts that were never finished.
    pub fn scan(&self, found: &mut dyn FnMut(Key, u64, u32, u64)) {
        for (maker, makers) in entries(&self.folder).into_iter().filter_map(|(name, path)| Some((unhex(&name)?, path)))
        {
            for (_, folder) in entries(&makers).into_iter().filter(|(name, _)| name.len() == 2) {
                for (name, path) in entries(&folder) {
                    let Ok(meta) = fs::metadata(&path) else { continue };
                    let modified = meta.modified().unwrap_or(UNIX_EPOCH);
                    if let Some((hash, depth)) = parse_name(&name) {
                        let modified_s = modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
                        found(Key { maker: Maker(maker), hash }, meta.len(), depth, modified_s);
                    } else if name.ends_with(".part")
                        && SystemTime::now().duration_since(modified).is_ok_and(|age| age > STALE)
                    {
                        // Whoever else removed it has done the same work.
                        let _ = fs::remove_file(&path);
                    }
                }
            }
        }
    }

    /// Writes a page's file.
    pub fn write(&self, key: &Key, depth: u32, file: &[u8]) -> io::Result<()> {
        let path = self.path(key, depth);
        let part = path.with_file_name(format!("{}.{}.part", hex(&key.hash.0), std::process::id()));
        let result = fs::create_dir_all(path.parent().expect("a file lies in a folder"))
            .and_then(|()| File::create(&part)?.write_all(file))
            .and_then(|()| fs::rename(&part, &path));
        if result.is_err() {
            // It may not have been made at all.
            let _ = fs::remove_file(&part);
        }
        result
    }

    /// Reads a page's file of `n_bytes`, and notes that it was used.
    pub fn read(&self, key: &Key, depth: u32, n_bytes: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(key, depth))?;
        let mut bytes = Vec::with_capacity(n_bytes + 1);
        (&file).take(n_bytes as u64 + 1).read_to_end(&mut bytes)?;
        // The order after a restart is only a little worse without.
        let _ = file.set_modified(SystemTime::now());
        Ok(bytes)
    }

    /// Removes a page's file.
    pub fn remove(&self, key: &Key, depth: u32) {
        // What is gone already need not be removed.
        let _ = fs::remove_file(self.path(key, depth));
    }

    /// What was written on the day of `now_s`.
    pub fn read_today(&self, now_s: u64) -> Today {
        let text = fs::read_to_string(self.folder.join("written")).unwrap_or_default();
        let mut words = text.split_whitespace().map(str::parse);
        let mut today = match (words.next(), words.next()) {
            (Some(Ok(day)), Some(Ok(bytes))) => Today { day, bytes },
            _ => Today::default(),
        };
        today.turn(now_s);
        today
    }

    /// Notes what was written, now and then.
    pub fn write_today(&self, today: Today, file_bytes: u64) {
        if today.bytes / NOTE_BYTES != today.bytes.saturating_sub(file_bytes) / NOTE_BYTES {
            self.note_today(today);
        }
    }

    /// Notes what was written.
    pub fn note_today(&self, today: Today) {
        let part = self.folder.join(format!("written.{}.part", std::process::id()));
        // Without it the day's budget begins anew with the process.
        let _ = fs::write(&part, format!("{} {}\n", today.day, today.bytes))
            .and_then(|()| fs::rename(&part, self.folder.join("written")));
    }

    fn path(&self, key: &Key, depth: u32) -> PathBuf {
        let hash = hex(&key.hash.0);
        self.folder.join(hex(&key.maker.0)).join(&hash[..2]).join(format!("{hash}-{depth}.page"))
    }
}

fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.file_name().into_string().ok()?, entry.path()))
    };
    entries.filter_map(named).collect()
}

fn parse_name(name: &str) -> Option<(PrefixHash, u32)> {
    let (hash, depth) = name.strip_suffix(".page")?.split_once('-')?;
    Some((PrefixHash(unhex(hash)?), depth.parse().ok()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut out = [0; 32];
    for (out, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *out = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}
