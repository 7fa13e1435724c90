//! What an index is: on the host until the first select, then a selector's.

use std::sync::{Arc, Mutex, MutexGuard};

use keysieve::{Backend, KeyIndex, Keys, SelectConfig, Selector};

pub(crate) enum State {
    Untrained,
    OnHost(Box<KeyIndex>),
    AtWork(Engine),
}

/// A selector with what it was made for.
pub(crate) struct Engine {
    config: SelectConfig,
    num_qo_heads: usize,
    num_queries: usize,
    pub(crate) selector: Arc<Mutex<Selector>>,
}

/// What a panic in another thread left behind is not used again.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> keysieve::Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| {
        let got = "one that a call left half-done";
        keysieve::Error::invalid("index", got, "an index whose calls returned")
    })
}

pub(crate) fn untrained() -> keysieve::Error {
    keysieve::Error::invalid("index", "no centroids", "train or load first")
}

impl State {
    /// The selector for steps of that shape; another one goes back to the host for it.
    pub(crate) fn engine(
        &mut self,
        backend: &Backend,
        config: &SelectConfig,
        num_qo_heads: usize,
        num_queries: usize,
    ) -> keysieve::Result<&mut Engine> {
        let index = match &*self {
            State::Untrained => return Err(untrained()),
            State::OnHost(index) => Some((**index).clone()),
            State::AtWork(engine) => {
                let fits = engine.config == *config
                    && engine.num_qo_heads == num_qo_heads
                    && engine.num_queries == num_queries;
                match fits {
                    true => None,
                    false => Some(lock(&engine.selector)?.to_index()?),
                }
            }
        };
        if let Some(index) = index {
            let selector = Selector::new(backend, index, *config, num_qo_heads, num_queries)?;
            *self = State::AtWork(Engine {
                config: *config,
                num_qo_heads,
                num_queries,
                selector: Arc::new(Mutex::new(selector)),
            });
        }
        match self {
            State::AtWork(engine) => Ok(engine),
            _ => Err(untrained()),
        }
    }

    /// The selector there is, or one with the defaults: what a GPU's index is at work in.
    pub(crate) fn at_work(&mut self, backend: &Backend) -> keysieve::Result<&mut Engine> {
        let (config, heads, queries) = match &*self {
            State::Untrained => return Err(untrained()),
            State::OnHost(index) => (SelectConfig::default(), index.num_kv_heads(), 1),
            State::AtWork(engine) => (engine.config, engine.num_qo_heads, engine.num_queries),
        };
        self.engine(backend, &config, heads, queries)
    }

    pub(crate) fn to_index(&self) -> keysieve::Result<KeyIndex> {
        match self {
            State::Untrained => Err(untrained()),
            State::OnHost(index) => Ok((**index).clone()),
            State::AtWork(engine) => lock(&engine.selector)?.to_index(),
        }
    }

    pub(crate) fn append(&mut self, keys: Keys<'_>) -> keysieve::Result<()> {
        match self {
            State::Untrained => Err(untrained()),
            State::OnHost(index) => index.append(keys),
            State::AtWork(engine) => lock(&engine.selector)?.append(keys),
        }
    }
}
