//! Shell: loads, attaches, pins, adopts and removes the kernel's programs.
//! Never: touches map contents.
//!
//! Everything is pinned, so that capture holds while no agent runs. A restarted agent adopts what
//! it finds if it was made by the same object for the same control groups; else it attaches its own
//! beside it (both generations share the maps and agree), and then removes the older.
use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{CgroupAttachMode, CgroupSockAddr, SkLookup, SockOps, links::FdLink},
};
use aya_log::EbpfLogger;
use culvert_ebpf::abi;

use super::{Error, features::missing_features, maps, netns::Netns};

static OBJECT: &[u8] = include_bytes_aligned!(env!("CULVERT_BPF_OBJECT"));

const POD_PROGRAMS: [&str; 4] = ["connect4", "connect6", "getpeername4", "getpeername6"];

/// Where programs are attached and pinned.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory on the BPF file system for everything of this agent.
    pub pin: PathBuf,
    /// Control group above all pods: their sockets are captured.
    pub pods_cgroup: PathBuf,
    /// Control group above pods, node processes and the agent.
    pub node_cgroup: PathBuf,
    /// The TCP congestion control of the agent's own sockets; `None`: the system's.
    pub congestion_control: Option<Arc<str>>,
}

/// The attached programs of one agent.
#[derive(Debug)]
pub(super) struct Attachment {
    generation: String,
    pods: PathBuf,
    steer: Mutex<SkLookup>,
}

impl Attachment {
    /// Adopts the pinned programs, or loads, attaches and pins them.
    /// When the kernel refuses a step, nothing new stays attached.
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        require(&missing_features())?;
        let directory = versioned(&settings.pin);
        let pods = directory.join("pods");
        require_bpffs(&settings.pin)?;
        create(&pods)?;
        let generation = generation(settings)?;
        let own = directory.join(&generation);
        if !own.join("steer").exists() {
            install(settings, &directory, &own)?;
        }
        remove_other_generations(&directory, &generation)?;
        let steer =
            SkLookup::from_pin(own.join("steer")).map_err(load("the adopted sk_lookup program"))?;
        Ok(Self { generation, pods, steer: Mutex::new(steer) })
    }

    /// Steers new connections of the pod's namespace to its listeners.
    pub(super) fn attach_pod(&self, cookie: u64, netns: &Netns) -> Result<(), Error> {
        let path = self.pods.join(format!("{cookie}-{}", self.generation));
        if path.exists() {
            return Ok(());
        }
        let mut steer = self.steer.lock().unwrap_or_else(PoisonError::into_inner);
        let id = steer.attach(netns.file()).map_err(load("sk_lookup for a pod"))?;
        let link: FdLink = steer.take_link(id).map_err(load("sk_lookup for a pod"))?.into();
        link.pin(&path).map_err(load("the pin of a pod's link"))?;
        self.detach(cookie, |name| !name.ends_with(&self.generation))
    }

    /// What the programs log. `None` for an object that was not built to (`cargo xtask bpf --log`).
    pub(super) fn kernel_log(&self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        let steer = self.steer.lock().unwrap_or_else(PoisonError::into_inner);
        EbpfLogger::init_from_id(steer.info().ok()?.id()).ok()
    }

    /// The namespaces that have a link, by their cookies.
    pub(super) fn pods(&self) -> Result<Vec<u64>, Error> {
        let cookie = |name: &String| name.split('-').next()?.parse().ok();
        Ok(names(&self.pods)?.iter().filter_map(cookie).collect())
    }

    /// Ends it.
    pub(super) fn detach_pod(&self, cookie: u64) -> Result<(), Error> {
        self.detach(cookie, |_| true)
    }

    fn detach(&self, cookie: u64, which: impl Fn(&str) -> bool) -> Result<(), Error> {
        let prefix = format!("{cookie}-");
        for name in names(&self.pods)? {
            if name.starts_with(&prefix) && which(&name) {
                remove_file(&self.pods.join(name))?;
            }
        }
        Ok(())
    }
}

/// The directory of the maps, which are pinned by name.
pub(super) fn versioned(pin: &Path) -> PathBuf {
    pin.join(format!("v{}", abi::VERSION))
}

/// Removes every link, program and map that agents with these settings pinned, and nothing else.
/// Says how many pins there were.
///
/// # Errors
/// When `pin` is not on a BPF file system, or a pin cannot be removed.
pub fn unload(pin: &Path) -> Result<usize, Error> {
    if !pin.exists() {
        return Ok(0);
    }
    require_bpffs(pin)?;
    let removed = remove_versions(pin, |_| true)?;
    if names(pin)?.is_empty() {
        fs::remove_dir(pin).map_err(|source| Error::file("remove", pin, source))?;
    }
    Ok(removed)
}

/// Removes what agents with other layouts of the maps left. Until then theirs take connections to a
/// port on which nobody listens, so pods that they enrolled are closed.
pub(super) fn remove_other_versions(pin: &Path) -> Result<(), Error> {
    let removed = remove_versions(pin, |version| version != abi::VERSION)?;
    if removed > 0 {
        tracing::info!(removed, "removed what an agent of another version left in the kernel");
    }
    Ok(())
}

fn remove_versions(pin: &Path, which: impl Fn(u32) -> bool) -> Result<usize, Error> {
    let version = |name: &String| name.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
    let mut removed = 0;
    for name in names(pin)? {
        if version(&name).is_some_and(&which) {
            removed += remove_tree(&pin.join(name))?;
        }
    }
    Ok(removed)
}

