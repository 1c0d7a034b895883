//! Pure: the life of a connection that went by a verdict, told by the states of its two sockets.
//! Never: who may open one.
use crate::abi::direct::{
    EVENT_FINISHED, EVENT_RESET_BY_CLIENT, EVENT_RESET_BY_SERVER, EVENT_UNREACHED,
};

/// One of the two sockets of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that dialled.
    Client,
    /// The one that was accepted.
    Server,
}

/// It was established.
pub const OPEN: u16 = 1;
/// It said that it has nothing more to say.
pub const DONE: u16 = 2;
/// It heard the same of the other one.
pub const HEARD: u16 = 4;
/// It is gone.
pub const CLOSED: u16 = 8;

/// The kernel's numbers of TCP states.
pub mod tcp {
    #![expect(missing_docs, reason = "the names are those of RFC 9293")]
    pub const ESTABLISHED: u32 = 1;
    pub const FIN_WAIT1: u32 = 4;
    pub const FIN_WAIT2: u32 = 5;
    pub const CLOSE: u32 = 7;
    pub const CLOSE_WAIT: u32 = 8;
    pub const LAST_ACK: u32 = 9;
    pub const CLOSING: u32 = 11;
}

/// What is known of the two sockets of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Of the one that dialled.
    pub client: u16,
    /// Of the one that was accepted.
    pub server: u16,
}

/// What a socket's new TCP state adds to what is known of it.
#[inline(always)]
pub const fn news(tcp_state: u32) -> u16 {
    match tcp_state {
        tcp::ESTABLISHED => OPEN,
        tcp::FIN_WAIT1 | tcp::LAST_ACK => DONE,
        tcp::CLOSE_WAIT | tcp::CLOSING => HEARD,
        tcp::CLOSE => CLOSED,
        _ => 0,
    }
}

impl Sockets {
    /// Whether a SYN of the connection may still arrive: its client is alive, and nobody took it yet.
    #[inline(always)]
    pub const fn await_a_server(self) -> bool {
        self.client & CLOSED == 0 && self.server & OPEN == 0
    }

    /// Whether the last step of the handshake may still arrive when the client's socket is gone: its
    /// SYN was let in (`admitted`), and no server's socket came of it yet.
    #[inline(always)]
    pub const fn await_a_step(self, admitted: u16) -> bool {
        admitted != 0 && self.server & OPEN == 0
    }

    /// The bytes that an application was sent, by what its socket counted: the kernel counts the other
    /// side's end as one more. A socket that waits for that end and then closes has heard it, unless
    /// its application was gone before: then the other side had not said it.
    #[inline(always)]
    pub const fn received(self, counted: u64, side: Side, tcp_state: u32) -> u64 {
        let (own, other) = match side {
            Side::Client => (self.client, self.server),
            Side::Server => (self.server, self.client),
        };
        let heard = own & HEARD != 0 || tcp_state == tcp::FIN_WAIT2 && other & DONE != 0;
        counted.saturating_sub(heard as u64)
    }

    /// How the connection ended, if the socket of `side`, which is gone now, was the last one.
    #[inline(always)]
    pub const fn ending(self, side: Side) -> Option<u32> {
        let server_first = match side {
            Side::Client if self.server & OPEN == 0 && self.client & OPEN == 0 => {
                return Some(EVENT_UNREACHED);
            }
            Side::Client if self.server & OPEN == 0 => false,
            Side::Client if self.server & CLOSED == 0 => return None,
            Side::Server if self.client & CLOSED == 0 => return None,
            Side::Client => true,
            Side::Server => false,
        };
        if self.client & DONE != 0 && self.server & DONE != 0 {
            return Some(EVENT_FINISHED);
        }
        // Who breaks a connection is gone first.
        Some(if server_first { EVENT_RESET_BY_SERVER } else { EVENT_RESET_BY_CLIENT })
    }
}

#[cfg(test)]
mod tests {
    use super::{tcp::*, *};

