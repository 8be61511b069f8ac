//! What Samba is told (smb.conf(5)).

use std::{fmt, net::SocketAddr, path::Path};

use blockdev::{Error, Result};
use serde::{Deserialize, Serialize};

/// Longest name of a share that all clients show.
const SHARE_MAX: usize = 80;

/// Characters that Windows takes in no name: `"*:<>?\|`, each shown as one from U+F020 on, in this order, and control
/// characters, from U+F001 on. So did Microsoft's Services for Macintosh; clients of macOS and Linux (`mapposix`) show the
/// characters that are meant.
const CHARACTERS: [u32; 8] = [0x22, 0x2a, 0x3a, 0x3c, 0x3e, 0x3f, 0x5c, 0x7c];

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// One user, with a password.
    User(Login),
    /// Everybody.
    Guests,
}

/// A user of this machine, and the password for the share.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl From<Option<Login>> for Access {
    fn from(login: Option<Login>) -> Self {
        login.map_or(Self::Guests, Self::User)
    }
}

/// What there is to tell.
#[derive(Debug)]
pub struct Configuration {
    pub share: String,
    pub access: Access,
    pub address: SocketAddr,
    /// Addresses and networks; none: all.
    pub allow: Vec<String>,
    /// Connections at once: Samba has a process for each.
    pub processes: usize,
    /// Whether Samba can show characters that Windows does not take; otherwise it makes up names for those that have them.
    pub maps_characters: bool,
    /// Whether clients may write.
    pub writable: bool,
}

impl Configuration {
    /// The rest can be set afterwards.
    ///
    /// # Errors
    ///
    /// When a name or a network is one that Samba would take for something else.
    pub fn new(share: &str, access: Access, address: SocketAddr, allow: &[String]) -> Result<Self> {
        let special = ["global", "homes", "printers", "ipc$", "print$"];
        if share.is_empty()
            || share.len() > SHARE_MAX
            || share.trim() != share
            || special.contains(&share.to_lowercase().as_str())
            || share.chars().any(|c| c.is_control() || "[]/\\:;|=,+*?<>\"%@&".contains(c))
        {
            return Err(Error::invalid(format!("{share:?} cannot be the name of a share; use letters and digits")));
        }
        if let Access::User(Login { user, .. }) = &access
            && (user.is_empty() || user.chars().any(|c| c.is_control() || " ,@+&%\"'\\/:".contains(c)))
        {
            return Err(Error::invalid(format!("{user:?} is no name of a user of this machine")));
        }
        // The parser of the other door, so that both take the same.
        exporters::nfs::Clients::new(allow.iter().map(String::as_str), false)?;
        let (share, allow) = (share.to_owned(), allow.to_vec());
        Ok(Self { share, access, address, allow, processes: 256, maps_characters: true, writable: false })
    }

    /// What an operator has to be told of a share that other machines reach; `what` it shows. `None`: only this one does.
    pub fn warning(&self, what: &str) -> Option<String> {
        let Self { address, access, allow, writable, .. } = self;
        if address.ip().is_loopback() {
            return None;
        }
        let who = match access {
            Access::User(Login { user, .. }) => format!("whoever has the password of {user}"),
            Access::Guests => "everybody, without a password,".into(),
        };
        let does = if *writable { "read and write" } else { "read" };
        let place = if allow.is_empty() { "that reaches this address" } else { "that --allow names" };
        Some(format!("{address} is reached from the network: {who} can {does} {what} from any machine {place}"))
    }

