"""Tables in object stores: every strategy, a migration's whole life, and that nothing is left over."""

import signal

import lance
import numpy
import pyarrow as pa
import pytest
from buckets import TABLE, Bucket, Killer, counted, documents, general, is_staged_file
from lancedb.index import BTree, IvfPq
from proxy import PASS, Action, Proxy
from support import until

ADD = ["--add", "category:string=general"]
REWRITE = ["--strategy", "rewrite", *ADD]
STAGING = f"{TABLE}__relance_staging"
WAYS = pytest.mark.parametrize("words", [ADD, REWRITE], ids=["columns", "rewrite"])


def of(strategy: str, words: list, change, keeps=lambda row: True):
    return strategy, words, change, keeps


#: By name: the strategy that is taken, the flags, what becomes of a row, and which rows stay.
CASES = {
    "constants": of(
        "columns", [*ADD, "--add", "active:bool not null=true"], lambda row: row | {"category": "general", "active": True},
    ),
    "computed": of(
        "columns", ["--compute", "length:int32=character_length(text)"], lambda row: row | {"length": len(row["text"])},
    ),
    "cast": of("columns", ["--cast", "id:string"], lambda row: row | {"id": str(row["id"])}),
    "set and filled": of(
        "columns", ["--set", "price=price * 2", "--fill", "note=none"],
        lambda row: row | {"price": row["price"] * 2, "note": row["note"] or "none"},
    ),
    "not null": of("columns", ["--fill", "note=", "--not-null", "note"], lambda row: row | {"note": row["note"] or ""}),
    "dropped": of("metadata", ["--drop", "price", "--drop", "note"], lambda row: without(row, "price", "note")),
    "renamed": of("metadata", ["--rename", "text=body"], lambda row: without(row, "text") | {"body": row["text"]}),
    "all null": of("metadata", ["--add", "later:int64"], lambda row: row | {"later": None}),
    "renamed and computed": of(
        "columns", ["--rename", "text=body", "--compute", "upper:string=upper(body)", "--drop", "note"],
        lambda row: without(row, "text", "note") | {"body": row["text"], "upper": row["text"].upper()},
    ),
    "rewritten": of(
        "rewrite", ["--strategy", "rewrite", *ADD, "--cast", "price:string"],
        lambda row: row | {"category": "general", "price": str(row["price"])},
    ),
    "copied": of("rewrite", ["--strategy", "rewrite", *ADD], lambda row: row | {"category": "general"}),
    "filtered": of("rewrite", ["--where", "id % 2 = 0"], lambda row: row, lambda row: row["id"] % 2 == 0),
    "cut": of("rewrite", ["--rows-per-file", "50"], lambda row: row),
    "newer": of("rewrite", ["--storage-version", "2.2", *ADD], lambda row: row | {"category": "general"}),
}


def without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


def plan(bucket: Bucket, *words: str) -> dict:
    """What is planned. Nothing is written for it."""
    there = bucket.objects()
    with Proxy(bucket.store.port) as proxy:
        planned = bucket.run("plan", *words, "--json", port=proxy.port).json
    assert bucket.objects() == there
    assert not [request.target for request in proxy.requests if request.writes]
    return planned


def ordered(rows: list) -> list:
    """Rows by their id, which may be a text by now."""
    return sorted(rows, key=lambda row: int(row["id"]))


@pytest.mark.parametrize("case", CASES)
def test_every_strategy_gives_what_was_asked_and_goes_back(bucket, case):
    strategy, words, change, keeps = CASES[case]
    version = "2.0" if case in ("newer", "cast", "rewritten") else "2.1"
    old = bucket.make(version=version)
    old.delete("id = 7")
    before = bucket.rows()
    planned = plan(bucket, *words)
    report = bucket.run("migrate", *words, "--json", "-vv").json["report"]
    assert planned["strategy"] == strategy and planned["rows"] == len(before)
    assert report["strategy"] == strategy
    expected = [change(row) for row in before if keeps(row)]
    assert ordered(bucket.rows()) == expected
    assert report["rows"] == len(expected) == bucket.table().count_rows()
    assert ordered(old.to_arrow().to_pylist()) == before, "a reader of the old version reads it no more"
    assert bucket.dataset().data_storage_version == ("2.2" if case == "newer" else version)
    bucket.assert_clean()
    if case != "filtered":
        bucket.run("verify")
    bucket.run("rollback", "-vv")
    assert bucket.rows() == before
    bucket.run("finalize", "-vv")
    assert bucket.rows() == before
    bucket.assert_clean()


