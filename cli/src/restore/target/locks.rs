//! Room for locks. Everything that one transaction drops and makes is locked until its end, each object by an entry of a
//! table whose size is fixed when the server starts (Postgres' documentation, `max_locks_per_transaction`).

use tokio_postgres::Client;

/// What there is room for, and what a table needs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Locks {
    /// `max_locks_per_transaction`
    pub per_transaction: u64,
    /// Transactions that there is room for at once.
    pub transactions: u64,
    /// User tables of the database.
    pub tables: u64,
    /// Those, with their indexes, and their TOAST tables with theirs.
    pub relations: u64,
    /// Large objects of the database.
    pub large_objects: u64,
}

impl Locks {
    /// Locks on all objects that there is room for. Postgres sizes its memory a tenth larger, and shares what is left over.
    pub fn capacity(&self) -> u64 {
        self.per_transaction * self.transactions
    }

    /// Locks that dropping so many of the tables and making them again takes at least: each relation twice, and the two
    /// types of each table that is dropped. Constraints, defaults and more come on top.
    pub fn needed(&self, tables: u64) -> u64 {
        let relations = self.relations * tables / self.tables.max(1);
        2 * relations + 2 * tables
    }

    /// `max_locks_per_transaction` that these need.
    pub fn setting_for(&self, needed: u64) -> u64 {
        // Half as much again, for what is not counted and for others.
        (needed + needed / 2).div_ceil(self.transactions.max(1)).next_power_of_two()
    }

    /// Asks the connected database.
    pub async fn read(client: &Client) -> Result<Self, tokio_postgres::Error> {
        // What Postgres adds up for `MaxBackends`, and prepared transactions.
        let query = "
            WITH tables AS (SELECT c.oid, c.reltoastrelid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_')
            SELECT current_setting('max_locks_per_transaction')::int8,
                   (SELECT sum(setting::int8) + 1 FROM pg_settings WHERE name IN ('max_connections', 'max_prepared_transactions',
                       'autovacuum_max_workers', 'autovacuum_worker_slots', 'max_worker_processes', 'max_wal_senders'))::int8,
                   (SELECT count(*) FROM tables),
                   (SELECT count(*) + 2 * count(nullif(reltoastrelid, 0)) FROM tables)
                     + (SELECT count(*) FROM pg_index x JOIN tables t ON t.oid = x.indrelid),
                   (SELECT count(*) FROM pg_largeobject_metadata)";
        let row = client.query_one(query, &[]).await?;
        let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
        Ok(Self {
            per_transaction: number(0),
            transactions: number(1),
            tables: number(2),
            relations: number(3),
            large_objects: number(4),
        })
    }
}
