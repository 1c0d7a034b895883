//! Shell: the third act: a version of the catalog that fails and hangs, and two resources that keep it
//! from everybody who calls.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Waypoint,
    factory::{binary, lab_command},
    visit::Counts,
};
use serde_json::Value;

use crate::{
    Interrupt,
    canary::{CALLS, CATALOG, RULES, SECOND, SETTLED, SUBSETS},
    say,
    shop::Shop,
    visitors::Visitors,
};

/// Visitors who ask the catalog.
const VISITORS: u8 = 12;
/// The pod that falls ill.
const PATIENT: &str = "catalog-v2";
/// Who was let wait before the resources came has been answered after this.
const PASSED: Duration = Duration::from_secs(5);
/// Whoever is left out returns after this at the latest: its second time out, and a sweep.
const RETURN: Duration = Duration::from_secs(20);

/// The visitors, and the waypoint that they pass.
pub(crate) struct Failing {
    visitors: Visitors,
    waypoint: Waypoint,
    seconds: usize,
}

/// What a second brought.
struct Row {
    counts: Counts,
    retries: u64,
    /// How the patient does, in the waypoint's eyes.
    state: String,
}

/// Where counting stands.
struct Seen {
    counts: Counts,
    retries: u64,
}

impl Failing {
    /// Visitors come to the catalog, all pods of which are asked. Each step is shown for `seconds`.
    pub(crate) fn open(shop: &Shop, waypoint: Waypoint, seconds: usize) -> Result<Self> {
        shop.lab.apply(RULES, &rules(""))?;
        let to = SocketAddr::from(CATALOG);
        let visitors = Visitors::start(shop.member("web")?, to, "catalog", None, VISITORS)?;
        Ok(Self { visitors, waypoint, seconds })
    }

    /// The waypoint stays when the visitors leave.
    pub(crate) fn close(self) -> Waypoint {
        self.waypoint
    }

    /// The whole act; its last line is the result.
    pub(crate) fn play(&mut self, shop: &Shop, interrupt: &Interrupt) -> Result<String> {
        say("\n== 7. Third act: all three pods of the catalog are asked, then v2 falls ill\n");
        say(head());
        self.until(interrupt, SETTLED, |row| row.answers("v2") > 0)?;
        let well = self.counted(interrupt)?;
        ensure!(well.failed == 0, "{:?}", well.error);
        shop.tell(PATIENT, "ill")?;
        say(format!("  -- {PATIENT} refuses every other request, and lets the others wait"));
        self.until(interrupt, SETTLED, |row| row.counts.failed > 0)?;
        let ill = self.counted(interrupt)?;
        say("\n== 8. Outlier detection and retries, while it is ill\n");
        shop.lab.apply(CALLS, &format!("{SUBSETS}{DETECTION}"))?;
        shop.lab.apply(RULES, &rules(RETRIES))?;
        say(format!("  {CALLS} and {RULES} say more:\n"));
        say(format!("{DETECTION}{RETRIES}")
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect::<String>());
        say(head());
        let applied = Instant::now();
        let kept = |row: &Row| row.state == "ejected" && row.counts.failed == 0;
        self.until(interrupt, SETTLED, |row| applied.elapsed() > PASSED && kept(row))?;
        let kept = self.counted(interrupt)?;
        say(format!("\n  culvert endpoints catalog\n\n{}", self.endpoints()?));
        shop.tell(PATIENT, "well")?;
        say(format!("  -- {PATIENT} is well again\n{}", head()));
        let again = |row: &Row| row.state == "healthy" && row.answers("v2") > 0;
        self.until(interrupt, RETURN, again)?;
        let after = self.counted(interrupt)?;
        Self::judged([&well, &ill, &kept, &after], shop)
    }

    /// What the callers felt.
    fn judged(steps: [&Counts; 4], shop: &Shop) -> Result<String> {
        let p99 = |counts: &Counts| counts.p99().context("no request was answered");
        let [well, ill, kept, after] = steps;
        let all = |counts: &Counts| counts.took.values().sum::<u64>();
        let text = format!(
            "\np99 of the callers: {} ms; {} ms while v2 was ill, and {} of {} failed; {} ms with it left out, \
             and {} of {} failed; {} ms with it back, {} failed. {} pods restarted.",
            p99(well)?,
            p99(ill)?,
            ill.failed,
            all(ill),
            p99(kept)?,
            kept.failed,
            all(kept),
            p99(after)?,
            after.failed,
            shop.restarts(),
        );
        ensure!(kept.failed + after.failed == 0 && shop.restarts() == 0, "{text}");
        ensure!(p99(ill)? > 1_000 && p99(kept)? * 4 < p99(ill)?, "{text}");
        ensure!(p99(after)? * 4 < p99(ill)?, "{text}");
        Ok(text)
    }

