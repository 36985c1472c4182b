//! A PostgreSQL server of a test's own: a private folder, a free port on loopback, gone with this value. Both the unit
//! tests and the tests of the binary start theirs here.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// PostgreSQL refuses to run as root; Debian's packages make this user.
const USER: &str = "postgres";

/// A server, and the folder with its data.
pub struct Instance {
    folder: tempfile::TempDir,
    pub port: u16,
    server: Option<Child>,
    settings: Vec<String>,
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Where the server's programs are: Debian keeps them off the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// A program of PostgreSQL, as a user that it runs for. It dies with this thread.
fn command(name: &str) -> Command {
    if !is_root() {
        return Command::new(program(name));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--pdeathsig", "QUIT"]).arg(program(name));
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn give(folder: &Path) {
    if is_root() {
        run(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(folder));
    }
}

/// A fresh cluster, made once and copied by each test.
fn template() -> PathBuf {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/postgres-template");
    if kept.join("PG_VERSION").exists() {
        return kept;
    }
    let made = tempfile::tempdir().unwrap();
    give(made.path());
    let data = made.path().join("data");
    let options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--wal-segsize=1"];
    run(command("initdb").arg("-D").arg(&data).args(options));
    // Whoever is first wins; a half copied one is never seen under this name.
    let copy = kept.with_extension(std::process::id().to_string());
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    run(Command::new("cp").arg("-r").arg(&data).arg(&copy));
    if fs::rename(&copy, &kept).is_err() {
        fs::remove_dir_all(&copy).unwrap();
    }
    kept
}

impl Instance {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with settings, such as `fsync=off`.
    pub fn with(settings: &[&str]) -> Self {
        Self::holding(settings, &[])
    }

    /// The same, with files in the folder of its data that only the server may read.
    pub fn holding(settings: &[&str], files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("cp").arg("-r").arg(template()).arg(folder.path().join("data")));
        for (name, text) in files {
            let file = folder.path().join("data").join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        give(folder.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut instance = Self { folder, port, server: None, settings };
        instance.start_again();
        instance.sql("postgres", "CREATE DATABASE ledger");
        instance
    }

    /// Starts the server on the same data and port.
    pub fn start_again(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut server = command("postgres");
        server.arg("-D").arg(self.folder.path().join("data"));
        let fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=16MB"];
        let port = format!("port={}", self.port);
        for setting in fixed.iter().copied().chain([port.as_str()]).chain(self.settings.iter().map(String::as_str)) {
            server.args(["-c", setting]);
        }
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(server.spawn().unwrap());
        let begun = Instant::now();
        let is_ready = || {
            Command::new(program("pg_isready"))
                .args(self.at())
                .args(["-q", "-U", USER, "-d", "postgres"])
                .status()
                .unwrap()
                .success()
        };
        while !is_ready() {
            assert!(begun.elapsed() < PATIENCE, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn at(&self) -> [String; 4] {
        ["-h".into(), "127.0.0.1".into(), "-p".into(), self.port.to_string()]
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The connection URL, by way of another port where something stands in between.
    pub fn url(&self, port: u16) -> String {
        format!("postgres://{USER}:canary-password@127.0.0.1:{port}/ledger")
    }

    /// What a statement answers, a row a line.
    pub fn ask(&self, sql: &str) -> String {
        self.sql("ledger", sql)
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(self.at()).args(["-U", USER, "-d", database, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        String::from_utf8(run(&mut psql).stdout).unwrap().trim_end().to_owned()
    }

    /// Ends the server: `INT` is the fast way, `QUIT` is a crash.
    pub fn stop(&mut self, signal: &str) {
        let Some(mut server) = self.server.take() else { return };
        let _ = Command::new("kill").args([&format!("-{signal}"), &server.id().to_string()]).status();
        let _ = server.wait();
    }

    /// The folder that holds the data, while the server does not run.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Puts data that were copied earlier in place of what there is: a standby that was behind, or an old backup.
    pub fn put_back(&self, copy: &Path) {
        assert!(self.server.is_none(), "stop it first");
        fs::remove_dir_all(self.data()).unwrap();
        run(Command::new("cp").arg("-r").arg(copy).arg(self.data()));
        give(&self.data());
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop("QUIT");
        if std::thread::panicking() {
            eprintln!("PostgreSQL's log:\n{}", self.log());
        }
    }
}
