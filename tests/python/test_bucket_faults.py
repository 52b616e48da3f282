"""Tables in object stores that throttle, fail, lose answers and go away, and commands that are killed at any write."""

import datetime
import signal
import threading
import time

import pyarrow as pa
import pytest
import stores
from buckets import TABLE, Appender, Bucket, counted, documents, general, is_staged_file, kill_at
from proxy import PASS, THROTTLED, TOO_MANY, Action, Proxy

ADD = ["--add", "category:string=general"]
REWRITE = ["--strategy", "rewrite", "--rows-per-file", "50", *ADD]
GCS = pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
S3 = pytest.mark.parametrize("bucket", ["s3"], indirect=True)


def every(n: int, action: Action):
    return lambda: counted(lambda _: True, lambda seen: action if seen % n == 0 else PASS)


def cut_bodies():
    """Of every fourth object that is read, only the first bytes arrive."""
    return counted(lambda request: request.kind == "GET", lambda seen: Action(cut_after=20) if seen % 4 == 0 else PASS)


FIRES = {
    "every third is throttled": every(3, Action(answer=THROTTLED)),
    "every fifth is too many": every(5, Action(answer=TOO_MANY)),
    "every seventh is reset": every(7, Action(reset=True)),
    "bodies are cut": cut_bodies,
    "everything is done twice": lambda: lambda _: Action(twice=True),
}


#: Where, and which way.
PLACES = pytest.mark.parametrize(
    "bucket, words", [("s3", ADD), ("s3", REWRITE), ("azure", REWRITE), ("gcs", ADD)], indirect=["bucket"],
    ids=["s3-columns", "s3-rewrite", "azure-rewrite", "gcs-columns"],
)


@PLACES
@pytest.mark.parametrize("fire", FIRES)
def test_a_store_under_fire_gives_the_same_rows(bucket, fire, words):
    bucket.make().delete("id = 7")
    before = bucket.rows()
    with Proxy(bucket.store.port, FIRES[fire]()) as proxy:
        bucket.run("migrate", *words, "-vv", "--progress", "json", port=proxy.port)
        assert bucket.rows() == general(before)
        bucket.assert_clean()
        bucket.run("rollback", port=proxy.port)
    assert bucket.rows() == before
    bucket.assert_clean()


#: Requests that remove many objects, in S3 and in Azure.
MANY = ("delete", "delete=", "comp=batch", "restype=container&comp=batch")

#: By the kind of write: which requests are meant.
WRITES = {
    "data": lambda request: request.method == "PUT" and "/data/" in request.path,
    "commits": lambda request: request.method == "PUT" and "documents.lance/_versions/" in request.path,
    "transactions": lambda request: request.method == "PUT" and "_transactions/" in request.path,
    "tags": lambda request: request.method == "PUT" and "_refs/" in request.path,
    "checkpoints": lambda request: request.method == "PUT" and "__relance_staging.lance/_versions/" in request.path,
    "others beside": lambda request: request.method == "PUT" and "__relance_staging" in request.path,
    "removals": lambda request: request.method == "DELETE" or (request.method == "POST" and request.query in MANY),
}


def once_each(is_it, action: Action):
    """A rule: the first request for each object of those for which `is_it` becomes `action`."""
    seen: set = set()

    def rule(request) -> Action:
        if not is_it(request) or request.target in seen:
            return PASS
        seen.add(request.target)
        return action

    return rule, seen


@PLACES
@pytest.mark.parametrize("kind", WRITES)
def test_replies_to_writes_are_lost(bucket, kind, words):
    bucket.make()
    before = bucket.rows()
    rule, seen = once_each(WRITES[kind], Action(lose_reply=True))
    with Proxy(bucket.store.port, rule) as proxy:
        bucket.run("migrate", *words, "-vv", port=proxy.port)
        assert seen
        assert bucket.rows() == general(before)
        bucket.assert_clean()
        bucket.run("rollback", port=proxy.port)
        assert bucket.rows() == before
    bucket.assert_clean()


