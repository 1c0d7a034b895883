//! Shell: what can be seen on the wire between the nodes.
use std::{
    collections::BTreeSet,
    io::Read,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use crate::system::within;

/// Every protocol (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;
/// The largest frame that segmentation offload hands over.
const LARGEST: usize = 128 << 10;
/// Frames that are still read after the end, when the wire does not fall silent.
const LAST_FRAMES: usize = 10_000;
/// Frames that may wait, bytes.
const BUFFER: usize = 64 << 20;

/// A tap on the wire, from its start on.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Flag of a segment that resets its connection.
pub const RST: u8 = 4;

/// The TCP part of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// Its flags (RFC 9293 §3.1).
    pub flags: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Capture {
    /// Taps all interfaces of a namespace.
    pub(crate) fn start(netns: &Path) -> Result<Self> {
        let socket = within(netns, || {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
        })??;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let _ = socket.set_recv_buffer_size(BUFFER);
        let frames: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (frames.clone(), stop.clone());
        let reader = thread::spawn(move || tap(socket, &seen, &stopped));
        Ok(Self { frames, stop, reader: Some(reader) })
    }

    /// Takes the frames seen since the last call.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.frames.lock().map(|mut frames| std::mem::take(&mut *frames)).unwrap_or_default()
    }

    /// Ends the tap, and gives all frames.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.end();
        self.take()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads frames until it is told to stop and has read what had come by then.
fn tap(mut socket: Socket, seen: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut buffer = vec![0; LARGEST];
    let mut left = LAST_FRAMES;
    while left > 0 {
        let stopped = stop.load(Ordering::Relaxed);
        let frame = socket.read(&mut buffer).ok().and_then(|length| buffer.get(..length));
        if let (Some(frame), Ok(mut seen)) = (frame, seen.lock()) {
            seen.push(frame.to_vec());
        } else if stopped {
            return;
        }
        left -= usize::from(stopped);
    }
}

/// The TCP segment in an Ethernet frame, if it is one.
pub fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = frame.get(14..)?;
    let tcp = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            (*packet.get(9)? == 6).then(|| packet.get(header..))??
        }
        [0x86, 0xdd] => (*packet.get(6)? == 6).then(|| packet.get(40..))??,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from: port(0)?,
        to: port(2)?,
        flags: *tcp.get(13)?,
        payload: tcp.get(header..)?,
    })
}

/// Whether some frame holds `needle`.
pub fn contains(frames: &[Vec<u8>], needle: &[u8]) -> bool {
    frames.iter().any(|frame| frame.windows(needle.len()).any(|window| window == needle))
}

/// The server's ports of all TCP connections seen: the lower of the two of each segment.
pub fn server_ports(frames: &[Vec<u8>]) -> BTreeSet<u16> {
    frames.iter().filter_map(|frame| segment(frame)).map(|s| s.from.min(s.to)).collect()
}
