//! Questions to shards, and the sums of their answers. They change nothing.

use std::{collections::BTreeMap, iter, sync::Arc};

use tokio::sync::oneshot;

use super::{
    dispatcher::Dispatcher,
    outlet::{Delivery, ShardQuery},
    receipt::Receipt,
};
use crate::name::ChannelName;

impl Dispatcher {
    /// How many clients each of `names` has, over all shards.
    pub async fn subscribers(&self, names: Vec<ChannelName>) -> Vec<u32> {
        let (receipt, counted) = Receipt::new(names.len(), self.outlets.len());
        let names: Arc<[ChannelName]> = names.into();
        for outlet in &self.outlets {
            let (names, receipt) = (Arc::clone(&names), Arc::clone(&receipt));
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::Subscribers { names, receipt })));
        }
        // A shard that ends before it answers counts as one without clients.
        let _ = counted.await;
        (0..names.len()).map(|index| receipt.clients(index)).collect()
    }

    /// How many clients each channel has that has any, over all shards; by name.
    pub async fn all_subscribers(&self) -> BTreeMap<ChannelName, u32> {
        let mut all = BTreeMap::new();
        for outlet in &self.outlets {
            let (answer, answered) = oneshot::channel();
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::Channels(answer))));
            for (name, count) in answered.await.unwrap_or_default() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    }

    /// Resolves when the shard has taken all that was pushed to it so far.
    #[must_use]
    pub fn passed(&self, shard: usize) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        // Locked, so that no event has been pushed to another shard and not yet to this one.
        let _state = self.lock();
        if let Some(outlet) = self.outlets.get(shard) {
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::Passed(answer))));
        }
        answered
    }

    /// How many channels have clients, over all shards.
    pub async fn channel_count(&self) -> usize {
        let mut all = Vec::new();
        for outlet in &self.outlets {
            let (answer, answered) = oneshot::channel();
            outlet.push(&mut iter::once(Delivery::Query(ShardQuery::ChannelHashes(answer))));
            all.append(&mut answered.await.unwrap_or_default());
        }
        all.sort_unstable();
        all.dedup();
        all.len()
    }
}