def dying(store, is_it):
    """A rule: the server dies at the first such request, and is back after a while."""
    deaths: list = []

    def die() -> None:
        # Azurite forgets what it was told in the last seconds when it is killed.
        store.stop(signal.SIGTERM if store.kind == "azure" else signal.SIGKILL)
        time.sleep(3)
        store.start()

    def rule(request):
        if not deaths and is_it(request):
            deaths.append(threading.Thread(target=die))
            deaths[0].start()
        return PASS

    return rule, deaths


def through_a_death(bucket: Bucket, is_it) -> None:
    bucket.make()
    before = bucket.rows()
    rule, deaths = dying(bucket.store, is_it)
    with Proxy(bucket.store.port, rule) as proxy:
        run = bucket.start("migrate", *REWRITE, "-vv", port=proxy.port)
        done = run.ended()
    assert deaths
    deaths[0].join()
    done.expect(0)
    assert bucket.rows() == general(before)
    bucket.assert_clean()


def test_a_server_that_dies_while_it_stages_is_waited_for(bucket):
    through_a_death(bucket, is_staged_file)


def test_a_server_that_dies_before_anything_is_staged_is_waited_for(bucket):
    through_a_death(bucket, lambda request: request.writes)


# Death


def writes_of(bucket: Bucket, words: list) -> int:
    """How many writes a run of it makes."""
    whole = Bucket(bucket.store, f"{bucket.name}-whole")
    whole.make()
    with Proxy(bucket.store.port) as proxy:
        whole.run("migrate", *words, port=proxy.port)
    return sum(request.writes for request in proxy.requests)


def deaths(bucket: Bucket, words: list, count: int):
    """A run that is killed at one write of so many, spread over its life; each in a bucket of its own."""
    last = writes_of(bucket, words)
    assert last > count
    for step in range(count):
        n = 1 + step * (last - 1) // (count - 1)
        one = Bucket(bucket.store, f"{bucket.name}-{n}")
        one.make()
        yield n, one


#: Where, which way, and how often.
DEATHS = pytest.mark.parametrize(
    "bucket, words, count", [("s3", ADD, 8), ("s3", REWRITE, 12), ("gcs", REWRITE, 10), ("azure", ADD, 4), ("azure", REWRITE, 6)],
    indirect=["bucket"], ids=["s3-columns", "s3-rewrite", "gcs-rewrite", "azure-columns", "azure-rewrite"],
)


@DEATHS
def test_whenever_it_dies_it_can_be_finished(bucket, words, count):
    for n, one in deaths(bucket, words, count):
        before = one.rows()
        killed = kill_at(one, n, "migrate", *words, passes=n % 2 == 0)
        assert one.rows() in (before, general(before)), n
        if one.staged() is not None:
            one.run("resume", "-vv")
        elif one.rows() == before:
            one.run("migrate", *words)
        assert killed and one.rows() == general(before), n
        one.assert_clean()


@DEATHS
def test_whenever_it_dies_it_can_be_dropped(bucket, words, count):
    for n, one in deaths(bucket, words, count):
        before, there = one.rows(), one.objects()
        assert kill_at(one, n, "migrate", *words, passes=n % 2 == 0)
        staged = one.staged()
        if one.rows() != before:
            assert one.rows() == general(before), n
            one.run("abort", "-vv", code=3 if staged else 1)
            assert one.rows() == general(before), n
            one.run("rollback", "-vv")
        else:
            # It may have died with its first file beside the table, and nothing that says what it is for.
            done = one.start("abort", "-vv").ended()
            assert done.code == 0 or (staged is None and done.code == 1), (n, done.said)
            assert_dropped(one, there, staged)
        assert one.rows() == before, n
        assert one.staged() is None
        assert without_probes(one.unnamed()) == [], n
        assert not one.uploads()


def assert_dropped(bucket: Bucket, there: dict, staged) -> None:
    """No object is left over, but for an empty version where a swap may still have been on its way."""
    left = bucket.objects()
    more = without_probes(left.keys() - there.keys())
    allowed = ("_versions/", "_transactions/") if staged and staged["phase"] == "swap" else ()
    assert [name for name in more if not any(part in name for part in allowed)] == []
    assert there.keys() <= left.keys()


