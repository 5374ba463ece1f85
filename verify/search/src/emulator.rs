//! The machine: an emulator with snapshots, whose memory is a file.
//!
//! One CPU, and a clock that counts instructions, so that from a snapshot on everything happens again as it did.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kpkeys_emulator::{Kernel, Machine, Target};
use tempfile::TempDir;

use crate::memory::Memory;
use crate::stub::Stub;

/// Memory of the machine: little more than the kernel needs, since each trial restores all of it.
pub const MEMORY_MIB: u32 = 64;
/// Lines kept of what the kernel printed.
const KEPT_LINES: usize = 40;

/// How a machine is started.
#[derive(Clone)]
pub struct Setup {
    /// The kernel.
    pub kernel: Kernel,
    /// Its command line.
    pub command_line: String,
}

/// An emulator that stands still unless told to go on. Dropping it ends it.
pub struct Emulator {
    /// Its port for debuggers.
    pub stub: Stub,
    /// The machine's memory.
    pub memory: Memory,
    child: Child,
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// A folder in memory, if there is one: with the snapshots, and what the machine's memory is.
pub fn folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("kpkeys-search-");
    let folder = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
    let folder = folder.context("cannot make a folder for snapshots")?;
    fs::write(disk(folder.path()), empty_disk()).context("cannot write the snapshots' file")?;
    Ok(folder)
}

fn disk(folder: &Path) -> PathBuf {
    folder.join("snapshots.qcow2")
}

impl Emulator {
    /// Starts an emulator whose snapshots are in `folder`. Its machine has executed nothing yet.
    pub fn start(setup: &Setup, folder: &Path) -> Result<Emulator> {
        let memory = folder.join("memory");
        let socket = folder.join("debugger");
        let _ = fs::remove_file(&socket);
        let machine = Machine {
            memory_mib: MEMORY_MIB,
            board_options: "memory-backend=ram".to_owned(),
            clock_by_instructions: true,
            command_line: setup.command_line.clone(),
            ..Machine::default()
        };
        let mut command = setup.kernel.command(&machine)?;
        let (memory_file, disk) = (memory.display(), disk(folder));
        command.args([
            "-object",
            &format!(
                "memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={memory_file}"
            ),
            "-drive",
            &format!("if=none,format=qcow2,file={}", disk.display()),
            "-gdb",
            &format!("unix:{},server=on,wait=off", socket.display()),
            "-action",
            "shutdown=pause",
            "-S",
        ]);
        let mut child = command.spawn().context("cannot start the emulator")?;
        let lines = Arc::default();
        collect_lines(&mut child, &lines);
        let mut stub = match connect(&socket, &mut child) {
            Ok(stub) => stub,
            Err(error) => {
                end(&mut child);
                let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let said: Vec<_> = lines.iter().cloned().collect();
                return Err(error.context(said.join("\n")));
            }
        };
        stub.stop_clock_in_steps(setup.kernel.target() == Target::Aarch64)?;
        let start = match setup.kernel.target() {
            Target::X86_64 => 0,
            Target::Aarch64 => 0x4000_0000,
        };
        let file = File::options().read(true).write(true).open(&memory);
        let memory = Memory::new(file.context("the machine's memory")?, start, MEMORY_MIB);
        Ok(Emulator { stub, memory, child, lines })
    }

    /// Keeps the machine as it is under a name.
    pub fn save(&mut self, name: &str) -> Result<()> {
        self.stub.monitor(&format!("savevm {name}"))
    }

    /// Makes the machine what it was, and forgets what it printed since.
    pub fn load(&mut self, name: &str) -> Result<()> {
        self.stub.monitor(&format!("loadvm {name}"))?;
        self.lines().clear();
        Ok(())
    }

    /// What the machine printed last.
    pub fn printed(&self) -> Vec<String> {
        self.lines().iter().cloned().collect()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Emulator {
    /// Ends it, so that another one may have its files.
    pub fn end(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end();
    }
}

/// Fails only if it has ended already, which is as good.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn connect(socket: &Path, child: &mut Child) -> Result<Stub> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match Stub::connect(socket) {
            Ok(stub) => return Ok(stub),
            Err(error) if Instant::now() > until => {
                return Err(error.context("the emulator's port for debuggers"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
        if let Some(status) = child.try_wait()? {
            bail!("the emulator ended ({status})");
        }
    }
}

fn collect_lines(child: &mut Child, lines: &Arc<Mutex<VecDeque<String>>>) {
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let lines = Arc::clone(lines);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
    }
}

/// An empty disk of 1 MiB that can hold snapshots, in the format `qcow2`: a header, the table of reference counts, one block of
/// them, and the table of clusters, each a cluster of 64 KiB.
fn empty_disk() -> Vec<u8> {
    const CLUSTER: u64 = 1 << 16;
    let mut disk = vec![0; 4 * CLUSTER as usize];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes()); // version
    put(20, &16u32.to_be_bytes()); // bits of a cluster
    put(24, &(1u64 << 20).to_be_bytes()); // size
    put(36, &1u32.to_be_bytes()); // entries of the table of clusters
    put(40, &(3 * CLUSTER).to_be_bytes());
    put(48, &CLUSTER.to_be_bytes()); // the table of reference counts
    put(56, &1u32.to_be_bytes()); // its clusters
    put(CLUSTER as usize, &(2 * CLUSTER).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER as usize + 2 * cluster, &1u16.to_be_bytes());
    }
    disk
}
