//! Pure: a waypoint's answer about the endpoints of a service → what people read.
//! Never: more than the answer says.
use std::fmt::Write;

use serde_json::{Value, json};

use crate::table::{Column, table};

const ENDPOINTS: &[Column] = &[
    ("PORT", "port"),
    ("SUBSET", "subset"),
    ("ENDPOINT", "name"),
    ("ADDRESS", "address"),
    ("LOCALITY", "locality"),
    ("STATE", "state"),
    ("RETURNS IN", "returnsIn"),
    ("ACTIVE", "active"),
    ("FAILURES", "failures"),
];

/// The endpoints of each port and subset, a line each; then what else there is to know.
pub fn endpoints(answer: &Value) -> String {
    let backends = || answer["backends"].as_array().into_iter().flatten();
    let rows: Vec<_> = backends().flat_map(of_backend).collect();
    let mut text = table(ENDPOINTS, &rows);
    for backend in backends() {
        let name = match backend["subset"].as_str() {
            Some(subset) => format!("port {} subset {subset}", backend["port"]),
            None => format!("port {}", backend["port"]),
        };
        if backend["panic"] == true {
            let _ = writeln!(text, "{name}: so few are healthy that all are asked");
        }
        let kinds = backend["underWay"].as_object().into_iter().flatten();
        for (kind, of) in kinds.filter(|(_, of)| of["refused"].as_u64().unwrap_or_default() > 0) {
            let [now, most, refused] = ["now", "most", "refused"].map(|field| &of[field]);
            let _ = writeln!(text, "{name}: {kind} {now} of {most}, {refused} refused so far");
        }
    }
    text
}

fn of_backend(backend: &Value) -> Vec<Value> {
    let endpoints = backend["endpoints"].as_array().into_iter().flatten();
    let mut rows: Vec<Value> = endpoints.cloned().collect();
    if rows.is_empty() {
        rows.push(json!({ "name": "nobody is ready" }));
    }
    for row in &mut rows {
        row["port"] = backend["port"].clone();
        row["subset"] = backend["subset"].clone();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_who_is_out_and_for_how_long() {
        let answer = json!({ "service": "cart", "backends": [
            { "port": 80, "subset": "v1", "panic": true,
              "underWay": { "requests": { "now": 3, "most": 5, "refused": 7 }, "pending": { "refused": 0 } },
              "endpoints": [{ "name": "shop/cart-1", "address": "10.0.0.1:8080", "state": "ejected",
                              "returnsIn": "42s", "active": 1, "failures": 0 }] },
            { "port": 81, "endpoints": [] },
        ] });
        let text = endpoints(&answer);
        let lines: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["80", "v1", "shop/cart-1", "10.0.0.1:8080", "-", "ejected", "42s", "1", "0"]
        );
        assert!(text.contains("nobody is ready"), "{text}");
        assert!(text.contains("port 80 subset v1: so few are healthy that all are asked"));
        assert!(text.contains("port 80 subset v1: requests 3 of 5, 7 refused so far"));
        assert!(!text.contains("pending"));
    }
}