def without_probes(names) -> list:
    """Without the empty object that tells whether a store may be written to: what a killed run left of it goes with the next."""
    return [name for name in names if "-relance-probe-" not in name]


# Deaths of the other commands


def held(bucket: Bucket) -> None:
    bucket.run("migrate", *REWRITE, "--hold")


def swapped(bucket: Bucket) -> None:
    bucket.run("migrate", *REWRITE)


def killed_often(bucket: Bucket, prepare, command: str, *words: str):
    """A command that is killed at its first write, at its fourth, and so on, until it lives; each in a bucket of its own."""
    for n in range(1, 60, 3):
        one = Bucket(bucket.store, f"{bucket.name}-{n}")
        one.make()
        before, there = one.rows(), one.objects()
        prepare(one)
        if not kill_at(one, n, command, *words, passes=n % 2 == 0):
            assert n > 3
            return
        yield one, before, there
    raise AssertionError(f"{command} writes and writes")


@GCS
def test_a_killed_abort_is_done_again(bucket):
    for one, before, there in killed_often(bucket, held, "abort"):
        code = one.start("abort").ended().code
        assert code == 0 or (code == 1 and one.staged() is None)
        assert (one.rows(), one.objects()) == (before, there)
        one.assert_clean()


@GCS
def test_a_killed_resume_is_done_again(bucket):
    for one, before, _ in killed_often(bucket, held, "resume"):
        if one.staged() is not None:
            one.run("resume")
        assert one.rows() == general(before)
        one.assert_clean()


@GCS
def test_a_killed_rollback_is_done_again(bucket):
    for one, before, _ in killed_often(bucket, swapped, "rollback"):
        if one.rows() != before:
            one.run("rollback")
        assert one.rows() == before
        one.run("finalize")
        assert one.rows() == before
        one.assert_clean()


@GCS
def test_a_killed_rollback_that_keeps_writes_is_done_again(bucket):
    later = documents(1000, 20).append_column("category", pa.array(["late"] * 20))

    def written_to(one: Bucket) -> None:
        swapped(one)
        one.table().add(later)

    for one, before, _ in killed_often(bucket, written_to, "rollback", "--keep-writes"):
        after = [*before, *documents(1000, 20).to_pylist()]
        if one.staged() is not None:
            one.run("resume")
        elif one.rows() != after:
            one.run("rollback", "--keep-writes")
        assert one.rows() == after
        one.assert_clean()


@GCS
def test_a_killed_finalize_leaves_the_table_whole(bucket):
    for one, before, _ in killed_often(bucket, swapped, "finalize", "--history"):
        assert one.rows() == general(before)
        one.start("finalize", "--history").ended()
        assert one.rows() == general(before)
        assert one.run("status", "--json").json["tables"][0]["rollback_points"] == []


@GCS
def test_a_killed_finalize_is_done_again(bucket):
    for one, _, there in killed_often(bucket, swapped, "finalize", "--history"):
        done = one.start("finalize", "--history").ended()
        # One that was killed after its last write has done all.
        assert done.code == 0 or "no rollback point" in done.err, done.said
        assert not [name for name in there if "/data/" in name and name in one.objects()]
        one.assert_clean()


@S3
def test_a_run_that_dies_while_others_append_loses_no_row(bucket):
    bucket.make()
    before = bucket.rows()
    with Appender(bucket) as appender:
        appender.goes_on()
        assert kill_at(bucket, 14, "migrate", *REWRITE)
        appender.goes_on()
        bucket.run("resume", "-vv")
        appender.goes_on()
    rows = bucket.rows()
    shape = [{name: value for name, value in row.items() if name != "category"} for row in rows]
    assert shape == [*before, *appender.rows()]
    added = [row["category"] for row in rows]
    assert added == sorted(added, key=lambda value: value is None), "a row of the old shape lost its default"
    assert added[: len(before) + 4] == ["general"] * (len(before) + 4)
    assert added[-1] is None, "nothing was appended after the swap"


# What others do to the table itself


def first(is_it, act):
    """A rule: `act` is done at the first such request, before it is passed on."""
    return counted(is_it, lambda n: act() if n == 1 else PASS)


