//! `--download-only`: the verified artifact as a file of the operator's, with what belongs to it beside. No target is
//! asked and nothing is restored; what the service is told is that it was verified and that it ended there.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::json;
use sha2::{Digest, Sha256};
use walwarden_client::{ApiClient, worker::JobSession};
use walwarden_contract::{
    exit::ExitCode,
    failure::FailureClass,
    ids::RestoreId,
    quote,
    worker::{CancelReason, Transition},
};

use super::{
    download, ending,
    evidence::Evidence,
    fetch,
    guards::{self, Environment, Service},
    later, prepare,
    session::Reporter,
    steps,
    workspace::{self, Workspace},
};
use crate::{commands::RestoreArguments, failure::Failure, files, format, output::Output, stop::Stop};

/// Runs `walwarden restore --download-only`.
pub async fn run(arguments: &RestoreArguments, file: &Path, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    let mut environment = Environment::read();
    let base = workspace::base(arguments.work_dir.as_deref(), &environment);
    steps::look_around(arguments, &base, &mut environment, output);
    let now = jiff::Timestamp::now().as_second();
    let service = guards::check_download(arguments, &environment, now, |claims| {
        workspace::is_resumable(&base, claims.job_intent_id.as_str())
    })?;
    let names = Names::of(file)?;
    let restore_id = &service.claims.job_intent_id;
    let stop = Stop::install()?;
    let resumed = workspace::is_resumable(&base, restore_id.as_str());
    let client = later::client(&service.base_url)?;
    let preparing = prepare(arguments, &environment, &service, &base, &client, &names, output);
    let (evidence, parts) =
        stop.unless(preparing).await.map_err(|failure| if resumed { failure } else { steps::unspent(failure) })?;
    let workspace = Workspace::open(&base, restore_id.as_str())?;
    evidence.keep(&workspace)?;
    let session = match fetch::claim(&service, &client, &workspace).await {
        Ok((session, _)) => session,
        Err(failure) => {
            if failure.exit != ExitCode::Retryable {
                workspace.remove();
            }
            return Err(failure);
        }
    };
    output.tell("claimed", &format!("{restore_id}; the token is spent"));
    let reporter = Reporter::start(session.clone(), output.progress.clone(), stop.clone());
    let delivering = deliver(&evidence, &names, &parts, restore_id, &workspace, &session, &reporter, output);
    match stop.unless(delivering).await {
        Ok(checksum) => {
            let ended = Transition::Cancelled { reason: CancelReason::Requested };
            tokio::select! {
                () = reporter.end_with(Some(ended)) => {}
                () = stop.signalled() => {}
            }
            workspace.remove();
            tell(arguments, &environment, &evidence, &names, restore_id, &checksum, started, output);
            Ok(())
        }
        Err(failure) => {
            output.halt();
            if ending::may_go_on(&failure, &stop, false) {
                let again = arguments.again();
                return Err(ending::pause(workspace, reporter, failure, None, again, false, output).await);
            }
            ending::end(reporter, &stop, &failure, None, output).await;
            workspace.remove();
            Err(failure)
        }
    }
}

/// The files that are made.
struct Names {
    artifact: PathBuf,
    envelope: PathBuf,
    annex: PathBuf,
    /// The keys that the server gave, where no others were named.
    pubkey: PathBuf,
}

impl Names {
    /// The artifact's as given, where nothing is yet; the others as in the bucket, with its `.dump` exchanged.
    fn of(file: &Path) -> Result<Self, Failure> {
        let stem = match file.extension() {
            Some(extension) if extension == "dump" => file.with_extension(""),
            _ => file.to_owned(),
        };
        let beside = |ending: &str| {
            let mut name = OsString::from(&stem);
            name.push(ending);
            PathBuf::from(name)
        };
        let names = Self {
            artifact: file.to_owned(),
            envelope: beside(".manifest.json"),
            annex: beside(".annex.jsonl.gz"),
            pubkey: beside(".pubkey.pem"),
        };
        let directory = files::directory_of(file);
        if !directory.is_dir() {
            let message = format!("{} is no directory", directory.display());
            return Err(Failure::user("directory_missing", message)
                .hint("create it first, or name another file with --download-only"));
        }
        if fs::symlink_metadata(file).is_ok() {
            return Err(exists(file));
        }
        Ok(names)
    }
}

