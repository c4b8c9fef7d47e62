//! Protected databases. The connection string is sealed; the control plane never dials it: a `check`
//! job, done by a runner, says whether the database can be backed up.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walwarden_contract::{
    api::{CreateDatabaseRequest, Database, SourceCheck, UpdateDatabaseRequest},
    dsn::Dsn,
    errors::ErrorCode,
    ids::{BackupId, CheckId, DatabaseId, DestinationId, JobId, OrgId},
    secret::Secret,
    selection::Selection,
    states::CheckState,
    time,
    worker::CompressionSetting,
};
use walwarden_verifier::entry::Event;

use super::check_label;
use crate::{
    Domain,
    checks::CheckJob,
    error::{DomainError, Result},
    keyring::{Context, Sealed},
    log::Draft,
    once::{Once, Replay},
    organizations::Principal,
    schedule::Schedule,
    table::{Item, Record, Write, keys},
};

/// How long artifacts are locked where nothing else is asked for.
pub const DEFAULT_RETENTION_DAYS: u32 = 30;
/// Largest dump where nothing else is asked for.
pub const DEFAULT_MAX_BYTES: u64 = 4 << 40;
/// Longest dump where nothing else is asked for.
pub const DEFAULT_MAX_HOURS: u32 = 24;

/// A database as stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseRecord {
    /// Organization.
    pub org_id: OrgId,
    /// Id.
    pub id: DatabaseId,
    /// Label.
    pub name: String,
    /// Sealed connection string.
    pub sealed_dsn: Sealed,
    /// Where it is, without password.
    pub redacted_dsn: String,
    /// Database name in the connection string.
    pub source_name: Option<String>,
    /// Where backups go.
    pub destination_id: DestinationId,
    /// Five-field cron.
    pub schedule: Option<String>,
    /// Next tick.
    pub next_tick: Option<String>,
    /// Lock in days.
    pub retention_days: u32,
    /// Compression.
    pub compression: Option<CompressionSetting>,
    /// Limit on size.
    pub max_bytes: u64,
    /// Limit on time.
    pub max_hours: u32,
    /// Whether it is backed up without what the role cannot read.
    #[serde(default)]
    pub omit_unreadable: bool,
    /// What of it is backed up.
    #[serde(default)]
    pub selection: Selection,
    /// The newest source check.
    pub check_id: Option<CheckId>,
    /// Snapshot time of the newest completed backup.
    pub protected_until: Option<String>,
    /// The newest completed backup.
    pub last_completed_backup_id: Option<BackupId>,
    /// When it was added.
    pub created_at: String,
}

impl DatabaseRecord {
    /// The item, due for the local scheduler at its next tick.
    pub(crate) fn item(&self) -> Item {
        Item::new(self).due(keys::TICK_QUEUE, self.next_tick.as_deref())
    }

    /// Sets what is given, and names what changed.
    fn set(&mut self, settings: UpdateDatabaseRequest) -> Vec<String> {
        let mut changed = Vec::new();
        let mut note = |name: &str, differs: bool| {
            if differs {
                changed.push(name.to_owned());
            }
        };
        note("retentionDays", replace(&mut self.retention_days, settings.retention_days));
        note("compression", replace(&mut self.compression, settings.compression.map(Some)));
        note("maxBytes", replace(&mut self.max_bytes, settings.max_bytes));
        note("maxHours", replace(&mut self.max_hours, settings.max_hours));
        note("omitUnreadable", replace(&mut self.omit_unreadable, settings.omit_unreadable));
        note("selection", replace(&mut self.selection, settings.selection));
        changed
    }
}

