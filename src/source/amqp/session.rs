//! One run of the source over all its connections: connects, finds or makes the queue, binds, consumes, and again. `window` decides
//! what is new and what may be acknowledged.
//!
//! Invariants:
//! - A message is acknowledged only once the shards have it. During an upgrade the predecessor acknowledges nothing that is not in
//!   the snapshot, since the successor gets that from the queue.
//! - The last message is acknowledged only after a checkpoint that says so.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_core::Stream as _;
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    Amqp,
    error::Failure,
    link::Link,
    message::{self, Decoder, Invalid},
    queue::{self, Binder, Found, Refusal},
    window::{Saved, Verdict, Window},
};
use crate::{
    broker::{Checkpoint, Generation, Interest},
    event::Message,
    log_rate::LogRate,
    name::ChannelName,
    source::{Batch, Interests, Sink, backoff::Backoff},
};

/// Messages that the server sends before the first of them is acknowledged.
const PREFETCH: u16 = 2_000;
/// Most messages that are published together.
const MOST_TOGETHER: usize = 1_000;
/// So many messages are acknowledged at once; fewer at the next tick.
const ACKNOWLEDGE: usize = 256;
/// Channels that are bound before the server is asked for an answer.
const CHANNELS_A_ROUND: usize = 1_000;
/// How often the server is asked whether it is there. As often as Redis is: see `redis_pubsub/liveness.rs`.
const TICK: Duration = Duration::from_millis(500);
/// Longest wait for an answer of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the answers to many bindings.
const BIND_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that is lost sooner than this counts as a failure: the next try waits longer.
const STEADY: Duration = Duration::from_secs(5);
/// So often in a row may the server send what can't be read, before the queue is given up.
const UNREADABLE: u32 = 3;

/// How far the run has read, for a successor.
#[derive(Serialize, Deserialize)]
struct State {
    queue: String,
    persistent: Option<bool>,
    window: Saved,
}

/// See the module.
pub(super) struct Session {
    source: Amqp,
    sink: Sink,
    interest: Interests,
    /// Channels to bind, with the subscription that asked for each.
    wanted: HashMap<ChannelName, Generation>,
    /// Channels that the queue is bound for, as far as this process knows.
    bound: HashSet<ChannelName>,
    /// The queue of this run, once it is made.
    queue: Option<String>,
    window: Window,
    /// Whether all messages of this run were persistent; `None` before the first one.
    persistent: Option<bool>,
    decoder: Decoder,
    /// Messages that wait for the window's verdict.
    held: VecDeque<Result<Message, Invalid>>,
    /// When the last message came.
    last_message: Instant,
    /// How often in a row the server has sent what can't be read.
    unreadable: u32,
    /// Whether the server was restarted, and that is not reported yet.
    restarted: bool,
}

/// A connection that delivers.
struct Connected {
    link: Link,
    binder: Binder,
    channel: Channel,
    /// For questions, which the server may refuse by closing it.
    asking: Channel,
    consumer: Consumer,
}

/// A question to the server. Its answer proves that it has had the acknowledgements before.
struct Question {
    answer: Pin<Box<dyn Future<Output = Result<bool, Failure>> + Send>>,
    /// The last acknowledgement before it.
    acknowledged: u64,
    /// When it was asked, by [`Sink::now`].
    asked: u64,
    since: Instant,
}

impl Session {
    pub(super) fn new(source: Amqp, sink: Sink, interest: Interests, resume: Option<Checkpoint>) -> Self {
        let resumed = resume.and_then(|Checkpoint(bytes)| match postcard::from_bytes::<State>(&bytes) {
            Ok(state) => Some(state),
            Err(_) => {
                tracing::warn!(
                    "the AMQP queue of the process before is not known: a new one is made; clients get a gap event"
                );
                None
            }
        });
        let (queue, persistent, window) = match resumed {
            Some(State { queue, persistent, window }) => (Some(queue), persistent, Window::restore(window)),
            None => (None, None, Window::new()),
        };
        let decoder = Decoder::new(source.longest);
        Self {
            source,
            sink,
            interest,
            wanted: HashMap::new(),
            bound: HashSet::new(),
            queue,
            window,
            persistent,
            decoder,
            held: VecDeque::new(),
            last_message: Instant::now(),
            unreadable: 0,
            restarted: false,
        }
    }

