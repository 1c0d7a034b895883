//! Pure: a mesh of objects in YAML, and requests to it.
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use culvert_agent::{
    discovery::{Snapshot, WaypointDestination},
    manifest::{self, Changes, Folder},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::super::{Compiled, Compiler, Settings};
use crate::{
    backend::Backend,
    routing::{
        Action, Client, Destination, Destinations, RequestHead, Rule, Step, Target, decide, find,
    },
};

/// A mesh of objects.
pub(super) struct World {
    files: BTreeMap<Arc<str>, String>,
    folder: Folder,
    agent: manifest::Compiler,
    compiler: Compiler,
    pub(super) snapshot: Snapshot,
    pub(super) compiled: Compiled,
}

impl World {
    /// One of these files, for any waypoint.
    pub(super) fn of(yaml: &str) -> Self {
        Self::with(Settings::default(), yaml)
    }

    /// One of these files.
    pub(super) fn with(settings: Settings, yaml: &str) -> Self {
        let mut world = Self::empty(settings);
        world.write("a.yaml", Some(yaml));
        world
    }

    fn empty(settings: Settings) -> Self {
        Self {
            files: BTreeMap::new(),
            folder: Folder::default(),
            agent: manifest::Compiler::new(manifest::Settings::default()),
            compiler: Compiler::new(settings),
            snapshot: Snapshot::default(),
            compiled: Compiled::default(),
        }
    }

    /// All of these files at once.
    pub(super) fn of_files(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut world = Self::empty(Settings::default());
        let files = files.into_iter().map(|(name, text)| (Arc::from(name), text));
        world.files = files.collect();
        world.apply();
        world
    }

    /// The article's objects, and the services that they speak of.
    pub(super) fn mission() -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let mut world = Self::of("");
        let mut texts = vec![fixtures.join("mission-services.yaml")];
        texts.extend(
            fs::read_dir(fixtures.join("mission")).unwrap().map(|file| file.unwrap().path()),
        );
        for path in texts {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            world.write(&name, Some(&fs::read_to_string(path).unwrap()));
        }
        world
    }

    /// A file is another now, or gone.
    pub(super) fn write(&mut self, file: &str, text: Option<&str>) {
        match text {
            Some(text) => drop(self.files.insert(file.into(), text.to_owned())),
            None => drop(self.files.remove(file)),
        }
        self.apply();
    }

    fn apply(&mut self) {
        let contents = self.files.iter().map(|(name, text)| (name.clone(), Ok(text.clone())));
        let changes = self.folder.update(contents.collect());
        self.snapshot = self.agent.apply(&self.folder, &changes);
        self.compiled = self.compiler.apply(&self.folder, &changes, &self.snapshot);
    }

    /// The waypoint is called so from now on.
    pub(super) fn call(&mut self, host: &str) {
        self.compiler.set_names([WaypointDestination::Host(host.into())].into());
        self.compiled = self.compiler.apply(&self.folder, &Changes::default(), &self.snapshot);
    }

    /// What is wrong, as it is reported.
    pub(super) fn problems(&self) -> Vec<String> {
        self.compiled.problems.iter().map(|p| format!("{} {}", p.origin, p.text)).collect()
    }

    /// The rule for a request: `GET product-service.production:80/api/v2?x=1 name=value`.
    pub(super) fn rule(&self, request: &str) -> Option<&Rule> {
        Asked::of(request).find(self)
    }

    /// Where a request goes: `host:port/subset`, shares after `=`; or what it is answered.
    pub(super) fn ask(&self, request: &str) -> String {
        self.rule(request).map_or_else(|| "404".to_owned(), said)
    }

    /// What happens to a request, for a number that is drawn: the backend, the new path and authority,
    /// changed headers of the request and of the response; or an answer with its location.
    pub(super) fn decide(&self, request: &str, draw: u32) -> String {
        Asked::of(request).decide(self, draw)
    }

    /// How a destination is called.
    pub(super) fn backend(&self, host: &str, port: u16, subset: Option<&str>) -> Option<Backend> {
        let reference = crate::routing::BackendRef {
            host: full(host).into(),
            port,
            subset: subset.map(Into::into),
        };
        self.compiled.backends.find(&reference)
    }
}

fn full(host: &str) -> String {
    if host.matches('.').count() == 1 && !host.ends_with(".example") {
        format!("{host}.svc.cluster.local")
    } else {
        host.to_owned()
    }
}

/// A request in words. Headers follow, as `name=value`; `from=namespace` and `label:key=value` say who
/// asks, `authority=host` what is asked for.
struct Asked {
    method: Method,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
    authority: String,
    headers: HeaderMap,
    namespace: String,
    labels: BTreeMap<String, String>,
}

impl Asked {
    fn of(request: &str) -> Self {
        let mut words = request.split(' ');
        let method = words.next().unwrap().parse().unwrap();
        let (host, path) = words.next().unwrap().split_once('/').unwrap();
        let (host, port) = host.split_once(':').unwrap_or((host, "80"));
        let (path, query) = path.split_once('?').map_or((path, None), |(a, b)| (a, Some(b)));
        let mut asked = Self {
            method,
            host: full(host),
            port: port.parse().unwrap(),
            path: format!("/{path}"),
            query: query.map(Into::into),
            authority: host.to_owned(),
            headers: HeaderMap::new(),
            namespace: "default".into(),
            labels: BTreeMap::new(),
        };
        for (key, value) in words.map(|word| word.split_once('=').unwrap()) {
            match key {
                "from" => asked.namespace = value.into(),
                "authority" => asked.authority = value.into(),
                key => match key.strip_prefix("label:") {
                    Some(label) => drop(asked.labels.insert(label.into(), value.into())),
                    None => drop(asked.headers.append(
                        HeaderName::try_from(key).unwrap(),
                        HeaderValue::from_str(&value.replace('_', " ")).unwrap(),
                    )),
                },
            }
        }
        asked
    }

