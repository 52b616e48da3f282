//! The protocol of source, journal, catch-up, swap, crash, takeover and rollback as a model, in which a
//! checker tries every order of steps of two runs and a writer. A run may fall asleep between any two of
//! its steps: nothing here tells a slow run from a dead one.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Checker, HasDiscoveries, Model, Property};

/// The safeguards, each of which can be left out.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    /// The swap lands as the version after the pinned one, or not at all.
    strict: bool,
    /// Whoever takes over from a run that was last seen at its swap takes that version from it first.
    fence: bool,
    /// A checkpoint lands only if nobody else wrote one since.
    exclusive: bool,
}

const AS_DESIGNED: Protocol = Protocol { strict: true, fence: true, exclusive: true };

/// A version of the live table. A fragment is a number; where it is staged, it lies in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Version {
    fragments: BTreeSet<u8>,
    files: BTreeSet<u8>,
    swap_of: Option<u8>,
    migrated: bool,
}

/// The staging table, as it is stored and as a run last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Journal {
    id: u8,
    serial: u8,
    pinned: usize,
    /// Files by fragment.
    staged: BTreeMap<u8, u8>,
    swapping: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Run {
    Away,
    /// It has kept the run of this journal's serial out, and is about to take over.
    Fenced {
        id: u8,
        serial: u8,
    },
    Works(Journal),
    /// Its swap has landed.
    Landed(Journal),
    /// It took over to drop everything.
    Aborts(Journal),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    versions: Vec<Version>,
    /// What writers wrote and did not delete.
    books: BTreeSet<u8>,
    /// Staged files that are there, and the migration that wrote each.
    files: BTreeMap<u8, u8>,
    journal: Option<Journal>,
    runs: [Run; 2],
    next_fragment: u8,
    next_file: u8,
    next_id: u8,
    writes: u8,
    takeovers: u8,
    fences: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Append,
    Delete(u8),
    Begin(usize),
    Stage(usize, u8),
    Follow(usize),
    Checkpoint(usize),
    PrepareSwap(usize),
    Swap(usize),
    Finish(usize),
    Die(usize),
    Fence(usize),
    TakeOver(usize),
    Abort(usize),
    Drop(usize),
    Rollback,
}

const WRITES_MAX: u8 = 1;
const TAKEOVERS_MAX: u8 = 1;
const FENCES_MAX: u8 = 2;
const MIGRATIONS_MAX: u8 = 2;

impl State {
    fn head(&self) -> usize {
        self.versions.len() - 1
    }

    fn newest(&self) -> &Version {
        &self.versions[self.head()]
    }

    fn commit(&mut self, change: impl FnOnce(&mut Version)) {
        let mut next = Version { swap_of: None, ..self.newest().clone() };
        change(&mut next);
        self.versions.push(next);
    }

    /// Whether `seen` is still what is stored.
    fn is_own(&self, seen: &Journal, protocol: Protocol) -> bool {
        let same = |stored: &Journal| stored.id == seen.id && stored.serial == seen.serial;
        self.journal.as_ref().is_some_and(|stored| same(stored) || !protocol.exclusive)
    }

    /// Whether the journal says already that `seen` is about to be swapped in.
    fn has_tried(&self, seen: &Journal) -> bool {
        let tried = |stored: &Journal| {
            stored.swapping && stored.serial == seen.serial && stored.pinned == seen.pinned
        };
        self.journal.as_ref().is_some_and(tried)
    }