/// Removes a directory that we made, and says how many pins were in it.
fn remove_tree(directory: &Path) -> Result<usize, Error> {
    let mut removed = 0;
    for name in names(directory)? {
        let path = directory.join(name);
        if path.is_dir() {
            removed += remove_tree(&path)?;
        } else {
            remove_file(&path)?;
            removed += 1;
        }
    }
    fs::remove_dir(directory).map_err(|source| Error::file("remove", directory, source))?;
    Ok(removed)
}

/// The control groups of a node's pods and of all its processes, where a kubelet keeps them.
pub fn default_cgroups() -> (PathBuf, PathBuf) {
    let root = cgroup2_mount().unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    let pods = ["kubepods.slice", "kubepods"].map(|name| root.join(name));
    (pods.into_iter().find(|path| path.is_dir()).unwrap_or_else(|| root.clone()), root)
}

/// Where control groups of version 2 are mounted.
pub(super) fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

fn require(missing: &[super::Feature]) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let text = |feature: &super::Feature| match &feature.present {
        Ok(_) => format!("{} (since Linux {})", feature.name, feature.since),
        Err(why) => format!("{} (since Linux {}): {why}", feature.name, feature.since),
    };
    Err(Error::Feature(missing.iter().map(text).collect::<Vec<_>>().join("; ")))
}

/// Loads the object against the pinned maps, attaches the node-wide programs and pins them. The
/// program for pods is pinned last: its presence says that the generation is whole.
fn install(settings: &Settings, directory: &Path, own: &Path) -> Result<(), Error> {
    if own.exists() {
        remove_tree(own)?;
    }
    create(own)?;
    let mut loader = EbpfLoader::new();
    for map in maps::NAMES {
        loader.map_pin_path(map, directory.join(map));
    }
    let mut object = loader.load(OBJECT).map_err(load("the embedded object"))?;
    let installed = attach(&mut object, settings, own);
    if installed.is_err() {
        remove_tree(own)?;
    }
    installed
}

fn attach(object: &mut Ebpf, settings: &Settings, own: &Path) -> Result<(), Error> {
    let node = open(&settings.node_cgroup)?;
    let pods = open(&settings.pods_cgroup)?;
    let connections: &mut SockOps = program(object, "connections")?;
    connections.load().map_err(load("connections"))?;
    let id = connections.attach(node, CgroupAttachMode::Single).map_err(load("connections"))?;
    let link = connections.take_link(id).map_err(load("connections"))?;
    pin(link.try_into().map_err(load("connections"))?, &own.join("connections"))?;
    for name in POD_PROGRAMS {
        let hook: &mut CgroupSockAddr = program(object, name)?;
        hook.load().map_err(load(name))?;
        let id = hook.attach(&pods, CgroupAttachMode::Single).map_err(load(name))?;
        let link = hook.take_link(id).map_err(load(name))?;
        pin(link.try_into().map_err(load(name))?, &own.join(name))?;
    }
    let steer: &mut SkLookup = program(object, "steer")?;
    steer.load().map_err(load("steer"))?;
    steer.pin(own.join("steer")).map_err(load("the pin of steer"))
}

fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let absent = || Error::Load { what: name, source: "the object does not have it".into() };
    object.program_mut(name).ok_or_else(absent)?.try_into().map_err(load(name))
}

fn pin(link: FdLink, path: &Path) -> Result<(), Error> {
    link.pin(path).map(drop).map_err(load("the pin of a link"))
}

/// Names what the programs were made of: the object, and the control groups that they watch.
fn generation(settings: &Settings) -> Result<String, Error> {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    for cgroup in [&settings.pods_cgroup, &settings.node_cgroup] {
        let metadata = fs::metadata(cgroup)
            .map_err(|source| Error::file("open control group", cgroup, source))?;
        metadata.ino().hash(&mut hasher);
    }
    Ok(format!("programs-{:016x}", hasher.finish()))
}

fn remove_other_generations(directory: &Path, generation: &str) -> Result<(), Error> {
    for name in names(directory)? {
        if name.starts_with("programs-") && name != generation {
            remove_tree(&directory.join(name))?;
        }
    }
    Ok(())
}

fn require_bpffs(pin: &Path) -> Result<(), Error> {
    let mut existing = pin;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let kind = nix::sys::statfs::statfs(existing)
        .map_err(|error| Error::file("examine", existing, error.into()))?
        .filesystem_type();
    if kind == nix::sys::statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    let hint =
        io::Error::other("not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf");
    Err(Error::file("pin programs in", pin, hint))
}

/// Only root may see the pins: who can write the maps decides who is captured.
fn create(directory: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::file("create", directory, source))
}

fn open(cgroup: &Path) -> Result<File, Error> {
    File::open(cgroup).map_err(|source| Error::file("open control group", cgroup, source))
}

fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::file("list", directory, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn remove_file(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|source| Error::file("remove", path, source))
}

fn load<E>(what: &'static str) -> impl Fn(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Error::Load { what, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::{super::Feature, *};

    #[test]
    fn a_kernel_that_lacks_something_is_told_what_and_since_when_there_is_such_a_thing() {
        require(&[]).unwrap();
        let feature = |name, since, present| Feature { name, since, present };
        let missing = [
            feature("sk_lookup programs", "5.9", Ok(false)),
            feature("socket storage", "5.2", Err("operation not permitted".into())),
        ];
        assert_eq!(
            require(&missing).unwrap_err().to_string(),
            "this kernel cannot capture connections: sk_lookup programs (since Linux 5.9); \
             socket storage (since Linux 5.2): operation not permitted"
        );
    }
}
