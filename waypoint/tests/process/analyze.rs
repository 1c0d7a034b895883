//! Shell: `culvert analyze` as a command: what it reads, says, and ends with.
use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const SERVICE: &str = "{kind: Service, apiVersion: v1, metadata: {name: a, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}\n";
const WRONG: &str = "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: x, namespace: shop}, spec: {hosts: [a], http: [{route: [{destination: {host: gone}}]}]}}\n";
const DOUBTFUL: &str = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: x, namespace: shop}, spec: {host: gone, subsets: [{name: s}]}}\n";

struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let name = format!("culvert-analyze-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("all/deep")).expect("a folder");
        fs::write(folder.join("all/service.yaml"), SERVICE).expect("a file");
        fs::write(folder.join("all/deep/wrong.yml"), WRONG).expect("a file");
        fs::write(folder.join("doubtful.yaml"), DOUBTFUL).expect("a file");
        fs::write(folder.join("notes.txt"), "none").expect("a file");
        Self(folder)
    }

    /// What comes of these arguments, of which those with a slash before them are files.
    fn analyze(&self, arguments: &[&str], input: &str) -> (Output, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.arg("analyze");
        for argument in arguments {
            match argument.strip_prefix('/') {
                Some(file) => command.arg(self.0.join(file)),
                None => command.arg(argument),
            };
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("culvert runs");
        child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output, said)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn analyze_ends_as_its_thresholds_say() {
    let files = Files::new("ends");
    let (wrong, doubtful) = ("IST0101", "IST0174");
    for (arguments, input, code, words) in [
        (&["/all"][..], "", 79, wrong),
        (&["/all/service.yaml"], "", 0, ""),
        (&["/all/service.yaml", "/notes.txt"], "", 0, ""),
        (&["/doubtful.yaml"], "", 0, doubtful),
        (&["/doubtful.yaml", "--failure-threshold", "Warning"], "", 79, doubtful),
        (&["/doubtful.yaml", "--output-threshold", "Error"], "", 0, ""),
        (&["/all", "-S", "IST0101=VirtualService *.shop"], "", 0, ""),
        (&["/all", "-S", "IST0101=VirtualService y.shop"], "", 79, wrong),
        (&["-", "/all/service.yaml"], WRONG, 79, wrong),
        (&["-"], SERVICE, 0, ""),
        (&["/gone.yaml"], "", 2, ""),
        (&["/notes.txt"], "", 2, ""),
        (&["/all", "--failure-threshold", "Grave"], "", 2, ""),
    ] {
        let (output, said) = files.analyze(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{errors}");
        assert!(said.contains(words), "{arguments:?}: {said}{errors}");
        assert_eq!(said.is_empty(), words.is_empty(), "{arguments:?}: {said}{errors}");
        assert_eq!(code == 2, errors.contains("error") || errors.contains("no file"), "{errors}");
    }
}

#[test]
fn analyze_speaks_to_programs() {
    let files = Files::new("speaks");
    let (output, said) = files.analyze(&["/all", "-o", "json"], "");
    let value: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((value[0]["code"].as_str(), output.status.code()), (Some("IST0101"), Some(79)));
    let (_, said) = files.analyze(&["/all", "-o", "yaml"], "");
    assert!(said.starts_with("- \"code\": \"IST0101\"\n"), "{said}");
    let (output, said) = files.analyze(&["/all/service.yaml", "-o", "json"], "");
    assert_eq!((said.trim(), output.status.code()), ("[]", Some(0)));
}
