//! Shell: reads the files and folders that are to be analyzed.
//! Never: what they mean.
use std::{
    collections::BTreeMap,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use culvert_agent::manifest::{MAX_FILE, MAX_FILES};

/// Endings of files that may hold objects.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Why nothing can be analyzed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// There are too many.
    #[error("there are more than {MAX_FILES} files")]
    TooMany,
}

/// The text of files, by path, and those that were left out because of their names.
pub type Contents = (BTreeMap<Arc<str>, String>, Vec<PathBuf>);

/// The text of all files, and those that were left out. Folders are searched to the bottom; `-` is the standard input.
///
/// # Errors
/// When one cannot be read.
pub fn contents(paths: &[PathBuf]) -> Result<Contents, Error> {
    let (mut texts, mut skipped) = (BTreeMap::new(), Vec::new());
    let mut waiting: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = waiting.pop() {
        let wrong = |error| Error::Read(path.clone(), error);
        if path.as_os_str() == "-" {
            let mut text = String::new();
            io::stdin().take(MAX_FILE).read_to_string(&mut text).map_err(wrong)?;
            texts.insert("-".into(), text);
        } else if fs::metadata(&path).map_err(wrong)?.is_dir() {
            for entry in fs::read_dir(&path).map_err(wrong)? {
                waiting.push(entry.map_err(wrong)?.path());
            }
        } else if is_manifest(&path) {
            let length = fs::metadata(&path).map_err(wrong)?.len();
            if length > MAX_FILE {
                let text = format!("{length} bytes, more than {MAX_FILE}");
                return Err(wrong(io::Error::other(text)));
            }
            texts.insert(path.to_string_lossy().into(), fs::read_to_string(&path).map_err(wrong)?);
        } else {
            skipped.push(path);
        }
        if texts.len() + waiting.len() > MAX_FILES {
            return Err(Error::TooMany);
        }
    }
    skipped.sort();
    Ok((texts, skipped))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}
