//! Tables of the configuration that belong to sources, or to the program. This module can't import sources, which are on a higher floor. So their
//! definitions are passed in, and their values are found by type. Knows no source.

use std::{any::Any, fmt::Debug, sync::Arc};

use super::{definition::Definition, errors::ConfigError, raw::Raw, reader::Reader, settings::Settings, table::Table};

/// The table of one source: its definition and its reader. The source runs if the file has the table.
#[derive(Debug, Clone, Copy)]
pub struct SourceTable {
    pub(super) definition: &'static Definition,
    read: fn(&mut Reader<'_>) -> Arc<dyn AnyTable>,
}

impl SourceTable {
    /// The table that `T` defines.
    pub(crate) const fn of<T: Table + Debug + Eq + Send + Sync + 'static>() -> Self {
        Self { definition: T::DEFINITION, read: |reader| Arc::new(T::read(reader)) }
    }

    /// A table that a program adds, whose values are [`Settings`].
    pub(crate) const fn of_settings(definition: &'static Definition) -> Self {
        Self { definition, read: |reader| Arc::new(Settings::read(reader)) }
    }
}

/// The values of any source's table.
trait AnyTable: Any + Debug + Send + Sync {
    fn equals(&self, other: &dyn Any) -> bool;
}

impl<T: Debug + Eq + Send + Sync + 'static> AnyTable for T {
    fn equals(&self, other: &dyn Any) -> bool {
        other.downcast_ref() == Some(self)
    }
}

/// The tables of the sources that are configured, by type.
#[derive(Debug, Clone, Default)]
pub struct SourceTables(Vec<Arc<dyn AnyTable>>);

impl SourceTables {
    /// Reads the tables of `known` that the file or a flag has. Adds their errors to `errors`.
    pub(super) fn read(known: &[SourceTable], raw: &Raw, errors: &mut Vec<ConfigError>) -> Self {
        let given = known.iter().filter(|table| raw.table(table.definition.name).is_some());
        Self(given.map(|table| (table.read)(&mut Reader::new(table.definition, raw, errors))).collect())
    }

    /// The table of type `T`; `None` if that source is not configured.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.iter().find_map(|table| {
            let table: &dyn Any = &**table;
            table.downcast_ref()
        })
    }

    /// The values of the table `name` that the program has added; `None` if the file does not have it.
    #[must_use]
    pub fn settings(&self, name: &str) -> Option<&Settings> {
        let all = self.0.iter().filter_map(|table| {
            let table: &dyn Any = &**table;
            table.downcast_ref::<Settings>()
        });
        all.into_iter().find(|settings| settings.table == name)
    }

    /// Adds a table, or replaces the one of the same type.
    pub fn set<T: Debug + Eq + Send + Sync + 'static>(&mut self, table: T) {
        self.0.retain(|known| {
            let known: &dyn Any = &**known;
            !known.is::<T>()
        });
        self.0.push(Arc::new(table));
    }
}

impl PartialEq for SourceTables {
    /// Whether both have the same tables with the same values, in any order.
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().all(|one| other.0.iter().any(|other| one.equals(&**other)))
    }
}

impl Eq for SourceTables {}
