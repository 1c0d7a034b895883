//! Shell: the second act: a new version of the catalog, tried on some by a file that is edited.
use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{Lab, Waypoint};
use serde_json::Value;

use crate::{
    Interrupt, say,
    shop::{PORT, Shop},
    split::{Split, Splits},
    visitors::Visitors,
};

/// Address and port of the catalog's service.
pub(crate) const CATALOG: ([u8; 4], u16) = ([10, 96, 0, 10], 80);
/// Address of the waypoint's service.
const WAYPOINT: &str = "10.96.0.99";
/// The file that decides who is sent where.
pub(crate) const RULES: &str = "virtualservice-catalog.yaml";
/// The file that says how it is called.
pub(crate) const CALLS: &str = "destinationrule-catalog.yaml";
/// The file of the catalog's Service.
const SERVICE: &str = "service-catalog.yaml";
/// What makes a visitor a canary user.
const HEADER: &str = "x-canary-user: true";
/// Visitors who are not.
const EVERYBODY: u8 = 4;
/// Counts are shown this often.
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// An edited file counts after this at the latest.
pub(crate) const SETTLED: Duration = Duration::from_secs(10);
/// Rows under one head of the table.
const ROWS: usize = 20;

/// Who is to be answered by the second version, in percent.
struct Expected {
    others: RangeInclusive<u64>,
    canary: RangeInclusive<u64>,
}

const NOBODY: Expected = Expected { others: 0..=0, canary: 0..=0 };

/// The catalog's Service, of which the agents are to know before the first visitor comes.
pub(crate) fn declare(lab: &Lab) -> Result<()> {
    lab.apply(SERVICE, &service(""))
}

/// Visitors, and the waypoint once there is one. Visitors leave first.
pub(crate) struct Canary {
    others: Visitors,
    canary: Visitors,
    waypoint: Option<Waypoint>,
    file: PathBuf,
    seconds: usize,
}

impl Canary {
    /// Visitors come to the catalog, which has one version and no waypoint. Each step is shown for
    /// `seconds`.
    pub(crate) fn open(shop: &Shop, seconds: usize) -> Result<Self> {
        let to = SocketAddr::from(CATALOG);
        let web = shop.member("web")?;
        Ok(Self {
            others: Visitors::start(web, to, "catalog", None, EVERYBODY)?,
            canary: Visitors::start(web, to, "catalog", Some(HEADER), 1)?,
            waypoint: None,
            file: shop.lab.manifests().join(RULES),
            seconds,
        })
    }

    /// The same with the waypoint that there is, and what the second act ended with.
    pub(crate) fn again(shop: &Shop, waypoint: Waypoint) -> Result<Self> {
        shop.lab.apply(RULES, &rules(50, 50))?;
        Ok(Self { waypoint: Some(waypoint), ..Self::open(shop, 0)? })
    }

    /// The visitors leave; the waypoint stays.
    pub(crate) fn close(self) -> Result<Waypoint> {
        self.waypoint.context("the waypoint of the second act")
    }

    /// The whole act; its last line is the result.
    pub(crate) fn play(&mut self, shop: &mut Shop, interrupt: &Interrupt) -> Result<String> {
        say("\n== 5. Second act: visitors ask the catalog's Service, which has one version\n");
        say(Splits::head());
        self.counted(interrupt, &NOBODY, 0)?;
        say("\n== 6. A waypoint, catalog v2 as a canary, and two of Istio's resources\n");
        self.prepare(shop, interrupt)?;
        shop.lab.apply(RULES, &rules(95, 5))?;
        say(format!("  {} says:\n", self.file.display()));
        say(rules(95, 5).lines().map(|line| format!("    {line}\n")).collect::<String>());
        say(Splits::head());
        let first = Expected { others: 1..=10, canary: 100..=100 };
        let first = self.counted(interrupt, &first, self.seconds)?;
        let half = Expected { others: 35..=65, canary: 100..=100 };
        let half = self.edited(shop, interrupt, (50, 50), &half)?;
        let all = Expected { others: 100..=100, canary: 100..=100 };
        let all = self.edited(shop, interrupt, (0, 100), &all)?;
        let canary = first.canary.plus(half.canary).plus(all.canary);
        let share = |split: Split| split.share().unwrap_or(0);
        Ok(format!(
            "\nAnswered by v2: canary users {} %; everybody {} % at 95/5, {} % at 50/50, {} % at 0/100; \
             {} answers, {} failed.",
            share(canary),
            share(first.others),
            share(half.others),
            share(all.others),
            self.splits().all(),
            self.failed(),
        ))
    }

    /// Rows until Ctrl-C, and a word when the file was changed or is not understood.
    pub(crate) fn stay(&self, shop: &Shop, interrupt: &Interrupt) -> Result<()> {
        say(format!(
            "\nThe shop goes on. Edit {}\nand watch the counts follow; a file with a mistake in it changes nothing, and is told of. \
             Ctrl-C ends it and leaves nothing behind.",
            self.file.display()
        ));
        let (mut before, mut changed) = (self.splits(), self.changed());
        let mut mistakes = Vec::new();
        for row in 0.. {
            if row % ROWS == 0 {
                let (answered, failed) = shop.requests();
                say(format!(
                    "\n  The shop's own requests: {answered} answered, {failed} failed.\n{}",
                    Splits::head()
                ));
            }
            before = self.row(interrupt, before)?.0;
            if self.changed() != changed {
                changed = self.changed();
                say("  (the file was changed)");
            }
            let found = self.mistakes();
            for mistake in found.iter().filter(|mistake| !mistakes.contains(*mistake)) {
                say(format!("  {mistake}"));
            }
            mistakes = found;
        }
        Ok(())
    }

