//! Pure: the functions on the way of each connection, ready to be counted.
//! Never: a choice that depends on the machine or on time.
use std::{
    cell::RefCell, collections::BTreeMap, hint::black_box, mem::take, net::SocketAddr, sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use culvert_agent::{
    clock,
    discovery::{Snapshot, Workload},
    flow::Direction,
    hbone::{
        Authority, Baggage, ConnectHead, Forwarded, TraceParent,
        http2::hpack,
        record::{Content, Key},
    },
    manifest::{Changes, Compiler, Folder, Settings, compile},
    policy::{Asked, authorize},
    route::{Choice, next_hop},
    settings::Format,
    telemetry::{Protocol, Reason, Record, Telemetry, logging::Logging, record::Party},
};
use e2e::balancing::{BALANCERS, Requests};
use rustls::{
    ConnectionTrafficSecrets,
    crypto::cipher::{AeadKey, Iv},
};

/// Calls that are not counted: whatever is made once is made then.
const WARM: u64 = 20;
/// Calls that are counted.
pub(crate) const TIMES: u64 = 100;

/// A function under its name in the budget.
pub(crate) struct Hot {
    pub(crate) name: &'static str,
    /// Calls it [`TIMES`] times under [`counted`].
    pub(crate) run: fn(),
}

pub(crate) const HOT: &[Hot] = &[
    Hot { name: "record: seal 64 B", run: || seal(64) },
    Hot { name: "record: seal 16 KiB", run: || seal(16 << 10) },
    Hot { name: "record: open 64 B", run: || open(64) },
    Hot { name: "record: open 16 KiB", run: || open(16 << 10) },
    Hot { name: "route: next hop to a service of 1 endpoint", run: || to_service(1) },
    Hot { name: "route: next hop to a service of 100 endpoints", run: || to_service(100) },
    Hot { name: "route: next hop to a pod", run: to_pod },
    Hot { name: "policy: authorize by 1 rule", run: || authorized(1) },
    Hot { name: "policy: authorize by the last of 50 rules", run: || authorized(50) },
    Hot { name: "hbone: read the head of a CONNECT", run: connect_head },
    Hot { name: "hbone: parse baggage", run: baggage },
    Hot { name: "hbone: parse forwarded", run: forwarded },
    Hot { name: "manifest: read a file of ten changed pods", run: read_changed },
    Hot { name: "manifest: compile one changed pod among 1,000", run: compile_changed },
    Hot { name: "telemetry: a connection's record as text", run: || record(Format::Text) },
    Hot { name: "telemetry: a connection's record as JSON", run: || record(Format::Json) },
    Hot { name: "balance: pick and report, round robin of 10", run: || balanced(0, 10) },
    Hot { name: "balance: pick and report, round robin of 100", run: || balanced(0, 100) },
    Hot { name: "balance: pick and report, round robin of 1,000", run: || balanced(0, 1_000) },
    Hot { name: "balance: pick and report, least request of 10", run: || balanced(1, 10) },
    Hot { name: "balance: pick and report, least request of 100", run: || balanced(1, 100) },
    Hot { name: "balance: pick and report, least request of 1,000", run: || balanced(1, 1_000) },
    Hot { name: "balance: pick and report, random of 10", run: || balanced(2, 10) },
    Hot { name: "balance: pick and report, random of 100", run: || balanced(2, 100) },
    Hot { name: "balance: pick and report, random of 1,000", run: || balanced(2, 1_000) },
    Hot { name: "balance: pick and report, ring of 10", run: || balanced(3, 10) },
    Hot { name: "balance: pick and report, ring of 100", run: || balanced(3, 100) },
    Hot { name: "balance: pick and report, ring of 1,000", run: || balanced(3, 1_000) },
    Hot { name: "balance: pick and report, maglev of 10", run: || balanced(4, 10) },
    Hot { name: "balance: pick and report, maglev of 100", run: || balanced(4, 100) },
    Hot { name: "balance: pick and report, maglev of 1,000", run: || balanced(4, 1_000) },
];

/// The only place where instructions count; known to the counter by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

/// Counts `work`, and neither how what it works on is made nor how that is dropped.
fn repeat<T>(mut prepare: impl FnMut(u64) -> T, mut work: impl FnMut(&mut T)) {
    for turn in 0..WARM + TIMES {
        let mut prepared = prepare(turn);
        let mut work = || work(&mut prepared);
        if turn < WARM { work() } else { counted(&mut work) }
    }
}

fn key() -> Key {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; 12]));
    Key::new((0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })).expect("a suite that we offer")
}

