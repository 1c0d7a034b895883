//! The article's story: one slow service must not take the others down. A payment pod of four hangs for
//! half a minute under steady load; callers wait with it, or, with the article's policies, notice nothing.
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{Factory, Lab, Pod, Waypoint, lab::PodSpec, until};
use serde_json::Value;

use crate::mesh::pod;

/// How long an answer takes (the article's payment service).
const USUAL: Duration = Duration::from_millis(50);
/// How long it is looked at while all is well, and how long one of them hangs.
const WELL: Duration = Duration::from_secs(9);
const HANGING: Duration = Duration::from_secs(30);
/// Before anything is measured, connections are made.
const WARM_UP: Duration = Duration::from_secs(2);
/// A caller's own patience: nobody gives up before the hanging is over.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same service twice: what callers of the first are told is Istio's default, and those of the second
/// are under the article's `order-service` and `inventory-service`, word for word but for the hosts, and for
/// `h2UpgradePolicy: UPGRADE`: these applications speak HTTP/1.1.
const BARE: (&str, [u8; 4]) = ("bare", [10, 96, 0, 11]);
const GUARDED: (&str, [u8; 4]) = ("guarded", [10, 96, 0, 12]);
/// And one of which all pods are well all the time: what the machine does meanwhile, its callers feel too.
const WELL_ALL_THE_TIME: (&str, [u8; 4]) = ("calm", [10, 96, 0, 13]);
const POLICY: &str = "apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: guarded, namespace: shop}
spec:
  host: guarded
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 100
      http:
        http1MaxPendingRequests: 50
        http2MaxRequests: 200
        maxRequestsPerConnection: 10
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 30s
      baseEjectionTime: 60s
      maxEjectionPercent: 50
      minHealthPercent: 30
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: guarded, namespace: shop}
spec:
  hosts: [guarded]
  http:
  - route: [{destination: {host: guarded}}]
    timeout: 5s
    retries:
      attempts: 3
      perTryTimeout: 2s
      retryOn: connect-failure,refused-stream,unavailable,cancelled,retriable-4xx,5xx
      retryRemoteLocalities: true
";

/// Serves until the test ends; what comes while it hangs is answered when that is over.
fn serve(listener: TcpListener, hangs: Arc<AtomicBool>) {
    for stream in listener.incoming().flatten() {
        let hangs = hangs.clone();
        thread::spawn(move || answer(&stream, &hangs));
    }
}

fn answer(stream: &TcpStream, hangs: &AtomicBool) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while head(&mut reader)?.is_some() {
        thread::sleep(USUAL);
        while hangs.load(Ordering::Relaxed) {
            thread::sleep(USUAL);
        }
        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
    Ok(())
}

/// The first line of a message without a body; `None` at the end.
fn head(reader: &mut impl BufRead) -> Result<Option<String>> {
    let (mut first, mut line) = (String::new(), String::new());
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(Some(first))
}

/// Four pods, of which the first can hang, and the service before them.
struct Payment {
    hangs: Arc<AtomicBool>,
    _pods: Vec<Pod>,
}