# A migration's life


@WAYS
def test_a_hold_changes_nothing_until_it_is_resumed(bucket, words):
    bucket.make()
    before, there = bucket.rows(), bucket.objects()
    held = bucket.run("migrate", *words, "--hold", "--json", "-vv").json
    assert held["ended"] == "held" and held["held"]["rows"] == len(before)
    assert bucket.rows() == before
    assert {name: size for name, size in bucket.objects().items() if name in there} == there
    staged = bucket.staged()
    assert (staged["state"], staged["rows_done"], staged["chunks_done"]) == ("held", len(before), staged["chunks"])
    staging = bucket.connect().open_table(STAGING).to_arrow().to_pylist()
    assert sorted(staging, key=lambda row: row["id"]) == general(before)
    bucket.run("migrate", *words, code=6)
    bucket.run("resume", "-vv")
    assert bucket.rows() == general(before)
    assert bucket.staged() is None
    bucket.assert_clean()


@WAYS
def test_an_abort_leaves_the_objects_that_were_there(bucket, words):
    bucket.make().delete("id = 7")
    before, there = bucket.rows(), bucket.objects()
    bucket.run("migrate", *words, "--hold")
    assert bucket.objects() != there
    bucket.run("abort", "-vv")
    assert bucket.objects() == there
    assert bucket.rows() == before
    bucket.assert_clean()


class DataKiller(Killer):
    """Kills at the n-th data file that is staged."""

    def __call__(self, request):
        return super().__call__(request) if is_staged_file(request) else PASS


def killed_while_staging(bucket: Bucket, *words: str) -> None:
    killer = DataKiller(3)
    with Proxy(bucket.store.port, killer) as proxy:
        killer.run = bucket.start("migrate", *words, port=proxy.port)
        killer.run.ended().expect(-9)


#: One fragment after the other, each of a chunk of its own.
SLOWLY = ["--workers", "1", "--rows-per-file", "50"]


@pytest.mark.parametrize("words", [ADD, [*REWRITE, *SLOWLY]], ids=["columns", "rewrite"])
def test_a_killed_run_is_resumed(bucket, words):
    bucket.make()
    before = bucket.rows()
    killed_while_staging(bucket, *words)
    assert bucket.rows() == before
    assert bucket.staged()["state"] == "interrupted"
    bucket.run("resume", "-vv")
    assert bucket.rows() == general(before)
    bucket.run("verify")
    bucket.assert_clean()


@pytest.mark.parametrize("words", [ADD, [*REWRITE, *SLOWLY]], ids=["columns", "rewrite"])
def test_a_killed_run_is_aborted(bucket, words):
    bucket.make()
    before, there = bucket.rows(), bucket.objects()
    killed_while_staging(bucket, *words)
    bucket.run("abort", "-vv")
    assert bucket.objects() == there
    assert bucket.rows() == before
    bucket.assert_clean()


# Others write


def write(bucket: Bucket) -> None:
    """What a Python writer does: rows come, go and change."""
    table = bucket.table()
    table.add(documents(1000, 20))
    table.delete("id % 10 = 3")
    table.update(where="id % 10 = 4", values={"text": "changed"})
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(documents(1015, 10))


def written(rows: list) -> list:
    """The rows that `write` leaves."""
    rows = rows + documents(1000, 20).to_pylist()
    rows = [row for row in rows if row["id"] % 10 != 3]
    rows = [row | {"text": "changed"} if row["id"] % 10 == 4 else row for row in rows]
    merged = {row["id"]: row for row in documents(1015, 10).to_pylist()}
    return sorted([row for row in rows if row["id"] not in merged] + list(merged.values()), key=lambda row: row["id"])


@WAYS
@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_what_others_write_during_a_hold_is_caught_up_with(bucket, words, version):
    bucket.make(version=version).delete("id % 9 = 1")
    before = bucket.rows()
    bucket.run("migrate", *words, "--hold")
    write(bucket)
    assert bucket.rows() == written(before)
    bucket.run("resume", "-vv")
    assert bucket.rows() == general(written(before))
    assert bucket.dataset().data_storage_version == version
    bucket.run("verify")
    bucket.assert_clean()


