//! A call that runs on threads of its own, and what Python sees of it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{thread, time::Duration};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use relance::{Cancel, cli::json_events};
use serde_json::{Value, json};

use crate::{
    asked::{Asked, More},
    producer::Function,
    schema::Schema,
};

/// Events that are kept for whoever asks for them; the oldest go first.
const EVENTS_MAX: usize = 10_000;

/// Bytes of a call's stack: as many as the main thread of a process has on Linux.
const STACK_BYTES: usize = 8 << 20;

/// One call of the engine. It begins when it is made, and goes on when nobody holds it any more.
#[pyclass(frozen, module = "relance._relance")]
#[derive(Debug)]
pub(crate) struct Call {
    shared: Arc<Shared>,
    cancel: Cancel,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<String>,
    outcome: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: String) {
        let mut state = self.state();
        if state.events.len() == EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back(event);
    }

    fn end(&self, outcome: &Value) {
        self.state().outcome = Some(outcome.to_string());
        self.ended.notify_all();
    }
}

#[pymethods]
impl Call {
    /// Begins what `asked` says, as JSON. `schema` is one to come to; `functions` give values, each to the column that is
    /// named with it.
    #[new]
    #[pyo3(signature = (asked, schema=None, functions=Vec::new()))]
    fn new(
        asked: &str,
        schema: Option<PyRef<'_, Schema>>,
        functions: Vec<(String, Py<PyAny>)>,
    ) -> PyResult<Self> {
        let asked: Asked = serde_json::from_str(asked)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let call = Self { shared: Arc::default(), cancel: Cancel::default() };
        let (shared, cancel) = (Arc::clone(&call.shared), call.cancel.clone());
        let functions = functions.into_iter().map(|(name, one)| (name, Function::of(one)));
        let more =
            More { schema: schema.map(|schema| schema.0.clone()), functions: functions.collect() };
        let work = move || {
            let told = catch_unwind(AssertUnwindSafe(|| outcome(asked, more, &shared, cancel)));
            shared.end(&told.unwrap_or_else(|_| {
                let message = "relance panicked; this is a bug";
                json!({ "error": { "kind": "failed", "message": message, "exit": 1 } })
            }));
        };
        let started = thread::Builder::new().name("relance".to_owned()).stack_size(STACK_BYTES);
        let started = started.spawn(work);
        started
            .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread: {error}")))?;
        Ok(call)
    }

    /// Waits for its end, `seconds` at most, without the GIL. Says whether it has ended.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            let state = self.shared.state();
            let going = |state: &mut State| state.outcome.is_none();
            let waited = self.shared.ended.wait_timeout_while(state, time, going);
            waited.unwrap_or_else(PoisonError::into_inner).0.outcome.is_some()
        })
    }

    /// The events since the last call of this, as JSON, each once.
    fn events(&self) -> Vec<String> {
        self.shared.state().events.drain(..).collect()
    }

    /// What became of it, as JSON, once it has ended.
    fn outcome(&self) -> Option<String> {
        self.shared.state().outcome.clone()
    }

    /// Asks it to stop at the next safe place, and to keep what is staged.
    fn cancel(&self) {
        self.cancel.cancel();
    }
}

/// What the call gives, or the error that ended it.
fn outcome(asked: Asked, more: More, shared: &Arc<Shared>, cancel: Cancel) -> Value {
    let secrets = asked.secrets();
    let listener = Arc::clone(shared);
    let progress = json_events(asked.table(), move |event| listener.tell(event));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(asked.run(more, progress, cancel));
            // A function that never returns is left behind.
            runtime.shutdown_background();
            ended
        }
        Err(error) => {
            return json!({ "error": { "kind": "failed", "exit": 1, "message": error.to_string() } });
        }
    };
    result.unwrap_or_else(|error| json!({ "error": error.json(&secrets) }))
}
