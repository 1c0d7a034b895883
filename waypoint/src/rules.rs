//! Pure: a waypoint's answers about rules → what people read.
//! Never: more than the answer says.
use std::fmt::Write;

use serde_json::{Value, json};

use crate::table::{Column, table};

const RULES: &[Column] = &[
    ("PORT", "port"),
    ("PROTOCOL", "protocol"),
    ("RULE", "rule"),
    ("MATCH", "match"),
    ("DOES", "does"),
    ("OBJECT", "object"),
    ("FIELD", "field"),
    ("DECLARED", "declared"),
];

/// The rules of a service, a line each, in the order in which they are asked.
pub fn rules(answer: &Value) -> String {
    let ports = list(&answer["ports"]);
    let rows: Vec<_> = ports.iter().flat_map(of_port).collect();
    table(RULES, &rows)
}

fn of_port(port: &Value) -> Vec<Value> {
    // What is never asked there is left out.
    let asked: &[&str] = match port["protocol"].as_str().unwrap_or_default() {
        "http" | "http2" | "grpc" => &["http"],
        "tcp" | "tls" => &["tls", "tcp"],
        _ => &["http", "tls", "tcp"],
    };
    let mut rows = Vec::new();
    for &protocol in asked {
        for (number, rule) in (1..).zip(list(&port[protocol])) {
            rows.push(json!({
                "port": port["port"], "protocol": protocol, "rule": number,
                "match": asks(rule), "does": does(rule),
                "object": rule["object"], "field": rule["field"], "declared": rule["declared"],
            }));
        }
    }
    if rows.is_empty() {
        let nothing = "nothing matches: requests are answered with 404 NR";
        rows.push(json!({ "port": port["port"], "protocol": port["protocol"], "does": nothing }));
    }
    rows
}

/// What would become of a request, and why: one screen.
pub fn explained(answer: &Value) -> String {
    let mut out = String::new();
    let (source, request) = (&answer["source"], &answer["request"]);
    let mut line = |title: &str, text: String| {
        let _ = writeln!(out, "{title:<13}{text}");
    };
    line("from", format!("{} ({})", text(&source["workload"]), text(&source["declared"])));
    line("identity", text(&source["identity"]));
    line("service", format!("{} ({})", text(&answer["service"]), text(&answer["declared"])));
    line("dials", format!("{}, {}", text(&answer["dialled"]), text(&answer["protocol"])));
    if request.is_object() {
        let [method, scheme, authority, path] =
            ["method", "scheme", "authority", "path"].map(|field| text(&request[field]));
        line("asks", format!("{method} {scheme}://{authority}{path}"));
    }
    for rule in list(&answer["passedOver"]) {
        let found = rule["found"].as_str().map_or_else(|| "none".into(), |has| format!("{has:?}"));
        let unmet = text(&rule["unmet"]);
        line("passes over", format!("{}: {unmet}; the request has {found}", named(rule)));
    }
    match answer.get("decided") {
        Some(rule) => line("decided by", format!("{}: {}", named(rule), asks(rule))),
        None if request.is_object() => line("decided by", "no rule".into()),
        None => {}
    }
    line("does", outcome(&answer["does"]));
    if let Some(fault) = answer.pointer("/decided/fault") {
        line("on purpose", words("", &json!({ "fault": fault })));
    }
    for destination in list(&answer["destinations"]) {
        line("to", reached(destination));
        for rule in list(&destination["rules"]) {
            line("", format!("by {}", text(rule)));
        }
        for endpoint in list(&destination["endpoints"]) {
            line("", endpoint_text(endpoint));
        }
    }
    out
}

/// Whether the waypoint would answer with an error, to all requests like this or to some.
pub fn fails(answer: &Value) -> bool {
    let failed = |of: &Value| of["status"].as_u64().is_some_and(|status| status >= 400);
    failed(&answer["does"]) || list(&answer["destinations"]).iter().any(failed)
}

fn named(rule: &Value) -> String {
    let [object, field, declared] = ["object", "field", "declared"].map(|name| text(&rule[name]));
    if declared.is_empty() { object } else { format!("{object} {field} ({declared})") }
}

fn asks(rule: &Value) -> String {
    let conditions: Vec<_> = list(&rule["match"]).iter().map(text).collect();
    if conditions.is_empty() { "any".into() } else { conditions.join(" and ") }
}

/// What a rule does, in one line.
fn does(rule: &Value) -> String {
    let mut parts = Vec::new();
    let destinations = list(&rule["destinations"]);
    let total: u64 = destinations.iter().filter_map(|to| to["weight"].as_u64()).sum();
    for to in destinations {
        let share = match destinations {
            [_] => "to".into(),
            _ => format!("{} of {total} to", text(&to["weight"])),
        };
        parts.push(words(&format!("{share} {}", text(&to["to"])), to));
    }
    for (field, action) in [("redirect", "redirect"), ("directResponse", "answer")] {
        if let Some(action_of) = rule.get(field) {
            let place: Vec<_> =
                ["scheme", "authority", "path"].map(|name| text(&action_of[name])).into();
            let port = Some(&action_of["port"]).filter(|port| !port.is_null());
            let port = port.map(|port| format!("port {}", text(port)));
            let place = place.into_iter().chain(port).collect::<Vec<_>>().join(" ");
            parts.push(format!("{action} {} {}", text(&action_of["status"]), place.trim()));
        }
    }
    let more = words("", rule);
    parts.extend((!more.is_empty()).then_some(more));
    parts.iter().map(|part| part.trim()).collect::<Vec<_>>().join("; ")
}