@WAYS
def test_what_others_write_while_it_stages_is_caught_up_with(bucket, words):
    bucket.make().delete("id % 9 = 1")
    before, wrote = bucket.rows(), []

    def rule(request):
        if not wrote and is_staged_file(request):
            wrote.append(True)
            write(bucket)
        return PASS

    with Proxy(bucket.store.port, rule) as proxy:
        bucket.run("migrate", *words, "-vv", port=proxy.port)
    assert wrote
    assert bucket.rows() == general(written(before))
    bucket.assert_clean()


def test_a_hold_that_waits_catches_up_until_it_is_resumed(bucket):
    bucket.make()
    before = bucket.rows()
    waiting = bucket.start("migrate", *ADD, "--hold=wait", "-vv")
    until(lambda: (bucket.staged() or {}).get("state") == "held", "a hold")
    write(bucket)
    bucket.run("resume", "-vv")
    waiting.ended().expect(0)
    assert bucket.rows() == general(written(before))
    bucket.assert_clean()


# Files that are uploaded in parts


def large(first: int, count: int) -> pa.Table:
    """Rows that no encoding makes small: 8 KiB each."""
    random = numpy.random.default_rng(first)
    vectors = pa.FixedSizeListArray.from_arrays(random.random(count * 1024), 1024)
    return pa.table({"id": pa.array(range(first, first + count), pa.int64()), "vector": vectors})


def part(request) -> bool:
    return request.method == "PUT" and ("partNumber=" in request.query or "comp=block&" in request.query)


WHOLE = ["--strategy", "rewrite", "--rows-per-file", "2000", *ADD]


def test_large_files_are_uploaded_in_parts(bucket):
    bucket.make(rows=4000, files=1, data=large)
    before = bucket.rows()
    with Proxy(bucket.store.port) as proxy:
        bucket.run("migrate", *WHOLE, "-vv", port=proxy.port)
    assert sum(part(request) for request in proxy.requests) > 3
    assert bucket.rows() == general(before)
    bucket.assert_clean()


class PartKiller(Killer):
    """Kills at the n-th part of an upload."""

    def __call__(self, request):
        return super().__call__(request) if part(request) else PASS


def ended_while_uploading(bucket: Bucket, how: int) -> list:
    """A run that a signal ends between the parts of an upload. Gives the rows before."""
    bucket.make(rows=4000, files=1, data=large)
    before = bucket.rows()
    killer = PartKiller(3, passes=True, how=how)
    with Proxy(bucket.store.port, killer) as proxy:
        killer.run = bucket.start("migrate", *WHOLE, port=proxy.port)
        done = killer.run.ended()
    assert killer.killed and done.code == (-9 if how == signal.SIGKILL else 5), done.said
    assert bucket.rows() == before
    return before


@pytest.mark.parametrize("then", ["resume", "abort"])
def test_a_run_that_is_killed_between_parts(bucket, then):
    before = ended_while_uploading(bucket, signal.SIGKILL)
    bucket.run(then, "-vv")
    assert bucket.rows() == (general(before) if then == "resume" else before)
    assert bucket.unnamed() == []


@pytest.mark.parametrize("bucket", ["s3", "gcs"], indirect=True)
@pytest.mark.parametrize("then", ["resume", "abort"])
def test_uploads_that_a_killed_run_began_are_given_up(bucket, then):
    ended_while_uploading(bucket, signal.SIGKILL)
    ours = bucket.uploads()
    assert ours, "the killed run left none"
    others = [f"{bucket.name}/{TABLE}.lance/data/{name}.lance" for name in ("a", "b & c", "d")]
    others.append(f"{bucket.name}/{TABLE}2.lance/data/{ours[0].rpartition('/')[2]}")
    before = bucket.uploads()
    for name in others:
        bucket.store.begin_upload(name)
    theirs = [name for name in bucket.uploads() if name not in before]
    done = bucket.run(then)
    assert "gave up 1 unfinished upload" in done.err
    assert len(theirs) == 4 and sorted(bucket.uploads()) == sorted(theirs), "those of others are none of its business"