fn seal(size: usize) {
    let (plain, mut out, mut key) = (vec![5; size], BytesMut::with_capacity(32 << 10), key());
    repeat(
        |_| (),
        |_| {
            out.clear();
            key.seal(Content::Data, &[black_box(&plain)], &mut out).expect("short enough");
        },
    );
}

fn open(size: usize) {
    let (plain, mut from, mut to) = (vec![5; size], key(), key());
    let sealed = |_| {
        let mut record = BytesMut::with_capacity(32 << 10);
        from.seal(Content::Data, &[&plain], &mut record).expect("short enough");
        record
    };
    repeat(sealed, |record| {
        black_box(to.open(record).expect("sealed just now"));
    });
}

const NAMESPACE: &str = "{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}\n";
const CLIENT: &str = "Kubernetes//Pod/shop/p0";

fn pod(number: usize, address: usize) -> String {
    format!(
        "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: p{number}, namespace: shop, labels: {{app: cart, version: v1}}}}, \
         spec: {{nodeName: n{}, serviceAccountName: cart}}, \
         status: {{phase: Running, podIP: 10.1.{}.{}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n",
        number % 10,
        address / 250,
        1 + address % 250
    )
}

fn pods(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| pod(number, number)).collect()
}

fn snapshot(text: String) -> Snapshot {
    let mut folder = Folder::default();
    folder.update(BTreeMap::from([("mesh.yaml".into(), Ok(text))]));
    compile(&folder, &Settings::default())
}

fn to_service(endpoints: usize) {
    let service = "---\n{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, \
                   spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}}\n";
    hops(&snapshot(format!("{NAMESPACE}{service}{}", pods(0..endpoints))), "10.96.0.1:80");
}

fn to_pod() {
    hops(&snapshot(format!("{NAMESPACE}{}", pods(0..100))), "10.1.0.42:8080");
}

fn hops(snapshot: &Snapshot, destination: &str) {
    let destination: SocketAddr = destination.parse().expect("an address");
    repeat(
        |turn| Choice { random: turn.wrapping_mul(0x9e37_79b9_7f4a_7c15), ..Choice::default() },
        |choice| {
            let hop = next_hop(black_box(snapshot), CLIENT, destination, choice);
            drop(black_box(hop.expect("there is a way")));
        },
    );
}

fn authorized(rules: usize) {
    let from = |number| {
        format!("{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/a{number}]}}}}]}}")
    };
    let rules: Vec<_> = (1..=rules).map(from).collect();
    let policy = format!(
        "---\n{{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {{name: cart, namespace: shop}}, \
         spec: {{action: ALLOW, rules: [{}]}}}}\n",
        rules.join(", ")
    );
    let snapshot = snapshot(format!("{NAMESPACE}{}{policy}", pods(0..1)));
    let guard = snapshot.guard(&client(&snapshot));
    let last = format!("spiffe://cluster.local/ns/shop/sa/a{}", rules.len());
    let peer = last.parse().expect("an identity");
    let (source, destination) = (([10, 1, 0, 9], 40_000).into(), ([10, 1, 0, 1], 8080).into());
    let asked = Asked { peer: Some(&peer), source, destination };
    assert!(authorize(&guard, &asked).is_allowed(), "the last rule matches");
    repeat(|_| (), |_| drop(black_box(authorize(black_box(&guard), &asked))));
}

fn client(snapshot: &Snapshot) -> Arc<Workload> {
    snapshot.workload(CLIENT).expect("the first pod").clone()
}

const BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1";
const FORWARDED: &str = "for=\"10.1.0.9:40000\";host=cart.shop.svc.cluster.local";

/// From the block of a HEADERS frame.
fn connect_head() {
    let authority = "10.1.0.1:8080";
    let head = ConnectHead {
        authority: authority.parse().expect("an authority"),
        forwarded: Forwarded::parse(FORWARDED),
        baggage: Some(Baggage::parse(BAGGAGE)),
        trace: TraceParent::new([1, 2, 3]),
    };
    let mut block = BytesMut::new();
    hpack::write_known(&mut block, 2, Some(b"CONNECT"));
    hpack::write_known(&mut block, 1, Some(authority.as_bytes()));
    for (name, value) in head.headers() {
        hpack::write_field(&mut block, name.as_bytes(), value.as_bytes());
    }
    let mut decoder = hpack::Decoder::default();
    let mut read = || {
        let fields = decoder.read(black_box(&block), 1 << 16).expect("written just now").list;
        let text = |wanted: &str| {
            let value = fields.iter().find(|(name, _)| name == wanted.as_bytes());
            value.and_then(|(_, value)| str::from_utf8(value).ok())
        };
        let authority: Authority = text(":authority")?.parse().ok()?;
        Some(ConnectHead::read(authority, text, [4, 5, 6]))
    };
    assert_eq!(read(), Some(head), "what was written");
    repeat(|_| (), |_| drop(black_box(read())));
}

