//! Clients that nobody here wrote: h2load, Python's httpx, the websockets of tungstenite.
use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{lab::PATIENCE, until};
use serde_json::{Value, json};
use tungstenite::{
    Error, Message, WebSocket,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::shop::{RULES, Shop, VIP, said};

/// Requests of one run of h2load.
const LOAD: u64 = 400;

#[test]
fn h2loads_requests_are_all_answered_counted_and_logged() -> Result<()> {
    let shop = Shop::new()?;
    for (option, protocol) in [("--h1", "HTTP/1.1"), ("--no-tls-proto=h2c", "HTTP/2")] {
        for (path, canary, version, code) in
            [("/load", "true", "v2", "200"), ("/status/503", "false", "v1", "503")]
        {
            let workload = format!("destination_workload=\"product-{version}\"");
            let code = format!("response_code=\"{code}\"");
            let labels = [workload.as_str(), &code, "reporter=\"waypoint\""];
            let before = shop.metric("istio_requests_total", &labels)?;
            let printed = said(
                shop.inside("h2load", "nghttp2-client")?
                    .args(["-n", &LOAD.to_string(), "-c", "4", "-m", "8", option])
                    .args(["-H", &format!("x-canary-user: {canary}")])
                    .arg(format!("http://{VIP}{path}")),
            )?;
            let (good, bad) = if version == "v2" { (LOAD, 0) } else { (0, LOAD) };
            let codes = format!("status codes: {good} 2xx, 0 3xx, 0 4xx, {bad} 5xx");
            for part in [codes, format!("{LOAD} done"), "0 errored, 0 timeout".into()] {
                ensure!(printed.contains(&part), "{protocol} {path}: {printed}");
            }
            until("each request is counted and has its line, and no other", || {
                let counted = shop.metric("istio_requests_total", &labels);
                counted.is_ok_and(|counted| counted == before + LOAD)
                    && logged(&shop, path, protocol) == LOAD
            });
        }
    }
    Ok(())
}

/// Lines of the waypoint's access log about a path and a version of HTTP.
fn logged(shop: &Shop, path: &str, protocol: &str) -> u64 {
    let parts = [format!("\"path\":\"{path}\""), format!("\"protocol\":\"{protocol}\"")];
    let log = shop.waypoint.log();
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count() as u64
}

/// What httpx says of the answers to these requests, one after the other.
fn httpx(shop: &Shop, version: &str, requests: &[Value]) -> Result<Vec<Value>> {
    let python = "/usr/bin/python3";
    let imports = Command::new(python).args(["-c", "import h2, httpx"]).output();
    ensure!(
        imports.is_ok_and(|output| output.status.success()),
        "httpx or h2 is missing: `cargo xtask setup` installs them (Debian packages python3-httpx, python3-h2)"
    );
    let mut command = shop.inside(python, "python3")?;
    command.args(["-c", include_str!("httpx.py"), &format!("http://{VIP}"), version]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("its input")?;
    for request in requests {
        writeln!(stdin, "{request}")?;
    }
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "httpx: {}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn httpx_is_routed_rewritten_and_told_the_truth_in_either_version() -> Result<()> {
    let shop = Shop::new()?;
    for (version, told) in [("1", "HTTP/1.1"), ("2", "HTTP/2")] {
        let requests = [
            json!({"method": "GET", "path": "/"}),
            json!({"method": "GET", "path": "/", "headers": {"x-canary-user": "true"}}),
            json!({"method": "GET", "path": "/api/v2/items?page=1&of=a%20b"}),
            json!({"method": "POST", "path": "/parts", "parts": ["one,", "two,", "three"]}),
            json!({"method": "PUT", "path": "/form", "data": {"a": "b c"}, "cookies": {"k": "v"}}),
            json!({"method": "DELETE", "path": "/status/404"}),
            json!({"method": "GET", "path": "/wait/3000"}),
            json!({"method": "GET", "path": "/after"}),
        ];
        let answers = httpx(&shop, version, &requests)?;
        ensure!(answers.len() == requests.len(), "{answers:?}");
        let bodies: Vec<Value> = answers
            .iter()
            .map(|answer| serde_json::from_str(answer["body"].as_str().unwrap_or_default()))
            .map(|body| body.unwrap_or_default())
            .collect();
        assert!(answers.iter().all(|answer| answer["version"] == told), "{answers:?}");
        let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_u64()).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 404, 504, 200].map(Some));
        for (index, pod) in ["v1", "v2", "v2", "v1", "v1", "v1"].into_iter().enumerate() {
            assert_eq!(bodies[index]["version"], pod, "{index}: {}", bodies[index]);
            assert_eq!(answers[index]["headers"]["x-version"], pod);
            assert_eq!(answers[index]["headers"]["server"], "istio-envoy");
            assert!(answers[index]["headers"]["x-envoy-upstream-service-time"].is_string());
            assert!(bodies[index]["headers"]["user-agent"].to_string().contains("python-httpx"));
            assert_eq!(bodies[index]["headers"]["host"], VIP);
        }
        assert_eq!(bodies[2]["path"], "/two/items?page=1&of=a%20b");
        assert_eq!(bodies[2]["headers"]["x-envoy-original-path"], "/api/v2/items?page=1&of=a%20b");
        assert_eq!(bodies[3]["body"], "one,two,three");
        assert_eq!((&bodies[4]["method"], &bodies[4]["body"]), (&"PUT".into(), &"a=b+c".into()));
        assert_eq!(bodies[4]["headers"]["cookie"], "k=v");
        assert_eq!(answers[6]["body"], "upstream request timeout");
        assert_eq!(bodies[7]["path"], "/after", "the connection outlives what took too long");
    }
    Ok(())
}