ODD_ANSWERS = {
    "501": Action(answer=(501, b"")),
    "403": Action(answer=(403, b"<Error><Code>AccessDenied</Code></Error>")),
    "html": Action(answer=(200, b"<html><body>no store</body></html>")),
    "hang": Action(hang=True),
    "reset": Action(reset=True),
}


@pytest.mark.parametrize("then", ["resume", "abort"])
@pytest.mark.parametrize("how", ODD_ANSWERS)
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_store_that_does_not_list_uploads_is_no_obstacle(bucket, how, then):
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *ADD, "--hold")
    listing = counted(lambda request: request.method == "GET" and "uploads=" in request.query, lambda _: ODD_ANSWERS[how])
    with Proxy(bucket.store.port, listing) as proxy:
        done = bucket.run(then, port=proxy.port)
    assert done.err.count("unfinished uploads are not looked for") == 1
    assert "X-Amz" not in done.said
    assert bucket.rows() == (general(before) if then == "resume" else before)
    bucket.assert_clean()


@pytest.mark.parametrize("then", ["resume", "abort"])
@pytest.mark.parametrize("how", ["501", "403", "hang", "reset"])
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_store_that_gives_no_upload_up_is_no_obstacle(bucket, how, then):
    before = ended_while_uploading(bucket, signal.SIGKILL)
    left = bucket.uploads()
    ending = counted(lambda request: request.method == "DELETE" and "uploadId=" in request.query, lambda _: ODD_ANSWERS[how])
    with Proxy(bucket.store.port, ending) as proxy:
        done = bucket.run(then, "--store-timeout", "20s", port=proxy.port)
    assert done.err.count("an unfinished upload of") == 1 and "is left" in done.err
    assert bucket.rows() == (general(before) if then == "resume" else before)
    assert bucket.uploads() == left


@pytest.mark.parametrize("more", [{}, {"aws_checksum_algorithm": "SHA256"}], ids=["plain", "checksums"])
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_bytes_that_are_damaged_on_their_way_are_never_swapped_in(bucket, more):
    """A bit of the second part of a staged file is another one. Either the store refuses it, or it does not read back."""
    bucket.make(rows=4000, files=1, data=large)
    before = bucket.rows()
    with Proxy(bucket.store.port, counted(part, lambda n: Action(damage=n == 2))) as proxy:
        done = bucket.start("migrate", *WHOLE, port=proxy.port, more=more).ended()
        refused = [request.status for request in proxy.requests if part(request) and request.status >= 400]
    if more:
        assert refused, "the store takes what its checksum is not of"
    assert (done.code == 0 and refused) or (done.code in (1, 4) and bucket.rows() == before), done.said
    if done.code != 0:
        bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


def test_uploads_of_an_interrupted_run_are_given_up(bucket):
    before = ended_while_uploading(bucket, signal.SIGINT)
    assert bucket.uploads() == []
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


# What is kept


def index_ids(bucket: Bucket) -> dict:
    indices = bucket.dataset().describe_indices()
    return {index.name: [segment.uuid for segment in index.segments] for index in indices}


def indexed(bucket: Bucket):
    table = bucket.make(rows=600)
    table.create_index("id", config=BTree())
    table.create_index("vector", config=IvfPq(distance_type="l2", num_partitions=2, num_sub_vectors=2, num_bits=4))
    return table


def assert_found(bucket: Bucket) -> None:
    """Every row is in the indices, and queries use them."""
    table = bucket.table()
    for name in ("id_idx", "vector_idx"):
        stats = table.index_stats(name)
        assert (stats.num_indexed_rows, stats.num_unindexed_rows) == (600, 0)
    assert table.search().where("id = 17").to_list()[0]["text"] == "text 17"
    assert "ScalarIndexQuery" in table.search().where("id = 17").explain_plan(True)
    nearest = table.search([float(17 + i) for i in range(8)]).nprobes(2).refine_factor(50).limit(1).to_list()
    assert nearest[0]["id"] == 17


def test_indices_stay_as_they_are_beside_new_columns(bucket):
    indexed(bucket)
    there = index_ids(bucket)
    bucket.run("migrate", *ADD, "-vv")
    assert index_ids(bucket) == there
    assert_found(bucket)
    bucket.assert_clean()


