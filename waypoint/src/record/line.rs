//! Pure: one line of the access log, in Istio's default text format or as JSON
//! (`pilot/pkg/model/telemetry_logging.go`).
//! Never: a byte of a header that would end the line or the field.
use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::outcome::Flags;

/// What a line says. Absent values are `-`.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// When it began.
    pub start: SystemTime,
    /// The method.
    pub method: Option<&'a str>,
    /// The path as the client asked for it, with the query.
    pub path: Option<&'a str>,
    /// `HTTP/1.1` and so on.
    pub protocol: Option<&'static str>,
    /// The status; 0 for none.
    pub code: u16,
    /// What went wrong.
    pub flags: Flags,
    /// Why the status is what it is.
    pub details: Option<&'a str>,
    /// Why there was no connection to the endpoint.
    pub transport_failure: Option<&'a str>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// How long it took altogether.
    pub duration: Duration,
    /// How long the endpoint took to answer.
    pub service_time: Option<Duration>,
    /// `x-forwarded-for`.
    pub forwarded_for: Option<&'a str>,
    /// `user-agent`.
    pub user_agent: Option<&'a str>,
    /// `x-request-id`.
    pub request_id: Option<&'a str>,
    /// Host and port as the client said them.
    pub authority: Option<&'a str>,
    /// Where the endpoint is.
    pub upstream_host: Option<SocketAddr>,
    /// The service, port and subset.
    pub upstream_cluster: Option<String>,
    /// What the client dialled.
    pub downstream_local: SocketAddr,
    /// The client.
    pub downstream_remote: SocketAddr,
    /// The name that a TLS client asked for.
    pub server_name: Option<&'a str>,
    /// The rule.
    pub route: Option<&'a str>,
}

impl Line<'_> {
    /// As text, with its newline.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(512);
        // Text takes everything.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, into: &mut String) -> fmt::Result {
        let start = humantime::format_rfc3339_millis(self.start);
        write!(into, "[{start}] \"{} {} ", Text(self.method), Text(self.path))?;
        write!(into, "{}\" {} {} ", Text(self.protocol), self.code, self.flags)?;
        write!(into, "{} - \"{}\" ", Word(self.details), Text(self.transport_failure))?;
        write!(into, "{} {} {} ", self.received, self.sent, self.duration.as_millis())?;
        match self.service_time {
            Some(time) => write!(into, "{} ", time.as_millis())?,
            None => into.push_str("- "),
        }
        for quoted in [self.forwarded_for, self.user_agent, self.request_id, self.authority] {
            write!(into, "\"{}\" ", Text(quoted))?;
        }
        match self.upstream_host {
            Some(host) => write!(into, "\"{host}\" ")?,
            None => into.push_str("\"-\" "),
        }
        // Which of our addresses an endpoint sees is not known here.
        write!(into, "{} - ", Word(self.upstream_cluster.as_deref()))?;
        write!(into, "{} {} ", self.downstream_local, self.downstream_remote)?;
        write!(into, "{} ", Word(self.server_name))?;
        writeln!(into, "{}", Word(self.route))
    }

    /// As JSON, with its newline.
    pub fn json(&self) -> String {
        let line: Value = json!({
            "start_time": humantime::format_rfc3339_millis(self.start).to_string(),
            "route_name": self.route,
            "method": cut(self.method),
            "path": cut(self.path),
            "protocol": self.protocol,
            "response_code": self.code,
            "response_flags": self.flags.to_string(),
            "response_code_details": self.details,
            "connection_termination_details": null,
            "bytes_received": self.received,
            "bytes_sent": self.sent,
            "duration": u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            "upstream_service_time": self.service_time.map(|time| time.as_millis().to_string()),
            "x_forwarded_for": cut(self.forwarded_for),
            "user_agent": cut(self.user_agent),
            "request_id": cut(self.request_id),
            "authority": cut(self.authority),
            "upstream_host": self.upstream_host,
            "upstream_cluster": self.upstream_cluster,
            "upstream_local_address": null,
            "downstream_local_address": self.downstream_local,
            "downstream_remote_address": self.downstream_remote,
            "requested_server_name": self.server_name,
            "upstream_transport_failure_reason": cut(self.transport_failure),
        });
        format!("{line}\n")
    }
}

/// A value between quotes.
struct Text<'a>(Option<&'a str>);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(self.0, |c| c == '"' || c.is_control()))
    }
}

/// A value without quotes: blanks would begin the next one.
struct Word<'a>(Option<&'a str>);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(self.0, |c| c == '"' || c.is_whitespace() || c.is_control()))
    }
}

/// The longest value that a line has, bytes; the rest of a longer one is left out.
const LONGEST: usize = 4 << 10;

fn cut(text: Option<&str>) -> Option<&str> {
    text.map(|text| &text[..text.floor_char_boundary(LONGEST)])
}

fn plain(text: Option<&str>, bad: fn(char) -> bool) -> Cow<'_, str> {
    // What nearly all are made of, and what is never bad.
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() & (byte != b'"'));
    match cut(text) {
        None | Some("") => "-".into(),
        Some(text) if is_plain(text) => text.into(),
        Some(text) if text.contains(bad) => text.replace(bad, "_").into(),
        Some(text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_606_339_588_397),
            method: Some("GET"),
            path: Some("/status/418?x=\"y"),
            protocol: Some("HTTP/1.1"),
            code: 418,
            flags: Flags::default(),
            details: Some("via_upstream"),
            transport_failure: None,
            received: 0,
            sent: 135,
            duration: Duration::from_millis(4),
            service_time: Some(Duration::from_millis(3)),
            forwarded_for: None,
            user_agent: Some("curl/7.73.0-DEV"),
            request_id: Some("84961386-6d84-929d-98bd-c5aee93b5c88"),
            authority: Some("httpbin:8000"),
            upstream_host: "10.44.1.27:80".parse().ok(),
            upstream_cluster: Some("inbound-vip|8000|http|httpbin.foo.svc.cluster.local".into()),
            downstream_local: "10.0.45.184:8000".parse().unwrap(),
            downstream_remote: "10.44.1.23:46520".parse().unwrap(),
            server_name: None,
            route: Some("a rule"),
        }
    }

    #[test]
    fn text_is_istios_default_format() {
        assert_eq!(
            line().text(),
            "[2020-11-25T21:26:28.397Z] \"GET /status/418?x=_y HTTP/1.1\" 418 - via_upstream - \"-\" 0 135 4 3 \
             \"-\" \"curl/7.73.0-DEV\" \"84961386-6d84-929d-98bd-c5aee93b5c88\" \"httpbin:8000\" \"10.44.1.27:80\" \
             inbound-vip|8000|http|httpbin.foo.svc.cluster.local - 10.0.45.184:8000 10.44.1.23:46520 - a_rule\n"
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let long = "\u{e9}".repeat(LONGEST);
        let line = Line { user_agent: Some(&long), path: Some(&long), ..line() };
        for text in [line.text(), line.json()] {
            assert!(text.len() < 2 * LONGEST + 1024, "{}", text.len());
            assert!(text.len() > 2 * LONGEST, "{}", text.len());
        }
    }

    #[test]
    fn json_has_istios_keys() {
        let value: Value = serde_json::from_str(&line().json()).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 24);
        assert_eq!(value["response_code"], 418);
        assert_eq!(value["path"], "/status/418?x=\"y");
    }
}
