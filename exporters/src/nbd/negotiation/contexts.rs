//! Metadata contexts: which ones an export has, and which ones a query means ("Metadata querying").

use std::sync::Arc;

use super::{
    super::export::{ChangedBlocks, Export},
    options::ChosenContexts,
};

/// Where the answers of a context come from.
#[derive(Clone)]
pub(in super::super) enum Source {
    /// The extents of the device.
    Allocation,
    /// Its changed blocks.
    Changed(Arc<dyn ChangedBlocks>),
}

/// A context of an export.
#[derive(Clone)]
pub(in super::super) struct Context {
    /// Its number in block status replies, from 1 on.
    pub(in super::super) id: u32,
    pub(super) name: String,
    pub(in super::super) source: Source,
}

/// All contexts of an export.
fn all(export: &Export) -> Vec<Context> {
    let mut found = vec![("base:allocation".to_owned(), Source::Allocation)];
    for (name, blocks) in &export.changed {
        found.push((format!("qemu:dirty-bitmap:{name}"), Source::Changed(blocks.clone())));
    }
    if let Some((_, blocks)) = export.changed.first() {
        found.push(("x-revenant:changed".to_owned(), Source::Changed(blocks.clone())));
    }
    (1..).zip(found).map(|(id, (name, source))| Context { id, name, source }).collect()
}

/// What `LIST_META_CONTEXT` finds: everything without a query; a query that ends with a colon means all that begin so.
pub(super) fn list(export: &Export, chosen: &ChosenContexts<'_>) -> Vec<Context> {
    let matches = |context: &Context, query: &str| {
        context.name == query || (query.ends_with(':') && context.name.starts_with(query))
    };
    let wanted =
        |context: &Context| chosen.queries.is_empty() || chosen.queries.iter().any(|query| matches(context, query));
    all(export).into_iter().filter(wanted).collect()
}

/// What `SET_META_CONTEXT` finds: exactly what was named. Unknown names are passed over.
pub(super) fn set(export: &Export, chosen: &ChosenContexts<'_>) -> Vec<Context> {
    all(export).into_iter().filter(|context| chosen.queries.contains(&context.name.as_str())).collect()
}
