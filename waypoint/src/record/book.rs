//! Pure: counts by labels within a hard budget of series, and their text for Prometheus.
//! Never: a total that goes backwards because room was needed.
use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write},
    sync::Arc,
};

use super::labels::{self, Kind, Parties, Text, Texts};
use crate::outcome::Flags;

/// Upper ends of the buckets of every histogram (Envoy's), milliseconds or bytes.
const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5,
    1.8e6, 3.6e6,
];
/// Series of one histogram: its buckets, the one without an end, sum and count.
const HISTOGRAM: usize = BUCKETS.len() + 3;
/// Series of requests with the same labels.
const REQUESTS: usize = 1 + 3 * HISTOGRAM;
/// Those of messages.
const MESSAGES: usize = 2;
/// Those of connections.
const CONNECTIONS: usize = 4;
/// What is kept free for what is counted together: requests by the class of their status.
const RESERVED: usize = CLASSES * REQUESTS + MESSAGES + CONNECTIONS + 1;
/// Classes of statuses: none, and the five of HTTP (`labels::known`).
const CLASSES: usize = 6;

/// The least budget with room for some labels of their own.
pub const LEAST_SERIES: usize = 1_000;

/// One request that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// How long it took, milliseconds.
    pub duration: f64,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

/// What is counted under one set of labels.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// Requests, or connections that were opened.
    opened: u64,
    closed: u64,
    /// Bytes, or messages, to the client.
    sent: u64,
    received: u64,
    histograms: Option<Box<[Histogram; 3]>>,
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    parties: Arc<Text>,
    kind: Kind,
}

/// Counts by labels. Who is least recently used makes room.
#[derive(Debug)]
pub struct Book {
    budget: usize,
    used: usize,
    entries: HashMap<Arc<Labels>, (Counts, u64)>,
    turns: BTreeMap<u64, Arc<Labels>>,
    others: BTreeMap<String, (Kind, Counts)>,
    turn: u64,
    evicted: u64,
    texts: Texts,
}

impl Book {
    /// At most `series` series, all families together.
    pub fn new(series: usize) -> Self {
        Self {
            budget: series.saturating_sub(RESERVED),
            used: 0,
            entries: HashMap::new(),
            turns: BTreeMap::new(),
            others: BTreeMap::new(),
            turn: 0,
            evicted: 0,
            texts: Texts::default(),
        }
    }

    /// The labels of these parties, to count under.
    pub fn labels(&mut self, parties: &Parties) -> Arc<Text> {
        self.texts.of(parties)
    }

    /// A request has ended.
    pub fn request(&mut self, parties: &Arc<Text>, kind: Kind, request: &Request) {
        let counts = self.counts(parties, kind);
        counts.opened += 1;
        let values = [request.duration, request.received as f64, request.sent as f64];
        for (histogram, value) in counts.histograms.get_or_insert_default().iter_mut().zip(values) {
            histogram.add(value);
        }
    }

    /// A gRPC call has ended.
    pub fn messages(&mut self, parties: &Arc<Text>, (received, sent): (u64, u64)) {
        let counts = self.counts(parties, Kind::Messages);
        counts.received += received;
        counts.sent += sent;
    }

    /// A connection has begun: nothing of it has gone wrong yet.
    pub fn opened(&mut self, parties: &Arc<Text>) {
        self.counts(parties, Kind::Connection { flags: Flags::default() }).opened += 1;
    }

    /// A connection has ended.
    pub fn connection(&mut self, parties: &Arc<Text>, kind: Kind, (received, sent): (u64, u64)) {
        let counts = self.counts(parties, kind);
        counts.closed += 1;
        counts.received += received;
        counts.sent += sent;
    }

    /// Everything, as it is now.
    pub fn page(&self) -> Page {
        let own = self.entries.iter();
        let own =
            own.map(|(of, (counts, _))| (of.parties.clone(), of.kind.clone(), counts.clone()));
        let nobodys = Arc::new(Text::from(labels::others()));
        let together = self.others.values();
        let together =
            together.map(|(kind, counts)| (nobodys.clone(), kind.clone(), counts.clone()));
        Page { rows: own.chain(together).collect(), evicted: self.evicted }
    }

    /// Series that are there.
    pub fn series(&self) -> usize {
        let others = self.others.values().map(|(kind, _)| size(kind));
        self.used + others.sum::<usize>() + 1
    }

