//! Shell: capture alone: the real object, a real enrolment, and in the agent's place somebody who
//! takes each captured connection, looks up where it wanted to go, and closes it.
use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use culvert_agent::{
    drain::Drain,
    identity::{Keeper, ca::LocalCa},
    manifest,
    redirect::{Captured, Enrolment, Settings},
    workers::Workers,
};
use e2e::{
    Lab, Pod,
    factory::{binary, lab_command},
    lab::PodSpec,
};
use serde_json::Value;

use crate::plane::Process;

/// What the sink has to know of its lab.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    manifests: PathBuf,
    #[arg(long)]
    pin: PathBuf,
    #[arg(long)]
    cgroup: PathBuf,
}

/// Connections per second that are asked for.
const RATE: f64 = 14_000.0;
/// For so long, in parts of so long each, in seconds.
const PARTS: usize = 6;
const PART: f64 = 5.0;

/// Opens many connections from one pod for as long as it takes to run out of ports several times.
pub(crate) fn steady() -> Result<String> {
    let lab = Lab::new(2)?;
    lab.namespace("bench", true)?;
    let spec = |name| PodSpec { name, namespace: "bench", account: name, labels: &[] };
    let (client, server) = (lab.pod(1, &spec("a"))?, lab.pod(2, &spec("b"))?);
    let node = lab.nodes.first().context("no node")?;
    let mut sink = lab_command(&node.netns(), &node.cgroup().join("agent"));
    sink.arg("--").arg(std::env::current_exe()?).arg("sink");
    sink.arg("--manifests").arg(lab.manifests()).arg("--pin").arg(node.pin());
    sink.arg("--cgroup").arg(node.cgroup());
    let sink = Process(sink.stdout(Stdio::null()).spawn()?);
    let part = |_| -> Result<Value> {
        let mut command = lab_command(client.netns(), client.cgroup());
        command.arg("--").arg(binary("lab")?).args(["load", "connect", "--conns", "4"]);
        command.args(["--rate", &RATE.to_string(), "--secs", &PART.to_string()]);
        report(command.arg("--addr").arg(server.at(9000).to_string()))
    };
    wait_until_captured(&client, server.at(9000))?;
    let parts: Vec<Value> = (0..PARTS).map(part).collect::<Result<_>>()?;
    drop(sink);
    culvert_agent::redirect::unload(&node.pin())?;
    let of = |part: &Value, name: &str| part[name].as_f64().unwrap_or(0.0);
    let rates: Vec<_> = parts.iter().map(|part| format!("{:.0}", of(part, "per_s"))).collect();
    let worst = |name| parts.iter().map(|part| of(part, name)).fold(0.0, f64::max);
    let errors: f64 = parts.iter().map(|part| of(part, "errors")).sum();
    Ok(format!(
        "\nCapture alone, with a sink in the agent's place, {RATE} connections per second asked of one \
         pod for {:.0} s: {} per second in parts of {PART} s; worst p50 {:.0} µs, worst p99 {:.0} µs, \
         {errors} errors.",
        PARTS as f64 * PART,
        rates.join(", "),
        worst("p50_us"),
        worst("p99_us"),
    ))
}

/// Nobody listens at the address itself, so a connection that succeeds was captured.
fn wait_until_captured(client: &Pod, to: SocketAddr) -> Result<()> {
    for _ in 0..400 {
        if client.inside.connect(to).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(25));
    }
    anyhow::bail!("the sink captures nothing")
}

fn report(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the load failed");
    serde_json::from_slice(&output.stdout).context("the load printed no report")
}

/// The sink's own process, until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(sink(arguments))
}

async fn sink(arguments: &Arguments) -> Result<()> {
    let drain = Drain::default();
    let settings = manifest::Settings::default();
    let snapshots = manifest::watch(&arguments.manifests, settings, &drain).await?;
    let day = Duration::from_secs(86_400);
    let file = arguments.manifests.with_file_name("ca.pem");
    let ca = LocalCa::open(&file, "cluster.local", day, std::time::SystemTime::now())?;
    let keeper = Keeper::new(ca, 0.5, drain.clone());
    let capture = Settings {
        pin: arguments.pin.clone(),
        pods_cgroup: arguments.cgroup.join("pods"),
        node_cgroup: arguments.cgroup.clone(),
        congestion_control: None,
    };
    let mut enrolment =
        Enrolment::open("n1".into(), capture, false, (drain, Workers::start(None)?))?;
    let snapshot = snapshots.borrow().clone();
    let serve = |_, _, captured: Captured| async move { drop(captured) };
    let failed = enrolment.apply(&snapshot, |w| keeper.hold(&w.identity), serve).await?;
    ensure!(failed.is_empty(), "{failed:?}");
    std::future::pending::<()>().await;
    Ok(())
}
