//! `relance status`: once, or again and again until no migration runs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::show::{self, Looked, Unknown};
use crate::cli::{Caller, Printed, args, done, log, print, print_json, request, to_json};
use crate::{Location, Migration, Result, TableStatus, table_names};

/// What is known of `table`, or of all; with `watch`, told again each time it has passed until no run goes on.
pub(super) async fn status(
    store: args::Store,
    table: Option<&str>,
    watch: Option<Duration>,
    json: bool,
    caller: &mut Caller,
) -> Result<Printed> {
    let any = request::location(store, table.unwrap_or("any"))?;
    caller.secrets.extend(any.secrets());
    log::hide(&caller.secrets);
    let looked = tokio::select! {
        looked = watched(&any, table, watch, json, &caller.secrets) => looked?,
        // What was told last is still so.
        Ok(()) = tokio::signal::ctrl_c(), if watch.is_some() => {
            return Ok(done(String::new(), Value::Null));
        }
    };
    Ok(done(show::status(&looked), status_json(&looked)))
}

/// What is known once no run goes on, with what is known meanwhile printed; without `watch`, what is known now.
async fn watched(
    any: &Location,
    table: Option<&str>,
    watch: Option<Duration>,
    json: bool,
    secrets: &[String],
) -> Result<Vec<Looked>> {
    let mut looked = looked_at(any, table, secrets).await?;
    while let Some(every) = watch
        && looked.iter().flatten().any(is_running)
    {
        if json {
            print_json(status_json(&looked));
        } else {
            print(&show::status(&looked));
        }
        tokio::time::sleep(every).await;
        // What is dropped while it is looked at is gone the next time.
        looked = match looked_at(any, table, secrets).await {
            Err(_) => looked_at(any, table, secrets).await?,
            Ok(looked) => looked,
        };
    }
    Ok(looked)
}

fn is_running(table: &TableStatus) -> bool {
    table.staged.as_ref().is_some_and(|staged| staged.alive)
}

async fn looked_at(any: &Location, table: Option<&str>, secrets: &[String]) -> Result<Vec<Looked>> {
    if let Some(table) = table {
        return Ok(vec![Ok(status_of(any, table).await?)]);
    }
    let mut all = Vec::new();
    for table in table_names(any).await? {
        // One that cannot be looked at hides none of the others.
        all.push(status_of(any, &table).await.map_err(|error| Unknown {
            table,
            message: error.report(secrets),
            json: error.json(secrets),
        }));
    }
    Ok(all)
}

async fn status_of(any: &Location, table: &str) -> Result<TableStatus> {
    Migration::of(any.sibling(table)?).status().await
}

fn status_json(tables: &[Looked]) -> Value {
    let tables = tables.iter().map(|table| match table {
        Ok(table) => to_json(table),
        Err(Unknown { table, json, .. }) => json!({ "table": table, "error": json }),
    });
    json!({ "tables": tables.collect::<Vec<_>>() })
}