    /// Runs until the dispatcher has ended.
    pub(super) async fn run(mut self) {
        let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut unsteady = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut tries = 0_u32;
        loop {
            let mut wait = None;
            let error = match self.connect().await {
                Ok((mut connected, found)) => {
                    if tries > 0 {
                        report_reconnected(found);
                    }
                    tries = 0;
                    let began = Instant::now();
                    let error = self.serve(&mut connected).await;
                    if began.elapsed() >= STEADY {
                        retry.reset();
                        unsteady.reset();
                    } else {
                        wait = Some(unsteady.next());
                    }
                    error
                }
                Err(error) => error,
            };
            self.held.clear();
            if self.interest.is_closed() {
                return;
            }
            self.unreadable = if error.is_unreadable() { self.unreadable + 1 } else { 0 };
            let why = error.to_string();
            if error.is_login_refused() {
                self.sink.login_refused(&why);
            } else {
                self.sink.disconnected(&why);
            }
            tries += 1;
            // At each power of two: the first failure at once, and few lines for a long time without the server.
            if tries.is_power_of_two() {
                static RATE: LogRate = LogRate::new();
                if tries > 1 || RATE.count().is_some() {
                    tracing::warn!(
                        error = why,
                        tries,
                        "AMQP disconnected: messages wait in the queue; on reconnect reading goes on there"
                    );
                }
            }
            let note_interest = async {
                while let Some(interest) = self.interest.next().await {
                    note(&mut self.wanted, interest);
                }
            };
            // It ends early if the dispatcher has ended.
            let _ = timeout(wait.unwrap_or_else(|| retry.next()), note_interest).await;
        }
    }

    /// Connects, finds the queue or makes one, binds it, and begins to consume.
    async fn connect(&mut self) -> Result<(Connected, Found), Failure> {
        let link = self.source.server.connect("ssecast").await?;
        let prepared = timeout(BIND_TIMEOUT, self.prepare(&link)).await;
        let no_answer = || Failure::Broken(format!("the server gave no answer in {BIND_TIMEOUT:?}"));
        let (binder, channel, asking, consumer, found) = prepared.map_err(|_| no_answer())??;
        Ok((Connected { link, binder, channel, asking, consumer }, found))
    }

    async fn prepare(&mut self, link: &Link) -> Result<(Binder, Channel, Channel, Consumer, Found), Failure> {
        let connection = &link.connection;
        let durable = self.source.exchange.declare(connection).await?;
        let (name, found) = self.find_queue(connection).await?;
        self.window.begin(found == Found::Restarted);
        let mut binder = Binder::new(connection, &name, self.source.exchange.clone()).await?;
        while let Some(interest) = self.interest.try_next() {
            note(&mut self.wanted, interest);
        }
        let asked = self.sink.now();
        // Bindings to an exchange that is not durable are lost at a restart.
        if found != Found::Kept {
            self.bound.clear();
        }
        let names: Vec<ChannelName> = self.wanted.keys().filter(|name| !self.bound.contains(*name)).cloned().collect();
        let refused = self.bind(&mut binder, connection, &names).await?;
        let ended: Vec<ChannelName> = self.bound.extract_if(|name| !self.wanted.contains_key(name)).collect();
        binder.unbind(&self.unneeded(ended)).await?;

        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (queue, tag) = (ShortString::from(name.as_str()), ShortString::default());
        let consumer = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default()).await?;
        let asking = connection.create_channel().await?;

