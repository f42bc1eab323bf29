//! Reads the streams over all connections: connects, catches up, waits for new entries, and again. `stream` finds losses; here they
//! are reported.
//!
//! Invariant: everything that was read is published before the next answer is parsed, with a checkpoint that says just that.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, RedisError, RedisResult, aio::MultiplexedConnection};
use tokio::time::sleep;

use super::{
    RedisJournal, ask,
    ask::{of_key, server_error},
    assemble::Assembler,
    batch::{Batch, Gather, Ignore, Tally},
    checkpoint,
    link::Link,
    parser::Reply,
    stream::{Finding, Stream},
    tail::{self, Begin},
    values,
};
use crate::{
    broker::Checkpoint,
    cursor::EntryId,
    log_rate::LogRate,
    source::{
        self, Sink,
        backoff::Backoff,
        redis::{Connection, broken, explain, login_refused, owner},
    },
};

/// How long Redis waits for a new entry before it answers that there is none.
const BLOCK: Duration = Duration::from_millis(500);
/// How often streams are checked where nothing comes.
const CHECK: Duration = Duration::from_secs(2);
/// Bytes of entries in one answer, and the bounds of their number in one stream.
const ANSWER_BYTES: usize = 512 << 10;
const ANSWER_ENTRIES: (usize, usize) = (16, 2000);
/// With more bytes than this, entries are published before their answer has come to its end.
const GATHERED_BYTES: usize = 4 << 20;
/// A connection that is lost sooner than this counts as a failure: the next try waits longer.
const STEADY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Reader {
    source: RedisJournal,
    sink: Sink,
    resume: Option<Checkpoint>,
    /// In the order of the keys; empty until it is known where to begin.
    streams: Vec<Stream>,
    /// The streams of the XREAD that was sent last.
    asked: Vec<usize>,
    assembler: Assembler,
    batch: Batch,
    /// Number of entries of one stream to ask for.
    count: usize,
}

/// The connections to a server.
struct Connected {
    /// For XREAD alone.
    link: Link,
    /// For everything else.
    control: Connection,
}

impl Reader {
    pub(super) fn new(source: RedisJournal, sink: Sink, resume: Option<Checkpoint>) -> Self {
        let assembler = Assembler::new(source.keys.len());
        Self {
            source,
            sink,
            resume,
            streams: Vec::new(),
            asked: Vec::new(),
            assembler,
            batch: Batch::default(),
            count: ANSWER_ENTRIES.0,
        }
    }