/// What the application knows of a client that has left.
struct Visit {
    headers: Vec<(String, String)>,
    close: Option<CloseFrame>,
}

/// Says back what it hears. After `late` it pauses, after `bye` it closes by itself.
#[expect(clippy::result_large_err, reason = "a refused handshake of tungstenite's is that large")]
fn echo(stream: TcpStream) -> Result<Visit> {
    let mut headers = Vec::new();
    let note = |request: &Request, mut response: Response| {
        for (name, value) in request.headers() {
            headers.push((name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
        }
        let protocol = "chat.v2".parse().expect("a header's value");
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, note) else { bail!("no handshake") };
    let mut close = None;
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => close = frame,
            Ok(Message::Text(text)) if text == "bye" => {
                let (code, reason) = (CloseCode::Library(4001), "as you wish".into());
                socket.close(Some(CloseFrame { code, reason }))?;
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if message.to_text().is_ok_and(|text| text == "late") {
                    thread::sleep(PAUSE);
                }
                socket.send(message)?;
            }
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Err(Error::ConnectionClosed) => return Ok(Visit { headers, close }),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Longer than the rule's timeout.
const PAUSE: Duration = Duration::from_millis(1500);

fn echoes(listener: TcpListener) -> mpsc::Receiver<Result<Visit>> {
    let (visits, visited) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if visits.send(echo(stream)).is_err() {
                return;
            }
        }
    });
    visited
}

fn socket(shop: &Shop) -> Result<(WebSocket<TcpStream>, tungstenite::handshake::client::Response)> {
    let stream = shop.client.inside.connect(Shop::at(82))?;
    let request = tungstenite::http::Request::builder()
        .uri("ws://product.shop:82/wait/socket?room=1")
        .header("host", "product.shop:82")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
        .header("sec-websocket-protocol", "chat.v1, chat.v2")
        .body(())?;
    match tungstenite::client(request, stream) {
        Ok(joined) => Ok(joined),
        Err(error) => bail!("no handshake: {error}"),
    }
}

#[test]
fn a_websocket_is_upgraded_outlasts_the_timeout_and_is_closed_by_either_side() -> Result<()> {
    let shop = Shop::new()?;
    ensure!(
        RULES.contains("prefix: /wait}") && RULES.contains("timeout: 1s"),
        "the rule's timeout"
    );
    let server = &shop.servers[0];
    let visits = echoes(server.inside.listen(server.at(8082))?);
    let (mut client, answer) = socket(&shop)?;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    let binary: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    for message in [Message::text("hello"), Message::binary(binary), Message::text("again")] {
        client.send(message.clone())?;
        assert!(client.read()? == message, "another message came back");
    }
    client.send(Message::Ping("are you there".into()))?;
    assert_eq!(client.read()?, Message::Pong("are you there".into()));
    let began = Instant::now();
    client.send(Message::text("late"))?;
    assert_eq!(client.read()?, Message::text("late"));
    assert!(began.elapsed() >= PAUSE, "{:?}", began.elapsed());
    let done = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    client.close(Some(done.clone()))?;
    assert_eq!(client.read()?, Message::Close(Some(done.clone())), "the handshake's other half");
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
    let visit = visits.recv_timeout(PATIENCE)??;
    assert_eq!(visit.close, Some(done), "the application hears the code and the reason");
    let header = |name: &str| {
        let mut of_name = visit.headers.iter().filter(|(own, _)| own == name);
        of_name.next().map(|(_, value)| value.as_str())
    };
    assert_eq!(header("host"), Some("product.shop:82"));
    assert_eq!(header("sec-websocket-protocol"), Some("chat.v1, chat.v2"));
    assert!(header("x-request-id").is_some());
    let (mut client, _) = socket(&shop)?;
    client.send(Message::text("bye"))?;
    let closed = CloseFrame { code: CloseCode::Library(4001), reason: "as you wish".into() };
    assert_eq!(client.read()?, Message::Close(Some(closed)));
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
    visits.recv_timeout(PATIENCE)??;
    until("both have their lines", || {
        let log = shop.waypoint.log();
        let of_path = log.lines().filter(|line| line.contains("/wait/socket?room=1"));
        of_path.filter(|line| line.contains("\"response_code\":101")).count() == 2
    });
    Ok(())
}
