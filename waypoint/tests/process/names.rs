//! Shell: endpoints that are found by their names (B70), with a server of names that the test plays.
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use culvert_agent::clock;
use tokio::net::UdpSocket;

use crate::{
    client::Answer,
    lab::{CART, Lab},
    pod::{Pod, until},
};

/// A configuration that asks the server of the test.
const ASKED: &str = "dns = [\"NET.53:5300\"]\n";
/// Answers that are good for so long, seconds, are not asked for twice.
const LONG: u32 = 600;

/// What is said of a name.
#[derive(Clone)]
enum Said {
    /// It has these addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    Nothing,
    /// No answer.
    Silence,
}

/// A server of names.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    said: HashMap<String, Said>,
    asked: HashMap<String, usize>,
}

impl Names {
    async fn start(lab: &Lab) -> Self {
        let at = SocketAddr::new(lab.address(53), 5300);
        let socket = UdpSocket::bind(at).await.expect("a socket");
        let names = Self::default();
        let server = names.clone();
        lab.drain.spawn(async move {
            let mut bytes = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
                server.reply(&socket, &bytes[..length], peer).await;
            }
        });
        names
    }

    fn say(&self, name: &str, said: Said) {
        self.lock().said.insert(name.into(), said);
    }

    fn asked(&self, name: &str) -> usize {
        self.lock().asked.get(name).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("a book")
    }

    async fn reply(&self, socket: &UdpSocket, query: &[u8], peer: SocketAddr) {
        if let Some(answer) = self.answer(query) {
            let _ = socket.send_to(&answer, peer).await;
        }
    }

    /// RFC 1035 §4.
    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (mut name, mut at) = (String::new(), 12);
        while let Some(length @ 1..) = query.get(at).copied() {
            let label = query.get(at + 1..at + 1 + usize::from(length))?;
            name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
            name.push('.');
            at += 1 + usize::from(length);
        }
        let name = name.trim_end_matches('.').to_owned();
        let question = query.get(12..at + 5)?;
        let is_v4 = question.ends_with(&[0, 1, 0, 1]);
        let mut book = self.lock();
        *book.asked.entry(name.clone()).or_default() += 1;
        let (code, addresses, good) = match book.said.get(&name)? {
            Said::Addresses(all, good) if is_v4 => (0, all.clone(), *good),
            Said::Addresses(_, good) => (0, Vec::new(), *good),
            Said::Nothing => (3, Vec::new(), 0),
            Said::Silence => return None,
        };
        let count = u8::try_from(addresses.len()).ok()?;
        let mut answer = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]].concat();
        answer.extend(question);
        for address in addresses {
            let IpAddr::V4(address) = address else { continue };
            answer.extend([0xc0, 12, 0, 1, 0, 1]);
            answer.extend(good.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        Some(answer)
    }
}

/// A ServiceEntry whose endpoints are names; port 80 leads to 8080.
fn entry(name: &str, vip: u8, rest: &str) -> String {
    format!(
        "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: [{name}.example.com], addresses: [10.97.0.{vip}], location: MESH_EXTERNAL, ports: [{{number: 80, targetPort: 8080, name: http, protocol: HTTP}}], {rest}}}}}\n---\n"
    )
}

async fn get(lab: &Lab, vip: u8) -> Answer {
    lab.client().get(([10, 97, 0, vip], 80), "/").await
}

