//! Pure: whether a connection between two pods of one node may go without the agent.
//! Never: a second opinion: route and policy are those that connections go through.
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    discovery::{Snapshot, Workload},
    policy::{Asked, Verdict, authorize},
    route::{self, Choice, NextHop, Via},
};

/// Who dials what, and where that was found to be.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The pod that dials, as it was enrolled.
    pub source: &'a Arc<Workload>,
    /// What it dials.
    pub dialled: SocketAddr,
    /// The pod that serves, as it was enrolled.
    pub server: &'a Arc<Workload>,
    /// Its address.
    pub endpoint: SocketAddr,
}

/// How things are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may go by itself.
    Holds,
    /// The next connection is for the agent; those that are open may stay.
    Over,
    /// No connection may be open.
    Denied(Verdict),
}

/// Whether nothing but that one pod can be meant by what was dialled, and no port or family needs a
/// translation that the kernel does not make.
pub fn is_sole(hop: &NextHop, dialled: SocketAddr) -> bool {
    hop.via == Via::Joined && !hop.others && hop.endpoint.is_ipv4() == dialled.is_ipv4()
}

/// Asks route and policy once more. Between pods that are gone nothing goes, and nobody need deny it.
pub fn standing(snapshot: &Snapshot, question: &Question<'_>) -> Standing {
    let Question { source, dialled, server, endpoint } = *question;
    let same_family = |address: &&IpAddr| address.is_ipv4() == endpoint.is_ipv4();
    let Some(address) = source.addresses.iter().find(same_family) else {
        return Standing::Over;
    };
    let guard = snapshot.guard(snapshot.workload(&server.uid).unwrap_or(server));
    let asked = Asked {
        peer: Some(&source.identity),
        source: SocketAddr::new(*address, 0),
        destination: endpoint,
    };
    let verdict = authorize(&guard, &asked);
    if !verdict.is_allowed() {
        return Standing::Denied(verdict);
    }
    let choice = Choice { join: true, ..Choice::default() };
    let leads_there = |hop: NextHop| {
        let is_server = hop.workload.as_ref().is_some_and(|workload| workload.uid == server.uid);
        is_sole(&hop, dialled) && is_server && hop.endpoint == endpoint
    };
    let hop = route::next_hop(snapshot, &source.uid, dialled, &choice);
    if hop.is_ok_and(leads_there) { Standing::Holds } else { Standing::Over }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::{Folder, Settings, compile};

    fn pod(name: &str, ip: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: cart, {more}}}}}\n\
             spec: {{nodeName: n1, serviceAccountName: {name}}}\nstatus: {{podIP: {ip}, podIPs: [{{ip: {ip}}}], \
             conditions: [{{type: Ready, status: 'True'}}]}}\n---\n"
        )
    }

    fn mesh(more: &str) -> Snapshot {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n\
            spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}\n---\n"
            .to_owned();
        let web = pod("web", "10.1.0.2", "").replace("app: cart, ", "");
        let mut folder = Folder::default();
        folder.update(BTreeMap::from([("m.yaml".into(), Ok(text + &web + more))]));
        compile(&folder, &Settings::default())
    }

    fn asked(before: &Snapshot, now: &Snapshot, dialled: &str, endpoint: &str) -> Standing {
        let at = |ip: &str| before.workload_at(ip.parse().unwrap()).unwrap();
        let (dialled, endpoint) = (dialled.parse().unwrap(), endpoint.parse().unwrap());
        let (source, server) = (at("10.1.0.2"), at("10.1.0.3"));
        standing(now, &Question { source, dialled, server, endpoint })
    }

    #[test]
    fn it_holds_while_the_same_pod_is_meant_and_policies_allow_it() {
        let cart = pod("cart", "10.1.0.3", "");
        let before = mesh(&cart);
        let policy = |action: &str| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
                spec: {{action: {action}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/web]}}}}]}}]}}\n---\n"
            )
        };
        let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
        for (now, by_service, by_address) in [
            (cart.clone(), "Holds", "Holds"),
            (cart.clone() + &policy("ALLOW"), "Holds", "Holds"),
            (cart.clone() + strict, "Holds", "Holds"),
            (cart.clone() + &policy("DENY"), "Denied", "Denied"),
            (cart.clone() + &pod("cart-2", "10.1.0.4", ""), "Over", "Holds"),
            (cart.replace("n1", "n2"), "Over", "Over"),
            (cart.replace("app: cart", "app: other"), "Over", "Holds"),
            (pod("cart", "10.1.0.3", "istio.io/dataplane-mode: none"), "Over", "Over"),
            (pod("cart", "10.1.0.5", ""), "Over", "Over"),
            (pod("other", "10.1.0.3", ""), "Over", "Over"),
            (String::new(), "Over", "Over"),
        ] {
            let snapshot = mesh(&now);
            for (dialled, endpoint, expected) in [
                ("10.96.0.1:80", "10.1.0.3:8080", by_service),
                ("10.1.0.3:8080", "10.1.0.3:8080", by_address),
            ] {
                let standing = asked(&before, &snapshot, dialled, endpoint);
                let word = format!("{standing:?}");
                assert!(word.starts_with(expected), "{dialled}: {word}, not {expected}\n{now}");
            }
        }
    }
}
