"""relance and what one would run instead, in turn on copies of one table: medians, ratios, peak memory.

usage: python bench.py RELANCE_BINARY [--rows N] [--rounds N] [--dim N] [--fragments N]
                       [--without NAME,…] [--columns] [--memory]

  relance          migrate --strategy rewrite --add three constants, verified in full
  relance quick    the same with --verify quick
  relance 128MiB   the same with --memory 128MiB
  relance encoded  the same with a filter that keeps every row: no page is copied, all rows are decoded and encoded anew
  copy             lance.write_dataset(dataset): a plain rewrite that adds nothing
  cp and sync      cp -r of the table's files, and a sync: what the disk can do
  stream           to_batches, append constants, create_table from the generator
  pandas           to_pandas, add columns, drop_table, create_table: the script that relance replaces

--columns adds new columns beside the others, against LanceDB's own calls; --memory adds the peak memory of relance on
tables of 250,000 to 10,000,000 rows, encoded anew, and draws it. All of it goes to benches/results: bench.json, bench.md, memory.svg. The
table tells how each ratio was in the run that was saved before.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "benches/results"
ADDS = ["created_at:timestamp[us]=now", "category:string=general", "is_active:bool=true"]
ENCODED = ["--where", "text is not null"]
FLAGS = {"relance": [], "relance quick": ["--verify", "quick"], "relance 128MiB": ["--memory", "128MiB"],
         "relance encoded": ENCODED, "relance encoded 128MiB": [*ENCODED, "--memory", "128MiB"]}


def make(path, rows, dim, fragments):
    import lance
    import numpy as np
    import pyarrow as pa

    words = np.array("lance vector table column schema migrate stream batch arrow rust staging swap".split())
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), dim))])

    def batches(step=65_536):
        rng = np.random.default_rng(7)
        for start in range(0, rows, step):
            n = min(step, rows - start)
            text = [" ".join(w) for w in words[rng.integers(0, len(words), (n, 12))]]
            vector = pa.array(rng.standard_normal(n * dim, dtype=np.float32))
            yield pa.record_batch([pa.array(text), pa.FixedSizeListArray.from_arrays(vector, dim)], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    lance.write_dataset(reader, f"{path}/documents.lance", schema=schema, max_rows_per_file=-(-rows // fragments))


def copy(path):
    import lance

    lance.write_dataset(lance.dataset(f"{path}/documents.lance"), f"{path}/copy.lance")


def cp(path):
    subprocess.run(["cp", "-r", f"{path}/documents.lance", f"{path}/copy.lance"], check=True)
    subprocess.run(["sync"], check=True)


def pandas(path):
    import lancedb
    import pyarrow as pa

    db = lancedb.connect(path)
    table = db.open_table("documents")
    schema = table.schema
    frame = table.to_pandas().copy()
    for name, kind, value in [("created_at", pa.timestamp("us"), datetime.datetime.now()),
                              ("category", pa.string(), "general"), ("is_active", pa.bool_(), True)]:
        frame[name] = value
        schema = schema.append(pa.field(name, kind))
    db.drop_table("documents")
    db.create_table("documents", frame, schema=schema, mode="overwrite")
    db.open_table("documents").to_pandas().head(3)


def stream(path):
    import lancedb
    import pyarrow as pa

    db = lancedb.connect(path)
    source = db.open_table("documents").to_lance()
    added = [("created_at", pa.scalar(datetime.datetime.now(), pa.timestamp("us"))),
             ("category", pa.scalar("general")), ("is_active", pa.scalar(True))]
    schema = source.schema
    for name, value in added:
        schema = schema.append(pa.field(name, value.type))

    def batches():
        for batch in source.to_batches():
            columns = [*batch.columns, *(pa.repeat(value, len(batch)) for _, value in added)]
            yield pa.record_batch(columns, schema=schema)

    db.create_table("documents_new", batches(), schema=schema)


PEERS = {"copy": copy, "cp and sync": cp, "stream": stream, "pandas": pandas}


def one(name, binary, base):
    """Seconds and peak megabytes of one run, the interpreter's start left out of the seconds."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(base)) as path:
        # Second names for the files, which nobody writes to.
        shutil.copytree(f"{base}/documents.lance", f"{path}/documents.lance", copy_function=os.link)
        os.sync()
        if name in PEERS:
            command = [sys.executable, __file__, "--peer", name, path]
        else:
            command = [binary, "migrate", path, "documents", "--progress", "none", "--strategy", "rewrite", *FLAGS[name]]
            command += [part for column in ADDS for part in ("--add", column)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        assert status == 0, f"{name} failed"
        return (float(printed) if name in PEERS else seconds), usage.ru_maxrss * 1024 // 1_000_000


def made(base, rows, dim, fragments):
    # In a process of its own: a child's peak memory is at least its parent's.
    subprocess.run([sys.executable, __file__, "--make", base, str(rows), str(dim), str(fragments)], check=True)
    data = Path(base, "documents.lance/data")
    return sum(file.stat().st_size for file in data.iterdir())


def rewrites(binary, rows, dim, fragments, rounds, without):
    names = [name for name in [*FLAGS, *PEERS] if name not in without]
    seen = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as base:
        size = made(base, rows, dim, fragments)
        for turn in range(rounds):
            # Each begins a round in its turn: what ran just before leaves its mark on the disk.
            for name in names[turn % len(names):] + names[: turn % len(names)]:
                seen[name].append(one(name, binary, base))
    medians = {name: statistics.median(s for s, _ in runs) for name, runs in seen.items()}
    return {"rows": rows, "dim": dim, "fragments": fragments, "bytes": size, "rounds": rounds, "runs": [
        {"name": name, "seconds": medians[name], "least": min(s for s, _ in runs), "most": max(s for s, _ in runs),
         "ratio": medians[name] / medians["relance"], "peak_mb": max(mb for _, mb in runs)}
        for name, runs in seen.items()]}


def memory(binary, dim=96):
    """The highest peak memory of three runs on tables of more and more rows."""
    points = []
    for rows in (250_000, 1_000_000, 4_000_000, 10_000_000):
        with tempfile.TemporaryDirectory() as base:
            size = made(base, rows, dim, 1)
            runs = [one("relance encoded", binary, base) for _ in range(3)]
            seconds, peak = statistics.median(s for s, _ in runs), max(mb for _, mb in runs)
            points.append({"rows": rows, "bytes": size, "seconds": seconds, "peak_mb": peak})
            print(f"{rows:,} rows: {seconds:.2f} s, {peak} MB", flush=True)
    return points


def drawn(points):
    """Peak memory by rows, as SVG."""
    wide, high, left, low = 640, 320, 70, 270
    top = max(600, *(point["peak_mb"] for point in points))
    place = lambda point: (left + point["rows"] / points[-1]["rows"] * (wide - left - 30), low - point["peak_mb"] / top * 240)
    text = lambda x, y, what, side="middle": f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{side}">{what}</text>'
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in map(place, points))
    parts = [f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>']
    for point in points:
        x, y = place(point)
        parts += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4" fill="#1f77b4"/>', text(x, y - 10, f"{point['peak_mb']} MB"),
                  text(x, low + 20, f"{point['rows'] / 1e6:g}")]
    parts += [f'<path d="M{left} 20 V{low} H{wide - 20}" fill="none" stroke="black"/>', text(wide / 2, high - 10, "million rows"),
              text(left - 8, low, 0, "end"), text(left - 8, 34, f"{top} MB", "end")]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n')