/// Asks until this endpoint answers.
async fn follows(lab: &Lab, vip: u8, pod: &str) {
    for _ in 0..500 {
        let answer = get(lab, vip).await;
        if answer.status == 200 && answer.json()["pod"] == pod {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{pod} never answers");
}

#[tokio::test]
async fn addresses_of_a_name_are_followed_and_stay_while_nobody_answers() {
    let lab = Lab::configured("", ASKED).await;
    let names = Names::start(&lab).await;
    let _pods = [Pod::start_outside(&lab, 51).await, Pod::start_outside(&lab, 52).await];
    let one = |host: u8| Said::Addresses(vec![lab.address(host)], 1);
    names.say("api.example.com", one(51));
    lab.write("rules.yaml", &entry("api", 1, "resolution: DNS"));
    follows(&lab, 1, "cart-51").await;
    names.say("api.example.com", one(52));
    follows(&lab, 1, "cart-52").await;
    assert_eq!(get(&lab, 1).await.json()["pod"], "cart-52");

    names.say("api.example.com", Said::Silence);
    until("nobody could say", || lab.log().contains("cannot look up the host name")).await;
    let asked = names.asked("api.example.com");
    assert_eq!(get(&lab, 1).await.json()["pod"], "cart-52", "the last ones stay");
    until("it is asked for again", || names.asked("api.example.com") > asked).await;
    assert_eq!(get(&lab, 1).await.json()["pod"], "cart-52");

    names.say("api.example.com", one(51));
    follows(&lab, 1, "cart-51").await;
    lab.line(&["can be looked up again", "api.example.com"]).await;
    names.say("api.example.com", Said::Nothing);
    for _ in 0..500 {
        if get(&lab, 1).await.status == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lab.line(&["503 UH no_healthy_upstream", "api.example.com"]).await;
}

#[tokio::test]
async fn all_addresses_of_a_name_take_turns_and_no_request_looks_one_up() {
    let lab = Lab::configured("", ASKED).await;
    let names = Names::start(&lab).await;
    let pods = [Pod::start_outside(&lab, 51).await, Pod::start_outside(&lab, 52).await];
    let both = vec![lab.address(51), lab.address(52)];
    names.say("eu.example.net", Said::Addresses(both, LONG));
    let listed =
        "resolution: DNS_ROUND_ROBIN, endpoints: [{address: EU.example.net, ports: {http: 8080}}]";
    let turns = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: api, namespace: shop}, spec: {host: api.example.com, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}}\n";
    lab.write("rules.yaml", &(entry("api", 1, listed) + turns));
    follows(&lab, 1, "cart-51").await;
    let before = pods.each_ref().map(|pod| pod.asked().len());
    for _ in 0..10 {
        assert_eq!(get(&lab, 1).await.status, 200);
    }
    let asked: Vec<_> =
        pods.iter().zip(before).map(|(pod, before)| pod.asked().len() - before).collect();
    assert_eq!((asked, names.asked("eu.example.net")), (vec![5, 5], 1));
}

#[tokio::test]
async fn names_that_nobody_knows_hold_nobody_up() {
    let lab = Lab::configured("", ASKED).await;
    let names = Names::start(&lab).await;
    let pod = Pod::start_outside(&lab, 51).await;
    names.say("nowhere.example.com", Said::Nothing);
    names.say("mute.example.com", Said::Silence);
    // Neither is a way back to the waypoint, or to whoever is nearest.
    let near = vec!["169.254.169.254".parse().expect("an address"), lab.address(9)];
    names.say("near.example.com", Said::Addresses(near, LONG));
    names.say("known.example.com", Said::Addresses(vec![lab.address(51)], LONG));
    // It has no address of its own: only a rule leads there.
    let known = entry("known", 4, "resolution: DNS").replace("addresses: [10.97.0.4], ", "");
    let rule = "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {hosts: [cart], http: [{route: [{destination: {host: known.example.com, port: {number: 80}}}]}]}}\n---\n";
    let all = ["nowhere", "mute", "near"];
    let entries = (1..).zip(all).map(|(vip, name)| entry(name, vip, "resolution: DNS"));
    lab.write("rules.yaml", &(entries.collect::<String>() + &known + rule));
    for _ in 0..500 {
        if lab.client().get((CART, 80), "/").await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(pod.asked().last().map(|heard| heard.host.clone()), Some("cart.shop".into()));
    for (vip, name) in (1..).zip(all) {
        let began = clock::now();
        assert_eq!(get(&lab, vip).await.status, 503, "{name}");
        assert!(began.elapsed() < Duration::from_secs(1), "{name} took {:?}", began.elapsed());
    }
    lab.line(&["503 UF", "near.example.com", "is no endpoint's address"]).await;
    lab.line(&["503 UH", "mute.example.com"]).await;
}

#[tokio::test]
async fn a_waypoint_that_starts_while_nobody_answers_is_ready_all_the_same() {
    let lab = Lab::configured(&entry("api", 1, "resolution: DNS"), ASKED).await;
    assert_eq!(get(&lab, 1).await.status, 503);
    let names = Names::start(&lab).await;
    let _pod = Pod::start_outside(&lab, 51).await;
    names.say("api.example.com", Said::Addresses(vec![lab.address(51)], LONG));
    follows(&lab, 1, "cart-51").await;
}