fn exists(path: &Path) -> Failure {
    Failure::user("file_exists", format!("{} exists, and is not overwritten", path.display()))
        .hint("name another file with --download-only, or move that one away")
}

/// What lies beside the artifact: name and bytes.
type Parts = Vec<(PathBuf, Vec<u8>)>;

/// Manifest, annex and room for all of it; spends nothing.
async fn prepare(
    arguments: &RestoreArguments,
    environment: &Environment,
    service: &Service,
    base: &Path,
    client: &ApiClient,
    names: &Names,
    output: &Output,
) -> Result<(Evidence, Parts), Failure> {
    let evidence = prepare::inspect(arguments, environment, service, base, client).await?;
    prepare::describe(&evidence, output);
    let mut parts =
        vec![(names.envelope.clone(), evidence.envelope.clone()), (names.annex.clone(), evidence.annex_file.clone())];
    parts.extend(evidence.served_keys.iter().map(|keys| (names.pubkey.clone(), keys.clone())));
    // The very same bytes are what an earlier run left.
    parts.retain(|(path, bytes)| !fs::read(path).is_ok_and(|there| there == *bytes));
    if let Some((path, _)) = parts.iter().find(|(path, _)| fs::symlink_metadata(path).is_ok()) {
        return Err(exists(path));
    }
    let size = evidence.manifest.backup().size_bytes;
    prepare::check_disk(base, service, size)?;
    let directory = files::directory_of(&names.artifact);
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(directory) != device(base) {
        let free = prepare::free_bytes(directory)?;
        prepare::check_room(directory, free, size, "name another file with --download-only")?;
    }
    writable(directory, &service.claims.job_intent_id)?;
    Ok((evidence, parts))
}

/// Finds out before anything is spent whether files can be made there.
fn writable(directory: &Path, restore_id: &RestoreId) -> Result<(), Failure> {
    let probe = Unfinished::beside(directory, restore_id);
    let made = probe.create();
    made.map(drop).map_err(|error| {
        Failure::user("directory_not_writable", format!("could not write in {}: {error}", directory.display()))
            .hint("name another file with --download-only")
    })
}

/// Downloads, verifies, and gives every file its name, the artifact last.
async fn deliver(
    evidence: &Evidence,
    names: &Names,
    parts: &Parts,
    restore_id: &RestoreId,
    workspace: &Workspace,
    session: &JobSession,
    reporter: &Reporter,
    output: &Output,
) -> Result<String, Failure> {
    let checksum = fetch::download(evidence, workspace, session, reporter, output).await?;
    let artifact = workspace.path(download::ARTIFACT);
    fetch::verify(evidence, workspace, &artifact, &checksum, reporter, output)?;
    fetch::verified(evidence, &checksum, reporter, output);

    let directory = files::directory_of(&names.artifact);
    let mut placed = Placed(Vec::new());
    for (path, bytes) in parts {
        let unfinished = Unfinished::beside(directory, restore_id);
        let write = || {
            let mut file = unfinished.create()?;
            file.write_all(bytes)?;
            file.sync_all()?;
            files::place(&unfinished.0, path)
        };
        write().map_err(|error| not_placed(path, &error))?;
        placed.0.push(path.clone());
    }
    let synced = fs::File::open(&artifact).and_then(|file| file.sync_all());
    match synced.and_then(|()| files::place(&artifact, &names.artifact)) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy(&artifact, &names.artifact, &checksum, restore_id, evidence.manifest.backup().size_bytes, output)
                .await?;
        }
        done => done.map_err(|error| not_placed(&names.artifact, &error))?,
    }
    placed.0.clear();
    Ok(checksum)
}

/// The download is whole and stays: whatever keeps a file from its name is no end.
fn not_placed(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::file("write", path, error);
    Failure { exit: ExitCode::Retryable, ..failure }
}

