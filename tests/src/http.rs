//! Shell: an HTTP/1.1 application that tells what it was asked, and by which version of itself.
//! `/status/503` is answered with that status, `/wait/250` after so many milliseconds.
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// Header lines of one request, at most.
const MOST_HEADERS: usize = 200;

/// The application: serves until its process ends.
///
/// # Errors
/// When it cannot listen.
pub fn run(listen: SocketAddr, version: &str) -> Result<()> {
    serve(TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?, version);
    Ok(())
}

/// Serves each connection in a thread of its own.
pub fn serve(listener: TcpListener, version: &str) {
    for stream in listener.incoming().flatten() {
        let version = version.to_owned();
        // A connection that breaks is its client's affair.
        thread::spawn(move || answer_all(stream, &version));
    }
}

fn answer_all(stream: TcpStream, version: &str) -> Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some((line, headers)) = head(&mut reader)? {
        let body = body(&mut reader, &headers)?;
        let mut parts = line.split(' ');
        let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let number = |prefix: &str| path.strip_prefix(prefix)?.split('?').next()?.parse().ok();
        if let Some(millis) = number("/wait/") {
            thread::sleep(Duration::from_millis(millis));
        }
        let status = number("/status/").unwrap_or(200);
        let told = json!({
            "version": version, "method": method, "path": path, "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        let told = told.to_string();
        write!(
            writer,
            "HTTP/1.1 {status} {version}\r\ncontent-type: application/json\r\nx-version: {version}\r\n\
             content-length: {}\r\n\r\n{told}",
            told.len()
        )?;
    }
    Ok(())
}

fn body(reader: &mut impl BufRead, headers: &Map<String, Value>) -> Result<Vec<u8>> {
    let header = |name: &str| headers.get(name).and_then(Value::as_str);
    if header("transfer-encoding") == Some("chunked") {
        return chunks(reader);
    }
    let mut body = vec![0; header("content-length").map_or(Ok(0), str::parse)?];
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// RFC 9112 §7.1, without extensions and trailers.
fn chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16)?;
        let begin = body.len();
        body.resize(begin + length + 2, 0);
        reader.read_exact(body.get_mut(begin..).unwrap_or_default())?;
        body.truncate(begin + length);
        if length == 0 {
            return Ok(body);
        }
    }
}

/// First line and headers of a message; `None` at the end.
pub(crate) fn head(reader: &mut impl BufRead) -> Result<Option<(String, Map<String, Value>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Map::new();
    for _ in 0..MOST_HEADERS {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), json!(value.trim()));
    }
    Ok(Some((line.trim_end().to_owned(), headers)))
}
