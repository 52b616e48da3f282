"""A real embedding model takes the place of an old one: all-MiniLM-L6-v2, over sentences of a few topics."""

import random
from collections import Counter

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import relance
from lancedb.index import IvfPq
from minilm import DIMENSIONS, embed
from support import STAGING, opened, read, staged, tables

OLD_WIDTH = 8
VECTORS = pa.list_(pa.float32(), DIMENSIONS)

#: What is said of what, by topic.
TOPICS = {
    "cooking": (
        ["tomato soup", "sourdough bread", "risotto", "an omelette", "a lentil curry", "an apple pie", "pancakes", "gnocchi"],
        ["How long does it take to cook {}?", "My grandmother's recipe for {} needs butter and salt.", "We ate {} for dinner."],
    ),
    "astronomy": (
        ["Jupiter", "the Andromeda galaxy", "Saturn's rings", "a comet", "the Moon", "a black hole", "Mars", "a neutron star"],
        ["How far away from the Earth is {}?", "The new telescope took a picture of {}.", "Astronomers measured the mass of {}."],
    ),
    "football": (
        ["the goalkeeper", "the striker", "the captain", "the youngest defender", "the home team", "the referee", "the coach"],
        ["Why did {} get so angry in the second half?", "The fans cheered for {} after the match.", "This is what {} says."],
    ),
    "money": (
        ["a mortgage", "a savings account", "a pension", "a credit card", "a student loan", "shares of a bank", "a tax refund"],
        ["What interest rate do I get for {}?", "The bank refused to give her {}.", "He spent years paying for {}."],
    ),
    "health": (
        ["a headache", "the flu", "a broken wrist", "high blood pressure", "an allergy", "a sore throat", "back pain"],
        ["Which doctor should I see about {}?", "The nurse gave him medicine for {}.", "She stayed in hospital with {}."],
    ),
    "gardens": (
        ["roses", "tulips", "tomato plants", "the hedge", "an apple tree", "lavender", "the lawn", "strawberries"],
        ["When is the best time to plant {}?", "The frost has damaged {} again.", "Every morning she waters {}."],
    ),
}

#: How a sentence may begin.
OPENINGS = ["", "By the way: "]

QUESTIONS = {
    "how do I bake a loaf": "cooking",
    "planets seen through a telescope": "astronomy",
    "who scored in the cup final": "football",
    "borrowing to buy a house": "money",
    "I feel ill and have a fever": "health",
    "flowers that need water": "gardens",
}


def sentences() -> list:
    """Every sentence, with its topic, well mixed."""
    said = [
        (topic, opening + template.format(thing))
        for topic, (things, templates) in TOPICS.items()
        for opening in OPENINGS
        for template in templates
        for thing in things
    ]
    random.Random(7).shuffle(said)
    return said


SENTENCES = sentences()


def corpus(first: int, count: int) -> pa.Table:
    """Rows `first` and on, with the vectors of a model of old: how often a few letters occur."""
    told = SENTENCES[first : first + count]
    old = [[float(text.count(letter)) for letter in "aeinorst"] for _, text in told]
    columns = {
        "id": pa.array(range(first, first + len(told)), pa.int64()),
        "topic": pa.array([topic for topic, _ in told]),
        "text": pa.array([text for _, text in told]),
        "vector": pa.array(old, pa.list_(pa.float32(), OLD_WIDTH)),
    }
    return pa.table(columns)


class Model:
    """The model, as relance calls it; it remembers which texts it was given."""

    def __init__(self):
        self.given, self.sizes = Counter(), []

    def __call__(self, batch):
        texts = batch.column("text").to_pylist()
        self.given.update(texts)
        self.sizes.append(len(texts))
        return embed(texts)

    @property
    def change(self):
        more = {"type": VECTORS, "inputs": ["text"], "version": "all-MiniLM-L6-v2", "batch_size": 32}
        return relance.replace("vector", self, **more)


