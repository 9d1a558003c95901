//! One set of statements for both databases. Statements are written in what PostgreSQL and SQLite have
//! in common: `$1`, `$2` … in the order of their first appearance, numbers, texts and bytes.

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;

use crate::store::StoreError;

/// A value of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Whole(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// A row of an answer.
pub type Row = Vec<Cell>;

/// What works on a transaction.
#[async_trait]
pub trait Hand: Send {
    /// Rows of a statement.
    async fn run(&mut self, sql: &str, with: &[Cell]) -> Result<Vec<Row>, StoreError>;

    /// Changes of users wait for each other from here on, so that what was looked at stays so.
    async fn alone(&mut self) -> Result<(), StoreError>;
}

/// A future that may borrow.
pub type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Work to be done in one transaction. It waits for nothing but the hand.
pub type Work = Box<dyn for<'hand> FnOnce(&'hand mut dyn Hand) -> Running<'hand, ()> + Send>;

/// A database that lends a hand.
#[async_trait]
pub trait Hands: Send + Sync + 'static {
    /// Has work done in one transaction; on error none of it happened. `writes` tells that it may change
    /// something.
    async fn transact(&self, writes: bool, work: Work) -> Result<(), StoreError>;
}

impl Cell {
    /// The number; 0 where there is none.
    pub(super) fn whole(&self) -> i64 {
        self.maybe().unwrap_or_default()
    }

    /// The number, if there is one.
    pub(super) fn maybe(&self) -> Option<i64> {
        if let Self::Whole(number) = self { Some(*number) } else { None }
    }

    /// The text; an empty one where there is none.
    pub(super) fn text(&self) -> String {
        if let Self::Text(text) = self { text.clone() } else { String::new() }
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Whole(number)
    }
}

impl From<Option<i64>> for Cell {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Self::Null, Self::Whole)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        // PostgreSQL holds no NUL.
        Self::Text(crate::store::sieve::text(text).into_owned())
    }
}

impl From<&[u8; 32]> for Cell {
    fn from(bytes: &[u8; 32]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}