    fn counts(&mut self, parties: &Arc<Text>, kind: Kind) -> &mut Counts {
        self.turn += 1;
        let labels = Labels { parties: parties.clone(), kind };
        if let Some((_, turn)) = self.entries.get_mut(&labels) {
            if let Some(kept) = self.turns.remove(turn) {
                self.turns.insert(self.turn, kept);
            }
            *turn = self.turn;
        } else if self.make_room(size(&labels.kind)) {
            let labels = Arc::new(labels.clone());
            self.turns.insert(self.turn, labels.clone());
            self.used += size(&labels.kind);
            self.entries.insert(labels, (Counts::default(), self.turn));
        }
        match self.entries.get_mut(&labels) {
            Some((counts, _)) => counts,
            None => other(&mut self.others, &labels.kind),
        }
    }

    /// Counts of those that go are added to what is counted together: totals stay.
    fn make_room(&mut self, series: usize) -> bool {
        while self.used + series > self.budget {
            let Some((_, labels)) = self.turns.pop_first() else { return false };
            let Some((counts, _)) = self.entries.remove(&labels) else { continue };
            self.used -= size(&labels.kind);
            other(&mut self.others, &labels.kind).add(&counts);
            self.evicted += 1;
        }
        true
    }
}

/// What a book says at one moment.
#[derive(Debug)]
pub struct Page {
    rows: Vec<(Arc<Text>, Kind, Counts)>,
    evicted: u64,
}

impl Page {
    /// All of it, in Prometheus' text format.
    ///
    /// # Errors
    /// Never: text takes everything.
    pub fn write(&self, into: &mut String) -> fmt::Result {
        let mut rows: Vec<Row<'_>> = Vec::with_capacity(self.rows.len());
        for (parties, kind, counts) in &self.rows {
            let mut text = String::from(&***parties);
            kind.write(&mut text)?;
            rows.push(Row { labels: text, kind, counts });
        }
        rows.sort_by(|a, b| a.labels.cmp(&b.labels));
        write_requests(&rows, into)?;
        for (name, of, count) in COUNTERS {
            writeln!(into, "# TYPE {name} counter")?;
            for row in rows.iter().filter(|row| of(row.kind)) {
                writeln!(into, "{name}{{{}}} {}", row.labels, count(row.counts))?;
            }
        }
        writeln!(into, "# TYPE culvert_metrics_evicted_total counter")?;
        writeln!(into, "culvert_metrics_evicted_total {}", self.evicted)
    }
}

fn other<'a>(others: &'a mut BTreeMap<String, (Kind, Counts)>, kind: &Kind) -> &'a mut Counts {
    let coarse = kind.coarse();
    let name = format!("{coarse:?}");
    &mut others.entry(name).or_insert_with(|| (coarse, Counts::default())).1
}

fn size(kind: &Kind) -> usize {
    match kind {
        Kind::Request { .. } => REQUESTS,
        Kind::Messages => MESSAGES,
        Kind::Connection { .. } => CONNECTIONS,
    }
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.opened += more.opened;
        self.closed += more.closed;
        self.sent += more.sent;
        self.received += more.received;
        if let Some(more) = &more.histograms {
            let own = self.histograms.get_or_insert_default();
            own.iter_mut().zip(more.iter()).for_each(|(own, more)| own.merge(more));
        }
    }
}

impl Histogram {
    fn add(&mut self, value: f64) {
        let place = BUCKETS.partition_point(|end| *end < value);
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    fn merge(&mut self, more: &Self) {
        self.buckets.iter_mut().zip(more.buckets).for_each(|(own, more)| *own += more);
        self.sum += more.sum;
        self.count += more.count;
    }
}

struct Row<'a> {
    labels: String,
    kind: &'a Kind,
    counts: &'a Counts,
}