    /// Lets both sockets live through these states; how the connection ended, and when.
    fn lived(story: &[(Side, u32)]) -> Vec<(usize, u32)> {
        let (mut sockets, mut ends) = (Sockets::default(), Vec::new());
        for (at, (side, tcp_state)) in story.iter().enumerate() {
            match side {
                Side::Client => sockets.client |= news(*tcp_state),
                Side::Server => sockets.server |= news(*tcp_state),
            }
            if *tcp_state == CLOSE {
                ends.extend(sockets.ending(*side).map(|end| (at, end)));
            }
        }
        ends
    }

    #[test]
    fn each_connection_ends_once_and_in_the_way_that_it_did() {
        let (c, s) = (Side::Client, Side::Server);
        let open = [(c, ESTABLISHED), (s, ESTABLISHED)];
        for (story, expected) in [
            (
                vec![
                    (c, FIN_WAIT1),
                    (s, CLOSE_WAIT),
                    (c, FIN_WAIT2),
                    (s, LAST_ACK),
                    (c, CLOSE),
                    (s, CLOSE),
                ],
                EVENT_FINISHED,
            ),
            // The client's application is gone: its socket is, too, before the server says its last.
            (
                vec![
                    (c, FIN_WAIT1),
                    (s, CLOSE_WAIT),
                    (c, FIN_WAIT2),
                    (c, CLOSE),
                    (s, LAST_ACK),
                    (s, CLOSE),
                ],
                EVENT_FINISHED,
            ),
            (
                vec![
                    (s, FIN_WAIT1),
                    (c, CLOSE_WAIT),
                    (s, FIN_WAIT2),
                    (s, CLOSE),
                    (c, LAST_ACK),
                    (c, CLOSE),
                ],
                EVENT_FINISHED,
            ),
            (
                vec![
                    (c, FIN_WAIT1),
                    (s, FIN_WAIT1),
                    (c, CLOSING),
                    (s, CLOSING),
                    (c, CLOSE),
                    (s, CLOSE),
                ],
                EVENT_FINISHED,
            ),
            (vec![(c, CLOSE), (s, CLOSE)], EVENT_RESET_BY_CLIENT),
            (vec![(s, CLOSE), (c, CLOSE)], EVENT_RESET_BY_SERVER),
            (vec![(c, FIN_WAIT1), (s, CLOSE_WAIT), (s, CLOSE), (c, CLOSE)], EVENT_RESET_BY_SERVER),
            (vec![(s, FIN_WAIT1), (c, CLOSE_WAIT), (c, CLOSE), (s, CLOSE)], EVENT_RESET_BY_CLIENT),
            (vec![(c, FIN_WAIT1), (s, CLOSE_WAIT), (c, CLOSE), (s, CLOSE)], EVENT_RESET_BY_CLIENT),
        ] {
            let story = [&open[..], &story].concat();
            assert_eq!(lived(&story), [(story.len() - 1, expected)], "{story:?}");
        }
        assert_eq!(lived(&[(c, CLOSE)]), [(0, EVENT_UNREACHED)]);
        assert_eq!(lived(&[(c, ESTABLISHED), (c, CLOSE)]), [(1, EVENT_RESET_BY_CLIENT)]);
    }

    #[test]
    fn an_end_that_was_heard_is_no_byte() {
        for (client, server, side, tcp_state, expected) in [
            (0, 0, Side::Client, ESTABLISHED, 9),
            (HEARD, 0, Side::Client, LAST_ACK, 8),
            (HEARD, 0, Side::Server, ESTABLISHED, 9),
            (0, DONE, Side::Client, FIN_WAIT2, 8),
            (DONE, 0, Side::Client, FIN_WAIT2, 9),
            (DONE, 0, Side::Server, FIN_WAIT2, 8),
        ] {
            let sockets = Sockets { client, server };
            assert_eq!(sockets.received(9, side, tcp_state), expected, "{sockets:?} {side:?}");
        }
        assert_eq!(Sockets { client: HEARD, server: 0 }.received(0, Side::Client, LAST_ACK), 0);
    }

    #[test]
    fn a_syn_is_awaited_until_somebody_took_it_or_its_client_is_gone() {
        for (client, server, expected) in
            [(0, 0, true), (OPEN, 0, true), (CLOSED, 0, false), (OPEN, OPEN, false)]
        {
            assert_eq!(Sockets { client, server }.await_a_server(), expected);
        }
    }
}
