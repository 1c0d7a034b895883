//! Shell: opens sockets inside a pod's network namespace.
//! Never: leaves a thread there. A socket belongs to the namespace that it was made in, wherever it
//! is used afterwards.
use std::{fs::File, io, path::Path, sync::Arc};

use nix::sched::{CloneFlags, setns};

/// A network namespace, and the way back.
#[derive(Clone, Debug)]
pub(super) struct Netns {
    there: Arc<File>,
    home: Arc<File>,
}

impl Netns {
    /// Opens the namespace at `path`, for example `/run/netns/pod` or `/proc/123/ns/net`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let there = Arc::new(File::open(path)?);
        Ok(Self { there, home: Arc::new(File::open("/proc/thread-self/ns/net")?) })
    }

    /// Runs `work` inside the namespace. It must not block: the calling thread serves others.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let back = Return(&self.home);
        setns(&*self.there, CloneFlags::CLONE_NEWNET)?;
        let result = work();
        drop(back);
        Ok(result)
    }

    /// The file that stands for the namespace.
    pub(super) fn file(&self) -> &File {
        &self.there
    }
}

/// Brings the thread home, also when the work panicked.
struct Return<'a>(&'a File);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            // A thread in a stranger's namespace would open other pods' sockets there.
            std::process::abort();
        }
    }
}
