//! Events a second into ssecast from RabbitMQ, compared with a consumer made of the same client library that discards what it reads.

use std::{
    future::poll_fn,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    pin::Pin,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::Context;
use futures_core::Stream as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use ssecast_bench::procfs;
use tokio::runtime::Runtime;

use crate::{
    contenders::{Processes, start_daemon, wait_until},
    ingest::{read_events, subscribe},
    scenarios::{Options, median},
};

pub(crate) const EVENTS: usize = 200_000;
const PAYLOAD: usize = 128;
/// Messages that the publisher has unconfirmed at most. So the queue stays short, and the server is not slowed by it.
const UNCONFIRMED: usize = 1_000;
const PREFETCH: u16 = 2_000;
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const EXCHANGE: &str = "sse-cyclone-server";

/// Prints the row.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if !Path::new(PROGRAM).exists() {
        println!("\nIngest from AMQP: rabbitmq-server is not on this machine");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut broker = Processes::default();
    let url = start_broker(dir.path(), &mut broker)?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        eprintln!("Ingest from AMQP: round {}", round + 1);
        let tables = format!("[amqp]\nurl = {url:?}\n");
        let dir = tempfile::tempdir()?;
        let mut processes = Processes::default();
        let public = dir.path().join("public.sock");
        let (_, pid) = start_daemon(dir.path(), &public, &tables, &mut processes)?;
        let mut client = subscribe(&public)?;
        let cpu = || anyhow::Ok(procfs::sample(&[pid])?[0].cpu.as_secs_f64());
        let before = cpu()?;
        let own_rate = rate(&url, || read_events(&mut client, EVENTS))?;
        let used = cpu()? - before;
        drop((client, processes));
        let bare = Bare::connect(&url)?;
        let bare_rate = rate(&url, || bare.read(EVENTS))?;
        rounds.push((bare_rate, own_rate, used * 1e6 / EVENTS as f64));
    }
    println!("\nIngest from AMQP: {EVENTS} messages of {PAYLOAD} bytes, one client, medians of {}", rounds.len());
    let middle = |of: &dyn Fn(&(f64, f64, f64)) -> f64| median(rounds.iter().map(of));
    println!("bare consumer      {:>9.0} events/s", middle(&|round| round.0));
    let (own, ratio, cpu) = (middle(&|round| round.1), middle(&|round| round.1 / round.0), middle(&|round| round.2));
    println!("ssecast            {own:>9.0} events/s ({ratio:.2}), {cpu:.2} us of its CPU an event");
    Ok(())
}

fn start_broker(dir: &Path, processes: &mut Processes) -> anyhow::Result<String> {
    let free = || anyhow::Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
    let (port, distribution, mapper) = (free()?, free()?, free()?);
    let plugins = dir.join("plugins");
    std::fs::write(&plugins, "[].\n")?;
    let config = dir.join("rabbitmq.conf");
    std::fs::write(&config, format!("log.console = false\nlisteners.tcp.default = 127.0.0.1:{port}\n"))?;
    let mut epmd = Command::new("epmd");
    processes.start(epmd.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]).stdout(Stdio::null()))?;
    let mut server = Command::new(PROGRAM);
    server.env("HOME", dir).env("RABBITMQ_NODENAME", format!("bench{port}@localhost"));
    server.env("RABBITMQ_MNESIA_BASE", dir).env("RABBITMQ_LOG_BASE", dir).env("RABBITMQ_PID_FILE", dir.join("pid"));
    server.env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins).env("RABBITMQ_CONFIG_FILE", config);
    server.env("RABBITMQ_CONF_ENV_FILE", "/dev/null").env("RABBITMQ_DIST_PORT", distribution.to_string());
    server.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", mapper.to_string());
    // The shell script is replaced by the server, which so has the child's pid.
    server
        .env("RABBITMQ_ALLOW_INPUT", "true")
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-noinput +sbwt none -kernel inet_dist_use_interface {127,0,0,1}");
    processes.start(server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let url = format!("amqp://127.0.0.1:{port}");
    let answers = || {
        let connecting = async { Connection::connect(&url, ConnectionProperties::default()).await };
        runtime().is_ok_and(|runtime| {
            runtime.block_on(async {
                let limit = std::time::Duration::from_secs(2);
                tokio::time::timeout(limit, connecting).await.is_ok_and(|done| done.is_ok())
            })
        })
    };
    // It takes its time.
    wait_until("RabbitMQ answers", answers).or_else(|_| wait_until("RabbitMQ answers", answers))?;
    Ok(url)
}

/// Publishes all while `read` reads; events a second until it has.
fn rate(url: &str, read: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    thread::scope(|scope| {
        let start = Instant::now();
        let publishing = scope.spawn(|| publish(url));
        read()?;
        let wall = start.elapsed().as_secs_f64();
        publishing.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        Ok(EVENTS as f64 / wall)
    })
}

fn publish(url: &str) -> anyhow::Result<()> {
    let payload = "x".repeat(PAYLOAD);
    runtime()?.block_on(async {
        let (_connection, channel) = connect(url).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut unconfirmed = std::collections::VecDeque::new();
        for _ in 0..EVENTS {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            let taken =
                channel.basic_publish(EXCHANGE.into(), "bench".into(), options, payload.as_bytes(), properties).await?;
            unconfirmed.push_back(taken);
            if unconfirmed.len() > UNCONFIRMED
                && let Some(oldest) = unconfirmed.pop_front()
            {
                oldest.await?;
            }
        }
        for confirmation in unconfirmed {
            confirmation.await?;
        }
        Ok(())
    })
}

/// A consumer that discards what it reads.
struct Bare {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
    consumer: lapin::Consumer,
}

impl Bare {
    fn connect(url: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (connection, channel, consumer) = runtime.block_on(async {
            let (connection, channel) = connect(url).await?;
            let (name, none) = ("bare", FieldTable::default());
            channel.queue_declare(name.into(), QueueDeclareOptions::durable().auto_delete(), none.clone()).await?;
            let options = QueueBindOptions::default();
            channel.queue_bind(name.into(), EXCHANGE.into(), "bench".into(), options, none.clone()).await?;
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let consumer = channel.basic_consume(name.into(), "".into(), BasicConsumeOptions::default(), none).await?;
            anyhow::Ok((connection, channel, consumer))
        })?;
        Ok(Self { runtime, _connection: connection, channel, consumer })
    }

    fn read(mut self, events: usize) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            for count in 1..=events {
                let delivery = poll_fn(|cx| Pin::new(&mut self.consumer).poll_next(cx)).await;
                let delivery = delivery.context("the consumer was cancelled")??;
                if count % 256 == 0 {
                    self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            Ok(())
        })
    }
}

async fn connect(url: &str) -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
