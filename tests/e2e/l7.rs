//! HTTP between pods through a real waypoint: rules, labels that come and go, clients that others wrote.
mod cascade;
mod foreign;
mod grpc;
mod shop;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{Waypoint, until};
use serde_json::Value;

use self::shop::{RULES, Shop, VIP};

/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(1);

#[test]
fn a_waypoint_routes_by_header_path_and_timeout() -> Result<()> {
    let shop = Shop::new()?;
    for http in ["--http1.1", "--http2-prior-knowledge"] {
        assert_eq!(shop.asked(&[http, "/"])?["version"], "v1");
        assert_eq!(shop.asked(&[http, "-H", "x-canary-user: true", "/"])?["version"], "v2");
        let said = shop.asked(&[http, "/api/v2/items?page=1"])?;
        assert_eq!((&said["version"], &said["path"]), (&"v2".into(), &"/two/items?page=1".into()));
        assert_eq!(said["headers"]["x-envoy-original-path"], "/api/v2/items?page=1");
        let late = shop.curl(&[http, "-w", " %{http_code}", "/wait/3000"])?;
        assert_eq!(late, "upstream request timeout 504");
        let said = shop.asked(&[http, "-d", "a body", "/status/200"])?;
        assert_eq!((&said["method"], &said["body"]), (&"POST".into(), &"a body".into()));
    }
    let record = shop.agents[1].record("the pod's agent knows the waypoint by its identity", |r| {
        r.direction == "inbound" && r.source_identity == Some(shop.waypoint.pod.identity())
    });
    assert_eq!(record.protocol, "hbone");
    let metrics = shop.waypoint.get(15020, "/stats/prometheus")?;
    let requests = metrics.lines().find(|line| {
        line.starts_with("istio_requests_total") && line.contains("response_flags=\"UT\"")
    });
    let requests = requests.context("a series of requests that took too long")?;
    assert!(
        requests.contains("reporter=\"waypoint\"") && requests.contains(&shop.client.identity())
    );
    assert!(shop.waypoint.log().contains("\"response_flags\":\"UT\""));
    Ok(())
}

#[test]
fn a_rule_that_is_edited_counts_from_the_next_request_and_a_broken_one_not_at_all() -> Result<()> {
    let shop = Shop::new()?;
    let all = |version: &str| {
        RULES.replace(
            "  - route: [{destination: {host: product, subset: v1}}]\n---",
            &format!("  - route: [{{destination: {{host: product, subset: {version}}}}}]\n---"),
        )
    };
    shop.rules(&all("v2"))?;
    until("the rule counts", || shop.asked(&["/"]).is_ok_and(|said| said["version"] == "v2"));
    shop.rules(&all("v2").replace("prefix: /wait", "prefixx: /wait"))?;
    until("the broken one is reported", || {
        shop.waypoint.get(15000, "/config_dump").is_ok_and(|dump| dump.contains("prefixx"))
    });
    assert_eq!(shop.counted(5, &["/"])?, BTreeMap::from([("v2".into(), 5)]));
    let weights = "  - route: [{destination: {host: product, subset: v1}, weight: 80}, {destination: {host: product, subset: v2}, weight: 20}]\n---";
    shop.rules(
        &all("v2").replace("  - route: [{destination: {host: product, subset: v2}}]\n---", weights),
    )?;
    until("both are chosen", || shop.counted(10, &["/"]).is_ok_and(|counts| counts.len() == 2));
    Ok(())
}

/// What one client has done.
#[derive(Default)]
struct Asked {
    answered: usize,
    /// Connections that it needed.
    connections: usize,
}

/// One request after the other until it is told to end, each answer read to its end: on a connection each,
/// or on one for as long as the other side keeps it.
fn keeps_asking(shop: &Shop, keeps: bool, end: &Arc<AtomicBool>) -> JoinHandle<Result<Asked>> {
    let (end, client) = (end.clone(), shop.client.inside.clone());
    thread::spawn(move || {
        let mut asked = Asked::default();
        let mut open = None;
        while !end.load(Ordering::Relaxed) {
            let mut stream = match open.take() {
                Some(stream) => stream,
                None => {
                    asked.connections += 1;
                    BufReader::new(client.connect(Shop::at(80))?)
                }
            };
            let close = if keeps { "" } else { "connection: close\r\n" };
            write!(stream.get_mut(), "GET / HTTP/1.1\r\nhost: product\r\n{close}\r\n")?;
            let closes = whole_answer(&mut stream)
                .with_context(|| format!("request {} of a client", asked.answered))?;
            asked.answered += 1;
            open = Some(stream).filter(|_| keeps && !closes);
            thread::sleep(PAUSE);
        }
        Ok(asked)
    })
}

