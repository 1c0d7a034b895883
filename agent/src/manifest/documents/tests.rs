//! Pure: tests of what a folder holds.
use proptest::prelude::*;

use super::*;

const GOOD: &str = "# a shop\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\n\
    apiVersion: v1\nkind: Pod\nmetadata: {name: cart, namespace: shop}\nspec: {nodeName: n1}\n";

fn folder(files: &[(&str, &str)]) -> BTreeMap<Arc<str>, Result<String, String>> {
    files.iter().map(|(path, text)| (Arc::from(*path), Ok((*text).to_owned()))).collect()
}

fn names(folder: &Folder) -> Vec<String> {
    let origin = |name| folder.get(name).unwrap().origin.to_string();
    folder.names().map(origin).collect()
}

#[test]
fn objects_keep_file_and_line() {
    let mut state = Folder::default();
    assert_eq!(state.update(folder(&[("a.yaml", GOOD)])).names.len(), 2);
    assert_eq!(names(&state), ["a.yaml:2", "a.yaml:7"]);
    assert!(state.update(folder(&[("a.yaml", GOOD)])).is_empty());
}

#[test]
fn a_broken_document_is_named_and_the_last_good_version_stays() {
    let mut state = Folder::default();
    state.update(folder(&[("a.yaml", GOOD), ("b.yaml", GOOD)]));
    let broken = GOOD.replace("spec: {nodeName: n1}", "spec: {nodeName: [1}");
    state.update(folder(&[("a.yaml", &broken)]));
    let problems = state.problems();
    assert_eq!(names(&state).len(), 2);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].origin.to_string(), "a.yaml:10", "{problems:?}");
    state
        .update(folder(&[("a.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")]));
    assert_eq!(names(&state), ["a.yaml:1"]);
    assert!(state.problems().is_empty());
}

#[test]
fn a_wrong_type_a_missing_field_and_a_duplicate_are_problems() {
    for (text, hint) in [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostNetwork: 3}\n", "bool"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {nam: x}\nspec: {}\n", "name"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 70000}]}\n",
            "u16",
        ),
        ("metadata: {name: x}\n", "kind"),
    ] {
        let mut state = Folder::default();
        state.update(folder(&[("a.yaml", text)]));
        let problems = state.problems();
        assert_eq!(problems.len(), 1, "{text}");
        assert!(problems[0].text.contains(hint), "{problems:?}");
    }
    let mut state = Folder::default();
    state.update(folder(&[("a.yaml", GOOD), ("b.yaml", GOOD)]));
    let problems = state.problems();
    assert_eq!(problems.len(), 2);
    assert!(problems[0].text.contains("a.yaml:2"), "{problems:?}");
    assert_eq!(state.update(folder(&[("b.yaml", GOOD)])).names.len(), 2);
    assert_eq!(names(&state), ["b.yaml:2", "b.yaml:7"]);
}

#[test]
fn lists_and_foreign_kinds() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
        - {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n---\nkind: VirtualService\napiVersion: networking.istio.io/v1\n";
    let mut state = Folder::default();
    state.update(folder(&[("a.yaml", text)]));
    assert_eq!((names(&state).len(), state.problems()), (1, vec![]));
}

#[test]
fn objects_for_waypoints_pass_through_and_are_no_problem_of_the_mesh() {
    let text = "kind: List\napiVersion: v1\nitems:\n- kind: VirtualService\n  \
                apiVersion: networking.istio.io/v1alpha3\n  metadata: {name: cart, namespace: shop}\n  \
                spec:\n    hosts: [cart]\n---\nkind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\n\
                metadata: {name: cart}\nspec:\n  rules: []\n";
    let mut state = Folder::default();
    let changes = state.update(folder(&[("a.yaml", text)]));
    let kinds: Vec<_> = changes.for_waypoints().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, ["HTTPRoute", "VirtualService"]);
    let all: Vec<_> = state.for_waypoints().map(|(_, object)| object).collect();
    assert_eq!((all[0].kind, all[0].metadata.namespace.as_str()), ("VirtualService", "shop"));
    assert_eq!(all[0].object["spec"]["hosts"][0], "cart");
    assert_eq!(all[0].place("/spec/hosts/0").to_string(), "a.yaml:8");
    assert_eq!(all[1].place("/spec/rules").to_string(), "a.yaml:14");
    // One that has lost its name may be the one that was there.
    state.update(folder(&[(
        "a.yaml",
        &text.replace("metadata: {name: cart}", "metadata: {nam: x}"),
    )]));
    assert_eq!((state.for_waypoints().count(), state.problems()), (2, vec![]));
    let problems: Vec<_> = state.problems_for_waypoints().collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].text.contains("name"), "{problems:?}");
    assert!(!state.is_partial());
}

proptest! {
    #[test]
    fn no_text_panics(text in "([a-z:{}\\[\\]\"' #&*!|>-]|\n|\t|---\n|kind: Pod\n|apiVersion: v1\n){0,200}") {
        let _ = Folder::default().update(folder(&[("a.yaml", &text)]));
    }
}
