//! The models below one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most folders between the model folder and a model.
pub const MAX_DEPTH: usize = 4;
/// Most files and folders looked at in one listing.
pub const MAX_ENTRIES: usize = 100_000;

/// How a model lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A `.gguf` file, or the first of a split set.
    Gguf,
    /// A folder with `config.json`.
    Folder,
    /// A .gguf file inside of the program.
    Embedded,
}

/// A model on the disk or inside of the program. Nothing of it was read: it may still be damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Path below the model folder, with `/`, without `.gguf` and without the number of a split set.
    pub name: String,
    /// The file or folder to open; for a model inside of the program what to call it in messages.
    pub path: PathBuf,
    /// How it lies there.
    pub form: Form,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// When it was last changed.
    pub modified: SystemTime,
}

impl Model {
    /// A model of `size_bytes` inside of the program, which is as old as the program.
    #[must_use]
    pub fn embedded(name: &str, size_bytes: u64) -> Model {
        let program = std::env::current_exe().and_then(fs::metadata).and_then(|stat| stat.modified());
        Model {
            name: name.to_owned(),
            path: PathBuf::from(format!("{name}.gguf")),
            form: Form::Embedded,
            size_bytes,
            modified: program.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Why a model was not found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Neither a path nor a name.
    #[error("no model `{name}`: no such file or folder, and {folder} has {known}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The model folder.
        folder: String,
        /// Names that it has.
        known: String,
    },
    /// A path that is no model.
    #[error("{path} is no model: expected a .gguf file, or a folder with config.json and safetensors files")]
    NotAModel {
        /// The path.
        path: PathBuf,
    },
    /// The folder cannot be read.
    #[error("{path}: {error}: check that the model folder exists and may be read")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The folder holds more than will be looked at.
    #[error("{path} holds more than {limit} files and folders: give a folder that holds only models")]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The limit, [`MAX_ENTRIES`].
        limit: usize,
    },
}

/// A folder of models, and those inside of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
    embedded: Vec<Model>,
}

impl Folder {
    /// The models below `path`, which need not exist.
    #[must_use]
    pub fn new(path: PathBuf) -> Folder {
        Folder { path, embedded: Vec::new() }
    }

    /// The folder with `models` besides: they are listed and found as if they lay in it. A model of the folder hides one
    /// of the same name.
    #[must_use]
    pub fn with_embedded(self, models: impl IntoIterator<Item = Model>) -> Folder {
        Folder { embedded: models.into_iter().collect(), ..self }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All models, by name, those inside of the program too. A folder that does not exist has none. Hidden files and folders are left out.
    ///
    /// # Errors
    /// If a folder cannot be read, or it holds too much.
    pub fn list(&self) -> Result<Vec<Model>, RegistryError> {
        let mut models = Vec::new();
        if self.path.exists() {
            let mut n_left = MAX_ENTRIES;
            self.walk(&self.path, MAX_DEPTH, &mut n_left, &mut models)?;
        }
        let is_hidden = |embedded: &Model| models.iter().any(|model| model.name.eq_ignore_ascii_case(&embedded.name));
        let embedded: Vec<Model> = self.embedded.iter().filter(|model| !is_hidden(model)).cloned().collect();
        models.extend(embedded);
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// The model of this name: a path to a file or folder, or a name as [`Folder::list`] has it, in any case; the suffix
    /// `:latest` may follow.
    ///
    /// # Errors
    /// If there is none; the message lists names that exist.
    pub fn find(&self, name: &str) -> Result<Model, RegistryError> {
        let path = Path::new(name);
        if path.exists() {
            let display = path.file_name().map_or(name.to_owned(), |name| name.to_string_lossy().into_owned());
            return model(path, display).ok_or_else(|| RegistryError::NotAModel { path: path.to_owned() });
        }
        self.find_name(name)
    }

    /// As [`Folder::find`], but by name only: a path reaches nothing outside of the folder.
    ///
    /// # Errors
    /// If there is none; the message lists names that exist.
    pub fn find_name(&self, name: &str) -> Result<Model, RegistryError> {
        let models = self.list()?;
        let bare = name.strip_suffix(":latest").unwrap_or(name);
        let found = models.iter().find(|model| model.name == bare);
        let found = found.or_else(|| models.iter().find(|model| model.name.eq_ignore_ascii_case(bare)));
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = models.iter().take(20).map(|model| model.name.as_str()).collect();
            let known = if names.is_empty() { "no models".to_owned() } else { format!("only: {}", names.join(", ")) };
            RegistryError::NotFound { name: name.to_owned(), folder: self.path.display().to_string(), known }
        })
    }

    fn walk(
        &self,
        folder: &Path,
        depth: usize,
        n_left: &mut usize,
        models: &mut Vec<Model>,
    ) -> Result<(), RegistryError> {
        let error = |error| RegistryError::Io { path: folder.to_owned(), error };
        for entry in fs::read_dir(folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let too_many = || RegistryError::TooMany { path: self.path.clone(), limit: MAX_ENTRIES };
            *n_left = n_left.checked_sub(1).ok_or_else(too_many)?;
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            let below = path.strip_prefix(&self.path).unwrap_or(&path);
            let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            match model(&path, parts.join("/")) {
                Some(model) => models.push(model),
                None if path.is_dir() && depth > 0 => self.walk(&path, depth - 1, n_left, models)?,
                None => {}
            }
        }
        Ok(())
    }
}

