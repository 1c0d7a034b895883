//! Shell: one read of a socket, as large as the last ones suggest.
//! Never: waits.
use std::io;

use bytes::{BufMut, BytesMut};
use tokio::{io::Interest, net::TcpStream};

/// What a read starts with, bytes.
const SMALLEST: usize = 4 << 10;
/// What a read grows to while the sender fills it, bytes.
const LARGEST: usize = 128 << 10;

/// How much the next read takes at most.
#[derive(Clone, Copy, Debug)]
pub struct ReadSize(usize);

impl Default for ReadSize {
    fn default() -> Self {
        Self(SMALLEST)
    }
}

impl ReadSize {
    /// Reads once, behind what is in `buffer`; 0 at the end. When a read does not fill its room there
    /// is nothing left, and to say so saves the read that would find out: epoll reports an edge when
    /// more comes (epoll(7), "Edge-triggered").
    ///
    /// # Errors
    /// As `recv(2)`; `WouldBlock` while there is nothing.
    pub fn read(&mut self, socket: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = self.0;
        buffer.reserve(room);
        let mut done = None;
        let drained = socket.try_io(Interest::READABLE, || {
            let read = socket.try_read_buf(&mut (&mut *buffer).limit(room))?;
            done = Some(read);
            if (1..room).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let read = match done {
            Some(read) => read,
            None => drained.map(|()| 0)?,
        };
        self.0 = next_size(room, read);
        Ok(read)
    }
}

/// Reads grow while the sender fills them, and shrink when it no longer does.
fn next_size(size: usize, read: usize) -> usize {
    if read == size {
        (size * 2).min(LARGEST)
    } else if read < size / 4 {
        (size / 2).max(SMALLEST)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_follow_what_the_sender_gives() {
        assert_eq!(next_size(SMALLEST, SMALLEST), 2 * SMALLEST);
        assert_eq!(next_size(LARGEST, LARGEST), LARGEST);
        assert_eq!(next_size(LARGEST, 100), LARGEST / 2);
        assert_eq!(next_size(SMALLEST, 100), SMALLEST);
        assert_eq!(next_size(LARGEST, LARGEST / 2), LARGEST);
    }
}