impl Domain {
    /// Registers a database and queues its first source check.
    pub async fn create_database(
        &self,
        who: &Principal,
        request: CreateDatabaseRequest,
        once: &Once,
    ) -> Result<(Database, CheckId)> {
        if let Replay::Done(response) = once.replay(self).await? {
            return Ok(response);
        }
        check_label(&request.name)?;
        let dsn = parse_dsn(&request.dsn)?;
        let destination = self.destination(&who.org, &request.destination_id).await?;
        let settings = UpdateDatabaseRequest {
            retention_days: request.retention_days,
            compression: request.compression,
            max_bytes: request.max_bytes,
            max_hours: request.max_hours,
            omit_unreadable: request.omit_unreadable,
            selection: request.selection,
        };
        let settings = checked(settings)?;
        let id = DatabaseId::new(self.edge.now_ms() as u64, self.edge.random());
        let context = dsn_context(&who.org, &id);
        let check = CheckJob::new(self, &who.org, &id);
        let record = DatabaseRecord {
            org_id: who.org.clone(),
            id: id.clone(),
            name: request.name,
            sealed_dsn: self.keyring.encrypt(&context, request.dsn.expose().as_bytes()).await?,
            redacted_dsn: dsn.redacted(),
            source_name: dsn.dbname.clone().or(dsn.user.clone()),
            destination_id: destination.body.info.id,
            next_tick: self.next_tick(request.schedule.as_deref())?,
            schedule: request.schedule,
            retention_days: settings.retention_days.unwrap_or(DEFAULT_RETENTION_DAYS),
            compression: settings.compression,
            max_bytes: settings.max_bytes.unwrap_or(DEFAULT_MAX_BYTES),
            max_hours: settings.max_hours.unwrap_or(DEFAULT_MAX_HOURS),
            omit_unreadable: settings.omit_unreadable.unwrap_or_default(),
            selection: settings.selection.unwrap_or_default(),
            check_id: Some(check.id.clone()),
            protected_until: None,
            last_completed_backup_id: None,
            created_at: self.edge.now(),
        };
        let view = database_view(&record, Some(check.view()));
        let event =
            Event::DatabaseCreated { database_id: id.to_string(), destination_id: record.destination_id.to_string() };
        let mut writes = vec![
            Write::Create(keys::database(&who.org, &id), record.item()),
            once.write(&(&view, &check.id), id.as_str()),
        ];
        let check_id = check.id.clone();
        writes.extend(check.create_writes());
        let mut drafts = vec![Draft::standing(event, who.token.id.as_str())];
        if let Some(schedule) = &record.schedule {
            let event = Event::DatabaseScheduleChanged { database_id: id.to_string(), schedule: schedule.clone() };
            drafts.push(Draft::standing(event, who.token.id.as_str()));
        }
        match self.log.commit(&who.org, writes, drafts).await {
            Ok(()) => Ok((view, check_id)),
            Err(refused) => once.lost(self, refused).await,
        }
    }

    /// Queues another source check; while one is under way it is that one. What a check finds is an entry
    /// (`database.checked`); that it is asked for changes nothing yet.
    pub async fn recheck_database(&self, who: &Principal, id: &DatabaseId) -> Result<CheckId> {
        let mut record = self.database(&who.org, id).await?;
        if let Some(known) = &record.body.check_id
            && let Some(check) = self.check(&who.org, id, known).await?
            && !check_is_final(check.body.state)
        {
            return Ok(known.clone());
        }
        let check = CheckJob::new(self, &who.org, id);
        record.body.check_id = Some(check.id.clone());
        let check_id = check.id.clone();
        let mut writes = vec![Write::Replace(record.key, record.rev, record.body.item())];
        writes.extend(check.create_writes());
        self.table.transact(writes).await?;
        Ok(check_id)
    }

    /// A database.
    pub async fn database(&self, org: &OrgId, id: &DatabaseId) -> Result<Record<DatabaseRecord>> {
        self.table.get(&keys::database(org, id)).await?.ok_or_else(|| DomainError::not_found("database", id))
    }

    /// A database as the API shows it.
    pub async fn database_shown(&self, org: &OrgId, id: &DatabaseId) -> Result<Database> {
        let record = self.database(org, id).await?.body;
        let check = match &record.check_id {
            Some(check) => self.check(org, id, check).await?.map(|r| r.body.view()),
            None => None,
        };
        Ok(database_view(&record, check))
    }

    /// All databases, oldest first.
    pub async fn databases_shown(&self, who: &Principal) -> Result<Vec<Database>> {
        let found = self.table.query_all::<DatabaseRecord>(&keys::org_partition(&who.org), "DB#").await?;
        let mut shown = Vec::with_capacity(found.len());
        for record in found {
            if who.require_database(&record.body.id).is_ok() {
                shown.push(self.database_shown(&who.org, &record.body.id).await?);
            }
        }
        Ok(shown)
    }

    /// Sets or clears the schedule.
    pub async fn set_schedule(&self, who: &Principal, id: &DatabaseId, schedule: Option<String>) -> Result<Database> {
        let mut record = self.database(&who.org, id).await?;
        record.body.next_tick = self.next_tick(schedule.as_deref())?;
        record.body.schedule = schedule.clone();
        let event =
            Event::DatabaseScheduleChanged { database_id: id.to_string(), schedule: schedule.unwrap_or_default() };
        let write = Write::Replace(record.key, record.rev, record.body.item());
        self.log.commit(&who.org, vec![write], vec![Draft::standing(event, who.token.id.as_str())]).await?;
        self.database_shown(&who.org, id).await
    }

    /// Changes settings; they hold from the next attempt on. What is as it was asked for already changes nothing.
    pub async fn update_database(
        &self,
        who: &Principal,
        id: &DatabaseId,
        request: UpdateDatabaseRequest,
    ) -> Result<Database> {
        let request = checked(request)?;
        let mut record = self.database(&who.org, id).await?;
        let changed = record.body.set(request);
        if !changed.is_empty() {
            let event = Event::DatabaseUpdated { database_id: id.to_string(), changed };
            let write = Write::Replace(record.key, record.rev, record.body.item());
            self.log.commit(&who.org, vec![write], vec![Draft::standing(event, who.token.id.as_str())]).await?;
        }
        self.database_shown(&who.org, id).await
    }

