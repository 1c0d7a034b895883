//! Shell: asks the admin endpoint of an agent, or of a waypoint.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, bytes.
const LONGEST: u64 = 1 << 30;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A node's agent.
    Agent,
    /// A waypoint.
    Waypoint,
}

impl Whom {
    /// What it is called, and where it is found.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Agent => ("agent", "run this on a node, or name its address by --agent"),
            Self::Waypoint => {
                ("waypoint", "run this in its pod's network, or name its address by --waypoint")
            }
        }
    }
}

/// The JSON at `path` of the agent or waypoint that answers at `address`.
///
/// # Errors
/// When nobody answers, or the answer is a refusal; its text says why.
pub fn get(whom: Whom, address: SocketAddr, path: &str) -> Result<Value> {
    let (name, place) = whom.words();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no {name} answers at {address}: {place}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // HTTP/1.0 asks for an answer that ends with the connection (RFC 1945 §7.2.2).
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).context("read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    // Both answer what they do not know with what they do, under their own name.
    let other = body.lines().next().and_then(|line| line.strip_prefix("culvert-"));
    if let ("404", Some(other)) = (status, other) {
        bail!(
            "{address} is a culvert-{other}, which knows nothing of this: ask the {name}; {place}"
        );
    }
    if status != "200" {
        bail!("{}", if body.trim().is_empty() { head } else { body.trim() });
    }
    serde_json::from_str(body).context("the answer is no JSON")
}

/// `text` as a value in a query (RFC 3986 §2.1): colons and slashes may stand there as they are.
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}
