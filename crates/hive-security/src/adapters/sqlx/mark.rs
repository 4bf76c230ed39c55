//! Each session carries the number of its login, so that nobody need ask the server whose it is.
//!
//! A connection of sqlx has no room for a note of ours, but it remembers the statements that were prepared on it, with the
//! types of their parameters. One statement is prepared for nothing else: those types are the bits of the generation.

use sqlx::postgres::{PgConnection, PgTypeInfo};
use sqlx::{Either, Executor, Postgres, SqlSafeStr, Statement, Type};

/// A mark, or that of a generation 2¹⁶ later or earlier: by then this one's sessions are long gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u16);

const STATEMENT: &str =
    "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16";

impl Mark {
    pub(super) fn of(generation: u64) -> Self {
        Self((generation & u64::from(u16::MAX)) as u16)
    }

    /// Marks a session: one round trip, once.
    pub(super) async fn put(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let types = (0..u16::BITS).map(|bit| if self.0 >> bit & 1 == 1 { one() } else { zero() });
        let types: Vec<_> = types.collect();
        connection.prepare_with(STATEMENT.into_sql_str(), &types).await.map(drop)
    }

    /// The mark of a session, of which the server hears nothing. If its user had it forget its statements, or prepared so
    /// many others that this one was dropped, there is none, and asking costs a round trip.
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Option<Self>, sqlx::Error> {
        let statement = connection.prepare_with(STATEMENT.into_sql_str(), &[]).await?;
        let Some(Either::Left(types)) = statement.parameters() else { return Ok(None) };
        let bits: Option<Vec<u16>> = types.iter().map(bit).collect();
        Ok(bits.map(|bits| Self(bits.iter().rev().fold(0, |mark, bit| mark << 1 | bit))))
    }
}

fn bit(of: &PgTypeInfo) -> Option<u16> {
    if *of == zero() {
        Some(0)
    } else if *of == one() {
        Some(1)
    } else {
        None
    }
}

fn zero() -> PgTypeInfo {
    <i32 as Type<Postgres>>::type_info()
}

fn one() -> PgTypeInfo {
    <i64 as Type<Postgres>>::type_info()
}
