//! Shell: hands pods to the peer as its CNI does (ZDS: one message a packet, acknowledged; a pod's
//! comes with the file of its namespace).
use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use e2e::{Pod, factory::PATIENCE};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept, bind, listen, sendmsg, socket_with,
};

/// `WorkloadRequest { snapshot_sent: SnapshotSent {} }`
const SNAPSHOT_SENT: [u8; 2] = [0x1a, 0];

/// A socket that the peer will connect to.
pub(crate) struct Server(std::os::fd::OwnedFd);

/// The peer, ready to take pods.
pub(crate) struct Line(UnixStream);

impl Server {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 1)?;
        Ok(Self(socket))
    }

    /// Waits for the peer.
    pub(crate) fn accept(self) -> Result<Line> {
        let mut line = Line(accept(&self.0)?.into());
        line.0.set_read_timeout(Some(PATIENCE))?;
        line.answer("hello")?;
        line.0.write_all(&SNAPSHOT_SENT)?;
        line.answer("acknowledgement")?;
        Ok(line)
    }
}

impl Line {
    /// Enrols a pod, under the account of its own name.
    pub(crate) fn add(&mut self, pod: &Pod) -> Result<()> {
        let namespace = File::open(pod.netns())?;
        let account =
            [field(1, pod.name.as_bytes())?, field(2, b"default")?, field(3, pod.name.as_bytes())?];
        let workload = [field(1, pod.name.as_bytes())?, field(2, &account.concat())?];
        let message = field(1, &workload.concat())?;
        let files = [namespace.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.0, &[IoSlice::new(&message)], &mut ancillary, SendFlags::empty())?;
        self.answer("acknowledgement")
    }

    fn answer(&mut self, what: &str) -> Result<()> {
        let read = self.0.read(&mut [0; 512]).with_context(|| format!("the peer's {what}"))?;
        ensure!(read > 0, "the peer ended instead of its {what}");
        Ok(())
    }
}

/// A field of a protobuf message, shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Result<Vec<u8>> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 128);
    let head = [number << 3 | 2, length.context("a name that is too long")?];
    Ok([&head, bytes].concat())
}