def table_of(result, before):
    """The rewrites as Markdown; `before` has the ratios of the run that was saved last."""
    old = {run["name"]: run["ratio"] for run in (before or {}).get("runs", [])}
    lines = [f"{result['rows']:,} rows, `vector[{result['dim']}]`, {result['bytes'] / 1e9:.2f} GB, fragments: {result['fragments']}; "
             f"medians of {result['rounds']} rounds in turn:", "",
             "| | seconds, median (least to most) | times relance | before | MB/s | peak MB |", "| --- | --- | --- | --- | --- | --- |"]
    for run in result["runs"]:
        was = f"{old[run['name']]:.2f}" if run["name"] in old else ""
        rate = result["bytes"] / 1e6 / run["seconds"]
        lines.append(f"| {run['name']} | {run['seconds']:.2f} ({run['least']:.2f} to {run['most']:.2f}) | {run['ratio']:.2f} | {was} "
                     f"| {rate:.0f} | {run['peak_mb']} |")
    return "\n".join(lines)


def columns_of(found):
    """New columns beside the others, as Markdown."""
    lines = ["| | fragments | LanceDB, s | relance, s | LanceDB / relance |", "| --- | --- | --- | --- | --- |"]
    for one in found:
        own, ours = one["own"], one["relance"]
        lines.append(f"| {one['job']} | {one['fragments']} | {own:.3f} | {ours:.3f} | {own / ours:.1f} |")
    return "\n".join(lines)


def columns(binary, rounds):
    # In a process of its own, as above.
    script = Path(__file__).parent / "bench_columns.py"
    ran = subprocess.run([sys.executable, "-W", "ignore", script, binary, str(rounds)], check=True, stdout=subprocess.PIPE)
    return json.loads(ran.stdout)


def main(args):
    RESULTS.mkdir(exist_ok=True)
    saved = RESULTS / "bench.json"
    before = json.loads(saved.read_text()) if saved.exists() else {}
    key = f"{args.rows} rows, dim {args.dim}, fragments {args.fragments}"
    everything = dict(before)
    result = rewrites(args.binary, args.rows, args.dim, args.fragments, args.rounds, args.without.split(","))
    everything.setdefault("rewrites", {})
    previous = everything["rewrites"].get(key)
    everything["rewrites"] = {**everything["rewrites"], key: result}
    print(table_of(result, previous), flush=True)
    if args.columns:
        everything["columns"] = columns(args.binary, max(5, args.rounds))
        print(columns_of(everything["columns"]), flush=True)
    if args.memory:
        everything["memory"] = memory(args.binary)
        (RESULTS / "memory.svg").write_text(drawn(everything["memory"]))
    everything["machine"] = f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}"
    everything["date"] = datetime.date.today().isoformat()
    saved.write_text(json.dumps(everything, indent=1) + "\n")
    tables = [table_of(one, previous if name == key else None) for name, one in everything["rewrites"].items()]
    if "columns" in everything:
        tables.append(columns_of(everything["columns"]))
    heading = f"# Measured on {everything['date']}, {everything['machine']}"
    (RESULTS / "bench.md").write_text("\n\n".join([heading, *tables]) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2], *map(int, sys.argv[3:]))
    elif sys.argv[1] == "--peer":
        began = time.perf_counter()
        PEERS[sys.argv[2]](sys.argv[3])
        print(time.perf_counter() - began)
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("binary")
        parser.add_argument("--rows", type=int, default=1_000_000)
        parser.add_argument("--rounds", type=int, default=3)
        parser.add_argument("--dim", type=int, default=384)
        parser.add_argument("--fragments", type=int, default=1)
        parser.add_argument("--without", default="", help="what is not tried: pandas needs five times the table's size")
        parser.add_argument("--columns", action="store_true")
        parser.add_argument("--memory", action="store_true")
        main(parser.parse_args())
