//! Disks by iSCSI, through the program: libiscsi's tools with CHAP, and QEMU's driver.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{
    case,
    compare::sha256,
    installed,
    program::{Revenant, Run, run_within},
    random::Random,
    served::Served,
    temp,
};

const LIMIT: Duration = Duration::from_secs(120);

fn tool(program: &str, url: &str, options: &[&str]) -> Run {
    run_within(Command::new(program).args(options).arg(url), LIMIT)
}

/// The address, the target and the unit are found by who knows the secrets, and by nobody else.
#[test]
fn tools_with_chap() {
    if !installed("iSCSI with CHAP", &["iscsi-ls", "iscsi-inq"]) {
        return;
    }
    let volume = case::machine_volume();
    let revenant = Revenant::new(volume.path());
    let disk = case::last_disk(&revenant);
    let folder = temp();
    let secret = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a secret");
        path.to_str().expect("text").to_owned()
    };
    let (ours, theirs) = (secret("ours", "secretofours1"), secret("theirs", "secretoftheirs"));
    let mut args = vec!["export", "iscsi", &disk.path, "--listen", "127.0.0.1:0", "--json"];
    args.extend(["--chap-user", "user", "--chap-secret-file", &ours]);
    args.extend(["--mutual-user", "target", "--mutual-secret-file", &theirs]);
    let served = Served::start(&mut revenant.command(args));
    let (target, at) = (served.text("target"), served.text("address"));
    assert!(target.ends_with("disk0") && target.contains(":web01"), "{target}");
    let list = tool("iscsi-ls", &format!("iscsi://user%secretofours1@{at}"), &["-s"]).good().text();
    assert!(list.contains(target) && list.contains("Lun:0"), "{list}");
    let url = |secret: &str, more: &str| format!("iscsi://user%{secret}@{at}/{target}/0{more}");
    let page = tool("iscsi-inq", &url("secretofours1", ""), &["-e", "1", "-c", "131"]).good().text();
    assert!(page.to_lowercase().contains(served.text("naa")), "{page}");
    let mutual = "?target_user=target&target_password=secretoftheirs";
    let standard = tool("iscsi-inq", &url("secretofours1", mutual), &[]).good().text();
    assert!(standard.contains("REVENANT"), "{standard}");
    for bad in [
        url("secretofothers", ""),
        url("secretofours1", "?target_user=target&target_password=secretofothers"),
        format!("iscsi://{at}/{target}/0"),
    ] {
        assert_ne!(tool("iscsi-inq", &bad, &[]).code(), Some(0), "{bad}");
    }
    assert!(served.said().contains("did not authenticate"), "{}", served.said());
}

/// A machine of QEMU's without anything but block devices, told what to do by QMP.
struct Qemu {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: BufReader<std::process::ChildStdout>,
}

impl Qemu {
    fn start() -> Self {
        let mut command = Command::new("timeout");
        command.args(["120", "qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults"]);
        command.args(["-qmp", "stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("QEMU");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut qemu = Self { child, input, output };
        qemu.wait(|message| message.get("QMP").is_some());
        qemu.execute("qmp_capabilities", &json!({}));
        qemu
    }

    /// The next message for which `wanted` says so.
    fn wait(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            self.output.read_line(&mut line).expect("QEMU's output");
            assert!(!line.is_empty(), "QEMU has ended");
            let message: Value = serde_json::from_str(&line).expect("JSON");
            assert!(message.get("error").is_none(), "{message}");
            if wanted(&message) {
                return message;
            }
        }
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.input, "{line}").expect("QEMU's input");
        self.wait(|message| message.get("return").is_some())
    }

    fn iscsi(&mut self, name: &str, served: &Served) {
        let (portal, target) = (served.text("address"), served.text("target"));
        let node = json!({
            "driver": "iscsi", "node-name": name, "transport": "tcp", "portal": portal, "target": target, "lun": 0,
            "read-only": served.told["read_only"],
        });
        self.execute("blockdev-add", &node);
    }

    fn file(&mut self, name: &str, path: &Path) {
        self.execute("blockdev-add", &json!({ "driver": "file", "node-name": name, "filename": path }));
    }

    /// Copies a whole disk onto another of its size.
    fn copy(&mut self, from: &str, to: &str) {
        let job = json!({ "job-id": "copy", "device": from, "target": to, "sync": "full" });
        self.execute("blockdev-backup", &job);
        let done = self.wait(|message| message["event"] == "BLOCK_JOB_COMPLETED");
        assert!(done["data"].get("error").is_none(), "{done}");
    }

    fn end(mut self) {
        self.execute("quit", &json!({}));
        assert!(self.child.wait().expect("its end").success());
    }
}

/// QEMU reads a disk of a chain of jobs, and writes another over it, which is there after a restart.
#[test]
fn qemu() {
    let module = Path::new("/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so");
    if !installed("iSCSI with QEMU", &["qemu-system-x86_64"]) || !module.exists() {
        eprintln!("SKIPPED: QEMU has no module for iSCSI (qemu-block-extra)");
        return;
    }
    let volume = case::machine_volume();
    let revenant = Revenant::new(volume.path());
    let disk = case::last_disk(&revenant);
    let folder = temp();
    let serve = |more: &[&str]| {
        let args = [&["export", "iscsi", &disk.path, "--listen", "127.0.0.1:0", "--json"][..], more].concat();
        Served::start(&mut revenant.command(args))
    };
    let served = serve(&[]);
    let size = served.told["size"].as_u64().expect("a size");
    let out = folder.path().join("out.raw");
    fs::File::create(&out).and_then(|file| file.set_len(size)).expect("a file");
    let mut qemu = Qemu::start();
    qemu.iscsi("disk", &served);
    qemu.file("out", &out);
    qemu.copy("disk", "out");
    qemu.end();
    assert_eq!(sha256(&out).expect("the copy"), disk.sha256);
    drop(served);

    // Noise, with holes.
    let mut noise = Random(7).bytes(usize::try_from(size).expect("a size"));
    noise.chunks_mut(1 << 20).skip(1).step_by(3).for_each(|piece| piece.fill(0));
    let (input, overlay) = (folder.path().join("in.raw"), folder.path().join("overlay.qcow2"));
    fs::write(&input, &noise).expect("a file");
    let overlay = ["--overlay", overlay.to_str().expect("text")];
    let mut served = serve(&overlay);
    let mut qemu = Qemu::start();
    qemu.file("in", &input);
    qemu.iscsi("disk", &served);
    qemu.copy("in", "disk");
    qemu.end();
    assert!(served.end(Signal::TERM).success(), "{}", served.said());
    let served = serve(&overlay);
    let mut qemu = Qemu::start();
    qemu.iscsi("disk", &served);
    qemu.file("out", &out);
    qemu.copy("disk", "out");
    qemu.end();
    assert!(fs::read(&out).expect("the copy") == noise);
}
