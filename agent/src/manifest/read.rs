//! Shell: reads a folder of YAML and JSON files, and reads it again when it changes.
//! Never: guesses at a broken document (see `documents`).
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};

use super::{
    compile::{Compiler, Settings},
    documents::{Changes, Folder, MAX_FILE, MAX_FILES},
};
use crate::{discovery::Snapshot, drain::Drain, origin::Problem};

/// Changes that come within this time are taken together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Pause before a folder that could not be listed is listed again.
const RETRY: Duration = Duration::from_secs(1);

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
/// are published when something changed, and only what changed is read. What is wrong is logged once.
///
/// # Errors
/// When the folder cannot be read or watched at all.
pub async fn watch(
    directory: &Path,
    settings: Settings,
    drain: &Drain,
) -> Result<watch::Receiver<Arc<Snapshot>>, Error> {
    let mut compiler = Compiler::new(settings);
    let mut known = Known::default();
    let make = move |folder: &Folder, changes: &Changes| {
        let snapshot = compiler.apply(folder, changes);
        known.report(snapshot.problems());
        tracing::info!(
            workloads = snapshot.workloads().len(),
            services = snapshot.count_services(),
            problems = snapshot.problems().len(),
            "manifests read"
        );
        snapshot
    };
    follow(directory, drain, make).await
}

/// Reads `directory` and follows it until `drain` says stop, and publishes what `make` makes of the
/// folder and of what changed in it since the last time; the first time, of all that is there.
///
/// # Errors
/// When the folder cannot be read or watched at all.
pub async fn follow<T: Send + Sync + 'static>(
    directory: &Path,
    drain: &Drain,
    mut make: impl FnMut(&Folder, &Changes) -> T + Send + 'static,
) -> Result<watch::Receiver<Arc<T>>, Error> {
    let touched = Arc::new(Touched::default());
    let (wake, base) = (touched.clone(), directory.to_owned());
    let notified = move |event: notify::Result<notify::Event>| wake.note(&base, event);
    let watching = |error| Error::Watch(directory.into(), error);
    let mut watcher = notify::recommended_watcher(notified).map_err(watching)?;
    watcher.watch(directory, RecursiveMode::Recursive).map_err(watching)?;
    let mut folder = Folder::default();
    let found = contents(directory).map_err(|error| Error::Folder(directory.into(), error))?;
    let changes = folder.update(found);
    let first = make(&folder, &changes);
    let mut reader = Reader { directory: directory.into(), make, folder, failed: false };
    let (sender, receiver) = watch::channel(Arc::new(first));
    let stop = drain.clone();
    drain.spawn(async move {
        let _watcher = watcher;
        loop {
            tokio::select! {
                () = touched.changed.notified() => {}
                () = stop.draining() => return,
            }
            tokio::time::sleep(DEBOUNCE).await;
            let paths = touched.take();
            let read = tokio::task::spawn_blocking(move || {
                let made = reader.read(paths);
                (reader, made)
            });
            let Ok((back, made)) = read.await else {
                return;
            };
            reader = back;
            if std::mem::take(&mut reader.failed) {
                touched.whole.store(true, Ordering::Relaxed);
                tokio::time::sleep(RETRY).await;
                touched.changed.notify_one();
            }
            if let Some(made) = made {
                sender.send_replace(Arc::new(made));
            }
        }
    });
    Ok(receiver)
}

/// What the kernel says has changed.
#[derive(Debug, Default)]
struct Touched {
    paths: Mutex<Option<HashSet<PathBuf>>>,
    /// More than single manifests.
    whole: AtomicBool,
    changed: Notify,
}

