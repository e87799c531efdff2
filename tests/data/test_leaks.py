import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import st_adapter.data.paraphrases
from st_adapter.data.cutting import text_key
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.data.leaks import drop_leaks, find_leaks
from st_adapter.data.paraphrases import cut_splits
from st_adapter.errors import InputError

DIM = 256


def load(rows, **options):
    """A data set of (split, query, document) rows; of (query, document) rows where splits shall be cut."""
    names = ["split", "query", "document"][-len(rows[0]) :]
    return RetrievalDataset.load(pd.DataFrame(rows, columns=names), **options)


def embedded(dataset, vector_of):
    return torch.stack([torch.as_tensor(vector_of[text], dtype=torch.float32) for text in dataset.queries["text"]])


def random_vectors(texts, seed=0):
    """Unrelated directions: in 256 dimensions the cosine of two has a standard deviation of 1/16."""
    vectors = torch.randn(len(texts), DIM, generator=torch.Generator().manual_seed(seed)) * 3
    return dict(zip(texts, vectors, strict=True))


def clean_rows(sizes=(("train", 300), ("dev", 60), ("test", 100))):
    return [(split, f"{split} query {n}", f"{split} document {n}") for split, size in sizes for n in range(size)]


def at_cosine(vector, cosine, seed):
    """A vector of another length, at this cosine to the given one."""
    unit = vector / vector.norm()
    # Not the seed of random_vectors: its first row would be the same numbers, of which nothing is left at right angles.
    other = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed + 1000))
    other = other - (other @ unit) * unit
    return 2.5 * (cosine * unit + (1 - cosine**2) ** 0.5 * other / other.norm())


def between(report, earlier, later):
    (found,) = [leaks for leaks in report.between if (leaks.earlier, leaks.later) == (earlier, later)]
    return found


def slowly(dataset, vectors, earlier, later, threshold):
    """Each query's strongest kind of leak and the cosine of the closest pair of that kind, pair by pair."""
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    unit = (vectors.double() / vectors.double().norm(dim=1, keepdim=True)).numpy()
    cosines, row_of = unit @ unit.T, {query_id: row for row, query_id in enumerate(dataset.queries["id"])}
    plain = {query_id: text_key(text) for query_id, text in texts.items()}
    kinds = ({}, {})
    ids_of = {split: sorted(set(dataset.qrels[split]["query_id"])) for split in (earlier, later)}
    for a in ids_of[earlier]:
        for b in ids_of[later]:
            cosine = float(cosines[row_of[a], row_of[b]])
            if texts[a] == texts[b]:
                found = (0, "exact", None)
            elif plain[a] == plain[b]:
                found = (1, "normalised", None)
            elif cosine >= threshold:
                found = (2, "paraphrase", cosine)
            else:
                continue
            for side, query_id in enumerate((a, b)):
                known = kinds[side].get(query_id)
                if known is None or (found[0], -(found[2] or 0)) < (known[0], -(known[2] or 0)):
                    kinds[side][query_id] = found
    return kinds


# --- what was planted is found ---


def planted():
    """Thirty leaks of each kind between train and test, ten of each between dev and test and between train and dev."""
    rows, vectors = clean_rows(), random_vectors([query for _, query, _ in clean_rows()])
    leaks = set()
    for earlier, later, number in (("train", "test", 30), ("dev", "test", 10), ("train", "dev", 10)):
        for n in range(number):
            source = f"{earlier} query {n if (earlier, later) != ('train', 'dev') else n + 100}"
            for kind, text in (
                ("exact", source),
                ("normalised", f"  {source.upper()}\u3000{' ' * n}"),
                ("paraphrase", f"{later} in other words {earlier} {n}"),
            ):
                vectors[text] = vectors[source] if kind != "paraphrase" else at_cosine(vectors[source], 0.95, n)
                if kind == "normalised":
                    # Even a model that sees case and spacing must not hide it.
                    vectors[text] = random_vectors([text], seed=n + 10)[text]
                rows.append((later, text, f"{later} answer to {earlier} {kind} {n}"))
                leaks.add((kind, source, text, later))
            rows.append((later, f"{later} near {earlier} {n}", f"{earlier} document {n + 40}"))
            near = at_cosine(vectors[source], 0.85, n)  # alike, but no paraphrase
            vectors[rows[-1][1]] = near
    dataset = load(rows)
    return dataset, embedded(dataset, vectors), leaks


