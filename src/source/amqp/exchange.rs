//! The exchange that applications publish to: makes it if it does not exist, and uses it as it is if it does.

use lapin::{
    Channel, Connection,
    options::ExchangeDeclareOptions,
    types::{FieldTable, ShortString},
};

use super::{
    config::{AmqpConfig, ExchangeType},
    error::Failure,
};

/// The exchange of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) name: ShortString,
    pub(super) kind: ExchangeType,
    /// Whether it is made durable.
    durable: bool,
}

impl Exchange {
    pub(super) fn new(config: &AmqpConfig) -> Self {
        let name = config.exchange.as_str().into();
        Self { name, kind: config.exchange_type, durable: config.exchange_durable }
    }

    /// Makes the exchange, if it does not exist. Returns whether it survives a restart of the server, as far as that is known.
    ///
    /// # Errors
    /// It does not exist and can't be made, or the connection is lost.
    pub(super) async fn declare(&self, connection: &Connection) -> Result<bool, Failure> {
        let mut why = None;
        // An error closes the channel, so that each try needs one of its own.
        for durable in [self.durable, !self.durable] {
            let channel = connection.create_channel().await?;
            let options = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
            match self.declare_on(&channel, options).await {
                Ok(()) => return Ok(durable),
                Err(error) if error.is_different() => {}
                Err(error) if error.is_forbidden() => {
                    why = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let channel = connection.create_channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        match self.declare_on(&channel, options).await {
            Ok(()) if why.is_none() => {
                tracing::warn!(
                    exchange = self.name.as_str(),
                    "the exchange exists with another type than amqp.exchange_type: it is used as it is; set the key to its type"
                );
                Ok(false)
            }
            Ok(()) => Ok(false),
            Err(error) => Err(why.unwrap_or(error)),
        }
    }

    async fn declare_on(&self, channel: &Channel, options: ExchangeDeclareOptions) -> Result<(), Failure> {
        let declared = channel.exchange_declare(self.name.clone(), self.kind.kind(), options, FieldTable::default());
        Ok(declared.await?)
    }
}
