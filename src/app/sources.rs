//! The sources that the configuration turns on: makes them, describes them for an upgrade, starts them. It handles no messages.

use std::{io, sync::Arc, thread};

use tokio::sync::{mpsc, oneshot, watch};

use super::exit_guard::ExitGuards;
use crate::{
    broker::{ByDurability, Checkpoint, Delivers, Dispatcher, Interest, Publisher, SourceId, Spec},
    metrics::Metrics,
    snapshot::SourceState,
    source::{Interests, Node, Sink, Source},
};

/// A source that has not been started.
struct Waiting {
    source: Box<dyn Source>,
    interest: Interests,
}

/// What is known of one source.
struct Entry {
    spec: Spec,
    origin: String,
    address: String,
    waiting: Option<Waiting>,
    /// Sends a started durable source its checkpoint. The source begins when it arrives.
    resume: Option<oneshot::Sender<Option<Checkpoint>>>,
    publisher: Option<Arc<dyn Publisher>>,
}

/// The sources, in the order of their numbers.
pub(super) struct Sources(Vec<Entry>);

/// How the dispatcher asks each source for channels.
type InterestSenders = Vec<(Spec, mpsc::UnboundedSender<Interest>)>;

impl Sources {
    /// Takes the sources. Returns them, and what the dispatcher needs to use them.
    pub(super) fn new(sources: Vec<Box<dyn Source>>) -> (Self, InterestSenders) {
        let (mut entries, mut asked) = (Vec::new(), Vec::new());
        for source in sources {
            let (sender, interest) = Interests::channel();
            let spec = source.spec();
            asked.push((spec, sender));
            let (origin, address) = (source.origin(), source.address());
            let waiting = Some(Waiting { source, interest });
            entries.push(Entry { spec, origin, address, waiting, resume: None, publisher: None });
        }
        (Self(entries), asked)
    }

    /// Whether there are no sources.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the sources' publish routes.
    pub(super) fn make_publishers(&mut self, dispatcher: &Arc<Dispatcher>) {
        let node = Node::new(Arc::clone(dispatcher));
        for entry in &mut self.0 {
            entry.publisher = entry.waiting.as_ref().and_then(|waiting| waiting.source.publisher(&node));
        }
    }

    /// The route of publishes on the admin socket: that of the first source that has one. If that is a journal, what is not to be
    /// kept takes the route of the first source without journals.
    pub(super) fn publisher(&self) -> Option<Arc<dyn Publisher>> {
        let route = |entry: &Entry| Some((entry.spec.journals > 0, entry.publisher.clone()?));
        let (keeps, first) = self.0.iter().find_map(route)?;
        let passing = self.0.iter().filter_map(route).find(|(keeps, _)| !keeps);
        match passing.filter(|_| keeps) {
            Some((_, passing)) => Some(Arc::new(ByDurability { durable: first, passing })),
            None => Some(first),
        }
    }

    /// The routes of the sources that deliver by fan-out, each with the source's name; `None` if it has no route.
    pub(super) fn fanout_publishers(&self) -> impl Iterator<Item = (&'static str, Option<Arc<dyn Publisher>>)> {
        let fanout = self.0.iter().filter(|entry| entry.spec.delivers == Delivers::Fanout);
        fanout.map(|entry| (entry.spec.id, entry.publisher.clone()))
    }

    /// Names and servers, for the log; `None` if there are no sources.
    pub(super) fn addresses(&self) -> Option<String> {
        let addresses: Vec<String> =
            self.0.iter().map(|entry| format!("{}={}", entry.spec.id, entry.address)).collect();
        (!addresses.is_empty()).then(|| addresses.join(" "))
    }

    /// What a successor needs to know of each source.
    pub(super) fn states(&self, dispatcher: &Dispatcher) -> Vec<SourceState> {
        let state = |(id, entry): (SourceId, &Entry)| SourceState {
            id: entry.spec.id.to_owned(),
            origin: entry.origin.clone(),
            checkpoint: dispatcher.checkpoint(id).map(|Checkpoint(bytes)| bytes),
        };
        self.0.iter().enumerate().map(state).collect()
    }

    /// Compares the sources with the predecessor's. Returns the checkpoints of the durable sources, and whether every source
    /// continues exactly where the predecessor's source stops.
    pub(super) fn compare(&self, before: &[SourceState]) -> (Vec<(SourceId, Checkpoint)>, bool) {
        let (mut checkpoints, mut all) = (Vec::new(), before.len() == self.0.len());
        for (id, entry) in self.0.iter().enumerate() {
            let same = before.iter().find(|state| state.id == entry.spec.id && state.origin == entry.origin);
            all &= match (entry.spec.delivers, same) {
                (_, None) => false,
                (Delivers::Fanout, Some(_)) => true,
                (Delivers::Durable, Some(state)) => {
                    checkpoints.extend(state.checkpoint.clone().map(|bytes| (id, Checkpoint(bytes))));
                    // A source of journals that has read nothing yet begins anew, and reports itself what is unknown.
                    state.checkpoint.is_some() || entry.spec.journals > 0
                }
            };
        }
        (checkpoints, all)
    }

    /// Starts each source on a thread of its own, where it may block while the shards are busy. Durable sources begin at
    /// [`Sources::resume`]; the others begin at once.
    pub(super) fn start(
        &mut self,
        dispatcher: &Arc<Dispatcher>,
        metrics: &Arc<Metrics>,
        running: &watch::Sender<()>,
        guards: &ExitGuards,
    ) -> io::Result<()> {
        for (number, entry) in self.0.iter_mut().enumerate() {
            let Some(Waiting { source, interest }) = entry.waiting.take() else { continue };
            let sink = Sink::new(number, Arc::clone(dispatcher), Arc::clone(metrics));
            let mut running = running.subscribe();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let name = format!("source-{}", entry.spec.id);
            let mut guard = guards.guard(&name);
            let (resume, resumed) = oneshot::channel();
            thread::Builder::new().name(name).spawn(move || {
                let run = async {
                    if let Ok(checkpoint) = resumed.await {
                        source.run(sink, interest, checkpoint).await;
                    }
                };
                runtime.block_on(async {
                    tokio::select! {
                        () = run => guard.note(&"it returned, and a source must run until the process ends"),
                        _ = running.changed() => guard.disarm(),
                    }
                });
            })?;
            match entry.spec.delivers {
                Delivers::Fanout => drop(resume.send(None)),
                Delivers::Durable => entry.resume = Some(resume),
            }
        }
        Ok(())
    }

    /// Begins the durable sources, each at its checkpoint if it has one. It can't fail.
    pub(super) fn resume(&mut self, checkpoints: &[(SourceId, Checkpoint)]) {
        for (number, entry) in self.0.iter_mut().enumerate() {
            let checkpoint = checkpoints.iter().find(|(source, _)| *source == number);
            if let Some(resume) = entry.resume.take() {
                // An error means that the thread has ended; its guard has reported the reason.
                let _ = resume.send(checkpoint.map(|(_, checkpoint)| checkpoint.clone()));
            }
        }
    }
}
