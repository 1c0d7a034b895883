//! Front: the mesh as a folder of Kubernetes manifests describes it.
//! `read` (Shell) watches the folder, `documents` and `objects` (Pure) say what is in it, `security`
//! (Pure) reads policies, `compile` (Pure) turns it into a snapshot. `declared` (Pure) are the objects
//! that waypoints make something of.
mod compile;
mod declared;
mod documents;
mod objects;
mod read;
mod security;

pub use compile::{Compiler, Settings, compile};
pub use declared::{Declared, ISTIO_GATEWAY, KINDS, Name, SECRET};
pub use documents::{Changes, Folder, MAX_FILE, MAX_FILES};
pub use objects::{Labels, Metadata, Owner};
pub use read::{Error, Known, follow, watch};
pub use security::is_misspelt;