    fn client(&self) -> Client<'_> {
        Client {
            address: "10.0.9.9:1".parse().unwrap(),
            identity: None,
            namespace: Some(&self.namespace),
            labels: &self.labels,
        }
    }

    fn head<'a>(&'a self, client: &'a Client<'a>) -> RequestHead<'a> {
        RequestHead {
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            version: Version::HTTP_11,
            headers: &self.headers,
            client,
            dialled: format!("10.96.0.1:{}", self.port).parse().unwrap(),
            began: std::time::SystemTime::UNIX_EPOCH,
        }
    }

    fn find<'w>(&self, world: &'w World) -> Option<&'w Rule> {
        let routes = world.compiled.table.port(&self.host, self.port).expect(&self.host);
        find(routes, &self.head(&self.client()))
    }

    fn decide(&self, world: &World, draw: u32) -> String {
        let routes = world.compiled.table.port(&self.host, self.port).expect(&self.host);
        let changed = |headers: &HeaderMap, before: &HeaderMap| {
            let kept = headers.iter().filter(|(name, value)| {
                let before: Vec<_> = before.get_all(*name).iter().collect();
                !before.contains(value) && !name.as_str().starts_with("x-envoy")
            });
            let gone = before.keys().filter(|name| !headers.contains_key(*name));
            let kept = kept.map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
            kept.chain(gone.map(|name| format!(" -{name}"))).collect::<String>()
        };
        match decide(routes, &self.head(&self.client()), &mut || draw).step {
            Step::Answer(answer) => {
                let location =
                    answer.headers.get("location").map(|l| l.to_str().unwrap().to_owned());
                format!(
                    "{}{}",
                    answer.status.as_str(),
                    location.map_or(String::new(), |l| format!(" {l}"))
                )
            }
            Step::Forward(onward) => {
                let mut request = self.headers.clone();
                onward.request.apply(None::<http::StatusCode>, &mut request);
                let mut response = HeaderMap::new();
                onward.response.apply(Some(http::StatusCode::OK), &mut response);
                let name = onward.backend.host.split('.').next().unwrap();
                let path = onward.target.map_or(String::new(), |path| format!(" {path}"));
                let to = onward
                    .authority
                    .map_or(String::new(), |to| format!(" @{}", to.to_str().unwrap()));
                let response = changed(&response, &HeaderMap::new()).replace(' ', " <");
                format!(
                    "{name}:{}{path}{to}{}{response}",
                    onward.backend.port,
                    changed(&request, &self.headers)
                )
            }
        }
    }
}

/// What a rule does.
pub(super) fn said(rule: &Rule) -> String {
    match &rule.action {
        Action::Forward(forward) => shares(&forward.destinations),
        Action::Redirect(redirect) => redirect.status.as_str().to_owned(),
        Action::Direct(direct) => direct.status.as_str().to_owned(),
    }
}

/// Where destinations are, with their shares.
pub(super) fn shares(destinations: &Destinations) -> String {
    let one = |destination: &Destination| {
        let target = match &destination.target {
            Target::Backend(backend) => {
                let host = backend.host.trim_end_matches(".svc.cluster.local");
                let subset = backend.subset.iter().map(|subset| format!("/{subset}"));
                format!("{host}:{}{}", backend.port, subset.collect::<String>())
            }
            Target::Missing(why) => format!("{why:?}"),
        };
        (target, destination.weight)
    };
    match destinations.iter().map(one).collect::<Vec<_>>().as_slice() {
        [] => "500".to_owned(),
        [(only, _)] => only.clone(),
        several => several
            .iter()
            .map(|(to, weight)| format!("{to}={weight}"))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// A Service with these ports, each `name:number`.
pub(super) fn service(name: &str, namespace: &str, ports: &str) -> String {
    let address = name
        .bytes()
        .chain(namespace.bytes())
        .fold(1_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)) % 60_000);
    let ports = ports.split(' ').map(|port| {
        let (name, number) = port.split_once(':').unwrap();
        format!("{{name: '{name}', port: {number}}}")
    });
    format!(
        "---\n{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{clusterIP: 10.96.{}.{}, selector: {{app: {name}}}, ports: [{}]}}}}\n",
        address / 250 + 1,
        address % 250 + 1,
        ports.collect::<Vec<_>>().join(", ")
    )
}

/// An object of Istio's.
pub(super) fn istio(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{kind: {kind}, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}

/// An object of Istio's that was made at a second of a day.
pub(super) fn aged(kind: &str, name: &str, namespace: &str, (second, spec): (u8, &str)) -> String {
    format!(
        "---\n{{kind: {kind}, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: '2026-01-01T00:00:{second:02}Z'}}, spec: {spec}}}\n"
    )
}

/// An object of the Gateway API.
pub(super) fn gateway(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{kind: {kind}, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}