/// What else a rule or destination says, after `first`.
fn words(first: &str, of: &Value) -> String {
    let mut parts = vec![first.to_owned()];
    let mut say = |title: &str, value: &Value| {
        if !value.is_null() {
            parts.push(format!("{title} {}", text(value)));
        }
    };
    say("timeout", &of["timeout"]);
    say("tries again", &of["retries"]["attempts"]);
    say("each try", &of["retries"]["perTryTimeout"]);
    say("rewrites", &of["rewrite"]);
    say("as", &of["rewriteAuthority"]);
    say("request headers:", &of["requestHeaders"]);
    say("response headers:", &of["responseHeaders"]);
    for (title, field, value) in [("waits", "delay", "length"), ("fails with", "abort", "status")] {
        let fault = &of["fault"][field];
        if fault.is_object() {
            say(&format!("{} of requests {title}", text(&fault["share"])), &fault[value]);
        }
    }
    for mirror in list(&of["mirrors"]) {
        say(&format!("copies {} to", text(&mirror["share"])), &mirror["to"]);
    }
    if of["cors"] == true {
        parts.push("answers browsers' CORS".into());
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

/// `forward, timeout 1s` or `answer 404 NR route_not_found: why`.
fn outcome(does: &Value) -> String {
    let mut out = text(&does["action"]);
    out.push_str(&status(does));
    for (title, field) in [
        ("to", "location"),
        ("after", "delay"),
        ("timeout", "timeout"),
        ("path", "path"),
        ("authority", "authority"),
    ] {
        if !does[field].is_null() {
            let _ = write!(out, ", {title} {}", text(&does[field]));
        }
    }
    for copy in list(&does["copies"]) {
        let _ = write!(out, ", a copy to {}", text(copy));
    }
    out
}

fn status(of: &Value) -> String {
    let mut out = String::new();
    for field in ["status", "flag", "details"] {
        if !of[field].is_null() {
            let _ = write!(out, " {}", text(&of[field]));
        }
    }
    if !of["why"].is_null() {
        let _ = write!(out, ": {}", text(&of["why"]));
    }
    out
}

fn reached(to: &Value) -> String {
    let [weight, of, name] = ["weight", "of", "to"].map(|field| text(&to[field]));
    let labels: Vec<_> = to["labels"].as_object().into_iter().flatten().collect();
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    let behind = match (to["status"].is_null(), labels.is_empty()) {
        (false, _) => format!("answers{}", status(to)),
        (true, true) => format!("{} ready", text(&to["ready"])),
        (true, false) => format!("{} ready with {}", text(&to["ready"]), labels.join(", ")),
    };
    format!("{weight} of {of}: {name}: {behind}")
}

fn endpoint_text(endpoint: &Value) -> String {
    let how = if endpoint["tunnel"] == true { "through a tunnel" } else { "in plain text" };
    match endpoint["name"].as_str() {
        Some(name) => {
            let declared = text(&endpoint["declared"]);
            format!("{name} at {}, {how} ({declared})", text(&endpoint["address"]))
        }
        None => format!("{}, {how}", text(&endpoint["address"])),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::{
        routes,
        tests::{RULES, cart, mesh},
    };

    #[test]
    fn one_screen_says_which_rule_and_who_is_ready() {
        let said = cart("&path=/api");
        let text = explained(&said);
        for words in [
            "passes over  VirtualService shop/cart http[0].match[0] (rules.yaml:1): header x-canary exact true; the request has none\n",
            "decided by   VirtualService shop/cart http[1].match[0] (rules.yaml:1): uri prefix /api and source label team=shop\n",
            "to           90 of 100: cart.shop.svc.cluster.local:80 subset v1: 1 ready with version=v1\n",
            "shop/cart-1 at 10.0.0.1:8080, through a tunnel (m.yaml:",
            "subset v2: answers 503 UH no_healthy_upstream",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(fails(&said));
        let text = explained(&cart("&path=/none"));
        assert!(
            text.contains("does         answer 404 NR route_not_found: no rule matches"),
            "{text}"
        );
        let late = cart("&path=/late");
        assert!(explained(&late).contains("10 % of requests waits 1s"), "{late}");
        assert!(!fails(&late) && !fails(&cart("&path=/old")));
    }

    #[test]
    fn the_rules_of_a_service_stand_in_their_order() {
        let (mesh, own) = mesh(RULES);
        let said = routes(&mesh, &own, "shop/cart").unwrap();
        let text = rules(&said);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        for (line, words) in [
            (1, "uri prefix /api and header x-canary exact true"),
            (2, "90 of 100 to cart.shop.svc.cluster.local:80 subset v1"),
            (2, "timeout 2s, rewrites prefix to /v1"),
            (2, "VirtualService shop/cart   http[1].match[0]   rules.yaml:1"),
            (3, "redirect 301 path to /new port 8443"),
            (4, "answer 418"),
            (5, "10 % of requests waits 1s"),
            (6, "100 % of requests fails with HTTP 503"),
        ] {
            assert!(lines[line].contains(words), "{words}\n{text}");
        }
    }
}