type Counter = (&'static str, fn(&Kind) -> bool, fn(&Counts) -> u64);

/// Families that are plain counters.
const COUNTERS: [Counter; 7] = [
    ("istio_requests_total", is_request, |counts| counts.opened),
    ("istio_request_messages_total", is_messages, |counts| counts.received),
    ("istio_response_messages_total", is_messages, |counts| counts.sent),
    ("istio_tcp_connections_opened_total", is_connection, |counts| counts.opened),
    ("istio_tcp_connections_closed_total", is_connection, |counts| counts.closed),
    ("istio_tcp_sent_bytes_total", is_connection, |counts| counts.sent),
    ("istio_tcp_received_bytes_total", is_connection, |counts| counts.received),
];

fn is_request(kind: &Kind) -> bool {
    matches!(kind, Kind::Request { .. })
}

fn is_messages(kind: &Kind) -> bool {
    matches!(kind, Kind::Messages)
}

fn is_connection(kind: &Kind) -> bool {
    matches!(kind, Kind::Connection { .. })
}

fn write_requests(rows: &[Row<'_>], into: &mut String) -> fmt::Result {
    const FAMILIES: [&str; 3] =
        ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"];
    for (place, name) in FAMILIES.into_iter().enumerate() {
        writeln!(into, "# TYPE {name} histogram")?;
        for row in rows.iter().filter(|row| is_request(row.kind)) {
            let histograms = row.counts.histograms.as_ref();
            let Some(histogram) = histograms.and_then(|all| all.get(place)) else { continue };
            let (labels, mut below) = (&row.labels, 0);
            for (end, count) in BUCKETS.into_iter().zip(histogram.buckets) {
                below += count;
                writeln!(into, "{name}_bucket{{{labels},le=\"{end}\"}} {below}")?;
            }
            writeln!(into, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count)?;
            writeln!(into, "{name}_sum{{{labels}}} {}", histogram.sum)?;
            writeln!(into, "{name}_count{{{labels}}} {}", histogram.count)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: u16) -> Kind {
        Kind::Request { protocol: "http", code, grpc: None, flags: Flags::default() }
    }

    fn text(book: &Book) -> String {
        let mut text = String::new();
        book.page().write(&mut text).unwrap();
        text
    }

    #[test]
    fn requests_are_counted_and_put_in_buckets() {
        let mut book = Book::new(LEAST_SERIES);
        let parties = Arc::new(Text::from("reporter=\"waypoint\"".to_owned()));
        for duration in [0.4, 7.0, 4e6] {
            book.request(&parties, kind(200), &Request { duration, received: 10, sent: 100 });
        }
        let text = text(&book);
        for line in [
            "istio_requests_total{reporter=\"waypoint\",request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 3\n",
            "le=\"0.5\"} 1\n",
            "le=\"10\"} 2\n",
            "le=\"3600000\"} 2\n",
            "le=\"+Inf\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    /// So that requests that end do not wait until it is written.
    #[test]
    fn a_page_is_what_was_counted_by_then() {
        let mut book = Book::new(LEAST_SERIES);
        let parties = Arc::new(Text::from("reporter=\"waypoint\"".to_owned()));
        book.request(&parties, kind(200), &Request::default());
        let page = book.page();
        book.request(&parties, kind(200), &Request::default());
        let mut then = String::new();
        page.write(&mut then).unwrap();
        let requests = |text: &str| {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with("istio_requests_total{")).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        assert_eq!((requests(&then).as_str(), requests(&text(&book)).as_str()), ("1", "2"));
    }

    #[test]
    fn the_budget_is_kept_and_totals_never_go_backwards() {
        let mut book = Book::new(LEAST_SERIES);
        let clients = 3 * LEAST_SERIES / REQUESTS;
        for number in 0..clients {
            let parties = Arc::new(Text::from(format!("source_workload=\"w{number}\"")));
            book.request(&parties, kind(200 + (number % 3) as u16), &Request::default());
            book.messages(&parties, (1, 2));
            book.connection(&parties, Kind::Connection { flags: Flags::default() }, (3, 4));
            let text = text(&book);
            let series = text.lines().filter(|line| !line.starts_with('#')).count();
            assert!(series <= LEAST_SERIES && series == book.series(), "{series}");
            let total = |name: &str| -> u64 {
                let own = text.lines().filter(|line| line.starts_with(name));
                own.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
            };
            assert_eq!(total("istio_requests_total{"), number as u64 + 1);
            assert_eq!(total("istio_response_messages_total{"), 2 * (number as u64 + 1));
            assert_eq!(total("istio_tcp_received_bytes_total{"), 3 * (number as u64 + 1));
        }
        assert!(text(&book).contains("source_workload=\"other\""));
    }
}
