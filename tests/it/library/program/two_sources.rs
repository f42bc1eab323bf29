//! ssecast with two sources that do whatever their servers say. Each connects to a Unix socket, where a test is the server.
//!
//! Lines to the server: `subscribe NAME`, `unsubscribe NAME`. From it: `confirmed NAME`, `refused NAME`, `message NAME TEXT`.

use std::{collections::HashMap, io, process::ExitCode, time::Duration};

use ssecast::{
    App, Batch, BoxError, ChannelName, Checkpoint, Config, Generation, Interest, Interests, Key, Message, Running,
    Sink, Source, Spec, Table,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::sleep,
};

static LEFT: Table = Table::new("left", &[Key::new("socket", "\"\"", "Its server.")]);
static RIGHT: Table = Table::new("right", &[Key::new("socket", "\"\"", "Its server.")]);

fn main() -> ExitCode {
    let app = App::new().table(&LEFT).table(&RIGHT);
    app.source(|config| puppet("left", config)).source(|config| puppet("right", config)).run()
}

fn puppet(id: &'static str, config: &Config) -> Result<Option<Box<dyn Source>>, BoxError> {
    let Some(settings) = config.settings(id) else { return Ok(None) };
    Ok(Some(Box::new(Puppet { id, socket: settings.text("socket")?.to_owned(), wanted: HashMap::new() })))
}

struct Puppet {
    id: &'static str,
    socket: String,
    wanted: HashMap<ChannelName, Generation>,
}

impl Source for Puppet {
    fn spec(&self) -> Spec {
        Spec::fanout(self.id)
    }

    fn origin(&self) -> String {
        self.socket.clone()
    }

    fn run(mut self: Box<Self>, sink: Sink, mut interests: Interests, _: Option<Checkpoint>) -> Running {
        Box::pin(async move {
            loop {
                let Err(error) = self.serve(&sink, &mut interests).await;
                sink.disconnected(&error.to_string());
                sleep(Duration::from_millis(10)).await;
            }
        })
    }
}

impl Puppet {
    async fn serve(&mut self, sink: &Sink, interests: &mut Interests) -> io::Result<std::convert::Infallible> {
        let at = sink.now();
        let (reader, mut writer) = UnixStream::connect(&self.socket).await?.into_split();
        let mut lines = BufReader::new(reader).lines();
        while let Some(interest) = interests.try_next() {
            self.note(interest);
        }
        for name in self.wanted.keys() {
            writer.write_all(format!("subscribe {name}\n").as_bytes()).await?;
        }
        sink.reconnected(at, []);
        loop {
            tokio::select! {
                interest = interests.next() => {
                    let Some(interest) = interest else { return Err(io::ErrorKind::BrokenPipe.into()) };
                    let line = self.note(interest);
                    writer.write_all(line.as_bytes()).await?;
                }
                line = lines.next_line() => match line? {
                    Some(line) => self.take(&line, sink),
                    None => return Err(io::ErrorKind::ConnectionReset.into()),
                },
            }
        }
    }

    /// Notes a request. Returns its line.
    fn note(&mut self, interest: Interest) -> String {
        match interest {
            Interest::Subscribe(name, generation) => {
                let line = format!("subscribe {name}\n");
                self.wanted.insert(name, generation);
                line
            }
            Interest::Unsubscribe(name) => {
                self.wanted.remove(&name);
                format!("unsubscribe {name}\n")
            }
            _ => String::new(),
        }
    }

    fn take(&mut self, line: &str, sink: &Sink) {
        let mut words = line.splitn(3, ' ');
        let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Ok(name) = ChannelName::new(name) else { return sink.drop_invalid(&line) };
        match (verb, self.wanted.get(&name).copied()) {
            ("confirmed", Some(generation)) => sink.confirmed([(&name, generation)]),
            ("refused", Some(generation)) => {
                self.wanted.remove(&name);
                sink.refused(&name, generation, "its server refuses it");
            }
            ("message", _) => {
                let text = words.next().unwrap_or_default().to_owned();
                sink.publish(Batch::of([Message::new(name, None, text.into())]));
            }
            _ => {}
        }
    }
}
