//! Pure: backends that routes of the Gateway API refer to, and whether they may (ReferenceGrant).
//! Never: subsets, which the Gateway API does not have.
use super::{
    gateway_api::{BackendRef, Grant},
    objects::Objects,
    targets::Targets,
};
use crate::routing::{Missing, Target};

/// The group of routes.
const GATEWAY: &str = "gateway.networking.k8s.io";
/// The group of Istio's kinds.
const ISTIO: &str = "networking.istio.io";

/// Where backends are looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backends<'a> {
    pub(super) objects: &'a Objects,
    pub(super) domain: &'a str,
}

/// A route that refers to a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Referrer<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

impl Backends<'_> {
    /// The backend, or why a route may not use it: requests for that are answered with 500.
    pub(super) fn target(
        &self,
        referrer: Referrer<'_>,
        reference: &BackendRef,
        targets: &mut Targets<'_>,
    ) -> Target {
        match self.find(referrer, reference, targets) {
            Ok(backend) => Target::Backend(backend.into()),
            Err(why) => Target::Missing(Missing::Backend(why.into())),
        }
    }

    fn find(
        &self,
        referrer: Referrer<'_>,
        reference: &BackendRef,
        targets: &mut Targets<'_>,
    ) -> Result<crate::routing::BackendRef, String> {
        let BackendRef { group, kind, name, namespace, port, .. } = reference;
        let home = namespace.as_deref().unwrap_or(referrer.namespace);
        let (group, kind) = (group.as_deref().unwrap_or(""), kind.as_deref().unwrap_or("Service"));
        if home != referrer.namespace && !self.is_granted(referrer, (group, kind, name), home) {
            return Err(format!(
                "backendRef {name}/{home} not accessible to a {} in namespace {:?} (missing a ReferenceGrant?)",
                referrer.kind, referrer.namespace
            ));
        }
        let host = match (group, kind) {
            ("" | "core", "Service") => format!("{name}.{home}.svc.{}", self.domain),
            (ISTIO, "Hostname") => name.to_ascii_lowercase(),
            (group, kind) => {
                return Err(format!(
                    "referencing unsupported backendRef: group {group:?} kind {kind:?}"
                ));
            }
        };
        let service = targets.service(&host).map_err(|_| format!("backend({host}) not found"))?;
        let port = port.ok_or("port is required in backendRef")?;
        targets.backend(&service, port, None)
    }

    fn is_granted(
        &self,
        referrer: Referrer<'_>,
        (group, kind, name): (&str, &str, &str),
        home: &str,
    ) -> bool {
        let allows = |grant: &Grant| {
            let from = grant.from.iter().any(|from| {
                from.group == GATEWAY
                    && from.kind == referrer.kind
                    && from.namespace == referrer.namespace
            });
            from && grant.to.iter().any(|to| {
                to.group == group && to.kind == kind && to.name.as_deref().is_none_or(|n| n == name)
            })
        };
        self.objects.grants_of(home).any(allows)
    }
}
