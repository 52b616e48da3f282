"""Mistakes in how an object store is reached: what is told, and what is never printed. And how much is asked of a store."""

import re

import pytest
from buckets import Bucket, general, is_staged_file
from proxy import PASS, Action, Proxy
from stores import (
    AZURE_ACCOUNT, READER_KEY, READER_SECRET, S3_KEY, S3_SECRET, SECRETS, WRONG_KEY, WRONG_SECRET, free_port,
)

ADD = ["--add", "category:string=general"]
SOON = ["--store-timeout", "2s"]
S3 = pytest.mark.parametrize("bucket", ["s3"], indirect=True)
GCS = pytest.mark.parametrize("bucket", ["gcs"], indirect=True)
AZURE = pytest.mark.parametrize("bucket", ["azure"], indirect=True)


def refusal(status: int, code: str) -> Action:
    return Action(answer=(status, f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}.</Message></Error>'.encode()))


EXPIRED = refusal(400, "ExpiredToken")
DENIED = refusal(403, "AccessDenied")


def complaint(said: str) -> str:
    """The error itself, which is for people: short, with something to do, and without what only its authors read."""
    error = said[said.index("error: "):]
    assert len(error.splitlines()) <= 6, error
    for strange in ("{ ", "source:", "Error {", "/.cargo", ".rs:", "Some(", "panicked"):
        assert strange not in said, f"{strange}: {error}"
    return error


def mistaken(bucket: Bucket, code: int, advice: str, *words: str, **how) -> str:
    """A migration that ends with `code`, having said what to look at, and left everything as it was."""
    bucket.make()
    before, there = bucket.rows(), bucket.objects()
    done = bucket.run("migrate", *ADD, *words, code=code, **how)
    assert advice in complaint(done.err)
    assert (bucket.rows(), bucket.objects()) == (before, there)
    return done.err


# Who may do what


@S3
@pytest.mark.parametrize("wrong", [{"aws_secret_access_key": WRONG_SECRET}, {"aws_access_key_id": "nobody"}], ids=["secret", "key"])
def test_wrong_credentials_of_s3(bucket, wrong):
    mistaken(bucket, 1, "whether the credentials are right", more=wrong)


@AZURE
@pytest.mark.parametrize("wrong", [{"azure_storage_account_key": WRONG_KEY}, {"azure_storage_account_name": "nobody"}], ids=["key", "name"])
def test_wrong_credentials_of_azure(bucket, wrong):
    mistaken(bucket, 1, "whether the credentials are right", more=wrong)


@S3
def test_no_credentials(bucket):
    bare = {name: value for name, value in bucket.store.options().items() if "key" not in name}
    nowhere = f"http://127.0.0.1:{free_port()}"
    mistaken(bucket, 1, "credentials", *SOON, options=bare, AWS_EC2_METADATA_SERVICE_ENDPOINT=nowhere)


READER = {"aws_access_key_id": READER_KEY, "aws_secret_access_key": READER_SECRET}


@S3
def test_one_who_may_only_read_plans(bucket):
    bucket.make()
    planned = bucket.run("plan", *ADD, "--json", more=READER).json
    assert planned["strategy"] == "columns"
    (table,) = bucket.run("status", "--json", more=READER).json["tables"]
    assert table["staged"] is None


@S3
def test_one_who_may_only_read_is_refused(bucket):
    mistaken(bucket, 3, "may not write", *SOON, more=READER)


@S3
def test_a_removal_that_is_not_allowed_is_not_tried_again(bucket):
    bucket.make()
    with Proxy(bucket.store.port) as proxy:
        bucket.run("migrate", *ADD, *SOON, code=3, more={**READER, "aws_endpoint": f"http://127.0.0.1:{proxy.port}"})
    removals = [request for request in proxy.requests if request.method == "POST"]
    assert len(removals) <= 1


def denied_writes(bucket: Bucket, code: int, *words: str) -> None:
    with Proxy(bucket.store.port, lambda request: DENIED if request.method == "PUT" else PASS) as proxy:
        mistaken(bucket, code, "let these credentials do so", *words, port=proxy.port)
    # Both that a store is tried by, and nothing else.
    assert sum(request.method == "PUT" for request in proxy.requests) <= 2


def test_writes_that_are_denied(bucket):
    """Where rows are read before any is written, that is found out first."""
    denied_writes(bucket, 3, "--cast", "price:string")


@GCS
def test_writes_that_are_denied_when_the_first_is_made(bucket):
    denied_writes(bucket, 3)


class Forgetful(Proxy):
    """A store that does not look whether an object is there before it writes one."""

    async def _send(self, head, *more):
        await super()._send(re.sub(rb"(?i)x-goog-if-generation-match: 0\r\n", b"", head), *more)


@GCS
def test_a_store_that_writes_over_what_is_there_is_refused(bucket):
    with Forgetful(bucket.store.port) as proxy:
        more = {"google_base_url": f"http://127.0.0.1:{proxy.port}"}
        said = mistaken(bucket, 3, "LanceDB's own commits are not safe", port=proxy.port, more=more)
    assert "overwrites objects" in said


# What a plan tries, if it is asked


def test_a_plan_tries_the_store_if_it_is_asked(bucket):
    bucket.make()
    there = bucket.objects()
    with Proxy(bucket.store.port) as proxy:
        how = {"port": proxy.port}
        if bucket.store.kind == "gcs":
            how["more"] = {"google_base_url": f"http://127.0.0.1:{proxy.port}"}
        plan = bucket.run("plan", *ADD, "--json", **how).json
        assert (plan["store"]["commits"], proxy.counts().get("PUT")) == ("untried", None)
        plan = bucket.run("plan", *ADD, "--json", "--try-store", **how).json
        assert (plan["store"]["commits"], proxy.counts()["PUT"]) == ("tried", 2)
    assert bucket.objects() == there


@GCS
def test_a_plan_refuses_a_store_that_writes_over_what_is_there(bucket):
    bucket.make()
    with Forgetful(bucket.store.port) as proxy:
        more = {"google_base_url": f"http://127.0.0.1:{proxy.port}"}
        done = bucket.run("plan", *ADD, "--try-store", port=proxy.port, more=more, code=3)
        assert "LanceDB's own commits are not safe" in complaint(done.err)
        bucket.run("plan", *ADD, port=proxy.port, more=more)


@S3
def test_a_plan_tries_what_its_credentials_may(bucket):
    bucket.make()
    done = bucket.run("plan", *ADD, "--try-store", *SOON, more=READER, code=3)
    assert "may not write" in complaint(done.err)


# Where it is


@pytest.mark.parametrize("bucket", ["s3", "azure"], indirect=True)
def test_a_bucket_that_is_not_there(bucket):
    scheme = bucket.uri.partition("://")[0]
    mistaken(bucket, 1, "whether the bucket is spelt right", uri=f"{scheme}://no-such-bucket/db")


def test_a_table_that_is_not_there(bucket):
    mistaken(bucket, 1, "no table is called `documents`", uri=f"{bucket.uri}-elsewhere")


@pytest.mark.parametrize("bucket", ["s3", "gcs"], indirect=True)
def test_an_endpoint_that_nothing_listens_on(bucket):
    mistaken(bucket, 1, "whether the endpoint", *SOON, port=free_port())


@pytest.mark.parametrize("bucket", ["s3", "azure"], indirect=True)
def test_an_endpoint_that_gives_no_answer(bucket):
    with Proxy(bucket.store.port, lambda _: Action(hang=True)) as proxy:
        mistaken(bucket, 1, "whether the endpoint", *SOON, port=proxy.port)


@S3
def test_a_look_at_an_endpoint_that_gives_no_answer_ends(bucket):
    with Proxy(bucket.store.port, lambda _: Action(hang=True)) as proxy:
        done = bucket.start("status", *SOON, port=proxy.port).ended(patience=15)
    assert done.code == 1 and "whether the endpoint" in complaint(done.err)


@S3
def test_an_endpoint_without_a_scheme(bucket):
    mistaken(bucket, 2, "write it as https://", more={"aws_endpoint": f"127.0.0.1:{bucket.store.port}"})


@S3
def test_http_that_is_not_allowed(bucket):
    mistaken(bucket, 2, "allow_http", *SOON, more={"allow_http": "false"})


@S3
@pytest.mark.parametrize("wrong, right", [("aws_regoin", "aws_region"), ("aws_secret_acess_key", "aws_secret_access_key"),
                                          ("alow_http", "allow_http")])
def test_a_misspelt_option(bucket, wrong, right):
    mistaken(bucket, 2, f"did you mean `{right}`?", more={wrong: WRONG_SECRET})


# Answers that are the last word

COMMANDS = {"plan": ADD, "migrate": ADD, "status": [], "resume": [], "abort": [], "rollback": []}
@S3
@pytest.mark.parametrize("command", COMMANDS)
def test_an_expired_token(bucket, command):
    bucket.make()
    with Proxy(bucket.store.port, lambda _: EXPIRED) as proxy:
        done = bucket.run(command, *COMMANDS[command], code=1, port=proxy.port)
    assert "expired" in complaint(done.err)
    assert len(proxy.requests) <= 20


@S3
def test_a_last_word_is_not_asked_for_again(bucket):
    bucket.make()
    with Proxy(bucket.store.port, lambda _: DENIED) as proxy:
        bucket.run("plan", *ADD, code=1, port=proxy.port)
    assert len(proxy.requests) <= 2


class AmidStaging:
    """Every request after that of the first staged file gets `action`."""

    def __init__(self, action: Action):
        self.action, self.begun = action, []

    def __call__(self, request) -> Action:
        if self.begun or is_staged_file(request):
            self.begun.append(request)
        return self.action if len(self.begun) > 1 else PASS


@pytest.mark.parametrize("bucket, answer", [("s3", EXPIRED), ("azure", DENIED), ("gcs", DENIED)], indirect=["bucket"],
                         ids=["s3-expired", "azure-denied", "gcs-denied"])
def test_credentials_that_end_while_it_stages(bucket, answer):
    bucket.make()
    before = bucket.rows()
    ends = AmidStaging(answer)
    with Proxy(bucket.store.port, ends) as proxy:
        done = bucket.run("migrate", *ADD, code=1, port=proxy.port)
    assert "relance resume" in complaint(done.err)
    assert len(ends.begun) <= 30
    assert bucket.rows() == before
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


@S3
def test_a_store_that_stays_away_is_given_up_and_resumed_later(bucket):
    bucket.make()
    before = bucket.rows()
    with Proxy(bucket.store.port, AmidStaging(Action(reset=True))) as proxy:
        done = bucket.run("migrate", *ADD, *SOON, code=1, port=proxy.port)
    assert "relance resume" in complaint(done.err)
    assert bucket.rows() == before
    bucket.run("resume")
    assert bucket.rows() == general(before)
    bucket.assert_clean()


# Secrets


def test_no_secret_is_written(bucket):
    """Neither while it is staged, nor while it runs, nor when it is done: beats, journal, tags and manifests."""
    seen = set()

    def read() -> None:
        for name in bucket.objects():
            content = bucket.store.content(name)
            seen.add(name.split("/")[1])
            assert not [secret for secret in SECRETS if secret.encode() in content], name

    def rule(request):
        if request.method == "PUT" and "_versions/" in request.path:
            read()
        return PASS

    bucket.make()
    with Proxy(bucket.store.port, rule) as proxy:
        bucket.run("migrate", *ADD, "--hold", "-vv", port=proxy.port)
        read()
        bucket.run("resume", "-vv", "--progress", "json", "--json", port=proxy.port)
    read()
    assert seen == {"documents.lance", "documents__relance_staging.lance"}


@pytest.mark.parametrize("bucket, words", [("s3", ["-vv"]), ("azure", ["-vv"]), ("gcs", ["--json", "--progress=json"])], indirect=["bucket"])
def test_no_secret_is_printed_with_an_error(bucket, words):
    """What is printed is looked through wherever a command is run, whatever it is; here all of it is errors."""
    bucket.make()
    with Proxy(bucket.store.port, lambda _: DENIED) as proxy:
        done = bucket.run("migrate", *ADD, *words, code=1, port=proxy.port)
    assert "denied" in done.said.lower() or "403" in done.said


@S3
@pytest.mark.parametrize("uri", [f"s3://someone:{WRONG_SECRET}@tables/db", f"s3://tables/db?secret={WRONG_SECRET}"], ids=["user", "query"])
def test_a_secret_in_a_uri_is_not_printed(bucket, uri):
    done = bucket.start("migrate", *ADD, "-vv", *SOON, uri=uri).ended()
    assert done.code in (1, 2) and complaint(done.err)


@S3
@pytest.mark.parametrize("scheme, word", [("", "-vv"), ("http://", "-v"), ("http://", "-vv")])
def test_a_secret_in_an_endpoint_is_not_printed(bucket, scheme, word):
    endpoint = f"{scheme}someone:{WRONG_SECRET}@127.0.0.1:{free_port()}"
    done = bucket.start("migrate", *ADD, word, *SOON, more={"aws_endpoint": endpoint}).ended()
    assert done.code in (1, 2) and "error: " in done.err


@AZURE
@pytest.mark.parametrize("how", ["wrong", "shut", "hangs"])
def test_a_token_of_azure_is_not_printed(bucket, how):
    """It is part of every request's URL."""
    bucket.make()
    given = {name: value for name, value in bucket.store.options().items() if "account_key" not in name}
    given["azure_storage_sas_token"] = f"sv=2022-11-02&ss=b&srt=sco&sp=rwdlac&se=2030-01-01T00:00:00Z&sig={WRONG_KEY}"
    with Proxy(bucket.store.port, lambda _: Action(hang=how == "hangs")) as proxy:
        port = free_port() if how == "shut" else proxy.port
        given["azure_storage_endpoint"] = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        done = bucket.run("migrate", *ADD, *SOON, "-vv", code=1, options=given)
    assert "error: cannot open" in done.err


# Where options come from


@pytest.mark.parametrize("bucket, between", [("s3", ","), ("azure", ","), ("gcs", "\n")], indirect=["bucket"],
                         ids=["s3-commas", "azure-commas", "gcs-lines"])
def test_options_come_from_the_environment(bucket, between):
    bucket.make()
    before = bucket.rows()
    given = between.join(f"{name}={value}" for name, value in bucket.store.options().items())
    bucket.run("migrate", *ADD, options={}, RELANCE_STORAGE_OPTIONS=given)
    assert bucket.rows() == general(before)


@S3
def test_credentials_come_from_the_environment(bucket):
    bucket.make()
    before = bucket.rows()
    given = {name: value for name, value in bucket.store.options().items() if "key" not in name}
    bucket.run("migrate", *ADD, options=given, AWS_ACCESS_KEY_ID=S3_KEY, AWS_SECRET_ACCESS_KEY=S3_SECRET)
    assert bucket.rows() == general(before)


# Economy


def economy(bucket: Bucket, files: int) -> tuple:
    """What a run on so many fragments asks for: what is reported, and the requests that were made."""
    one = Bucket(bucket.store, f"{bucket.name}-{files}")
    one.make(rows=files * 10, files=files)
    with Proxy(bucket.store.port) as proxy:
        report = one.run("migrate", *ADD, "--json", port=proxy.port).json["report"]
    assert report["fragments_before"] == files
    return report["store"], proxy.requests


def test_a_fragment_costs_a_few_requests(bucket):
    few, many = (len(economy(bucket, files)[1]) for files in (10, 30))
    assert many - few <= 4 * 20
    assert few <= 4 * 10 + 60


def test_requests_are_reported_as_they_were_made(bucket):
    told, requests = economy(bucket, 30)
    made: dict = {}
    for request in requests:
        made[kind_of(request)] = made.get(kind_of(request), 0) + 1
    assert told["requests"].keys() <= made.keys()
    late = {kind: count - told["requests"].get(kind, 0) for kind, count in made.items()}
    # What LanceDB's own client asks, which looks at the table once, is not counted.
    assert all(0 <= count <= 6 for count in late.values()), late
    sent = sum(request.sent for request in requests if request.method == "PUT")
    received = sum(request.received for request in requests if request.kind == "GET")
    assert 0 < told["bytes_sent"] <= sent and 0 < told["bytes_received"] <= received


@S3
@pytest.mark.parametrize("words", [ADD, ["--cast", "price:float32"], [*ADD, "--strategy", "rewrite"]], ids=["add", "cast", "rewrite"])
def test_a_plan_tells_about_how_many_requests_there_will_be(bucket, words):
    bucket.make(rows=1200, files=120)
    told = bucket.run("plan", *words, "--json").json["store"]
    made = bucket.run("migrate", *words, "--json").json["report"]["store"]["requests"]
    writes, reads = (sum(made.get(kind, 0) for kind in kinds) for kinds in (("PUT", "POST", "COPY", "LIST"), ("GET", "HEAD")))
    assert 0.6 < told["writes"] / writes < 1.7, (told, made)
    assert 0.6 < told["reads"] / reads < 1.7, (told, made)


def kind_of(request) -> str:
    """Some stores remove many objects by a request that is a POST."""
    return "DELETE" if request.method == "POST" else request.kind


def test_the_figures_of_staged_files_are_exact(bucket):
    """Each fragment is written once and read back once, and nothing else is as large."""
    told, requests = economy(bucket, 30)
    staged = [request for request in requests if is_staged_file(request)]
    assert len(staged) == 30 and all(request.status in (200, 201) for request in staged)
    assert told["requests"]["PUT"] >= 30 and told["bytes_sent"] >= sum(request.sent for request in staged)
