//! Shell: a process inside a pod that does nothing but make sockets for the test.
//! The kernel's hooks follow the namespace and the control group that a socket was made in, so the
//! test itself connects, accepts, reads and writes with plain standard sockets.
use std::{
    fs,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a test's socket waits before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Makes sockets in one namespace and control group.
#[derive(Debug)]
pub struct Factory {
    process: Child,
    line: Mutex<UnixStream>,
}

impl Factory {
    /// Starts the process.
    ///
    /// # Errors
    /// When namespace or control group do not exist.
    pub fn start(netns: &Path, cgroup: &Path) -> Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        line.set_read_timeout(Some(PATIENCE))?;
        let mut process = lab_command(netns, cgroup);
        let process = process
            .arg("--")
            .arg(lab_binary()?)
            .arg("factory")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .context("start a socket factory")?;
        Ok(Self { process, line: Mutex::new(line) })
    }

    /// The process that stands for the pod.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A socket that nothing was done to. `protocol` is one of TCP, UDP and multipath TCP.
    ///
    /// # Errors
    /// When the process is gone, or the kernel has no such socket.
    pub fn socket(&self, domain: Domain, protocol: Protocol) -> Result<Socket> {
        let line = self.line.lock().map_err(|_| anyhow::anyhow!("a test panicked here"))?;
        let request = [u8::from(domain == Domain::IPV6), place(protocol)?];
        rustix::io::write(&*line, &request)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        recvmsg(&*line, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        // From then on nobody but the test has the socket: closing it ends the connection.
        let mut gone = [0];
        anyhow::ensure!(rustix::io::read(&*line, &mut gone)? == 1, "the socket factory is gone");
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                return Ok(files.next().context("no socket came")?.into());
            }
        }
        bail!("the socket factory refused")
    }

    /// A TCP socket with which the test does not wait for ever.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn tcp(&self, like: SocketAddr) -> Result<Socket> {
        let socket = self.socket(Domain::for_address(like), Protocol::TCP)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// A connection to `address`.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let socket = self.tcp(address)?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(socket.into())
    }

    /// A listener on `address`.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let socket = self.tcp(address)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What sockets are made of.
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::MPTCP];

fn place(protocol: Protocol) -> Result<u8> {
    let place = PROTOCOLS.iter().position(|known| *known == protocol);
    Ok(u8::try_from(place.context("no such protocol is made")?)?)
}

/// The factory's own process: makes sockets until its standard input is closed.
///
/// # Errors
/// When the line breaks.
pub fn serve() -> Result<()> {
    let stdin = std::io::stdin();
    let line = stdin.as_fd();
    let mut request = [0; 2];
    while rustix::io::read(line, &mut request)? == request.len() {
        let domain = if request[0] == 1 { Domain::IPV6 } else { Domain::IPV4 };
        let protocol = PROTOCOLS.get(usize::from(request[1])).context("such a protocol")?;
        let kind = if *protocol == Protocol::UDP { Type::DGRAM } else { Type::STREAM };
        pass(line, Socket::new(domain, kind, Some(*protocol))?)?;
        rustix::io::write(line, &[2])?;
    }
    Ok(())
}

/// Hands a socket over, and keeps nothing of it.
fn pass(line: impl AsFd, socket: Socket) -> Result<()> {
    let files = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(line, &[IoSlice::new(&[1])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// `lab exec`, to which the command is to be appended.
///
/// # Panics
/// When the lab's own binary is not there.
pub fn lab_command(netns: &Path, cgroup: &Path) -> Command {
    let mut command = Command::new(lab_binary().expect("the lab's binary"));
    command.arg("exec").arg("--netns").arg(netns).arg("--cgroup").arg(cgroup);
    command
}

/// The binaries stand beside each other, tests one folder deeper.
///
/// # Errors
/// When the binary is not there.
pub fn binary(name: &str) -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let mut folders = own.ancestors().skip(1).take(2);
    folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file())).with_context(
        || format!("{name} is not built: run it through `cargo xtask`, which builds it first"),
    )
}

fn lab_binary() -> Result<std::path::PathBuf> {
    binary("lab")
}

/// Joins a control group and a network namespace for the rest of this process' life.
///
/// # Errors
/// When one of them does not exist.
pub fn enter(netns: &Path, cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("join {}", cgroup.display()))?;
    let file = fs::File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)
        .context("enter the namespace")?;
    Ok(())
}
