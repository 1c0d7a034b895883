//! Front: capture of pods' connections by the kernel. The only room that names aya.
//! Never: who may talk to whom, a byte of payload.
mod addresses;
mod diag;
mod direct;
mod enrol;
mod features;
mod listener;
mod loader;
mod maps;
mod netns;
mod pod;

pub use addresses::canonical;
pub use direct::{DirectEvent, DirectFlow, Events, Shortcuts, Way};
pub use enrol::{Enrolment, LocalPods};
pub use features::{Feature, features};
pub use listener::{Arrival, Captured};
pub use loader::{Settings, default_cgroups, unload};
pub use pod::LocalPod;

/// What went wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks what capture is built on.
    #[error("this kernel cannot capture connections: {0}")]
    Feature(String),
    /// A file or directory of the machine.
    #[error("{what} {path}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// Where.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The object or one of its programs was refused.
    #[error("load {what} into the kernel")]
    Load {
        /// Program or object.
        what: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map could not be opened, read or written.
    #[error("access map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why not.
        source: aya::maps::MapError,
    },
    /// A listener never learned which namespace it is in.
    #[error(
        "the kernel does not see this agent's sockets: capture.node_cgroup must be above the agent's own control group"
    )]
    Blind,
    /// Nobody says where the pod's network namespace is.
    #[error("the annotation culvert.dev/netns is missing: it names the pod's network namespace")]
    NoNamespace,
    /// More pods than there are places for.
    #[error("{0} pods are enrolled, which is the limit of one node")]
    Full(usize),
    /// The pod's control group is not below the one that is watched.
    #[error(
        "control group {cgroup} is not below capture.pods_cgroup {watched}, so its connections would not be captured"
    )]
    OutsideCgroup {
        /// The pod's.
        cgroup: String,
        /// The one from the configuration.
        watched: String,
    },
}

impl Error {
    fn file(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { what, path: path.display().to_string(), source }
    }
}
