//! Shell: a running `culvert-agent`: its life, its records, its endpoints.
use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    daemon::{self, Daemon, Program},
    factory::{Factory, binary},
    lab::{Node, until},
};

/// An agent of one node.
#[derive(Debug)]
pub struct Agent {
    process: Daemon,
    host: Factory,
}

/// One line of the access log.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Who dialled.
    #[serde(rename = "src.addr")]
    pub source: SocketAddr,
    /// Its certificate's identity.
    #[serde(rename = "src.identity")]
    pub source_identity: Option<String>,
    /// Its pod.
    #[serde(rename = "src.workload")]
    pub source_workload: Option<String>,
    /// Who was dialled.
    #[serde(rename = "dst.addr")]
    pub destination: SocketAddr,
    /// The CONNECT target.
    #[serde(rename = "dst.hbone_addr")]
    pub authority: Option<String>,
    /// The service.
    #[serde(rename = "dst.service")]
    pub service: Option<String>,
    /// Its pod.
    #[serde(rename = "dst.workload")]
    pub destination_workload: Option<String>,
    /// Its certificate's identity.
    #[serde(rename = "dst.identity")]
    pub destination_identity: Option<String>,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `hbone` or `tcp`.
    pub protocol: String,
    /// Bytes away from the reporting side.
    pub bytes_sent: u64,
    /// Bytes towards it.
    pub bytes_recv: u64,
    /// How it ended.
    pub reason: String,
    /// Endpoints that were passed over.
    pub skipped: Option<String>,
    /// What policies said.
    pub policy: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Agent {
    pub(crate) fn start(node: &Node, folder: &Path, extra: &str) -> Result<Self> {
        let name = &node.name;
        let config = folder.join(format!("{name}.toml"));
        fs::write(
            &config,
            format!(
                "node = \"{name}\"\n{}\n[manifests]\ndirectory = {:?}\n[ca]\nfile = {:?}\n{}\n[capture]\npin = {:?}\n\
                 pods_cgroup = {:?}\nnode_cgroup = {:?}\n{}\n[log]\nformat = \"json\"\nlevel = \"info\"\n{}\n",
                section(extra, "agent"),
                folder.join("manifests"),
                folder.join("ca.pem"),
                section(extra, "ca"),
                node.pin(),
                node.cgroup().join("pods"),
                node.cgroup(),
                section(extra, "capture"),
                rest(extra),
            ),
        )?;
        let host = Factory::start(&node.netns(), &node.cgroup().join("host"))?;
        let program = Program {
            name: "culvert-agent",
            netns: node.netns(),
            cgroup: node.cgroup().join("agent"),
            config,
            log: folder.join(format!("{name}.log")),
        };
        Ok(Self { process: Daemon::start(program, &host)?, host })
    }

    /// Kills it without a warning.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Asks it to stop, and does not wait.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn terminate(&self) -> Result<()> {
        self.process.terminate()
    }

    /// Waits until it has stopped by itself.
    ///
    /// # Errors
    /// When it ended with a failure.
    pub fn wait(&mut self) -> Result<()> {
        self.process.wait()
    }

    /// Starts it again after it ended.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process.restart(&self.host)
    }

    /// Runs `culvert-agent unload`.
    ///
    /// # Errors
    /// When it fails.
    pub fn unload(&self) -> Result<String> {
        let output = Command::new(binary("culvert-agent")?)
            .arg("unload")
            .arg("--config")
            .arg(self.process.config())
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its records so far.
    pub fn records(&self) -> Vec<Record> {
        let log = self.log();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the first record that fits.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Record {
        let mut found = None;
        until(what, || {
            found = self.records().into_iter().find(&fits);
            found.is_some()
        });
        found.expect("just found")
    }

    /// How often the kernel's programs ended in the way `reason`.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn kernel(&self, reason: &str) -> Result<u64> {
        let counters: Value = serde_json::from_str(&self.get(15000, "/debug/kernel")?)?;
        counters.get(reason).and_then(Value::as_u64).with_context(|| format!("no counter {reason}"))
    }

    /// The state dump.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(15000, "/config_dump")?)?)
    }

    /// Pods that it has enrolled.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn enrolled(&self) -> Result<usize> {
        let dump = self.dump()?;
        let pods = dump["workloadState"].as_object().into_iter().flatten();
        Ok(pods.filter(|(_, pod)| pod["state"] == "Up").count())
    }

    /// The answer to a GET on the node's loopback.
    ///
    /// # Errors
    /// When there is none, or its status is not 200.
    pub fn get(&self, port: u16, path: &str) -> Result<String> {
        daemon::get(&self.host, port, path)
    }

    /// The whole answer to a request.
    ///
    /// # Errors
    /// When there is none.
    pub fn request(&self, method: &str, port: u16, path: &str) -> Result<String> {
        daemon::request(&self.host, method, port, path)
    }
}

/// Lines of `extra` that belong to a table which the lab writes itself: `ca.ttl = "2s"`; `agent.` for
/// keys of no table.
fn section(extra: &str, name: &str) -> String {
    let prefix = format!("{name}.");
    extra
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix))
        .collect::<Vec<_>>()
        .join("\n")
}

fn rest(extra: &str) -> String {
    let tables = ["agent.", "ca.", "capture."];
    let own = |line: &&str| !tables.iter().any(|table| line.trim().starts_with(table));
    extra.lines().filter(own).collect::<Vec<_>>().join("\n")
}
