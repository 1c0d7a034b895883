//! Shell: reads a folder of YAML and JSON files, and reads it again when it changes.
//! Never: guesses at a broken document (see `documents`).
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use super::{
    compile::{Settings, compile},
    documents::{Folder, MAX_FILE, MAX_FILES},
};
use crate::{discovery::Snapshot, drain::Drain, origin::Problem};

/// Changes that come within this time are taken together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Why a folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be listed.
    #[error("read the manifests in {0}: give an existing folder")]
    Folder(PathBuf, #[source] io::Error),
    /// The kernel does not report its changes.
    #[error("watch the manifests in {0}")]
    Watch(PathBuf, #[source] notify::Error),
}

/// Reads `directory` and follows it until `drain` says stop. The first snapshot is whole; later ones
/// are published when something changed. What is wrong is logged once.
///
/// # Errors
/// When the folder cannot be read or watched at all.
pub async fn watch(
    directory: &Path,
    settings: Settings,
    drain: &Drain,
) -> Result<watch::Receiver<Arc<Snapshot>>, Error> {
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    // Access events are our own reads.
    let notified = move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| !event.kind.is_access()) {
            wake.notify_one();
        }
    };
    let watching = |error| Error::Watch(directory.into(), error);
    let mut watcher = notify::recommended_watcher(notified).map_err(watching)?;
    watcher.watch(directory, RecursiveMode::Recursive).map_err(watching)?;
    let mut reader = Reader {
        directory: directory.into(),
        settings,
        folder: Folder::default(),
        known: HashSet::new(),
    };
    let found = contents(directory).map_err(|error| Error::Folder(directory.into(), error))?;
    let first = reader.take(found).unwrap_or_default();
    let (sender, receiver) = watch::channel(Arc::new(first));
    let stop = drain.clone();
    drain.spawn(async move {
        let _watcher = watcher;
        loop {
            tokio::select! {
                () = changed.notified() => {}
                () = stop.draining() => return,
            }
            tokio::time::sleep(DEBOUNCE).await;
            let read = tokio::task::spawn_blocking(move || {
                let snapshot = reader.read();
                (reader, snapshot)
            });
            let Ok((back, snapshot)) = read.await else {
                return;
            };
            reader = back;
            if let Some(snapshot) = snapshot {
                sender.send_replace(Arc::new(snapshot));
            }
        }
    });
    Ok(receiver)
}

/// Path → text, or why it cannot be read.
type Contents = BTreeMap<Arc<str>, Result<String, String>>;

struct Reader {
    directory: PathBuf,
    settings: Settings,
    folder: Folder,
    known: HashSet<Problem>,
}

impl Reader {
    /// A new snapshot, if anything changed. A folder that cannot be listed stays as it was.
    fn read(&mut self) -> Option<Snapshot> {
        let contents = match contents(&self.directory) {
            Ok(contents) => contents,
            Err(error) => {
                tracing::warn!(%error, directory = %self.directory.display(), "cannot list the manifests: the last good state stays");
                return None;
            }
        };
        self.take(contents)
    }

    fn take(&mut self, contents: Contents) -> Option<Snapshot> {
        if !self.folder.update(contents) {
            return None;
        }
        let snapshot = compile(&self.folder, &self.settings);
        self.report(snapshot.problems());
        tracing::info!(
            workloads = snapshot.workloads().count(),
            services = snapshot.services().count(),
            problems = snapshot.problems().len(),
            "manifests read"
        );
        Some(snapshot)
    }

    fn report(&mut self, problems: &[Problem]) {
        for problem in problems {
            if !self.known.contains(problem) {
                tracing::warn!(at = %problem.origin, "manifest: {}; the last good version stays", problem.text);
            }
        }
        self.known = problems.iter().cloned().collect();
    }
}

/// All files of the folder that look like manifests.
fn contents(directory: &Path) -> io::Result<Contents> {
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !matches!(extension, Some("yaml" | "yml" | "json")) {
            continue;
        }
        if contents.len() == MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        let text = match text(&path) {
            // It went between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.map_err(|error| error.to_string()),
        };
        contents.insert(path.to_string_lossy().into(), text);
    }
    Ok(contents)
}

fn text(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(io::Error::other(format!("{length} bytes, more than {MAX_FILE}: split it")));
    }
    fs::read_to_string(path)
}