/// The model at `path`, if there is one. `name` still has its suffix.
fn model(path: &Path, name: String) -> Option<Model> {
    let stat = fs::metadata(path).ok()?;
    let modified = stat.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    if stat.is_dir() {
        if !path.join("config.json").is_file() {
            return None;
        }
        let sizes = fs::read_dir(path).ok()?.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
        let size_bytes = sizes.filter(fs::Metadata::is_file).map(|stat| stat.len()).sum();
        return Some(Model { name, path: path.to_owned(), form: Form::Folder, size_bytes, modified });
    }
    let stem = name.strip_suffix(".gguf")?;
    let (name, size_bytes) = match split_number(stem) {
        Some((_, 2.., _)) => return None,
        Some((base, _, n_file)) => {
            let file = path.file_stem()?.to_string_lossy().into_owned();
            let (file_base, ..) = split_number(&file)?;
            let part = |i: u32| path.with_file_name(format!("{file_base}-{i:05}-of-{n_file:05}.gguf"));
            let bytes =
                (1..=n_file.min(10_000)).filter_map(|i| fs::metadata(part(i)).ok()).map(|stat| stat.len()).sum();
            (base.to_owned(), bytes)
        }
        None => (stem.to_owned(), stat.len()),
    };
    Some(Model { name, path: path.to_owned(), form: Form::Gguf, size_bytes, modified })
}

/// `NAME-00002-of-00003` as `(NAME, 2, 3)`.
fn split_number(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, n_file) = stem.rsplit_once("-of-")?;
    let (base, number) = rest.rsplit_once('-')?;
    let parse = |text: &str| (text.len() == 5).then(|| text.parse::<u32>().ok()).flatten();
    Some((base, parse(number)?, parse(n_file)?))
}

#[cfg(test)]
mod tests {
    use mlxr_testing::Temp;

    use super::*;

    fn write(temp: &Temp, path: &str, n_byte: usize) {
        let path = temp.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, vec![0; n_byte]).expect("a file");
    }

    #[test]
    fn models_are_listed_by_name() {
        let temp = Temp::new("list");
        write(&temp, "Tiny.gguf", 10);
        write(&temp, "big-00001-of-00002.gguf", 5);
        write(&temp, "big-00002-of-00002.gguf", 7);
        write(&temp, "org/model/config.json", 2);
        write(&temp, "org/model/model.safetensors", 30);
        write(&temp, "org/notes.txt", 1);
        write(&temp, ".hidden/x.gguf", 1);
        write(&temp, "a/b/c/d/e/too-deep.gguf", 1);
        let folder = Folder::new(temp.0.clone());
        let models = folder.list().expect("readable");
        let rows: Vec<(&str, u64, Form)> = models.iter().map(|m| (m.name.as_str(), m.size_bytes, m.form)).collect();
        assert_eq!(rows, [("Tiny", 10, Form::Gguf), ("big", 12, Form::Gguf), ("org/model", 32, Form::Folder)]);
        assert!(folder.find_name(temp.0.join("Tiny.gguf").to_str().expect("text")).is_err(), "no path by name");
        for name in ["Tiny", "tiny", "tiny:latest"] {
            assert_eq!(folder.find(name).expect(name).path, temp.0.join("Tiny.gguf"));
        }
        let path = temp.0.join("org/model");
        assert_eq!(folder.find(path.to_str().expect("text")).expect("a path").name, "model");
    }

    #[test]
    fn a_model_inside_of_the_program_is_found_unless_the_folder_has_one_of_its_name() {
        let temp = Temp::new("embedded");
        write(&temp, "b.gguf", 7);
        let folder = Folder::new(temp.0.clone()).with_embedded([Model::embedded("a", 3), Model::embedded("B", 4)]);
        let rows: Vec<_> =
            folder.list().expect("readable").into_iter().map(|m| (m.name, m.size_bytes, m.form)).collect();
        assert_eq!(rows, [("a".to_owned(), 3, Form::Embedded), ("b".to_owned(), 7, Form::Gguf)]);
        assert_eq!(folder.find("A:latest").expect("embedded").form, Form::Embedded);
        let none = Folder::new(temp.0.join("none")).with_embedded([Model::embedded("a", 3)]);
        assert_eq!(none.list().expect("no folder is an empty one").len(), 1);
    }

    #[test]
    fn what_is_no_model_is_refused_with_what_there_is() {
        let temp = Temp::new("missing");
        let folder = Folder::new(temp.0.join("none"));
        assert_eq!(folder.list().expect("no folder is an empty one"), []);
        let none = format!("no model `x`: no such file or folder, and {} has no models", folder.path().display());
        assert_eq!(folder.find("x").expect_err("none").to_string(), none);
        write(&temp, "a.gguf", 1);
        write(&temp, "note.txt", 1);
        let folder = Folder::new(temp.0.clone());
        let some = format!("no model `x`: no such file or folder, and {} has only: a", folder.path().display());
        assert_eq!(folder.find("x").expect_err("none").to_string(), some);
        let note = temp.0.join("note.txt");
        let error = folder.find(note.to_str().expect("text")).expect_err("no model");
        assert!(
            error.to_string().ends_with("expected a .gguf file, or a folder with config.json and safetensors files")
        );
    }
}
