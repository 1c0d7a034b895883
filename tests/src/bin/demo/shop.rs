//! Shell: the shop: seven pods on two nodes, each with an application in it.
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    Agent, Lab, Pod,
    factory::{binary, lab_command},
    lab::{PodSpec, until},
};
use serde_json::Value;

/// A pod of the shop.
struct Member {
    name: &'static str,
    node: usize,
    /// Whom it asks for what.
    calls: &'static [(&'static str, &'static str)],
}

const MEMBERS: [Member; 7] = [
    Member {
        name: "web",
        node: 1,
        calls: &[
            ("cart", "/cart?session="),
            ("catalog-2", "/offers?page="),
            ("checkout", "/buy?cart="),
        ],
    },
    Member { name: "cart", node: 2, calls: &[("catalog-1", "/price?item=")] },
    Member { name: "catalog-1", node: 1, calls: &[] },
    Member { name: "catalog-2", node: 2, calls: &[] },
    Member {
        name: "checkout",
        node: 1,
        calls: &[("payment", "/charge?card=4111-1111-1111-1111&order="), ("cart", "/total?cart=")],
    },
    Member { name: "payment", node: 2, calls: &[] },
    Member {
        name: "recommend",
        node: 2,
        calls: &[("catalog-1", "/similar?item="), ("web", "/visits?day=")],
    },
];

/// Where each application listens.
pub(crate) const PORT: u16 = 8080;

/// The shop, its nodes and their agents. Applications end first, the lab last.
pub(crate) struct Shop {
    applications: Vec<Application>,
    pub(crate) agents: Vec<Agent>,
    pods: Vec<Pod>,
    pub(crate) lab: Lab,
}

/// A process in a pod.
struct Application {
    process: Child,
    started: Option<String>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    answered: AtomicU64,
    failed: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Shop {
    /// Starts everything, and waits until each application was answered.
    pub(crate) fn open() -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", false)?;
        let pod = |name: &'static str, node| {
            let account = name.split('-').next().unwrap_or(name);
            let labels = [("app", account), ("version", "v1")];
            lab.pod(node, &PodSpec { name, namespace: "shop", account, labels: &labels })
        };
        let pods = MEMBERS.iter().map(|member| pod(member.name, member.node));
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let agents = vec![lab.agent(1)?, lab.agent(2)?];
        let mut applications = Vec::new();
        for (pod, member) in pods.iter().zip(&MEMBERS) {
            applications.push(Application::start(pod, "v1", member.calls, &pods)?);
        }
        let shop = Self { applications, agents, pods, lab };
        until("the shop is open", || {
            let answered = |app: &Application| app.counters.answered.load(Ordering::Relaxed) > 0;
            let mut members = shop.applications.iter().zip(&MEMBERS);
            members.all(|(app, member)| member.calls.is_empty() || answered(app))
        });
        Ok(shop)
    }

    /// The pod of that name.
    pub(crate) fn member(&self, name: &str) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.name == name).context("no such pod")
    }

    /// A pod with the second version of the catalog, of which nobody hears before it listens.
    pub(crate) fn grow(&mut self) -> Result<()> {
        let spec =
            PodSpec { name: "catalog-v2", namespace: "shop", account: "catalog", labels: &[] };
        let pod = self.lab.pod(1, &spec)?;
        self.applications.push(Application::start(&pod, "v2", &[], &[])?);
        until("the second version listens", || {
            pod.inside.connect(([127, 0, 0, 1], PORT).into()).is_ok()
        });
        self.lab.declare(&pod, &[("app", "catalog"), ("version", "v2")])?;
        self.pods.push(pod);
        Ok(())
    }

    /// Tells the application of a pod how it does: `ill` or `well`.
    pub(crate) fn tell(&self, name: &str, mood: &str) -> Result<()> {
        let stream = self.member(name)?.inside.connect(([127, 0, 0, 1], PORT).into())?;
        write!(&stream, "GET /mood/{mood} HTTP/1.1\r\nhost: {name}\r\n\r\n")?;
        let mut status = String::new();
        BufReader::new(&stream).read_line(&mut status)?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{name} says {status}");
        Ok(())
    }

    /// Requests that were answered, and that failed.
    pub(crate) fn requests(&self) -> (u64, u64) {
        let sum = |which: fn(&Counters) -> &AtomicU64| {
            let all = self.applications.iter();
            all.map(|app| which(&app.counters).load(Ordering::Relaxed)).sum()
        };
        (sum(|counters| &counters.answered), sum(|counters| &counters.failed))
    }

    /// Why the last failed request failed.
    pub(crate) fn error(&self) -> Option<String> {
        self.applications.iter().find_map(|app| {
            app.counters.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// Applications that are not the processes that they were at the start.
    pub(crate) fn restarts(&self) -> usize {
        let changed = |app: &&Application| start_time(app.process.id()) != app.started;
        self.applications.iter().filter(changed).count()
    }
}

impl Application {
    fn start(pod: &Pod, version: &str, calls: &[(&str, &str)], pods: &[Pod]) -> Result<Self> {
        let mut command = lab_command(pod.netns(), pod.cgroup());
        command.arg("--").arg(binary("lab")?).args([
            "shop",
            "--name",
            &pod.name,
            "--version",
            version,
        ]);
        command.arg("--listen").arg(format!("0.0.0.0:{PORT}"));
        for (whom, what) in calls {
            let neighbour = pods.iter().find(|pod| pod.name == *whom).context("no such pod")?;
            command.arg("--call").arg(format!("{}={what}", neighbour.at(PORT)));
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let counters = Arc::new(Counters::default());
        let (out, seen) = (process.stdout.take().context("stdout")?, counters.clone());
        thread::spawn(move || read(out, &seen));
        let started = start_time(process.id());
        Ok(Self { process, started, counters })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(out: ChildStdout, counters: &Counters) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let report: Value = serde_json::from_str(&line).unwrap_or_default();
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        counters.answered.store(number("answered"), Ordering::Relaxed);
        counters.failed.store(number("failed"), Ordering::Relaxed);
        let error = report["error"].as_str().map(ToOwned::to_owned);
        *counters.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// When the kernel started a process, in its own unit; `None` when there is no such process.
fn start_time(pid: u32) -> Option<String> {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(ToOwned::to_owned)
}
