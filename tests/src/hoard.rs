//! Shell: an application that dials and dials, and does not care for an answer.
use std::{
    io::{Read, stdin},
    net::SocketAddr,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::factory::lab_command;

/// A process that holds sockets which were told to connect.
#[derive(Debug)]
pub struct Hoard(Child);

impl Hoard {
    /// Starts the process, which dials `to` as often as is said.
    ///
    /// # Errors
    /// When namespace or control group do not exist.
    pub fn start((netns, cgroup): (&Path, &Path), to: SocketAddr, count: u32) -> Result<Self> {
        let mut process = lab_command(netns, cgroup);
        process.arg("--").arg(crate::factory::binary("lab")?).arg("hoard");
        process.arg(to.to_string()).arg(count.to_string()).stdin(Stdio::piped());
        Ok(Self(process.spawn().context("start a hoard")?))
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process itself: holds its sockets until standard input is closed.
///
/// # Errors
/// When it may not have so many.
pub fn run(to: SocketAddr, count: u32) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // Most are still on their way.
        let _ = socket.connect(&to.into());
        sockets.push(socket);
    }
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