def test_every_planted_leak_is_found_and_nothing_else():
    dataset, vectors, leaks = planted()
    report = find_leaks(dataset, vectors)
    assert report.threshold == 0.9 and report.cosine == pytest.approx(0.9, abs=1e-3)
    assert [(found.earlier, found.later) for found in report.between] == [
        ("train", "dev"),
        ("train", "test"),
        ("dev", "test"),
    ]
    found = {
        (leak.kind, leak.earlier_text, leak.later_text, found.later) for found in report.between for leak in found.leaks
    }
    assert leaks <= found
    # Two texts made from one query are each other's leaks where they stand in two splits; nothing else may be found.
    for found in report.between:
        kinds = slowly(dataset, vectors, found.earlier, found.later, 0.9)
        for side, name in enumerate(("earlier", "later")):
            expected = [kind for _, kind, _ in kinds[side].values()]
            assert found.counts(name) == {kind: expected.count(kind) for kind in ("exact", "normalised", "paraphrase")}
    assert between(report, "train", "test").counts() == {"exact": 30, "normalised": 30, "paraphrase": 30}
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    shared = {texts[query_id] for query_id, _ in between(report, "train", "test").shared_documents}
    assert shared == {f"test near train {n}" for n in range(30)}
    assert between(report, "train", "test").num_sharing == 30


def test_nothing_is_invented_on_a_clean_set():
    dataset = load(clean_rows())
    report = find_leaks(dataset, embedded(dataset, random_vectors(list(dataset.queries["text"]))))
    assert [found.leaks for found in report.between] == [(), (), ()]
    assert [found.shared_documents for found in report.between] == [(), (), ()]
    found = between(report, "train", "test")
    assert found.sentence == (
        f"0 of 100 test queries stand in train; 0 share a relevant document with it; mean cosine "
        f"{found.mean_cosine:.2f}."
    )
    assert abs(found.mean_cosine) < 0.01
    assert str(report).splitlines() == report.sentences and str(found) == found.sentence in report.sentences
    assert drop_leaks(dataset, report) is dataset


TEXTS = ["a b", "A b", "a  b", "a b c", "A B C", "d", "e", "f", "g", "h"]
random_rows = st.lists(
    st.tuples(st.sampled_from(["train", "dev", "test", "hard"]), st.sampled_from(TEXTS), st.sampled_from("XYZ")),
    max_size=20,
)


@settings(max_examples=30)
@given(
    rows=random_rows,
    angles=st.lists(st.integers(0, 11), min_size=len(TEXTS), max_size=len(TEXTS)),
    threshold=st.sampled_from([0.6, 0.9, 1.0]),
    block=st.integers(1, 5),
)
def test_the_slow_loop_finds_the_same(rows, angles, threshold, block):
    rows = [("train", "only train", "T"), ("dev", "only dev", "D"), ("test", "only test", "E"), *rows]
    # Angles in steps of 30 degrees, a little apart, so that no cosine lies on a threshold.
    directions = {text: np.deg2rad(30 * angle + 0.5 * n) for n, (text, angle) in enumerate(zip(TEXTS, angles))}  # noqa: B905
    directions |= {f"only {split}": np.deg2rad(15 + 100 * n) for n, split in enumerate(("train", "dev", "test"))}
    vectors = {text: torch.tensor([np.cos(a), np.sin(a)]) for text, a in directions.items()}
    dataset = load(rows)
    given_vectors = embedded(dataset, vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st_adapter.data.paraphrases, "_BLOCK_ROWS", block)
        report = find_leaks(dataset, given_vectors, threshold=threshold)
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    for found in report.between:
        kinds = slowly(dataset, given_vectors, found.earlier, found.later, threshold)
        strongest = ({}, {})
        for leak in found.leaks:
            assert texts[leak.earlier_id] == leak.earlier_text and texts[leak.later_id] == leak.later_text
            assert leak.earlier_id in dataset.qrels[found.earlier]["query_id"]
            assert leak.later_id in dataset.qrels[found.later]["query_id"]
            for side, query_id in enumerate((leak.earlier_id, leak.later_id)):
                strongest[side].setdefault(query_id, (leak.kind, leak.cosine))
        for side in (0, 1):
            assert {q: kind for q, (kind, _) in strongest[side].items()} == {
                q: kind for q, (_, kind, _) in kinds[side].items()
            }
            for query_id, (_, _, cosine) in kinds[side].items():
                if cosine is not None:
                    best = max(
                        leak.cosine for leak in found.leaks if query_id == (leak.earlier_id, leak.later_id)[side]
                    )
                    assert best == pytest.approx(cosine, abs=1e-6)
        relevant = [
            {(q, d) for q, d in zip(rows["query_id"], rows["corpus_id"], strict=True)}
            for rows in (dataset.qrels[found.earlier], dataset.qrels[found.later])
        ]
        assert set(found.shared_documents) == {
            (b, d) for b, d in relevant[1] if d in {document for _, document in relevant[0]}
        }

    try:
        dropped = drop_leaks(dataset, report)
    except ValueError:  # "only train" and "only dev" may be as near to others as the threshold allows
        leaking = {"train": set(), "dev": set()}
        for found in report.between:
            leaking[found.earlier].update(found.earlier_ids)
        assert any(leaking[split] == set(dataset.qrels[split]["query_id"]) for split in leaking)
        return
    for split in ("test", "hard"):
        assert dropped.qrels.get(split) is dataset.qrels.get(split)
    again = find_leaks(dropped, given_vectors, threshold=threshold)
    assert all(found.leaks == () for found in again.between)
    leaking = {(found.earlier, query_id) for found in report.between for query_id in found.earlier_ids}
    for split in ("train", "dev"):
        kept = {query_id for query_id in dataset.qrels[split]["query_id"] if (split, query_id) not in leaking}
        assert set(dropped.qrels[split]["query_id"]) == kept, "no more is dropped than leaks"


