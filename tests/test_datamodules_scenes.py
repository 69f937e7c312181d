"""The embedded data: reproducible, true where it says so, and biased exactly as announced."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.scenes.draw import COLOURS, SHAPES, Scene, SceneObject, draw_scene, random_scene
from datamodules.scenes.splits import write_scenes
from datamodules.scenes.writer import FALSIFIERS, PEOPLES_WORDS, WRITERS_WORDS, SceneWriter, parse_caption, tell
from negatives.filtering.audit import Audit, audit_texts
from negatives.filtering.filter import filter_texts
from negatives.filtering.plan import AuditPlan, FilterPlan
from negatives.judging.linear import surface_judge, word_judge
from negatives.judging.panel import seat
from negatives.judging.text_pairs import TextPairs, build_text_pairs
from negatives.tables.captions import InputError, pair_table, read_captions, read_negatives, strings, text_table
from negatives.tables.randomness import generator_for, hash_of

SPLITS = ("train", "biased", "balanced")


def scenes(count: int = 200) -> list[Scene]:
    return [random_scene(generator_for("test", index)) for index in range(count)]


def read(folder: Path) -> tuple[pa.Table, pa.Table]:
    captions = read_captions(folder / "captions.parquet")
    return captions, read_negatives(folder / "negatives.parquet", captions)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, train=20, held_out=20, image_size=16, seed=0)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """1,000 training scenes; their images are never looked at."""
    folder = tmp_path_factory.mktemp("many")
    write_scenes(folder, train=1000, held_out=1, image_size=4, seed=0)
    return read(folder / "train")


def shown_by(scene: Scene) -> tuple[Scene, Scene]:
    """All that can truly be told of a picture: the scene from either side."""
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    return scene, Scene(scene.other, mirror[scene.relation], scene.subject)


def test_objects_of_a_scene_differ_in_shape_and_colour() -> None:
    for scene in scenes():
        assert scene.subject.shape != scene.other.shape
        assert scene.subject.colour != scene.other.colour


def test_scenes_are_drawn_uniformly() -> None:
    drawn = scenes(3000)
    for count in Counter(scene.relation for scene in drawn).values():
        assert count == pytest.approx(750, abs=4 * 24)  # 4 standard deviations
    assert {scene.subject.shape for scene in drawn} == set(SHAPES)
    assert {scene.other.colour for scene in drawn} == set(COLOURS)


def test_the_picture_shows_the_objects_where_the_caption_says() -> None:
    for index, scene in enumerate(scenes(50)):
        pixels = np.asarray(draw_scene(scene, generator_for(index), 32)).astype(int)
        centres = []
        for thing in (scene.subject, scene.other):
            near = np.abs(pixels - COLOURS[thing.colour]).sum(-1) < 12
            assert near.sum() >= 10, f"{scene.caption}: no {thing}"
            centres.append(np.argwhere(near).mean(0))
        down, right = centres[0] - centres[1]
        seen = {"left of": -right, "right of": right, "above": -down, "below": down}
        assert max(seen, key=lambda relation: seen[relation]) == scene.relation


def test_a_picture_does_not_depend_on_the_side_that_tells_it() -> None:
    for scene in scenes(50):
        assert scene.converse in shown_by(scene)
        assert scene.converse.converse == scene


def test_captions_parse_back() -> None:
    for index, scene in enumerate(scenes()):
        for by_writer in (False, True):
            telling = tell(scene, generator_for(index), by_writer=by_writer)
            assert parse_caption(telling.caption) == telling
            assert telling.scene == scene


@pytest.mark.parametrize("caption", ["a dog", "", "a red circle left of a blue square.", "a red circle above a circle"])
def test_a_caption_of_other_data_is_refused(caption: str) -> None:
    with pytest.raises(InputError, match="none of the embedded scenes'; use generator=rules"):
        parse_caption(caption)


def test_every_negative_is_false() -> None:
    for index, scene in enumerate(scenes()):
        for told in shown_by(scene):
            for negative_type, caption in SceneWriter().write(told.caption, generator_for(index)):
                assert parse_caption(caption).scene not in shown_by(scene), negative_type


def test_every_negative_is_of_the_type_that_it_names() -> None:
    for index, scene in enumerate(scenes()):
        negatives = dict(SceneWriter().write(scene.caption, generator_for(index)))
        assert tuple(negatives) == tuple(FALSIFIERS)
        told = {name: parse_caption(caption).scene for name, caption in negatives.items()}
        one, two, relation = scene.subject, scene.other, scene.relation
        assert told["swap_obj"] == Scene(two, relation, one)
        swapped = SceneObject(two.colour, one.shape), SceneObject(one.colour, two.shape)
        assert told["swap_att"] == Scene(swapped[0], relation, swapped[1])
        assert dataclasses.replace(told["replace_rel"], relation=relation) == scene
        assert told["replace_rel"].relation != relation
        for name, attribute in (("replace_obj", "shape"), ("replace_att", "colour")):
            before, after = parts(scene), parts(told[name])
            (changed,) = [key for key in before if before[key] != after[key]]
            assert changed.endswith(attribute)
            shown = {getattr(one, attribute), getattr(two, attribute)}
            assert after[changed] not in shown, "the new word must name nothing that the picture shows"


def parts(scene: Scene) -> dict[str, str]:
    return {
        "subject.shape": scene.subject.shape,
        "subject.colour": scene.subject.colour,
        "relation": scene.relation,
        "other.shape": scene.other.shape,
        "other.colour": scene.other.colour,
    }


def test_same_seed_gives_same_pixels_and_words(splits: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, train=20, held_out=20, image_size=16, seed=0)
    for split in SPLITS:
        for one, two in zip(read(splits / split), read(tmp_path / split), strict=True):
            assert one.equals(two)
        for image in strings(read(splits / split)[0], "image"):
            assert (splits / split / image).read_bytes() == (tmp_path / split / image).read_bytes()


def test_another_seed_gives_other_scenes(splits: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, train=20, held_out=20, image_size=16, seed=1)
    same = [
        one == two
        for split in SPLITS
        for one, two in zip(*(strings(read(root / split)[0], "caption") for root in (splits, tmp_path)), strict=True)
    ]
    assert sum(same) < len(same) / 10


def test_a_scene_does_not_depend_on_how_many_are_drawn(splits: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path, train=5, held_out=5, image_size=16, seed=0)
    for split in SPLITS:
        captions, negatives = read(tmp_path / split)
        more, more_negatives = read(splits / split)
        assert captions.equals(more.slice(0, len(captions)))
        assert negatives.equals(more_negatives.slice(0, len(negatives)))
        image = strings(captions, "image")[-1]
        assert (tmp_path / split / image).read_bytes() == (splits / split / image).read_bytes()


def test_held_out_scenes_are_drawn_apart_from_the_training_scenes(splits: Path) -> None:
    told = [strings(read(splits / split)[0], "caption") for split in SPLITS]
    assert told[0][:20] != told[1][:20] != told[2][:20]


def test_captions_tell_what_their_image_shows(splits: Path) -> None:
    """In every split: of the texts of an image, positives agree on one picture and negatives contradict it."""
    for split in SPLITS:
        texts = text_table(*read(splits / split)).to_pylist()
        for image_id in {row["image_id"] for row in texts}:
            told = [(row["label"], parse_caption(row["caption"]).scene) for row in texts if row["image_id"] == image_id]
            true = shown_by(next(scene for label, scene in told if label == 1))
            assert all((scene in true) == bool(label) for label, scene in told)


def test_2000_scenes_are_drawn_in_seconds() -> None:
    start = time.process_time()
    for index, scene in enumerate(scenes(500)):
        draw_scene(scene, generator_for(index))
    assert time.process_time() - start < 10 / 4


def test_balanced_captions_serve_equally_often_as_positive_and_as_negative(splits: Path) -> None:
    captions, negatives = read(splits / "balanced")
    own = Counter(zip(strings(negatives, "caption"), strings(negatives, "negative_type"), strict=True))
    caption_of = dict(zip(strings(captions, "caption_id"), strings(captions, "caption"), strict=True))
    columns = strings(negatives, "caption_id"), strings(negatives, "negative_type")
    assert own == Counter((caption_of[name], kind) for name, kind in zip(*columns, strict=True))


@pytest.mark.parametrize("scorer", range(5))
def test_text_alone_is_worth_nothing_on_the_balanced_split(splits: Path, scorer: int) -> None:
    captions, negatives = read(splits / "balanced")
    caption_of = dict(zip(strings(captions, "caption_id"), strings(captions, "caption"), strict=True))
    wins: dict[str, list[bool]] = {}
    for row in negatives.to_pylist():
        true, false = (hash_of(scorer, text) for text in (caption_of[row["caption_id"]], row["caption"]))
        assert true != false
        wins.setdefault(row["negative_type"], []).append(true > false)
    assert {name: sum(won) / len(won) for name, won in wins.items()} == dict.fromkeys(FALSIFIERS, 0.5)


def leaking(audit: Audit, label: str) -> set[str]:
    return {ngram.ngram for ngram in audit.ngrams[label]}


def audited(text_pairs: TextPairs) -> Audit:
    return audit_texts(seat([word_judge(), surface_judge()], text_pairs, folds=4), AuditPlan(bootstrap=20, top=6))


@pytest.fixture(scope="module")
def text_pairs(many: tuple[pa.Table, pa.Table]) -> TextPairs:
    return build_text_pairs(text_table(*many), pair_table(*many))


def test_text_gives_the_label_of_the_raw_negatives_away(text_pairs: TextPairs) -> None:
    audit = audited(text_pairs)
    assert 0.70 < audit.find("auc").value < 0.80
    assert leaking(audit, "positive") >= {*PEOPLES_WORDS.split(), PEOPLES_WORDS}
    assert leaking(audit, "negative") >= {*WRITERS_WORDS.split(), WRITERS_WORDS}


@pytest.mark.parametrize(
    "plan", [FilterPlan(rule="overlap", constant=1.0), FilterPlan(rule="top_fraction", top_fraction=0.3)]
)
def test_the_filter_returns_the_favourite_words_to_parity(text_pairs: TextPairs, plan: FilterPlan) -> None:
    judges = [word_judge(), surface_judge()]
    filtered = filter_texts(seat(judges, text_pairs), plan)
    assert 0.65 < filtered.keep.mean() < 0.78
    for words in (PEOPLES_WORDS, WRITERS_WORDS):
        said = np.array([words in caption for caption in text_pairs.captions])
        shares = {label: said[text_pairs.labels == label].mean() for label in (0, 1)}
        kept = {label: said[filtered.keep & (text_pairs.labels == label)].mean() for label in (0, 1)}
        assert abs(shares[0] - shares[1]) > 0.25
        assert abs(kept[0] - kept[1]) < 0.04
    assert 0.45 < audited(text_pairs.subset(filtered.keep, filtered.pair_keep)).find("auc").value < 0.55
