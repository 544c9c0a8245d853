//! `mlx-run list`.

use std::time::SystemTime;

use mlxr_registry::Form;

use super::{print_table, size_text};
use crate::CliError;
use crate::args::ListArgs;
use crate::load;

/// Prints the models of the model folder and of this program.
///
/// # Errors
/// If the folder cannot be read.
pub fn run(args: &ListArgs) -> Result<(), CliError> {
    let folder = load::folder(&args.folder)?;
    let models = folder.list()?;
    if models.iter().all(|model| model.form == Form::Embedded) {
        eprintln!("no models in {}: put .gguf files or model folders there", folder.path().display());
    }
    let mut rows = vec![["NAME", "SIZE", "FORM", "CHANGED"].map(str::to_owned).to_vec()];
    rows.extend(models.into_iter().map(|model| {
        let form = match model.form {
            Form::Gguf => "gguf",
            Form::Folder => "folder",
            Form::Embedded => "built in",
        };
        vec![model.name, size_text(model.size_bytes), form.to_owned(), age(model.modified)]
    }));
    Ok(print_table(&rows)?)
}

fn age(time: SystemTime) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400 * 30, "months"), (86_400, "days"), (3600, "hours"), (60, "minutes")];
    let seconds = SystemTime::now().duration_since(time).map_or(0, |age| age.as_secs());
    let unit = UNITS.iter().find(|(length, _)| seconds >= 2 * length);
    unit.map_or("just now".to_owned(), |(length, name)| format!("{} {name} ago", seconds / length))
}
