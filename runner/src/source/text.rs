//! Text from a catalogue, in the database's own encoding. Bytes that are not UTF-8 become U+FFFD, as they do where the
//! archive is read, so that names here and there stay the same.

use std::error::Error;

use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

/// A text, read leniently.
pub(super) struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::TEXT | Type::NAME | Type::VARCHAR)
    }
}

/// Columns of a row.
pub(super) trait Columns {
    /// A text that is not null.
    fn text(&self, column: usize) -> Result<String, tokio_postgres::Error>;
    /// A text.
    fn text_or_null(&self, column: usize) -> Result<Option<String>, tokio_postgres::Error>;
    /// An array of texts that are not null.
    fn texts_or_null(&self, column: usize) -> Result<Option<Vec<String>>, tokio_postgres::Error>;
}

impl Columns for Row {
    fn text(&self, column: usize) -> Result<String, tokio_postgres::Error> {
        Ok(self.try_get::<_, Text>(column)?.0)
    }

    fn text_or_null(&self, column: usize) -> Result<Option<String>, tokio_postgres::Error> {
        Ok(self.try_get::<_, Option<Text>>(column)?.map(|text| text.0))
    }

    fn texts_or_null(&self, column: usize) -> Result<Option<Vec<String>>, tokio_postgres::Error> {
        let texts = self.try_get::<_, Option<Vec<Text>>>(column)?;
        Ok(texts.map(|texts| texts.into_iter().map(|text| text.0).collect()))
    }
}