    /// Requests that failed, and why the last of them did.
    pub(crate) fn failed(&self) -> u64 {
        self.others.counts().failed + self.canary.counts().failed
    }

    /// Why the last failed request failed.
    pub(crate) fn error(&self) -> Option<String> {
        self.others.counts().error.or_else(|| self.canary.counts().error)
    }

    /// Waypoint and second version, while everybody is still answered by the first.
    fn prepare(&mut self, shop: &mut Shop, interrupt: &Interrupt) -> Result<()> {
        let waypoint = Waypoint::start(&shop.lab, 2, WAYPOINT, "service")?;
        shop.lab.apply(CALLS, SUBSETS)?;
        shop.lab.apply(RULES, &rules(100, 0))?;
        shop.lab.apply(SERVICE, &service(", labels: {istio.io/use-waypoint: waypoint}"))?;
        let start = Instant::now();
        while !requests_pass(&waypoint) {
            interrupt.pause(Duration::from_millis(20))?;
            ensure!(start.elapsed() < SETTLED, "no request passes the waypoint");
        }
        self.waypoint = Some(waypoint);
        say(format!(
            "  kubectl label service catalog -n shop istio.io/use-waypoint=waypoint: requests pass it {} ms later.",
            start.elapsed().as_millis()
        ));
        shop.grow()?;
        say("  Pod catalog-v2 runs. Nobody restarted, and nobody is sent there yet.");
        Ok(())
    }

    /// What follows from other weights.
    fn edited(
        &self,
        shop: &Shop,
        interrupt: &Interrupt,
        weights: (u8, u8),
        expected: &Expected,
    ) -> Result<Splits> {
        let (v1, v2) = weights;
        shop.lab.apply(RULES, &rules(v1, v2))?;
        say(format!("  -- {RULES} is edited: weight {v1} for v1, weight {v2} for v2"));
        self.counted(interrupt, expected, self.seconds)
    }

    /// A row a second: until one is as expected, and then so many more, which are counted. The one
    /// that was waited for is not, or chance would be favoured.
    fn counted(
        &self,
        interrupt: &Interrupt,
        expected: &Expected,
        seconds: usize,
    ) -> Result<Splits> {
        let (start, mut before) = (Instant::now(), self.splits());
        loop {
            let (now, row) = self.row(interrupt, before)?;
            before = now;
            if expected.met_by(row) {
                break;
            }
            if start.elapsed() > SETTLED {
                bail!("{row:?} is not what the rules say");
            }
        }
        if seconds == 0 {
            return Ok(Splits::default());
        }
        let from = before;
        for _ in 0..seconds {
            before = self.row(interrupt, before)?.0;
        }
        let counted = before.since(from);
        ensure!(expected.met_by(counted), "{counted:?} is not what the rules say");
        Ok(counted)
    }

    /// Shows what the next second brings.
    fn row(&self, interrupt: &Interrupt, before: Splits) -> Result<(Splits, Splits)> {
        interrupt.pause(SECOND)?;
        let now = self.splits();
        let row = now.since(before);
        say(row.row(self.failed()));
        Ok((now, row))
    }

    fn splits(&self) -> Splits {
        Splits {
            others: Split::of(&self.others.counts()),
            canary: Split::of(&self.canary.counts()),
        }
    }

    /// What the waypoint does not understand of the file, with the line.
    fn mistakes(&self) -> Vec<String> {
        let dump = self.waypoint.as_ref().and_then(|at| at.get(15000, "/config_dump").ok());
        let dump: Value =
            dump.and_then(|dump| serde_json::from_str(&dump).ok()).unwrap_or_default();
        let text = |problem: &Value| {
            let (at, text) = (problem["at"].as_str()?, problem["text"].as_str()?);
            at.contains(RULES).then(|| format!("{at}: {text}"))
        };
        dump["problems"].as_array().into_iter().flatten().filter_map(text).collect()
    }

    fn changed(&self) -> Option<SystemTime> {
        self.file.metadata().ok()?.modified().ok()
    }
}

impl Expected {
    fn met_by(&self, row: Splits) -> bool {
        let among = |range: &RangeInclusive<u64>, split: Split| {
            split.share().is_some_and(|share| range.contains(&share))
        };
        among(&self.others, row.others) && among(&self.canary, row.canary)
    }
}

fn requests_pass(waypoint: &Waypoint) -> bool {
    waypoint
        .get(15020, "/stats/prometheus")
        .is_ok_and(|metrics| metrics.contains("destination_service_name=\"catalog\""))
}

fn service(labels: &str) -> String {
    let ([a, b, c, d], port) = CATALOG;
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: catalog, namespace: shop{labels}}}\n\
         spec: {{clusterIP: {a}.{b}.{c}.{d}, selector: {{app: catalog}}, \
         ports: [{{name: http, port: {port}, targetPort: {PORT}}}]}}\n"
    )
}

fn rules(v1: u8, v2: u8) -> String {
    let canary = if (v1, v2) == (100, 0) { "v1" } else { "v2" };
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: [catalog]
  http:
  - match: [{{headers: {{x-canary-user: {{exact: \"true\"}}}}}}]
    route:
    - destination: {{host: catalog, subset: {canary}}}
  - route:
    - destination: {{host: catalog, subset: v1}}
      weight: {v1}
    - destination: {{host: catalog, subset: v2}}
      weight: {v2}
"
    )
}

pub(crate) const SUBSETS: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog, namespace: shop}
spec:
  host: catalog
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";