    /// The text for a tree that is mounted on `tree`; Samba keeps its own files in `folder`, or where it does by default.
    ///
    /// # Errors
    ///
    /// When a path cannot be written in it.
    pub fn text(&self, tree: &Path, folder: Option<&Path>) -> Result<String> {
        let mut text = String::from("# Written by revenant.\n[global]\n");
        let mut set = |name: &str, value: &str| text.push_str(&format!("    {name} = {value}\n"));
        set("server role", "standalone server");
        set("server string", "Revenant");
        if !self.address.ip().is_unspecified() {
            set("interfaces", &self.address.ip().to_string());
            set("bind interfaces only", "yes");
        }
        set("smb ports", &self.address.port().to_string());
        set("disable netbios", "yes");
        set("server min protocol", "SMB2_10");
        set("max smbd processes", &self.processes.to_string());
        set("restrict anonymous", if self.access == Access::Guests { "0" } else { "2" });
        set("map to guest", if self.access == Access::Guests { "Bad User" } else { "Never" });
        if !self.allow.is_empty() {
            set("hosts allow", &self.allow.join(" "));
            set("hosts deny", "ALL");
        }
        for nothing in ["load printers", "disable spoolss", "registry shares", "usershare allow guests"] {
            set(nothing, if nothing == "disable spoolss" { "yes" } else { "no" });
        }
        set("printing", "bsd");
        set("printcap name", "/dev/null");
        set("usershare max shares", "0");
        set("unix charset", "UTF-8");
        if let Some(folder) = folder {
            let folder = path(folder)?;
            set("passdb backend", &format!("tdbsam:{folder}/users.tdb"));
            for (name, place) in [
                ("private dir", "private"),
                ("lock directory", "lock"),
                ("state directory", "state"),
                ("cache directory", "cache"),
                ("pid directory", "pid"),
                ("ncalrpc dir", "ncalrpc"),
            ] {
                set(name, &format!("{folder}/{place}"));
            }
            set("log file", &format!("{folder}/log"));
            set("max log size", "1024");
            set("log level", "1");
        }
        text.push_str(&format!("\n[{}]\n", self.share));
        let mut set = |name: &str, value: &str| text.push_str(&format!("    {name} = {value}\n"));
        let comment = if self.writable { "Disks from Bacula backups" } else { "Bacula backups, read-only" };
        set("comment", comment);
        set("path", &path(tree)?);
        set("read only", if self.writable { "no" } else { "yes" });
        if self.writable {
            // What a client has flushed is durable; a file is not larger than what was written to it.
            set("strict sync", "yes");
            set("strict allocate", "no");
            // A hypervisor whose connection breaks finds its files open when it comes back.
            set("durable handles", "yes");
        }
        match &self.access {
            Access::User(Login { user, .. }) => {
                set("valid users", user);
                set("guest ok", "no");
            }
            Access::Guests => {
                set("guest ok", "yes");
                set("guest only", "yes");
            }
        }
        // Who was let in reads everything, and the permissions of another machine are nothing to show or to set.
        set("force user", "root");
        set("nt acl support", "no");
        set("store dos attributes", "no");
        set("map archive", "no");
        set("map readonly", "no");
        set("ea support", "no");
        // A link that leads out of the tree meant another machine.
        set("follow symlinks", "yes");
        set("wide links", "no");
        set("hide special files", "yes");
        // Nobody but Samba changes anything here: no locks in the kernel, no notices.
        set("posix locking", "no");
        set("kernel oplocks", "no");
        set("kernel share modes", "no");
        set("kernel change notify", "no");
        set("use sendfile", "yes");
        // As they are stored; who asks for another case finds them, too.
        set("case sensitive", "auto");
        set("preserve case", "yes");
        set("short preserve case", "yes");
        if self.maps_characters {
            set("vfs objects", "catia");
            set("catia:mappings", &mappings());
        }
        Ok(text)
    }
}

/// What the module `catia` maps.
fn mappings() -> String {
    let controls = (0x01..0x20).map(|character| (character, 0xf000 + character));
    let all = controls.chain(CHARACTERS.into_iter().zip(0xf020..));
    all.map(|(stored, shown)| format!("{stored:#04x}:{shown:#06x}")).collect::<Vec<_>>().join(",")
}

/// A path as the configuration takes it.
fn path(path: &Path) -> Result<String> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control) && !text.ends_with(['\\', ' ']));
    let text = text.ok_or_else(|| Error::invalid(format!("Samba cannot use the folder {}", path.display())))?;
    Ok(text.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(share: &str, access: Access) -> Result<Configuration> {
        Configuration::new(share, access, "127.0.0.1:445".parse().unwrap(), &[])
    }

    fn user(name: &str) -> Access {
        Access::User(Login { user: name.into(), password: "secret".into() })
    }

    #[test]
    fn nobody_writes_a_configuration_by_a_name() {
        for share in ["", "a]\n[b", "global", "IPC$", "a/b", "x ", &"x".repeat(81)] {
            assert!(made(share, Access::Guests).is_err(), "{share:?}");
        }
        for user in ["", "@admins", "a b", "a\nguest ok = yes", "%U"] {
            assert!(made("x", self::user(user)).is_err(), "{user:?}");
        }
        let allow = ["10.0.0.0/8 evil".to_owned()];
        assert!(Configuration::new("x", Access::Guests, "127.0.0.1:445".parse().unwrap(), &allow).is_err());
        let good = made("Bücher 2026", user("backup")).unwrap();
        assert!(good.text(Path::new("/mnt/a\nb"), None).is_err());
        assert!(good.text(Path::new("/mnt/%U"), None).unwrap().contains("path = /mnt/%%U\n"));
    }

    #[test]
    fn only_who_is_meant_gets_in() {
        let text = made("x", user("backup")).unwrap().text(Path::new("/mnt"), None).unwrap();
        assert!(text.contains("valid users = backup\n") && text.contains("guest ok = no\n"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("read only = yes\n") && text.contains("interfaces = 127.0.0.1\n"), "{text}");
    }
}
