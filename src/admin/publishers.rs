//! The callers whose publishes are under way, so that an error can name them. It decides nothing.

use std::sync::Mutex;

use slab::Slab;

use super::guard::Caller;
use crate::lock::lock;

/// Most callers that an error names.
const MOST_NAMED: usize = 3;

/// The callers whose publishes are under way.
#[derive(Default)]
pub struct Publishers {
    /// Locked for an insertion or a removal, once each for a request.
    callers: Mutex<Slab<Caller>>,
}

/// A publish under way. It ends when this is dropped.
pub(super) struct UnderWay<'a> {
    publishers: &'a Publishers,
    key: usize,
}

impl Publishers {
    /// Begins a publish of `caller`.
    pub(super) fn begin(&self, caller: Caller) -> UnderWay<'_> {
        UnderWay { publishers: self, key: lock(&self.callers).insert(caller) }
    }

    /// Names the callers for people: the first three, and the number of the others.
    #[must_use]
    pub fn names(&self) -> String {
        let callers = lock(&self.callers);
        let mut names: Vec<String> = callers.iter().take(MOST_NAMED).map(|(_, caller)| caller.to_string()).collect();
        if callers.len() > names.len() {
            names.push(format!("{} more", callers.len() - names.len()));
        }
        names.join(", ")
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.publishers.callers).remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_are_named_until_their_publish_ends() {
        let publishers = Publishers::default();
        assert_eq!(publishers.names(), "");
        let mut under_way: Vec<_> = (0..5).map(|_| publishers.begin(Caller::Tcp)).collect();
        let name = Caller::Tcp.to_string();
        assert_eq!(publishers.names(), format!("{name}, {name}, {name}, 2 more"));
        under_way.truncate(1);
        assert_eq!(publishers.names(), name);
    }
}