def test_each_leaking_query_is_listed_once_with_its_closest_counterpart():
    """Two hundred copies on both sides make 40,000 pairs, but 400 queries."""
    rows = [(split, f"{split} {n}", f"{split} {n}") for split in ("train", "dev", "test") for n in range(200)]
    dataset = load(rows)
    vectors = torch.ones(600, 4)
    found = between(find_leaks(dataset, vectors), "train", "test")
    assert len(found.leaks) <= 400
    assert found.counts() == found.counts("earlier") == {"exact": 0, "normalised": 0, "paraphrase": 200}
    assert found.mean_cosine == pytest.approx(1)


def test_a_judgement_of_zero_shares_nothing():
    rows = pd.DataFrame(clean_rows((("train", 3), ("dev", 3), ("test", 3))), columns=["split", "query", "document"])
    rows["negative"] = ["test document 0", *[None] * 8]
    dataset = RetrievalDataset.load(rows)
    vectors = embedded(dataset, random_vectors(list(dataset.queries["text"])))
    assert between(find_leaks(dataset, vectors), "train", "test").shared_documents == ()


# --- what is said and dropped ---


def test_words_and_json():
    dataset, vectors, _ = planted()
    report = find_leaks(dataset, vectors)
    found = between(report, "train", "test")
    assert found.sentence.startswith(
        f"90 of {found.num_later} test queries stand in train (30 word for word, 30 apart from case and spacing, "
        "30 as a paraphrase); 30 share a relevant document with it; mean cosine "
    )
    content = json.loads(json.dumps(report.to_dict(max_pairs=5)))
    entry = content["between"][1]
    assert content["paraphrase_threshold"] == 0.9
    assert entry["leaking_later_queries"] == {"exact": 30, "normalised": 30, "paraphrase": 30}
    assert len(entry["pairs"]) == len(entry["shared_documents"]) == 5
    assert set(entry["pairs"][0]) == {"kind", "earlier_id", "later_id", "earlier_text", "later_text", "cosine"}
    assert len(report.to_dict()["between"][1]["pairs"]) == len(found.leaks)


def test_dropping_leaves_test_and_the_texts_as_they_were():
    dataset, vectors, _ = planted()
    report = find_leaks(dataset, vectors)
    dropped = drop_leaks(dataset, report)
    assert dropped.qrels["test"] is dataset.qrels["test"]
    assert dropped.queries is dataset.queries and dropped.corpus is dataset.corpus
    assert all(not found.leaks for found in find_leaks(dropped, vectors).between)
    assert between(find_leaks(dropped, vectors), "train", "test").num_sharing > 0, "a shared document is no leak"
    gone = {split: len(set(dataset.qrels[split]["query_id"]) - set(dropped.qrels[split]["query_id"])) for split in
            ("train", "dev")}  # fmt: skip
    assert gone["train"] == len({q for found in report.between if found.earlier == "train" for q in found.earlier_ids})
    assert dropped.notes[-1] == (
        "Dropped because a later split has their text or a paraphrase: "
        f"{gone['train']} of 300 queries of train and {gone['dev']} of {between(report, 'dev', 'test').num_earlier} "
        "queries of dev."
    )


def test_a_split_is_never_dropped_whole():
    rows = [("train", "a", "A"), ("dev", "b", "B"), ("test", "A ", "C")]
    dataset = load(rows)
    report = find_leaks(dataset, torch.eye(3))
    problem = "Every query of the split 'train' stands in a later split as well"
    with pytest.raises(InputError, match=f"{problem}.*Give other data or a higher paraphrase_threshold") as error:
        drop_leaks(dataset, report)
    assert error.value.for_command_line.endswith("or a higher --paraphrase-threshold.")