def test_indices_are_built_again_by_a_rewrite(bucket):
    indexed(bucket)
    there = index_ids(bucket)
    report = bucket.run("migrate", *REWRITE, "--json", "-vv").json["report"]
    assert sorted(report["indices_rebuilt"]) == ["id_idx", "vector_idx"]
    assert index_ids(bucket).keys() == there.keys() and index_ids(bucket) != there
    assert_found(bucket)
    bucket.assert_clean()
    bucket.run("rollback")
    assert index_ids(bucket) == there
    assert_found(bucket)
    bucket.run("finalize")
    bucket.assert_clean()


#: By storage version: how a column of blobs is declared and filled, and the change it goes through.
BLOBS = {"2.1": ("2.1", REWRITE), "2.2": ("2.2", REWRITE), "2.1 to 2.2": ("2.1", [*ADD, "--storage-version", "2.2"]), "beside": ("2.2", ADD)}


@pytest.mark.parametrize("way", BLOBS)
def test_blobs_are_kept(bucket, way):
    version, words = BLOBS[way]
    held = {n: None if n % 7 == 3 else bytes([n]) * [0, 10, 60, 200, 3000, 5][n % 6] for n in range(60)}
    if version == "2.2":
        field = lance.blob_field("b", inline_size_threshold=50, dedicated_size_threshold=1000)
        column = lance.blob_array(list(held.values()))
    else:
        field = pa.field("b", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        column = pa.array(held.values(), pa.large_binary())
    data = pa.table([pa.array(held, pa.int64()), column], schema=pa.schema([("id", pa.int64()), field]))
    place, options = f"{bucket.uri}/{TABLE}.lance", bucket.store.options()
    lance.write_dataset(data, place, data_storage_version=version, max_rows_per_file=25, storage_options=options)
    assert blobs(bucket) == held
    bucket.run("migrate", *words, "-vv")
    assert blobs(bucket) == held
    assert bucket.dataset().to_table(columns=["category"]).to_pylist() == [{"category": "general"}] * 60
    bucket.assert_clean()


def blobs(bucket: Bucket) -> dict:
    """What every row's blob holds, by id."""
    live = bucket.dataset()
    ids = live.to_table(columns=["id"])["id"].to_pylist()
    there = live.to_table(columns=["id"], filter="b IS NOT NULL")["id"].to_pylist()
    read = live.take_blobs("b", indices=[n for n, i in enumerate(ids) if i in set(there)])
    return dict.fromkeys(ids) | {i: blob.readall() for i, blob in zip(there, read)}


# The way back


@WAYS
def test_a_rollback_carries_later_writes_back(bucket, words):
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *words, "--rename", "text=body")
    table = bucket.table()
    later = documents(1000, 20).rename_columns(["id", "body", "price", "note", "vector"])
    table.add(later.append_column("category", pa.array(["late"] * 20)))
    table.delete("id < 5")
    there = bucket.objects()
    bucket.run("rollback", code=3)
    assert bucket.objects() == there
    bucket.run("rollback", "--keep-writes", "-vv")
    assert bucket.rows() == [*before[5:], *documents(1000, 20).to_pylist()]
    bucket.assert_clean()


def test_a_rollback_discards_later_writes_when_it_is_told_to(bucket):
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *ADD)
    bucket.table().delete("id < 5")
    bucket.run("rollback", "--discard-writes")
    assert bucket.rows() == before
    bucket.run("finalize")
    assert bucket.rows() == before
    bucket.assert_clean()


def test_finalize_gives_up_what_only_the_old_version_used(bucket):
    bucket.make()
    before = bucket.rows()
    bucket.run("migrate", *REWRITE)
    point = bucket.run("status", "--json").json["tables"][0]["rollback_points"][0]
    many = len(bucket.objects())
    report = bucket.run("finalize", "--history", "--json", "-vv").json
    assert report["version"] == point["version"] and report["files"] > 0
    assert len(bucket.objects()) < many
    assert bucket.rows() == general(before)
    assert len(bucket.dataset().versions()) == 1
    assert bucket.run("status", "--json").json["tables"][0]["rollback_points"] == []
    bucket.run("rollback", code=1)
    bucket.assert_clean()
    (data,) = [name for name in bucket.objects() if "/data/" in name]
    assert bucket.dataset().get_fragments()[0].metadata.files[0].path == data.rpartition("/")[2]
