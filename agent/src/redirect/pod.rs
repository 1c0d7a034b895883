//! Shell: an enrolled pod of this node: its namespace, its certificates, the way in.
//! Never: decides who may connect.
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_ebpf::abi;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{diag::Diag, direct::DirectFlow, listener, maps::Maps, netns::Netns};
use crate::{discovery::Workload, identity::keeper::Lease, route::Held};

/// An enrolled pod of this node.
#[derive(Debug)]
pub struct LocalPod {
    pub(super) workload: Arc<Workload>,
    pub(super) credentials: Lease,
    pub(super) netns: Netns,
    pub(super) cookie: u64,
    pub(super) ports: [u16; 3],
    pub(super) maps: Arc<Maps>,
    pub(super) congestion: Option<Arc<str>>,
    pub(super) released: CancellationToken,
}

impl LocalPod {
    /// The pod's unique name.
    pub fn uid(&self) -> &Arc<str> {
        &self.workload.uid
    }

    /// The pod as it was when it was enrolled.
    pub fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    /// The pod's certificates, as they are renewed.
    pub fn credentials(&self) -> &Lease {
        &self.credentials
    }

    /// Whether the address is one of the pod's.
    pub fn has(&self, address: IpAddr) -> bool {
        self.workload.addresses.contains(&address)
    }

    /// Whether a connection to this port of the pod would come back to the agent.
    pub fn is_agent_port(&self, port: u16) -> bool {
        port == abi::HBONE_PORT || self.is_listener(port)
    }

    pub(super) fn is_listener(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// Connects from inside the pod's namespace, past the kernel's capture. An application that
    /// accepts the connection sees `client` as its peer.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn connect(
        &self,
        to: SocketAddr,
        client: Option<SocketAddr>,
    ) -> io::Result<TcpStream> {
        self.dial(to, client, self.congestion.as_deref()).await
    }

    /// As [`connect`](Self::connect), to somebody outside the mesh: with the congestion control that
    /// the pod's own connections have.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn connect_outside(
        &self,
        to: SocketAddr,
        client: Option<SocketAddr>,
    ) -> io::Result<TcpStream> {
        self.dial(to, client, None).await
    }

    async fn dial(
        &self,
        to: SocketAddr,
        client: Option<SocketAddr>,
        congestion: Option<&str>,
    ) -> io::Result<TcpStream> {
        let socket: TcpSocket =
            listener::dialling(&self.maps, &self.netns, congestion, (to, client))
                .map_err(io::Error::other)?;
        socket.connect(to).await
    }

    /// Waits until the pod has left the mesh.
    pub async fn released(&self) {
        self.released.cancelled().await;
    }

    /// What the kernel takes the address for.
    pub fn held(&self, address: IpAddr) -> Held {
        self.maps.held(address)
    }

    pub(super) fn original_destination(&self, stream: &TcpStream) -> Option<SocketAddr> {
        self.maps.original_destination(stream)
    }

    /// Ends these connections at the sockets that the pod's applications have in them, and nothing
    /// else: a reset for the other side. One that is gone already is fine.
    ///
    /// # Errors
    /// When the kernel does not take the request.
    pub fn destroy(&self, flows: &[DirectFlow]) -> io::Result<()> {
        let mut ends = flows.iter().flat_map(|flow| flow.ends_in(self.cookie)).peekable();
        if ends.peek().is_none() {
            return Ok(());
        }
        let diag = self.netns.within(Diag::open)??;
        ends.map(|end| diag.destroy(&end)).fold(Ok(()), Result::and)
    }
}