    /// Removes the files of the migration `id` but those in `keep`, as cleaning up by name does.
    fn clean(&mut self, id: u8, keep: &BTreeSet<u8>) {
        self.files.retain(|file, of| *of != id || keep.contains(file));
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let fragments = BTreeSet::from([0]);
        let first = Version {
            fragments: fragments.clone(),
            files: BTreeSet::new(),
            swap_of: None,
            migrated: false,
        };
        vec![State {
            versions: vec![first],
            books: fragments,
            files: BTreeMap::new(),
            journal: None,
            runs: [Run::Away, Run::Away],
            next_fragment: 1,
            next_file: 0,
            next_id: 0,
            writes: 0,
            takeovers: 0,
            fences: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.writes < WRITES_MAX {
            steps.push(Step::Append);
            steps.extend(state.newest().fragments.iter().take(1).map(|f| Step::Delete(*f)));
        }
        if state.journal.is_none() && state.newest().swap_of.is_some() {
            steps.push(Step::Rollback);
        }
        for (place, run) in state.runs.iter().enumerate() {
            match run {
                Run::Away | Run::Fenced { .. } => {
                    if state.journal.is_none()
                        && !state.newest().migrated
                        && state.next_id < MIGRATIONS_MAX
                    {
                        steps.push(Step::Begin(place));
                    }
                    if state.journal.is_some() && state.takeovers < TAKEOVERS_MAX {
                        steps.extend([
                            Step::Fence(place),
                            Step::TakeOver(place),
                            Step::Abort(place),
                        ]);
                    }
                }
                Run::Works(seen) => {
                    let wanted = &state.versions[seen.pinned].fragments;
                    let missing = wanted.iter().find(|f| !seen.staged.contains_key(*f));
                    match missing {
                        Some(fragment) => steps.push(Step::Stage(place, *fragment)),
                        None if seen.swapping => steps.push(Step::Swap(place)),
                        // After a lost race it has to follow first.
                        None if !state.has_tried(seen) => steps.push(Step::PrepareSwap(place)),
                        None => {}
                    }
                    if seen.pinned < state.head() {
                        steps.push(Step::Follow(place));
                    }
                    let stored = state.journal.as_ref();
                    if stored
                        .is_none_or(|stored| stored.staged != seen.staged || stored.id != seen.id)
                    {
                        steps.push(Step::Checkpoint(place));
                    }
                    steps.push(Step::Die(place));
                }
                Run::Landed(_) => steps.extend([Step::Finish(place), Step::Die(place)]),
                Run::Aborts(_) => steps.extend([Step::Drop(place), Step::Die(place)]),
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Append => {
                let fragment = state.next_fragment;
                state.next_fragment += 1;
                state.writes += 1;
                state.books.insert(fragment);
                state.commit(|next| _ = next.fragments.insert(fragment));
            }
            Step::Delete(fragment) => {
                state.writes += 1;
                state.books.remove(&fragment);
                state.commit(|next| _ = next.fragments.remove(&fragment));
            }
            Step::Rollback => {
                let before = state.versions[state.head() - 1].clone();
                state.versions.push(Version { swap_of: None, ..before });
            }
            Step::Begin(run) => {
                let (id, pinned) = (state.next_id, state.head());
                state.next_id += 1;
                let staged = BTreeMap::new();
                let journal = Journal { id, serial: 0, pinned, staged, swapping: false };
                state.journal = Some(journal.clone());
                state.runs[run] = Run::Works(journal);
            }
            Step::Die(run) => state.runs[run] = Run::Away,
            Step::Fence(run) => self.fence(&mut state, run)?,
            Step::TakeOver(run) | Step::Abort(run) => {
                self.take_over(&mut state, run, matches!(step, Step::Abort(_)))?;
            }
            Step::Drop(run) => {
                let Run::Aborts(seen) = state.runs[run].clone() else { return None };
                state.clean(seen.id, &BTreeSet::new());
                if state.is_own(&seen, *self) {
                    state.journal = None;
                }
                state.runs[run] = Run::Away;
            }
            Step::Stage(run, _)
            | Step::Follow(run)
            | Step::Checkpoint(run)
            | Step::PrepareSwap(run)
            | Step::Swap(run)
            | Step::Finish(run) => self.work(&mut state, run, &step)?,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no row is lost and none comes back", |_, state: &State| {
                state.newest().fragments == state.books
            }),
            Property::always("every file of the newest version is there", |_, state: &State| {
                state.newest().files.iter().all(|file| state.files.contains_key(file))
            }),
            Property::always("a migrated version is whole", |_, state: &State| {
                let swaps = state.versions.iter().filter(|version| version.swap_of.is_some());
                swaps.into_iter().all(|version| version.files.len() == version.fragments.len())
            }),
            Property::sometimes("a migration gets through", |_, state: &State| {
                state.newest().migrated && state.journal.is_none()
            }),
            Property::sometimes("one does after a write and a takeover", |_, state: &State| {
                state.newest().migrated && state.writes > 0 && state.takeovers > 0
            }),
            Property::sometimes("an abort leaves nothing behind", |_, state: &State| {
                state.next_id > 0 && state.journal.is_none() && state.files.is_empty()
            }),
        ]
    }
}

impl Protocol {
    /// Commits nothing as the version that a run which may be asleep would swap in as.
    fn fence(self, state: &mut State, run: usize) -> Option<()> {
        let stored = state.journal.clone()?;
        if !self.fence || !stored.swapping || state.fences == FENCES_MAX {
            return None;
        }
        state.fences += 1;
        if state.head() == stored.pinned {
            state.commit(|_| ());
        }
        state.runs[run] = Run::Fenced { id: stored.id, serial: stored.serial };
        Some(())
    }

