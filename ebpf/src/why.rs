//! Pure: the closed set of ways that a program run ends; each has a counter of its own.
//! Never: text on the kernel's side.

/// Why a program passed, redirected, marked or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Why {
    /// connect: not TCP.
    ConnectOtherProtocol,
    /// connect: the pod is not enrolled.
    ConnectNotEnrolled,
    /// connect: one of the agent's own sockets.
    ConnectAgent,
    /// connect: to loopback or to an address of the pod itself.
    ConnectLocal,
    /// connect: the mesh does not know the destination.
    ConnectNotMesh,
    /// connect: taken to the agent.
    ConnectRedirected,
    /// connect: refused, because the kernel could not remember the destination.
    ConnectRefused,
    /// connect: the socket was bound already, its source address stays as it is.
    ConnectBound,
    /// getpeername: the socket is none of ours.
    PeerUnmarked,
    /// getpeername: answered with the address that the application dialled.
    PeerDialled,
    /// getpeername or accept: answered with the true client.
    PeerClient,
    /// A connection was opened that nobody needs to know about.
    OpenUnmarked,
    /// A handshake was noted for its accepting side.
    OpenNoted,
    /// A node process dialled an enrolled pod: exempt.
    OpenProbe,
    /// An accepted socket without a note.
    AcceptUnmarked,
    /// An accepted socket was marked.
    AcceptMarked,
    /// A note was too old to belong to the accepted socket.
    AcceptStale,
    /// The kernel had no memory for the mark.
    AcceptNoMemory,
    /// A listener of the agent learned its namespace.
    ListenAnswered,
    /// A socket listens that is none of the agent's.
    ListenUnmarked,
    /// An exempt connection ended, and its exemption with it.
    ProbeClosed,
    /// An exempt connection changed its state and lives on.
    ProbeOpen,
    /// An event of a socket that means nothing here.
    EventUnused,
    /// lookup: not TCP.
    LookupOtherProtocol,
    /// lookup: inside the pod.
    LookupLocal,
    /// lookup: a node process, straight to the application.
    LookupProbe,
    /// lookup: steered to the agent's plaintext listener.
    LookupPlain,
    /// lookup: steered to the agent's tunnel listener.
    LookupHbone,
    /// lookup: dropped, the agent does not listen.
    LookupNoAgent,
    /// lookup: dropped, the pod has an address that the agent does not know.
    LookupUnknownAddress,
    /// lookup: dropped, the kernel would not assign the listener.
    LookupAssignFailed,
    /// connect: straight to a pod of this node, by a verdict of the agent.
    ConnectDirect,
    /// A connection that goes by a verdict was opened.
    OpenDirect,
    /// A connection was opened by a verdict that does not hold any more: it will be refused.
    OpenRevoked,
    /// A connection was opened by a verdict, and there is no room for it: it will be refused.
    OpenFull,
    /// Such a connection was let in by the pod that the verdict names, and is established.
    OpenAdmitted,
    /// Somebody else answered: nothing leaves the client's socket.
    OpenMisled,
    /// An accepted socket of a connection that goes by a verdict.
    AcceptDirect,
    /// The same, in another pod than the one that the verdict names.
    AcceptMisled,
    /// A socket of such a connection changed its state and lives on.
    FlowOpen,
    /// A socket of such a connection is gone.
    FlowClosed,
    /// The agent could not be told of such a connection: the ring was full.
    EventLost,
    /// lookup: by a verdict, straight to the application.
    LookupDirect,
    /// lookup: dropped, the verdict does not hold any more.
    LookupRevoked,
    /// connect: to the agent in spite of a verdict, because too many are open by verdicts.
    ConnectCrowded,
    /// The last step of a handshake came when its client's socket was gone: nothing leaves the
    /// accepted socket.
    AcceptLate,
    /// A socket that nothing may leave could not be tied.
    TieFailed,
}