    pub(crate) fn next_tick(&self, schedule: Option<&str>) -> Result<Option<String>> {
        let Some(text) = schedule else { return Ok(None) };
        // It is shown to people and recorded in the log as it is.
        if text.len() > 200 || walwarden_verifier::ids::shown(text) != text {
            return Err(invalid("a schedule has at most 200 printable characters"));
        }
        let parsed: Schedule = text.parse().map_err(|e: crate::schedule::ScheduleError| {
            DomainError::refused(
                ErrorCode::InvalidRequest,
                e.to_string(),
                "five fields in UTC, such as 0 2 * * * for daily at 02:00",
            )
        })?;
        let now = Timestamp::from_millisecond(self.edge.now_ms()).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(parsed.next_after(now).map(time::format))
    }

    /// The connection string; in `worker` only.
    pub(crate) async fn source_dsn(&self, record: &DatabaseRecord) -> Result<Secret> {
        let plain = self.keyring.decrypt(&dsn_context(&record.org_id, &record.id), &record.sealed_dsn).await?;
        let text = String::from_utf8(plain.to_vec()).map_err(|e| DomainError::broken(record.id.as_str(), e))?;
        Ok(Secret::new(text))
    }
}

fn database_view(record: &DatabaseRecord, check: Option<SourceCheck>) -> Database {
    Database {
        id: record.id.clone(),
        name: record.name.clone(),
        redacted_dsn: record.redacted_dsn.clone(),
        destination_id: record.destination_id.clone(),
        schedule: record.schedule.clone(),
        next_run_at: record.next_tick.clone(),
        retention_days: record.retention_days,
        compression: record.compression,
        max_bytes: record.max_bytes,
        max_hours: record.max_hours,
        omit_unreadable: record.omit_unreadable,
        selection: record.selection.clone(),
        check,
        protected_until: record.protected_until.clone(),
        last_completed_backup_id: record.last_completed_backup_id.clone(),
        created_at: record.created_at.clone(),
    }
}

fn parse_dsn(text: &Secret) -> Result<Dsn> {
    let refused = |e: walwarden_contract::dsn::DsnError| {
        DomainError::refused(ErrorCode::InvalidRequest, format!("dsn: {}", e.problem), e.hint)
    };
    if text.expose().len() > 4096 {
        return Err(invalid("dsn: it is longer than 4,096 bytes"));
    }
    let dsn = Dsn::parse(text.expose()).map_err(refused)?;
    dsn.refuse_transaction_pooler().map_err(refused)?;
    if dsn.sslrootcert.as_deref().is_some_and(|f| f != "system") {
        return Err(invalid("dsn: sslrootcert may only be system: files are on your machine, not on the runner's"));
    }
    if dsn.user.is_none() || (dsn.dbname.is_none() && dsn.user.is_none()) {
        return Err(invalid("dsn: names no user"));
    }
    Ok(dsn)
}

/// Puts a value in place of another, if there is one; gives whether they differ.
fn replace<T: PartialEq>(place: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) if *place != value => {
            *place = value;
            true
        }
        _ => false,
    }
}

/// Settings that can be kept, in the form in which they are.
fn checked(mut settings: UpdateDatabaseRequest) -> Result<UpdateDatabaseRequest> {
    if settings.retention_days.is_some_and(|days| !(1..=3650).contains(&days)) {
        return Err(invalid("retentionDays must be 1 to 3650"));
    }
    let level_fits = match settings.compression {
        Some(CompressionSetting::Gzip(level)) => (1..=9).contains(&level),
        Some(CompressionSetting::Zstd(level)) => (1..=19).contains(&level),
        None => true,
    };
    if !level_fits {
        return Err(invalid("the compression level must be 1 to 9 for gzip, 1 to 19 for zstd"));
    }
    if settings.max_bytes == Some(0) || settings.max_hours.is_some_and(|h| h == 0 || h > 24 * 30) {
        return Err(invalid("maxBytes must be at least 1, maxHours 1 to 720"));
    }
    if let Some(selection) = &mut settings.selection {
        *selection = selection.canonical().map_err(|error| {
            DomainError::refused(ErrorCode::InvalidRequest, format!("selection: {error}"), error.hint)
        })?;
    }
    Ok(settings)
}

fn invalid(message: &str) -> DomainError {
    DomainError::refused(ErrorCode::InvalidRequest, message, "correct the request")
}

fn dsn_context<'a>(org: &'a OrgId, id: &'a DatabaseId) -> Context<'a> {
    Context { org, kind: "database", id: id.as_str(), field: "dsn" }
}

/// A job pointer's write.
pub(crate) fn pointer_write(org: &OrgId, job: &JobId, database: &DatabaseId) -> Write {
    Write::Create(keys::pointer(org, job), Item::new(database))
}

/// State of a check as the record's view needs it.
pub(crate) fn check_is_final(state: CheckState) -> bool {
    matches!(state, CheckState::Completed | CheckState::Failed)
}
