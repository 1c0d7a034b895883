//! Pure: an agent's dump → its open connections, a row each.
//! Never: a connection that has ended.
use std::time::Duration;

use serde_json::{Value, json};

use crate::table::Column;

/// The columns that people read.
pub const CONNECTIONS: &[Column] = &[
    ("DIRECTION", "direction"),
    ("SOURCE", "from"),
    ("DESTINATION", "to"),
    ("SERVICE", "service"),
    ("PROTOCOL", "protocol"),
    ("SOURCE IDENTITY", "fromIdentity"),
    ("DESTINATION IDENTITY", "toIdentity"),
    ("UP", "bytesUp"),
    ("DOWN", "bytesDown"),
    ("AGE", "age"),
];

/// A row for each open connection of the dump, with what the agent says of it and what people read.
/// Bytes go up from the client to the server, and down to the client.
pub fn connections(dump: &Value) -> Vec<Value> {
    let pods = dump["workloadState"].as_object().into_iter().flatten();
    pods.flat_map(|(pod, state)| {
        ["outbound", "inbound"].into_iter().flat_map(move |direction| {
            let open = state["connections"][direction].as_array().into_iter().flatten();
            open.map(move |connection| row(pod, direction, connection))
        })
    })
    .collect()
}

fn row(pod: &str, direction: &str, connection: &Value) -> Value {
    let (up, down) = match direction {
        "outbound" => ("bytesSent", "bytesReceived"),
        _ => ("bytesReceived", "bytesSent"),
    };
    // Who is no pod of the mesh has only an address.
    let or = |name: &str, address: &str| {
        let known = &connection[name];
        if known.is_null() { connection[address].clone() } else { known.clone() }
    };
    let mut row = connection.clone();
    row["pod"] = pod.into();
    row["direction"] = direction.into();
    row["from"] = or("source", "src");
    row["to"] = or("destination", "actualDst");
    row["fromIdentity"] = short(&connection["sourceIdentity"]);
    row["toIdentity"] = short(&connection["destinationIdentity"]);
    row["bytesUp"] = connection[up].clone();
    row["bytesDown"] = connection[down].clone();
    row["age"] = connection["ageMs"].as_u64().map(age).into();
    row
}

/// `namespace/account` of a SPIFFE ID.
fn short(identity: &Value) -> Value {
    let parts = identity.as_str().and_then(|text| {
        let (_, names) = text.split_once("/ns/")?;
        names.split_once("/sa/")
    });
    parts.map_or(Value::Null, |(namespace, account)| json!(format!("{namespace}/{account}")))
}

/// To the second, except in the first one.
fn age(milliseconds: u64) -> String {
    let whole = if milliseconds < 1000 { milliseconds } else { milliseconds / 1000 * 1000 };
    humantime::format_duration(Duration::from_millis(whole)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::table;

    #[test]
    fn each_side_of_a_connection_is_a_row_with_the_clients_bytes_going_up() {
        let connection = |sent, received| {
            json!({
                "src": "10.0.0.1:4000",
                "actualDst": "10.0.0.2:15008",
                "protocol": "HBONE",
                "source": "shop/web",
                "destination": null,
                "service": "cart.shop",
                "sourceIdentity": "spiffe://cluster.local/ns/shop/sa/web",
                "bytesSent": sent,
                "bytesReceived": received,
                "ageMs": 61_234,
            })
        };
        let dump = json!({ "workloadState": {
            "c//Pod/shop/web": { "connections": { "outbound": [connection(1, 2)], "inbound": [] } },
            "c//Pod/shop/z": { "connections": { "inbound": [connection(2, 1)], "outbound": [] } },
        } });
        let text = table(CONNECTIONS, &connections(&dump));
        let lines: Vec<Vec<_>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let rest = [
            "shop/web",
            "10.0.0.2:15008",
            "cart.shop",
            "HBONE",
            "shop/web",
            "-",
            "1",
            "2",
            "1m",
            "1s",
        ];
        assert_eq!(lines[1], [&["outbound"], &rest[..]].concat());
        assert_eq!(lines[2], [&["inbound"], &rest[..]].concat());
    }
}