def test_the_model_gives_what_sentence_transformers_gives():
    one, other = embed(["This is an example sentence", "Each sentence is converted"])
    assert one.dtype == np.float32 and one.shape == (DIMENSIONS,)
    assert one[:5] == pytest.approx([0.06766, 0.06350, 0.04871, 0.07930, 0.03745], abs=1e-4)
    assert one @ other == pytest.approx(0.4046, abs=1e-3)
    said = ["A man is eating food.", "A man is eating a piece of bread.", "A man is riding a horse.", "A girl carries a baby."]
    near = embed(said)
    scores = near @ embed(["A man is eating pasta."])[0]
    assert scores[:3] == pytest.approx([0.7035, 0.5272, 0.1889], abs=1e-3) and scores[3] < 0.1
    assert np.linalg.norm(near, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert embed([]).shape == (0, DIMENSIONS)


def test_a_new_embedding_model_takes_the_place_of_an_old_one(tmp_path):
    place = (str(tmp_path), "documents")
    table = lancedb.connect(place[0]).create_table(place[1], corpus(0, 150))
    table.add(corpus(150, 120))
    config = IvfPq(distance_type="cosine", num_partitions=4, num_sub_vectors=4)
    table.create_index("vector", config=config)
    (index,) = table.list_indices()

    # Staged, and not swapped; others go on writing in the old shape.
    first = Model()
    with_old = read(place[0])
    assert relance.migrate(place, [first.change], hold=True).ended == "held"
    assert read(place[0]) == with_old and first.given == Counter(with_old["text"].to_pylist()) and max(first.sizes) == 32
    opened(place[0]).add(corpus(270, 1000))
    before = read(place[0])

    # What was computed is kept: only what came since is computed now.
    second = Model()
    done = relance.resume(place, [second.change])
    assert (done.ended, done.report.indices_rebuilt) == ("swapped", [index.name])
    assert second.given == Counter(text for _, text in SENTENCES[270:]) and len(second.given) == len(SENTENCES) - 270
    assert tables(place[0]) == ["documents"] and staged(place) is None

    after = read(place[0])
    assert after.schema.field("vector").type == VECTORS and after.drop_columns("vector") == before.drop_columns("vector")
    found = np.array(after["vector"].to_pylist(), np.float32)
    wanted = np.concatenate([embed(after["text"].to_pylist()[n : n + 50]) for n in range(0, len(after), 50)])
    assert np.allclose(found, wanted, atol=1e-5)

    # The index is there again, and finds what a scan finds.
    table = opened(place[0])
    (again,) = table.list_indices()
    stats = table.index_stats(again.name)
    assert (again.name, again.index_type, again.columns) == (index.name, "IvfPq", ["vector"])
    assert (stats.num_indexed_rows, stats.num_unindexed_rows, stats.distance_type) == (len(SENTENCES), 0, "cosine")
    topics = after["topic"].to_pylist()
    for question, topic in QUESTIONS.items():
        asked = embed([question])[0]
        nearest = np.argsort(-(wanted @ asked))[:5].tolist()
        # What the index does not have is not looked at.
        query = table.search(asked).distance_type("cosine").nprobes(4).refine_factor(100).fast_search().limit(5)
        assert [row["id"] for row in query.to_list()] == nearest, question
        assert topics[nearest[0]] == topic, question

    # And back.
    relance.rollback(place)
    assert read(place[0]) == before and before.schema.field("vector").type == pa.list_(pa.float32(), OLD_WIDTH)
    assert [one.name for one in opened(place[0]).list_indices()] == [index.name]


def test_a_table_of_that_model_already_is_left_alone(tmp_path):
    place = (str(tmp_path), "documents")
    lancedb.connect(place[0]).create_table(place[1], corpus(0, 20))
    relance.migrate(place, [Model().change])
    again = Model()
    assert relance.migrate(place, [again.change]).ended == "nothing" and not again.given
    assert STAGING not in tables(place[0])
