//! Shell: asks the kernel for the features that capture needs.
//! Never: compares kernel versions: distributions backport.
use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::diag;

/// One feature that capture is built on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What it is, in the kernel's own words.
    pub name: &'static str,
    /// The first kernel release that has it.
    pub since: &'static str,
    /// Whether this kernel has it; or why that cannot be said.
    pub present: Result<bool, String>,
}

/// Every feature, with its presence on this kernel.
pub fn features() -> Vec<Feature> {
    let program = |name, since, kind| Feature {
        name,
        since,
        present: is_program_supported(kind).map_err(|error| error.to_string()),
    };
    let map = |name, since, kind| Feature {
        name,
        since,
        present: is_map_supported(kind).map_err(|error| error.to_string()),
    };
    let helper = |name, since, kind, helper| Feature {
        name,
        since,
        present: is_helper_supported(kind, helper).map_err(|error| error.to_string()),
    };
    vec![
        program("cgroup/connect and getpeername programs", "5.8", ProgramType::CgroupSockAddr),
        helper(
            "bpf_set_retval in cgroup/connect programs",
            "5.18",
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_set_retval,
        ),
        helper(
            "bpf_get_netns_cookie in sockops programs",
            "5.15",
            ProgramType::SockOps,
            BpfHelper::BPF_FUNC_get_netns_cookie,
        ),
        program("sockops programs", "4.13", ProgramType::SockOps),
        program("sk_lookup programs", "5.9", ProgramType::SkLookup),
        map("socket storage", "5.2", MapType::SkStorage),
        map("socket maps", "4.14", MapType::SockMap),
        map("LRU hash maps", "4.10", MapType::LruHash),
        map("longest-prefix maps", "4.11", MapType::LpmTrie),
        map("ring buffers", "5.8", MapType::RingBuf),
        Feature {
            name: "ending sockets by sock_diag",
            since: "4.5, CONFIG_INET_DIAG_DESTROY",
            present: diag::is_supported().map_err(|error| error.to_string()),
        },
        Feature {
            name: "BTF of the kernel (/sys/kernel/btf/vmlinux)",
            since: "5.4, CONFIG_DEBUG_INFO_BTF",
            present: Ok(std::path::Path::new("/sys/kernel/btf/vmlinux").exists()),
        },
        Feature {
            name: "control groups version 2",
            since: "4.5",
            present: Ok(super::loader::cgroup2_mount().is_some()),
        },
    ]
}

/// The features that this kernel does not have; empty when capture can work.
pub(super) fn missing_features() -> Vec<Feature> {
    features().into_iter().filter(|feature| feature.present != Ok(true)).collect()
}
