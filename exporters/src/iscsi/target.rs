//! What initiators log in to: targets by name, each with its units.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use blockdev::{Error, Result};
use parking_lot::{Mutex, RwLock};

use super::{chap::Chap, session::Session, text};
use crate::scsi::{LogicalUnit, Lun, Units};

/// A target: units under numbers, for initiators that may log in.
#[derive(Debug)]
pub struct Target {
    name: String,
    alias: String,
    auth: Option<Chap>,
    initiators: Vec<String>,
    units: RwLock<Units>,
    sessions: Mutex<Sessions>,
    handles: AtomicU16,
}

#[derive(Debug, Default)]
struct Sessions {
    open: Vec<Arc<Session>>,
    /// The target is no longer served.
    closed: bool,
}

impl Target {
    /// A target without units, for everybody. The name begins with `iqn.`, `eui.` or `naa.` and has lower case letters,
    /// digits and `-.:`, 223 at most.
    ///
    /// # Errors
    ///
    /// When the name is none.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if !text::is_name(&name) {
            return Err(Error::invalid(format!(
                "{name:?} is no iSCSI name: it has the form iqn.2026-01.org.example:what, in lower case"
            )));
        }
        Ok(Self {
            name,
            alias: String::new(),
            auth: None,
            initiators: Vec::new(),
            units: RwLock::default(),
            sessions: Mutex::default(),
            handles: AtomicU16::new(0),
        })
    }

    /// With a line for people.
    #[must_use]
    pub fn with_alias(mut self, alias: &str) -> Self {
        self.alias = alias.chars().filter(|c| !c.is_control()).take(200).collect();
        self
    }

    /// Only for initiators that know a secret.
    #[must_use]
    pub fn with_chap(mut self, chap: Chap) -> Self {
        self.auth = Some(chap);
        self
    }

    /// Only for initiators of these names; with none, for all. A name is no proof: see [`with_chap`](Self::with_chap).
    #[must_use]
    pub fn with_initiators(mut self, names: Vec<String>) -> Self {
        self.initiators = names;
        self
    }

    /// What initiators call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Add a unit. Initiators that are logged in are told to ask for the list again.
    ///
    /// # Errors
    ///
    /// When the number is taken, or above 16383.
    pub fn insert(&self, lun: Lun, unit: Arc<LogicalUnit>) -> Result<()> {
        let sessions = self.sessions.lock();
        sessions.open.iter().for_each(|session| unit.attach(session.port()));
        if self.units.write().insert(lun, unit) {
            Ok(())
        } else {
            Err(Error::invalid(format!("{} has a unit {lun} already, or {lun} is above 16383", self.name)))
        }
    }

    /// Take a unit away; commands that are being done go on. `None` when there is none of that number.
    pub fn remove(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        self.units.write().remove(lun)
    }

    /// The unit of a number.
    #[must_use]
    pub fn unit(&self, lun: Lun) -> Option<Arc<LogicalUnit>> {
        self.units.read().get(lun).cloned()
    }

    /// All units.
    #[must_use]
    pub fn units(&self) -> Vec<(Lun, Arc<LogicalUnit>)> {
        self.units.read().iter().map(|(lun, unit)| (lun, unit.clone())).collect()
    }

    /// Names of the initiators that are logged in, one for each session.
    #[must_use]
    pub fn sessions(&self) -> Vec<String> {
        self.sessions.lock().open.iter().map(|session| session.initiator().to_owned()).collect()
    }

    pub(super) fn alias(&self) -> &str {
        &self.alias
    }

    pub(super) const fn auth(&self) -> Option<&Chap> {
        self.auth.as_ref()
    }

    /// Whether an initiator of this name may try.
    pub(super) fn admits(&self, initiator: &str) -> bool {
        self.initiators.is_empty() || self.initiators.iter().any(|name| name.eq_ignore_ascii_case(initiator))
    }

    pub(super) fn with_units<T>(&self, use_them: impl FnOnce(&Units) -> T) -> T {
        use_them(&self.units.read())
    }

    /// A handle for a new session (TSIH); never 0.
    pub(super) fn new_handle(&self) -> u16 {
        self.handles.fetch_add(1, Ordering::Relaxed) % u16::MAX + 1
    }

    /// All sessions.
    pub(super) fn open_sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.lock().open.clone()
    }

    /// The session of a port.
    pub(super) fn session_of(&self, port: &str) -> Option<Arc<Session>> {
        self.sessions.lock().open.iter().find(|session| session.port() == port).cloned()
    }

    /// A session has come. `false` when the target is gone, or the port has a session.
    pub(super) fn enter(&self, session: &Arc<Session>) -> bool {
        let mut sessions = self.sessions.lock();
        if sessions.closed || sessions.open.iter().any(|other| other.port() == session.port()) {
            return false;
        }
        self.units.read().iter().for_each(|(_, unit)| unit.attach(session.port()));
        sessions.open.push(session.clone());
        true
    }

    /// A session has gone.
    pub(super) fn leave(&self, session: &Session) {
        let mut sessions = self.sessions.lock();
        let before = sessions.open.len();
        sessions.open.retain(|other| !std::ptr::eq(other.as_ref(), session));
        if sessions.open.len() < before {
            self.units.read().iter().for_each(|(_, unit)| unit.detach(session.port()));
        }
    }

    /// Serve it no longer: those that are logged in are told so and cut off.
    fn close(&self) {
        let sessions = {
            let mut sessions = self.sessions.lock();
            sessions.closed = true;
            sessions.open.clone()
        };
        sessions.iter().for_each(|session| session.drop_connections());
    }
}

/// The targets of a server. They may come and go while it runs.
#[derive(Debug, Default)]
pub struct Targets {
    by_name: RwLock<BTreeMap<String, Arc<Target>>>,
}

impl Targets {
    /// No targets yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a target.
    ///
    /// # Errors
    ///
    /// When its name is taken.
    pub fn insert(&self, target: Target) -> Result<Arc<Target>> {
        let mut by_name = self.by_name.write();
        if by_name.contains_key(&target.name) {
            return Err(Error::invalid(format!(
                "there is an iSCSI target {} already; choose another name",
                target.name
            )));
        }
        let target = Arc::new(target);
        by_name.insert(target.name.clone(), target.clone());
        Ok(target)
    }

    /// Take a target away: its sessions are ended. `None` when there is none of that name.
    pub fn remove(&self, name: &str) -> Option<Arc<Target>> {
        let target = self.by_name.write().remove(name)?;
        target.close();
        Some(target)
    }

    /// The target of a name, in whatever case it is asked for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Target>> {
        self.by_name.read().get(&name.to_ascii_lowercase()).cloned()
    }

    /// All targets, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Target>> {
        self.by_name.read().values().cloned().collect()
    }
}
