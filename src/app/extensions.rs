//! What a program adds to ssecast's own: sources, an authorizer, tables of the configuration file. It starts none of them.

use std::{error::Error, sync::Arc};

use anyhow::anyhow;

use crate::{
    access::{Anyone, Authorizer},
    config::{Config, Definition, SourceTable},
    source::{self, Source},
};

/// Any error of a program's own.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Makes a source; `None` if the configuration does not turn it on.
type MakeSource = dyn Fn(&Config) -> Result<Option<Box<dyn Source>>, BoxError> + Send + Sync;
/// Makes the authorizer.
type MakeAuthorizer = dyn Fn(&Config) -> Result<Arc<dyn Authorizer>, BoxError> + Send + Sync;

/// What a program adds. The default adds nothing.
#[derive(Default)]
pub struct Extensions {
    tables: Vec<SourceTable>,
    sources: Vec<Box<MakeSource>>,
    authorizer: Option<Box<MakeAuthorizer>>,
}

impl Extensions {
    /// Adds a table of the configuration file.
    pub fn add_table(&mut self, table: &'static Definition) {
        self.tables.push(SourceTable::of_settings(table));
    }

    /// Adds a source, after those that were added before.
    pub fn add_source(
        &mut self,
        make: impl Fn(&Config) -> Result<Option<Box<dyn Source>>, BoxError> + Send + Sync + 'static,
    ) {
        self.sources.push(Box::new(make));
    }

    /// Sets the authorizer.
    pub fn set_authorizer(
        &mut self,
        make: impl Fn(&Config) -> Result<Arc<dyn Authorizer>, BoxError> + Send + Sync + 'static,
    ) {
        self.authorizer = Some(Box::new(make));
    }

    /// The tables that the configuration file may have beside those of every daemon: those of ssecast's sources, then those that
    /// were added.
    #[must_use]
    pub fn tables(&self) -> Vec<SourceTable> {
        [source::TABLES, &self.tables].concat()
    }

    /// The sources that the configuration turns on: ssecast's, then those that were added. None of them is started.
    ///
    /// # Errors
    /// A source can't be made of its settings.
    pub fn sources(&self, config: &Config) -> anyhow::Result<Vec<Box<dyn Source>>> {
        let mut sources = source::configured(config)?;
        for make in &self.sources {
            sources.extend(make(config).map_err(|error| anyhow!(error))?);
        }
        check_sources(&sources)?;
        Ok(sources)
    }

    /// The authorizer: that of the program, or else one that allows everything.
    ///
    /// # Errors
    /// It can't be made of its settings.
    pub fn authorizer(&self, config: &Config) -> anyhow::Result<Arc<dyn Authorizer>> {
        match &self.authorizer {
            Some(make) => make(config).map_err(|error| anyhow!(error)),
            None => Ok(Arc::new(Anyone)),
        }
    }
}

/// Checks what all sources together have to keep to.
fn check_sources(sources: &[Box<dyn Source>]) -> anyhow::Result<()> {
    let specs: Vec<_> = sources.iter().map(|source| source.spec()).collect();
    for (number, spec) in specs.iter().enumerate() {
        if specs[..number].iter().any(|before| before.id == spec.id) {
            return Err(anyhow!("two sources have the name {:?}: give each its own", spec.id));
        }
    }
    Ok(())
}
