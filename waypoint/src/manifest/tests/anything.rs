//! Pure: objects of any shape: whatever stands in them, nothing panics.
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::world::{World, service};

/// Names of fields.
const KEYS: &str = "hosts http tls tcp match route destination host port number uri prefix exact regex \
    headers request set add remove rewrite redirect fault abort delay percentage value retries retryOn \
    attempts mirrors corsPolicy allowOrigins rules matches path type filters backendRefs name weight \
    parentRefs subsets trafficPolicy loadBalancer consistentHash maglev tableSize portLevelSettings \
    requestMirror fraction numerator denominator urlRewrite from to kind group namespace timeout delegate";

/// Any value of any shape, with the names that objects have.
fn anything() -> impl Strategy<Value = Value> {
    let words = ["3s", "(a|b", "%REQ(x)%", "%", "RequestMirror", "ReplacePrefixMatch", "Service"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z*./:~-]{0,12}".prop_map(Into::into),
        prop::sample::select(words.to_vec()).prop_map(Into::into),
    ];
    let keys: Vec<_> = KEYS.split_whitespace().collect();
    leaf.prop_recursive(6, 64, 4, move |inner| {
        let key = prop::sample::select(keys.clone()).prop_map(str::to_owned);
        let fields = prop::collection::hash_map(key, inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            fields.prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_panics(
        kind in prop::sample::select(culvert_agent::manifest::KINDS.to_vec()),
        spec in anything(),
    ) {
        let istio = matches!(kind, "VirtualService" | "DestinationRule");
        let group = if istio { "networking.istio.io" } else { "gateway.networking.k8s.io" };
        let version = format!("{group}/v1");
        let object = json!({"kind": kind, "apiVersion": version, "metadata": {"name": "x"}, "spec": spec});
        let world = World::of(&format!("{}---\n{object}", service("a", "default", "http:80")));
        prop_assert_eq!(world.compiled.table.services.len(), 1);
    }
}