def test_bad_input():
    dataset = load([("train", "a", "A"), ("dev", "b", "B")])
    assert len(find_leaks(dataset, torch.eye(2)).between) == 1, "a data set without test has train and dev to compare"
    for threshold in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="The paraphrase threshold is .* Expected a cosine above 0 and at most 1"):
            find_leaks(dataset, torch.eye(2), threshold=threshold)
    with pytest.raises(ValueError, match=r"shape \(3, 3\), but there are 2 queries"):
        find_leaks(dataset, torch.eye(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        find_leaks(dataset, torch.full((2, 2), float("nan")))
    zero = find_leaks(dataset, torch.zeros(2, 2))
    assert zero.between[0].leaks == (), "a vector of no length is like nothing"


# --- paraphrases stay on one side ---


def splits_of(dataset):
    texts = dict(zip(dataset.queries["id"], dataset.queries["text"], strict=True))
    return {texts[query_id]: split for split, rows in dataset.qrels.items() for query_id in rows["query_id"]}


def families(number=80, size=3):
    """Queries in families of paraphrases, each query with a document of its own."""
    rows, vectors = [], {}
    seeds = random_vectors([f"family {n}" for n in range(number)])
    for n, vector in enumerate(seeds.values()):
        for member in range(size):
            text = f"{member} wording of {n}"
            rows.append((text, f"document {n} {member}"))
            vectors[text] = at_cosine(vector, 0.98, 10 * n + member)
    return rows, vectors


@pytest.mark.parametrize("block", [7, 2048])
def test_paraphrases_stay_on_one_side(block, monkeypatch):
    monkeypatch.setattr(st_adapter.data.paraphrases, "_BLOCK_ROWS", block)
    rows, vectors = families()
    dataset = load(rows, split_by="document")
    with pytest.raises(ValueError, match="splits are still to be cut"):
        find_leaks(dataset, embedded(dataset, vectors))
    without = dataset.with_cut()
    assert any(leaks.leaks for leaks in find_leaks(without, embedded(dataset, vectors)).between)
    found = cut_splits(dataset, embedded(dataset, vectors))
    sides = splits_of(found)
    for n in range(80):
        assert len({sides[f"{member} wording of {n}"] for member in range(3)}) == 1
    assert all(leaks.leaks == () for leaks in find_leaks(found, embedded(dataset, vectors)).between)
    assert set(sides) == set(splits_of(without)), "no query is lost"
    assert found.notes[-1] == "240 queries have a paraphrase (cosine of at least 0.90) and stay on its side."
    assert cut_splits(found, embedded(dataset, vectors)) is found


def test_given_splits_are_not_cut():
    rows, vectors = families(10)
    dataset = load([(("train", "dev", "test")[n % 3], *row) for n, row in enumerate(rows)], split_by="document")
    assert cut_splits(dataset, embedded(dataset, vectors)) is dataset


def test_only_what_was_not_given_is_cut():
    rows, vectors = families()
    rows = [("test" if row[0].startswith("0") else "train", *row) for row in rows]
    dataset = load(rows, split_by="document")
    found = cut_splits(dataset, embedded(dataset, vectors))
    assert found.qrels["test"].to_dict() == dataset.qrels["test"].to_dict()
    report = find_leaks(found, embedded(dataset, vectors))
    assert between(report, "train", "dev").leaks == ()
    assert between(report, "train", "test").leaks != ()
    number = found.num_queries["dev"]
    note = f"No dev split was given; {number} queries of train became it, by a hash, with all queries of one document"
    assert any(each.startswith(note) for each in found.notes)


def test_without_paraphrases_the_cut_stays_as_it_was():
    dataset = load([(f"query {n}", f"document {n // 2}") for n in range(120)], split_by="document")
    vectors = embedded(dataset, random_vectors(list(dataset.queries["text"])))
    assert splits_of(cut_splits(dataset, vectors)) == splits_of(dataset.with_cut())


@pytest.mark.parametrize("cone", [0.0, 1.0, 4.0])
def test_what_a_paraphrase_is_does_not_depend_on_how_narrow_a_cone_the_model_has(cone):
    dataset = load(clean_rows())
    vectors = random_vectors(dataset.queries["text"])
    for number in range(10):
        vectors[f"test query {number}"] = at_cosine(vectors[f"train query {number}"], 0.97, number)
    axis = torch.nn.functional.normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(1)), dim=0)
    narrow = {text: torch.nn.functional.normalize(vector, dim=0) + cone * axis for text, vector in vectors.items()}
    report = find_leaks(dataset, embedded(dataset, narrow))
    assert between(report, "train", "test").counts("later")["paraphrase"] == 10
    # The mean cosine of unit vectors at a right angle to an axis of length c is c^2 / (1 + c^2).
    assert report.cosine == pytest.approx(0.9 + 0.1 * cone**2 / (1 + cone**2), abs=2e-3)
