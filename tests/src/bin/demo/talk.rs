//! Pure: the agents' records → who talks to whom.
use std::{collections::BTreeMap, fmt::Write};

use e2e::agent::Record;

use crate::shop::Shop;

#[derive(Default)]
struct Line {
    connections: u64,
    sent: u64,
    received: u64,
}

/// One row per pair of identities, from the records of the clients' side.
pub(crate) fn table(shop: &Shop) -> String {
    let mut lines: BTreeMap<(String, String), Line> = BTreeMap::new();
    for record in shop.agents.iter().flat_map(|agent| agent.records()) {
        if record.direction != "outbound" {
            continue;
        }
        let line = lines.entry(pair(&record)).or_default();
        line.connections += 1;
        line.sent += record.bytes_sent;
        line.received += record.bytes_recv;
    }
    let mut text = format!(
        "  {:<44} {:<44} {:>6} {:>9} {:>9}\n",
        "client", "server", "conns", "sent", "received"
    );
    for ((client, server), line) in lines {
        let Line { connections, sent, received } = line;
        let _ =
            writeln!(text, "  {client:<44} {server:<44} {connections:>6} {sent:>9} {received:>9}");
    }
    text
}

fn pair(record: &Record) -> (String, String) {
    let name = |identity: &Option<String>| identity.clone().unwrap_or_else(|| "(none)".into());
    (name(&record.source_identity), name(&record.destination_identity))
}
