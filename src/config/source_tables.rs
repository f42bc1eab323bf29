//! Tables that belong to sources. Sources are above this module, so their definitions are given to the parser, and what was read of
//! them is found by its type.

use std::{any::Any, fmt::Debug, sync::Arc};

use super::{definition::Definition, errors::ConfigError, raw::Raw, reader::Reader, table::Table};

/// The table of one source: its definition, and how it is read. The table turns the source on.
#[derive(Debug)]
pub struct SourceTable {
    pub(super) definition: &'static Definition,
    read: fn(&mut Reader<'_>) -> Arc<dyn AnyTable>,
}

impl SourceTable {
    /// The table that `T` defines.
    pub(crate) const fn of<T: Table + Debug + Eq + Send + Sync + 'static>() -> Self {
        Self { definition: T::DEFINITION, read: |reader| Arc::new(T::read(reader)) }
    }
}

/// A table of any source.
trait AnyTable: Any + Debug + Send + Sync {
    fn equals(&self, other: &dyn Any) -> bool;
}

impl<T: Debug + Eq + Send + Sync + 'static> AnyTable for T {
    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// The tables of the sources that are turned on, by type.
#[derive(Debug, Clone, Default)]
pub struct SourceTables(Vec<Arc<dyn AnyTable>>);

impl SourceTables {
    /// Reads those of `known` that were given. What is wrong is put into `errors`.
    pub(super) fn read(known: &[SourceTable], raw: &Raw, errors: &mut Vec<ConfigError>) -> Self {
        let given = known.iter().filter(|table| raw.table(table.definition.name).is_some());
        Self(given.map(|table| (table.read)(&mut Reader::new(table.definition, raw, errors))).collect())
    }

    /// Whether no source is turned on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The table of type `T`; `None` if it was not given.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.iter().find_map(|table| {
            let table: &dyn Any = &**table;
            table.downcast_ref()
        })
    }

    /// Adds a table, or puts it in the place of the one of its type.
    pub fn set<T: Debug + Eq + Send + Sync + 'static>(&mut self, table: T) {
        self.0.retain(|known| {
            let known: &dyn Any = &**known;
            !known.is::<T>()
        });
        self.0.push(Arc::new(table));
    }
}

impl PartialEq for SourceTables {
    /// Whether both have the same tables with the same values, in whatever order.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().all(|one| other.0.iter().any(|other| one.equals(&**other)))
    }
}

impl Eq for SourceTables {}
