//! Pure: DestinationRules of one host → how its service and its subsets are called, with inheritance
//! done (`pilot/pkg/networking/util` GetPortLevelTrafficPolicy, MergeSubsetTrafficPolicy).
//! Never: which DestinationRules count (see `lookup`).
use std::{collections::BTreeMap, sync::Arc};

use culvert_agent::origin::Origin;

use super::{
    destination_rule::{DestinationRule, PortPolicy, TrafficPolicy},
    settings,
};
use crate::backend::model::{CallPolicy, PortPolicies, RuleName, ServiceBackends, Subset};

/// A policy, and where its rule stands.
type Said<'a> = (&'a TrafficPolicy, &'a Origin);

/// What these rules say of a service, the oldest first: its policy counts, and the subsets of all do,
/// of two with one name the older one. When one of them is refused, nobody can say how it is called.
pub(super) fn service<'a>(rules: &'a [(&'a DestinationRule, RuleName)]) -> ServiceBackends {
    if rules.iter().any(|(rule, _)| rule.refused) {
        return refused(rules);
    }
    let said = |(rule, name): &'a (&DestinationRule, RuleName)| {
        rule.traffic_policy.as_ref().map(|policy| (policy, &name.origin))
    };
    let top = rules.iter().find_map(said);
    let adaptive = rules.iter().any(|(rule, _)| rule.adaptive);
    let mut subsets = BTreeMap::new();
    let all = rules.iter().flat_map(|(rule, name)| rule.subsets.iter().map(move |s| (s, name)));
    for (subset, name) in all {
        subsets.entry(Arc::from(subset.name.as_str())).or_insert_with(|| Subset {
            labels: Arc::new(subset.labels.clone()),
            policies: policies(
                top,
                subset.traffic_policy.as_ref().map(|own| (own, &name.origin)),
                adaptive,
            ),
        });
    }
    ServiceBackends {
        rules: rules.iter().map(|(_, name)| name.clone()).collect(),
        policies: policies(top, None, adaptive),
        subsets,
    }
}

/// That nobody knows how a service is to be called, whatever these rules say.
pub(super) fn refused(rules: &[(&DestinationRule, RuleName)]) -> ServiceBackends {
    let refused = Arc::new(CallPolicy { refused: true, ..CallPolicy::default() });
    let policies = PortPolicies { default: refused, ..PortPolicies::default() };
    let subset = |name: &str, labels: &BTreeMap<String, String>| {
        let labels = Arc::new(labels.clone());
        (Arc::from(name), Subset { labels, policies: policies.clone() })
    };
    let subsets = rules.iter().flat_map(|(rule, _)| &rule.subsets);
    ServiceBackends {
        rules: rules.iter().map(|(_, name)| name.clone()).collect(),
        subsets: subsets.map(|s| subset(&s.name, &s.labels)).collect(),
        policies,
    }
}

/// The policies of all ports, from that of the service and that of a subset.
fn policies(top: Option<Said<'_>>, subset: Option<Said<'_>>, adaptive: bool) -> PortPolicies {
    let origin = subset.or(top).map(|(_, origin)| origin.clone());
    let (top, subset) = (top.map(|(policy, _)| policy), subset.map(|(policy, _)| policy));
    let both = top.into_iter().chain(subset);
    let numbers = both.flat_map(|policy| &policy.port_level_settings).filter_map(number);
    let of_port = |port| {
        let policy = call_policy(&merged(top, subset, port), adaptive);
        Arc::new(CallPolicy { origin: origin.clone(), ..policy })
    };
    PortPolicies {
        ports: numbers.map(|port| (port, of_port(Some(port)))).collect(),
        default: of_port(None),
    }
}

fn number(port: &PortPolicy) -> Option<u16> {
    u16::try_from(port.port?.number).ok()
}

/// The policy of a port, or of those that no setting names. What a subset gives stands in place of what
/// the service gives, block by block.
fn merged(
    top: Option<&TrafficPolicy>,
    subset: Option<&TrafficPolicy>,
    port: Option<u16>,
) -> TrafficPolicy {
    let top = top.map(|policy| of_port(policy, port).unwrap_or_else(|| policy.clone()));
    let Some(subset) = subset else { return top.unwrap_or_default() };
    let own = of_port(subset, port);
    let (subset, whole) = (own.as_ref().unwrap_or(subset), own.is_some());
    let Some(mut policy) = top else { return subset.clone() };
    fn replace<T: Clone>(block: &mut Option<T>, by: &Option<T>, whole: bool) {
        if by.is_some() || whole {
            block.clone_from(by);
        }
    }
    replace(&mut policy.load_balancer, &subset.load_balancer, whole);
    replace(&mut policy.connection_pool, &subset.connection_pool, whole);
    replace(&mut policy.outlier_detection, &subset.outlier_detection, whole);
    replace(&mut policy.tls, &subset.tls, whole);
    replace(&mut policy.tunnel, &subset.tunnel, false);
    replace(&mut policy.proxy_protocol, &subset.proxy_protocol, false);
    replace(&mut policy.retry_budget, &subset.retry_budget, false);
    policy
}

/// The settings of a port, which inherit nothing.
fn of_port(policy: &TrafficPolicy, port: Option<u16>) -> Option<TrafficPolicy> {
    let mut all = policy.port_level_settings.iter();
    let own = all.find(|settings| port.is_some() && number(settings) == port)?;
    Some(TrafficPolicy {
        load_balancer: own.load_balancer.clone(),
        connection_pool: own.connection_pool.clone(),
        outlier_detection: own.outlier_detection.clone(),
        tls: own.tls.clone(),
        ..TrafficPolicy::default()
    })
}

fn call_policy(policy: &TrafficPolicy, adaptive: bool) -> CallPolicy {
    CallPolicy {
        load_balancer: policy
            .load_balancer
            .as_ref()
            .map(settings::load_balancer)
            .unwrap_or_default(),
        connection_pool: policy.connection_pool.as_ref().map(settings::pool).unwrap_or_default(),
        outlier_detection: policy.outlier_detection.as_ref().map(settings::outlier),
        tls: policy.tls.as_ref().map(|tls| Arc::new(settings::tls(tls))),
        tunnel: policy.tunnel.as_ref().and_then(settings::tunnel),
        proxy_protocol: policy.proxy_protocol.as_ref().map(settings::proxy),
        retry_budget: policy.retry_budget.as_ref().map(settings::budget),
        origin: None,
        adaptive,
        refused: false,
    }
}