/// Copies to another file system, and gives what was written its name if it is what was read.
async fn copy(
    from: &Path,
    to: &Path,
    checksum: &str,
    restore_id: &RestoreId,
    size: u64,
    output: &Output,
) -> Result<(), Failure> {
    let failed = |error: io::Error| not_placed(to, &error);
    let unfinished = Unfinished::beside(files::directory_of(to), restore_id);
    output.phase("copy", size);
    let (mut source, mut file) = (fs::File::open(from).map_err(failed)?, unfinished.create().map_err(failed)?);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = tokio::task::block_in_place(|| {
            let count = source.read(&mut buffer)?;
            file.write_all(&buffer[..count])?;
            hasher.update(&buffer[..count]);
            Ok(count)
        });
        match count.map_err(failed)? {
            0 => break,
            count => output.advance(count as u64),
        }
        // An interruption is heard here.
        tokio::task::yield_now().await;
    }
    if hex::encode(hasher.finalize()) != checksum {
        return Err(Failure::class(
            FailureClass::ArtifactMismatch,
            format!("{} changed while it was copied", from.display()),
        ));
    }
    tokio::task::block_in_place(|| file.sync_all()).map_err(failed)?;
    files::place(&unfinished.0, to).map_err(failed)?;
    output.done(&format::bytes(size));
    Ok(())
}

/// A file that has no name of its own yet; removed with this.
struct Unfinished(PathBuf);

impl Unfinished {
    /// One at a time for each restore: the lock of its workspace is held.
    fn beside(directory: &Path, restore_id: &RestoreId) -> Self {
        Self(directory.join(format!(".walwarden-{restore_id}.part")))
    }

    /// Creates it; what a run that was killed left is replaced.
    fn create(&self) -> io::Result<fs::File> {
        let _ = fs::remove_file(&self.0);
        files::create_private(&self.0)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Files that are removed again unless the artifact joins them.
struct Placed(Vec<PathBuf>);

impl Drop for Placed {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn tell(
    arguments: &RestoreArguments,
    environment: &Environment,
    evidence: &Evidence,
    names: &Names,
    restore_id: &RestoreId,
    checksum: &str,
    started: Instant,
    output: &Output,
) {
    let own_keys = arguments.pubkey.as_ref().or(environment.pubkey.as_ref());
    let pubkey = own_keys.unwrap_or(&names.pubkey);
    // A name with a hyphen in front would be an option.
    let word = |path: &Path| match path.display().to_string() {
        name if name.starts_with('-') => quote::sh(&format!("./{name}")),
        name => quote::sh(&name),
    };
    let file = word(&names.artifact);
    let list = format!("pg_restore -l {file}");
    let name = arguments.created_database.as_deref().map(|name| format!(" --created-database {}", quote::sh(name)));
    let restore = format!(
        "walwarden restore --artifact {file} --envelope {} --annex {} --pubkey {} --mode new_database{}",
        word(&names.envelope),
        word(&names.annex),
        word(pubkey),
        name.unwrap_or_default()
    );
    let size = evidence.manifest.backup().size_bytes;
    let time = format::duration(started.elapsed());
    output.tell("saved", &format!("{} as {} in {time}; nothing was restored", format::bytes(size), file));
    output.tell("SHA-256", checksum);
    let beside = [&names.envelope, &names.annex].into_iter().chain(own_keys.is_none().then_some(&names.pubkey));
    let beside: Vec<String> = beside.map(|path| path.display().to_string()).collect();
    output.tell("beside it", &beside.join(", "));
    output.say(&format!("look into it with: {list}"));
    output.say(&format!("take one table of it with: pg_restore --no-owner -d DATABASE -t TABLE {file}"));
    output.say(&format!("restore it later, without token and server, with: {restore}"));
    let payload = json!({
        "restoreId": restore_id,
        "file": names.artifact.display().to_string(),
        "bytes": size,
        "checksumSha256": checksum,
        "envelope": names.envelope.display().to_string(),
        "annex": names.annex.display().to_string(),
        "pubkey": pubkey.display().to_string(),
        "listCommand": list,
        "restoreCommand": restore,
    });
    output.state("downloaded", payload);
}
