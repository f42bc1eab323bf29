//! Asks Redis about streams, by the client library, and reads few entries. It decides nothing.

use redis::{Cmd, RedisError, RedisResult, Value, aio::MultiplexedConnection};

use super::{
    stream::{Info, Stream},
    values,
};
use crate::{cursor::EntryId, source::redis::broken};

/// Most entries that are read together with what Redis says of their stream.
const ENTRIES: usize = 100;
/// Entries of a page in the search for one that was delivered.
const SEARCH_ENTRIES: usize = 256;

/// What Redis says of a stream; `None`: there is no such stream.
pub(super) async fn info(commands: &mut MultiplexedConnection, key: &str) -> RedisResult<Option<Info>> {
    let answer: RedisResult<Value> = info_command(key).query_async(commands).await;
    info_of(answer)
}

fn info_command(key: &str) -> Cmd {
    let mut command = redis::cmd("XINFO");
    command.arg("STREAM").arg(key);
    command
}

fn info_of(answer: RedisResult<Value>) -> RedisResult<Option<Info>> {
    match answer {
        Ok(value) => {
            values::info(&value).map(Some).ok_or_else(|| broken("Redis sent what is no answer to XINFO STREAM"))
        }
        Err(error) if error.to_string().contains("no such key") => Ok(None),
        Err(error) => Err(error),
    }
}

/// What Redis says of a stream, and its entries after `last`, both of the same moment.
pub(super) async fn info_and_entries(
    commands: &mut MultiplexedConnection,
    key: &str,
    last: EntryId,
) -> RedisResult<(Option<Info>, Value)> {
    let mut read = redis::cmd("XREAD");
    read.arg("COUNT").arg(ENTRIES).arg("STREAMS").arg(key).arg(last.to_string());
    let mut both = redis::pipe();
    both.atomic().ignore_errors().add_command(info_command(key)).add_command(read);
    let answers: Vec<RedisResult<Value>> = both.query_async(commands).await?;
    let [info, entries] = <[_; 2]>::try_from(answers).map_err(|_| broken("Redis sent no answer to EXEC"))?;
    Ok((info_of(info)?, entries?))
}

/// The newest of the remembered entries that the stream still has.
pub(super) async fn search(
    commands: &mut MultiplexedConnection,
    key: &str,
    stream: &Stream,
) -> RedisResult<Option<EntryId>> {
    let remembered = stream.remembered();
    let (Some(oldest), Some(&newest)) = (remembered.first(), remembered.last()) else { return Ok(None) };
    let mut to = newest;
    loop {
        let mut page = redis::cmd("XREVRANGE");
        page.arg(key).arg(to.to_string()).arg(oldest.to_string()).arg("COUNT").arg(SEARCH_ENTRIES);
        let page: Value = page.query_async(commands).await?;
        let mut entries = 0;
        for entry in values::entries(&page) {
            if remembered.contains(&entry.id) {
                return Ok(Some(entry.id));
            }
            entries += 1;
            to = entry.id.before();
        }
        if entries < SEARCH_ENTRIES {
            return Ok(None);
        }
    }
}

/// The error in an answer that the library has not read.
pub(super) fn server_error(text: &str) -> RedisError {
    match redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
        Ok(Value::ServerError(error)) => error.into(),
        _ => broken(text),
    }
}

/// The error with the key that it is about.
pub(super) fn of_key(key: &str, error: RedisError) -> RedisError {
    match error.code() {
        Some("WRONGTYPE") => {
            broken(format!("the key {key} holds no stream: remove or rename it, or set redis.journal to another key"))
        }
        _ => error,
    }
}