/// Reads an answer of status 200 to its end, and says whether its connection ends with it.
fn whole_answer(stream: &mut impl BufRead) -> Result<bool> {
    let (mut head, mut line) = (Vec::new(), String::new());
    while line != "\r\n" {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "an end within an answer: {head:?}");
        head.push(line.trim_end().to_ascii_lowercase());
    }
    ensure!(head.first().is_some_and(|line| line.starts_with("http/1.1 200 ")), "{head:?}");
    let header = |name: &str| head.iter().find_map(|line| line.strip_prefix(name));
    let length = header("content-length: ").context("no length")?.parse()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let said: Value = serde_json::from_slice(&body)?;
    ensure!(said["path"] == "/", "{said}");
    Ok(header("connection: ") == Some("close"))
}

#[test]
fn labels_come_and_go_and_no_request_is_lost() -> Result<()> {
    let shop = Shop::new()?;
    let end = Arc::new(AtomicBool::new(false));
    let asking = [false, true].map(|keeps| keeps_asking(&shop, keeps, &end));
    for _ in 0..3 {
        for (label, passes) in
            [(None, false), (Some("waypoint"), true), (Some("none"), false), (Some("gone"), false)]
        {
            shop.label(label)?;
            until("the label counts", || {
                shop.asked(&["/"])
                    .is_ok_and(|said| said["headers"]["x-request-id"].is_string() == passes)
            });
        }
    }
    end.store(true, Ordering::Relaxed);
    let [anew, kept] = asking.map(|asking| asking.join().expect("no panic"));
    let (anew, kept) = (anew?, kept?);
    assert!(anew.answered > 10 && anew.connections == anew.answered, "{}", anew.answered);
    assert!(kept.answered > 10 * kept.connections, "{} on {}", kept.answered, kept.connections);
    Ok(())
}

#[test]
fn a_canary_waypoint_takes_its_share_of_connections() -> Result<()> {
    let shop = Shop::new()?;
    let canary = Waypoint::called("canary", &shop.lab, 1, ("10.96.0.98", "service"))?;
    let passed = |waypoint: &Waypoint| {
        waypoint.log().lines().filter(|line| line.contains("/counted")).count()
    };
    let mut before = (passed(&shop.waypoint), passed(&canary));
    for (weight, shares) in [(0, 0..=0), (50, 8..=32), (100, 40..=40), (120, 0..=0)] {
        shop.lab.apply(
            "service-product.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: product, namespace: shop, \
                 labels: {{istio.io/use-waypoint: waypoint, istio.io/use-waypoint-canary: canary}}, \
                 annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}}}\nspec: {{clusterIP: {VIP}, \
                 selector: {{app: product}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
            ),
        )?;
        until("the weight is known", || {
            let known = |dump: &Value| {
                let all = dump["services"].as_array().cloned().unwrap_or_default();
                let product = all.iter().find(|service| service["name"] == "product").cloned();
                let shares = product.unwrap_or_default()["weightedWaypoints"].clone();
                match weight {
                    // More than all of them is no share.
                    120 => shares == serde_json::json!([]),
                    weight => shares[1]["weight"] == weight,
                }
            };
            shop.agents[0].dump().is_ok_and(|dump| known(&dump))
        });
        assert_eq!(shop.counted(40, &["/counted"])?, BTreeMap::from([("v1".into(), 40)]));
        let sum = before.0 + before.1 + 40;
        until("all are recorded", || passed(&shop.waypoint) + passed(&canary) == sum);
        let now = (passed(&shop.waypoint), passed(&canary));
        assert!(shares.contains(&(now.1 - before.1)), "{} of 40 at {weight} %", now.1 - before.1);
        before = now;
    }
    Ok(())
}
