//! Which policy is in force, and what was not taken over when files were read again: told to the ledger, to the metrics
//! and to readiness.

use crate::ledger::entry::Body;
use crate::ledger::{Health, Ledger};
use crate::telemetry::{Kind, Metrics};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Far more than come together while the ledger takes nothing.
const WAITING_AT_MOST: usize = 1024;
/// An entry names so many faults at the most, and of each so many characters.
const FAULTS_AT_MOST: usize = 16;
const FAULT_AT_MOST: usize = 128;

pub(super) struct Policies {
    ledger: Arc<dyn Ledger>,
    metrics: Metrics,
    /// What the ledger had no room for, oldest first.
    waiting: Mutex<VecDeque<Body>>,
    /// The newest reload was refused.
    stale: AtomicBool,
    /// Of these keys' files the newest could not be used.
    stale_files: Mutex<BTreeSet<&'static str>>,
    /// The ledger was full: what it had taken may be lost.
    was_full: AtomicBool,
}

impl Policies {
    pub(super) fn new(ledger: Arc<dyn Ledger>, metrics: Metrics) -> Self {
        let (stale, was_full) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { ledger, metrics, waiting: Mutex::default(), stale, stale_files: Mutex::default(), was_full }
    }

    /// The process starts with this one.
    pub(super) fn begins(&self, policy: &Arc<str>) {
        self.record(Body::Policy { policy: Arc::clone(policy) });
    }

    /// This one is about to be in force.
    pub(super) fn applied(&self, policy: &Arc<str>) {
        self.stale.store(false, Ordering::SeqCst);
        self.metrics.policy_stale.set(0);
        self.metrics.reloads.get_or_create(&Kind { kind: "applied" }).inc();
        self.record(Body::Policy { policy: Arc::clone(policy) });
    }

    /// This one stays in force: what was to replace it has faults under these keys.
    pub(super) fn refused(&self, policy: &Arc<str>, keys: impl Iterator<Item = String>) {
        self.stale.store(true, Ordering::SeqCst);
        self.metrics.policy_stale.set(1);
        self.metrics.reloads.get_or_create(&Kind { kind: "refused" }).inc();
        let faults = keys.take(FAULTS_AT_MOST).map(|key| key.chars().take(FAULT_AT_MOST).collect()).collect();
        self.record(Body::PolicyRefused { policy: Arc::clone(policy), faults });
    }

    /// The file that this key of the configuration names was read again.
    pub(super) fn file_taken(&self, key: &'static str) {
        self.stale_files.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// It could not be used: what was read of it before stays in force, beside this policy.
    pub(super) fn file_refused(&self, policy: &Arc<str>, key: &'static str) {
        self.stale_files.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.metrics.reloads.get_or_create(&Kind { kind: "refused" }).inc();
        self.record(Body::PolicyRefused { policy: Arc::clone(policy), faults: vec![key.to_owned()] });
    }

    pub(super) fn is_stale_file(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        self.stale_files.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|key| is_meant(key))
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
    }

    fn record(&self, body: Body) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_AT_MOST {
            waiting.push_back(body);
        }
        self.hand_over(&mut waiting);
    }

    /// Records what there was no room for. After a time without room the policy in force is named anew, since what the
    /// ledger had taken, and not yet written, is lost then.
    pub(super) fn catch_up(&self, policy: &Arc<str>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.ledger.health() {
            Health::Full | Health::Unreachable => self.was_full.store(true, Ordering::SeqCst),
            Health::Writable if self.was_full.swap(false, Ordering::SeqCst) && waiting.is_empty() => {
                waiting.push_back(Body::Policy { policy: Arc::clone(policy) });
            }
            Health::Writable | Health::Broken => {}
        }
        self.hand_over(&mut waiting);
    }

    fn hand_over(&self, waiting: &mut VecDeque<Body>) {
        while let Some(body) = waiting.front() {
            if !self.ledger.note(body.clone()) {
                return;
            }
            waiting.pop_front();
        }
    }
}