    /// A row a second, until one is as expected.
    fn until(
        &self,
        interrupt: &Interrupt,
        patience: Duration,
        expected: impl Fn(&Row) -> bool,
    ) -> Result<()> {
        let (start, mut seen) = (Instant::now(), self.seen()?);
        loop {
            let row = self.row(interrupt, &mut seen)?;
            if expected(&row) {
                return Ok(());
            }
            if start.elapsed() > patience {
                bail!("it does not come to what was expected: {:?}", row.counts.error);
            }
        }
    }

    /// So many rows; what they brought together.
    fn counted(&self, interrupt: &Interrupt) -> Result<Counts> {
        let from = self.seen()?;
        let mut seen = self.seen()?;
        for _ in 0..self.seconds {
            self.row(interrupt, &mut seen)?;
        }
        Ok(seen.counts.since(&from.counts))
    }

    /// Shows what the next second brings.
    fn row(&self, interrupt: &Interrupt, before: &mut Seen) -> Result<Row> {
        interrupt.pause(SECOND)?;
        let now = self.seen()?;
        let counts = now.counts.since(&before.counts);
        let retries = now.retries.saturating_sub(before.retries);
        let row = Row { counts, retries, state: self.state()? };
        say(row.text());
        *before = now;
        Ok(row)
    }

    fn seen(&self) -> Result<Seen> {
        let metrics = self.waypoint.get(15020, "/metrics")?;
        let name = "envoy_cluster_upstream_rq_retry{cluster_name=\"inbound-vip|80|http|catalog.";
        let line = metrics.lines().find(|line| line.starts_with(name));
        let retries = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        Ok(Seen { counts: self.visitors.counts(), retries: retries.unwrap_or_default() })
    }

    /// What the waypoint says of the patient.
    fn state(&self) -> Result<String> {
        let shown = self.waypoint.get(15000, "/endpoints?service=catalog.shop:80")?;
        let shown: Value = serde_json::from_str(&shown)?;
        let all = shown["backends"].as_array().context("backends")?;
        let whole = all.iter().find(|backend| backend["subset"].is_null()).context("a backend")?;
        let mut endpoints = whole["endpoints"].as_array().context("endpoints")?.iter();
        let patient = endpoints.find(|endpoint| endpoint["name"] == format!("shop/{PATIENT}"));
        Ok(patient.context("the patient")?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// What an operator's command shows.
    fn endpoints(&self) -> Result<String> {
        let pod = &self.waypoint.pod;
        let mut command = lab_command(pod.netns(), pod.cgroup());
        command.arg("--").arg(binary("culvert")?).args(["endpoints", "catalog.shop:80"]);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().map(|line| format!("  {line}\n")).collect())
    }
}

impl Row {
    fn answers(&self, version: &str) -> u64 {
        self.counts.versions.get(version).copied().unwrap_or_default()
    }

    fn text(&self) -> String {
        let p99 = self.counts.p99().map_or("-".into(), |p99| format!("{p99} ms"));
        format!(
            "  {:>7} {:>7} {:>7} {p99:>9} {:>8}   {}",
            self.answers("v1"),
            self.answers("v2"),
            self.counts.failed,
            self.retries,
            self.state
        )
    }
}

/// The names of the columns.
fn head() -> String {
    format!(
        "  {:>7} {:>7} {:>7} {:>9} {:>8}   {PATIENT} is",
        "v1", "v2", "failed", "p99", "retries"
    )
}

fn rules(more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: catalog, namespace: shop}}
spec:
  hosts: [catalog]
  http:
  - route:
    - destination: {{host: catalog}}
{more}"
    )
}

/// The end of the VirtualService.
const RETRIES: &str = "    retries:
      attempts: 2
      perTryTimeout: 300ms
      retryOn: 5xx
";

/// The end of the DestinationRule.
const DETECTION: &str = "  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 1s
      baseEjectionTime: 5s
      maxEjectionPercent: 50
";