impl Touched {
    fn note(&self, directory: &Path, event: notify::Result<notify::Event>) {
        let (paths, whole) = match event {
            // Access events are our own reads.
            Ok(event) if event.kind.is_access() => return,
            Ok(event) => {
                let whole = event.need_rescan();
                (event.paths, whole)
            }
            Err(_) => (Vec::new(), true),
        };
        let mut touched = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            let inside = path.parent() == Some(directory);
            match extension(&path) {
                true if inside && is_hidden(&path) => {}
                true if inside => drop(touched.get_or_insert_default().insert(path)),
                // A mounted ConfigMap changes by a link that all its files go through.
                true | false => self.whole.store(true, Ordering::Relaxed),
            }
        }
        if whole {
            self.whole.store(true, Ordering::Relaxed);
        }
        drop(touched);
        self.changed.notify_one();
    }

    /// The paths to read; `None` for all that there are.
    fn take(&self) -> Option<HashSet<PathBuf>> {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = paths.take().unwrap_or_default();
        (!self.whole.swap(false, Ordering::Relaxed)).then_some(paths)
    }
}

/// Path → text, or why it cannot be read.
type Contents = BTreeMap<Arc<str>, Result<String, String>>;

struct Reader<F> {
    directory: PathBuf,
    make: F,
    folder: Folder,
    /// The folder could not be listed, or nothing could be made of it.
    failed: bool,
}

impl<T, F: FnMut(&Folder, &Changes) -> T> Reader<F> {
    /// What is made of the folder, if anything changed. One that cannot be listed stays as it was.
    fn read(&mut self, paths: Option<HashSet<PathBuf>>) -> Option<T> {
        let changes = match paths {
            Some(paths) if self.folder.count() + paths.len() <= MAX_FILES => {
                let file = |path: PathBuf| (path.to_string_lossy().into(), text_if_there(&path));
                self.folder.update_files(paths.into_iter().map(file))
            }
            Some(_) | None => match contents(&self.directory) {
                Ok(contents) => self.folder.update(contents),
                Err(error) => {
                    tracing::warn!(%error, directory = %self.directory.display(), "cannot list the manifests: the last good state stays");
                    self.failed = true;
                    return None;
                }
            },
        };
        if changes.is_empty() {
            return None;
        }
        let made = AssertUnwindSafe(|| (self.make)(&self.folder, &changes));
        let made = panic::catch_unwind(made).ok();
        if made.is_none() {
            tracing::error!(
                "a change of the manifests broke their reader, which is a defect: the last good state stays, and all is read again"
            );
            self.folder = Folder::default();
            self.failed = true;
        }
        made
    }
}

/// Problems that were logged already.
#[derive(Debug, Default)]
pub struct Known(HashSet<Problem>);

impl Known {
    /// Logs each problem once, for as long as it is there.
    pub fn report(&mut self, problems: &[Problem]) {
        for problem in problems {
            if !self.0.contains(problem) {
                tracing::warn!(at = %problem.origin, "manifest: {}", problem.text);
            }
        }
        self.0 = problems.iter().cloned().collect();
    }
}

/// All files of the folder that look like manifests.
fn contents(directory: &Path) -> io::Result<Contents> {
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_hidden(&path) || !extension(&path) {
            continue;
        }
        if contents.len() == MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
        if let Some(text) = text_if_there(&path) {
            contents.insert(path.to_string_lossy().into(), text);
        }
    }
    Ok(contents)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'))
}

fn extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// The text, or why it cannot be read; `None` for a file that is gone.
fn text_if_there(path: &Path) -> Option<Result<String, String>> {
    match text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        text => Some(text.map_err(|error| error.to_string())),
    }
}

fn text(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    if length > MAX_FILE {
        return Err(io::Error::other(format!("{length} bytes, more than {MAX_FILE}: split it")));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_breaks_its_reader_does_not_end_the_following() {
        let folder = std::env::temp_dir().join(format!("culvert-read-{}", rand::random::<u64>()));
        fs::create_dir_all(&folder).unwrap();
        let mut times = 0;
        let make = move |folder: &Folder, _: &Changes| {
            times += 1;
            assert_ne!(times, 2, "a defect");
            folder.count()
        };
        let drain = Drain::default();
        let mut made = follow(&folder, &drain, make).await.unwrap();
        let pod = "{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: b}}";
        fs::write(folder.join("a.yaml"), pod).unwrap();
        let patience = RETRY * 10;
        tokio::time::timeout(patience, made.wait_for(|count| **count == 1)).await.unwrap().unwrap();
        drain.force();
        let _ = fs::remove_dir_all(&folder);
    }
}