fn baggage() {
    repeat(|_| (), |_| drop(black_box(Baggage::parse(black_box(BAGGAGE)))));
}

fn forwarded() {
    repeat(|_| (), |_| drop(black_box(Forwarded::parse(black_box(FORWARDED)))));
}

/// A thousand pods, in files of ten beside their service.
struct Mesh {
    folder: Folder,
    files: BTreeMap<Arc<str>, String>,
}

impl Mesh {
    /// The mesh, and everything as a change since there was nothing.
    fn new() -> (Self, Changes) {
        let file = |number: usize| {
            let own = number * 10..number * 10 + 10;
            let service = format!(
                "---\n{{kind: Service, apiVersion: v1, metadata: {{name: s{number}, namespace: shop}}, \
                 spec: {{clusterIP: 10.96.0.{}, selector: {{app: s{number}}}, ports: [{{port: 80}}]}}}}\n",
                number + 1
            );
            let pods = pods(own).replace("app: cart", &format!("app: s{number}"));
            (format!("{number:03}.yaml").into(), pods + &service)
        };
        let mut files: BTreeMap<_, _> = (0..100).map(file).collect();
        files.insert("namespace.yaml".into(), NAMESPACE.into());
        let mut mesh = Self { folder: Folder::default(), files };
        let everything = mesh.update();
        (mesh, everything)
    }

    fn update(&mut self) -> Changes {
        let text = |(path, text): (&Arc<str>, &String)| (path.clone(), Ok(text.clone()));
        self.folder.update(self.files.iter().map(text).collect())
    }

    /// One pod has another address.
    fn change(&mut self, turn: u64) -> Changes {
        let number = usize::try_from(turn).unwrap_or(0);
        let file = self.files.get_mut("042.yaml").expect("the file");
        let changed = pod(420, 2_000 + number).replace("app: cart", "app: s42");
        let rest = file.match_indices("---").nth(1).map_or(0, |(at, _)| at);
        *file = changed + file.get(rest..).unwrap_or_default();
        self.update()
    }
}

fn read_changed() {
    let version = |turn: u64| {
        let text: String =
            (0..10).map(|n| pod(n, n + usize::from(turn.is_multiple_of(2)) * 500)).collect();
        BTreeMap::from([(Arc::from("pods.yaml"), Ok(text))])
    };
    let mut folder = Folder::default();
    repeat(version, |contents| drop(black_box(folder.update(take(contents)))));
}

fn compile_changed() {
    let (mesh, everything) = Mesh::new();
    let mut compiler = Compiler::new(Settings::default());
    let mut snapshot = compiler.apply(&mesh.folder, &everything);
    let mesh = RefCell::new(mesh);
    assert_eq!(snapshot.workloads().len(), 1_000);
    repeat(
        |turn| mesh.borrow_mut().change(turn),
        |changes| snapshot = compiler.apply(&mesh.borrow().folder, changes),
    );
    assert_eq!(snapshot.problems(), []);
}

fn balanced(balancer: usize, endpoints: usize) {
    let (_, algorithm) = &BALANCERS[balancer];
    // Any moment: only the time between two counts.
    let mut requests = Requests::new(algorithm, endpoints, clock::now());
    repeat(|_| (), |()| requests.request());
    assert_eq!(requests.ejected(), 0);
}

fn record(form: Format) {
    let logging = Logging::start(form, "info").expect("nobody logs yet");
    let telemetry = Arc::new(Telemetry::new(1_000, Duration::from_secs(60)));
    let snapshot = snapshot(format!("{NAMESPACE}{}", pods(0..2)));
    let client = client(&snapshot);
    let party =
        Party { identity: Some(client.identity.clone()), workload: Some(client), baggage: None };
    let (source, destination) = (([10, 1, 0, 1], 40_000).into(), ([10, 1, 0, 2], 8080).into());
    repeat(
        |_| (party.clone(), party.clone(), "10.1.0.2:8080".to_owned()),
        |(from, to, authority)| {
            let mut record = Record::open(&telemetry, Direction::Outbound, source, destination);
            (record.source, record.destination) = (take(from), take(to));
            record.authority = Some(take(authority));
            record.protocol = Protocol::Hbone;
            record.opened();
            record.end(Reason::Ok, None);
        },
    );
    logging.flush();
}
