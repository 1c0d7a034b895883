//! Pure: whom an object is exported to (`exportTo`).
//! Never: where it is looked for.

/// Who sees an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// Its own namespace, as it says.
    Privately,
    /// Namespaces that it names.
    ByName,
    /// All.
    Publicly,
}

/// How an object of `home` is seen from `namespace`; `None` when it is not.
pub(super) fn seen(export_to: &[String], home: &str, namespace: &str) -> Option<Seen> {
    if export_to.is_empty() || export_to.iter().any(|entry| entry == "*") {
        return Some(Seen::Publicly);
    }
    let named = |entry: &String| match entry.as_str() {
        "." => home == namespace,
        entry => entry == namespace,
    };
    if !export_to.iter().any(named) {
        return None;
    }
    Some(if home == namespace { Seen::Privately } else { Seen::ByName })
}

/// Whether only its own namespace sees an object.
pub(super) fn is_private(export_to: &[String], home: &str) -> bool {
    !export_to.is_empty() && export_to.iter().all(|entry| entry == "." || entry == home)
}