    fn take_over(self, state: &mut State, run: usize, aborts: bool) -> Option<()> {
        let stored = state.journal.clone()?;
        let fenced = state.runs[run] == Run::Fenced { id: stored.id, serial: stored.serial };
        if stored.swapping && self.fence && !fenced {
            return None;
        }
        state.takeovers += 1;
        let mut taken = Journal { serial: stored.serial + 1, swapping: false, ..stored };
        state.journal = Some(taken.clone());
        let landed = state.versions.iter().any(|version| version.swap_of == Some(taken.id));
        if landed {
            // Only the tidying up is left.
            let keep = state.versions.iter().flat_map(|version| version.files.clone()).collect();
            state.clean(taken.id, &keep);
            state.journal = None;
            state.runs[run] = Run::Away;
            return Some(());
        }
        if aborts {
            state.runs[run] = Run::Aborts(taken);
            return Some(());
        }
        let keep = taken.staged.values().copied().collect();
        state.clean(taken.id, &keep);
        taken.pinned = state.head();
        let wanted = state.newest().fragments.clone();
        taken.staged.retain(|fragment, _| wanted.contains(fragment));
        state.runs[run] = Run::Works(taken);
        Some(())
    }

    fn work(self, state: &mut State, run: usize, step: &Step) -> Option<()> {
        let (Run::Works(mut seen) | Run::Landed(mut seen)) = state.runs[run].clone() else {
            return None;
        };
        match step {
            Step::Stage(_, fragment) => {
                let file = state.next_file;
                state.next_file += 1;
                state.files.insert(file, seen.id);
                seen.staged.insert(*fragment, file);
                seen.swapping = false;
            }
            Step::Follow(_) => {
                seen.pinned = state.head();
                let wanted = &state.newest().fragments;
                seen.staged.retain(|fragment, _| wanted.contains(fragment));
                seen.swapping = false;
            }
            Step::Checkpoint(_) | Step::PrepareSwap(_) => {
                if !state.is_own(&seen, self) {
                    state.runs[run] = Run::Away;
                    return Some(());
                }
                seen.serial += 1;
                seen.swapping = matches!(step, Step::PrepareSwap(_));
                state.journal = Some(seen.clone());
            }
            Step::Swap(_) => {
                if self.strict && state.head() != seen.pinned {
                    seen.swapping = false;
                } else {
                    let fragments = state.versions[seen.pinned].fragments.clone();
                    let files = seen.staged.values().copied().collect();
                    let (swap_of, migrated) = (Some(seen.id), true);
                    state.versions.push(Version { fragments, files, swap_of, migrated });
                    state.runs[run] = Run::Landed(seen);
                    return Some(());
                }
            }
            Step::Finish(_) => {
                if state.is_own(&seen, self) {
                    state.journal = None;
                    let keep = state.newest().files.clone();
                    state.clean(seen.id, &keep);
                }
                state.runs[run] = Run::Away;
                return Some(());
            }
            _ => return None,
        }
        state.runs[run] = Run::Works(seen);
        Some(())
    }
}

/// The safety property that the checker finds broken, if any.
fn broken(protocol: Protocol) -> Option<&'static str> {
    let safe: BTreeSet<&'static str> = BTreeSet::from([
        "no row is lost and none comes back",
        "every file of the newest version is there",
        "a migrated version is whole",
    ]);
    let checker =
        protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries().into_keys().find(|name| safe.contains(name));
    println!("{protocol:?}: {} states, broken: {found:?}", checker.unique_state_count());
    found
}

#[test]
fn the_protocol_as_designed_keeps_every_row_in_every_order_of_steps() {
    let checker = AS_DESIGNED.checker().threads(2).spawn_bfs().join();
    println!("states of the model: {}", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

#[test]
fn the_checker_finds_what_each_safeguard_is_for() {
    let plain = Protocol { strict: false, ..AS_DESIGNED };
    assert_eq!(broken(plain), Some("no row is lost and none comes back"));
    let unfenced = Protocol { fence: false, ..AS_DESIGNED };
    assert_eq!(broken(unfenced), Some("every file of the newest version is there"));
    let shared = Protocol { exclusive: false, ..AS_DESIGNED };
    assert!(broken(shared).is_some());
}