impl Why {
    /// Every reason, in counter order.
    pub const ALL: [Self; 47] = [
        Self::ConnectOtherProtocol,
        Self::ConnectNotEnrolled,
        Self::ConnectAgent,
        Self::ConnectLocal,
        Self::ConnectNotMesh,
        Self::ConnectRedirected,
        Self::ConnectRefused,
        Self::ConnectBound,
        Self::PeerUnmarked,
        Self::PeerDialled,
        Self::PeerClient,
        Self::OpenUnmarked,
        Self::OpenNoted,
        Self::OpenProbe,
        Self::AcceptUnmarked,
        Self::AcceptMarked,
        Self::AcceptStale,
        Self::AcceptNoMemory,
        Self::ListenAnswered,
        Self::ListenUnmarked,
        Self::ProbeClosed,
        Self::ProbeOpen,
        Self::EventUnused,
        Self::LookupOtherProtocol,
        Self::LookupLocal,
        Self::LookupProbe,
        Self::LookupPlain,
        Self::LookupHbone,
        Self::LookupNoAgent,
        Self::LookupUnknownAddress,
        Self::LookupAssignFailed,
        Self::ConnectDirect,
        Self::OpenDirect,
        Self::OpenRevoked,
        Self::OpenFull,
        Self::OpenAdmitted,
        Self::OpenMisled,
        Self::AcceptDirect,
        Self::AcceptMisled,
        Self::FlowOpen,
        Self::FlowClosed,
        Self::EventLost,
        Self::LookupDirect,
        Self::LookupRevoked,
        Self::ConnectCrowded,
        Self::AcceptLate,
        Self::TieFailed,
    ];

    /// The reason as metrics and dumps name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConnectOtherProtocol => "connect_other_protocol",
            Self::ConnectNotEnrolled => "connect_not_enrolled",
            Self::ConnectAgent => "connect_agent",
            Self::ConnectLocal => "connect_local",
            Self::ConnectNotMesh => "connect_not_mesh",
            Self::ConnectRedirected => "connect_redirected",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectBound => "connect_bound",
            Self::PeerUnmarked => "peer_unmarked",
            Self::PeerDialled => "peer_dialled",
            Self::PeerClient => "peer_client",
            Self::OpenUnmarked => "open_unmarked",
            Self::OpenNoted => "open_noted",
            Self::OpenProbe => "open_probe",
            Self::AcceptUnmarked => "accept_unmarked",
            Self::AcceptMarked => "accept_marked",
            Self::AcceptStale => "accept_stale",
            Self::AcceptNoMemory => "accept_no_memory",
            Self::ListenAnswered => "listen_answered",
            Self::ListenUnmarked => "listen_unmarked",
            Self::ProbeClosed => "probe_closed",
            Self::ProbeOpen => "probe_open",
            Self::EventUnused => "event_unused",
            Self::LookupOtherProtocol => "lookup_other_protocol",
            Self::LookupLocal => "lookup_local",
            Self::LookupProbe => "lookup_probe",
            Self::LookupPlain => "lookup_plain",
            Self::LookupHbone => "lookup_hbone",
            Self::LookupNoAgent => "lookup_no_agent",
            Self::LookupUnknownAddress => "lookup_unknown_address",
            Self::LookupAssignFailed => "lookup_assign_failed",
            Self::ConnectDirect => "connect_direct",
            Self::OpenDirect => "open_direct",
            Self::OpenRevoked => "open_revoked",
            Self::OpenFull => "open_full",
            Self::OpenAdmitted => "open_admitted",
            Self::OpenMisled => "open_misled",
            Self::AcceptDirect => "accept_direct",
            Self::AcceptMisled => "accept_misled",
            Self::FlowOpen => "flow_open",
            Self::FlowClosed => "flow_closed",
            Self::EventLost => "event_lost",
            Self::LookupDirect => "lookup_direct",
            Self::LookupRevoked => "lookup_revoked",
            Self::ConnectCrowded => "connect_crowded",
            Self::AcceptLate => "accept_late",
            Self::TieFailed => "tie_failed",
        }
    }
}

/// Number of counters.
pub const COUNTERS: usize = Why::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_order_and_names_are_unique() {
        for (index, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
        let names: std::collections::BTreeSet<_> = Why::ALL.into_iter().map(Why::name).collect();
        assert_eq!(names.len(), COUNTERS);
    }
}