    /// Runs until the process ends.
    pub(super) async fn run(mut self) {
        let mut retry = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut tries = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.connect().await {
                Ok(mut connected) => match self.begin(&mut connected).await {
                    Ok(()) => {
                        if tries > 0 {
                            tracing::info!(
                                "Redis journal reconnected; reading goes on after the last entry that was read"
                            );
                        }
                        tries = 0;
                        self.serve(&mut connected).await
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if began.elapsed() >= STEADY {
                retry.reset();
            }
            let why = explain(&error);
            if login_refused(&error).is_some() {
                self.sink.login_refused(&why);
            } else {
                self.sink.disconnected(&why);
            }
            if error.code() == Some("WRONGTYPE") {
                // The answer does not say which key it is. XINFO is asked for each.
                self.streams.iter_mut().for_each(Stream::doubt);
            }
            tries += 1;
            // At each power of two: the first failure at once, and few lines for a long time without Redis.
            if tries.is_power_of_two() {
                static RATE: LogRate = LogRate::new();
                if tries > 1 || RATE.count().is_some() {
                    tracing::warn!(
                        error = why,
                        tries,
                        "Redis journal disconnected: events come late; on reconnect reading goes on after the last entry"
                    );
                }
            }
            sleep(retry.next()).await;
        }
    }

    async fn connect(&self) -> RedisResult<Connected> {
        let server = &self.source.server;
        let address = owner(server, &self.source.keys).await?;
        let control = server.open(&address, &AsyncConnectionConfig::new(), |stream| stream).await?;
        let link = Link::open(server, &address, self.source.longest).await?;
        Ok(Connected { link, control })
    }

    /// Reads what there is, and reports that the source is connected.
    async fn begin(&mut self, connected: &mut Connected) -> RedisResult<()> {
        let at = self.sink.now();
        if self.streams.is_empty() {
            self.find_streams(&mut connected.control.commands).await?;
        }
        self.read_on(connected).await?;
        self.sink.reconnected(at, []);
        Ok(())
    }

    /// Finds where to begin in each stream: at the checkpoint, or at the stream's tail.
    async fn find_streams(&mut self, commands: &mut MultiplexedConnection) -> RedisResult<()> {
        let (mut streams, mut began) = (Vec::new(), Vec::new());
        let resume = self.resume.take();
        for (journal, key) in (0_u8..).zip(&self.source.keys) {
            if let Some((last, added)) = resume.as_ref().and_then(|checkpoint| checkpoint::of(checkpoint, key)) {
                streams.push(Stream::after(last, added));
                continue;
            }
            let found = tail::find(commands, key, self.source.tail).await.map_err(|error| of_key(key, error));
            let begin = match found {
                Ok(begin) => begin,
                Err(error) => {
                    self.resume = resume;
                    return Err(error);
                }
            };
            streams.push(match begin.added {
                Some(added) => Stream::after(begin.since, Some(added)),
                None => Stream::anew_after(begin.since),
            });
            began.push((journal, begin));
        }
        self.streams = streams;
        for (journal, Begin { since, until, .. }) in began {
            self.sink.journal_began(journal, since, until);
        }
        self.sink.publish(source::Batch { messages: [], checkpoint: Some(self.checkpoint()) });
        Ok(())
    }

    /// Waits for entries and reads them, until the connection is lost; returns the reason.
    async fn serve(&mut self, connected: &mut Connected) -> RedisError {
        let mut checked = Instant::now();
        loop {
            let asked = Instant::now();
            match self.wait(&mut connected.link).await {
                Ok(ControlFlow::Continue(())) if checked.elapsed() < CHECK => {}
                Ok(_) => {
                    if let Err(error) = self.read_on(connected).await {
                        return error;
                    }
                    checked = Instant::now();
                    continue;
                }
                Err(error) => return error,
            }
            for (journal, stream) in (0_u8..).zip(&self.streams) {
                self.sink.journal_reached(journal, stream.last(), asked);
            }
        }
    }

    /// Waits until a stream has an entry that was not read (`Break`), for [`BLOCK`] at most.
    async fn wait(&mut self, link: &mut Link) -> RedisResult<ControlFlow<()>> {
        let mut command = redis::cmd("XREAD");
        let block = BLOCK.as_millis().to_string();
        command.arg("COUNT").arg(1).arg("BLOCK").arg(block).arg("STREAMS").arg(&self.source.keys);
        for stream in &self.streams {
            command.arg(stream.last().to_string());
        }
        link.send(&command).await?;
        loop {
            // What it says is read again, with the entry before it, which shows whether any was lost.
            match link.read(BLOCK, &mut Ignore).await? {
                None => {}
                Some(Reply::Entries) => return Ok(ControlFlow::Break(())),
                Some(Reply::Empty) => return Ok(ControlFlow::Continue(())),
                Some(Reply::Error(text)) => return Err(server_error(&text)),
            }
        }
    }

    /// Reads and publishes all that there is.
    async fn read_on(&mut self, connected: &mut Connected) -> RedisResult<()> {
        loop {
            for journal in 0..self.streams.len() {
                if self.streams[journal].begin_read().is_none() {
                    self.read_carefully(journal, &mut connected.control.commands).await?;
                }
            }
            if self.read_held(&mut connected.link).await?.is_continue() {
                return Ok(());
            }
        }
    }

    /// Reads the streams whose last delivered entry is there. `Break`: one of them must be judged.
    async fn read_held(&mut self, link: &mut Link) -> RedisResult<ControlFlow<()>> {
        let mut is_asked = self.ask(link).await?;
        while is_asked {
            let tally = self.receive(link).await;
            let mut is_broken = false;
            if let Ok(tally) = &tally {
                for &journal in &self.asked {
                    is_broken |= self.streams[journal].end_read();
                }
                let is_full = tally.most >= self.count;
                if let Some(bytes) = tally.bytes.checked_div(tally.all) {
                    self.count = (ANSWER_BYTES / bytes.max(1)).clamp(ANSWER_ENTRIES.0, ANSWER_ENTRIES.1);
                }
                // Redis makes the next answer while this one is published.
                is_asked = is_full && !is_broken && self.ask(link).await?;
            }
            self.publish();
            tally?;
            if is_broken {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sends XREAD for the streams whose last delivered entry is there. False if there is no such stream.
    async fn ask(&mut self, link: &mut Link) -> RedisResult<bool> {
        let begun =
            self.streams.iter_mut().enumerate().filter_map(|(journal, stream)| Some((journal, stream.begin_read()?)));
        let (journals, ids): (Vec<usize>, Vec<EntryId>) = begun.unzip();
        self.asked = journals;
        if self.asked.is_empty() {
            return Ok(false);
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(self.count).arg("STREAMS");
        for &journal in &self.asked {
            command.arg(&self.source.keys[journal]);
        }
        for id in ids {
            command.arg(id.to_string());
        }
        link.send(&command).await?;
        Ok(true)
    }

    /// Receives an answer into the batch.
    async fn receive(&mut self, link: &mut Link) -> RedisResult<Tally> {
        let mut tally = Tally::default();
        loop {
            let Self { source, streams, assembler, batch, .. } = self;
            let mut gather = Gather::new(&source.keys, streams, assembler, batch, &mut tally);
            match link.read(Duration::ZERO, &mut gather).await? {
                Some(Reply::Error(text)) => return Err(server_error(&text)),
                Some(Reply::Entries | Reply::Empty) => return Ok(tally),
                None if self.batch.bytes > GATHERED_BYTES => self.publish(),
                None => {}
            }
        }
    }

    /// Reads a stream together with what Redis says of it, judges that, and publishes what follows.
    async fn read_carefully(&mut self, journal: usize, commands: &mut MultiplexedConnection) -> RedisResult<()> {
        let key = self.source.keys[journal].clone();
        // Where the search finds nothing, the stream is read from its beginning in the second round.
        for _ in 0..2 {
            let stream = &mut self.streams[journal];
            let (info, entries) =
                ask::info_and_entries(commands, &key, stream.last()).await.map_err(|error| of_key(&key, error))?;
            let before = stream.last();
            let finding = stream.judge(info);
            match finding {
                Finding::Intact => {}
                Finding::Trimmed => {
                    let first = values::entries_of_one_stream(&entries).next().map(|entry| entry.id);
                    let end = first.map_or_else(|| info.unwrap_or_default().generated, EntryId::before);
                    self.report(journal, finding, end.max(before));
                }
                Finding::Deleted => {
                    self.report(journal, finding, EntryId::ZERO);
                    return Ok(());
                }
                Finding::Replaced | Finding::Returned => {
                    let common = ask::search(commands, &key, &self.streams[journal]).await?;
                    self.streams[journal].resume_after(common);
                    if finding == Finding::Replaced {
                        self.report(journal, finding, common.unwrap_or_default());
                    }
                    if common.is_some() {
                        return Ok(());
                    }
                    continue;
                }
            }
            for entry in values::entries_of_one_stream(&entries) {
                for (name, value) in entry.fields() {
                    let fits = value.len() <= self.source.longest;
                    self.assembler.field(name, if fits { Ok(value) } else { Err(value.len()) });
                }
                let message = self.assembler.end(u8::try_from(journal).unwrap_or_default(), entry.id);
                if self.streams[journal].deliver(entry.id) {
                    self.batch.push(message);
                }
            }
            self.publish();
            return Ok(());
        }
        Err(broken(format!("the stream {key} changes while it is read")))
    }

    /// Reports that entries were lost, and that those after `end` follow.
    fn report(&self, journal: usize, finding: Finding, end: EntryId) {
        static RATE: LogRate = LogRate::new();
        if let Some(count) = RATE.count() {
            tracing::warn!(
                stream = self.source.keys[journal],
                why = %finding,
                count,
                "events of the Redis journal may have been lost: clients get a gap event"
            );
        }
        self.sink.journal_lost(u8::try_from(journal).unwrap_or_default(), end);
    }

    /// Publishes the batch.
    fn publish(&mut self) {
        let Batch { mut messages, refused, bytes: _ } = std::mem::take(&mut self.batch);
        if messages.is_empty() && refused.is_empty() {
            return;
        }
        let mut published = 0;
        for (before, error) in refused {
            self.sink.drop_invalid(&error);
            if let Some(channel) = error.channel() {
                let rest = messages.split_off(before - published);
                published = before;
                self.sink.publish(source::Batch::of(std::mem::replace(&mut messages, rest)));
                self.sink.lost(channel);
            }
        }
        self.sink.publish(source::Batch { messages, checkpoint: Some(self.checkpoint()) });
    }

    fn checkpoint(&self) -> Checkpoint {
        let keys = self.source.keys.iter().map(String::as_str);
        let streams = keys.zip(&self.streams);
        checkpoint::encode(streams.map(|(key, stream)| (key, stream.last(), stream.added())))
    }
}