        self.queue = Some(name);
        self.publish_checkpoint(true);
        let subscriptions = self.wanted.iter().map(|(name, &generation)| (name, generation));
        match found {
            Found::Kept => self.sink.continued(asked, subscriptions),
            Found::Restarted if durable && self.persistent == Some(true) => self.sink.continued(asked, subscriptions),
            Found::Restarted | Found::Lost => self.sink.reconnected(asked, subscriptions),
        }
        self.restarted = false;
        self.refuse(refused);
        Ok((binder, channel, asking, consumer, found))
    }

    async fn find_queue(&mut self, connection: &lapin::Connection) -> Result<(String, Found), Failure> {
        if let Some(name) = &self.queue {
            if self.unreadable >= UNREADABLE {
                tracing::error!(
                    queue = name.as_str(),
                    "AMQP: a message in the queue has properties that are not UTF-8, and can't be read: the queue is deleted; \
                     clients get a gap event; correct the application that published it"
                );
                queue::delete(connection, name).await?;
                self.unreadable = 0;
            }
            let found = queue::find(connection, name).await?;
            // The mark is there again at the next try, if this one fails.
            self.restarted |= found == Found::Restarted;
            match found {
                Found::Lost => {}
                _ if self.restarted => return Ok((name.clone(), Found::Restarted)),
                _ => return Ok((name.clone(), found)),
            }
        }
        (self.window, self.persistent, self.restarted) = (Window::new(), None, false);
        Ok((queue::make(connection, self.source.expiry).await?, Found::Lost))
    }

    /// Delivers, binds as it is asked, and acknowledges, until the connection is lost; returns the reason.
    async fn serve(&mut self, connected: &mut Connected) -> Failure {
        let mut question: Option<Question> = None;
        let mut deliveries = Vec::new();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                interest = self.interest.next() => match interest {
                    Some(interest) => self.meet(connected, interest).await,
                    None => return Failure::Broken("ssecast is stopping".to_owned()),
                },
                result = arrived(&mut connected.consumer, &mut deliveries) => {
                    let delivered = self.deliver(connected, &mut deliveries, &mut question).await;
                    result.and(delivered)
                }
                answer = answered(&mut question) => self.confirm(connected, &mut question, answer).await,
                _ = ticks.tick() => self.tick(connected, &mut question),
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    fn tick(&mut self, connected: &mut Connected, question: &mut Option<Question>) -> Result<(), Failure> {
        let quiet = self.last_message.elapsed() >= TICK;
        if quiet && !self.window.holds_nothing() {
            let verdicts = self.window.settle();
            self.publish(verdicts, &mut Vec::new());
        }
        if quiet && !self.window.is_empty() {
            // The successor has to know that the server may have had the last acknowledgement.
            self.publish_checkpoint(false);
        }
        self.acknowledge(&connected.channel, quiet);
        match question {
            Some(question) if question.since.elapsed() > ANSWER_TIMEOUT => {
                Err(Failure::Broken(format!("the server gave no answer in {ANSWER_TIMEOUT:?}")))
            }
            Some(_) => Ok(()),
            None => {
                *question = Some(self.ask(connected, true));
                Ok(())
            }
        }
    }

    /// Asks the server for an answer. `fully`: also whether the queue is empty.
    fn ask(&self, connected: &Connected, fully: bool) -> Question {
        let (channel, asking) = (connected.channel.clone(), connected.asking.clone());
        let queue = ShortString::from(self.queue.as_deref().unwrap_or_default());
        let answer = async move {
            let mut is_empty = false;
            if fully {
                let passive = QueueDeclareOptions::default().passive();
                is_empty = asking.queue_declare(queue, passive, FieldTable::default()).await?.message_count() == 0;
            }
            // A method that does nothing here, but that the server answers behind all that this channel has to deliver.
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            Ok(is_empty)
        };
        let acknowledged = self.window.acknowledged();
        Question { answer: Box::pin(answer), acknowledged, asked: self.sink.now(), since: Instant::now() }
    }

    async fn confirm(
        &mut self,
        connected: &mut Connected,
        question: &mut Option<Question>,
        answer: Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let Some(Question { acknowledged, asked, .. }) = question.take() else { return Ok(()) };
        let is_empty = answer?;
        let was_empty = self.window.is_empty();
        self.window.confirm(acknowledged);
        if self.window.is_empty() && !was_empty {
            self.publish_checkpoint(true);
        }
        if is_empty {
            // What the queue had before the question has been delivered before the answer.
            let mut deliveries = Vec::new();
            let result = drain(&mut connected.consumer, &mut deliveries).await;
            self.deliver(connected, &mut deliveries, question).await?;
            result?;
            if self.window.holds_nothing() {
                self.sink.watermark(asked);
            }
        }
        Ok(())
    }

    /// Publishes what has come.
    async fn deliver(
        &mut self,
        connected: &mut Connected,
        deliveries: &mut Vec<Delivery>,
        question: &mut Option<Question>,
    ) -> Result<(), Failure> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.last_message = Instant::now();
        let mut messages = Vec::with_capacity(deliveries.len());
        for delivery in deliveries.drain(..) {
            let persistent = message::is_persistent(&delivery);
            self.persistent = Some(self.persistent.unwrap_or(true) && persistent);
            let (print, redelivered) = (message::print(&delivery), delivery.redelivered);
            let message = self.decoder.decode(delivery);
            if self.window.is_settled() {
                self.window.add(print);
                self.admit(message, &mut messages);
            } else {
                self.held.push_back(message);
                let verdicts = self.window.take(print, redelivered);
                self.publish_verdicts(verdicts, &mut messages);
            }
        }
        let strays = self.send(&mut messages);
        if self.last_message.elapsed() > TICK
            && let Some(question) = question
        {
            question.since = Instant::now(); // The shards were busy, and the server's answer could not be read.
        }
        if self.window.unacknowledged() >= ACKNOWLEDGE {
            self.acknowledge(&connected.channel, false);
            if question.is_none() {
                *question = Some(self.ask(connected, false));
            }
        }
        // Bindings that were left by the process before, or whose end has not come to the server yet.
        if !strays.is_empty() {
            connected.binder.unbind(&strays).await?;
        }
        Ok(())
    }

    /// Publishes the messages of verdicts at once.
    fn publish(&mut self, verdicts: Vec<Verdict>, messages: &mut Vec<Message>) {
        self.publish_verdicts(verdicts, messages);
        self.send(messages);
    }

    fn publish_verdicts(&mut self, verdicts: Vec<Verdict>, messages: &mut Vec<Message>) {
        for verdict in verdicts {
            let Some(message) = self.held.pop_front() else { return };
            match verdict {
                Verdict::New => self.admit(message, messages),
                Verdict::Again => {}
                Verdict::Doubtful => {
                    let channel = message.as_ref().map_or_else(Invalid::channel, |message| Some(&message.channel));
                    if let Some(channel) = channel {
                        self.lose(&channel.clone(), messages);
                    }
                }
            }
        }
    }

    fn admit(&mut self, message: Result<Message, Invalid>, messages: &mut Vec<Message>) {
        match message {
            Ok(message) => messages.push(message),
            Err(why) => {
                self.sink.drop_invalid(&why);
                if let Some(channel) = why.channel() {
                    self.lose(channel, messages);
                }
            }
        }
    }

    /// Reports a loss behind `messages`.
    fn lose(&mut self, channel: &ChannelName, messages: &mut Vec<Message>) {
        if !messages.is_empty() {
            self.sink.publish(Batch::of(messages.drain(..)));
        }
        self.sink.lost(channel);
    }

    /// Publishes messages with the checkpoint. Returns channels that nobody wants.
    fn send(&mut self, messages: &mut Vec<Message>) -> Vec<ChannelName> {
        let mut strays = Vec::new();
        let count = messages.len();
        let mut names: Vec<ChannelName> = Vec::new();
        for Message { channel, .. } in messages.iter() {
            if names.last() != Some(channel) {
                names.push(channel.clone());
            }
        }
        let batch = Batch::of(messages.drain(..)).with_checkpoint(self.checkpoint(true));
        // The key of a pattern gives more than the pattern.
        if self.sink.publish(batch).dropped > 0 && count > 0 && !self.bound.iter().any(ChannelName::is_pattern) {
            strays.extend(names.into_iter().filter(|name| !self.wanted.contains_key(name)));
            strays.sort();
            strays.dedup();
        }
        strays
    }

    fn publish_checkpoint(&self, holds_last: bool) {
        self.sink.publish(Batch::of([]).with_checkpoint(self.checkpoint(holds_last)));
    }

    fn checkpoint(&self, holds_last: bool) -> Checkpoint {
        let state = State {
            queue: self.queue.clone().unwrap_or_default(),
            persistent: self.persistent,
            window: self.window.save(holds_last),
        };
        Checkpoint(postcard::to_stdvec(&state).unwrap_or_default().into())
    }

    /// Acknowledges what the shards have. `last`: also the last message, if the checkpoint says so.
    fn acknowledge(&mut self, channel: &Channel, last: bool) {
        let forwarded = self.sink.forwarded();
        let state = forwarded.and_then(|Checkpoint(bytes)| postcard::from_bytes::<State>(&bytes).ok());
        let Some(State { window: saved, .. }) = state.filter(|state| Some(&state.queue) == self.queue.as_ref()) else {
            return;
        };
        let last = last && !saved.holds_last && saved.taken == self.window.taken();
        if let Some(tag) = self.window.acknowledge(saved.taken, last) {
            // The library takes it at the first poll. That it was sent is seen at the next answer.
            let mut sending = pin!(channel.basic_ack(tag, BasicAckOptions { multiple: true }));
            let _ = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Does what `first` asks for and what is queued behind it, in order, with as many channels at once as fit.
    async fn meet(&mut self, connected: &mut Connected, first: Interest) -> Result<(), Failure> {
        let meeting = timeout(BIND_TIMEOUT, self.meet_all(connected, first)).await;
        meeting.unwrap_or_else(|_| Err(Failure::Broken(format!("the server gave no answer in {BIND_TIMEOUT:?}"))))
    }

    async fn meet_all(&mut self, connected: &mut Connected, first: Interest) -> Result<(), Failure> {
        let mut next = Some(first);
        while let Some(interest) = next.take() {
            let subscribes = matches!(interest, Interest::Subscribe(..));
            let mut names = HashSet::from([note(&mut self.wanted, interest)]);
            while names.len() < CHANNELS_A_ROUND {
                match self.interest.try_next() {
                    Some(interest) if matches!(interest, Interest::Subscribe(..)) == subscribes => {
                        names.insert(note(&mut self.wanted, interest));
                    }
                    other => {
                        next = other;
                        break;
                    }
                }
            }
            let names: Vec<ChannelName> = names.into_iter().collect();
            if subscribes {
                let refused = self.bind(&mut connected.binder, &connected.link.connection, &names).await?;
                // `bind` has removed the refused ones.
                self.sink.confirmed(names.iter().filter_map(|name| Some((name, *self.wanted.get(name)?))));
                self.refuse(refused);
            } else {
                for name in &names {
                    self.bound.remove(name);
                }
                connected.binder.unbind(&self.unneeded(names)).await?;
            }
        }
        Ok(())
    }

    /// Binds the queue for the channels. Returns those that the server refuses, and removes them from `wanted`.
    async fn bind(
        &mut self,
        binder: &mut Binder,
        connection: &lapin::Connection,
        names: &[ChannelName],
    ) -> Result<Vec<(Refusal, Generation)>, Failure> {
        let mut refused = Vec::new();
        for names in names.chunks(CHANNELS_A_ROUND) {
            let refusals = binder.bind(connection, names).await?;
            self.bound.extend(names.iter().cloned());
            for refusal in refusals {
                self.bound.remove(&refusal.0);
                if let Some(generation) = self.wanted.remove(&refusal.0) {
                    refused.push((refusal, generation));
                }
            }
        }
        Ok(refused)
    }

    /// Those of the names whose key no other channel or pattern needs.
    fn unneeded(&self, mut names: Vec<ChannelName>) -> Vec<ChannelName> {
        // Two names have one key only if it has a wildcard.
        let is_needed = |name: &ChannelName| {
            let key = queue::key(name);
            key.contains('#') && self.bound.iter().any(|bound| queue::key(bound) == key)
        };
        names.retain(|name| !is_needed(name));
        names
    }

    fn refuse(&self, refused: Vec<(Refusal, Generation)>) {
        static RATE: LogRate = LogRate::new();
        for ((name, reason), generation) in refused {
            if let Some(count) = RATE.count() {
                tracing::warn!(
                    channel = %name,
                    error = reason,
                    count,
                    "AMQP refuses channels: their clients are closed, and get 403 when they come back"
                );
            }
            self.sink.refused(&name, generation, &reason);
        }
    }
}

fn report_reconnected(found: Found) {
    match found {
        Found::Kept => tracing::info!("AMQP reconnected; nothing was lost"),
        Found::Restarted => tracing::info!(
            "AMQP reconnected to a server that was restarted; clients got a gap event unless all messages are persistent"
        ),
        Found::Lost => tracing::warn!("AMQP reconnected, but the queue was lost; clients got a gap event"),
    }
}

/// Waits for deliveries, and takes all that are there.
async fn arrived(consumer: &mut Consumer, deliveries: &mut Vec<Delivery>) -> Result<(), Failure> {
    poll_fn(|cx| {
        let taken = take(consumer, deliveries, cx);
        if deliveries.is_empty() || taken.is_ready() { taken } else { Poll::Ready(Ok(())) }
    })
    .await
}

/// Takes the deliveries that are there.
async fn drain(consumer: &mut Consumer, deliveries: &mut Vec<Delivery>) -> Result<(), Failure> {
    poll_fn(|cx| {
        loop {
            match take(consumer, deliveries, cx) {
                Poll::Pending => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                lost => return lost,
            }
        }
    })
    .await
}

/// Takes deliveries until there are none (`Pending`) or enough.
fn take(consumer: &mut Consumer, deliveries: &mut Vec<Delivery>, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
    loop {
        match Pin::new(&mut *consumer).poll_next(cx) {
            Poll::Ready(Some(Ok(delivery))) => deliveries.push(delivery),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
            Poll::Ready(None) => return Poll::Ready(Err(Failure::Broken("the queue was deleted".to_owned()))),
            Poll::Pending => return Poll::Pending,
        }
        if deliveries.len() >= MOST_TOGETHER {
            return Poll::Ready(Ok(()));
        }
    }
}

/// The answer to the question; never, if there is none.
async fn answered(question: &mut Option<Question>) -> Result<bool, Failure> {
    match question {
        Some(question) => question.answer.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Adds a channel to `wanted` or removes it; returns its name.
fn note(wanted: &mut HashMap<ChannelName, Generation>, interest: Interest) -> ChannelName {
    match interest {
        Interest::Subscribe(name, generation) => {
            wanted.insert(name.clone(), generation);
            name
        }
        Interest::Unsubscribe(name) => {
            wanted.remove(&name);
            name
        }
    }
}