def is_manifest(request) -> bool:
    return f"/{TABLE}.lance/_versions/" in request.path and "latest_version_hint" not in request.path


MOMENTS = {
    "the newest version": lambda request: request.method == "GET" and is_manifest(request),
    "the trial": lambda request: request.method == "GET" and "/data/" in request.path,
    "the journal": lambda request: request.method == "PUT" and "__relance_staging.lance/" in request.path,
    "the pin": lambda request: request.method == "PUT" and "_refs/tags/relance-" in request.path,
}


@S3
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_others_clean_away_before_it_is_pinned_is_passed_over(bucket, moment):
    bucket.make()

    def clean():
        table = bucket.table()
        table.add(documents(5000, 7))
        table.optimize(cleanup_older_than=datetime.timedelta(0))
        return PASS

    with Proxy(bucket.store.port, first(MOMENTS[moment], clean)) as proxy:
        done = bucket.run("migrate", "--compute", "twice:double=price*2", port=proxy.port)
    assert "trying again" not in done.err, "what is gone comes back by no trying"
    rows = bucket.rows()
    assert len(rows) == 307 and all(row["twice"] == row["price"] * 2 for row in rows)
    bucket.assert_clean()


@S3
@pytest.mark.parametrize("left", [False, True], ids=["nothing", "an object"])
def test_what_is_staged_of_a_table_that_was_dropped_can_be_dropped(bucket, left):
    bucket.make()
    bucket.run("migrate", *REWRITE, "--hold")
    (file, *_) = (name for name in bucket.objects() if "/data/" in name and "-relance-" in name)
    content = bucket.store.content(file)
    bucket.connect().drop_table(TABLE)
    if left:
        stores._s3(bucket.store).put_object(Bucket="tables", Key=file, Body=content)
    bucket.run("abort")
    assert bucket.objects() == {}


@S3
@pytest.mark.parametrize("again", [False, True], ids=["dropped", "made again"])
def test_a_table_that_is_dropped_at_the_swap_is_dropped_for_good(bucket, again):
    """Its swapped version names files that are gone. What others make under its name is left alone."""
    bucket.make()

    def drop():
        bucket.connect().drop_table(TABLE)
        if again:
            bucket.make(rows=20, files=1)
        return PASS

    with Proxy(bucket.store.port, first(lambda request: request.method == "PUT" and is_manifest(request), drop)) as proxy:
        bucket.run("migrate", *ADD, port=proxy.port, code=4)
    bucket.run("abort")
    if again:
        assert bucket.rows() == documents(0, 20).to_pylist()
        bucket.assert_clean()
    else:
        assert bucket.objects() == {}


@S3
def test_a_table_that_is_dropped_while_its_store_is_tried_is_no_fault_of_the_store(bucket):
    """The first of both objects goes with the table, so the second one is written."""
    bucket.make()

    def drop():
        bucket.connect().drop_table(TABLE)
        return PASS

    def second_probe(request) -> bool:
        return request.method == "PUT" and "-relance-probe-" in request.path

    rule = counted(second_probe, lambda n: drop() if n == 2 else PASS)
    with Proxy(bucket.store.port, rule) as proxy:
        done = bucket.run("migrate", *ADD, port=proxy.port, code=1)
    print(done.err)
    assert "overwrites objects" not in done.err
    bucket.run("abort")
    assert bucket.objects() == {}


@S3
@pytest.mark.parametrize("words", [ADD, REWRITE], ids=["columns", "rewrite"])
def test_a_table_that_is_dropped_after_the_swap_is_said_to_be(bucket, words):
    bucket.make()
    swapped = []

    def rule(request):
        if swapped == [True]:
            swapped.append(False)
            bucket.connect().drop_table(TABLE)
        elif not swapped and request.method == "PUT" and is_manifest(request):
            swapped.append(True)
        return PASS

    with Proxy(bucket.store.port, rule) as proxy:
        done = bucket.start("migrate", *words, port=proxy.port).ended()
    print(done.code, done.err)
    assert "dropped" in done.err and " abort " in done.err
    bucket.run("abort")
    assert bucket.objects() == {}