impl Payment {
    fn open(lab: &Lab, (service, vip): (&str, [u8; 4])) -> Result<Self> {
        let hangs = Arc::new(AtomicBool::new(false));
        let mut pods = Vec::new();
        for number in 1..=4 {
            let (name, labels) = (format!("{service}-{number}"), [("app", service)]);
            let spec =
                PodSpec { name: &name, namespace: "shop", account: service, labels: &labels };
            let pod = lab.pod(2, &spec)?;
            let listener = pod.inside.listen(pod.at(8080))?;
            let hangs = if number == 1 { hangs.clone() } else { Arc::default() };
            thread::spawn(move || serve(listener, hangs));
            pods.push(pod);
        }
        let vip = vip.map(|byte| byte.to_string()).join(".");
        lab.apply(
            &format!("service-{service}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
                 spec: {{clusterIP: {vip}, selector: {{app: {service}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
            ),
        )?;
        Ok(Self { hangs, _pods: pods })
    }
}

/// What became of the requests of a time.
#[derive(Debug, Default)]
struct Heard {
    failed: usize,
    took: Vec<Duration>,
}

impl Heard {
    fn p99(&mut self) -> Duration {
        self.took.sort_unstable();
        self.took.get(self.took.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Callers of one service in one pod: each request leaves when it is due, however many are not answered
/// (an open loop), and its time is counted from then.
#[derive(Clone)]
struct Callers {
    inside: Arc<Factory>,
    to: SocketAddr,
    host: &'static str,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Callers {
    fn new(inside: &Arc<Factory>, (host, vip): (&'static str, [u8; 4])) -> Self {
        Self { inside: inside.clone(), to: (vip, 80).into(), host, idle: Arc::default() }
    }

    /// So many requests a second for this long; the result is there when all are answered.
    fn call(&self, per_second: u32, time: Duration) -> Result<Heard> {
        let (start, gap) = (Instant::now(), Duration::from_secs(1) / per_second);
        let mut calls = Vec::new();
        while gap * (calls.len() as u32) < time {
            let due = start + gap * (calls.len() as u32);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let caller = self.clone();
            calls.push(thread::spawn(move || caller.once().map(|()| due.elapsed())));
        }
        let mut heard = Heard::default();
        for call in calls {
            match call.join().ok().context("no panic")? {
                Ok(took) => heard.took.push(took),
                Err(_) => heard.failed += 1,
            }
        }
        Ok(heard)
    }

    fn once(&self) -> Result<()> {
        let kept = self.idle.lock().expect("a list").pop();
        let stream = kept.map_or_else(|| self.inside.connect(self.to), Ok)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(&stream, "GET /charge HTTP/1.1\r\nhost: {}\r\n\r\n", self.host)?;
        let status = head(&mut BufReader::new(&stream))?.context("closed")?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
        self.idle.lock().expect("a list").push(stream);
        Ok(())
    }
}

/// How many endpoints of a service are left out.
fn left_out(waypoint: &Waypoint, service: &str) -> Result<usize> {
    let shown: Value = serde_json::from_str(
        &waypoint.get(15000, &format!("/endpoints?service={service}.shop:80"))?,
    )?;
    let endpoints = shown["backends"][0]["endpoints"].as_array().context("endpoints")?;
    Ok(endpoints.iter().filter(|endpoint| endpoint["state"] == "ejected").count())
}

#[test]
fn one_hanging_pod_of_four_is_felt_by_all_callers_without_policy_and_by_none_with_it() -> Result<()>
{
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let client = pod(&lab, 1, "checkout")?;
    let services = [Payment::open(&lab, BARE)?, Payment::open(&lab, GUARDED)?];
    let _well = Payment::open(&lab, WELL_ALL_THE_TIME)?;
    let _agents = [lab.agent(1)?, lab.agent(2)?];
    let waypoint = Waypoint::start(&lab, 2, "10.96.0.99", "service")?;
    lab.apply("policy.yaml", POLICY)?;
    until("requests pass the waypoint under the policy", || {
        let passed = |service: &str| waypoint.log().contains(&format!("{service}.shop.svc"));
        let known =
            waypoint.get(15000, "/config_dump").is_ok_and(|dump| dump.contains("perTryTimeout"));
        // On connections of their own: one that was made before goes on past the waypoint.
        let asked =
            [BARE, GUARDED, WELL_ALL_THE_TIME].map(|to| Callers::new(&client.inside, to).once());
        known && asked.iter().all(Result::is_ok) && passed(BARE.0) && passed(GUARDED.0)
    });
    let (bare, guarded) =
        (Callers::new(&client.inside, BARE), Callers::new(&client.inside, GUARDED));
    let calm = Callers::new(&client.inside, WELL_ALL_THE_TIME);
    // All at the same time, so that one machine makes the same noise for all. A hanging pod gets one of
    // sixteen requests: LEAST_REQUEST avoids it unless both of its choices are that pod.
    let all = |time: Duration| -> Result<[Heard; 3]> {
        let (bare, guarded, calm) = (bare.clone(), guarded.clone(), calm.clone());
        let bare = thread::spawn(move || bare.call(25, time));
        let calm = thread::spawn(move || calm.call(100, time));
        let guarded = guarded.call(100, time)?;
        let [bare, calm] = [bare, calm].map(|callers| callers.join().ok().context("no panic"));
        Ok([bare??, guarded, calm??])
    };
    all(WARM_UP)?;
    let [mut bare_well, mut guarded_well, _] = all(WELL)?;
    services.iter().for_each(|service| service.hangs.store(true, Ordering::Relaxed));
    let hangs: Vec<_> = services.iter().map(|service| service.hangs.clone()).collect();
    thread::spawn(move || {
        thread::sleep(HANGING);
        hangs.iter().for_each(|hangs| hangs.store(false, Ordering::Relaxed));
    });
    let [mut bare_hung, mut guarded_hung, mut calm_then] = all(HANGING)?;
    let calm = [bare_well.p99(), guarded_well.p99(), calm_then.p99()];
    let told = format!(
        "p99 while all is well, and of those who are well all the time {calm:?}; while one of four hangs {:?} without policy ({} of {} failed), {:?} with it ({} of {} failed)",
        bare_hung.p99(),
        bare_hung.failed,
        bare_hung.failed + bare_hung.took.len(),
        guarded_hung.p99(),
        guarded_hung.failed,
        guarded_hung.failed + guarded_hung.took.len(),
    );
    println!("{told}");
    ensure!(bare_well.failed + guarded_well.failed + calm_then.failed == 0, "{told}");
    // Callers wait as long as the pod hangs.
    ensure!(bare_hung.p99() > HANGING / 3, "{told}");
    ensure!(guarded_hung.p99() <= calm[1].max(calm[2]) * 2, "{told}");
    ensure!(guarded_hung.failed * 1_000 <= guarded_hung.took.len(), "{told}");
    ensure!(guarded_hung.took.len() > 2_900, "{told}");
    assert_eq!((left_out(&waypoint, BARE.0)?, left_out(&waypoint, GUARDED.0)?), (0, 1));
    Ok(())
}
