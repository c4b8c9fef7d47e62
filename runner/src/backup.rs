//! A backup job: dump into the bucket, describe what is there, report the measurements.

use std::{path::Path, time::Duration};

use walwarden_client::worker::JobSession;
use walwarden_contract::{
    address::AddressPolicy,
    errors::ErrorCode,
    failure::FailureClass,
    worker::{BackupInstructions, BackupMeasurements, DocumentKind, Finish, Transition},
};
use walwarden_verifier::{
    manifest::Contents,
    parts::{self, PartsList},
};

use crate::{
    annex,
    config::Machine,
    dump::{self, Dumped, Plan},
    fault::{Ended, Fault},
    progress::{Phase, Progress},
    storage::{self, Bucket},
};

/// Does it, up to the accepted `finish`.
pub async fn run(
    instructions: &BackupInstructions,
    session: &JobSession,
    machine: &Machine,
    private: &Path,
    progress: &Progress,
) -> Result<(), Ended> {
    let policy = AddressPolicy { allow_private: instructions.allow_private_addresses };
    let prepared = dump::prepare(&instructions.dsn, policy, &instructions.selection, machine, progress).await?;
    prepared.refuse_selection()?;
    if !instructions.omit_unreadable {
        prepared.refuse_unreadable()?;
    }
    let plan = Plan {
        compression: dump::compression(instructions.compression, prepared.snapshot.version().major())?,
        omit_unreadable: instructions.omit_unreadable,
        max_bytes: instructions.max_bytes,
        max_duration: Duration::from_secs(u64::from(instructions.max_hours) * 3600),
    };
    session
        .transition(&Transition::Running {
            server_version: prepared.snapshot.version().text.clone(),
            pg_dump_version: prepared.pg_dump.version.clone(),
            snapshot_at: prepared.snapshot.at.clone(),
        })
        .await?;

    let bucket = Bucket::new(session, machine.bucket_wait)?;
    let (sink, uploader) = storage::channel(instructions.part_cap);
    let dump = async { Ok::<_, Ended>(prepared.dump(&plan, sink, machine, private, progress).await?) };
    // If both fail it is the upload that failed first: a dump that fails only leaves the uploader without more parts.
    let (dumped, parts) = {
        let uploads = uploader.run(&bucket);
        tokio::pin!(dump, uploads);
        tokio::select! {
            parts = &mut uploads => {
                let parts = parts?;
                (dump.await?, parts)
            }
            dumped = &mut dump => (dumped?, uploads.await?),
        }
    };
    let list = PartsList {
        v: parts::VERSION.into(),
        backup_id: instructions.backup_id.to_string(),
        attempt: instructions.attempt,
        parts,
    };
    if list.total_bytes() != dumped.outcome.size_bytes {
        return Err(Fault::new(FailureClass::Internal, "the parts are not as long as the artifact").into());
    }
    progress.enter(Phase::Describing);
    let measurements = describe(dumped, &list, instructions, &bucket, private).await?;
    progress.enter(Phase::Finishing);
    session.finish(&Finish::Backup(Box::new(measurements))).await.map_err(|error| match error.code() {
        Some(ErrorCode::Unprocessable) => Fault::new(FailureClass::SealImpossible, error.to_string()).into(),
        _ => Ended::from(error),
    })?;
    Ok(())
}

/// Writes and uploads annex and parts list.
async fn describe(
    dumped: Dumped,
    list: &PartsList,
    instructions: &BackupInstructions,
    bucket: &Bucket,
    private: &Path,
) -> Result<BackupMeasurements, Ended> {
    let (annex_path, list_path) = (private.join("annex.jsonl.gz"), private.join("parts.json"));
    let writing = {
        let (path, backup, attempt) = (annex_path.clone(), instructions.backup_id.to_string(), instructions.attempt);
        tokio::task::spawn_blocking(move || annex::write(&dumped, &backup, attempt, &path).map(|size| (dumped, size)))
    };
    let written = writing.await.map_err(|e| Fault::internal("writing the annex", e))?;
    let (dumped, annex_size) = written.map_err(|e| Fault::internal("writing the annex", e))?;
    let bytes = list.to_bytes().map_err(|e| Fault::internal("writing the parts list", e))?;
    if bytes.len() > parts::MAX_BYTES {
        return Err(Fault::new(FailureClass::DumpTooLarge, "the parts list is longer than readers take").into());
    }
    tokio::fs::write(&list_path, bytes).await.map_err(|e| Fault::internal("writing the parts list", e))?;

    let annex = bucket.upload(DocumentKind::Annex, &annex_path).await?;
    let parts_list = bucket.upload(DocumentKind::PartsList, &list_path).await?;
    let omissions = dumped.omissions().count() as u64;
    let outcome = dumped.outcome;
    Ok(BackupMeasurements {
        checksum_sha256: hex::encode(outcome.sha256),
        size_bytes: outcome.size_bytes,
        parts: list.parts.len() as u32,
        parts_list,
        annex,
        annex_uncompressed_bytes: annex_size.uncompressed_bytes,
        annex_lines: annex_size.lines,
        contents: Contents {
            digest: hex::encode(outcome.contents_digest),
            entries: outcome.entries.len() as u64,
            tables: outcome.tables.len() as u64,
            rows: outcome.tables.iter().map(|table| table.rows.rows).sum(),
        },
        omissions,
        source_database: dumped.database,
        server_version: dumped.server_version.text,
        pg_dump_version: dumped.pg_dump_version,
        compression: dumped.compression,
        snapshot_at: dumped.snapshot_at,
    })
}
